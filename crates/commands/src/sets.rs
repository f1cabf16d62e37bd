//! Commands on a single set: adding, removing and reading members. Unions and the like are in `set_algebra.rs`.

use std::sync::atomic::Ordering::Relaxed;

use damselfly_base::number::parse_integer;
use damselfly_base::{CommandError, random};
use damselfly_engine::{Create, Event, Key, Tx};
use damselfly_protocol::Reply;
use damselfly_value::{Collection, Element, Set, SetRef, SharedLarge, Value};

use crate::command::{
    Access, Arity::AtLeast, Arity::Exactly, At::One, Command, Group, Keys, Run, Trait, looks,
    reads, writes,
};
use crate::{Args, KeyspaceFn, Result, SlicedReply, Stop, long, scans};

pub(crate) static COMMANDS: &[Command<KeyspaceFn>] = &[
    Command {
        name: "SADD",
        arity: AtLeast(3),
        keys: Keys::Args(&[writes(One(1), Access::Insert)]),
        traits: &[Trait::Fast, Trait::NeedsMemory],
        run: Run::Run(sadd),
        group: Group::Set,
        usage: "SADD key member [member ...]",
        summary: "Adds members to a set, creating it if the key is absent, and returns how many are new.",
        since: "1.0.0",
        complexity: "O(1) for each member",
    },
    Command {
        name: "SREM",
        arity: AtLeast(3),
        keys: Keys::Args(&[writes(One(1), Access::Shrink)]),
        traits: &[Trait::Fast],
        run: Run::Run(srem),
        group: Group::Set,
        usage: "SREM key member [member ...]",
        summary: "Removes members from a set and returns how many of them existed.",
        since: "1.0.0",
        complexity: "O(1) for each member",
    },
    Command {
        name: "SCARD",
        arity: Exactly(2),
        keys: Keys::Args(&[looks(One(1))]),
        traits: &[Trait::Fast],
        run: Run::Run(scard),
        group: Group::Set,
        usage: "SCARD key",
        summary: "Returns the number of members of a set.",
        since: "1.0.0",
        complexity: "O(1)",
    },
    Command {
        name: "SISMEMBER",
        arity: Exactly(3),
        keys: Keys::Args(&[looks(One(1))]),
        traits: &[Trait::Fast],
        run: Run::Run(sismember),
        group: Group::Set,
        usage: "SISMEMBER key member",
        summary: "Returns whether a set has a member.",
        since: "1.0.0",
        complexity: "O(1)",
    },
    Command {
        name: "SMISMEMBER",
        arity: AtLeast(3),
        keys: Keys::Args(&[reads(One(1))]),
        traits: &[Trait::Fast],
        run: Run::Run(smismember),
        group: Group::Set,
        usage: "SMISMEMBER key member [member ...]",
        summary: "Returns, for each of several members, whether a set has it.",
        since: "6.2.0",
        complexity: "O(N) where N is the number of members asked for",
    },
    Command {
        name: "SMEMBERS",
        arity: Exactly(2),
        keys: Keys::Args(&[reads(One(1))]),
        traits: &[Trait::Tip("nondeterministic_output_order")],
        run: Run::Run(smembers),
        group: Group::Set,
        usage: "SMEMBERS key",
        summary: "Returns all members of a set.",
        since: "1.0.0",
        complexity: "O(N) where N is the number of members",
    },
    Command {
        name: "SMOVE",
        arity: Exactly(4),
        keys: Keys::Args(&[writes(One(1), Access::Take), writes(One(2), Access::Insert)]),
        traits: &[Trait::Fast],
        run: Run::Run(smove),
        group: Group::Set,
        usage: "SMOVE source destination member",
        summary: "Moves a member from one set to another.",
        since: "1.0.0",
        complexity: "O(1)",
    },
    Command {
        name: "SPOP",
        arity: AtLeast(2),
        keys: Keys::Args(&[writes(One(1), Access::Take)]),
        traits: &[Trait::Fast, Trait::Tip("nondeterministic_output")],
        run: Run::Run(spop),
        group: Group::Set,
        usage: "SPOP key [count]",
        summary: "Removes and returns one or several random members of a set.",
        since: "1.0.0",
        complexity: "O(N) where N is the count",
    },
    Command {
        name: "SRANDMEMBER",
        arity: AtLeast(2),
        keys: Keys::Args(&[reads(One(1))]),
        traits: &[Trait::Tip("nondeterministic_output")],
        run: Run::Run(srandmember),
        group: Group::Set,
        usage: "SRANDMEMBER key [count]",
        summary: "Returns one or several random members of a set: distinct ones, or with repeats if the count is negative.",
        since: "1.0.0",
        complexity: "O(N) where N is the absolute value of the count",
    },
    Command {
        name: "SSCAN",
        arity: AtLeast(3),
        keys: Keys::Args(&[reads(One(1))]),
        traits: &[Trait::Tip("nondeterministic_output")],
        run: Run::Run(sscan),
        group: Group::Set,
        usage: "SSCAN key cursor [MATCH pattern] [COUNT count]",
        summary: "Iterates over the members of a set, a few per call, from cursor 0 until the returned cursor is 0 again.",
        since: "2.8.0",
        complexity: "O(1) for each call, O(N) for a full iteration over N members",
    },
];

/// Writes a member as a bulk string.
#[inline]
pub(crate) fn write(member: Element<'_>, reply: &mut Reply<'_>) {
    match member {
        Element::Integer(number) => reply.bulk_integer(number),
        Element::Bytes(bytes) => reply.bulk(bytes),
    }
}

fn sadd(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let key = args.key(1);
    let added = tx.change::<Set, _>(key, Create::IfAbsent, |set| {
        args.from(2).filter(|member| set.insert(member)).count()
    })?;
    write_count(tx, key, Event::Sadd, added.unwrap_or_default(), reply);
    Ok(())
}

fn srem(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let key = args.key(1);
    let removed = tx.change::<Set, _>(key, Create::Never, |set| {
        args.from(2).filter(|member| set.remove(member)).count()
    })?;
    write_count(tx, key, Event::Srem, removed.unwrap_or_default(), reply);
    Ok(())
}

/// Records the change if `count` members changed, and replies with `count`.
fn write_count(tx: &mut Tx<'_>, key: Key<'_>, event: Event, count: usize, reply: &mut Reply<'_>) {
    if count > 0 {
        tx.changed_elements(key, event, count);
    }
    reply.integer(count as i64);
}

fn scard(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let set = tx.read_as::<Set>(args.key(1))?;
    reply.integer(set.map_or(0, SetRef::len) as i64);
    Ok(())
}

fn sismember(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let set = tx.read_as::<Set>(args.key(1))?;
    let is_member = set.is_some_and(|set| set.contains(args.at(2)));
    reply.integer(is_member.into());
    Ok(())
}

fn smismember(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let set = tx.read_as::<Set>(args.key(1))?;
    reply.array(args.len() - 2);
    for member in args.from(2) {
        let is_member = set.is_some_and(|set| set.contains(member));
        reply.integer(is_member.into());
    }
    Ok(())
}

fn smembers(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let Some(entry) = tx.read(args.key(1)) else {
        reply.set(0);
        return Ok(());
    };
    let set = Set::view(entry).ok_or(CommandError::WrongType)?;
    if set.len() > long::SLICED_MIN
        && let Some(shared) = entry.share_large()
    {
        reply.set(set.len());
        return Err(Stop::SlicedReply(sliced_members(shared)));
    }
    write_all(set, reply);
    Ok(())
}

/// A reply that writes the members of a large set, a slice at a time.
fn sliced_members(shared: SharedLarge) -> SlicedReply {
    let mut cursor = 0;
    SlicedReply::new(move |reply| {
        let Value::Set(set) = shared.value() else {
            return false;
        };
        cursor = set.scan(cursor, |member| write(member, reply));
        cursor != 0
    })
}

fn write_all(set: SetRef<'_>, reply: &mut Reply<'_>) {
    reply.set(set.len());
    set.for_each(|member| write(member, reply));
}

fn smove(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let (from, to, member) = (args.key(1), args.key(2), args.at(3));
    // The destination is looked up even if there is nothing to move: it may have expired.
    tx.access(to);
    let Some(source) = tx.access_as::<Set>(from)? else {
        reply.integer(0);
        return Ok(());
    };
    let is_member = source.contains(member);
    tx.peek_as::<Set>(to)?;
    if is_member && from.bytes != to.bytes {
        tx.change_used::<Set, _>(from, Create::Never, |set| set.remove(member))?;
        tx.changed(from, Event::Srem);
        let added = tx.change_used::<Set, _>(to, Create::IfAbsent, |set| set.insert(member))?;
        if added == Some(true) {
            tx.changed(to, Event::Sadd);
        }
    }
    reply.integer(is_member.into());
    Ok(())
}

fn spop(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let key = args.key(1);
    if args.len() > 2 {
        return spop_count(tx, args, reply);
    }
    let (is_logged, mut popped_member) = (tx.is_logged(), Vec::new());
    let popped = tx.change::<Set, _>(key, Create::Never, |set| {
        set.take_random(random::number(), |member| {
            if is_logged {
                popped_member = member.to_vec();
            }
            write(member, reply);
        });
    })?;
    match popped {
        Some(()) => {
            tx.changed(key, Event::Spop);
            tx.log_effect(&[b"SREM", key.bytes, &popped_member]);
        }
        None => reply.null(),
    }
    Ok(())
}

/// Logs that members or fields were removed from a collection.
pub(crate) fn log_removed(tx: &mut Tx<'_>, name: &[u8], key: Key<'_>, removed: &[Vec<u8>]) {
    let mut args = vec![name, key.bytes];
    args.extend(removed.iter().map(Vec::as_slice));
    tx.log_effect(&args);
}

fn spop_count(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    if args.len() > 3 {
        return Err(CommandError::Syntax.into());
    }
    let key = args.key(1);
    let count = parse_integer(args.at(2))
        .and_then(|count| usize::try_from(count).ok())
        .ok_or(CommandError::NotPositive)?;
    let steps_max = long::steps_max(tx);
    match tx.access_as::<Set>(key)? {
        None => reply.set(0),
        Some(_) if count == 0 => reply.set(0),
        Some(set) if count.min(set.len()) > steps_max => return Err(Stop::Long),
        Some(set) if set.len() <= count => {
            let popped = set.len();
            write_all(set, reply);
            tx.take(key);
            tx.changed_many(popped - 1);
            tx.event(key, Event::Spop);
            tx.event(key, Event::Del);
            tx.log_effect(&[b"DEL", key.bytes]);
        }
        Some(_) => {
            reply.set(count);
            let (is_logged, mut popped) = (tx.is_logged(), Vec::new());
            tx.change_used::<Set, _>(key, Create::Never, |set| {
                set.take_sample(count, random::number, |member| {
                    if is_logged {
                        popped.push(member.to_vec());
                    }
                    write(member, reply);
                });
            })?;
            tx.changed_elements(key, Event::Spop, count);
            if is_logged {
                log_removed(tx, b"SREM", key, &popped);
            }
        }
    }
    Ok(())
}

fn srandmember(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let key = args.key(1);
    if args.len() > 3 {
        return Err(CommandError::Syntax.into());
    }
    if args.len() == 2 {
        match tx.read_as::<Set>(key)? {
            Some(set) => write(set.random(random::number()), reply),
            None => reply.null(),
        }
        return Ok(());
    }
    let count = args.integer(2)?;
    if count == i64::MIN {
        return Err(CommandError::err(
            "value is out of range, value must between -9223372036854775807 and 9223372036854775807",
        )
        .into());
    }
    let len = tx.read_as::<Set>(key)?.map_or(0, SetRef::len);
    let picks = Picks::new(tx, count, len)?;
    long::reply_from(tx, args, 1..2, picks.count, reply, move |entries, reply| {
        match entries[0].and_then(Set::view) {
            None => reply.array(0),
            Some(set) if picks.may_repeat => {
                let pick = |reply: &mut Reply<'_>| write(set.random(random::number()), reply);
                picks.write_repeats(reply, |reply| reply.array(picks.count), pick)?;
            }
            Some(set) => {
                reply.array(picks.count);
                set.sample(picks.count, random::number, |member| write(member, reply));
            }
        }
        Ok(())
    })
}

/// How many random members of a collection to return.
#[derive(Clone, Copy)]
pub(crate) struct Picks {
    pub count: usize,
    /// Each is chosen from all members, so that they may repeat.
    pub may_repeat: bool,
    /// The most bytes of a reply with repeated members. Redis would try to hold any number of them in memory.
    bytes_max: usize,
}

impl Picks {
    /// For a collection of `len` members. With a negative count they may repeat.
    ///
    /// # Errors
    /// Refuses a negative count so large that even empty members would make the reply too long.
    pub fn new(tx: &Tx<'_>, count: i64, len: usize) -> Result<Self> {
        const MEMBER_BYTES_MIN: usize = b"$0\r\n\r\n".len();
        let may_repeat = count < 0 && len > 0;
        let wanted = usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX);
        let picks = Self {
            count: if may_repeat { wanted } else { wanted.min(len) },
            may_repeat,
            bytes_max: tx.engine().settings.bulk_bytes_max.load(Relaxed),
        };
        match may_repeat && wanted.saturating_mul(MEMBER_BYTES_MIN) > picks.bytes_max {
            true => Err(Self::too_long()),
            false => Ok(picks),
        }
    }

    fn too_long() -> Stop {
        CommandError::err("reply exceeds proto-max-bulk-len").into()
    }

    /// Writes members that may repeat: `begin` writes the head of the list, `pick` a random member.
    pub fn write_repeats(
        self,
        reply: &mut Reply<'_>,
        begin: impl FnOnce(&mut Reply<'_>),
        mut pick: impl FnMut(&mut Reply<'_>),
    ) -> Result {
        let start = reply.position();
        begin(reply);
        for _ in 0..self.count {
            pick(reply);
            if reply.position() - start > self.bytes_max {
                reply.truncate_to(start);
                return Err(Self::too_long());
            }
        }
        Ok(())
    }
}

fn sscan(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    scans::scan::<Set>(
        tx,
        args,
        reply,
        scans::Extra::None,
        |set| set.len(),
        |set, cursor, found| {
            set.scan(cursor, |member| {
                found.take(member, 1, |reply| write(member, reply));
            })
        },
    )
}
