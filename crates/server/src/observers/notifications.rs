//! Keyspace notifications: the events of keys, published as messages.
//!
//! ```text
//!   __keyspace@0__:key    event        with `K`
//!   __keyevent@0__:event  key          with `E`
//! ```
//!
//! Other messages are sent once a turn. These are sent before the locks of their keys are released: otherwise the message of a
//! key's next change, made by another thread, could arrive first.

use std::io::Write;
use std::sync::{Arc, Weak};

use damselfly_engine::{EventMask, EventSink, KeyEvent};

use crate::shared::Shared;
use crate::threads::Thread;
use damselfly_pubsub::Scope;

/// Publishes the events of keys.
pub struct Events {
    /// Weak, because `Shared` owns the engine, which owns this.
    shared: Weak<Shared>,
}

impl Events {
    /// Publishes to the subscribers of `shared`.
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
        // All threads for long commands publish under the number after the last event loop's.
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
    write!(channel, "__{space}@{db}__:").expect("writing to a vector does not fail");
    channel.extend_from_slice(name);
}
