//! One rank's part of a version that is being written.
//!
//! # Invariants
//! - What `write` returned for lies at the servers: the caller's buffer is not looked at again (`buffers_may_be_reused`).
//! - A rank seals only after all its data is durable, and only if none of its writes failed.
//! - A writer that goes without commit ends the attempt for all ranks (`a_rank_that_dies_leaves_the_older_version`).

use std::collections::BTreeMap;

use fs_client::File;
use fs_proto::checksum;

use crate::attempt::{Attempt, Group};
use crate::error::{Error, Result};
use crate::format::{self, Manifest, REGION_MAX_BYTES, Seal, SealSum, SealedRegion, Verdict};
use crate::sums::RegionSums;

/// One rank's part of a version. Dropped without [`Writer::commit`], it aborts the version for all ranks.
pub struct Writer {
    group: Group,
    attempt: Attempt,
    rank: u32,
    regions: Vec<Region>,
    by_name: BTreeMap<String, usize>,
    /// A write failed, so what is stored is unknown.
    failed: bool,
    /// Committed or aborted.
    ended: bool,
}

struct Region {
    name: String,
    file: File,
    sums: RegionSums,
}

impl Writer {
    pub(crate) fn new(group: Group, attempt: Attempt, rank: u32) -> Writer {
        Writer {
            group,
            attempt,
            rank,
            regions: Vec::new(),
            by_name: BTreeMap::new(),
            failed: false,
            ended: false,
        }
    }

    /// The version being written.
    pub fn version(&self) -> u64 {
        self.attempt.version
    }

    /// Writes `data` at byte `offset` of the rank's region `name`, which begins to exist with its first write. Bytes never written
    /// are zero. `data` may be changed when this returns.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a bad name or range, without consequence. [`Error::FileSystem`]; then the version cannot be committed
    /// any more. [`Error::Aborted`] or [`Error::Superseded`] if the attempt was ended and its data are gone.
    pub fn write(&mut self, name: &str, data: &[u8], offset: u64) -> Result<()> {
        format::check_region_name(name)?;
        if offset.checked_add(data.len() as u64).is_none_or(|end| end > REGION_MAX_BYTES) {
            return Err(Error::Invalid(format!(
                "{} bytes at {offset} of region {name:?}: a region ends at {REGION_MAX_BYTES} at most",
                data.len()
            )));
        }
        let written =
            self.region(name).and_then(|region| Ok(region.file.write_at(data, offset).map(|()| region)?));
        match written {
            Ok(region) => {
                region.sums.note(data, offset);
                Ok(())
            }
            Err(e) => {
                self.failed = true;
                Err(self.explain(e))
            }
        }
    }

    fn region(&mut self, name: &str) -> Result<&mut Region> {
        let index = match self.by_name.get(name) {
            Some(index) => *index,
            None => self.add_region(name)?,
        };
        Ok(&mut self.regions[index])
    }

    fn add_region(&mut self, name: &str) -> Result<usize> {
        let index = self.regions.len();
        let dir = self.group.rank_dir(&self.attempt, self.rank);
        let file = self.group.disk.create(&format!("{dir}/{index}"))?;
        self.regions.push(Region { name: name.to_owned(), file, sums: RegionSums::default() });
        self.by_name.insert(name.to_owned(), index);
        Ok(index)
    }

    /// Seals this rank: makes its data durable, records sizes and checksums. The last rank to do so commits the version. Does not
    /// wait for the other ranks: see [`crate::Checkpoints::wait`].
    ///
    /// # Errors
    /// [`Error::Aborted`] if a rank gave up, [`Error::Superseded`] if another group took over, [`Error::FileSystem`]. The version is
    /// then aborted for all ranks, unless the failure came after it was committed.
    pub fn commit(mut self) -> Result<()> {
        if self.failed {
            let reason = format!("a write of rank {} failed", self.rank);
            self.end(&reason)?;
            return Err(Error::Aborted {
                set: self.group.set.clone(),
                version: self.attempt.version,
                reason,
            });
        }
        match self.seal_rank().and_then(|()| self.seal_all()) {
            Ok(()) => {
                self.ended = true;
                Ok(())
            }
            Err(e) => Err(self.explain(e)), // Dropping aborts.
        }
    }

    /// Gives the version up, for all ranks.
    pub fn abort(mut self) -> Result<()> {
        let reason = format!("rank {} aborted it", self.rank);
        self.end(&reason)
    }

    fn end(&mut self, reason: &str) -> Result<()> {
        self.ended = true;
        self.group.abort(&self.attempt, reason)
    }

    /// Makes the rank's data and its seal durable.
    fn seal_rank(&mut self) -> Result<()> {
        let mut regions = Vec::with_capacity(self.regions.len());
        for region in self.regions.drain(..) {
            regions.push(region.seal()?);
        }
        let seal = format::encode(&Seal { rank: self.rank, regions });
        let file = self.group.disk.create(&self.seal_path(self.rank))?;
        file.write_at(&seal, 0)?;
        file.sync()?;
        Ok(file.close()?)
    }

    fn seal_path(&self, rank: u32) -> String {
        format!("{}/seal", self.group.rank_dir(&self.attempt, rank))
    }

    /// As the last rank, commits.
    fn seal_all(&self) -> Result<()> {
        if self.group.is_last(&self.attempt, self.rank)? {
            return self.group.seal(&self.attempt, self.manifest()?);
        }
        self.verdict_so_far()
    }

    fn manifest(&self) -> Result<Manifest> {
        let seals = (0..self.attempt.record.nranks).map(|rank| self.seal_sum(rank)).collect::<Result<_>>()?;
        let Attempt { version, number, record } = &self.attempt;
        Ok(Manifest { version: *version, attempt: *number, id: record.id.clone(), seals })
    }

    /// Checks a rank's seal before it is vouched for.
    fn seal_sum(&self, rank: u32) -> Result<SealSum> {
        let path = self.seal_path(rank);
        let seal = self.group.disk.read_raw(&path)?.ok_or_else(|| Error::corrupt(&path, "it is missing"))?;
        let read: Seal = format::decode(&path, &seal)?;
        if read.rank != rank {
            return Err(Error::corrupt(&path, format!("it is the seal of rank {}", read.rank)));
        }
        Ok(SealSum { bytes: seal.len() as u64, crc: checksum::crc(&seal) })
    }

    /// An error if the attempt has been given up.
    fn verdict_so_far(&self) -> Result<()> {
        match self.group.verdict(&self.attempt)? {
            Some(Verdict::Aborted { group, reason }) => {
                Err(self.group.given_up(&self.attempt, group, reason))
            }
            Some(Verdict::Sealed(_)) | None => Ok(()),
        }
    }

    /// What fails because the attempt's files were removed failed because the attempt was given up.
    fn explain(&self, e: Error) -> Error {
        match self.verdict_so_far() {
            Err(given_up @ (Error::Aborted { .. } | Error::Superseded { .. })) => given_up,
            Ok(()) | Err(_) => e,
        }
    }
}

impl Region {
    /// Makes the region durable and answers what is in it.
    fn seal(self) -> Result<SealedRegion> {
        let Region { name, file, sums } = self;
        let crcs = sums.finish(|buf, offset| match file.read_at(buf, offset) {
            Ok(read) if read == buf.len() => Ok(()),
            Ok(read) => {
                Err(Error::corrupt(&name, format!("{read} of {} bytes at {offset} are there", buf.len())))
            }
            Err(e) => Err(e.into()),
        })?;
        file.sync()?;
        file.close()?;
        Ok(SealedRegion { name, bytes: sums.bytes(), crcs })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let reason = format!("rank {} went without a commit", self.rank);
        if let Err(e) = self.end(&reason) {
            // Invisible it is in any case; only the other ranks are not told.
            let (set, version) = (&self.group.set, self.attempt.version);
            tracing::warn!(set, version, error = %e, "the end of an unfinished checkpoint could not be recorded");
        }
    }
}
