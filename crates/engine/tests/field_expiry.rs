//! Hashes with expiring fields: no command sees an expired field, and the sweep removes those that no command asks for.

use damselfly_base::random::Random;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use damselfly_engine::{
    Create, Engine, Event, EventMask, EventSink, Key, KeyEvent, Layout, Now, Place, Watcher,
};
use damselfly_value::{Element, Hash, HashMut};

/// The most keys and fields in a random run.
const KEYS: usize = 20;
const FIELDS: usize = 30;

fn engine() -> Engine {
    Engine::new(Layout {
        shards: 1,
        databases: 1,
    })
}

/// Sets fields of one key, each with an optional deadline.
fn set(engine: &Engine, now: Now, key: &str, fields: impl Iterator<Item = (String, Option<i64>)>) {
    let key = Key::new(key.as_bytes());
    let mut tx = engine.lock_all(0, now).unwrap();
    tx.change::<Hash, _>(key, Create::IfAbsent, |hash| {
        for (name, deadline) in fields {
            hash.set(name.as_bytes(), Element::Bytes(b"value"), deadline);
        }
    })
    .unwrap();
}

fn check(engine: &Engine, now: Now) {
    let mut tx = engine.lock_all(0, now).unwrap();
    tx.databases(0)[0].assert_valid();
}

/// Sweeps until a whole round finds nothing more.
fn sweep_all(engine: &Engine, now: Now) -> usize {
    let mut removed = 0;
    let mut idle = 0;
    while idle < 100 {
        let found = engine.sweep(0, now);
        removed += found;
        idle = if found == 0 { idle + 1 } else { 0 };
    }
    check(engine, now);
    removed
}

#[test]
fn the_sweep_removes_expired_fields_and_then_empty_hashes() {
    for count in [10, 2000] {
        let engine = engine();
        let name = |index: usize| format!("field:{index}");
        let all = |deadline: i64| (0..count).map(move |index| (name(index), Some(deadline)));
        set(&engine, Now(0), "expires", all(100));
        let some = all(100)
            .map(|(name, deadline)| (name.clone(), deadline.filter(|_| name.ends_with('0'))));
        set(&engine, Now(0), "partial", some);
        set(
            &engine,
            Now(0),
            "stays",
            (0..count).map(|index| (name(index), None)),
        );
        let totals = |now| engine.lock_all(0, now).unwrap().totals(0);
        assert_eq!((totals(Now(0)).keys, totals(Now(0)).deadlines), (3, 0));
        assert_eq!(sweep_all(&engine, Now(99)), 0);
        // The hash as a whole counts as one.
        assert_eq!(sweep_all(&engine, Now(100)), 1 + count / 10);
        assert_eq!(totals(Now(100)).keys, 2);
        let mut tx = engine.lock_all(0, Now(100)).unwrap();
        let expired: u64 = (0..engine.shards())
            .map(|shard| *tx.expired_mut(shard))
            .sum();
        assert_eq!(expired, 1);
        let hash = tx.peek_as::<Hash>(Key::new(b"partial")).unwrap().unwrap();
        assert_eq!(
            (hash.len(), hash.first_deadline_ms()),
            (count - count / 10, None)
        );
    }
}

#[test]
fn deadlines_of_a_key_and_of_its_fields_are_independent() {
    let engine = engine();
    let key = Key::new(b"key");
    set(
        &engine,
        Now(0),
        "key",
        [("a".to_owned(), Some(50)), ("b".to_owned(), None)].into_iter(),
    );
    let mut tx = engine.lock_all(0, Now(10)).unwrap();
    if let Place::Present(mut present) = tx.place(key) {
        present.update(|entry| entry.set_deadline_ms(Some(100)));
    }
    assert_eq!(tx.totals(0).deadlines, 1);
    drop(tx);
    check(&engine, Now(10));
    let len = |now| {
        let mut tx = engine.lock_all(0, now).unwrap();
        let hash = tx.peek_as::<Hash>(key).unwrap();
        hash.map(|hash| hash.len())
    };
    assert_eq!(len(Now(49)), Some(2));
    assert_eq!(len(Now(50)), Some(1));
    assert_eq!(len(Now(99)), Some(1));
    assert_eq!(len(Now(100)), None);
    check(&engine, Now(100));
}

/// The bug: a slice limited the removed fields per hash, not for all hashes in its buckets, so the shard stayed locked for 20 ms.
/// The fix: the limit is for the whole slice.
#[test]
fn a_slice_of_the_sweep_removes_few_fields_from_many_hashes() {
    /// The limit may be exceeded by the fields of one bucket.
    const SLICE_MAX: usize = 99 + 8 * 20;
    for entries_max in [512, 0] {
        let engine = engine();
        let thresholds = &engine.settings.thresholds;
        thresholds
            .hash_max_listpack_entries
            .store(entries_max, std::sync::atomic::Ordering::Relaxed);
        for number in 0..500 {
            let fields = (0..21).map(|field| (field.to_string(), (field > 0).then_some(100)));
            set(&engine, Now(0), &number.to_string(), fields);
        }
        let (mut removed, mut slices) = (0, 0);
        while removed < 500 * 20 {
            let found = engine.sweep(0, Now(100));
            assert!(found <= SLICE_MAX, "{found}");
            (removed, slices) = (removed + found, slices + 1);
            assert!(slices < 10_000, "only {removed}");
        }
        assert_eq!(sweep_all(&engine, Now(100)), 0);
    }
}

/// Records the published events.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Vec<Event>>>);

impl EventSink for Recorder {
    fn publish(&self, _: EventMask, events: &[KeyEvent]) {
        let mut published = self.0.lock().unwrap();
        published.extend(events.iter().map(|event| event.event));
    }
}

struct Idle;

impl Watcher for Idle {
    fn key_changed(&self) {}
}

/// The bug: a small hash kept the soonest deadline that it ever had, even after HPERSIST or HDEL. When that moment came, clients
/// that watched the key had their EXEC refused, and an event reported expired fields. The fix: the hash computes it anew.
#[test]
fn a_removed_deadline_has_no_effect() {
    let removals: [fn(&mut HashMut<'_>); 4] = [
        |hash| assert!(hash.set_deadline_ms(b"a", None)),
        |hash| assert!(hash.remove(b"a")),
        |hash| assert!(!hash.set(b"a", Element::Bytes(b"value"), None)),
        |hash| assert!(hash.set_deadline_ms(b"a", Some(900))),
    ];
    for entries_max in [512, 0] {
        for remove_deadline in removals {
            let (engine, published) = (engine(), Recorder::default());
            let thresholds = &engine.settings.thresholds;
            thresholds
                .hash_max_listpack_entries
                .store(entries_max, std::sync::atomic::Ordering::Relaxed);
            engine.set_event_sink(Box::new(published.clone()));
            engine.set_events(EventMask::from_letters("KA"));
            let key = Key::new(b"key");
            let fields = [("a", Some(100)), ("b", Some(800)), ("c", None)];
            let fields = fields.map(|(name, deadline)| (name.to_owned(), deadline));
            set(&engine, Now(0), "key", fields.into_iter());
            let mut tx = engine.lock_all(0, Now(10)).unwrap();
            tx.change::<Hash, _>(key, Create::Never, remove_deadline)
                .unwrap();
            let watcher: Arc<dyn Watcher> = Arc::new(Idle);
            let watched = tx.watch(key, 1, &watcher).unwrap();
            drop(tx);
            assert!(!watched.has_expired(Now(799)) && watched.has_expired(Now(800)));
            assert_eq!(sweep_all(&engine, Now(799)), 0);
            assert!(engine.lock_all(0, Now(799)).unwrap().peek(key).is_some());
            assert_eq!(published.0.lock().unwrap()[..], []);
            assert_eq!(sweep_all(&engine, Now(800)), 1);
            assert_eq!(published.0.lock().unwrap()[..], [Event::Hexpired]);
        }
    }
}

/// Random changes at a moving clock, with sweeps in between, compared with a simple model.
#[test]
fn fields_are_visible_exactly_until_their_deadline() {
    let mut random = Random::for_test();
    let mut random = move |below: usize| random.below(below);
    for round in 0..20 {
        let engine = engine();
        let entries_max = if round % 2 == 0 { 512 } else { 10 };
        let thresholds = &engine.settings.thresholds;
        thresholds
            .hash_max_listpack_entries
            .store(entries_max, std::sync::atomic::Ordering::Relaxed);
        let mut model: BTreeMap<(usize, usize), Option<i64>> = BTreeMap::new();
        let mut now = Now(0);
        for _ in 0..1000 {
            now.0 += random(5) as i64;
            model.retain(|_, deadline| deadline.is_none_or(|deadline| deadline > now.0));
            let (key, field) = (random(KEYS), random(FIELDS));
            let name = field.to_string();
            let key_name = key.to_string();
            let bytes = Key::new(key_name.as_bytes());
            let deadline = (random(2) == 0).then(|| now.0 + 1 + random(200) as i64);
            let known = model.get(&(key, field)).copied();
            let mut tx = engine.lock_all(0, now).unwrap();
            match random(8) {
                0..3 => {
                    let is_new = tx.change::<Hash, _>(bytes, Create::IfAbsent, |hash| {
                        // Sometimes too long for a small hash.
                        let value = [b'v'; 100];
                        let value = &value[..if random(30) == 0 { 100 } else { 5 }];
                        hash.set(name.as_bytes(), Element::Bytes(value), deadline)
                    });
                    assert_eq!(is_new, Ok(Some(known.is_none())));
                    model.insert((key, field), deadline);
                }
                3 => {
                    let found = tx.change::<Hash, _>(bytes, Create::Never, |hash| {
                        hash.set_deadline_ms(name.as_bytes(), deadline)
                    });
                    assert_eq!(found.unwrap().unwrap_or(false), known.is_some());
                    model
                        .entry((key, field))
                        .and_modify(|known| *known = deadline);
                }
                4 => {
                    let found = tx.change::<Hash, _>(bytes, Create::Never, |hash| {
                        hash.remove(name.as_bytes())
                    });
                    assert_eq!(found.unwrap().unwrap_or(false), known.is_some());
                    model.remove(&(key, field));
                }
                5 => {
                    drop(tx);
                    engine.sweep(0, now);
                    continue;
                }
                _ => {
                    let hash = tx.read_as::<Hash>(bytes).unwrap();
                    let found = hash.and_then(|hash| hash.get(name.as_bytes()));
                    assert_eq!(found.map(|pair| pair.deadline_ms), known);
                    let len = model.range((key, 0)..(key + 1, 0)).count();
                    assert_eq!(hash.map_or(0, |hash| hash.len()), len);
                }
            }
        }
        check(&engine, now);
        sweep_all(&engine, now);
        let keys: std::collections::BTreeSet<_> = model.keys().map(|(key, _)| key).collect();
        let mut tx = engine.lock_all(0, now).unwrap();
        assert_eq!(tx.totals(0).keys, keys.len());
    }
}
