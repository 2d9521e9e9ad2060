//! The CRC that guards headers, chunk blocks and records: one place, so that all ends compute the same. It is CRC-32C (Castagnoli, as in
//! iSCSI and SCTP): polynomial 0x1edc6f41, reflected, begun and ended with all bits inverted. `docs/decisions/0008-crc32c.md` says why,
//! and why by this crate.
//!
//! # Invariants
//! - Whatever instructions the host has, the values are those of the definition (`values_are_those_of_the_definition`).
//! - The same bytes give the same value in one piece, in several, and combined (`pieces_give_the_same`, `combined_is_as_in_one`,
//!   `blocks_are_combined_as_anything_is`, `short_lengths_are_combined_as_long_ones`).

use crc_fast::{CrcAlgorithm, Digest};

/// Bytes that one checksum covers in the chunk store and in bulk data.
pub const BLOCK_BYTES: usize = 4096;

/// The polynomial without its highest power, reflected: the highest bit is the factor of x^0.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// Entry k is x^(2^k) modulo the polynomial. They repeat after these: it is x + 1 times a primitive one of degree 31, so x^(2^31) is x
/// (`powers_repeat_after_the_table`).
const POWERS: [u32; 31] = powers();

/// CRC-32C of `bytes`.
pub fn crc(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// [`crc`] of bytes that come in pieces.
#[derive(Debug, Clone)]
pub struct Crc(Digest);

impl Default for Crc {
    fn default() -> Self {
        Crc(Digest::new(CrcAlgorithm::Crc32Iscsi))
    }
}

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
        self.0.finalize() as u32
    }
}

/// [`crc`] of two runs of bytes laid end to end, from the checksum of each and the length of the second in bytes.
/// For a second of [`BLOCK_BYTES`], or a first of no bytes, it takes nanoseconds, for other lengths below a block a tenth of a microsecond, for longer
/// ones up to a microsecond.
pub fn combine(first: u32, second: u32, second_bytes: u64) -> u32 {
    if first == 0 {
        // Zero times anything.
        return second;
    }
    if second_bytes == BLOCK_BYTES as u64 {
        return behind_a_block(first) ^ second;
    }
    times(first, behind_bytes(second_bytes)) ^ second
}

/// x^(8 * `bytes`) modulo the polynomial.
fn behind_bytes(bytes: u64) -> u32 {
    match usize::try_from(bytes) {
        Ok(few) if few < BLOCK_BYTES => times(UNITS[few % STEP_BYTES], STEPS[few / STEP_BYTES]),
        _ => power_of_x(bytes, 3),
    }
}

/// Bytes that an entry of [`STEPS`] stands for.
const STEP_BYTES: usize = 64;
/// Entry k is x^(8 * k).
static UNITS: [u32; STEP_BYTES] = multiples(1);
/// Entry k is x^(8 * `STEP_BYTES` * k).
static STEPS: [u32; BLOCK_BYTES / STEP_BYTES] = multiples(STEP_BYTES);

const fn multiples<const N: usize>(bytes: usize) -> [u32; N] {
    let power = POWERS[(8 * bytes).trailing_zeros() as usize];
    let mut multiples = [1 << 31; N];
    let mut k = 1;
    while k < N {
        multiples[k] = times(multiples[k - 1], power);
        k += 1;
    }
    multiples
}

/// `sum` times x^(8 * `BLOCK_BYTES`), by its bytes.
fn behind_a_block(sum: u32) -> u32 {
    let [a, b, c, d] = sum.to_le_bytes();
    BLOCK_SHIFTS[0][a as usize]
        ^ BLOCK_SHIFTS[1][b as usize]
        ^ BLOCK_SHIFTS[2][c as usize]
        ^ BLOCK_SHIFTS[3][d as usize]
}

/// x^(number * 2^shift) modulo the polynomial.
fn power_of_x(mut number: u64, mut shift: usize) -> u32 {
    let mut power = 1 << 31;
    while number > 0 {
        if number & 1 == 1 {
            power = times(power, POWERS[shift % POWERS.len()]);
        }
        number >>= 1;
        shift += 1;
    }
    power
}

/// Product of two polynomials modulo the polynomial.
const fn times(a: u32, mut b: u32) -> u32 {
    let (mut product, mut bit) = (0, 1 << 31);
    while bit > 0 {
        product ^= if a & bit == 0 { 0 } else { b };
        b = (b >> 1) ^ (POLYNOMIAL & (b & 1).wrapping_neg());
        bit >>= 1;
    }
    product
}

/// For each byte of a checksum and each of its values, what it comes to behind a block.
static BLOCK_SHIFTS: [[u32; 256]; 4] = block_shifts();

const fn block_shifts() -> [[u32; 256]; 4] {
    let power = POWERS[(8 * BLOCK_BYTES).trailing_zeros() as usize];
    let mut shifts = [[0; 256]; 4];
    let mut index = 0;
    while index < 4 * 256 {
        let (byte, value) = (index / 256, index % 256);
        shifts[byte][value] = times((value as u32) << (8 * byte), power);
        index += 1;
    }
    shifts
}

const fn powers() -> [u32; 31] {
    let mut powers = [0; 31];
    powers[0] = 1 << 30;
    let mut k = 1;
    while k < powers.len() {
        powers[k] = times(powers[k - 1], powers[k - 1]);
        k += 1;
    }
    powers
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bit by bit, from the definition.
    fn slow(bytes: &[u8]) -> u32 {
        let step = |sum: u32, _| (sum >> 1) ^ if sum & 1 == 1 { POLYNOMIAL } else { 0 };
        !bytes.iter().fold(!0, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), step))
    }

    fn bytes(count: usize) -> Vec<u8> {
        (0..count as u32).map(|i| (i.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect()
    }

    #[test]
    fn check_values_of_the_standards() {
        // RFC 3720, B.4, and the catalogue of parametrised CRC algorithms.
        assert_eq!(crc(b"123456789"), 0xe306_9283);
        assert_eq!(crc(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc(&(0..32).collect::<Vec<u8>>()), 0x46dd_794e);
        assert_eq!(crc(b""), 0);
    }

    #[test]
    fn values_are_those_of_the_definition() {
        // Goal: every length that ends in another way through the wide instructions, and alignments, on whatever host this runs.
        let data = bytes(9000);
        for length in (0..1200).chain((1200..9000).step_by(191)) {
            let from = length % 67 % (data.len() - length + 1);
            let data = &data[from..from + length];
            assert_eq!(crc(data), slow(data), "{length} bytes from {from}");
        }
        let large = bytes((1 << 20) + 13);
        assert_eq!(crc(&large), slow(&large));
    }

    #[test]
    fn blocks_are_combined_as_anything_is() {
        // Goal: the short way for whole blocks agrees with the long one, for every bit of the first checksum.
        for bit in 0..32 {
            let slowly = times(1 << bit, power_of_x(BLOCK_BYTES as u64, 3)) ^ 0x1234_5678;
            assert_eq!(combine(1 << bit, 0x1234_5678, BLOCK_BYTES as u64), slowly, "bit {bit}");
        }
        let data = bytes(3 * BLOCK_BYTES);
        let sum = data.chunks(BLOCK_BYTES).fold(0, |sum, block| combine(sum, crc(block), BLOCK_BYTES as u64));
        assert_eq!(sum, slow(&data));
    }

    #[test]
    fn powers_repeat_after_the_table() {
        // Goal: lengths far beyond what a test can sum up. Method: each power is the square of the one before, also past the table.
        for k in 1..64 {
            let half = power_of_x(1 << (k - 1), 0);
            assert_eq!(power_of_x(1 << k, 0), times(half, half), "x^(2^{k})");
        }
    }

    proptest! {
        #[test]
        fn pieces_give_the_same(data in prop::collection::vec(any::<u8>(), 0..3000), cut in 0..3000_usize) {
            let (first, second) = data.split_at(cut.min(data.len()));
            let mut sum = Crc::new();
            sum.update(first);
            sum.update(second);
            prop_assert_eq!(sum.finalize(), slow(&data));
        }

        #[test]
        fn short_lengths_are_combined_as_long_ones(first in any::<u32>(), second in any::<u32>(), bytes in 0..2 * BLOCK_BYTES as u64) {
            // Goal: tables and short cuts change nothing: as the product with a power that is made bit by bit.
            prop_assert_eq!(combine(first, second, bytes), times(first, power_of_x(bytes, 3)) ^ second);
            prop_assert_eq!(combine(0, second, bytes), second);
        }

        #[test]
        fn combined_is_as_in_one(data in prop::collection::vec(any::<u8>(), 0..3000), cut in 0..3000_usize) {
            let (first, second) = data.split_at(cut.min(data.len()));
            prop_assert_eq!(combine(crc(first), crc(second), second.len() as u64), slow(&data));
        }
    }
}
