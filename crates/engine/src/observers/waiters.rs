//! Who waits for a key: BLPOP and its relatives.
//!
//! ```text
//! shard ─► (database, key) ─► waiters in the order in which they came
//! ```
//!
//! - A command that finds nothing puts its client's [`Waiter`] here while it still holds the locks of its keys
//!   ([`Tx::wait`]), so no change can slip in between.
//! - A command that changes a key that somebody waits for serves the waiters when it is done, under its own locks
//!   ([`Tx::serve_waiters`]): in order of arrival, for as long as there is something for them.
//! - A waiter may be ended by several things at once: a change to any of its keys, its timeout, another client, the end of
//!   its connection. It decides itself, by one atomic claim, which of them it is.
//!
//! Each shard's waiters have a mutex of their own, beside the shard's lock, so that who gives up needs no shard. It is the
//! last to be taken, and nothing else is done while it is held.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A client's place in the order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub(crate) u64);

/// A client that waits for a key.
pub(crate) struct Waiting<W: ?Sized> {
    pub(crate) waiter: Arc<W>,
    /// It is also served when the key is removed.
    pub(crate) minds_absence: bool,
}

/// Who waits for one key.
struct Queue<W: ?Sized> {
    waiters: BTreeMap<Ticket, Waiting<W>>,
    /// How many of them mind it if the key is gone.
    minding: usize,
}

impl<W: ?Sized> Default for Queue<W> {
    fn default() -> Self {
        Self {
            waiters: BTreeMap::new(),
            minding: 0,
        }
    }
}

impl<W: ?Sized> Queue<W> {
    fn add(&mut self, ticket: Ticket, waiting: Waiting<W>) -> bool {
        let minds_absence = waiting.minds_absence;
        let is_new = self.waiters.insert(ticket, waiting).is_none();
        self.minding += usize::from(is_new && minds_absence);
        is_new
    }

    fn remove(&mut self, ticket: Ticket) -> bool {
        let removed = self.waiters.remove(&ticket);
        let minded = removed
            .as_ref()
            .is_some_and(|waiting| waiting.minds_absence);
        self.minding -= usize::from(minded);
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

    /// False if the waiter is there already: a key may be named twice.
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

    /// All keys of a database that somebody waits for.
    pub(crate) fn keys(&self, db: usize) -> Vec<Box<[u8]>> {
        let by_database = self.lock();
        let keys = by_database.get(&db).into_iter().flat_map(HashMap::keys);
        keys.cloned().collect()
    }

    /// The first waiter of a key that came at `from` or later and minds whether the key `is_there`.
    pub(crate) fn first(
        &self,
        db: usize,
        key: &[u8],
        is_there: bool,
        from: Ticket,
    ) -> Option<(Ticket, Arc<W>)> {
        let by_database = self.lock();
        let queue = by_database.get(&db)?.get(key)?;
        let minds = |(_, waiting): &(_, &Waiting<W>)| is_there || waiting.minds_absence;
        if !is_there && queue.minding == 0 {
            return None;
        }
        let (ticket, waiting) = queue.waiters.range(from..).find(minds)?;
        Some((*ticket, waiting.waiter.clone()))
    }
}
