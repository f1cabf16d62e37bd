//! Which clients wait for a key: BLPOP and its relatives.
//!
//! ```text
//! shard ─► (database, key) ─► waiters in order of arrival
//! ```
//!
//! - A command that finds nothing queues its client's [`Waiter`](crate::Waiter) here while it still holds the locks of its keys
//!   ([`Tx::wait`](crate::Tx::wait)), so no change can slip in between.
//! - A command that changes a key with waiters serves them when it is done, under its own locks
//!   ([`Tx::serve_waiters`](crate::Tx::serve_waiters)): in order of arrival, for as long as there is something for them.
//! - Several things may end a wait at the same moment: a change to any of its keys, its timeout, another client, the end of
//!   its connection. The waiter itself decides, by one atomic claim, which of them wins.
//!
//! Each shard's waiters have a mutex apart from the shard's lock, so that a waiter that gives up needs no shard. It is the
//! last lock to be taken, and nothing else happens while it is held.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A client's place in the order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub(crate) u64);

/// A client that waits for a key.
pub(crate) struct Waiting<W: ?Sized> {
    pub(crate) waiter: Arc<W>,
    /// It is also served when the key is removed.
    pub(crate) wants_removal: bool,
}

/// The clients that wait for one key.
struct Queue<W: ?Sized> {
    waiters: BTreeMap<Ticket, Waiting<W>>,
    /// How many of them are also served when the key is removed.
    removal_waiters: usize,
}

impl<W: ?Sized> Default for Queue<W> {
    fn default() -> Self {
        Self {
            waiters: BTreeMap::new(),
            removal_waiters: 0,
        }
    }
}

impl<W: ?Sized> Queue<W> {
    fn add(&mut self, ticket: Ticket, waiting: Waiting<W>) -> bool {
        let wants_removal = waiting.wants_removal;
        let is_new = self.waiters.insert(ticket, waiting).is_none();
        self.removal_waiters += usize::from(is_new && wants_removal);
        is_new
    }

    fn remove(&mut self, ticket: Ticket) -> bool {
        let removed = self.waiters.remove(&ticket);
        let wanted_removal = removed
            .as_ref()
            .is_some_and(|waiting| waiting.wants_removal);
        self.removal_waiters -= usize::from(wanted_removal);
        removed.is_some()
    }
}

type ByDatabase<W> = HashMap<usize, HashMap<Box<[u8]>, Queue<W>>>;

/// The waiters of one shard. `W` is a client that waits.
pub(crate) struct KeyWaiters<W: ?Sized> {
    by_database: Mutex<ByDatabase<W>>,
}

impl<W: ?Sized> Default for KeyWaiters<W> {
    fn default() -> Self {
        Self {
            by_database: Mutex::default(),
        }
    }
}

impl<W: ?Sized> KeyWaiters<W> {
    fn lock(&self) -> MutexGuard<'_, ByDatabase<W>> {
        self.by_database
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// False if the waiter is queued already: a command may name a key twice.
    pub(crate) fn add(&self, db: usize, key: &[u8], ticket: Ticket, waiting: Waiting<W>) -> bool {
        let mut by_database = self.lock();
        let queue = by_database.entry(db).or_default().entry(key.into());
        queue.or_default().add(ticket, waiting)
    }

    /// False if there is no such waiter.
    pub(crate) fn remove(&self, db: usize, key: &[u8], ticket: Ticket) -> bool {
        let mut by_database = self.lock();
        let Some(keys) = by_database.get_mut(&db) else {
            return false;
        };
        let Some(queue) = keys.get_mut(key) else {
            return false;
        };
        let removed = queue.remove(ticket);
        if queue.waiters.is_empty() {
            keys.remove(key);
        }
        if keys.is_empty() {
            by_database.remove(&db);
        }
        removed
    }

    /// How many keys are waited for, and how many of these by clients that want to know of their removal.
    pub(crate) fn key_counts(&self) -> (usize, usize) {
        let by_database = self.lock();
        let queues = || by_database.values().flat_map(HashMap::values);
        let with_removal = queues().filter(|queue| queue.removal_waiters > 0);
        (queues().count(), with_removal.count())
    }

    pub(crate) fn count(&self) -> usize {
        let by_database = self.lock();
        let queues = by_database.values().flat_map(HashMap::values);
        queues.map(|queue| queue.waiters.len()).sum()
    }

    pub(crate) fn is_awaited(&self, db: usize, key: &[u8]) -> bool {
        let by_database = self.lock();
        by_database
            .get(&db)
            .is_some_and(|keys| keys.contains_key(key))
    }

    /// All keys of a database that clients wait for.
    pub(crate) fn keys(&self, db: usize) -> Vec<Box<[u8]>> {
        let by_database = self.lock();
        let keys = by_database.get(&db).into_iter().flat_map(HashMap::keys);
        keys.cloned().collect()
    }

    /// The first waiter of a key, from ticket `from` on, that can be served: any if the key `exists`, else only one that wants to
    /// know of its removal.
    pub(crate) fn first(
        &self,
        db: usize,
        key: &[u8],
        exists: bool,
        from: Ticket,
    ) -> Option<(Ticket, Arc<W>)> {
        let by_database = self.lock();
        let queue = by_database.get(&db)?.get(key)?;
        let can_be_served = |(_, waiting): &(_, &Waiting<W>)| exists || waiting.wants_removal;
        if !exists && queue.removal_waiters == 0 {
            return None;
        }
        let (ticket, waiting) = queue.waiters.range(from..).find(can_be_served)?;
        Some((*ticket, waiting.waiter.clone()))
    }
}
