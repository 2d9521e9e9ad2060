//! What one rank wrote of one region, read and checked, from wherever it is whole: its parts, a copy, what parity gives, or the shared tier.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use fs_client::{File, Spot};
use fs_proto::checksum;

use crate::error::{Error, Result};
use crate::format::{BLOCK_BYTES, Place, SealedRegion, Spread};
use crate::register::{Disk, is_silence};
use crate::snapshot::damage;
use crate::spread::place;
use crate::stripes;
use crate::sums::block_bytes;
use crate::tier::Tier;

/// Servers that did not answer, and are not asked again by the same reader.
#[derive(Debug, Default)]
pub(crate) struct Silent {
    servers: Mutex<BTreeSet<u16>>,
    /// Whether one was waited for that has a file, whichever it is.
    hasty: AtomicBool,
}

impl Silent {
    pub fn has(&self, Place(server, _): Place) -> bool {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner).contains(&server)
    }

    pub fn add(&self, server: u16) {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner).insert(server);
    }

    /// Takes note of how reading a file failed: from then on files are read in haste.
    pub fn note(&self, e: &Error) {
        if is_silence(e) {
            self.hasty.store(true, Ordering::Relaxed);
        }
    }

    /// How files are read now.
    pub fn disk(&self, disk: &Disk) -> Disk {
        if self.hasty.load(Ordering::Relaxed) { disk.hasty() } else { disk.clone() }
    }

    /// Takes note of an answer from there; answers whether it is one.
    pub fn heard(&self, answer: &fs_client::Result<()>, Place(server, _): Place) -> bool {
        if let Err(fs_client::Error::Unavailable { .. }) = answer {
            self.add(server);
        }
        answer.is_ok()
    }
}

/// A region's files and what must be in them.
pub(crate) struct Stored<'a> {
    disk: Disk,
    path: String,
    region: &'a SealedRegion,
    silent: &'a Silent,
    file: Option<File>,
    /// One for each part.
    in_tier: Option<Vec<Arc<std::fs::File>>>,
    /// Why tier 1 is not asked any more.
    lost: Option<Error>,
    scratch: Vec<u8>,
}

impl<'a> Stored<'a> {
    pub fn open(
        disk: &Disk,
        path: String,
        region: &'a SealedRegion,
        silent: &'a Silent,
    ) -> Result<Stored<'a>> {
        let open = |path: &String| disk.tier().and_then(|tier| tier.open(path).ok().flatten());
        let in_tier: Option<Vec<_>> = files(&path, region).iter().map(open).collect();
        let (mut file, mut lost) = (None, None);
        if region.spread.is_none() {
            match silent.disk(disk).open(&path).inspect_err(|e| silent.note(e)) {
                Ok(found) => file = found,
                Err(e) if in_tier.is_some() => lost = Some(e),
                Err(e) => return Err(e),
            }
        }
        Ok(Stored { disk: disk.clone(), path, region, silent, file, in_tier, lost, scratch: Vec::new() })
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn is_anywhere(&self) -> bool {
        self.file.is_some() || self.in_tier.is_some() || self.region.spread.is_some()
    }

    /// Fills `buf` from `offset`; the range lies within the region's extents.
    pub fn read(&mut self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < buf.len() {
            let (at, left) = (offset + done as u64, &mut buf[done..]);
            let whole = self.whole_blocks(at, left.len());
            if whole > 0 {
                self.read_checked(&mut left[..whole], at)?;
                done += whole;
                continue;
            }
            let start = at - at % BLOCK_BYTES;
            let mut scratch = std::mem::take(&mut self.scratch);
            scratch.resize(block_bytes(self.region.end(), start) as usize, 0);
            self.read_checked(&mut scratch, start)?;
            let part = &scratch[(at - start) as usize..];
            let some = part.len().min(left.len());
            left[..some].copy_from_slice(&part[..some]);
            done += some;
            self.scratch = scratch;
        }
        Ok(())
    }

    /// How many of `bytes` at `offset` are whole blocks, the region's last one included.
    fn whole_blocks(&self, offset: u64, bytes: usize) -> usize {
        if !offset.is_multiple_of(BLOCK_BYTES) {
            return 0;
        }
        if offset + bytes as u64 == self.region.end() {
            return bytes;
        }
        bytes - bytes % BLOCK_BYTES as usize
    }

    /// Fills `buf`, whole blocks, from `offset`, where a block begins.
    fn read_checked(&mut self, buf: &mut [u8], offset: u64) -> Result<()> {
        let read = match &self.region.spread {
            Some(spread) => self.read_spread(spread, buf, offset),
            None => self.read_file(buf, offset),
        };
        let Err(failure) = read else { return Ok(()) };
        self.silent.note(&failure);
        if !self.read_tier_2(buf, offset) {
            return Err(failure);
        }
        if self.lost.is_none() {
            tracing::warn!(path = self.path, error = %failure, "a checkpoint is read from the shared tier");
        }
        if matches!(failure, Error::FileSystem(_)) {
            self.lost = Some(failure); // Not to wait for a dead server at every block.
        }
        Ok(())
    }

    fn read_file(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        if let Some(e) = &self.lost {
            return Err(e.clone());
        }
        let file = self.file.as_ref().ok_or_else(|| Error::corrupt(&self.path, "it is missing"))?;
        let read = file.read_at(buf, offset).map_err(|e| damage(e.into(), &self.path))?;
        if read < buf.len() {
            let (at, size) = (offset + read as u64, self.region.end());
            return Err(Error::corrupt(&self.path, format!("it ends at byte {at} instead of {size}")));
        }
        self.check(buf, offset)
    }

    /// All blocks at once from the parts with the data, and one by one what fails there.
    fn read_spread(&self, spread: &Spread, buf: &mut [u8], offset: u64) -> Result<()> {
        let first = offset / BLOCK_BYTES;
        let parts = spread.data.len() as u64;
        let from = |block: u64| {
            let (part, at) = place(block * BLOCK_BYTES, parts);
            (spread.data[part], at)
        };
        let blocks = (first..).zip(buf.chunks_mut(BLOCK_BYTES as usize));
        let (known, mut asked): (Vec<_>, Vec<_>) =
            blocks.partition(|(block, _)| self.silent.has(from(*block).0));
        let mut missing: Vec<u64> = known.into_iter().map(|(block, _)| block).collect();
        let mut parts: Vec<(Spot, &mut [u8], u64)> = asked
            .iter_mut()
            .map(|(block, buf)| {
                let (place, at) = from(*block);
                (place.into(), &mut **buf, at)
            })
            .collect();
        let answers = self.disk.client().read_spots(&mut parts)?;
        for ((block, buf), answer) in asked.iter().zip(answers) {
            if !self.is_good(&answer, from(*block).0, *block, buf) {
                missing.push(*block);
            }
        }
        for block in missing {
            let at = ((block - first) * BLOCK_BYTES) as usize;
            let len = block_bytes(self.region.end(), block * BLOCK_BYTES) as usize;
            let buf = &mut buf[at..at + len];
            self.recover(spread, block, buf)?;
        }
        Ok(())
    }

    /// Whether a block was read and is what was written; remembers a server that did not answer.
    fn is_good(&self, answer: &fs_client::Result<()>, from: Place, block: u64, buf: &[u8]) -> bool {
        self.silent.heard(answer, from) && self.region.crc(block) == Some(checksum::crc(buf))
    }

    /// Fills `buf` with a block that its own part does not have.
    fn recover(&self, spread: &Spread, block: u64, buf: &mut [u8]) -> Result<()> {
        let found = match spread.data.len() {
            1 => self.read_copy(spread, block, buf),
            _ => self.read_parity(spread, block, buf),
        };
        if found { Ok(()) } else { Err(self.wrong(block, buf.len())) }
    }

    fn read_copy(&self, spread: &Spread, block: u64, buf: &mut [u8]) -> bool {
        let mut copies = spread.extra.iter().filter(|copy| !self.silent.has(**copy));
        copies.any(|copy| {
            let answer = self.disk.client().read_spot((*copy).into(), buf, block * BLOCK_BYTES);
            self.is_good(&answer, *copy, block, buf)
        })
    }

    fn read_parity(&self, spread: &Spread, block: u64, buf: &mut [u8]) -> bool {
        let parts = spread.data.len() as u64;
        let (stripe, number) = (block / parts, (block % parts) as usize);
        let Ok(at) = spread.stripes.binary_search_by_key(&stripe, |sum| sum.stripe) else { return false };
        let sum = &spread.stripes[at];
        let bytes = sum.bytes as usize;
        let mut blocks: Vec<_> =
            (0..parts).map(|part| self.data_block(spread, stripe * parts + part, bytes)).collect();
        blocks[number] = None;
        let parity = spread.extra.iter().zip(&sum.crcs).map(|(place, crc)| {
            if self.silent.has(*place) {
                return None;
            }
            let mut shard = vec![0; bytes];
            let answer = self.disk.client().read_spot((*place).into(), &mut shard, stripe * BLOCK_BYTES);
            (self.silent.heard(&answer, *place) && checksum::crc(&shard) == *crc).then_some(shard)
        });
        let parity: Vec<_> = parity.collect();
        if stripes::restore(&mut blocks, &parity, bytes).is_none() {
            return false;
        }
        let Some(Some(found)) = blocks.get(number) else { return false };
        let some = found.len().min(buf.len());
        buf[..some].copy_from_slice(&found[..some]);
        buf[some..].fill(0);
        self.region.crc(block) == Some(checksum::crc(buf))
    }

    /// A block of a stripe as parity sees it: followed by zeros, all zeros if nobody wrote it; None if it is not whole.
    fn data_block(&self, spread: &Spread, block: u64, bytes: usize) -> Option<Vec<u8>> {
        let mut buf = vec![0; bytes];
        let Some(crc) = self.region.crc(block) else { return Some(buf) };
        let (part, at) = place(block * BLOCK_BYTES, spread.data.len() as u64);
        let from = spread.data[part];
        if self.silent.has(from) {
            return None;
        }
        let len = block_bytes(self.region.end(), block * BLOCK_BYTES) as usize;
        buf.resize(len, 0);
        let answer = self.disk.client().read_spot(from.into(), &mut buf, at);
        let whole = self.silent.heard(&answer, from) && checksum::crc(&buf) == crc;
        buf.resize(bytes, 0);
        whole.then_some(buf)
    }

    fn read_tier_2(&self, buf: &mut [u8], offset: u64) -> bool {
        let (Some(tier), Some(parts)) = (self.disk.tier(), &self.in_tier) else { return false };
        let fill = |(block, buf): (u64, &mut [u8])| {
            let (part, at) = place(block * BLOCK_BYTES, parts.len() as u64);
            tier.fill(&parts[part], &self.path, buf, at)
        };
        let mut blocks = (offset / BLOCK_BYTES..).zip(buf.chunks_mut(BLOCK_BYTES as usize));
        blocks.try_for_each(fill).and_then(|()| self.check(buf, offset)).is_ok()
    }

    fn check(&self, buf: &[u8], offset: u64) -> Result<()> {
        let first = offset / BLOCK_BYTES;
        for (block, content) in (first..).zip(buf.chunks(BLOCK_BYTES as usize)) {
            if self.region.crc(block) != Some(checksum::crc(content)) {
                return Err(self.wrong(block, content.len()));
            }
        }
        Ok(())
    }

    fn wrong(&self, block: u64, bytes: usize) -> Error {
        let from = block * BLOCK_BYTES;
        let (to, name) = (from + bytes as u64, &self.region.name);
        Error::corrupt(
            &self.path,
            format!("bytes {from} to {to} (region {name:?}) differ from their checksum"),
        )
    }
}

/// Whether every block of a region is in the shared tier's files as it was written.
pub(crate) fn is_good_in_tier(tier: &Tier, path: &str, region: &SealedRegion) -> bool {
    let open = |path: &String| tier.open(path).ok().flatten();
    let Some(parts) = files(path, region).iter().map(open).collect::<Option<Vec<_>>>() else { return false };
    let read = |block: u64, buf: &mut [u8]| {
        let (part, at) = place(block * BLOCK_BYTES, parts.len() as u64);
        tier.fill(&parts[part], path, buf, at).is_ok()
    };
    first_wrong(region, &mut Vec::new(), |_| true, read).is_none()
}

/// The first of a region's blocks that `is_there` that `read` does not give right.
pub(crate) fn first_wrong(
    region: &SealedRegion,
    buf: &mut Vec<u8>,
    is_there: impl Fn(u64) -> bool,
    read: impl Fn(u64, &mut [u8]) -> bool,
) -> Option<u64> {
    let blocks = region.runs.iter().flat_map(|run| (run.block..).zip(&run.crcs));
    let wrong = blocks.filter(|(block, _)| is_there(*block)).find(|(block, crc)| {
        buf.clear();
        buf.resize(block_bytes(region.end(), block * BLOCK_BYTES) as usize, 0);
        !(read(*block, buf) && checksum::crc(buf) == **crc)
    });
    wrong.map(|(block, _)| block)
}

/// The files of a region whose path is this.
pub(crate) fn files(path: &str, region: &SealedRegion) -> Vec<String> {
    match &region.spread {
        Some(spread) => (0..spread.data.len()).map(|part| format!("{path}.{part}")).collect(),
        None => vec![path.to_owned()],
    }
}
