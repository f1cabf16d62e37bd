//! Commands on HyperLogLogs, which are strings.

use std::fmt::Write as _;
use std::sync::atomic::Ordering::Relaxed;

use damselfly_base::CommandError;
use damselfly_base::random::{self, Random};
use damselfly_encodings::hyperloglog::sparse::{self, Runs};
use damselfly_encodings::hyperloglog::{
    self, Corrupted, EMPTY, Encoding, REGISTERS, Registers, dense,
};
use damselfly_engine::{Event, Key, Tx};
use damselfly_protocol::Reply;
use damselfly_value::{Entry, EntryRef, Text};

use crate::command::{
    Access, Arity::AtLeast, Arity::Exactly, At::One, At::ToEnd, Command, Group, Keys, Run, Trait,
    reads, writes,
};
use crate::strings::{Scratch, text_of};
use crate::{Args, KeyspaceFn, Result, long};

pub(crate) static COMMANDS: &[Command<KeyspaceFn>] = &[
    Command {
        name: "PFADD",
        arity: AtLeast(2),
        keys: Keys::Args(&[writes(One(1), Access::Insert)]),
        traits: &[Trait::NeedsMemory, Trait::Fast],
        run: Run::Run(pfadd),
        group: Group::HyperLogLog,
        usage: "PFADD key [element [element ...]]",
        summary: "Adds elements to a HyperLogLog, creating it if the key is absent, and returns whether its estimate may have changed.",
        since: "2.8.9",
        complexity: "O(1) for each element",
    },
    Command {
        name: "PFCOUNT",
        arity: AtLeast(2),
        keys: Keys::Args(&[writes(ToEnd { first: 1, step: 1 }, Access::ReadCaching)]),
        traits: &[Trait::MayReplicate],
        run: Run::Run(pfcount),
        group: Group::HyperLogLog,
        usage: "PFCOUNT key [key ...]",
        summary: "Estimates how many different elements were added to a HyperLogLog, or to any of several.",
        since: "2.8.9",
        complexity: "O(1) for one key, O(N) where N is the number of keys",
    },
    Command {
        name: "PFMERGE",
        arity: AtLeast(2),
        keys: Keys::Args(&[
            writes(One(1), Access::ReadInsert),
            reads(ToEnd { first: 2, step: 1 }),
        ]),
        traits: &[Trait::NeedsMemory],
        run: Run::Run(pfmerge),
        group: Group::HyperLogLog,
        usage: "PFMERGE destkey [sourcekey [sourcekey ...]]",
        summary: "Adds the elements of HyperLogLogs to another one.",
        since: "2.8.9",
        complexity: "O(N) where N is the number of keys",
    },
    Command {
        name: "PFDEBUG",
        arity: Exactly(3),
        keys: Keys::Args(&[writes(One(2), Access::ReadConverting)]),
        traits: &[Trait::NeedsMemory, Trait::Admin, Trait::SystemCommand],
        run: Run::Run(pfdebug),
        group: Group::HyperLogLog,
        usage: "PFDEBUG <GETREG | DECODE | ENCODING | TODENSE> key",
        summary: "Shows how a HyperLogLog is stored: the registers, the runs of the sparse form, or which form it has; or makes it dense.",
        since: "2.8.9",
        complexity: "N/A",
    },
    Command {
        name: "PFSELFTEST",
        arity: Exactly(1),
        keys: Keys::None,
        traits: &[Trait::Admin, Trait::SystemCommand],
        run: Run::Run(pfselftest),
        group: Group::HyperLogLog,
        usage: "PFSELFTEST",
        summary: "Tests the code for HyperLogLogs.",
        since: "2.8.9",
        complexity: "N/A",
    },
];

/// The most bytes of runs that PFDEBUG DECODE writes. All registers take 16,384 at most; a string that was made longer by other
/// commands can take 512 MiB.
const DECODED_MAX: usize = 1 << 20;

/// The steps for looking at all registers of a HyperLogLog.
const STEPS: usize = REGISTERS / 64;

fn not_a_hyperloglog() -> CommandError {
    CommandError::Text("WRONGTYPE Key is not a valid HyperLogLog string value.".into())
}

fn corrupted(_: Corrupted) -> CommandError {
    CommandError::Text("INVALIDOBJ Corrupted HLL object detected".into())
}

/// The string of an entry as a HyperLogLog that can grow.
struct Stored<'a>(&'a mut Entry);

impl hyperloglog::Buffer for Stored<'_> {
    fn bytes(&mut self) -> &mut [u8] {
        self.0.edit_all()
    }

    fn resize(&mut self, len: usize) -> &mut [u8] {
        match len {
            hyperloglog::dense::BYTES => self.0.edit_exactly(len),
            _ => self.0.edit(len),
        }
    }
}

/// The bytes of a HyperLogLog and its encoding.
fn view<'a>(
    text: Text<'a>,
    scratch: &'a mut Scratch,
) -> std::result::Result<(&'a [u8], Encoding), CommandError> {
    let bytes = text_of(text, scratch);
    let encoding = Encoding::of(bytes).ok_or_else(not_a_hyperloglog)?;
    Ok((bytes, encoding))
}

/// Refuses an entry without a HyperLogLog, which must not be edited.
fn check(entry: EntryRef<'_>) -> std::result::Result<Encoding, CommandError> {
    let text = entry.text().ok_or(CommandError::WrongType)?;
    view(text, &mut Scratch::default()).map(|(_, encoding)| encoding)
}

fn sparse_bytes_max(tx: &Tx<'_>) -> usize {
    let settings = &tx.engine().settings;
    settings.sparse_log_bytes_max.load(Relaxed)
}

fn pfadd(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let (key, sparse_bytes_max) = (args.key(1), sparse_bytes_max(tx));
    let (changed, outcome) = tx.change_text(key, &EMPTY, |entry, is_new| {
        let mut changed = is_new;
        let outcome = check(entry.view()).and_then(|_| {
            let mut log = Stored(entry);
            for element in args.from(2) {
                changed |=
                    hyperloglog::add(&mut log, element, sparse_bytes_max).map_err(corrupted)?;
            }
            Ok(())
        });
        if changed {
            hyperloglog::invalidate_cache(entry.edit_all());
        }
        (changed, outcome)
    })?;
    // Elements in front of one that finds a broken register stay added.
    if changed {
        tx.changed(key, Event::Pfadd);
    }
    outcome?;
    reply.integer(changed.into());
    Ok(())
}

fn pfcount(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let count = match args.len() {
        2 => count_one(tx, args.key(1))?,
        _ => {
            long::check(tx, (args.len() - 1) * STEPS)?;
            let (registers, _) = merged(tx, args)?;
            hyperloglog::count_registers(&registers)
        }
    };
    reply.integer(count as i64);
    Ok(())
}

/// The estimate for one key, which is cached in its value.
fn count_one(tx: &mut Tx<'_>, key: Key<'_>) -> Result<u64> {
    let Some(text) = tx.read_text(key)? else {
        return Ok(0);
    };
    let mut scratch = Scratch::default();
    let (bytes, _) = view(text, &mut scratch)?;
    let cached = hyperloglog::cached(bytes);
    if let (Some(count), Text::Bytes { edited: true, .. }) = (cached, text) {
        return Ok(count);
    }
    let count = match cached {
        Some(count) => count,
        None => hyperloglog::count(bytes).map_err(corrupted)?,
    };
    tx.change_used_text(key, &EMPTY, |entry, _| {
        hyperloglog::set_cached(entry.edit_all(), count);
    })?;
    if cached.is_none() {
        tx.changed_without_event(key);
    }
    Ok(count)
}

/// The greatest registers of the HyperLogLogs at all keys, and whether one of them is dense.
fn merged(tx: &mut Tx<'_>, args: Args<'_>) -> Result<(Box<Registers>, bool)> {
    let mut registers = Box::new([0; REGISTERS]);
    let mut is_dense = false;
    for place in 1..args.len() {
        let Some(text) = tx.read_text(args.key(place))? else {
            continue;
        };
        let mut scratch = Scratch::default();
        let (bytes, encoding) = view(text, &mut scratch)?;
        is_dense |= encoding == Encoding::Dense;
        hyperloglog::merge(&mut registers, bytes).map_err(corrupted)?;
    }
    Ok((registers, is_dense))
}

fn pfmerge(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    long::check(tx, (args.len() - 1) * STEPS)?;
    let (registers, is_dense) = merged(tx, args)?;
    let (key, sparse_bytes_max) = (args.key(1), sparse_bytes_max(tx));
    let outcome = tx.change_text(key, &EMPTY, |entry, _| {
        let mut log = Stored(entry);
        if is_dense {
            hyperloglog::make_dense(&mut log)?;
        }
        for (register, &rank) in registers.iter().enumerate() {
            if rank > 0 {
                hyperloglog::raise(&mut log, register, rank, sparse_bytes_max)?;
            }
        }
        hyperloglog::invalidate_cache(entry.edit_all());
        Ok(())
    })?;
    outcome.map_err(corrupted)?;
    tx.changed(key, Event::Pfadd);
    reply.ok();
    Ok(())
}

fn pfdebug(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let key = args.key(2);
    let Some(entry) = tx.access(key) else {
        return Err(CommandError::err("The specified key does not exist").into());
    };
    let encoding = check(entry)?;
    if args.is(1, "GETREG") {
        make_dense(tx, key)?;
        write_registers(tx, key, reply);
    } else if args.is(1, "DECODE") {
        if encoding != Encoding::Sparse {
            return Err(CommandError::err("HLL encoding is not sparse").into());
        }
        write_runs(tx, key, reply)?;
    } else if args.is(1, "ENCODING") {
        reply.simple(match encoding {
            Encoding::Dense => "dense",
            Encoding::Sparse => "sparse",
        });
    } else if args.is(1, "TODENSE") {
        let is_converted = make_dense(tx, key)?;
        reply.integer(is_converted.into());
    } else {
        return Err(CommandError::quoting("Unknown PFDEBUG subcommand '", args.at(1), "'").into());
    }
    Ok(())
}

/// Makes a HyperLogLog dense and returns whether it was sparse.
fn make_dense(tx: &mut Tx<'_>, key: Key<'_>) -> Result<bool> {
    let converted = tx.change_used_text(key, &EMPTY, |entry, _| {
        hyperloglog::make_dense(&mut Stored(entry))
    })?;
    let is_converted = converted.map_err(corrupted)?;
    if is_converted {
        tx.changed_without_event(key);
    }
    Ok(is_converted)
}

/// The registers of the HyperLogLog at a key, as they are stored.
fn stored_registers<'a>(tx: &'a Tx<'_>, key: Key<'_>, scratch: &'a mut Scratch) -> &'a [u8] {
    let text = tx.view(key).and_then(EntryRef::text);
    let bytes = text.map_or(&[][..], |text| text_of(text, scratch));
    hyperloglog::stored_registers(bytes)
}

fn write_registers(tx: &Tx<'_>, key: Key<'_>, reply: &mut Reply<'_>) {
    let mut scratch = Scratch::default();
    let stored = stored_registers(tx, key, &mut scratch);
    reply.array(REGISTERS);
    (0..REGISTERS).for_each(|index| reply.integer(dense::register(stored, index).into()));
}

/// Writes the runs as they are stored, also if they are not exactly as long as all registers.
fn write_runs(tx: &Tx<'_>, key: Key<'_>, reply: &mut Reply<'_>) -> Result {
    let mut scratch = Scratch::default();
    let stored = stored_registers(tx, key, &mut scratch);
    if stored.len() > DECODED_MAX {
        return Err(corrupted(Corrupted).into());
    }
    let mut text = String::new();
    let mut write = |run: sparse::Run| {
        let _ = match (run.value, run.bytes) {
            (0, 1) => write!(text, "z:{} ", run.len),
            (0, _) => write!(text, "Z:{} ", run.len),
            (value, _) => write!(text, "v:{value},{} ", run.len),
        };
    };
    let mut runs = Runs::new(stored);
    runs.by_ref().for_each(&mut write);
    if let &[cut_off] = runs.rest() {
        // Redis reads the zero byte that ends each of its strings.
        Runs::new(&[cut_off, 0]).for_each(write);
    }
    reply.bulk(text.trim_end().as_bytes());
    Ok(())
}

fn pfselftest(tx: &mut Tx<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    long::check(tx, usize::MAX)?;
    let mut random = Random::new(random::number());
    hyperloglog::self_test(&mut random).map_err(CommandError::err)?;
    reply.ok();
    Ok(())
}
