//! CLIENT: shows connections, changes their settings, and lets a connection act on others.

mod filters;
mod rows;

use std::fmt::Write as _;
use std::sync::atomic::Ordering::Relaxed;

use damselfly_base::{CommandError, number};
use damselfly_commands::{Args, Result};
use damselfly_protocol::Reply;

use crate::blocked::End;
use crate::clients::Client;
use crate::event_loop::parser::Protocol;
use crate::observers::client_tracking;
use crate::persistence::aof::Mode;
use crate::registry::{Row, name_at};
use crate::replication::feed::Status;
use crate::session::connection_commands::check_name;
use crate::session::{Context, Durability, Replies, Session};
use crate::threads::Thread;
use damselfly_pubsub::Topic;

use filters::Filter;
pub(crate) use rows::COMMANDS;

/// True if a pause of all commands lets this one run.
///
/// As in Redis, monitors are never held back. Redis also holds back CLIENT UNPAUSE, so that no client can end a pause of all
/// commands early; here it runs.
#[cold]
pub fn runs_while_paused(session: &Session, row: &Row) -> bool {
    session.client.monitor.load(Relaxed) || row.name == "client|unpause"
}

fn id(context: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    reply.integer(context.session.client.id as i64);
    Ok(())
}

fn get_name(context: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    match context.session.client.names().name.as_str() {
        "" => reply.null(),
        name => reply.bulk(name.as_bytes()),
    }
    Ok(())
}

fn set_name(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let name = check_name(args.at(2), "Client names")?;
    context.session.client.names().name = name;
    reply.ok();
    Ok(())
}

fn set_info(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let attribute = String::from_utf8_lossy(args.at(2)).into_owned();
    let is_name = args.is(2, "LIB-NAME");
    if !is_name && !args.is(2, "LIB-VER") {
        return Err(CommandError::err(format!("Unrecognized option '{attribute}'")).into());
    }
    let value = check_name(args.at(3), &attribute)?;
    let mut names = context.session.client.names();
    if is_name {
        names.library = value;
    } else {
        names.library_version = value;
    }
    reply.ok();
    Ok(())
}

/// The value of an ON or OFF argument.
fn switch(args: Args<'_>) -> Result<bool> {
    match (args.is(2, "ON"), args.is(2, "OFF")) {
        (true, _) => Ok(true),
        (_, true) => Ok(false),
        (false, false) => Err(CommandError::Syntax.into()),
    }
}

fn no_evict(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let on = switch(args)?;
    context.session.client.no_evict.store(on, Relaxed);
    reply.ok();
    Ok(())
}

fn no_touch(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let on = switch(args)?;
    context.session.client.no_touch.store(on, Relaxed);
    reply.ok();
    Ok(())
}

fn durable(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let on = switch(args)?;
    let replicas = match args.len() {
        3 => 0,
        5 if args.is(3, "REPLICAS") => usize::try_from(args.integer(4)?)
            .map_err(|_| CommandError::err("value is out of range, must be positive"))?,
        _ => return Err(CommandError::Syntax.into()),
    };
    if on && context.shared.aof.mode() != Mode::On {
        let text = "CLIENT DURABLE needs the append-only file, which is off or has no base yet";
        return Err(CommandError::err(text).into());
    }
    let mut feeds = context.shared.replication.feeds();
    feeds.retain(|feed| matches!(feed.status(), Status::WaitsForAck | Status::Online));
    if replicas > feeds.len() || replicas > 0 && context.shared.replication.is_replica() {
        let text = format!(
            "CLIENT DURABLE needs {replicas} replicas, of which {} are online",
            feeds.len()
        );
        return Err(CommandError::err(text).into());
    }
    context.session.set_durability(Durability {
        on_disk: on,
        replicas,
    });
    reply.ok();
    Ok(())
}

fn set_replies(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let replies = &mut context.session.replies;
    if args.is(2, "ON") {
        *replies = Replies::On;
    } else if args.is(2, "OFF") {
        *replies = Replies::Off;
    } else if !args.is(2, "SKIP") {
        return Err(CommandError::Syntax.into());
    } else if *replies != Replies::Off {
        *replies = Replies::SkipNext;
    }
    // Sent only for ON: OFF and SKIP suppress their own replies, too.
    reply.ok();
    Ok(())
}

/// Redis's error for a known subcommand with too many arguments.
fn malformed(args: Args<'_>) -> CommandError {
    let name = String::from_utf8_lossy(args.at(1));
    CommandError::err(format!(
        "unknown subcommand or wrong number of arguments for '{name}'. Try CLIENT HELP."
    ))
}

fn pause(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let writes_only = match args.len() {
        3 => false,
        4 if args.is(3, "ALL") => false,
        4 if args.is(3, "WRITE") => true,
        4 => return Err(CommandError::err("CLIENT PAUSE mode must be WRITE or ALL").into()),
        _ => return Err(malformed(args).into()),
    };
    let timeout_ms = number::parse_integer(args.at(2))
        .ok_or_else(|| CommandError::err("timeout is not an integer or out of range"))?;
    if timeout_ms < 0 {
        return Err(CommandError::err("timeout is negative").into());
    }
    let now_ms = context.now.0;
    let until_ms = now_ms.saturating_add(timeout_ms);
    context.shared.pause.start(now_ms, until_ms, writes_only);
    reply.ok();
    Ok(())
}

fn unpause(context: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    context.shared.pause.end();
    context.shared.threads.iter().for_each(Thread::wake);
    reply.ok();
    Ok(())
}

fn unblock(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let end = match args.len() {
        3 => End::TimedOut,
        4 if args.is(3, "TIMEOUT") => End::TimedOut,
        4 if args.is(3, "ERROR") => {
            let text = "UNBLOCKED client unblocked via CLIENT UNBLOCK";
            End::Failed(CommandError::Text(text.to_owned()))
        }
        4 => {
            let text = "CLIENT UNBLOCK reason should be TIMEOUT or ERROR";
            return Err(CommandError::err(text).into());
        }
        _ => return Err(malformed(args).into()),
    };
    let id = args.integer(2)?;
    let found = u64::try_from(id)
        .ok()
        .and_then(|id| context.shared.clients.find(id));
    let ended = found.is_some_and(|client| {
        let ended = client.unblock(end);
        context.shared.threads[client.thread].wake();
        ended
    });
    reply.integer(ended.into());
    Ok(())
}

fn kill(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    if args.len() == 3 {
        if kill_matching(context, &Filter::by_address(args.at(2))) == 0 {
            return Err(CommandError::err("No such client").into());
        }
        reply.ok();
        return Ok(());
    }
    let filter = Filter::parse(context, args, "client-id should be greater than 0")?;
    reply.integer(kill_matching(context, &filter));
    Ok(())
}

/// Closes the matching clients, the calling client after its reply, and returns their number.
fn kill_matching(context: &mut Context<'_>, filter: &Filter<'_>) -> i64 {
    let (own_id, skips_me) = (context.session.client.id, filter.skips_me(true));
    let mut killed = 0;
    for client in filter.clients(&context.shared.clients, context.now.0) {
        if client.id != own_id {
            let kills = context
                .shared
                .clients
                .kill(&client, &context.shared.threads);
            if client.is_primary {
                context.shared.replication.link.interrupt();
            }
            killed += i64::from(kills);
        } else if !skips_me {
            context.session.closing = true;
            killed += 1;
        }
    }
    killed
}

fn set_capabilities(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    // As in Valkey, unknown capabilities are ignored.
    if (2..args.len()).any(|at| args.is(at, "REDIRECT")) {
        context
            .session
            .client
            .follows_redirects
            .store(true, Relaxed);
    }
    reply.ok();
    Ok(())
}

fn info(context: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let line = line(&context.session.client, context.now.0);
    reply.verbatim(*b"txt", line.as_bytes());
    Ok(())
}

fn list(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let filter = Filter::parse(context, args, "Invalid client ID")?;
    let mut listed = filter.clients(&context.shared.clients, context.now.0);
    if filter.skips_me(false) {
        listed.retain(|client| client.id != context.session.client.id);
    }
    let mut lines = String::new();
    for client in &listed {
        // Killed clients are about to be closed.
        if !client.killed.load(Relaxed) {
            describe(&mut lines, client, context.now.0);
        }
    }
    reply.verbatim(*b"txt", lines.as_bytes());
    Ok(())
}

/// Redis keeps up to this many bytes of replies in a fixed buffer, shown as `obl`. Replies that do not fit are in a list, shown as
/// `oll` and `omem`.
const OUTPUT_FIXED_BYTES: usize = 16 << 10;

/// The line that CLIENT INFO shows for a client.
pub fn line(client: &Client, now_ms: i64) -> String {
    let mut line = String::new();
    describe(&mut line, client, now_ms);
    line
}

/// Appends the line that INFO and LIST show for a client.
fn describe(lines: &mut String, client: &Client, now_ms: i64) {
    let names = client.names().clone();
    let input_bytes = client.input_bytes.load(Relaxed);
    let output_bytes = client.output_bytes.load(Relaxed);
    let output_capacity = client.output_capacity.load(Relaxed);
    let (in_fixed, listed, listed_bytes) = if output_bytes <= OUTPUT_FIXED_BYTES {
        (output_bytes, 0, 0)
    } else {
        (0, 1, output_capacity)
    };
    let last_command = client.last_command.load(Relaxed).checked_sub(1);
    // Neither Redis nor Valkey has this field; the name is Dragonfly's.
    let encryption = match client.encryption.as_str() {
        "" => String::new(),
        shown => format!(" tls={shown}"),
    };
    // Writing to a string does not fail.
    let _ = writeln!(
        lines,
        "id={} addr={} laddr={} fd={} name={} age={} idle={} flags={} db={} sub={} psub={} ssub={} multi={} \
         watch={} qbuf={input_bytes} qbuf-free={} argv-mem=0 multi-mem={} rbs={output_capacity} \
         rbp={output_capacity} obl={in_fixed} oll={listed} omem={listed_bytes} tot-mem={} events={} cmd={} \
         user={} redir={} resp={} capa={} lib-name={} lib-ver={} \
         tot-net-in={} tot-net-out={} tot-cmds={}{encryption}",
        client.id,
        client.address,
        client.local_address,
        client.fd,
        names.name,
        (now_ms - client.connected_ms).max(0) / 1000,
        (now_ms - client.active_ms.load(Relaxed)).max(0) / 1000,
        flags(client),
        client.db.load(Relaxed),
        client.subscriptions[Topic::Channel as usize].load(Relaxed),
        client.subscriptions[Topic::Pattern as usize].load(Relaxed),
        client.subscriptions[Topic::ShardChannel as usize].load(Relaxed),
        client.queued.load(Relaxed),
        client.watched.load(Relaxed),
        client
            .input_capacity
            .load(Relaxed)
            .saturating_sub(input_bytes),
        client.transaction_bytes.load(Relaxed),
        client.memory(),
        if output_bytes > 0 { "rw" } else { "r" },
        last_command.map_or("NULL", name_at),
        client.account().shown_name(),
        client_tracking::redirection(client),
        match client.speaks {
            Protocol::Resp => client.protocol.load(Relaxed),
            Protocol::Memcached => 0,
        },
        client.capabilities(),
        names.library,
        names.library_version,
        client.received_bytes.load(Relaxed),
        client.sent_bytes.load(Relaxed),
        client.commands.load(Relaxed),
    );
}

/// The flags of a client, a letter each, or `N` if it has none.
fn flags(client: &Client) -> String {
    let letters = [
        ('S', client.is_replica.load(Relaxed)),
        ('M', client.is_primary),
        ('O', client.monitor.load(Relaxed)),
        ('P', client.is_subscriber()),
        ('x', client.queued.load(Relaxed) >= 0),
        ('b', client.is_blocked()),
        ('t', client.tracks.load(Relaxed)),
        ('R', client.redirect_broken.load(Relaxed)),
        ('B', client.tracks_prefixes.load(Relaxed)),
        ('d', client.watch_round.is_broken()),
        ('U', client.unix),
        ('e', client.no_evict.load(Relaxed)),
        ('T', client.no_touch.load(Relaxed)),
    ];
    let set: String = letters
        .iter()
        .filter_map(|&(letter, on)| on.then_some(letter))
        .collect();
    if set.is_empty() {
        String::from("N")
    } else {
        set
    }
}
