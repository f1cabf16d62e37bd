//! Chunks of a file on their way from the thread that reads it to the threads that decode it.
//!
//! The queue is short, so that memory stays bounded: the reader waits while it is full. A thread that finds it empty is woken when
//! the next chunk arrives.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use damselfly_rdb::Chunk;

use super::load::LoadError;

/// Chunks that may wait per thread.
const WAITING_PER_THREAD: usize = 2;

/// How long the reader sleeps at most before it looks around.
const LOOK_AROUND: Duration = Duration::from_millis(20);

#[derive(Debug, Default)]
pub(crate) struct ChunkQueue {
    state: Mutex<State>,
    /// Notified when a chunk is finished.
    finished: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Chunk>,
    /// How many chunks are being decoded.
    running: usize,
    /// Buffers of finished chunks.
    spares: Vec<Vec<u8>>,
    /// The threads that found no chunk.
    idle: Vec<usize>,
    /// The fault with the lowest offset.
    fault: Option<LoadError>,
    /// The reader has given up: waiting chunks are of no use.
    is_abandoned: bool,
}

impl ChunkQueue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins another file, which so many threads decode.
    pub(crate) fn begin(&self, threads: usize) {
        let begun = State {
            // They are woken even if they have not looked for chunks yet.
            idle: (0..threads).collect(),
            ..State::default()
        };
        *self.state() = begun;
    }

    /// Queues a chunk. Waits while there are too many for `threads` threads, and calls `look_around` meanwhile. Returns the threads to
    /// wake, and buffers that are free again.
    ///
    /// # Errors
    /// A chunk was found to be broken, or `look_around` fails.
    pub(crate) fn push(
        &self,
        chunk: Chunk,
        threads: usize,
        mut look_around: impl FnMut() -> Result<(), LoadError>,
    ) -> Result<(Vec<usize>, Vec<Vec<u8>>), LoadError> {
        let mut state = self.state();
        while state.waiting.len() >= WAITING_PER_THREAD * threads && state.fault.is_none() {
            state = self.wait(state, &mut look_around)?;
        }
        if let Some(fault) = state.fault.take() {
            return Err(fault);
        }
        state.waiting.push_back(chunk);
        let idle = std::mem::take(&mut state.idle);
        Ok((idle, std::mem::take(&mut state.spares)))
    }

    fn wait<'s>(
        &'s self,
        state: MutexGuard<'s, State>,
        look_around: &mut impl FnMut() -> Result<(), LoadError>,
    ) -> Result<MutexGuard<'s, State>, LoadError> {
        let (state, _) = self
            .finished
            .wait_timeout(state, LOOK_AROUND)
            .unwrap_or_else(PoisonError::into_inner);
        drop(state);
        look_around()?;
        Ok(self.state())
    }

    /// Waits until all chunks are decoded and stored.
    ///
    /// # Errors
    /// As for [`ChunkQueue::push`].
    pub(crate) fn finish(
        &self,
        mut look_around: impl FnMut() -> Result<(), LoadError>,
    ) -> Result<(), LoadError> {
        let mut state = self.state();
        while state.running > 0 || !state.waiting.is_empty() && state.fault.is_none() {
            state = self.wait(state, &mut look_around)?;
        }
        state.spares = Vec::new();
        state.fault.take().map_or(Ok(()), Err)
    }

    /// Drops the chunks that wait, and waits for those that are being decoded. Returns the fault in one of them.
    pub(crate) fn abandon(&self) -> Option<LoadError> {
        let mut state = self.state();
        state.is_abandoned = true;
        state.waiting.clear();
        while state.running > 0 {
            state = self
                .finished
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.fault.take()
    }

    /// True if the reader has given up.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.state().is_abandoned
    }

    /// Lets `run` decode the next chunk; false if there is none, and then this thread is woken when there is one.
    pub(crate) fn run_one(
        &self,
        thread: usize,
        run: impl FnOnce(Chunk) -> Result<Vec<u8>, LoadError>,
    ) -> bool {
        let mut state = self.state();
        let Some(chunk) = state.waiting.pop_front() else {
            if !state.idle.contains(&thread) {
                state.idle.push(thread);
            }
            return false;
        };
        state.running += 1;
        drop(state);
        let offset = chunk.offset();
        let result = catch_unwind(AssertUnwindSafe(|| run(chunk)))
            .unwrap_or(Err(LoadError::Panic { offset }));
        let mut state = self.state();
        state.running -= 1;
        match result {
            Ok(buffer) => state.spares.push(buffer),
            Err(fault) => {
                let other = state.fault.take();
                let is_first = |other: &LoadError| fault.offset() < other.offset();
                state.fault = match other {
                    Some(other) if !is_first(&other) => Some(other),
                    Some(_) | None => Some(fault),
                };
            }
        }
        drop(state);
        self.finished.notify_one();
        true
    }
}
