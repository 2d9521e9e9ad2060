//! Checksums of a region's blocks while they are written, in any order and with any overlaps, without keeping the data.
//!
//! A block's pieces are remembered by their CRC and combined when they touch. A piece that overlaps another in part cannot be combined:
//! such a block is read back once, at the end. So a region written once is never read back.
//!
//! # Invariants
//! - The sums are those of the bytes that a reader gets: the latest write of every byte, zero where there was none
//!   (`sums_are_those_of_the_bytes`).

use std::collections::BTreeMap;

use fs_proto::checksum;

use crate::extents::Extents;
use crate::format::{BLOCK_BYTES, Run};

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

/// The sums of what one rank writes of one region.
#[derive(Debug, Default)]
pub(crate) struct RegionSums {
    extents: Extents,
    /// Of the blocks that were written to.
    blocks: BTreeMap<u64, Block>,
}

impl RegionSums {
    /// What has been written so far.
    pub fn extents(&self) -> &Extents {
        &self.extents
    }

    /// Takes note of a write. The end must be at most [`crate::format::REGION_MAX_BYTES`].
    pub fn note(&mut self, mut data: &[u8], mut offset: u64) {
        // An empty one is as pwrite(2): nothing is extended.
        self.extents.add(offset, offset + data.len() as u64);
        while !data.is_empty() {
            let (index, start) = (offset / BLOCK_BYTES, offset % BLOCK_BYTES);
            let (here, rest) = data.split_at(data.len().min((BLOCK_BYTES - start) as usize));
            let piece = Piece { start, bytes: here.len() as u64, crc: checksum::crc(here) };
            self.blocks.entry(index).or_insert(Block::Pieces(Vec::new())).note(piece);
            (data, offset) = (rest, offset + piece.bytes);
        }
    }

    /// The sums of all blocks that were written to. `read_back` fills its buffer with the bytes at an offset.
    pub fn finish<E>(
        &self,
        mut read_back: impl FnMut(&mut [u8], u64) -> Result<(), E>,
    ) -> Result<Vec<Run>, E> {
        let mut runs: Vec<Run> = Vec::new();
        for (index, block) in &self.blocks {
            let offset = index * BLOCK_BYTES;
            let bytes = block_bytes(self.extents.end(), offset);
            let crc = match block {
                Block::Pieces(pieces) => with_zeros(pieces, bytes),
                Block::ReadBack => {
                    let mut content = vec![0; bytes as usize];
                    read_back(&mut content, offset)?;
                    checksum::crc(&content)
                }
            };
            match runs.last_mut().filter(|run| run.block + run.crcs.len() as u64 == *index) {
                Some(run) => run.crcs.push(crc),
                None => runs.push(Run { block: *index, crcs: vec![crc] }),
            }
        }
        Ok(runs)
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

    /// The sums of the blocks of `content` that the writes touch.
    fn sums_of(content: &[u8], writes: &[(u64, usize, u8)]) -> Vec<(u64, u32)> {
        let blocks = content.chunks(BLOCK_BYTES as usize).map(checksum::crc);
        let touched = |block: u64| {
            let met = |(at, bytes, _): &(u64, usize, u8)| {
                *bytes > 0 && at / BLOCK_BYTES <= block && (at + *bytes as u64 - 1) / BLOCK_BYTES >= block
            };
            writes.iter().any(met)
        };
        (0..).zip(blocks).filter(|(block, _)| touched(*block)).collect()
    }

    fn flat(runs: &[Run]) -> Vec<(u64, u32)> {
        runs.iter().flat_map(|run| (run.block..).zip(run.crcs.iter().copied())).collect()
    }

    /// Does the writes to a model, and answers its bytes, the sums, and how often a block was read back.
    fn run(writes: &[(u64, usize, u8)]) -> (Vec<u8>, Vec<(u64, u32)>, usize) {
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
        (model, flat(&found), read.get())
    }

    #[test]
    fn pieces_in_any_order_are_combined_without_reading() {
        let writes = [(200, 100, 1), (0, 100, 2), (100, 100, 3), (BLOCK_BYTES - 5, 10, 4)];
        let (content, sums, read) = run(&writes);
        assert_eq!((sums, read), (sums_of(&content, &writes), 0));
    }

    #[test]
    fn a_write_that_covers_another_replaces_it() {
        let writes = [(10, 5, 1), (20, 5, 2), (8, 20, 3), (8, 20, 4)];
        let (content, sums, read) = run(&writes);
        assert_eq!((sums, read), (sums_of(&content, &writes), 0));
    }

    #[test]
    fn a_partial_overlap_is_read_back_once_unless_rewritten_whole() {
        let writes = [(10, 5, 1), (12, 5, 2), (0, 3, 9)];
        let (content, sums, read) = run(&writes);
        assert_eq!((sums, read), (sums_of(&content, &writes), 1));
        let writes = [(10, 5, 1), (12, 5, 2), (0, BLOCK_BYTES as usize, 9)];
        let (content, sums, read) = run(&writes);
        assert_eq!((sums, read), (sums_of(&content, &writes), 0));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn sums_are_those_of_the_bytes(
            writes in prop::collection::vec((0..3 * BLOCK_BYTES, 0..100_000usize, any::<u8>()), 0..12),
            near in prop::collection::vec((BLOCK_BYTES - 50..BLOCK_BYTES + 50, 0..60usize, any::<u8>()), 0..12),
        ) {
            let writes = [writes, near].concat();
            let (content, sums, _) = run(&writes);
            prop_assert_eq!(sums, sums_of(&content, &writes));
        }
    }
}
