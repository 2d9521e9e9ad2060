//! How often an operation took how long: counts in buckets that are 1/16 of a power of two wide.
//!
//! # Invariants
//! - A quantile is at most 1/16 above the true one, and never below it (`tests::quantiles_are_close`).
//!
//! Rejected: a general histogram crate, whose state would have to be serialised in its own binary format to be sent from a task;
//! this one is a list of (bucket, count).

use serde::{Deserialize, Serialize};

const SUB_BITS: u32 = 4;
const SUB: u64 = 1 << SUB_BITS;
const BUCKETS: usize = (64 - SUB_BITS as usize + 1) * SUB as usize;

/// Durations in nanoseconds, by buckets.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "Vec<(u16, u64)>", into = "Vec<(u16, u64)>")]
pub struct Histogram {
    counts: Vec<u64>,
}

fn bucket(value: u64) -> usize {
    let bits = u64::BITS - value.leading_zeros();
    if bits <= SUB_BITS {
        return value as usize;
    }
    let shift = bits - SUB_BITS - 1;
    ((u64::from(shift) + 1) * SUB + ((value >> shift) & (SUB - 1))) as usize
}

/// The largest value of a bucket.
fn upper(bucket: usize) -> u64 {
    let (power, step) = (bucket as u64 / SUB, bucket as u64 % SUB);
    if power == 0 { step } else { ((SUB + step + 1) << (power - 1)).wrapping_sub(1) }
}

impl Histogram {
    /// One operation took so long.
    pub fn note(&mut self, nanoseconds: u64) {
        if self.counts.is_empty() {
            self.counts = vec![0; BUCKETS];
        }
        self.counts[bucket(nanoseconds)] += 1;
    }

    /// Adds what another task noted.
    pub fn add(&mut self, other: &Histogram) {
        if self.counts.is_empty() {
            self.counts.clone_from(&other.counts);
            return;
        }
        self.counts.iter_mut().zip(&other.counts).for_each(|(mine, theirs)| *mine += theirs);
    }

    /// How many operations.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The duration in nanoseconds that a share (0 to 1) of the operations did not exceed; none without operations.
    pub fn quantile(&self, share: f64) -> Option<u64> {
        let wanted = (share * self.count() as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        self.counts.iter().enumerate().find_map(|(index, count)| {
            seen += count;
            (seen >= wanted).then(|| upper(index))
        })
    }

    /// Buckets with operations: (largest duration in nanoseconds, how many).
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> {
        self.counts.iter().enumerate().filter(|(_, count)| **count > 0).map(|(i, count)| (upper(i), *count))
    }
}

impl From<Histogram> for Vec<(u16, u64)> {
    fn from(histogram: Histogram) -> Self {
        let counts = histogram.counts.into_iter().enumerate();
        counts.filter(|(_, count)| *count > 0).map(|(index, count)| (index as u16, count)).collect()
    }
}

impl From<Vec<(u16, u64)>> for Histogram {
    fn from(pairs: Vec<(u16, u64)>) -> Self {
        let mut counts = if pairs.is_empty() { Vec::new() } else { vec![0; BUCKETS] };
        for (index, count) in pairs {
            // What a task of another version says must not end this one.
            if let Some(slot) = counts.get_mut(usize::from(index)) {
                *slot += count;
            }
        }
        Histogram { counts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: quantiles are those of the values, within the width of a bucket. Method: values over nine powers of ten, sorted.
    #[test]
    fn quantiles_are_close() {
        let values: Vec<u64> = (0..5000).map(|n| crate::pattern::mix(n) >> (n % 60 + 4)).collect();
        let mut sorted = values.clone();
        sorted.sort_unstable();
        let (mut left, mut right) = (Histogram::default(), Histogram::default());
        values.iter().enumerate().for_each(|(i, v)| if i % 2 == 0 { left.note(*v) } else { right.note(*v) });
        left.add(&right);
        assert_eq!(left.count(), 5000);
        for share in [0.0_f64, 0.1, 0.5, 0.99, 1.0] {
            let exact = sorted[((share * 5000.0).ceil() as usize).max(1) - 1];
            let found = left.quantile(share).expect("values");
            assert!(found >= exact && found - exact <= exact / 16 + 1, "{share}: {found}, not {exact}");
        }
        let text = serde_json::to_string(&left).expect("JSON");
        assert_eq!(serde_json::from_str::<Histogram>(&text).expect("a histogram"), left);
    }

    #[test]
    fn buckets_cover_all_values() {
        for value in [0, 1, 15, 16, 17, 31, 32, 1000, u64::MAX] {
            let index = bucket(value);
            assert!(
                index < BUCKETS && upper(index) >= value && (index == 0 || upper(index - 1) < value),
                "{value}"
            );
        }
        assert_eq!(Histogram::default().quantile(0.5), None);
        assert_eq!(serde_json::from_str::<Histogram>("[[65535,3]]").expect("tolerated").count(), 0);
    }
}
