//! Reed-Solomon parity of stripes while their blocks are written, in any order. Pure but for reading back.
//!
//! A stripe is `data` blocks. One that is written whole by one call is coded from the caller's bytes; of others a copy is kept until they are
//! whole, of a few at a time. A stripe that is written to after it was coded is read back; so a region written once never is.
//!
//! # Invariants
//! - The parity is that of the latest bytes, zeros where nothing was written (`parity_is_that_of_the_bytes`).
//! - Any `data` of a stripe's blocks and parities give the rest (`what_is_lost_comes_back`).

use std::collections::BTreeMap;

use fs_proto::checksum;
use reed_solomon_simd::{ReedSolomonDecoder, ReedSolomonEncoder};

use crate::error::{Error, Result};
use crate::extents::Extents;
use crate::format::{BLOCK_BYTES, StripeSum};

const BLOCK: usize = BLOCK_BYTES as usize;
/// Stripes of which a copy is kept at once, of all regions of a rank.
pub(crate) const OPEN_MAX: usize = 4;
/// Stripes whose parity is kept until it is stored: several at once fill the network.
const TOGETHER: usize = 4;
/// Parity comes in multiples of this.
const UNIT: usize = 64;

/// Parity of a stripe, to be stored.
pub(crate) struct Parity {
    pub stripe: u64,
    pub shards: Vec<Vec<u8>>,
}

struct Open {
    bytes: Vec<u8>,
    have: Extents,
    age: u64,
}

/// Reads a stripe back, zeros where nothing is.
pub(crate) type ReadBack<'a> = dyn Fn(u64, &mut [u8]) -> Result<()> + 'a;

/// Stores parity.
pub(crate) type Store<'a> = dyn FnMut(&[Parity]) -> Result<()> + 'a;

/// The stripes of one region.
pub(crate) struct Stripes {
    data: usize,
    extra: usize,
    open: BTreeMap<u64, Open>,
    sums: BTreeMap<u64, StripeSum>,
    count: u64,
    coder: Option<ReedSolomonEncoder>,
}

impl Stripes {
    pub fn new(data: usize, extra: usize) -> Stripes {
        Stripes { data, extra, open: BTreeMap::new(), sums: BTreeMap::new(), count: 0, coder: None }
    }

    fn stripe_bytes(&self) -> u64 {
        self.data as u64 * BLOCK_BYTES
    }

    /// Takes note of a write whose bytes are stored already; stores the parity that can be told by now, a few stripes at once, however long the write is.
    pub fn write(
        &mut self,
        mut data: &[u8],
        mut offset: u64,
        read_back: &ReadBack,
        store: &mut Store,
    ) -> Result<()> {
        let (whole, mut done) = (self.stripe_bytes(), Vec::new());
        while !data.is_empty() {
            let (stripe, start) = (offset / whole, offset % whole);
            let (here, rest) = data.split_at(data.len().min((whole - start) as usize));
            if here.len() as u64 == whole {
                self.open.remove(&stripe);
                done.push(self.code(stripe, here)?);
            } else if let Some(open) = self.note(stripe, start as usize, here, read_back)? {
                done.push(self.code(stripe, &open.bytes)?);
            }
            if done.len() == TOGETHER {
                store(&done)?;
                done.clear();
            }
            (data, offset) = (rest, offset + here.len() as u64);
        }
        while self.open.len() > OPEN_MAX {
            done.extend(self.oldest()?);
        }
        store(&done)
    }

    /// Notes a part of a stripe; answers the stripe if it is whole.
    fn note(&mut self, stripe: u64, start: usize, data: &[u8], read_back: &ReadBack) -> Result<Option<Open>> {
        self.count += 1;
        let whole = self.stripe_bytes();
        if !self.open.contains_key(&stripe) {
            let mut open = Open { bytes: vec![0; whole as usize], have: Extents::default(), age: self.count };
            if self.sums.contains_key(&stripe) {
                read_back(stripe, &mut open.bytes)?;
            }
            self.open.insert(stripe, open);
        }
        let Some(open) = self.open.get_mut(&stripe) else { return Ok(None) };
        open.bytes[start..start + data.len()].copy_from_slice(data);
        open.have.add(start as u64, (start + data.len()) as u64);
        open.age = self.count;
        if open.have.covers(whole) { Ok(self.open.remove(&stripe)) } else { Ok(None) }
    }

    /// Of how many stripes a copy is kept.
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// Stores the parity of the stripe that was not written to for longest, as far as it is known, and forgets the copy.
    pub fn close_one(&mut self, store: &mut Store) -> Result<()> {
        self.oldest()?.map_or(Ok(()), |parity| store(&[parity]))
    }

    fn oldest(&mut self) -> Result<Option<Parity>> {
        let oldest = self.open.iter().min_by_key(|(_, open)| open.age).map(|(stripe, _)| *stripe);
        let Some((stripe, open)) = oldest.and_then(|stripe| Some((stripe, self.open.remove(&stripe)?)))
        else {
            return Ok(None);
        };
        self.code(stripe, &open.bytes).map(Some)
    }

    /// Stores the parity that is left.
    pub fn finish(&mut self, store: &mut Store) -> Result<()> {
        while let Some(parity) = self.oldest()? {
            store(&[parity])?;
        }
        Ok(())
    }

    pub fn into_sums(self) -> Vec<StripeSum> {
        self.sums.into_values().collect()
    }

    fn code(&mut self, stripe: u64, bytes: &[u8]) -> Result<Parity> {
        let used = used(bytes);
        let coder = match &mut self.coder {
            Some(coder) => {
                coder.reset(self.data, self.extra, used).map_err(|e| impossible(&e))?;
                coder
            }
            none => {
                none.insert(ReedSolomonEncoder::new(self.data, self.extra, used).map_err(|e| impossible(&e))?)
            }
        };
        for block in bytes.chunks(BLOCK) {
            coder.add_original_shard(&block[..used]).map_err(|e| impossible(&e))?;
        }
        let coded = coder.encode().map_err(|e| impossible(&e))?;
        let shards: Vec<Vec<u8>> = coded.recovery_iter().map(<[u8]>::to_vec).collect();
        drop(coded);
        let crcs = shards.iter().map(|shard| checksum::crc(shard)).collect();
        self.sums.insert(stripe, StripeSum { stripe, bytes: used as u32, crcs });
        Ok(Parity { stripe, shards })
    }
}

/// How many bytes of each block are worth coding: all if there is anything behind the first block, else as far as that is not zero.
fn used(stripe: &[u8]) -> usize {
    let last = stripe.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
    last.clamp(1, BLOCK).next_multiple_of(UNIT)
}

fn impossible(e: &reed_solomon_simd::Error) -> Error {
    Error::Invalid(format!("such parity cannot be made: {e}"))
}

/// The data blocks that are missing among `blocks`, from them and the parities, all of `bytes` bytes; None if too few are there.
pub(crate) fn restore(
    blocks: &mut [Option<Vec<u8>>],
    parities: &[Option<Vec<u8>>],
    bytes: usize,
) -> Option<()> {
    let mut decoder = ReedSolomonDecoder::new(blocks.len(), parities.len(), bytes).ok()?;
    for (index, block) in blocks.iter().enumerate() {
        if let Some(block) = block {
            decoder.add_original_shard(index, block).ok()?;
        }
    }
    for (index, parity) in parities.iter().enumerate() {
        if let Some(parity) = parity {
            decoder.add_recovery_shard(index, parity).ok()?;
        }
    }
    let decoded = decoder.decode().ok()?;
    for (index, block) in blocks.iter_mut().enumerate().filter(|(_, block)| block.is_none()) {
        *block = Some(decoded.restored_original(index)?.to_vec());
    }
    Some(())
}

#[cfg(test)]
mod tests {
    //! Goal: what the module promises. Method: random writes beside a model, whose parity is made at once; losses of every kind.
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;

    type Shards = BTreeMap<u64, Vec<Vec<u8>>>;

    /// Does the writes; answers model, stored parity by stripe, sums, and how often a stripe was read back.
    fn run(writes: &[(u64, usize, u8)]) -> (Vec<u8>, Shards, Vec<StripeSum>, usize) {
        let (mut model, mut stripes, mut stored) = (vec![0; 12 * BLOCK], Stripes::new(2, 2), BTreeMap::new());
        let read = Cell::new(0);
        let mut keep = |done: &[Parity]| {
            assert!(done.len() <= TOGETHER + OPEN_MAX, "{} stripes' parity at once", done.len());
            stored.extend(done.iter().map(|parity| (parity.stripe, parity.shards.clone())));
            Ok(())
        };
        for &(offset, bytes, fill) in writes {
            let data: Vec<u8> = (0..bytes).map(|at| fill.wrapping_add((at * 7) as u8)).collect();
            model[offset as usize..][..bytes].copy_from_slice(&data);
            let read_back = |stripe: u64, buf: &mut [u8]| {
                read.set(read.get() + 1);
                buf.copy_from_slice(&model[stripe as usize * 2 * BLOCK..][..2 * BLOCK]);
                Ok(())
            };
            stripes.write(&data, offset, &read_back, &mut keep).unwrap();
        }
        stripes.finish(&mut keep).unwrap();
        (model, stored, stripes.into_sums(), read.get())
    }

    #[test]
    fn parity_of_a_long_write_is_stored_as_it_goes() {
        let (mut stripes, mut most, mut count) = (Stripes::new(2, 1), 0, 0);
        let data = vec![7; 20 * BLOCK];
        let read_back = |_, _: &mut [u8]| unreachable!("it is written once");
        let stored = stripes.write(&data, 0, &read_back, &mut |done| {
            (most, count) = (most.max(done.len()), count + done.len());
            Ok(())
        });
        stored.unwrap();
        assert_eq!((most, count), (TOGETHER, 10));
    }

    fn check(writes: &[(u64, usize, u8)]) -> usize {
        let (model, stored, sums, read) = run(writes);
        for sum in sums {
            let stripe = &model[sum.stripe as usize * 2 * BLOCK..][..2 * BLOCK];
            let used = sum.bytes as usize;
            assert!(stripe[..BLOCK][used..].iter().chain(&stripe[BLOCK..][used..]).all(|byte| *byte == 0));
            let blocks = [&stripe[..used], &stripe[BLOCK..][..used]];
            let parity = reed_solomon_simd::encode(2, 2, blocks).unwrap();
            assert!(parity == stored[&sum.stripe], "stripe {}", sum.stripe);
            assert_eq!(sum.crcs, parity.iter().map(|shard| checksum::crc(shard)).collect::<Vec<_>>());
        }
        read
    }

    #[test]
    fn a_region_written_once_is_never_read_back() {
        let third = 12 * BLOCK / 3;
        let pieces: Vec<_> = (0..3).map(|at| ((at * third) as u64, third, at as u8)).collect();
        assert_eq!(check(&pieces), 0);
        let small: Vec<_> =
            (0..12 * 8).rev().map(|at| ((at * BLOCK / 8) as u64, BLOCK / 8, at as u8)).collect();
        assert_eq!(check(&small), 0);
        assert_eq!(check(&[(0, 10, 1), (5, 10, 2), (100, 1, 3)]), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn parity_is_that_of_the_bytes(
            writes in prop::collection::vec((0..8 * BLOCK as u64, 1..3 * BLOCK, any::<u8>()), 0..8),
            scattered in prop::collection::vec((0..11 * BLOCK as u64, 1..1000usize, any::<u8>()), 0..30),
        ) {
            check(&[writes, scattered].concat());
        }
    }

    #[test]
    fn what_is_lost_comes_back() {
        let blocks: Vec<Vec<u8>> =
            (0..4u8).map(|i| (0..640).map(|at| (at as u8).wrapping_mul(i + 3)).collect()).collect();
        let parities = reed_solomon_simd::encode(4, 2, &blocks).unwrap();
        for lost in 0u8..64 {
            let is_there = |at: usize| lost & (1 << at) == 0;
            let mut some: Vec<_> =
                blocks.iter().enumerate().map(|(at, block)| is_there(at).then(|| block.clone())).collect();
            let left: Vec<_> = parities
                .iter()
                .enumerate()
                .map(|(at, shard)| is_there(4 + at).then(|| shard.clone()))
                .collect();
            let restored = restore(&mut some, &left, 640).is_some();
            assert_eq!(restored, lost.count_ones() <= 2, "{lost:06b}");
            if restored {
                assert!(
                    some.iter().zip(&blocks).all(|(some, block)| some.as_ref() == Some(block)),
                    "{lost:06b}"
                );
            }
        }
    }
}
