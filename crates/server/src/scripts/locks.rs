//! The locks of a script.
//!
//! ```text
//!               a lock is busy, or all are needed: undone
//!          ┌──────────────────────────────────────────────────┐
//!          ▼                                                  │
//!   locks of declared keys,       a command on other keys     │
//!   and of those met before ────► tries for their locks ──────┤
//!          │                                                  │ too much to save, PUBLISH: takes the token
//!          ▼                                                  ▼
//!      it is done                             irrevocable: waits for locks
//! ```
//!
//! A script that can be undone never waits while it holds locks, nor does any command. Only the one that holds the token does;
//! everybody else lets go sooner or later, so there is no deadlock. Who can't have the token is undone and runs again under all
//! locks. A section under all locks needs no others.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use damselfly_commands::{Access, Args, Keys};
use damselfly_engine::Key;
use damselfly_value::{EntryRef, Value};

use super::Scripts;
use super::host::ScriptHost;
use crate::registry::{Handler, Locks, Row};

/// After so many attempts a script runs under all locks.
const ATTEMPTS_MAX: u32 = 2;

/// A script that has changed more keys, or more bytes, can't be undone any more.
const SAVED_KEYS_MAX: usize = 256;
const SAVED_BYTES_MAX: usize = 1 << 20;
/// The same for one with more events that nobody was told of.
const KEPT_EVENTS_MAX: usize = 4096;
/// What is larger is not copied to be able to undo its change.
const COPIED_BYTES_MAX: usize = 64 << 10;

/// Which locks a script takes when it begins, beside those of its declared keys.
#[derive(Debug, Default)]
pub struct Plan {
    /// Shards that it was found to need.
    pub shards: Vec<usize>,
    /// All shards.
    pub all: bool,
    /// The script was shown to clients that monitor.
    pub is_shown: bool,
    attempts: u32,
}

impl Plan {
    /// Learns from an attempt that was undone; `held` are the shards that it had locked.
    pub fn learn(&mut self, missing: MissingLock, held: Option<Vec<usize>>) {
        self.attempts += 1;
        match (missing, held) {
            (MissingLock::Shard(shard), Some(held)) if self.attempts <= ATTEMPTS_MAX => {
                self.shards = held;
                self.shards.push(shard);
            }
            (MissingLock::Shard(_) | MissingLock::All, _) => self.all = true,
        }
    }
}

/// What a script lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissingLock {
    /// The lock of this shard, which is busy.
    Shard(usize),
    /// All locks.
    All,
}

/// What is remembered of a script's need for locks.
#[derive(Debug, Default)]
pub struct LockHistory {
    /// Grows when it is undone and falls when it is not.
    score: AtomicU32,
    /// So many times more it takes all locks at once.
    whole_runs: AtomicU32,
}

impl LockHistory {
    const SCORE_UNDONE: u32 = 8;
    const SCORE_MAX: u32 = 32;
    const WHOLE_RUNS: u32 = 64;

    /// Whether it is to begin with all locks.
    pub fn begins_whole(&self) -> bool {
        let left = self.whole_runs.load(Relaxed);
        if left > 0 {
            self.whole_runs.store(left - 1, Relaxed);
        }
        left > 0
    }

    /// Notes a run that ended well without all locks.
    pub fn note_done(&self) {
        let score = self.score.load(Relaxed);
        if score > 0 {
            self.score.store(score - 1, Relaxed);
        }
    }

    /// Notes that it was undone.
    pub fn note_undone(&self, missing: MissingLock) {
        let score = self.score.load(Relaxed) + Self::SCORE_UNDONE;
        self.score.store(score, Relaxed);
        if missing == MissingLock::All || score >= Self::SCORE_MAX {
            self.score.store(Self::SCORE_MAX / 2, Relaxed);
            self.whole_runs.store(Self::WHOLE_RUNS, Relaxed);
        }
    }
}

/// The right to wait for locks; given back when dropped.
pub(super) struct Token<'s>(&'s Scripts);

impl<'s> Token<'s> {
    /// `None` if another script has it.
    pub fn take(scripts: &'s Scripts) -> Option<Self> {
        (!scripts
            .token
            .swap(true, std::sync::atomic::Ordering::Acquire))
        .then(|| Self(scripts))
    }
}

impl Drop for Token<'_> {
    fn drop(&mut self) {
        self.0
            .token
            .store(false, std::sync::atomic::Ordering::Release);
    }
}

/// True if an entry costs more to copy, before it is changed, than is gained if that can be undone.
fn costs_much(entry: EntryRef<'_>) -> bool {
    match entry.value() {
        Value::Stream(stream) => stream.copied_bytes() > COPIED_BYTES_MAX,
        Value::Text(_) | Value::List(_) | Value::Set(_) | Value::Hash(_) | Value::SortedSet(_) => {
            entry.is_large() || entry.allocated_bytes() > COPIED_BYTES_MAX
        }
    }
}

/// How a script holds its locks.
pub(super) enum LockMode<'s> {
    /// It can be undone.
    Revocable,
    /// It can't, and waits for locks.
    Irrevocable { _token: Token<'s> },
    /// It holds all.
    Whole,
}

impl ScriptHost<'_, '_> {
    /// Makes sure that all that a command needs is locked, and that it can be undone or need not be.
    pub(super) fn reach(
        &mut self,
        row: &'static Row,
        handler: Handler,
        args: Args<'_>,
    ) -> Result<(), MissingLock> {
        if let LockMode::Whole = self.lock_mode {
            return Ok(());
        }
        match (handler, row.locks) {
            (Handler::Keyspace(_), Locks::None | Locks::All) => self.reach_all(),
            (Handler::Keyspace(_), Locks::One(_) | Locks::Many) => self.reach_keys(row, args),
            (
                Handler::Session(_) | Handler::Help | Handler::Dispatch(_) | Handler::Script(_),
                _,
            ) => {
                if row.needs_all_locks {
                    return self.reach_all();
                }
                // What it does, like PUBLISH, can't be undone.
                match row.writes {
                    true => self.become_irrevocable(),
                    false => Ok(()),
                }
            }
        }
    }

    /// Makes sure that all shards are locked.
    pub(super) fn reach_all(&mut self) -> Result<(), MissingLock> {
        match self.lock_mode {
            LockMode::Whole => return Ok(()),
            LockMode::Revocable => return Err(MissingLock::All),
            LockMode::Irrevocable { .. } => {}
        }
        for shard in 0..self.tx.engine().shards() {
            while !self.tx.include_shard(shard) {
                self.wait();
            }
        }
        self.tx.hold_all_locks();
        self.lock_mode = LockMode::Whole;
        self.note_locks();
        Ok(())
    }

    fn reach_keys(&mut self, row: &'static Row, args: Args<'_>) -> Result<(), MissingLock> {
        if self.tx.held_events() > KEPT_EVENTS_MAX {
            self.become_irrevocable()?;
        }
        if row.command.keys.writes() {
            self.begin_writing(row, args)?;
        }
        let Keys::Args(specs) = row.command.keys else {
            return Ok(());
        };
        for spec in specs {
            for place in spec.at.places(args) {
                let key = args.key(place);
                self.lock(key.hash)?;
                if spec.access.writes() {
                    self.save(key, spec.access)?;
                }
            }
        }
        Ok(())
    }

    /// Makes sure that what a command writes can be undone, as far as that does not depend on what its keys hold.
    fn begin_writing(&mut self, row: &'static Row, args: Args<'_>) -> Result<(), MissingLock> {
        let LockMode::Revocable = self.lock_mode else {
            return Ok(());
        };
        self.tx.begin_undo();
        let (keys, bytes) = self.tx.saved();
        let more = row.command.key_places(args).count();
        if keys + more > SAVED_KEYS_MAX || bytes > SAVED_BYTES_MAX {
            return self.become_irrevocable();
        }
        Ok(())
    }

    fn lock(&mut self, hash: u64) -> Result<(), MissingLock> {
        while !self.tx.include(hash) {
            if let LockMode::Revocable = self.lock_mode {
                return Err(MissingLock::Shard(self.tx.engine().shard_of(hash)));
            }
            self.wait();
        }
        self.note_locks();
        Ok(())
    }

    /// Waits a moment for a lock.
    fn wait(&mut self) {
        /// Who holds a lock for long is a script; nobody else has to be hurried for.
        const WAIT: Duration = Duration::from_micros(100);
        if self.is_slow() {
            self.serve_others(WAIT);
        } else {
            std::thread::yield_now();
            self.serve_others_if_due();
        }
        self.look_at_clock();
    }

    /// Saves what a key holds that is about to be changed, whose shard is locked.
    fn save(&mut self, key: Key<'_>, access: Access) -> Result<(), MissingLock> {
        if !self.tx.can_undo() {
            return Ok(());
        }
        if let Some(entry) = self.tx.view_in(self.db, key) {
            // The old one of these is not changed but dropped, and so need not be copied.
            let is_replaced = matches!(access, Access::Overwrite | Access::Remove);
            let is_shared = entry.is_large() && is_replaced;
            if !is_shared && costs_much(entry) {
                return self.become_irrevocable();
            }
        }
        self.tx.save(self.db, key);
        Ok(())
    }

    /// Lets what the script did stay from now on, whatever happens.
    pub(super) fn become_irrevocable(&mut self) -> Result<(), MissingLock> {
        let LockMode::Revocable = self.lock_mode else {
            return Ok(());
        };
        let Some(token) = Token::take(&self.shared.scripts) else {
            return Err(MissingLock::All);
        };
        self.lock_mode = LockMode::Irrevocable { _token: token };
        self.tx.commit();
        self.shared.scripts.counts.irrevocable.fetch_add(1, Relaxed);
        self.let_go();
        Ok(())
    }
}
