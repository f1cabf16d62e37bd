//! A thread's part in a pass: it moves entries between its turns.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use damselfly_base::heap;
use damselfly_engine::{MovePosition, Now};

use super::Pass;
use crate::clock;
use crate::shared::Shared;

/// The longest time that a thread moves entries between two turns: so much later may requests be answered.
const SLICE: Duration = Duration::from_micros(100);

/// A thread spends one part in this many of its time on moving.
const SHARE: u32 = 4;

/// The most that counts of one slice: if it took longer, the thread was interrupted, and other threads used the processor.
const SLICE_COUNTED_MAX: Duration = Duration::from_millis(1);

/// When a thread can't do anything, it looks again after this time.
const RECHECK_INTERVAL: Duration = Duration::from_millis(1);

/// A thread's part in a pass.
pub struct Mover {
    /// The thread may move entries from then on.
    next: Instant,
    /// The pass in which it takes part.
    pass: Option<Arc<Pass>>,
    /// The shard that it visits, and where it continues.
    shard: Option<(usize, MovePosition)>,
}

impl Mover {
    /// No pass is in progress.
    pub fn new() -> Self {
        Self {
            next: Instant::now(),
            pass: None,
            shard: None,
        }
    }

    /// While a pass is in progress: until when the thread may wait for events.
    pub fn next(&self) -> Instant {
        self.next
    }

    /// Moves entries for a moment, unless the thread has done enough for now.
    #[cold]
    pub fn move_some(&mut self, shared: &Shared) {
        let started = Instant::now();
        if started < self.next {
            return;
        }
        let Some(pass) = shared.resident_memory.pass().clone() else {
            return;
        };
        let is_known = self
            .pass
            .as_ref()
            .is_some_and(|known| Arc::ptr_eq(known, &pass));
        if !is_known {
            self.shard = None;
            self.pass = Some(pass.clone());
        }
        let now = Now(clock::now_ms());
        while started.elapsed() < SLICE {
            let Some((shard, mut at)) = self.next_shard(&pass) else {
                // Others finish it. It takes memory.
                self.pass = None;
                self.next = started + RECHECK_INTERVAL;
                return;
            };
            let moved = shared.engine.move_entries(shard, &mut at, &pass.pages, now);
            self.shard = Some((shard, at));
            let Ok(moved) = moved else {
                self.next = started + RECHECK_INTERVAL;
                return;
            };
            let memory = &shared.resident_memory;
            memory
                .moved_entries
                .fetch_add(moved.entries as u64, Relaxed);
            if moved.is_finished {
                self.shard = None;
                if pass.finish_shard() {
                    memory.end();
                    self.pass = None;
                    // Pages of this thread whose blocks other threads have freed.
                    heap::collect();
                    break;
                }
            }
        }
        let ended = Instant::now();
        self.next = ended + (ended - started).min(SLICE_COUNTED_MAX) * (SHARE - 1);
    }

    /// The shard to visit, and where to continue.
    fn next_shard(&self, pass: &Pass) -> Option<(usize, MovePosition)> {
        let fresh = || Some((pass.take_shard()?, MovePosition::default()));
        self.shard.or_else(fresh)
    }
}
