//! Replies that come later than their turn: of commands that wait for keys or run elsewhere, and of those written in slices.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use damselfly_commands::{Args, KeyspaceFn, Stop};
use damselfly_engine::Now;
use damselfly_protocol::Reply;

use super::account::count_effects;
use super::{Dispatcher, drop_unwanted};
use crate::blocked::End;
use crate::clock;
use crate::event_loop::connection::Connection;
use crate::event_loop::input::Stall;
use crate::long_commands::LongCommand;
use crate::registry::Row;
use crate::session::{self, Session};

/// How much of a long reply is written at once, in bytes.
pub const REPLY_SLICE_BYTES: usize = 128 << 10;

impl Dispatcher {
    /// Has a long command run on another thread.
    #[cold]
    pub(super) fn run_as_long(
        &self,
        session: &mut Session,
        row: &'static Row,
        run: KeyspaceFn,
        args: Args<'_>,
    ) -> damselfly_commands::Result {
        // Before what the command itself publishes.
        self.shared.pubsub.send(self.thread, &self.shared.threads);
        let command = Arc::new(LongCommand::new(session, row, run, args.to_owned()));
        session.long = Some(command.clone());
        self.shared.long.add(command);
        Err(Stop::Long)
    }

    /// Counts a call that waits now.
    #[cold]
    pub(super) fn count_blocked(&self, row: &Row, started: &mut u64) {
        let ended = self.clock.raw();
        let took_ns = self.clock.delta_as_nanos(*started, ended);
        *started = ended;
        let command = &self.counters().commands[row.index];
        command.record(took_ns, self.config.latency_tracking);
    }

    /// Writes the reply to a command that waited.
    pub fn finish_blocked(&self, connection: &mut Connection, end: End) {
        connection.input.resume();
        let session = &mut connection.session;
        let Some(blocking) = session.blocking.take() else {
            return;
        };
        blocking.unregister();
        let mut reply = Reply::new(&mut connection.output, session.protocol);
        let mark = reply.position();
        let failed = end.write(&mut reply);
        drop_unwanted(session, &mut reply, mark);
        crate::observers::client_tracking::take_pending_invalidations(&self.shared, session);
        if session.follow_up {
            session::follow_up(session, Some(blocking.row), mark, &mut reply);
        }
        if let Some(error) = failed {
            let counters = self.counters();
            counters.commands[blocking.row.index].failed.add(1);
            counters.count_error(&error.to_bytes());
        }
    }

    /// Writes the reply of a command that ran elsewhere, if it has; false if it failed by a bug.
    pub fn finish_long(&mut self, connection: &mut Connection) -> bool {
        // Its thread may have used it up.
        self.forget_room();
        let session = &mut connection.session;
        let Some(command) = &session.long else {
            connection.input.resume();
            return true;
        };
        let Some(outcome) = command.take_outcome() else {
            return !command.panicked.load(Relaxed);
        };
        let command = command.clone();
        let congested = self.shared.pubsub.take_congested(self.shared.threads.len());
        session.congested = congested.or(session.congested);
        (session.long, session.rest) = (None, outcome.rest);
        let mut reply = Reply::new(&mut connection.output, session.protocol);
        let mark = reply.position();
        reply.raw_all(outcome.reply);
        count_effects(self.counters(), outcome.effects);
        let args = command.args.borrow();
        self.account_for(session, command.row, args, outcome.took_ns, outcome.failed);
        drop_unwanted(session, &mut reply, mark);
        crate::observers::client_tracking::take_pending_invalidations(&self.shared, session);
        if session.follow_up {
            session::follow_up(session, Some(command.row), mark, &mut reply);
        }
        match session.rest.is_some() {
            true => connection.input.wait_for(Stall::SlicedReply),
            false => connection.resume(),
        }
        true
    }

    /// Writes a slice of a reply; the connection goes on when that was the last.
    pub fn write_next_slice(&self, connection: &mut Connection) {
        let session = &mut connection.session;
        let mut reply = Reply::new(&mut connection.output, session.protocol);
        if let Some(rest) = &mut session.rest
            && rest.write(&mut reply, REPLY_SLICE_BYTES)
        {
            return;
        }
        session.rest = None;
        if session.follow_up {
            let mark = reply.position();
            session::follow_up(session, None, mark, &mut reply);
        }
        connection.resume();
    }

    /// What follows from a section that served others or told of changes.
    #[cold]
    pub(crate) fn finish_section(&mut self, session: &mut Session) {
        self.retry_waiters();
        self.note_congested(session);
        crate::observers::client_tracking::take_pending_invalidations(&self.shared, session);
    }

    /// Lets a client wait whose command has caused more messages than can be delivered soon.
    pub(crate) fn note_congested(&self, session: &mut Session) {
        let (pubsub, tracking) = (&self.shared.pubsub, &self.shared.tracking);
        let congested = pubsub.take_congested(self.thread);
        let congested = congested.or_else(|| tracking.congested(pubsub));
        session.congested = congested.or(session.congested);
    }

    /// Serves waiters that could not be served when their keys were changed, if what they need is free now.
    pub fn retry_waiters(&mut self) {
        if !self.waiters_to_retry.is_empty() {
            self.retry_waiters_now();
        }
    }

    #[cold]
    pub(super) fn retry_waiters_now(&mut self) {
        let engine = &self.shared.engine;
        let mut left = std::mem::take(&mut self.waiters_to_retry);
        while let Some(waiters_to_retry) = left.pop() {
            match engine.serve_waiters(&waiters_to_retry, Now(clock::now_ms())) {
                Ok(further) => left.extend(further),
                // Became free in between: there may be no release to wait for.
                Err(busy) if engine.wait(busy, self.thread) => left.push(waiters_to_retry),
                Err(_) => self.waiters_to_retry.push(waiters_to_retry),
            }
        }
    }
}
