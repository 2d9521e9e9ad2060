//! One rank's part of a version that is being written.
//!
//! # Invariants
//! - What `write` returned for lies at the servers: the caller's buffer is not looked at again (`buffers_may_be_reused`).
//! - A version is sealed only if every server has the store that it had when each rank began (`a_store_lost_before_the_last_rank_seals_ends_the_version`).
//! - Copies of stripes in memory are a few, however many regions there are (`stripes_of_many_regions_are_few`).
//! - A rank seals only after all its data is durable, and only if none of its writes failed.
//! - A writer that goes without commit ends the attempt for all ranks (`a_rank_that_dies_leaves_the_older_version`).
//! - All ranks get the same verdict, at the latest when the time-out is over (`a_missing_rank_is_the_same_verdict_for_all`).

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::attempt::{Attempt, Group};
use crate::copies::{self, Stores};
use crate::error::{Error, Result};
use crate::format::{self, REGION_MAX_BYTES, Seal};
use crate::options::Options;
use crate::packed::{Base, PackedRegion, Written};
use crate::region::Region;
use crate::register::is_silence;
use crate::spread::{self, Plan};
use crate::state::{PUBLISHING, Pauses};
use crate::stripes::OPEN_MAX;

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
    /// As they were before anything was written.
    stores: Stores,
    regions: Vec<Written>,
    by_name: BTreeMap<String, usize>,
    /// Regions with copies of stripes in memory, the one that was written to last at the end.
    recent: Vec<usize>,
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
        stores: Stores,
    ) -> Writer {
        let keys = group.keys.rank(&attempt.full_name(), rank);
        let plan = plan.map(|plan| Plan { keys, ..plan });
        Writer {
            plan,
            base,
            stores,
            group,
            attempt,
            rank,
            options,
            regions: Vec::new(),
            by_name: BTreeMap::new(),
            recent: Vec::new(),
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
        let written = self.region(name).and_then(|index| {
            self.regions[index].write(data, offset)?;
            self.bound_stripes(index)
        });
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

    /// Lets go of copies of stripes until no more are in memory than one region may have: of the region first that was not written to for longest.
    fn bound_stripes(&mut self, written: usize) -> Result<()> {
        self.recent.retain(|index| *index != written);
        self.recent.push(written);
        loop {
            self.recent.retain(|index| self.regions[*index].file().open_stripes() > 0);
            let open = self.recent.iter().map(|index| self.regions[*index].file().open_stripes());
            let (open, oldest) = (open.sum::<usize>(), self.recent.first().copied());
            let Some(oldest) = oldest.filter(|_| open > OPEN_MAX) else { return Ok(()) };
            self.regions[oldest].file_mut().close_stripe()?;
        }
    }

    /// The number of a region, which is made if it is new.
    fn region(&mut self, name: &str) -> Result<usize> {
        if let Some(index) = self.by_name.get(name) {
            return Ok(*index);
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
        Ok(self.add_region(name, region))
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
            // All ranks hear the first verdict, this one too.
            self.group.verdict_so_far(&self.attempt)?;
            return Err(self.group.given_up(&self.attempt, self.group.name.clone(), reason));
        }
        match self.seal_rank().and_then(|()| self.seal_all()) {
            Ok(()) => {
                self.ended = true;
                Ok(Pending {
                    group: self.group.clone(),
                    attempt: self.attempt.clone(),
                    sealed: OnceLock::new(),
                })
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
        let copies = copies.into_iter().map(Into::into).collect();
        let seal =
            Seal { rank: self.rank, regions, stores: self.stores.clone(), apart: self.is_apart(), copies };
        let text = format::encode(&seal);
        spread::fill_seal(disk, &seal, &text)?;
        disk.write_new(&self.group.seal_path(&self.attempt, self.rank), &text)
    }

    /// Whether no two parts of anything are at one host, those that an earlier version has included.
    fn is_apart(&self) -> bool {
        let client = self.group.disk.client();
        self.plan.as_ref().is_some_and(|plan| copies::are_apart(client, &plan.servers))
            && self.base.as_ref().is_none_or(Base::is_apart)
    }

    /// As the last rank, commits.
    fn seal_all(&self) -> Result<()> {
        if self.group.is_last(&self.attempt, self.rank)? {
            return self.group.seal(&self.attempt, &self.group.manifest_of(&self.attempt)?);
        }
        self.group.verdict_so_far(&self.attempt).map(drop)
    }

    /// What fails because the attempt's files were removed failed because the attempt was given up. After a server was waited for in vain only giving up is left,
    /// and no server is waited for as long again.
    fn explain(&mut self, e: Error) -> Error {
        if is_silence(&e) {
            self.group.disk = self.group.disk.hasty();
        }
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
    /// When the version was first seen sealed and not published.
    sealed: OnceLock<Instant>,
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pending({:?}, version {})", self.group.set, self.attempt.version)
    }
}

impl Pending {
    /// Whether the version is committed by now. One that is sealed for a second is published by this call: the rank that should have died.
    ///
    /// # Errors
    /// [`Error::Aborted`], [`Error::Superseded`], [`Error::FileSystem`].
    pub fn test(&self) -> Result<bool> {
        let Some(sealed) = self.group.verdict_so_far(&self.attempt)? else { return Ok(false) };
        if self.group.is_published(&self.attempt)? {
            return Ok(true);
        }
        if self.sealed.get_or_init(Instant::now).elapsed() < PUBLISHING {
            return Ok(false);
        }
        self.group.finish_sealed(&self.attempt, &sealed).map(|()| true)
    }

    /// Waits until the version is committed. When the time-out is over and a rank is missing, it is aborted for all; if all have sealed, and the last one died
    /// before it said so, it is committed by this call.
    ///
    /// # Errors
    /// As [`Pending::test`].
    pub fn wait(&self, timeout: Duration) -> Result<()> {
        let mut pauses = Pauses::until(timeout);
        let sealed = loop {
            if let Some(sealed) = self.group.verdict_so_far(&self.attempt)? {
                break sealed;
            }
            if !pauses.sleep() {
                // If the last rank seals at this moment, the first verdict holds.
                let reason = format!(
                    "not all {} ranks had sealed after {} s",
                    self.attempt.record.nranks,
                    timeout.as_secs()
                );
                self.group.complete_or_abort(&self.attempt, &reason)?;
            }
        };
        let mut pauses = Pauses::until(PUBLISHING);
        while !self.group.is_published(&self.attempt)? {
            if !pauses.sleep() {
                // Whoever sealed it died; anybody may finish.
                return self.group.finish_sealed(&self.attempt, &sealed);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    //! Goal: what the module promises of memory. Method: a real cluster, and a look at the regions.
    use hayate_tests::Cluster;

    use super::*;
    use crate::{Checkpoints, Redundancy};

    /// The beginnings of many regions, twice, and then their ends: by then each copy was let go of, and is read back.
    #[test]
    fn stripes_of_many_regions_are_few() {
        let cluster = Cluster::start(3);
        let checkpoints = Checkpoints::open(cluster.client(), "/ckpt").unwrap();
        let options = Options { redundancy: Redundancy::Parity { data: 2, extra: 1 }, ..Options::default() };
        let mut writer = checkpoints.begin_with("set", 1, 0, 1, &options).unwrap();
        for (at, byte) in [(0, 1), (5, 2), (2_000_000, 3)] {
            for region in 0..3 * OPEN_MAX {
                writer.write(&format!("r{region}"), &[byte + region as u8; 10], at).unwrap();
                let open: usize = writer.regions.iter().map(|region| region.file().open_stripes()).sum();
                assert!(open <= OPEN_MAX, "{open} copies");
            }
        }
        writer.commit(true).unwrap();
        let snapshot = checkpoints.snapshot("set", 1).unwrap();
        snapshot.verify().unwrap();
        for region in 0..3 * OPEN_MAX {
            let mut found = [0; 15];
            snapshot.read(&format!("r{region}"), 0, &mut found).unwrap();
            let byte = region as u8;
            assert_eq!(found, [[1 + byte; 5], [2 + byte; 5], [2 + byte; 5]].as_flattened());
        }
    }
}
