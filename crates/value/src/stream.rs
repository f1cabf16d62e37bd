//! Streams: always a large collection, which persists after its last entry is deleted.

use std::sync::atomic::Ordering::Relaxed;

use damselfly_collections::Stream;
use damselfly_collections::stream::{NodeLimits, StreamId};

use crate::collection::{Collection, Thresholds, Type};
use crate::{Entry, EntryRef, Large, Value};

/// A mutable view of a stream.
#[derive(Debug)]
pub struct StreamMut<'a> {
    entry: &'a mut Entry,
    thresholds: &'a Thresholds,
}

impl Collection for Stream {
    const TYPE: Type = Type::Stream;
    type Ref<'a> = &'a Stream;
    type Mut<'a> = StreamMut<'a>;

    #[inline]
    fn view(entry: EntryRef<'_>) -> Option<&Stream> {
        match entry.value() {
            Value::Stream(stream) => Some(stream),
            Value::Text(_)
            | Value::List(_)
            | Value::Set(_)
            | Value::Hash(_)
            | Value::SortedSet(_) => None,
        }
    }

    #[inline]
    fn edit<'a>(entry: &'a mut Entry, thresholds: &'a Thresholds) -> StreamMut<'a> {
        debug_assert_eq!(entry.view().type_of(), Self::TYPE);
        StreamMut { entry, thresholds }
    }
}

impl StreamMut<'_> {
    /// A read-only view of the stream.
    #[inline]
    pub fn view(&self) -> &Stream {
        Stream::view(self.entry.view()).expect("the caller of `edit` checked the type")
    }

    /// The stream, mutable. If other references to it exist, a copy replaces it first.
    #[inline]
    pub fn change(&mut self) -> &mut Stream {
        match self.entry.large_mut() {
            Large::Stream(stream) => stream,
            Large::List(_) | Large::Set(_) | Large::Hash(_) | Large::SortedSet(_) => {
                unreachable!("the caller of `edit` checked the type")
            }
        }
    }

    /// Appends an entry.
    ///
    /// # Panics
    /// As [`Stream::push`] does.
    #[inline]
    pub fn push<'e>(
        &mut self,
        id: StreamId,
        pairs: impl ExactSizeIterator<Item = (&'e [u8], &'e [u8])> + Clone,
    ) {
        let limits = NodeLimits {
            bytes_max: self.thresholds.stream_node_max_bytes.load(Relaxed),
            entries_max: self.thresholds.stream_node_max_entries.load(Relaxed),
        };
        self.change().push(id, pairs, limits);
    }
}
