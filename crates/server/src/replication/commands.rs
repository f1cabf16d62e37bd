//! PSYNC, SYNC, REPLCONF, ROLE, WAIT: what replicas ask for, and what clients may know of them.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use damselfly_base::{CommandError, number};
use damselfly_commands::Arity::{AtLeast, Exactly};
use damselfly_commands::{Args, Command, Group, Keys, Result, Run, Trait};
use damselfly_protocol::Reply;

use super::feed::{Abilities, Feed};
use super::link;
use super::wait::{wait_for_handover, wait_for_merge};
use crate::admin::client;
use crate::registry::Handler;
use crate::session::{Awaited, Context, DiskWait};
use crate::users;

/// The longest address that a replica may report.
const ADDRESS_BYTES_MAX: usize = 1024;

/// The traits of WAIT and WAITAOF.
pub(crate) const WAIT_TRAITS: &[Trait] = &[
    Trait::Blocking,
    Trait::Category("connection"),
    Trait::Tip("request_policy:all_shards"),
    Trait::Tip("response_policy:agg_min"),
];

pub(crate) static COMMANDS: &[Command<Handler>] = &[
    Command {
        name: "PSYNC",
        arity: AtLeast(3),
        keys: Keys::None,
        traits: &[
            Trait::Admin,
            Trait::NoScript,
            Trait::NoAsyncLoading,
            Trait::NoMulti,
            Trait::SystemCommand,
        ],
        run: Run::Run(Handler::Session(psync)),
        group: Group::Server,
        usage: "PSYNC replicationid offset [FAILOVER]",
        summary: "Makes the connection a replica that continues at an offset of the stream, or begins with a snapshot.",
        since: "2.8.0",
        complexity: "",
    },
    Command {
        name: "SYNC",
        arity: Exactly(1),
        keys: Keys::None,
        traits: &[
            Trait::Admin,
            Trait::NoScript,
            Trait::NoAsyncLoading,
            Trait::NoMulti,
            Trait::SystemCommand,
        ],
        run: Run::Run(Handler::Session(sync)),
        group: Group::Server,
        usage: "SYNC",
        summary: "Makes the connection a replica that begins with a snapshot.",
        since: "1.0.0",
        complexity: "",
    },
    Command {
        name: "REPLCONF",
        arity: AtLeast(1),
        keys: Keys::None,
        traits: &[
            Trait::Admin,
            Trait::NoScript,
            Trait::Loading,
            Trait::Stale,
            Trait::AllowBusy,
            Trait::SystemCommand,
        ],
        run: Run::Run(Handler::Session(replconf)),
        group: Group::Server,
        usage: "REPLCONF [option value ...]",
        summary: "Says what a replica can do, and what it has received.",
        since: "3.0.0",
        complexity: "O(1)",
    },
    Command {
        name: "ROLE",
        arity: Exactly(1),
        keys: Keys::None,
        traits: &[
            Trait::NoScript,
            Trait::Loading,
            Trait::Stale,
            Trait::Fast,
            Trait::Sentinel,
            Trait::Category("admin"),
            Trait::Dangerous,
        ],
        run: Run::Run(Handler::Session(role)),
        group: Group::Server,
        usage: "ROLE",
        summary: "Returns whether this is a primary or a replica, its offset, and its replicas or its primary.",
        since: "2.8.12",
        complexity: "O(1)",
    },
    Command {
        name: "WAIT",
        arity: Exactly(3),
        keys: Keys::None,
        traits: WAIT_TRAITS,
        run: Run::Run(Handler::Session(wait)),
        group: Group::Generic,
        usage: "WAIT numreplicas timeout",
        summary: "Waits until all writes of this connection are on so many replicas; returns on how many they are.",
        since: "3.0.0",
        complexity: "O(1)",
    },
];

fn psync(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    if context.session.feed.is_some() {
        return Ok(());
    }
    if args.is(3, "FAILOVER") {
        take_over(context, args)?;
    }
    let abilities = begin_sync(context, reply)?;
    let id = args.at(1);
    let feed = new_feed(context, abilities);
    let next = args.integer(2).inspect_err(|_| {
        log::warn!(
            "Replica {} asks for synchronization but with a wrong offset",
            feed.name()
        );
    })?;
    let replication = &context.shared.replication;
    let continued = match u64::try_from(next) {
        Ok(0) | Err(_) => Err("this is no offset"),
        Ok(next) => replication.continue_feed(&feed, id, next),
    };
    match continued {
        Ok(()) => {
            replication.counters.partial.fetch_add(1, Relaxed);
            log::info!(
                "Partial resynchronization request from {} accepted, from offset {next}.",
                feed.name()
            );
            follow(context, feed);
        }
        Err(_) if id == b"?" => start_over(context, feed),
        Err(why) => {
            replication.counters.refused.fetch_add(1, Relaxed);
            log::info!(
                "Partial resynchronization not accepted: {why} (replica {} asked for offset {next}).",
                feed.name()
            );
            start_over(context, feed);
        }
    }
    Ok(())
}

fn sync(context: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    if context.session.feed.is_some() {
        return Ok(());
    }
    let mut abilities = begin_sync(context, reply)?;
    abilities.is_old = true;
    let feed = new_feed(context, abilities);
    start_over(context, feed);
    Ok(())
}

/// The primary of this replica hands its role over: this server becomes a primary, once it has applied what the other has sent before.
fn take_over(context: &mut Context<'_>, args: Args<'_>) -> Result {
    let replication = &context.shared.replication;
    if context.session.stream_wait.is_none() {
        log::warn!(
            "Failover request received for replid {}.",
            String::from_utf8_lossy(args.at(1))
        );
    }
    if !replication.is_replica() {
        return Err(CommandError::err("PSYNC FAILOVER can't be sent to a master.").into());
    }
    if !args
        .at(1)
        .eq_ignore_ascii_case(replication.history().id.as_bytes())
    {
        return Err(CommandError::err("PSYNC FAILOVER replid must match my replid.").into());
    }
    let sent = u64::try_from(args.integer(2)?).unwrap_or(0);
    wait_for_handover(context, sent.saturating_sub(1))?;
    link::become_primary(context.shared);
    let client = client::line(&context.session.client, context.now.0);
    log::info!(
        "MASTER MODE enabled (failover request from '{}')",
        client.trim_end()
    );
    Ok(())
}

/// Checks that this connection can become a replica, and returns what it can do.
fn begin_sync(context: &mut Context<'_>, reply: &mut Reply<'_>) -> Result<Abilities> {
    let replication = &context.shared.replication;
    if replication.is_failing_over() {
        let text = "NOMASTERLINK Can't SYNC while failing over";
        return Err(CommandError::Text(text.to_owned()).into());
    }
    if replication.is_replica() && !replication.link.is_connected() {
        let text = "NOMASTERLINK Can't SYNC while not connected with my master";
        return Err(CommandError::Text(text.to_owned()).into());
    }
    if reply.position() > 0 {
        let text = "SYNC and PSYNC are invalid with pending output";
        return Err(CommandError::err(text).into());
    }
    let abilities = context.session.abilities.as_deref().cloned();
    let abilities = abilities.unwrap_or_default();
    if (abilities.without_keys || abilities.without_functions) && !abilities.eof {
        return Err(CommandError::err("Filtered replica requires EOF capability").into());
    }
    Ok(abilities)
}

fn new_feed(context: &Context<'_>, abilities: Abilities) -> Arc<Feed> {
    let waker = context.shared.threads[context.thread].waker();
    let feed = Feed::new(context.session.client.clone(), abilities, waker);
    log::info!("Replica {} asks for synchronization", feed.name());
    Arc::new(feed)
}

/// Makes the connection that of a replica that waits for a snapshot.
fn start_over(context: &mut Context<'_>, feed: Arc<Feed>) {
    let replication = &context.shared.replication;
    replication.counters.full.fetch_add(1, Relaxed);
    replication.add_feed(&feed);
    follow(context, feed);
}

fn follow(context: &mut Context<'_>, feed: Arc<Feed>) {
    context.session.client.is_replica.store(true, Relaxed);
    feed.wake();
    context.session.feed = Some(feed);
    let shared = context.shared;
    users::recheck(shared, context.session);
    shared
        .replication
        .check_good_replicas(shared, context.config);
}

/// A number from 0 to `max`.
fn number_up_to(args: Args<'_>, place: usize, max: i64) -> Result<i64> {
    let value = args.integer(place)?;
    match (0..=max).contains(&value) {
        true => Ok(value),
        false => Err(CommandError::err(format!(
            "value is out of range, value must between 0 and {max}"
        ))
        .into()),
    }
}

fn replconf(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    if args.len().is_multiple_of(2) {
        return Err(CommandError::Syntax.into());
    }
    for place in (1..args.len()).step_by(2) {
        if args.is(place, "ACK") {
            note_ack(context, args, place);
            // There is no reply.
            return Ok(());
        }
        if args.is(place, "GETACK") {
            // Only the primary of this server may ask, and the link answers it.
            return Ok(());
        }
        let abilities = context.session.abilities.get_or_insert_default();
        set_ability(abilities, args, place)?;
    }
    reply.ok();
    Ok(())
}

fn set_ability(abilities: &mut Abilities, args: Args<'_>, place: usize) -> Result {
    let value = args.at(place + 1);
    if args.is(place, "LISTENING-PORT") {
        abilities.port = args.integer(place + 1)?;
    } else if args.is(place, "IP-ADDRESS") {
        if value.len() > ADDRESS_BYTES_MAX {
            let text = "REPLCONF ip-address provided by replica instance is too long";
            return Err(CommandError::err(format!("{text}: {} bytes", value.len())).into());
        }
        abilities.address = String::from_utf8_lossy(value).into_owned();
    } else if args.is(place, "CAPA") {
        // Others are ignored.
        abilities.eof |= value.eq_ignore_ascii_case(b"eof");
        abilities.psync2 |= value.eq_ignore_ascii_case(b"psync2");
    } else if args.is(place, "RDB-ONLY") {
        abilities.rdb_only = number_up_to(args, place + 1, 1)? == 1;
    } else if args.is(place, "RDB-FILTER-ONLY") {
        let words = value.split(|byte| byte.is_ascii_whitespace());
        (abilities.without_keys, abilities.without_functions) = (true, true);
        for word in words.filter(|word| !word.is_empty()) {
            if !word.eq_ignore_ascii_case(b"functions") {
                let text = "Unsupported rdb-filter-only option: ";
                return Err(CommandError::quoting(text, word, "").into());
            }
            abilities.without_functions = false;
        }
    } else if !args.is(place, "VERSION") {
        let text = "Unrecognized REPLCONF option: ";
        return Err(CommandError::quoting(text, args.at(place), "").into());
    }
    Ok(())
}

/// Notes what a replica has received, and with `FACK` what it has on disk.
fn note_ack(context: &Context<'_>, args: Args<'_>, place: usize) {
    let offset_at = |place: usize| {
        let offset = number::parse_integer(args.get(place)?)?;
        u64::try_from(offset).ok()
    };
    let (Some(feed), Some(offset)) = (&context.session.feed, offset_at(place + 1)) else {
        return;
    };
    let on_disk = match args.is(place + 2, "FACK") {
        true => offset_at(place + 3),
        false => None,
    };
    feed.note_ack(offset, on_disk);
    let shared = context.shared;
    shared.replication.acks.fetch_add(1, Relaxed);
    if shared.replication.has_waiting() {
        shared.threads.iter().for_each(crate::threads::Thread::wake);
    }
    if context.config.min_replicas_to_write > 0 {
        shared
            .replication
            .check_good_replicas(shared, context.config);
    }
}

fn role(context: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let replication = &context.shared.replication;
    if replication.is_replica() {
        link::role_reply(context.shared, reply);
        return Ok(());
    }
    wait_for_merge(context)?;
    let mut feeds = replication.feeds();
    feeds.retain(|feed| feed.is_shown_online());
    reply.array(3);
    reply.bulk(b"master");
    reply.integer(replication.history().offset as i64);
    reply.array(feeds.len());
    for feed in feeds {
        reply.array(3);
        reply.bulk(feed.address().as_bytes());
        reply.bulk_integer(feed.abilities.port);
        reply.bulk_integer(feed.acked() as i64);
    }
    Ok(())
}

/// What WAIT waits for is everything that the log has now: the connection's own writes are among it.
fn wait(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let shared = context.shared;
    if shared.replication.is_replica() {
        let text = "WAIT cannot be used with replica instances. Please also note that since Redis 4.0 if a replica is configured to be writable (which is not the default) writes to replicas are just local and are not propagated.";
        return Err(CommandError::err(text).into());
    }
    let wanted = args.integer(1)?;
    let timeout_ms = args
        .integer(2)
        .map_err(|_| CommandError::err("timeout is not an integer or out of range"))?;
    let Ok(timeout_ms) = u64::try_from(timeout_ms) else {
        return Err(CommandError::err("timeout is negative").into());
    };
    let record = shared.engine.log.appended();
    shared.replication.begin_wait();
    let wait = DiskWait {
        thread: context.thread,
        record,
        awaited: Awaited::Replicas,
        replicas: usize::try_from(wanted).unwrap_or(0),
        until: (timeout_ms > 0).then(|| Instant::now() + Duration::from_millis(timeout_ms)),
    };
    // A transaction or a script can't wait.
    if wait.is_complete(shared) || context.is_time_frozen {
        wait.write_reply(shared, reply);
        shared.replication.end_wait();
        return Ok(());
    }
    shared.log.wake();
    context.session.client.awaits.store(true, Relaxed);
    context.session.disk_wait = Some(wait);
    Ok(())
}
