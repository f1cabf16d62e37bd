//! Events of a section: raised with its changes, and published before its locks are released.

use crate::observers::key_events::{Event, EventMask, EventSink, KeyEvent};
use crate::section::extras::SectionExtras;
use crate::{Engine, Key, Tx};

/// A section that does not hold its events publishes them whenever this many are pending.
const PENDING_MAX: usize = 256;

/// The events of a section that are not published yet.
#[derive(Default)]
pub(crate) struct PendingEvents {
    events: Vec<KeyEvent>,
    /// They may have to be discarded, so none is published before the section ends.
    is_held: bool,
}

impl PendingEvents {
    /// Publishes all.
    pub(crate) fn publish(&mut self, engine: &Engine) {
        if self.events.is_empty() {
            return;
        }
        if let Some(event_sink) = engine.event_sink() {
            event_sink.publish(engine.events.load(), &self.events);
        }
        self.events.clear();
    }
}

impl Engine {
    /// Sets the receiver of events. Without it none are published.
    pub fn set_event_sink(&self, event_sink: Box<dyn EventSink>) {
        let set = self.event_sink.set(event_sink);
        assert!(set.is_ok(), "threads start once");
    }

    fn event_sink(&self) -> Option<&dyn EventSink> {
        self.event_sink.get().map(|event_sink| &**event_sink)
    }

    /// Sets which events are published, from the next change on.
    pub fn set_events(&self, wanted: EventMask) {
        let before = self.events.swap(wanted);
        for shard in 0..self.shards() {
            match (before.is_any(), wanted.is_any()) {
                (false, true) => self.shards.add_observer(shard),
                (true, false) => self.shards.remove_observer(shard),
                (true, true) | (false, false) => {}
            }
        }
    }

    /// True if any events are published.
    pub fn wants_events(&self) -> bool {
        self.events.load().is_any()
    }

    /// Raises an event of a key whose shard is locked and observed. `is_permanent` if undo does not revert its cause.
    pub(crate) fn raise(
        &self,
        extras: &mut Option<Box<SectionExtras>>,
        event: Event,
        db: usize,
        key: &[u8],
        is_permanent: bool,
    ) {
        if !self.events.load().has(event.class()) {
            return;
        }
        let pending = &mut extras.get_or_insert_default().pending_events;
        pending.events.push(KeyEvent {
            event,
            db,
            key: key.into(),
            is_permanent,
        });
        if pending.events.len() >= PENDING_MAX && !pending.is_held {
            pending.publish(self);
        }
    }
}

impl Tx<'_> {
    /// Raises an event of a key of the selected database, in addition to the event of its change.
    #[inline]
    pub fn event(&mut self, key: Key<'_>, event: Event) {
        self.event_in(self.db(), key, event);
    }

    /// Raises an event of a key of a database, in addition to the event of its change.
    #[inline]
    pub fn event_in(&mut self, db: usize, key: Key<'_>, event: Event) {
        if self
            .engine()
            .shards
            .is_observed(self.engine().shard_of(key.hash))
        {
            self.raise(db, key, event);
        }
    }

    #[cold]
    pub(crate) fn raise(&mut self, db: usize, key: Key<'_>, event: Event) {
        let engine = self.engine();
        engine.raise(&mut self.extras, event, db, key.bytes, false);
    }

    /// Publishes what is pending, and holds all later events until this section ends or [`Tx::publish_events`] is called, so that
    /// [`Tx::discard_events`] can discard them. Does nothing if events are held already.
    pub fn hold_events(&mut self) {
        let is_held = |extras: &SectionExtras| extras.pending_events.is_held;
        if !self.extras.as_deref().is_some_and(is_held) {
            self.publish_events();
            self.extras().pending_events.is_held = true;
        }
    }

    /// How many events are pending.
    pub fn held_events(&self) -> usize {
        let extras = self.extras.as_ref();
        extras.map_or(0, |extras| extras.pending_events.events.len())
    }

    /// Discards the events since [`Tx::hold_events`], after the changes were undone. Events of expired keys stay: expiry is not
    /// undone.
    pub fn discard_events(&mut self) {
        if let Some(extras) = self.extras.as_mut() {
            extras
                .pending_events
                .events
                .retain(|event| event.is_permanent);
        }
    }

    /// Publishes the pending events, and no longer holds later ones.
    #[cold]
    pub fn publish_events(&mut self) {
        let engine = self.engine();
        if let Some(extras) = self.extras.as_mut() {
            extras.pending_events.is_held = false;
            extras.pending_events.publish(engine);
        }
    }
}
