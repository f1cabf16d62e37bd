//! Saving when the server stops.
//!
//! The final save runs under all locks, so no command runs between it and the end: every write that a client got a reply to is in the
//! file. Scripts may hold locks for long. `Shared::ending` makes those end that have written nothing; the others are awaited, because
//! a half done script must not be saved.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use damselfly_base::CommandError;
use damselfly_config::ShutdownFlags;
use damselfly_engine::{Busy, Now};

use super::Cause;
use super::aof::Mode;
use crate::clock;
use crate::shared::Shared;

/// How to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shutdown {
    /// What is saved, whether the server stops in any case, and whether it waits for replicas before.
    pub flags: ShutdownFlags,
    /// It also waits for slow scripts.
    pub waits_for_scripts: bool,
}

/// Why the server goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotStopped {
    /// The data could not be saved. The log says why.
    NotSaved,
    /// SHUTDOWN ABORT has ended the wait for replicas.
    Aborted,
    /// A slow script runs: the error for the client.
    Script(CommandError),
}

impl Shutdown {
    /// True if the server saves before it stops.
    pub fn saves(&self, shared: &Shared) -> bool {
        if shared.gate.is_loading() {
            // What is loaded so far must not replace the file.
            return false;
        }
        let is_configured = !shared.config().save.0.is_empty();
        self.flags.save || is_configured && !self.flags.nosave
    }

    /// True if it has something to do before the server stops.
    pub fn takes_long(&self, shared: &Shared) -> bool {
        self.saves(shared) || self.awaits_base(shared) || self.awaits_file(shared)
    }

    /// True while changes have yet to be written to the append-only file.
    fn awaits_file(&self, shared: &Shared) -> bool {
        shared.aof.mode() == Mode::On
            && !self.flags.nosave
            && shared.aof.durable() < shared.engine.log.appended()
    }

    /// Waits until all changes are in the append-only file. False if that fails.
    fn wait_for_file(&self, shared: &Shared) -> bool {
        let is_written =
            !self.awaits_file(shared) || shared.aof.wait_for(shared.engine.log.appended());
        if !is_written {
            log::error!(
                "The last changes can't be written to the append-only file: {}",
                shared.aof.status().write_error.unwrap_or_default()
            );
        }
        is_written
    }

    /// True while the append-only file is on, but a restart would not load it yet: without its base, everything would be lost.
    fn awaits_base(&self, shared: &Shared) -> bool {
        shared.config().appendonly
            && !self.flags.nosave
            && shared.aof.mode() != Mode::On
            && !shared.gate.is_loading()
    }

    /// Waits until the append-only file has its base. False if that fails.
    fn wait_for_base(&self, shared: &Shared) -> bool {
        const POLL_INTERVAL: Duration = Duration::from_millis(2);
        let failures = shared.aof.status().failures;
        if self.awaits_base(shared) {
            log::warn!("Writing the initial base of the append-only file before exiting.");
        }
        while self.awaits_base(shared) && !shared.stopping.load(Relaxed) {
            let status = shared.aof.status();
            if status.failures > failures || status.write_error.is_some() {
                return false;
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        true
    }

    /// Saves if necessary, and makes the server stop. No command runs between the save and the end.
    ///
    /// # Errors
    /// A shard is busy, so the caller has to try again, or the server goes on.
    pub fn run(&self, shared: &Arc<Shared>) -> Result<Result<(), NotStopped>, Busy> {
        if !self.flags.now
            && !shared.stopping.load(Relaxed)
            && shared.replication.wait_before_shutdown(shared).is_err()
        {
            return Ok(Err(NotStopped::Aborted));
        }
        if !self.wait_for_base(shared) {
            if !self.flags.force {
                shared.replication.end_last_wait(shared);
                return Ok(Err(NotStopped::NotSaved));
            }
            log::error!("The append-only file has no base. Exit anyway.");
        }
        if !self.wait_for_file(shared) {
            if !self.flags.force {
                shared.replication.end_last_wait(shared);
                return Ok(Err(NotStopped::NotSaved));
            }
            log::error!("Changes that are not in the append-only file are lost. Exit anyway.");
        }
        let result = self.try_run(shared);
        if matches!(result, Ok(Err(_))) {
            shared.replication.end_last_wait(shared);
        }
        // Scripts that have written nothing end while a shutdown waits for their locks.
        shared.ending.store(result.is_err(), Relaxed);
        result
    }

    fn try_run(&self, shared: &Arc<Shared>) -> Result<Result<(), NotStopped>, Busy> {
        if shared.stopping.load(Relaxed) {
            // Another shutdown was faster, maybe one without a save.
            return Ok(Ok(()));
        }
        if !self.saves(shared) {
            shared.stop();
            return Ok(Ok(()));
        }
        let mut tx = match shared.engine.lock_all(0, Now(clock::now_ms())) {
            Ok(tx) => tx,
            Err(busy) => {
                let script = shared.scripts.busy(busy.shard);
                return match script.filter(|_| !self.waits_for_scripts) {
                    Some(error) => Ok(Err(NotStopped::Script(error))),
                    None => Err(busy),
                };
            }
        };
        let persistence = &shared.persistence;
        if let Some(job) = persistence.job() {
            log::warn!("A save is in progress. Aborting it, since the final one is newer.");
            job.abort("the server stops");
        }
        shared.replication.wait_until_merged(shared);
        log::info!("Saving the final RDB snapshot before exiting.");
        let is_ok = persistence.save_within(shared, &mut tx, Cause::Implied);
        match (is_ok, self.flags.force) {
            (true, _) => {}
            (false, true) => log::error!("Error trying to save the DB. Exit anyway."),
            (false, false) => return Ok(Err(NotStopped::NotSaved)),
        }
        shared.stop();
        // The locks stay taken until the process ends, so that no later write is acknowledged.
        std::mem::forget(tx);
        Ok(Ok(()))
    }
}
