//! Where a file has data: the chunks that servers told of, and what follows for seeking. Pure.
//!
//! # Invariants
//! - What is found for data lies in a range that was told, what is found for a hole does not, and nothing before it would have done
//!   (`finds_what_a_look_at_every_byte_finds`).
//! - Every merging of pages goes on by at least a chunk (`a_merge_reaches_as_far_as_all_pages`).

use std::collections::BTreeMap;
use std::ops::Range;

use fs_proto::msg::chunk::ChunkMapPage;

/// Data of a chunk: (begin, end) pairs, ascending and apart.
pub(crate) type Ranges = Vec<(u32, u32)>;

/// What is known of the chunks `from..to`: those that are not in it are holes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DataMap {
    chunk_log2: u8,
    /// First chunk that this does not tell of.
    pub to: u64,
    pub chunks: BTreeMap<u64, Ranges>,
}

/// What is sought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sought {
    Data,
    Hole,
}

impl DataMap {
    /// Of chunks that were each asked for, up to `to`.
    pub fn of_chunks(chunk_log2: u8, to: u64, chunks: impl IntoIterator<Item = (u64, Ranges)>) -> DataMap {
        DataMap { chunk_log2, to, chunks: chunks.into_iter().collect() }
    }

    /// Of a page of each server that holds chunks, all asked from chunk `from` on. None if a page makes no sense.
    pub fn merge(chunk_log2: u8, from: u64, pages: Vec<ChunkMapPage>) -> Option<DataMap> {
        let mut map = DataMap { chunk_log2, to: u64::MAX, chunks: BTreeMap::new() };
        for page in pages {
            if !page.end {
                map.to = map.to.min(page.chunks.last()?.0.0 + 1);
            }
            map.chunks.extend(page.chunks.into_iter().map(|(chunk, ranges)| (chunk.0, ranges)));
        }
        map.chunks.split_off(&map.to);
        let sensible = map.to > from && map.chunks.keys().next().is_none_or(|first| *first >= from);
        sensible.then_some(map)
    }

    /// The first byte at or after `offset` that is sought, within the chunks that this tells of.
    pub fn find(&self, sought: Sought, offset: u64) -> Option<u64> {
        match sought {
            Sought::Data => self.ranges_from(offset).next().map(|range| range.start.max(offset)),
            Sought::Hole => self.hole_at(offset),
        }
    }

    fn hole_at(&self, offset: u64) -> Option<u64> {
        let mut at = offset;
        for range in self.ranges_from(offset) {
            if range.start > at {
                break;
            }
            at = range.end;
        }
        (at >> self.chunk_log2 < self.to).then_some(at)
    }

    /// Ranges of data within the file that end after `offset`.
    fn ranges_from(&self, offset: u64) -> impl Iterator<Item = Range<u64>> {
        let log2 = self.chunk_log2;
        let in_file = move |chunk: u64, (begin, end): (u32, u32)| {
            let start = chunk << log2;
            start + u64::from(begin)..start + u64::from(end)
        };
        self.chunks
            .range(offset >> log2..)
            .flat_map(move |(chunk, ranges)| ranges.iter().map(move |range| in_file(*chunk, *range)))
            .filter(move |range| range.end > offset)
    }
}

#[cfg(test)]
mod tests {
    //! Method: chunks of four bytes, and every byte looked at.
    use super::*;
    use fs_proto::ChunkIndex;
    use proptest::prelude::*;

    const LOG2: u8 = 2;

    /// The ranges of a chunk whose bytes are data where `bits` are set.
    fn ranges(bits: u8) -> Ranges {
        let mut ranges = Ranges::new();
        for byte in (0..4).filter(|byte| bits & 1 << byte != 0) {
            match ranges.last_mut() {
                Some(last) if last.1 == byte => last.1 = byte + 1,
                _ => ranges.push((byte, byte + 1)),
            }
        }
        ranges
    }

    fn map(chunks: &[u8]) -> DataMap {
        let told = chunks.iter().enumerate().filter(|(_, bits)| **bits != 0);
        DataMap::of_chunks(LOG2, chunks.len() as u64, told.map(|(chunk, bits)| (chunk as u64, ranges(*bits))))
    }

    proptest! {
        #[test]
        fn finds_what_a_look_at_every_byte_finds(chunks in prop::collection::vec(0u8..16, 1..8), offset in 0u64..32) {
            let bytes: Vec<bool> = chunks.iter().flat_map(|bits| (0..4).map(move |byte| bits & 1 << byte != 0)).collect();
            let first = |sought| (offset as usize..bytes.len()).find(|at| bytes[*at] == sought).map(|at| at as u64);
            let map = map(&chunks);
            prop_assert_eq!(map.find(Sought::Data, offset), first(true));
            prop_assert_eq!(map.find(Sought::Hole, offset), first(false));
        }
    }

    fn page(chunks: &[u64], end: bool) -> ChunkMapPage {
        ChunkMapPage { chunks: chunks.iter().map(|chunk| (ChunkIndex(*chunk), vec![(0, 4)])).collect(), end }
    }

    #[test]
    fn a_merge_reaches_as_far_as_all_pages() {
        let map = DataMap::merge(LOG2, 5, vec![page(&[5, 9], false), page(&[6, 7], false), page(&[8], true)]);
        let map = map.unwrap();
        assert_eq!((map.to, map.chunks.keys().copied().collect::<Vec<_>>()), (8, vec![5, 6, 7]));
        assert_eq!(map.find(Sought::Hole, 5 << LOG2), None, "what comes after it is not known");
        let all = DataMap::merge(LOG2, 0, vec![page(&[], true), page(&[3], true)]).unwrap();
        assert_eq!((all.to, all.find(Sought::Hole, 3 << LOG2)), (u64::MAX, Some(4 << LOG2)));
        assert_eq!(all.find(Sought::Data, 4 << LOG2), None);
    }

    #[test]
    fn pages_that_make_no_sense_are_refused() {
        assert_eq!(DataMap::merge(LOG2, 5, vec![page(&[], false)]), None);
        assert_eq!(DataMap::merge(LOG2, 5, vec![page(&[4], false)]), None);
        assert_eq!(DataMap::merge(LOG2, 5, vec![page(&[4, 6], true)]), None);
    }
}
