//! `incr`, `decr` and `ma`: unsigned numbers of 64 bits, stored as text.

use damselfly_base::CommandError;
use damselfly_base::number::Decimal;
use damselfly_engine::{Deadline, Event, Key, Tx};
use damselfly_protocol::memcached::{MetaFlags, number, reply};
use damselfly_value::{Attributes, EntryRef, NewValue};

use super::{
    Class, Expiry, Output, echo, is_quiet, number_flag, opaque_error, storage, text_of, ttl_flag,
};
use crate::strings::{Scratch, text_of as bytes_of};
use crate::{Args, Result};

const NOT_A_NUMBER: &str = "CLIENT_ERROR cannot increment or decrement non-numeric value";

/// What became of an addition.
enum Added {
    /// The new number.
    To(u64),
    NotFound,
    NotANumber,
    /// The item has another CAS number.
    Exists,
}

/// An addition or subtraction.
#[derive(Clone, Copy)]
struct Change {
    is_incr: bool,
    delta: u64,
    /// The CAS number that the item must have.
    cas: Option<u64>,
    /// The CAS number of the changed item, if the client chooses it.
    new_cas: Option<u64>,
}

impl Change {
    fn run(self, tx: &mut Tx<'_>, key: Key<'_>) -> std::result::Result<Added, CommandError> {
        let Some(entry) = tx.peek(key) else {
            return Ok(Added::NotFound);
        };
        let attributes = entry.attributes();
        let number = number_of(entry)?;
        if self
            .cas
            .is_some_and(|cas| cas != 0 && attributes.cas != Some(cas))
        {
            return Ok(Added::Exists);
        }
        let Some(number) = number else {
            return Ok(Added::NotANumber);
        };
        let number = match self.is_incr {
            true => number.wrapping_add(self.delta),
            false => number.saturating_sub(self.delta),
        };
        let attributes = Attributes {
            cas: self.new_cas,
            ..attributes
        };
        let mut decimal = Decimal::new();
        let value = NewValue::compact(decimal.format_unsigned(number));
        tx.store_item(key, value, attributes, Deadline::Keep, Event::Incrby);
        Ok(Added::To(number))
    }
}

/// The number at a key; `None` if it is another text.
fn number_of(entry: EntryRef<'_>) -> std::result::Result<Option<u64>, CommandError> {
    let mut scratch = Scratch::default();
    let text = bytes_of(text_of(entry)?, &mut scratch);
    Ok(number::unsigned(text))
}

pub(super) fn incr(tx: &mut Tx<'_>, args: Args<'_>, output: &mut Output<'_>) -> Result {
    add(tx, args, true, output)
}

pub(super) fn decr(tx: &mut Tx<'_>, args: Args<'_>, output: &mut Output<'_>) -> Result {
    add(tx, args, false, output)
}

fn class(is_incr: bool) -> Class {
    if is_incr { Class::Incr } else { Class::Decr }
}

fn add(tx: &mut Tx<'_>, args: Args<'_>, is_incr: bool, output: &mut Output<'_>) -> Result {
    let is_quiet = is_quiet(args, args.len());
    let Some(delta) = number::unsigned(args.at(2)) else {
        output.line_unless(is_quiet, "CLIENT_ERROR invalid numeric delta argument");
        return Ok(());
    };
    let change = Change {
        is_incr,
        delta,
        cas: None,
        new_cas: None,
    };
    match change.run(tx, args.key(1)) {
        Err(error) if !is_quiet => return Err(error.into()),
        Ok(Added::To(number)) => {
            output.hit(class(is_incr));
            if !is_quiet {
                reply::number(output.out, number);
                output.out.extend_from_slice(b"\r\n");
            }
        }
        Ok(Added::NotANumber) => output.line_unless(is_quiet, NOT_A_NUMBER),
        Ok(Added::NotFound) => {
            output.miss(class(is_incr));
            output.line_unless(is_quiet, "NOT_FOUND");
        }
        Err(_) | Ok(Added::Exists) => {}
    }
    Ok(())
}

/// Arguments: name, key, flags.
pub(super) fn meta_arithmetic(tx: &mut Tx<'_>, args: Args<'_>, output: &mut Output<'_>) -> Result {
    let key = args.key(1);
    let Ok(flags) = MetaFlags::parse(args.from(2)) else {
        output.line("CLIENT_ERROR invalid or duplicate flag");
        return Ok(());
    };
    let is_incr = match flags.mode {
        None | Some(b'I' | b'+') => Some(true),
        Some(b'D' | b'-') => Some(false),
        Some(_) => None,
    };
    let error = match is_incr {
        _ if key.bytes.is_empty() => Some("CLIENT_ERROR invalid or duplicate flag"),
        None => Some("CLIENT_ERROR invalid mode for ma M token"),
        Some(_) => opaque_error(args.from(2)),
    };
    let (None, Some(is_incr)) = (error, is_incr) else {
        output.line(error.unwrap_or_default());
        return Ok(());
    };
    let change = Change {
        is_incr,
        delta: flags.delta.unwrap_or(1),
        cas: flags.cas,
        new_cas: flags.new_cas,
    };
    let (code, number) = match change.run(tx, key)? {
        Added::NotANumber => {
            output.line(NOT_A_NUMBER);
            return Ok(());
        }
        Added::To(number) => {
            output.hit(class(is_incr));
            return write(tx, args, &flags, (number, false), output);
        }
        Added::Exists => ("EX", None),
        Added::NotFound => match flags.vivify {
            None => {
                output.miss(class(is_incr));
                ("NF", None)
            }
            Some(_) => ("", Some(flags.initial.unwrap_or(0))),
        },
    };
    if let Some(initial) = number {
        let mut decimal = Decimal::new();
        let value = NewValue::compact(decimal.format_unsigned(initial));
        let attributes = Attributes {
            cas: flags.new_cas,
            ..Attributes::NONE
        };
        storage::store_item(tx, key, value, attributes, Expiry::Never, Event::Set);
        return write(tx, args, &flags, (initial, true), output);
    }
    output.out.extend_from_slice(code.as_bytes());
    for flag in args.from(2) {
        echo(output.out, flag, key.bytes, flags.is_base64);
    }
    output.out.extend_from_slice(b"\r\n");
    Ok(())
}

/// Writes the reply with the new number, and sets the expiry. Expiries take effect for the flags behind them, as in memcached.
fn write(
    tx: &mut Tx<'_>,
    args: Args<'_>,
    flags: &MetaFlags,
    (number, is_created): (u64, bool),
    output: &mut Output<'_>,
) -> Result {
    let (key, now, mark) = (args.key(1), tx.now(), output.out.len());
    let mut decimal = Decimal::new();
    let text = decimal.format_unsigned(number);
    let before = tx.peek(key).map_or(Expiry::Never, Expiry::of);
    let mut expiry = before;
    match flags.wants_value {
        true => {
            output.out.extend_from_slice(b"VA ");
            reply::number(output.out, text.len() as u64);
        }
        false => output.out.extend_from_slice(b"HD"),
    }
    for flag in args.from(2) {
        match flag[0] {
            b'c' => {
                let cas = tx.cas(key).unwrap_or_default();
                number_flag(output.out, b'c', cas);
            }
            b't' => ttl_flag(output.out, expiry, now),
            b'T' => expiry = Expiry::new(flags.ttl.unwrap_or_default(), now),
            b'N' if is_created => expiry = Expiry::new(flags.vivify.unwrap_or_default(), now),
            _ => echo(output.out, flag, key.bytes, flags.is_base64),
        }
    }
    output.out.extend_from_slice(b"\r\n");
    if flags.wants_value {
        output.out.extend_from_slice(text);
        output.out.extend_from_slice(b"\r\n");
    }
    if expiry != before {
        expiry.apply(tx, key);
    }
    if flags.is_quiet && !is_created {
        output.out.truncate(mark);
    }
    Ok(())
}
