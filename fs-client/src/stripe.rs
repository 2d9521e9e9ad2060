//! A byte range of a file as pieces of chunks. Pure.
//!
//! # Invariants
//! - Pieces cover the range exactly, in order, without overlap; none crosses a chunk or is above the largest size
//!   (`pieces_cover_the_range`).

use fs_proto::{ChunkIndex, Layout};

/// A part of a range that one message moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub chunk: ChunkIndex,
    /// First byte within the chunk.
    pub offset: u32,
    pub len: u32,
    /// First byte within the range.
    pub at: usize,
}

impl Piece {
    /// The piece's part of a buffer that holds the range.
    pub fn range(&self) -> std::ops::Range<usize> {
        self.at..self.at + self.len as usize
    }
}

/// The pieces of `len` bytes from `offset`, none above `largest` bytes (at least one byte).
pub(crate) fn pieces(layout: Layout, offset: u64, len: usize, largest: u32) -> impl Iterator<Item = Piece> {
    let mask = layout.chunk_bytes() - 1;
    let mut at = 0;
    std::iter::from_fn(move || {
        let left = (len - at) as u64;
        if left == 0 {
            return None;
        }
        let start = offset + at as u64;
        let within = start & mask;
        let len = left.min(mask + 1 - within).min(u64::from(largest.max(1))) as u32;
        let chunk = ChunkIndex(start >> layout.chunk_log2);
        let piece = Piece { chunk, offset: within as u32, len, at };
        at += len as usize;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn layout(chunk_log2: u8) -> Layout {
        Layout { chunk_log2, ..Layout::default() }
    }

    proptest! {
        #[test]
        fn pieces_cover_the_range(
            log2 in 16u8..=24, offset in 0u64..(1 << 40), len in 0usize..(8 << 20), largest in (64u32 << 10)..=(16 << 20)
        ) {
            let chunk_bytes = 1u64 << log2;
            let mut at = 0;
            for piece in pieces(layout(log2), offset, len, largest) {
                prop_assert_eq!(piece.at, at);
                prop_assert!(piece.len > 0 && piece.len <= largest);
                prop_assert!(u64::from(piece.offset) + u64::from(piece.len) <= chunk_bytes);
                prop_assert_eq!(piece.chunk.0 * chunk_bytes + u64::from(piece.offset), offset + at as u64);
                at += piece.len as usize;
            }
            prop_assert_eq!(at, len);
        }
    }

    #[test]
    fn a_range_within_a_chunk_is_one_piece() {
        let all: Vec<_> = pieces(layout(20), (5 << 20) + 10, 4096, 16 << 20).collect();
        assert_eq!(all, [Piece { chunk: ChunkIndex(5), offset: 10, len: 4096, at: 0 }]);
    }

    #[test]
    fn the_last_byte_of_the_largest_file_has_a_chunk() {
        let last = i64::MAX as u64 - 1;
        let all: Vec<_> = pieces(layout(16), last, 1, 1 << 20).collect();
        assert_eq!(all[0].chunk.0, last >> 16);
    }
}
