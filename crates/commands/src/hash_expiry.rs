//! Expiry of hash fields: HEXPIRE, HTTL and their relatives as in Redis 7.4; HGETEX, HSETEX and HGETDEL as in Redis 8.0.

use damselfly_base::CommandError;
use damselfly_base::number::parse_integer;
use damselfly_engine::{Create, Event, Now, Tx};
use damselfly_protocol::Reply;
use damselfly_value::{Element, Hash, HashMut};

use crate::command::{
    Access, Arity::AtLeast, At::One, Command, Group, KeySpec, Keys, Run, Trait, reads, writes,
};
use crate::expiry::{Unit, is_past};
use crate::hash_effects::{log_deadline, log_persisted, log_removed, log_set};
use crate::hashes::write_value;
use crate::strings::Relative;
use crate::{Args, KeyspaceFn, Result, sets};

/// The latest deadline of a field, in milliseconds since the epoch: Redis stores 46 bits.
const DEADLINE_MAX_MS: i64 = (1 << 46) - 1;

const NO_FIELD: i64 = -2;
const NO_DEADLINE: i64 = -1;

const READ: &[KeySpec] = &[reads(One(1))];
const CHANGED: &[KeySpec] = &[writes(One(1), Access::Update)];
const PER_FIELD: &str = "O(N) where N is the number of fields given";

/// The row of a command that gives fields a deadline.
const fn sets_deadline(
    name: &'static str,
    run: KeyspaceFn,
    usage: &'static str,
    summary: &'static str,
) -> Command<KeyspaceFn> {
    Command {
        name,
        arity: AtLeast(6),
        keys: Keys::Args(CHANGED),
        traits: &[Trait::NeedsMemory, Trait::Fast],
        run: Run::Run(run),
        group: Group::Hash,
        usage,
        summary,
        since: "7.4.0",
        complexity: PER_FIELD,
    }
}

/// The row of a command that returns deadlines.
const fn shows_deadline(
    name: &'static str,
    traits: &'static [Trait],
    run: KeyspaceFn,
    usage: &'static str,
    summary: &'static str,
) -> Command<KeyspaceFn> {
    Command {
        name,
        arity: AtLeast(5),
        keys: Keys::Args(READ),
        traits,
        run: Run::Run(run),
        group: Group::Hash,
        usage,
        summary,
        since: "7.4.0",
        complexity: PER_FIELD,
    }
}

const FAST: &[Trait] = &[Trait::Fast];

pub(crate) static COMMANDS: &[Command<KeyspaceFn>] = &[
    sets_deadline(
        "HEXPIRE",
        |tx, args, reply| hexpire(tx, args, "hexpire", Unit::Seconds, Relative::ToNow, reply),
        "HEXPIRE key seconds [NX | XX | GT | LT] FIELDS numfields field [field ...]",
        "Sets the expiry of fields of a hash, in seconds from now.",
    ),
    sets_deadline(
        "HPEXPIRE",
        |tx, args, reply| hexpire(tx, args, "hpexpire", Unit::Millis, Relative::ToNow, reply),
        "HPEXPIRE key milliseconds [NX | XX | GT | LT] FIELDS numfields field [field ...]",
        "Sets the expiry of fields of a hash, in milliseconds from now.",
    ),
    sets_deadline(
        "HEXPIREAT",
        |tx, args, reply| {
            let (unit, relative) = (Unit::Seconds, Relative::ToEpoch);
            hexpire(tx, args, "hexpireat", unit, relative, reply)
        },
        "HEXPIREAT key unix-time-seconds [NX | XX | GT | LT] FIELDS numfields field [field ...]",
        "Sets the expiry of fields of a hash to a Unix time in seconds.",
    ),
    sets_deadline(
        "HPEXPIREAT",
        |tx, args, reply| {
            let (unit, relative) = (Unit::Millis, Relative::ToEpoch);
            hexpire(tx, args, "hpexpireat", unit, relative, reply)
        },
        "HPEXPIREAT key unix-time-milliseconds [NX | XX | GT | LT] FIELDS numfields field [field ...]",
        "Sets the expiry of fields of a hash to a Unix time in milliseconds.",
    ),
    shows_deadline(
        "HTTL",
        FAST,
        |tx, args, reply| httl(tx, args, Unit::Seconds, Relative::ToNow, reply),
        "HTTL key FIELDS numfields field [field ...]",
        "Returns the seconds until fields of a hash expire: -1 for a field without an expiry, -2 for one that does not exist.",
    ),
    shows_deadline(
        "HPTTL",
        FAST,
        |tx, args, reply| httl(tx, args, Unit::Millis, Relative::ToNow, reply),
        "HPTTL key FIELDS numfields field [field ...]",
        "Returns the milliseconds until fields of a hash expire: -1 for a field without an expiry, -2 for one that does not exist.",
    ),
    shows_deadline(
        "HEXPIRETIME",
        &[Trait::Fast],
        |tx, args, reply| httl(tx, args, Unit::Seconds, Relative::ToEpoch, reply),
        "HEXPIRETIME key FIELDS numfields field [field ...]",
        "Returns the Unix times in seconds at which fields of a hash expire: -1 for a field without an expiry, -2 for one that does not exist.",
    ),
    shows_deadline(
        "HPEXPIRETIME",
        &[Trait::Fast],
        |tx, args, reply| httl(tx, args, Unit::Millis, Relative::ToEpoch, reply),
        "HPEXPIRETIME key FIELDS numfields field [field ...]",
        "Returns the Unix times in milliseconds at which fields of a hash expire: -1 for a field without an expiry, -2 for one that does not exist.",
    ),
    Command {
        name: "HPERSIST",
        arity: AtLeast(5),
        keys: Keys::Args(CHANGED),
        traits: &[Trait::Fast],
        run: Run::Run(hpersist),
        group: Group::Hash,
        usage: "HPERSIST key FIELDS numfields field [field ...]",
        summary: "Removes the expiry of fields of a hash.",
        since: "7.4.0",
        complexity: PER_FIELD,
    },
    Command {
        name: "HGETDEL",
        arity: AtLeast(5),
        keys: Keys::Args(&[writes(One(1), Access::Take)]),
        traits: &[Trait::Fast],
        run: Run::Run(hgetdel),
        group: Group::Hash,
        usage: "HGETDEL key FIELDS numfields field [field ...]",
        summary: "Returns the values of fields of a hash and removes the fields.",
        since: "8.0.0",
        complexity: PER_FIELD,
    },
    Command {
        name: "HGETEX",
        arity: AtLeast(5),
        keys: Keys::Args(&[writes(One(1), Access::ReadUpdate)]),
        traits: &[Trait::Fast],
        run: Run::Run(hgetex),
        group: Group::Hash,
        usage: "HGETEX key [EX seconds | PX milliseconds | EXAT unix-time-seconds | PXAT unix-time-milliseconds | PERSIST] FIELDS numfields field [field ...]",
        summary: "Returns the values of fields of a hash, and sets or removes the fields' expiry.",
        since: "8.0.0",
        complexity: PER_FIELD,
    },
    Command {
        name: "HSETEX",
        arity: AtLeast(6),
        keys: Keys::Args(CHANGED),
        traits: &[Trait::NeedsMemory, Trait::Fast],
        run: Run::Run(hsetex),
        group: Group::Hash,
        usage: "HSETEX key [FNX | FXX] [EX seconds | PX milliseconds | EXAT unix-time-seconds | PXAT unix-time-milliseconds | KEEPTTL] FIELDS numfields field value [field value ...]",
        summary: "Sets fields of a hash and their expiry, optionally only if none or all of them exist.",
        since: "8.0.0",
        complexity: "O(N) where N is the number of fields set",
    },
];

/// The index of the first field of `FIELDS numfields field ...`, which starts at `at` and ends the request.
fn fields_at(args: Args<'_>, at: usize, command: &str, bad_count: &str) -> Result<usize> {
    if !args.is(at, "FIELDS") {
        let text = "Mandatory argument FIELDS is missing or not at the right position";
        return Err(CommandError::err(text).into());
    }
    let Some(count) = args.get(at + 1) else {
        return Err(CommandError::Arity(command.to_owned()).into());
    };
    let count = parse_integer(count)
        .filter(|&count| count > 0)
        .ok_or_else(|| CommandError::err(bad_count))?;
    let first = at + 2;
    if count != (args.len() - first) as i64 {
        let text = "The `numfields` parameter must match the number of arguments";
        return Err(CommandError::err(text).into());
    }
    Ok(first)
}

const BAD_COUNT: &str = "Number of fields must be a positive integer";

/// The deadline that the argument at `at` gives, in milliseconds since the epoch.
fn deadline_in(
    args: Args<'_>,
    at: usize,
    now: Now,
    unit: Unit,
    relative: Relative,
    command: &str,
) -> Result<i64> {
    let number = args.integer(at)?;
    if number < 0 {
        return Err(CommandError::err("invalid expire time, must be >= 0").into());
    }
    let start = match relative {
        Relative::ToNow => now.0,
        Relative::ToEpoch => 0,
    };
    number
        .checked_mul(unit.in_ms())
        .and_then(|ms| ms.checked_add(start))
        .filter(|&deadline| deadline <= DEADLINE_MAX_MS)
        .ok_or_else(|| CommandError::InvalidExpire(command.to_owned()).into())
}

/// The condition under which HEXPIRE sets a deadline.
#[derive(Clone, Copy)]
enum Condition {
    Always,
    IfNone,
    IfAny,
    IfLater,
    IfSooner,
}

impl Condition {
    /// True if a deadline may replace the old one; a missing deadline counts as infinitely late.
    fn allows(self, old_ms: Option<i64>, new_ms: i64) -> bool {
        match self {
            Self::Always => true,
            Self::IfNone => old_ms.is_none(),
            Self::IfAny => old_ms.is_some(),
            Self::IfLater => old_ms.is_some_and(|old| new_ms > old),
            Self::IfSooner => old_ms.is_none_or(|old| new_ms < old),
        }
    }
}

/// Gives an existing field a deadline, or removes the field if the deadline has passed. Returns true if the field stays. Sets
/// `event`, the one event for all fields of a command.
fn expire_field(
    hash: &mut HashMut<'_>,
    field: &[u8],
    deadline_ms: i64,
    now: Now,
    event: &mut Option<Event>,
) -> bool {
    if is_past(deadline_ms, now) {
        hash.remove(field);
        *event = Some(Event::Hdel);
        false
    } else {
        event.get_or_insert(Event::Hexpire);
        hash.set_deadline_ms(field, Some(deadline_ms))
    }
}

fn hexpire(
    tx: &mut Tx<'_>,
    args: Args<'_>,
    command: &str,
    unit: Unit,
    relative: Relative,
    reply: &mut Reply<'_>,
) -> Result {
    const NOT_ALLOWED: i64 = 0;
    const SET: i64 = 1;
    const REMOVED: i64 = 2;
    let (key, now) = (args.key(1), tx.expiry_time());
    // A wrong type is reported before wrong arguments.
    tx.access_as::<Hash>(key)?;
    let deadline = deadline_in(args, 2, now, unit, relative, command)?;
    let (condition, at) = match () {
        () if args.is(3, "NX") => (Condition::IfNone, 4),
        () if args.is(3, "XX") => (Condition::IfAny, 4),
        () if args.is(3, "GT") => (Condition::IfLater, 4),
        () if args.is(3, "LT") => (Condition::IfSooner, 4),
        () => (Condition::Always, 3),
    };
    let bad_count = "Parameter `numFields` should be greater than 0";
    let first = fields_at(args, at, command, bad_count)?;
    let (mut set, mut removed) = (Vec::new(), Vec::new());
    change_each(tx, args, first, reply, |hash, field, event| {
        let old = hash.view().get(field).map(|pair| pair.deadline_ms);
        match old {
            None => NO_FIELD,
            Some(old_ms) if !condition.allows(old_ms, deadline) => NOT_ALLOWED,
            Some(_) if expire_field(hash, field, deadline, now, event) => {
                set.push(field);
                SET
            }
            Some(_) => {
                removed.push(field);
                REMOVED
            }
        }
    })?;
    log_deadline(tx, key, &set, deadline);
    log_removed(tx, key, &removed);
    Ok(())
}

/// Writes the result of `change` for each field from argument `first` on; `change` sets the event if it changes something.
fn change_each<'a>(
    tx: &mut Tx<'_>,
    args: Args<'a>,
    first: usize,
    reply: &mut Reply<'_>,
    mut change: impl FnMut(&mut HashMut<'_>, &'a [u8], &mut Option<Event>) -> i64,
) -> Result {
    let key = args.key(1);
    reply.array(args.len() - first);
    let changed = tx.change_used::<Hash, _>(key, Create::Never, |hash| {
        let mut event = None;
        for field in args.from(first) {
            reply.integer(change(hash, field, &mut event));
        }
        event
    })?;
    match changed {
        Some(Some(event)) => tx.changed(key, event),
        Some(None) => {}
        None => args.from(first).for_each(|_| reply.integer(NO_FIELD)),
    }
    Ok(())
}

fn httl(
    tx: &mut Tx<'_>,
    args: Args<'_>,
    unit: Unit,
    relative: Relative,
    reply: &mut Reply<'_>,
) -> Result {
    let start = match relative {
        Relative::ToNow => tx.now().0,
        Relative::ToEpoch => 0,
    };
    let hash = tx.read_as::<Hash>(args.key(1))?;
    let first = fields_at(args, 2, "httl", BAD_COUNT)?;
    reply.array(args.len() - first);
    for field in args.from(first) {
        let found = hash.and_then(|hash| hash.get(field));
        reply.integer(match found.map(|pair| pair.deadline_ms) {
            None => NO_FIELD,
            Some(None) => NO_DEADLINE,
            // Seconds are rounded up.
            Some(Some(deadline)) => (deadline - start + unit.in_ms() - 1) / unit.in_ms(),
        });
    }
    Ok(())
}

fn hpersist(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    const REMOVED: i64 = 1;
    let key = args.key(1);
    tx.access_as::<Hash>(key)?;
    let first = fields_at(args, 2, "hpersist", BAD_COUNT)?;
    change_each(tx, args, first, reply, |hash, field, event| {
        match hash.view().get(field).map(|pair| pair.deadline_ms) {
            None => NO_FIELD,
            Some(None) => NO_DEADLINE,
            Some(Some(_)) => {
                *event = Some(Event::Hpersist);
                hash.set_deadline_ms(field, None);
                REMOVED
            }
        }
    })
}

/// Writes the values of all fields from argument `first` on, and calls `change` for those that exist; `change` sets the event if
/// it changes something.
fn take_values<'a>(
    tx: &mut Tx<'_>,
    args: Args<'a>,
    first: usize,
    reply: &mut Reply<'_>,
    mut change: impl FnMut(&mut HashMut<'_>, &'a [u8], &mut Option<Event>),
) -> Result {
    let key = args.key(1);
    reply.array(args.len() - first);
    let changed = tx.change_used::<Hash, _>(key, Create::Never, |hash| {
        let mut event = None;
        for field in args.from(first) {
            match hash.view().value(field) {
                None => reply.null(),
                Some(value) => {
                    sets::write(value, reply);
                    change(hash, field, &mut event);
                }
            }
        }
        event
    })?;
    match changed {
        Some(Some(event)) => tx.changed(key, event),
        Some(None) => {}
        None => args.from(first).for_each(|_| write_value(reply, None)),
    }
    Ok(())
}

fn hgetdel(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    tx.access_as::<Hash>(args.key(1))?;
    let first = fields_at(args, 2, "hgetdel", BAD_COUNT)?;
    let mut removed = Vec::new();
    take_values(tx, args, first, reply, |hash, field, event| {
        hash.remove(field);
        removed.push(field);
        *event = Some(Event::Hdel);
    })?;
    log_removed(tx, args.key(1), &removed);
    Ok(())
}

/// The unit of the argument, if it is EX, PX, EXAT or PXAT.
fn deadline_option(args: Args<'_>, at: usize) -> Option<(Unit, Relative)> {
    Some(match () {
        () if args.is(at, "EX") => (Unit::Seconds, Relative::ToNow),
        () if args.is(at, "PX") => (Unit::Millis, Relative::ToNow),
        () if args.is(at, "EXAT") => (Unit::Seconds, Relative::ToEpoch),
        () if args.is(at, "PXAT") => (Unit::Millis, Relative::ToEpoch),
        () => return None,
    })
}

fn hgetex(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    const NAME: &str = "hgetex";
    let now = tx.expiry_time();
    tx.access_as::<Hash>(args.key(1))?;
    if let Some((unit, relative)) = deadline_option(args, 2) {
        let deadline = deadline_in(args, 3, now, unit, relative, NAME)?;
        let first = fields_at(args, 4, NAME, BAD_COUNT)?;
        let mut found = Vec::new();
        take_values(tx, args, first, reply, |hash, field, event| {
            found.push(field);
            expire_field(hash, field, deadline, now, event);
        })?;
        match is_past(deadline, now) {
            true => log_removed(tx, args.key(1), &found),
            false => log_deadline(tx, args.key(1), &found, deadline),
        }
        return Ok(());
    }
    if args.is(2, "PERSIST") {
        let first = fields_at(args, 3, NAME, BAD_COUNT)?;
        let mut persisted = Vec::new();
        take_values(tx, args, first, reply, |hash, field, event| {
            let pair = hash.view().get(field);
            if pair.is_some_and(|pair| pair.deadline_ms.is_some()) {
                hash.set_deadline_ms(field, None);
                persisted.push(field);
                *event = Some(Event::Hpersist);
            }
        })?;
        log_persisted(tx, args.key(1), &persisted);
        return Ok(());
    }
    let first = fields_at(args, 2, NAME, BAD_COUNT)?;
    take_values(tx, args, first, reply, |_, _, _| {})
}

/// How HSETEX changes the deadlines of the fields that it sets.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum NewDeadline {
    None,
    Keep,
    At(i64),
}

/// The options of HSETEX.
struct SetOptions {
    /// FXX or FNX: true if the fields must exist, false if they must not.
    exist: Option<bool>,
    deadline: NewDeadline,
    /// The index of the first field.
    first: usize,
}

impl SetOptions {
    fn parse(args: Args<'_>, now: Now) -> Result<Self> {
        let (mut exist, mut deadline) = (None, NewDeadline::None);
        let mut at = 2;
        while at < args.len() {
            if args.is(at, "FIELDS") {
                let first = set_fields_at(args, at)?;
                return Ok(Self {
                    exist,
                    deadline,
                    first,
                });
            }
            let (option, keeps) = (deadline_option(args, at), args.is(at, "KEEPTTL"));
            if (option.is_some() || keeps) && deadline != NewDeadline::None {
                let text = "Only one of EX, PX, EXAT, PXAT or KEEPTTL arguments can be specified";
                return Err(CommandError::err(text).into());
            }
            if let Some((unit, relative)) = option {
                at += 1;
                if at == args.len() {
                    return Err(CommandError::err("missing expire time").into());
                }
                let moment = deadline_in(args, at, now, unit, relative, "hsetex")?;
                deadline = NewDeadline::At(moment);
            } else if keeps {
                deadline = NewDeadline::Keep;
            } else if args.is(at, "FXX") || args.is(at, "FNX") {
                if exist.is_some() {
                    let text = "Only one of FXX or FNX arguments can be specified";
                    return Err(CommandError::err(text).into());
                }
                exist = Some(args.is(at, "FXX"));
            } else {
                let error = CommandError::quoting("unknown argument: ", args.at(at), "");
                return Err(error.into());
            }
            at += 1;
        }
        Err(CommandError::Syntax.into())
    }
}

/// The index of the first field of `FIELDS numfields field value ...`, which starts at `at` and ends the request.
fn set_fields_at(args: Args<'_>, at: usize) -> Result<usize> {
    let wrong_arity = || CommandError::Arity("hsetex".to_owned()).into();
    if at + 3 >= args.len() {
        return Err(wrong_arity());
    }
    let count = parse_integer(args.at(at + 1))
        .filter(|count| (1..=i64::from(i32::MAX)).contains(count))
        .ok_or_else(|| CommandError::err("invalid number of fields"))?;
    let first = at + 2;
    if (args.len() - first) as i64 != count * 2 {
        return Err(wrong_arity());
    }
    Ok(first)
}

fn hsetex(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let (key, now) = (args.key(1), tx.expiry_time());
    let options = SetOptions::parse(args, now)?;
    let fields = || (options.first..args.len()).step_by(2);
    let done = tx.change::<Hash, _>(key, Create::IfAbsent, |hash| {
        let exists = |at: usize| hash.view().value(args.at(at)).is_some();
        if options
            .exist
            .is_some_and(|wanted| fields().any(|at| exists(at) != wanted))
        {
            return false;
        }
        for at in fields() {
            set_until(hash, args.at(at), args.at(at + 1), options.deadline, now);
        }
        true
    })?;
    let done = done.unwrap_or_default();
    if done {
        let event = match options.deadline {
            NewDeadline::None | NewDeadline::Keep => Event::Hset,
            NewDeadline::At(deadline) if is_past(deadline, now) => Event::Hdel,
            NewDeadline::At(_) => Event::Hexpire,
        };
        if event != Event::Hset {
            tx.event(key, Event::Hset);
        }
        tx.changed(key, event);
        if tx.is_logged() {
            log_set(tx, args, options.first, options.deadline);
        }
    }
    reply.integer(done.into());
    Ok(())
}

fn set_until(hash: &mut HashMut<'_>, field: &[u8], value: &[u8], until: NewDeadline, now: Now) {
    let deadline = match until {
        NewDeadline::None => None,
        NewDeadline::Keep => hash.view().get(field).and_then(|pair| pair.deadline_ms),
        NewDeadline::At(deadline) if is_past(deadline, now) => {
            hash.remove(field);
            return;
        }
        NewDeadline::At(deadline) => Some(deadline),
    };
    hash.set(field, Element::new(value), deadline);
}
