//! Settings that may change while the engine runs.

use std::sync::atomic::{
    AtomicBool, AtomicI64, AtomicU8, AtomicU32, AtomicUsize, Ordering::Relaxed,
};

use damselfly_value::Thresholds;

use crate::key::Now;
use crate::shard::access::AccessPolicy;

const RECENCY: u8 = 0;
const FREQUENCY: u8 = 1;
const LEARNED: u8 = 2;

/// Settings that may change while the engine runs: read by every thread, written by CONFIG SET.
#[derive(Debug)]
pub struct Settings {
    /// True while the background sweep is off (DEBUG SET-ACTIVE-EXPIRE 0).
    pub sweep_paused: AtomicBool,
    /// True on a replica: what has expired is not visible, but stays until the primary removes it.
    pub leaves_expired: AtomicBool,
    /// Until then, in milliseconds since the epoch, clients are paused: what has expired is not visible, but stays.
    pub paused_until_ms: AtomicI64,
    /// See [`Engine::set_notes_local_deadlines`](crate::Engine::set_notes_local_deadlines).
    pub(crate) notes_local_deadlines: AtomicBool,
    /// `proto-max-bulk-len`: the longest string that a command may create, in bytes.
    pub bulk_bytes_max: AtomicUsize,
    /// `memcached-max-item-size`: the largest item of a memcached client, in bytes.
    pub item_bytes_max: AtomicUsize,
    /// `lazyfree-lazy-user-flush`: FLUSHALL and FLUSHDB free memory in the background unless they say otherwise.
    pub flushes_later: AtomicBool,
    /// `ttl-rounding`: long deadlines are rounded to seconds, and limited to a year.
    pub ttl_rounding: AtomicBool,
    /// The sizes beyond which collections leave their packed forms.
    pub thresholds: Thresholds,
    /// `hll-sparse-max-bytes`: longer HyperLogLogs are dense.
    pub sparse_log_bytes_max: AtomicUsize,
    /// Strings in DUMP payloads are compressed.
    pub compresses_dumps: AtomicBool,
    /// `tracking-table-max-keys`: the most keys that are tracked; zero for no limit.
    pub tracked_keys_max: AtomicUsize,
    /// `lazyfree-lazy-expire`: the log says UNLINK, not DEL, for keys that expire.
    pub unlinks_expired: AtomicBool,
    /// `lazyfree-lazy-eviction`: the same for keys that are evicted.
    pub unlinks_evicted: AtomicBool,
    /// `lazyfree-lazy-user-del`: the same for keys that commands remove.
    pub unlinks_removed: AtomicBool,
    /// The kind of access policy: `RECENCY`, `FREQUENCY` or `LEARNED`.
    access: AtomicU8,
    log_factor: AtomicU32,
    decay_minutes: AtomicU32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            sweep_paused: AtomicBool::new(false),
            leaves_expired: AtomicBool::new(false),
            paused_until_ms: AtomicI64::new(0),
            notes_local_deadlines: AtomicBool::new(false),
            bulk_bytes_max: AtomicUsize::new(512 << 20),
            item_bytes_max: AtomicUsize::new(1 << 20),
            flushes_later: AtomicBool::new(false),
            ttl_rounding: AtomicBool::new(false),
            thresholds: Thresholds::default(),
            sparse_log_bytes_max: AtomicUsize::new(3000),
            compresses_dumps: AtomicBool::new(true),
            tracked_keys_max: AtomicUsize::new(0),
            unlinks_expired: AtomicBool::new(false),
            unlinks_evicted: AtomicBool::new(false),
            unlinks_removed: AtomicBool::new(false),
            access: AtomicU8::new(RECENCY),
            log_factor: AtomicU32::new(10),
            decay_minutes: AtomicU32::new(1),
        }
    }
}

impl Settings {
    /// True while clients are paused, so that no data may change.
    pub fn is_paused(&self, now: Now) -> bool {
        self.paused_until_ms.load(Relaxed) > now.0
    }

    /// True if what has expired is not removed now.
    pub(crate) fn leaves_expired(&self, now: Now) -> bool {
        self.leaves_expired.load(Relaxed) || self.is_paused(now)
    }

    /// How the log says that a key has expired.
    pub fn name_of_expiry(&self) -> &'static [u8] {
        name_of_removal(&self.unlinks_expired)
    }

    /// How the log says that a key was evicted.
    pub fn name_of_eviction(&self) -> &'static [u8] {
        name_of_removal(&self.unlinks_evicted)
    }

    /// How the log says that a command has removed a key, if it is not a command that does only that.
    pub fn name_of_removal(&self) -> &'static [u8] {
        name_of_removal(&self.unlinks_removed)
    }

    /// The kind of access data to record.
    #[inline]
    pub fn access_policy(&self) -> AccessPolicy {
        match self.access.load(Relaxed) {
            RECENCY => AccessPolicy::Recency,
            LEARNED => AccessPolicy::Learned,
            _ => AccessPolicy::Frequency {
                log_factor: self.log_factor.load(Relaxed),
                decay_minutes: self.decay_minutes.load(Relaxed),
            },
        }
    }

    /// Changes what the access bits record.
    pub fn set_access_policy(&self, policy: AccessPolicy) {
        match policy {
            AccessPolicy::Recency => self.access.store(RECENCY, Relaxed),
            AccessPolicy::Learned => self.access.store(LEARNED, Relaxed),
            AccessPolicy::Frequency {
                log_factor,
                decay_minutes,
            } => {
                self.log_factor.store(log_factor, Relaxed);
                self.decay_minutes.store(decay_minutes, Relaxed);
                self.access.store(FREQUENCY, Relaxed);
            }
        }
    }
}

fn name_of_removal(unlinks: &AtomicBool) -> &'static [u8] {
    match unlinks.load(Relaxed) {
        true => b"UNLINK",
        false => b"DEL",
    }
}
