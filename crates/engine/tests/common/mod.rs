//! Threads that run atomic sections as the server's do: one that finds a shard busy asks to be woken and sleeps.
#![allow(dead_code, reason = "each test uses a part")]

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use damselfly_engine::{Busy, Deadline, Engine, Key, Layout, Now, Tx, Wake};
use damselfly_value::{NewValue, Text};

/// A longer sleep means that a wake-up was lost: nothing in these tests takes nearly as long.
pub fn sleep_max() -> Duration {
    Duration::from_secs(if damselfly_base::planted_bug("wakes") {
        1
    } else {
        30
    })
}

/// How long the threads of one arrangement run: short, since each test goes through several.
pub const RUN: Duration = Duration::from_millis(120);

/// Threads and shards: one shard for all, fewer shards than keys, more shards than keys.
pub const ARRANGEMENTS: &[(usize, usize)] = &[(2, 1), (4, 2), (3, 8), (8, 8), (4, 64)];

pub const NOW: Now = Now(1_000_000);

/// Wakes up one sleeping thread.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    rings: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.rung.lock().unwrap() = true;
        self.rings.notify_one();
    }

    fn sleep(&self) {
        let rung = self.rung.lock().unwrap();
        let (mut rung, timeout) = self
            .rings
            .wait_timeout_while(rung, sleep_max(), |rung| !*rung)
            .unwrap();
        assert!(!timeout.timed_out(), "a wake-up was lost");
        *rung = false;
    }
}

/// A barrier at which threads wait for one another. Unlike the standard library's, it has a timeout, because a thread that failed
/// never arrives.
pub struct Meeting {
    expected: usize,
    arrived: Mutex<usize>,
    complete: Condvar,
}

impl Meeting {
    pub fn new(expected: usize) -> Self {
        Self {
            expected,
            arrived: Mutex::new(0),
            complete: Condvar::new(),
        }
    }

    /// Returns when all expected threads have arrived; then the barrier can be used again.
    pub fn wait(&self) {
        let mut arrived = self.arrived.lock().unwrap();
        *arrived += 1;
        let end = arrived.next_multiple_of(self.expected);
        self.complete.notify_all();
        let (_arrived, timeout) = self
            .complete
            .wait_timeout_while(arrived, 2 * sleep_max(), |arrived| *arrived < end)
            .unwrap();
        assert!(!timeout.timed_out(), "a thread did not arrive");
    }
}

/// An engine and the threads that share it.
pub struct World {
    pub engine: Arc<Engine>,
    bells: Arc<Vec<Bell>>,
    pub threads: usize,
    /// How many threads have asked to be woken and sleep, or are about to.
    asleep: AtomicUsize,
}

impl World {
    /// An empty engine of two databases.
    pub fn new(threads: usize, shards: usize) -> Self {
        let engine = Engine::new(Layout {
            shards,
            databases: 2,
        });
        let bells: Arc<Vec<Bell>> = Arc::new((0..threads).map(|_| Bell::default()).collect());
        let wake = |thread: usize| -> Wake {
            let bells = Arc::clone(&bells);
            Box::new(move || bells[thread].ring())
        };
        engine.set_wakes((0..threads).map(wake).collect());
        Self {
            engine: Arc::new(engine),
            bells,
            threads,
            asleep: AtomicUsize::new(0),
        }
    }

    /// Waits until so many threads sleep, for a shard that the caller holds.
    pub fn until_asleep(&self, threads: usize) {
        let started = Instant::now();
        while self.asleep.load(SeqCst) < threads {
            assert!(started.elapsed() < sleep_max(), "no thread sleeps");
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    /// Runs `work` on every thread until all return. A panic of one fails the test.
    pub fn run(&self, work: impl Fn(&Worker<'_>) + Sync) {
        std::thread::scope(|scope| {
            for thread in 0..self.threads {
                let work = &work;
                scope.spawn(move || work(&self.worker(thread)));
            }
        });
    }

    pub fn worker(&self, thread: usize) -> Worker<'_> {
        Worker {
            world: self,
            thread,
            started: Instant::now(),
            slept: Cell::new(0),
        }
    }
}

/// One of the threads.
pub struct Worker<'a> {
    world: &'a World,
    pub thread: usize,
    started: Instant,
    /// How often the thread had to sleep.
    pub slept: Cell<usize>,
}

impl Worker<'_> {
    /// True until the run is over.
    pub fn has_time_left(&self) -> bool {
        self.started.elapsed() < RUN
    }

    /// A number from 0 to `end - 1`.
    pub fn below(&self, end: usize) -> usize {
        (damselfly_base::random::number() % end as u64) as usize
    }

    /// Two different numbers from 0 to `end - 1`.
    pub fn two_below(&self, end: usize) -> (usize, usize) {
        let first = self.below(end);
        (first, (first + 1 + self.below(end - 1)) % end)
    }

    /// Tries until it gets the locks. Between two tries it sleeps, unless the shard has become free.
    pub fn locked<T>(&self, mut attempt: impl FnMut() -> Result<T, Busy>) -> T {
        loop {
            let busy = match attempt() {
                Ok(done) => return done,
                Err(busy) => busy,
            };
            if !self.world.engine.wait(busy, self.thread) {
                self.slept.set(self.slept.get() + 1);
                self.world.asleep.fetch_add(1, SeqCst);
                self.world.bells[self.thread].sleep();
                self.world.asleep.fetch_sub(1, SeqCst);
            }
        }
    }

    /// Runs an atomic section over `keys`.
    pub fn with_keys<T>(
        &self,
        db: usize,
        keys: &[&str],
        mut section: impl FnMut(&mut Tx<'_>) -> T,
    ) -> T {
        let hashes = || keys.iter().map(|name| key(name).hash);
        let mut scratch = Vec::new();
        self.locked(|| {
            let mut tx = self
                .world
                .engine
                .lock_many(hashes(), &mut scratch, db, NOW)?;
            Ok(section(&mut tx))
        })
    }

    /// Runs an atomic section over all shards.
    pub fn with_all<T>(&self, db: usize, mut section: impl FnMut(&mut Tx<'_>) -> T) -> T {
        self.locked(|| Ok(section(&mut self.world.engine.lock_all(db, NOW)?)))
    }

    /// Now and then lets other threads run in the middle of a section, so that they find the locks taken.
    pub fn sometimes_yield(&self) {
        if self.below(16) == 0 {
            std::thread::yield_now();
        }
    }
}

pub fn key(name: &str) -> Key<'_> {
    Key::new(name.as_bytes())
}

/// The number stored under a key.
pub fn number(tx: &mut Tx<'_>, name: &str) -> Option<i64> {
    tx.read(key(name)).map(|entry| match entry.text() {
        Some(Text::Integer(number)) => number,
        other => panic!("{name} holds {other:?}"),
    })
}

pub fn set_number(tx: &mut Tx<'_>, name: &str, number: i64) {
    tx.store(key(name), NewValue::Integer(number), Deadline::Clear);
}
