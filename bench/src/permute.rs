//! Random order without a table: a permutation of 0..n that needs no memory, for any n.
//!
//! A Feistel network of four rounds on the next even number of bits, walked until the value falls below n. All tasks
//! compute the same permutation from the same seed, so they agree on who writes what without talking.

use crate::pattern::mix;

/// A permutation of `0..n`.
#[derive(Debug, Clone, Copy)]
pub struct Permutation {
    n: u64,
    half_bits: u32,
    seed: u64,
}

impl Permutation {
    /// The permutation of `0..n` that belongs to `seed`; `n` is at least 1.
    pub fn new(n: u64, seed: u64) -> Self {
        let bits = u64::BITS - n.saturating_sub(1).leading_zeros();
        Permutation { n: n.max(1), half_bits: bits.div_ceil(2).max(1), seed }
    }

    /// Where `index` (below `n`) goes.
    pub fn get(&self, index: u64) -> u64 {
        let mut value = self.rounds(index);
        // At most four values of the network's domain belong to one below n, so this ends soon.
        while value >= self.n {
            value = self.rounds(value);
        }
        value
    }

    fn rounds(&self, value: u64) -> u64 {
        let mask = (1 << self.half_bits) - 1;
        let (mut left, mut right) = (value >> self.half_bits, value & mask);
        for round in 0..4 {
            let scrambled = mix(right ^ mix(self.seed ^ round)) & mask;
            (left, right) = (right, left ^ scrambled);
        }
        (left << self.half_bits) | right
    }
}

#[cfg(test)]
mod tests {
    use super::Permutation;

    /// Every value once, for sizes around powers of two; another seed gives another order.
    #[test]
    fn every_value_once() {
        for n in [1, 2, 3, 4, 5, 15, 16, 17, 1000, 4097] {
            let permutation = Permutation::new(n, 42);
            let mut seen: Vec<u64> = (0..n).map(|i| permutation.get(i)).collect();
            let order = seen.clone();
            seen.sort_unstable();
            assert!(seen.iter().copied().eq(0..n), "n = {n}");
            if n >= 15 {
                assert!(!order.iter().copied().eq(0..n), "n = {n} is not shuffled");
                let other = Permutation::new(n, 43);
                assert!((0..n).any(|i| other.get(i) != order[i as usize]), "the seed matters for n = {n}");
            }
        }
    }
}
