//! Large collections: what an entry holds the address of.

use std::sync::OnceLock;

use damselfly_collections::{Chain, Fields, Members, Ranking};

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
}

static FREE: OnceLock<fn(Box<Large>)> = OnceLock::new();

/// Has large collections that are dropped freed by `free`, whoever drops them: it should hand them to another thread,
/// since freeing a million members takes a tenth of a second. To be called once; later calls change nothing.
pub fn free_large_with(free: fn(Box<Large>)) {
    let _ = FREE.set(free);
}

impl Large {
    /// The number of elements, members or fields.
    pub fn len(&self) -> usize {
        match self {
            Self::List(chain) => chain.len(),
            Self::Set(members) => members.len(),
            Self::Hash(fields) => fields.len(),
            Self::SortedSet(ranking) => ranking.len(),
        }
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes that it takes on the heap, itself included.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::List(chain) => chain.memory_bytes(),
                Self::Set(members) => members.memory_bytes(),
                Self::Hash(fields) => fields.memory_bytes(),
                Self::SortedSet(ranking) => ranking.memory_bytes(),
            }
    }

    /// Frees it, or has it freed elsewhere.
    pub(crate) fn free(self: Box<Self>) {
        match FREE.get() {
            Some(free) if self.len() > FREED_AT_ONCE_MAX => free(self),
            Some(_) | None => drop(self),
        }
    }
}
