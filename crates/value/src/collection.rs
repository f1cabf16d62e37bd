//! What all types of collections have in common.

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
    /// Redis's name of the type, as TYPE answers.
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

/// A type of collection: how to see one in an entry, and how to change it.
pub trait Collection {
    /// Which type.
    const TYPE: Type;
    /// One to read.
    type Ref<'a>: Copy;
    /// One to change.
    type Mut<'a>;

    /// The collection in an entry; `None` if it holds something else.
    fn view(entry: EntryRef<'_>) -> Option<Self::Ref<'_>>;

    /// The collection in an entry, to change.
    ///
    /// # Panics
    /// If the entry holds something else.
    fn edit<'a>(entry: &'a mut Entry, thresholds: &'a Thresholds) -> Self::Mut<'a>;
}

/// How large a collection may get before it leaves its packed form: Redis's options of these names.
#[derive(Debug)]
pub struct Thresholds {
    /// `list-max-listpack-size`: elements per listpack if positive; -1 to -5 for 4, 8, 16, 32, 64 KiB.
    pub list_max_listpack_size: AtomicI32,
    /// `list-compress-depth`: listpacks at each end of a list that stay uncompressed; 0 to compress none.
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
    /// `stream-node-max-bytes`; 0 for any number.
    pub stream_node_max_bytes: AtomicU64,
    /// `stream-node-max-entries`; 0 for any number.
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
