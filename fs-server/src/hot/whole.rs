//! The bytes of a piece with checksums of their blocks, so that parts of it can be given out without trusting memory, nor summing them again.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use fs_proto::Status;
use fs_proto::checksum::{BLOCK_BYTES, combine, crc};

use super::part::PartCharge;
use crate::error::{OpError, OpResult};
use crate::store::BlockSums;

/// A piece as it is at its holder, from its beginning to its end or the chunk's.
#[derive(Debug, Clone)]
pub struct Whole {
    data: Bytes,
    sums: Arc<BlockSums>,
}

/// Bytes that are counted in a pool.
struct Counted {
    data: Vec<u8>,
    _charge: PartCharge,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

fn changed() -> OpError {
    OpError::new(Status::Corrupt, "a piece of a hot file changed on its way or in memory; read it again")
}

impl Whole {
    /// What has just come with this checksum.
    pub fn verified(data: Bytes, sum: u32) -> OpResult<Whole> {
        let sums = BlockSums::of(0, &data);
        if sums.crc() != sum {
            return Err(changed());
        }
        Ok(Whole { data, sums: Arc::new(sums) })
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// Whether the chunk ends before it.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// Checksum of all of it, as it came.
    pub fn sum(&self) -> u32 {
        self.sums.crc()
    }

    /// All of it.
    pub fn bytes(&self) -> Bytes {
        self.data.clone()
    }

    /// A part of it, and its checksum.
    pub fn part(&self, range: Range<usize>) -> OpResult<(&[u8], u32)> {
        let mut sum = 0;
        let mut at = range.start;
        while at < range.end {
            let block = at / BLOCK_BYTES;
            let bounds = block * BLOCK_BYTES..((block + 1) * BLOCK_BYTES).min(self.data.len());
            let end = range.end.min(bounds.end);
            let known = self.block_sum(block);
            let part = if bounds == (at..end) {
                known
            } else if crc(&self.data[bounds]) == known {
                crc(&self.data[at..end])
            } else {
                return Err(changed());
            };
            sum = combine(sum, part, (end - at) as u64);
            at = end;
        }
        Ok((&self.data[range], sum))
    }

    /// The same in memory that is counted by `charge`.
    pub fn copied(&self, charge: PartCharge) -> Whole {
        let data = Bytes::from_owner(Counted { data: self.data.to_vec(), _charge: charge });
        Whole { data, sums: Arc::clone(&self.sums) }
    }

    fn block_sum(&self, block: usize) -> u32 {
        let raw = &self.sums.table()[4 * block..4 * block + 4];
        u32::from_le_bytes([raw[0], raw[1], raw[2], raw[3]])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::single_range_in_vec_init)]
    fn parts_have_their_checksums() {
        let data: Vec<u8> = (0..3 * BLOCK_BYTES + 77).map(|at| (at / 3) as u8).collect();
        let whole = Whole::verified(Bytes::from(data.clone()), crc(&data)).expect("its sum");
        let len = data.len();
        for range in
            [0..len, 0..0, 5..9, 1..len, BLOCK_BYTES..2 * BLOCK_BYTES, 100..BLOCK_BYTES + 1, len..len]
        {
            let (part, sum) = whole.part(range.clone()).expect("a part");
            assert!(part == &data[range.clone()] && sum == crc(part), "{range:?}");
        }
    }

    /// Goal: memory that changed is not given out as it is. Method: sums of other bytes; the asker compares what it gets with its sum.
    #[test]
    fn what_changed_in_memory_is_noticed() {
        let data = vec![1; 2 * BLOCK_BYTES];
        let sums = Arc::new(BlockSums::of(0, &data));
        let mut other = data;
        other[7] = 2;
        let whole = Whole { data: Bytes::from(other), sums };
        assert!(whole.part(5..10).is_err());
        let (part, sum) = whole.part(0..BLOCK_BYTES).expect("a whole block");
        assert_ne!(crc(part), sum);
        assert!(Whole::verified(whole.bytes(), whole.sum()).is_err());
    }
}
