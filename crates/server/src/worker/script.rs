//! Scripts run from here, so that nothing of the thread's is in use meanwhile.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use damselfly_commands::Args;
use damselfly_engine::Now;
use damselfly_protocol::Reply;

use super::Worker;
use crate::connection::{Batch, Stall};
use crate::dispatch::{Dispatcher, exec};
use crate::registry::WithinMulti;
use crate::scripts::{self, Around};
use crate::session::Session;
use crate::shared;

impl Around for Worker {
    fn dispatcher(&mut self) -> &mut Dispatcher {
        &mut self.dispatcher
    }

    fn breathe(&mut self) {}
}

impl Worker {
    /// Runs the next request of `batch`, a script or a transaction that has some, with the session taken aside. True if the
    /// connection can go on.
    pub(super) fn run_script(&mut self, key: usize, batch: &mut Batch, input: &[u8]) -> bool {
        let Some(connection) = self.connections.get_mut(key) else {
            return false;
        };
        let config = &self.dispatcher.config;
        let mut placeholder = Session::new(connection.session.client.clone(), config);
        placeholder.protocol = connection.session.protocol;
        placeholder.replies = connection.session.replies;
        let mut session = std::mem::replace(&mut connection.session, placeholder);
        let mut bytes = std::mem::take(&mut self.script_reply);
        let ran = catch_unwind(AssertUnwindSafe(|| {
            self.run_aside(&mut session, batch, input, &mut bytes)
        }));
        let connection = self
            .connections
            .get_mut(key)
            .expect("nobody closes a connection whose script runs");
        connection.session = session;
        let stall = match ran {
            Ok(stall) => stall,
            Err(panic) => resume_unwind(panic),
        };
        connection.output.extend_from_slice(&bytes);
        bytes.clear();
        bytes.shrink_to(super::SPARE_OUTPUT_BYTES_MAX);
        self.script_reply = bytes;
        connection.stall = stall;
        if stall.is_none() {
            batch.next += 1;
            if let Some(until) = connection.session.sleeps_until {
                connection.stall = Some(Stall::Sleeping(until));
            }
        }
        // What came meanwhile.
        connection.stall.is_none() && !connection.session.closing
    }

    fn run_aside(
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
        let now = Now(shared::now_ms());
        let mut reply = Reply::new(bytes, session.protocol);
        let result = if row.within_multi == WithinMulti::Executes {
            exec::exec_around(self, session, now, &mut reply)
        } else {
            self.dispatcher.show_script(session, row, args);
            scripts::run(self, session, row, args, now, &mut reply)
        };
        let dispatcher = &mut self.dispatcher;
        let stall = dispatcher.settle(session, (row, args), result, &mut started, &mut reply, 0);
        dispatcher.refresh_config();
        dispatcher.send_monitored(session.client.id);
        stall
    }
}
