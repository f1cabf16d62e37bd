//! Commands on keys: the locks, the section, and what follows it.

use damselfly_commands::memcached::{MemcachedFn, Output};
use damselfly_commands::{Args, KeyspaceFn, Stop};
use damselfly_engine::{Busy, Engine, Now, Tx, Unserved};
use damselfly_protocol::Reply;

use super::Dispatcher;
use super::account::{count_effects, touches_keys};
use crate::blocked::Blocking;
use crate::long_commands::LongRun;
use crate::memcached;
use crate::registry::{Locks, Row};
use crate::session::Session;

impl Dispatcher {
    /// Runs a command on keys, with the locks that its row needs.
    #[inline]
    pub(super) fn run_on_keys(
        &mut self,
        session: &mut Session,
        row: &'static Row,
        run: KeyspaceFn,
        args: Args<'_>,
        now: Now,
        reply: &mut Reply<'_>,
    ) -> damselfly_commands::Result {
        let (engine, db) = (&self.shared.engine, session.db);
        let mut tx = lock(engine, row, args, db, now, &mut self.shards)?;
        tx.set_others_wait();
        tx.set_touches(touches_keys(session, row));
        let mut result = damselfly_commands::run(run, &mut tx, args, reply);
        if result.is_err() {
            if let Err(Stop::NeedsAllLocks) = result {
                drop(tx);
                tx = engine.lock_all(db, now)?;
                tx.set_others_wait();
                tx.set_touches(touches_keys(session, row));
                result = damselfly_commands::run(run, &mut tx, args, reply);
            }
            if let Err(stop @ (Stop::Long | Stop::LongUnlocked(_))) = result {
                // The long run will report missed keys itself. Expired keys were removed already.
                tx.discard_events();
                let has_extras = serve_waiters(&mut tx, &mut self.waiters_to_retry);
                drop(tx);
                if has_extras {
                    self.finish_section(session);
                }
                let unlocked = match stop {
                    Stop::LongUnlocked(unlocked) => Some(unlocked),
                    _ => None,
                };
                let run = LongRun::Keyspace(run);
                return self.run_as_long(session, row, run, unlocked, args);
            }
            if let Err(Stop::Wait(wait)) = &result {
                let blocking = Blocking::new(&self.shared, session, row, args, wait, &mut tx);
                session.blocking = Some(blocking);
            }
        }
        if let Some(tracked) = &session.tracked {
            tracked.reader(&session.client).note(&mut tx, row, args);
        }
        let has_extras = serve_waiters(&mut tx, &mut self.waiters_to_retry);
        count_effects(&self.shared.threads[self.thread].counters, tx.effects());
        drop(tx);
        if has_extras {
            self.finish_section(session);
        }
        result
    }

    /// Runs a command of memcached's protocol, which is always one on keys.
    #[inline]
    pub(super) fn run_on_items(
        &mut self,
        session: &mut Session,
        row: &'static Row,
        run: MemcachedFn,
        args: Args<'_>,
        now: Now,
        reply: &mut Reply<'_>,
    ) -> damselfly_commands::Result {
        let (engine, db) = (&self.shared.engine, session.db);
        let mut tx = lock(engine, row, args, db, now, &mut self.shards)?;
        let mut output = Output::new(reply.buffer());
        let start = tx.begin_command();
        let result = run(&mut tx, args, &mut output);
        if tx.is_logged() && (tx.has_changed(start) || output.has_claimed) {
            session.has_logged = true;
            match tx.has_changed(start) {
                true => memcached::log_items(&mut tx, row, args),
                false => memcached::log_attributes(&mut tx, args.key(1)),
            }
        }
        let counters = &self.shared.threads[self.thread].counters;
        counters.memcached.add(output.tally);
        count_effects(counters, tx.effects());
        let has_extras = serve_waiters(&mut tx, &mut self.waiters_to_retry);
        drop(tx);
        if has_extras {
            self.finish_section(session);
        }
        result
    }
}

/// Serves the clients that wait for what a section has changed. True if there is work left for after the section: `finish_section`.
#[inline]
fn serve_waiters(tx: &mut Tx<'_>, to_retry: &mut Vec<Unserved>) -> bool {
    let has_extras = tx.has_extras();
    if has_extras {
        to_retry.extend(tx.serve_waiters());
    }
    has_extras
}

/// Takes the locks that a row needs.
#[inline(always)]
pub fn lock<'a>(
    engine: &'a Engine,
    row: &'static Row,
    args: Args<'a>,
    db: usize,
    now: Now,
    shards: &'a mut Vec<usize>,
) -> Result<Tx<'a>, Busy> {
    match row.locks {
        Locks::One(place) => engine.lock_one(args.key(place).hash, db, now),
        Locks::Many => {
            let places = row.command.key_places(args);
            engine.lock_many(places.map(|place| args.key(place).hash), shards, db, now)
        }
        Locks::All => engine.lock_all(db, now),
        Locks::None => Ok(engine.lock_none(db, now)),
    }
}
