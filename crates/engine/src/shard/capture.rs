//! What keeps a database as it was at the cut of a snapshot, until the snapshot has visited it: see `section/snapshot.rs`.

use std::sync::Arc;

use damselfly_value::{Entry, EntryRef};

use crate::shard::pending_work::{PendingWork, Work};

/// Saved entries are handed over when they exceed this size.
const SAVED_BYTES_MAX: usize = 16 << 10;

/// The part of a database that a snapshot has not visited yet, and the entries of that part that changed since the cut.
///
/// Entries that are saved already are marked ([`EntryRef::is_saved`]), and so are those that were added since the cut. Only entries
/// that the snapshot has not visited yet are ever marked.
pub(crate) struct Capture {
    work: Arc<PendingWork>,
    /// The database's number at the cut.
    pub(crate) db: usize,
    /// Where the snapshot continues, in hash order.
    pub(crate) position: u64,
    saved: Vec<Entry>,
    saved_bytes: usize,
}

/// Entries as they were at the cut, which have changed since.
pub(crate) struct SavedEntries {
    /// The database's number at the cut.
    pub(crate) db: usize,
    pub(crate) entries: Vec<Entry>,
    /// Bytes of the entries when they were saved.
    pub(crate) bytes: usize,
}

impl Capture {
    /// Of a database that has its number `db` at the cut, which is now.
    pub(crate) fn new(work: Arc<PendingWork>, db: usize) -> Self {
        Self {
            work,
            db,
            position: 0,
            saved: Vec::new(),
            saved_bytes: 0,
        }
    }

    /// `self`, if the snapshot has not visited this position yet.
    #[cold]
    pub(crate) fn of_position(&mut self, position: u64) -> Option<&mut Self> {
        (position >= self.position).then_some(self)
    }

    /// Saves an entry that is about to change, unless it is saved already. A large collection is shared, not copied; its first
    /// change copies it.
    #[cold]
    pub(crate) fn save(&mut self, entry: EntryRef<'_>) {
        if entry.is_saved() {
            return;
        }
        let bytes = entry.allocated_bytes();
        self.work.count_kept(bytes);
        self.saved_bytes += bytes;
        self.saved.push(entry.to_entry(entry.key()));
        entry.set_saved(true);
        if self.saved_bytes > SAVED_BYTES_MAX {
            let saved = self.take_saved();
            self.work.add_first(Work::Saved(saved));
        }
    }

    /// Takes the saved entries that were not handed over. Their bytes still count as kept.
    pub(crate) fn take_saved(&mut self) -> SavedEntries {
        SavedEntries {
            db: self.db,
            entries: std::mem::take(&mut self.saved),
            bytes: std::mem::take(&mut self.saved_bytes),
        }
    }

    /// The work of the snapshot.
    pub(crate) fn work(&self) -> &Arc<PendingWork> {
        &self.work
    }
}
