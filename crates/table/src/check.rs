//! Checks the invariants, for tests and fuzzing.

use crate::{
    Item, Table,
    directory::home,
    segment::after,
    slot::{Bucket, SLOTS},
};

impl<T: Item> Table<T> {
    /// Walks the whole table and reads every item.
    ///
    /// # Panics
    /// If an invariant is broken.
    pub fn assert_valid(&self) {
        let (mut len, mut marked, mut deepest) = (0, 0, 0);
        for entry in self.directory.groups() {
            let segment = self.directory.get(entry).expect("groups are entries");
            let buckets = self.directory.buckets(segment);
            let count: usize = buckets.iter().map(Bucket::count).sum();
            assert_eq!(
                count,
                self.directory.count(entry),
                "items of the segment at {entry}"
            );
            assert!(
                buckets.is_empty() || count < buckets.len() * SLOTS,
                "no empty slot at {entry}"
            );
            for (index, line) in buckets.iter().enumerate() {
                for (slot_index, slot) in line.slots().iter().enumerate() {
                    assert_eq!(
                        slot.is_empty(),
                        slot_index >= line.count(),
                        "occupied slots come first"
                    );
                    let Some(hash) = slot.hash() else { continue };
                    let path = self.path(hash);
                    assert_eq!(
                        self.directory.first(self.directory.index(path)),
                        entry,
                        "item in the wrong segment"
                    );
                    assert_eq!(slot.tag(), segment.tag(path), "tag of {hash:x}");
                    assert_eq!(Some(slot.is_marked()), slot.marked(), "mark of {hash:x}");
                    marked += usize::from(slot.is_marked());
                    let mut before = home(slot.tag(), buckets.len());
                    while before != index {
                        assert!(
                            buckets[before].is_full(),
                            "{hash:x} is beyond a bucket with room"
                        );
                        before = after(before, buckets.len());
                    }
                }
            }
            len += count;
            deepest += usize::from(segment.depth() == self.directory.depth());
        }
        assert_eq!(len, self.len());
        assert_eq!(marked, self.marked());
        assert!(self.directory.len() == 0 || self.directory.len() == 1 << self.directory.depth());
        assert!(
            self.directory.len() == 0 || deepest > 0,
            "the directory should have halved"
        );
    }
}
