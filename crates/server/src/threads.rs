//! The server's threads, as they see each other: each has an inbox for messages and new connections, a waker, counters, and the
//! time of its last turn.
//!
//! ```text
//!   another thread ── queue(message) ──► inbox ── receive() ──► the thread itself, in its next turn
//!                  └─ wake_if_due() ───► waker, if the inbox was empty
//! ```

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::ThreadId;

use crate::clients::Client;
use crate::event_loop::TICK;
use crate::event_loop::parser::Protocol;
use crate::event_loop::stream::Stream;
use crate::observers::invalidation::Invalidation;
use crate::statistics::ThreadCounters;
use damselfly_pubsub::{DeliveryThread, PublishedMessage};

/// A request from one thread to another.
pub enum Message {
    /// Write these lines to all MONITOR clients, except the one whose commands they show: that one has
    /// them already, each behind its reply.
    Monitored {
        /// The finished lines.
        lines: Arc<[u8]>,
        /// The id of the client whose commands they show.
        from: u64,
        /// The size they were counted with.
        bytes: usize,
    },
    /// Deliver these published messages.
    Published {
        /// The messages, in order.
        messages: Vec<PublishedMessage>,
        /// The size they were counted with.
        bytes: usize,
    },
    /// Send invalidations to clients that track keys.
    Invalidations {
        /// The invalidations, in order.
        list: Vec<Invalidation>,
        /// The size they were counted with.
        bytes: usize,
    },
    /// Send a client the invalidations that another client redirects to it.
    Redirected {
        /// The client.
        client: Arc<Client>,
        /// The encoded keys.
        text: Arc<[u8]>,
        /// The size they were counted with.
        bytes: usize,
    },
    /// Disconnect all subscribers, because messages for them were dropped.
    Overflow,
    /// Check the state of this client: it may have been killed or unblocked, or its long command may have run.
    ClientChanged(Arc<Client>),
}

/// A new connection for a thread to serve.
pub struct Arrival {
    /// The socket.
    pub stream: Stream,
    /// What its client speaks.
    pub speaks: Protocol,
    /// Its client's id.
    pub id: u64,
}

/// A thread that has not taken a turn for this long is stuck, most likely in a script. All others take a turn at least every tick.
const STUCK_AFTER_MS: u64 = 3 * TICK.as_millis() as u64;

/// The messages and connections that a thread has not taken yet.
#[derive(Default)]
struct Inbox {
    /// New connections. They are not ordered among the messages, and the acceptor may take them back.
    arrivals: Vec<Arrival>,
    messages: Vec<Message>,
    /// How many messages were taken before these.
    taken: u64,
}

/// One thread, as the others see it. It has cache lines of its own, because its counters change with every request.
#[repr(align(128))]
pub struct Thread {
    inbox: Mutex<Inbox>,
    /// The inbox is not empty.
    has_incoming: AtomicBool,
    /// A sender has put the first item into the inbox and not woken the thread yet.
    is_wake_due: AtomicBool,
    /// When the thread last took a turn, in milliseconds since the start of the server.
    turned_ms: AtomicU64,
    waker: Arc<mio::Waker>,
    /// The operating system's thread, once it has started.
    id: OnceLock<ThreadId>,
    /// The counters that only this thread changes.
    pub counters: ThreadCounters,
    /// How many connections it has, including those in its inbox.
    pub connections: AtomicUsize,
    /// How many of its clients wait for the disk.
    disk_waits: AtomicU64,
    /// Clients that waited for records below this number do not wait any more.
    released: AtomicU64,
}

impl Thread {
    /// A thread that `waker` wakes.
    pub fn new(waker: mio::Waker) -> Self {
        Self {
            inbox: Mutex::default(),
            has_incoming: AtomicBool::new(false),
            is_wake_due: AtomicBool::new(false),
            turned_ms: AtomicU64::new(0),
            waker: Arc::new(waker),
            id: OnceLock::new(),
            counters: ThreadCounters::new(),
            connections: AtomicUsize::new(0),
            disk_waits: AtomicU64::new(0),
            released: AtomicU64::new(0),
        }
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread itself calls this when it starts.
    pub fn begin(&self) {
        let known = self.id.set(std::thread::current().id());
        assert!(known.is_ok(), "a thread starts once");
    }

    /// True if the caller is this thread.
    pub fn is_current(&self) -> bool {
        self.id.get() == Some(&std::thread::current().id())
    }

    /// True if the thread is stuck. `uptime_ms` is the time since the start of the server.
    pub fn is_stuck(&self, uptime_ms: u64) -> bool {
        uptime_ms.saturating_sub(self.turned_ms.load(Relaxed)) > STUCK_AFTER_MS
    }

    /// Records a turn. `uptime_ms` is the time since the start of the server.
    pub fn note_turn(&self, uptime_ms: u64) {
        self.turned_ms.store(uptime_ms, Relaxed);
    }

    /// Counts its clients that wait for the disk.
    pub fn add_disk_waits(&self, more: i64) {
        self.disk_waits.fetch_add(more as u64, SeqCst);
    }

    /// True if clients of the thread wait for the disk.
    pub fn waits_for_disk(&self) -> bool {
        self.disk_waits.load(SeqCst) > 0
    }

    /// Notes that no client waits for records below this number any more. True if that is new.
    #[inline]
    pub fn note_released(&self, durable: u64) -> bool {
        let is_new = self.released.load(Relaxed) != durable;
        if is_new {
            self.released.store(durable, SeqCst);
        }
        is_new
    }

    /// True if no client waits for records below this number.
    pub fn has_released(&self, durable: u64) -> bool {
        !self.waits_for_disk() || self.released.load(SeqCst) >= durable
    }

    /// Hands the thread a connection. The caller has counted it in `connections`.
    pub fn hand_over(&self, arrival: Arrival) {
        self.put(|inbox| inbox.arrivals.push(arrival));
        self.wake_if_due();
    }

    /// True if connections are left in the inbox.
    pub fn has_arrivals(&self) -> bool {
        !self.inbox().arrivals.is_empty()
    }

    /// Takes the connections from the inbox. Any thread may do this.
    pub fn take_arrivals(&self) -> Vec<Arrival> {
        std::mem::take(&mut self.inbox().arrivals)
    }

    /// Queues a message and wakes the thread if needed.
    pub fn send(&self, message: Message) {
        self.queue(message);
        self.wake_if_due();
    }

    /// Queues a message. The caller must call [`Thread::wake_if_due`] soon, but may release locks first.
    pub fn queue(&self, message: Message) {
        self.put(|inbox| inbox.messages.push(message));
    }

    fn put(&self, put: impl FnOnce(&mut Inbox)) {
        let mut inbox = self.inbox();
        let was_empty = inbox.messages.is_empty() && inbox.arrivals.is_empty();
        put(&mut inbox);
        self.has_incoming.store(true, Relaxed);
        // The sender of the first item wakes the thread. A thread checks its own inbox before it sleeps.
        if was_empty && !self.is_current() {
            self.is_wake_due.store(true, Relaxed);
        }
    }

    /// Wakes the thread if an item was queued and no sender has woken it since.
    pub fn wake_if_due(&self) {
        if self.is_wake_due.load(Relaxed) && self.is_wake_due.swap(false, Relaxed) {
            self.wake();
        }
    }

    /// True if the inbox is not empty. A false is certain only for the thread itself about items it has queued; other senders wake it.
    #[inline]
    pub fn has_incoming(&self) -> bool {
        self.has_incoming.load(Relaxed)
    }

    /// What wakes the thread.
    pub fn waker(&self) -> Arc<mio::Waker> {
        self.waker.clone()
    }

    /// Makes the thread take a turn.
    pub fn wake(&self) {
        if let Err(error) = self.waker.wake() {
            log::warn!("Can't wake a thread: {error}");
        }
    }

    /// Takes all messages, and returns the number of the first one with them.
    pub fn receive(&self) -> (u64, Vec<Message>) {
        let mut inbox = self.inbox();
        let first = inbox.taken;
        self.has_incoming.store(false, Relaxed);
        let messages = std::mem::take(&mut inbox.messages);
        inbox.taken += messages.len() as u64;
        (first, messages)
    }
}

impl DeliveryThread for Thread {
    fn send_published(&self, messages: Vec<PublishedMessage>, bytes: usize) {
        self.send(Message::Published { messages, bytes });
    }

    fn send_overflow(&self) {
        self.send(Message::Overflow);
    }

    fn next_message_number(&self) -> u64 {
        let inbox = self.inbox();
        inbox.taken + inbox.messages.len() as u64
    }
}
