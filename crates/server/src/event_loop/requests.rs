//! Running the requests of a connection, one batch after the other.

use super::Worker;
use crate::dispatch::{BatchEnd, Dispatcher};
use crate::event_loop::connection::Connection;
use crate::event_loop::input::{Batch, Parsed, RunEnd};
use crate::event_loop::parser::InputError;

impl Worker {
    /// Runs the requests in the first `bytes` bytes of the thread's buffer.
    pub(super) fn run_direct(&mut self, key: usize, bytes: usize) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        connection.input.begin_direct();
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut batch = std::mem::take(&mut self.batch);
        batch.clear();
        let end = self.run_all(key, &mut batch, &mut buffer[..bytes]);
        if let Some(connection) = self.connections.get_mut(key) {
            connection.input.keep(&buffer[..bytes], &mut batch, end);
        }
        self.buffer = buffer;
        self.batch = batch;
    }

    /// Runs the requests that the connection has buffered.
    pub(super) fn run_own(&mut self, key: usize) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let mut batch = std::mem::take(&mut self.batch);
        let mut input = connection.input.begin_own(&mut batch);
        let end = self.run_all(key, &mut batch, &mut input);
        if let Some(connection) = self.connections.get_mut(key) {
            connection.input.keep_own(input, &mut batch, end);
        }
        // A long request may have taken much memory.
        batch.clear();
        self.batch = batch;
    }

    /// Parses and runs requests until the input is used up or the connection can't proceed.
    fn run_all(&mut self, key: usize, batch: &mut Batch, input: &mut [u8]) -> RunEnd {
        while let Some(connection) = self.connections.get_mut(key) {
            match run_plain(&mut self.dispatcher, connection, batch, input) {
                Some(end) => return end,
                None => {
                    if let Some(end) = self.run_script(key, batch, input) {
                        return end;
                    }
                }
            }
        }
        RunEnd::Closing
    }
}

/// The same, but returns `None` at a script or a transaction with scripts.
fn run_plain(
    dispatcher: &mut Dispatcher,
    connection: &mut Connection,
    batch: &mut Batch,
    input: &mut [u8],
) -> Option<RunEnd> {
    loop {
        if !batch.is_unfinished() {
            let limits = connection.limits(&dispatcher.config);
            let parsed = batch.parse(&mut connection.input.parser, input, &limits);
            if let Parsed::Nothing { wanted } = parsed {
                return Some(RunEnd::UsedUp { wanted });
            }
        }
        match dispatcher.run(connection, batch, input) {
            BatchEnd::Done => {}
            BatchEnd::Stalled(stall) => return Some(RunEnd::Stalled(stall)),
            BatchEnd::Script => return None,
            BatchEnd::Closing => return Some(RunEnd::Closing),
        }
        if let Some(error) = batch.take_error() {
            refuse(dispatcher, connection, error);
            return Some(RunEnd::Closing);
        }
    }
}

/// Answers a protocol error and closes the connection.
#[cold]
fn refuse(dispatcher: &Dispatcher, connection: &mut Connection, error: InputError) {
    let text = error.reply(connection);
    dispatcher.counters().count_error(&text);
    log::debug!(
        "Protocol error from client {}: {}",
        connection.session.client.address,
        String::from_utf8_lossy(&text)
    );
    connection.session.closing = true;
}
