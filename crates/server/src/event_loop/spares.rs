//! Spare reply buffers, kept for reuse.

/// The most buffers kept.
const COUNT_MAX: usize = 256;

/// The capacity of the largest buffer kept.
pub const BYTES_MAX: usize = 64 << 10;

/// The spare buffers of one thread. They form a stack, so buffers below its lowest recent level were not needed.
#[derive(Debug, Default)]
pub struct SpareOutputs {
    buffers: Vec<Vec<u8>>,
    /// The lowest number of buffers since the last call of [`SpareOutputs::free_unused`].
    unused: usize,
}

impl SpareOutputs {
    /// Gives an output that has no memory a buffer, if one is available.
    #[inline]
    pub fn lend(&mut self, output: &mut Vec<u8>) {
        if output.capacity() == 0
            && let Some(spare) = self.buffers.pop()
        {
            *output = spare;
            self.unused = self.unused.min(self.buffers.len());
        }
    }

    /// Takes back a buffer whose content is no longer needed.
    #[inline]
    pub fn take_back(&mut self, buffer: Vec<u8>) {
        if (1..=BYTES_MAX).contains(&buffer.capacity()) && self.buffers.len() < COUNT_MAX {
            self.buffers.push(buffer);
        }
    }

    /// Frees all buffers.
    pub fn free_all(&mut self) {
        *self = Self::default();
    }

    /// Frees the buffers that were not needed since the last call.
    pub fn free_unused(&mut self) {
        self.buffers.drain(..self.unused);
        self.unused = self.buffers.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unused_buffers_are_freed() {
        let mut spares = SpareOutputs::default();
        for bytes in [0, 1, 100, BYTES_MAX, BYTES_MAX + 1] {
            spares.take_back(Vec::with_capacity(bytes));
        }
        assert_eq!(spares.buffers.len(), 3);
        spares.free_unused();
        let (mut first, mut second) = (Vec::new(), Vec::new());
        spares.lend(&mut first);
        spares.lend(&mut second);
        assert!(first.capacity() == BYTES_MAX && second.capacity() == 100);
        spares.lend(&mut first);
        assert_eq!(spares.buffers.len(), 1, "the output already has a buffer");
        for buffer in [first, second] {
            spares.take_back(buffer);
        }
        spares.free_unused();
        assert_eq!(spares.buffers.len(), 2, "two buffers were in use");
        spares.free_unused();
        assert_eq!(spares.buffers.len(), 0, "no buffer was in use");
    }
}
