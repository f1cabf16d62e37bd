//! Stalled connections: how long the thread may wait for events meanwhile, and when they resume.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::{TICK, Worker};
use crate::blocked::End;
use crate::clock;
use crate::event_loop::input::Stall;

/// How often a connection that waits for the log is looked at.
const LOG_INTERVAL: Duration = Duration::from_millis(1);

impl Worker {
    /// How long the thread may wait for events.
    pub(super) fn longest_wait(&self) -> Duration {
        if !self.ready.is_empty()
            || self.has_chunks
            || !self.held.is_empty() && self.progress() != self.progress_before
            || self.shared.threads[self.index].has_incoming()
            || self.has_due_feed()
        {
            return Duration::ZERO;
        }
        let now = Instant::now();
        let mut until = self.next_tick.min(self.next_sweep);
        if self.shared.persistence.is_saving() {
            until = until.min(self.saver.next());
        }
        if self.shared.resident_memory.is_moving() {
            until = until.min(self.mover.next());
        }
        if let Some(&(deadline, _)) = self.deadlines.first() {
            until = until.min(deadline);
        }
        for &key in &self.stalled {
            match self
                .connections
                .get(key)
                .and_then(|connection| connection.input.stall())
            {
                Some(Stall::Sleeping(end)) => until = until.min(end),
                Some(Stall::Paused(hold)) => {
                    let left_ms = hold.until_ms.saturating_sub(clock::now_ms()).max(0);
                    until =
                        until.min(now + Duration::from_millis(left_ms.unsigned_abs()).min(TICK));
                }
                Some(Stall::Congested(to)) if !self.shared.is_congested(self.index, to) => {
                    return Duration::ZERO;
                }
                Some(Stall::Disk(wait)) if wait.is_over(&self.shared) => return Duration::ZERO,
                Some(Stall::Disk(wait)) => until = wait.until.map_or(until, |end| until.min(end)),
                Some(Stall::Stream(wait)) if wait.is_over(&self.shared) => return Duration::ZERO,
                Some(Stall::Log | Stall::Stream(_)) => until = until.min(now + LOG_INTERVAL),
                // Checked again at every wake-up and tick.
                Some(
                    Stall::Shard(_)
                    | Stall::Output
                    | Stall::Waiting
                    | Stall::Long
                    | Stall::SlicedReply
                    | Stall::Congested(_),
                )
                | None => {}
            }
        }
        // The poll rounds this up to whole milliseconds.
        until.saturating_duration_since(now).min(TICK)
    }

    /// Resumes connections whose stall is over.
    pub(super) fn resume_stalled(&mut self) {
        if self.stalled.is_empty() {
            return;
        }
        let now_ms = clock::now_ms();
        for key in std::mem::take(&mut self.stalled) {
            let Some(connection) = self.connections.get_mut(key) else {
                continue;
            };
            let over = match connection.input.stall() {
                None => true,
                Some(Stall::Shard(_)) => true,
                Some(Stall::Paused(hold)) => self.shared.pause.is_over(hold, now_ms),
                Some(Stall::Sleeping(until)) => until <= Instant::now(),
                Some(Stall::Disk(wait)) => {
                    let client = &connection.session.client;
                    wait.is_over(&self.shared) || client.wait_end().is_some()
                }
                Some(Stall::Log) => !self.shared.engine.log.is_congested(),
                Some(Stall::Stream(wait)) => wait.is_over(&self.shared),
                Some(Stall::Congested(to)) => !self.shared.is_congested(self.index, to),
                Some(Stall::Output | Stall::Waiting | Stall::Long | Stall::SlicedReply) => false,
            };
            if over && let Some(wait) = connection.session.disk_wait.take() {
                self.dispatcher.finish_disk_wait(connection, wait);
            }
            if over || connection.session.client.killed.load(Relaxed) {
                connection.retry();
                self.queue(key);
            } else {
                self.stalled.push(key);
            }
        }
    }

    /// Ends the wait of blocked connections whose timeout has passed.
    pub(super) fn time_out_blocked(&mut self) {
        if self.deadlines.is_empty() {
            return;
        }
        let now = Instant::now();
        while let Some(&(deadline, key)) = self.deadlines.first()
            && deadline <= now
        {
            self.deadlines.pop_first();
            let connection = self.connections.get(key);
            let blocking = connection.and_then(|connection| connection.session.blocking.as_ref());
            if blocking.is_some_and(|blocking| blocking.end(End::TimedOut)) {
                self.queue(key);
            }
        }
    }

    /// Writes the reply of a blocked connection and resumes it, if its wait has ended.
    pub(super) fn finish_if_unblocked(&mut self, key: usize) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let Some(blocking) = &connection.session.blocking else {
            return;
        };
        if let Some(end) = blocking.blocked_client.take_end() {
            if let Some(deadline) = blocking.deadline {
                self.deadlines.remove(&(deadline, key));
            }
            self.dispatcher.finish_blocked(connection, end);
        }
    }
}
