//! SHUTDOWN: before the server stops, replicas get what they lack.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering::SeqCst};
use std::time::{Duration, Instant};

use damselfly_config::Config;

use super::Replication;
use super::feed::Feed;
use crate::clock;
use crate::shared::Shared;
use crate::threads::Thread;

/// How often the replicas are looked at.
const RECHECK_INTERVAL: Duration = Duration::from_millis(2);

const NOT_WAITING: u8 = 0;
const WAITING: u8 = 1;
const ABORTED: u8 = 2;

/// Whether a shutdown waits for replicas.
#[derive(Debug, Default)]
pub(super) struct LastWait {
    phase: AtomicU8,
    /// When a wait ends, in milliseconds since the epoch.
    until_ms: AtomicI64,
}

/// SHUTDOWN ABORT has ended the wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aborted;

impl Replication {
    /// True if a shutdown has to wait for replicas.
    pub fn has_lagging(&self, shared: &Shared, config: &Config) -> bool {
        config.shutdown_timeout_s > 0 && !self.lagging(shared).is_empty()
    }

    fn lagging(&self, shared: &Shared) -> Vec<Arc<Feed>> {
        if self.is_replica() {
            return Vec::new();
        }
        let state = self.state();
        let is_merged = state.merged == shared.engine.log.appended();
        let offset = state.history.offset;
        // As in Redis, a replica that is still getting its snapshot has acknowledged nothing: it lags unless the stream is empty.
        let acked = |feed: &Feed| match feed.is_online() {
            true => feed.acked(),
            false => 0,
        };
        let mut lagging = state.feeds.clone();
        lagging.retain(|feed| {
            !feed.abilities.is_old
                && !feed.abilities.rdb_only
                && (!is_merged || acked(feed) < offset)
        });
        lagging
    }

    /// Holds writes back and waits until all replicas have everything, at most for `shutdown-timeout`.
    ///
    /// # Errors
    /// SHUTDOWN ABORT has ended the wait.
    pub fn wait_before_shutdown(&self, shared: &Shared) -> Result<(), Aborted> {
        let config = shared.config();
        if !self.has_lagging(shared, &config) {
            return Ok(());
        }
        log::info!("Waiting for replicas before shutting down.");
        shared.pause.hold_writes(true);
        let timeout = Duration::from_secs(u64::from(config.shutdown_timeout_s));
        let until_ms = clock::now_ms() + timeout.as_millis() as i64;
        self.last_wait.until_ms.store(until_ms, SeqCst);
        self.last_wait.phase.store(WAITING, SeqCst);
        self.begin_wait();
        let until = Instant::now() + timeout;
        let mut is_aborted = false;
        while Instant::now() < until && !is_aborted && !self.lagging(shared).is_empty() {
            shared.log.wake();
            std::thread::sleep(RECHECK_INTERVAL);
            is_aborted = self.last_wait.phase.load(SeqCst) == ABORTED;
        }
        self.end_wait();
        is_aborted |= self.last_wait.phase.swap(NOT_WAITING, SeqCst) == ABORTED;
        if is_aborted {
            log::warn!("Shutdown manually aborted.");
            self.end_last_wait(shared);
            return Err(Aborted);
        }
        let (lagging, all) = (self.lagging(shared), self.feeds().len());
        for feed in &lagging {
            log::warn!(
                "Lagging replica {} reported offset {} behind master, lag={}, state={}.",
                feed.name(),
                self.end().saturating_sub(feed.acked()),
                feed.lag_s(clock::now_ms()),
                feed.status().name()
            );
        }
        log::info!(
            "{} of {all} replicas are in sync when shutting down.",
            all - lagging.len()
        );
        Ok(())
    }

    /// Lets writes continue, because the server does not stop.
    pub fn end_last_wait(&self, shared: &Shared) {
        if !self.is_failing_over() {
            shared.pause.hold_writes(false);
            shared.threads.iter().for_each(Thread::wake);
        }
    }

    /// How long a shutdown still waits for replicas, in milliseconds; `None` if none does.
    pub fn shutdown_in_ms(&self) -> Option<i64> {
        let is_waiting = self.last_wait.phase.load(SeqCst) != NOT_WAITING;
        let left_ms = || self.last_wait.until_ms.load(SeqCst) - clock::now_ms();
        is_waiting.then(|| left_ms().max(0))
    }

    /// SHUTDOWN ABORT; false if no shutdown waits.
    pub fn abort_shutdown(&self) -> bool {
        let aborted = self
            .last_wait
            .phase
            .compare_exchange(WAITING, ABORTED, SeqCst, SeqCst);
        aborted.is_ok()
    }
}
