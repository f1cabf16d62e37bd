//! Read access to whole nodes of a stream, the units that files store.

use super::node::Node;
use super::{StreamEntry, StreamId};
use crate::element::Element;

/// A node of a stream.
#[derive(Clone, Copy, Debug)]
pub struct NodeRef<'a>(&'a Node);

impl<'a> NodeRef<'a> {
    pub(super) fn new(node: &'a Node) -> Self {
        Self(node)
    }

    /// The id of its first entry, which may be deleted.
    pub fn id(self) -> StreamId {
        self.0.id
    }

    /// The number of entries that are not deleted.
    #[expect(
        clippy::len_without_is_empty,
        reason = "a node without entries is removed"
    )]
    pub fn len(self) -> usize {
        self.0.live as usize
    }

    /// The names of its first entry, which other entries may share.
    pub fn names(self) -> impl Iterator<Item = Element<'a>> + Clone {
        self.0.names()
    }

    /// Its entries without the deleted ones.
    pub fn entries(self) -> impl Iterator<Item = StreamEntry<'a>> {
        let mut at = self.0.first();
        std::iter::from_fn(move || {
            while at < self.0.end() {
                let head = self.0.head(at);
                let (entry, after) = self.0.entry(head);
                at = after;
                if !head.is_deleted() {
                    return Some(entry);
                }
            }
            None
        })
    }
}
