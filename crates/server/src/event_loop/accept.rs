//! Accepting connections, refusing those that are too many or not allowed, and spreading them over the threads.

use std::io::Write;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use mio::Token;

use super::Worker;
use crate::clients::NewClient;
use crate::event_loop::connection::Connection;
use crate::event_loop::listener::Stream;
use crate::session::Session;
use crate::shared::{self, Message};
use damselfly_config::Origin;

/// The most connections accepted in one turn.
const ACCEPTS_MAX: usize = 256;

/// What a client from elsewhere is told while there is no password.
const PROTECTED_MODE: &[u8] = b"-DENIED Damselfly is running in protected mode because protected mode is enabled and no password is set for the default user. In this mode connections are only accepted from the loopback interface. To accept connections from other machines, set a password with the option requirepass, or, if the network is trusted, turn protected mode off: CONFIG SET protected-mode no from this machine, or start with --protected-mode no.\r\n";

impl Worker {
    pub(super) fn accept(&mut self, listener: usize) {
        for _ in 0..ACCEPTS_MAX {
            let keepalive_s = self.dispatcher.config.tcp_keepalive_s;
            match self.listeners[listener].accept(keepalive_s) {
                Ok(Some(stream)) => {
                    // It may have come after a change that came after this turn began.
                    self.dispatcher.refresh_config();
                    self.admit(stream);
                }
                Ok(None) => return,
                Err(error) => {
                    // Most likely no file descriptors are left. The events are edge-triggered, so the next
                    // tick looks again.
                    log::warn!("Accepting client connection: {error}");
                    return;
                }
            }
        }
        // More may wait, of which no further event tells: the tick looks for them, and is due at once.
        self.next_tick = Instant::now();
    }

    /// Gives a new connection to the thread with the fewest, or refuses it.
    pub(super) fn admit(&mut self, mut stream: Stream) {
        // The client may have connected because of a change that is newer than this turn.
        self.dispatcher.refresh_config();
        let counters = &self.shared.threads[self.index].counters;
        let connected: usize = self
            .shared
            .threads
            .iter()
            .map(|thread| thread.connections.load(Relaxed))
            .sum();
        let config = &self.dispatcher.config;
        if connected >= config.maxclients as usize {
            // There may be no room in the socket; the client is lost either way.
            let _ = stream.write(b"-ERR max number of clients reached\r\n");
            counters.connections_rejected.add(1);
            return;
        }
        counters.connections_received.add(1);
        if config.protected_mode
            && config.requirepass.is_empty()
            && stream.origin() == Origin::Remote
        {
            let _ = stream.write(PROTECTED_MODE);
            counters.connections_rejected.add(1);
            return;
        }
        let (index, thread) = self
            .shared
            .threads
            .iter()
            .enumerate()
            .min_by_key(|(_, thread)| thread.connections.load(Relaxed))
            .expect("there is at least this thread");
        thread.connections.fetch_add(1, Relaxed);
        // Given here, where connections arrive in their order.
        let id = self.shared.clients.next_id();
        if index == self.index {
            self.add(stream, id);
        } else {
            thread.send(Message::Serve { stream, id });
        }
    }

    pub(super) fn add(&mut self, mut stream: Stream, id: u64) {
        // Whether it needs a password must not depend on when this turn began.
        self.dispatcher.refresh_config();
        let entry = self.connections.vacant_entry();
        if let Err(error) = stream.register(self.poll.registry(), Token(entry.key())) {
            log::warn!("Serving a new connection: {error}");
            self.shared.threads[self.index]
                .connections
                .fetch_sub(1, Relaxed);
            return;
        }
        let config = &self.dispatcher.config;
        let (address, local_address) = stream.addresses(&config.unixsocket);
        let client = self.shared.clients.add(NewClient {
            id,
            address,
            local_address,
            origin: stream.origin(),
            unix: stream.is_unix(),
            fd: stream.fd(),
            thread: self.index,
            place: entry.key(),
            now_ms: shared::now_ms(),
        });
        entry.insert(Connection::new(stream, Session::new(client, config)));
    }
}
