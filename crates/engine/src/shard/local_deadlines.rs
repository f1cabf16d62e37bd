//! The keys of a shard to which clients of a writable replica have given a deadline.

use std::collections::BTreeSet;
use std::ops::Bound;

/// A slice of the sweep looks at this many keys.
const KEYS_PER_SLICE: usize = 32;

/// A key and its database.
pub(crate) type LocalKey = (usize, Box<[u8]>);

/// The keys of a shard to which clients of a replica have given a deadline.
#[derive(Debug, Default)]
pub(crate) struct LocalDeadlines {
    pub(crate) keys: BTreeSet<LocalKey>,
    /// Where the next slice of the sweep begins.
    next: Option<LocalKey>,
}

impl LocalDeadlines {
    /// The next few keys, in a circle.
    pub(crate) fn slice(&mut self) -> Vec<LocalKey> {
        let from = self.next.take().map_or(Bound::Unbounded, Bound::Included);
        let mut keys = self.keys.range((from, Bound::Unbounded)).cloned();
        let slice = keys.by_ref().take(KEYS_PER_SLICE).collect();
        self.next = keys.next();
        slice
    }
}
