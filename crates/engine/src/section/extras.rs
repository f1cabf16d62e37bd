//! What few sections need beside their locks.

use std::sync::Arc;

use crate::section::key_tracking::TrackedChanges;
use crate::section::pending_events::PendingEvents;
use crate::section::serve_waiters::{ReadyKeys, Waiter};
use crate::section::undo::Undo;
use crate::{Database, Engine};

/// What few sections need, so that the others need not even make it empty.
#[derive(Default)]
pub(crate) struct SectionExtras {
    /// What to free after the locks are released.
    pub(crate) garbage: Vec<Database>,
    /// Events that are not told yet.
    pub(crate) kept: PendingEvents,
    /// Changed keys that somebody waits for.
    pub(crate) ready: ReadyKeys,
    /// What trackers are to be told.
    pub(crate) changes: TrackedChanges,
    /// Who was served, to be woken after the locks are released.
    pub(crate) served: Vec<Arc<dyn Waiter>>,
    /// Shards that were locked later than those of `HeldLocks`.
    pub(crate) included: Vec<usize>,
    /// How to undo what it does, if it may have to.
    pub(crate) undo: Option<Undo>,
}

impl SectionExtras {
    /// To be called when the other locks are released.
    #[cold]
    pub(crate) fn end(mut self, engine: &Engine) {
        for &shard in &self.included {
            engine.shards.release(shard);
        }
        self.changes.wake(engine);
        for waiter in &self.served {
            waiter.wake();
        }
    }
}
