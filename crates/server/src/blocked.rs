//! Blocked clients: BLPOP and its relatives while their keys are empty.
//!
//! ```text
//!              claim                   end                    the thread of its connection
//!   waiting ─────────► claimed ───────────────────► ended ─────────────────────────────────► reply written
//!              by a change of a key, the timeout, CLIENT UNBLOCK, or the close of the connection
//! ```
//!
//! Exactly one of those wins the claim, and only the winner takes an element or decides on the reply.

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
use crate::shared::Shared;
use crate::threads::{Message, Thread};
use crate::users::{self, Login};

/// A command that waits for keys, as all threads see it.
pub struct BlockedClient {
    shared: Arc<Shared>,
    client: Arc<Client>,
    args: OwnedArgs,
    wait: Arc<Wait>,
    version: Version,
    row: &'static Row,
    /// The user, as of when the wait began.
    login: Login,
    /// The client's id if it tracks keys, otherwise zero.
    tracker_id: u64,
    claimed: AtomicBool,
    end: Mutex<Option<End>>,
}

/// How a wait ended.
#[derive(Debug)]
pub enum End {
    /// The command was served and wrote this reply.
    Served(Vec<u8>),
    /// The command failed with this error.
    Failed(CommandError),
    /// The timeout has passed.
    TimedOut,
}

/// A command that waits for keys, as its connection sees it.
pub struct Blocking {
    /// The part that other threads see.
    pub blocked_client: Arc<BlockedClient>,
    /// The command.
    pub row: &'static Row,
    /// How long the command ran before it began to wait, in nanoseconds.
    pub took_ns: u64,
    /// When the timeout passes, if there is one.
    pub deadline: Option<Instant>,
    ticket: Ticket,
    db: usize,
}

impl Blocking {
    /// Makes the client of `session` wait for the keys that `wait` names. `tx` holds their locks.
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
            row,
            login: session.login.clone(),
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
            // CLIENT KILL may have looked before the client was known to wait.
            blocked_client.cancel();
        }
        Self {
            ticket,
            db: tx.db(),
            deadline: timeout.and_then(|timeout| Instant::now().checked_add(timeout)),
            blocked_client,
            row,
            took_ns: 0,
        }
    }

    /// Ends the wait like this; false if something else has ended it.
    pub fn end(&self, end: End) -> bool {
        let wins = self.blocked_client.claim();
        if wins {
            self.blocked_client.set_end(end);
        }
        wins
    }

    /// Ends the wait without a reply; false if something else has ended it.
    pub fn abandon(&self) -> bool {
        self.blocked_client.claim()
    }

    /// Removes the client from the queues of its keys, whatever ended the wait.
    pub fn unregister(&self) {
        // If the connection is closed, nothing else has ended the wait yet.
        self.blocked_client.cancel();
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
    /// Claims the right to end the wait; true for one caller only.
    fn claim(&self) -> bool {
        if damselfly_base::planted_bug("claim") {
            // A deliberate bug that `tests/blocking.rs` of the oracle must detect.
            return true;
        }
        !self.claimed.swap(true, Relaxed)
    }

    fn thread(&self) -> &Thread {
        &self.shared.threads[self.client.thread]
    }

    /// Ends the wait of a client whose connection is about to be closed, so that nothing serves it any more.
    pub fn cancel(&self) {
        // If something else has the claim, the wait has ended already.
        let _ = self.claim();
    }

    /// True if something has ended the wait, or is about to.
    pub fn is_claimed(&self) -> bool {
        self.claimed.load(Relaxed)
    }

    /// True if the wait has a timeout.
    pub fn has_timeout(&self) -> bool {
        self.wait.timeout_ms.is_some()
    }

    fn set_end(&self, end: End) {
        *self.end.lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
    }

    /// Takes how the wait ended, if it has.
    pub fn take_end(&self) -> Option<End> {
        self.end
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// Ends the wait for another client's CLIENT UNBLOCK; false if something else has ended it.
    pub fn unblock(&self, end: End) -> bool {
        let wins = self.claim();
        if wins {
            self.set_end(end);
            self.thread()
                .send(Message::ClientChanged(self.client.clone()));
        }
        wins
    }

    /// The error if the user was changed meanwhile and may not run the command any more.
    #[inline]
    fn refusal(&self) -> Option<CommandError> {
        let shared = &self.shared;
        if self.login.is_current(&shared.users) {
            return None;
        }
        let (row, args) = (self.row, self.args.borrow());
        let context = users::Context::TopLevel;
        // A copy, because other threads may be here for the same client.
        let checked = self
            .login
            .clone()
            .check(shared, &self.client, (row, args), context);
        checked.err().map(|denied| users::refusal(denied, row))
    }

    /// The first of the client's keys, in the order of its request, that has something for it; `changed` is one of them, which has
    /// changed. Others may have changed in the same section. Those that it has not locked can't have.
    ///
    /// # Errors
    /// A key before that holds another type.
    fn first_ready<'k>(
        &'k self,
        tx: &mut Tx<'_>,
        changed: Key<'k>,
    ) -> Result<Option<Key<'k>>, CommandError> {
        let (wait, args) = (&self.wait, self.args.borrow());
        let type_of = |tx: &mut Tx<'_>, key| tx.peek(key).map(EntryRef::type_of);
        if wait.ends_if_gone && type_of(tx, changed) != Some(wait.of) {
            // Whatever the other keys have: the command returns the error.
            return Ok(Some(changed));
        }
        // A change to another type wakes nobody, as long as no key has something.
        if type_of(tx, changed) != Some(wait.of) || !(wait.has)(tx, args, changed) {
            return Ok(None);
        }
        for key in wait.keys.clone().map(|place| args.key(place)) {
            if !tx.holds_key(key) {
                continue;
            }
            match type_of(tx, key) {
                None => {}
                Some(found) if found != wait.of => return Err(CommandError::WrongType),
                Some(_) if (wait.has)(tx, args, key) => return Ok(Some(key)),
                Some(_) => {}
            }
        }
        Ok(None)
    }

    /// Ends the wait with the result of `run`; false if something else has ended it.
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

    /// Runs the command for a key that has an element for it.
    fn run(&self, tx: &mut Tx<'_>, key: Key<'_>) -> End {
        // The changes so far are not those of the blocked client.
        tx.ascribe_changes(0);
        let end = self.run_command(tx, key);
        tx.ascribe_changes(self.tracker_id);
        end
    }

    fn run_command(&self, tx: &mut Tx<'_>, key: Key<'_>) -> End {
        let mut bytes = Vec::new();
        let mut reply = Reply::new(&mut bytes, self.version);
        let (args, start) = (self.args.borrow(), tx.begin_command());
        let served = (self.wait.serve)(tx, args, key, &mut reply);
        tx.end_command(start, || args.from(0));
        match served {
            Ok(()) => End::Served(bytes),
            Err(Stop::Error(error)) => End::Failed(error),
            Err(Stop::SlicedReply(rest)) => {
                rest.write_all(&mut reply);
                End::Served(bytes)
            }
            Err(
                Stop::Busy(_)
                | Stop::Wait(_)
                | Stop::NeedsAllLocks
                | Stop::LogBehind
                | Stop::Long
                | Stop::LongUnlocked(_),
            ) => {
                log::error!("A blocked client was not served because of a bug in Damselfly.");
                End::TimedOut
            }
        }
    }
}

impl End {
    /// Writes the reply. If that is an error, returns it.
    pub fn write(self, blocking: &Blocking, reply: &mut Reply<'_>) -> Option<CommandError> {
        match self {
            Self::Served(bytes) => reply.raw(&bytes),
            Self::TimedOut => (blocking.blocked_client.wait.timed_out)(reply),
            Self::Failed(error) => {
                reply.error(error.to_bytes());
                return Some(error);
            }
        }
        None
    }
}

/// Ends the wait even if the command panics.
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
        if self.claimed.load(Relaxed) && !damselfly_base::planted_bug("claim") {
            return Served::Gone;
        }
        let key = match self.first_ready(tx, key) {
            Ok(Some(key)) => key,
            Ok(None) => return Served::No,
            Err(error) => {
                return match self.finish(|| End::Failed(error)) {
                    true => Served::Yes,
                    false => Served::Gone,
                };
            }
        };
        if let Some(error) = self.refusal() {
            return match self.finish(|| End::Failed(error)) {
                true => Served::Yes,
                false => Served::Gone,
            };
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
        self.wait.ends_if_gone
    }

    fn queue_message(&self) {
        self.thread()
            .queue(Message::ClientChanged(self.client.clone()));
    }

    fn wake(&self) {
        self.thread().wake_if_due();
    }
}

impl std::fmt::Debug for BlockedClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlockedClient").finish_non_exhaustive()
    }
}
