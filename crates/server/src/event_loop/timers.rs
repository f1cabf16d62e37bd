//! Periodic work of a thread: the expiry sweep, limits on clients, sampling.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use damselfly_engine::Now;

use super::{TICK, Worker};
use crate::clock;
use crate::dispatch::{MemoryRoom, is_over_limit};
use crate::event_loop::input::Stall;
use crate::shared::{self, Rates};

/// The interval between rounds of the expiry sweep while it has much to do.
const SWEEP_AGAIN: Duration = Duration::from_millis(4);

/// How long a round of the sweep may take with `active-expire-effort` 1.
const SWEEP_BUDGET: Duration = Duration::from_millis(1);

impl Worker {
    /// Does the periodic work that is due.
    pub(super) fn run_timers(&mut self) {
        let now = Instant::now();
        self.shared.note_turn(self.index, now);
        if now >= self.next_sweep {
            let is_urgent = !self.shared.gate.is_loading() && {
                self.dispatcher.forget_room();
                if is_over_limit(&self.dispatcher.config, &self.shared) {
                    // Before it costs keys.
                    self.spare_outputs.free_all();
                }
                self.sweep(now) | (self.dispatcher.make_room() == MemoryRoom::Soon)
            };
            self.next_sweep = now + if is_urgent { SWEEP_AGAIN } else { TICK };
        }
        if now >= self.next_tick {
            self.next_tick = now + TICK;
            self.dispatcher.refresh_scripts();
            if self.shared.resident_memory.is_tight() {
                // Pages of this thread whose blocks other threads have freed.
                damselfly_base::heap::collect();
            }
            if self.index == 0 {
                self.shared.note_memory();
                self.shared.memcached.flush_if_due(&self.shared);
                self.note_limit();
                self.shared
                    .engine
                    .drop_excess_tracked(shared::TRACKED_PER_TICK);
                self.sample_rates();
                self.shared
                    .persistence
                    .start_if_due(&self.shared, &self.dispatcher.config);
                let aof = &self.shared.aof;
                aof.run_due(&self.shared, &self.dispatcher.config);
                let replication = &self.shared.replication;
                replication.run_due(&self.shared, &self.dispatcher.config);
                let (config, threads) = (&self.dispatcher.config, &self.shared.threads);
                let evicted = self.shared.clients.evict(config, threads);
                threads[self.index].counters.clients_evicted.add(evicted);
            }
        }
        if now >= self.next_second {
            self.next_second = now + Duration::from_secs(1);
            self.close_idle();
            self.free_places();
            self.check_feeds();
            if self.index == 0 {
                let replication = &self.shared.replication;
                replication.run_each_second(&self.dispatcher.config);
            }
            self.spare_outputs.free_unused();
            damselfly_base::heap::collect();
        }
    }

    /// Records whether memory use exceeds `maxmemory`.
    fn note_limit(&self) {
        let is_over = is_over_limit(&self.dispatcher.config, &self.shared);
        self.shared.over_limit.note(is_over, clock::now_ms());
    }

    /// Removes expired keys from this thread's share of the shards, for a bounded time. True if much is
    /// left to do.
    pub(super) fn sweep(&mut self, started: Instant) -> bool {
        let (engine, counters) = (
            &self.shared.engine,
            &self.shared.threads[self.index].counters,
        );
        let (step, now) = (self.shared.threads.len(), Now(clock::now_ms()));
        let budget = SWEEP_BUDGET * self.dispatcher.config.active_expire_effort;
        let own_shards = engine.shards().saturating_sub(self.index).div_ceil(step);
        let (mut removed, mut out_of_time) = (0, false);
        for _ in 0..own_shards {
            self.sweep_at = (self.sweep_at + 1) % own_shards;
            removed += engine.sweep(self.index + self.sweep_at * step, now);
            // Subscribers to the events of expired keys have to keep up.
            if self.shared.pubsub.take_congested(self.index).is_some() {
                break;
            }
            if started.elapsed() > budget {
                counters.sweep_out_of_time.add(1);
                out_of_time = true;
                break;
            }
        }
        let took = started.elapsed();
        counters.sweep_us.add(took.as_micros() as u64);
        let threshold_ms = self.dispatcher.config.latency_monitor_threshold_ms;
        self.shared
            .latency
            .add_if_slow("expire-cycle", now.0 / 1000, took, threshold_ms);
        // More than one removed key per shard is worth another round soon.
        out_of_time && removed > 0 || removed > own_shards
    }

    /// Frees the places of connections that are gone, when most of them are.
    fn free_places(&mut self) {
        const PLACES_KEPT: usize = 64;
        let places = self.connections.capacity();
        if places > PLACES_KEPT && self.connections.len() < places / 4 {
            self.connections.shrink_to_fit();
            self.ready.shrink_to_fit();
            self.unflushed.shrink_to_fit();
        }
    }

    /// Closes connections that were idle for too long, or that have exceeded the soft output limit for too long.
    pub(super) fn close_idle(&mut self) {
        let timeout_s = i64::from(self.dispatcher.config.timeout_s);
        let now_ms = clock::now_ms();
        let keys: Vec<usize> = self.connections.iter().map(|(key, _)| key).collect();
        for key in keys {
            let Some(connection) = self.connections.get(key) else {
                continue;
            };
            let client = &connection.session.client;
            let idle_s = (now_ms - client.active_ms.load(Relaxed)) / 1000;
            if timeout_s > 0
                && idle_s > timeout_s
                && matches!(
                    connection.input.stall(),
                    None | Some(Stall::Output | Stall::SlicedReply)
                )
                && !client.monitor.load(Relaxed)
                && connection.session.subscriptions.is_none()
                && connection.session.feed.is_none()
            {
                log::debug!("Closing idle client {}", client.address);
                self.close(key);
            } else if connection.over_soft_limit_since.is_some()
                && connection.session.feed.is_none()
            {
                self.check_output_limit(key);
            }
        }
    }

    /// Closes a connection whose client leaves more replies unread than its output limit allows.
    pub(super) fn check_output_limit(&mut self, key: usize) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let limit = connection.session.output_limit(&self.dispatcher.config);
        if connection.exceeds_output_limit(limit) {
            self.note_unread(key);
            self.close(key);
        }
    }

    /// Logs and counts a connection that is closed for its unread output.
    pub(super) fn note_unread(&self, key: usize) {
        let Some(connection) = self.connections.get(key) else {
            return;
        };
        log::warn!(
            "Client {} closed for overcoming of output buffer limits ({} bytes unread).",
            connection.session.client.address,
            connection.unread()
        );
        let counters = &self.shared.threads[self.index].counters;
        counters.output_limit_disconnections.add(1);
    }

    /// Closes a connection whose input exceeds `client-query-buffer-limit`.
    pub(super) fn check_query_limit(&mut self, key: usize, query_bytes_max: u64) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let queued_bytes = connection.session.transaction.queued_bytes();
        let bytes = (connection.input.len() + queued_bytes) as u64;
        if connection.input.is_too_long(bytes, query_bytes_max) {
            log::warn!(
                "Closing client {} that reached the max query buffer length of {} bytes",
                connection.session.client.address,
                query_bytes_max
            );
            self.shared.threads[self.index]
                .counters
                .query_limit_disconnections
                .add(1);
            connection.discard_and_close();
        }
    }

    /// Updates the rates that INFO shows.
    pub(super) fn sample_rates(&mut self) {
        let shared = &self.shared;
        let sum = (
            shared.total(|counters| {
                counters
                    .commands
                    .iter()
                    .map(|command| command.calls.read())
                    .sum()
            }),
            shared.total(|counters| counters.input_bytes.read()),
            shared.total(|counters| counters.output_bytes.read()),
            shared.total(|counters| counters.turns.read()),
            shared.total(|counters| counters.turn_ns.read()),
        );
        let turns = sum.3.saturating_sub(self.rates_before.3);
        let turn_ns = sum.4.saturating_sub(self.rates_before.4);
        let per_second =
            |now: u64, before: u64| now.saturating_sub(before) as f64 / TICK.as_secs_f64();
        let latest = Rates {
            commands: per_second(sum.0, self.rates_before.0),
            input_bytes: per_second(sum.1, self.rates_before.1),
            output_bytes: per_second(sum.2, self.rates_before.2),
            turns: per_second(sum.3, self.rates_before.3),
            turn_us: turn_ns.checked_div(turns).unwrap_or(0) as f64 / 1000.0,
        };
        self.rates_before = sum;
        if let Ok(mut rates) = shared.rates.lock() {
            // A moving average over about the last sixteen samples, as in Redis.
            let mix = |old: f64, new: f64| old + (new - old) / 16.0;
            *rates = Rates {
                commands: mix(rates.commands, latest.commands),
                input_bytes: mix(rates.input_bytes, latest.input_bytes),
                output_bytes: mix(rates.output_bytes, latest.output_bytes),
                turns: mix(rates.turns, latest.turns),
                turn_us: mix(rates.turn_us, latest.turn_us),
            };
        }
    }
}
