//! BITFIELD and BITFIELD_RO: integers of any width within strings.

use damselfly_base::CommandError;
use damselfly_base::number::parse_integer;
use damselfly_encodings::bit_fields::{FieldType, Overflow};
use damselfly_engine::{Event, Tx};
use damselfly_protocol::Reply;
use damselfly_value::EntryRef;

use crate::bitmaps::{len_of, offset_of};
use crate::command::{
    Access, Arity::AtLeast, At::One, Command, Group, Keys, Run, Trait, reads, writes,
};
use crate::ranges::{bytes_max, check_growth};
use crate::strings::{Scratch, text_of};
use crate::{Args, KeyspaceFn, Result};

pub(crate) static COMMANDS: &[Command<KeyspaceFn>] = &[
    Command {
        name: "BITFIELD",
        arity: AtLeast(2),
        keys: Keys::Args(&[writes(One(1), Access::Variable)]),
        traits: &[Trait::NeedsMemory],
        run: Run::Run(bitfield),
        group: Group::Bitmap,
        usage: "BITFIELD key [GET encoding offset | [OVERFLOW <WRAP | SAT | FAIL>] <SET encoding offset value | INCRBY encoding offset increment> [GET encoding offset | [OVERFLOW <WRAP | SAT | FAIL>] <SET encoding offset value | INCRBY encoding offset increment> ...]]",
        summary: "Reads, sets and increments integers of any width within a string.",
        since: "3.2.0",
        complexity: "O(1) for each operation",
    },
    Command {
        name: "BITFIELD_RO",
        arity: AtLeast(2),
        keys: Keys::Args(&[reads(One(1))]),
        traits: &[Trait::Fast],
        run: Run::Run(bitfield_ro),
        group: Group::Bitmap,
        usage: "BITFIELD_RO key [GET encoding offset [GET encoding offset ...]]",
        summary: "Reads integers of any width within a string.",
        since: "6.0.0",
        complexity: "O(1) for each operation",
    },
];

/// An operation on one integer.
#[derive(Clone, Copy)]
struct Operation {
    field: FieldType,
    offset: u64,
    action: Action,
}

#[derive(Clone, Copy)]
enum Action {
    Get,
    Set(i64, Overflow),
    Add(i64, Overflow),
}

/// What an operation did.
struct Done {
    /// The reply; `None` if the value did not fit.
    reply: Option<i64>,
    is_written: bool,
    is_changed: bool,
}

impl Operation {
    /// The number of bytes that the string must have for this operation; zero if it only reads.
    fn len_min(self) -> usize {
        match self.action {
            Action::Get => 0,
            Action::Set(..) | Action::Add(..) => {
                (self.offset + u64::from(self.field.bits())).div_ceil(8) as usize
            }
        }
    }

    fn read(self, bytes: &[u8]) -> i64 {
        self.field.read(bytes, self.offset)
    }

    fn run(self, bytes: &mut [u8]) -> Done {
        let old = self.read(bytes);
        let (new, reply) = match self.action {
            Action::Get => {
                return Done {
                    reply: Some(old),
                    is_written: false,
                    is_changed: false,
                };
            }
            Action::Set(value, overflow) => {
                let new = self.field.fit(value, overflow);
                (new, new.map(|_| old))
            }
            Action::Add(increment, overflow) => {
                let new = self.field.sum(old, increment, overflow);
                (new, new)
            }
        };
        if let Some(new) = new {
            self.field.write(bytes, self.offset, new);
        }
        Done {
            reply,
            is_written: new.is_some(),
            is_changed: new.is_some_and(|new| new != old),
        }
    }
}

/// The operations of a request, which are parsed again each time, so that they need no memory.
struct Operations<'a> {
    args: Args<'a>,
    at: usize,
    overflow: Overflow,
    /// The longest string allowed.
    bytes_max: usize,
}

impl<'a> Operations<'a> {
    fn new(args: Args<'a>, tx: &Tx<'_>) -> Self {
        Self {
            args,
            at: 2,
            overflow: Overflow::default(),
            bytes_max: bytes_max(tx),
        }
    }

    /// The next operation; `None` at the end.
    fn next(&mut self) -> Result<Option<Operation>> {
        while self.is_word("OVERFLOW", 1) {
            self.overflow = self.overflow_at(self.at + 1)?;
            self.at += 2;
        }
        if self.at == self.args.len() {
            return Ok(None);
        }
        let is_get = self.is_word("GET", 2);
        let is_set = self.is_word("SET", 3);
        if !is_get && !is_set && !self.is_word("INCRBY", 3) {
            return Err(CommandError::Syntax.into());
        }
        let field = self.field_at(self.at + 1)?;
        let offset = self.offset_at(self.at + 2, field)?;
        let action = if is_get {
            Action::Get
        } else {
            let number = self.args.integer(self.at + 3)?;
            let action = if is_set { Action::Set } else { Action::Add };
            action(number, self.overflow)
        };
        self.at += if is_get { 3 } else { 4 };
        Ok(Some(Operation {
            field,
            offset,
            action,
        }))
    }

    /// True if the next argument is this word, with as many arguments behind it.
    fn is_word(&self, word: &str, behind: usize) -> bool {
        self.args.is(self.at, word) && self.at + behind < self.args.len()
    }

    fn overflow_at(&self, at: usize) -> Result<Overflow> {
        for (word, overflow) in [
            ("WRAP", Overflow::Wrap),
            ("SAT", Overflow::Saturate),
            ("FAIL", Overflow::Fail),
        ] {
            if self.args.is(at, word) {
                return Ok(overflow);
            }
        }
        Err(CommandError::err("Invalid OVERFLOW type specified").into())
    }

    fn field_at(&self, at: usize) -> Result<FieldType> {
        let text = "Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 is.";
        Ok(FieldType::parse(self.args.at(at)).ok_or_else(|| CommandError::err(text))?)
    }

    /// An offset in bits, or, after `#`, in integers of that type.
    fn offset_at(&self, at: usize, field: FieldType) -> Result<u64> {
        let text = self.args.at(at);
        let bits = match text.strip_prefix(b"#") {
            None => parse_integer(text),
            Some(index) => {
                let index = parse_integer(index);
                index.and_then(|index| index.checked_mul(i64::from(field.bits())))
            }
        };
        offset_of(bits, self.bytes_max)
    }
}

/// What all operations of a request need.
#[derive(Default)]
struct Needs {
    operations: usize,
    /// The number of bytes that the string must have.
    len_min: usize,
    writes: bool,
}

impl Needs {
    /// Refuses a request with any invalid operation.
    fn of(args: Args<'_>, tx: &Tx<'_>) -> Result<Self> {
        let mut needs = Self::default();
        let mut operations = Operations::new(args, tx);
        while let Some(operation) = operations.next()? {
            needs.operations += 1;
            needs.len_min = needs.len_min.max(operation.len_min());
            needs.writes |= !matches!(operation.action, Action::Get);
        }
        Ok(needs)
    }
}

/// How a BITFIELD with these arguments uses its key.
pub fn exact_bitfield_access(args: Args<'_>) -> Access {
    let mut at = 2;
    while at < args.len() {
        let behind = args.len() - at - 1;
        at += if args.is(at, "GET") && behind >= 2 {
            3
        } else if args.is(at, "OVERFLOW") && behind >= 1 {
            2
        } else {
            return Access::ReadUpdate;
        };
    }
    Access::Read
}

fn bitfield(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let needs = Needs::of(args, tx)?;
    if needs.writes {
        update(tx, args, &needs, reply)
    } else {
        read(tx, args, &needs, reply)
    }
}

fn bitfield_ro(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let needs = Needs::of(args, tx)?;
    if needs.writes {
        return Err(CommandError::err("BITFIELD_RO only supports the GET subcommand").into());
    }
    read(tx, args, &needs, reply)
}

fn read(tx: &mut Tx<'_>, args: Args<'_>, needs: &Needs, reply: &mut Reply<'_>) -> Result {
    let key = args.key(1);
    tx.read_text(key)?;
    let mut scratch = Scratch::default();
    let text = tx.view(key).and_then(EntryRef::text);
    let bytes = text.map_or(&[][..], |text| text_of(text, &mut scratch));
    reply.array(needs.operations);
    let mut operations = Operations::new(args, tx);
    while let Some(operation) = operations.next()? {
        reply.integer(operation.read(bytes));
    }
    Ok(())
}

fn update(tx: &mut Tx<'_>, args: Args<'_>, needs: &Needs, reply: &mut Reply<'_>) -> Result {
    let key = args.key(1);
    check_growth(tx, key, needs.len_min)?;
    let mut operations = Operations::new(args, tx);
    let (is_longer, changes) = tx.change_text(key, b"", |entry, is_new| {
        let len = len_of(entry.view());
        let is_longer = is_new || len < needs.len_min;
        let bytes = entry.edit(len.max(needs.len_min));
        reply.array(needs.operations);
        let mut changes = 0;
        while let Ok(Some(operation)) = operations.next() {
            let done = operation.run(bytes);
            match done.reply {
                Some(number) => reply.integer(number),
                None => reply.null(),
            }
            changes += usize::from(done.is_changed || done.is_written && is_longer);
        }
        (is_longer, changes)
    })?;
    if changes > 0 {
        tx.changed(key, Event::Setbit);
    } else if is_longer {
        // No value fitted, but the string has grown. As in Redis, there is no event.
        tx.changed_without_event(key);
    }
    Ok(())
}
