//! An item for tests, and a table together with a `HashMap` of its expected contents.

use std::{cell::Cell, collections::HashMap, ptr::NonNull, rc::Rc};

use damselfly_table::{Entry, Item, Table};

/// A pseudo-random number from a seed (the finaliser of SplitMix64).
pub fn random(seed: u64) -> u64 {
    let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

/// The hash of a key under a hash function.
pub fn hash_of(hashing: fn(u64) -> u64, key: u64) -> u64 {
    hashing(key)
}

/// The data that an item points to.
pub struct Body {
    key: [u8; 8],
    is_marked: bool,
    value: u64,
    hashing: fn(u64) -> u64,
    live: Rc<Cell<usize>>,
}

/// An item that counts how many of its kind are alive.
pub struct Key(Box<Body>);

impl Key {
    pub fn new(key: u64, is_marked: bool, live: &Rc<Cell<usize>>, hashing: fn(u64) -> u64) -> Self {
        live.set(live.get() + 1);
        Self(Box::new(Body {
            key: key.to_be_bytes(),
            is_marked,
            value: 0,
            hashing,
            live: live.clone(),
        }))
    }

    pub fn live(&self) -> &Rc<Cell<usize>> {
        &self.0.live
    }

    pub fn hash(&self) -> u64 {
        Word(&self.0).hash()
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.0.live.set(self.0.live.get() - 1);
    }
}

/// A shared view of an item.
#[derive(Clone, Copy)]
pub struct Word<'a>(&'a Body);

impl Word<'_> {
    pub fn key(&self) -> u64 {
        u64::from_be_bytes(self.0.key)
    }

    pub fn is_marked(&self) -> bool {
        self.0.is_marked
    }

    pub fn value(&self) -> u64 {
        self.0.value
    }

    fn hash(&self) -> u64 {
        (self.0.hashing)(self.key())
    }
}

// SAFETY: the pointer is a box's, so aligned to that of `Body` (8), owned, and below 2^48 on the systems we test on;
// the views read only.
unsafe impl Item for Key {
    type Ref<'a> = Word<'a>;

    fn into_raw(self) -> NonNull<u8> {
        let item = std::mem::ManuallyDrop::new(self);
        // SAFETY: the box is moved out once, of an item that is never dropped.
        let body = unsafe { std::ptr::read(&item.0) };
        NonNull::from(Box::leak(body)).cast()
    }

    unsafe fn from_raw(raw: NonNull<u8>) -> Self {
        // SAFETY: by contract the pointer comes from `into_raw`, so it is a leaked box.
        Self(unsafe { Box::from_raw(raw.as_ptr().cast()) })
    }

    unsafe fn reference<'a>(raw: NonNull<u8>) -> Word<'a> {
        // SAFETY: by contract it is a leaked box that is not taken back during `'a`.
        Word(unsafe { raw.cast().as_ref() })
    }

    unsafe fn key<'a>(raw: NonNull<u8>) -> &'a [u8] {
        // SAFETY: as the caller promises.
        let word: Word<'a> = unsafe { Self::reference(raw) };
        &word.0.key
    }

    unsafe fn hash(raw: NonNull<u8>) -> u64 {
        // SAFETY: as the caller promises.
        unsafe { Self::reference(raw) }.hash()
    }

    unsafe fn marked(raw: NonNull<u8>) -> bool {
        // SAFETY: as the caller promises.
        unsafe { Self::reference(raw) }.is_marked()
    }
}

/// A table and its expected contents: each key's mark and value.
pub struct Model {
    pub table: Table<Key>,
    expected: HashMap<u64, (bool, u64)>,
    hashing: fn(u64) -> u64,
    live: Rc<Cell<usize>>,
}

impl Model {
    pub fn new(prefix_bits: u32, stagger: u32, hashing: fn(u64) -> u64) -> Self {
        Self::with(Table::new(prefix_bits, stagger), hashing)
    }

    pub fn with(table: Table<Key>, hashing: fn(u64) -> u64) -> Self {
        Self {
            table,
            expected: HashMap::new(),
            hashing,
            live: Rc::default(),
        }
    }

    /// Whether a new item with this key is marked; a third of them are.
    pub fn starts_marked(key: u64) -> bool {
        random(key ^ 0xaaaa).is_multiple_of(3)
    }

    /// How many items exist.
    pub fn live(&self) -> usize {
        self.live.get()
    }

    pub fn keys(&self) -> impl Iterator<Item = u64> {
        self.expected.keys().copied()
    }

    /// Inserts the key, or replaces its item.
    pub fn insert(&mut self, key: u64) {
        let item = Key::new(key, Self::starts_marked(key), &self.live, self.hashing);
        let had = match self.table.entry((self.hashing)(key), &key.to_be_bytes()) {
            Entry::Occupied(mut occupied) => {
                let old = occupied.replace(item);
                Some((old.0.is_marked, old.0.value))
            }
            Entry::Vacant(vacant) => {
                assert_eq!(vacant.insert(item).get().key(), key);
                None
            }
        };
        assert_eq!(
            had,
            self.expected.insert(key, (Self::starts_marked(key), 0)),
            "key {key}"
        );
    }

    /// Changes value and mark, and moves the item in memory.
    pub fn update(&mut self, key: u64) {
        let entry = self.table.entry((self.hashing)(key), &key.to_be_bytes());
        let expected = self.expected.get_mut(&key);
        match (entry, expected) {
            (Entry::Occupied(mut occupied), Some(expected)) => {
                *expected = (!expected.0, expected.1 + 1);
                occupied.update(|item| {
                    let mut fresh = Key::new(key, !item.0.is_marked, item.live(), item.0.hashing);
                    fresh.0.value = item.0.value + 1;
                    *item = fresh;
                });
                let word = occupied.into_ref();
                assert_eq!((word.is_marked(), word.value()), *expected);
            }
            (Entry::Vacant(_), None) => (),
            (Entry::Occupied(_), None) | (Entry::Vacant(_), Some(_)) => panic!("key {key}"),
        }
    }

    pub fn remove(&mut self, key: u64) {
        let removed = match self.table.entry((self.hashing)(key), &key.to_be_bytes()) {
            Entry::Occupied(occupied) => {
                let item = occupied.remove();
                assert_eq!(u64::from_be_bytes(item.0.key), key);
                Some((item.0.is_marked, item.0.value))
            }
            Entry::Vacant(_) => None,
        };
        assert_eq!(removed, self.expected.remove(&key), "key {key}");
    }

    pub fn find(&mut self, key: u64) {
        let hash = (self.hashing)(key);
        self.table.prefetch_bucket(hash);
        self.table.prefetch_item(hash);
        let found = self
            .table
            .find(hash, &key.to_be_bytes())
            .map(|word| (word.is_marked(), word.value()));
        assert_eq!(found, self.expected.get(&key).copied(), "key {key}");
    }

    /// Sweeps; returns the removed keys.
    pub fn sweep(
        &mut self,
        position: &mut u64,
        buckets: usize,
        dead: impl Fn(Word<'_>) -> bool,
    ) -> Vec<u64> {
        let mut removed = Vec::new();
        let count = self.table.sweep(position, buckets, &dead, |item| {
            removed.push(Word(&item.0).key())
        });
        self.forget(count, &removed);
        removed
    }

    /// Sweeps one segment; returns the removed keys.
    pub fn sweep_segment_of(&mut self, hash: u64, dead: impl Fn(Word<'_>) -> bool) -> Vec<u64> {
        let mut removed = Vec::new();
        let count = self
            .table
            .sweep_segment_of(hash, &dead, |item| removed.push(Word(&item.0).key()));
        self.forget(count, &removed);
        removed
    }

    fn forget(&mut self, count: usize, removed: &[u64]) {
        assert_eq!(count, removed.len());
        for key in removed {
            assert!(
                self.expected
                    .remove(key)
                    .is_some_and(|(is_marked, _)| is_marked),
                "key {key}"
            );
        }
    }

    /// Removes everything, with checks in between.
    pub fn remove_all(&mut self) {
        let keys: Vec<u64> = self.keys().collect();
        for (index, key) in keys.iter().enumerate() {
            self.remove(*key);
            if index % (keys.len() / 16).max(1) == 0 {
                self.check();
            }
        }
        self.check();
        assert!(self.table.is_empty());
    }

    /// Compares everything and checks the table's invariants.
    pub fn check(&self) {
        self.table.assert_valid();
        assert_eq!(self.live(), self.expected.len());
        assert_eq!(self.table.len(), self.expected.len());
        assert_eq!(
            self.table.marked(),
            self.expected
                .values()
                .filter(|(is_marked, _)| *is_marked)
                .count()
        );
        let mut seen = HashMap::new();
        self.table.for_each(|word| {
            seen.insert(word.key(), (word.is_marked(), word.value()));
        });
        assert_eq!(seen, self.expected);
    }
}

/// Hash functions for [`drive`], from good to the worst possible.
const HASHINGS: [fn(u64) -> u64; 5] = [
    random,
    |_| 0,
    |key| key << 44,
    |key| random(key) | 0xfff << 44,
    |key| (key % 3) << 50,
];

/// Runs the operations that `bytes` encode on a table and its model, and compares the two: the entry point for fuzzing.
pub fn drive(bytes: &[u8]) {
    let Some((&setup, operations)) = bytes.split_first() else {
        return;
    };
    let hashing = HASHINGS[usize::from(setup) % HASHINGS.len()];
    let mut model = match setup {
        224.. => Model::with(Table::dense(), hashing),
        _ => Model::new(u32::from(setup) % 25, u32::from(setup) / 3, hashing),
    };
    let (mut cursor, mut position) = (0, 0);
    for pair in operations.chunks_exact(2) {
        let key = u64::from(pair[1]);
        match pair[0] % 16 {
            // Runs of keys, so that few bytes make a table of many segments.
            0..3 => (key * 32..key * 32 + 64).for_each(|key| model.insert(key)),
            3..5 => (key * 32..key * 32 + 64).for_each(|key| model.remove(key)),
            5..8 => model.insert(key),
            8 | 9 => model.remove(key),
            10 => model.update(key),
            11 => model.find(key),
            12 => {
                cursor = model
                    .table
                    .scan(cursor, |word| assert!(word.value() < u64::MAX))
            }
            13 => drop(model.sweep(&mut position, pair[1].into(), |word| word.key() % 3 != 0)),
            14 => drop(model.sweep_segment_of(hashing(key), |word| word.key() % 3 != 0)),
            _ => assert_eq!(model.table.random(key).is_none(), model.table.is_empty()),
        }
        if pair[0] >= 128 {
            model.check();
        }
    }
    model.check();
}
