//! Regions whose blocks are stored one behind the other: only those that differ from an earlier version's, and compressed where that pays.
//!
//! # Invariants
//! - A block is taken from an earlier version only if length and 128-bit hash are the same; what is read is checked against its own CRC wherever it
//!   comes from (`packed::unchanged_blocks_are_not_stored_again`).
//! - Memory is bounded: of blocks that are written in parts at most [`OPEN_MAX`] wait to become whole.

use std::collections::BTreeMap;

use fs_proto::checksum;
use xxhash_rust::xxh3::xxh3_128;

use crate::error::{Error, Result};
use crate::extents::Extents;
use crate::format::{BLOCK_BYTES, PackedBlock};

const BLOCK: usize = BLOCK_BYTES as usize;
/// Blocks that wait to become whole.
pub(crate) const OPEN_MAX: usize = 32;
/// Compression must save an eighth, or the block is stored as it is.
const PAYS: (usize, usize) = (7, 8);
/// After blocks that did not pay one is not tried, then three, at most so many.
const SKIP_MAX: u32 = 15;

/// How blocks are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Packing {
    /// Compare with an earlier version.
    pub incremental: bool,
    /// Level of zstd.
    pub compress: Option<i32>,
}

/// Where the packed bytes go to, and come from.
pub(crate) trait Tape {
    /// Stores bytes behind all others; answers where.
    fn append(&mut self, bytes: &[u8]) -> Result<u64>;
    /// The content of a block that was stored, here or with an earlier version.
    fn fetch(&mut self, block: &PackedBlock) -> Result<Vec<u8>>;
}

struct Open {
    bytes: Vec<u8>,
    have: Extents,
    age: u64,
}

/// The blocks of one region that is being written.
pub(crate) struct Packer {
    packing: Packing,
    /// What the earlier version has: by block.
    base: BTreeMap<u64, PackedBlock>,
    open: BTreeMap<u64, Open>,
    done: BTreeMap<u64, PackedBlock>,
    count: u64,
    skip: u32,
    next_skip: u32,
}

impl Packer {
    pub fn new(packing: Packing, base: BTreeMap<u64, PackedBlock>) -> Packer {
        Packer {
            packing,
            base,
            open: BTreeMap::new(),
            done: BTreeMap::new(),
            count: 0,
            skip: 0,
            next_skip: 1,
        }
    }

    pub fn write(&mut self, mut data: &[u8], mut offset: u64, tape: &mut impl Tape) -> Result<()> {
        while !data.is_empty() {
            let (block, start) = (offset / BLOCK_BYTES, (offset % BLOCK_BYTES) as usize);
            let (here, rest) = data.split_at(data.len().min(BLOCK - start));
            if here.len() == BLOCK {
                self.open.remove(&block);
                self.store(block, here, tape)?;
            } else {
                self.gather(block, start, here, tape)?;
            }
            (data, offset) = (rest, offset + here.len() as u64);
        }
        while self.open.len() > OPEN_MAX {
            let oldest = self.open.iter().min_by_key(|(_, open)| open.age).map(|(block, _)| *block);
            self.close(oldest, tape)?;
        }
        Ok(())
    }

    fn gather(&mut self, block: u64, start: usize, data: &[u8], tape: &mut impl Tape) -> Result<()> {
        self.count += 1;
        if !self.open.contains_key(&block) {
            let mut open = Open { bytes: Vec::new(), have: Extents::default(), age: 0 };
            if let Some(stored) = self.done.get(&block) {
                open.bytes = tape.fetch(stored)?;
                open.have.add(0, open.bytes.len() as u64);
            }
            self.open.insert(block, open);
        }
        let Some(open) = self.open.get_mut(&block) else { return Ok(()) };
        let end = start + data.len();
        open.bytes.resize(open.bytes.len().max(end), 0);
        open.bytes[start..end].copy_from_slice(data);
        open.have.add(start as u64, end as u64);
        open.age = self.count;
        let whole = open.have.covers(BLOCK_BYTES);
        if whole { self.close(Some(block), tape) } else { Ok(()) }
    }

    fn close(&mut self, block: Option<u64>, tape: &mut impl Tape) -> Result<()> {
        let Some((block, open)) = block.and_then(|block| Some((block, self.open.remove(&block)?))) else {
            return Ok(());
        };
        self.store(block, &open.bytes, tape)
    }

    /// Stores what is left; answers all blocks.
    pub fn finish(mut self, tape: &mut impl Tape) -> Result<Vec<PackedBlock>> {
        while let Some(block) = self.open.keys().next().copied() {
            self.close(Some(block), tape)?;
        }
        Ok(self.done.into_values().collect())
    }

    fn store(&mut self, block: u64, content: &[u8], tape: &mut impl Tape) -> Result<()> {
        let hash =
            if self.packing.incremental { format!("{:032x}", xxh3_128(content)) } else { String::new() };
        let same = |base: &&PackedBlock| {
            self.packing.incremental && base.bytes as usize == content.len() && base.hash == hash
        };
        let stored = if let Some(base) = self.base.get(&block).filter(same) {
            base.clone()
        } else {
            let compressed = self.compressed(content)?;
            let bytes = compressed.as_deref().unwrap_or(content);
            let offset = tape.append(bytes)?;
            let (crc, stored) = (checksum::crc(content), bytes.len() as u32);
            PackedBlock { block, bytes: content.len() as u32, crc, hash, source: 0, offset, stored }
        };
        self.done.insert(block, stored);
        Ok(())
    }

    /// The content compressed, if that pays.
    fn compressed(&mut self, content: &[u8]) -> Result<Option<Vec<u8>>> {
        let Some(level) = self.packing.compress else { return Ok(None) };
        if self.skip > 0 {
            self.skip -= 1;
            return Ok(None);
        }
        let bytes = zstd::bulk::compress(content, level)
            .map_err(|e| Error::Invalid(format!("compression at level {level}: {e}")))?;
        let pays = bytes.len() <= content.len() / PAYS.1 * PAYS.0;
        self.next_skip = if pays { 1 } else { (2 * self.next_skip + 1).min(SKIP_MAX) };
        self.skip = if pays { 0 } else { self.next_skip / 2 };
        Ok(pays.then_some(bytes))
    }
}

/// The content of a block from its stored bytes; None if they are not what was stored.
pub(crate) fn content(block: &PackedBlock, stored: Vec<u8>) -> Option<Vec<u8>> {
    let content = if block.stored < block.bytes {
        zstd::bulk::decompress(&stored, block.bytes as usize).ok()?
    } else {
        stored
    };
    let whole = content.len() == block.bytes as usize && checksum::crc(&content) == block.crc;
    whole.then_some(content)
}
