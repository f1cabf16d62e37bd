//! Large collections: what an entry holds the address of.
//!
//! They are counted references, so that a command can keep one as it was at some moment and read on without any lock; who
//! changes an entry while that lasts changes a copy.

use std::mem::ManuallyDrop;
use std::sync::{Arc, OnceLock};

use damselfly_collections::{Chain, Fields, Members, Ranking, Stream};

use crate::collection::Type;
use crate::{EntryRef, HashRef, ListRef, SetRef, SortedSetRef, Value};

/// Members of a collection that are freed at once; more are left to another thread, see [`free_large_with`].
const FREED_AT_ONCE_MAX: usize = 64;

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

/// Has large collections that are dropped freed by `free`, whoever drops them: it should hand them to another thread,
/// since freeing a million members takes a tenth of a second. To be called once; later calls change nothing.
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

    /// True if there is nothing left to keep: a stream without entries still has a history.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::List(_) | Self::Set(_) | Self::Hash(_) | Self::SortedSet(_) => self.len() == 0,
            Self::Stream(_) => false,
        }
    }

    /// The bytes that it takes on the heap, itself included.
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

    /// What it is.
    pub(crate) fn value(&self) -> Value<'_> {
        match self {
            Self::List(chain) => Value::List(ListRef::Large(chain)),
            Self::Set(members) => Value::Set(SetRef::Large(members)),
            Self::Hash(fields) => Value::Hash(HashRef::Large(fields)),
            Self::SortedSet(ranking) => Value::SortedSet(SortedSetRef::Large(ranking)),
            Self::Stream(stream) => Value::Stream(stream),
        }
    }

    /// How many parts are to be freed with it, about.
    fn parts(&self) -> usize {
        match self {
            Self::List(_) | Self::Set(_) | Self::Hash(_) | Self::SortedSet(_) => self.len(),
            Self::Stream(stream) => stream.parts(),
        }
    }

    /// Frees it, or has it freed elsewhere.
    fn free(self) {
        match FREE.get() {
            Some(free) if self.parts() > FREED_AT_ONCE_MAX => free(self),
            Some(_) | None => drop(self),
        }
    }
}

/// A large collection as it was at one moment.
#[derive(Clone, Debug)]
pub struct SharedLarge(ManuallyDrop<Arc<Large>>);

impl Drop for SharedLarge {
    fn drop(&mut self) {
        // SAFETY: taken once, as it ends.
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

    /// Gives up ownership; the address goes back to [`SharedLarge::from_raw`].
    pub(crate) fn into_raw(self) -> *const Large {
        let mut kept = ManuallyDrop::new(self);
        // SAFETY: taken once, and `drop` does not run.
        Arc::into_raw(unsafe { ManuallyDrop::take(&mut kept.0) })
    }

    /// Takes ownership back.
    ///
    /// # Safety
    /// `raw` came from [`SharedLarge::into_raw`], and is taken back once.
    pub(crate) unsafe fn from_raw(raw: *const Large) -> Self {
        // SAFETY: as the caller promises.
        Self(ManuallyDrop::new(unsafe { Arc::from_raw(raw) }))
    }

    /// One more reference to what `raw` refers to.
    ///
    /// # Safety
    /// `raw` came from [`SharedLarge::into_raw`] and was not taken back.
    pub(crate) unsafe fn another(raw: *const Large) -> Self {
        // SAFETY: as the caller promises.
        unsafe { Arc::increment_strong_count(raw) };
        // SAFETY: the count was just raised for it.
        unsafe { Self::from_raw(raw) }
    }

    /// True if there is no other reference.
    ///
    /// # Safety
    /// `raw` came from [`SharedLarge::into_raw`], was not taken back, and nobody makes another reference meanwhile.
    pub(crate) unsafe fn is_only_one(raw: *const Large) -> bool {
        // SAFETY: as the caller promises; the reference is not counted down.
        let mut counted = ManuallyDrop::new(unsafe { Arc::from_raw(raw) });
        Arc::get_mut(&mut counted).is_some()
    }
}

impl EntryRef<'_> {
    /// True if it is a large collection, which copies share until one of them is changed.
    pub fn is_large(self) -> bool {
        self.kind().is_boxed()
    }
}
