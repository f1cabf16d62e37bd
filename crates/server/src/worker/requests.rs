//! Running the requests of a connection, one batch after the other.

use super::Worker;
use crate::connection::Connection;
use crate::dispatch::Dispatcher;
use crate::input::{Batch, Stall};
use crate::session::Replies;

impl Worker {
    /// Parses and runs until the input is used up or the connection can't go on.
    pub(super) fn run_all(&mut self, key: usize, batch: &mut Batch, input: &mut [u8]) {
        while let Some(connection) = self.connections.get_mut(key) {
            run_plain(&mut self.dispatcher, connection, batch, input);
            if !matches!(connection.stall, Some(Stall::Script)) {
                return;
            }
            if !self.run_script(key, batch, input) {
                return;
            }
        }
    }
}

/// The same, but stops at scripts.
fn run_plain(
    dispatcher: &mut Dispatcher,
    connection: &mut Connection,
    batch: &mut Batch,
    input: &mut [u8],
) {
    loop {
        if !batch.is_unfinished() {
            let parsed = batch.parsed;
            let limits = connection.limits(&dispatcher.config);
            batch.parse(&mut connection.parser, input, &limits);
            if batch.parsed == parsed && batch.error.is_none() {
                return;
            }
        }
        dispatcher.run(connection, batch, input);
        if connection.stall.is_some() || connection.session.closing {
            return;
        }
        if let Some(error) = batch.error.take() {
            if connection.session.replies != Replies::Off {
                let protocol = connection.session.protocol;
                damselfly_protocol::Reply::new(&mut connection.output, protocol)
                    .error(error.text());
            }
            dispatcher.counters().count_error(&error.text());
            log::debug!(
                "Protocol error from client {}: {}",
                connection.session.client.address,
                String::from_utf8_lossy(&error.text())
            );
            connection.session.closing = true;
            return;
        }
    }
}
