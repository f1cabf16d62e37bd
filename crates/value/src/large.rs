//! Large collections, which live outside the entry's block; the entry stores their address.
//!
//! They are reference-counted, so a command can hold a snapshot and keep reading it without a lock. A change to the entry
//! in the meantime is made to a copy.

use std::mem::ManuallyDrop;
use std::sync::{Arc, OnceLock};

use damselfly_collections::{Chain, Fields, Members, Ranking, Stream};

use crate::block::{Kind, Shape};
use crate::collection::Type;
use crate::{Entry, EntryRef, HashRef, ListRef, SetRef, SortedSetRef, Value};

/// A collection of at most this many parts is freed by the thread that drops it; a larger one is passed to the function
/// given to [`free_large_with`].
const FREED_IN_PLACE_MAX: usize = 64;

/// A large collection.
#[derive(Clone, Debug)]
pub enum Large {
    /// A list.
    List(Chain),
    /// A set.
    Set(Members),
    /// A hash.
    Hash(Fields),
    /// A sorted set.
    SortedSet(Ranking),
    /// A stream, whatever its size.
    Stream(Box<Stream>),
}

static FREE: OnceLock<fn(Large)> = OnceLock::new();

/// Registers the function that frees large collections, whichever thread drops them. It should hand them to another
/// thread, since freeing a million members takes a tenth of a second. Only the first call has an effect.
pub fn free_large_with(free: fn(Large)) {
    let _ = FREE.set(free);
}

impl Large {
    /// The type.
    pub(crate) fn type_of(&self) -> Type {
        match self {
            Self::List(_) => Type::List,
            Self::Set(_) => Type::Set,
            Self::Hash(_) => Type::Hash,
            Self::SortedSet(_) => Type::SortedSet,
            Self::Stream(_) => Type::Stream,
        }
    }

    /// The number of elements, members or fields.
    pub fn len(&self) -> usize {
        match self {
            Self::List(chain) => chain.len(),
            Self::Set(members) => members.len(),
            Self::Hash(fields) => fields.len(),
            Self::SortedSet(ranking) => ranking.len(),
            Self::Stream(stream) => stream.len(),
        }
    }

    /// True if the key must be removed. A stream is never empty in this sense: without entries it still has a history.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::List(_) | Self::Set(_) | Self::Hash(_) | Self::SortedSet(_) => self.len() == 0,
            Self::Stream(_) => false,
        }
    }

    /// The bytes of heap that the collection uses, including this value itself.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::List(chain) => chain.memory_bytes(),
                Self::Set(members) => members.memory_bytes(),
                Self::Hash(fields) => fields.memory_bytes(),
                Self::SortedSet(ranking) => ranking.memory_bytes(),
                Self::Stream(stream) => size_of::<Stream>() + stream.memory_bytes(),
            }
    }

    /// A read-only view of the collection.
    pub(crate) fn value(&self) -> Value<'_> {
        match self {
            Self::List(chain) => Value::List(ListRef::Large(chain)),
            Self::Set(members) => Value::Set(SetRef::Large(members)),
            Self::Hash(fields) => Value::Hash(HashRef::Large(fields)),
            Self::SortedSet(ranking) => Value::SortedSet(SortedSetRef::Large(ranking)),
            Self::Stream(stream) => Value::Stream(stream),
        }
    }

    /// The approximate number of parts to free.
    fn parts(&self) -> usize {
        match self {
            Self::List(_) | Self::Set(_) | Self::Hash(_) | Self::SortedSet(_) => self.len(),
            Self::Stream(stream) => stream.parts(),
        }
    }

    /// Frees the collection, or passes a big one to the registered function.
    fn free(self) {
        match FREE.get() {
            Some(free) if self.parts() > FREED_IN_PLACE_MAX => free(self),
            Some(_) | None => drop(self),
        }
    }
}

/// A counted reference to a large collection, which does not change while it is shared.
#[derive(Clone, Debug)]
pub struct SharedLarge(ManuallyDrop<Arc<Large>>);

impl Drop for SharedLarge {
    fn drop(&mut self) {
        // SAFETY: taken only once, in `drop`.
        let counted = unsafe { ManuallyDrop::take(&mut self.0) };
        if let Some(large) = Arc::into_inner(counted) {
            large.free();
        }
    }
}

impl SharedLarge {
    pub(crate) fn new(large: Large) -> Self {
        Self(ManuallyDrop::new(Arc::new(large)))
    }

    /// The collection.
    pub fn value(&self) -> Value<'_> {
        self.0.value()
    }

    /// Gives up ownership; [`SharedLarge::from_raw`] takes it back.
    pub(crate) fn into_raw(self) -> *const Large {
        let mut kept = ManuallyDrop::new(self);
        // SAFETY: taken only once, since `drop` does not run.
        Arc::into_raw(unsafe { ManuallyDrop::take(&mut kept.0) })
    }

    /// Takes ownership back.
    ///
    /// # Safety
    /// `raw` came from [`SharedLarge::into_raw`], and is passed here only once.
    pub(crate) unsafe fn from_raw(raw: *const Large) -> Self {
        // SAFETY: as the caller promises.
        Self(ManuallyDrop::new(unsafe { Arc::from_raw(raw) }))
    }

    /// Makes another reference to the collection behind `raw`.
    ///
    /// # Safety
    /// `raw` came from [`SharedLarge::into_raw`] and was not taken back.
    pub(crate) unsafe fn clone_raw(raw: *const Large) -> Self {
        // SAFETY: as the caller promises.
        unsafe { Arc::increment_strong_count(raw) };
        // SAFETY: the count was just raised for this reference.
        unsafe { Self::from_raw(raw) }
    }

    /// True if `raw` is the only reference.
    ///
    /// # Safety
    /// `raw` came from [`SharedLarge::into_raw`] and was not taken back, and no other reference is made during the call.
    pub(crate) unsafe fn is_unique(raw: *const Large) -> bool {
        // SAFETY: as the caller promises; `ManuallyDrop` keeps the count unchanged.
        let mut counted = ManuallyDrop::new(unsafe { Arc::from_raw(raw) });
        Arc::get_mut(&mut counted).is_some()
    }
}

impl EntryRef<'_> {
    /// True if the value is a large collection, which copies of the entry share until one of them changes it.
    pub fn is_large(self) -> bool {
        self.kind().is_boxed()
    }
}

impl Entry {
    /// Replaces the value with a large collection; drops the old value.
    pub(crate) fn set_large(&mut self, large: Large) {
        let old = self.0.shape();
        let new = Shape::new(
            Kind::Boxed,
            old.has_deadline,
            old.key_len,
            size_of::<usize>(),
        );
        let copy = self.without_value(new, new.total());
        copy.0
            .write_address(new, SharedLarge::new(large).into_raw());
        *self = copy;
    }

    /// The entry's large collection, mutable. If it is shared, the entry gets its own copy first.
    ///
    /// # Panics
    /// If the value is not a large collection.
    pub(crate) fn large_mut(&mut self) -> &mut Large {
        let mut address = self.view().large_address();
        // SAFETY: the address came from `into_raw`, and the entry owns that reference.
        if !unsafe { SharedLarge::is_unique(address) } {
            let copy = SharedLarge::new(self.view().large().clone());
            let others = self.take_large();
            address = copy.into_raw();
            self.0.write_address(self.0.shape(), address);
            drop(others);
        }
        // SAFETY: this is now the only reference, and the entry is mutably borrowed.
        unsafe { &mut *address.cast_mut() }
    }

    /// Takes the large collection out. The caller must not use the entry until it has written another address.
    pub(crate) fn take_large(&mut self) -> SharedLarge {
        let address = self.view().large_address();
        // SAFETY: the address came from `into_raw`, and the entry gives up that reference.
        unsafe { SharedLarge::from_raw(address) }
    }
}
