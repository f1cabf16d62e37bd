//! Replies that wait until their changes are on disk or on replicas.

use std::sync::atomic::Ordering::Relaxed;

use super::Worker;
use crate::session::Session;

impl Worker {
    /// A number that grows when more is on disk or on replicas.
    pub(super) fn progress(&self) -> u64 {
        let acks = self.shared.replication.acks.load(Relaxed);
        self.shared.aof.durable().wrapping_add(acks)
    }

    /// All records below this number are where the client wants them.
    pub(super) fn safe_record(&self, session: &Session) -> u64 {
        let durable = self.shared.aof.durable();
        match session.durable_replicas {
            0 => durable,
            replicas => {
                let replicated = self.shared.replication.record_on(replicas);
                let needs_disk = session.is_durable || self.shared.aof.holds_replies();
                if needs_disk {
                    replicated.min(durable)
                } else {
                    replicated
                }
            }
        }
    }

    /// Notes that replies of a connection wait for the disk or for replicas.
    pub(super) fn note_held(&mut self, key: usize) {
        if !std::mem::replace(&mut self.is_holding, true) {
            self.shared.aof.add_holding(1);
            self.shared.replication.begin_wait();
        }
        if !self.held.contains(&key) {
            self.held.push(key);
        }
    }

    /// Sends replies whose changes are where they have to be now.
    pub(super) fn flush_held(&mut self) {
        let progress = self.progress();
        if self.held.is_empty() || progress == self.progress_before {
            return;
        }
        self.progress_before = progress;
        let held = std::mem::take(&mut self.held);
        held.into_iter().for_each(|key| self.flush(key));
        if self.held.is_empty() && std::mem::take(&mut self.is_holding) {
            self.shared.aof.add_holding(-1);
            self.shared.replication.end_wait();
        }
    }
}
