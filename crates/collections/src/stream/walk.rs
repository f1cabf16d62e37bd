//! A walk over a range of a stream, forwards or backwards.

use super::{Stream, StreamEntry, StreamId};

/// An iterator over the entries between two ids. Do not call both `next` and `next_back` on one walk: neither end knows
/// what the other has returned.
#[derive(Clone, Copy, Debug)]
pub struct Walk<'a> {
    stream: &'a Stream,
    start: StreamId,
    end: StreamId,
    front: Option<(usize, usize)>,
    back: Option<(usize, usize)>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(stream: &'a Stream, start: StreamId, end: StreamId) -> Self {
        Self {
            stream,
            start,
            end,
            front: None,
            back: None,
        }
    }

    /// The index of the next node, and the offset of the next entry in it. Seeks the first entry if the walk has not started.
    #[inline]
    fn front(&self) -> (usize, usize) {
        self.front.unwrap_or_else(|| {
            let index = self.stream.node_of(self.start).unwrap_or(0);
            let node = self.stream.nodes.get(index);
            (index, node.map_or(0, |node| node.seek(self.start)))
        })
    }

    /// Skips all entries of the next node if the walk is at the node's start, the range includes all of its entries, and there are
    /// at most `max`. Returns the number of skipped entries.
    pub(super) fn skip_node(&mut self, max: usize) -> usize {
        let (index, at) = self.front();
        self.front = Some((index, at));
        let Some(node) = self.stream.nodes.get(index) else {
            return 0;
        };
        let live = node.live as usize;
        if at != node.first() || live > max || node.last_id() > self.end {
            return 0;
        }
        self.go_to_node(index + 1);
        live
    }

    #[inline]
    fn go_to_node(&mut self, index: usize) {
        let node = self.stream.nodes.get(index);
        self.front = Some((index, node.map_or(0, |node| node.first())));
    }
}

impl<'a> Iterator for Walk<'a> {
    type Item = StreamEntry<'a>;

    #[inline]
    fn next(&mut self) -> Option<StreamEntry<'a>> {
        let (mut index, mut at) = self.front();
        loop {
            let node = self.stream.nodes.get(index)?;
            if at == node.end() {
                self.go_to_node(index + 1);
                (index, at) = self.front();
                continue;
            }
            let head = node.head(at);
            if head.id > self.end {
                self.front = Some((index, at));
                return None;
            }
            let (entry, after) = node.entry(head);
            at = after;
            if !head.is_deleted() {
                self.front = Some((index, at));
                return Some(entry);
            }
        }
    }
}

impl DoubleEndedIterator for Walk<'_> {
    #[inline]
    fn next_back(&mut self) -> Option<Self::Item> {
        let (mut index, mut at) = match self.back {
            Some(back) => back,
            None => {
                let index = self.stream.node_of(self.end)?;
                let node = &self.stream.nodes[index];
                let end = match self.end.next() {
                    Some(after) => node.seek(after),
                    None => node.end(),
                };
                (index, end)
            }
        };
        loop {
            let node = &self.stream.nodes[index];
            let Some(previous) = node.previous(at) else {
                self.back = Some((index, at));
                index = index.checked_sub(1)?;
                at = self.stream.nodes[index].end();
                continue;
            };
            at = previous;
            self.back = Some((index, at));
            let head = node.head(at);
            if head.id < self.start {
                return None;
            }
            if !head.is_deleted() {
                return Some(node.entry(head).0);
            }
        }
    }
}
