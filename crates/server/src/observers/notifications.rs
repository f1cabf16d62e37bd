//! Keyspace notifications: events of keys, published as messages.
//!
//! ```text
//!   __keyspace@0__:key    event        with `K`
//!   __keyevent@0__:event  key          with `E`
//! ```
//!
//! Other messages are sent once a turn, but these before the locks of their keys are released: a message of the next change
//! of a key, which may be made by another thread, must not arrive before them.

use std::io::Write;
use std::sync::{Arc, Weak};

use damselfly_engine::{EventMask, EventSink, KeyEvent};

use crate::pubsub::mail::Scope;
use crate::shared::{Shared, Thread};

/// Publishes the events of keys.
pub struct Events {
    /// Weak, since the engine that holds this is itself part of what is shared.
    shared: Weak<Shared>,
}

impl Events {
    /// One that publishes to all who have subscribed.
    pub fn new(shared: &Arc<Shared>) -> Self {
        Self {
            shared: Arc::downgrade(shared),
        }
    }
}

impl EventSink for Events {
    fn publish(&self, wanted: EventMask, events: &[KeyEvent]) {
        let Some(shared) = self.shared.upgrade() else {
            return;
        };
        let (pubsub, threads) = (&shared.pubsub, &shared.threads);
        if !pubsub.may_receive(Scope::Cluster) {
            return;
        }
        // Threads for long commands share the desk behind those of the others.
        let thread = threads.iter().position(Thread::is_current);
        let thread = thread.unwrap_or(threads.len());
        let mut congested = None;
        let mut publish = |channel: &[u8], payload: &[u8]| {
            let published = pubsub.publish(thread, Scope::Cluster, channel, payload, 0);
            congested = published.congested.or(congested);
        };
        let mut channel = Vec::new();
        for KeyEvent { event, db, key, .. } in events {
            let name = event.name().as_bytes();
            if wanted.by_key() {
                write_channel(&mut channel, "keyspace", *db, key);
                publish(&channel, name);
            }
            if wanted.by_event() {
                write_channel(&mut channel, "keyevent", *db, name);
                publish(&channel, key);
            }
        }
        pubsub.send(thread, threads);
        if let Some(to) = congested {
            pubsub.note_congested(thread, to);
        }
    }
}

fn write_channel(channel: &mut Vec<u8>, space: &str, db: usize, name: &[u8]) {
    channel.clear();
    write!(channel, "__{space}@{db}__:").expect("a vector takes all that is written to it");
    channel.extend_from_slice(name);
}
