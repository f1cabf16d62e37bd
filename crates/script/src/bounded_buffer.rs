//! A buffer in which a library function builds a result, within the interpreter's memory limit.

use crate::lua::{Context, Raise, Stack};

/// A growing result that counts its work.
pub(crate) struct BoundedBuffer<'c> {
    bytes: Vec<u8>,
    context: &'c Context,
}

impl<'c> BoundedBuffer<'c> {
    /// An empty buffer that may grow to the interpreter's memory limit.
    pub fn new(stack: &Stack<'c>) -> BoundedBuffer<'c> {
        BoundedBuffer {
            bytes: Vec::new(),
            context: stack.context(),
        }
    }

    /// Its content.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn push(&mut self, byte: u8) -> Result<(), Raise> {
        self.extend(&[byte])
    }

    pub fn extend(&mut self, bytes: &[u8]) -> Result<(), Raise> {
        if bytes.len() > self.context.heap.limit_bytes() - self.bytes.len() {
            return Err(Raise::Memory);
        }
        // Empty pieces count, too: a table that contains another one many times yields endless work.
        self.context.spend_bytes(bytes.len())?;
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }
}
