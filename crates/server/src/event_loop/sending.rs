//! Sending replies, which may have to wait until their changes are on disk or at replicas.

use std::sync::atomic::Ordering::Relaxed;

use super::Worker;
use crate::event_loop::input::{Next, Stall};
use crate::gate::Reasons;
use crate::persistence::aof::Mode;
use crate::session::Session;

impl Worker {
    /// A number that changes when more is on disk or on replicas, when the append-only file has its base, and when it can't be written or can be again.
    pub(super) fn progress(&self) -> u64 {
        let acks = self.shared.replication.acks.load(Relaxed);
        let has_failed = u64::from(self.has_log_failed()) << 63;
        let mode = (self.shared.aof.mode() as u64) << 61;
        let durable = self.shared.aof.durable();
        let progress = durable.wrapping_add(acks);
        progress.wrapping_add(mode).wrapping_add(has_failed)
    }

    fn has_log_failed(&self) -> bool {
        !self.shared.gate.holding(Reasons::LOG_FAILED).is_empty()
    }

    /// All records below this number are where the client wants them.
    fn safe_record(&self, session: &Session) -> u64 {
        let aof = &self.shared.aof;
        let durable = match session.durability.on_disk && aof.mode() == Mode::Starting {
            // Without a base, a restart would load none of it.
            true => 0,
            false => aof.durable(),
        };
        match session.durability.replicas {
            0 => durable,
            replicas => {
                let replicated = self.shared.replication.record_on(replicas);
                let needs_disk = session.durability.on_disk || self.shared.aof.holds_replies();
                if needs_disk {
                    replicated.min(durable)
                } else {
                    replicated
                }
            }
        }
    }

    /// Notes that replies of a connection wait for the disk or for replicas.
    fn note_held(&mut self, key: usize) {
        let connection = &mut self.connections[key];
        if connection.session.durability.replicas > 0
            && !std::mem::replace(&mut self.waits_for_replicas, true)
        {
            self.shared.replication.begin_wait();
        }
        if !std::mem::replace(&mut connection.is_listed_as_held, true) {
            self.held.push(key);
        }
    }

    /// Lets the disk know how many connections wait for it, and the replicas if none does any more.
    pub(super) fn count_held(&mut self) {
        let now = self.held.len();
        let before = std::mem::replace(&mut self.held_before, now);
        if now != before {
            let thread = &self.shared.threads[self.index];
            self.shared.aof.note_held(thread, before, now);
        }
        if now == 0 && std::mem::take(&mut self.waits_for_replicas) {
            self.shared.replication.end_wait();
        }
    }

    /// Sends replies whose changes are where they have to be now.
    pub(super) fn flush_held(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let progress = self.progress();
        if progress == self.progress_before {
            return;
        }
        self.progress_before = progress;
        for key in std::mem::take(&mut self.held) {
            if let Some(connection) = self.connections.get_mut(key) {
                connection.is_listed_as_held = false;
                self.flush(key);
            }
        }
    }

    pub(super) fn flush_all(&mut self) {
        let mut keys = std::mem::take(&mut self.unflushed);
        keys.drain(..).for_each(|key| self.flush(key));
        self.unflushed = keys;
    }

    /// Holds the replies of a connection back whose changes are not where they have to be. Returns up to where its output may be sent.
    #[cold]
    fn hold(&mut self, key: usize) -> usize {
        let safe = self.safe_record(&self.connections[key].session);
        let appended = self.shared.engine.log.appended();
        let has_failed = self.has_log_failed();
        let connection = &mut self.connections[key];
        connection.session.has_logged &= safe < appended;
        let sent_max = match has_failed && !connection.session.has_logged {
            false => connection.hold(appended, safe),
            true => {
                // While nothing can be written, only clients with changes of their own wait: the others may read, and see why.
                connection.hold_nothing();
                usize::MAX
            }
        };
        match connection.is_held() {
            true => self.note_held(key),
            false => connection.session.take_later_durability(),
        }
        sent_max
    }

    /// Up to where the output of a connection may be sent now.
    #[inline]
    pub(super) fn sent_max(&mut self, key: usize) -> usize {
        let connection = &mut self.connections[key];
        let durability = connection.session.durability;
        if durability.on_disk && self.shared.aof.mode() == Mode::Off {
            log::warn!(
                "Closing client {}: it has asked for CLIENT DURABLE ON, and the append-only file was turned off",
                connection.session.client.address
            );
            connection.mark_broken();
            return 0;
        }
        let may_be_held = self.shared.aof.holds_replies()
            || durability.on_disk
            || durability.replicas > 0
            || connection.is_held();
        match may_be_held {
            false => usize::MAX,
            true => self.hold(key),
        }
    }

    /// Sends replies, and closes the connection if nothing is left to do for it.
    pub(super) fn flush(&mut self, key: usize) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let is_asleep = matches!(connection.input.stall(), Some(Stall::Sleeping(_)));
        if connection.input.is_running() || is_asleep {
            // The reply to DEBUG SLEEP is sent when the sleep is over.
            return;
        }
        if connection.session.feed.is_some() {
            self.flush_feed(key);
            return;
        }
        let before = connection.unsent();
        let sent_max = self.sent_max(key);
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let sent = match connection.flush_up_to(sent_max, &mut self.scratch) {
            Ok(sent) => sent,
            Err(error) => {
                log::debug!(
                    "Writing to client {}: {error}",
                    connection.session.client.address
                );
                connection.mark_broken();
                0
            }
        };
        let sent_all = connection.unsent() == 0;
        if before > 0 {
            let client = &connection.session.client;
            if sent > 0 {
                // As in Redis: a client is active when it gets something, which may be long after its request.
                client.active_ms.store(self.turn_time.ms(), Relaxed);
            }
            let counters = &self.shared.threads[self.index].counters;
            counters.writes.add(1);
            counters.output_bytes.add(sent as u64);
            client.count_bytes(0, sent as u64);
        }
        if sent_all {
            connection.over_soft_limit_since = None;
            connection.pushed_bytes = 0;
            self.spare_outputs
                .take_back(std::mem::take(&mut connection.output));
        } else {
            self.check_output_limit(key);
        }
        self.end_flush(key, sent_all);
    }

    /// Resumes a connection that waited for its replies to be sent, or closes it if nothing is left to do for it.
    pub(super) fn end_flush(&mut self, key: usize, sent_all: bool) {
        // The check of the output limit may have closed it.
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        connection.report();
        let continues = match connection.input.stall() {
            Some(Stall::Output) if sent_all => {
                connection.input.resume();
                true
            }
            Some(Stall::SlicedReply) => sent_all,
            Some(_) | None => false,
        };
        let query_bytes_max = self.dispatcher.config.client_query_buffer_limit_bytes;
        let ends = match connection.next(query_bytes_max) {
            Next::Close => sent_all,
            // If it was served just now, it is closed once it has its reply.
            Next::GiveUp if connection.stop_waiting() => {
                connection.session.closing = true;
                sent_all
            }
            Next::GiveUp | Next::Run | Next::Read | Next::Wait => false,
        };
        if continues {
            self.queue(key);
        }
        if ends {
            self.close(key);
        }
        debug_assert!(
            self.connections.get(key).is_none_or(
                |connection| connection.queued || connection.next(query_bytes_max) != Next::Run
            ),
            "a connection that can run is queued"
        );
    }
}
