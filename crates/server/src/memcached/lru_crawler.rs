//! `lru_crawler`: in memcached, a thread that walks over all items. Here it lists them; removing those that have expired needs no request.
//!
//! ```text
//! lru_crawler metadump all   key=a%20b exp=-1 la=1700000000 cas=12 fetch=no cls=1 size=64 flags=0\n ... END\r\n
//! lru_crawler mgdump all     mg a\r\n mg YSBi b\r\n ... EN\r\n
//! ```
//!
//! The list is written in slices while the client reads it. Each locks one shard at a time, so an item that is there the whole time is listed, and others may be.

use std::result;

use damselfly_commands::{Args, Result};
use damselfly_engine::{Busy, Cursor, Now, is_used, unused_seconds};
use damselfly_protocol::Reply;
use damselfly_protocol::memcached::{KEY_BYTES_MAX, encode_base64, number, reply};
use damselfly_value::EntryRef;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

use super::{DATABASE, line};
use crate::clock;
use crate::session::{Context, RestOfReply};
use crate::shared::Shared;

/// Items in one slice of a list.
const ITEMS_PER_SLICE: usize = 1000;

/// The class of all items.
const CLASS: u32 = 1;

/// The classes that memcached can have.
const CLASSES: std::ops::Range<u32> = 1..64;

/// The longest pause between two items, in microseconds, that memcached accepts.
const SLEEP_US_MAX: u32 = 1_000_000;

/// The bytes of a key that stand for themselves in a URI are the others.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// A list of all items of which only the beginning is written.
#[derive(Debug)]
pub struct KeyDump {
    form: Form,
    cursor: Cursor,
}

/// How items are listed.
#[derive(Clone, Copy, Debug)]
enum Form {
    /// What is known about each: `metadump`.
    Facts,
    /// As requests for them: `mgdump`.
    Requests,
}

/// Arguments: name, subcommand, perhaps its argument.
pub(super) fn run(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let form = match (args.at(1), args.get(2)) {
        (b"metadump", Some(_)) => Form::Facts,
        (b"mgdump", Some(_)) => Form::Requests,
        (b"crawl", Some(classes)) => {
            return match holds_items(classes) {
                // Items that have expired are removed all the time.
                Some(_) => line(reply, "OK"),
                None => bad_class(reply),
            };
        }
        (b"sleep" | b"tocrawl", Some(count)) => {
            return match (number::unsigned_32(count), args.at(1)) {
                (None, _) => line(reply, "CLIENT_ERROR bad command line format"),
                (Some(sleep_us), b"sleep") if sleep_us > SLEEP_US_MAX => {
                    line(reply, "CLIENT_ERROR sleep must be one second or less")
                }
                (Some(_), _) => line(reply, "OK"),
            };
        }
        (b"enable", None) => return line(reply, "OK"),
        (b"disable", None) => {
            return line(reply, "ERROR items that have expired are always removed");
        }
        _ => return line(reply, "ERROR"),
    };
    let Some(holds_items) = holds_items(args.at(2)) else {
        return bad_class(reply);
    };
    if !holds_items {
        return line(reply, form.end());
    }
    context.session.rest = Some(RestOfReply::Keys(KeyDump {
        form,
        cursor: Cursor::default(),
    }));
    Ok(())
}

/// True if these classes contain items: all of them, or some by their numbers. `None` if they are not classes.
fn holds_items(classes: &[u8]) -> Option<bool> {
    if matches!(classes, b"all" | b"hash") {
        return Some(true);
    }
    let numbers = classes
        .split(|&byte| byte == b',')
        .filter(|number| !number.is_empty());
    let mut holds_items = false;
    for class in numbers {
        let class = number::unsigned_32(class).filter(|class| CLASSES.contains(class))?;
        holds_items |= class == CLASS;
    }
    Some(holds_items)
}

fn bad_class(reply: &mut Reply<'_>) -> Result {
    line(reply, "BADCLASS invalid class id")
}

impl KeyDump {
    /// Writes some more. Returns false once nothing is left.
    ///
    /// # Errors
    /// If the shard of the next items is busy: nothing was written.
    pub fn write(&mut self, shared: &Shared, reply: &mut Reply<'_>) -> result::Result<bool, Busy> {
        let now = Now(clock::now_ms());
        let (form, out) = (self.form, reply.buffer());
        let mut tx = shared.engine.lock_none(DATABASE, now);
        self.cursor = tx.scan(DATABASE, self.cursor, ITEMS_PER_SLICE, |entry| {
            form.write_item(shared, entry, now, out);
        })?;
        drop(tx);
        if self.cursor == Cursor::default() {
            reply::line(out, form.end());
            return Ok(false);
        }
        Ok(true)
    }
}

impl Form {
    fn end(self) -> &'static str {
        match self {
            Self::Facts => "END",
            Self::Requests => "EN",
        }
    }

    fn write_item(self, shared: &Shared, entry: EntryRef<'_>, now: Now, out: &mut Vec<u8>) {
        if entry.text().is_none() {
            return;
        }
        let key = entry.key();
        match self {
            Self::Facts => {
                let (policy, access) = (shared.engine.settings.access_policy(), entry.access());
                let key = percent_encode(key, ENCODED);
                let expiry_s = entry.deadline_ms().map_or(-1, |ms| ms / 1000);
                let used_s = now.0 / 1000 - unused_seconds(policy, access, now.0);
                let attributes = entry.attributes();
                let cas = attributes.cas.unwrap_or_default();
                let fetched = if is_used(policy, access) { "yes" } else { "no" };
                let bytes = entry.allocated_bytes();
                let flags = attributes.flags;
                out.extend_from_slice(
                    format!(
                        "key={key} exp={expiry_s} la={used_s} cas={cas} fetch={fetched} cls={CLASS} size={bytes} flags={flags}\n"
                    )
                    .as_bytes(),
                );
            }
            Self::Requests => {
                let start = out.len();
                out.extend_from_slice(b"mg ");
                let key_start = out.len();
                let is_base64 = key.iter().any(|&byte| byte <= b' ' || byte == b'\x7f');
                match is_base64 {
                    true => encode_base64(key, out),
                    false => out.extend_from_slice(key),
                }
                if !(1..=KEY_BYTES_MAX).contains(&(out.len() - key_start)) {
                    // Only clients of RESP can ask for it.
                    return out.truncate(start);
                }
                out.extend_from_slice(if is_base64 { b" b\r\n" } else { b"\r\n" });
            }
        }
    }
}
