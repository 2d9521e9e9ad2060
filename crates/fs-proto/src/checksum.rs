//! The CRC that guards headers, chunk blocks and records: one place, so that all ends compute the same.

/// Bytes that one checksum covers in the chunk store and in bulk data.
pub const BLOCK_BYTES: usize = 4096;

/// CRC-32 of `bytes`.
pub fn crc(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}
