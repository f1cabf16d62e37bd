//! Lists.
//!
//! ```text
//! plain         | count | string ... |
//! ziplist       | string: a ziplist |
//! quicklist     | count | string: a ziplist ... |
//! quicklist 2   | count | container | string: a listpack, or if the container is 1, an element | ... |
//! ```

use std::io::Read;

use damselfly_collections::Chain;
use damselfly_collections::chain::Shape;
use damselfly_collections::listpack::{HEADER_BYTES, Listpack};
use damselfly_value::{Element, Elements, Entry, Large, NewPacked, Thresholds};

use super::{Decoder, Head, blob, bytes_of, canonical, load};
use crate::error::{Fault, Form};
use crate::format::{kind, node};
use crate::input::{Input, Result};

/// A list that grows at its end. Elements that are not in the chain yet are in a listpack with its header.
struct Builder<'s> {
    shape: Shape,
    chain: Chain,
    pending: &'s mut Vec<u8>,
    count: u32,
}

impl<'s> Builder<'s> {
    fn new(thresholds: &Thresholds, pending: &'s mut Vec<u8>) -> Self {
        use std::sync::atomic::Ordering::Relaxed;
        let size = thresholds.list_max_listpack_size.load(Relaxed);
        let depth = load(&thresholds.list_compress_depth);
        let shape = Shape::new(size.into(), usize::try_from(depth).unwrap_or(usize::MAX));
        pending.clear();
        pending.resize(HEADER_BYTES, 0);
        Self {
            shape,
            chain: Chain::new(shape),
            pending,
            count: 0,
        }
    }

    fn push(&mut self, element: Element<'_>) {
        let element = canonical(element);
        let bytes = self.pending.len() + element.encoded_bytes();
        if self.count > 0 && !self.shape.allows(bytes, self.count as usize + 1) {
            self.flush();
        }
        element.append_to(self.pending);
        self.count += 1;
    }

    /// Adds elements that stay together if the options allow it.
    fn append(&mut self, elements: Elements<'_>) {
        let bytes = HEADER_BYTES + elements.bytes.len();
        if elements.count == 0 {
            return;
        }
        if !self.shape.allows(bytes, elements.count as usize) {
            blob::each(elements).for_each(|element| self.push(element));
            return;
        }
        self.flush();
        self.pending.extend_from_slice(elements.bytes);
        self.count = elements.count;
    }

    fn flush(&mut self) {
        if self.count > 0 {
            self.write_count();
            self.chain.append_listpack(Listpack::new(self.pending));
            self.pending.truncate(HEADER_BYTES);
            self.count = 0;
        }
    }

    fn write_count(&mut self) {
        self.pending[..HEADER_BYTES].copy_from_slice(&self.count.to_le_bytes());
    }

    fn finish(mut self, head: Head<'_>) -> Option<Entry> {
        let fits = self.shape.allows(self.pending.len(), self.count as usize);
        if self.chain.is_empty() && fits {
            let bytes = &self.pending[HEADER_BYTES..];
            let count = self.count;
            return (count > 0).then(|| packed(head, Elements { count, bytes }));
        }
        self.flush();
        let (shape, chain) = (self.shape.halved(), self.chain);
        if let Some(bytes) = chain.to_listpack(shape) {
            let count = chain.len() as u32;
            let bytes = &bytes[HEADER_BYTES..];
            return Some(packed(head, Elements { count, bytes }));
        }
        let large = Large::List(chain);
        Some(Entry::new_large(head.key, large, head.deadline_ms))
    }
}

fn packed(head: Head<'_>, elements: Elements<'_>) -> Entry {
    Entry::new_packed(head.key, NewPacked::List(elements), head.deadline_ms)
}

impl Decoder<'_> {
    pub(super) fn list<R: Read>(
        &mut self,
        input: &mut Input<R>,
        of: u8,
        head: Head<'_>,
    ) -> Result<Option<Entry>> {
        let mut list = Builder::new(self.thresholds, &mut self.scratch.packed);
        let count = match of {
            kind::LIST_ZIPLIST => 1,
            _ => input.length()?,
        };
        for _ in 0..count {
            match of {
                kind::LIST => list.push(input.string()?),
                kind::LIST_QUICKLIST_2 => quicklist_node(input, &mut list)?,
                _ => {
                    let bytes = &mut self.scratch.elements;
                    bytes.clear();
                    let count = blob::ziplist(bytes_of(input.string()?), bytes)?;
                    list.append(Elements { count, bytes });
                }
            }
        }
        Ok(list.finish(head))
    }
}

fn quicklist_node<R: Read>(input: &mut Input<R>, list: &mut Builder<'_>) -> Result<()> {
    match input.length()? {
        node::PLAIN => list.push(input.string()?),
        node::PACKED => list.append(blob::listpack(bytes_of(input.string()?))?),
        _ => {
            return Err(Fault::Packed {
                form: Form::Quicklist,
                at: 0,
                problem: "unknown container",
            });
        }
    }
    Ok(())
}
