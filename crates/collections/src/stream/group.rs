//! A consumer group: its consumers, and the deliveries to them that are not acknowledged yet.

use std::collections::{BTreeMap, BTreeSet};

use super::StreamId;

/// The memory of a B-tree entry, including its share of the nodes, which are three quarters full on average.
const fn tree_bytes(entry: usize) -> usize {
    entry + entry / 3 + 4
}

/// The memory of a pending delivery, which is an entry in two trees.
const PENDING_BYTES: usize =
    tree_bytes(size_of::<(StreamId, Pending)>()) + tree_bytes(size_of::<StreamId>());
/// The memory of a consumer, without its name, which is stored twice.
const CONSUMER_BYTES: usize =
    size_of::<Option<Consumer>>() + tree_bytes(size_of::<(Box<[u8]>, ConsumerIndex)>());

/// A consumer's index in its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsumerIndex(u32);

/// A delivery that is not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The consumer that received the entry.
    pub consumer: ConsumerIndex,
    /// The time of the last delivery, in milliseconds since the epoch.
    pub delivered_ms: i64,
    /// The number of deliveries so far.
    pub deliveries: u64,
}

/// A consumer.
#[derive(Clone, Debug)]
pub struct Consumer {
    name: Box<[u8]>,
    /// The time of the consumer's last request, in milliseconds since the epoch.
    pub seen_ms: i64,
    /// The time of its last request that got entries; `None` if it never got one.
    pub active_ms: Option<i64>,
    pending: BTreeSet<StreamId>,
}

impl Consumer {
    /// The consumer's name.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// The ids of the entries that were delivered to the consumer and are not acknowledged.
    pub fn pending(&self) -> &BTreeSet<StreamId> {
        &self.pending
    }
}

/// A consumer group.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// The highest id that was delivered.
    pub last_id: StreamId,
    /// The number of entries read up to `last_id`; `None` if unknown.
    pub entries_read: Option<u64>,
    pending: BTreeMap<StreamId, Pending>,
    consumers: Vec<Option<Consumer>>,
    /// Unused indices of `consumers`.
    free: Vec<ConsumerIndex>,
    by_name: BTreeMap<Box<[u8]>, ConsumerIndex>,
    name_bytes: usize,
}

const KNOWN: &str = "the index belongs to an existing consumer";

impl Group {
    /// All deliveries that are not acknowledged.
    pub fn pending(&self) -> &BTreeMap<StreamId, Pending> {
        &self.pending
    }

    /// All consumers, ordered by name.
    pub fn consumers(&self) -> impl ExactSizeIterator<Item = (ConsumerIndex, &Consumer)> {
        let indexes = self.by_name.values();
        indexes.map(|&index| (index, self.consumer(index)))
    }

    /// The consumer with this name.
    pub fn find_consumer(&self, name: &[u8]) -> Option<ConsumerIndex> {
        self.by_name.get(name).copied()
    }

    /// The consumer at this index.
    pub fn consumer(&self, index: ConsumerIndex) -> &Consumer {
        let consumer = self.consumers.get(index.0 as usize);
        consumer.and_then(Option::as_ref).expect(KNOWN)
    }

    /// The consumer at this index, mutable.
    pub fn consumer_mut(&mut self, index: ConsumerIndex) -> &mut Consumer {
        let consumer = self.consumers.get_mut(index.0 as usize);
        consumer.and_then(Option::as_mut).expect(KNOWN)
    }

    /// Adds a consumer; `None` if the name is taken.
    pub fn add_consumer(&mut self, name: &[u8], seen_ms: i64) -> Option<ConsumerIndex> {
        if self.by_name.contains_key(name) {
            return None;
        }
        let consumer = Consumer {
            name: name.into(),
            seen_ms,
            active_ms: None,
            pending: BTreeSet::new(),
        };
        let index = self.free.pop().unwrap_or_else(|| {
            self.consumers.push(None);
            ConsumerIndex(self.consumers.len() as u32 - 1)
        });
        self.consumers[index.0 as usize] = Some(consumer);
        self.by_name.insert(name.into(), index);
        self.name_bytes += name.len();
        Some(index)
    }

    /// Removes a consumer with its pending deliveries, and returns how many those were; `None` if there is no such consumer.
    pub fn remove_consumer(&mut self, name: &[u8]) -> Option<usize> {
        let index = self.by_name.remove(name)?;
        let consumer = self.consumers[index.0 as usize].take().expect(KNOWN);
        self.free.push(index);
        self.name_bytes -= name.len();
        for id in &consumer.pending {
            self.pending.remove(id);
        }
        Some(consumer.pending.len())
    }

    /// Records a delivery; it replaces an earlier delivery of the same entry.
    pub fn record_delivery(&mut self, id: StreamId, pending: Pending) {
        let before = self.pending.insert(id, pending);
        let before = before.map(|before| before.consumer);
        if before == Some(pending.consumer) {
            return;
        }
        if let Some(before) = before {
            self.consumer_mut(before).pending.remove(&id);
        }
        self.consumer_mut(pending.consumer).pending.insert(id);
    }

    /// Removes an acknowledged delivery; false if there is none.
    pub fn acknowledge(&mut self, id: StreamId) -> bool {
        let Some(pending) = self.pending.remove(&id) else {
            return false;
        };
        self.consumer_mut(pending.consumer).pending.remove(&id);
        true
    }

    /// The approximate bytes of heap that the group uses.
    pub fn memory_bytes(&self) -> usize {
        self.pending.len() * PENDING_BYTES
            + self.by_name.len() * CONSUMER_BYTES
            + 2 * self.name_bytes
    }

    /// The number of pending deliveries and consumers, each of which takes memory that must be freed.
    pub(super) fn parts(&self) -> usize {
        self.pending.len() + self.by_name.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deliveries_move_between_consumers_and_are_removed_with_them() {
        let mut group = Group::default();
        let [first, second] = [b"a", b"b"].map(|name| group.add_consumer(name, 5).unwrap());
        assert_eq!(group.add_consumer(b"a", 6), None);
        let delivery = |consumer| Pending {
            consumer,
            delivered_ms: 1,
            deliveries: 1,
        };
        for seq in 1..=3 {
            group.record_delivery(StreamId::new(0, seq), delivery(first));
        }
        group.record_delivery(StreamId::new(0, 2), delivery(second));
        assert_eq!(group.consumer(first).pending().len(), 2);
        assert_eq!(group.consumer(second).pending().len(), 1);
        assert!(group.acknowledge(StreamId::new(0, 1)));
        assert!(!group.acknowledge(StreamId::new(0, 1)));
        assert_eq!(group.remove_consumer(b"a"), Some(1));
        assert_eq!(group.remove_consumer(b"a"), None);
        assert_eq!(group.pending().len(), 1);
        let third = group.add_consumer(b"c", 7).unwrap();
        assert_eq!(third, first, "the index is reused");
        let names: Vec<_> = group
            .consumers()
            .map(|(_, of)| of.name().to_vec())
            .collect();
        assert_eq!(names, [b"b", b"c"]);
    }
}
