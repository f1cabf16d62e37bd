//! Visiting all keys of a database: for SCAN, for long commands, and for a random key.

use damselfly_value::EntryRef;

use crate::shard::database::is_expired;
use crate::{Busy, Tx};

/// A position in the order of a SCAN: the shard, then the position in hash order within it.
///
/// ```text
/// | 0 ... | shard: 12 bits | position: 40 bits |
/// ```
///
/// It fits in 52 bits, since some clients store cursors in doubles. Zero is both the start and the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor(pub u64);

const POSITION_BITS: u32 = damselfly_table::POSITION_BITS;
const POSITION_MASK: u64 = (1 << POSITION_BITS) - 1;
const _: () = assert!(POSITION_BITS + 12 <= 52 && crate::shard::SHARDS_MAX <= 1 << 12);

impl Tx<'_> {
    /// Visits entries from `cursor` on, at least `count` of them (fewer at the end), and returns where to continue; zero at the
    /// end. Expired entries count but are not visited. Shards that are not locked are locked one by one.
    ///
    /// An entry that exists all the time from the first call to the last is visited at least once.
    ///
    /// # Errors
    /// If the first shard is busy; at a later busy one the call just stops early.
    pub fn scan(
        &mut self,
        db: usize,
        cursor: Cursor,
        count: usize,
        mut visit: impl FnMut(EntryRef<'_>),
    ) -> Result<Cursor, Busy> {
        let (shards, now) = (self.engine().shards(), self.now());
        let first = (cursor.0 >> POSITION_BITS) as usize;
        let mut position = cursor.0 & POSITION_MASK;
        let mut left = count;
        for shard in first..shards {
            let scanned = self.with_shard(shard, |tx| {
                let table = &tx.databases(shard)[db].table;
                loop {
                    position = table.scan(position, |entry| {
                        left = left.saturating_sub(1);
                        if !is_expired(entry, now) {
                            visit(entry);
                        }
                    });
                    if position == 0 || left == 0 {
                        return;
                    }
                }
            });
            match scanned {
                Ok(()) => {}
                Err(busy) if shard == first => return Err(busy),
                Err(_) => return Ok(Cursor((shard as u64) << POSITION_BITS)),
            }
            if position > 0 {
                return Ok(Cursor((shard as u64) << POSITION_BITS | position));
            }
            if left == 0 && shard + 1 < shards {
                return Ok(Cursor((shard as u64 + 1) << POSITION_BITS));
            }
        }
        Ok(Cursor(0))
    }

    /// Visits live entries of the selected database from `cursor` on, some thousands of one shard, and returns where to continue;
    /// zero is the start and the end. A shard that is not locked is locked for this call, some hundred microseconds.
    ///
    /// An entry that exists all the time from the first call to the last is visited exactly once.
    ///
    /// # Errors
    /// If the shard is busy.
    pub fn walk(
        &mut self,
        cursor: Cursor,
        mut visit: impl FnMut(EntryRef<'_>),
    ) -> Result<Cursor, Busy> {
        const ENTRIES_PER_CALL: usize = 1 << 12;
        const BUCKETS_PER_CALL: usize = 1 << 12;
        let (shards, now, db) = (self.engine().shards(), self.now(), self.db());
        let shard = (cursor.0 >> POSITION_BITS) as usize;
        if shard >= shards {
            return Ok(Cursor(0));
        }
        let start = cursor.0 & POSITION_MASK;
        let end = self.with_shard(shard, |tx| {
            let table = &tx.databases(shard)[db].table;
            let (mut position, mut entries, mut buckets) = (start, 0, 0);
            loop {
                position = table.scan(position, |entry| {
                    entries += 1;
                    if !is_expired(entry, now) {
                        visit(entry);
                    }
                });
                buckets += 1;
                if position == 0 || entries >= ENTRIES_PER_CALL || buckets >= BUCKETS_PER_CALL {
                    return position;
                }
            }
        })?;
        let next = match end {
            0 if shard + 1 == shards => 0,
            0 => (shard as u64 + 1) << POSITION_BITS,
            position => (shard as u64) << POSITION_BITS | position,
        };
        Ok(Cursor(next))
    }

    /// A random live key of the selected database; `random` are uniform numbers.
    ///
    /// # Panics
    /// If not all shards are locked.
    pub fn random_key(&mut self, mut random: impl FnMut() -> u64) -> Option<Vec<u8>> {
        /// After this many expired entries in a row, all keys are searched.
        const TRIES: usize = 100;
        let (db, now) = (self.db(), self.now());
        let total = self.totals(db).keys;
        if total == 0 {
            return None;
        }
        for _ in 0..TRIES {
            let mut nth = (random() % total as u64) as usize;
            for shard in 0..self.engine().shards() {
                let database = &self.databases(shard)[db];
                if nth >= database.len() {
                    nth -= database.len();
                    continue;
                }
                match database.table.random(random()) {
                    Some(entry) if !is_expired(entry, now) => return Some(entry.key().to_vec()),
                    Some(_) | None => break,
                }
            }
        }
        let mut live = None;
        self.for_each(|entry| {
            live.get_or_insert_with(|| entry.key().to_vec());
        });
        live
    }

    /// Calls `visit` with every live entry of the selected database, in the locked shards.
    ///
    /// # Panics
    /// If not all shards are locked.
    pub fn for_each(&mut self, visit: impl FnMut(EntryRef<'_>)) {
        self.for_each_in(self.db(), visit);
    }

    /// As [`Tx::for_each`], for any database.
    pub fn for_each_in(&mut self, db: usize, mut visit: impl FnMut(EntryRef<'_>)) {
        let now = self.now();
        for shard in 0..self.engine().shards() {
            self.databases(shard)[db].table.for_each(|entry| {
                if !is_expired(entry, now) {
                    visit(entry);
                }
            });
        }
    }
}
