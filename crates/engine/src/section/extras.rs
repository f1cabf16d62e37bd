//! Rarely used state of a section: undo log, pending events, clients to wake, and so on.

use std::sync::Arc;

use crate::section::key_tracking::TrackedChanges;
use crate::section::pending_events::PendingEvents;
use crate::section::serve_waiters::{ReadyKeys, Waiter};
use crate::section::undo::Undo;
use crate::{Database, Engine};

/// Rarely used state of a section, created on first use, so that most sections do not even initialize it.
#[derive(Default)]
pub(crate) struct SectionExtras {
    /// Databases to free after the locks are released.
    pub(crate) garbage: Vec<Database>,
    /// Events that are not published yet.
    pub(crate) pending_events: PendingEvents,
    /// Changed keys that clients wait for.
    pub(crate) ready: ReadyKeys,
    /// Changes that trackers are not notified of yet.
    pub(crate) tracked_changes: TrackedChanges,
    /// Waiters that were served, to be woken after the locks are released.
    pub(crate) served: Vec<Arc<dyn Waiter>>,
    /// Shards that were locked after those of `HeldLocks`.
    pub(crate) included: Vec<usize>,
    /// The undo log, if the section may have to undo its changes.
    pub(crate) undo: Option<Undo>,
}

impl SectionExtras {
    /// Releases the included locks and wakes threads. The caller has released the other locks.
    #[cold]
    pub(crate) fn finish(mut self, engine: &Engine) {
        for &shard in &self.included {
            engine.shards.release(shard);
        }
        self.tracked_changes.wake(engine);
        for waiter in &self.served {
            waiter.wake();
        }
    }
}
