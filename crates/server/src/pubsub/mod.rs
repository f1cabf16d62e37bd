//! Publish and subscribe: who receives what, and how messages get from thread to thread.
//!
//! ```text
//!   publisher's thread                                            receivers' thread
//!     PUBLISH ─► index: which threads, how many ─► outbox          inbox ─► its own receivers ─► their outputs
//!        └─ the reply: how many                      └─ once a turn ─┘
//! ```
//!
//! A publisher learns from the index which threads have receivers and leaves one message for each; those threads know
//! which of their connections are meant. No lock is held but short ones that nothing else is taken under, so all of
//! this may be called under the locks of keys too.
//!
//! What must be true:
//! - Messages of one publisher arrive in their order: a thread's outbox is sent before any reply of the same turn, and
//!   inboxes keep their order.
//! - Messages about one key arrive in the order of its changes: they are sent before its lock is released ([`events`]).
//! - Who subscribes receives no message published before that: subscriptions note the number of the next message that
//!   their thread will get ([`receivers`]).
//! - Memory is bounded: who publishes to a thread for which more than [`MAIL_BYTES_MAX`] are on their way runs nothing
//!   further for now, unless that thread is stuck. What is published beyond the limit for subscribers' output is lost, and those
//!   who should have received it are disconnected, so that nobody misses a message unknowingly. Beyond [`LOST_BYTES_MAX`] more
//!   there is not even a note of what was lost: all subscribers of the thread are disconnected.

pub mod index;
pub mod mail;
pub mod receivers;

use std::sync::atomic::{
    AtomicBool, AtomicUsize,
    Ordering::{AcqRel, Relaxed, SeqCst},
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::threads::{Message, Thread};
use index::{Count, Counts, Index, Known, Names, Pattern, Patterns, shrink};
use mail::{Mail, Scope};
use receivers::Receivers;

/// While more bytes of messages than this are on their way to a thread, those who publish to it wait.
pub const MAIL_BYTES_MAX: usize = 1 << 20;

/// Messages of a single request are lost beyond at least this many bytes on their way to a thread.
const LOSS_BYTES_MIN: usize = 64 << 20;

/// So many bytes more are notes of what is lost.
const LOST_BYTES_MAX: usize = 1 << 20;

/// What a message is counted with beside what it holds, in bytes.
const OVERHEAD_BYTES: usize = 128;

/// What one can subscribe to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// A channel.
    Channel,
    /// All channels whose names match a pattern.
    Pattern,
    /// A channel of [`Scope::Slot`].
    ShardChannel,
}

impl Topic {
    /// All.
    pub const ALL: [Self; 3] = [Self::Channel, Self::Pattern, Self::ShardChannel];
}

/// One thread's part.
#[repr(align(128))]
struct Desk {
    own: Mutex<Own>,
    /// Bytes of messages that were sent to this thread and that it has not delivered.
    arriving_bytes: AtomicUsize,
    /// Somebody waits for fewer.
    awaited: AtomicBool,
    /// There is a [`Message::Overflow`] on its way to this thread.
    overflows: AtomicBool,
    /// There is something to send.
    has_outgoing: AtomicBool,
    /// One more than the number of a thread for which events of this one have congested the way.
    congested: AtomicUsize,
}

/// What only the thread itself uses.
struct Own {
    /// By topic: the receivers of each name.
    receivers: [Names<Receivers>; 3],
    /// By thread: what is to be sent to it.
    outboxes: Vec<Outbox>,
    patterns: Known,
    /// The threads that receive the message at hand.
    receiving: Vec<usize>,
    buffer: Vec<u8>,
}

#[derive(Default)]
struct Outbox {
    mail: Vec<Mail>,
    bytes: usize,
    /// More was published for the thread than there is room for.
    overflows: bool,
}

/// What came of publishing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Published {
    /// Subscriptions that the message goes to.
    pub receivers: usize,
    /// A thread that has more on its way than it should: who published waits for [`PubSub::is_congested`].
    pub congested: Option<usize>,
}

/// All subscriptions.
pub struct PubSub {
    channels: Index,
    shard_channels: Index,
    patterns: Patterns,
    desks: Box<[Desk]>,
    loss_bytes: AtomicUsize,
}

impl PubSub {
    /// No subscriptions, for so many threads.
    pub fn new(threads: usize) -> Self {
        let own = || Own {
            receivers: Default::default(),
            outboxes: (0..=threads).map(|_| Outbox::default()).collect(),
            patterns: Known::default(),
            receiving: Vec::new(),
            buffer: Vec::new(),
        };
        let desk = || Desk {
            own: Mutex::new(own()),
            arriving_bytes: AtomicUsize::new(0),
            awaited: AtomicBool::new(false),
            overflows: AtomicBool::new(false),
            has_outgoing: AtomicBool::new(false),
            congested: AtomicUsize::new(0),
        };
        Self {
            channels: Index::default(),
            shard_channels: Index::default(),
            patterns: Patterns::default(),
            // The last is for publishers that serve no connections.
            desks: (0..=threads).map(|_| desk()).collect(),
            loss_bytes: AtomicUsize::new(LOSS_BYTES_MIN),
        }
    }

    /// Sets the limit for what a subscriber leaves unread, in bytes; zero for none.
    pub fn set_output_limit(&self, bytes: u64) {
        let bytes = match usize::try_from(bytes) {
            Ok(0) | Err(_) => usize::MAX,
            Ok(bytes) => bytes.max(LOSS_BYTES_MIN),
        };
        self.loss_bytes.store(bytes, Relaxed);
    }

    fn own(&self, thread: usize) -> MutexGuard<'_, Own> {
        let own = self.desks[thread].own.lock();
        own.unwrap_or_else(PoisonError::into_inner)
    }

    fn index(&self, scope: Scope) -> &Index {
        match scope {
            Scope::Cluster => &self.channels,
            Scope::Slot => &self.shard_channels,
        }
    }

    /// False if nobody has subscribed to anything that a message could be published to.
    pub fn may_receive(&self, scope: Scope) -> bool {
        let has_patterns = scope == Scope::Cluster && self.patterns.count() > 0;
        has_patterns || self.index(scope).channels() > 0
    }

    /// Publishes a message on behalf of a thread, to be called by that thread only. `from` is the id of a client that
    /// gets the message by other means, or zero.
    pub fn publish(
        &self,
        thread: usize,
        scope: Scope,
        channel: &[u8],
        payload: &[u8],
        from: u64,
    ) -> Published {
        if !self.may_receive(scope) {
            return Published::default();
        }
        let own = &mut *self.own(thread);
        own.receiving.clear();
        let mut receivers = 0;
        let mut note = |counts: &Counts| {
            for &Count {
                thread,
                subscriptions,
            } in counts.by_thread()
            {
                receivers += subscriptions;
                if !own.receiving.contains(&thread) {
                    own.receiving.push(thread);
                }
            }
        };
        self.index(scope).look(channel, &mut note);
        let mut matching: Vec<Arc<Pattern>> = Vec::new();
        if scope == Scope::Cluster && self.patterns.count() > 0 {
            for subscribed in self.patterns.list(&mut own.patterns) {
                if subscribed.pattern.glob.matches(channel) {
                    note(&subscribed.counts);
                    matching.push(subscribed.pattern.clone());
                }
            }
        }
        if receivers == 0 {
            return Published::default();
        }
        let mut mail = Mail::new(&mut own.buffer, scope, channel, payload, from);
        mail.patterns = (!matching.is_empty()).then(|| matching.into());
        let congested = self.leave(own, mail);
        self.desks[thread].has_outgoing.store(true, Relaxed);
        Published {
            receivers,
            congested,
        }
    }

    /// Puts a message into the outboxes of the threads that receive it; returns one that has too much on its way.
    fn leave(&self, own: &mut Own, mail: Mail) -> Option<usize> {
        let mut congested = None;
        for &thread in &own.receiving {
            let outbox = &mut own.outboxes[thread];
            let on_way = self.desks[thread].arriving_bytes.load(Relaxed) + outbox.bytes;
            let mut mail = mail.clone();
            if on_way > MAIL_BYTES_MAX {
                congested = Some(thread);
            }
            let loss_bytes = self.loss_bytes.load(Relaxed);
            if on_way.saturating_add(mail.bytes()) > loss_bytes {
                mail = mail.as_lost(&mut own.buffer);
                let with_note = on_way.saturating_add(mail.bytes());
                if with_note > loss_bytes.saturating_add(LOST_BYTES_MAX) {
                    outbox.overflows = true;
                    continue;
                }
                if outbox.mail.last().is_some_and(|last| last.covers(&mail)) {
                    continue;
                }
            }
            outbox.bytes += mail.bytes();
            outbox.mail.push(mail);
        }
        congested
    }

    /// True while too much is on its way from `from` to `to` for another message.
    pub fn is_congested(&self, from: usize, to: usize) -> bool {
        let on_way = || self.desks[to].arriving_bytes.load(SeqCst);
        if on_way() + self.own(from).outboxes[to].bytes <= MAIL_BYTES_MAX {
            return false;
        }
        // Asked for first, so that no end goes unnoticed: in the one order of all these, either this thread sees what was delivered
        // or the other one that it is awaited.
        self.desks[to].awaited.store(true, SeqCst);
        on_way() + self.own(from).outboxes[to].bytes > MAIL_BYTES_MAX
    }

    /// Notes that events on behalf of `from` have left more on its way to `to` than should be.
    pub(crate) fn note_congested(&self, from: usize, to: usize) {
        self.desks[from].congested.store(to + 1, Relaxed);
    }

    /// A thread to which events on behalf of `from`, since this was last asked, have left more than should be on its way.
    pub fn take_congested(&self, from: usize) -> Option<usize> {
        let congested = &self.desks[from].congested;
        if congested.load(Relaxed) == 0 {
            return None;
        }
        congested.swap(0, Relaxed).checked_sub(1)
    }

    /// True if a thread has published what is not sent yet.
    #[inline]
    pub fn has_outgoing(&self, thread: usize) -> bool {
        self.desks[thread].has_outgoing.load(Relaxed)
    }

    /// How many bytes those messages are.
    pub fn outgoing_bytes(&self, thread: usize) -> usize {
        let own = self.own(thread);
        own.outboxes.iter().map(|outbox| outbox.bytes).sum()
    }

    /// Sends what a thread has published.
    pub fn send(&self, thread: usize, threads: &[Thread]) {
        let own = &mut *self.own(thread);
        self.desks[thread].has_outgoing.store(false, Relaxed);
        // The thread's own receivers first, so that they get no answer to a message before it.
        let others = (0..threads.len()).filter(|&to| to != thread);
        for to in std::iter::once(thread).chain(others) {
            let (outbox, desk) = (&mut own.outboxes[to], &self.desks[to]);
            if !outbox.mail.is_empty() {
                let bytes = std::mem::take(&mut outbox.bytes);
                desk.arriving_bytes.fetch_add(bytes, Relaxed);
                let mail = std::mem::take(&mut outbox.mail);
                threads[to].send(Message::Mail { mail, bytes });
            }
            if std::mem::take(&mut outbox.overflows) && !desk.overflows.swap(true, AcqRel) {
                threads[to].send(Message::Overflow);
            }
        }
    }

    /// To be called before the subscribers of a thread are disconnected for [`Message::Overflow`]: what is lost from now on
    /// needs another one.
    pub fn take_overflow(&self, thread: usize) {
        self.desks[thread].overflows.swap(false, AcqRel);
    }

    /// How many bytes are on their way to a thread.
    pub fn arriving_bytes(&self, thread: usize) -> usize {
        self.desks[thread].arriving_bytes.load(Relaxed)
    }

    /// What `len` bytes that are sent to a thread by other means than [`PubSub::send`] count as, which is noted; `None` if they
    /// are too much and must not be sent.
    pub fn admit(&self, thread: usize, len: usize) -> Option<usize> {
        let bytes = len + OVERHEAD_BYTES;
        let on_way = self.arriving_bytes(thread).saturating_add(bytes);
        if on_way > self.loss_bytes.load(Relaxed) {
            return None;
        }
        self.note_arriving(thread, bytes);
        Some(bytes)
    }

    /// Notes that so many bytes are sent to a thread by other means than [`PubSub::send`]: they count with the others.
    pub fn note_arriving(&self, thread: usize, bytes: usize) {
        self.desks[thread].arriving_bytes.fetch_add(bytes, Relaxed);
    }

    /// A thread that has more on its way than it should: who caused it waits for [`PubSub::is_congested`].
    pub fn congested(&self) -> Option<usize> {
        (0..self.desks.len()).find(|&thread| self.arriving_bytes(thread) > MAIL_BYTES_MAX)
    }

    /// Notes that a thread has delivered so many bytes that were sent to it; true if others are to be woken.
    pub fn note_delivered(&self, thread: usize, bytes: usize) -> bool {
        let desk = &self.desks[thread];
        desk.arriving_bytes.fetch_sub(bytes, SeqCst);
        desk.awaited.swap(false, SeqCst)
    }

    /// Calls `give` for every receiver of a message on a thread: with the place of its connection and the head of what
    /// it gets. `number` is the message's.
    pub fn deliver(
        &self,
        thread: usize,
        mail: &Mail,
        number: u64,
        mut give: impl FnMut(usize, &[u8]),
    ) {
        let own = self.own(thread);
        let topic = match mail.scope {
            Scope::Cluster => Topic::Channel,
            Scope::Slot => Topic::ShardChannel,
        };
        if let Some(receivers) = own.receivers[topic as usize].get(mail.channel()) {
            receivers.each(number, |place| give(place, mail.scope.head()));
        }
        for pattern in mail.patterns.iter().flat_map(|patterns| patterns.iter()) {
            if let Some(receivers) = own.receivers[Topic::Pattern as usize].get(&pattern.name) {
                receivers.each(number, |place| give(place, &pattern.head));
            }
        }
    }

    /// Makes a connection of a thread receive what concerns a name, which it does not yet. Returns the name as it is
    /// shared.
    pub fn subscribe(
        &self,
        threads: &[Thread],
        thread: usize,
        place: usize,
        topic: Topic,
        name: &[u8],
    ) -> Arc<[u8]> {
        // All that was published on this thread before gets a number, so that this subscription can be told from it.
        if self.has_outgoing(thread) {
            self.send(thread, threads);
        }
        let since = threads[thread].messages_arrived();
        let name = match topic {
            Topic::Channel => self.channels.add(name, thread),
            Topic::Pattern => self.patterns.add(name, thread),
            Topic::ShardChannel => self.shard_channels.add(name, thread),
        };
        let receivers = &mut self.own(thread).receivers[topic as usize];
        receivers.entry(name.clone()).or_default().add(place, since);
        name
    }

    /// Ends that.
    pub fn unsubscribe(&self, thread: usize, place: usize, topic: Topic, name: &[u8]) {
        match topic {
            Topic::Channel => self.channels.remove(name, thread),
            Topic::Pattern => self.patterns.remove(name, thread),
            Topic::ShardChannel => self.shard_channels.remove(name, thread),
        }
        let names = &mut self.own(thread).receivers[topic as usize];
        if let Some(receivers) = names.get_mut(name) {
            receivers.remove(place);
            if receivers.is_empty() {
                names.remove(name);
                shrink(names);
            }
        }
    }

    /// How many subscriptions a channel has.
    pub fn subscriptions(&self, scope: Scope, channel: &[u8]) -> usize {
        let total = self.index(scope).look(channel, Counts::total);
        total.unwrap_or_default()
    }

    /// The channels that have subscribers and match the pattern, if there is one.
    pub fn channels(&self, scope: Scope, pattern: Option<&[u8]>) -> Vec<Arc<[u8]>> {
        self.index(scope).names(pattern)
    }

    /// How many different names of a topic have subscribers.
    pub fn names(&self, topic: Topic) -> usize {
        match topic {
            Topic::Channel => self.channels.channels(),
            Topic::Pattern => self.patterns.count(),
            Topic::ShardChannel => self.shard_channels.channels(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mio::{Poll, Token, Waker};

    const PUBLISHER: usize = 0;
    const RECEIVER: usize = 1;
    const PLACE: usize = 7;

    fn two_threads() -> (Vec<Poll>, Vec<Thread>) {
        let polls: Vec<Poll> = (0..2).map(|_| Poll::new().unwrap()).collect();
        let waker = |poll: &Poll| Waker::new(poll.registry(), Token(0)).unwrap();
        let threads = polls.iter().map(|poll| Thread::new(waker(poll))).collect();
        (polls, threads)
    }

    fn publish(pubsub: &PubSub, payload: &[u8]) -> Published {
        pubsub.publish(PUBLISHER, Scope::Cluster, b"news", payload, 0)
    }

    /// Takes all that has arrived at the receiver's thread.
    fn arrived(pubsub: &PubSub, threads: &[Thread]) -> Vec<Mail> {
        let (_, messages) = threads[RECEIVER].receive();
        let mail = messages.into_iter().map(|message| match message {
            Message::Mail { mail, bytes } => {
                pubsub.note_delivered(RECEIVER, bytes);
                mail
            }
            Message::Monitored { .. }
            | Message::Invalidations { .. }
            | Message::Redirected { .. }
            | Message::Overflow
            | Message::ClientChanged(_) => Vec::new(),
        });
        mail.flatten().collect()
    }

    #[test]
    fn one_message_goes_to_a_thread_however_many_subscribe_there() {
        let (_polls, threads) = two_threads();
        let pubsub = PubSub::new(2);
        pubsub.subscribe(&threads, RECEIVER, PLACE, Topic::Channel, b"news");
        pubsub.subscribe(&threads, RECEIVER, PLACE, Topic::Pattern, b"n*");
        pubsub.subscribe(&threads, RECEIVER, PLACE + 1, Topic::Pattern, b"n*");
        pubsub.subscribe(&threads, RECEIVER, PLACE, Topic::ShardChannel, b"news");
        assert_eq!(publish(&pubsub, b"x").receivers, 3);
        pubsub.send(PUBLISHER, &threads);
        let mail = arrived(&pubsub, &threads);
        assert_eq!(mail.len(), 1);
        let mut given = Vec::new();
        pubsub.deliver(RECEIVER, &mail[0], u64::MAX, |place, head| {
            given.push((place, head.len()));
        });
        let message = Scope::Cluster.head().len();
        let pmessage = b"4\r\n$8\r\npmessage\r\n$2\r\nn*\r\n".len();
        assert_eq!(
            given,
            [(PLACE, message), (PLACE, pmessage), (PLACE + 1, pmessage)]
        );
    }

    #[test]
    fn publishers_wait_while_much_is_on_its_way() {
        let (_polls, threads) = two_threads();
        let pubsub = PubSub::new(2);
        pubsub.subscribe(&threads, RECEIVER, PLACE, Topic::Channel, b"news");
        let payload = vec![b'x'; MAIL_BYTES_MAX];
        assert_eq!(publish(&pubsub, &payload).congested, None);
        assert_eq!(publish(&pubsub, b"x").congested, Some(RECEIVER));
        pubsub.send(PUBLISHER, &threads);
        assert!(pubsub.is_congested(PUBLISHER, RECEIVER));
        assert_eq!(arrived(&pubsub, &threads).len(), 2);
        assert!(!pubsub.is_congested(PUBLISHER, RECEIVER));
    }

    /// What a script or a transaction publishes can't wait for anything.
    #[test]
    fn what_one_request_publishes_takes_no_memory_without_bound() {
        const ROUNDS: usize = 1000;
        let (_polls, threads) = two_threads();
        let pubsub = PubSub::new(2);
        pubsub.set_output_limit(1 << 20);
        pubsub.subscribe(&threads, RECEIVER, PLACE, Topic::Channel, b"news");
        let payload = vec![b'x'; 1 << 20];
        for _ in 0..ROUNDS {
            assert_eq!(publish(&pubsub, &payload).receivers, 1);
        }
        assert!(pubsub.outgoing_bytes(PUBLISHER) <= LOSS_BYTES_MIN + (1 << 20));
        pubsub.send(PUBLISHER, &threads);
        let mail = arrived(&pubsub, &threads);
        assert!(mail.last().is_some_and(|mail| mail.lost));
        assert_eq!(mail.iter().filter(|mail| mail.lost).count(), 1);
        pubsub.set_output_limit(0);
        for _ in 0..100 {
            publish(&pubsub, &payload);
        }
        assert!(pubsub.outgoing_bytes(PUBLISHER) > 100 << 20);
    }

    /// The bug: each turn of a publisher left another note of what was lost, and with a stuck thread publishers do not wait.
    #[test]
    fn notes_of_what_is_lost_take_no_memory_without_bound() {
        const MESSAGES: usize = 10_000;
        let (_polls, threads) = two_threads();
        let pubsub = PubSub::new(2);
        pubsub.set_output_limit(1);
        pubsub.subscribe(&threads, RECEIVER, PLACE, Topic::Pattern, b"*");
        let send = |channel: &[u8], payload: &[u8]| {
            pubsub.publish(PUBLISHER, Scope::Cluster, channel, payload, 0);
            pubsub.send(PUBLISHER, &threads);
        };
        send(b"first", &vec![b'x'; LOSS_BYTES_MIN - 1024]);
        for number in 0..MESSAGES {
            send(format!("{number}").as_bytes(), b"");
        }
        let on_way = pubsub.arriving_bytes(RECEIVER);
        assert!(on_way <= LOSS_BYTES_MIN + LOST_BYTES_MAX, "{on_way}");
        let (_, messages) = threads[RECEIVER].receive();
        let overflows = |messages: &[Message]| {
            let is_overflow = |message: &&Message| matches!(message, Message::Overflow);
            messages.iter().filter(is_overflow).count()
        };
        assert_eq!(overflows(&messages), 1);
        pubsub.take_overflow(RECEIVER);
        send(b"next", b"");
        let (_, messages) = threads[RECEIVER].receive();
        assert_eq!(overflows(&messages), 1);
    }
}
