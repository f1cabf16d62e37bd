//! Taking over new connections from the acceptor.

use std::sync::atomic::Ordering::Relaxed;

use damselfly_tls::ENCRYPTED_BYTES_MAX;
use mio::Token;

use super::Worker;
use crate::clients::NewClient;
use crate::clock;
use crate::event_loop::connection::Connection;
use crate::session::Session;
use crate::threads::Arrival;
use crate::users::Login;

impl Worker {
    /// Adds a connection that the acceptor has assigned to this thread, and counted.
    pub(super) fn add(&mut self, arrival: Arrival) {
        let Arrival {
            mut stream,
            speaks,
            id,
        } = arrival;
        // Its user must not depend on when this turn began.
        self.dispatcher.refresh_config();
        let entry = self.connections.vacant_entry();
        if let Err(error) = stream.register(self.poll.registry(), Token(entry.key())) {
            log::warn!("Can't serve a new connection: {error}");
            self.shared.threads[self.index]
                .connections
                .fetch_sub(1, Relaxed);
            return;
        }
        let config = &self.dispatcher.config;
        let users = &self.shared.users;
        let account = users.first_account(speaks, config);
        let (address, local_address) = stream.addresses(&config.unixsocket);
        let client = self.shared.clients.add(NewClient {
            id,
            address,
            local_address,
            origin: stream.origin(),
            unix: stream.is_unix(),
            encryption: stream.encryption(),
            stream_bytes: stream.memory(),
            speaks,
            fd: stream.fd(),
            thread: self.index,
            place: entry.key(),
            account: account.clone(),
            now_ms: clock::now_ms(),
            is_primary: false,
        });
        let (key, may_have_bytes) = (entry.key(), stream.may_have_bytes());
        if stream.needs_scratch() && self.scratch.is_empty() {
            self.scratch = vec![0; ENCRYPTED_BYTES_MAX];
        }
        let login = Login::new(users, account);
        entry.insert(Box::new(Connection::new(
            stream,
            Session::new(client, login),
        )));
        if may_have_bytes {
            self.mark_readable(key, false);
        }
    }
}
