//! Items common to all types of collections.

use std::sync::atomic::{AtomicI32, AtomicU64};

use crate::block::Kind;
use crate::{Entry, EntryRef};

/// The type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// A string.
    String,
    /// A list.
    List,
    /// A set.
    Set,
    /// A hash.
    Hash,
    /// A sorted set.
    SortedSet,
    /// A stream.
    Stream,
}

impl Type {
    /// Redis's name for the type, as TYPE returns it.
    pub fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::List => "list",
            Self::Set => "set",
            Self::Hash => "hash",
            Self::SortedSet => "zset",
            Self::Stream => "stream",
        }
    }

    /// The form of an empty collection.
    pub(crate) fn smallest_form(self) -> Kind {
        match self {
            Self::String => Kind::Bytes,
            Self::List => Kind::ListPacked,
            Self::Set => Kind::SetIntegers,
            Self::Hash => Kind::HashPacked,
            Self::SortedSet => Kind::SortedSetPacked,
            Self::Stream => Kind::Boxed,
        }
    }
}

/// A type of collection: how to read one in an entry, and how to change it.
pub trait Collection {
    /// The type.
    const TYPE: Type;
    /// A read-only view.
    type Ref<'a>: Copy;
    /// A mutable view.
    type Mut<'a>;

    /// The collection in an entry; `None` if the entry holds another type.
    fn view(entry: EntryRef<'_>) -> Option<Self::Ref<'_>>;

    /// The collection in an entry, mutable.
    ///
    /// # Panics
    /// If the entry holds another type.
    fn edit<'a>(entry: &'a mut Entry, thresholds: &'a Thresholds) -> Self::Mut<'a>;
}

/// How large a collection may get before it leaves its packed form: the Redis options of the same names.
#[derive(Debug)]
pub struct Thresholds {
    /// `list-max-listpack-size`: elements per listpack if positive; -1 to -5 mean 4, 8, 16, 32 and 64 KiB.
    pub list_max_listpack_size: AtomicI32,
    /// `list-compress-depth`: the number of listpacks at each end of a list that stay uncompressed; 0 compresses none.
    pub list_compress_depth: AtomicU64,
    /// `hash-max-listpack-entries`.
    pub hash_max_listpack_entries: AtomicU64,
    /// `hash-max-listpack-value`, in bytes.
    pub hash_max_listpack_value: AtomicU64,
    /// `set-max-intset-entries`.
    pub set_max_intset_entries: AtomicU64,
    /// `set-max-listpack-entries`.
    pub set_max_listpack_entries: AtomicU64,
    /// `set-max-listpack-value`, in bytes.
    pub set_max_listpack_value: AtomicU64,
    /// `zset-max-listpack-entries`.
    pub zset_max_listpack_entries: AtomicU64,
    /// `zset-max-listpack-value`, in bytes.
    pub zset_max_listpack_value: AtomicU64,
    /// `stream-node-max-bytes`; 0 for no limit.
    pub stream_node_max_bytes: AtomicU64,
    /// `stream-node-max-entries`; 0 for no limit.
    pub stream_node_max_entries: AtomicU64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            list_max_listpack_size: AtomicI32::new(-2),
            list_compress_depth: AtomicU64::new(0),
            hash_max_listpack_entries: AtomicU64::new(512),
            hash_max_listpack_value: AtomicU64::new(64),
            set_max_intset_entries: AtomicU64::new(512),
            set_max_listpack_entries: AtomicU64::new(128),
            set_max_listpack_value: AtomicU64::new(64),
            zset_max_listpack_entries: AtomicU64::new(128),
            zset_max_listpack_value: AtomicU64::new(64),
            stream_node_max_bytes: AtomicU64::new(4096),
            stream_node_max_entries: AtomicU64::new(100),
        }
    }
}
