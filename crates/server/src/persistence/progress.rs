//! How far loading is: for INFO and the log.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use damselfly_engine::Now;

use crate::clock;

/// How often the log says how far loading is.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// What a file says about the replication stream that follows it.
#[derive(Debug, Default)]
struct StreamFacts {
    id: Option<String>,
    offset: Option<u64>,
    db: usize,
}

/// How far loading is, or how the last one ended. Any thread may read it.
#[derive(Debug, Default)]
pub struct LoadProgress {
    /// When it began, in milliseconds since the epoch. Keys that had expired then are dropped.
    started_ms: AtomicI64,
    /// The size of the source; 0 if it is unknown.
    total_bytes: AtomicU64,
    loaded_bytes: AtomicU64,
    /// The memory that the writer of the file used, as the file says; 0 if it does not.
    used_memory: AtomicU64,
    keys_loaded: AtomicU64,
    keys_expired: AtomicU64,
    next_log: Mutex<Option<Instant>>,
    stream: Mutex<StreamFacts>,
    /// Expired keys are loaded, too: what follows the file may give them another deadline.
    keeps_expired: AtomicBool,
    /// Expired keys that were not loaded, if somebody wants them.
    expired: Mutex<Option<ExpiredKeys>>,
}

/// Expired keys that were not loaded, up to a number of bytes.
#[derive(Debug, Default)]
struct ExpiredKeys {
    keys: Vec<(usize, Box<[u8]>)>,
    /// How many bytes may be added.
    bytes_left: u64,
    is_incomplete: bool,
}

impl LoadProgress {
    /// Begins to load a source of this size; 0 if it is unknown.
    pub fn begin(&self, total_bytes: u64) {
        self.started_ms.store(clock::now_ms(), Relaxed);
        self.total_bytes.store(total_bytes, Relaxed);
        for counter in [
            &self.loaded_bytes,
            &self.used_memory,
            &self.keys_loaded,
            &self.keys_expired,
        ] {
            counter.store(0, Relaxed);
        }
        *self.stream() = StreamFacts::default();
        self.set_next_log();
    }

    fn stream(&self) -> MutexGuard<'_, StreamFacts> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The replication id and the offset that the data has, if the file says so.
    pub fn history(&self) -> Option<(String, u64)> {
        let stream = self.stream();
        stream.id.clone().zip(stream.offset)
    }

    /// The database that the stream after the file has selected.
    pub fn stream_db(&self) -> usize {
        self.stream().db
    }

    /// Sets whether expired keys are loaded, too.
    pub fn keep_expired(&self, keeps: bool) {
        self.keeps_expired.store(keeps, Relaxed);
    }

    fn expired(&self) -> MutexGuard<'_, Option<ExpiredKeys>> {
        self.expired.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Collects the expired keys that are not loaded from now on, at most so many bytes of them.
    pub fn collect_expired(&self, bytes_max: u64) {
        *self.expired() = Some(ExpiredKeys {
            bytes_left: bytes_max,
            ..ExpiredKeys::default()
        });
    }

    /// Notes an expired key that is not loaded.
    pub(super) fn note_expired(&self, db: usize, key: &[u8]) {
        let mut slot = self.expired();
        let Some(expired) = &mut *slot else {
            return;
        };
        match expired.bytes_left.checked_sub(key.len() as u64) {
            Some(left) if !expired.is_incomplete => {
                expired.bytes_left = left;
                expired.keys.push((db, key.into()));
            }
            Some(_) | None => {
                expired.is_incomplete = true;
                expired.keys = Vec::new();
            }
        }
    }

    /// The databases and names of the keys that were collected, and stops collecting. `None` if there were too many.
    pub fn take_expired(&self) -> Option<Vec<(usize, Box<[u8]>)>> {
        let expired = self.expired().take().unwrap_or_default();
        (!expired.is_incomplete).then_some(expired.keys)
    }

    /// Keys whose deadline is up to this moment are dropped.
    pub fn expiry_time(&self) -> Now {
        match self.keeps_expired.load(Relaxed) {
            true => Now(i64::MIN),
            false => self.now(),
        }
    }

    fn set_next_log(&self) {
        let mut next = self.next_log.lock().unwrap_or_else(PoisonError::into_inner);
        *next = Some(Instant::now() + LOG_INTERVAL);
    }

    /// The time that counts for the expiry of loaded keys: when loading began.
    pub fn now(&self) -> Now {
        Now(self.started_ms.load(Relaxed))
    }

    /// When it began, in seconds since the epoch.
    pub fn started_s(&self) -> i64 {
        self.started_ms.load(Relaxed) / 1000
    }

    /// The size of the source; 0 if it is unknown.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes.load(Relaxed)
    }

    /// How many bytes are left to read, as far as that is known.
    pub fn left_bytes(&self) -> u64 {
        self.total_bytes().saturating_sub(self.loaded_bytes())
    }

    /// How many bytes were read.
    pub fn loaded_bytes(&self) -> u64 {
        self.loaded_bytes.load(Relaxed)
    }

    /// The memory that the writer of the file used.
    pub fn used_memory(&self) -> u64 {
        self.used_memory.load(Relaxed)
    }

    /// How many keys were stored.
    pub fn keys_loaded(&self) -> u64 {
        self.keys_loaded.load(Relaxed)
    }

    /// How many keys were dropped because they had expired.
    pub fn keys_expired(&self) -> u64 {
        self.keys_expired.load(Relaxed)
    }

    /// Counts bytes that were read.
    pub fn add_bytes(&self, bytes: u64) {
        self.loaded_bytes.fetch_add(bytes, Relaxed);
    }

    /// Counts keys that were stored, or dropped because they had expired.
    pub fn add_keys(&self, loaded: u64, expired: u64) {
        self.keys_loaded.fetch_add(loaded, Relaxed);
        self.keys_expired.fetch_add(expired, Relaxed);
    }

    /// How much was read, in percent. As in Redis, it is estimated from the memory that the writer used if the size is unknown.
    pub fn percent(&self) -> f64 {
        let loaded = self.loaded_bytes() as f64;
        match (self.total_bytes(), self.used_memory()) {
            (0, 0) => 0.0,
            (0, used) => (loaded / used as f64 * 100.0).min(99.99),
            (total, _) => loaded / total as f64 * 100.0,
        }
    }

    /// How many seconds it will still take at this speed; 1 if that is unknown, as in Redis.
    pub fn eta_s(&self, now: Now) -> i64 {
        let left = match (self.total_bytes(), self.used_memory()) {
            (0, 0) => 1,
            (0, used) => used.saturating_sub(self.loaded_bytes()).max(1),
            (total, _) => total.saturating_sub(self.loaded_bytes()),
        };
        let elapsed_s = now.0 / 1000 - self.started_s();
        if elapsed_s <= 0 {
            return 1;
        }
        let seconds =
            i128::from(elapsed_s) * i128::from(left) / i128::from(self.loaded_bytes() + 1);
        i64::try_from(seconds).unwrap_or(i64::MAX)
    }

    /// Logs how far it is, about once a second.
    pub fn log_if_due(&self) {
        let mut next = self.next_log.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if next.is_none_or(|next| now < next) {
            return;
        }
        *next = Some(now + LOG_INTERVAL);
        drop(next);
        let megabytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let of_total = match self.total_bytes() {
            0 => String::new(),
            total => format!(" of {:.1} MB ({:.1}%)", megabytes(total), self.percent()),
        };
        log::info!(
            "Loading: {:.1}{of_total}, {} keys, about {} seconds left",
            megabytes(self.loaded_bytes()),
            self.keys_loaded(),
            self.eta_s(Now(clock::now_ms()))
        );
    }

    /// Notes a metadata field of the file, and logs it as Redis does.
    pub fn note_aux(&self, name: &[u8], value: &[u8]) {
        let number = || damselfly_base::number::parse_integer(value);
        match name {
            b"redis-ver" | b"valkey-ver" => {
                log::info!("Loading RDB produced by version {}", value.escape_ascii());
            }
            b"ctime" => {
                if let Some(created_s) = number() {
                    let age_s = clock::now_ms() / 1000 - created_s;
                    log::info!("RDB age {} seconds", age_s.max(0));
                }
            }
            b"repl-id" => {
                let id = std::str::from_utf8(value).ok();
                self.stream().id = id
                    .filter(|id| {
                        id.len() == 40 && id.bytes().all(|byte| byte.is_ascii_alphanumeric())
                    })
                    .map(str::to_owned);
            }
            b"repl-offset" => {
                self.stream().offset = number().and_then(|offset| u64::try_from(offset).ok());
            }
            b"repl-stream-db" => {
                let db = number().and_then(|db| usize::try_from(db).ok());
                self.stream().db = db.unwrap_or(0);
            }
            b"used-mem" => {
                if let Some(used) = number().and_then(|used| u64::try_from(used).ok()) {
                    self.used_memory.store(used, Relaxed);
                    let megabytes = used as f64 / f64::from(1 << 20);
                    log::info!("RDB memory usage when created {megabytes:.2} Mb");
                }
            }
            _ => log::debug!(
                "RDB metadata {}: {}",
                name.escape_ascii(),
                value.escape_ascii()
            ),
        }
    }
}
