//! Content that is random, and known at every offset: from a seed, the file's number and the block's number.
//!
//! A block is a random base of 1 MiB combined with a word of its own: as fast as copying, so that making content does not
//! hide the file system's speed, and yet no two blocks, and no two places in a block, are alike.

use fs_proto::checksum::Crc;

/// Bytes of a block, which is also the size of writes and reads.
pub const BLOCK_BYTES: usize = 1 << 20;

const WORDS: usize = BLOCK_BYTES / 8;

/// The content of all files of a run.
#[derive(Debug)]
pub struct Content {
    base: Vec<u64>,
    seed: u64,
}

/// SplitMix64: a good mixer, and a generator when fed with a counter.
fn mix(value: u64) -> u64 {
    let z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Content {
    /// Content of the run with this seed.
    pub fn new(seed: u64) -> Content {
        let base = (0..WORDS as u64).map(|word| mix(seed ^ mix(word))).collect();
        Content { base, seed }
    }

    /// Writes the beginning of block `block` of file `file` over `out`, at most [`BLOCK_BYTES`].
    pub fn fill(&self, file: u64, block: u64, out: &mut [u8]) {
        let own = mix(self.seed ^ mix(file) ^ mix(mix(block)));
        for (word, bytes) in self.base.iter().zip(out.chunks_mut(8)) {
            let value = (word ^ own).to_le_bytes();
            bytes.copy_from_slice(&value[..bytes.len()]);
        }
    }

    /// Checksum of the first `size` bytes of file `file`.
    pub fn checksum(&self, file: u64, size: u64) -> u32 {
        let mut hasher = Crc::new();
        let mut block = vec![0; BLOCK_BYTES];
        for (index, bytes) in blocks(size) {
            self.fill(file, index, &mut block[..bytes]);
            hasher.update(&block[..bytes]);
        }
        hasher.finalize()
    }
}

/// The blocks of a file of `size` bytes: index and length; all but the last are full.
pub fn blocks(size: u64) -> impl Iterator<Item = (u64, usize)> {
    let full = BLOCK_BYTES as u64;
    (0..size.div_ceil(full)).map(move |index| (index, (size - index * full).min(full) as usize))
}

/// Where two pieces differ first.
pub fn first_difference(wanted: &[u8], found: &[u8]) -> Option<usize> {
    if wanted == found {
        return None;
    }
    let common = wanted.iter().zip(found).position(|(a, b)| a != b);
    Some(common.unwrap_or_else(|| wanted.len().min(found.len())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// Goal: a piece at a wrong place is noticed. Method: no 8-byte word of some blocks of some files occurs twice.
    #[test]
    fn no_word_occurs_twice() {
        let content = Content::new(1);
        let mut seen = HashSet::new();
        let mut block = vec![0; BLOCK_BYTES];
        for (file, index) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            content.fill(file, index, &mut block);
            assert!(block.chunks(8).all(|word| seen.insert(word.to_vec())));
        }
    }

    #[test]
    fn content_is_a_function_of_the_seed() {
        let (mut one, mut two) = (vec![0; 99], vec![0; 99]);
        Content::new(5).fill(2, 3, &mut one);
        Content::new(5).fill(2, 3, &mut two);
        assert_eq!(one, two);
        assert_ne!(Content::new(5).checksum(0, 1000), Content::new(6).checksum(0, 1000));
    }

    #[test]
    fn blocks_cover_the_file() {
        let full = BLOCK_BYTES as u64;
        assert_eq!(blocks(0).count(), 0);
        assert_eq!(blocks(2 * full + 5).collect::<Vec<_>>(), [(0, BLOCK_BYTES), (1, BLOCK_BYTES), (2, 5)]);
    }

    #[test]
    fn differences_are_found() {
        assert_eq!(first_difference(b"abc", b"abc"), None);
        assert_eq!(first_difference(b"abc", b"axc"), Some(1));
        assert_eq!(first_difference(b"abc", b"ab"), Some(2));
    }
}
