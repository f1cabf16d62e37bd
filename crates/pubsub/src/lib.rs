//! Publish and subscribe: the subscriptions, and the path of a message from the publisher's thread to its receivers.
//!
//! ```text
//!   publisher's thread                                          receivers' thread
//!     PUBLISH ─► index: threads with receivers ─► outbox         inbox ─► receivers by name ─► their output buffers
//!        └─ reply: number of receivers              └─ once a turn ─┘
//! ```
//!
//! Threads are numbers here, and a connection is its `place` on its thread. The index tells a publisher which threads have
//! receivers; each of these gets one message and looks up the connections itself. This crate holds its locks briefly and takes
//! no other lock under them, so its functions may be called while shards are locked.
//!
//! Invariants:
//! - The messages of a publisher arrive in order: a thread sends its outboxes before any reply of the same turn, and inboxes keep
//!   their order.
//! - The messages about a key arrive in the order of its changes: they are sent before the lock of its shard is released.
//! - A subscriber receives no message that was published before it subscribed: a subscription records the number of the next
//!   message in the inbox of its thread ([`Receivers`]).
//! - Memory is bounded. A client that publishes to a thread with more than [`CONGESTED_BYTES`] in transit runs no further commands
//!   for now, unless that thread is stuck. Messages that would exceed the output limit of subscribers are dropped and their
//!   receivers disconnected, so that no subscriber misses a message unknowingly. After [`DROP_NOTICES_BYTES_MAX`] of notices about
//!   dropped messages, the thread disconnects all of its subscribers instead.

mod index;
mod message;
mod receivers;

use std::sync::atomic::{
    AtomicBool, AtomicUsize,
    Ordering::{AcqRel, Relaxed, SeqCst},
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use index::{CountsByThread, Index, NameMap, Pattern, PatternCache, Patterns, ThreadCount, shrink};
use receivers::Receivers;

pub use message::{PublishedMessage, Scope};

/// With more bytes than this in transit to a thread, clients that publish to it wait.
pub const CONGESTED_BYTES: usize = 1 << 20;

/// The lowest limit of bytes in transit to a thread beyond which messages are dropped. A single request can reach it: it does not
/// wait between its messages.
const DROP_BYTES_MIN: usize = 64 << 20;

/// The most bytes of notices about dropped messages, on top of that limit.
const DROP_NOTICES_BYTES_MAX: usize = 1 << 20;

/// Counted for each message in addition to its contents.
const OVERHEAD_BYTES: usize = 128;

/// The kinds of names that a client can subscribe to.
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
    /// All topics.
    pub const ALL: [Self; 3] = [Self::Channel, Self::Pattern, Self::ShardChannel];
}

/// A thread that delivers published messages to its subscribers.
pub trait DeliveryThread {
    /// Puts messages into the thread's inbox, in this order, and wakes the thread. The thread delivers them and then calls
    /// [`PubSub::note_delivered`] with `bytes`.
    fn send_published(&self, messages: Vec<PublishedMessage>, bytes: usize);

    /// Asks the thread to call [`PubSub::take_overflow`] and then to disconnect all of its subscribers, because messages for them
    /// were dropped.
    fn send_overflow(&self);

    /// The number of the next message that arrives in the thread's inbox.
    fn next_message_number(&self) -> u64;
}

/// The state of one thread.
#[repr(align(128))]
struct ThreadState {
    local: Mutex<LocalState>,
    /// Bytes in transit: sent to this thread and not delivered yet.
    arriving_bytes: AtomicUsize,
    /// Publishers wait until this thread has fewer bytes in transit.
    publishers_wait: AtomicBool,
    /// [`DeliveryThread::send_overflow`] was called, and the thread has not taken the overflow yet.
    overflow_sent: AtomicBool,
    /// An outbox has messages to send.
    has_outgoing: AtomicBool,
    /// The number, plus one, of a thread that events of this thread have congested; zero for none.
    congested: AtomicUsize,
}

/// The part of the state that only the thread itself uses.
struct LocalState {
    /// By topic: the receivers of each name.
    receivers: [NameMap<Receivers>; 3],
    /// By thread: the messages to send to it.
    outboxes: Vec<Outbox>,
    pattern_cache: PatternCache,
    /// The threads that receive the message being published.
    target_threads: Vec<usize>,
    /// Scratch space for writing a message.
    buffer: Vec<u8>,
}

#[derive(Default)]
struct Outbox {
    messages: Vec<PublishedMessage>,
    bytes: usize,
    /// A message was dropped without a notice.
    overflowed: bool,
}

/// The result of publishing a message.
#[derive(Clone, Copy, Debug, Default)]
pub struct Published {
    /// Subscriptions that the message goes to.
    pub receivers: usize,
    /// A congested receiving thread: the publisher waits until [`PubSub::is_congested`] is false for it.
    pub congested: Option<usize>,
}

/// All subscriptions.
pub struct PubSub {
    channels: Index,
    shard_channels: Index,
    patterns: Patterns,
    states: Box<[ThreadState]>,
    drop_bytes: AtomicUsize,
}

impl PubSub {
    /// Without subscriptions, for this many threads.
    pub fn new(threads: usize) -> Self {
        let local = || LocalState {
            receivers: Default::default(),
            outboxes: (0..=threads).map(|_| Outbox::default()).collect(),
            pattern_cache: PatternCache::default(),
            target_threads: Vec::new(),
            buffer: Vec::new(),
        };
        let state = || ThreadState {
            local: Mutex::new(local()),
            arriving_bytes: AtomicUsize::new(0),
            publishers_wait: AtomicBool::new(false),
            overflow_sent: AtomicBool::new(false),
            has_outgoing: AtomicBool::new(false),
            congested: AtomicUsize::new(0),
        };
        Self {
            channels: Index::default(),
            shard_channels: Index::default(),
            patterns: Patterns::default(),
            // The last one is for threads that publish but serve no connections.
            states: (0..=threads).map(|_| state()).collect(),
            drop_bytes: AtomicUsize::new(DROP_BYTES_MIN),
        }
    }

    /// Sets the output limit of a subscriber, in bytes; zero for none.
    pub fn set_output_limit(&self, bytes: u64) {
        let bytes = match usize::try_from(bytes) {
            Ok(0) | Err(_) => usize::MAX,
            Ok(bytes) => bytes.max(DROP_BYTES_MIN),
        };
        self.drop_bytes.store(bytes, Relaxed);
    }

    fn local(&self, thread: usize) -> MutexGuard<'_, LocalState> {
        let local = self.states[thread].local.lock();
        local.unwrap_or_else(PoisonError::into_inner)
    }

    fn index(&self, scope: Scope) -> &Index {
        match scope {
            Scope::Cluster => &self.channels,
            Scope::Slot => &self.shard_channels,
        }
    }

    /// The subscriptions of a connection. Any thread may call this; it takes time in proportion to the subscriptions of the connection's thread.
    pub fn subscriptions(&self, thread: usize, place: usize) -> Vec<(Topic, Arc<[u8]>)> {
        let local = self.local(thread);
        let mut found = Vec::new();
        for topic in Topic::ALL {
            let names = local.receivers[topic as usize].iter();
            let own = names.filter(|(_, receivers)| receivers.contains(place));
            found.extend(own.map(|(name, _)| (topic, name.clone())));
        }
        found
    }

    /// False if no message published in this scope can have a receiver.
    pub fn may_receive(&self, scope: Scope) -> bool {
        let has_patterns = scope == Scope::Cluster && self.patterns.count() > 0;
        has_patterns || self.index(scope).count() > 0
    }

    /// Publishes a message on behalf of a thread. Only that thread may call this. `skip_client` is the id of a client that gets
    /// the message by other means, or zero.
    pub fn publish(
        &self,
        thread: usize,
        scope: Scope,
        channel: &[u8],
        payload: &[u8],
        skip_client: u64,
    ) -> Published {
        if !self.may_receive(scope) {
            return Published::default();
        }
        let local = &mut *self.local(thread);
        local.target_threads.clear();
        let mut receivers = 0;
        let mut count = |counts: &CountsByThread| {
            for &ThreadCount {
                thread,
                subscriptions,
            } in counts.by_thread()
            {
                receivers += subscriptions;
                if !local.target_threads.contains(&thread) {
                    local.target_threads.push(thread);
                }
            }
        };
        self.index(scope).with_counts(channel, &mut count);
        let mut matching: Vec<Arc<Pattern>> = Vec::new();
        if scope == Scope::Cluster && self.patterns.count() > 0 {
            for subscribed in self.patterns.current(&mut local.pattern_cache) {
                if subscribed.pattern.glob.matches(channel) {
                    count(&subscribed.counts);
                    matching.push(subscribed.pattern.clone());
                }
            }
        }
        if receivers == 0 {
            return Published::default();
        }
        let mut message =
            PublishedMessage::new(&mut local.buffer, scope, channel, payload, skip_client);
        message.patterns = (!matching.is_empty()).then(|| matching.into());
        let congested = self.fill_outboxes(local, message);
        self.states[thread].has_outgoing.store(true, Relaxed);
        Published {
            receivers,
            congested,
        }
    }

    /// Puts a message into the outboxes of the threads that receive it; returns one of them that is congested.
    fn fill_outboxes(&self, local: &mut LocalState, message: PublishedMessage) -> Option<usize> {
        let mut congested = None;
        for &thread in &local.target_threads {
            let outbox = &mut local.outboxes[thread];
            let on_way = self.states[thread].arriving_bytes.load(Relaxed) + outbox.bytes;
            let mut message = message.clone();
            if on_way > CONGESTED_BYTES {
                congested = Some(thread);
            }
            let drop_bytes = self.drop_bytes.load(Relaxed);
            if on_way.saturating_add(message.bytes()) > drop_bytes {
                message = message.as_drop_notice(&mut local.buffer);
                let with_notice = on_way.saturating_add(message.bytes());
                if with_notice > drop_bytes.saturating_add(DROP_NOTICES_BYTES_MAX) {
                    outbox.overflowed = true;
                    continue;
                }
                if outbox
                    .messages
                    .last()
                    .is_some_and(|last| last.covers(&message))
                {
                    continue;
                }
            }
            outbox.bytes += message.bytes();
            outbox.messages.push(message);
        }
        congested
    }

    /// True while `to` has too many bytes in transit for another message from `from`.
    pub fn is_congested(&self, from: usize, to: usize) -> bool {
        let on_way = || self.states[to].arriving_bytes.load(SeqCst);
        if on_way() + self.local(from).outboxes[to].bytes <= CONGESTED_BYTES {
            return false;
        }
        // Set the flag before the second look. In the total order of these SeqCst operations, either this thread sees the delivery
        // or the delivering thread sees the flag and wakes this one.
        self.states[to].publishers_wait.store(true, SeqCst);
        on_way() + self.local(from).outboxes[to].bytes > CONGESTED_BYTES
    }

    /// Notes that events published on behalf of `from` have congested `to`.
    pub fn note_congested(&self, from: usize, to: usize) {
        self.states[from].congested.store(to + 1, Relaxed);
    }

    /// Returns a thread that events published on behalf of `from` have congested since the last call.
    pub fn take_congested(&self, from: usize) -> Option<usize> {
        let congested = &self.states[from].congested;
        if congested.load(Relaxed) == 0 {
            return None;
        }
        congested.swap(0, Relaxed).checked_sub(1)
    }

    /// True if a thread has published messages that are not sent yet.
    #[inline]
    pub fn has_outgoing(&self, thread: usize) -> bool {
        self.states[thread].has_outgoing.load(Relaxed)
    }

    /// The size of those messages, in bytes.
    pub fn outgoing_bytes(&self, thread: usize) -> usize {
        let local = self.local(thread);
        local.outboxes.iter().map(|outbox| outbox.bytes).sum()
    }

    /// Sends the messages that a thread has published.
    pub fn send(&self, thread: usize, threads: &[impl DeliveryThread]) {
        let local = &mut *self.local(thread);
        self.states[thread].has_outgoing.store(false, Relaxed);
        // The thread's own receivers come first. Otherwise a receiver on another thread could answer a message before they get it.
        let others = (0..threads.len()).filter(|&to| to != thread);
        for to in std::iter::once(thread).chain(others) {
            let (outbox, state) = (&mut local.outboxes[to], &self.states[to]);
            if !outbox.messages.is_empty() {
                let bytes = std::mem::take(&mut outbox.bytes);
                state.arriving_bytes.fetch_add(bytes, Relaxed);
                let messages = std::mem::take(&mut outbox.messages);
                threads[to].send_published(messages, bytes);
            }
            if std::mem::take(&mut outbox.overflowed) && !state.overflow_sent.swap(true, AcqRel) {
                threads[to].send_overflow();
            }
        }
    }

    /// Called by a thread before it disconnects its subscribers for [`DeliveryThread::send_overflow`]: a message dropped from now on
    /// needs another call of that.
    pub fn take_overflow(&self, thread: usize) {
        self.states[thread].overflow_sent.swap(false, AcqRel);
    }

    /// The bytes in transit to a thread.
    pub fn arriving_bytes(&self, thread: usize) -> usize {
        self.states[thread].arriving_bytes.load(Relaxed)
    }

    /// Counts a message of `len` bytes that is sent to a thread by other means than [`PubSub::send`], and returns the bytes counted
    /// for it; `None` if that exceeds the limit, and the message must not be sent.
    pub fn admit(&self, thread: usize, len: usize) -> Option<usize> {
        let bytes = len + OVERHEAD_BYTES;
        let on_way = self.arriving_bytes(thread).saturating_add(bytes);
        if on_way > self.drop_bytes.load(Relaxed) {
            return None;
        }
        self.note_arriving(thread, bytes);
        Some(bytes)
    }

    /// Counts bytes that are sent to a thread by other means than [`PubSub::send`].
    pub fn note_arriving(&self, thread: usize, bytes: usize) {
        self.states[thread].arriving_bytes.fetch_add(bytes, Relaxed);
    }

    /// Returns a congested thread: the client that caused this waits until [`PubSub::is_congested`] is false for it.
    pub fn congested(&self) -> Option<usize> {
        (0..self.states.len()).find(|&thread| self.arriving_bytes(thread) > CONGESTED_BYTES)
    }

    /// Notes that a thread has delivered this many of the bytes sent to it; true if the caller must wake the other threads, since
    /// publishers wait for this.
    pub fn note_delivered(&self, thread: usize, bytes: usize) -> bool {
        let state = &self.states[thread];
        state.arriving_bytes.fetch_sub(bytes, SeqCst);
        state.publishers_wait.swap(false, SeqCst)
    }

    /// Calls `deliver_to` for every receiver of a message on a thread, with the place of its connection and the head of its
    /// message. `number` is the number of the message in the thread's inbox.
    pub fn deliver(
        &self,
        thread: usize,
        message: &PublishedMessage,
        number: u64,
        mut deliver_to: impl FnMut(usize, &[u8]),
    ) {
        let local = self.local(thread);
        let topic = match message.scope {
            Scope::Cluster => Topic::Channel,
            Scope::Slot => Topic::ShardChannel,
        };
        if let Some(receivers) = local.receivers[topic as usize].get(message.channel()) {
            receivers.for_each(number, |place| deliver_to(place, message.scope.head()));
        }
        for pattern in message.patterns.iter().flat_map(|patterns| patterns.iter()) {
            if let Some(receivers) = local.receivers[Topic::Pattern as usize].get(&pattern.name) {
                receivers.for_each(number, |place| deliver_to(place, &pattern.head));
            }
        }
    }

    /// Adds a subscription of a connection, which has none to this name yet. Returns the shared copy of the name.
    pub fn subscribe(
        &self,
        threads: &[impl DeliveryThread],
        thread: usize,
        place: usize,
        topic: Topic,
        name: &[u8],
    ) -> Arc<[u8]> {
        // Messages that this thread published before get their numbers now, lower than that of this subscription.
        if self.has_outgoing(thread) {
            self.send(thread, threads);
        }
        let since = threads[thread].next_message_number();
        let name = match topic {
            Topic::Channel => self.channels.add(name, thread),
            Topic::Pattern => self.patterns.add(name, thread),
            Topic::ShardChannel => self.shard_channels.add(name, thread),
        };
        let receivers = &mut self.local(thread).receivers[topic as usize];
        receivers.entry(name.clone()).or_default().add(place, since);
        name
    }

    /// Removes a subscription.
    pub fn unsubscribe(&self, thread: usize, place: usize, topic: Topic, name: &[u8]) {
        match topic {
            Topic::Channel => self.channels.remove(name, thread),
            Topic::Pattern => self.patterns.remove(name, thread),
            Topic::ShardChannel => self.shard_channels.remove(name, thread),
        }
        let names = &mut self.local(thread).receivers[topic as usize];
        if let Some(receivers) = names.get_mut(name) {
            receivers.remove(place);
            if receivers.is_empty() {
                names.remove(name);
                shrink(names);
            }
        }
    }

    /// The number of subscriptions to a channel.
    pub fn subscription_count(&self, scope: Scope, channel: &[u8]) -> usize {
        let total = self
            .index(scope)
            .with_counts(channel, CountsByThread::total);
        total.unwrap_or_default()
    }

    /// The channels that have subscribers and match the pattern, if there is one.
    pub fn channels(&self, scope: Scope, pattern: Option<&[u8]>) -> Vec<Arc<[u8]>> {
        self.index(scope).names(pattern)
    }

    /// The number of different names of a topic that have subscribers.
    pub fn name_count(&self, topic: Topic) -> usize {
        match topic {
            Topic::Channel => self.channels.count(),
            Topic::Pattern => self.patterns.count(),
            Topic::ShardChannel => self.shard_channels.count(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLISHER: usize = 0;
    const RECEIVER: usize = 1;
    const PLACE: usize = 7;

    /// The inbox of a thread; the test empties it.
    #[derive(Default)]
    struct Inbox(Mutex<Vec<Arrived>>);

    enum Arrived {
        Messages(Vec<PublishedMessage>, usize),
        Overflow,
    }

    impl Inbox {
        fn take(&self) -> Vec<Arrived> {
            std::mem::take(&mut self.0.lock().unwrap())
        }
    }

    impl DeliveryThread for Inbox {
        fn send_published(&self, messages: Vec<PublishedMessage>, bytes: usize) {
            let arrived = Arrived::Messages(messages, bytes);
            self.0.lock().unwrap().push(arrived);
        }

        fn send_overflow(&self) {
            self.0.lock().unwrap().push(Arrived::Overflow);
        }

        fn next_message_number(&self) -> u64 {
            0
        }
    }

    fn publish(pubsub: &PubSub, payload: &[u8]) -> Published {
        pubsub.publish(PUBLISHER, Scope::Cluster, b"news", payload, 0)
    }

    /// Takes the messages that have arrived in the inbox of the receiver's thread.
    fn arrived(pubsub: &PubSub, threads: &[Inbox]) -> Vec<PublishedMessage> {
        let mut all = Vec::new();
        for arrived in threads[RECEIVER].take() {
            if let Arrived::Messages(messages, bytes) = arrived {
                pubsub.note_delivered(RECEIVER, bytes);
                all.extend(messages);
            }
        }
        all
    }

    #[test]
    fn a_thread_gets_one_message_however_many_of_its_clients_subscribe() {
        let threads = [Inbox::default(), Inbox::default()];
        let pubsub = PubSub::new(2);
        pubsub.subscribe(&threads, RECEIVER, PLACE, Topic::Channel, b"news");
        pubsub.subscribe(&threads, RECEIVER, PLACE, Topic::Pattern, b"n*");
        pubsub.subscribe(&threads, RECEIVER, PLACE + 1, Topic::Pattern, b"n*");
        pubsub.subscribe(&threads, RECEIVER, PLACE, Topic::ShardChannel, b"news");
        assert_eq!(publish(&pubsub, b"x").receivers, 3);
        pubsub.send(PUBLISHER, &threads);
        let messages = arrived(&pubsub, &threads);
        assert_eq!(messages.len(), 1);
        let mut given = Vec::new();
        pubsub.deliver(RECEIVER, &messages[0], u64::MAX, |place, head| {
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
    fn publishers_wait_while_a_receiving_thread_is_congested() {
        let threads = [Inbox::default(), Inbox::default()];
        let pubsub = PubSub::new(2);
        pubsub.subscribe(&threads, RECEIVER, PLACE, Topic::Channel, b"news");
        let payload = vec![b'x'; CONGESTED_BYTES];
        assert_eq!(publish(&pubsub, &payload).congested, None);
        assert_eq!(publish(&pubsub, b"x").congested, Some(RECEIVER));
        pubsub.send(PUBLISHER, &threads);
        assert!(pubsub.is_congested(PUBLISHER, RECEIVER));
        assert_eq!(arrived(&pubsub, &threads).len(), 2);
        assert!(!pubsub.is_congested(PUBLISHER, RECEIVER));
    }

    /// A script or a transaction can't wait between the messages that it publishes.
    #[test]
    fn the_messages_of_one_request_use_bounded_memory() {
        const ROUNDS: usize = 1000;
        let threads = [Inbox::default(), Inbox::default()];
        let pubsub = PubSub::new(2);
        pubsub.set_output_limit(1 << 20);
        pubsub.subscribe(&threads, RECEIVER, PLACE, Topic::Channel, b"news");
        let payload = vec![b'x'; 1 << 20];
        for _ in 0..ROUNDS {
            assert_eq!(publish(&pubsub, &payload).receivers, 1);
        }
        assert!(pubsub.outgoing_bytes(PUBLISHER) <= DROP_BYTES_MIN + (1 << 20));
        pubsub.send(PUBLISHER, &threads);
        let messages = arrived(&pubsub, &threads);
        assert!(messages.last().is_some_and(|message| message.is_dropped));
        assert_eq!(
            messages.iter().filter(|message| message.is_dropped).count(),
            1
        );
        pubsub.set_output_limit(0);
        for _ in 0..100 {
            publish(&pubsub, &payload);
        }
        assert!(pubsub.outgoing_bytes(PUBLISHER) > 100 << 20);
    }

    /// The bug: each turn of a publisher queued another notice about dropped messages. Publishers do not wait for a stuck thread, so
    /// its inbox grew without bound. The fix: a limit for notices, and then one overflow.
    #[test]
    fn notices_about_dropped_messages_use_bounded_memory() {
        const MESSAGES: usize = 10_000;
        let threads = [Inbox::default(), Inbox::default()];
        let pubsub = PubSub::new(2);
        pubsub.set_output_limit(1);
        pubsub.subscribe(&threads, RECEIVER, PLACE, Topic::Pattern, b"*");
        let send = |channel: &[u8], payload: &[u8]| {
            pubsub.publish(PUBLISHER, Scope::Cluster, channel, payload, 0);
            pubsub.send(PUBLISHER, &threads);
        };
        send(b"first", &vec![b'x'; DROP_BYTES_MIN - 1024]);
        for number in 0..MESSAGES {
            send(format!("{number}").as_bytes(), b"");
        }
        let on_way = pubsub.arriving_bytes(RECEIVER);
        assert!(
            on_way <= DROP_BYTES_MIN + DROP_NOTICES_BYTES_MAX,
            "{on_way}"
        );
        let overflows = || {
            let arrived = threads[RECEIVER].take();
            let is_overflow = |arrived: &&Arrived| matches!(arrived, Arrived::Overflow);
            arrived.iter().filter(is_overflow).count()
        };
        assert_eq!(overflows(), 1);
        pubsub.take_overflow(RECEIVER);
        send(b"next", b"");
        assert_eq!(overflows(), 1);
    }
}
