//! DEBUG RELOAD: saves the data and loads the file again, for tests. DEBUG LOADAOF does the same with the append-only file.
//!
//! It runs in one section with all locks, so that no client sees the data while a part of it is missing.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use damselfly_base::CommandError;
use damselfly_commands::{Args, Result, Stop};
use damselfly_engine::{DuplicateEntry, Now, Tx};
use damselfly_log::Targets;
use damselfly_protocol::Reply;

use super::load::{LoadError, LoadOptions, NewEntry, SerialSink, load};
use super::{Cause, aof, start};
use crate::clock;
use crate::scripts::function_commands;
use crate::session::Context;
use crate::shared::Shared;

/// The options of DEBUG RELOAD.
struct Options {
    /// The data is saved first.
    saves: bool,
    /// Keys and function libraries are deleted before the file is loaded.
    empties: bool,
    /// Keys and libraries of the file replace those of the same name.
    merges: bool,
}

impl Options {
    fn parse(args: Args<'_>) -> Result<Self> {
        let (mut saves, mut empties, mut merges) = (true, true, false);
        for at in 2..args.len() {
            if args.is(at, "MERGE") {
                merges = true;
            } else if args.is(at, "NOFLUSH") {
                empties = false;
            } else if args.is(at, "NOSAVE") {
                saves = false;
            } else {
                let text = "DEBUG RELOAD only supports the MERGE, NOFLUSH and NOSAVE options.";
                return Err(CommandError::err(text).into());
            }
        }
        Ok(Self {
            saves,
            empties,
            merges,
        })
    }

    /// Reloads. The section has all locks.
    fn run(&self, shared: &Shared, tx: &mut Tx<'_>) -> Result {
        if self.saves && !shared.persistence.save_within(shared, tx, Cause::Implied) {
            return Err(CommandError::Text(String::from("ERR")).into());
        }
        // The cut of a save in progress must not see the reloaded data.
        shared.persistence.finish_save(tx);
        if self.empties {
            empty(shared, tx)?;
        }
        if let Err(error) = self.load(shared, tx) {
            log::error!("DEBUG RELOAD: {error}");
            let text = "Error trying to load the RDB dump";
            return Err(CommandError::err(text).into());
        }
        log::warn!("DB reloaded by DEBUG RELOAD");
        Ok(())
    }

    fn load(&self, shared: &Shared, tx: &mut Tx<'_>) -> std::result::Result<(), String> {
        let path = start::path(&shared.config());
        load_within(shared, tx, &path, self.merges, true)
            .map(drop)
            .map_err(|error| format!("{}: {error}", path.display()))
    }
}

/// Deletes all keys and function libraries.
fn empty(shared: &Shared, tx: &mut Tx<'_>) -> Result {
    for db in 0..shared.engine.databases() {
        tx.flush(db, true);
    }
    tx.invalidate_all();
    shared.functions.change(|libraries| {
        libraries.clear();
        Ok(())
    })?;
    Ok(())
}

/// Loads a file, and returns the offset of its end.
fn load_within(
    shared: &Shared,
    tx: &mut Tx<'_>,
    path: &Path,
    merges: bool,
    check_end: bool,
) -> std::result::Result<u64, String> {
    let config = shared.config();
    let (file, bytes) = start::open(path).map_err(|error| error.to_string())?;
    let progress = &shared.loading.progress;
    progress.begin(bytes);
    let options = LoadOptions {
        thresholds: &shared.engine.settings.thresholds,
        verify_checksum: config.rdbchecksum && !shared.persistence.skips_checksum.load(Relaxed),
        databases: shared.engine.databases(),
        check_end,
        key_delay_us: &|| shared.config().key_load_delay_us,
        stop: &|| shared.stopping.load(Relaxed),
    };
    let mut sink = SerialSink {
        thresholds: options.thresholds,
        progress,
        entry: |db, new: NewEntry| store(shared, tx, db, new, merges),
        function: |code: &[u8]| {
            function_commands::load_library(&shared.functions, code, merges)
                .map(|_| ())
                .map_err(|error| String::from_utf8_lossy(&error.to_bytes()).into_owned())
        },
    };
    load(file, &options, progress, &mut sink).map_err(|error| error.to_string())
}

fn store(
    shared: &Shared,
    tx: &mut Tx<'_>,
    db: usize,
    new: NewEntry,
    merges: bool,
) -> std::result::Result<(), LoadError> {
    let now = shared.loading.progress.now();
    let access = shared
        .engine
        .loaded_access(now, new.idle_seconds, new.frequency);
    new.entry.view().set_access(access);
    tx.load_noted(db, new.entry, merges).map_err(|entry| {
        let offset = new.offset;
        LoadError::duplicate(&DuplicateEntry { entry, offset }, db as u64)
    })
}

/// Loads the base of an append-only file, expired keys included, and returns the offset of its end. The section has all locks.
///
/// # Errors
/// What is wrong with the file.
pub fn load_base(
    shared: &Shared,
    tx: &mut Tx<'_>,
    path: &Path,
) -> std::result::Result<u64, String> {
    let progress = &shared.loading.progress;
    progress.keep_expired(true);
    tx.keep_expired();
    let loaded = load_within(shared, tx, path, false, false);
    progress.keep_expired(false);
    loaded
}

/// Empties the databases and loads the append-only file. The section has all locks.
fn run_loadaof(shared: &Arc<Shared>, tx: &mut Tx<'_>) -> Result {
    let failed = |why: &str| {
        log::error!("DEBUG LOADAOF: {why}");
        let text = "Error trying to load the AOF files, check server logs.";
        CommandError::err(text)
    };
    if !shared.aof.wait_for(shared.engine.log.appended()) {
        return Err(failed("the last changes can't be written").into());
    }
    let manifest =
        aof::load::read_manifest(&shared.aof, &shared.config()).map_err(|why| failed(&why))?;
    if manifest.is_empty() {
        return Err(failed("there is none").into());
    }
    // The cut of a save in progress must not see the loaded data.
    shared.persistence.finish_save(tx);
    // What is loaded is in the log already.
    tx.set_log_targets(Targets::NONE);
    let loaded = empty(shared, tx).and_then(|()| {
        let stop = || shared.stopping.load(Relaxed);
        aof::load::load(shared, &manifest, Some(tx), &stop).map_err(|why| failed(&why))?;
        Ok(())
    });
    tx.set_log_targets(Targets::ALL);
    if loaded.is_ok() {
        log::warn!("Append Only File loaded by DEBUG LOADAOF");
    }
    loaded
}

fn refuse_while_loading(shared: &Shared) -> Result {
    if shared.gate.is_loading() {
        // What is loaded so far must not replace the file.
        let text = "LOADING Redis is loading the dataset in memory";
        return Err(CommandError::Text(String::from(text)).into());
    }
    Ok(())
}

/// DEBUG LOADAOF within a transaction. Alone, it runs on a thread for long commands.
pub fn loadaof(context: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    refuse_while_loading(context.shared)?;
    let Some(lent) = &mut context.lent else {
        return Err(Stop::Long);
    };
    run_loadaof(context.shared, &mut lent.lend())?;
    reply.ok();
    Ok(())
}

/// The part of DEBUG LOADAOF that runs on a thread for long commands.
pub fn loadaof_alone(shared: &Arc<Shared>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let mut tx = shared.engine.lock_all(0, Now(clock::now_ms()))?;
    run_loadaof(shared, &mut tx)?;
    reply.ok();
    Ok(())
}

/// DEBUG RELOAD within a transaction. Alone, it runs on a thread for long commands.
pub fn reload(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let options = Options::parse(args)?;
    let shared = context.shared;
    refuse_while_loading(shared)?;
    let Some(lent) = &mut context.lent else {
        return Err(Stop::Long);
    };
    options.run(shared, &mut lent.lend())?;
    reply.ok();
    Ok(())
}

/// The part of DEBUG RELOAD that runs on a thread for long commands.
pub fn reload_alone(shared: &Arc<Shared>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let options = Options::parse(args)?;
    let mut tx = shared.engine.lock_all(0, Now(clock::now_ms()))?;
    options.run(shared, &mut tx)?;
    reply.ok();
    Ok(())
}

/// DEBUG SET-SKIP-CHECKSUM-VALIDATION
pub fn set_skip_checksum(
    context: &mut Context<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result {
    let skips = damselfly_base::number::parse_integer(args.at(2)).is_some_and(|number| number != 0);
    let flag = &context.shared.persistence.skips_checksum;
    flag.store(skips, Relaxed);
    reply.ok();
    Ok(())
}
