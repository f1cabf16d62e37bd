//! The ends of keys: who is told of them, and the background sweep, which removes entries, and fields of hashes, whose end has
//! come and that nobody looks at.
//!
//! Each thread sweeps its own share of the shards, slice by slice, and stops when its time is used up. A slice touches
//! only entries with a deadline, or with fields that have one: the table marks their slots.

use std::sync::atomic::Ordering::Relaxed;

use damselfly_value::EntryRef;

use crate::section::extras::SectionExtras;

use crate::shard::Shard;
use crate::shard::database::{Age, age};
use crate::{Database, Engine, Event, Key, Now, Tx};

/// Buckets per slice: some ten microseconds, the longest that a sweep holds a shard's lock.
const BUCKETS_PER_SLICE: usize = 64;

/// A slice of the sweep ends with the bucket in which it has removed so many fields, and removes no more of one large hash:
/// about as much work as a slice is otherwise.
const FIELDS_PER_SWEEP: usize = 100;

/// What whoever finds entries whose end has come needs to tell of them.
pub(crate) struct Expirer<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) shard: usize,
    pub(crate) db: usize,
    pub(crate) now: Now,
    /// Entries removed since their end had come.
    pub(crate) expired: &'a mut u64,
    /// That of the section that holds the lock of the shard.
    pub(crate) extras: &'a mut Option<Box<SectionExtras>>,
}

impl Expirer<'_> {
    /// An entry was removed since its end had come.
    pub(crate) fn entry_expired(&mut self, entry: EntryRef<'_>) {
        *self.expired += 1;
        if self.are_observed() {
            let by_deadline = entry.deadline_ms().is_some_and(|end| end <= self.now.0);
            let events: &[Event] = match by_deadline {
                true => &[Event::Expired],
                // Its last field has ended.
                false => &[Event::Hexpired, Event::Del],
            };
            self.tell(entry.key(), events);
            let (engine, extras) = (self.engine, &mut *self.extras);
            engine.note_ready(extras, self.shard, self.db, entry.key());
        }
    }

    /// Fields of a hash were removed since their end had come; others stay.
    pub(crate) fn fields_expired(&mut self, key: &[u8]) {
        if self.are_observed() {
            self.tell(key, &[Event::Hexpired]);
        }
    }

    /// True if somebody may want to hear of keys of this shard.
    #[inline]
    pub(crate) fn are_observed(&self) -> bool {
        self.engine.shards.is_observed(self.shard)
    }

    /// A key that was not there was given an entry.
    #[cold]
    pub(crate) fn key_created(&mut self, key: &[u8]) {
        let (extras, db) = (&mut *self.extras, self.db);
        self.engine.raise(extras, Event::New, db, key, false);
    }

    /// Tells of a key, or a part of it, that has come to its end, however this was found: by a look at the key, by the sweep,
    /// or as room was needed. Its shard is locked.
    #[cold]
    fn tell(&mut self, key: &[u8], events: &[Event]) {
        self.engine
            .note_tracked(self.shard, Key::new(key), self.extras);
        for &event in events {
            self.engine.raise(self.extras, event, self.db, key, true);
        }
    }
}

impl Engine {
    /// Sweeps one slice of each database of a shard. Returns how many entries and fields it removed. A busy shard is left for
    /// another time.
    pub fn sweep(&self, shard: usize, now: Now) -> usize {
        if self.settings.sweep_paused.load(Relaxed) {
            return 0;
        }
        let Ok(mut tx) = self.lock_shard(shard, 0, now) else {
            return 0;
        };
        let sweep_one = |db| {
            tx.sweep(shard, db, |database, ends| {
                database.sweep(ends, BUCKETS_PER_SLICE)
            })
        };
        let removed = (0..self.databases()).map(sweep_one).sum();
        if tx.has_ready() {
            // Nobody needs a further shard to hear that a key is gone.
            tx.serve_waiters();
        }
        removed
    }
}

impl Tx<'_> {
    /// Lets `sweep` remove what has ended from a database of a locked shard, if there is anything that may end.
    pub(crate) fn sweep(
        &mut self,
        shard: usize,
        db: usize,
        sweep: impl FnOnce(&mut Database, Expirer<'_>) -> usize,
    ) -> usize {
        let (engine, now) = (self.engine(), self.now());
        let (Shard { databases, expired }, extras) = self.shard_and_extras(shard);
        if !databases[db].can_expire() {
            return 0;
        }
        let ends = Expirer {
            engine,
            shard,
            db,
            now,
            expired,
            extras,
        };
        sweep(&mut databases[db], ends)
    }
}

impl Database {
    /// Sweeps up to `buckets` buckets for what has ended, where the last call stopped. Returns how many entries and fields it
    /// removed.
    pub(crate) fn sweep(&mut self, mut ends: Expirer<'_>, buckets: usize) -> usize {
        let mut position = self.sweep_position;
        let removed = self.sweep_from(&mut position, &mut ends, buckets);
        self.sweep_position = position;
        removed
    }

    /// As [`Database::sweep`], from a position in hash order.
    pub(crate) fn sweep_from(
        &mut self,
        position: &mut u64,
        ends: &mut Expirer<'_>,
        buckets: usize,
    ) -> usize {
        let (mut entries, mut fields, mut losing) = (0, 0, Vec::new());
        for _ in 0..buckets {
            entries += self.sweep_bucket(position, ends, &mut losing);
            for key in losing.drain(..) {
                fields += self.sweep_fields(&key, ends);
            }
            if *position == 0 || fields >= FIELDS_PER_SWEEP {
                break;
            }
        }
        entries + fields
    }

    /// Removes the dead entries of one bucket, and notes the keys of hashes that lose fields.
    fn sweep_bucket(
        &mut self,
        position: &mut u64,
        ends: &mut Expirer<'_>,
        losing: &mut Vec<Vec<u8>>,
    ) -> usize {
        let (counts, now) = (&mut self.counts, ends.now);
        self.table.sweep(
            position,
            1,
            |entry| match age(entry, now) {
                Age::Live => false,
                Age::Dead => true,
                Age::LosesFields => {
                    losing.push(entry.key().to_vec());
                    false
                }
            },
            |entry| {
                counts.subtract_data(entry.view());
                ends.entry_expired(entry.view());
            },
        )
    }

    fn sweep_fields(&mut self, key: &[u8], ends: &mut Expirer<'_>) -> usize {
        let key = Key::new(key);
        let Some(mut present) = self.present(key) else {
            return 0;
        };
        let removed =
            present.update(|entry| entry.remove_expired_fields(ends.now.0, FIELDS_PER_SWEEP));
        ends.fields_expired(key.bytes);
        removed
    }
}
