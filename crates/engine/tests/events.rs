//! Events of keys: who is told, of what, and when.

mod common;

use std::sync::{Arc, Mutex};

use common::{NOW, World, key, set_number};
use damselfly_engine::{Deadline, Event, EventMask, EventSink, KeyEvent, Now, Place, Tx};
use damselfly_value::NewValue;

/// Remembers what it is told.
#[derive(Default)]
struct Witness {
    told: Mutex<Vec<String>>,
}

struct Ear(Arc<Witness>);

impl EventSink for Ear {
    fn publish(&self, _: EventMask, events: &[KeyEvent]) {
        let text = |event: &KeyEvent| {
            let key = String::from_utf8_lossy(&event.key);
            format!("{} {key} {}", event.event.name(), event.db)
        };
        self.0.told.lock().unwrap().extend(events.iter().map(text));
    }
}

impl Witness {
    fn of(world: &World, letters: &str) -> Arc<Self> {
        let witness = Arc::new(Self::default());
        world.engine.set_event_sink(Box::new(Ear(witness.clone())));
        world.engine.set_events(EventMask::from_letters(letters));
        witness
    }

    /// What it was told since this was last asked.
    fn told(&self) -> Vec<String> {
        std::mem::take(&mut self.told.lock().unwrap())
    }
}

fn ends_soon(tx: &mut Tx<'_>, name: &str) {
    tx.store(key(name), NewValue::Integer(1), Deadline::At(NOW.0 + 10));
}

const LATER: Now = Now(NOW.0 + 10);

#[test]
fn nobody_is_told_what_nobody_wants() {
    let world = World::new(1, 8);
    let witness = Witness::of(&world, "Kg");
    let mut tx = world.engine.lock_all(0, NOW).unwrap();
    set_number(&mut tx, "key", 1);
    tx.remove(key("key"));
    drop(tx);
    assert_eq!(witness.told(), ["del key 0"]);
    world.engine.set_events(EventMask::from_letters(""));
    let mut tx = world.engine.lock_all(0, NOW).unwrap();
    set_number(&mut tx, "key", 1);
    tx.remove(key("key"));
    drop(tx);
    assert!(witness.told().is_empty());
}

#[test]
fn the_end_of_a_key_is_told_however_it_is_found() {
    let world = World::new(1, 1);
    let witness = Witness::of(&world, "KA");
    for find in [
        |tx: &mut Tx<'_>| tx.read(key("key")).is_none(),
        |tx: &mut Tx<'_>| matches!(tx.place(key("key")), Place::Absent(_)),
        |tx: &mut Tx<'_>| tx.count() == 0,
    ] {
        let mut tx = world.engine.lock_all(1, NOW).unwrap();
        ends_soon(&mut tx, "key");
        drop(tx);
        assert_eq!(witness.told(), ["set key 1"]);
        let mut tx = world.engine.lock_all(1, LATER).unwrap();
        assert!(find(&mut tx) && find(&mut tx));
        drop(tx);
        assert_eq!(witness.told(), ["expired key 1"]);
    }
    let mut tx = world.engine.lock_all(1, NOW).unwrap();
    ends_soon(&mut tx, "swept");
    drop(tx);
    assert_eq!(world.engine.sweep(0, LATER), 1);
    assert_eq!(witness.told(), ["set swept 1", "expired swept 1"]);
}

#[test]
fn a_key_that_ends_makes_place_for_a_new_one() {
    let world = World::new(1, 1);
    let witness = Witness::of(&world, "KAn");
    let mut tx = world.engine.lock_all(0, NOW).unwrap();
    ends_soon(&mut tx, "key");
    drop(tx);
    let mut tx = world.engine.lock_all(0, LATER).unwrap();
    set_number(&mut tx, "key", 1);
    set_number(&mut tx, "key", 2);
    drop(tx);
    assert_eq!(
        witness.told(),
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
fn events_of_changes_that_are_undone_are_forgotten() {
    let world = World::new(1, 8);
    let witness = Witness::of(&world, "KA");
    let mut tx = world.engine.lock_all(0, NOW).unwrap();
    set_number(&mut tx, "before", 1);
    ends_soon(&mut tx, "ends");
    drop(tx);
    assert_eq!(witness.told(), ["set before 0", "set ends 0"]);
    let mut tx = world.engine.lock_all(0, LATER).unwrap();
    tx.hold_events();
    assert!(tx.read(key("ends")).is_none());
    for number in 0..1000 {
        set_number(&mut tx, "undone", number);
    }
    tx.discard_events();
    set_number(&mut tx, "again", 1);
    assert!(witness.told().is_empty());
    drop(tx);
    assert_eq!(witness.told(), ["expired ends 0", "set again 0"]);
}

#[test]
fn many_events_of_a_section_are_told_while_it_runs() {
    let world = World::new(1, 8);
    let witness = Witness::of(&world, "KA");
    let mut tx = world.engine.lock_all(0, NOW).unwrap();
    for number in 0..1000 {
        set_number(&mut tx, "key", number);
    }
    let early = witness.told().len();
    assert!(early > 500);
    tx.event(key("key"), Event::Del);
    drop(tx);
    assert_eq!(witness.told().len() + early, 1001);
}
