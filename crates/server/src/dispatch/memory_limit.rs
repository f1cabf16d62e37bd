//! `maxmemory`: checking whether there is room in memory, and evicting keys until there is.
//!
//! Keys are evicted before a command that may need memory, while it holds no lock, and from time to time by every thread. So no
//! command loses keys in the middle of its work. Memory that is freed in the background counts as free already.
//!
//! ```text
//!   0 ──────── at startup ── 2 MiB ────────────── half of the rest ──────────────── maxmemory
//!   |  always other memory        |  only entries   |  entries, or other memory in their place |
//! ```
//!
//! What the allocator holds besides counts only if it is more than usual: then a part of `maxmemory` is withheld (`resident_memory/`).
//!
//! Only entries can be evicted. Other memory, such as buffers of clients and functions, takes the place of entries, but leaves them
//! at least [`protected_bytes`]: beyond that, evicting would empty the cache without making enough room.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use damselfly_base::heap;
use damselfly_engine::{Evicted, Eviction, Now, Objective, Order, garbage};

use super::Dispatcher;
use crate::clock;
use crate::persistence::save_memory;
use crate::shared::Shared;
use damselfly_config::{CacheObjective, ClientMemory, Config, MaxmemoryPolicy};

/// A thread that had room computes the memory of all threads again only after it has allocated this much more, because that reads
/// memory to which all threads write.
const ROOM_KEPT_BYTES: i64 = 1024;

/// Memory that a server normally uses for other things than entries, in addition to its memory at startup: tables, a few
/// connections.
const OVERHEAD_BYTES: u64 = 2 << 20;

/// How many keys are compared for each of `maxmemory-samples`. More than one makes up for the pool of earlier samples that Redis has.
const KEYS_PER_SAMPLE: usize = 2;

/// How long a command may wait while keys are evicted only because a part of the limit is withheld, unless that is urgent.
const WITHHELD_BUDGET: Duration = Duration::from_micros(100);

/// It is urgent if so much is in use and withheld: this part of `maxmemory`.
const WITHHELD_URGENT_DIVISOR: u64 = 64;

/// How many keys are evicted between two checks of the clock.
const KEYS_PER_CLOCK_CHECK: usize = 16;

/// Whether there is room in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryRoom {
    /// There is room.
    Enough,
    /// There is none, but eviction is making some.
    Soon,
    /// There is none, and no key may be evicted.
    None,
}

/// A thread's view of the memory limit.
#[derive(Default)]
pub(super) struct Memory {
    /// There is room until this thread has allocated this many bytes; `None` if that is not known.
    enough_until: Option<i64>,
    /// The shard from which a key is evicted next.
    shard: usize,
    /// Keys were evicted, which may have caused events and invalidations.
    pub(super) has_evicted: bool,
    /// The last command that needed memory found [`MemoryRoom::None`].
    pub(super) is_short: bool,
}

impl Dispatcher {
    /// Evicts keys if `maxmemory` is exceeded, for a bounded time.
    #[inline]
    pub fn make_room(&mut self) -> MemoryRoom {
        match self.has_room() {
            true => MemoryRoom::Enough,
            false => self.make_room_now(),
        }
    }

    /// True if there is enough memory for the next command, as far as this thread knows without a closer look.
    #[inline]
    pub(super) fn has_room(&mut self) -> bool {
        if self.config.maxmemory_bytes == 0 {
            return true;
        }
        let bytes = heap::thread_bytes();
        match &mut self.memory.enough_until {
            Some(until) if bytes < *until => {
                // Memory that this thread frees may be used by other threads at once, so it does not raise the limit.
                *until = (*until).min(bytes + ROOM_KEPT_BYTES);
                true
            }
            Some(_) | None => false,
        }
    }

    /// Forgets that there was room, because other threads may have used it up.
    pub fn forget_room(&mut self) {
        self.memory.enough_until = None;
    }

    fn make_room_now(&mut self) -> MemoryRoom {
        if self.shared.gate.is_loading() {
            // The file is loaded as a whole; what is too much is evicted afterwards.
            return MemoryRoom::Enough;
        }
        if self.config.replica_ignore_maxmemory && self.shared.replication.is_replica() {
            // The primary evicts, and this server follows.
            return MemoryRoom::Enough;
        }
        let mut excess = self.excess();
        if excess.bytes() == 0 {
            return self.note_room();
        }
        self.memory.enough_until = None;
        let (started, now) = (Instant::now(), Now(clock::now_ms()));
        if self.shared.engine.settings.is_paused(now) {
            // No data may change.
            return MemoryRoom::Enough;
        }
        if self.clients_make_room() {
            return MemoryRoom::Soon;
        }
        let Some(eviction) = eviction(&self.config) else {
            return MemoryRoom::None;
        };
        let budget = budget(self.config.maxmemory_eviction_tenacity);
        let room = loop {
            match self.evict_some(excess.bytes(), &eviction, now) {
                Err(MemoryRoom::None) if excess.used == 0 => {
                    // The allocator's memory costs keys, but no writes.
                    self.shared.resident_memory.withhold_nothing();
                    break self.note_room();
                }
                Err(room) => break room,
                Ok(()) => {}
            }
            excess = self.excess();
            if excess.bytes() == 0 {
                break MemoryRoom::Enough;
            }
            let budget = if excess.is_urgent(&self.config) {
                budget
            } else {
                Some(budget.map_or(WITHHELD_BUDGET, |budget| budget.min(WITHHELD_BUDGET)))
            };
            if budget.is_some_and(|budget| started.elapsed() >= budget) {
                break MemoryRoom::Soon;
            }
        };
        self.shared.latency.add_if_slow(
            "eviction-cycle",
            now.0 / 1000,
            started.elapsed(),
            self.config.latency_monitor_threshold_ms,
        );
        room
    }

    /// Notes that there is room for a while.
    fn note_room(&mut self) -> MemoryRoom {
        self.memory.enough_until = Some(heap::thread_bytes() + ROOM_KEPT_BYTES);
        MemoryRoom::Enough
    }

    fn excess(&self) -> Excess {
        excess(&self.config, &self.shared)
    }

    /// With `maxmemory-clients`, evicts clients before keys. True if some are about to be closed.
    fn clients_make_room(&self) -> bool {
        let clients = &self.shared.clients;
        if self.config.maxmemory_clients == ClientMemory::Bytes(0) {
            return false;
        }
        let evicted = clients.evict_if_due(&self.config, &self.shared.threads);
        self.counters().clients_evicted.add(evicted);
        clients.has_unclosed_evictions()
    }

    /// Evicts some keys, no more than needed to free `bytes` bytes.
    ///
    /// # Errors
    /// No key can be evicted: for now, if a shard is busy, or at all.
    fn evict_some(&mut self, bytes: u64, eviction: &Eviction, now: Now) -> Result<(), MemoryRoom> {
        let engine = &self.shared.engine;
        let counters = &self.shared.threads[self.thread].counters;
        let (mut freed, mut keys, mut in_vain, mut any_busy) = (0, 0, 0, false);
        while freed < bytes && keys < KEYS_PER_CLOCK_CHECK {
            match engine.evict(self.memory.shard, eviction, now) {
                Ok(Evicted::One { bytes, is_refused }) => {
                    counters.keys_evicted.add(1);
                    counters.keys_refused.add(is_refused.into());
                    self.memory.has_evicted = true;
                    freed += bytes as u64;
                    keys += 1;
                    in_vain = 0;
                }
                Ok(Evicted::NoneYet) => {
                    keys += 1;
                    in_vain = 0;
                }
                Ok(Evicted::Nothing) => in_vain += 1,
                Err(_) => {
                    in_vain += 1;
                    any_busy = true;
                }
            }
            self.memory.shard = (self.memory.shard + 1) % engine.shards();
            if in_vain == engine.shards() {
                return Err(if any_busy {
                    MemoryRoom::Soon
                } else {
                    MemoryRoom::None
                });
            }
        }
        Ok(())
    }
}

/// How many bytes must be freed.
#[derive(Clone, Copy, Default)]
struct Excess {
    /// Because memory use is over the limit: writes are refused if no key can be evicted.
    used: u64,
    /// In addition, because a part of the limit is withheld.
    withheld: u64,
}

impl Excess {
    fn bytes(self) -> u64 {
        self.used + self.withheld
    }

    /// True if memory use is over the limit, or much is withheld that is still in use.
    fn is_urgent(self, config: &Config) -> bool {
        self.used > 0 || self.withheld > config.maxmemory_bytes / WITHHELD_URGENT_DIVISOR
    }
}

/// How many bytes must be freed.
fn excess(config: &Config, shared: &Shared) -> Excess {
    let counted = counted_bytes(shared);
    let limit = config.maxmemory_bytes;
    let used = counted.saturating_sub(limit);
    if !evicts(config) {
        return Excess { used, withheld: 0 };
    }
    let withheld = shared.resident_memory.withheld_bytes();
    let withheld = (counted + withheld).saturating_sub(limit).min(withheld);
    if used == 0 && withheld == 0 {
        return Excess::default();
    }
    let (data, protected) = (heap::data_bytes() as u64, protected_bytes(config, shared));
    let used = used.min(data.saturating_sub(protected));
    // What the allocator holds can become free again if entries are evicted, so it may cost more of them than other memory may.
    let withheld = withheld.min(data.saturating_sub(used + protected / 2));
    Excess { used, withheld }
}

/// True if memory use is over `maxmemory`.
pub fn is_over_limit(config: &Config, shared: &Shared) -> bool {
    config.maxmemory_bytes > 0 && excess(config, shared).used > 0
}

/// The bytes in use that count towards `maxmemory`.
pub fn counted_bytes(shared: &Shared) -> u64 {
    let used = heap::used_bytes().saturating_sub(garbage::pending_bytes()) as u64;
    used.saturating_sub(background_bytes(shared))
}

/// The memory of saves, and of what is logged and not yet written or sent. Saves, replication and an append-only file must not cost keys;
/// other limits bound what they take.
pub fn background_bytes(shared: &Shared) -> u64 {
    let log = shared.engine.log.buffer_bytes() + shared.aof.queued_bytes();
    (log + save_memory::bytes()) as u64 + shared.replication.extra_bytes()
}

/// How many bytes of entries are never evicted to make room for other memory.
fn protected_bytes(config: &Config, shared: &Shared) -> u64 {
    let always = shared.startup_bytes.load(Relaxed) as u64 + OVERHEAD_BYTES;
    config.maxmemory_bytes.saturating_sub(always) / 2
}

/// How many of the bytes in use do not count towards `maxmemory` now.
pub fn uncounted_bytes(config: &Config, shared: &Shared) -> u64 {
    let mut uncounted = garbage::pending_bytes() as u64 + background_bytes(shared);
    if config.maxmemory_bytes > 0 && evicts(config) {
        let data = heap::data_bytes() as u64;
        let other = (heap::used_bytes() as u64).saturating_sub(uncounted + data);
        let counted = config.maxmemory_bytes - protected_bytes(config, shared);
        uncounted += other.saturating_sub(counted);
    }
    uncounted
}

/// True if keys may be evicted.
pub fn evicts(config: &Config) -> bool {
    config.cache_mode || config.maxmemory_policy != MaxmemoryPolicy::Noeviction
}

/// Which keys may be evicted, and in which order; `None` if none may.
fn eviction(config: &Config) -> Option<Eviction> {
    use MaxmemoryPolicy::*;
    let learned = Order::Learned(match config.cache_mode_objective {
        CacheObjective::Requests => Objective::Hits,
        CacheObjective::Bytes => Objective::BytesOfHits,
    });
    let (only_with_deadline, order) = match config.maxmemory_policy {
        VolatileLru | VolatileLfu | VolatileTtl | VolatileRandom if config.cache_mode => {
            (true, learned)
        }
        Noeviction | AllkeysLru | AllkeysLfu | AllkeysRandom if config.cache_mode => {
            (false, learned)
        }
        Noeviction => return None,
        AllkeysLru => (false, Order::LeastRecent),
        AllkeysLfu => (false, Order::LeastFrequent),
        AllkeysRandom => (false, Order::Random),
        VolatileLru => (true, Order::LeastRecent),
        VolatileLfu => (true, Order::LeastFrequent),
        VolatileTtl => (true, Order::SoonestExpiry),
        VolatileRandom => (true, Order::Random),
    };
    Some(Eviction {
        only_with_deadline,
        order,
        samples: match order {
            Order::Random | Order::Learned(_) => 1,
            Order::LeastRecent | Order::LeastFrequent | Order::SoonestExpiry => {
                config.maxmemory_samples as usize * KEYS_PER_SAMPLE
            }
        },
    })
}

/// How long a command may wait while keys are evicted: half a millisecond by default, as in Redis. `None` means as long as
/// necessary.
fn budget(tenacity: u32) -> Option<Duration> {
    let us = match tenacity {
        0..=10 => f64::from(tenacity) * 50.0,
        11..=99 => 500.0 * 1.15_f64.powf(f64::from(tenacity) - 10.0),
        _ => return None,
    };
    Some(Duration::from_secs_f64(us / 1e6))
}
