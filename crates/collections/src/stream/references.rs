//! References of consumer groups to entries, and what becomes of them when entries are removed.

use super::{Exactness, Stream, StreamId, Trim};

/// How to treat entries that consumer groups refer to, when entries are removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum References {
    /// Removes the entries; the groups keep their references.
    #[default]
    Keep,
    /// Removes the entries and all references to them.
    Remove,
    /// Removes only entries that all groups have read and acknowledged.
    Respect,
}

/// What a removal with regard to references has done.
#[derive(Debug, Default)]
pub struct Removals {
    /// The entries that were removed.
    pub removed: Vec<StreamId>,
    /// The names of groups, and entries that are no longer pending in them.
    pub released: Vec<(Box<[u8]>, StreamId)>,
}

impl Stream {
    /// True if there are groups, and all have read and acknowledged the entry with this id.
    pub fn is_acknowledged(&self, id: StreamId) -> bool {
        let mut groups = self.groups.values();
        !self.groups.is_empty()
            && groups.all(|group| id <= group.last_id && !group.pending().contains_key(&id))
    }

    /// Removes all references to an entry, and adds them to `removals`.
    pub fn remove_references(&mut self, id: StreamId, removals: &mut Removals) {
        let referring = self
            .groups
            .iter()
            .filter(|(_, group)| group.pending().contains_key(&id));
        let names: Vec<_> = referring.map(|(name, _)| name.clone()).collect();
        for name in names {
            self.change_group(&name, |group| group.acknowledge(id));
            removals.released.push((name, id));
        }
    }

    /// As [`Stream::trim`], with this treatment of entries that groups refer to. If references matter, `removals` gets what was removed.
    pub fn trim_with(
        &mut self,
        by: Trim,
        exactness: Exactness,
        references: References,
        removals: &mut Removals,
    ) -> u64 {
        if references == References::Keep {
            return self.trim(by, exactness);
        }
        let removable = self.removable(by, exactness, references);
        for &id in &removable {
            self.trim_entry(id);
            if references == References::Remove {
                self.remove_references(id, removals);
            }
        }
        removals.removed = removable;
        removals.removed.len() as u64
    }

    /// The ids of the entries that a trim removes.
    fn removable(&self, by: Trim, exactness: Exactness, references: References) -> Vec<StreamId> {
        let mut removable = Vec::new();
        for node in &self.nodes {
            let (live, left) = (u64::from(node.live), self.len - removable.len() as u64);
            let is_done = matches!(by, Trim::Length(max) if left <= max);
            let is_whole = match by {
                Trim::Length(max) => left - live >= max,
                Trim::Ids(min) => node.last_id() < min,
            };
            let exceeds = match exactness {
                Exactness::Exact | Exactness::Nodes(0) => false,
                Exactness::Nodes(limit) => removable.len() as u64 + live > limit,
            };
            if is_done || exceeds || (exactness != Exactness::Exact && !is_whole) {
                break;
            }
            let mut at = node.first();
            while at < node.end() {
                let head = node.head(at);
                at = node.entry(head).1;
                let left = self.len - removable.len() as u64;
                let is_kept = match by {
                    Trim::Length(max) => left <= max,
                    Trim::Ids(min) => head.id >= min,
                };
                if is_kept {
                    return removable;
                }
                let is_free = references != References::Respect || self.is_acknowledged(head.id);
                if !head.is_deleted() && is_free {
                    removable.push(head.id);
                }
            }
        }
        removable
    }
}

#[cfg(test)]
mod tests {
    use super::super::{NodeLimits, Pending};
    use super::*;

    /// Ten entries in nodes of three; group `a` has read five and acknowledged the first two, group `b` has read three and
    /// acknowledged all.
    fn stream() -> Stream {
        let mut stream = Stream::default();
        let limits = NodeLimits {
            bytes_max: 0,
            entries_max: 3,
        };
        let id = |seq| StreamId::new(0, seq);
        for seq in 1..=10 {
            stream.push(id(seq), [(&b"f"[..], &b"v"[..])].into_iter(), limits);
        }
        for (name, read, acknowledged) in [(b"a", 5, 2), (b"b", 3, 3)] {
            stream.add_group(name, id(read), None);
            stream.change_group(name, |group| {
                let consumer = group.add_consumer(b"c", 0).unwrap();
                for seq in acknowledged + 1..=read {
                    let pending = Pending {
                        consumer,
                        delivered_ms: 0,
                        deliveries: 1,
                    };
                    group.record_delivery(id(seq), pending);
                }
            });
        }
        stream
    }

    #[test]
    fn trims_respect_or_remove_references() {
        let left = |by, exactness, references| {
            let mut stream = stream();
            let removed = stream.trim_with(by, exactness, references, &mut Removals::default());
            stream.check();
            let ids: Vec<_> = stream
                .walk(StreamId::MIN, StreamId::MAX)
                .map(|entry| entry.id.seq)
                .collect();
            assert_eq!(removed as usize + ids.len(), 10);
            assert_eq!(stream.deleted_max(), StreamId::MIN);
            let pending = stream.group(b"a").unwrap().pending().len();
            (ids, pending)
        };
        let (exact, rough) = (Exactness::Exact, Exactness::Nodes(0));
        let from = |first| (first..=10).collect::<Vec<u64>>();
        let by_id = Trim::Ids(StreamId::new(0, 6));
        for (by, exactness, references, expected) in [
            (Trim::Length(4), exact, References::Keep, (from(7), 3)),
            (Trim::Length(4), exact, References::Remove, (from(7), 0)),
            (Trim::Length(4), exact, References::Respect, (from(3), 3)),
            (Trim::Length(9), exact, References::Respect, (from(2), 3)),
            (by_id, exact, References::Remove, (from(6), 0)),
            (by_id, exact, References::Respect, (from(3), 3)),
            (by_id, rough, References::Remove, (from(4), 2)),
            (by_id, rough, References::Respect, (from(3), 3)),
            (Trim::Length(5), rough, References::Remove, (from(4), 2)),
            (by_id, Exactness::Nodes(2), References::Remove, (from(1), 3)),
        ] {
            let case = format!("{by:?} {exactness:?} {references:?}");
            assert_eq!(left(by, exactness, references), expected, "{case}");
        }
    }
}
