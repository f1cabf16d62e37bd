//! Keeps the resident memory of the process near `maxmemory`, although the allocator holds more than is in use.
//!
//! A page of the allocator can be returned only when all its blocks are free. When the sizes of values change, many pages keep a few
//! blocks each, and resident memory may be twice what is in use. A thread measures it several times a second and acts in this order:
//!
//! 1. It returns all memory that is free in whole pages.
//! 2. It begins a pass: threads move the entries out of the emptiest slices of memory (`mover.rs`), so that pages get free. A pass has two
//!    walks over all entries: the first one counts them by slice, the second one moves some.
//! 3. If that is not fast enough, it withholds a part of `maxmemory`, so that keys are evicted. It raises that part in steps, and waits
//!    for the evictions of one step before the next. Entries are moved until nothing is withheld.
//! 4. Large values are written faster than this thread can measure. So as far as memory was over its limit lately, the limit is lowered.
//!
//! ```text
//!   0 ───────────── in use ─────── maxmemory - withheld ──── maxmemory ────── entries move ────── keys are withheld
//!   |  entries, other memory  |         allocator           |                |                    |
//! ```

mod mover;

use std::sync::atomic::{
    AtomicBool, AtomicU64, AtomicUsize,
    Ordering::{AcqRel, Relaxed},
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use damselfly_base::heap::{self, SliceCounts, SparseSlices};
use damselfly_engine::garbage;

pub(crate) use self::mover::Mover;
use crate::admin::facts::{resident_bytes, resident_private_bytes};
use crate::dispatch::{background_bytes, counted_bytes, evicts};
use crate::shared::Shared;

/// The interval of measurements while more is resident than may be.
const OVER_PERIOD: Duration = Duration::from_millis(5);

/// The interval while memory is short.
const PERIOD: Duration = Duration::from_millis(20);

/// The interval otherwise.
const IDLE_PERIOD: Duration = Duration::from_millis(500);

/// This part of `maxmemory` may be resident in addition before keys are evicted: the process without data, and what the allocator holds.
const SLACK_DIVISOR: u64 = 20;
/// If that is less, the allocator may hold as much as a process with little data may have in pages that are begun.
const SLACK_BYTES_MIN: u64 = 16 << 20;
/// In addition, each thread may have pages of its own.
const SLACK_BYTES_PER_THREAD: u64 = 1 << 20;

/// When only this part of the slack is left, entries are moved.
const MARGIN_DIVISOR: u64 = 4;

/// A lowered limit rises again by about two thirds in this time.
const LEAD_TIME: Duration = Duration::from_secs(20);

/// The part of what is too little that one step gives back.
const STEP_DIVISOR: u64 = 2;

/// Evictions have caught up with a step if memory use is above its goal by at most this part of `maxmemory`.
const LAG_DIVISOR: u64 = 64;

/// A walk that has not ended after this time is given up: a thread that serves clients may be busy with one command.
const WALK_TIME_MAX: Duration = Duration::from_secs(10);

/// A pass is not worth its time if it frees less than this part of `maxmemory`.
const PASS_DIVISOR: u64 = 256;

/// If more than so many times as much seems to be free as the allocator holds, other blocks than those of entries fill the pages. Then moving gains little.
const ESTIMATE_FACTOR_MAX: u64 = 2;

/// How long after a pass the next one waits: until threads have returned the pages that are free now.
const REST_MIN: Duration = Duration::from_millis(150);

/// If the next pass will gain little, it waits for so many times as long as the last one took.
const REST: u32 = 4;

/// What is done about memory that the allocator holds.
#[derive(Default)]
pub struct ResidentMemory {
    withheld: AtomicU64,
    /// The allocator holds so much that each thread should return what it can.
    is_tight: AtomicBool,
    /// A walk is in progress.
    is_moving: AtomicBool,
    /// The walk in progress, or the last one until its end is noticed.
    walk: Mutex<Option<Arc<Walk>>>,
    moved_entries: AtomicU64,
}

/// One walk over all entries, by all threads.
struct Walk {
    phase: Phase,
    shards: usize,
    /// The shard that a thread visits next.
    next_shard: AtomicUsize,
    /// How many shards are not visited to the end.
    unfinished: AtomicUsize,
}

/// The two walks of a pass.
enum Phase {
    /// Entries are counted by slice.
    Count(SliceCounts),
    /// Those in these slices are moved.
    Move(SparseSlices),
}

impl ResidentMemory {
    /// The part of `maxmemory` that is withheld from the memory in use, in bytes; zero unless the allocator holds too much.
    #[inline]
    pub fn withheld_bytes(&self) -> u64 {
        self.withheld.load(Relaxed)
    }

    /// Withholds nothing for now, because no key can be evicted.
    pub fn withhold_nothing(&self) {
        self.withheld.store(0, Relaxed);
    }

    /// True while the allocator holds so much that each thread should return what it can.
    #[inline]
    pub fn is_tight(&self) -> bool {
        self.is_tight.load(Relaxed)
    }

    /// True while entries are counted or moved.
    #[inline]
    pub fn is_moving(&self) -> bool {
        self.is_moving.load(Relaxed)
    }

    /// How many entries were moved since the start.
    pub fn moved_entries(&self) -> u64 {
        self.moved_entries.load(Relaxed)
    }

    fn walk(&self) -> MutexGuard<'_, Option<Arc<Walk>>> {
        self.walk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, phase: Phase, shared: &Shared) {
        let shards = shared.engine.shards();
        *self.walk() = Some(Arc::new(Walk {
            phase,
            shards,
            next_shard: AtomicUsize::new(0),
            unfinished: AtomicUsize::new(shards),
        }));
        self.is_moving.store(true, Relaxed);
        // They visit the entries.
        shared.threads.iter().for_each(crate::threads::Thread::wake);
    }

    /// Notes that a walk has visited all shards, unless it was given up.
    fn finish(&self, walk: &Arc<Walk>) {
        let current = self.walk();
        if current
            .as_ref()
            .is_some_and(|known| Arc::ptr_eq(known, walk))
        {
            self.is_moving.store(false, Relaxed);
        }
    }

    /// Ends the walk, if there is one, and returns it.
    fn end(&self) -> Option<Arc<Walk>> {
        let mut walk = self.walk();
        self.is_moving.store(false, Relaxed);
        walk.take()
    }
}

impl Walk {
    /// Takes the next shard, if any is left.
    fn take_shard(&self) -> Option<usize> {
        let shard = self.next_shard.fetch_add(1, Relaxed);
        (shard < self.shards).then_some(shard)
    }

    /// Notes that a shard was visited to the end; true if it was the last one.
    fn finish_shard(&self) -> bool {
        self.unfinished.fetch_sub(1, AcqRel) == 1
    }
}

/// One measurement, in bytes.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// `maxmemory`.
    limit: u64,
    /// What counts towards it.
    counted: u64,
    /// What the allocator holds besides the memory in use, and what is about to be freed.
    held: u64,
    /// How much of that costs nothing.
    slack: u64,
    /// The part of `maxmemory` that is withheld.
    withheld: u64,
}

impl Sample {
    /// How much resident memory is over its limit because of the allocator; how much under, if negative.
    fn over(&self) -> i64 {
        let counted = self.counted.min(self.limit);
        (counted + self.held) as i64 - (self.limit + self.slack) as i64
    }

    /// By how much the limit is lowered, if that was `before`, and memory was over it by `over` in two measurements.
    fn lead(&self, before: u64, over: u64) -> u64 {
        // The slack may have shrunk.
        before.max(over).min(self.slack)
    }

    /// True if keys are evicted because of the allocator, or will be.
    fn is_urgent(&self) -> bool {
        self.withheld > 0 || self.over() > 0
    }

    /// How much should be freed by moving entries.
    fn wanted(&self) -> u64 {
        let over = self.over() + (self.withheld + self.slack / MARGIN_DIVISOR) as i64;
        u64::try_from(over).unwrap_or(0)
    }

    /// How much of `maxmemory` is withheld next.
    fn next_withheld(&self) -> u64 {
        let over = self.over();
        if over <= 0 {
            let step = over.unsigned_abs().div_ceil(STEP_DIVISOR);
            return self.withheld.saturating_sub(step);
        }
        let goal = self.limit.saturating_sub(self.withheld);
        if self.counted > goal + self.limit / LAG_DIVISOR {
            return self.withheld;
        }
        (self.withheld + over.unsigned_abs()).min(self.limit)
    }
}

/// What the thread remembers between two measurements.
struct Watch {
    /// What was resident at the start and not in use: stacks of threads, the allocator's tables.
    always: u64,
    /// The same with the program itself.
    always_with_program: u64,
    /// How far the last measurement was over the limit. One may be wrong: memory is in use for a moment.
    last_over: u64,
    /// By how much the limit is lowered, since memory was over it lately.
    lead: u64,
    /// When it was measured last.
    measured: Instant,
    /// No pass begins before.
    rest_until: Instant,
    /// When the last pass began.
    pass_began: Instant,
    /// When its last walk began.
    walk_began: Instant,
    /// More seemed to be free than the allocator holds.
    is_estimate_wrong: bool,
}

/// Measures resident memory until the server has stopped. Does nothing if the process has memory that is not counted.
pub fn watch(shared: &Weak<Shared>) {
    if !heap::counts_all() {
        return;
    }
    let mut watch = Watch {
        always: held_bytes(resident_private_bytes),
        always_with_program: held_bytes(resident_bytes),
        last_over: 0,
        lead: 0,
        measured: Instant::now(),
        rest_until: Instant::now(),
        pass_began: Instant::now(),
        walk_began: Instant::now(),
        is_estimate_wrong: false,
    };
    while let Some(shared) = shared.upgrade() {
        let pause = watch.measure(&shared);
        drop(shared);
        std::thread::sleep(pause);
    }
}

impl Watch {
    /// Measures once, and acts. Returns the time until the next measurement.
    fn measure(&mut self, shared: &Shared) -> Duration {
        let config = shared.config();
        let (limit, counted) = (config.maxmemory_bytes, counted_bytes(shared));
        let memory = &shared.resident_memory;
        if limit == 0 || !evicts(&config) {
            memory.withheld.store(0, Relaxed);
            memory.is_tight.store(false, Relaxed);
            memory.end();
            return IDLE_PERIOD;
        }
        let lead = self.fade_lead();
        let threads = shared.threads.len() as u64;
        let sample = |held: u64| Sample {
            limit,
            counted,
            held: held.saturating_sub(self.always) + garbage::waiting_bytes() as u64,
            slack: (limit / SLACK_DIVISOR)
                .saturating_sub(self.always_with_program)
                .max(SLACK_BYTES_MIN)
                + threads * SLACK_BYTES_PER_THREAD
                + 2 * background_bytes(shared),
            withheld: memory.withheld_bytes(),
        };
        let mut now = sample(held_bytes(resident_private_bytes));
        if now.wanted() > 0 {
            heap::purge();
            now = sample(held_bytes(resident_private_bytes));
        }
        let over = u64::try_from(now.over()).unwrap_or(0);
        let last_over = std::mem::replace(&mut self.last_over, over);
        self.lead = now.lead(lead, over.min(last_over));
        now.slack -= self.lead;
        self.move_entries(shared, &now);
        let is_over = now.over() > 0;
        if last_over > 0 || self.lead > 0 || !is_over {
            memory.withheld.store(now.next_withheld(), Relaxed);
        }
        let is_tight = is_over || memory.is_moving() || memory.withheld_bytes() > 0;
        memory.is_tight.store(is_tight, Relaxed);
        match is_tight || counted + now.held > limit / 2 {
            true if is_over => OVER_PERIOD,
            true => PERIOD,
            false => IDLE_PERIOD,
        }
    }

    /// By how much the limit is still lowered.
    fn fade_lead(&mut self) -> u64 {
        let passed = std::mem::replace(&mut self.measured, Instant::now()).elapsed();
        let lost = self.lead as f64 * passed.as_secs_f64() / LEAD_TIME.as_secs_f64();
        self.lead.saturating_sub(lost.ceil() as u64)
    }

    /// Begins, continues or ends a pass.
    fn move_entries(&mut self, shared: &Shared, now: &Sample) {
        let memory = &shared.resident_memory;
        if memory.is_moving() {
            if self.walk_began.elapsed() > WALK_TIME_MAX {
                memory.end();
                self.rest(false);
            }
            return;
        }
        let phase = match memory.end() {
            Some(walk) => self.next_phase(&walk, now),
            None if now.wanted() > 0 && Instant::now() >= self.rest_until => {
                self.pass_began = Instant::now();
                Some(Phase::Count(SliceCounts::default()))
            }
            None => None,
        };
        if let Some(phase) = phase {
            self.walk_began = Instant::now();
            memory.begin(phase, shared);
        }
    }

    /// What the pass does after this walk.
    fn next_phase(&mut self, walk: &Walk, now: &Sample) -> Option<Phase> {
        let wanted = now.wanted();
        let Phase::Count(counts) = &walk.phase else {
            self.rest((now.is_urgent() || wanted == 0) && !self.is_estimate_wrong);
            return None;
        };
        // More than is missing, because sizes go on changing meanwhile.
        let slices = SparseSlices::find(counts, (wanted + now.slack) as usize);
        self.is_estimate_wrong = slices.all_free_bytes() as u64 > now.held * ESTIMATE_FACTOR_MAX;
        if wanted > 0 && slices.free_bytes() as u64 > now.limit / PASS_DIVISOR {
            return Some(Phase::Move(slices));
        }
        self.rest(false);
        None
    }

    /// Decides when the next pass may begin, at the end of one.
    fn rest(&mut self, is_short: bool) {
        let rest = match is_short {
            true => REST_MIN,
            // Nothing was found, or what is left has to be found among slices that are nearly full.
            false => IDLE_PERIOD + self.pass_began.elapsed() * REST,
        };
        self.rest_until = Instant::now() + rest;
    }
}

/// The resident memory that is not in use.
fn held_bytes(resident: impl Fn() -> usize) -> u64 {
    let used = || heap::used_bytes() + heap::uncounted_bytes();
    // The thread may have to wait between these readings, while others allocate or free.
    let before = used();
    let resident = resident();
    resident.saturating_sub(before.max(used())) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: Sample = Sample {
        limit: 1000,
        counted: 1000,
        held: 0,
        slack: 100,
        withheld: 0,
    };

    #[test]
    fn nothing_is_withheld_while_the_allocator_holds_little() {
        for held in [0, 50, 100] {
            let sample = Sample { held, ..SAMPLE };
            assert_eq!(sample.next_withheld(), 0, "{held}");
        }
    }

    #[test]
    fn entries_are_moved_before_keys_are_evicted() {
        let sample = Sample { held: 90, ..SAMPLE };
        assert_eq!((sample.wanted(), sample.next_withheld()), (15, 0));
        let sample = Sample { held: 75, ..SAMPLE };
        assert_eq!(sample.wanted(), 0);
    }

    #[test]
    fn the_limit_is_lowered_by_what_was_too_much_within_the_slack() {
        for (before, over, expected) in [
            (0, 0, 0),
            (0, 20, 20),
            (30, 20, 30),
            (10, 900, 100),
            (400, 0, 100),
        ] {
            assert_eq!(SAMPLE.lead(before, over), expected, "{before} {over}");
        }
    }

    #[test]
    fn the_next_step_waits_for_the_evictions_of_the_last_one() {
        let sample = Sample {
            held: 300,
            ..SAMPLE
        };
        assert_eq!(sample.next_withheld(), 200);
        let evicting = Sample {
            withheld: 200,
            ..sample
        };
        assert_eq!(evicting.next_withheld(), 200);
        let evicted = Sample {
            counted: 800,
            held: 400,
            ..evicting
        };
        assert_eq!(evicted.next_withheld(), 300);
    }

    #[test]
    fn what_was_withheld_is_given_back_once_pages_are_free() {
        let sample = Sample {
            counted: 700,
            held: 50,
            withheld: 300,
            ..SAMPLE
        };
        assert_eq!(sample.next_withheld(), 125);
        let sample = Sample {
            withheld: 3,
            ..sample
        };
        assert_eq!(sample.next_withheld(), 0);
    }

    #[test]
    fn entries_are_moved_until_nothing_is_withheld() {
        let sample = Sample {
            counted: 700,
            held: 400,
            withheld: 300,
            ..SAMPLE
        };
        assert_eq!(sample.wanted(), 325);
    }

    /// Buffers of clients may exceed the limit. That is not the allocator's fault, and evicting more keys would not help.
    #[test]
    fn other_memory_over_the_limit_withholds_nothing() {
        let sample = Sample {
            counted: 3000,
            held: 90,
            ..SAMPLE
        };
        assert_eq!(sample.next_withheld(), 0);
    }
}
