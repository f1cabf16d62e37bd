//! Rarely used state of a section: undo log, pending events, clients to wake, and so on.

use std::sync::Arc;

use damselfly_value::{Entry, EntryRef};

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
    /// Copies of hashes without their expired fields, for the readers of a replica. None is removed before the section ends.
    pub(crate) copies: Vec<Entry>,
    /// Shards that were locked after those of `HeldLocks`.
    pub(crate) included: Vec<usize>,
    /// The undo log, if the section may have to undo its changes.
    pub(crate) undo: Option<Undo>,
}

impl SectionExtras {
    /// Keeps a copy of an entry until the section ends, and returns a view of it. `'e` must not outlast the section.
    pub(crate) fn keep_copy<'e>(&mut self, copy: Entry) -> EntryRef<'e> {
        // SAFETY:
        // - the block of an entry does not move when the vector grows, and nothing removes it from the vector before the section ends;
        // - a view is used only while the section is borrowed: `Tx::find` bounds its lifetime like that of an entry in a table.
        let view = unsafe { std::mem::transmute::<EntryRef<'_>, EntryRef<'e>>(copy.view()) };
        self.copies.push(copy);
        view
    }

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
