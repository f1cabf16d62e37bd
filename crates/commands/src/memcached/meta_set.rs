//! `ms` and `md`.

use damselfly_engine::{Deadline, Event, Tx};
use damselfly_protocol::memcached::MetaFlags;
use damselfly_value::{Attributes, NewValue, Text};

use super::storage::{Mode, Outcome, Store};
use super::{BAD_KEY, Class, Expiry, Output, echo, number_flag, opaque_error};
use crate::{Args, Result};

/// Arguments: name, key, length, flags, data.
pub(super) fn meta_set(tx: &mut Tx<'_>, args: Args<'_>, output: &mut Output<'_>) -> Result {
    let (key, data_at) = (args.key(1), args.len() - 1);
    let tokens = || args.from(3).take(data_at - 3);
    let (flags, mode) = match flags_and_mode(args, data_at) {
        Ok(found) => found,
        Err(error) => {
            output.line(error);
            return Ok(());
        }
    };
    let expiry = |exptime: i64| Expiry::new(exptime, tx.now());
    let store = Store {
        key,
        data: args.at(data_at),
        flags: flags.client_flags,
        expiry: expiry(flags.ttl.unwrap_or_default()),
        mode,
        cas: flags.cas,
        accepts_stale: flags.invalidates,
        new_cas: flags.new_cas,
        vivify: flags.vivify.map(expiry),
    };
    let stored = store.run(tx, output)?;
    let is_stored = stored == Outcome::Stored;
    if is_stored && flags.is_quiet {
        return Ok(());
    }
    output.out.extend_from_slice(match stored {
        Outcome::Stored => b"HD",
        Outcome::NotStored => b"NS",
        Outcome::Exists => b"EX",
        Outcome::NotFound => b"NF",
    });
    for flag in tokens() {
        match flag[0] {
            b'c' => {
                let cas = match is_stored {
                    // It may have expired already.
                    true => tx.cas(key).unwrap_or_else(|| tx.next_cas(key)),
                    false => 0,
                };
                number_flag(output.out, b'c', cas);
            }
            b's' => {
                let stored = tx.peek(key).and_then(|entry| entry.text());
                let len = stored
                    .filter(|_| is_stored)
                    .map_or(store.data.len(), Text::len);
                number_flag(output.out, b's', len as u64);
            }
            _ => echo(output.out, flag, key.bytes, flags.is_base64),
        }
    }
    output.out.extend_from_slice(b"\r\n");
    Ok(())
}

/// The flags of `ms`, which end in front of argument `end`, or the line that says what is wrong with them or the key.
pub(super) fn flags_and_mode(
    args: Args<'_>,
    end: usize,
) -> std::result::Result<(MetaFlags, Mode), &'static str> {
    let tokens = || args.from(3).take(end - 3);
    let flags = MetaFlags::parse(tokens())?;
    if args.key(1).bytes.is_empty() {
        return Err(BAD_KEY);
    }
    let mode = mode_of(flags.mode).ok_or("CLIENT_ERROR invalid mode for ms M token")?;
    match opaque_error(tokens()) {
        Some(error) => Err(error),
        None => Ok((flags, mode)),
    }
}

fn mode_of(letter: Option<u8>) -> Option<Mode> {
    Some(match letter {
        None | Some(b'S') => Mode::Set,
        Some(b'E') => Mode::Add,
        Some(b'A') => Mode::Append,
        Some(b'P') => Mode::Prepend,
        Some(b'R') => Mode::Replace,
        Some(_) => return None,
    })
}

/// Arguments: name, key, flags.
pub(super) fn meta_delete(tx: &mut Tx<'_>, args: Args<'_>, output: &mut Output<'_>) -> Result {
    let key = args.key(1);
    let error = match MetaFlags::parse(args.from(2)) {
        Ok(_) if !key.bytes.is_empty() => opaque_error(args.from(2)),
        Err(_) | Ok(_) => Some("CLIENT_ERROR invalid or duplicate flag"),
    };
    let (Ok(flags), None) = (MetaFlags::parse(args.from(2)), error) else {
        output.line(error.unwrap_or_default());
        return Ok(());
    };
    let found = tx
        .peek(key)
        .map(|entry| (entry.attributes(), entry.text().is_some()));
    let code = match found {
        None => {
            output.miss(Class::Delete);
            "NF"
        }
        Some((attributes, _)) if flags.cas.is_some() && flags.cas != attributes.cas => {
            output.miss(Class::Delete);
            "EX"
        }
        Some((attributes, is_text)) => {
            if !is_text && (flags.invalidates || flags.removes_value) {
                return Err(damselfly_base::CommandError::WrongType.into());
            }
            change(tx, args, &flags, attributes, output);
            if flags.is_quiet {
                return Ok(());
            }
            "HD"
        }
    };
    output.out.extend_from_slice(code.as_bytes());
    for flag in args.from(2) {
        echo(output.out, flag, key.bytes, flags.is_base64);
    }
    output.out.extend_from_slice(b"\r\n");
    Ok(())
}

/// Removes the key, or only its value, or makes the value stale.
fn change(
    tx: &mut Tx<'_>,
    args: Args<'_>,
    flags: &MetaFlags,
    old: Attributes,
    output: &mut Output<'_>,
) {
    let (key, now) = (args.key(1), tx.now());
    if flags.removes_value {
        let attributes = Attributes {
            cas: flags.new_cas,
            ..Attributes::of_flags(flags.client_flags)
        };
        let value = NewValue::Bytes(b"");
        tx.store_item(key, value, attributes, Deadline::Clear, Event::Set);
        Expiry::new(flags.ttl.unwrap_or_default(), now).apply(tx, key);
    }
    if flags.invalidates {
        let flags_kept = match flags.removes_value {
            true => flags.client_flags,
            false => old.flags,
        };
        let attributes = Attributes {
            flags: flags_kept,
            cas: flags.new_cas,
            is_stale: true,
            is_claimed: false,
        };
        tx.set_attributes(key, attributes);
        tx.changed(key, Event::Set);
        if let Some(ttl) = flags.ttl {
            Expiry::new(ttl, now).apply(tx, key);
        }
        return;
    }
    output.hit(Class::Delete);
    if !flags.removes_value {
        tx.remove(key);
    }
}
