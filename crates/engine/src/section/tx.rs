//! An atomic section: the locks that a command holds, and its access to keys under them.

use std::mem::ManuallyDrop;
use std::sync::atomic::Ordering::Relaxed;

use damselfly_base::CommandError;
use damselfly_log::Record;
use damselfly_value::{Collection, EntryRef, Text};

use crate::AccessPolicy;
use crate::section::engine::Engine;
use crate::section::expired_keys::Expirer;
use crate::section::extras::SectionExtras;
use crate::section::held_locks::HeldLocks;
use crate::shard::Shard;
use crate::{Database, Event, Key, Now, Place, Present};

/// The deadline of a key after a new value is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// It is removed.
    Clear,
    /// It stays.
    Keep,
    /// It becomes this moment, in milliseconds since the epoch.
    At(i64),
}

/// How to handle an absent key when a collection is to be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Create {
    /// Leave it absent.
    Never,
    /// Create an empty collection.
    IfAbsent,
}

/// The effects of an atomic section, for statistics.
#[derive(Clone, Copy, Debug, Default)]
pub struct Effects {
    /// Keys that reading commands found.
    pub hits: u64,
    /// Keys that reading commands did not find.
    pub misses: u64,
    /// Changes to keys.
    pub changes: u64,
}

/// An atomic section. Dropping it releases the locks.
pub struct Tx<'a> {
    engine: &'a Engine,
    pub(crate) held: HeldLocks<'a>,
    db: usize,
    now: Now,
    /// The moment that decides what has expired: `now`, unless nothing expires in this section.
    pub(super) expiry_time: Now,
    /// False for CLIENT NO-TOUCH: the access bits of the keys that the section uses stay as they are.
    pub(super) touches: bool,
    /// True if other clients wait for this thread.
    others_wait: bool,
    /// True for the section of a script.
    pub(crate) is_script: bool,
    /// True for the section of a single command, which may release locks that it no longer needs.
    pub(super) is_single_command: bool,
    pub(crate) effects: Effects,
    /// Rarely used state. Dropped by hand, so that a section without it checks only once that it has none.
    pub(crate) extras: ManuallyDrop<Option<Box<SectionExtras>>>,
    /// The effects for the log. Empty when the section ends, so that dropping it is not checked again.
    pub(crate) record: ManuallyDrop<Option<Box<Record>>>,
}

impl Drop for Tx<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.record.is_some() {
            self.append_record();
        }
        if self.extras.is_some() {
            self.finish_with_extras();
        } else {
            self.release();
        }
    }
}

impl<'a> Tx<'a> {
    #[inline]
    pub(crate) fn new(engine: &'a Engine, held: HeldLocks<'a>, db: usize, now: Now) -> Self {
        Self {
            engine,
            held,
            db,
            now,
            expiry_time: now,
            touches: true,
            others_wait: false,
            is_script: false,
            is_single_command: false,
            effects: Effects::default(),
            extras: ManuallyDrop::new(None),
            record: ManuallyDrop::new(None),
        }
    }

    #[inline]
    fn release(&self) {
        match &self.held {
            HeldLocks::None | HeldLocks::Waiting(_) | HeldLocks::Lent(_) => {}
            HeldLocks::One(shard) => self.engine.shards.release(*shard),
            HeldLocks::Many(shards) => shards
                .iter()
                .for_each(|&shard| self.engine.shards.release(shard)),
            HeldLocks::All => {
                (0..self.engine.shards()).for_each(|shard| self.engine.shards.release(shard))
            }
        }
    }

    /// Ends a section that has extras.
    #[cold]
    fn finish_with_extras(&mut self) {
        self.announce();
        // After the invalidations: the waiter's thread writes both with the reply.
        let served = self.extras.iter().flat_map(|extras| &extras.served);
        served.for_each(|waiter| waiter.queue_message());
        self.release();
        // SAFETY: called once, as the section is dropped; nothing uses it afterwards.
        let extras = unsafe { ManuallyDrop::take(&mut self.extras) };
        if let Some(extras) = extras {
            extras.finish(self.engine);
        }
    }

    /// Queues events and invalidations in the inboxes of their receivers. This happens before any lock of the section is released,
    /// so that no other section sees what this one did, or what it took out of a table, before the messages are queued.
    #[cold]
    pub(super) fn announce(&mut self) {
        self.publish_events();
        let engine = self.engine;
        if let Some(extras) = self.extras.as_mut() {
            extras.tracked_changes.send(engine);
        }
    }

    /// Lets other sections run in the middle of this one for `pause`, which `tests/atomicity.rs` must notice. No memory is at
    /// risk, since each single access still happens under the lock.
    #[cfg(broken)]
    pub(crate) fn interrupt(&self, pause: std::time::Duration) {
        self.release();
        std::thread::yield_now();
        std::thread::sleep(pause);
        while !self.engine.reacquire(&self.held) {
            std::thread::yield_now();
        }
    }

    /// Sets whether using a key updates its access bits (not with CLIENT NO-TOUCH).
    pub fn set_touches(&mut self, touches: bool) {
        self.touches = touches;
    }

    /// The time of this command.
    #[inline]
    pub fn now(&self) -> Now {
        self.now
    }

    /// Notes that other clients wait for the thread of this section.
    pub fn set_others_wait(&mut self) {
        self.others_wait = true;
    }

    /// True if other clients wait for the thread of this section.
    #[inline]
    pub fn others_wait(&self) -> bool {
        self.others_wait
    }

    /// Notes that this section is for a single command, so that no later command needs the locks that [`Tx::release_all_but`]
    /// releases.
    pub fn set_single_command(&mut self) {
        self.is_single_command = true;
    }

    /// Notes that this is the section of a script.
    pub fn set_script(&mut self, is_script: bool) {
        self.is_script = is_script;
    }

    /// True for the section of a script.
    pub fn is_script(&self) -> bool {
        self.is_script
    }

    /// The selected database.
    #[inline]
    pub fn db(&self) -> usize {
        self.db
    }

    /// The engine, for everything that needs no lock.
    pub fn engine(&self) -> &'a Engine {
        self.engine
    }

    /// The effects of this section so far.
    #[inline]
    pub fn effects(&self) -> Effects {
        self.effects
    }

    /// True if the shard of a key is locked.
    pub fn holds_key(&self, key: Key<'_>) -> bool {
        self.holds(self.engine.shard_of(key.hash))
    }

    /// Makes another database the selected one.
    pub fn set_db(&mut self, db: usize) {
        self.db = db;
    }

    /// The rarely used state, created on first use.
    pub(crate) fn extras(&mut self) -> &mut SectionExtras {
        self.extras.get_or_insert_default()
    }

    /// Notes that a key of the selected database was changed or removed, and how. If it is gone after any other event than
    /// [`Event::Del`], because its last element was removed, an [`Event::Del`] follows.
    #[inline]
    pub fn changed(&mut self, key: Key<'_>, event: Event) {
        self.note_change(self.db, key, Some(event));
    }

    /// As [`Tx::changed`], for a change that raises no event.
    pub fn changed_without_event(&mut self, key: Key<'_>) {
        self.note_change(self.db, key, None);
    }

    /// Notes that a key of a database was changed or removed. Without `event` the caller raises events itself, if any.
    #[inline]
    pub(crate) fn note_change(&mut self, db: usize, key: Key<'_>, event: Option<Event>) {
        self.effects.changes += 1;
        let shard = self.engine.shard_of(key.hash);
        if self.engine.shards.is_observed(shard) {
            self.notify_change(db, key, event);
        }
    }

    #[cold]
    fn notify_change(&mut self, db: usize, key: Key<'_>, event: Option<Event>) {
        match self.extras.as_mut().and_then(|extras| extras.undo.as_mut()) {
            Some(undo) => undo.note_unannounced(db, key),
            None => self.notify_observers(db, key),
        }
        if self.engine.settings.notes_local_deadlines.load(Relaxed) {
            self.note_local_deadline(db, key);
        }
        if let Some(event) = event {
            self.raise(db, key, event);
            if event != Event::Del && !self.has_entry(db, key) {
                self.raise(db, key, Event::Del);
            }
        }
    }

    /// Notifies the clients that watch a key, wait for it or cache it.
    pub(crate) fn notify_observers(&mut self, db: usize, key: Key<'_>) {
        let shard = self.engine.shard_of(key.hash);
        self.engine
            .shards
            .observers(shard)
            .watching
            .notify(db, key.hash);
        self.note_ready(db, key);
        self.engine.note_tracked(shard, key, &mut self.extras);
    }

    /// True if a key has an entry, even an expired one.
    fn has_entry(&mut self, db: usize, key: Key<'_>) -> bool {
        let database = &self.shard_of(key).databases[db];
        database.table.find(key.hash, key.bytes).is_some()
    }

    /// True if this section may have more to do when its work is done: serve waiters, publish events or invalidate.
    #[inline]
    pub fn has_extras(&self) -> bool {
        self.extras.is_some()
    }

    /// Hints that the entries of these hashes are about to be used, in the selected database. Their shards are locked.
    pub fn prefetch(&mut self, hashes: impl Iterator<Item = u64> + Clone) {
        let (engine, db) = (self.engine, self.db);
        for hash in hashes.clone() {
            let database = &self.databases(engine.shard_of(hash))[db];
            database.table.prefetch_bucket(hash);
        }
        for hash in hashes {
            let database = &self.databases(engine.shard_of(hash))[db];
            database.table.prefetch_item(hash);
        }
    }

    /// The locked shard of that number.
    ///
    /// # Safety
    /// The caller bounds the reference by an exclusive borrow of `self`.
    #[inline]
    unsafe fn shard<'s>(&self, index: usize) -> &'s mut Shard
    where
        'a: 's,
    {
        assert!(self.holds(index), "shard {index} is used without its lock");
        #[cfg(broken)]
        if damselfly_base::planted_bug("sections") {
            self.interrupt(std::time::Duration::ZERO);
        }
        // SAFETY:
        // - the lock is held, as just checked, until `self` is dropped;
        // - it is the only reference, as the caller promises.
        unsafe { self.engine.shards.shard_mut(index) }
    }

    /// A locked shard, and the extras of this section.
    pub(crate) fn shard_and_extras(
        &mut self,
        index: usize,
    ) -> (
        &mut Shard,
        &mut Option<Box<SectionExtras>>,
        &mut Option<Box<Record>>,
    ) {
        // SAFETY: bounded by the signature.
        (
            unsafe { self.shard(index) },
            &mut self.extras,
            &mut self.record,
        )
    }

    /// A locked shard.
    pub(super) fn shard_at(&mut self, index: usize) -> &mut Shard {
        // SAFETY: bounded by the signature.
        unsafe { self.shard(index) }
    }

    #[inline]
    pub(crate) fn shard_of(&mut self, key: Key<'_>) -> &mut Shard {
        // SAFETY: bounded by the signature.
        unsafe { self.shard(self.engine.shard_of(key.hash)) }
    }

    /// The place of a key in the selected database.
    #[inline]
    pub fn place(&mut self, key: Key<'_>) -> Place<'_> {
        self.place_in(self.db, key)
    }

    /// The place of a key in a database.
    #[inline]
    pub fn place_in(&mut self, db: usize, key: Key<'_>) -> Place<'_> {
        if self.extras.is_some() {
            self.save(db, key);
        }
        let (engine, now, index) = (
            self.engine,
            self.expiry_time,
            self.engine.shard_of(key.hash),
        );
        // SAFETY: bounded by the signature.
        let Shard {
            databases, expired, ..
        } = unsafe { self.shard(index) };
        databases[db].place(key, now, || Expirer {
            engine,
            shard: index,
            db,
            now,
            expired,
            extras: &mut self.extras,
            record: &mut self.record,
        })
    }

    /// The entry of a key in a database, even an expired one, for a command that removes it without reading it.
    pub(crate) fn present_in(&mut self, db: usize, key: Key<'_>) -> Option<Present<'_>> {
        self.save(db, key);
        self.shard_of(key).databases[db].present(key)
    }

    /// The live entry of a key in a database; an expired one is removed.
    ///
    /// # Safety
    /// The caller bounds the reference by an exclusive borrow of `self`.
    #[inline]
    unsafe fn find<'s>(&mut self, db: usize, key: Key<'_>) -> Option<EntryRef<'s>>
    where
        'a: 's,
    {
        let (engine, now, index) = (
            self.engine,
            self.expiry_time,
            self.engine.shard_of(key.hash),
        );
        // SAFETY: as the caller promises.
        let Shard {
            databases, expired, ..
        } = unsafe { self.shard(index) };
        databases[db].find(key, now, || Expirer {
            engine,
            shard: index,
            db,
            now,
            expired,
            extras: &mut self.extras,
            record: &mut self.record,
        })
    }

    #[inline]
    fn count_miss(&mut self, key: Key<'_>) {
        self.effects.misses += 1;
        self.event(key, Event::Keymiss);
    }

    /// The entry of a key, for a command that uses it: updates its access bits and counts a hit or miss.
    #[inline]
    pub fn read(&mut self, key: Key<'_>) -> Option<EntryRef<'_>> {
        // SAFETY: bounded by the signature.
        let found = unsafe { self.find(self.db, key) };
        match found {
            Some(entry) => {
                self.effects.hits += 1;
                self.usage(key).note(entry);
            }
            None => self.count_miss(key),
        }
        found
    }

    /// The entry of a key, without any side effect, so that several entries can be read together. A hash may still have expired
    /// fields.
    pub fn view(&self, key: Key<'_>) -> Option<EntryRef<'_>> {
        self.view_in(self.db, key)
    }

    /// As [`Tx::view`], in any database.
    pub fn view_in(&self, db: usize, key: Key<'_>) -> Option<EntryRef<'_>> {
        let index = self.engine.shard_of(key.hash);
        assert!(self.holds(index), "shard {index} is used without its lock");
        // SAFETY:
        // - the lock is held, as just checked, until `self` is dropped;
        // - a change needs `&mut self`, which the borrow excludes.
        let shard = unsafe { self.engine.shards.shard_ref(index) };
        shard.databases[db].view(key, self.expiry_time)
    }

    /// The string at a key, for a command that uses it.
    ///
    /// # Errors
    /// `WRONGTYPE` if the key holds something else.
    #[inline]
    pub fn read_text(&mut self, key: Key<'_>) -> Result<Option<Text<'_>>, CommandError> {
        match self.read(key) {
            None => Ok(None),
            Some(entry) => match entry.text() {
                Some(text) => Ok(Some(text)),
                None => Err(CommandError::WrongType),
            },
        }
    }

    /// The collection at a key, for a command that uses it.
    ///
    /// # Errors
    /// `WRONGTYPE` if the key holds something else.
    #[inline]
    pub fn read_as<C: Collection>(
        &mut self,
        key: Key<'_>,
    ) -> Result<Option<C::Ref<'_>>, CommandError> {
        collection_of::<C>(self.read(key))
    }

    /// The entry of a key, for a command that may change it: updates its access bits, but counts no hit or miss.
    #[inline]
    pub fn access(&mut self, key: Key<'_>) -> Option<EntryRef<'_>> {
        // SAFETY: bounded by the signature.
        let found = unsafe { self.find(self.db, key) };
        if let Some(entry) = found {
            self.usage(key).note(entry);
        }
        found
    }

    /// Records a further use of a key that the command has read already, as in Redis: only a count of uses differs for it.
    #[inline]
    pub fn access_again(&mut self, key: Key<'_>) {
        match self.engine().settings.access_policy() {
            AccessPolicy::Frequency { .. } => _ = self.access(key),
            AccessPolicy::Recency | AccessPolicy::Learned => {}
        }
    }

    /// The collection at a key, for a command that may change it, as [`Tx::access`].
    ///
    /// # Errors
    /// `WRONGTYPE` if the key holds something else.
    pub fn access_as<C: Collection>(
        &mut self,
        key: Key<'_>,
    ) -> Result<Option<C::Ref<'_>>, CommandError> {
        collection_of::<C>(self.access(key))
    }

    /// The place of a key in a database, for a command that may change it: updates the access bits of its entry.
    pub fn access_place_in(&mut self, db: usize, key: Key<'_>) -> Place<'_> {
        let usage = self.usage(key);
        let place = self.place_in(db, key);
        if let Place::Present(present) = &place {
            usage.note(present.view());
        }
        place
    }

    /// The collection at a key, as [`Tx::peek`].
    ///
    /// # Errors
    /// `WRONGTYPE` if the key holds something else.
    pub fn peek_as<C: Collection>(
        &mut self,
        key: Key<'_>,
    ) -> Result<Option<C::Ref<'_>>, CommandError> {
        collection_of::<C>(self.peek(key))
    }

    /// The entry of a key, for a command that only asks about its metadata: counts a hit or miss, but leaves the access bits
    /// as they are.
    pub fn read_no_touch(&mut self, key: Key<'_>) -> Option<EntryRef<'_>> {
        // SAFETY: bounded by the signature.
        let found = unsafe { self.find(self.db, key) };
        match found {
            Some(_) => self.effects.hits += 1,
            None => self.count_miss(key),
        }
        found
    }

    /// The entry of a key: neither its access bits nor hits and misses change.
    #[inline]
    pub fn peek(&mut self, key: Key<'_>) -> Option<EntryRef<'_>> {
        // SAFETY: bounded by the signature.
        unsafe { self.find(self.db, key) }
    }

    /// Frees databases after the locks are released.
    pub(crate) fn free_after_release(&mut self, databases: Vec<Database>) {
        self.extras().garbage.extend(databases);
    }

    /// All databases of one locked shard.
    ///
    /// # Panics
    /// If the shard is not locked.
    #[inline]
    pub fn databases(&mut self, shard: usize) -> &[Database] {
        self.databases_mut(shard)
    }

    /// As [`Tx::databases`], to change them as a whole: this bypasses [`Tx::place_in`].
    #[inline]
    pub(super) fn databases_mut(&mut self, shard: usize) -> &mut [Database] {
        // SAFETY: bounded by the signature.
        &mut unsafe { self.shard(shard) }.databases
    }

    /// How many expired entries of a locked shard were removed since the start or the last reset.
    pub fn expired_mut(&mut self, shard: usize) -> &mut u64 {
        // SAFETY: bounded by the signature.
        &mut unsafe { self.shard(shard) }.expired
    }
}

/// The collection of an entry, if there is an entry.
///
/// # Errors
/// `WRONGTYPE` if the entry holds something else.
#[inline]
fn collection_of<'e, C: Collection>(
    entry: Option<EntryRef<'e>>,
) -> Result<Option<C::Ref<'e>>, CommandError> {
    match entry {
        None => Ok(None),
        Some(entry) => C::view(entry).map(Some).ok_or(CommandError::WrongType),
    }
}
