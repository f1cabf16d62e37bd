//! Commands on the bits of strings.

use std::ops::Range;

use damselfly_base::CommandError;
use damselfly_base::number::{Decimal, parse_integer};
use damselfly_encodings::bit_operations::{Operation, combine};
use damselfly_encodings::bits;
use damselfly_engine::{Event, Tx};
use damselfly_protocol::Reply;
use damselfly_value::{Entry, EntryRef, Text};

use crate::command::{
    Access, Arity::AtLeast, Arity::Exactly, At::One, At::ToEnd, Command, Group, Keys, Run, Trait,
    reads, writes,
};
use crate::ranges::{bytes_max, check_growth};
use crate::strings::{Scratch, log_text, text_of};
use crate::{Args, KeyspaceFn, Result, long};

pub(crate) static COMMANDS: &[Command<KeyspaceFn>] = &[
    Command {
        name: "GETBIT",
        arity: Exactly(3),
        keys: Keys::Args(&[reads(One(1))]),
        traits: &[Trait::Fast],
        run: Run::Run(getbit),
        group: Group::Bitmap,
        usage: "GETBIT key offset",
        summary: "Returns a bit of the string at a key; bits past its end are 0.",
        since: "2.2.0",
        complexity: "O(1)",
    },
    Command {
        name: "SETBIT",
        arity: Exactly(4),
        keys: Keys::Args(&[writes(One(1), Access::ReadUpdate)]),
        traits: &[Trait::NeedsMemory],
        run: Run::Run(setbit),
        group: Group::Bitmap,
        usage: "SETBIT key offset value",
        summary: "Sets or clears a bit of the string at a key, which grows as needed, and returns what the bit was.",
        since: "2.2.0",
        complexity: "O(1)",
    },
    Command {
        name: "BITCOUNT",
        arity: AtLeast(2),
        keys: Keys::Args(&[reads(One(1))]),
        traits: &[],
        run: Run::Run(bitcount),
        group: Group::Bitmap,
        usage: "BITCOUNT key [start end [BYTE | BIT]]",
        summary: "Counts the bits that are set in a string, or between two offsets, which may count from the end.",
        since: "2.6.0",
        complexity: "O(N)",
    },
    Command {
        name: "BITPOS",
        arity: AtLeast(3),
        keys: Keys::Args(&[reads(One(1))]),
        traits: &[],
        run: Run::Run(bitpos),
        group: Group::Bitmap,
        usage: "BITPOS key bit [start [end [BYTE | BIT]]]",
        summary: "Returns the index of the first bit of a string that is set, or that is clear.",
        since: "2.8.7",
        complexity: "O(N)",
    },
    Command {
        name: "BITOP",
        arity: AtLeast(4),
        keys: Keys::Args(&[
            writes(One(2), Access::Overwrite),
            reads(ToEnd { first: 3, step: 1 }),
        ]),
        traits: &[Trait::NeedsMemory],
        run: Run::Run(bitop),
        group: Group::Bitmap,
        usage: "BITOP <AND | OR | XOR | NOT | DIFF | DIFF1 | ANDOR | ONE> destkey key [key ...]",
        summary: "Combines the bits of strings, stores the result, and returns its length in bytes. DIFF: bits of the first string that no other has; DIFF1: bits of any other that the first does not have; ANDOR: bits of the first that any other has; ONE: bits that exactly one has.",
        since: "2.6.0",
        complexity: "O(N)",
    },
];

fn bad_offset() -> CommandError {
    CommandError::err("bit offset is not an integer or out of range")
}

/// An offset in bits, within a string of at most `bytes_max` bytes.
pub(crate) fn offset_of(offset: Option<i64>, bytes_max: usize) -> Result<u64> {
    let offset = offset.and_then(|offset| u64::try_from(offset).ok());
    let is_allowed = |offset: &u64| offset / 8 < bytes_max as u64;
    Ok(offset.filter(is_allowed).ok_or_else(bad_offset)?)
}

fn offset(tx: &Tx<'_>, args: Args<'_>) -> Result<u64> {
    offset_of(parse_integer(args.at(2)), bytes_max(tx))
}

fn bit_of(text: Text<'_>, index: u64) -> bool {
    match text {
        Text::Bytes { bytes, .. } => bits::bit(bytes, index),
        Text::Integer(number) => bits::bit(Decimal::new().format(number), index),
        Text::Packed(packed) => match usize::try_from(index / 8) {
            Ok(at) if at < packed.len() => {
                let mut byte = [0];
                packed.unpack_range(at..at + 1, &mut byte);
                bits::bit(&byte, index % 8)
            }
            Ok(_) | Err(_) => false,
        },
    }
}

fn getbit(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let index = offset(tx, args)?;
    let text = tx.read_text(args.key(1))?;
    reply.integer(text.is_some_and(|text| bit_of(text, index)).into());
    Ok(())
}

fn setbit(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let index = offset(tx, args)?;
    let value = match parse_integer(args.at(3)) {
        Some(0) => false,
        Some(1) => true,
        _ => return Err(CommandError::err("bit is not an integer or out of range").into()),
    };
    let (key, len_min) = (args.key(1), (index / 8) as usize + 1);
    check_growth(tx, key, len_min)?;
    let (old, is_changed) = tx.change_text(key, b"", |entry, is_new| {
        let len = len_of(entry.view());
        let old = bits::set_bit(entry.edit(len.max(len_min)), index, value);
        (old, is_new || len < len_min || old != value)
    })?;
    if is_changed {
        tx.changed(key, Event::Setbit);
    }
    reply.integer(old.into());
    Ok(())
}

/// The length of the string in an entry.
pub(crate) fn len_of(entry: EntryRef<'_>) -> usize {
    entry.text().map_or(0, Text::len)
}

/// True if the argument says that offsets count bits, not bytes.
fn counts_bits(args: Args<'_>, at: usize) -> Result<bool> {
    match args.get(at) {
        None => Ok(false),
        Some(_) if args.is(at, "BIT") => Ok(true),
        Some(_) if args.is(at, "BYTE") => Ok(false),
        Some(_) => Err(CommandError::Syntax.into()),
    }
}

/// The bits between two offsets, both included, which count bits or bytes; negative ones count from the end of the string of `len`
/// bytes.
fn bits_between(len: usize, start: i64, end: i64, counts_bits: bool) -> Range<u64> {
    let unit = if counts_bits { 1 } else { 8 };
    let units = len as i64 * 8 / unit;
    let from_end = |offset: i64| {
        if offset < 0 {
            offset.saturating_add(units).max(0)
        } else {
            offset
        }
    };
    let (start, end) = (from_end(start), from_end(end).min(units - 1));
    if start > end {
        return 0..0;
    }
    (start * unit) as u64..((end + 1) * unit) as u64
}

/// Moves the command to another thread if it would look at very many bits.
fn check_bits(tx: &Tx<'_>, bits: &Range<u64>) -> Result {
    let bytes = (bits.end - bits.start) / 8;
    long::check(tx, long::steps_of_bytes(bytes as usize))
}

fn bitcount(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let key = args.key(1);
    // As in Redis since 7.2, invalid arguments are an error even if the key is absent.
    let range = match args.len() {
        2 => None,
        4 | 5 => Some((args.integer(2)?, args.integer(3)?, counts_bits(args, 4)?)),
        _ => return Err(CommandError::Syntax.into()),
    };
    let len = tx.read_text(key)?.map_or(0, Text::len);
    let bits = match range {
        None => 0..len as u64 * 8,
        Some((start, end, _)) if start < 0 && end < 0 && start > end => 0..0,
        Some((start, end, counts_bits)) => bits_between(len, start, end, counts_bits),
    };
    check_bits(tx, &bits)?;
    let mut scratch = Scratch::default();
    let text = tx.view(key).and_then(EntryRef::text);
    let count = text.map_or(0, |text| {
        bits::count_ones_in(text_of(text, &mut scratch), bits)
    });
    reply.integer(count as i64);
    Ok(())
}

fn bitpos(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let wanted = match args.integer(2)? {
        0 => false,
        1 => true,
        _ => return Err(CommandError::err("The bit argument must be 1 or 0.").into()),
    };
    let key = args.key(1);
    // As for BITCOUNT, before the key.
    let range = match args.len() {
        3 => None,
        4..=6 => {
            let start = args.integer(3)?;
            let counts_bits = counts_bits(args, 5)?;
            let end = match args.get(4) {
                Some(_) => args.integer(4)?,
                None => i64::MAX,
            };
            Some((start, end, counts_bits))
        }
        _ => return Err(CommandError::Syntax.into()),
    };
    let Some(len) = tx.read_text(key)?.map(Text::len) else {
        reply.integer(if wanted { -1 } else { 0 });
        return Ok(());
    };
    let bits = match range {
        None => 0..len as u64 * 8,
        Some((start, end, counts_bits)) => bits_between(len, start, end, counts_bits),
    };
    check_bits(tx, &bits)?;
    let mut scratch = Scratch::default();
    let text = tx.view(key).and_then(EntryRef::text);
    let found =
        text.and_then(|text| bits::position(text_of(text, &mut scratch), wanted, bits.clone()));
    reply.integer(match found {
        Some(index) => index as i64,
        // Without an explicit end, zeros follow the string.
        None if !wanted && args.len() < 5 && !bits.is_empty() => bits.end as i64,
        None => -1,
    });
    Ok(())
}

/// The operations and their names.
const OPERATIONS: &[(&str, Operation)] = &[
    ("AND", Operation::And),
    ("OR", Operation::Or),
    ("XOR", Operation::Xor),
    ("NOT", Operation::Not),
    ("DIFF", Operation::Diff),
    ("DIFF1", Operation::Diff1),
    ("ANDOR", Operation::AndOr),
    ("ONE", Operation::One),
];

fn operation(args: Args<'_>) -> Result<Operation> {
    let named = OPERATIONS.iter().find(|(name, _)| args.is(1, name));
    let &(name, operation) = named.ok_or(CommandError::Syntax)?;
    let sources = args.len() - 3;
    match operation {
        Operation::Not if sources != 1 => {
            Err(CommandError::err("BITOP NOT must be called with a single source key.").into())
        }
        Operation::Diff | Operation::Diff1 | Operation::AndOr if sources < 2 => {
            let text = format!("BITOP {name} must be called with at least two source keys.");
            Err(CommandError::err(text).into())
        }
        _ => Ok(operation),
    }
}

fn bitop(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let operation = operation(args)?;
    let destination = args.key(2);
    let (mut len, mut bytes) = (0, 0);
    for place in 3..args.len() {
        let source = tx.read_text(args.key(place))?.map_or(0, Text::len);
        len = len.max(source);
        bytes += source;
    }
    let is_since_8 = match operation {
        Operation::And | Operation::Or | Operation::Xor | Operation::Not => false,
        Operation::Diff | Operation::Diff1 | Operation::AndOr | Operation::One => true,
    };
    if len > 0 {
        long::check(tx, long::steps_of_bytes(bytes + len))?;
        let entry = combined(tx, args, operation, len);
        tx.store_built(destination, entry, Event::Set);
        if is_since_8 {
            log_text(tx, destination, &[]);
        }
    } else if tx.remove_unread(destination) && is_since_8 {
        tx.log_effect(&[b"DEL", destination.bytes]);
    }
    reply.integer(len as i64);
    Ok(())
}

/// The entry for the destination of BITOP. The result is computed in place, so a long one is never in memory twice.
fn combined(tx: &Tx<'_>, args: Args<'_>, operation: Operation, len: usize) -> Entry {
    let mut scratches: Vec<Scratch> = Vec::new();
    scratches.resize_with(args.len() - 3, Scratch::default);
    let texts = (3..args.len()).map(|place| tx.view(args.key(place)).and_then(EntryRef::text));
    let sources: Vec<&[u8]> = texts
        .zip(&mut scratches)
        .map(|(text, scratch)| text.map_or(&[][..], |text| text_of(text, scratch)))
        .collect();
    tx.build_text(args.key(2), len, |out| combine(operation, &sources, out))
}

#[cfg(test)]
mod tests {
    use super::bits_between;

    #[test]
    fn offsets_count_bits_or_bytes_from_either_end() {
        let bytes = |start, end| bits_between(10, start, end, false);
        assert_eq!(bytes(0, -1), 0..80);
        assert_eq!(bytes(-2, 100), 64..80);
        assert_eq!(bytes(i64::MIN, 0), 0..8);
        assert!(bytes(5, 4).is_empty() && bytes(10, 12).is_empty());
        let bits = |start, end| bits_between(10, start, end, true);
        assert_eq!(bits(5, 30), 5..31);
        assert_eq!(bits(-3, i64::MAX), 77..80);
        assert!(bits_between(0, 0, -1, true).is_empty());
    }
}
