//! Periodic work for replicas.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use damselfly_config::Config;
use damselfly_engine::Now;
use damselfly_log::Targets;

use super::feed::Feed;
use super::{History, Replication};
use crate::clock;
use crate::gate::Reasons;
use crate::shared::{Shared, random_hex};

/// What a replica gets when nothing else is sent.
const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";

impl Replication {
    /// Does what is due. One thread calls this ten times per second.
    pub fn run_due(self: &Arc<Self>, shared: &Shared, config: &Config) {
        self.check_good_replicas(shared, config);
        if self.is_replica() && shared.engine.log.wants(Targets::REPLICAS) && self.is_settled() {
            self.settle_log(shared);
        }
        self.give_up_useless_snapshot(shared, config);
        self.continue_failover(shared);
        match self.feeds.load(Relaxed) {
            0 => self.drop_old_backlog(shared, config),
            _ => {
                self.start_full_sync_if_due(shared, config);
                self.ping(config);
            }
        }
    }

    /// Does what is due once per second.
    pub fn run_each_second(&self, config: &Config) {
        let now_ms = clock::now_ms();
        for feed in self.feeds() {
            feed.keep_alive();
            feed.note_if_idle(now_ms);
            if feed.is_timed_out(now_ms, i64::from(config.repl_timeout_s)) && !feed.is_closed() {
                log::warn!("Disconnecting timedout replica: {}", feed.name());
                feed.close();
            }
        }
    }

    fn ping(&self, config: &Config) {
        let mut state = self.state();
        let is_due =
            state.pinged.elapsed().as_secs() >= u64::from(config.repl_ping_replica_period_s);
        // Replicas of a replica get the pings of the primary.
        if is_due && !self.is_replica() && !self.is_failing_over() {
            state.pinged = Instant::now();
            state.append(PING);
            state.feeds.iter().for_each(|feed| feed.wake());
        }
    }

    /// How many replicas are online and have acknowledged something in the last `min-replicas-max-lag` seconds.
    pub fn good_replicas(&self, config: &Config) -> usize {
        let (now_ms, lag_s_max) = (clock::now_ms(), i64::from(config.min_replicas_max_lag_s));
        let is_good = |feed: &Arc<Feed>| feed.is_shown_online() && feed.lag_s(now_ms) <= lag_s_max;
        self.feeds().iter().filter(|feed| is_good(feed)).count()
    }

    /// Refuses writes while too few replicas keep up, or allows them again.
    pub fn check_good_replicas(&self, shared: &Shared, config: &Config) {
        let wanted = config.min_replicas_to_write as usize;
        let refuses = wanted > 0
            && config.min_replicas_max_lag_s > 0
            && !self.is_replica()
            && self.good_replicas(config) < wanted;
        match refuses {
            true => shared.gate.close(Reasons::TOO_FEW_REPLICAS),
            false => shared.gate.open(Reasons::TOO_FEW_REPLICAS),
        }
    }

    /// Drops the backlog of a primary that has had no replica for long. Its history ends: what follows is not counted.
    fn drop_old_backlog(&self, shared: &Shared, config: &Config) {
        let ttl_s = u64::from(config.repl_backlog_ttl_s);
        let state = self.state();
        let is_due = ttl_s > 0
            && state.stream.is_some()
            && !self.is_replica()
            && state.alone_since.elapsed().as_secs() >= ttl_s;
        drop(state);
        if !is_due {
            return;
        }
        let Ok(tx) = shared.engine.lock_all(0, Now(clock::now_ms())) else {
            return;
        };
        let mut state = self.state();
        if !state.feeds.is_empty() || state.draining > 0 {
            return;
        }
        state.stream = None;
        state.intake = None;
        state.history = History::new(random_hex(), state.history.offset);
        drop(state);
        shared.log.detach(&tx, Targets::REPLICAS);
        log::info!("Replication backlog freed after {ttl_s} seconds without connected replicas.");
    }

    /// Turns the log off if its last consumer has ended.
    fn settle_log(&self, shared: &Shared) {
        if let Ok(tx) = shared.engine.lock_all(0, Now(clock::now_ms())) {
            shared.log.settle(&tx);
        }
    }
}
