//! How the ranks of a group meet, who is the last to seal, and who decides.
//!
//! All of it is done with names that only one can make; no rank waits for another, and no clock is asked.
//!
//! - *Meeting*: attempts at a version are numbered. A rank joins the newest one of its own group, or opens the next. A rank that finds
//!   its own claim there has died or given up since: it ends that attempt and opens the next. A rank that finds the newest one of its group
//!   given up without having been there hears that first: every rank takes part in every attempt.
//! - *Two groups*: a group's first rank ends whatever another group has open; what comes later of that group is refused. What all ranks of the other have sealed it completes
//!   (`completion`).
//! - *The last*: the ranks are leaves of a binary tree. Whoever comes first to a node stops there, whoever comes second knows that both
//!   halves have sealed and goes on; the one who passes the root is the last. About two messages per rank, rather than
//!   a listing of all ranks by each.
//! - *Deciding*: the last rank writes the verdict "sealed", whoever gives up "aborted"; the first verdict holds.
//!
//! # Invariants
//! - An attempt opens only after all earlier ones of its version are aborted, or sealed and pruned; so at most one is ever published
//!   (`two_groups_on_one_version`).
//! - Exactly one rank passes the root of a tree (`one_rank_passes_the_root`).

use crate::copies::{self, Keys, Survey};
use crate::error::{Error, Result};
use crate::format::{self, GroupRecord, Manifest, Pruned, Sealed, SetPaths, Verdict};
use crate::options::Options;
use crate::register::{Disk, Moved, Placed, unique_id};
use crate::state::{PUBLISHING, Pauses};

/// How often joining is tried again because others opened or ended attempts meanwhile.
const ROUNDS: usize = 1000;

/// One set of one file system, seen by one group.
#[derive(Clone)]
pub(crate) struct Group {
    pub disk: Disk,
    pub set: String,
    pub paths: SetPaths,
    pub keys: Keys,
    pub name: String,
}

/// An attempt at a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attempt {
    pub version: u64,
    pub number: u32,
    pub record: GroupRecord,
}

impl Attempt {
    pub fn full_name(&self) -> String {
        format::attempt_full_name(self.version, self.number, &self.record.id)
    }

    pub fn verdict_name(&self) -> String {
        format!("{}.verdict", self.full_name())
    }

    pub fn pruned_name(&self) -> String {
        format::pruned_name(&self.full_name())
    }

    /// Of the manifest before it is published.
    pub fn draft_name(&self) -> String {
        format!("{}.manifest", self.full_name())
    }
}

impl Group {
    /// The same, which does not wait long for servers that do not answer.
    pub fn hasty(&self) -> Group {
        Group { disk: self.disk.hasty(), ..self.clone() }
    }

    pub fn data_dir(&self, attempt: &Attempt) -> String {
        self.paths.attempt_data(&attempt.full_name())
    }

    pub fn rank_dir(&self, attempt: &Attempt, rank: u32) -> String {
        format!("{}/r{rank}", self.data_dir(attempt))
    }

    pub fn seal_path(&self, attempt: &Attempt, rank: u32) -> String {
        format!("{}/seal", self.rank_dir(attempt, rank))
    }

    /// The manifest before it is published.
    pub fn draft_path(&self, attempt: &Attempt) -> String {
        format!("{}/{}", self.paths.attempts, attempt.draft_name())
    }

    /// The attempt at `version` that `rank` takes part in from now on.
    pub fn join(&self, version: u64, rank: u32, nranks: u32, options: &Options) -> Result<Attempt> {
        self.make_dirs()?;
        for _ in 0..ROUNDS {
            if self.is_committed(version)? {
                return Err(Error::VersionExists { set: self.set.clone(), version });
            }
            let attempts = self.attempts_at(version)?;
            let Some(newest) = attempts.last() else {
                self.open(version, 1, nranks)?;
                continue;
            };
            match self.verdict(newest)? {
                None if newest.record.group == self.name => {
                    if self.claim(newest, rank, nranks, options)? {
                        return Ok(newest.clone());
                    }
                    self.complete_or_abort(newest, &format!("rank {rank} began again"))?;
                }
                None => {
                    self.refuse_superseded(&attempts)?;
                    self.complete_or_abort(newest, "another group began this version")?;
                }
                Some(Verdict::Aborted { group, reason }) => {
                    self.refuse_superseded(&attempts)?;
                    let ours = newest.record.group == self.name && newest.record.nranks == nranks;
                    if ours && self.claim(newest, rank, nranks, options)? {
                        return Err(self.given_up(newest, group, reason));
                    }
                    self.open(version, newest.number + 1, nranks)?;
                }
                Some(Verdict::Sealed(sealed)) => {
                    if !self.publish(newest, &sealed)? {
                        self.open(version, newest.number + 1, nranks)?; // It was removed.
                    }
                }
            }
        }
        let by = "several that keep taking it from one another".to_owned();
        Err(Error::Superseded { set: self.set.clone(), version, by })
    }

    fn make_dirs(&self) -> Result<()> {
        let SetPaths { versions, attempts, data } = &self.paths;
        [versions, attempts, data].into_iter().try_for_each(|dir| self.disk.make_dirs(dir))
    }

    /// Also if a cluster before this one committed it: the shared tier has it under the same name.
    fn is_committed(&self, version: u64) -> Result<bool> {
        let path = self.paths.manifest(version);
        let in_tier = || self.disk.tier().is_some_and(|tier| tier.size(&path).is_some());
        Ok(self.disk.open(&path)?.is_some() || in_tier())
    }

    /// The attempts at a version, oldest first.
    pub fn attempts_at(&self, version: u64) -> Result<Vec<Attempt>> {
        let mut attempts = self.attempts()?;
        attempts.retain(|(of, _)| *of == version);
        let read = attempts.into_iter().filter_map(|(_, number)| self.attempt(version, number).transpose());
        read.collect()
    }

    /// Versions and numbers of all attempts, ascending.
    pub fn attempts(&self) -> Result<Vec<(u64, u32)>> {
        let entries = self.disk.list(&self.paths.attempts)?;
        let mut attempts: Vec<_> =
            entries.iter().filter_map(|entry| format::parse_attempt(&entry.name)).collect();
        attempts.sort_unstable();
        Ok(attempts)
    }

    pub fn attempt(&self, version: u64, number: u32) -> Result<Option<Attempt>> {
        let path = format!("{}/{}", self.paths.attempts, format::attempt_name(version, number));
        let record = self.disk.read(&path)?;
        Ok(record.map(|record| Attempt { version, number, record }))
    }

    pub fn verdict(&self, attempt: &Attempt) -> Result<Option<Verdict>> {
        self.disk.read(&format!("{}/{}", self.paths.attempts, attempt.verdict_name()))
    }

    /// Opens an attempt, unless somebody else did.
    fn open(&self, version: u64, number: u32, nranks: u32) -> Result<()> {
        let record = GroupRecord { group: self.name.clone(), nranks, id: unique_id() };
        self.disk.place(&self.paths.attempts, &format::attempt_name(version, number), &record)?;
        Ok(())
    }

    /// Takes the rank's place; answers whether it was free.
    fn claim(&self, attempt: &Attempt, rank: u32, nranks: u32, options: &Options) -> Result<bool> {
        self.disk.claim_dir(&self.data_dir(attempt))?;
        let free = self.disk.claim_dir(&self.rank_dir(attempt, rank))?;
        let theirs = attempt.record.nranks;
        if theirs != nranks {
            // Nobody knows who is right, so nobody waits for ranks that may not exist.
            self.abort(attempt, &format!("rank {rank} says that there are {nranks} ranks, not {theirs}"))?;
            let (set, version) = (self.set.clone(), attempt.version);
            return Err(Error::RanksDiffer { set, version, theirs, ours: nranks });
        }
        if free && let Err(e) = self.furnish(&self.rank_dir(attempt, rank), options) {
            // The place is taken and nobody is in it: the others need not wait.
            if let Err(untold) = self.hasty().abort(attempt, &format!("rank {rank} could not begin")) {
                tracing::warn!(set = self.set, version = attempt.version, error = %untold, "the other ranks are not told");
            }
            return Err(e);
        }
        Ok(free)
    }

    /// Says how what is in a rank's directory is kept.
    fn furnish(&self, dir: &str, options: &Options) -> Result<()> {
        if let Some(policy) = &options.flush {
            self.disk.set_policy(dir, policy)?;
        }
        if options.redundancy.parts().is_some() {
            self.disk.stay_in_place(dir)?;
        }
        Ok(())
    }

    pub fn no_version(&self, version: u64) -> Error {
        Error::NotFound { set: self.set.clone(), what: format!("version {version}") }
    }

    /// A group that had an attempt before another group's is over with this version.
    fn refuse_superseded(&self, attempts: &[Attempt]) -> Result<()> {
        let Some(other) = attempts.iter().rposition(|attempt| attempt.record.group != self.name) else {
            return Ok(());
        };
        if attempts[..other].iter().all(|attempt| attempt.record.group != self.name) {
            return Ok(());
        }
        let by = attempts[other].record.group.clone();
        Err(Error::Superseded { set: self.set.clone(), version: attempts[other].version, by })
    }

    /// Ends an attempt, unless it ended already.
    pub fn abort(&self, attempt: &Attempt, reason: &str) -> Result<()> {
        let verdict = Verdict::Aborted { group: self.name.clone(), reason: reason.to_owned() };
        self.disk.place(&self.paths.attempts, &attempt.verdict_name(), &verdict)?;
        Ok(())
    }

    /// Ends an attempt well, unless it ended already, and makes it visible.
    pub fn seal(&self, attempt: &Attempt, manifest: &Manifest) -> Result<()> {
        let (sealed, name) = (self.draft(attempt, manifest)?.sealed(), attempt.verdict_name());
        match self.disk.place(&self.paths.attempts, &name, &Verdict::Sealed(sealed.clone()))? {
            Placed::Lost(Verdict::Aborted { group, reason }) => Err(self.given_up(attempt, group, reason)),
            Placed::Won | Placed::Lost(Verdict::Sealed(_)) => self.finish_sealed(attempt, &sealed),
        }
    }

    /// Makes a sealed attempt visible.
    pub fn finish_sealed(&self, attempt: &Attempt, sealed: &Sealed) -> Result<()> {
        if self.publish(attempt, sealed)? {
            return Ok(());
        }
        let reason = "its files were removed, or lost, meanwhile".to_owned();
        Err(Error::Aborted { set: self.set.clone(), version: attempt.version, reason })
    }

    /// What an attempt came to: sealed, or nothing yet.
    ///
    /// # Errors
    /// [`Error::Aborted`], [`Error::Superseded`].
    pub fn verdict_so_far(&self, attempt: &Attempt) -> Result<Option<Sealed>> {
        match self.verdict(attempt)? {
            Some(Verdict::Aborted { group, reason }) => Err(self.given_up(attempt, group, reason)),
            Some(Verdict::Sealed(sealed)) => Ok(Some(sealed)),
            None => Ok(None),
        }
    }

    /// Whether this attempt's manifest is the visible one. All ranks ask, so they read its beginning only.
    pub fn is_published(&self, attempt: &Attempt) -> Result<bool> {
        let (path, id) = (self.paths.manifest(attempt.version), &attempt.record.id);
        let head = self.disk.read_head(&path, format::HEAD_BYTES)?;
        let Some(head) = head else { return Ok(false) };
        if format::begins_manifest(&head, attempt.version, attempt.number, id) {
            return Ok(true);
        }
        match self.disk.read::<Manifest>(&path)? {
            Some(there) if there.id == *id => Ok(true),
            Some(_) => Err(Error::VersionExists { set: self.set.clone(), version: attempt.version }),
            None => Ok(false),
        }
    }

    /// Whether a restart from this version failed.
    pub fn has_failed(&self, manifest: &Manifest) -> Result<bool> {
        // The tier first, as a server that is away hides only what tier 1 has.
        Ok(self.has_failed_in_tier(manifest) || self.has_failed_here(manifest)?)
    }

    /// Whether the shared tier has the mark of that: another cluster's, maybe.
    pub fn has_failed_in_tier(&self, manifest: &Manifest) -> bool {
        let path = self.failed_path(manifest);
        self.disk.tier().is_some_and(|tier| tier.size(&path).is_some())
    }

    /// Whether tier 1 has it.
    pub fn has_failed_here(&self, manifest: &Manifest) -> Result<bool> {
        Ok(self.disk.open(&self.failed_path(manifest))?.is_some())
    }

    fn failed_path(&self, manifest: &Manifest) -> String {
        format!("{}/{}", self.paths.versions, format::failed_name(manifest.version, &manifest.id))
    }

    /// The error of a rank whose attempt was aborted.
    pub fn given_up(&self, attempt: &Attempt, group: String, reason: String) -> Error {
        let (set, version) = (self.set.clone(), attempt.version);
        if group == self.name {
            Error::Aborted { set, version, reason }
        } else {
            Error::Superseded { set, version, by: group }
        }
    }

    /// Makes a sealed attempt visible; answers whether it is, which it is not if it is being removed, or its manifest is lost.
    pub fn publish(&self, attempt: &Attempt, sealed: &Sealed) -> Result<bool> {
        if self.is_leaving(attempt)? {
            return Ok(false);
        }
        let draft = self.draft_path(attempt);
        // Without a draft somebody has moved it, and kept copies before.
        if sealed.spare > 0
            && let Some(text) = self.disk.read_raw(&draft)?
        {
            match format::decode(&draft, &text) {
                Ok(manifest) => copies::keep_manifest(&self.disk, &self.keys, &manifest)?,
                // Half a draft, of somebody who found it unpublished and came too late; or the only one, and damaged.
                Err(Error::Corrupt { .. }) => return self.is_shown(attempt),
                Err(e) => return Err(e),
            }
        }
        let moved = self.disk.move_new(&draft, &self.paths.manifest(attempt.version));
        // Asked whatever came of it: removal takes away what is being moved, too.
        if self.is_leaving(attempt)? {
            self.take_back(attempt)?;
            return Ok(false);
        }
        match moved? {
            Moved::Done => Ok(true),
            Moved::Taken | Moved::Missing => match self.is_shown(attempt) {
                Ok(shown) => Ok(shown),
                Err(e @ Error::VersionExists { .. }) => {
                    copies::forget(&self.disk, &self.keys, &attempt.full_name())?;
                    Err(e)
                }
                Err(e) => Err(e),
            },
        }
    }

    /// Whether somebody else has made it visible, or does so at this moment. If not, its manifest is lost.
    fn is_shown(&self, attempt: &Attempt) -> Result<bool> {
        let mut pauses = Pauses::until(PUBLISHING);
        loop {
            if self.is_published(attempt)? {
                return Ok(true);
            }
            if !pauses.sleep() {
                break;
            }
        }
        let copy = Survey::take(&self.disk, &self.keys)?.manifest(&self.disk, attempt.version);
        Ok(copy.is_some_and(|manifest| manifest.id == attempt.record.id))
    }

    /// Removed while this process slept between the look and the deed: what was made visible has no data. The name may be another attempt's by now, if whoever
    /// removed the version removed ours, too.
    fn take_back(&self, attempt: &Attempt) -> Result<()> {
        let path = self.paths.manifest(attempt.version);
        if self.disk.read::<Manifest>(&path)?.is_some_and(|there| there.id == attempt.record.id) {
            self.disk.remove_file(&path)?;
        }
        copies::forget(&self.disk, &self.keys, &attempt.full_name())
    }

    /// Whether the attempt of this full name is marked as being removed.
    pub fn is_marked(&self, full_name: &str) -> Result<bool> {
        let mark = format!("{}/{}", self.paths.attempts, format::pruned_name(full_name));
        Ok(self.disk.read::<Pruned>(&mark)?.is_some())
    }

    /// Whether a version, by any attempt, is marked as being removed.
    pub fn is_version_marked(&self, version: u64) -> Result<bool> {
        let names = self.disk.list(&self.paths.attempts)?;
        Ok(names.iter().any(|entry| {
            format::parse_leading_version(&entry.name) == Some(version) && entry.name.ends_with(b".pruned")
        }))
    }

    /// Whether an attempt is being removed, or was.
    fn is_leaving(&self, attempt: &Attempt) -> Result<bool> {
        if self.is_marked(&attempt.full_name())? {
            return Ok(true);
        }
        Ok(self.attempt(attempt.version, attempt.number)?.as_ref() != Some(attempt))
    }

    /// Climbs the tree of ranks; answers whether `rank` is the last of all.
    pub fn is_last(&self, attempt: &Attempt, rank: u32) -> Result<bool> {
        let dir = self.data_dir(attempt);
        climb(rank, attempt.record.nranks, |level, index| {
            self.disk.claim_file(&format!("{dir}/t{level}.{index}"))
        })
    }
}

/// Climbs from leaf `rank` as long as `first` (whether nobody was at a node before) says no; answers whether it passed the root.
fn climb(rank: u32, nranks: u32, mut first: impl FnMut(u32, u32) -> Result<bool>) -> Result<bool> {
    let (mut index, mut width, mut level) = (rank, nranks, 0);
    while width > 1 {
        let alone = index == width - 1 && index % 2 == 0;
        (index, width, level) = (index / 2, width.div_ceil(2), level + 1);
        if !alone && first(level, index)? {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn one_rank_passes_the_root() {
        for nranks in 1..70 {
            // Any order; the one who passes must be the last of it, as all others stop before.
            for step in [1, 7, 11] {
                let order: Vec<u32> = (0..nranks).map(|i| (i * step) % nranks).collect();
                if order.iter().collect::<HashSet<_>>().len() < nranks as usize {
                    continue;
                }
                let mut made = HashSet::new();
                let passed: Vec<u32> = order
                    .iter()
                    .copied()
                    .filter(|rank| {
                        climb(*rank, nranks, |level, index| Ok(made.insert((level, index)))).unwrap()
                    })
                    .collect();
                assert_eq!(passed, [*order.last().unwrap()], "{nranks} ranks, step {step}");
            }
        }
    }
}
