//! Streams: always a large collection, which stays when its last entry is gone.

use std::sync::atomic::Ordering::Relaxed;

use damselfly_collections::Stream;
use damselfly_collections::stream::{NodeLimits, StreamId};

use crate::collection::{Collection, Thresholds, Type};
use crate::{Entry, EntryRef, Large, Value};

/// A stream, to change.
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
    /// The stream, to read.
    #[inline]
    pub fn view(&self) -> &Stream {
        Stream::view(self.entry.view()).expect("what is edited as a stream is one")
    }

    /// The stream, to change; if others read it, a copy takes its place first.
    #[inline]
    pub fn change(&mut self) -> &mut Stream {
        match self.entry.large_mut() {
            Large::Stream(stream) => stream,
            Large::List(_) | Large::Set(_) | Large::Hash(_) | Large::SortedSet(_) => {
                unreachable!("what is edited as a stream is one")
            }
        }
    }

    /// Adds an entry behind all others.
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
