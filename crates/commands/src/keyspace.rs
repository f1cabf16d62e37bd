//! All keys at once: KEYS, SCAN, DBSIZE, FLUSHALL and their relatives.

use std::sync::atomic::Ordering::Relaxed;

use damselfly_base::glob::Glob;
use damselfly_base::{CommandError, number};
use damselfly_engine::{Cursor, Tx};
use damselfly_protocol::Reply;

use crate::command::{Arity::AtLeast, Arity::Exactly, Command, Group, Keys, Run, Trait};
use crate::{Args, KeyspaceFn, Result, Stop, long, scans};

pub(crate) static COMMANDS: &[Command<KeyspaceFn>] = &[
    Command {
        name: "KEYS",
        arity: Exactly(2),
        keys: Keys::None,
        traits: &[
            Trait::ReadOnly,
            Trait::TouchesArbitraryKeys,
            Trait::Dangerous,
            Trait::Tip("request_policy:all_shards"),
            Trait::Tip("nondeterministic_output_order"),
        ],
        run: Run::Run(keys),
        group: Group::Generic,
        usage: "KEYS pattern",
        summary: "Returns all keys that match a glob pattern.",
        since: "1.0.0",
        complexity: "O(N) where N is the number of keys in the database",
    },
    Command {
        name: "RANDOMKEY",
        arity: Exactly(1),
        keys: Keys::All { writes: false },
        traits: &[
            Trait::TouchesArbitraryKeys,
            Trait::Tip("request_policy:all_shards"),
            Trait::Tip("response_policy:special"),
            Trait::Tip("nondeterministic_output"),
        ],
        run: Run::Run(randomkey),
        group: Group::Generic,
        usage: "RANDOMKEY",
        summary: "Returns a random key.",
        since: "1.0.0",
        complexity: "O(1)",
    },
    Command {
        name: "SCAN",
        arity: AtLeast(2),
        keys: Keys::None,
        traits: &[
            Trait::ReadOnly,
            Trait::TouchesArbitraryKeys,
            Trait::Tip("nondeterministic_output"),
            Trait::Tip("request_policy:special"),
            Trait::Tip("response_policy:special"),
        ],
        run: Run::Run(scan),
        group: Group::Generic,
        usage: "SCAN cursor [MATCH pattern] [COUNT count] [TYPE type]",
        summary: "Iterates over the keys, a few per call, from cursor 0 until the returned cursor is 0 again.",
        since: "2.8.0",
        complexity: "O(1) for each call, O(N) for a full iteration over N keys",
    },
    Command {
        name: "DBSIZE",
        arity: Exactly(1),
        keys: Keys::All { writes: false },
        traits: &[
            Trait::Fast,
            Trait::Tip("request_policy:all_shards"),
            Trait::Tip("response_policy:agg_sum"),
        ],
        run: Run::Run(dbsize),
        group: Group::Server,
        usage: "DBSIZE",
        summary: "Returns the number of keys in the database.",
        since: "1.0.0",
        complexity: "O(1)",
    },
    Command {
        name: "FLUSHDB",
        arity: AtLeast(1),
        keys: Keys::All { writes: true },
        traits: &[
            Trait::Dangerous,
            Trait::Tip("request_policy:all_shards"),
            Trait::Tip("response_policy:all_succeeded"),
        ],
        run: Run::Run(flushdb),
        group: Group::Server,
        usage: "FLUSHDB [ASYNC | SYNC]",
        summary: "Removes all keys of the database.",
        since: "1.0.0",
        complexity: "O(N) where N is the number of keys, of which ASYNC leaves all but O(1) for later",
    },
    Command {
        name: "FLUSHALL",
        arity: AtLeast(1),
        keys: Keys::All { writes: true },
        traits: &[
            Trait::Dangerous,
            Trait::Tip("request_policy:all_shards"),
            Trait::Tip("response_policy:all_succeeded"),
        ],
        run: Run::Run(flushall),
        group: Group::Server,
        usage: "FLUSHALL [ASYNC | SYNC]",
        summary: "Removes all keys of all databases.",
        since: "1.0.0",
        complexity: "O(N) where N is the number of keys, of which ASYNC leaves all but O(1) for later",
    },
    Command {
        name: "SWAPDB",
        arity: Exactly(3),
        keys: Keys::All { writes: true },
        traits: &[Trait::Fast, Trait::Dangerous],
        run: Run::Run(swapdb),
        group: Group::Server,
        usage: "SWAPDB index1 index2",
        summary: "Swaps two databases.",
        since: "4.0.0",
        complexity: "O(1)",
    },
];

/// KEYS locks one shard after the other, each briefly. Its reply is a consistent snapshot only if all locks are held, as in
/// transactions and scripts.
fn keys(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let mut steps = tx.estimated_keys()?;
    long::check(tx, steps)?;
    steps = 0;
    let pattern = args.at(1);
    // As in Redis, no pattern but `*` matches the empty key.
    let glob = (pattern != b"*").then(|| Glob::new(pattern));
    let (list, mut count) = (reply.deferred_array(), 0);
    let mut show = |key: &[u8]| {
        reply.bulk(key);
        count += 1;
    };
    let (mut cursor, mut slow_names) = (Cursor(0), Vec::new());
    loop {
        let walked = tx.walk(cursor, |entry| {
            steps += 1;
            let key = entry.key();
            match &glob {
                Some(glob) if scans::is_slow(glob, key) => slow_names.push(key.to_vec()),
                Some(glob) if !glob.matches(key) => {}
                Some(_) | None => show(key),
            }
        });
        cursor = match walked {
            Ok(next) => next,
            // On a thread for long commands it can wait for a shard, and need not start again for each busy one.
            Err(_) if tx.others_wait() && cursor != Cursor(0) => return Err(Stop::Long),
            Err(busy) => return Err(busy.into()),
        };
        let glob = glob.as_ref();
        scans::match_slow_names(tx, glob, &mut slow_names, &mut steps, &mut show)?;
        if cursor == Cursor(0) {
            break;
        }
    }
    reply.finish(list, count);
    Ok(())
}

fn randomkey(tx: &mut Tx<'_>, _args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    match tx.random_key(damselfly_base::random::number) {
        Some(key) => reply.bulk(&key),
        None => reply.null(),
    }
    Ok(())
}

fn scan(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let cursor = Cursor(scans::cursor(args, 1)?);
    let options = scans::Options::parse(args, 2, scans::Extra::Type)?;
    // The database may have fewer entries than COUNT.
    let count = options.count.min(long::steps_max(tx));
    scans::write(reply, |list| {
        let (mut shown, mut slow_names) = (0, Vec::new());
        let mut show = |key: &[u8]| {
            list.bulk(key);
            shown += 1;
        };
        let glob = options.glob.as_ref();
        let next = tx.scan(tx.db(), cursor, count, |entry| {
            let (key, kind) = (entry.key(), entry.type_of().name());
            let of_type = |name: &[u8]| name.eq_ignore_ascii_case(kind.as_bytes());
            if !options.only_type.is_none_or(of_type) {
                return;
            }
            match glob {
                Some(glob) if scans::is_slow(glob, key) => slow_names.push(key.to_vec()),
                Some(glob) if !glob.matches(key) => {}
                Some(_) | None => show(key),
            }
        })?;
        if next != Cursor(0) && count < options.count {
            return Err(Stop::Long);
        }
        scans::match_slow_names(tx, glob, &mut slow_names, &mut 0, &mut show)?;
        Ok((next.0, shown))
    })
}

fn dbsize(tx: &mut Tx<'_>, _args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    reply.integer(tx.count() as i64);
    Ok(())
}

/// True if the memory is freed after the reply.
fn frees_later(tx: &Tx<'_>, args: Args<'_>) -> Result<bool> {
    match args.len() {
        1 => Ok(tx.engine().settings.flushes_later.load(Relaxed)),
        2 if args.is(1, "ASYNC") => Ok(true),
        2 if args.is(1, "SYNC") => Ok(false),
        _ => Err(CommandError::Syntax.into()),
    }
}

/// Moves a command that frees many keys before its reply to another thread.
fn check_freeing(tx: &Tx<'_>, keys: usize, later: bool) -> Result {
    match later {
        true => Ok(()),
        false => long::check(tx, keys),
    }
}

fn flushdb(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let later = frees_later(tx, args)?;
    let keys = tx.totals(tx.db()).keys;
    check_freeing(tx, keys, later)?;
    tx.flush(tx.db(), later);
    tx.invalidate_all();
    // Even if there was nothing to remove, as in Redis.
    tx.log_args(args.from(0));
    reply.ok();
    Ok(())
}

fn flushall(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let later = frees_later(tx, args)?;
    if tx.others_wait() {
        // With save points, the reply comes after a save.
        return Err(Stop::Long);
    }
    for db in 0..tx.engine().databases() {
        tx.flush(db, later);
    }
    tx.engine().note_flush();
    tx.invalidate_all();
    tx.log_args(args.from(0));
    reply.ok();
    Ok(())
}

fn swapdb(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let index = |at: usize, which: &str| -> Result<usize> {
        let index = number::parse_integer(args.at(at))
            .filter(|&index| i32::try_from(index).is_ok())
            .ok_or_else(|| CommandError::err(format!("invalid {which} DB index")))?;
        usize::try_from(index)
            .ok()
            .filter(|&index| index < tx.engine().databases())
            .ok_or(CommandError::DatabaseOutOfRange.into())
    };
    // As in Redis, both are parsed before either is checked against the number of databases.
    let parsed = (index(1, "first"), index(2, "second"));
    let (a, b) = match parsed {
        (Err(crate::Stop::Error(CommandError::DatabaseOutOfRange)), Err(second)) => {
            return Err(second);
        }
        (first, second) => (first?, second?),
    };
    tx.swap_databases(a, b);
    reply.ok();
    Ok(())
}
