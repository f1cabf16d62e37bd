//! Data on disk.
//!
//! ```text
//! file ──► load: splits ──► chunk queue ──► the server's threads: decode, insert ──► engine
//!            └──────────────── large values, functions ─────────────────────────────────┘
//! ```
//!
//! `docs/decisions/0021-loading.md` says why.

mod chunk_queue;
pub mod load;
pub mod progress;
pub mod start;

use std::sync::{Mutex, MutexGuard, PoisonError};

use damselfly_engine::{Engine, LoadBatch, Now};
use damselfly_rdb::{Chunk, Event};

use self::chunk_queue::ChunkQueue;
use self::load::{LoadError, accept};
use self::progress::LoadProgress;

/// Loading, as all threads see it.
#[derive(Debug, Default)]
pub struct Loading {
    /// How far it is.
    pub progress: LoadProgress,
    pub(crate) queue: ChunkQueue,
    /// Batches to use again, while a file is being loaded.
    batches: Mutex<Vec<LoadBatch>>,
}

impl Loading {
    /// Decodes and stores one chunk, if there is one; false if there is none. Only the server's thread of this number may call this.
    pub fn run_one(&self, engine: &Engine, (thread, threads): (usize, usize)) -> bool {
        let first_shard = thread * engine.shards() / threads;
        self.queue
            .run_one(thread, |chunk| self.store(engine, chunk, first_shard))
    }

    fn store(
        &self,
        engine: &Engine,
        chunk: Chunk,
        first_shard: usize,
    ) -> Result<Vec<u8>, LoadError> {
        let (now, db) = (self.progress.now(), chunk.database());
        let mut batch = self.batches().pop().unwrap_or_default();
        let mut counts = (0, 0);
        let buffer = chunk.decode(&engine.settings.thresholds, |offset, event| {
            if let Event::Entry(loaded) = event {
                let access = engine.loaded_access(now, loaded.idle_seconds, loaded.frequency);
                match accept(loaded, now) {
                    Some(entry) => {
                        entry.view().set_access(access);
                        batch.push(entry, offset);
                        counts.0 += 1;
                    }
                    None => counts.1 += 1,
                }
            }
            Ok::<(), LoadError>(())
        })?;
        self.store_batch(engine, &mut batch, db, now, first_shard)?;
        self.progress.add_keys(counts.0, counts.1);
        self.batches().push(batch);
        Ok(buffer)
    }

    fn batches(&self) -> MutexGuard<'_, Vec<LoadBatch>> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Frees the memory that only loading needs.
    fn end(&self) {
        *self.batches() = Vec::new();
    }

    fn store_batch(
        &self,
        engine: &Engine,
        batch: &mut LoadBatch,
        db: u64,
        now: Now,
        first_shard: usize,
    ) -> Result<(), LoadError> {
        let wait = || {
            std::thread::yield_now();
            !self.queue.is_abandoned()
        };
        engine
            .load(batch, db as usize, now, first_shard, wait)
            .map_err(|duplicate| LoadError::duplicate(&duplicate, db))
    }
}
