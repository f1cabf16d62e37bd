//! Hashes: choosing between their forms.
//!
//! A small hash is a listpack, which stores deadlines only once a field has had one. It becomes large when it gets more
//! fields, or a longer field or value, than the options allow, and stays large.

use std::sync::atomic::Ordering::Relaxed;

use damselfly_base::number::Decimal;
use damselfly_collections::pairs::{Layout, Pair, Pairs, PairsMut};
use damselfly_collections::{Buffer, Element, FieldRef, Fields, listpack};

use crate::block::Kind;
use crate::collection::{Collection, Thresholds, Type};
use crate::{Entry, EntryRef, Large, PackedValue};

/// The hash type; never instantiated.
#[derive(Debug)]
pub enum Hash {}

/// A read-only view of a hash.
#[derive(Clone, Copy, Debug)]
pub enum HashRef<'a> {
    /// A listpack of fields and values.
    Packed(&'a [u8]),
    /// A listpack of fields, values and deadlines.
    PackedTtl(&'a [u8]),
    /// A large hash.
    Large(&'a Fields),
}

/// A mutable view of a hash.
#[derive(Debug)]
pub struct HashMut<'a> {
    entry: &'a mut Entry,
    thresholds: &'a Thresholds,
}

impl Collection for Hash {
    const TYPE: Type = Type::Hash;
    type Ref<'a> = HashRef<'a>;
    type Mut<'a> = HashMut<'a>;

    #[inline]
    fn view(entry: EntryRef<'_>) -> Option<HashRef<'_>> {
        match entry.kind() {
            Kind::HashPacked => Some(HashRef::Packed(entry.stored())),
            Kind::HashPackedTtl => Some(HashRef::PackedTtl(entry.stored())),
            Kind::Boxed | Kind::HashBoxedTtl => match entry.large() {
                Large::Hash(fields) => Some(HashRef::Large(fields)),
                Large::List(_) | Large::Set(_) | Large::SortedSet(_) | Large::Stream(_) => None,
            },
            Kind::Bytes
            | Kind::Edited
            | Kind::Int2
            | Kind::Int3
            | Kind::Int4
            | Kind::Int8
            | Kind::Ascii
            | Kind::Hex
            | Kind::ListPacked
            | Kind::SetIntegers
            | Kind::SetPacked
            | Kind::SortedSetPacked => None,
        }
    }

    fn edit<'a>(entry: &'a mut Entry, thresholds: &'a Thresholds) -> HashMut<'a> {
        assert!(Self::view(entry.view()).is_some(), "not a hash");
        HashMut { entry, thresholds }
    }
}

/// A read-only view of either form.
enum Form<'a> {
    Small(Pairs<'a>),
    Large(&'a Fields),
}

impl<'a> HashRef<'a> {
    #[inline]
    fn form(self) -> Form<'a> {
        match self {
            Self::Packed(bytes) => Form::Small(Pairs::new(bytes, Layout::Plain)),
            Self::PackedTtl(bytes) => Form::Small(Pairs::new(bytes, Layout::Timed)),
            Self::Large(fields) => Form::Large(fields),
        }
    }

    /// The number of fields.
    #[inline]
    #[expect(clippy::len_without_is_empty, reason = "no key holds an empty hash")]
    pub fn len(self) -> usize {
        match self.form() {
            Form::Small(pairs) => pairs.len(),
            Form::Large(fields) => fields.len(),
        }
    }

    /// A field, its value and its deadline.
    #[inline]
    pub fn get(self, field: &[u8]) -> Option<Pair<'a>> {
        match self.form() {
            Form::Small(pairs) => pairs.get(field),
            Form::Large(fields) => fields.get(field).map(Pair::from),
        }
    }

    /// A field's value.
    #[inline]
    pub fn value(self, field: &[u8]) -> Option<Element<'a>> {
        match self.form() {
            Form::Small(pairs) => pairs.get(field).map(|pair| pair.value),
            Form::Large(fields) => fields.get(field).map(FieldRef::value),
        }
    }

    /// Visits all fields; those of a small hash in insertion order.
    pub fn for_each(self, mut visit: impl FnMut(Pair<'a>)) {
        match self.form() {
            Form::Small(pairs) => pairs.iter().for_each(visit),
            Form::Large(fields) => fields.iter().for_each(|field| visit(field.into())),
        }
    }

    /// Visits some fields from `cursor` on and returns the next cursor, or 0 at the end. Start with 0.
    ///
    /// A field that stays in the hash for the whole scan is visited, whatever changes between the calls.
    pub fn scan(self, cursor: u64, mut visit: impl FnMut(Pair<'_>)) -> u64 {
        match self.form() {
            Form::Small(pairs) => {
                pairs.iter().for_each(visit);
                0
            }
            Form::Large(fields) => fields.scan(cursor, |field| visit(field.into())),
        }
    }

    /// The field that a random number selects; all are about equally likely.
    pub fn pick(self, random: u64) -> Option<Pair<'a>> {
        match self.form() {
            Form::Small(pairs) => {
                // The upper half of the product is uniform below the length.
                let index = (u128::from(random) * pairs.len() as u128) >> 64;
                pairs.nth(index as usize)
            }
            Form::Large(fields) => fields.random(random).map(Pair::from),
        }
    }

    /// The earliest deadline of any field, in milliseconds since the epoch.
    #[inline]
    pub fn first_deadline_ms(self) -> Option<i64> {
        match self.form() {
            Form::Small(pairs) => pairs.first_deadline_ms(),
            Form::Large(fields) => fields.first_deadline_ms(),
        }
    }

    /// The latest deadline, if all fields have one: the hash is then empty after it.
    pub fn expires_ms(self) -> Option<i64> {
        match self.form() {
            Form::Small(pairs) => pairs.expires_ms(),
            Form::Large(fields) => fields.expires_ms(),
        }
    }
}

/// A mutable view of a large hash, or the layout of a small one.
enum FormMut<'a> {
    Small(Layout),
    Large(&'a mut Fields),
}

impl HashMut<'_> {
    fn form(&mut self) -> FormMut<'_> {
        match self.view() {
            HashRef::Packed(_) => FormMut::Small(Layout::Plain),
            HashRef::PackedTtl(_) => FormMut::Small(Layout::Timed),
            HashRef::Large(_) => FormMut::Large(self.fields()),
        }
    }

    /// A read-only view of the hash.
    #[inline]
    pub fn view(&self) -> HashRef<'_> {
        Hash::view(self.entry.view()).expect("`edit` checked the type")
    }

    /// Sets a field's value and deadline, and returns whether the field is new.
    pub fn set(&mut self, field: &[u8], value: Element<'_>, deadline_ms: Option<i64>) -> bool {
        if deadline_ms.is_some() {
            self.make_room_for_deadlines();
        }
        let layout = match self.form() {
            FormMut::Large(fields) => return fields.set(field, value, deadline_ms),
            FormMut::Small(layout) => layout,
        };
        if self.is_too_long(field.len()) || self.is_too_long(value.len()) {
            return self.make_large().set(field, value, deadline_ms);
        }
        let mut packed = PackedValue(self.entry);
        let mut pairs = PairsMut::new(&mut packed, layout);
        let is_new = pairs.set(field, value, deadline_ms);
        let (len, bytes) = (pairs.view().len(), packed.bytes().len());
        let fields_max = self.thresholds.hash_max_listpack_entries.load(Relaxed);
        if len as u64 > fields_max || bytes > listpack::BYTES_MAX / 2 {
            self.make_large();
        }
        is_new
    }

    /// Sets or removes a field's deadline, and returns whether the field exists.
    pub fn set_deadline_ms(&mut self, field: &[u8], deadline_ms: Option<i64>) -> bool {
        if deadline_ms.is_some() {
            self.make_room_for_deadlines();
        }
        let layout = match self.form() {
            FormMut::Large(fields) => return fields.set_deadline_ms(field, deadline_ms),
            FormMut::Small(layout) => layout,
        };
        PairsMut::new(&mut PackedValue(self.entry), layout).set_deadline_ms(field, deadline_ms)
    }

    /// Removes a field, and returns whether it existed.
    pub fn remove(&mut self, field: &[u8]) -> bool {
        match self.form() {
            FormMut::Large(fields) => fields.remove(field),
            FormMut::Small(layout) => {
                PairsMut::new(&mut PackedValue(self.entry), layout).remove(field)
            }
        }
    }

    /// Whether a field or value of this length is too long for a small hash.
    fn is_too_long(&self, len: usize) -> bool {
        len as u64 > self.thresholds.hash_max_listpack_value.load(Relaxed)
    }

    fn make_large(&mut self) -> &mut Fields {
        let mut fields = Fields::new();
        let mut scratch = Decimal::new();
        self.view().for_each(|pair| {
            let name = pair.field.text(&mut scratch);
            fields.set(name, pair.value, pair.deadline_ms);
        });
        let is_timed = matches!(self.view(), HashRef::PackedTtl(_));
        self.entry.set_large(Large::Hash(fields));
        if is_timed {
            self.entry.set_kind(Kind::HashBoxedTtl);
        }
        self.fields()
    }

    /// The fields of a large hash.
    fn fields(&mut self) -> &mut Fields {
        match self.entry.large_mut() {
            Large::Hash(fields) => fields,
            Large::List(_) | Large::Set(_) | Large::SortedSet(_) | Large::Stream(_) => {
                unreachable!("`edit` checked the type")
            }
        }
    }

    fn make_room_for_deadlines(&mut self) {
        match self.view() {
            HashRef::Packed(bytes) => {
                let timed = Pairs::new(bytes, Layout::Plain).to_timed();
                self.entry.set_packed(Kind::HashPackedTtl, &timed);
            }
            HashRef::PackedTtl(_) => {}
            HashRef::Large(_) => self.entry.set_kind(Kind::HashBoxedTtl),
        }
    }
}

impl Entry {
    /// Removes up to `limit` expired fields, or all of them from a small hash, calls `gone` with the name of each, and returns how many; 0 if the entry does not hold
    /// a hash. The hash may be empty afterwards.
    pub fn remove_expired_fields(
        &mut self,
        now_ms: i64,
        limit: usize,
        gone: impl FnMut(&[u8]),
    ) -> usize {
        match self.view().timed_hash() {
            Some(HashRef::PackedTtl(_)) => {
                PairsMut::new(&mut PackedValue(self), Layout::Timed).remove_expired(now_ms, gone)
            }
            Some(HashRef::Large(_)) => match self.large_mut() {
                Large::Hash(fields) => fields.remove_expired(now_ms, limit, gone),
                Large::List(_) | Large::Set(_) | Large::SortedSet(_) | Large::Stream(_) => 0,
            },
            Some(HashRef::Packed(_)) | None => 0,
        }
    }
}

impl<'a> EntryRef<'a> {
    /// The entry's hash, if its fields may have deadlines.
    fn timed_hash(self) -> Option<HashRef<'a>> {
        match self.kind() {
            Kind::HashPackedTtl | Kind::HashBoxedTtl => Hash::view(self),
            Kind::Bytes
            | Kind::Edited
            | Kind::Int2
            | Kind::Int3
            | Kind::Int4
            | Kind::Int8
            | Kind::Ascii
            | Kind::Hex
            | Kind::ListPacked
            | Kind::SetIntegers
            | Kind::SetPacked
            | Kind::HashPacked
            | Kind::SortedSetPacked
            | Kind::Boxed => None,
        }
    }

    /// The earliest deadline of any field of the entry's hash, in milliseconds since the epoch.
    pub fn first_field_deadline_ms(self) -> Option<i64> {
        self.timed_hash().and_then(HashRef::first_deadline_ms)
    }

    /// When the whole entry has expired, in milliseconds since the epoch: at its own deadline, or once the last field of its hash
    /// has expired, whichever is earlier.
    pub fn expires_ms(self) -> Option<i64> {
        let fields = self.timed_hash().and_then(HashRef::expires_ms);
        match (self.deadline_ms(), fields) {
            (Some(own), Some(fields)) => Some(own.min(fields)),
            (own, fields) => own.or(fields),
        }
    }
}
