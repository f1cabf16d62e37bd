//! Connections of replicas: they get a snapshot and the stream instead of replies.
//!
//! A replica that receives slowly holds up nobody: what it has not received stays in the backlog, and beyond its limit
//! (`client-output-buffer-limit replica`) its connection is closed.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::{io, mem};

use damselfly_config::{Config, OutputLimit};

use super::Worker;
use crate::admin::client;
use crate::clock;
use crate::event_loop::connection::Connection;
use crate::event_loop::input::Next;
use crate::registry::name_at;
use crate::replication::Replication;
use crate::replication::feed::{Feed, Piece};
use crate::session::Session;

/// How much one replica gets before others have their turn. The thread needs about 0.6 µs for each KiB.
const SEND_BYTES_MAX: usize = 128 << 10;

/// How sending to a replica has ended.
enum Sent {
    /// There is no more now, or the socket takes no more.
    Enough,
    /// There is more.
    More,
    /// The connection has to be closed.
    Failed,
}

impl Worker {
    /// True if a replica of this thread has something to be sent.
    pub(super) fn has_due_feed(&self) -> bool {
        self.feeds.iter().any(|&key| {
            let feed = self.connections.get(key);
            let feed = feed.and_then(|connection| connection.session.feed.as_ref());
            feed.is_some_and(|feed| feed.is_due())
        })
    }

    /// Sends to the replicas of this thread what there is for them.
    pub(super) fn flush_feeds(&mut self) {
        if self.feeds.is_empty() {
            return;
        }
        for key in self.feeds.clone() {
            let feed = self.connections.get(key);
            let feed = feed.and_then(|connection| connection.session.feed.as_ref());
            if feed.is_some_and(|feed| feed.take_due()) {
                self.flush_feed(key);
            }
        }
    }

    /// Sends to a replica what its socket takes.
    #[cold]
    pub(super) fn flush_feed(&mut self, key: usize) {
        if !self.feeds.contains(&key) {
            self.feeds.push(key);
            self.prepare_feed(key);
        }
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let Some(feed) = connection.session.feed.clone() else {
            return;
        };
        if connection.session.closing || connection.session.client.killed.load(Relaxed) {
            // Perhaps because its user has lost the right to what comes next.
            self.close(key);
            return;
        }
        if connection.unsent() > connection.stream.unsent() {
            log_reply(connection);
            self.close(key);
            return;
        }
        let (replication, status) = (&self.shared.replication, feed.status());
        let (sent, bytes) = send(connection, &feed, replication, &mut self.scratch);
        if feed.status() != status {
            replication.check_good_replicas(&self.shared, &self.dispatcher.config);
        }
        if bytes > 0 {
            let counters = &self.shared.threads[self.index].counters;
            counters.writes.add(1);
            counters.output_bytes.add(bytes as u64);
            replication
                .counters
                .output_bytes
                .fetch_add(bytes as u64, Relaxed);
        }
        let query_bytes_max = self.dispatcher.config.client_query_buffer_limit_bytes;
        let is_gone = matches!(connection.next(query_bytes_max), Next::Close | Next::GiveUp);
        match sent {
            Sent::Enough => {}
            Sent::More => feed.wake(),
            Sent::Failed => {
                self.close(key);
                return;
            }
        }
        if is_gone || feed.is_closed() || self.exceeds_limit(key, &feed) {
            self.close(key);
        }
    }

    /// True if a replica leaves more of the stream unread than it may. Logs that.
    fn exceeds_limit(&mut self, key: usize, feed: &Feed) -> bool {
        let config = &self.dispatcher.config;
        let end = self.shared.replication.end();
        let unread = feed.position().map_or(0, |at| end.saturating_sub(at));
        let Some(connection) = self.connections.get_mut(key) else {
            return false;
        };
        let client = &connection.session.client;
        client.output_bytes.store(unread as usize, Relaxed);
        let limit = limit(config);
        if !connection.exceeds(limit, unread) {
            return false;
        }
        log::warn!(
            "Client {} closed for overcoming of output buffer limits: the replica has not received {unread} bytes of the stream.",
            client_address(connection)
        );
        let counters = &self.shared.threads[self.index].counters;
        counters.output_limit_disconnections.add(1);
        true
    }

    /// Sets up the connection of a new replica.
    fn prepare_feed(&mut self, key: usize) {
        if let Some(connection) = self.connections.get_mut(key) {
            let delays = self.dispatcher.config.repl_disable_tcp_nodelay;
            connection.stream.set_nodelay(!delays);
        }
    }

    /// Checks the limit of replicas whose socket takes nothing: nothing else may happen to them.
    pub(super) fn check_feeds(&mut self) {
        for key in self.feeds.clone() {
            self.flush_feed(key);
        }
    }

    /// Notes that a replica has sent something. While it loads a snapshot, these are line feeds.
    pub(super) fn note_alive(&self, key: usize) {
        let feed = self.connections.get(key);
        if let Some(feed) = feed.and_then(|connection| connection.session.feed.as_ref()) {
            feed.note_alive();
        }
    }

    /// The connection is closed: if it is that of a replica, there is one less.
    pub(super) fn end_feed(&mut self, key: usize, session: &mut Session) {
        let Some(feed) = session.feed.take() else {
            return;
        };
        self.feeds.retain(|&other| other != key);
        log::warn!("Connection with replica {} lost.", feed.name());
        let replication = &self.shared.replication;
        replication.remove_feed(&feed);
        replication.check_good_replicas(&self.shared, &self.dispatcher.config);
        if replication.has_waiting() {
            self.shared
                .threads
                .iter()
                .for_each(crate::threads::Thread::wake);
        }
    }
}

/// Logs that a replica sent a command that has a reply, in the words of Redis.
#[cold]
fn log_reply(connection: &Connection) {
    let client = &connection.session.client;
    let last_command = client.last_command.load(Relaxed).checked_sub(1);
    let command = last_command.map_or("<unknown>", name_at);
    log::warn!(
        "Replica generated a reply to command '{command}', disconnecting it: {}",
        client::line(client, clock::now_ms()).trim_end()
    );
    let mut lines = connection.output[connection.sent..].split(|&byte| byte == b'\r');
    if let Some([b'-', error @ ..]) = lines.next() {
        let error = error.strip_prefix(b"ERR ").unwrap_or(error);
        log::error!(
            "== CRITICAL == This master is sending an error to its replica: '{}' after processing the command '{command}'",
            String::from_utf8_lossy(error).replace(char::is_control, "?")
        );
    }
}

fn client_address(connection: &Connection) -> &str {
    &connection.session.client.address
}

/// The limit of replicas: never below the backlog, which is kept anyway.
fn limit(config: &Config) -> OutputLimit {
    let mut limit = config.client_output_buffer_limit.replica;
    let backlog = config.repl_backlog_bytes;
    for bytes in [&mut limit.hard_bytes, &mut limit.soft_bytes] {
        if *bytes > 0 {
            *bytes = (*bytes).max(backlog);
        }
    }
    limit
}

/// Sends to a replica, and returns how many bytes the socket took.
fn send(
    connection: &mut Connection,
    feed: &Arc<Feed>,
    replication: &Replication,
    scratch: &mut [u8],
) -> (Sent, usize) {
    let mut bytes_sent = 0;
    if connection.stream.send_rest().is_err() {
        return (Sent::Failed, 0);
    }
    while bytes_sent < SEND_BYTES_MAX {
        let (block, at) = match feed.next_piece(|position| replication.read(feed, position)) {
            Piece::Block(block, at) => (block, at),
            Piece::NoneNow => return (Sent::Enough, bytes_sent),
            Piece::Failed => return (Sent::Failed, bytes_sent),
        };
        let rest = &block[at..];
        let piece = &rest[..rest.len().min(SEND_BYTES_MAX - bytes_sent)];
        match connection.stream.write(piece, scratch) {
            Ok(0) => return (Sent::Failed, bytes_sent),
            Ok(bytes) => {
                // Before the position changes, so that the block can be dropped or grow.
                mem::drop(block);
                bytes_sent += bytes;
                feed.note_sent(bytes);
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => return (Sent::Enough, bytes_sent),
                io::ErrorKind::Interrupted => {}
                _ => return (Sent::Failed, bytes_sent),
            },
        }
    }
    (Sent::More, bytes_sent)
}
