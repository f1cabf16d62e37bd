//! SUBSCRIBE, PUBLISH, PUBSUB and related commands.
//!
//! The confirmations of a subscription are messages, like published ones: a client gets them whatever CLIENT REPLY says. Messages
//! that a client publishes to itself come before the reply of the command that published them. In a transaction they come after
//! the reply of EXEC, which would not be well-formed with messages in it.

mod rows;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use damselfly_base::{CommandError, glob};
use damselfly_commands::{Args, Result};
use damselfly_protocol::{Reply, Version};

use crate::registry::Row;
use crate::session::{Context, Replies, Session};
use crate::shared::Shared;
use crate::users;
use damselfly_pubsub::{Scope, Topic};

pub(crate) use rows::COMMANDS;

/// The commands that a client may use with RESP2 while it has subscriptions. It could not distinguish the replies of other
/// commands from messages.
pub const FOR_SUBSCRIBERS: [&str; 9] = [
    "SUBSCRIBE",
    "UNSUBSCRIBE",
    "PSUBSCRIBE",
    "PUNSUBSCRIBE",
    "SSUBSCRIBE",
    "SUNSUBSCRIBE",
    "PING",
    "QUIT",
    "RESET",
];

/// The approximate memory of a subscription in addition to its name.
const SUBSCRIPTION_BYTES: usize = 192;

/// The subscriptions of a client.
#[derive(Default)]
pub struct Subscriptions {
    /// By topic.
    names: [BTreeSet<Arc<[u8]>>; 3],
}

impl Subscriptions {
    /// The number of subscriptions that a confirmation shows: channels and patterns count together.
    fn count_with(&self, topic: Topic) -> usize {
        let of = |topic: Topic| self.names[topic as usize].len();
        match topic {
            Topic::Channel | Topic::Pattern => of(Topic::Channel) + of(Topic::Pattern),
            Topic::ShardChannel => of(topic),
        }
    }

    fn is_empty(&self) -> bool {
        self.names.iter().all(BTreeSet::is_empty)
    }
}

impl Session {
    /// True if the client may use only [`FOR_SUBSCRIBERS`], since it has subscriptions and uses RESP2.
    #[inline]
    pub fn awaits_messages_only(&self) -> bool {
        self.subscriptions.is_some() && self.protocol == Version::Resp2
    }

    fn subscriptions(&mut self) -> &mut Subscriptions {
        self.subscriptions.get_or_insert_default()
    }

    /// The number of subscriptions that a confirmation about `topic` shows.
    fn count_with(&self, topic: Topic) -> usize {
        let subscriptions = self.subscriptions.as_ref();
        subscriptions.map_or(0, |subscriptions| subscriptions.count_with(topic))
    }
}

/// The error for a command that a subscriber may not use with RESP2.
#[cold]
pub fn refusal(row: &Row) -> CommandError {
    CommandError::err(format!(
        "Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context",
        row.name
    ))
}

/// Removes all subscriptions of a client, without confirmations.
pub fn unsubscribe_all(shared: &Shared, session: &mut Session) {
    let Some(subscriptions) = session.subscriptions.take() else {
        return;
    };
    let client = &session.client;
    for topic in Topic::ALL {
        for name in &subscriptions.names[topic as usize] {
            let pubsub = &shared.pubsub;
            pubsub.unsubscribe(client.thread, client.place, topic, name);
        }
        client.subscriptions[topic as usize].store(0, Relaxed);
    }
    client.subscription_bytes.store(0, Relaxed);
}

/// Adds messages for the client itself after the reply of its command, as since Redis 7.2. If the reply is written in slices, of which
/// the first starts at `mark`, they come before it.
pub fn write_pushes(session: &mut Session, mark: usize, reply: &mut Reply<'_>) {
    let pushes = std::mem::take(&mut session.pushes);
    if session.rest.is_none() {
        reply.raw(&pushes);
        return;
    }
    let own = reply.written_since(mark).to_vec();
    reply.truncate_to(mark);
    reply.raw(&pushes);
    reply.raw(&own);
}

/// Confirms that the client has subscribed or unsubscribed.
fn write_confirmation(
    session: &mut Session,
    reply: &mut Reply<'_>,
    event: &str,
    name: Option<&[u8]>,
    topic: Topic,
) {
    let count = session.count_with(topic);
    let write = |reply: &mut Reply<'_>| {
        reply.push(3);
        reply.bulk(event.as_bytes());
        match name {
            Some(name) => reply.bulk(name),
            None => reply.null(),
        }
        reply.integer(count as i64);
    };
    match session.replies {
        Replies::On => write(reply),
        Replies::Off | Replies::SkipNext | Replies::SkipThis => {
            write(&mut Reply::new(&mut session.pushes, session.protocol));
            session.follow_up = true;
        }
    }
}

/// Adds a subscription to the client's counters, or removes it.
fn count_subscription(session: &Session, topic: Topic, name: &[u8], adds: bool) {
    let client = &session.client;
    let bytes = SUBSCRIPTION_BYTES + name.len();
    let subscriptions = &client.subscriptions[topic as usize];
    if adds {
        subscriptions.fetch_add(1, Relaxed);
        client.subscription_bytes.fetch_add(bytes, Relaxed);
    } else {
        subscriptions.fetch_sub(1, Relaxed);
        client.subscription_bytes.fetch_sub(bytes, Relaxed);
    }
}

fn subscribe_to(
    context: &mut Context<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
    topic: Topic,
    event: &str,
) -> Result {
    let shared = context.shared;
    let session = &mut *context.session;
    let place = session.client.place;
    for name in args.from(1) {
        let names = &mut session.subscriptions().names[topic as usize];
        if !names.contains(name) {
            let (pubsub, threads) = (&shared.pubsub, &shared.threads);
            names.insert(pubsub.subscribe(threads, context.thread, place, topic, name));
            count_subscription(session, topic, name, true);
        }
        write_confirmation(session, reply, event, Some(name), topic);
    }
    users::recheck(shared, session);
    Ok(())
}

fn unsubscribe_from(
    context: &mut Context<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
    topic: Topic,
    event: &str,
) -> Result {
    let shared = context.shared;
    let session = &mut *context.session;
    let place = session.client.place;
    let mut end = |session: &mut Session, name: &[u8]| {
        if let Some(subscriptions) = &mut session.subscriptions
            && subscriptions.names[topic as usize].remove(name)
        {
            let ends = subscriptions.is_empty();
            let pubsub = &shared.pubsub;
            pubsub.unsubscribe(context.thread, place, topic, name);
            count_subscription(session, topic, name, false);
            if ends {
                session.subscriptions = None;
            }
        }
        write_confirmation(session, reply, event, Some(name), topic);
    };
    if args.len() > 1 {
        args.from(1).for_each(|name| end(session, name));
        return Ok(());
    }
    let subscriptions = session.subscriptions.as_ref();
    let all: Vec<Arc<[u8]>> = subscriptions.map_or_else(Vec::new, |subscriptions| {
        subscriptions.names[topic as usize]
            .iter()
            .cloned()
            .collect()
    });
    all.iter().for_each(|name| end(session, name));
    if all.is_empty() {
        write_confirmation(session, reply, event, None, topic);
    }
    Ok(())
}

fn subscribe(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    subscribe_to(context, args, reply, Topic::Channel, "subscribe")
}

fn unsubscribe(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    unsubscribe_from(context, args, reply, Topic::Channel, "unsubscribe")
}

fn psubscribe(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    subscribe_to(context, args, reply, Topic::Pattern, "psubscribe")
}

fn punsubscribe(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    unsubscribe_from(context, args, reply, Topic::Pattern, "punsubscribe")
}

fn ssubscribe(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    subscribe_to(context, args, reply, Topic::ShardChannel, "ssubscribe")
}

fn sunsubscribe(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    unsubscribe_from(context, args, reply, Topic::ShardChannel, "sunsubscribe")
}

fn publish(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    publish_in(context, args, reply, Scope::Cluster)
}

fn spublish(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    publish_in(context, args, reply, Scope::Slot)
}

fn publish_in(
    context: &mut Context<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
    scope: Scope,
) -> Result {
    let (channel, payload) = (args.at(1), args.at(2));
    let session = &mut *context.session;
    let subscriptions = session.subscriptions.as_deref();
    let from = subscriptions.map_or(0, |_| session.client.id);
    let pubsub = &context.shared.pubsub;
    let published = pubsub.publish(context.thread, scope, channel, payload, from);
    session.congested = published.congested.or(session.congested);
    if let Some(subscriptions) = subscriptions {
        session.follow_up = true;
        let mut own = Reply::new(&mut session.pushes, session.protocol);
        write_own(&mut own, subscriptions, scope, channel, payload);
    }
    reply.integer(published.receivers as i64);
    Ok(())
}

/// Writes a message to its publisher, if that is also a receiver. Through the inbox, the message could arrive after the replies to
/// the publisher's next commands.
fn write_own(
    own: &mut Reply<'_>,
    subscriptions: &Subscriptions,
    scope: Scope,
    channel: &[u8],
    payload: &[u8],
) {
    let mut write = |words: &[&[u8]]| {
        own.push(words.len());
        words.iter().for_each(|word| own.bulk(word));
    };
    let has = |topic: Topic| subscriptions.names[topic as usize].contains(channel);
    match scope {
        Scope::Slot if has(Topic::ShardChannel) => write(&[b"smessage", channel, payload]),
        Scope::Slot => {}
        Scope::Cluster => {
            if has(Topic::Channel) {
                write(&[b"message", channel, payload]);
            }
            for pattern in &subscriptions.names[Topic::Pattern as usize] {
                if glob::matches(pattern, channel) {
                    write(&[b"pmessage", pattern, channel, payload]);
                }
            }
        }
    }
}

/// Redis's error for a known subcommand with too many arguments.
fn malformed(args: Args<'_>) -> CommandError {
    let name = String::from_utf8_lossy(args.at(1));
    CommandError::err(format!(
        "unknown subcommand or wrong number of arguments for '{name}'. Try PUBSUB HELP."
    ))
}

fn list(context: &Context<'_>, args: Args<'_>, reply: &mut Reply<'_>, scope: Scope) -> Result {
    if args.len() > 3 {
        return Err(malformed(args).into());
    }
    let names = context.shared.pubsub.channels(scope, args.get(2));
    reply.array(names.len());
    names.iter().for_each(|name| reply.bulk(name));
    Ok(())
}

fn count(context: &Context<'_>, args: Args<'_>, reply: &mut Reply<'_>, scope: Scope) -> Result {
    reply.array(2 * (args.len() - 2));
    for channel in args.from(2) {
        reply.bulk(channel);
        let subscriptions = context.shared.pubsub.subscription_count(scope, channel);
        reply.integer(subscriptions as i64);
    }
    Ok(())
}

fn channels(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    list(context, args, reply, Scope::Cluster)
}

fn shard_channels(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    list(context, args, reply, Scope::Slot)
}

fn num_sub(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    count(context, args, reply, Scope::Cluster)
}

fn shard_num_sub(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    count(context, args, reply, Scope::Slot)
}

fn num_pat(context: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    reply.integer(context.shared.pubsub.name_count(Topic::Pattern) as i64);
    Ok(())
}
