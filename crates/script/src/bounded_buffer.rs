//! Bytes that a library function builds for a script, within the interpreter's limit of memory.

use crate::lua::{Context, Raise, Stack};

/// A growing result.
pub(crate) struct BoundedBuffer<'c> {
    bytes: Vec<u8>,
    context: &'c Context,
}

impl<'c> BoundedBuffer<'c> {
    /// An empty buffer that may grow as large as the interpreter.
    pub fn new(stack: &Stack<'c>) -> BoundedBuffer<'c> {
        BoundedBuffer {
            bytes: Vec::new(),
            context: stack.context(),
        }
    }

    /// What is in it.
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
        // Also for nothing: a table that holds another one many times makes a text without end.
        self.context.spend_bytes(bytes.len())?;
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }
}
