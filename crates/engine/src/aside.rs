//! What few sections need beside their locks.

use std::sync::Arc;

use crate::events::Kept;
use crate::tracking::Changes;
use crate::undo::Undo;
use crate::waiting::{Ready, Waiter};
use crate::{Database, Engine};

/// What few sections need, so that the others need not even make it empty.
#[derive(Default)]
pub(crate) struct Aside {
    /// What to free after the locks are released.
    pub(crate) garbage: Vec<Database>,
    /// Events that are not told yet.
    pub(crate) kept: Kept,
    /// Changed keys that somebody waits for.
    pub(crate) ready: Ready,
    /// What trackers are to be told.
    pub(crate) changes: Changes,
    /// Who was served, to be woken after the locks are released.
    pub(crate) served: Vec<Arc<dyn Waiter>>,
    /// Shards that were locked later than those of `Held`.
    pub(crate) included: Vec<usize>,
    /// How to undo what it does, if it may have to.
    pub(crate) undo: Option<Undo>,
}

impl Aside {
    /// To be called when the other locks are released.
    #[cold]
    pub(crate) fn end(mut self, engine: &Engine) {
        for &shard in &self.included {
            engine.release(shard);
        }
        self.changes.wake(engine);
        for waiter in &self.served {
            waiter.wake();
        }
    }
}
