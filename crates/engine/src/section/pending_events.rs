//! Events of a section: raised with its changes, and published before its locks are released.

use crate::observers::key_events::{Event, EventMask, EventSink, KeyEvent};
use crate::section::extras::SectionExtras;
use crate::{Engine, Key, Tx};

/// While a section is not told to keep more, it tells its events whenever there are so many.
const KEPT_MAX: usize = 256;

/// The events of a section that are not told yet.
#[derive(Default)]
pub(crate) struct PendingEvents {
    events: Vec<KeyEvent>,
    /// More of them may be forgotten: none is told before the section ends.
    may_be_forgotten: bool,
}

impl PendingEvents {
    /// Tells all.
    pub(crate) fn tell(&mut self, engine: &Engine) {
        if self.events.is_empty() {
            return;
        }
        if let Some(event_sink) = engine.event_sink() {
            event_sink.tell(engine.events.load(), &self.events);
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

    /// Chooses which events are told, from the next change on.
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

    /// True if any events are told.
    pub fn wants_events(&self) -> bool {
        self.events.load().is_any()
    }

    /// Raises an event of a key whose shard is locked and observed. `lasts` says that it can't be undone.
    pub(crate) fn raise(
        &self,
        extras: &mut Option<Box<SectionExtras>>,
        event: Event,
        db: usize,
        key: &[u8],
        lasts: bool,
    ) {
        if !self.events.load().has(event.class()) {
            return;
        }
        let kept = &mut extras.get_or_insert_default().kept;
        kept.events.push(KeyEvent {
            event,
            db,
            key: key.into(),
            lasts,
        });
        if kept.events.len() >= KEPT_MAX && !kept.may_be_forgotten {
            kept.tell(self);
        }
    }
}

impl Tx<'_> {
    /// Raises an event of a key of the selected database, beside that of its change.
    #[inline]
    pub fn event(&mut self, key: Key<'_>, event: Event) {
        self.event_in(self.db(), key, event);
    }

    /// Raises an event of a key of a database, beside that of its change.
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

    /// Tells no events before this section ends, or [`Tx::publish_events`] is called, so that [`Tx::discard_events`] forgets them
    /// all. Does nothing if that is so already.
    pub fn hold_events(&mut self) {
        let is_kept = |extras: &SectionExtras| extras.kept.may_be_forgotten;
        if !self.extras.as_deref().is_some_and(is_kept) {
            self.publish_events();
            self.extras().kept.may_be_forgotten = true;
        }
    }

    /// How many events are kept.
    pub fn held_events(&self) -> usize {
        let extras = self.extras.as_ref();
        extras.map_or(0, |extras| extras.kept.events.len())
    }

    /// Forgets the events since [`Tx::hold_events`], for changes that were undone; but what came to its end has ended.
    pub fn discard_events(&mut self) {
        if let Some(extras) = self.extras.as_mut() {
            extras.kept.events.retain(|event| event.lasts);
        }
    }

    /// Tells the events so far; what comes now is not kept any more.
    #[cold]
    pub fn publish_events(&mut self) {
        let engine = self.engine();
        if let Some(extras) = self.extras.as_mut() {
            extras.kept.may_be_forgotten = false;
            extras.kept.tell(engine);
        }
    }
}
