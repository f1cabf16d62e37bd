//! Commands on parts of strings: APPEND, GETRANGE, SETRANGE and their relatives.

use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;

use damselfly_base::CommandError;
use damselfly_base::number::Decimal;
use damselfly_engine::{Deadline, Event, Key, Tx};
use damselfly_protocol::Reply;
use damselfly_value::{NewValue, Text};

use crate::command::{
    Access, Arity::Exactly, At::One, Command, Group, Keys, Run, Trait, reads, writes,
};
use crate::strings::log_text;
use crate::{Args, KeyspaceFn, Result, Stop, long};

pub(crate) static COMMANDS: &[Command<KeyspaceFn>] = &[
    Command {
        name: "APPEND",
        arity: Exactly(3),
        keys: Keys::Args(&[writes(One(1), Access::Insert)]),
        traits: &[Trait::NeedsMemory, Trait::Fast],
        run: Run::Run(|tx, args, reply| extend(tx, args, End::Back, reply)),
        group: Group::String,
        usage: "APPEND key value",
        summary: "Appends to the string at a key and returns the new length.",
        since: "2.0.0",
        complexity: "O(1) amortized over the length of the value",
    },
    Command {
        name: "PREPEND",
        arity: Exactly(3),
        keys: Keys::Args(&[writes(One(1), Access::Insert)]),
        traits: &[Trait::NeedsMemory, Trait::Fast],
        run: Run::Run(|tx, args, reply| extend(tx, args, End::Front, reply)),
        group: Group::String,
        usage: "PREPEND key value",
        summary: "Prepends to the string at a key and returns the new length.",
        since: "7.0.0",
        complexity: "O(N) where N is the new length",
    },
    Command {
        name: "GETRANGE",
        arity: Exactly(4),
        keys: Keys::Args(&[reads(One(1))]),
        traits: &[],
        run: Run::Run(getrange),
        group: Group::String,
        usage: "GETRANGE key start end",
        summary: "Returns a substring of the string at a key; negative offsets count from the end.",
        since: "2.4.0",
        complexity: "O(N) where N is the length of the part",
    },
    Command {
        name: "SUBSTR",
        arity: Exactly(4),
        keys: Keys::Args(&[reads(One(1))]),
        traits: &[Trait::Deprecated {
            since: "2.0.0",
            instead: "`GETRANGE`",
        }],
        run: Run::Run(getrange),
        group: Group::String,
        usage: "SUBSTR key start end",
        summary: "Returns a substring of the string at a key; negative offsets count from the end.",
        since: "1.0.0",
        complexity: "O(N) where N is the length of the part",
    },
    Command {
        name: "SETRANGE",
        arity: Exactly(4),
        keys: Keys::Args(&[writes(One(1), Access::Update)]),
        traits: &[Trait::NeedsMemory],
        run: Run::Run(setrange),
        group: Group::String,
        usage: "SETRANGE key offset value",
        summary: "Overwrites part of the string at a key, padding it with zero bytes as needed, and returns the new length.",
        since: "2.2.0",
        complexity: "O(N) where N is the length of the value",
    },
];

#[derive(Clone, Copy)]
enum End {
    Front,
    Back,
}

impl End {
    fn event(self) -> Event {
        match self {
            Self::Front => Event::Prepend,
            Self::Back => Event::Append,
        }
    }
}

/// The longest string that a command may create: `proto-max-bulk-len`, within what an entry can hold. What has happened already, on a
/// primary or before a restart, is repeated whatever the limit is now.
pub(crate) fn bytes_max(tx: &Tx<'_>) -> usize {
    if tx.repeats_effects() {
        return u32::MAX as usize;
    }
    let bytes_max = tx.engine().settings.bulk_bytes_max.load(Relaxed);
    bytes_max.min(u32::MAX as usize)
}

/// Refuses strings over `proto-max-bulk-len`.
fn check_len(tx: &Tx<'_>, len: usize) -> Result {
    if len > bytes_max(tx) {
        return Err(CommandError::StringTooLong.into());
    }
    Ok(())
}

/// Moves a command to another thread if it is about to move a long string to another block, or to create one, of `len` bytes.
pub(crate) fn check_growth(tx: &mut Tx<'_>, key: Key<'_>, len: usize) -> Result {
    // Looks at the key only if the string may be long.
    if long::steps_of_bytes(len) > long::steps_max(tx) {
        let old = tx.peek(key);
        if old.is_none_or(|old| old.text().is_some() && !old.edits_in_place(len)) {
            return Err(Stop::Long);
        }
    }
    Ok(())
}

fn len_of(tx: &mut Tx<'_>, key: Key<'_>) -> Result<Option<usize>> {
    match tx.access(key) {
        None => Ok(None),
        Some(entry) => match entry.text() {
            Some(text) => Ok(Some(text.len())),
            None => Err(CommandError::WrongType.into()),
        },
    }
}

fn extend(tx: &mut Tx<'_>, args: Args<'_>, end: End, reply: &mut Reply<'_>) -> Result {
    let (key, added) = (args.key(1), args.at(2));
    let old_len = len_of(tx, key)?;
    let len = old_len.unwrap_or_default() + added.len();
    match old_len {
        None => tx.store_used(key, NewValue::compact(added), Deadline::Clear, end.event()),
        Some(old_len) => {
            check_len(tx, len)?;
            check_growth(tx, key, len)?;
            tx.edit_used(key, len, end.event(), |bytes| match end {
                End::Back => bytes[old_len..].copy_from_slice(added),
                End::Front => {
                    bytes.copy_within(..old_len, added.len());
                    bytes[..added.len()].copy_from_slice(added);
                }
            });
        }
    }
    if matches!(end, End::Front) {
        log_text(tx, key, &[b"KEEPTTL"]);
    }
    reply.integer(len as i64);
    Ok(())
}

/// The part of a string of `len` bytes between two offsets, both included; negative offsets count from the
/// end.
fn part(len: usize, start: i64, end: i64) -> Range<usize> {
    let len = len as i64;
    if start < 0 && end < 0 && start > end {
        return 0..0;
    }
    let from_end = |offset: i64| {
        if offset < 0 {
            offset.saturating_add(len).max(0)
        } else {
            offset
        }
    };
    let (start, end) = (from_end(start), from_end(end).min(len - 1));
    if start > end {
        0..0
    } else {
        start as usize..end as usize + 1
    }
}

fn getrange(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let (start, end) = (args.integer(2)?, args.integer(3)?);
    let Some(text) = tx.read_text(args.key(1))? else {
        reply.bulk(b"");
        return Ok(());
    };
    let part = part(text.len(), start, end);
    match text {
        Text::Bytes { bytes, .. } => reply.bulk(&bytes[part]),
        Text::Packed(packed) => reply.bulk_with(part.len(), |out| packed.unpack_range(part, out)),
        Text::Integer(number) => reply.bulk(&Decimal::new().format(number)[part]),
    }
    Ok(())
}

fn setrange(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let (key, written) = (args.key(1), args.at(3));
    let offset = usize::try_from(args.integer(2)?).map_err(|_| CommandError::OffsetOutOfRange)?;
    let old_len = len_of(tx, key)?.unwrap_or(0);
    if written.is_empty() {
        reply.integer(old_len as i64);
        return Ok(());
    }
    let end = offset.saturating_add(written.len());
    check_len(tx, end)?;
    let len = old_len.max(end);
    check_growth(tx, key, len)?;
    tx.edit_used(key, len, Event::Setrange, |bytes| {
        bytes[offset..end].copy_from_slice(written)
    });
    reply.integer(len as i64);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::part;

    #[test]
    fn offsets_count_from_either_end() {
        let text = b"Hello World";
        let part = |start, end| &text[part(text.len(), start, end)];
        assert_eq!(part(0, 3), b"Hell");
        assert_eq!(part(0, -1), text);
        assert_eq!(part(-4, -1), b"orld");
        assert_eq!(part(5, 3), b"");
        assert_eq!(part(5, 5000), b" World");
        assert_eq!(part(-5000, 10000), text);
        assert_eq!(part(-1, -5), b"");
        assert_eq!(part(i64::MIN, i64::MIN), b"H");
        assert!(super::part(0, 0, -1).is_empty());
    }
}
