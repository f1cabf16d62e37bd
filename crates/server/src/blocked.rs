//! A client that waits for keys: what BLPOP and its relatives do while there is nothing for them.
//!
//! ```text
//!             claim                    end                     the thread of its connection
//!   Waiting ─────────► claimed by ────────────► ended: how ─────────────────────────────────► its reply is written
//!                      a change of a key, its timeout, CLIENT UNBLOCK, or the end of the connection
//! ```
//!
//! Exactly one of those wins the claim, and only who has won it takes an element or decides on a reply.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use damselfly_base::CommandError;
use damselfly_commands::{Args, OwnedArgs, Stop, Wait};
use damselfly_engine::{Key, Served, Ticket, Tx, Waiter};
use damselfly_protocol::{Reply, Version};
use damselfly_value::EntryRef;

use crate::clients::Client;
use crate::registry::Row;
use crate::session::Session;
use crate::shared::{Message, Shared, Thread};

/// A command that waits, as all threads see it.
pub struct BlockedClient {
    shared: Arc<Shared>,
    client: Arc<Client>,
    args: OwnedArgs,
    wait: Arc<Wait>,
    version: Version,
    /// The client's id if it tracks keys, or else zero.
    tracker_id: u64,
    claimed: AtomicBool,
    end: Mutex<Option<End>>,
}

/// How a waiting ended.
#[derive(Debug)]
pub enum End {
    /// With this reply.
    Served(Vec<u8>),
    /// With this error.
    Failed(CommandError),
    /// Nothing came in time.
    TimedOut,
}

/// A command that waits, as its connection sees it.
pub struct Blocking {
    /// What others see of it.
    pub blocked_client: Arc<BlockedClient>,
    /// The command.
    pub row: &'static Row,
    /// When it ends without a result.
    pub deadline: Option<Instant>,
    ticket: Ticket,
    db: usize,
}

impl Blocking {
    /// Makes the client of `session` wait for the keys that `wait` names, whose locks are held.
    pub fn new(
        shared: &Arc<Shared>,
        session: &Session,
        row: &'static Row,
        args: Args<'_>,
        wait: &Arc<Wait>,
        tx: &mut Tx<'_>,
    ) -> Self {
        let blocked_client = Arc::new(BlockedClient {
            shared: shared.clone(),
            client: session.client.clone(),
            args: wait.args.clone().unwrap_or_else(|| args.to_owned()),
            wait: wait.clone(),
            version: session.protocol,
            tracker_id: session.tracked.as_ref().map_or(0, |_| session.client.id),
            claimed: AtomicBool::new(false),
            end: Mutex::new(None),
        });
        session
            .client
            .set_blocked_client(Some(blocked_client.clone()));
        let waiter: Arc<dyn Waiter> = blocked_client.clone();
        let keys = wait.keys.clone().map(|place| args.key(place));
        let timeout = wait.timeout_ms.map(Duration::from_millis);
        let ticket = tx.wait(keys, &waiter);
        if session.client.killed.load(Relaxed) {
            // Who has killed it may have looked before it was known to wait.
            blocked_client.end_unserved();
        }
        Self {
            ticket,
            db: tx.db(),
            deadline: timeout.and_then(|timeout| Instant::now().checked_add(timeout)),
            blocked_client,
            row,
        }
    }

    /// Ends the waiting for the given reason; false if it was ended before.
    pub fn end(&self, end: End) -> bool {
        let wins = self.blocked_client.claim();
        if wins {
            self.blocked_client.set_end(end);
        }
        wins
    }

    /// Removes all traces of it, whatever ended it.
    pub fn leave(&self) {
        // For a connection that is closed.
        self.blocked_client.end_unserved();
        let (args, keys) = (
            self.blocked_client.args.borrow(),
            self.blocked_client.wait.keys.clone(),
        );
        let keys = keys.map(|place| args.key(place));
        let engine = &self.blocked_client.shared.engine;
        engine.stop_waiting(self.ticket, self.db, keys);
        self.blocked_client.client.set_blocked_client(None);
    }
}

impl BlockedClient {
    /// True for the one who may end the waiting.
    fn claim(&self) -> bool {
        if cfg!(broken = "claim") {
            // For `tests/blocking.rs` of the oracle, which must notice.
            return true;
        }
        !self.claimed.swap(true, Relaxed)
    }

    fn thread(&self) -> &Thread {
        &self.shared.threads[self.client.thread]
    }

    /// Ends the waiting of a client that is about to be closed: nobody serves it any more.
    pub fn end_unserved(&self) {
        // Who has won it has served the client.
        let _ = self.claim();
    }

    /// True if something has ended the waiting.
    pub fn is_claimed(&self) -> bool {
        self.claimed.load(Relaxed)
    }

    /// True if it ends some time in any case.
    pub fn has_timeout(&self) -> bool {
        self.wait.timeout_ms.is_some()
    }

    fn set_end(&self, end: End) {
        *self.end.lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
    }

    /// How it ended, once it has.
    pub fn take_end(&self) -> Option<End> {
        self.end
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// Ends the waiting at another client's wish; false if it was ended before.
    pub fn unblock(&self, end: End) -> bool {
        let wins = self.claim();
        if wins {
            self.set_end(end);
            self.thread().send(Message::Look(self.client.clone()));
        }
        wins
    }

    /// Ends the waiting as `run` says; false if it was ended before.
    fn finish(&self, run: impl FnOnce() -> End) -> bool {
        let wins = self.claim();
        if wins {
            let mut ending = Ending {
                blocked_client: self,
                end: None,
            };
            ending.end = Some(run());
        }
        wins
    }

    /// Runs the command for a key that has something for it.
    fn run(&self, tx: &mut Tx<'_>, key: Key<'_>) -> End {
        // What led to this was done by somebody else.
        tx.ascribe_changes(0);
        let end = self.run_command(tx, key);
        tx.ascribe_changes(self.tracker_id);
        end
    }

    fn run_command(&self, tx: &mut Tx<'_>, key: Key<'_>) -> End {
        let mut bytes = Vec::new();
        let mut reply = Reply::new(&mut bytes, self.version);
        match (self.wait.serve)(tx, self.args.borrow(), key, &mut reply) {
            Ok(()) => End::Served(bytes),
            Err(Stop::Error(error)) => End::Failed(error),
            Err(Stop::SlicedReply(rest)) => {
                rest.write_all(&mut reply);
                End::Served(bytes)
            }
            Err(Stop::Busy(_) | Stop::Wait(_) | Stop::NeedsAllLocks | Stop::Long) => {
                log::error!("A client that waited was not served, by a bug in Damselfly.");
                End::TimedOut
            }
        }
    }
}

impl End {
    /// Writes the reply. Returns the error that it is, if it is one.
    pub fn write(self, reply: &mut Reply<'_>) -> Option<CommandError> {
        match self {
            Self::Served(bytes) => reply.raw(&bytes),
            Self::TimedOut => reply.null_array(),
            Self::Failed(error) => {
                reply.error(error.to_bytes());
                return Some(error);
            }
        }
        None
    }
}

/// Lets a client go whose command panics while it is served.
struct Ending<'a> {
    blocked_client: &'a BlockedClient,
    end: Option<End>,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.blocked_client
            .set_end(self.end.take().unwrap_or(End::TimedOut));
        if std::thread::panicking() {
            self.blocked_client.queue_message();
            self.blocked_client.wake();
        }
    }
}

impl Waiter for BlockedClient {
    fn serve(&self, tx: &mut Tx<'_>, key: Key<'_>) -> Served {
        if self.claimed.load(Relaxed) && !cfg!(broken = "claim") {
            return Served::Gone;
        }
        let found = tx.peek(key).map(EntryRef::type_of);
        if found != Some(self.wait.of) {
            let Some(text) = self.wait.gone else {
                return Served::No;
            };
            let error = CommandError::Text(text.to_owned());
            return match self.finish(|| End::Failed(error)) {
                true => Served::Yes,
                false => Served::Gone,
            };
        }
        if !(self.wait.has)(tx, self.args.borrow(), key) {
            return Served::No;
        }
        if let Some(target) = self.wait.target {
            let hash = self.args.borrow().key(target).hash;
            if !tx.include(hash) {
                return Served::Needs(hash);
            }
        }
        match self.finish(|| self.run(tx, key)) {
            true => Served::Yes,
            false => Served::Gone,
        }
    }

    fn wants_removal(&self) -> bool {
        self.wait.gone.is_some()
    }

    fn queue_message(&self) {
        self.thread().leave(Message::Look(self.client.clone()));
    }

    fn wake(&self) {
        self.thread().wake_if_left();
    }
}

impl std::fmt::Debug for BlockedClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parked").finish_non_exhaustive()
    }
}
