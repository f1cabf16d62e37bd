//! Bytes that a library function builds for a script, within the interpreter's limit of memory.

use crate::lua::{Raise, Stack};

/// A growing result.
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    limit_bytes: usize,
}

impl Buffer {
    /// An empty buffer that may grow as large as the interpreter.
    pub fn new(stack: &Stack<'_>) -> Buffer {
        Buffer {
            bytes: Vec::new(),
            limit_bytes: stack.context().heap.limit_bytes(),
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
        if bytes.len() > self.limit_bytes - self.bytes.len() {
            return Err(Raise::Memory);
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }
}
