//! Content that knows where it belongs.
//!
//! Every 8 bytes of a file follow from (seed, file, offset), so a reader needs no copy of what was written, and data of
//! another file, of another place or of an earlier run is found as surely as a flipped bit. The words look random:
//! nothing below can compress them or share blocks.
//!
//! # Invariants
//! - The content of a range does not depend on how it is cut into calls (`tests::cuts_do_not_matter`).
//! - One wrong byte anywhere is found (`tests::one_flipped_bit_is_found`).
//!
//! IOR's other packet types (`-l`) are here too, for whoever wants their content: compressible, and slower to make.
//!
//! The price of a word is one XOR with a table (memory speed), not a mixing function per word: generation must not be
//! what is measured. Rejected: one random buffer written everywhere, which cannot tell where data belongs.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Bytes that share one key; the table has their words.
const BLOCK_BYTES: usize = 4096;
const BLOCK_WORDS: usize = BLOCK_BYTES / 8;

/// What content looks like (IOR's `-l`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Packet {
    /// Words that look random: nothing can compress them.
    #[default]
    Random,
    /// Every word is its own offset.
    Offset,
    /// Every word is the signature (the seed) in its upper half, and file and offset in its lower.
    Timestamp,
}

impl Packet {
    /// A packet type as IOR and mdtest name it.
    ///
    /// # Errors
    /// The names.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "random" | "r" | "incompressible" | "i" => Ok(Packet::Random),
            "offset" | "o" => Ok(Packet::Offset),
            "timestamp" | "t" => Ok(Packet::Timestamp),
            _ => Err(format!("'{text}' is none of offset, incompressible, timestamp, random")),
        }
    }
}

/// The content of one file.
#[derive(Clone)]
pub struct Pattern {
    table: Box<[u64; BLOCK_WORDS]>,
    key: u64,
    packet: Packet,
    /// For packets that are not random: what is added to the offset.
    plain: Option<u64>,
}

/// What [`Pattern::check`] found wrong in a buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// Offset in the file of the first wrong byte.
    pub offset: u64,
    /// Up to 8 bytes that belong there.
    pub expected: Vec<u8>,
    /// What was there.
    pub found: Vec<u8>,
    /// 8-byte words of the file with at least one wrong byte.
    pub words: u64,
}

/// A well mixed function of `x` (the finaliser of SplitMix64).
pub fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

impl Pattern {
    /// The content of file number `file` in the run that has `seed`.
    pub fn new(seed: u64, file: u64) -> Self {
        let mut table = Box::new([0; BLOCK_WORDS]);
        for (index, word) in table.iter_mut().enumerate() {
            *word = mix(mix(seed) ^ index as u64);
        }
        Pattern { table, key: mix(mix(seed) ^ mix(file)), packet: Packet::Random, plain: None }
    }

    /// The same with another kind of packet.
    pub fn packed(packet: Packet, seed: u64, file: u64) -> Self {
        Pattern { packet, plain: plain(packet, seed, file), ..Pattern::new(seed, file) }
    }

    /// From now on the content of file number `file`; `seed` must be that of [`Pattern::new`], whose table stays.
    pub fn aim(&mut self, seed: u64, file: u64) {
        self.key = mix(mix(seed) ^ mix(file));
        self.plain = plain(self.packet, seed, file);
    }

    /// Fills `out` with what belongs at `offset`.
    pub fn fill(&self, out: &mut [u8], offset: u64) {
        if let Some(base) = self.plain {
            return fill_plain(base, out, offset);
        }
        let mut done = 0;
        for (key, start, bytes) in self.blocks(out.len(), offset) {
            self.fill_part(key, start, &mut out[done..done + bytes]);
            done += bytes;
        }
    }

    /// Compares `data` with what belongs at `offset`.
    ///
    /// # Errors
    /// What differs, if anything does.
    pub fn check(&self, data: &[u8], offset: u64) -> Result<(), Mismatch> {
        if self.plain.is_some() {
            let mut expected = vec![0; data.len()];
            self.fill(&mut expected, offset);
            return if expected == data { Ok(()) } else { Err(self.explain(data, offset)) };
        }
        let mut done = 0;
        let mut equal = true;
        for (key, start, bytes) in self.blocks(data.len(), offset) {
            equal &= self.part_is_right(key, start, &data[done..done + bytes]);
            done += bytes;
        }
        if equal { Ok(()) } else { Err(self.explain(data, offset)) }
    }

    /// The blocks that a range touches: (key, first byte within the block, bytes).
    fn blocks(&self, bytes: usize, offset: u64) -> impl Iterator<Item = (u64, usize, usize)> + use<> {
        let key = self.key;
        let mut done = 0;
        std::iter::from_fn(move || {
            let at = offset + done as u64;
            let start = (at % BLOCK_BYTES as u64) as usize;
            let take = (BLOCK_BYTES - start).min(bytes - done);
            done += take;
            (take > 0).then(|| (mix(key ^ (at / BLOCK_BYTES as u64)), start, take))
        })
    }

    fn byte(&self, key: u64, at: usize) -> u8 {
        (self.table[at / 8] ^ key).to_le_bytes()[at % 8]
    }

    fn fill_part(&self, key: u64, start: usize, out: &mut [u8]) {
        let (head, rest) = out.split_at_mut(start.next_multiple_of(8).min(start + out.len()) - start);
        for (index, byte) in head.iter_mut().enumerate() {
            *byte = self.byte(key, start + index);
        }
        let aligned = start + head.len();
        let (words, tail) = rest.as_chunks_mut::<8>();
        let first = aligned / 8;
        let tail_at = aligned + words.len() * 8;
        if !words.is_empty() {
            for (word, base) in words.iter_mut().zip(&self.table[first..]) {
                *word = (base ^ key).to_le_bytes();
            }
        }
        for (index, byte) in tail.iter_mut().enumerate() {
            *byte = self.byte(key, tail_at + index);
        }
    }

    fn part_is_right(&self, key: u64, start: usize, data: &[u8]) -> bool {
        let (head, rest) = data.split_at(start.next_multiple_of(8).min(start + data.len()) - start);
        let aligned = start + head.len();
        let (words, tail) = rest.as_chunks::<8>();
        let tail_at = aligned + words.len() * 8;
        // No early exit: a loop without branches runs at memory speed, and right data is what matters.
        let mut difference = 0;
        if !words.is_empty() {
            for (word, base) in words.iter().zip(&self.table[aligned / 8..]) {
                difference |= u64::from_le_bytes(*word) ^ base ^ key;
            }
        }
        difference == 0
            && head.iter().enumerate().all(|(index, byte)| *byte == self.byte(key, start + index))
            && tail.iter().enumerate().all(|(index, byte)| *byte == self.byte(key, tail_at + index))
    }

    fn explain(&self, data: &[u8], offset: u64) -> Mismatch {
        let mut expected = vec![0; data.len()];
        self.fill(&mut expected, offset);
        let first = data.iter().zip(&expected).position(|(found, right)| found != right).unwrap_or(0);
        // Words of the file, of which the first may begin before the buffer.
        let head = (offset.next_multiple_of(8) - offset).min(data.len() as u64) as usize;
        let count = |found: &[u8], right: &[u8]| {
            found.chunks(8).zip(right.chunks(8)).filter(|(found, right)| found != right).count()
        };
        let words = count(&data[..head], &expected[..head]) + count(&data[head..], &expected[head..]);
        let end = (first + 8).min(data.len());
        Mismatch {
            offset: offset + first as u64,
            expected: expected[first..end].to_vec(),
            found: data[first..end].to_vec(),
            words: words as u64,
        }
    }
}

/// What is added to the offset, for packets that are not random.
fn plain(packet: Packet, seed: u64, file: u64) -> Option<u64> {
    match packet {
        Packet::Random => None,
        Packet::Offset => Some(0),
        Packet::Timestamp => Some((seed << 32) ^ (file << 8)),
    }
}

/// Words that count offsets from `base`.
fn fill_plain(base: u64, out: &mut [u8], offset: u64) {
    let head = ((offset.next_multiple_of(8) - offset) as usize).min(out.len());
    let (first, rest) = out.split_at_mut(head);
    let word = |at: u64| base.wrapping_add(at / 8 * 8).to_le_bytes();
    for (index, byte) in first.iter_mut().enumerate() {
        let at = offset + index as u64;
        *byte = word(at)[(at % 8) as usize];
    }
    for (index, piece) in rest.chunks_mut(8).enumerate() {
        let bytes = word(offset + head as u64 + index as u64 * 8);
        piece.copy_from_slice(&bytes[..piece.len()]);
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} wrong words from offset {}: expected", self.words, self.offset)?;
        self.expected.iter().try_for_each(|byte| write!(f, " {byte:02x}"))?;
        write!(f, ", found")?;
        self.found.iter().try_for_each(|byte| write!(f, " {byte:02x}"))?;
        if self.found.iter().all(|byte| *byte == 0) {
            write!(f, " (zeros: a hole, or never written)")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the content of a byte depends on its offset only. Method: one fill against many fills of odd lengths.
    #[test]
    fn cuts_do_not_matter() {
        let pattern = Pattern::new(7, 3);
        let mut whole = vec![0; 20_000];
        pattern.fill(&mut whole, 5);
        for length in [1, 3, 7, 8, 9, 511, 3901, 4096, 4097] {
            let mut pieces = vec![0; whole.len()];
            for (index, piece) in pieces.chunks_mut(length).enumerate() {
                let offset = 5 + (index * length) as u64;
                pattern.fill(piece, offset);
                assert_eq!(pattern.check(piece, offset), Ok(()), "piece {index} of {length} bytes");
            }
            assert!(pieces == whole, "pieces of {length} bytes");
        }
    }

    /// A pattern that is aimed at another file has that file's content.
    #[test]
    fn aiming_is_a_new_pattern() {
        let mut aimed = Pattern::new(5, 1);
        aimed.aim(5, 77);
        let mut data = [0; 100];
        aimed.fill(&mut data, 3);
        assert_eq!(Pattern::new(5, 77).check(&data, 3), Ok(()));
    }

    /// Packets of the other kinds: known words, any cut, a flipped bit is found.
    #[test]
    fn plain_packets_are_known_words() {
        let offset = Pattern::packed(Packet::Offset, 9, 9);
        let mut data = [0; 21];
        offset.fill(&mut data, 4093);
        assert_eq!(data[3..11], 4096_u64.to_le_bytes());
        let mut pieces = [0; 21];
        pieces.chunks_mut(5).enumerate().for_each(|(i, piece)| offset.fill(piece, 4093 + i as u64 * 5));
        assert_eq!(data, pieces);
        data[20] ^= 1;
        assert_eq!(offset.check(&data, 4093).expect_err("a flipped bit").offset, 4113);
        let stamped = Pattern::packed(Packet::Timestamp, 7, 0);
        stamped.fill(&mut data[..8], 16);
        assert_eq!(data[..8], ((7_u64 << 32) + 16).to_le_bytes());
    }

    /// Goal: any single wrong bit is found, and where it is. Method: flip one bit at every position of an unaligned range.
    #[test]
    fn one_flipped_bit_is_found() {
        let pattern = Pattern::new(1, 0);
        let mut data = vec![0; 4096 + 19];
        pattern.fill(&mut data, 4093);
        for at in 0..data.len() {
            data[at] ^= 1 << (at % 8);
            let wrong = pattern.check(&data, 4093).expect_err("a flipped bit");
            assert_eq!((wrong.offset, wrong.words), (4093 + at as u64, 1));
            data[at] ^= 1 << (at % 8);
        }
        assert_eq!(pattern.check(&data, 4093), Ok(()));
    }

    /// Data of another seed, file or offset is wrong in every word; zeros are named.
    #[test]
    fn content_of_elsewhere_is_wrong() {
        let here = Pattern::new(1, 0);
        let mut data = vec![0; 8192];
        for (other, offset) in
            [(Pattern::new(2, 0), 0), (Pattern::new(1, 1), 0), (here.clone(), 8), (here.clone(), 4096)]
        {
            other.fill(&mut data, offset);
            assert_eq!(here.check(&data, 0).expect_err("foreign data").words, 1024);
        }
        data.fill(0);
        assert!(here.check(&data, 0).expect_err("zeros").to_string().contains("zeros"));
    }

    /// Goal: nothing to compress. Method: all words of a MiB differ, and its bytes are evenly spread.
    #[test]
    fn words_do_not_repeat() {
        let mut data = vec![0; 1 << 20];
        Pattern::new(9, 9).fill(&mut data, 0);
        let words: std::collections::HashSet<[u8; 8]> = data.as_chunks::<8>().0.iter().copied().collect();
        assert_eq!(words.len(), data.len() / 8);
        let mut counts = [0_u32; 256];
        for byte in &data {
            counts[usize::from(*byte)] += 1;
        }
        assert!(counts.iter().all(|&n| (3000..5200).contains(&n)), "{counts:?}");
    }
}
