//! A thread's part in a walk: it counts or moves entries between its turns.

use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use damselfly_base::heap;
use damselfly_engine::{Busy, Now, WalkPosition};

use super::{Phase, Walk};
use crate::clock;
use crate::shared::Shared;

/// How long a thread counts or moves entries between two turns: so much later may requests be answered.
const SLICE: Duration = Duration::from_micros(100);

/// After a long turn, such as one with large values, a slice may be longer, so that it still has its share of the time.
const SLICE_MAX: Duration = Duration::from_millis(1);

/// A thread spends one part in this many of its time on that.
const SHARE: u32 = 4;

/// When a thread can't do anything, it looks again after this time.
const RECHECK_INTERVAL: Duration = Duration::from_millis(1);

/// A thread's part in a walk.
pub struct Mover {
    /// When the last slice ended.
    ended: Instant,
    /// The thread may go on from then on.
    next: Instant,
    /// The last walk in which it took part.
    walk: Weak<Walk>,
    /// The shard that it visits, and where it continues.
    shard: Option<(usize, WalkPosition)>,
    /// The blocks of entries that are being counted; empty between two calls.
    found: Vec<Range<usize>>,
}

impl Mover {
    /// No walk is in progress.
    pub fn new() -> Self {
        Self {
            ended: Instant::now(),
            next: Instant::now(),
            walk: Weak::new(),
            shard: None,
            found: Vec::new(),
        }
    }

    /// While a walk is in progress: until when the thread may wait for events.
    pub fn next(&self) -> Instant {
        self.next
    }

    /// Counts or moves entries for a moment, unless the thread has done enough for now.
    #[cold]
    pub fn move_some(&mut self, shared: &Shared) {
        let started = Instant::now();
        if started < self.next {
            return;
        }
        let memory = &shared.resident_memory;
        let Some(walk) = memory.walk().clone() else {
            return;
        };
        if self.walk.as_ptr() != Arc::as_ptr(&walk) {
            self.shard = None;
            self.walk = Arc::downgrade(&walk);
        }
        let now = Now(clock::now_ms());
        let slice = ((started - self.ended) / (SHARE - 1)).clamp(SLICE, SLICE_MAX);
        while started.elapsed() < slice {
            let Some((shard, mut at)) = self.next_shard(&walk) else {
                // Others finish it.
                self.next = started + RECHECK_INTERVAL;
                return;
            };
            let is_finished = self.visit_some(shared, &walk, shard, &mut at, now);
            self.shard = Some((shard, at));
            let Ok(is_finished) = is_finished else {
                self.next = started + RECHECK_INTERVAL;
                return;
            };
            if is_finished {
                self.shard = None;
                if walk.finish_shard() {
                    memory.finish(&walk);
                    // Pages of this thread whose blocks other threads have freed.
                    heap::collect();
                    break;
                }
            }
        }
        self.ended = Instant::now();
        // If it took longer, the thread was interrupted, and other threads used the processor.
        self.next = self.ended + (self.ended - started).min(slice) * (SHARE - 1);
    }

    /// Counts or moves the next entries of a shard. True if it was visited to the end.
    fn visit_some(
        &mut self,
        shared: &Shared,
        walk: &Walk,
        shard: usize,
        at: &mut WalkPosition,
        now: Now,
    ) -> Result<bool, Busy> {
        match &walk.phase {
            Phase::Count(counts) => {
                let is_finished = shared
                    .engine
                    .locate_entries(shard, at, &mut self.found, now);
                self.found.drain(..).for_each(|block| counts.add(block));
                is_finished
            }
            Phase::Move(slices) => {
                let moved = shared.engine.move_entries(shard, at, slices, now)?;
                let count = &shared.resident_memory.moved_entries;
                count.fetch_add(moved.entries as u64, Relaxed);
                Ok(moved.is_finished)
            }
        }
    }

    /// The shard to visit, and where to continue.
    fn next_shard(&self, walk: &Walk) -> Option<(usize, WalkPosition)> {
        let fresh = || Some((walk.take_shard()?, WalkPosition::default()));
        self.shard.or_else(fresh)
    }
}
