//! Bytes that a library function builds for a script, within the interpreter's limit of memory.

use crate::lua::{Context, Raise, Stack};

/// Additions between two questions whether the script may go on: a table that holds another one many times
/// makes a text without end.
const ADDITIONS_PER_QUESTION: u32 = 10_000;

/// A growing result.
pub(crate) struct Buffer<'c> {
    bytes: Vec<u8>,
    context: &'c Context,
    additions: u32,
}

impl<'c> Buffer<'c> {
    /// An empty buffer that may grow as large as the interpreter.
    pub fn new(stack: &Stack<'c>) -> Buffer<'c> {
        Buffer {
            bytes: Vec::new(),
            context: stack.context(),
            additions: 0,
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
        self.additions += 1;
        if self.additions >= ADDITIONS_PER_QUESTION {
            self.additions = 0;
            if !self.context.may_go_on() {
                return Err(Raise::Stopped);
            }
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }
}
