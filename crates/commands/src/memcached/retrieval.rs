//! `get`, `gets`, `gat` and `gats`.

use damselfly_engine::{Key, Tx};
use damselfly_protocol::memcached::{number, parser::KEYS_PER_REQUEST, reply};

use super::{Class, Expiry, Output, text_of};
use crate::{Args, Result};

/// The end of a reply.
const END: &[u8] = b"END\r\n";

pub(super) fn get(tx: &mut Tx<'_>, args: Args<'_>, output: &mut Output<'_>) -> Result {
    let key = args.key(1);
    match tx.read(key) {
        None => output.tally.misses = 1,
        Some(entry) => {
            let text = text_of(entry)?;
            let flags = entry.attributes().flags;
            output.tally.hits = 1;
            reply::value_header(output.out, key.bytes, flags, text.len(), None);
            output.text(text);
            output.out.extend_from_slice(b"\r\n");
        }
    }
    output.out.extend_from_slice(END);
    Ok(())
}

pub(super) fn get_many(tx: &mut Tx<'_>, args: Args<'_>, output: &mut Output<'_>) -> Result {
    get_part(tx, args, output)?;
    output.out.extend_from_slice(END);
    Ok(())
}

pub(super) fn get_part(tx: &mut Tx<'_>, args: Args<'_>, output: &mut Output<'_>) -> Result {
    retrieve(tx, args, 1, output, Cas::Omitted, None)
}

pub(super) fn gets(tx: &mut Tx<'_>, args: Args<'_>, output: &mut Output<'_>) -> Result {
    gets_part(tx, args, output)?;
    output.out.extend_from_slice(END);
    Ok(())
}

pub(super) fn gets_part(tx: &mut Tx<'_>, args: Args<'_>, output: &mut Output<'_>) -> Result {
    retrieve(tx, args, 1, output, Cas::Returned, None)
}

pub(super) fn gat(tx: &mut Tx<'_>, args: Args<'_>, output: &mut Output<'_>) -> Result {
    retrieve_and_touch(tx, args, output, Cas::Omitted, END)
}

pub(super) fn gat_part(tx: &mut Tx<'_>, args: Args<'_>, output: &mut Output<'_>) -> Result {
    retrieve_and_touch(tx, args, output, Cas::Omitted, b"")
}

pub(super) fn gats(tx: &mut Tx<'_>, args: Args<'_>, output: &mut Output<'_>) -> Result {
    retrieve_and_touch(tx, args, output, Cas::Returned, END)
}

pub(super) fn gats_part(tx: &mut Tx<'_>, args: Args<'_>, output: &mut Output<'_>) -> Result {
    retrieve_and_touch(tx, args, output, Cas::Returned, b"")
}

/// Whether CAS numbers are returned with values.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cas {
    Omitted,
    Returned,
}

/// Writes the values of the keys from argument `first` on, and sets the expiry of each.
fn retrieve(
    tx: &mut Tx<'_>,
    args: Args<'_>,
    first: usize,
    output: &mut Output<'_>,
    cas: Cas,
    expiry: Option<Expiry>,
) -> Result {
    let mut keys = [const {
        Key {
            bytes: b"",
            hash: 0,
        }
    }; KEYS_PER_REQUEST];
    let len = (args.len() - first).min(KEYS_PER_REQUEST);
    for (place, key) in keys[..len].iter_mut().enumerate() {
        *key = args.key(first + place);
    }
    let keys = &keys[..len];
    if len > 1 {
        tx.prefetch(keys.iter().map(|key| key.hash));
    }
    if expiry.is_some() {
        // No expiry is set if the request fails.
        for &key in keys {
            tx.peek(key).map(text_of).transpose()?;
        }
    }
    for &key in keys {
        if tx.read(key).is_none() {
            output.tally.misses += 1;
            continue;
        }
        let cas = match cas {
            Cas::Omitted => None,
            Cas::Returned => tx.cas(key),
        };
        let Some(entry) = tx.peek(key) else {
            continue;
        };
        let text = text_of(entry)?;
        output.tally.hits += 1;
        let flags = entry.attributes().flags;
        reply::value_header(output.out, key.bytes, flags, text.len(), cas);
        output.text(text);
        output.out.extend_from_slice(b"\r\n");
        if let Some(expiry) = expiry {
            expiry.apply(tx, key);
        }
    }
    Ok(())
}

fn retrieve_and_touch(
    tx: &mut Tx<'_>,
    args: Args<'_>,
    output: &mut Output<'_>,
    cas: Cas,
    end: &[u8],
) -> Result {
    let Some(exptime) = number::signed(args.at(1)) else {
        output.line("CLIENT_ERROR invalid exptime argument");
        return Ok(());
    };
    output.tally.class = Class::Touch;
    let expiry = Expiry::new(exptime, tx.now());
    retrieve(tx, args, 2, output, cas, Some(expiry))?;
    output.out.extend_from_slice(end);
    Ok(())
}
