//! The state that all threads share: the engine, the configuration, and one field per facility of the server.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use damselfly_engine::{AccessPolicy, Engine, EventMask, Now};

use crate::admin::latency::LatencyMonitor;
use crate::admin::pause::Pause;
use crate::admin::slowlog::Slowlog;
use crate::clients::Clients;
use crate::clock::now_ms;
use crate::event_loop::acceptor::Acceptor;
use crate::gate::Gate;
use crate::log_thread::LogThread;
use crate::long_commands::LongCommands;
use crate::memcached::MemcachedState;
use crate::migrate::Migrations;
use crate::observers::invalidation::Tracking;
use crate::persistence::aof::Aof;
use crate::persistence::{Loading, Persistence};
use crate::replication::Replication;
use crate::resident_memory::ResidentMemory;
use crate::scripts::Scripts;
use crate::scripts::function_libraries::Functions;
use crate::statistics::ThreadCounters;
use crate::threads::Thread;
use crate::tls::Tls;
use crate::users::Users;
use damselfly_config::{Config, MaxmemoryPolicy};
use damselfly_pubsub::PubSub;

/// The most tracked keys dropped per tick when `tracking-table-max-keys` was lowered below their number.
pub const TRACKED_PER_TICK: usize = 10_000;

/// The state that all threads share.
pub struct Shared {
    /// The data.
    pub engine: Arc<Engine>,
    /// The connections.
    pub clients: Clients,
    /// The users.
    pub users: Users,
    /// The threads.
    pub threads: Vec<Thread>,
    config: Mutex<Arc<Config>>,
    /// Grows with every change of the configuration. Threads compare it with the generation of their snapshot.
    config_generation: AtomicU64,
    /// The configuration file, for CONFIG REWRITE.
    pub config_file: Option<PathBuf>,
    /// The path of the running program.
    pub executable: String,
    /// Random, different for every start; 40 hexadecimal digits.
    pub run_id: String,
    /// When the process started, in milliseconds since the epoch.
    pub started_ms: i64,
    /// The same by a monotonic clock.
    started: Instant,
    /// The listening sockets.
    pub acceptor: OnceLock<Acceptor>,
    /// Encryption.
    pub tls: Tls,
    /// Why commands are refused at this moment.
    pub gate: Gate,
    /// Loading a file.
    pub loading: Loading,
    /// Set when the server shall stop.
    pub stopping: AtomicBool,
    /// Set when the server is about to save its data and stop.
    pub ending: AtomicBool,
    /// How many clients use MONITOR.
    pub monitors: AtomicUsize,
    /// Subscriptions.
    pub pubsub: PubSub,
    /// The clients that track keys.
    pub tracking: Arc<Tracking>,
    /// Libraries of functions.
    pub functions: Functions,
    /// What all memcached clients share.
    pub memcached: MemcachedState,
    /// Long commands, and the threads that run them.
    pub long: LongCommands,
    /// Keys on their way to other servers.
    pub migrations: Migrations,
    /// Scripts.
    pub scripts: Scripts,
    /// CLIENT PAUSE.
    pub pause: Pause,
    /// SLOWLOG.
    pub slowlog: Slowlog,
    /// LATENCY.
    pub latency: LatencyMonitor,
    /// The peak of memory use, in bytes.
    pub peak_bytes: AtomicUsize,
    /// The part of `maxmemory` that the allocator uses up.
    pub resident_memory: ResidentMemory,
    /// For how long memory use exceeded `maxmemory`.
    pub over_limit: OverLimit,
    /// Memory in use when the server was ready, in bytes.
    pub startup_bytes: AtomicUsize,
    /// Commands per second and bytes per second, sampled.
    pub rates: Mutex<Rates>,
    /// What was saved and is being saved.
    pub persistence: Persistence,
    /// The merge of the log, and its consumers.
    pub log: LogThread,
    /// The append-only file.
    pub aof: Arc<Aof>,
    /// Replicas, and the primary if this is one.
    pub replication: Arc<Replication>,
}

/// Rates over the last samples, as INFO shows them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rates {
    /// Commands per second.
    pub commands: f64,
    /// Bytes read per second.
    pub input_bytes: f64,
    /// Bytes written per second.
    pub output_bytes: f64,
    /// Turns of event loops per second.
    pub turns: f64,
    /// The mean time of a turn, in microseconds.
    pub turn_us: f64,
}

impl Shared {
    /// The shared state of a server with this configuration, which also sets up the engine.
    pub fn new(
        engine: Arc<Engine>,
        threads: Vec<Thread>,
        config: Config,
        config_file: Option<PathBuf>,
        users: Users,
    ) -> Self {
        let pubsub = PubSub::new(threads.len());
        let tracking = Arc::new(Tracking::new(threads.len()));
        apply(&engine, &pubsub, &config);
        let replication = Arc::<Replication>::default();
        replication.apply(&config);
        Self {
            pubsub,
            tracking,
            clients: Clients::default(),
            users,
            threads,
            config: Mutex::new(Arc::new(config)),
            config_generation: AtomicU64::new(1),
            config_file,
            executable: std::env::current_exe()
                .map(|path| path.display().to_string())
                .unwrap_or_default(),
            run_id: random_hex(),
            started_ms: now_ms(),
            started: Instant::now(),
            acceptor: OnceLock::new(),
            tls: Tls::default(),
            gate: Gate::default(),
            loading: Loading::default(),
            stopping: AtomicBool::new(false),
            ending: AtomicBool::new(false),
            monitors: AtomicUsize::new(0),
            functions: Functions::default(),
            memcached: MemcachedState::default(),
            long: LongCommands::default(),
            migrations: Migrations::default(),
            scripts: Scripts::default(),
            pause: Pause::new(engine.clone()),
            engine,
            slowlog: Slowlog::default(),
            latency: LatencyMonitor::default(),
            peak_bytes: AtomicUsize::new(0),
            resident_memory: ResidentMemory::default(),
            over_limit: OverLimit::default(),
            startup_bytes: AtomicUsize::new(0),
            rates: Mutex::new(Rates::default()),
            persistence: Persistence::default(),
            log: LogThread::default(),
            aof: Arc::default(),
            replication,
        }
    }

    fn config_slot(&self) -> MutexGuard<'_, Arc<Config>> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The current configuration.
    pub fn config(&self) -> Arc<Config> {
        self.config_slot().clone()
    }

    /// A number that changes with the configuration.
    #[inline]
    pub fn config_generation(&self) -> u64 {
        self.config_generation.load(Relaxed)
    }

    /// Puts the configuration that `change` makes from the current one in force. If `change` fails, nothing changes.
    pub fn change_config<E>(
        &self,
        change: impl FnOnce(&Config) -> Result<Config, E>,
    ) -> Result<(), E> {
        let mut slot = self.config_slot();
        let config = change(&slot)?;
        note_low_limit(slot.maxmemory_bytes, &config);
        if !slot.cache_mode || slot.maxmemory_bytes > 0 {
            note_missing_limit(&config);
        }
        apply(&self.engine, &self.pubsub, &config);
        if slot.cache_mode && !config.cache_mode {
            self.engine.forget_evicted(Now(now_ms()));
        }
        self.persistence.apply(&self.gate, &config);
        self.users.apply_config(&slot, &config);
        self.aof.apply(&config);
        self.replication.apply(&config);
        self.replication.check_good_replicas(self, &config);
        let is_replica = self.replication.is_replica();
        self.replication.link.apply(self, is_replica, &config);
        *slot = Arc::new(config);
        self.config_generation.fetch_add(1, Relaxed);
        drop(slot);
        self.engine.drop_excess_tracked(TRACKED_PER_TICK);
        Ok(())
    }

    /// Refuses writes, or allows them again, after a save has ended.
    pub fn apply_save_state(&self) {
        self.persistence.apply(&self.gate, &self.config_slot());
    }

    /// Refuses commands of a replica, or allows them again, after its role or its link has changed.
    pub fn apply_link_state(&self) {
        let (slot, is_replica) = (self.config_slot(), self.replication.is_replica());
        self.replication.link.apply(self, is_replica, &slot);
    }

    /// Passes the configuration on to another engine.
    pub fn apply_settings(&self, engine: &Engine) {
        apply(engine, &self.pubsub, &self.config());
    }

    /// Makes all threads stop soon, so that the process ends cleanly. A save in progress is given up.
    pub fn stop(&self) {
        self.stopping.store(true, Relaxed);
        self.persistence.give_up();
        self.threads.iter().for_each(Thread::wake);
        self.long.wake_all();
        self.replication.link.interrupt();
        if let Some(acceptor) = self.acceptor.get() {
            acceptor.wake();
        }
        for handshaker in self.tls.handshakers.get().into_iter().flatten() {
            handshaker.wake();
        }
    }

    /// Milliseconds since the start of the server.
    pub fn uptime_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// True while senders on thread `from` must wait, because too many messages are on their way to thread `to`. Nobody waits for a
    /// stuck thread: messages beyond its limit are dropped, and its subscribers are disconnected.
    pub fn is_congested(&self, from: usize, to: usize) -> bool {
        self.pubsub.is_congested(from, to) && !self.threads[to].is_stuck(self.uptime_ms())
    }

    /// Records that a thread has taken a turn.
    pub fn note_turn(&self, thread: usize, now: Instant) {
        let uptime = now.saturating_duration_since(self.started);
        self.threads[thread].note_turn(uptime.as_millis() as u64);
    }

    /// How many changes to keys there were since the start.
    pub fn changes(&self) -> u64 {
        self.total(|counters| counters.changes.read())
    }

    /// Sums one counter over all threads.
    pub fn total(&self, counter: impl Fn(&ThreadCounters) -> u64) -> u64 {
        self.threads
            .iter()
            .map(|thread| &thread.counters)
            .chain([&self.replication.link.counters])
            .map(counter)
            .sum()
    }

    /// Returns the memory in use, in bytes, and updates the peak.
    pub fn note_memory(&self) -> usize {
        let used = damselfly_base::heap::used_bytes();
        self.peak_bytes.fetch_max(used, Relaxed);
        used
    }
}

/// For how long a limit was exceeded, sampled from time to time.
#[derive(Debug, Default)]
pub struct OverLimit {
    /// Since when it has been exceeded, in milliseconds since the epoch; zero if it is not.
    since_ms: AtomicI64,
    /// The time of earlier periods, in milliseconds.
    ended_ms: AtomicI64,
}

impl OverLimit {
    /// Records a sample. Only one thread may call this.
    pub fn note(&self, is_over: bool, now_ms: i64) {
        match (self.since_ms.load(Relaxed), is_over) {
            (0, true) => self.since_ms.store(now_ms, Relaxed),
            (0, false) | (_, true) => {}
            (_, false) => {
                self.ended_ms.fetch_add(self.current_ms(now_ms), Relaxed);
                self.since_ms.store(0, Relaxed);
            }
        }
    }

    /// How long it has been exceeded, in milliseconds; zero if it is not.
    pub fn current_ms(&self, now_ms: i64) -> i64 {
        match self.since_ms.load(Relaxed) {
            0 => 0,
            since_ms => (now_ms - since_ms).max(0),
        }
    }

    /// For how long it was exceeded in total, in milliseconds, since the start or the last reset.
    pub fn total_ms(&self, now_ms: i64) -> i64 {
        self.ended_ms.load(Relaxed) + self.current_ms(now_ms)
    }

    /// Sets the total to zero.
    pub fn reset(&self) {
        self.ended_ms.store(0, Relaxed);
        self.since_ms.store(0, Relaxed);
    }
}

/// Warns if `maxmemory` was set below the memory in use.
fn note_low_limit(before: u64, config: &Config) {
    let used = damselfly_base::heap::used_bytes() as u64;
    let limit = config.maxmemory_bytes;
    if limit != before && (1..used).contains(&limit) {
        let consequence = match config.cache_mode {
            true => "keys will be evicted",
            false => "keys will be evicted or writes refused, as maxmemory-policy says",
        };
        log::warn!(
            "WARNING: maxmemory is set to {limit} bytes, but {used} are in use: {consequence}"
        );
    }
}

/// Warns if cache mode has no effect.
pub(crate) fn note_missing_limit(config: &Config) {
    if config.cache_mode && config.maxmemory_bytes == 0 {
        log::warn!("cache-mode is on, but maxmemory is 0: nothing is evicted. Set maxmemory");
    }
}

/// Passes the configuration on to the engine and to publish/subscribe, which keep copies of some options.
fn apply(engine: &Engine, pubsub: &PubSub, config: &Config) {
    pubsub.set_output_limit(config.client_output_buffer_limit.pubsub.hard_bytes);
    engine.set_events(EventMask::from_letters(&config.notify_keyspace_events));
    let settings = &engine.settings;
    let bulk_bytes_max = usize::try_from(config.proto_max_bulk_len_bytes).unwrap_or(usize::MAX);
    settings.bulk_bytes_max.store(bulk_bytes_max, Relaxed);
    let tracked_keys_max = usize::try_from(config.tracking_table_max_keys).unwrap_or(usize::MAX);
    settings.tracked_keys_max.store(tracked_keys_max, Relaxed);
    settings
        .item_bytes_max
        .store(config.memcached_max_item_size_bytes as usize, Relaxed);
    settings
        .flushes_later
        .store(config.lazyfree_lazy_user_flush, Relaxed);
    settings.ttl_rounding.store(config.ttl_rounding, Relaxed);
    let sparse_log_bytes_max = usize::try_from(config.hll_sparse_max_bytes).unwrap_or(usize::MAX);
    settings
        .sparse_log_bytes_max
        .store(sparse_log_bytes_max, Relaxed);
    for (unlinks, option) in [
        (&settings.unlinks_expired, config.lazyfree_lazy_expire),
        (&settings.unlinks_evicted, config.lazyfree_lazy_eviction),
        (&settings.unlinks_removed, config.lazyfree_lazy_user_del),
    ] {
        unlinks.store(option, Relaxed);
    }
    settings
        .compresses_dumps
        .store(config.rdbcompression, Relaxed);
    let thresholds = &settings.thresholds;
    thresholds
        .list_max_listpack_size
        .store(config.list_max_listpack_size, Relaxed);
    for (threshold, option) in [
        (
            &thresholds.list_compress_depth,
            u64::from(config.list_compress_depth),
        ),
        (
            &thresholds.hash_max_listpack_entries,
            config.hash_max_listpack_entries,
        ),
        (
            &thresholds.hash_max_listpack_value,
            config.hash_max_listpack_value_bytes,
        ),
        (
            &thresholds.set_max_intset_entries,
            config.set_max_intset_entries,
        ),
        (
            &thresholds.set_max_listpack_entries,
            config.set_max_listpack_entries,
        ),
        (
            &thresholds.set_max_listpack_value,
            config.set_max_listpack_value_bytes,
        ),
        (
            &thresholds.zset_max_listpack_entries,
            config.zset_max_listpack_entries,
        ),
        (
            &thresholds.zset_max_listpack_value,
            config.zset_max_listpack_value_bytes,
        ),
        (
            &thresholds.stream_node_max_bytes,
            config.stream_node_max_bytes,
        ),
        (
            &thresholds.stream_node_max_entries,
            config.stream_node_max_entries,
        ),
    ] {
        threshold.store(option, Relaxed);
    }
    settings.set_access_policy(match config.maxmemory_policy {
        _ if config.cache_mode => AccessPolicy::Learned,
        MaxmemoryPolicy::VolatileLfu | MaxmemoryPolicy::AllkeysLfu => AccessPolicy::Frequency {
            log_factor: config.lfu_log_factor,
            decay_minutes: config.lfu_decay_time_min,
        },
        MaxmemoryPolicy::VolatileLru
        | MaxmemoryPolicy::VolatileRandom
        | MaxmemoryPolicy::VolatileTtl
        | MaxmemoryPolicy::AllkeysLru
        | MaxmemoryPolicy::AllkeysRandom
        | MaxmemoryPolicy::Noeviction => AccessPolicy::Recency,
    });
}

/// Random: 40 hexadecimal digits.
pub(crate) fn random_hex() -> String {
    let mut text = String::new();
    while text.len() < 40 {
        text += &format!("{:016x}", damselfly_base::random::number());
    }
    text.truncate(40);
    text
}
