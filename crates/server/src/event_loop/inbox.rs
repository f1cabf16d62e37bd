//! Receiving messages from this and other threads, and delivering them: published messages to subscribers, lines to MONITOR
//! clients, invalidations to tracking clients.

use std::sync::atomic::Ordering::Relaxed;

use super::Worker;
use super::deliver_invalidations::Prefixed;
use crate::clients::Client;
use crate::session::Replies;
use crate::threads::{Message, Thread};
use damselfly_pubsub::{CONGESTED_BYTES, PublishedMessage};

/// A receiver's output is sent whenever it has grown by this much, so that a burst of messages is not in memory once per
/// receiver.
const SEND_BYTES: usize = 64 << 10;

impl Worker {
    /// Receives what is in the inbox, also from this thread itself; false if it is empty.
    pub(super) fn receive_pending(&mut self) -> bool {
        let has_incoming = self.shared.threads[self.index].has_incoming();
        if has_incoming {
            self.receive();
        }
        has_incoming
    }

    /// Takes all messages and new connections from the inbox and handles them.
    pub(super) fn receive(&mut self) {
        let (first, messages) = self.shared.threads[self.index].receive();
        // This comes after `receive`, which clears the flag: a connection that arrives in between sets it again.
        for arrival in self.shared.threads[self.index].take_arrivals() {
            self.add(arrival);
        }
        let mut prefixed = Prefixed::new();
        for (number, message) in (first..).zip(messages) {
            match message {
                Message::Monitored { lines, from, bytes } => {
                    self.write_to_monitors(&lines, from);
                    self.note_delivered(bytes);
                }
                Message::Published { messages, bytes } => {
                    self.receive_published(number, &messages, bytes)
                }
                Message::Invalidations { list, bytes } => {
                    self.invalidate(list, bytes, &mut prefixed);
                }
                Message::Redirected {
                    client,
                    text,
                    bytes,
                } => {
                    self.deliver_redirected(&client, &text);
                    self.note_delivered(bytes);
                }
                Message::Overflow => self.disconnect_subscribers(),
                Message::ClientChanged(client) => {
                    if let Some(key) = self.find(&client) {
                        self.deliver_own_invalidations(key);
                        self.queue(key);
                    }
                }
            }
        }
        self.invalidate_prefixed(&prefixed);
    }

    /// The place of a client's connection, if it belongs to this thread and is still open.
    pub(super) fn find(&self, client: &Client) -> Option<usize> {
        let found = self.connections.get(client.place)?;
        (found.session.client.id == client.id).then_some(client.place)
    }

    /// Sends what connections of this thread have published, to its own receivers too. To be called before any reply of
    /// the turn is sent.
    pub(super) fn send_published(&mut self) {
        if self.shared.pubsub.has_outgoing(self.index) {
            self.shared.pubsub.send(self.index, &self.shared.threads);
        }
    }

    /// The same, if that is much; then this thread's receivers get theirs at once.
    pub(super) fn send_published_if_large(&mut self) {
        let pubsub = &self.shared.pubsub;
        if pubsub.has_outgoing(self.index) && pubsub.outgoing_bytes(self.index) > CONGESTED_BYTES {
            self.send_published();
            self.receive_pending();
            self.flush_all();
        }
    }

    /// Delivers messages that came as the thread's message of that number.
    pub(super) fn receive_published(
        &mut self,
        number: u64,
        messages: &[PublishedMessage],
        bytes: usize,
    ) {
        self.deliver(number, messages);
        self.note_delivered(bytes);
    }

    /// Records that `bytes` bytes that were on their way to this thread are delivered.
    pub(super) fn note_delivered(&self, bytes: usize) {
        if self.shared.pubsub.note_delivered(self.index, bytes) {
            self.shared.threads.iter().for_each(Thread::wake);
        }
    }

    /// Disconnects all subscribers of this thread, because messages for them were dropped.
    fn disconnect_subscribers(&mut self) {
        self.shared.pubsub.take_overflow(self.index);
        let is_cut = |client: &Client| client.is_subscriber() && !client.killed.swap(true, Relaxed);
        let cut: Vec<usize> = self
            .connections
            .iter()
            .filter(|(_, connection)| is_cut(&connection.session.client))
            .map(|(place, _)| place)
            .collect();
        for place in cut {
            self.note_unread(place);
            self.queue(place);
        }
    }

    fn deliver(&mut self, number: u64, messages: &[PublishedMessage]) {
        let limit = self.dispatcher.config.client_output_buffer_limit.pubsub;
        let hard_bytes = usize::try_from(limit.hard_bytes).unwrap_or(usize::MAX);
        let send_bytes = match hard_bytes {
            0 => SEND_BYTES,
            hard_bytes => hard_bytes.min(SEND_BYTES),
        };
        let counters = &self.shared.threads[self.index].counters;
        let mut cut = Vec::new();
        for message in messages {
            let give = |place: usize, head: &[u8]| {
                let Some(connection) = self.connections.get_mut(place) else {
                    return;
                };
                let client = &connection.session.client;
                let is_gone = connection.session.closing || client.killed.load(Relaxed);
                if is_gone || client.id == message.skip_client {
                    return;
                }
                if message.is_dropped {
                    client.killed.store(true, Relaxed);
                    cut.push(place);
                    return;
                }
                self.spare_outputs.lend(&mut connection.output);
                let (before, capacity) = (connection.unread(), connection.output.capacity());
                connection.push_message(head, &message.text);
                if connection.output.capacity() > capacity {
                    // Its output may be what makes memory short.
                    connection.report();
                }
                if before == 0 {
                    self.unflushed.push(place);
                }
                if before / send_bytes == connection.unread() / send_bytes {
                    return;
                }
                // An error occurs again when the turn ends, and is handled then.
                let end = match connection.is_held() {
                    true => connection.sent,
                    false => usize::MAX,
                };
                let sent = connection.flush_up_to(end, &mut self.scratch).unwrap_or(0);
                counters.writes.add(1);
                counters.output_bytes.add(sent as u64);
                connection.session.client.count_bytes(0, sent as u64);
                if connection.exceeds_output_limit(limit) {
                    connection.session.client.killed.store(true, Relaxed);
                    cut.push(place);
                }
            };
            self.shared
                .pubsub
                .deliver(self.index, message, number, give);
        }
        for place in cut {
            self.note_unread(place);
            // It is closed in its own turn, because it may be the connection that is being served.
            self.queue(place);
        }
    }

    /// Writes lines to the MONITOR clients of this thread, except to the client `from`.
    pub(super) fn write_to_monitors(&mut self, lines: &[u8], from: u64) {
        for client in self.shared.clients.monitors() {
            if client.id != from
                && let Some(key) = self.find(&client)
                && let Some(connection) = self.connections.get_mut(key)
                && connection.session.replies != Replies::Off
            {
                connection.append(lines);
                self.unflushed.push(key);
            }
        }
    }
}
