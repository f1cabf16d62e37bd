//! `mg` and `me`.

use damselfly_engine::{Event, Key, Now, Tx};
use damselfly_protocol::memcached::{MetaFlags, encode_base64, reply};
use damselfly_value::{Attributes, NewValue};

use super::{
    BAD_KEY, Class, Expiry, Output, echo, number_flag, opaque_error, storage, text_of, ttl_flag,
};
use crate::{Args, Result};

/// What `mg` returns about an item, as it was before the request.
struct Item {
    attributes: Attributes,
    len: usize,
    expiry: Expiry,
    unused_s: i64,
    is_used: bool,
    is_created: bool,
}

impl Item {
    fn find(tx: &mut Tx<'_>, key: Key<'_>) -> Result<Option<Self>> {
        let Some(entry) = tx.peek(key) else {
            return Ok(None);
        };
        let (attributes, len) = (entry.attributes(), text_of(entry)?.len());
        let (expiry, access) = (Expiry::of(entry), (tx.view(key)));
        let (unused_s, is_used) = match access {
            Some(entry) => (tx.unused_seconds(entry), tx.is_used(entry)),
            None => (0, false),
        };
        Ok(Some(Self {
            attributes,
            len,
            expiry,
            unused_s,
            is_used,
            is_created: false,
        }))
    }

    /// An empty item, which the client is told to replace.
    fn create(tx: &mut Tx<'_>, key: Key<'_>, flags: &MetaFlags) -> Self {
        let attributes = Attributes {
            cas: flags.new_cas,
            ..Attributes::NONE
        };
        let value = NewValue::Bytes(b"");
        storage::store_item(tx, key, value, attributes, Expiry::Never, Event::Set);
        Self {
            attributes,
            len: 0,
            expiry: Expiry::Never,
            unused_s: 0,
            is_used: false,
            is_created: true,
        }
    }
}

/// Arguments: name, key, flags.
pub(super) fn meta_get(tx: &mut Tx<'_>, args: Args<'_>, output: &mut Output<'_>) -> Result {
    let key = args.key(1);
    let flags = match MetaFlags::parse(args.from(2)) {
        Ok(_) if key.bytes.is_empty() => Err(BAD_KEY),
        Ok(flags) => opaque_error(args.from(2)).map_or(Ok(flags), Err),
        Err(error) => Err(error),
    };
    let flags = match flags {
        Ok(flags) => flags,
        Err(error) => {
            output.line(error);
            return Ok(());
        }
    };
    if flags.ttl.is_some() {
        output.tally.class = Class::Touch;
    }
    let found = Item::find(tx, key)?;
    // Counts a hit or a miss, and updates the access bits.
    match flags.is_untouched {
        true => drop(tx.read_no_touch(key)),
        false => drop(tx.read(key)),
    }
    let item = match (found, flags.vivify) {
        (Some(item), _) => item,
        (None, Some(_)) => {
            let item = Item::create(tx, key, &flags);
            if !flags.is_untouched {
                tx.access(key);
            }
            item
        }
        (None, None) => {
            output.tally.misses = 1;
            if !flags.is_quiet {
                output.out.extend_from_slice(b"EN");
                for flag in args.from(2) {
                    echo(output.out, flag, key.bytes, flags.is_base64);
                }
                output.out.extend_from_slice(b"\r\n");
            }
            return Ok(());
        }
    };
    output.tally.hits = 1;
    write(tx, args, &flags, &item, output);
    Ok(())
}

/// The same while memory is short: nothing is created. Arguments: name, key, flags.
pub(super) fn meta_get_only(tx: &mut Tx<'_>, args: Args<'_>, output: &mut Output<'_>) -> Result {
    match tx.peek(args.key(1)).is_some() {
        true => meta_get(tx, args, output),
        false => {
            output.line(storage::OUT_OF_MEMORY_ERROR);
            Ok(())
        }
    }
}

/// Writes the reply for an item, then sets its expiry and whether it is claimed. An expiry takes effect for the flags behind it, as in
/// memcached.
fn write(tx: &mut Tx<'_>, args: Args<'_>, flags: &MetaFlags, item: &Item, output: &mut Output<'_>) {
    let (key, now) = (args.key(1), tx.now());
    let asks_cas = flags.cas.is_some() || args.from(2).any(|flag| flag == b"c");
    let cas = match asks_cas {
        true => tx.cas(key),
        false => None,
    };
    let sends_value = flags.wants_value && (flags.cas.is_none() || flags.cas != cas);
    match sends_value {
        true => {
            output.out.extend_from_slice(b"VA ");
            reply::number(output.out, item.len as u64);
        }
        false => output.out.extend_from_slice(b"HD"),
    }
    let (mut expiry, mut has_won) = (item.expiry, false);
    let Attributes {
        is_stale,
        is_claimed,
        ..
    } = item.attributes;
    let out = &mut *output.out;
    for flag in args.from(2) {
        match flag[0] {
            b'T' => expiry = Expiry::new(flags.ttl.unwrap_or_default(), now),
            b'N' if item.is_created => {
                expiry = Expiry::new(flags.vivify.unwrap_or_default(), now);
                has_won = true;
            }
            b'R' => {
                let threshold = Expiry::new(flags.recache.unwrap_or_default(), now);
                has_won |= !is_claimed && !item.is_created && is_before(expiry, threshold, now);
            }
            b's' => number_flag(out, b's', item.len as u64),
            b't' => ttl_flag(out, expiry, now),
            b'c' => number_flag(out, b'c', cas.unwrap_or_default()),
            b'f' => number_flag(out, b'f', item.attributes.flags.into()),
            b'l' => number_flag(out, b'l', item.unused_s.unsigned_abs()),
            b'h' => number_flag(out, b'h', item.is_used.into()),
            _ => echo(out, flag, key.bytes, flags.is_base64),
        }
    }
    has_won |= is_stale && !is_claimed;
    for (is_set, flag) in [(is_claimed, b" Z"), (is_stale, b" X"), (has_won, b" W")] {
        if is_set {
            out.extend_from_slice(flag);
        }
    }
    out.extend_from_slice(b"\r\n");
    if sends_value {
        if let Some(text) = tx.peek(key).and_then(|entry| entry.text()) {
            output.text(text);
        }
        output.out.extend_from_slice(b"\r\n");
    }
    if has_won && let Some(entry) = tx.peek(key) {
        let attributes = Attributes {
            is_claimed: true,
            ..entry.attributes()
        };
        tx.set_attributes(key, attributes);
        output.has_claimed = true;
    }
    if expiry != item.expiry {
        expiry.apply(tx, key);
    }
}

/// True if an item expires before a moment that counts whole seconds.
fn is_before(expiry: Expiry, threshold: Expiry, now: Now) -> bool {
    matches!(
        (expiry.ttl_s(now), threshold.ttl_s(now)),
        (Some(ttl_s), Some(threshold_s)) if ttl_s < threshold_s
    )
}

/// Arguments: name, key, perhaps `b`.
pub(super) fn meta_debug(tx: &mut Tx<'_>, args: Args<'_>, output: &mut Output<'_>) -> Result {
    let key = args.key(1);
    let is_base64 = args.get(2).is_some_and(|flag| flag.starts_with(b"b"));
    if key.bytes.is_empty() {
        output.line("CLIENT_ERROR bad command line format");
        return Ok(());
    }
    let Some(item) = Item::find(tx, key)? else {
        output.line("EN");
        return Ok(());
    };
    let cas = tx.cas(key).unwrap_or_default();
    let bytes = tx.peek(key).map_or(0, |entry| entry.allocated_bytes());
    output.out.extend_from_slice(b"ME ");
    match is_base64 {
        true => encode_base64(key.bytes, output.out),
        false => output.out.extend_from_slice(key.bytes),
    }
    let (ttl_s, unused_s) = (item.expiry.ttl_s(tx.now()).unwrap_or(-1), item.unused_s);
    let fetched = if item.is_used { "yes" } else { "no" };
    output.line(&format!(
        " exp={ttl_s} la={unused_s} cas={cas} fetch={fetched} cls=1 size={bytes}"
    ));
    Ok(())
}
