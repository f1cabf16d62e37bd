//! Undo restores everything: values, types, deadlines, access bits, absent keys, and counts.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use common::{NOW, World, key};
use damselfly_engine::{Create, Deadline, Engine, Key, Place, Tx, Watcher};
use damselfly_value::{NewValue, Set};

const KEYS: [&str; 6] = ["text", "number", "set", "large", "expires", "absent"];
const EXPIRES_MS: i64 = NOW.0 + 5_000;

fn add(tx: &mut Tx<'_>, name: &str, members: std::ops::Range<usize>) {
    tx.change::<Set, ()>(key(name), Create::IfAbsent, |set| {
        for member in members {
            set.insert(format!("member:{member}").as_bytes());
        }
    })
    .unwrap();
}

/// Stores some keys in both databases, each with its own access bits.
fn fill(world: &World) {
    for db in 0..2 {
        let mut tx = world.engine.lock_all(db, NOW).unwrap();
        tx.store(key("text"), NewValue::Bytes(b"some text"), Deadline::Clear);
        tx.store(key("number"), NewValue::Integer(7), Deadline::Clear);
        tx.store(
            key("expires"),
            NewValue::Bytes(b"soon"),
            Deadline::At(EXPIRES_MS),
        );
        add(&mut tx, "set", 0..10);
        add(&mut tx, "large", 0..5_000);
        for (age, name) in (100..).zip(KEYS) {
            if let Some(entry) = tx.view(key(name)) {
                entry.set_access(age);
            }
        }
    }
}

/// Everything that is visible of a database.
fn seen(engine: &Engine, db: usize) -> Vec<String> {
    let mut tx = engine.lock_all(db, NOW).unwrap();
    for shard in 0..engine.shards() {
        tx.databases(shard)
            .iter()
            .for_each(damselfly_engine::Database::assert_valid);
    }
    let mut shown = Vec::new();
    tx.for_each(|entry| {
        shown.push(format!(
            "{entry:?} {} {}",
            entry.access(),
            entry.allocated_bytes()
        ));
    });
    shown.sort();
    shown
}

/// A section over the shards of the keys, not over all.
fn lock<'a>(world: &'a World, shards: &'a mut Vec<usize>) -> Tx<'a> {
    let hashes = KEYS.map(|name| key(name).hash);
    let locked = world.engine.lock_many(hashes.into_iter(), shards, 0, NOW);
    locked.unwrap()
}

/// Changes every key in some way.
fn change_all(tx: &mut Tx<'_>) {
    tx.store(key("text"), NewValue::Integer(1), Deadline::At(EXPIRES_MS));
    tx.store(
        key("number"),
        NewValue::Bytes(&[b'x'; 1000]),
        Deadline::Clear,
    );
    tx.store(key("number"), NewValue::Bytes(b"again"), Deadline::Clear);
    tx.store(key("expires"), NewValue::Bytes(b"never"), Deadline::Clear);
    add(tx, "set", 5..500);
    add(tx, "large", 5_000..5_010);
    tx.remove(key("set")).unwrap();
    tx.store(key("set"), NewValue::Bytes(b"no set"), Deadline::Clear);
    tx.store(key("absent"), NewValue::Bytes(b"here"), Deadline::Clear);
    let moved = tx.remove(key("large")).unwrap();
    tx.insert_in(1, key("large"), moved);
    if let Place::Present(present) = tx.place_in(1, key("text")) {
        present.remove();
    }
}

#[test]
fn undo_restores_everything() {
    let world = World::new(1, 64);
    fill(&world);
    let before = [seen(&world.engine, 0), seen(&world.engine, 1)];
    let (mut first, mut second) = (Vec::new(), Vec::new());
    let mut tx = lock(&world, &mut first);
    tx.begin_undo();
    assert!(tx.can_undo());
    change_all(&mut tx);
    assert_eq!(tx.saved().0, KEYS.len() + 2);
    tx.undo();
    assert!(!tx.can_undo());
    assert_eq!(tx.effects().changes, 0);
    drop(tx);
    assert_eq!([seen(&world.engine, 0), seen(&world.engine, 1)], before);
    // The same changes stay if they are not undone.
    let mut tx = lock(&world, &mut second);
    tx.begin_undo();
    change_all(&mut tx);
    tx.commit();
    tx.undo();
    assert!(tx.effects().changes > 0);
    drop(tx);
    assert_ne!([seen(&world.engine, 0), seen(&world.engine, 1)], before);
}

#[derive(Default)]
struct Witness(AtomicUsize);

impl Watcher for Witness {
    fn key_changed(&self) {
        self.0.fetch_add(1, Relaxed);
    }
}

#[test]
fn watchers_are_notified_only_of_permanent_changes() {
    let world = World::new(1, 64);
    fill(&world);
    let witness = Arc::new(Witness::default());
    let watcher: Arc<dyn Watcher> = witness.clone();
    let key: Key<'_> = key("text");
    let lock = || world.engine.lock_one(key.hash, 0, NOW).unwrap();
    lock().watch(key, 1, &watcher).unwrap();
    let mut tx = lock();
    tx.begin_undo();
    tx.store(key, NewValue::Integer(1), Deadline::Clear);
    tx.undo();
    drop(tx);
    assert_eq!(witness.0.load(Relaxed), 0);
    let mut tx = lock();
    tx.begin_undo();
    tx.store(key, NewValue::Integer(1), Deadline::Clear);
    tx.store(key, NewValue::Integer(2), Deadline::Clear);
    assert_eq!(witness.0.load(Relaxed), 0);
    tx.commit();
    assert_eq!(witness.0.load(Relaxed), 1);
}
