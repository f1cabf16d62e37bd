//! Commands that compare a string, or its digest, before they change it: DELEX and DELIFEQ, with DIGEST, the conditions of SET, and
//! MSETEX.
//!
//! Defined by <https://redis.io/docs/latest/commands/delex/>, `digest/`, `set/` and `msetex/` next to it, and
//! <https://valkey.io/commands/delifeq/>.

use damselfly_base::CommandError;
use damselfly_base::number::parse_integer;
use damselfly_engine::{Deadline, Event, Tx};
use damselfly_protocol::Reply;
use damselfly_value::{NewValue, Text};
use xxhash_rust::xxh3::xxh3_64;

use crate::command::{
    Access, Arity::AtLeast, Arity::Exactly, At::CountedPairs, At::One, Command, Group, Keys, Run,
    Trait, reads, writes,
};
use crate::strings::{CommandKind, Condition, Options, Scratch, text_of};
use crate::{Args, KeyspaceFn, Result};

pub(crate) static COMMANDS: &[Command<KeyspaceFn>] = &[
    Command {
        name: "DIGEST",
        arity: Exactly(2),
        keys: Keys::Args(&[reads(One(1))]),
        traits: &[Trait::Fast],
        run: Run::Run(digest),
        group: Group::String,
        usage: "DIGEST key",
        summary: "Returns the XXH3 digest of the string at a key, in hexadecimal.",
        since: "8.4.0",
        complexity: "O(N) where N is the length of the string",
    },
    Command {
        name: "DELEX",
        arity: AtLeast(2),
        keys: Keys::Args(&[writes(One(1), Access::Remove)]),
        traits: &[Trait::Fast],
        run: Run::Run(delex),
        group: Group::String,
        usage: "DELEX key [IFEQ value | IFNE value | IFDEQ digest | IFDNE digest]",
        summary: "Removes a key, optionally only if its string, or the digest of its string, is or is not the given one.",
        since: "8.4.0",
        complexity: "O(1) for IFEQ and IFNE, O(N) for IFDEQ and IFDNE where N is the length of the string",
    },
    Command {
        name: "DELIFEQ",
        arity: Exactly(3),
        keys: Keys::Args(&[writes(One(1), Access::Remove)]),
        traits: &[Trait::Fast],
        run: Run::Run(delifeq),
        group: Group::String,
        usage: "DELIFEQ key value",
        summary: "Removes a key only if its string is the given one, as in Valkey 9.",
        since: "9.0.0",
        complexity: "O(1)",
    },
    Command {
        name: "MSETEX",
        arity: AtLeast(4),
        keys: Keys::Args(&[writes(CountedPairs(1), Access::Overwrite)]),
        traits: &[
            Trait::NeedsMemory,
            Trait::Tip("request_policy:multi_shard"),
            Trait::Tip("response_policy:all_succeeded"),
        ],
        run: Run::Run(msetex),
        group: Group::String,
        usage: "MSETEX numkeys key value [key value ...] [NX | XX] [EX seconds | PX milliseconds | EXAT unix-time-seconds | PXAT unix-time-milliseconds | KEEPTTL]",
        summary: "Sets the values of several keys and their expiry, atomically, optionally only if none or all of the keys exist.",
        since: "8.4.0",
        complexity: "O(N) where N is the number of keys",
    },
];

/// A condition on the string at a key.
#[derive(Clone, Copy)]
pub(crate) struct ValueCondition<'a> {
    /// The string, or the digest, to compare with.
    operand: &'a [u8],
    of_digest: bool,
    /// Whether they must be equal, or must not be.
    equal: bool,
}

/// The length of a digest in hexadecimal.
const DIGEST_LEN: usize = 16;

impl<'a> ValueCondition<'a> {
    /// The condition that begins at an argument, if it is one.
    pub(crate) fn parse(args: Args<'a>, at: usize) -> Option<Self> {
        let (of_digest, equal) = [
            ("IFEQ", false, true),
            ("IFNE", false, false),
            ("IFDEQ", true, true),
            ("IFDNE", true, false),
        ]
        .into_iter()
        .find(|(word, ..)| args.is(at, word))
        .map(|(_, of_digest, equal)| (of_digest, equal))?;
        args.get(at + 1).map(|operand| Self {
            operand,
            of_digest,
            equal,
        })
    }

    /// Whether the condition allows the command to change the key, which holds this string, or nothing.
    ///
    /// # Errors
    /// The digest to compare with is malformed.
    pub(crate) fn allows(self, text: Option<Text<'_>>) -> Result<bool> {
        let Some(text) = text else {
            return Ok(!self.equal);
        };
        let mut scratch = Scratch::default();
        let text = text_of(text, &mut scratch);
        let is_equal = if self.of_digest {
            xxh3_64(text) == parse_digest(self.operand)?
        } else {
            text == self.operand
        };
        Ok(is_equal == self.equal)
    }
}

fn parse_digest(digest: &[u8]) -> Result<u64> {
    let is_digest = digest.len() == DIGEST_LEN && digest.iter().all(u8::is_ascii_hexdigit);
    std::str::from_utf8(digest)
        .ok()
        .filter(|_| is_digest)
        .and_then(|digest| u64::from_str_radix(digest, 16).ok())
        .ok_or_else(|| {
            CommandError::err("IFDEQ/IFDNE digest must be exactly 16 hexadecimal characters").into()
        })
}

fn digest(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let mut scratch = Scratch::default();
    match tx.read_text(args.key(1))? {
        Some(text) => {
            let digest = xxh3_64(text_of(text, &mut scratch));
            reply.bulk(format!("{digest:0DIGEST_LEN$x}").as_bytes());
        }
        None => reply.null(),
    }
    Ok(())
}

fn delex(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    if args.len() == 2 {
        let removed = tx.remove(args.key(1)).is_some();
        if removed {
            tx.log_effect(&[b"DEL", args.at(1)]);
        }
        reply.integer(removed.into());
        return Ok(());
    }
    if args.len() != 4 {
        return Err(CommandError::Arity("delex".to_owned()).into());
    }
    let condition = ValueCondition::parse(args, 2)
        .ok_or_else(|| CommandError::err("Invalid condition. Use IFEQ, IFNE, IFDEQ, or IFDNE"))?;
    remove_if(tx, args, condition, reply)
}

fn delifeq(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let condition = ValueCondition {
        operand: args.at(2),
        of_digest: false,
        equal: true,
    };
    remove_if(tx, args, condition, reply)
}

fn remove_if(
    tx: &mut Tx<'_>,
    args: Args<'_>,
    condition: ValueCondition<'_>,
    reply: &mut Reply<'_>,
) -> Result {
    let key = args.key(1);
    let text = match tx.access(key) {
        None => {
            reply.integer(0);
            return Ok(());
        }
        Some(entry) => entry.text().ok_or(CommandError::WrongType)?,
    };
    let removes = condition.allows(Some(text))?;
    if removes {
        tx.remove(key);
        tx.log_effect(&[b"DEL", key.bytes]);
    }
    reply.integer(removes.into());
    Ok(())
}

fn msetex(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    const FIRST_KEY: usize = 2;
    let count = parse_integer(args.at(1))
        .and_then(|count| i32::try_from(count).ok())
        .and_then(|count| usize::try_from(count).ok())
        .filter(|&count| count > 0)
        .ok_or_else(|| CommandError::err("invalid numkeys value"))?;
    let end = FIRST_KEY + 2 * count;
    if end > args.len() {
        return Err(CommandError::err("wrong number of key-value pairs").into());
    }
    let options = Options::parse(args, end, CommandKind::MsetEx)?;
    let deadline = options.deadline(tx, "msetex")?;
    let places = (FIRST_KEY..end).step_by(2);
    let mut existing = places.clone().map(|at| tx.access(args.key(at)).is_some());
    let allowed = match options.only_if {
        Some(Condition::Exists) => existing.all(|exists| exists),
        Some(Condition::Absent) => !existing.any(|exists| exists),
        Some(Condition::Value(_)) | None => true,
    };
    drop(existing);
    if allowed {
        for at in places {
            let (key, value) = (args.key(at), NewValue::compact(args.at(at + 1)));
            match options.only_if {
                Some(_) => tx.store_used(key, value, deadline, Event::Set),
                None => tx.store(key, value, deadline),
            }
            if matches!(deadline, Deadline::At(_)) {
                tx.event(key, Event::Expire);
            }
            log_as_set(tx, args, at, deadline);
        }
    }
    reply.integer(allowed.into());
    Ok(())
}

/// Logs the value that MSETEX has stored at one key, as a command that other servers know.
fn log_as_set(tx: &mut Tx<'_>, args: Args<'_>, at: usize, deadline: Deadline) {
    let (key, value) = (args.at(at), args.at(at + 1));
    match deadline {
        Deadline::Clear => tx.log_effect(&[b"SET", key, value]),
        Deadline::Keep => tx.log_effect(&[b"SET", key, value, b"KEEPTTL"]),
        Deadline::At(moment) if tx.is_logged() => {
            let moment = moment.to_string();
            tx.log_effect(&[b"SET", key, value, b"PXAT", moment.as_bytes()]);
        }
        Deadline::At(_) => {}
    }
}
