//! memcached's commands on keys: plain functions, as the commands of RESP. The parser in `protocol/memcached` has checked their numbers
//! of arguments. They write their whole replies, errors included, and nothing if the client wants no reply.
//!
//! Items are the strings of RESP, with attributes (`engine/section/items.rs`). Expiry is the key's deadline.

mod arithmetic;
mod meta_get;
mod meta_set;
mod retrieval;
mod storage;

use damselfly_base::CommandError;
use damselfly_engine::{Deadline, Event, Key, Now, Place, Tx};
use damselfly_protocol::memcached::{KEY_BYTES_MAX, OPAQUE_BYTES_MAX, Verb, encode_base64, reply};
use damselfly_value::{EntryRef, Text};

use crate::command::{
    Access, Arity::AtLeast, At::One, At::ToEnd, Command, Group, Keys, Run, Trait, reads, writes,
};
use crate::{Args, Result};

/// The function of a memcached command on keys. It runs with the locks held that the command's row asks for.
pub type MemcachedFn = fn(&mut Tx<'_>, Args<'_>, &mut Output<'_>) -> Result;

/// The statistics that memcached counts together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Class {
    /// Reads of keys.
    #[default]
    Get,
    /// Changes of expiry, alone or with a read.
    Touch,
    /// Removals.
    Delete,
    /// Increments.
    Incr,
    /// Decrements.
    Decr,
    /// Stores under the condition of a CAS number.
    Cas,
}

impl Class {
    /// The number of classes.
    pub const COUNT: usize = 6;
}

/// What a command did, for `stats`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// What it tried.
    pub class: Class,
    /// How many keys it found.
    pub hits: u32,
    /// How many keys it did not find.
    pub misses: u32,
    /// How many keys had another CAS number.
    pub mismatches: u32,
}

/// Where a command writes its reply.
pub struct Output<'a> {
    /// The connection's output.
    pub out: &'a mut Vec<u8>,
    /// What the command did.
    pub tally: Tally,
    /// An item is claimed now, which is no change of its value.
    pub has_claimed: bool,
}

impl<'a> Output<'a> {
    /// An output that appends to `out`.
    #[inline]
    pub fn new(out: &'a mut Vec<u8>) -> Self {
        Self {
            out,
            tally: Tally::default(),
            has_claimed: false,
        }
    }

    fn line(&mut self, text: &str) {
        reply::line(self.out, text);
    }

    /// The same, unless the client wants no reply.
    fn line_unless(&mut self, is_quiet: bool, text: &str) {
        if !is_quiet {
            self.line(text);
        }
    }

    fn hit(&mut self, class: Class) {
        (self.tally.class, self.tally.hits) = (class, 1);
    }

    fn miss(&mut self, class: Class) {
        (self.tally.class, self.tally.misses) = (class, 1);
    }

    fn mismatch(&mut self, class: Class) {
        (self.tally.class, self.tally.mismatches) = (class, 1);
    }

    /// Appends a value.
    #[inline]
    fn text(&mut self, text: Text<'_>) {
        match text {
            Text::Bytes { bytes, .. } => self.out.extend_from_slice(bytes),
            Text::Packed(packed) => {
                let start = self.out.len();
                self.out.resize(start + packed.len(), 0);
                packed.unpack_into(&mut self.out[start..]);
            }
            Text::Integer(number) => {
                let mut decimal = damselfly_base::number::Decimal::new();
                self.out.extend_from_slice(decimal.format(number));
            }
        }
    }
}

/// The string of an entry.
fn text_of(entry: EntryRef<'_>) -> std::result::Result<Text<'_>, CommandError> {
    entry.text().ok_or(CommandError::WrongType)
}

/// When an item expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expiry {
    Never,
    /// In milliseconds since the epoch.
    At(i64),
    /// It has expired already.
    Past,
}

impl Expiry {
    /// The longest time that counts from now, in seconds; a larger number is seconds since the epoch.
    const RELATIVE_MAX_S: i64 = 60 * 60 * 24 * 30;

    fn new(exptime: i64, now: Now) -> Self {
        let moment = match exptime {
            0 => return Self::Never,
            ..0 => return Self::Past,
            1..=Self::RELATIVE_MAX_S => now.0.saturating_add(exptime * 1000),
            _ => exptime.saturating_mul(1000),
        };
        match moment <= now.0 {
            true => Self::Past,
            false => Self::At(moment),
        }
    }

    fn of(entry: EntryRef<'_>) -> Self {
        entry.deadline_ms().map_or(Self::Never, Self::At)
    }

    /// Whole seconds until then; `None` if it never comes.
    fn ttl_s(self, now: Now) -> Option<i64> {
        match self {
            Self::Never => None,
            Self::At(moment) => Some((moment - now.0 + 999) / 1000),
            Self::Past => Some(0),
        }
    }

    /// Makes the item at a key expire then.
    fn apply(self, tx: &mut Tx<'_>, key: Key<'_>) {
        let (deadline_ms, event) = match self {
            Self::Never => (None, Event::Persist),
            Self::At(moment) => (Some(moment), Event::Expire),
            Self::Past => {
                tx.remove(key);
                return;
            }
        };
        if let Place::Present(mut present) = tx.place(key)
            && present.view().deadline_ms() != deadline_ms
        {
            present.update(|entry| entry.set_deadline_ms(deadline_ms));
            tx.changed(key, event);
        }
    }
}

/// The deadline of an expiry as memcached's clients send it; [`Deadline::Clear`] for none, and for one that has passed.
pub fn deadline(exptime: i64, now: Now) -> Deadline {
    match Expiry::new(exptime, now) {
        Expiry::At(moment) => Deadline::At(moment),
        Expiry::Never | Expiry::Past => Deadline::Clear,
    }
}

/// True if the last of the words before `end` says that the client wants no reply.
fn is_quiet(args: Args<'_>, end: usize) -> bool {
    args.at(end - 1) == b"noreply"
}

/// Appends the flag of a meta reply that returns the key, or an opaque token.
fn echo(out: &mut Vec<u8>, flag: &[u8], key: &[u8], is_base64: bool) {
    match flag[0] {
        b'O' => {
            out.push(b' ');
            out.extend_from_slice(flag);
        }
        b'k' => {
            out.extend_from_slice(b" k");
            if is_base64 {
                encode_base64(key, out);
                out.extend_from_slice(b" b");
            } else {
                out.extend_from_slice(key);
            }
        }
        _ => {}
    }
}

/// Appends a flag of a meta reply that is a number.
fn number_flag(out: &mut Vec<u8>, name: u8, number: u64) {
    out.extend_from_slice(&[b' ', name]);
    reply::number(out, number);
}

/// Appends the flag for the remaining time.
fn ttl_flag(out: &mut Vec<u8>, expiry: Expiry, now: Now) {
    match expiry.ttl_s(now) {
        None => out.extend_from_slice(b" t-1"),
        Some(seconds) => number_flag(out, b't', seconds.max(0).unsigned_abs()),
    }
}

/// The error for an opaque token that is too long, if there is one.
fn opaque_error<'a>(mut flags: impl Iterator<Item = &'a [u8]>) -> Option<&'static str> {
    flags
        .any(|flag| flag[0] == b'O' && flag.len() > OPAQUE_BYTES_MAX + 1)
        .then_some("CLIENT_ERROR opaque token too long")
}

const BAD_KEY: &str = "CLIENT_ERROR error decoding key";
const _: () = assert!(
    KEY_BYTES_MAX <= u8::MAX as usize,
    "a key's length takes one byte"
);

const READ: Keys = Keys::Args(&[reads(One(1))]);
const READ_ALL: Keys = Keys::Args(&[reads(ToEnd { first: 1, step: 1 })]);
const TOUCH_ALL: Keys = Keys::Args(&[writes(ToEnd { first: 2, step: 1 }, Access::ReadUpdate)]);
const STORE: Keys = Keys::Args(&[writes(One(1), Access::Overwrite)]);
const UPDATE: Keys = Keys::Args(&[writes(One(1), Access::ReadUpdate)]);
const REMOVE: Keys = Keys::Args(&[writes(One(1), Access::Remove)]);

/// The row of a command on keys; `None` for all other verbs.
pub fn command(verb: Verb) -> Option<Command<MemcachedFn>> {
    use Trait::{Fast, NeedsMemory};
    let memory: &'static [Trait] = &[NeedsMemory, Fast];
    let fast: &'static [Trait] = &[Fast];
    let row = |name, keys, traits, run, summary| {
        Some(Command {
            name,
            arity: AtLeast(2),
            keys,
            traits,
            run: Run::Run(run),
            group: Group::String,
            usage: name,
            summary,
            since: "1.0.0",
            complexity: "O(1) for each key",
        })
    };
    let get = "Returns the values of keys.";
    let gets = "Returns the values of keys and their CAS numbers.";
    let gat = "Returns the values of keys and sets their expiry.";
    let gats = "Returns the values of keys and their CAS numbers, and sets their expiry.";
    let mg = "Returns what its flags ask for.";
    match verb {
        Verb::Get => row("GET", READ, fast, retrieval::get as MemcachedFn, get),
        Verb::GetMany => row("GET", READ_ALL, fast, retrieval::get_many, get),
        Verb::GetPart => row("GET", READ_ALL, fast, retrieval::get_part, get),
        // A key gets a CAS number when a client first asks for it.
        Verb::Gets | Verb::GetsMany => row("GETS", READ_ALL, fast, retrieval::gets, gets),
        Verb::GetsPart => row("GETS", READ_ALL, fast, retrieval::gets_part, gets),
        Verb::Gat => row("GAT", TOUCH_ALL, fast, retrieval::gat, gat),
        Verb::GatPart => row("GAT", TOUCH_ALL, fast, retrieval::gat_part, gat),
        Verb::Gats => row("GATS", TOUCH_ALL, fast, retrieval::gats, gats),
        Verb::GatsPart => row("GATS", TOUCH_ALL, fast, retrieval::gats_part, gats),
        Verb::Set => row("SET", STORE, memory, storage::set, "Stores a value."),
        Verb::Add => row(
            "ADD",
            STORE,
            memory,
            storage::add,
            "Stores a value if the key is absent.",
        ),
        Verb::Replace => row(
            "REPLACE",
            STORE,
            memory,
            storage::replace,
            "Stores a value if the key exists.",
        ),
        Verb::Append => row(
            "APPEND",
            UPDATE,
            memory,
            storage::append,
            "Adds data behind a value.",
        ),
        Verb::Prepend => row(
            "PREPEND",
            UPDATE,
            memory,
            storage::prepend,
            "Adds data in front of a value.",
        ),
        Verb::Cas => row(
            "CAS",
            STORE,
            memory,
            storage::cas,
            "Stores a value if it was not changed since it was read.",
        ),
        Verb::Touch => row(
            "TOUCH",
            UPDATE,
            fast,
            storage::touch,
            "Sets the expiry of a key.",
        ),
        Verb::Delete => row("DELETE", REMOVE, fast, storage::delete, "Removes a key."),
        Verb::Incr => row(
            "INCR",
            UPDATE,
            memory,
            arithmetic::incr,
            "Adds to a number.",
        ),
        Verb::Decr => row(
            "DECR",
            UPDATE,
            memory,
            arithmetic::decr,
            "Subtracts from a number.",
        ),
        Verb::MetaGet => row("MG", READ, fast, meta_get::meta_get, mg),
        Verb::MetaGetTouch => row("MG", UPDATE, fast, meta_get::meta_get, mg),
        Verb::MetaGetCreate => row("MG", UPDATE, memory, meta_get::meta_get, mg),
        Verb::MetaDebug => row(
            "ME",
            READ,
            fast,
            meta_get::meta_debug,
            "Returns what is known about a key.",
        ),
        Verb::MetaSet => row(
            "MS",
            STORE,
            memory,
            meta_set::meta_set,
            "Stores a value as its flags say.",
        ),
        Verb::MetaDelete => row(
            "MD",
            REMOVE,
            fast,
            meta_set::meta_delete,
            "Removes a key or makes its value stale.",
        ),
        Verb::MetaArithmetic => row(
            "MA",
            UPDATE,
            memory,
            arithmetic::meta_arithmetic,
            "Adds to a number or subtracts from it.",
        ),
        Verb::TooLarge => row(
            "TOO-LARGE",
            STORE,
            fast,
            storage::too_large,
            "Refuses a value that is too large.",
        ),
        Verb::TooLargeToSet => row(
            "TOO-LARGE",
            REMOVE,
            fast,
            storage::too_large_to_set,
            "Refuses a value that is too large, and removes the key.",
        ),
        Verb::MetaNoop
        | Verb::FlushAll
        | Verb::Stats
        | Verb::LruCrawler
        | Verb::Version
        | Verb::Verbosity
        | Verb::Shutdown
        | Verb::Quit
        | Verb::Authenticate
        | Verb::Unauthenticated
        | Verb::Unknown
        | Verb::BadFormat
        | Verb::BadDelete
        | Verb::BadData
        | Verb::TooManyFlags
        | Verb::TooManyGetFlags => None,
    }
}

/// The row for `mg` with the flag N while memory is short.
pub const META_GET_ONLY: Command<MemcachedFn> = Command {
    name: "MG",
    run: Run::Run(meta_get::meta_get_only),
    ..OUT_OF_MEMORY
};

/// The row for storage commands that are refused because memory is short. `set` and `ms` remove the key, so that nobody reads a value
/// that its writer believes to be replaced.
pub const OUT_OF_MEMORY: Command<MemcachedFn> = Command {
    name: "OUT-OF-MEMORY",
    arity: AtLeast(2),
    keys: REMOVE,
    traits: &[],
    run: Run::Run(storage::out_of_memory),
    group: Group::String,
    usage: "OUT-OF-MEMORY",
    summary: "Refuses a value because memory is short.",
    since: "1.0.0",
    complexity: "O(1)",
};
