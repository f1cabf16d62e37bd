//! Running scripts. The worker itself runs them, so that a slow script can let other connections have turns: while it runs,
//! no part of the worker is borrowed.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use damselfly_base::CommandError;
use damselfly_commands::Args;
use damselfly_engine::{Busy, Now};
use damselfly_protocol::Reply;
use mio::Events;

use super::{READ_BYTES, Worker};
use crate::clock;
use crate::dispatch::{Dispatcher, exec};
use crate::event_loop::input::{Batch, RunEnd, Stall};
use crate::registry::{Row, WithinMulti};
use crate::scripts::{self, Kind, ScriptRunner};
use crate::session::{Session, transaction};

/// The most events that a nested turn handles. The rest is handled by the next one.
const EVENTS_MAX: usize = 256;

impl ScriptRunner for Worker {
    fn dispatcher(&mut self) -> &mut Dispatcher {
        &mut self.dispatcher
    }

    fn serve_others(&mut self, wait: Duration) {
        self.nested_turns += 1;
        if self.buffer.is_empty() {
            // The worker's buffer holds the request that runs the script.
            self.buffer = vec![0; READ_BYTES];
        }
        let mut events = Events::with_capacity(EVENTS_MAX);
        // A failure is reported by the main loop, whose next poll fails, too.
        if self.poll.poll(&mut events, Some(wait)).is_ok() {
            self.turn_guarded(&events);
        }
    }
}

impl Worker {
    /// Runs the next request of `batch`, which is a script or a transaction with scripts. Meanwhile a placeholder replaces the
    /// session of the connection. Returns `None` if the connection can proceed.
    pub(super) fn run_script(
        &mut self,
        key: usize,
        batch: &mut Batch,
        input: &[u8],
    ) -> Option<RunEnd> {
        let Some(connection) = self.connections.get_mut(key) else {
            return Some(RunEnd::Closing);
        };
        let scripts = &self.dispatcher.scripts;
        if scripts.running && !scripts.is_slow {
            // This is a turn in the middle of another script, which has the interpreter. It tries again with every turn, as if a shard
            // were busy.
            return Some(RunEnd::Stalled(Stall::Shard(Busy { shard: 0 })));
        }
        let own = &connection.session;
        let mut placeholder = Session::new(own.client.clone(), own.login.clone());
        placeholder.protocol = connection.session.protocol;
        placeholder.replies = connection.session.replies;
        // The placeholder receives invalidations meanwhile.
        let tracked = connection.session.tracked.as_ref();
        placeholder.tracked = tracked.map(|tracked| Box::new(tracked.placeholder()));
        let mut session = std::mem::replace(&mut connection.session, placeholder);
        let mut bytes = std::mem::take(&mut self.script_reply);
        let nested_turns = self.nested_turns;
        let ran = catch_unwind(AssertUnwindSafe(|| {
            self.run_detached(&mut session, batch, input, &mut bytes)
        }));
        let connection = self
            .connections
            .get_mut(key)
            .expect("a connection is not closed while its script runs");
        connection.session = session;
        let stall = match ran {
            Ok(stall) => stall,
            Err(panic) => {
                self.dispatcher.scripts.running = false;
                self.dispatcher.scripts.is_slow = false;
                resume_unwind(panic)
            }
        };
        connection.output.extend_from_slice(&bytes);
        connection.append_delayed();
        bytes.clear();
        bytes.shrink_to(super::spares::BYTES_MAX);
        self.script_reply = bytes;
        let session = &mut connection.session;
        if !matches!(stall, Some(Stall::Shard(_))) {
            // The plan does not apply to another script.
            session.script_plan = None;
        }
        if session.client.killed.load(Relaxed) {
            session.closing = true;
        }
        batch.next += usize::from(stall.is_none_or(|stall| stall.has_begun()));
        let stall = stall.or_else(|| session.sleeps_until.take().map(Stall::Sleeping));
        let is_closing = session.closing;
        if self.nested_turns > nested_turns {
            // Events for this connection were ignored meanwhile.
            self.queue(key);
        }
        match stall {
            _ if is_closing => Some(RunEnd::Closing),
            stall => stall.map(RunEnd::Stalled),
        }
    }

    fn refusal_while_busy(&self, session: &mut Session, row: &Row) -> CommandError {
        let slow = self.shared.scripts.slow();
        let kind = slow.first().map_or(Kind::Script, |slow| slow.kind);
        match row.within_multi {
            WithinMulti::Executes => transaction::abort(session, &self.shared, &kind.busy()),
            WithinMulti::Queued
            | WithinMulti::Refused
            | WithinMulti::Runs
            | WithinMulti::Leaves => kind.busy(),
        }
    }

    fn run_detached(
        &mut self,
        session: &mut Session,
        batch: &Batch,
        input: &[u8],
        bytes: &mut Vec<u8>,
    ) -> Option<Stall> {
        let request = batch.requests.get(batch.next)?;
        let spans = &batch.spans[request.first_span..request.first_span + request.spans];
        let args = Args::new(&input[request.start..], spans, None);
        let row = request.row?;
        let mut started = self.dispatcher.clock.raw();
        let now = Now(clock::now_ms());
        let mut reply = Reply::new(bytes, session.protocol);
        let runs_already = std::mem::replace(&mut self.dispatcher.scripts.running, true);
        let result = if runs_already {
            // This turn is nested in a slow script.
            Err(self.refusal_while_busy(session, row).into())
        } else if row.within_multi == WithinMulti::Executes {
            exec::exec_with_scripts(self, session, now, &mut reply)
        } else {
            scripts::run(self, session, row, args, now, &mut reply)
        };
        let dispatcher = &mut self.dispatcher;
        dispatcher.scripts.running = runs_already;
        let stall =
            dispatcher.complete_request(session, (row, args), result, &mut started, &mut reply, 0);
        dispatcher.refresh_config();
        dispatcher.send_monitored(session.client.id);
        stall
    }
}
