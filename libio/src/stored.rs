//! What one rank wrote of one region, read and checked, from wherever it is whole.

use fs_client::File;
use fs_proto::checksum;

use crate::error::{Error, Result};
use crate::format::{BLOCK_BYTES, SealedRegion};
use crate::register::Disk;
use crate::snapshot::damage;
use crate::sums::block_bytes;

/// A region's files and what must be in them.
pub(crate) struct Stored<'a> {
    disk: Disk,
    path: String,
    region: &'a SealedRegion,
    file: Option<File>,
    in_tier: Option<std::fs::File>,
    /// Why tier 1 is not asked any more.
    lost: Option<Error>,
    scratch: Vec<u8>,
}

impl<'a> Stored<'a> {
    pub fn open(disk: &Disk, path: String, region: &'a SealedRegion) -> Result<Stored<'a>> {
        let in_tier = disk.tier().and_then(|tier| tier.open(&path).ok().flatten());
        let (file, lost) = match disk.open(&path) {
            Ok(file) => (file, None),
            Err(e) if in_tier.is_some() => (None, Some(e)),
            Err(e) => return Err(e),
        };
        Ok(Stored { disk: disk.clone(), path, region, file, in_tier, lost, scratch: Vec::new() })
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn is_anywhere(&self) -> bool {
        self.file.is_some() || self.in_tier.is_some()
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
        let failure = match self.read_tier_1(buf, offset) {
            Ok(()) => return Ok(()),
            Err(e) => e,
        };
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

    fn read_tier_1(&self, buf: &mut [u8], offset: u64) -> Result<()> {
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

    fn read_tier_2(&self, buf: &mut [u8], offset: u64) -> bool {
        let (Some(tier), Some(file)) = (self.disk.tier(), &self.in_tier) else { return false };
        tier.fill(file, &self.path, buf, offset).and_then(|()| self.check(buf, offset)).is_ok()
    }

    fn check(&self, buf: &[u8], offset: u64) -> Result<()> {
        let first = offset / BLOCK_BYTES;
        for (block, content) in (first..).zip(buf.chunks(BLOCK_BYTES as usize)) {
            if self.region.crc(block) != Some(checksum::crc(content)) {
                let from = block * BLOCK_BYTES;
                let to = from + content.len() as u64;
                let name = &self.region.name;
                let what = format!("bytes {from} to {to} (region {name:?}) differ from their checksum");
                return Err(Error::corrupt(&self.path, what));
            }
        }
        Ok(())
    }
}
