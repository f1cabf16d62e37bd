//! Delivers invalidations to the clients of this thread.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use damselfly_engine::Tracker;

use super::Worker;
use crate::clients::Client;
use crate::observers::client_tracking::{
    Redirect, deliver_invalidation, redirected_head, send_redirected, take_own_invalidations,
};
use crate::observers::invalidation::{Invalidation, PendingInvalidation};
use crate::threads::Message;

/// No client has this id.
const NOBODY: u64 = 0;

/// Changed keys for clients that track prefixes, each with the id of the client that changed it, or [`NOBODY`] if several did. Keys that
/// arrive together are sent together, as in Redis.
pub(super) type Prefixed = BTreeMap<Arc<[u8]>, u64>;

impl Worker {
    /// Delivers invalidations to clients of this thread. Keys for clients that track prefixes are added to `prefixed` instead.
    pub(super) fn invalidate(
        &mut self,
        list: Vec<Invalidation>,
        bytes: usize,
        prefixed: &mut Prefixed,
    ) {
        for invalidation in list {
            if let Invalidation::Everything { .. } = invalidation {
                self.shared.tracking.take_overflow(self.index);
            }
            match invalidation {
                Invalidation::Read { key, trackers } => {
                    let invalidation = PendingInvalidation::of(std::iter::once(&*key));
                    for tracker in trackers {
                        self.invalidate_key(tracker, &key, &invalidation);
                    }
                }
                Invalidation::Prefixed { key, actor } => {
                    // A change by anybody else is news to each of them.
                    let last = prefixed.entry(key).or_insert(actor);
                    if *last != actor {
                        *last = NOBODY;
                    }
                }
                Invalidation::Everything { but } => self.invalidate_everything(but),
            }
        }
        self.note_delivered(bytes);
    }

    /// Delivers changed keys to clients that track prefixes.
    pub(super) fn invalidate_prefixed(&mut self, keys: &Prefixed) {
        if keys.is_empty() {
            return;
        }
        let skips_own = |tracker: Tracker| {
            if let Some(redirect) = Redirect::of(&self.shared, tracker.id) {
                let is_here = redirect.to.thread == self.index;
                return is_here.then(|| redirect.from.no_loop.load(Relaxed));
            }
            if tracker.thread as usize != self.index {
                return None;
            }
            let connection = self.connections.get(tracker.place as usize);
            let tracked = connection.and_then(|connection| connection.session.tracked.as_ref());
            Some(tracked.is_some_and(|tracked| tracked.no_loop))
        };
        for (tracker, invalidation) in self.shared.tracking.prefixed_invalidations(keys, skips_own)
        {
            self.push(tracker, &invalidation);
        }
    }

    /// Sends all tracking clients except the client `but` an invalidation of all keys.
    fn invalidate_everything(&mut self, but: u64) {
        let clients = self.connections.iter().filter_map(|(_, connection)| {
            let session = &connection.session;
            session.tracked.as_ref()?;
            let tracker = session.client.tracker();
            let is_redirected = Redirect::of(&self.shared, tracker.id).is_some();
            (tracker.id != but && !is_redirected).then_some(tracker)
        });
        for tracker in clients.collect::<Vec<_>>() {
            self.push(tracker, &PendingInvalidation::Everything);
        }
        if self.shared.tracking.has_redirects() {
            for from in self.shared.clients.all() {
                if let Some(redirect) = Redirect::of_client(&self.shared, from)
                    && redirect.to.thread == self.index
                {
                    self.deliver_redirected(
                        &redirect.to,
                        &redirect.text(&PendingInvalidation::Everything),
                    );
                }
            }
        }
    }

    /// Delivers the invalidation of a key to a client that has read it.
    fn invalidate_key(
        &mut self,
        tracker: Tracker,
        key: &Arc<[u8]>,
        invalidation: &PendingInvalidation,
    ) {
        if let Some(redirect) = Redirect::of(&self.shared, tracker.id) {
            if !redirect.from.tracks_prefixes.load(Relaxed) {
                self.push(tracker, invalidation);
            }
            return;
        }
        let thread = tracker.thread as usize;
        if thread != self.index {
            // The client no longer redirects, or its target is gone. Its own thread decides what to do.
            let invalidation = Invalidation::Read {
                key: key.clone(),
                trackers: vec![tracker],
            };
            let bytes = invalidation.bytes();
            self.shared.pubsub.note_arriving(thread, bytes);
            let list = vec![invalidation];
            self.shared.threads[thread].send(Message::Invalidations { list, bytes });
            return;
        }
        let connection = self.connections.get(tracker.place as usize);
        let tracked = connection.and_then(|connection| connection.session.tracked.as_ref());
        if tracked.is_some_and(|tracked| tracked.tracks_reads()) {
            self.push(tracker, invalidation);
        }
    }

    /// Sends an invalidation to a client if it still exists, or to the client that it redirects to.
    fn push(&mut self, tracker: Tracker, invalidation: &PendingInvalidation) {
        if let Some(redirect) = Redirect::of(&self.shared, tracker.id) {
            let (text, client) = (redirect.text(invalidation), redirect.to);
            if client.thread == self.index {
                self.deliver_redirected(&client, &text);
            } else {
                send_redirected(&self.shared, client, text);
            }
            return;
        }
        let place = tracker.place as usize;
        let Some(connection) = self.connections.get_mut(place) else {
            return;
        };
        if connection.session.client.id != tracker.id {
            return;
        }
        let mut message = None;
        deliver_invalidation(
            &self.shared,
            &connection.session,
            invalidation,
            |head, text| {
                message = Some((head.to_vec(), text.to_vec()));
            },
        );
        if let Some((head, text)) = message {
            self.push_to(place, &head, &text);
        }
    }

    /// Sends a client that was blocked the invalidations that its own command has caused. Does nothing while the client is still
    /// blocked: they are then sent with the reply.
    pub(super) fn deliver_own_invalidations(&mut self, place: usize) {
        let session = &self.connections[place].session;
        if session.tracked.is_none() || session.blocking.is_some() {
            return;
        }
        let (tracker, own) = (session.client.tracker(), take_own_invalidations(session));
        for invalidation in &own {
            self.push(tracker, invalidation);
        }
    }

    /// Sends a client an invalidation that another client redirects to it.
    pub(super) fn deliver_redirected(&mut self, client: &Client, text: &[u8]) {
        if let Some(place) = self.find(client)
            && let Some(head) = redirected_head(&self.connections[place].session)
        {
            self.push_to(place, head, text);
        }
    }

    fn push_to(&mut self, place: usize, head: &[u8], text: &[u8]) {
        let hard_bytes = self
            .dispatcher
            .config
            .client_output_buffer_limit
            .pubsub
            .hard_bytes;
        let Some(connection) = self.connections.get_mut(place) else {
            return;
        };
        let client = &connection.session.client;
        if connection.session.closing || client.killed.load(Relaxed) {
            return;
        }
        self.spare_outputs.lend(&mut connection.output);
        let was_empty = connection.unread() == 0;
        connection.push_message(head, text);
        connection.pushed_bytes += head.len() + text.len();
        // The limit for subscribers applies, because by default there is none for normal clients.
        let is_too_much = hard_bytes > 0 && connection.pushed_bytes as u64 > hard_bytes;
        if was_empty {
            self.unflushed.push(place);
        }
        if is_too_much {
            connection.session.client.killed.store(true, Relaxed);
            self.note_unread(place);
            // The connection is closed later, in its own turn, because it may be the one being served now.
            self.queue(place);
        }
    }
}
