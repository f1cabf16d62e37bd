//! What a snapshot still has to visit.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::shard::capture::SavedEntries;
use crate::shard::database::Database;

/// A part of a snapshot that is not visited yet.
pub(crate) enum Work {
    /// The databases of a shard.
    Shard(usize),
    /// Entries that were changed before the snapshot visited them.
    Saved(SavedEntries),
    /// A database that was emptied, as it was.
    Detached(Box<Database>),
}

impl Work {
    /// Bytes that are kept for the snapshot only, and were counted by [`PendingWork::count_kept`].
    fn kept_bytes(&self) -> usize {
        match self {
            Self::Shard(_) | Self::Detached(_) => 0,
            Self::Saved(saved) => saved.bytes,
        }
    }
}

/// The parts of a snapshot that are not visited yet.
#[derive(Default)]
pub(crate) struct PendingWork {
    queue: Mutex<VecDeque<Work>>,
    /// Parts in the queue or being visited.
    unfinished: AtomicUsize,
    kept_bytes: AtomicUsize,
}

/// The bytes that snapshots keep of entries that were changed meanwhile, in the whole process.
static KEPT_BYTES: AtomicUsize = AtomicUsize::new(0);

/// The bytes that snapshots keep of entries that were changed meanwhile, in the whole process.
pub(crate) fn kept_bytes() -> usize {
    KEPT_BYTES.load(Relaxed)
}

impl PendingWork {
    fn queue(&self) -> MutexGuard<'_, VecDeque<Work>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts bytes that are kept from now on.
    pub(crate) fn count_kept(&self, bytes: usize) {
        self.kept_bytes.fetch_add(bytes, Relaxed);
        KEPT_BYTES.fetch_add(bytes, Relaxed);
    }

    /// Uncounts bytes that are not kept any more.
    pub(crate) fn uncount_kept(&self, bytes: usize) {
        self.kept_bytes.fetch_sub(bytes, Relaxed);
        KEPT_BYTES.fetch_sub(bytes, Relaxed);
    }

    /// Adds a part, to be visited before those that wait already.
    pub(crate) fn add_first(&self, work: Work) {
        self.unfinished.fetch_add(1, Relaxed);
        self.queue().push_front(work);
    }

    /// Adds a part, to be visited after those that wait already.
    pub(crate) fn add_last(&self, work: Work) {
        self.unfinished.fetch_add(1, Relaxed);
        self.queue().push_back(work);
    }

    /// The next part to visit, if any waits.
    pub(crate) fn take(&self) -> Option<Taken<'_>> {
        let work = self.queue().pop_front()?;
        Some(Taken {
            pending: self,
            work: Some(work),
        })
    }

    /// How many parts wait.
    pub(crate) fn waiting(&self) -> usize {
        self.queue().len()
    }

    /// True if every part was visited.
    pub(crate) fn is_finished(&self) -> bool {
        self.unfinished.load(Relaxed) == 0
    }

    /// Bytes that are kept for the snapshot only.
    pub(crate) fn kept_bytes(&self) -> usize {
        self.kept_bytes.load(Relaxed)
    }
}

impl Drop for PendingWork {
    fn drop(&mut self) {
        KEPT_BYTES.fetch_sub(self.kept_bytes(), Relaxed);
    }
}

/// A part that is being visited. It goes back to the queue when this is dropped, unless it is finished.
pub(crate) struct Taken<'a> {
    pending: &'a PendingWork,
    work: Option<Work>,
}

impl Taken<'_> {
    /// The part.
    pub(crate) fn work(&mut self) -> &mut Work {
        self.work.as_mut().expect("present until it is finished")
    }

    /// Returns the part to the end of the queue, since it can't be visited now.
    pub(crate) fn postpone(mut self) {
        if let Some(work) = self.work.take() {
            self.pending.queue().push_back(work);
        }
    }

    /// Notes that `bytes` fewer bytes are kept.
    pub(crate) fn release_bytes(&self, bytes: usize) {
        self.pending.uncount_kept(bytes);
    }

    /// The part was visited.
    pub(crate) fn finish(mut self) -> Option<Work> {
        let work = self.work.take();
        if let Some(work) = &work {
            self.pending.uncount_kept(work.kept_bytes());
        }
        // After everything that visiting it has added.
        self.pending.unfinished.fetch_sub(1, Relaxed);
        work
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            self.pending.queue().push_front(work);
        }
    }
}
