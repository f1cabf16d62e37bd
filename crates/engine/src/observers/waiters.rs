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

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::section::extras::SectionExtras;
use crate::{Busy, Engine, Key, Now, Tx};

/// A client that waits for keys.
pub trait Waiter: Send + Sync {
    /// Serves it from `key`, which was changed and whose shard is locked, unless there is nothing for it or its waiting was
    /// ended by something else.
    fn serve(&self, tx: &mut Tx<'_>, key: Key<'_>) -> Served;

    /// Called when the section that has served it is done: queues a message for its thread. The locks are still held.
    fn queue_message(&self);

    /// Called after that, once the locks are released: wakes its thread.
    fn wake(&self);

    /// True if a key that is gone matters to it: it is asked to serve from that, too.
    fn minds_absence(&self) -> bool {
        false
    }
}

/// What came of [`Waiter::serve`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// It has what it waited for.
    Yes,
    /// The key holds nothing for it: it goes on waiting.
    No,
    /// Something else has ended its waiting.
    Gone,
    /// It also needs the shard of this hash, which is busy.
    Needs(u64),
}

/// A client's place in the order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// A key whose waiters could not be served, since that needs the shard of another key, too: hand it to
/// [`Engine::serve_waiters`].
#[derive(Debug)]
pub struct Unserved {
    db: usize,
    key: Box<[u8]>,
    /// A hash of the other shard.
    needs: u64,
}

/// Who waits for one key.
#[derive(Default)]
struct Queue {
    waiters: BTreeMap<Ticket, Arc<dyn Waiter>>,
    /// How many of them mind it if the key is gone.
    minding: usize,
}

impl Queue {
    fn add(&mut self, ticket: Ticket, waiter: Arc<dyn Waiter>) -> bool {
        let minds = waiter.minds_absence();
        let is_new = self.waiters.insert(ticket, waiter).is_none();
        self.minding += usize::from(is_new && minds);
        is_new
    }

    fn remove(&mut self, ticket: Ticket) -> bool {
        let removed = self.waiters.remove(&ticket);
        let minded = removed
            .as_ref()
            .is_some_and(|waiter| waiter.minds_absence());
        self.minding -= usize::from(minded);
        removed.is_some()
    }
}

type ByDatabase = HashMap<usize, HashMap<Box<[u8]>, Queue>>;

/// The waiters of one shard.
#[derive(Default)]
pub(crate) struct Waiting {
    by_database: Mutex<ByDatabase>,
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, ByDatabase> {
        self.by_database
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// False if the waiter is there already: a key may be named twice.
    fn add(&self, db: usize, key: &[u8], ticket: Ticket, waiter: Arc<dyn Waiter>) -> bool {
        let mut by_database = self.lock();
        let queue = by_database.entry(db).or_default().entry(key.into());
        queue.or_default().add(ticket, waiter)
    }

    /// False if there is no such waiter.
    fn remove(&self, db: usize, key: &[u8], ticket: Ticket) -> bool {
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

    fn count(&self) -> usize {
        let by_database = self.lock();
        let queues = by_database.values().flat_map(HashMap::values);
        queues.map(|queue| queue.waiters.len()).sum()
    }

    fn is_awaited(&self, db: usize, key: &[u8]) -> bool {
        let by_database = self.lock();
        by_database
            .get(&db)
            .is_some_and(|keys| keys.contains_key(key))
    }

    /// All keys of a database that somebody waits for.
    fn keys(&self, db: usize) -> Vec<Box<[u8]>> {
        let by_database = self.lock();
        let keys = by_database.get(&db).into_iter().flat_map(HashMap::keys);
        keys.cloned().collect()
    }

    /// The first waiter of a key that came at `from` or later and minds whether the key `is_there`.
    fn first(
        &self,
        db: usize,
        key: &[u8],
        is_there: bool,
        from: Ticket,
    ) -> Option<(Ticket, Arc<dyn Waiter>)> {
        let by_database = self.lock();
        let queue = by_database.get(&db)?.get(key)?;
        let minds = |(_, waiter): &(_, &Arc<dyn Waiter>)| is_there || waiter.minds_absence();
        if !is_there && queue.minding == 0 {
            return None;
        }
        let (ticket, waiter) = queue.waiters.range(from..).find(minds)?;
        Some((*ticket, waiter.clone()))
    }
}

/// The changed keys of a section that somebody waits for.
#[derive(Default)]
pub(crate) struct ReadyKeys {
    keys: VecDeque<(usize, Box<[u8]>)>,
}

impl Tx<'_> {
    /// Makes `waiter` wait for `keys` of the selected database; it comes after all who do already.
    ///
    /// # Panics
    /// If a key's shard is not locked.
    pub fn wait<'k>(
        &mut self,
        keys: impl Iterator<Item = Key<'k>>,
        waiter: &Arc<dyn Waiter>,
    ) -> Ticket {
        let engine = self.engine();
        let ticket = Ticket(engine.last_ticket.fetch_add(1, Relaxed));
        for key in keys {
            let shard = engine.shard_of(key.hash);
            assert!(self.holds(shard), "waiting for a key without its lock");
            let waiting = engine.waiting(shard);
            if waiting.add(self.db(), key.bytes, ticket, waiter.clone()) {
                engine.add_observer(shard);
            }
        }
        ticket
    }

    /// True if keys were changed that somebody waits for.
    #[inline]
    pub fn has_ready(&self) -> bool {
        self.extras
            .as_ref()
            .is_some_and(|extras| !extras.ready.is_empty())
    }

    /// True if this section has something to do beside its work, once that is done: to serve those who wait, or to tell others.
    #[inline]
    pub fn has_extras(&self) -> bool {
        self.extras.is_some()
    }

    /// Locks the shard of one more key until the end of this section; false if it is busy. This is out of order, but who waits
    /// for a few microseconds at most can be part of no deadlock.
    pub fn include(&mut self, hash: u64) -> bool {
        self.include_shard(self.engine().shard_of(hash))
    }

    /// As [`Tx::include`], by the shard's number.
    pub fn include_shard(&mut self, shard: usize) -> bool {
        if self.holds(shard) {
            return true;
        }
        let taken = self.engine().acquire(shard);
        if taken {
            self.extras().included.push(shard);
        }
        taken
    }

    /// Notes that a key was changed, if somebody waits for it.
    pub(crate) fn note_ready(&mut self, db: usize, key: Key<'_>) {
        let engine = self.engine();
        let shard = engine.shard_of(key.hash);
        engine.note_ready(&mut self.extras, shard, db, key.bytes);
    }

    /// Notes that all keys of a database may have been changed.
    ///
    /// # Panics
    /// If not all shards are locked.
    pub(crate) fn note_all_ready(&mut self, db: usize) {
        let engine = self.engine();
        for shard in 0..engine.shards() {
            assert!(self.holds(shard), "a database is changed without all locks");
            if engine.is_observed(shard) {
                let keys = engine.waiting(shard).keys(db);
                let ready = keys.into_iter().map(|key| (db, key));
                self.extras().ready.keys.extend(ready);
            }
        }
    }

    /// Serves who waits for the keys that this section has changed: to be called when it has done its work.
    ///
    /// Serving may change further keys, whose waiters are served too. Returns the keys whose waiters are left for
    /// [`Engine::serve_waiters`], which should follow when the locks are released.
    pub fn serve_waiters(&mut self) -> Vec<Unserved> {
        let (own_db, mut unserved) = (self.db(), Vec::new());
        while let Some((db, key)) = self.next_ready() {
            self.set_db(db);
            let needs = self.serve_key(Key::new(&key));
            unserved.extend(needs.map(|needs| Unserved { db, key, needs }));
        }
        self.set_db(own_db);
        unserved
    }

    fn next_ready(&mut self) -> Option<(usize, Box<[u8]>)> {
        self.has_ready()
            .then(|| self.extras().ready.keys.pop_front())?
    }

    /// Serves who waits for one key. Returns a hash of the shard that is missing, if one is.
    fn serve_key(&mut self, key: Key<'_>) -> Option<u64> {
        let (engine, db) = (self.engine(), self.db());
        let shard = engine.shard_of(key.hash);
        let waiting = engine.waiting(shard);
        let mut from = Ticket(0);
        loop {
            let is_there = self.peek(key).is_some();
            let Some((ticket, waiter)) = waiting.first(db, key.bytes, is_there, from) else {
                break;
            };
            from = Ticket(ticket.0 + 1);
            match waiter.serve(self, key) {
                Served::Yes => {
                    engine.forget_waiter(shard, db, key, ticket);
                    self.extras().served.push(waiter);
                }
                Served::Gone => engine.forget_waiter(shard, db, key, ticket),
                Served::No => {}
                Served::Needs(hash) => return Some(hash),
            }
        }
        None
    }
}

impl ReadyKeys {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

impl Engine {
    /// Notes in a section that a key of a shard was changed, if somebody waits for it.
    pub(crate) fn note_ready(
        &self,
        extras: &mut Option<Box<SectionExtras>>,
        shard: usize,
        db: usize,
        key: &[u8],
    ) {
        if !self.waiting(shard).is_awaited(db, key) {
            return;
        }
        let ready = &mut extras.get_or_insert_default().ready.keys;
        // A key that is noted twice is only looked at once more.
        let last = ready.back();
        if last.is_none_or(|(of, last)| *of != db || **last != *key) {
            ready.push_back((db, key.into()));
        }
    }

    /// Goes on where [`Tx::serve_waiters`] had to stop, with the locks that were missing.
    ///
    /// # Errors
    /// If one of the shards is busy: try again when it is free.
    pub fn serve_waiters(&self, unserved: &Unserved, now: Now) -> Result<Vec<Unserved>, Busy> {
        let mut scratch = Vec::new();
        let key = Key::new(&unserved.key);
        let hashes = [key.hash, unserved.needs];
        let mut tx = self.lock_many(hashes.into_iter(), &mut scratch, unserved.db, now)?;
        tx.note_ready(unserved.db, key);
        Ok(tx.serve_waiters())
    }

    /// Takes a waiter out of the queues of these keys.
    pub fn stop_waiting<'k>(&self, ticket: Ticket, db: usize, keys: impl Iterator<Item = Key<'k>>) {
        for key in keys {
            self.forget_waiter(self.shard_of(key.hash), db, key, ticket);
        }
    }

    fn forget_waiter(&self, shard: usize, db: usize, key: Key<'_>, ticket: Ticket) {
        if self.waiting(shard).remove(db, key.bytes, ticket) {
            self.remove_observer(shard);
        }
    }

    /// How often somebody waits for a key; one who waits for several counts once for each.
    pub fn waiting_count(&self) -> usize {
        (0..self.shards())
            .map(|shard| self.waiting(shard).count())
            .sum()
    }
}
