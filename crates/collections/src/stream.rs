//! Stream: entries in the order of their ids, each with field names and values.
//!
//! ```text
//! node ─ node ─ ... ─ node       packed entries, see `stream/node.rs`; appended at the back, trimmed from the front
//! ```
//!
//! Deleting an entry only marks it; a node is removed with its last entry. A copy of a stream shares its nodes until they
//! change, so copying costs only a reference count per node.

use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

mod group;
mod id;
mod node;
mod parts;
mod references;
mod walk;

pub use group::{Consumer, ConsumerIndex, Group, Pending};
pub use id::StreamId;
pub use node::{ENTRY_BYTES_MAX, NodeLimits, Pairs, StreamEntry};
pub use parts::NodeRef;
pub use references::{References, Removals};
pub use walk::Walk;

use node::Node;

/// The initial capacity of a stream's first node.
const FIRST_ROOM_BYTES: usize = 32;

/// A stream.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    /// In ascending order. Every node has live entries, except one that a trim has emptied.
    nodes: VecDeque<Node>,
    len: u64,
    node_bytes: usize,
    last_id: StreamId,
    deleted_max: StreamId,
    added: u64,
    /// The groups by name. A copy of the stream shares each group until it changes.
    groups: BTreeMap<Box<[u8]>, Arc<Group>>,
    group_bytes: usize,
}

/// Which entries a trim removes from the front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trim {
    /// All except this number of the newest entries.
    Length(u64),
    /// Those with lower ids.
    Ids(StreamId),
}

/// How exact a trim is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exactness {
    /// Removes exactly the given entries.
    Exact,
    /// Removes only whole nodes, with at most this many entries in total; 0 for no limit.
    Nodes(u64),
}

impl Stream {
    /// The number of entries.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether the stream has no entries.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The highest id that an entry ever had, or the last id set by [`set_history`](Self::set_history).
    pub fn last_id(&self) -> StreamId {
        self.last_id
    }

    /// The highest id of an entry that was deleted by other means than a trim.
    pub fn deleted_max(&self) -> StreamId {
        self.deleted_max
    }

    /// The number of entries ever added.
    pub fn added(&self) -> u64 {
        self.added
    }

    /// The number of nodes.
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// The node at an index. Files store streams node by node.
    pub fn node(&self, index: usize) -> Option<NodeRef<'_>> {
        self.nodes.get(index).map(NodeRef::new)
    }

    /// The approximate number of blocks of memory that it consists of.
    pub fn parts(&self) -> usize {
        let groups = self.groups.values().map(|group| 1 + group.parts());
        self.nodes.len() + groups.sum::<usize>()
    }

    /// The id of the first entry, or the lowest id if there are no entries.
    pub fn first_id(&self) -> StreamId {
        let first = self.walk(StreamId::MIN, StreamId::MAX).next();
        first.map_or(StreamId::MIN, |entry| entry.id)
    }

    /// The id of the last entry that still exists, if any.
    pub fn last_entry_id(&self) -> Option<StreamId> {
        let last = self.walk(StreamId::MIN, StreamId::MAX).next_back();
        last.map(|entry| entry.id)
    }

    /// The bytes of heap that the stream uses.
    pub fn memory_bytes(&self) -> usize {
        self.node_bytes + self.nodes.capacity() * size_of::<Node>() + self.group_bytes
    }

    /// The bytes that a copy and the first change to it take. All nodes but one stay shared, and each group until it changes.
    pub fn copied_bytes(&self) -> usize {
        self.nodes.len() * size_of::<Node>() + self.group_bytes
    }

    /// Sets the last id, the highest deleted id and the number of entries ever added.
    pub fn set_history(&mut self, last_id: StreamId, deleted_max: StreamId, added: u64) {
        (self.last_id, self.deleted_max, self.added) = (last_id, deleted_max, added);
    }

    /// Appends an entry.
    ///
    /// # Panics
    /// If `id` is not higher than the last id, or if names and values have more than [`ENTRY_BYTES_MAX`] bytes in total.
    pub fn push<'e>(
        &mut self,
        id: StreamId,
        pairs: impl ExactSizeIterator<Item = (&'e [u8], &'e [u8])> + Clone,
        limits: NodeLimits,
    ) {
        assert!(id > self.last_id, "{id} is not above {}", self.last_id);
        let text_bytes = pairs
            .clone()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        assert!(
            text_bytes <= ENTRY_BYTES_MAX,
            "an entry of {text_bytes} bytes"
        );
        let is_full = |node: &Node| node.is_full(text_bytes, limits);
        let starts_node = self.nodes.back().is_none_or(is_full);
        self.add(id, pairs, starts_node);
    }

    /// Appends an entry as the first of a new node. A stream that is read from a file thus gets the same nodes as in the file.
    ///
    /// # Panics
    /// As [`Stream::push`] does.
    pub fn push_in_new_node<'e>(
        &mut self,
        id: StreamId,
        pairs: impl ExactSizeIterator<Item = (&'e [u8], &'e [u8])> + Clone,
    ) {
        assert!(id > self.last_id, "{id} after {}", self.last_id);
        self.add(id, pairs, true);
    }

    fn add<'e>(
        &mut self,
        id: StreamId,
        pairs: impl ExactSizeIterator<Item = (&'e [u8], &'e [u8])> + Clone,
        starts_node: bool,
    ) {
        if starts_node {
            let room = match self.nodes.back() {
                None => FIRST_ROOM_BYTES,
                Some(last) => last.byte_len(),
            };
            if let Some(last) = self.nodes.len().checked_sub(1) {
                self.change_node(last, Node::seal);
            }
            let names = pairs.clone().map(|(name, _)| name);
            let node = Node::new(id, names, room);
            if self.nodes.is_empty() {
                // If there are many streams, most of them are small.
                self.nodes.reserve_exact(1);
            }
            self.node_bytes += node.heap_bytes();
            self.nodes.push_back(node);
        }
        self.change_node(self.nodes.len() - 1, |last| last.push(id, pairs));
        self.len += 1;
        self.added += 1;
        self.last_id = id;
    }

    /// Changes a node, which copies it first if it is shared, and updates the byte count.
    fn change_node(&mut self, index: usize, change: impl FnOnce(&mut Node)) {
        let node = &mut self.nodes[index];
        let before = node.heap_bytes();
        change(node);
        self.node_bytes = self.node_bytes - before + node.heap_bytes();
    }

    /// The index of the node that contains `id`, if the entry exists: the last node that does not start after it.
    fn node_of(&self, id: StreamId) -> Option<usize> {
        self.nodes
            .partition_point(|node| node.id <= id)
            .checked_sub(1)
    }

    /// Looks up the entry with this id.
    pub fn get(&self, id: StreamId) -> Option<StreamEntry<'_>> {
        let node = &self.nodes[self.node_of(id)?];
        node.find(id).map(|head| node.entry(head).0)
    }

    /// Deletes an entry; false if there is none.
    pub fn remove(&mut self, id: StreamId) -> bool {
        let Some(index) = self.node_of(id) else {
            return false;
        };
        let Some(head) = self.nodes[index].find(id) else {
            return false;
        };
        if self.nodes[index].live == 1 {
            self.remove_node(index);
        } else {
            self.change_node(index, |node| node.delete(head));
        }
        self.len -= 1;
        self.deleted_max = self.deleted_max.max(id);
        true
    }

    /// Deletes an entry that a trim removes, which does not count as deleted in the stream's history.
    fn trim_entry(&mut self, id: StreamId) {
        let deleted_max = self.deleted_max;
        self.remove(id);
        self.deleted_max = deleted_max;
    }

    fn remove_node(&mut self, index: usize) {
        if let Some(node) = self.nodes.remove(index) {
            self.node_bytes -= node.heap_bytes();
        }
        if self.nodes.len() < self.nodes.capacity() / 4 {
            self.nodes.shrink_to(self.nodes.len() * 2);
        }
    }

    /// The approximate number of nodes that a trim would remove.
    pub fn trimmed_nodes(&self, by: Trim) -> usize {
        match by {
            Trim::Length(max) => {
                let entries = u128::from(self.len.saturating_sub(max));
                (entries * self.nodes.len() as u128 / u128::from(self.len.max(1))) as usize
            }
            Trim::Ids(min) => self.node_of(min).unwrap_or(0),
        }
    }

    /// Removes entries from the front and returns how many.
    pub fn trim(&mut self, by: Trim, exactness: Exactness) -> u64 {
        let before = self.len;
        while let Some(node) = self.nodes.front() {
            let live = u64::from(node.live);
            if let Trim::Length(max) = by
                && self.len <= max
            {
                break;
            }
            if let Exactness::Nodes(limit @ 1..) = exactness
                && before - self.len + live > limit
            {
                break;
            }
            let removes_node = match by {
                Trim::Length(max) => self.len - live >= max,
                Trim::Ids(min) => node.last_id() < min,
            };
            if removes_node {
                self.remove_node(0);
                self.len -= live;
                continue;
            }
            if exactness == Exactness::Exact {
                self.trim_first_node(by);
            }
            break;
        }
        before - self.len
    }

    fn trim_first_node(&mut self, by: Trim) {
        let mut at = self.nodes[0].first();
        while at < self.nodes[0].end() {
            let node = &self.nodes[0];
            let head = node.head(at);
            let is_kept = match by {
                Trim::Length(max) => self.len <= max,
                Trim::Ids(min) => head.id >= min,
            };
            if is_kept {
                break;
            }
            at = node.entry(head).1;
            if !head.is_deleted() {
                self.change_node(0, |node| node.delete(head));
                self.len -= 1;
            }
        }
    }

    /// An iterator over the entries from `start` to `end`, both included.
    pub fn walk(&self, start: StreamId, end: StreamId) -> Walk<'_> {
        Walk::new(self, start, end)
    }

    /// The number of entries from `start` to `end`, both included, but at most `max`.
    pub fn count(&self, start: StreamId, end: StreamId, max: usize) -> usize {
        let mut walk = self.walk(start, end);
        let mut count = 0;
        while count < max {
            let skipped = walk.skip_node(max - count);
            if skipped == 0 && walk.next().is_none() {
                break;
            }
            count += skipped.max(1);
        }
        count
    }

    /// All groups, ordered by name.
    pub fn groups(&self) -> impl ExactSizeIterator<Item = (&[u8], &Group)> {
        self.groups.iter().map(|(name, group)| (&**name, &**group))
    }

    /// The group with this name.
    pub fn group(&self, name: &[u8]) -> Option<&Group> {
        self.groups.get(name).map(|group| &**group)
    }

    /// Adds a group; false if the name is taken.
    pub fn add_group(&mut self, name: &[u8], last_id: StreamId, entries_read: Option<u64>) -> bool {
        if self.groups.contains_key(name) {
            return false;
        }
        let mut group = Group::default();
        (group.last_id, group.entries_read) = (last_id, entries_read);
        self.groups.insert(name.into(), Arc::new(group));
        self.group_bytes += group_bytes(name);
        true
    }

    /// Removes a group; false if there is none with this name.
    pub fn remove_group(&mut self, name: &[u8]) -> bool {
        let Some(group) = self.groups.remove(name) else {
            return false;
        };
        self.group_bytes -= group_bytes(name) + group.memory_bytes();
        true
    }

    /// Calls `change` with the group of this name; `None` if there is none. If the group is shared with a copy of the stream, it is
    /// copied first.
    pub fn change_group<R>(
        &mut self,
        name: &[u8],
        change: impl FnOnce(&mut Group) -> R,
    ) -> Option<R> {
        let group = Arc::make_mut(self.groups.get_mut(name)?);
        let before = group.memory_bytes();
        let result = change(group);
        self.group_bytes = self.group_bytes - before + group.memory_bytes();
        Some(result)
    }

    /// Panics if an invariant does not hold. For tests.
    pub fn check(&self) {
        let nodes = || self.nodes.iter();
        let live = nodes().map(|node| u64::from(node.live)).sum::<u64>();
        assert_eq!(self.len, live);
        let bytes = nodes().map(Node::heap_bytes).sum::<usize>();
        assert_eq!(self.node_bytes, bytes);
        let ends = nodes().flat_map(|node| [node.id, node.last_id()]);
        assert!(ends.is_sorted(), "nodes out of order");
        let groups = self.groups.iter();
        let groups = groups.map(|(name, group)| group_bytes(name) + group.memory_bytes());
        assert_eq!(self.group_bytes, groups.sum::<usize>());
    }

    /// Whether an entry after the first one was deleted by other means than a trim.
    fn has_gaps(&self) -> bool {
        let is_possible = self.len > 0 && self.deleted_max != StreamId::MIN;
        is_possible && self.deleted_max >= self.first_id()
    }

    /// Whether such an entry may have an id of `start` or higher.
    fn has_gaps_from(&self, start: StreamId) -> bool {
        self.has_gaps() && start <= self.deleted_max
    }

    /// The number of entries ever added up to this one; `None` if unknown.
    pub fn position(&self, id: StreamId) -> Option<u64> {
        if self.added == 0 {
            return Some(0);
        }
        if id == self.last_id || self.len == 0 && id < self.last_id {
            return Some(self.added);
        }
        if id > self.last_id {
            return None;
        }
        let first = self.first_id();
        let before_first = self.added.wrapping_sub(self.len);
        if self.has_gaps() {
            return None;
        }
        match id.cmp(&first) {
            Ordering::Less => Some(before_first),
            Ordering::Equal => Some(before_first.wrapping_add(1)),
            Ordering::Greater => None,
        }
    }

    /// The number of entries that a group has not read yet; `None` if unknown.
    pub fn lag(&self, group: &Group) -> Option<i64> {
        let read = match group.entries_read {
            _ if self.added == 0 => return Some(0),
            Some(read) if !self.has_gaps_from(group.last_id) => read,
            Some(_) | None => self.position(group.last_id)?,
        };
        Some(self.added.wrapping_sub(read).cast_signed())
    }

    /// The number of entries that a group has read after it reads this entry, given the number `before` that it had read until
    /// then; `None` if unknown.
    pub fn entries_read_with(&self, before: Option<u64>, id: StreamId) -> Option<u64> {
        match before {
            Some(read) if !self.has_gaps_from(id) => Some(read.wrapping_add(1)),
            read if self.added == 0 => read,
            Some(_) | None => self.position(id),
        }
    }
}

/// The bytes of heap that a group takes, without its consumers and pending entries.
fn group_bytes(name: &[u8]) -> usize {
    const COUNTED: usize = size_of::<Group>() + 2 * size_of::<usize>();
    const IN_TREE: usize = size_of::<(Box<[u8]>, Arc<Group>)>() * 4 / 3;
    COUNTED + IN_TREE + name.len()
}
