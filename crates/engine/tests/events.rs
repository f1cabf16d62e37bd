//! Events of keys: which are published, in what order, and when.

mod common;

use std::sync::{Arc, Mutex};

use common::{NOW, World, key, set_number};
use damselfly_engine::{Deadline, Event, EventMask, EventSink, KeyEvent, Now, Place, Tx};
use damselfly_value::NewValue;

/// Records the published events.
#[derive(Default)]
struct Recorder {
    published: Mutex<Vec<String>>,
}

struct Sink(Arc<Recorder>);

impl EventSink for Sink {
    fn publish(&self, _: EventMask, events: &[KeyEvent]) {
        let text = |event: &KeyEvent| {
            let key = String::from_utf8_lossy(&event.key);
            format!("{} {key} {}", event.event.name(), event.db)
        };
        self.0
            .published
            .lock()
            .unwrap()
            .extend(events.iter().map(text));
    }
}

impl Recorder {
    fn of(world: &World, letters: &str) -> Arc<Self> {
        let recorder = Arc::new(Self::default());
        world
            .engine
            .set_event_sink(Box::new(Sink(recorder.clone())));
        world.engine.set_events(EventMask::from_letters(letters));
        recorder
    }

    /// The events since the last call.
    fn published(&self) -> Vec<String> {
        std::mem::take(&mut self.published.lock().unwrap())
    }
}

fn set_expiring(tx: &mut Tx<'_>, name: &str) {
    tx.store(key(name), NewValue::Integer(1), Deadline::At(NOW.0 + 10));
}

const LATER: Now = Now(NOW.0 + 10);

#[test]
fn only_wanted_events_are_published() {
    let world = World::new(1, 8);
    let recorder = Recorder::of(&world, "Kg");
    let mut tx = world.engine.lock_all(0, NOW).unwrap();
    set_number(&mut tx, "key", 1);
    tx.remove(key("key"));
    drop(tx);
    assert_eq!(recorder.published(), ["del key 0"]);
    world.engine.set_events(EventMask::from_letters(""));
    let mut tx = world.engine.lock_all(0, NOW).unwrap();
    set_number(&mut tx, "key", 1);
    tx.remove(key("key"));
    drop(tx);
    assert!(recorder.published().is_empty());
}

#[test]
fn an_expired_key_is_reported_once_whatever_finds_it() {
    let world = World::new(1, 1);
    let recorder = Recorder::of(&world, "KA");
    for find in [
        |tx: &mut Tx<'_>| tx.read(key("key")).is_none(),
        |tx: &mut Tx<'_>| matches!(tx.place(key("key")), Place::Absent(_)),
        |tx: &mut Tx<'_>| tx.count() == 0,
    ] {
        let mut tx = world.engine.lock_all(1, NOW).unwrap();
        set_expiring(&mut tx, "key");
        drop(tx);
        assert_eq!(recorder.published(), ["set key 1"]);
        let mut tx = world.engine.lock_all(1, LATER).unwrap();
        assert!(find(&mut tx) && find(&mut tx));
        drop(tx);
        assert_eq!(recorder.published(), ["expired key 1"]);
    }
    let mut tx = world.engine.lock_all(1, NOW).unwrap();
    set_expiring(&mut tx, "swept");
    drop(tx);
    assert_eq!(world.engine.sweep(0, LATER), 1);
    assert_eq!(recorder.published(), ["set swept 1", "expired swept 1"]);
}

#[test]
fn an_expired_key_is_reported_before_its_successor() {
    let world = World::new(1, 1);
    let recorder = Recorder::of(&world, "KAn");
    let mut tx = world.engine.lock_all(0, NOW).unwrap();
    set_expiring(&mut tx, "key");
    drop(tx);
    let mut tx = world.engine.lock_all(0, LATER).unwrap();
    set_number(&mut tx, "key", 1);
    set_number(&mut tx, "key", 2);
    drop(tx);
    assert_eq!(
        recorder.published(),
        [
            "new key 0",
            "set key 0",
            "expired key 0",
            "new key 0",
            "set key 0",
            "set key 0"
        ]
    );
}

#[test]
fn events_of_undone_changes_are_discarded() {
    let world = World::new(1, 8);
    let recorder = Recorder::of(&world, "KA");
    let mut tx = world.engine.lock_all(0, NOW).unwrap();
    set_number(&mut tx, "before", 1);
    set_expiring(&mut tx, "expires");
    drop(tx);
    assert_eq!(recorder.published(), ["set before 0", "set expires 0"]);
    let mut tx = world.engine.lock_all(0, LATER).unwrap();
    tx.hold_events();
    assert!(tx.read(key("expires")).is_none());
    for number in 0..1000 {
        set_number(&mut tx, "undone", number);
    }
    tx.discard_events();
    set_number(&mut tx, "again", 1);
    assert!(recorder.published().is_empty());
    drop(tx);
    assert_eq!(recorder.published(), ["expired expires 0", "set again 0"]);
}

#[test]
fn many_events_of_a_section_are_published_while_it_runs() {
    let world = World::new(1, 8);
    let recorder = Recorder::of(&world, "KA");
    let mut tx = world.engine.lock_all(0, NOW).unwrap();
    for number in 0..1000 {
        set_number(&mut tx, "key", number);
    }
    let early = recorder.published().len();
    assert!(early > 500);
    tx.event(key("key"), Event::Del);
    drop(tx);
    assert_eq!(recorder.published().len() + early, 1001);
}
