//! Deferred replies: of blocked clients, of long commands, and replies that are written in slices.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use damselfly_commands::{Args, Stop, Unlocked};
use damselfly_engine::Now;
use damselfly_protocol::Reply;

use super::Dispatcher;
use super::account::count_effects;
use crate::blocked::End;
use crate::clock;
use crate::event_loop::connection::Connection;
use crate::event_loop::input::Stall;
use crate::long_commands::{self, LongCommand, LongRun};
use crate::registry::Row;
use crate::session::{self, DiskWait, Replies, RestOfReply, Session};

/// The size of a slice of a long reply, in bytes.
pub const REPLY_SLICE_BYTES: usize = 128 << 10;

impl Dispatcher {
    /// Queues a command for a thread for long commands.
    #[cold]
    pub(super) fn run_as_long(
        &self,
        session: &mut Session,
        row: &'static Row,
        run: LongRun,
        unlocked: Option<Unlocked>,
        args: Args<'_>,
    ) -> damselfly_commands::Result {
        // Messages of earlier commands come before those of this one.
        self.shared.pubsub.send(self.thread, &self.shared.threads);
        let command = Arc::new(LongCommand::new(
            session,
            row,
            run,
            unlocked,
            args.to_owned(),
        ));
        session.long = Some(command.clone());
        long_commands::start(&self.shared, command);
        Err(Stop::Long)
    }

    /// Notes the time of a call that begins to wait for keys. As since Redis 7.2, the call counts when the wait ends.
    #[cold]
    pub(super) fn note_blocked(&self, session: &mut Session, started: &mut u64) {
        let ended = self.clock.raw();
        if let Some(blocking) = &mut session.blocking {
            blocking.took_ns = self.clock.delta_as_nanos(*started, ended);
        }
        *started = ended;
    }

    /// Writes the reply of a command that waited for keys.
    pub fn finish_blocked(&self, connection: &mut Connection, end: End) {
        connection.input.resume();
        let session = &mut connection.session;
        let Some(blocking) = session.blocking.take() else {
            return;
        };
        blocking.unregister();
        session.has_logged = true;
        let mut reply = Reply::new(&mut connection.output, session.protocol);
        let mark = reply.position();
        let failed = end.write(&blocking, &mut reply);
        drop_unwanted(session, &mut reply, mark);
        crate::observers::client_tracking::take_pending_invalidations(&self.shared, session);
        if session.follow_up {
            session::follow_up(session, Some(blocking.row), mark, &mut reply);
        }
        let counters = self.counters();
        let command = &counters.commands[blocking.row.index];
        command.record(blocking.took_ns, self.config.latency_tracking);
        if let Some(error) = failed {
            command.failed.add(1);
            counters.count_error(&error.to_bytes());
        }
    }

    /// Writes the reply of a long command, if it has run; false if it panicked.
    pub fn finish_long(&mut self, connection: &mut Connection) -> bool {
        // The long command may have used up the memory that was left.
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
        (session.long, session.rest) = (None, outcome.rest.map(RestOfReply::Slices));
        session.has_logged = true;
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

    /// Writes the reply of WAIT or WAITAOF.
    #[cold]
    pub fn finish_disk_wait(&self, connection: &mut Connection, wait: DiskWait) {
        let session = &mut connection.session;
        let mut reply = Reply::new(&mut connection.output, session.protocol);
        let mark = reply.position();
        let end = session.client.wait_end().take();
        match end {
            Some(End::Failed(error)) => reply.error(error.to_bytes()),
            Some(_) | None => wait.write_reply(&self.shared, &mut reply),
        }
        wait.end(&self.shared);
        session.client.awaits.store(false, Relaxed);
        drop_unwanted(session, &mut reply, mark);
    }

    /// Writes the next slice of a reply. Resumes the connection after the last one.
    pub fn write_next_slice(&self, connection: &mut Connection) {
        let session = &mut connection.session;
        let mut reply = Reply::new(&mut connection.output, session.protocol);
        if let Some(rest) = &mut session.rest {
            match rest.write(&self.shared, &mut reply) {
                Ok(true) => return,
                Ok(false) => {}
                Err(busy) => return connection.input.wait_for(Stall::Shard(busy)),
            }
        }
        session.rest = None;
        if session.follow_up {
            let mark = reply.position();
            session::follow_up(session, None, mark, &mut reply);
        }
        connection.resume();
    }

    /// Follow-up work of a section that woke blocked clients or caused events or invalidations. Call this after its locks are released.
    #[cold]
    pub(crate) fn finish_section(&mut self, session: &mut Session) {
        self.retry_waiters();
        self.note_congested(session);
        crate::observers::client_tracking::take_pending_invalidations(&self.shared, session);
    }

    /// Makes a client wait if its command has caused more messages than can be delivered soon.
    pub(crate) fn note_congested(&self, session: &mut Session) {
        let (pubsub, tracking) = (&self.shared.pubsub, &self.shared.tracking);
        let congested = pubsub.take_congested(self.thread);
        let congested = congested.or_else(|| tracking.congested(pubsub));
        session.congested = congested.or(session.congested);
    }

    /// Serves blocked clients that could not be served when their keys were changed, if the shards that they need are free now.
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
                // The shard became free in between, so there may be no release to wait for.
                Err(busy) if engine.wait(busy, self.thread) => left.push(waiters_to_retry),
                Err(_) => self.waiters_to_retry.push(waiters_to_retry),
            }
        }
    }
}

/// Ends a reply that begins at `mark`.
#[inline]
pub(super) fn finish_reply(
    session: &mut Session,
    row: Option<&'static Row>,
    reply: &mut Reply<'_>,
    mark: usize,
) -> Option<Stall> {
    drop_unwanted(session, reply, mark);
    if session.follow_up {
        session::follow_up(session, row, mark, reply);
    }
    session.rest.is_some().then_some(Stall::SlicedReply)
}

/// Removes a reply that the client has turned off (CLIENT REPLY).
#[inline]
pub(super) fn drop_unwanted(session: &mut Session, reply: &mut Reply<'_>, mark: usize) {
    match session.replies {
        Replies::On => return,
        Replies::Off | Replies::SkipNext => {}
        // WAIT and WAITAOF have yet to write theirs.
        Replies::SkipThis if session.disk_wait.is_some() => {}
        Replies::SkipThis => session.replies = Replies::On,
    }
    reply.truncate_to(mark);
    session.rest = None;
}
