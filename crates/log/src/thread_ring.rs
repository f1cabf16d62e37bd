//! The ring of the current thread, and the record that it uses again.
//!
//! Sections begin and end in many places, on many threads, some within others. A ring must have one writer, and belongs to the thread for
//! that reason alone; so it is found through the thread, not passed through every function that begins a section.

use std::cell::{Cell, RefCell};

use crate::batch::Targets;
use crate::record::Record;
use crate::ring::{Head, Writer};
use crate::stream::Log;

struct ThreadRing {
    /// The log that it belongs to.
    log: u64,
    writer: Writer,
}

thread_local! {
    static RING: RefCell<Option<ThreadRing>> = const { RefCell::new(None) };
    static SPARE: Cell<Option<Box<Record>>> = const { Cell::new(None) };
}

impl Log {
    /// An empty record.
    #[inline]
    pub fn record(&self) -> Box<Record> {
        SPARE.take().unwrap_or_default()
    }

    /// Appends the record of a section that still holds its locks, or that has reserved a number when it did.
    #[inline]
    pub fn append(&self, mut record: Box<Record>, time_ms: i64) {
        if !record.is_empty() {
            self.append_with(&mut record, time_ms, |head, payload| {
                self.append_to_ring(head, payload)
            });
        }
        record.clear();
        SPARE.set(Some(record));
    }

    /// Appends a record of one command that is not part of a section, for these consumers.
    pub fn append_one<'a>(
        &self,
        targets: Targets,
        db: usize,
        args: impl ExactSizeIterator<Item = &'a [u8]>,
        time_ms: i64,
    ) {
        let mut record = self.record();
        record.add_for(targets, db, args);
        self.append(record, time_ms);
    }

    /// True if the merge is so far behind that no command that writes should begin on this thread.
    #[inline]
    pub fn is_congested(&self) -> bool {
        let is_full = RING.with_borrow_mut(|slot| match slot {
            Some(ring) if ring.log == self.id => ring.writer.is_congested(),
            _ => false,
        });
        is_full || self.is_overflowing()
    }

    #[inline]
    fn append_to_ring(&self, head: Head, payload: &[u8]) -> bool {
        let append = |slot: &RefCell<Option<ThreadRing>>| {
            let mut slot = slot.borrow_mut();
            if slot.as_ref().is_none_or(|ring| ring.log != self.id) {
                *slot = Some(ThreadRing {
                    log: self.id,
                    writer: self.add_ring(),
                });
            }
            slot.as_mut()
                .is_some_and(|ring| ring.writer.append(head, payload))
        };
        // While a thread ends, its ring may be gone already.
        RING.try_with(append).unwrap_or(false)
    }
}
