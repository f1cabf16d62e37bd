//! The server's threads, as they see each other: what each has to do for the others, and whether it takes turns.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::ThreadId;

use crate::clients::Client;
use crate::event_loop::TICK;
use crate::event_loop::listener::Stream;
use crate::observers::invalidation::Invalidation;
use crate::pubsub::mail::Mail;
use crate::statistics::ThreadCounters;

/// What one thread may ask of another.
pub enum Message {
    /// Write these lines to all clients that monitor, but not to the one whose commands they show: it
    /// has them already, each behind its reply.
    Monitored {
        /// The finished lines.
        lines: Arc<[u8]>,
        /// The id of the client whose commands they show.
        from: u64,
        /// What they were counted as.
        bytes: usize,
    },
    /// Deliver these published messages.
    Mail {
        /// The messages, in order.
        mail: Vec<Mail>,
        /// What they were counted as.
        bytes: usize,
    },
    /// Tell clients that track keys.
    Invalidations {
        /// What they are told, in order.
        list: Vec<Invalidation>,
        /// What that was counted as.
        bytes: usize,
    },
    /// Tell a client what another one redirects to it.
    Redirected {
        /// The client.
        client: Arc<Client>,
        /// The keys, as they are written.
        text: Arc<[u8]>,
        /// What they were counted as.
        bytes: usize,
    },
    /// Disconnect all subscribers: messages for them were lost.
    Overflow,
    /// Look at the state of this client, which was changed: it may be killed or unblocked.
    ClientChanged(Arc<Client>),
}

/// A new connection for a thread to serve.
pub struct Arrival {
    /// The socket.
    pub stream: Stream,
    /// Its client's id.
    pub id: u64,
}

/// A thread that has not taken a turn for this long is stuck: most likely in a script. All others take one with every tick.
const STUCK_AFTER_MS: u64 = 3 * TICK.as_millis() as u64;

/// Messages for a thread.
#[derive(Default)]
struct Inbox {
    /// New connections. They have no place in the order of the messages, and other threads may take them.
    arrivals: Vec<Arrival>,
    messages: Vec<Message>,
    /// How many were taken before them.
    taken: u64,
}

/// One thread, as the others see it. On cache lines of its own, since its counters change with every request.
#[repr(align(128))]
pub struct Thread {
    inbox: Mutex<Inbox>,
    /// There are messages.
    has_incoming: AtomicBool,
    /// Somebody has left the first of them and not woken the thread yet.
    is_wake_due: AtomicBool,
    /// When it last took a turn, in milliseconds since the start of the server.
    turned_ms: AtomicU64,
    waker: mio::Waker,
    /// Which of the process's threads it is.
    id: OnceLock<ThreadId>,
    /// Its counters.
    pub counters: ThreadCounters,
    /// Its connections, those on their way included.
    pub connections: AtomicUsize,
}

impl Thread {
    /// A thread that the waker wakes.
    pub fn new(waker: mio::Waker) -> Self {
        Self {
            inbox: Mutex::default(),
            has_incoming: AtomicBool::new(false),
            is_wake_due: AtomicBool::new(false),
            turned_ms: AtomicU64::new(0),
            waker,
            id: OnceLock::new(),
            counters: ThreadCounters::new(),
            connections: AtomicUsize::new(0),
        }
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be called by the thread itself when it starts.
    pub fn begin(&self) {
        let known = self.id.set(std::thread::current().id());
        assert!(known.is_ok(), "a thread starts once");
    }

    /// True if it is the thread that asks.
    pub fn is_current(&self) -> bool {
        self.id.get() == Some(&std::thread::current().id())
    }

    /// True if it is stuck at this time, in milliseconds since the start of the server.
    pub fn is_stuck(&self, uptime_ms: u64) -> bool {
        uptime_ms.saturating_sub(self.turned_ms.load(Relaxed)) > STUCK_AFTER_MS
    }

    /// Notes that it has taken a turn at this time, in milliseconds since the start of the server.
    pub fn note_turn(&self, uptime_ms: u64) {
        self.turned_ms.store(uptime_ms, Relaxed);
    }

    /// Hands it a connection, which it counts among its own from now on.
    pub fn hand_over(&self, arrival: Arrival) {
        self.put(|inbox| inbox.arrivals.push(arrival));
        self.wake_if_due();
    }

    /// True if it has not taken all connections that were handed to it.
    pub fn has_arrivals(&self) -> bool {
        !self.inbox().arrivals.is_empty()
    }

    /// Takes those connections; any thread may.
    pub fn take_arrivals(&self) -> Vec<Arrival> {
        std::mem::take(&mut self.inbox().arrivals)
    }

    /// Leaves a message, and wakes the thread unless it is awake.
    pub fn send(&self, message: Message) {
        self.queue(message);
        self.wake_if_due();
    }

    /// Leaves a message. The caller calls [`Thread::wake_if_due`] soon, but may release locks first.
    pub fn queue(&self, message: Message) {
        self.put(|inbox| inbox.messages.push(message));
    }

    fn put(&self, put: impl FnOnce(&mut Inbox)) {
        let mut inbox = self.inbox();
        let was_empty = inbox.messages.is_empty() && inbox.arrivals.is_empty();
        put(&mut inbox);
        self.has_incoming.store(true, Relaxed);
        // Who leaves the first message wakes it. It looks itself for its own before it sleeps.
        if was_empty && !self.is_current() {
            self.is_wake_due.store(true, Relaxed);
        }
    }

    /// Wakes the thread if a message was left for which nobody has done so.
    pub fn wake_if_due(&self) {
        if self.is_wake_due.load(Relaxed) && self.is_wake_due.swap(false, Relaxed) {
            self.wake();
        }
    }

    /// True if there are messages or connections. A false is certain only to the thread itself about its own; others wake it.
    #[inline]
    pub fn has_incoming(&self) -> bool {
        self.has_incoming.load(Relaxed)
    }

    /// Makes the thread take a turn.
    pub fn wake(&self) {
        if let Err(error) = self.waker.wake() {
            log::warn!("can't wake a thread: {error}");
        }
    }

    /// Takes all messages; the first of them has the number that is returned.
    pub fn receive(&self) -> (u64, Vec<Message>) {
        let mut inbox = self.inbox();
        let first = inbox.taken;
        self.has_incoming.store(false, Relaxed);
        let messages = std::mem::take(&mut inbox.messages);
        inbox.taken += messages.len() as u64;
        (first, messages)
    }

    /// How many messages have arrived: the number of the next one.
    pub fn messages_arrived(&self) -> u64 {
        let inbox = self.inbox();
        inbox.taken + inbox.messages.len() as u64
    }
}
