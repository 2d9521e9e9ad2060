//! A committed version, read by anybody.
//!
//! # Invariants
//! - No byte is handed out that was not checked: data against its block's checksum, that against the seal's, that against the
//!   manifest's (`damaged_data_are_found`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use fs_client::{File, Status};
use fs_proto::checksum;

use crate::attempt::Group;
use crate::checkpoints;
use crate::error::{Error, Result};
use crate::format::{self, BLOCK_BYTES, Manifest, Seal, SealedRegion};
use crate::sums::block_bytes;

/// Bytes read at once by [`Snapshot::verify`].
const VERIFY_BYTES: usize = 8 << 20;

/// One region of a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionInfo {
    /// The rank that wrote it.
    pub rank: u32,
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
}

/// A committed version. Usable from every thread; remembers the seals of the ranks that it read from.
pub struct Snapshot {
    group: Group,
    manifest: Manifest,
    seals: Mutex<HashMap<u32, Arc<Seal>>>,
}

impl Snapshot {
    pub(crate) fn new(group: Group, manifest: Manifest) -> Snapshot {
        Snapshot { group, manifest, seals: Mutex::default() }
    }

    /// The version.
    pub fn version(&self) -> u64 {
        self.manifest.version
    }

    /// How many ranks wrote it. Any number may read it.
    pub fn nranks(&self) -> u32 {
        self.manifest.seals.len() as u32
    }

    /// The regions of all ranks, by rank and in the order of their first writes.
    pub fn regions(&self) -> Result<Vec<RegionInfo>> {
        let mut regions = Vec::new();
        for rank in 0..self.nranks() {
            let seal = self.seal(rank)?;
            let of_rank =
                seal.regions.iter().map(|r| RegionInfo { rank, name: r.name.clone(), bytes: r.bytes });
            regions.extend(of_rank);
        }
        Ok(regions)
    }

    /// Reads from region `name` of `rank`; answers how many bytes, fewer than asked for only at the region's end. Blocks of 1 MiB
    /// are checked whole, so aligned reads cost least.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if what is stored is not what was written, [`Error::NotFound`].
    pub fn read(&self, rank: u32, name: &str, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let seal = self.seal(rank)?;
        let index = seal.regions.iter().position(|region| region.name == name);
        let index = index.ok_or_else(|| self.not_found(format!("region {name:?} of rank {rank}")))?;
        self.open_region(rank, index, &seal.regions[index])?.read(offset, buf)
    }

    /// Reads and checks every byte of the version.
    pub fn verify(&self) -> Result<()> {
        let mut buf = vec![0; VERIFY_BYTES];
        for rank in 0..self.nranks() {
            let seal = self.seal(rank)?;
            for (index, region) in seal.regions.iter().enumerate() {
                let stored = self.open_region(rank, index, region)?;
                let mut offset = 0;
                while offset < region.bytes {
                    offset += stored.read(offset, &mut buf)? as u64;
                }
            }
        }
        Ok(())
    }

    fn rank_dir(&self, rank: u32) -> String {
        let Manifest { version, attempt, id, .. } = &self.manifest;
        let data = &self.group.paths.data;
        format!("{data}/{}/r{rank}", format::attempt_full_name(*version, *attempt, id))
    }

    fn not_found(&self, what: String) -> Error {
        let what = format!("{what} (version {})", self.manifest.version);
        Error::NotFound { set: self.group.set.clone(), what }
    }

    /// A file that must be there is not: the version was pruned, or is damaged.
    fn missing(&self, path: &str) -> Error {
        match checkpoints::manifest(&self.group, self.manifest.version) {
            Ok(Some(manifest)) if manifest == self.manifest => Error::corrupt(path, "it is missing"),
            Ok(_) => self.not_found("the whole".to_owned()),
            Err(e) => e,
        }
    }

    fn seal(&self, rank: u32) -> Result<Arc<Seal>> {
        // A map of finished values: no panic can leave it half changed.
        let known = self.seals.lock().unwrap_or_else(PoisonError::into_inner).get(&rank).cloned();
        if let Some(seal) = known {
            return Ok(seal);
        }
        let seal = Arc::new(self.load_seal(rank)?);
        self.seals.lock().unwrap_or_else(PoisonError::into_inner).insert(rank, seal.clone());
        Ok(seal)
    }

    fn load_seal(&self, rank: u32) -> Result<Seal> {
        let sum =
            self.manifest.seals.get(rank as usize).ok_or_else(|| self.not_found(format!("rank {rank}")))?;
        let path = format!("{}/seal", self.rank_dir(rank));
        let text = self.group.disk.read_raw(&path).map_err(|e| damage(e, &path))?;
        let text = text.ok_or_else(|| self.missing(&path))?;
        if text.len() as u64 != sum.bytes || checksum::crc(&text) != sum.crc {
            return Err(Error::corrupt(&path, "it differs from its checksum in the manifest"));
        }
        format::decode(&path, &text)
    }

    fn open_region<'a>(&self, rank: u32, index: usize, region: &'a SealedRegion) -> Result<Stored<'a>> {
        let path = format!("{}/{index}", self.rank_dir(rank));
        match self.group.disk.open(&path)? {
            Some(file) => Ok(Stored { file, path, region }),
            None => Err(self.missing(&path)),
        }
    }
}

/// A region's file and what must be in it.
struct Stored<'a> {
    file: File,
    path: String,
    region: &'a SealedRegion,
}

impl Stored<'_> {
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let wanted = (buf.len() as u64).min(self.region.bytes.saturating_sub(offset)) as usize;
        let mut scratch = Vec::new();
        let mut done = 0;
        while done < wanted {
            let (at, left) = (offset + done as u64, &mut buf[done..wanted]);
            let whole = self.whole_blocks(at, left.len());
            if whole > 0 {
                self.read_checked(&mut left[..whole], at)?;
                done += whole;
                continue;
            }
            let start = at - at % BLOCK_BYTES;
            scratch.resize(block_bytes(self.region.bytes, start) as usize, 0);
            self.read_checked(&mut scratch, start)?;
            let part = &scratch[(at - start) as usize..];
            let some = part.len().min(left.len());
            left[..some].copy_from_slice(&part[..some]);
            done += some;
        }
        Ok(wanted)
    }

    /// How many of `bytes` at `offset` are whole blocks, the region's last one included.
    fn whole_blocks(&self, offset: u64, bytes: usize) -> usize {
        if !offset.is_multiple_of(BLOCK_BYTES) {
            return 0;
        }
        if offset + bytes as u64 == self.region.bytes {
            return bytes;
        }
        bytes - bytes % BLOCK_BYTES as usize
    }

    /// Fills `buf`, whole blocks, from `offset`, where a block begins.
    fn read_checked(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let read = self.file.read_at(buf, offset).map_err(|e| damage(e.into(), &self.path))?;
        if read < buf.len() {
            let (at, size) = (offset + read as u64, self.region.bytes);
            return Err(Error::corrupt(&self.path, format!("it ends at byte {at} instead of {size}")));
        }
        let first = (offset / BLOCK_BYTES) as usize;
        for (index, block) in buf.chunks(BLOCK_BYTES as usize).enumerate() {
            if self.region.crcs.get(first + index) != Some(&checksum::crc(block)) {
                let from = offset + index as u64 * BLOCK_BYTES;
                let to = from + block.len() as u64;
                let what = format!(
                    "bytes {from} to {to} (region {:?}) differ from their checksum",
                    self.region.name
                );
                return Err(Error::corrupt(&self.path, what));
            }
        }
        Ok(())
    }
}

/// Damage that the file system found itself is damage here too.
fn damage(e: Error, path: &str) -> Error {
    match &e {
        Error::FileSystem(inner)
            if inner.code() == Some(Status::Corrupt) || matches!(inner, fs_client::Error::Corrupt { .. }) =>
        {
            Error::corrupt(path, inner.to_string())
        }
        _ => e,
    }
}
