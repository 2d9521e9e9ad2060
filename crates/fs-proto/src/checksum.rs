//! The CRC that guards headers, chunk blocks and records: one place, so that all ends compute the same.

/// Bytes that one checksum covers in the chunk store and in bulk data.
pub const BLOCK_BYTES: usize = 4096;

/// CRC-32 of `bytes`.
pub fn crc(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// [`crc`] of bytes that come in pieces.
#[derive(Debug, Clone, Default)]
pub struct Crc(crc32fast::Hasher);

impl Crc {
    /// Of no bytes yet.
    pub fn new() -> Self {
        Crc::default()
    }

    /// More bytes, behind those before.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The checksum of all of them.
    pub fn finalize(self) -> u32 {
        self.0.finalize()
    }
}
