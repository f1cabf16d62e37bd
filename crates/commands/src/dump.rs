//! DUMP and RESTORE: values in the format of RDB files, to move them between servers.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use damselfly_base::CommandError;
use damselfly_engine::{Engine, Event, Key, Now, Tx};
use damselfly_protocol::Reply;
use damselfly_rdb::{Fault, RdbError};
use damselfly_value::Entry;

use crate::command::{
    Access, Arity::AtLeast, Arity::Exactly, At::One, Command, Group, Keys, Run, Trait, reads,
    writes,
};
use crate::expiry::{Unit, is_past, signed_deadline_in};
use crate::long::Unlocked;
use crate::strings::Relative;
use crate::{Args, KeyspaceFn, Result, Stop, long};

pub(crate) static COMMANDS: &[Command<KeyspaceFn>] = &[
    Command {
        name: "DUMP",
        arity: Exactly(2),
        keys: Keys::Args(&[reads(One(1))]),
        traits: &[Trait::Tip("nondeterministic_output")],
        run: Run::Run(dump),
        group: Group::Generic,
        usage: "DUMP key",
        summary: "Returns the value at a key in the format of RDB files, for RESTORE.",
        since: "2.6.0",
        complexity: "O(N) where N is the size of the value",
    },
    Command {
        name: "RESTORE",
        arity: AtLeast(4),
        keys: Keys::Args(&[writes(One(1), Access::Overwrite)]),
        traits: &[Trait::NeedsMemory, Trait::Dangerous],
        run: Run::Run(restore),
        group: Group::Generic,
        usage: "RESTORE key ttl serialized-value [REPLACE] [ABSTTL] [IDLETIME seconds] [FREQ frequency]",
        summary: "Creates a key from a payload of DUMP, of this server, Redis or Valkey.",
        since: "2.6.0",
        complexity: "O(N) where N is the size of the value; O(N*log(N)) for large sorted sets",
    },
    Command {
        name: "RESTORE-ASKING",
        arity: AtLeast(4),
        keys: Keys::Args(&[writes(One(1), Access::Overwrite)]),
        traits: &[
            Trait::NeedsMemory,
            Trait::Asking,
            Trait::Dangerous,
            Trait::Category("keyspace"),
        ],
        run: Run::Run(restore),
        group: Group::Server,
        usage: "RESTORE-ASKING key ttl serialized-value [REPLACE] [ABSTTL] [IDLETIME seconds] [FREQ frequency]",
        summary: "As RESTORE, for nodes of a Redis cluster that migrate keys to this server.",
        since: "3.0.0",
        complexity: "O(N) where N is the size of the value; O(N*log(N)) for large sorted sets",
    },
];

/// The bytes of a value that DUMP encodes in one step of a long command.
const BYTES_PER_STEP: usize = 16;
/// A longer payload is decoded on another thread, without locks.
const PAYLOAD_BYTES_MAX: usize = 1 << 16;

fn dump(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let Some(entry) = tx.read(args.key(1)) else {
        reply.null();
        return Ok(());
    };
    let steps = entry.allocated_bytes() / BYTES_PER_STEP;
    let compress = tx.engine().settings.compresses_dumps.load(Relaxed);
    long::reply_from(tx, args, 1..2, steps, reply, move |entries, reply| {
        if let [Some(entry)] = entries {
            reply.bulk_all(damselfly_rdb::dump(*entry, compress));
        }
        Ok(())
    })
}

/// A request to restore a key, without the key and the payload.
#[derive(Clone, Copy)]
struct Restore {
    replace: bool,
    relative: Relative,
    idle_seconds: Option<u64>,
    count: Option<u8>,
    deadline_ms: Option<i64>,
}

impl Restore {
    fn parse(args: Args<'_>) -> Result<Self> {
        let mut parsed = Self {
            replace: false,
            relative: Relative::ToNow,
            idle_seconds: None,
            count: None,
            deadline_ms: None,
        };
        let mut at = 4;
        while at < args.len() {
            let has_value = at + 1 < args.len();
            if args.is(at, "REPLACE") {
                parsed.replace = true;
            } else if args.is(at, "ABSTTL") {
                parsed.relative = Relative::ToEpoch;
            } else if args.is(at, "IDLETIME") && has_value && parsed.count.is_none() {
                let seconds = u64::try_from(args.integer(at + 1)?);
                let error = CommandError::err("Invalid IDLETIME value, must be >= 0");
                parsed.idle_seconds = Some(seconds.map_err(|_| error)?);
                at += 1;
            } else if args.is(at, "FREQ") && has_value && parsed.idle_seconds.is_none() {
                let count = u8::try_from(args.integer(at + 1)?);
                let error = CommandError::err("Invalid FREQ value, must be >= 0 and <= 255");
                parsed.count = Some(count.map_err(|_| error)?);
                at += 1;
            } else {
                return Err(CommandError::Syntax.into());
            }
            at += 1;
        }
        Ok(parsed)
    }

    fn set_deadline(&mut self, tx: &Tx<'_>, ttl: i64) -> Result {
        if ttl < 0 {
            return Err(CommandError::err("Invalid TTL value, must be >= 0").into());
        }
        if ttl > 0 {
            // If the sum overflows, Redis treats the key as expired.
            let deadline = signed_deadline_in(tx, ttl, Unit::Millis, self.relative, "restore");
            self.deadline_ms = Some(deadline?);
        }
        Ok(())
    }

    /// Checks that the key may be created. A key that is in the way counts as used.
    fn check_key(self, tx: &mut Tx<'_>, key: Key<'_>) -> Result {
        if !self.replace && tx.access(key).is_some() {
            let text = "BUSYKEY Target key name already exists.";
            return Err(CommandError::Text(text.to_owned()).into());
        }
        Ok(())
    }

    fn decode(self, engine: &Engine, args: Args<'_>) -> std::result::Result<Entry, RdbError> {
        let thresholds = &engine.settings.thresholds;
        damselfly_rdb::restore(args.at(1), args.at(3), self.deadline_ms, thresholds)
    }

    /// Logs the request, with an absolute deadline.
    fn log(self, tx: &mut Tx<'_>, args: Args<'_>) {
        let Some(deadline) = self.deadline_ms else {
            tx.log_args(args.from(0));
            return;
        };
        let deadline = deadline.to_string();
        let mut logged: Vec<&[u8]> = args.from(0).collect();
        logged[2] = deadline.as_bytes();
        if self.relative == Relative::ToNow {
            logged.push(b"ABSTTL");
        }
        tx.log_effect(&logged);
    }

    /// Stores what was decoded.
    fn store(
        self,
        tx: &mut Tx<'_>,
        args: Args<'_>,
        decoded: std::result::Result<Entry, RdbError>,
        reply: &mut Reply<'_>,
    ) -> Result {
        let entry = decoded.map_err(|error| refusal(&error, tx.now()))?;
        let (key, changes) = (args.key(1), tx.effects().changes);
        if self
            .deadline_ms
            .is_some_and(|at| is_past(at, tx.expiry_time()))
        {
            if self.replace {
                tx.remove_unread(key);
            }
            if tx.effects().changes != changes {
                let name = tx.engine().settings.name_of_removal();
                tx.log_effect(&[name, key.bytes]);
            }
        } else {
            let policy = tx.engine().settings.access_policy();
            let access = policy.restored(self.idle_seconds, self.count, tx.now().0);
            entry.view().set_access(access);
            tx.replace(key, entry, Event::Restore);
            if tx.is_logged() {
                self.log(tx, args);
            }
        }
        reply.ok();
        Ok(())
    }
}

fn restore(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let mut request = Restore::parse(args)?;
    request.check_key(tx, args.key(1))?;
    request.set_deadline(tx, args.integer(2)?)?;
    if args.at(3).len() > PAYLOAD_BYTES_MAX && tx.others_wait() {
        return Err(Stop::LongUnlocked(Unlocked::new(move |engine, args| {
            let decoded = request.decode(engine, args);
            move |tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>| {
                request.check_key(tx, args.key(1))?;
                request.store(tx, args, decoded, reply)
            }
        })));
    }
    let decoded = request.decode(tx.engine(), args);
    request.store(tx, args, decoded, reply)
}

/// The client's error for a payload that can't be restored, whose details are logged.
fn refusal(error: &RdbError, now: Now) -> CommandError {
    /// Faults that occur sooner after a logged one are not logged, so that no client can fill the log.
    const LOG_INTERVAL_MS: i64 = 1000;
    static LOGGED_MS: AtomicI64 = AtomicI64::new(i64::MIN);
    let logged_ms = LOGGED_MS.load(Relaxed);
    if now.0.abs_diff(logged_ms) >= LOG_INTERVAL_MS.unsigned_abs() {
        LOGGED_MS.store(now.0, Relaxed);
        log::warn!("RESTORE refused a payload: {error}");
    }
    let is_footer = matches!(
        error.fault,
        Fault::NoFooter | Fault::Version(_) | Fault::Checksum { .. }
    );
    CommandError::err(if is_footer {
        "DUMP payload version or checksum are wrong"
    } else {
        "Bad data format"
    })
}
