//! A walk over a list, in either form and either direction.

use super::Chain;
use crate::Side;
use crate::element::Element;
use crate::listpack::{Listpack, Offset};
use std::borrow::Cow;

/// A walk over the elements of a list: like an iterator, except that each element borrows the walk until the next step.
#[derive(Debug)]
pub struct Walk<'a> {
    /// The chain; `None` for a walk over a single listpack.
    chain: Option<&'a Chain>,
    /// The index of the node that `bytes` belongs to.
    node: usize,
    bytes: Cow<'a, [u8]>,
    /// The boundary between the elements already visited and those still to visit.
    offset: Offset,
    from: Side,
}

impl<'a> Walk<'a> {
    /// A walk over one listpack, starting at `index` and moving away from the end `from`.
    pub fn over_listpack(listpack: Listpack<'a>, index: usize, from: Side) -> Self {
        Self {
            chain: None,
            node: 0,
            bytes: Cow::Borrowed(listpack.bytes()),
            offset: start(listpack, index, from),
            from,
        }
    }

    pub(super) fn over_chain(chain: &'a Chain, index: usize, from: Side) -> Self {
        let Some((node, inner)) = chain.locate(index) else {
            return Self::over_listpack(Listpack::new(&[]), 0, from);
        };
        let bytes = chain.nodes[node].listpack_bytes();
        Self {
            chain: Some(chain),
            node,
            offset: start(Listpack::new(&bytes), inner, from),
            bytes,
            from,
        }
    }

    /// The next element.
    #[inline]
    pub fn step(&mut self) -> Option<Element<'_>> {
        if self.is_at_end() && !self.next_node() {
            return None;
        }
        let listpack = Listpack::new(&self.bytes);
        match self.from {
            Side::Left => {
                let (element, after) = listpack.decode(self.offset);
                self.offset = after;
                Some(element)
            }
            Side::Right => {
                self.offset = listpack.previous(self.offset)?;
                Some(listpack.at(self.offset))
            }
        }
    }

    #[inline]
    fn is_at_end(&self) -> bool {
        match self.from {
            Side::Left => self.offset == Listpack::new(&self.bytes).end(),
            Side::Right => self.offset == Offset::FIRST,
        }
    }

    /// Moves to the next node, which is never empty; false if there is none.
    fn next_node(&mut self) -> bool {
        let next = match self.from {
            Side::Left => self.node.checked_add(1),
            Side::Right => self.node.checked_sub(1),
        };
        let nodes = self.chain.map(|chain| &chain.nodes);
        let Some((at, node)) = next.and_then(|at| Some((at, nodes?.get(at)?))) else {
            return false;
        };
        (self.node, self.bytes) = (at, node.listpack_bytes());
        let listpack = Listpack::new(&self.bytes);
        self.offset = match self.from {
            Side::Left => Offset::FIRST,
            Side::Right => listpack.end(),
        };
        true
    }
}

/// Where a walk starts: before the element at `index`, or after it if the walk goes backwards.
fn start(listpack: Listpack<'_>, index: usize, from: Side) -> Offset {
    match (listpack.seek(index), from) {
        (Some(offset), Side::Left) => offset,
        (Some(offset), Side::Right) => listpack.after(offset),
        (None, Side::Left) => listpack.end(),
        (None, Side::Right) => Offset::FIRST,
    }
}
