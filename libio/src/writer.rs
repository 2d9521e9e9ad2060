//! One rank's part of a version that is being written.
//!
//! # Invariants
//! - What `write` returned for lies at the servers: the caller's buffer is not looked at again (`buffers_may_be_reused`).
//! - A rank seals only after all its data is durable, and only if none of its writes failed.
//! - A writer that goes without commit ends the attempt for all ranks (`a_rank_that_dies_leaves_the_older_version`).
//! - All ranks get the same verdict, at the latest when the time-out is over (`a_missing_rank_is_the_same_verdict_for_all`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use fs_proto::checksum;

use crate::attempt::{Attempt, Group};
use crate::copies::Survey;
use crate::error::{Error, Result};
use crate::format::{self, Manifest, REGION_MAX_BYTES, Seal, SealSum};
use crate::options::Options;
use crate::packed::{Base, PackedRegion, Written};
use crate::region::Region;
use crate::spread::{self, Plan};
use crate::state::Pauses;

/// How long a rank waits for the last one to publish a sealed version before it does so itself.
const PUBLISHING: Duration = Duration::from_secs(1);

/// One rank's part of a version. Dropped without [`Writer::commit`] or [`Writer::seal`], it aborts the version for all ranks.
pub struct Writer {
    group: Group,
    attempt: Attempt,
    rank: u32,
    options: Options,
    /// With redundancy: where parts go.
    plan: Option<Plan>,
    /// If incremental: the version whose blocks are used again.
    base: Option<Base>,
    regions: Vec<Written>,
    by_name: BTreeMap<String, usize>,
    /// A write failed, so what is stored is unknown.
    failed: bool,
    /// Sealed or aborted.
    ended: bool,
}

impl Writer {
    pub(crate) fn new(
        group: Group,
        attempt: Attempt,
        rank: u32,
        options: Options,
        plan: Option<Plan>,
        base: Option<Base>,
    ) -> Writer {
        let keys = group.keys.rank(&attempt.full_name(), rank);
        let plan = plan.map(|plan| Plan { keys, ..plan });
        Writer {
            plan,
            base,
            group,
            attempt,
            rank,
            options,
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

    /// Writes `data` at byte `offset` of region `name`, which begins to exist with its first write. A region belongs to the version,
    /// not to a rank: every rank may write its part of it. Bytes that nobody writes are zero; of bytes that several ranks write those of
    /// the highest rank count. `data` may be changed when this returns.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a bad name or range, or a region that [`Writer::route`] gave away, without consequence.
    /// [`Error::FileSystem`]; then the version cannot be committed any more. [`Error::Aborted`] or [`Error::Superseded`] if the attempt
    /// was ended and its data are gone.
    pub fn write(&mut self, name: &str, data: &[u8], offset: u64) -> Result<()> {
        format::check_region_name(name)?;
        if offset.checked_add(data.len() as u64).is_none_or(|end| end > REGION_MAX_BYTES) {
            return Err(Error::Invalid(format!(
                "{} bytes at {offset} of region {name:?}: a region ends at {REGION_MAX_BYTES} at most",
                data.len()
            )));
        }
        if self.by_name.get(name).is_some_and(|index| self.regions[*index].is_routed()) {
            return Err(Error::Invalid(format!("region {name:?} is written by path: it was routed")));
        }
        let written = self.region(name).and_then(|region| region.write(data, offset));
        self.noted(written)
    }

    /// A path for a program that writes region `name` itself: below the mount that [`crate::Checkpoints::with_mount`] names, else in the
    /// file system. The file is there and empty, and is this rank's part of the region. It must be closed before the commit, which reads
    /// it once, for its checksums.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a bad name, or a region that this rank writes to already.
    pub fn route(&mut self, name: &str) -> Result<PathBuf> {
        format::check_region_name(name)?;
        if self.by_name.contains_key(name) {
            return Err(Error::Invalid(format!("region {name:?} is written to by this rank already")));
        }
        let (index, path) = self.next_region();
        let routed = Region::routed(&self.group.disk, name, index, path, self.plan.as_ref());
        let (region, shown) = self.noted(routed)?;
        self.add_region(name, Written::Plain(Box::new(region)));
        Ok(shown)
    }

    /// Takes note of a failure.
    fn noted<T>(&mut self, done: Result<T>) -> Result<T> {
        done.map_err(|e| {
            self.failed = true;
            self.explain(e)
        })
    }

    fn region(&mut self, name: &str) -> Result<&mut Written> {
        if let Some(index) = self.by_name.get(name) {
            return Ok(&mut self.regions[*index]);
        }
        let (index, path) = self.next_region();
        let region = Region::create(&self.group.disk, name, index, path, self.plan.as_ref())?;
        let region = match self.options.packing() {
            None => Written::Plain(Box::new(region)),
            Some(packing) => {
                let blocks = self.base.as_ref().map(|base| base.blocks(self.rank, name)).transpose()?;
                let blocks = blocks.unwrap_or_default();
                Written::Packed(Box::new(PackedRegion::new(name, packing, blocks, region, &self.group)))
            }
        };
        let index = self.add_region(name, region);
        Ok(&mut self.regions[index])
    }

    fn next_region(&self) -> (usize, String) {
        let index = self.regions.len();
        (index, format!("{}/{index}", self.group.rank_dir(&self.attempt, self.rank)))
    }

    fn add_region(&mut self, name: &str, region: Written) -> usize {
        self.regions.push(region);
        self.by_name.insert(name.to_owned(), self.regions.len() - 1);
        self.regions.len() - 1
    }

    /// Commits the version, if all ranks call this with `ok`, and waits for them. All ranks get the same answer: if one of them says no,
    /// fails, or does not come within [`Options::timeout`], the version is aborted for all.
    ///
    /// # Errors
    /// [`Error::Aborted`] if a rank gave up or did not come, [`Error::Superseded`] if another group took over, [`Error::FileSystem`]; after
    /// that [`crate::Checkpoints::state`] tells what became of the version.
    pub fn commit(self, ok: bool) -> Result<()> {
        let timeout = self.options.timeout;
        self.seal(ok)?.wait(timeout)
    }

    /// Seals this rank, without waiting for the others: makes its data durable, records sizes and checksums. The last rank to do so
    /// commits the version. Not `ok` aborts it for all ranks.
    ///
    /// # Errors
    /// As [`Writer::commit`]; the version is then aborted for all ranks, unless the failure came after it was committed.
    pub fn seal(mut self, ok: bool) -> Result<Pending> {
        let rank = self.rank;
        if !ok || self.failed {
            let what = if ok { "failed to write" } else { "voted against it" };
            let reason = format!("rank {rank} {what}");
            self.end(&reason)?;
            return Err(self.group.given_up(&self.attempt, self.group.name.clone(), reason));
        }
        match self.seal_rank().and_then(|()| self.seal_all()) {
            Ok(()) => {
                self.ended = true;
                Ok(Pending { group: self.group.clone(), attempt: self.attempt.clone() })
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
        let disk = &self.group.disk;
        let copies =
            self.plan.as_ref().map(|plan| spread::seal_copies(disk, plan)).transpose()?.unwrap_or_default();
        let seal = Seal { rank: self.rank, regions, copies: copies.into_iter().map(Into::into).collect() };
        let text = format::encode(&seal);
        spread::fill_seal(disk, &seal, &text)?;
        disk.write_new(&self.seal_path(self.rank), &text)
    }

    fn seal_path(&self, rank: u32) -> String {
        format!("{}/seal", self.group.rank_dir(&self.attempt, rank))
    }

    /// As the last rank, commits.
    fn seal_all(&self) -> Result<()> {
        if self.group.is_last(&self.attempt, self.rank)? {
            return self.group.seal(&self.attempt, self.manifest()?);
        }
        self.group.verdict_so_far(&self.attempt).map(drop)
    }

    fn manifest(&self) -> Result<Manifest> {
        let Attempt { version, number, record } = &self.attempt;
        let (version, attempt, id) = (*version, *number, record.id.clone());
        let stores = Survey::take(&self.group.disk, &self.group.keys)?.stores.into_iter().collect();
        let spare = self.plan.as_ref().map_or(0, |plan| plan.servers.len() - plan.data) as u16;
        let mut manifest =
            Manifest { version, attempt, id, bytes: 0, spare, needs: Vec::new(), stores, seals: Vec::new() };
        let mut needs = BTreeSet::new();
        for rank in 0..record.nranks {
            let (sum, bytes, needed) = self.seal_sum(rank)?;
            manifest.bytes += bytes;
            manifest.seals.push(sum);
            needs.extend(needed);
        }
        manifest.needs = needs.into_iter().collect();
        Ok(manifest)
    }

    /// Checks a rank's seal before it is vouched for; answers how much the rank wrote, and the versions whose files it uses, too.
    fn seal_sum(&self, rank: u32) -> Result<(SealSum, u64, Vec<u64>)> {
        let path = self.seal_path(rank);
        let seal = self.group.disk.read_raw(&path)?.ok_or_else(|| Error::corrupt(&path, "it is missing"))?;
        let read: Seal = format::decode(&path, &seal)?;
        if read.rank != rank {
            return Err(Error::corrupt(&path, format!("it is the seal of rank {}", read.rank)));
        }
        let written =
            read.regions.iter().flat_map(|region| &region.extents).map(|(from, to)| to - from).sum();
        let packed = read.regions.iter().filter_map(|region| region.packed.as_ref());
        let sources = packed.flat_map(|packed| &packed.sources);
        let needed =
            sources.filter_map(|source| format::parse_leading_version(source.attempt.as_bytes())).collect();
        Ok((
            SealSum { bytes: seal.len() as u64, crc: checksum::crc(&seal), copies: read.copies },
            written,
            needed,
        ))
    }

    /// What fails because the attempt's files were removed failed because the attempt was given up.
    fn explain(&self, e: Error) -> Error {
        match self.group.verdict_so_far(&self.attempt) {
            Err(given_up @ (Error::Aborted { .. } | Error::Superseded { .. })) => given_up,
            Ok(_) | Err(_) => e,
        }
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

/// A version whose rank has sealed: what is left is to hear how it ended.
pub struct Pending {
    group: Group,
    attempt: Attempt,
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pending({:?}, version {})", self.group.set, self.attempt.version)
    }
}

impl Pending {
    /// Whether the version is committed by now.
    ///
    /// # Errors
    /// [`Error::Aborted`], [`Error::Superseded`], [`Error::FileSystem`].
    pub fn test(&self) -> Result<bool> {
        let Some(manifest) = self.group.verdict_so_far(&self.attempt)? else { return Ok(false) };
        self.group.is_published(&self.attempt, &manifest)
    }

    /// Waits until the version is committed. When the time-out is over and a rank is missing, it is aborted for all.
    ///
    /// # Errors
    /// As [`Pending::test`].
    pub fn wait(&self, timeout: Duration) -> Result<()> {
        let mut pauses = Pauses::until(timeout);
        let manifest = loop {
            if let Some(manifest) = self.group.verdict_so_far(&self.attempt)? {
                break manifest;
            }
            if !pauses.sleep() {
                // If the last rank seals at this moment, its verdict holds.
                let reason = format!(
                    "not all {} ranks had sealed after {} s",
                    self.attempt.record.nranks,
                    timeout.as_secs()
                );
                self.group.abort(&self.attempt, &reason)?;
            }
        };
        let mut pauses = Pauses::until(PUBLISHING);
        while !self.group.is_published(&self.attempt, &manifest)? {
            if !pauses.sleep() {
                // Whoever sealed it died; anybody may finish.
                return self.group.finish_sealed(&self.attempt, &manifest);
            }
        }
        Ok(())
    }
}
