//! Commands on whole strings: GET, SET and their relatives.

use damselfly_base::CommandError;
use damselfly_base::number::Decimal;
use damselfly_engine::{Deadline, Event, Key, Place, Tx};
use damselfly_protocol::Reply;
use damselfly_value::{EntryRef, NewValue, Text};

use crate::command::{
    Access, Arity::AtLeast, Arity::Exactly, At::One, At::ToEnd, Command, Group, Keys, Run, Trait,
    looks, reads, writes,
};
use crate::conditional_strings::ValueCondition;
use crate::expiry::{Unit, deadline_in, is_past};
use crate::{Args, KeyspaceFn, Result};

pub(crate) static COMMANDS: &[Command<KeyspaceFn>] = &[
    Command {
        name: "GET",
        arity: Exactly(2),
        keys: Keys::Args(&[reads(One(1))]),
        traits: &[Trait::Fast],
        run: Run::Run(get),
        group: Group::String,
        usage: "GET key",
        summary: "Returns the string at a key.",
        since: "1.0.0",
        complexity: "O(1)",
    },
    Command {
        name: "SET",
        arity: AtLeast(3),
        keys: Keys::Args(&[writes(One(1), Access::Variable)]),
        traits: &[Trait::NeedsMemory],
        run: Run::Run(set),
        group: Group::String,
        usage: "SET key value [NX | XX | IFEQ ifeq-value | IFNE ifne-value | IFDEQ ifdeq-digest | IFDNE ifdne-digest] [GET] [EX seconds | PX milliseconds | EXAT unix-time-seconds | PXAT unix-time-milliseconds | KEEPTTL]",
        summary: "Sets the value of a key, whatever its type was, optionally under a condition and with an expiry.",
        since: "1.0.0",
        complexity: "O(1)",
    },
    Command {
        name: "SETNX",
        arity: Exactly(3),
        keys: Keys::Args(&[writes(One(1), Access::Create)]),
        traits: &[
            Trait::NeedsMemory,
            Trait::Fast,
            Trait::Deprecated {
                since: "2.6.12",
                instead: "`SET` with the `NX` argument",
            },
        ],
        run: Run::Run(setnx),
        group: Group::String,
        usage: "SETNX key value",
        summary: "Sets the value of a key only if the key does not exist.",
        since: "1.0.0",
        complexity: "O(1)",
    },
    Command {
        name: "SETEX",
        arity: Exactly(4),
        keys: Keys::Args(&[writes(One(1), Access::Overwrite)]),
        traits: &[
            Trait::NeedsMemory,
            Trait::Deprecated {
                since: "2.6.12",
                instead: "`SET` with the `EX` argument",
            },
        ],
        run: Run::Run(|tx, args, reply| set_with_ttl(tx, args, Unit::Seconds, "setex", reply)),
        group: Group::String,
        usage: "SETEX key seconds value",
        summary: "Sets the value of a key and its expiry in seconds.",
        since: "2.0.0",
        complexity: "O(1)",
    },
    Command {
        name: "PSETEX",
        arity: Exactly(4),
        keys: Keys::Args(&[writes(One(1), Access::Overwrite)]),
        traits: &[
            Trait::NeedsMemory,
            Trait::Deprecated {
                since: "2.6.12",
                instead: "`SET` with the `PX` argument",
            },
        ],
        run: Run::Run(|tx, args, reply| set_with_ttl(tx, args, Unit::Millis, "psetex", reply)),
        group: Group::String,
        usage: "PSETEX key milliseconds value",
        summary: "Sets the value of a key and its expiry in milliseconds.",
        since: "2.6.0",
        complexity: "O(1)",
    },
    Command {
        name: "GETSET",
        arity: Exactly(3),
        keys: Keys::Args(&[writes(One(1), Access::ReadUpdate)]),
        traits: &[
            Trait::NeedsMemory,
            Trait::Fast,
            Trait::Deprecated {
                since: "6.2.0",
                instead: "`SET` with the `GET` argument",
            },
        ],
        run: Run::Run(getset),
        group: Group::String,
        usage: "GETSET key value",
        summary: "Sets the value of a key and returns the previous string.",
        since: "1.0.0",
        complexity: "O(1)",
    },
    Command {
        name: "GETDEL",
        arity: Exactly(2),
        keys: Keys::Args(&[writes(One(1), Access::Take)]),
        traits: &[Trait::Fast],
        run: Run::Run(getdel),
        group: Group::String,
        usage: "GETDEL key",
        summary: "Returns the string at a key and removes the key.",
        since: "6.2.0",
        complexity: "O(1)",
    },
    Command {
        name: "GETEX",
        arity: AtLeast(2),
        keys: Keys::Args(&[writes(One(1), Access::ReadUpdate)]),
        traits: &[Trait::Fast],
        run: Run::Run(getex),
        group: Group::String,
        usage: "GETEX key [EX seconds | PX milliseconds | EXAT unix-time-seconds | PXAT unix-time-milliseconds | PERSIST]",
        summary: "Returns the string at a key and sets or removes the key's expiry.",
        since: "6.2.0",
        complexity: "O(1)",
    },
    Command {
        name: "STRLEN",
        arity: Exactly(2),
        keys: Keys::Args(&[looks(One(1))]),
        traits: &[Trait::Fast],
        run: Run::Run(strlen),
        group: Group::String,
        usage: "STRLEN key",
        summary: "Returns the length in bytes of the string at a key.",
        since: "2.2.0",
        complexity: "O(1)",
    },
    Command {
        name: "MGET",
        arity: AtLeast(2),
        keys: Keys::Args(&[reads(ToEnd { first: 1, step: 1 })]),
        traits: &[Trait::Fast, Trait::Tip("request_policy:multi_shard")],
        run: Run::Run(mget),
        group: Group::String,
        usage: "MGET key [key ...]",
        summary: "Returns the strings at several keys, atomically.",
        since: "1.0.0",
        complexity: "O(N) where N is the number of keys",
    },
    Command {
        name: "MSET",
        arity: AtLeast(3),
        keys: Keys::Args(&[writes(ToEnd { first: 1, step: 2 }, Access::Overwrite)]),
        traits: &[
            Trait::NeedsMemory,
            Trait::Tip("request_policy:multi_shard"),
            Trait::Tip("response_policy:all_succeeded"),
        ],
        run: Run::Run(mset),
        group: Group::String,
        usage: "MSET key value [key value ...]",
        summary: "Sets the values of several keys, atomically.",
        since: "1.0.1",
        complexity: "O(N) where N is the number of keys",
    },
    Command {
        name: "MSETNX",
        arity: AtLeast(3),
        keys: Keys::Args(&[writes(ToEnd { first: 1, step: 2 }, Access::Create)]),
        traits: &[Trait::NeedsMemory],
        run: Run::Run(msetnx),
        group: Group::String,
        usage: "MSETNX key value [key value ...]",
        summary: "Sets the values of several keys, atomically and only if none of the keys exists.",
        since: "1.0.1",
        complexity: "O(N) where N is the number of keys",
    },
];

/// A buffer for the text of a value that is not stored as text.
#[derive(Default)]
pub(crate) struct Scratch {
    pub(crate) decimal: Decimal,
    unpacked: Vec<u8>,
}

/// The bytes of a string; `scratch` holds them if the string is stored as an integer or packed.
pub(crate) fn text_of<'a>(text: Text<'a>, scratch: &'a mut Scratch) -> &'a [u8] {
    match text {
        Text::Bytes { bytes, .. } => bytes,
        Text::Packed(packed) => {
            scratch.unpacked = packed.to_vec();
            &scratch.unpacked
        }
        Text::Integer(number) => scratch.decimal.format(number),
    }
}

/// Logs a command that Redis 7 does not have as the string that it has made; `options` are those of SET.
pub(crate) fn log_text(tx: &mut Tx<'_>, key: Key<'_>, options: &[&[u8]]) {
    if !tx.is_logged() {
        return;
    }
    let mut scratch = Scratch::default();
    let text = tx.view(key).and_then(EntryRef::text);
    if let Some(bytes) = text.map(|text| text_of(text, &mut scratch).to_vec()) {
        tx.log_effect(&[&[b"SET", key.bytes, &bytes], options].concat());
    }
}

/// Writes a string value.
#[inline]
pub(crate) fn write(text: Text<'_>, reply: &mut Reply<'_>) {
    match text {
        Text::Bytes { bytes, .. } => reply.bulk(bytes),
        Text::Packed(packed) => reply.bulk_with(packed.len(), |out| packed.unpack_into(out)),
        Text::Integer(number) => reply.bulk_integer(number),
    }
}

fn get(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    match tx.read_text(args.key(1))? {
        Some(text) => write(text, reply),
        None => reply.null(),
    }
    Ok(())
}

/// The options of SET, GETEX and MSETEX.
#[derive(Default)]
pub(crate) struct Options<'a> {
    pub(crate) only_if: Option<Condition<'a>>,
    get: bool,
    keep_ttl: bool,
    persist: bool,
    /// The unit and kind of the expiry, and its number as sent.
    expiry: Option<(Unit, Relative, &'a [u8])>,
}

/// A condition on the key of SET, or the keys of MSETEX.
#[derive(Clone, Copy)]
pub(crate) enum Condition<'a> {
    /// The key exists.
    Exists,
    /// It does not.
    Absent,
    /// Its value fulfils this.
    Value(ValueCondition<'a>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Relative {
    ToNow,
    ToEpoch,
}

/// The command being parsed: each accepts some words that the others refuse.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum CommandKind {
    Set,
    Getex,
    MsetEx,
}

impl<'a> Options<'a> {
    /// Parses the options from argument `first` to the last one.
    ///
    /// # Errors
    /// An option is unknown, or contradicts another.
    pub(crate) fn parse(args: Args<'a>, first: usize, kind: CommandKind) -> Result<Self> {
        let mut options = Self::default();
        let mut at = first;
        let (sets, is_set) = (kind != CommandKind::Getex, kind == CommandKind::Set);
        while at < args.len() {
            let unit = expiry_word(args, at);
            let has_no = |refused: fn(&Condition<'_>) -> bool| {
                !options.only_if.as_ref().is_some_and(refused)
            };
            if sets && args.is(at, "NX") && has_no(|c| !matches!(c, Condition::Absent)) {
                options.only_if = Some(Condition::Absent);
            } else if sets && args.is(at, "XX") && has_no(|c| !matches!(c, Condition::Exists)) {
                options.only_if = Some(Condition::Exists);
            } else if is_set
                && options.only_if.is_none()
                && let Some(condition) = ValueCondition::parse(args, at)
            {
                options.only_if = Some(Condition::Value(condition));
                at += 1;
            } else if is_set && args.is(at, "GET") {
                options.get = true;
            } else if sets && args.is(at, "KEEPTTL") && options.expiry.is_none() {
                options.keep_ttl = true;
            } else if !sets && args.is(at, "PERSIST") && options.expiry.is_none() {
                options.persist = true;
            } else if let (Some((unit, relative)), Some(number)) = (unit, args.get(at + 1))
                && !options.keep_ttl
                && !options.persist
                // The same word may be repeated; the last one counts.
                && options.expiry.is_none_or(|(u, r, _)| (u, r) == (unit, relative))
            {
                options.expiry = Some((unit, relative, number));
                at += 1;
            } else {
                return Err(CommandError::Syntax.into());
            }
            at += 1;
        }
        Ok(options)
    }

    /// The deadline of a key that the command sets.
    pub(crate) fn deadline(&self, tx: &Tx<'_>, command: &str) -> Result<Deadline> {
        Ok(match self.deadline_ms(tx, command)? {
            Some(moment) => Deadline::At(moment),
            None if self.keep_ttl => Deadline::Keep,
            None => Deadline::Clear,
        })
    }

    /// The requested deadline, in milliseconds since the epoch.
    fn deadline_ms(&self, tx: &Tx<'_>, command: &str) -> Result<Option<i64>> {
        let Some((unit, relative, number)) = self.expiry else {
            return Ok(None);
        };
        let number =
            damselfly_base::number::parse_integer(number).ok_or(CommandError::NotInteger)?;
        deadline_in(tx, number, unit, relative, command).map(Some)
    }
}

fn expiry_word(args: Args<'_>, at: usize) -> Option<(Unit, Relative)> {
    [
        ("EX", Unit::Seconds, Relative::ToNow),
        ("PX", Unit::Millis, Relative::ToNow),
        ("EXAT", Unit::Seconds, Relative::ToEpoch),
        ("PXAT", Unit::Millis, Relative::ToEpoch),
    ]
    .into_iter()
    .find(|(word, ..)| args.is(at, word))
    .map(|(_, unit, relative)| (unit, relative))
}

fn set(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let (key, value) = (args.key(1), NewValue::compact(args.at(2)));
    if args.len() == 3 {
        tx.store(key, value, Deadline::Clear);
        reply.ok();
        return Ok(());
    }
    let options = Options::parse(args, 3, CommandKind::Set)?;
    let deadline = options.deadline(tx, "set")?;
    let allowed = match options.get {
        true => reply_with_old(tx, key, options.only_if, reply)?,
        false => is_allowed(tx, key, options.only_if)?,
    };
    if allowed {
        tx.store(key, value, deadline);
        if options.expiry.is_some() {
            tx.event(key, Event::Expire);
        }
        if tx.is_logged() {
            log_set(tx, args, deadline);
        }
    } else if options.get {
        tx.access_again(key);
    } else {
        // The failed condition looked at the key, which counts as an access.
        tx.access(key);
    }
    if !options.get {
        if allowed { reply.ok() } else { reply.null() }
    }
    Ok(())
}

/// Replies with the string at a key, or null. Returns whether a condition on the key holds.
fn reply_with_old(
    tx: &mut Tx<'_>,
    key: Key<'_>,
    condition: Option<Condition<'_>>,
    reply: &mut Reply<'_>,
) -> Result<bool> {
    let old = tx.read_text(key)?;
    let holds = match condition {
        Some(Condition::Value(condition)) => condition.allows(old)?,
        Some(Condition::Exists) => old.is_some(),
        Some(Condition::Absent) => old.is_none(),
        None => true,
    };
    match old {
        Some(old) => write(old, reply),
        None => reply.null(),
    }
    Ok(holds)
}

/// Whether a condition on a key holds.
fn is_allowed(tx: &mut Tx<'_>, key: Key<'_>, condition: Option<Condition<'_>>) -> Result<bool> {
    Ok(match condition {
        Some(Condition::Value(condition)) => {
            let text = match tx.peek(key) {
                None => None,
                Some(entry) => Some(entry.text().ok_or(CommandError::WrongType)?),
            };
            condition.allows(text)?
        }
        Some(Condition::Exists) => tx.peek(key).is_some(),
        Some(Condition::Absent) => tx.peek(key).is_none(),
        None => true,
    })
}

/// Logs a SET with options: with an absolute deadline, and without GET and conditions on the value.
fn log_set(tx: &mut Tx<'_>, args: Args<'_>, deadline: Deadline) {
    if let Deadline::At(moment) = deadline {
        let moment = moment.to_string();
        tx.log_effect(&[b"SET", args.at(1), args.at(2), b"PXAT", moment.as_bytes()]);
        return;
    }
    let (mut kept, mut at) = (vec![b"SET", args.at(1), args.at(2)], 3);
    while at < args.len() {
        if ValueCondition::parse(args, at).is_some() {
            at += 1;
        } else if !args.is(at, "GET") {
            kept.push(args.at(at));
        }
        at += 1;
    }
    tx.log_effect(&kept);
}

fn setnx(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let key = args.key(1);
    let absent = tx.access(key).is_none();
    if absent {
        tx.store(key, NewValue::compact(args.at(2)), Deadline::Clear);
    }
    reply.integer(absent.into());
    Ok(())
}

fn set_with_ttl(
    tx: &mut Tx<'_>,
    args: Args<'_>,
    unit: Unit,
    command: &str,
    reply: &mut Reply<'_>,
) -> Result {
    let moment = deadline_in(tx, args.integer(2)?, unit, Relative::ToNow, command)?;
    let key = args.key(1);
    tx.store(key, NewValue::compact(args.at(3)), Deadline::At(moment));
    tx.event(key, Event::Expire);
    if tx.is_logged() {
        let moment = moment.to_string();
        tx.log_effect(&[b"SET", key.bytes, args.at(3), b"PXAT", moment.as_bytes()]);
    }
    reply.ok();
    Ok(())
}

fn getset(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    get(tx, args, reply)?;
    tx.store(args.key(1), NewValue::compact(args.at(2)), Deadline::Clear);
    tx.log_effect(&[b"SET", args.at(1), args.at(2)]);
    Ok(())
}

fn getdel(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    get(tx, args, reply)?;
    if tx.remove(args.key(1)).is_some() {
        tx.log_effect(&[b"DEL", args.at(1)]);
    }
    Ok(())
}

fn getex(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let key = args.key(1);
    let options = Options::parse(args, 2, CommandKind::Getex)?;
    if tx.peek(key).and_then(EntryRef::text).is_none() {
        return get(tx, args, reply);
    }
    let deadline_ms = options.deadline_ms(tx, "getex").inspect_err(|_| {
        tx.read(key);
    })?;
    get(tx, args, reply)?;
    let absolute = matches!(options.expiry, Some((_, Relative::ToEpoch, _)));
    match deadline_ms {
        Some(moment) if absolute && is_past(moment, tx.expiry_time()) => {
            tx.remove(key);
            let name = tx.engine().settings.name_of_expiry();
            tx.log_effect(&[name, key.bytes]);
        }
        Some(_) => set_deadline(tx, args, deadline_ms),
        None if options.persist => set_deadline(tx, args, None),
        None => {}
    }
    Ok(())
}

fn set_deadline(tx: &mut Tx<'_>, args: Args<'_>, deadline_ms: Option<i64>) {
    let key = args.key(1);
    if let Place::Present(mut present) = tx.place(key)
        && (deadline_ms.is_some() || present.view().has_deadline())
    {
        present.update(|entry| entry.set_deadline_ms(deadline_ms));
        let event = match deadline_ms {
            Some(_) => Event::Expire,
            None => Event::Persist,
        };
        tx.changed(key, event);
        match deadline_ms {
            Some(moment) => crate::expiry::log_deadline(tx, key, moment),
            None => tx.log_effect(&[b"PERSIST", key.bytes]),
        }
    }
}

fn strlen(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let len = tx.read_text(args.key(1))?.map_or(0, Text::len);
    reply.integer(len as i64);
    Ok(())
}

fn mget(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    reply.array(args.len() - 1);
    for place in 1..args.len() {
        match tx.read(args.key(place)).and_then(EntryRef::text) {
            Some(text) => write(text, reply),
            None => reply.null(),
        }
    }
    Ok(())
}

/// Refuses a request whose last key has no value.
fn check_pairs(args: Args<'_>, command: &str) -> Result {
    if args.len().is_multiple_of(2) {
        return Err(CommandError::Arity(command.to_owned()).into());
    }
    Ok(())
}

fn store_pairs(tx: &mut Tx<'_>, args: Args<'_>) {
    for place in (1..args.len()).step_by(2) {
        tx.store(
            args.key(place),
            NewValue::compact(args.at(place + 1)),
            Deadline::Clear,
        );
    }
}

fn mset(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    check_pairs(args, "mset")?;
    store_pairs(tx, args);
    reply.ok();
    Ok(())
}

fn msetnx(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    check_pairs(args, "msetnx")?;
    let absent = (1..args.len())
        .step_by(2)
        .all(|place| tx.access(args.key(place)).is_none());
    if absent {
        store_pairs(tx, args);
    }
    reply.integer(absent.into());
    Ok(())
}
