//! Saving when the server stops.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use damselfly_engine::{Busy, Now};

use crate::clock;
use crate::shared::Shared;

/// Whether a stopping server saves its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaveAtEnd {
    /// If there are save points.
    IfConfigured,
    /// In any case.
    Always,
    /// Never.
    Never,
}

/// The data could not be saved, so the server goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotSaved;

/// True if the server saves before it stops.
pub fn is_save_due(shared: &Shared, saves: SaveAtEnd) -> bool {
    match saves {
        SaveAtEnd::IfConfigured => !shared.config().save.0.is_empty(),
        SaveAtEnd::Always => true,
        SaveAtEnd::Never => false,
    }
}

/// Saves if necessary, and makes the server stop. No command runs between the save and the end. With `force`, the server stops even if
/// the save fails.
///
/// # Errors
/// A shard is busy, or the save failed.
pub fn save_and_stop(
    shared: &Arc<Shared>,
    saves: SaveAtEnd,
    force: bool,
) -> Result<Result<(), NotSaved>, Busy> {
    if !is_save_due(shared, saves) {
        shared.stop();
        return Ok(Ok(()));
    }
    // Scripts that have changed nothing end.
    shared.ending.store(true, Relaxed);
    let now = Now(clock::now_ms());
    let persistence = &shared.persistence;
    if let Some(job) = persistence.job() {
        job.abort("the server stops");
        job.help_until_ended(&mut shared.engine.lock_none(0, now));
    }
    let mut tx = shared.engine.lock_all(0, now)?;
    log::warn!("Saving the final RDB snapshot before exiting.");
    let is_ok = persistence
        .start(shared, &mut tx)
        .is_ok_and(|job| job.help_until_ended(&mut tx));
    if !is_ok && !force {
        shared.ending.store(false, Relaxed);
        return Ok(Err(NotSaved));
    }
    shared.stop();
    // The locks stay taken until the process ends, so that no later write is acknowledged.
    std::mem::forget(tx);
    Ok(Ok(()))
}
