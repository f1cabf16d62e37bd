//! Serving the clients that wait for keys.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::observers::waiters::{Ticket, Waiting};
use crate::section::extras::SectionExtras;
use crate::{Busy, Engine, Key, Now, Tx};

/// A client that waits for keys.
pub trait Waiter: Send + Sync {
    /// Serves the client from `key`, which was changed and whose shard is locked, unless there is nothing for it or something else
    /// has ended its wait.
    fn serve(&self, tx: &mut Tx<'_>, key: Key<'_>) -> Served;

    /// Queues a message for the client's thread. Called at the end of the section that has served it, under its locks.
    fn queue_message(&self);

    /// Wakes the client's thread. Called after that, when the locks are released.
    fn wake(&self);

    /// True if [`Waiter::serve`] shall be called for a removed key, too. Always the same for one waiter.
    fn wants_removal(&self) -> bool {
        false
    }
}

/// The result of [`Waiter::serve`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// The client got what it waited for.
    Yes,
    /// The key holds nothing for the client, which continues to wait.
    No,
    /// Something else has ended the wait.
    Gone,
    /// Serving also needs the shard of this hash, which is busy.
    Needs(u64),
}

/// A key whose waiters could not be served without the shard of another key: pass it to [`Engine::serve_waiters`].
#[derive(Debug)]
pub struct Unserved {
    db: usize,
    key: Box<[u8]>,
    /// A hash of the other shard.
    needs: u64,
}

/// The changed keys of a section that clients wait for.
#[derive(Default)]
pub(crate) struct ReadyKeys {
    keys: VecDeque<(usize, Box<[u8]>)>,
}

impl ReadyKeys {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

impl Tx<'_> {
    /// Makes `waiter` wait for `keys` of the selected database, behind all that do already.
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
            let waiting = &engine.shards.observers(shard).waiting;
            let entry = Waiting {
                waiter: waiter.clone(),
                wants_removal: waiter.wants_removal(),
            };
            if waiting.add(self.db(), key.bytes, ticket, entry) {
                engine.shards.add_observer(shard);
            }
        }
        ticket
    }

    /// True if this section has changed keys that clients wait for.
    #[inline]
    pub fn has_ready(&self) -> bool {
        self.extras
            .as_ref()
            .is_some_and(|extras| !extras.ready.is_empty())
    }

    /// Notes that a key was changed, if a client waits for it.
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
            if engine.shards.is_observed(shard) {
                let keys = engine.shards.observers(shard).waiting.keys(db);
                let ready = keys.into_iter().map(|key| (db, key));
                self.extras().ready.keys.extend(ready);
            }
        }
    }

    /// Serves the clients that wait for the keys that this section has changed: to be called when the section has done its work.
    ///
    /// Serving may change further keys, whose waiters are served, too. Returns the keys whose waiters are left for
    /// [`Engine::serve_waiters`], which the caller should call when the locks are released.
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

    /// Serves the clients that wait for one key. If the lock of another shard is missing, returns a hash of that shard.
    fn serve_key(&mut self, key: Key<'_>) -> Option<u64> {
        let (engine, db) = (self.engine(), self.db());
        let shard = engine.shard_of(key.hash);
        let waiting = &engine.shards.observers(shard).waiting;
        let mut from = Ticket(0);
        loop {
            let exists = self.peek(key).is_some();
            let Some((ticket, waiter)) = waiting.first(db, key.bytes, exists, from) else {
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

impl Engine {
    /// Notes in a section that a key of a shard was changed, if a client waits for it.
    pub(crate) fn note_ready(
        &self,
        extras: &mut Option<Box<SectionExtras>>,
        shard: usize,
        db: usize,
        key: &[u8],
    ) {
        if !self.shards.observers(shard).waiting.is_awaited(db, key) {
            return;
        }
        let ready = &mut extras.get_or_insert_default().ready.keys;
        // A key that is noted twice costs one more look and does no harm.
        let last = ready.back();
        if last.is_none_or(|(of, last)| *of != db || **last != *key) {
            ready.push_back((db, key.into()));
        }
    }

    /// Continues where [`Tx::serve_waiters`] had to stop, with the locks that were missing.
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

    /// Removes a waiter from the queues of these keys.
    pub fn stop_waiting<'k>(&self, ticket: Ticket, db: usize, keys: impl Iterator<Item = Key<'k>>) {
        for key in keys {
            self.forget_waiter(self.shard_of(key.hash), db, key, ticket);
        }
    }

    fn forget_waiter(&self, shard: usize, db: usize, key: Key<'_>, ticket: Ticket) {
        if self
            .shards
            .observers(shard)
            .waiting
            .remove(db, key.bytes, ticket)
        {
            self.shards.remove_observer(shard);
        }
    }

    /// How many keys clients wait for, and how many of these even for their removal.
    pub fn awaited_keys(&self) -> (usize, usize) {
        let counts =
            (0..self.shards()).map(|shard| self.shards.observers(shard).waiting.key_counts());
        counts.fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1))
    }

    /// How many clients wait for keys; one that waits for several counts once for each.
    pub fn waiting_count(&self) -> usize {
        (0..self.shards())
            .map(|shard| self.shards.observers(shard).waiting.count())
            .sum()
    }
}
