//! Expiry of keys: EXPIRE, TTL and their relatives.

use std::sync::atomic::Ordering::Relaxed;

use damselfly_base::CommandError;
use damselfly_engine::{Event, Key, Now, Place, Tx};
use damselfly_protocol::Reply;

use crate::command::{
    Access, Arity::AtLeast, Arity::Exactly, At::One, Command, Group, KeySpec, Keys, Run, Trait,
    reads, writes,
};
use crate::strings::Relative;
use crate::{Args, KeyspaceFn, Result};

/// The unit of a time in an argument or reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Seconds,
    Millis,
}

impl Unit {
    /// Milliseconds.
    pub(crate) fn in_ms(self) -> i64 {
        match self {
            Self::Seconds => 1000,
            Self::Millis => 1,
        }
    }
}

/// With `ttl-rounding`, TTLs over this many milliseconds (about 37 hours) are rounded to seconds...
const ROUNDED_OVER_MS: i64 = (1 << 27) - 1;
/// ... and none is longer than a year.
const ROUNDED_MAX_MS: i64 = 365 * 24 * 3600 * 1000;

/// True if a deadline has passed.
pub(crate) fn is_past(deadline_ms: i64, now: Now) -> bool {
    deadline_ms <= now.0
}

/// Converts a positive number in an argument to a deadline in milliseconds since the epoch.
///
/// # Errors
/// `invalid expire time` for numbers below one and for deadlines that overflow 64 bits.
pub(crate) fn deadline_in(
    tx: &Tx<'_>,
    number: i64,
    unit: Unit,
    relative: Relative,
    command: &str,
) -> Result<i64> {
    if number <= 0 {
        return Err(CommandError::InvalidExpire(command.to_owned()).into());
    }
    signed_deadline_in(tx, number, unit, relative, command)
}

/// Like [`deadline_in`], for commands that accept numbers of any sign.
pub(crate) fn signed_deadline_in(
    tx: &Tx<'_>,
    number: i64,
    unit: Unit,
    relative: Relative,
    command: &str,
) -> Result<i64> {
    let start = match relative {
        Relative::ToNow => tx.now().0,
        Relative::ToEpoch => 0,
    };
    let deadline = number
        .checked_mul(unit.in_ms())
        .and_then(|ms| ms.checked_add(start))
        .ok_or_else(|| CommandError::InvalidExpire(command.to_owned()))?;
    Ok(if tx.engine().settings.ttl_rounding.load(Relaxed) {
        rounded(deadline, tx.now())
    } else {
        deadline
    })
}

/// A deadline rounded as `ttl-rounding` asks: off by at most half a second in 37 hours or more, which is
/// under 0.0004 %.
fn rounded(deadline_ms: i64, now: Now) -> i64 {
    let deadline_ms = deadline_ms.min(now.0 + ROUNDED_MAX_MS);
    if deadline_ms.saturating_sub(now.0) > ROUNDED_OVER_MS {
        (deadline_ms + 500) / 1000 * 1000
    } else {
        deadline_ms
    }
}

const CHANGED: &[KeySpec] = &[writes(One(1), Access::Update)];
const READ: &[KeySpec] = &[reads(One(1))];

const fn sets_deadline(
    name: &'static str,
    run: KeyspaceFn,
    usage: &'static str,
    summary: &'static str,
    since: &'static str,
) -> Command<KeyspaceFn> {
    Command {
        name,
        arity: AtLeast(3),
        keys: Keys::Args(CHANGED),
        traits: &[Trait::Fast],
        run: Run::Run(run),
        group: Group::Generic,
        usage,
        summary,
        since,
        complexity: "O(1)",
    }
}

const fn shows_deadline(
    name: &'static str,
    run: KeyspaceFn,
    usage: &'static str,
    summary: &'static str,
    since: &'static str,
) -> Command<KeyspaceFn> {
    Command {
        name,
        arity: Exactly(2),
        keys: Keys::Args(READ),
        traits: &[Trait::Fast],
        run: Run::Run(run),
        group: Group::Generic,
        usage,
        summary,
        since,
        complexity: "O(1)",
    }
}

/// A command whose reply depends on when it runs.
const fn depends_on_the_clock(command: Command<KeyspaceFn>) -> Command<KeyspaceFn> {
    Command {
        traits: &[Trait::Fast, Trait::Tip("nondeterministic_output")],
        ..command
    }
}

pub(crate) static COMMANDS: &[Command<KeyspaceFn>] = &[
    sets_deadline(
        "EXPIRE",
        |tx, args, reply| expire(tx, args, Unit::Seconds, Relative::ToNow, "expire", reply),
        "EXPIRE key seconds [NX | XX | GT | LT]",
        "Sets the expiry of a key, in seconds from now.",
        "1.0.0",
    ),
    sets_deadline(
        "PEXPIRE",
        |tx, args, reply| expire(tx, args, Unit::Millis, Relative::ToNow, "pexpire", reply),
        "PEXPIRE key milliseconds [NX | XX | GT | LT]",
        "Sets the expiry of a key, in milliseconds from now.",
        "2.6.0",
    ),
    sets_deadline(
        "EXPIREAT",
        |tx, args, reply| {
            expire(
                tx,
                args,
                Unit::Seconds,
                Relative::ToEpoch,
                "expireat",
                reply,
            )
        },
        "EXPIREAT key unix-time-seconds [NX | XX | GT | LT]",
        "Sets the expiry of a key to a Unix time in seconds.",
        "1.2.0",
    ),
    sets_deadline(
        "PEXPIREAT",
        |tx, args, reply| {
            expire(
                tx,
                args,
                Unit::Millis,
                Relative::ToEpoch,
                "pexpireat",
                reply,
            )
        },
        "PEXPIREAT key unix-time-milliseconds [NX | XX | GT | LT]",
        "Sets the expiry of a key to a Unix time in milliseconds.",
        "2.6.0",
    ),
    depends_on_the_clock(shows_deadline(
        "TTL",
        |tx, args, reply| ttl(tx, args, Unit::Seconds, Relative::ToNow, reply),
        "TTL key",
        "Returns the seconds until a key expires: -1 if it has no expiry, -2 if it does not exist.",
        "1.0.0",
    )),
    depends_on_the_clock(shows_deadline(
        "PTTL",
        |tx, args, reply| ttl(tx, args, Unit::Millis, Relative::ToNow, reply),
        "PTTL key",
        "Returns the milliseconds until a key expires: -1 if it has no expiry, -2 if it does not exist.",
        "2.6.0",
    )),
    shows_deadline(
        "EXPIRETIME",
        |tx, args, reply| ttl(tx, args, Unit::Seconds, Relative::ToEpoch, reply),
        "EXPIRETIME key",
        "Returns the Unix time in seconds at which a key expires: -1 if it has no expiry, -2 if it does not exist.",
        "7.0.0",
    ),
    shows_deadline(
        "PEXPIRETIME",
        |tx, args, reply| ttl(tx, args, Unit::Millis, Relative::ToEpoch, reply),
        "PEXPIRETIME key",
        "Returns the Unix time in milliseconds at which a key expires: -1 if it has no expiry, -2 if it does not exist.",
        "7.0.0",
    ),
    Command {
        name: "PERSIST",
        arity: Exactly(2),
        keys: Keys::Args(&[writes(One(1), Access::Update)]),
        traits: &[Trait::Fast],
        run: Run::Run(persist),
        group: Group::Generic,
        usage: "PERSIST key",
        summary: "Removes the expiry of a key.",
        since: "2.2.0",
        complexity: "O(1)",
    },
];

/// The options of EXPIRE.
#[derive(Default)]
struct Conditions {
    if_none: bool,
    if_any: bool,
    if_later: bool,
    if_sooner: bool,
}

impl Conditions {
    fn parse(args: Args<'_>) -> Result<Self> {
        let mut found = Self::default();
        for at in 3..args.len() {
            let flag = match () {
                () if args.is(at, "NX") => &mut found.if_none,
                () if args.is(at, "XX") => &mut found.if_any,
                () if args.is(at, "GT") => &mut found.if_later,
                () if args.is(at, "LT") => &mut found.if_sooner,
                () => {
                    let error = CommandError::quoting("Unsupported option ", args.at(at), "");
                    return Err(error.into());
                }
            };
            *flag = true;
        }
        if found.if_none && (found.if_any || found.if_later || found.if_sooner) {
            return Err(CommandError::err(
                "NX and XX, GT or LT options at the same time are not compatible",
            )
            .into());
        }
        if found.if_later && found.if_sooner {
            let text = "GT and LT options at the same time are not compatible";
            return Err(CommandError::err(text).into());
        }
        Ok(found)
    }

    /// True if a deadline may replace the old one; a missing deadline counts as infinitely late.
    fn allow(&self, old_ms: Option<i64>, new_ms: i64) -> bool {
        !(self.if_none && old_ms.is_some()
            || self.if_any && old_ms.is_none()
            || self.if_later && old_ms.is_none_or(|old| new_ms <= old)
            || self.if_sooner && old_ms.is_some_and(|old| new_ms >= old))
    }
}

fn expire(
    tx: &mut Tx<'_>,
    args: Args<'_>,
    unit: Unit,
    relative: Relative,
    command: &str,
    reply: &mut Reply<'_>,
) -> Result {
    let conditions = Conditions::parse(args)?;
    let new_ms = signed_deadline_in(tx, args.integer(2)?, unit, relative, command)?;
    let (key, now) = (args.key(1), tx.expiry_time());
    let done = match tx.access_place_in(tx.db(), key) {
        Place::Absent(_) => None,
        Place::Present(present) if !conditions.allow(present.view().deadline_ms(), new_ms) => None,
        Place::Present(present) if is_past(new_ms, now) => {
            present.remove();
            Some(Event::Del)
        }
        Place::Present(mut present) => {
            present.update(|entry| entry.set_deadline_ms(Some(new_ms)));
            Some(Event::Expire)
        }
    };
    if let Some(event) = done {
        tx.changed(key, event);
        match event {
            Event::Del => {
                let name = tx.engine().settings.name_of_expiry();
                tx.log_effect(&[name, key.bytes]);
            }
            _ => log_deadline(tx, key, new_ms),
        }
    }
    reply.integer(done.is_some().into());
    Ok(())
}

/// Logs that a key got this deadline.
pub(crate) fn log_deadline(tx: &mut Tx<'_>, key: Key<'_>, deadline_ms: i64) {
    if tx.is_logged() {
        let moment = deadline_ms.to_string();
        tx.log_effect(&[b"PEXPIREAT", key.bytes, moment.as_bytes()]);
    }
}

fn ttl(
    tx: &mut Tx<'_>,
    args: Args<'_>,
    unit: Unit,
    relative: Relative,
    reply: &mut Reply<'_>,
) -> Result {
    const NO_KEY: i64 = -2;
    const NO_DEADLINE: i64 = -1;
    let deadline = tx
        .read_no_touch(args.key(1))
        .map(|entry| entry.deadline_ms());
    let now = tx.now();
    reply.integer(match (deadline, relative) {
        (None, _) => NO_KEY,
        (Some(None), _) => NO_DEADLINE,
        (Some(Some(deadline)), Relative::ToNow) => match unit {
            Unit::Millis => deadline.saturating_sub(now.0).max(0),
            // Rounded to the nearest second, so that a fresh TTL shows the number that was set.
            Unit::Seconds => (deadline.saturating_sub(now.0).max(0)).saturating_add(500) / 1000,
        },
        (Some(Some(deadline)), Relative::ToEpoch) => match unit {
            Unit::Millis => deadline,
            Unit::Seconds => deadline.saturating_add(500) / 1000,
        },
    });
    Ok(())
}

fn persist(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let key = args.key(1);
    let done = match tx.access_place_in(tx.db(), key) {
        Place::Present(mut present) if present.view().has_deadline() => {
            present.update(|entry| entry.set_deadline_ms(None));
            true
        }
        Place::Present(_) | Place::Absent(_) => false,
    };
    if done {
        tx.changed(key, Event::Persist);
    }
    reply.integer(done.into());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_keeps_short_ttls_exact_and_long_ones_within_a_second() {
        let now = Now(1_700_000_000_123);
        assert_eq!(
            rounded(now.0 + ROUNDED_OVER_MS, now),
            now.0 + ROUNDED_OVER_MS
        );
        let long = now.0 + 2 * ROUNDED_OVER_MS;
        assert_eq!(rounded(long, now) % 1000, 0);
        assert!((rounded(long, now) - long).abs() <= 500);
        assert!(rounded(i64::MAX, now) <= now.0 + ROUNDED_MAX_MS + 500);
        assert_eq!(rounded(i64::MIN, now), i64::MIN);
    }
}
