//! The locks of a script.
//!
//! ```text
//!           a lock is busy, or all are needed: rolled back
//!          ┌──────────────────────────────────────────────────┐
//!          ▼                                                  │
//!   locks of declared keys,       a command on other keys     │
//!   and those that earlier ─────► tries their locks ──────────┤
//!   attempts needed                                           │
//!          │                                                  │ too much to save, PUBLISH: takes the token
//!          ▼                                                  ▼
//!         done                                irrevocable: waits for locks
//! ```
//!
//! A script that can be rolled back never waits while it holds locks, and neither does any command. Only the script that has the
//! token does; all others release their locks sooner or later, so there is no deadlock. A script that fails to get the token is
//! rolled back and retried with all locks held. A section that holds all locks needs no others.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use damselfly_commands::{Access, Args, Keys};
use damselfly_engine::Key;
use damselfly_value::{EntryRef, Value};

use super::Scripts;
use super::host::ScriptHost;
use crate::registry::{Handler, Locks, Row};

/// The number of failed attempts after which a script runs with all locks held.
const ATTEMPTS_MAX: u32 = 2;

/// Limits on the keys and bytes saved for a rollback. A script that exceeds one becomes irrevocable.
const SAVED_KEYS_MAX: usize = 256;
const SAVED_BYTES_MAX: usize = 1 << 20;
/// The same for the number of events that are not published yet.
const KEPT_EVENTS_MAX: usize = 4096;
/// A larger value is not copied for a rollback; a script that changes one becomes irrevocable.
const COPIED_BYTES_MAX: usize = 64 << 10;

/// The locks that a script takes when it begins, in addition to those of its declared keys.
#[derive(Debug, Default)]
pub struct Plan {
    /// Shards that earlier attempts needed.
    pub shards: Vec<usize>,
    /// All shards.
    pub all: bool,
    /// Clients in MONITOR mode have seen the script.
    pub is_shown: bool,
    attempts: u32,
}

impl Plan {
    /// Learns from an attempt that was rolled back; `held` are the shards that it had locked.
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

/// The lock that a script failed to get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissingLock {
    /// The lock of this shard, which is busy.
    Shard(usize),
    /// All locks.
    All,
}

/// How often a script lacked locks, which decides whether it begins with all of them.
#[derive(Debug, Default)]
pub struct LockHistory {
    /// Grows with each rollback and falls with each run without one.
    score: AtomicU32,
    /// How many of the next runs begin with all locks.
    whole_runs: AtomicU32,
}

impl LockHistory {
    const SCORE_UNDONE: u32 = 8;
    const SCORE_MAX: u32 = 32;
    const WHOLE_RUNS: u32 = 64;

    /// True if the script should begin with all locks. Each call counts as a run.
    pub fn begins_whole(&self) -> bool {
        let left = self.whole_runs.load(Relaxed);
        if left > 0 {
            self.whole_runs.store(left - 1, Relaxed);
        }
        left > 0
    }

    /// Records a run that needed no rollback and did not begin with all locks.
    pub fn note_done(&self) {
        let score = self.score.load(Relaxed);
        if score > 0 {
            self.score.store(score - 1, Relaxed);
        }
    }

    /// Records a rollback.
    pub fn note_undone(&self, missing: MissingLock) {
        let score = self.score.load(Relaxed) + Self::SCORE_UNDONE;
        self.score.store(score, Relaxed);
        if missing == MissingLock::All || score >= Self::SCORE_MAX {
            self.score.store(Self::SCORE_MAX / 2, Relaxed);
            self.whole_runs.store(Self::WHOLE_RUNS, Relaxed);
        }
    }
}

/// The right to wait for locks; released when dropped.
pub(super) struct Token<'s>(&'s Scripts);

impl<'s> Token<'s> {
    /// Takes the token; `None` if another script has it.
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

/// True if copying an entry before it is changed costs more than the ability to roll back is worth.
fn costs_much(entry: EntryRef<'_>) -> bool {
    match entry.value() {
        Value::Stream(stream) => stream.copied_bytes() > COPIED_BYTES_MAX,
        Value::Text(_) | Value::List(_) | Value::Set(_) | Value::Hash(_) | Value::SortedSet(_) => {
            entry.is_large() || entry.allocated_bytes() > COPIED_BYTES_MAX
        }
    }
}

/// Which locks a script holds, and whether it may wait for more.
pub(super) enum LockMode<'s> {
    /// The script can be rolled back, and never waits for locks.
    Revocable,
    /// The script can't be rolled back, and waits for locks.
    Irrevocable { _token: Token<'s> },
    /// The script holds all locks.
    Whole,
}

impl ScriptHost<'_, '_> {
    /// Locks the shards that a command needs, and makes sure that the command can be rolled back or that the script is irrevocable.
    pub(super) fn lock_shards(
        &mut self,
        row: &'static Row,
        handler: Handler,
        args: Args<'_>,
    ) -> Result<(), MissingLock> {
        if let LockMode::Whole = self.lock_mode {
            return Ok(());
        }
        match (handler, row.locks) {
            (Handler::Keyspace(_), Locks::None | Locks::All) => self.lock_all_shards(),
            (Handler::Keyspace(_), Locks::One(_) | Locks::Many) => {
                self.lock_shards_of_keys(row, args)
            }
            (
                Handler::Session(_)
                | Handler::Help
                | Handler::Dispatch(_)
                | Handler::Script(_)
                | Handler::Memcached(_),
                _,
            ) => {
                if row.needs_all_locks {
                    return self.lock_all_shards();
                }
                // The effects of such a command, like those of PUBLISH, can't be rolled back.
                match row.writes {
                    true => self.become_irrevocable(),
                    false => Ok(()),
                }
            }
        }
    }

    /// Locks all shards.
    pub(super) fn lock_all_shards(&mut self) -> Result<(), MissingLock> {
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

    fn lock_shards_of_keys(
        &mut self,
        row: &'static Row,
        args: Args<'_>,
    ) -> Result<(), MissingLock> {
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

    /// Prepares for rolling back a command that writes. The checks that depend on the values of its keys follow in [`Self::save`].
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
        /// Only a script holds a lock for long, so there is no need to retry more often.
        const WAIT: Duration = Duration::from_micros(100);
        if self.is_slow() {
            self.serve_others(WAIT);
        } else {
            std::thread::yield_now();
            self.serve_others_if_due();
        }
        self.look_at_clock();
    }

    /// Saves the value of a key that is about to change. The key's shard must be locked.
    fn save(&mut self, key: Key<'_>, access: Access) -> Result<(), MissingLock> {
        if !self.tx.can_undo() {
            return Ok(());
        }
        if let Some(entry) = self.tx.view_in(self.db, key) {
            // Such a command drops the old value without changing it, so it need not be copied.
            let is_replaced = matches!(access, Access::Overwrite | Access::Remove);
            let is_shared = entry.is_large() && is_replaced;
            if !is_shared && costs_much(entry) {
                return self.become_irrevocable();
            }
        }
        self.tx.save(self.db, key);
        Ok(())
    }

    /// Commits the script's changes so far; from now on it can't be rolled back, and waits for locks.
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
        self.release_effects();
        Ok(())
    }
}
