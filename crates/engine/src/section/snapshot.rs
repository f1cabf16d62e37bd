//! Snapshots: visiting every entry as it was at one moment, the cut, while commands go on changing them.
//!
//! ```text
//!  hash order of a database   | visited already | position |            not visited yet            |
//!  a change of an entry here    nothing to do                saves the old entry, once; marks it
//!  a new entry here             nothing to do                is marked
//!  the visitor gets                                          entries that are not marked, and the saved ones
//! ```
//!
//! The cut is taken under all locks, in microseconds: each database gets a [`Capture`]. After that, any thread visits the databases
//! shard by shard, a few entries at a time under the shard's lock ([`Snapshot::visit_some`]). Whoever changes, removes or adds an
//! entry has its place in the table (`place.rs`), which knows whether the snapshot has been there. Tables keep their entries in hash
//! order however they grow, so one position per database says that.
//!
//! Expired entries and fields are not saved: whoever loads the snapshot drops them anyway. A database that is emptied is handed
//! over as a whole. Swapping databases moves their captures with them.
//!
//! When a database is visited to the end, none of its entries is marked. So a snapshot that is of no use any more must be visited to the
//! end, too; that costs about 30 ns per entry.

use std::sync::Arc;

use damselfly_value::{Entry, EntryRef};

use crate::section::garbage;
use crate::shard::capture::Capture;
use crate::shard::pending_work::{PendingWork, Taken, Work};
use crate::{Database, Tx};

/// An entry counts as this many bytes at least, and a bucket as well.
const VISIT_BYTES: usize = 64;

/// An entry counts as this many bytes at most: a larger one is not read under the lock, if the visitor can help it.
const VISIT_BYTES_MAX: usize = 64 << 10;

/// A snapshot that is being taken. Dropping it before it is finished leaves marks behind: see [`Snapshot::visit_some`].
#[derive(Clone)]
pub struct Snapshot {
    work: Arc<PendingWork>,
}

/// An entry as it was at the cut.
#[derive(Debug)]
pub enum Seen<'a> {
    /// It has not changed since. To keep it, the visitor has to copy it.
    InPlace(EntryRef<'a>),
    /// It has changed since, and this was saved.
    Saved(Entry),
}

impl Seen<'_> {
    /// The entry.
    pub fn view(&self) -> EntryRef<'_> {
        match self {
            Self::InPlace(entry) => *entry,
            Self::Saved(entry) => entry.view(),
        }
    }

    /// The entry, copied if it is still in place.
    pub fn into_entry(self) -> Entry {
        match self {
            Self::InPlace(entry) => entry.to_entry(entry.key()),
            Self::Saved(entry) => entry,
        }
    }
}

/// The result of [`Snapshot::visit_some`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visited {
    /// Some entries were visited; there may be more.
    Some,
    /// Nothing can be visited at this moment, because all that is left is in use by other threads.
    NoneNow,
    /// Everything was visited.
    All,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot")
            .field("kept_bytes", &self.kept_bytes())
            .finish_non_exhaustive()
    }
}

impl Tx<'_> {
    /// Begins a snapshot: its cut is this moment. The caller has to see to it that [`Snapshot::visit_some`] is called until it has
    /// visited everything, and that no other snapshot begins before.
    ///
    /// # Panics
    /// If not all shards are locked, or if another snapshot is not finished.
    pub fn begin_snapshot(&mut self) -> Snapshot {
        let work = Arc::new(PendingWork::default());
        for shard in 0..self.engine().shards() {
            for (db, database) in self.databases_mut(shard).iter_mut().enumerate() {
                assert!(database.capture.is_none(), "one snapshot at a time");
                // An empty database has nothing to visit.
                if !database.is_empty() {
                    database.capture = Some(Box::new(Capture::new(work.clone(), db)));
                }
            }
            work.add_last(Work::Shard(shard));
            #[cfg(broken)]
            if damselfly_base::planted_bug("cut") {
                self.interrupt(std::time::Duration::from_micros(200));
            }
        }
        Snapshot { work }
    }
}

impl Snapshot {
    /// Bytes that are kept for this snapshot only: of entries that were changed before it has visited them.
    pub fn kept_bytes(&self) -> usize {
        self.work.kept_bytes()
    }

    /// True if everything was visited.
    pub fn is_finished(&self) -> bool {
        self.work.is_finished()
    }

    /// Visits some entries as they were at the cut, with the number that their database had: about `bytes` bytes of them. Each entry
    /// of the cut is visited once, in any order. `visit` must be quick, since it may hold the lock of a shard. Any thread may call
    /// this, several at the same time. `tx` has all locks or none; without locks it takes one at a time.
    pub fn visit_some(
        &self,
        tx: &mut Tx<'_>,
        bytes: usize,
        visit: &mut dyn FnMut(usize, Seen<'_>),
    ) -> Visited {
        for _ in 0..=self.work.waiting() {
            let Some(mut taken) = self.work.take() else {
                break;
            };
            let mut budget = Budget { bytes, visit };
            let is_finished = match taken.work() {
                Work::Shard(shard) => {
                    let visited = tx.with_shard(*shard, |tx| {
                        let mut databases = tx.databases_mut(*shard).iter_mut();
                        databases.all(|database| database.visit_some(&mut budget))
                    });
                    match visited {
                        Ok(is_finished) => is_finished,
                        Err(_) => {
                            taken.postpone();
                            continue;
                        }
                    }
                }
                Work::Saved(saved) => {
                    let mut visited_bytes = 0;
                    while budget.bytes > 0
                        && let Some(entry) = saved.entries.pop()
                    {
                        visited_bytes += entry.view().allocated_bytes();
                        budget.visit(saved.db, Seen::Saved(entry));
                    }
                    let is_finished = saved.entries.is_empty();
                    let visited_bytes = visited_bytes.min(saved.bytes);
                    saved.bytes -= visited_bytes;
                    taken.release_bytes(visited_bytes);
                    is_finished
                }
                Work::Detached(database) => database.visit_some(&mut budget),
            };
            if is_finished {
                finish(taken);
            }
            return Visited::Some;
        }
        if self.is_finished() {
            Visited::All
        } else {
            Visited::NoneNow
        }
    }
}

fn finish(taken: Taken<'_>) {
    match taken.finish() {
        Some(Work::Detached(database)) => garbage::add_databases(vec![*database]),
        Some(Work::Shard(_) | Work::Saved(_)) | None => {}
    }
}

/// A visitor, and how much it may visit.
struct Budget<'a> {
    bytes: usize,
    visit: &'a mut dyn FnMut(usize, Seen<'_>),
}

impl Budget<'_> {
    fn spend(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    fn visit(&mut self, db: usize, entry: Seen<'_>) {
        self.spend(
            entry
                .view()
                .allocated_bytes()
                .clamp(VISIT_BYTES, VISIT_BYTES_MAX),
        );
        (self.visit)(db, entry);
    }
}

impl Database {
    /// Visits some of the entries that the snapshot has not visited yet. True if none is left.
    fn visit_some(&mut self, budget: &mut Budget<'_>) -> bool {
        let Some(capture) = &mut self.capture else {
            return true;
        };
        while budget.bytes > 0 {
            budget.spend(VISIT_BYTES);
            let next = self.table.scan(capture.position, |entry| {
                if entry.is_saved() {
                    entry.set_saved(false);
                } else {
                    budget.visit(capture.db, Seen::InPlace(entry));
                }
            });
            capture.position = next;
            if next == 0 {
                let saved = capture.take_saved();
                for entry in saved.entries {
                    budget.visit(capture.db, Seen::Saved(entry));
                }
                capture.work().uncount_kept(saved.bytes);
                self.capture = None;
                return true;
            }
        }
        false
    }

    /// Hands a database that was taken out of its shard to the snapshot that has not visited all of it.
    pub(super) fn detach(self) -> Option<Self> {
        let Some(capture) = &self.capture else {
            return Some(self);
        };
        let work = capture.work().clone();
        work.add_first(Work::Detached(Box::new(self)));
        None
    }
}
