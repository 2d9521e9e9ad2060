//! A set of bytes as ranges. Pure.
//!
//! # Invariants
//! - Ranges are ascending, not empty, and apart from one another (`behaves_like_a_set`).

/// Ranges [from, to).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Extents(Vec<(u64, u64)>);

impl Extents {
    /// Adds a range.
    pub fn add(&mut self, from: u64, to: u64) {
        if from >= to {
            return;
        }
        let first = self.0.partition_point(|(_, end)| *end < from);
        let last = self.0.partition_point(|(start, _)| *start <= to);
        let from = self.0.get(first).filter(|_| first < last).map_or(from, |(start, _)| from.min(*start));
        let to = if first < last { to.max(self.0[last - 1].1) } else { to };
        self.0.splice(first..last, [(from, to)]);
    }

    /// Whether all bytes before `to` are in it.
    pub fn covers(&self, to: u64) -> bool {
        matches!(self.0[..], [(0, end)] if end >= to)
    }

    /// The end of the last range.
    pub fn end(&self) -> u64 {
        self.0.last().map_or(0, |(_, to)| *to)
    }

    pub fn into_ranges(self) -> Vec<(u64, u64)> {
        self.0
    }
}

/// The parts of ascending ranges that lie within [from, to).
pub(crate) fn clipped(ranges: &[(u64, u64)], from: u64, to: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
    let first = ranges.partition_point(move |(_, end)| *end <= from);
    let met = ranges[first..].iter().take_while(move |(start, _)| *start < to);
    met.map(move |(start, end)| (from.max(*start), to.min(*end)))
}

#[cfg(test)]
mod tests {
    //! Goal: it is a set of bytes. Method: random ranges beside an array of flags.
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_like_a_set(
            ranges in prop::collection::vec((0..100u64, 0..20u64), 0..20), from in 0..120u64, len in 0..40u64,
        ) {
            let (mut set, mut flags) = (Extents::default(), [false; 200]);
            for (start, bytes) in ranges {
                set.add(start, start + bytes);
                flags[start as usize..(start + bytes) as usize].fill(true);
            }
            let to = from + len;
            let inside: Vec<u64> = clipped(&set.0, from, to).flat_map(|(start, end)| start..end).collect();
            let expected: Vec<u64> = (from..to).filter(|at| flags[*at as usize]).collect();
            prop_assert_eq!(inside, expected);
            prop_assert_eq!(to > 0 && set.covers(to), to > 0 && set.end() == to.max(set.end()) && flags[..to as usize].iter().all(|flag| *flag) && set.0.len() == 1);
            prop_assert_eq!(set.end(), flags.iter().rposition(|flag| *flag).map_or(0, |at| at as u64 + 1));
            prop_assert!(set.0.windows(2).all(|pair| pair[0].1 < pair[1].0) && set.0.iter().all(|(a, b)| a < b));
        }
    }
}
