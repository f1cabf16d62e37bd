//! Adding many new entries at once, for loading files.
//!
//! A batch is sorted by hash, so that the lock of each shard is taken once per batch, and the buckets that a shard's entries need are
//! prefetched together.

use std::ops::Range;

use damselfly_value::Entry;

use crate::section::engine::Engine;
use crate::section::tx::Tx;
use crate::{Busy, Key, Now, Place};

/// Entries to add to one database.
#[derive(Debug, Default)]
pub struct LoadBatch {
    entries: Vec<Pending>,
    /// The ranges of `entries` whose shards were busy.
    busy: Vec<Range<usize>>,
}

#[derive(Debug)]
struct Pending {
    hash: u64,
    /// Where the entry was found, for reporting it.
    offset: u64,
    /// `None` once it is stored.
    entry: Option<Entry>,
}

/// An entry whose key exists already.
#[derive(Debug)]
pub struct DuplicateEntry {
    /// The entry, which was not stored.
    pub entry: Entry,
    /// Its offset, as given to [`LoadBatch::push`].
    pub offset: u64,
}

impl LoadBatch {
    /// Adds an entry whose access bits are set ([`Engine::loaded_access`]); `offset` only identifies it.
    #[inline]
    pub fn push(&mut self, entry: Entry, offset: u64) {
        self.entries.push(Pending {
            hash: damselfly_base::hash(entry.view().key()),
            offset,
            entry: Some(entry),
        });
    }
}

impl Engine {
    /// The access bits of an entry that was last used `idle_seconds` ago and has this frequency, as far as they are known.
    #[inline]
    pub fn loaded_access(&self, now: Now, idle_seconds: Option<u64>, frequency: Option<u8>) -> u32 {
        let policy = self.settings.access_policy();
        policy.restored(idle_seconds, frequency, now.0)
    }

    /// Makes room in a database for about so many entries, unless it had some before. Waits for busy shards.
    ///
    /// # Panics
    /// If there is no such database.
    pub fn expect_entries(&self, db: usize, entries: usize, now: Now) {
        for shard in 0..self.shards() {
            let mut tx = loop {
                match self.lock_shard(shard, db, now) {
                    Ok(tx) => break tx,
                    Err(_) => std::thread::yield_now(),
                }
            };
            let table = &mut tx.databases_mut(shard)[db].table;
            table.make_room(entries / self.shards());
        }
    }

    /// Stores the entries of `batch`, which is empty afterwards. Waits for busy shards by calling `wait` again and again until that
    /// returns false; entries may then be missing. Threads that load at the same time should begin at different shards.
    ///
    /// # Errors
    /// If the key of an entry exists. Others may be missing then.
    ///
    /// # Panics
    /// If there is no such database.
    pub fn load(
        &self,
        batch: &mut LoadBatch,
        db: usize,
        now: Now,
        first_shard: usize,
        mut wait: impl FnMut() -> bool,
    ) -> Result<(), DuplicateEntry> {
        let LoadBatch { entries, busy } = batch;
        entries.sort_unstable_by_key(|pending| pending.hash);
        let shard_at = |entries: &[Pending], at: usize| self.shard_of(entries[at].hash);
        let middle = entries.partition_point(|pending| self.shard_of(pending.hash) < first_shard);
        for part in [middle..entries.len(), 0..middle] {
            let mut start = part.start;
            while start < part.end {
                let shard = shard_at(entries, start);
                let rest = &entries[start..part.end];
                let len = rest.partition_point(|pending| self.shard_of(pending.hash) == shard);
                let range = start..start + len;
                start = range.end;
                if self
                    .load_shard(&mut entries[range.clone()], shard, db, now)?
                    .is_err()
                {
                    busy.push(range);
                }
            }
        }
        while let Some(range) = busy.pop() {
            let shard = shard_at(entries, range.start);
            if self
                .load_shard(&mut entries[range.clone()], shard, db, now)?
                .is_err()
            {
                busy.push(range);
                if !wait() {
                    break;
                }
            }
        }
        entries.clear();
        busy.clear();
        Ok(())
    }

    /// Stores entries of one shard, or none if it is busy.
    fn load_shard(
        &self,
        entries: &mut [Pending],
        shard: usize,
        db: usize,
        now: Now,
    ) -> Result<Result<(), Busy>, DuplicateEntry> {
        let mut tx = match self.lock_shard(shard, db, now) {
            Ok(tx) => tx,
            Err(busy) => return Ok(Err(busy)),
        };
        let table = &tx.databases(shard)[db].table;
        for pending in &*entries {
            table.prefetch_bucket(pending.hash);
            if let Some(entry) = &pending.entry {
                entry.view().prefetch();
            }
        }
        for pending in entries {
            if let Some(entry) = pending.entry.take()
                && let Err(entry) = tx.load_hashed(db, pending.hash, entry)
            {
                let offset = pending.offset;
                return Err(DuplicateEntry { entry, offset });
            }
        }
        Ok(Ok(()))
    }
}

impl Tx<'_> {
    /// Stores an entry, whose access bits are set ([`Engine::loaded_access`]), in a database whose shards are locked. Notifies clients
    /// that watch or wait for the key only if the caller reports the change.
    ///
    /// # Errors
    /// If its key exists: the entry is returned.
    pub fn load(&mut self, db: usize, entry: Entry) -> Result<(), Entry> {
        let hash = damselfly_base::hash(entry.view().key());
        self.load_hashed(db, hash, entry)
    }

    /// Stores an entry as [`Tx::load`] does, and notifies clients that watch or wait for its key. With `replace`, it replaces an entry
    /// with the same key.
    ///
    /// # Errors
    /// If its key exists and `replace` is false: the entry is returned.
    pub fn load_noted(&mut self, db: usize, entry: Entry, replace: bool) -> Result<(), Entry> {
        let bytes = entry.view().key().to_vec();
        let key = Key {
            bytes: &bytes,
            hash: damselfly_base::hash(&bytes),
        };
        if replace && let Place::Present(present) = self.place_in(db, key) {
            present.remove();
        }
        self.load_hashed(db, key.hash, entry)?;
        self.note_change(db, key, None);
        Ok(())
    }

    #[inline]
    fn load_hashed(&mut self, db: usize, hash: u64, entry: Entry) -> Result<(), Entry> {
        let bytes = entry.view().key();
        self.usage(Key { bytes, hash }).note_moved(entry.view());
        match self.place_in(db, Key { bytes, hash }) {
            Place::Present(_) => Err(entry),
            Place::Absent(absent) => {
                absent.insert(entry);
                Ok(())
            }
        }
    }
}
