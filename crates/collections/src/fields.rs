//! A large hash: a table of fields, each in its own block of memory.
//!
//! ```text
//! | flags: u8 | field length | field ... | deadline: i64 | value length | value ... |
//!
//! flags   bits 0-1  width of the field length: 1, 2 or 4 bytes
//!         bits 2-3  width of the value length: 1, 2 or 4 bytes; or of an integer value: 1, 2, 4 or 8 bytes
//!         bit  4    the value is an integer, stored without a value length
//!         bit  5    a deadline is present; milliseconds since the epoch
//! ```
//!
//! All numbers are little-endian and unaligned. A new value that fits into the block, which the allocator makes a little
//! larger than requested, is written in place.
//!
//! Deadlines, if any, are also kept in an ordered set, so that expired fields are found without a search.

use std::{collections::BTreeSet, fmt, marker::PhantomData, ptr::NonNull};

use damselfly_base::{hash, heap};
use damselfly_table::{Entry, Item, Occupied, Table};

use crate::Element;

/// Longest field and longest value, in bytes.
const BYTES_MAX: usize = u32::MAX as usize;

const WIDTH_MASK: u8 = 3;
const VALUE_WIDTH_SHIFT: u8 = 2;
const INTEGER_FLAG: u8 = 1 << 4;
const DEADLINE_FLAG: u8 = 1 << 5;
const DEADLINE_BYTES: usize = 8;

/// The approximate memory per element of [`Deadlines`]: 16 bytes, in B-tree nodes that are between half full and full.
const DEADLINE_NODE_BYTES: usize = 28;

/// The layout of a block.
#[derive(Clone, Copy)]
struct Shape {
    flags: u8,
    field_len: usize,
    /// The stored size of the value.
    value_bytes: usize,
}

impl Shape {
    fn new(field_len: usize, value: Element<'_>, has_deadline: bool) -> Self {
        let (form, value_bytes) = match value {
            Element::Bytes(bytes) => (length_width(bytes.len()), bytes.len()),
            Element::Integer(number) => {
                let width = integer_width(number);
                (width | INTEGER_FLAG >> VALUE_WIDTH_SHIFT, 1 << width)
            }
        };
        let deadline = if has_deadline { DEADLINE_FLAG } else { 0 };
        Self {
            flags: length_width(field_len) | form << VALUE_WIDTH_SHIFT | deadline,
            field_len,
            value_bytes,
        }
    }

    fn has_deadline(self) -> bool {
        self.flags & DEADLINE_FLAG != 0
    }

    fn is_integer(self) -> bool {
        self.flags & INTEGER_FLAG != 0
    }

    fn field_width(self) -> u8 {
        self.flags & WIDTH_MASK
    }

    /// log2 of the size of the value's length field, or of the integer, in bytes.
    fn value_width(self) -> u8 {
        self.flags >> VALUE_WIDTH_SHIFT & WIDTH_MASK
    }

    fn field_at(self) -> usize {
        1 + (1 << self.field_width())
    }

    fn deadline_at(self) -> usize {
        self.field_at() + self.field_len
    }

    fn value_length_at(self) -> usize {
        self.deadline_at()
            + if self.has_deadline() {
                DEADLINE_BYTES
            } else {
                0
            }
    }

    fn value_at(self) -> usize {
        self.value_length_at()
            + if self.is_integer() {
                0
            } else {
                1 << self.value_width()
            }
    }

    fn total(self) -> usize {
        self.value_at() + self.value_bytes
    }
}

/// log2 of the number of bytes that a length needs.
fn length_width(len: usize) -> u8 {
    match len {
        0..=0xff => 0,
        0x100..=0xffff => 1,
        _ => 2,
    }
}

/// log2 of the number of bytes that an integer needs.
fn integer_width(number: i64) -> u8 {
    // Bits without the sign, which needs one more.
    match 64 - (number ^ (number >> 63)).leading_zeros() {
        0..=7 => 0,
        8..=15 => 1,
        16..=31 => 2,
        _ => 3,
    }
}

/// An owned block: a field, its value, and optionally its deadline.
///
/// Invariant: the pointer refers to a live block from `heap::allocate`, which contains everything that its header describes.
struct Field(NonNull<u8>);

// SAFETY: a field is the only owner of its block, and any thread may free a block.
unsafe impl Send for Field {}
// SAFETY: through `&Field`, the block is only read.
unsafe impl Sync for Field {}

impl Drop for Field {
    fn drop(&mut self) {
        // SAFETY: owned, and never used again.
        unsafe { heap::free(self.0) }
    }
}

impl Field {
    fn new(field: &[u8], value: Element<'_>, deadline_ms: Option<i64>) -> Self {
        let shape = Shape::new(field.len(), value, deadline_ms.is_some());
        assert!(
            field.len().max(shape.value_bytes) <= BYTES_MAX,
            "field or value over 4 GiB"
        );
        let mut block = Self(heap::allocate(shape.total()));
        block.fill(0, &[shape.flags]);
        block.fill(1, &field.len().to_le_bytes()[..1 << shape.field_width()]);
        block.fill(shape.field_at(), field);
        block.write_rest(shape, value, deadline_ms);
        block
    }

    /// Writes bytes into the block.
    fn fill(&mut self, at: usize, bytes: &[u8]) {
        debug_assert!(at + bytes.len() <= self.room());
        // SAFETY: all callers stay within the shape, for which the block was allocated or checked to be large enough.
        let to = unsafe { self.0.add(at) };
        // SAFETY: as above; the source does not overlap this block, whose bytes are mutably borrowed with `self`.
        unsafe { to.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) }
    }

    /// Writes the parts that follow the field: deadline, value length and value.
    fn write_rest(&mut self, shape: Shape, value: Element<'_>, deadline_ms: Option<i64>) {
        if let Some(deadline) = deadline_ms {
            self.fill(shape.deadline_at(), &deadline.to_le_bytes());
        }
        match value {
            Element::Integer(number) => {
                self.fill(shape.value_at(), &number.to_le_bytes()[..shape.value_bytes]);
            }
            Element::Bytes(bytes) => {
                let len = &bytes.len().to_le_bytes()[..1 << shape.value_width()];
                self.fill(shape.value_length_at(), len);
                self.fill(shape.value_at(), bytes);
            }
        }
    }

    fn view(&self) -> FieldRef<'_> {
        FieldRef {
            block: self.0,
            lifetime: PhantomData,
        }
    }

    fn room(&self) -> usize {
        self.view().allocated_bytes()
    }

    /// Replaces the value and the deadline, in place if they fit and waste little space.
    fn set(&mut self, value: Element<'_>, deadline_ms: Option<i64>) {
        let old = self.view().field();
        let shape = Shape::new(old.len(), value, deadline_ms.is_some());
        let (total, room) = (shape.total(), self.room());
        if total <= room && room <= total + total / 4 + 16 {
            self.fill(0, &[shape.flags]);
            self.write_rest(shape, value, deadline_ms);
        } else {
            *self = Self::new(old, value, deadline_ms);
        }
    }

    /// Replaces the deadline, in place if the field already has one.
    fn set_deadline_ms(&mut self, deadline_ms: Option<i64>) {
        let old = self.view();
        match (old.deadline_ms(), deadline_ms) {
            (None, None) => {}
            (Some(_), Some(new)) => self.fill(old.shape().deadline_at(), &new.to_le_bytes()),
            (None, Some(_)) | (Some(_), None) => {
                *self = Self::new(old.field(), old.value(), deadline_ms);
            }
        }
    }
}

/// A borrowed field.
#[derive(Clone, Copy)]
pub struct FieldRef<'a> {
    block: NonNull<u8>,
    lifetime: PhantomData<&'a Field>,
}

impl<'a> FieldRef<'a> {
    /// Borrows the field behind a pointer.
    ///
    /// # Safety
    /// The pointer came from a [`Field`], which stays alive and unchanged for `'a`.
    unsafe fn from_raw(block: NonNull<u8>) -> Self {
        Self {
            block,
            lifetime: PhantomData,
        }
    }

    fn part(self, at: usize, len: usize) -> &'a [u8] {
        // SAFETY: all callers stay within the block's shape.
        let from = unsafe { self.block.add(at) };
        // SAFETY: initialised bytes of a block that stays alive and unchanged for `'a`.
        unsafe { NonNull::slice_from_raw_parts(from, len).as_ref() }
    }

    fn number<const N: usize>(self, at: usize) -> [u8; N] {
        // SAFETY: all callers stay within the block's shape.
        let from = unsafe { self.block.add(at) };
        // SAFETY: initialised bytes; a byte array has no alignment.
        unsafe { from.cast().read() }
    }

    fn length(self, at: usize, width: u8) -> usize {
        match width {
            0 => usize::from(self.number::<1>(at)[0]),
            1 => usize::from(u16::from_le_bytes(self.number(at))),
            _ => u32::from_le_bytes(self.number(at)) as usize,
        }
    }

    fn flags(self) -> u8 {
        self.number::<1>(0)[0]
    }

    fn shape(self) -> Shape {
        let mut shape = Shape {
            flags: self.flags(),
            field_len: 0,
            value_bytes: 0,
        };
        shape.field_len = self.length(1, shape.field_width());
        shape.value_bytes = if shape.is_integer() {
            1 << shape.value_width()
        } else {
            self.length(shape.value_length_at(), shape.value_width())
        };
        shape
    }

    /// The field's name.
    #[inline]
    pub fn field(self) -> &'a [u8] {
        let width = self.flags() & WIDTH_MASK;
        self.part(1 + (1 << width), self.length(1, width))
    }

    /// The field's value.
    #[inline]
    pub fn value(self) -> Element<'a> {
        let shape = self.shape();
        let at = shape.value_at();
        if !shape.is_integer() {
            return Element::Bytes(self.part(at, shape.value_bytes));
        }
        Element::Integer(match shape.value_width() {
            0 => i64::from(i8::from_le_bytes(self.number(at))),
            1 => i64::from(i16::from_le_bytes(self.number(at))),
            2 => i64::from(i32::from_le_bytes(self.number(at))),
            _ => i64::from_le_bytes(self.number(at)),
        })
    }

    /// When the field expires, in milliseconds since the epoch.
    #[inline]
    pub fn deadline_ms(self) -> Option<i64> {
        (self.flags() & DEADLINE_FLAG != 0)
            .then(|| i64::from_le_bytes(self.number(self.shape().deadline_at())))
    }

    /// The bytes that the allocator really uses for the field.
    #[inline]
    pub fn allocated_bytes(self) -> usize {
        // SAFETY: the block is live.
        unsafe { heap::usable_bytes(self.block) }
    }
}

impl fmt::Debug for FieldRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Field")
            .field("field", &self.field().escape_ascii().to_string())
            .field("value", &self.value())
            .field("deadline_ms", &self.deadline_ms())
            .finish()
    }
}

// SAFETY:
// - blocks come from `heap::allocate`: aligned to 8, in user space, which ends below 2^48;
// - a field is the only owner of its block, may move between threads, and changes only through `&mut`.
unsafe impl Item for Field {
    type Ref<'a> = FieldRef<'a>;

    #[inline]
    fn into_raw(self) -> NonNull<u8> {
        std::mem::ManuallyDrop::new(self).0
    }

    #[inline]
    unsafe fn from_raw(raw: NonNull<u8>) -> Self {
        Self(raw)
    }

    #[inline]
    unsafe fn reference<'a>(raw: NonNull<u8>) -> FieldRef<'a> {
        // SAFETY: as the caller promises.
        unsafe { FieldRef::from_raw(raw) }
    }

    #[inline]
    unsafe fn key<'a>(raw: NonNull<u8>) -> &'a [u8] {
        // SAFETY: as the caller promises.
        unsafe { FieldRef::from_raw(raw) }.field()
    }

    #[inline]
    unsafe fn hash(raw: NonNull<u8>) -> u64 {
        // SAFETY: as the caller promises.
        hash(unsafe { FieldRef::from_raw(raw) }.field())
    }

    /// Never marked: expired fields are found through [`Deadlines`].
    #[inline]
    unsafe fn marked(_raw: NonNull<u8>) -> bool {
        false
    }
}

/// The deadlines of a hash's fields, earliest first, with the addresses of the fields. Takes no memory while empty.
///
/// Invariant: contains exactly those fields of its [`Fields`] that have a deadline.
#[derive(Default)]
struct Deadlines(BTreeSet<(i64, usize)>);

impl Deadlines {
    fn key(field: FieldRef<'_>) -> Option<(i64, usize)> {
        let deadline = field.deadline_ms()?;
        Some((deadline, field.block.as_ptr().expose_provenance()))
    }

    /// Adds a field that was just inserted or changed, if it has a deadline.
    fn add(&mut self, field: FieldRef<'_>) {
        if let Some(key) = Self::key(field) {
            self.0.insert(key);
        }
    }

    /// Removes a field that is about to be removed or changed.
    fn remove(&mut self, field: FieldRef<'_>) {
        if let Some(key) = Self::key(field) {
            self.0.remove(&key);
        }
    }

    fn memory_bytes(&self) -> usize {
        self.0.len() * DEADLINE_NODE_BYTES
    }
}

/// Changes a field and updates the byte count and the deadlines accordingly.
fn update(
    mut place: Occupied<'_, Field>,
    field_bytes: &mut usize,
    deadlines: &mut Deadlines,
    change: impl FnOnce(&mut Field),
) {
    deadlines.remove(place.get());
    let before = place.get().allocated_bytes();
    place.update(change);
    *field_bytes = *field_bytes - before + place.get().allocated_bytes();
    deadlines.add(place.get());
}

/// A hash of any size: fields, their values and their deadlines. It knows no clock: expired fields stay until
/// [`remove_expired`](Self::remove_expired) is called.
pub struct Fields {
    table: Table<Field>,
    /// The bytes that the allocator really uses for the fields.
    field_bytes: usize,
    deadlines: Deadlines,
}

impl Default for Fields {
    fn default() -> Self {
        Self::new()
    }
}

impl Fields {
    /// Creates an empty hash; allocates nothing.
    pub const fn new() -> Self {
        Self {
            table: Table::dense(),
            field_bytes: 0,
            deadlines: Deadlines(BTreeSet::new()),
        }
    }

    /// The number of fields.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether there are no fields.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// The bytes of heap that the hash uses, without the size of `Fields` itself: exact for the fields and their table,
    /// an estimate for the set of deadlines.
    pub fn memory_bytes(&self) -> usize {
        self.table.memory_bytes() + self.field_bytes + self.deadlines.memory_bytes()
    }

    /// Looks up a field.
    #[inline]
    pub fn get(&self, field: &[u8]) -> Option<FieldRef<'_>> {
        self.table.find(hash(field), field)
    }

    /// Sets a field's value and deadline, and returns whether the field is new. Pass a value that is a canonical integer as an
    /// integer: it takes less memory.
    #[inline]
    pub fn set(&mut self, field: &[u8], value: Element<'_>, deadline_ms: Option<i64>) -> bool {
        match self.table.entry(hash(field), field) {
            Entry::Vacant(place) => {
                let new = Field::new(field, value, deadline_ms);
                self.field_bytes += new.room();
                self.deadlines.add(new.view());
                place.insert(new);
                true
            }
            Entry::Occupied(place) => {
                let (bytes, deadlines) = (&mut self.field_bytes, &mut self.deadlines);
                update(place, bytes, deadlines, |field| {
                    field.set(value, deadline_ms)
                });
                false
            }
        }
    }

    /// Sets or removes a field's deadline, and returns whether the field exists.
    pub fn set_deadline_ms(&mut self, field: &[u8], deadline_ms: Option<i64>) -> bool {
        let Entry::Occupied(place) = self.table.entry(hash(field), field) else {
            return false;
        };
        let (bytes, deadlines) = (&mut self.field_bytes, &mut self.deadlines);
        update(place, bytes, deadlines, |field| {
            field.set_deadline_ms(deadline_ms);
        });
        true
    }

    /// Removes a field, and returns whether it existed.
    #[inline]
    pub fn remove(&mut self, field: &[u8]) -> bool {
        let Entry::Occupied(place) = self.table.entry(hash(field), field) else {
            return false;
        };
        let removed = place.remove();
        self.uncount(&removed);
        true
    }

    /// Updates the byte count and the deadlines after `removed` left the table.
    fn uncount(&mut self, removed: &Field) {
        self.field_bytes -= removed.room();
        self.deadlines.remove(removed.view());
    }

    /// The number of fields with a deadline.
    pub fn deadline_count(&self) -> usize {
        self.deadlines.0.len()
    }

    /// The earliest deadline of any field.
    pub fn first_deadline_ms(&self) -> Option<i64> {
        self.deadlines.0.first().map(|(deadline, _)| *deadline)
    }

    /// The latest deadline, if all fields have one: the hash is then empty after it.
    pub fn expires_ms(&self) -> Option<i64> {
        let (last, _) = self.deadlines.0.last()?;
        (self.deadline_count() == self.len()).then_some(*last)
    }

    /// Removes up to `limit` expired fields, the earliest deadlines first, calls `gone` with the name of each, and returns how many.
    pub fn remove_expired(
        &mut self,
        now_ms: i64,
        limit: usize,
        mut gone: impl FnMut(&[u8]),
    ) -> usize {
        let mut count = 0;
        while count < limit
            && let Some(&(deadline, address)) = self.deadlines.0.first()
            && deadline <= now_ms
        {
            let block = NonNull::new(std::ptr::with_exposed_provenance_mut(address))
                .expect("the address of a field");
            // SAFETY: the set contains only fields of this table (see its invariant), so the block is live; the name is
            // not used after the field leaves the table.
            let name = unsafe { FieldRef::from_raw(block) }.field();
            gone(name);
            let Entry::Occupied(place) = self.table.entry(hash(name), name) else {
                unreachable!("a field with a deadline is in the table")
            };
            let removed = place.remove();
            self.uncount(&removed);
            count += 1;
        }
        count
    }

    /// Visits some fields from `cursor` on and returns the next cursor, or 0 at the end. Start with 0.
    ///
    /// A field that stays in the hash for the whole scan is visited, whatever changes between the calls; if nothing
    /// changes, exactly once.
    pub fn scan(&self, cursor: u64, visit: impl FnMut(FieldRef<'_>)) -> u64 {
        self.table.scan(cursor, visit)
    }

    /// All fields, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = FieldRef<'_>> {
        self.table.iter()
    }

    /// The field that a random number selects; all are about equally likely.
    pub fn random(&self, random: u64) -> Option<FieldRef<'_>> {
        self.table.random(random)
    }
}

impl Clone for Fields {
    fn clone(&self) -> Self {
        let mut copy = Self::new();
        for field in self.iter() {
            copy.set(field.field(), field.value(), field.deadline_ms());
        }
        copy
    }
}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use damselfly_base::random::Random;
    use std::collections::BTreeMap;

    use super::*;

    type Model = BTreeMap<Vec<u8>, (Vec<u8>, Option<i64>)>;

    fn assert_equal(fields: &Fields, model: &Model) {
        let mut seen = Model::new();
        let mut bytes = 0;
        let mut cursor = 0;
        loop {
            cursor = fields.scan(cursor, |field| {
                let entry = (field.value().to_vec(), field.deadline_ms());
                assert_eq!(seen.insert(field.field().to_vec(), entry), None);
                bytes += field.allocated_bytes();
            });
            if cursor == 0 {
                break;
            }
        }
        assert_eq!(&seen, model);
        assert_eq!(fields.len(), model.len());
        let deadlines: Vec<i64> = model
            .values()
            .filter_map(|(_, deadline)| *deadline)
            .collect();
        assert_eq!(fields.deadline_count(), deadlines.len());
        assert_eq!(fields.first_deadline_ms(), deadlines.iter().min().copied());
        let all = !model.is_empty() && deadlines.len() == model.len();
        assert_eq!(
            fields.expires_ms(),
            deadlines.iter().max().copied().filter(|_| all)
        );
        let counted = fields.table.memory_bytes() + bytes + deadlines.len() * DEADLINE_NODE_BYTES;
        assert_eq!(fields.memory_bytes(), counted);
        fields.table.assert_valid();
    }

    #[test]
    fn random_changes_match_a_plain_model() {
        let mut random = Random::for_test();
        let mut random = |below: usize| random.below(below);
        for round in 0..60 {
            let (mut fields, mut model) = (Fields::new(), Model::new());
            let names = 1 << random(10);
            for step in 0..1000 {
                let mut name = random(names).to_string().into_bytes();
                name.resize(
                    name.len() + [0, 0, 0, 300, 70_000][random(4 + usize::from(round % 20 == 0))],
                    b'n',
                );
                let deadline = (random(3) == 0).then(|| random(1000) as i64 - 500);
                match random(8) {
                    0..=3 => {
                        let value = match random(3) {
                            0 => ((random(1 << 30) as i64 - (1 << 29)) << random(34))
                                .to_string()
                                .into_bytes(),
                            1 => vec![b'v'; random(40)],
                            _ => {
                                let bits = random(if step % 100 == 0 { 18 } else { 9 });
                                vec![0xff; random(1 << bits)]
                            }
                        };
                        let is_new = fields.set(&name, Element::new(&value), deadline);
                        assert_eq!(is_new, model.insert(name, (value, deadline)).is_none());
                    }
                    4 => {
                        let found = fields.set_deadline_ms(&name, deadline);
                        let known = model.get_mut(&name);
                        assert_eq!(found, known.is_some());
                        if let Some(known) = known {
                            known.1 = deadline;
                        }
                    }
                    5 => assert_eq!(fields.remove(&name), model.remove(&name).is_some()),
                    6 if random(20) == 0 => {
                        let now = random(1000) as i64 - 500;
                        let limit = random(10);
                        let is_expired =
                            |deadline: Option<i64>| deadline.is_some_and(|at| at <= now);
                        let mut expired: Vec<_> = model
                            .iter()
                            .filter(|(_, (_, deadline))| is_expired(*deadline))
                            .map(|(name, (_, deadline))| (deadline.unwrap(), name.clone()))
                            .collect();
                        expired.sort();
                        let removed = fields.remove_expired(now, limit, |_| {});
                        assert_eq!(removed, limit.min(expired.len()));
                        // The order among fields with the same deadline is unspecified.
                        model.retain(|name, _| fields.get(name).is_some());
                        let last = removed
                            .checked_sub(1)
                            .map_or(i64::MIN, |last| expired[last].0);
                        assert!(
                            expired
                                .iter()
                                .filter(|field| model.contains_key(&field.1))
                                .all(|field| field.0 >= last)
                        );
                    }
                    _ => {
                        let found = fields
                            .get(&name)
                            .map(|field| (field.value().to_vec(), field.deadline_ms()));
                        assert_eq!(found.as_ref(), model.get(&name));
                    }
                }
                if step % 200 == 0 {
                    assert_equal(&fields, &model);
                }
            }
            assert_equal(&fields, &model);
            let copy = fields.clone();
            fields.remove_expired(i64::MAX, usize::MAX, |_| {});
            assert_eq!(
                (fields.deadline_count(), fields.first_deadline_ms()),
                (0, None)
            );
            assert_equal(&copy, &model);
        }
    }

    /// Not under the address sanitizer, whose allocator reserves no more than requested.
    #[cfg(not(sanitize_address))]
    #[test]
    fn a_value_of_similar_size_is_overwritten_in_place() {
        let mut fields = Fields::new();
        fields.set(b"field", Element::Bytes(b"one value"), None);
        let before = fields.get(b"field").unwrap().block;
        for value in [&b"another"[..], b"1234567", b"a longer one"] {
            fields.set(b"field", Element::new(value), None);
            assert_eq!(fields.get(b"field").unwrap().block, before);
            assert_eq!(fields.get(b"field").unwrap().value().to_vec(), value);
        }
        fields.set(b"field", Element::Bytes(&[b'x'; 1000]), None);
        fields.set(b"field", Element::Bytes(b"short"), None);
        assert!(
            fields.memory_bytes() < 300,
            "a much smaller value frees memory"
        );
    }

    #[test]
    fn random_fields_are_about_uniform() {
        let mut fields = Fields::new();
        for name in 0..1000 {
            fields.set(name.to_string().as_bytes(), Element::Integer(0), None);
        }
        for _ in 0..100_000 {
            let picked = fields.random(damselfly_base::random::number()).unwrap();
            let Element::Integer(count) = picked.value() else {
                panic!("the value is not a count")
            };
            let name = picked.field().to_vec();
            fields.set(&name, Element::Integer(count + 1), None);
        }
        for field in fields.iter() {
            let Element::Integer(count) = field.value() else {
                panic!("the value is not a count")
            };
            assert!((40..=180).contains(&count), "{field:?}, expected about 100");
        }
    }

    #[test]
    fn a_field_of_12_bytes_with_a_value_of_16_takes_at_most_48() {
        let mut fields = Fields::new();
        let count = 200_000;
        for number in 0..count {
            let name = format!("field:{number:06}");
            fields.set(name.as_bytes(), Element::Bytes(b"value of 16 byte"), None);
        }
        let bytes = fields.memory_bytes() as f64 / f64::from(count);
        println!("{bytes:.1} bytes per field");
        assert!(bytes <= 48.0);
    }
}
