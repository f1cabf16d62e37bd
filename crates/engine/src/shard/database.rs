//! One database's share of one shard: a table of entries and what is counted about them.

use damselfly_base::heap;
use damselfly_table::{Entry as Slot, Occupied, Table, Vacant};
use damselfly_value::{Entry, EntryRef};

use crate::section::expired_keys::Expirer;
use crate::{Key, Now};

/// A slice of the sweep ends with the bucket in which it has removed so many fields, and removes no more of one large hash:
/// about as much work as a slice is otherwise.
const FIELDS_PER_SWEEP: usize = 100;

/// The entries of one database in one shard.
pub struct Database {
    pub(crate) table: Table<Entry>,
    counts: Counts,
    /// It was flushed: its entries are no data any more and only wait to be freed.
    is_garbage: bool,
    /// Where the background sweep goes on, in hash order.
    pub(crate) sweep_position: u64,
    /// Where the search for keys to evict goes on, in hash order.
    pub(crate) evict_position: u64,
}

/// What is counted about entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    /// Bytes truly set aside.
    bytes: usize,
    /// Hashes without a deadline of their own that have fields with deadlines.
    timed_hashes: usize,
}

impl Counts {
    #[inline]
    fn add(&mut self, entry: EntryRef<'_>) {
        self.bytes += entry.allocated_bytes();
        self.timed_hashes += usize::from(is_timed_hash(entry));
    }

    #[inline]
    fn subtract(&mut self, entry: EntryRef<'_>) {
        self.bytes -= entry.allocated_bytes();
        self.timed_hashes -= usize::from(is_timed_hash(entry));
    }

    /// Counts an entry that is stored now, for the whole process, too.
    #[inline]
    fn add_data(&mut self, entry: EntryRef<'_>) {
        let before = self.bytes;
        self.add(entry);
        heap::count_data((self.bytes - before) as i64);
    }

    /// Counts an entry that is taken out.
    #[inline]
    fn subtract_data(&mut self, entry: EntryRef<'_>) {
        let before = self.bytes;
        self.subtract(entry);
        heap::count_data(-((before - self.bytes) as i64));
    }
}

#[inline]
fn is_timed_hash(entry: EntryRef<'_>) -> bool {
    entry.can_expire() && !entry.has_deadline() && entry.first_field_deadline_ms().is_some()
}

/// Where a key is, or would be.
pub enum Place<'a> {
    /// The key exists.
    Present(Present<'a>),
    /// It does not.
    Absent(Absent<'a>),
}

/// A key's entry, to read, change or remove.
pub struct Present<'a> {
    slot: Occupied<'a, Entry>,
    counts: &'a mut Counts,
}

/// The place for a new entry.
pub struct Absent<'a> {
    slot: Vacant<'a, Entry>,
    counts: &'a mut Counts,
    ends: Expirer<'a>,
}

impl<'a> Present<'a> {
    /// The entry.
    #[inline]
    pub fn view(&self) -> EntryRef<'_> {
        self.slot.get()
    }

    /// The entry, for as long as the database is borrowed.
    #[inline]
    pub fn into_view(self) -> EntryRef<'a> {
        self.slot.into_ref()
    }

    /// Changes the entry; its key must stay.
    #[inline]
    pub fn update<R>(&mut self, change: impl FnOnce(&mut Entry) -> R) -> R {
        let counts = &mut *self.counts;
        let before = counts.bytes;
        let result = self.slot.update(|entry| {
            counts.subtract(entry.view());
            let result = change(entry);
            counts.add(entry.view());
            result
        });
        if counts.bytes != before {
            heap::count_data(counts.bytes as i64 - before as i64);
        }
        result
    }

    /// Removes the fields that have ended, of a hash of which some stay.
    #[cold]
    fn without_expired_fields(mut self, ends: &mut Expirer<'_>) -> Self {
        self.update(|entry| entry.remove_expired_fields(ends.now.0, usize::MAX));
        ends.fields_expired(self.view().key());
        self
    }

    /// Removes the entry, whose end has come.
    #[cold]
    fn end<'e>(self, hash: u64, mut ends: Expirer<'e>) -> Absent<'e>
    where
        'a: 'e,
    {
        let (entry, slot) = self.slot.vacate(hash);
        self.counts.subtract_data(entry.view());
        ends.entry_expired(entry.view());
        Absent {
            slot,
            counts: self.counts,
            ends,
        }
    }

    /// Takes the entry out.
    pub fn remove(self) -> Entry {
        let entry = self.slot.remove();
        self.counts.subtract_data(entry.view());
        entry
    }
}

impl Absent<'_> {
    /// Stores an entry of this place's key, whose access bits are set. Where that would make the table grow, entries whose end
    /// has come make room first.
    #[inline]
    pub(crate) fn insert(self, entry: Entry) {
        let Self {
            mut slot,
            counts,
            mut ends,
        } = self;
        counts.add_data(entry.view());
        if slot.would_grow() {
            let now = ends.now;
            slot.sweep_segment(
                |entry| is_expired(entry, now),
                |entry| {
                    counts.subtract_data(entry.view());
                    ends.entry_expired(entry.view());
                },
            );
        }
        let slot = slot.insert(entry);
        if ends.are_observed() {
            ends.key_created(slot.get().key());
        }
    }
}

impl Database {
    pub(crate) fn new(shard_bits: u32, stagger: u32) -> Self {
        Self {
            table: Table::new(shard_bits, stagger),
            counts: Counts::default(),
            is_garbage: false,
            sweep_position: 0,
            evict_position: 0,
        }
    }

    /// The number of keys, those included whose end has come but that are still in memory.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// True if there are no keys.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// The number of keys with a deadline.
    pub fn deadlines(&self) -> usize {
        self.table.marked() - self.counts.timed_hashes
    }

    /// Whether there is anything that a sweep might remove one day: keys or fields with a deadline.
    pub(crate) fn can_expire(&self) -> bool {
        self.table.marked() > 0
    }

    /// Bytes set aside for the entries themselves.
    pub fn entry_bytes(&self) -> usize {
        self.counts.bytes
    }

    /// Bytes of the table around the entries.
    pub fn table_bytes(&self) -> usize {
        self.table.memory_bytes()
    }

    /// Bytes of all of it.
    pub fn bytes(&self) -> usize {
        self.entry_bytes() + self.table_bytes()
    }

    /// Notes that it was flushed.
    pub(crate) fn become_garbage(&mut self) {
        if !std::mem::replace(&mut self.is_garbage, true) {
            heap::count_data(-(self.counts.bytes as i64));
        }
    }

    /// How full the table is.
    pub fn fill(&self) -> damselfly_table::Fill {
        self.table.fill()
    }

    /// Walks through everything and checks it, for tests and fuzzing.
    ///
    /// # Panics
    /// If an invariant is broken.
    pub fn assert_valid(&self) {
        self.table.assert_valid();
        let mut counts = Counts::default();
        self.table.for_each(|entry| counts.add(entry));
        assert_eq!(counts, self.counts);
    }

    /// The place of a key; what has ended of it is removed first. `ends` makes what is needed only for that, and for an absent
    /// key.
    #[inline]
    pub(crate) fn place<'a>(
        &'a mut self,
        key: Key<'_>,
        now: Now,
        ends: impl FnOnce() -> Expirer<'a>,
    ) -> Place<'a> {
        let counts = &mut self.counts;
        match self.table.entry(key.hash, key.bytes) {
            Slot::Vacant(slot) => Place::Absent(Absent {
                slot,
                counts,
                ends: ends(),
            }),
            Slot::Occupied(slot) => match age(slot.get(), now) {
                Age::Live => Place::Present(Present { slot, counts }),
                Age::LosesFields => {
                    let present = Present { slot, counts };
                    Place::Present(present.without_expired_fields(&mut ends()))
                }
                Age::Dead => {
                    let present = Present { slot, counts };
                    Place::Absent(present.end(key.hash, ends()))
                }
            },
        }
    }

    /// The live entry of a key.
    #[inline]
    pub(crate) fn view(&self, key: Key<'_>, now: Now) -> Option<EntryRef<'_>> {
        self.table
            .find(key.hash, key.bytes)
            .filter(|entry| !is_expired(*entry, now))
    }

    /// The live entry of a key; what has ended of it is removed first. `ends` makes what is needed only for that.
    #[inline]
    pub(crate) fn find<'a, 'e>(
        &'a mut self,
        key: Key<'_>,
        now: Now,
        ends: impl FnOnce() -> Expirer<'e>,
    ) -> Option<EntryRef<'a>>
    where
        'a: 'e,
    {
        let slot = match self.table.entry(key.hash, key.bytes) {
            Slot::Occupied(slot) => slot,
            Slot::Vacant(_) => return None,
        };
        let counts = &mut self.counts;
        match age(slot.get(), now) {
            Age::Live => Some(slot.into_ref()),
            Age::LosesFields => {
                let present = Present { slot, counts };
                Some(present.without_expired_fields(&mut ends()).into_view())
            }
            Age::Dead => {
                Present { slot, counts }.end(key.hash, ends());
                None
            }
        }
    }

    /// Removes the entry of a key, even one whose end has come; false if there is none.
    pub(crate) fn clear(&mut self, key: Key<'_>) -> bool {
        match self.table.entry(key.hash, key.bytes) {
            Slot::Vacant(_) => false,
            Slot::Occupied(slot) => {
                self.counts.subtract_data(slot.remove().view());
                true
            }
        }
    }

    /// Sweeps up to `buckets` buckets for what has ended, where the last call stopped. Returns how many entries and fields it
    /// removed.
    pub(crate) fn sweep(&mut self, mut ends: Expirer<'_>, buckets: usize) -> usize {
        let mut position = self.sweep_position;
        let removed = self.sweep_from(&mut position, &mut ends, buckets);
        self.sweep_position = position;
        removed
    }

    /// As [`Database::sweep`], from a position in hash order.
    pub(crate) fn sweep_from(
        &mut self,
        position: &mut u64,
        ends: &mut Expirer<'_>,
        buckets: usize,
    ) -> usize {
        let (mut entries, mut fields, mut losing) = (0, 0, Vec::new());
        for _ in 0..buckets {
            entries += self.sweep_bucket(position, ends, &mut losing);
            for key in losing.drain(..) {
                fields += self.sweep_fields(&key, ends);
            }
            if *position == 0 || fields >= FIELDS_PER_SWEEP {
                break;
            }
        }
        entries + fields
    }

    /// Removes the dead entries of one bucket, and notes the keys of hashes that lose fields.
    fn sweep_bucket(
        &mut self,
        position: &mut u64,
        ends: &mut Expirer<'_>,
        losing: &mut Vec<Vec<u8>>,
    ) -> usize {
        let (counts, now) = (&mut self.counts, ends.now);
        self.table.sweep(
            position,
            1,
            |entry| match age(entry, now) {
                Age::Live => false,
                Age::Dead => true,
                Age::LosesFields => {
                    losing.push(entry.key().to_vec());
                    false
                }
            },
            |entry| {
                counts.subtract_data(entry.view());
                ends.entry_expired(entry.view());
            },
        )
    }

    fn sweep_fields(&mut self, key: &[u8], ends: &mut Expirer<'_>) -> usize {
        let key = Key::new(key);
        let Slot::Occupied(slot) = self.table.entry(key.hash, key.bytes) else {
            return 0;
        };
        let counts = &mut self.counts;
        let removed = Present { slot, counts }
            .update(|entry| entry.remove_expired_fields(ends.now.0, FIELDS_PER_SWEEP));
        ends.fields_expired(key.bytes);
        removed
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.become_garbage();
    }
}

/// What the clock says about an entry.
enum Age {
    Live,
    /// It is live, but fields of its hash have ended.
    LosesFields,
    /// Its end has come.
    Dead,
}

#[inline]
fn age(entry: EntryRef<'_>, now: Now) -> Age {
    if entry.can_expire() {
        age_by_clock(entry, now)
    } else {
        Age::Live
    }
}

fn age_by_clock(entry: EntryRef<'_>, now: Now) -> Age {
    let is_past = |moment: i64| moment <= now.0;
    if entry.deadline_ms().is_some_and(is_past) {
        return Age::Dead;
    }
    if !entry.first_field_deadline_ms().is_some_and(is_past) {
        return Age::Live;
    }
    if entry.expires_ms().is_some_and(is_past) {
        return Age::Dead;
    }
    Age::LosesFields
}

/// True if the entry's end has come.
#[inline]
pub(crate) fn is_expired(entry: EntryRef<'_>, now: Now) -> bool {
    matches!(age(entry, now), Age::Dead)
}
