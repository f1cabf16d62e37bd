//! From the log to the stream: the consumer that feeds replicas.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use damselfly_log::{Batch, Targets};

use super::Replication;
use super::full_sync::FullSync;
use crate::log_thread::Consumer;

/// The record at which an intake ends, if it shall: the server becomes a replica there.
pub(super) const NO_END: u64 = u64::MAX;

/// Takes the log for the stream, up to a record.
pub(super) struct Intake {
    pub replication: Arc<Replication>,
    pub end: Arc<AtomicU64>,
}

impl Consumer for Intake {
    fn targets(&self) -> Targets {
        Targets::REPLICAS
    }

    fn take(&mut self, batch: &Arc<Batch>, cut: u64) -> bool {
        let mut state = self.replication.state();
        let mut at = cut.max(batch.first);
        let end = self.end.load(SeqCst);
        let until = end.min(batch.end);
        let mut found: Vec<(Arc<FullSync>, u64)> = Vec::new();
        while let Some(&(record, _)) = state.cuts.front()
            && record <= until
            && let Some((_, sync)) = state.cuts.pop_front()
        {
            state.append_records(batch, at, record);
            at = at.max(record);
            found.push((sync.clone(), state.begin_full_sync_here(&sync)));
        }
        state.append_records(batch, at, until);
        state.merged = until;
        self.replication.mark_if_waiting(&mut state);
        self.replication.note_bytes(&state);
        let has_ended = end <= batch.end;
        if has_ended {
            state.draining -= 1;
        }
        let id = state.history.id.clone();
        let feeds = state.feeds.clone();
        drop(state);
        for (sync, offset) in found {
            sync.announce(&id, offset);
        }
        feeds.iter().for_each(|feed| feed.wake());
        !has_ended
    }

    fn is_full(&self) -> bool {
        false
    }

    fn is_urgent(&self) -> bool {
        self.replication.has_waiting()
    }
}
