//! Expired keys: whom their removal notifies, and the background sweep, which removes expired entries, and expired fields of
//! hashes, that no command asks for.
//!
//! Each thread sweeps its own share of the shards, slice by slice, and stops when its time is used up. A slice touches
//! only entries with a deadline, or with fields that have one: the table marks their slots.

use std::sync::atomic::Ordering::Relaxed;

use damselfly_log::Record;
use damselfly_value::EntryRef;

use crate::section::extras::SectionExtras;
use crate::shard::Shard;
use crate::shard::database::{Expired, check_expiry};
use crate::{Database, Engine, Event, Key, Now, Present, Tx};

/// Buckets per slice: some ten microseconds, the longest that a sweep holds a shard's lock.
const BUCKETS_PER_SLICE: usize = 64;

/// A slice of the sweep stops after the bucket in which it has removed this many fields, and removes no more than this from one
/// large hash: about as much work as any other slice.
const FIELDS_PER_SWEEP: usize = 100;

impl Tx<'_> {
    /// Makes nothing expire in this section: it repeats effects in which every expiry is a command of its own.
    pub fn keep_expired(&mut self) {
        self.expiry_time = Now(i64::MIN);
    }

    /// Ends [`Tx::keep_expired`].
    pub fn expire_as_usual(&mut self) {
        self.expiry_time = self.now();
    }

    /// True if this section repeats the effects of commands that ran elsewhere or earlier: a primary's, or those in a file.
    pub fn repeats_effects(&self) -> bool {
        self.expiry_time == Now(i64::MIN)
    }

    /// Deadlines up to this moment have passed.
    #[inline]
    pub fn expiry_time(&self) -> Now {
        self.expiry_time
    }
}

/// Counts what expires in a database and notifies the observers. Every removal of an expired entry or field reports here.
pub(crate) struct Expirer<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) shard: usize,
    pub(crate) db: usize,
    pub(crate) now: Now,
    /// The shard's count of expired entries that were removed.
    pub(crate) expired: &'a mut u64,
    /// Of the section that holds the shard's lock.
    pub(crate) extras: &'a mut Option<Box<SectionExtras>>,
    /// The effects of that section.
    pub(crate) record: &'a mut Option<Box<Record>>,
}

impl Expirer<'_> {
    /// Reports that an expired entry was removed.
    pub(crate) fn entry_expired(&mut self, entry: EntryRef<'_>) {
        *self.expired += 1;
        if self.engine.log.is_on() {
            self.log_removal(&[self.engine.settings.name_of_expiry(), entry.key()]);
        }
        if self.is_observed() {
            let by_deadline = entry
                .deadline_ms()
                .is_some_and(|deadline| deadline <= self.now.0);
            let events: &[Event] = match by_deadline {
                true => &[Event::Expired],
                // Its last field has expired.
                false => &[Event::Hexpired, Event::Del],
            };
            self.notify(entry.key(), events);
            let (engine, extras) = (self.engine, &mut *self.extras);
            engine.note_ready(extras, self.shard, self.db, entry.key());
        }
    }

    /// True on a replica and while clients are paused: what has expired is not removed.
    #[inline]
    pub(crate) fn leaves_expired(&self) -> bool {
        self.engine.settings.leaves_expired(self.now)
    }

    /// True if expired entries may be removed that no command asks for.
    #[inline]
    pub(crate) fn may_sweep(&self) -> bool {
        !self.leaves_expired() && !self.engine.settings.sweep_paused.load(Relaxed)
    }

    /// A hash as readers on a replica see it: a copy without its expired fields, which lives as long as the section.
    #[cold]
    pub(crate) fn view_without_fields<'e>(&mut self, hash: EntryRef<'e>) -> EntryRef<'e> {
        let mut copy = hash.to_entry(hash.key());
        copy.remove_expired_fields(self.now.0, usize::MAX, |_| {});
        (*self.extras).get_or_insert_default().keep_copy(copy)
    }

    /// Adds an expiry to the effects of the section.
    #[cold]
    fn log_removal(&mut self, args: &[&[u8]]) {
        let record = (*self.record).get_or_insert_with(|| self.engine.log.record());
        let is_revocable = (*self.extras)
            .as_ref()
            .is_some_and(|extras| extras.undo.is_some());
        let args = args.iter().copied();
        // A key that has expired stays removed when the section is rolled back.
        match is_revocable {
            true => record.add_kept(self.db, args),
            false => record.add_own(self.db, args),
        }
    }

    /// Removes up to `limit` expired fields of a hash that has others. Returns how many.
    pub(crate) fn remove_fields(&mut self, present: &mut Present<'_>, limit: usize) -> usize {
        let (now_ms, is_logged) = (self.now.0, self.engine.log.is_on());
        let mut gone: Vec<Vec<u8>> = Vec::new();
        let removed = present.update(|entry| {
            entry.remove_expired_fields(now_ms, limit, |field| {
                if is_logged {
                    gone.push(field.to_vec());
                }
            })
        });
        if !gone.is_empty() {
            let fields = gone.iter().map(Vec::as_slice);
            let args: Vec<&[u8]> = [&b"HDEL"[..], present.view().key()]
                .into_iter()
                .chain(fields)
                .collect();
            self.log_removal(&args);
        }
        self.fields_expired(present.view().key(), removed);
        removed
    }

    /// Reports that `count` expired fields of a hash were removed, and that others remain.
    fn fields_expired(&mut self, key: &[u8], count: usize) {
        self.engine.fields_expired.fetch_add(count as u64, Relaxed);
        if self.is_observed() {
            self.notify(key, &[Event::Hexpired]);
        }
    }

    /// True if keys of this shard have observers.
    #[inline]
    pub(crate) fn is_observed(&self) -> bool {
        self.engine.shards.is_observed(self.shard)
    }

    /// Reports that a key was created.
    #[cold]
    pub(crate) fn key_created(&mut self, key: &[u8]) {
        let (extras, db) = (&mut *self.extras, self.db);
        self.engine.raise(extras, Event::New, db, key, false);
    }

    /// Notifies trackers and receivers of events that a key, or a part of it, has expired, whatever found that: a command that
    /// asks for the key, the sweep, or an insertion that needs room. The shard is locked.
    #[cold]
    fn notify(&mut self, key: &[u8], events: &[Event]) {
        self.engine
            .note_tracked(self.shard, Key::new(key), self.extras);
        for &event in events {
            self.engine.raise(self.extras, event, self.db, key, true);
        }
    }
}

impl Engine {
    /// How many expired fields of hashes were removed, apart from those of hashes that were removed with their last field.
    pub fn expired_fields(&self) -> u64 {
        self.fields_expired.load(Relaxed)
    }

    /// Sets that number to zero.
    pub fn reset_expired_fields(&self) {
        self.fields_expired.store(0, Relaxed);
    }

    /// Sweeps one slice of each database of a shard. Returns how many entries and fields it removed. A busy shard is skipped.
    pub fn sweep(&self, shard: usize, now: Now) -> usize {
        if self.settings.sweep_paused.load(Relaxed) || self.settings.is_paused(now) {
            return 0;
        }
        if self.settings.leaves_expired.load(Relaxed) {
            return self.sweep_local(shard, now);
        }
        let Ok(mut tx) = self.lock_shard(shard, 0, now) else {
            return 0;
        };
        let sweep_one = |db| {
            tx.sweep(shard, db, |database, expirer| {
                database.sweep(expirer, BUCKETS_PER_SLICE)
            })
        };
        let removed = (0..self.databases()).map(sweep_one).sum();
        tx.set_effects_loose();
        if tx.has_ready() {
            // No waiter needs a further shard to be served from a key that is gone.
            tx.serve_waiters();
        }
        removed
    }
}

impl Tx<'_> {
    /// Lets `sweep` remove what has expired from a database of a locked shard, if anything in it has a deadline.
    pub(crate) fn sweep(
        &mut self,
        shard: usize,
        db: usize,
        sweep: impl FnOnce(&mut Database, Expirer<'_>) -> usize,
    ) -> usize {
        let (engine, now) = (self.engine(), self.now());
        let (
            Shard {
                databases, expired, ..
            },
            extras,
            record,
        ) = self.shard_and_extras(shard);
        if !databases[db].can_expire() {
            return 0;
        }
        let expirer = Expirer {
            engine,
            shard,
            db,
            now,
            expired,
            extras,
            record,
        };
        sweep(&mut databases[db], expirer)
    }
}

impl Database {
    /// Removes what has expired from up to `buckets` buckets, from where the last call stopped. Returns how many entries and
    /// fields it removed.
    pub(crate) fn sweep(&mut self, mut expirer: Expirer<'_>, buckets: usize) -> usize {
        let mut position = self.sweep_position;
        let removed = self.sweep_from(&mut position, &mut expirer, buckets);
        self.sweep_position = position;
        removed
    }

    /// As [`Database::sweep`], from a position in hash order.
    pub(crate) fn sweep_from(
        &mut self,
        position: &mut u64,
        expirer: &mut Expirer<'_>,
        buckets: usize,
    ) -> usize {
        let (mut entries, mut fields, mut losing_fields) = (0, 0, Vec::new());
        for _ in 0..buckets {
            entries += self.sweep_bucket(position, expirer, &mut losing_fields);
            for key in losing_fields.drain(..) {
                fields += self.sweep_fields(&key, expirer);
            }
            if *position == 0 || fields >= FIELDS_PER_SWEEP {
                break;
            }
        }
        entries + fields
    }

    /// Removes the expired entries of one bucket, and collects the keys of hashes with expired fields.
    fn sweep_bucket(
        &mut self,
        position: &mut u64,
        expirer: &mut Expirer<'_>,
        losing_fields: &mut Vec<Vec<u8>>,
    ) -> usize {
        let (counts, now) = (&mut self.counts, expirer.now);
        self.table.sweep(
            position,
            1,
            |entry| match check_expiry(entry, now) {
                Expired::Nothing => false,
                Expired::Entry => true,
                Expired::Fields => {
                    losing_fields.push(entry.key().to_vec());
                    false
                }
            },
            |entry| {
                counts.subtract_data(entry.view());
                expirer.entry_expired(entry.view());
            },
        )
    }

    fn sweep_fields(&mut self, key: &[u8], expirer: &mut Expirer<'_>) -> usize {
        let key = Key::new(key);
        let Some(mut present) = self.present(key) else {
            return 0;
        };
        expirer.remove_fields(&mut present, FIELDS_PER_SWEEP)
    }
}
