//! Checksums of a region's blocks while they are written, in any order and with any overlaps, without keeping the data.
//!
//! A block's pieces are remembered by their CRC and combined when they touch. A piece that overlaps another in part cannot be combined:
//! such a block is read back once, at the end. So a region written once is never read back.
//!
//! # Invariants
//! - The sums are those of the bytes that a reader gets: the latest write of every byte, zero where there was none
//!   (`sums_are_those_of_the_bytes`).

use fs_proto::checksum;

use crate::format::BLOCK_BYTES;

/// A run of bytes within a block.
#[derive(Debug, Clone, Copy)]
struct Piece {
    start: u64,
    bytes: u64,
    crc: u32,
}

impl Piece {
    fn end(&self) -> u64 {
        self.start + self.bytes
    }

    /// Both, the other one directly behind this one.
    fn joined(self, next: Piece) -> Piece {
        let crc = checksum::combine(self.crc, next.crc, next.bytes);
        Piece { start: self.start, bytes: self.bytes + next.bytes, crc }
    }
}

#[derive(Debug)]
enum Block {
    /// Apart from one another, ascending.
    Pieces(Vec<Piece>),
    /// Overwritten in part: only reading tells.
    ReadBack,
}

/// The sums of one region.
#[derive(Debug, Default)]
pub(crate) struct RegionSums {
    bytes: u64,
    blocks: Vec<Block>,
}

impl RegionSums {
    /// Size of the region so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes note of a write. The end must be at most [`crate::format::REGION_MAX_BYTES`].
    pub fn note(&mut self, mut data: &[u8], mut offset: u64) {
        if data.is_empty() {
            return; // As pwrite(2): nothing is extended.
        }
        self.bytes = self.bytes.max(offset + data.len() as u64);
        self.blocks.resize_with(self.bytes.div_ceil(BLOCK_BYTES) as usize, || Block::Pieces(Vec::new()));
        while !data.is_empty() {
            let (index, start) = (offset / BLOCK_BYTES, offset % BLOCK_BYTES);
            let (here, rest) = data.split_at(data.len().min((BLOCK_BYTES - start) as usize));
            let piece = Piece { start, bytes: here.len() as u64, crc: checksum::crc(here) };
            self.blocks[index as usize].note(piece);
            (data, offset) = (rest, offset + piece.bytes);
        }
    }

    /// The sums of all blocks. `read_back` fills its buffer with the bytes at an offset.
    pub fn finish<E>(
        &self,
        mut read_back: impl FnMut(&mut [u8], u64) -> Result<(), E>,
    ) -> Result<Vec<u32>, E> {
        let mut sums = Vec::with_capacity(self.blocks.len());
        for (index, block) in self.blocks.iter().enumerate() {
            let offset = index as u64 * BLOCK_BYTES;
            let bytes = block_bytes(self.bytes, offset);
            sums.push(match block {
                Block::Pieces(pieces) => with_zeros(pieces, bytes),
                Block::ReadBack => {
                    let mut content = vec![0; bytes as usize];
                    read_back(&mut content, offset)?;
                    checksum::crc(&content)
                }
            });
        }
        Ok(sums)
    }
}

/// Bytes of the block at `offset` in a region of `region_bytes`.
pub(crate) fn block_bytes(region_bytes: u64, offset: u64) -> u64 {
    (region_bytes - offset).min(BLOCK_BYTES)
}

impl Block {
    fn note(&mut self, new: Piece) {
        if new.bytes == BLOCK_BYTES {
            *self = Block::Pieces(vec![new]);
            return;
        }
        let Block::Pieces(pieces) = self else { return };
        pieces.retain(|old| old.start < new.start || old.end() > new.end());
        if pieces.iter().any(|old| old.start < new.end() && new.start < old.end()) {
            *self = Block::ReadBack;
            return;
        }
        let mut at = pieces.partition_point(|old| old.start < new.start);
        pieces.insert(at, new);
        if at > 0 && pieces[at - 1].end() == pieces[at].start {
            pieces[at - 1] = pieces[at - 1].joined(pieces.remove(at));
            at -= 1;
        }
        if at + 1 < pieces.len() && pieces[at].end() == pieces[at + 1].start {
            pieces[at] = pieces[at].joined(pieces.remove(at + 1));
        }
    }
}

/// The sum of a block of `bytes`: its pieces, and zeros between and behind them.
fn with_zeros(pieces: &[Piece], bytes: u64) -> u32 {
    let mut all = Piece { start: 0, bytes: 0, crc: 0 };
    for piece in pieces {
        all = all.joined(zeros(all.end(), piece.start)).joined(*piece);
    }
    all.joined(zeros(all.end(), bytes)).crc
}

fn zeros(start: u64, end: u64) -> Piece {
    const ZEROS: [u8; 4096] = [0; 4096];
    let mut crc = checksum::Crc::new();
    let mut left = end - start;
    while left > 0 {
        let some = left.min(ZEROS.len() as u64);
        crc.update(&ZEROS[..some as usize]);
        left -= some;
    }
    Piece { start, bytes: end - start, crc: crc.finalize() }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    fn sums_of(content: &[u8]) -> Vec<u32> {
        content.chunks(BLOCK_BYTES as usize).map(checksum::crc).collect()
    }

    /// Does the writes to a model, and answers its bytes, the sums, and how often a block was read back.
    fn run(writes: &[(u64, usize, u8)]) -> (Vec<u8>, Vec<u32>, usize) {
        let (mut model, mut sums) = (Vec::new(), RegionSums::default());
        for &(offset, bytes, fill) in writes.iter().filter(|(_, bytes, _)| *bytes > 0) {
            let data: Vec<u8> = (0..bytes).map(|i| fill.wrapping_add(i as u8)).collect();
            let (start, end) = (offset as usize, offset as usize + bytes);
            model.resize(model.len().max(end), 0);
            model[start..end].copy_from_slice(&data);
            sums.note(&data, offset);
        }
        let read = Cell::new(0);
        let found = sums.finish(|buf, offset| {
            read.set(read.get() + 1);
            buf.copy_from_slice(&model[offset as usize..][..buf.len()]);
            Ok::<_, Infallible>(())
        });
        let Ok(found) = found;
        (model, found, read.get())
    }

    #[test]
    fn pieces_in_any_order_are_combined_without_reading() {
        let (content, sums, read) =
            run(&[(200, 100, 1), (0, 100, 2), (100, 100, 3), (BLOCK_BYTES - 5, 10, 4)]);
        assert_eq!((sums, read), (sums_of(&content), 0));
    }

    #[test]
    fn a_write_that_covers_another_replaces_it() {
        let (content, sums, read) = run(&[(10, 5, 1), (20, 5, 2), (8, 20, 3), (8, 20, 4)]);
        assert_eq!((sums, read), (sums_of(&content), 0));
    }

    #[test]
    fn a_partial_overlap_is_read_back_once_unless_rewritten_whole() {
        let (content, sums, read) = run(&[(10, 5, 1), (12, 5, 2), (0, 3, 9)]);
        assert_eq!((sums, read), (sums_of(&content), 1));
        let (content, sums, read) = run(&[(10, 5, 1), (12, 5, 2), (0, BLOCK_BYTES as usize, 9)]);
        assert_eq!((sums, read), (sums_of(&content), 0));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn sums_are_those_of_the_bytes(
            writes in prop::collection::vec((0..3 * BLOCK_BYTES, 0..100_000usize, any::<u8>()), 0..12),
            near in prop::collection::vec((BLOCK_BYTES - 50..BLOCK_BYTES + 50, 0..60usize, any::<u8>()), 0..12),
        ) {
            let (content, sums, _) = run(&[writes, near].concat());
            prop_assert_eq!(sums, sums_of(&content));
        }
    }
}
