//! A buffer as O_DIRECT wants it.

/// Alignment of buffers.
pub const ALIGN: usize = 4096;

/// A buffer that starts at a multiple of [`ALIGN`].
#[derive(Debug)]
pub struct Buffer {
    memory: Vec<u8>,
    start: usize,
    bytes: usize,
}

impl Buffer {
    /// A buffer of zeros.
    pub fn new(bytes: usize) -> Self {
        let memory = vec![0; bytes + ALIGN];
        let start = memory.as_ptr().align_offset(ALIGN);
        Buffer { memory, start, bytes }
    }

    /// Its bytes, to be read.
    pub fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.bytes]
    }

    /// Its bytes.
    pub fn get(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.bytes]
    }
}
