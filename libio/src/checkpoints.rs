//! The sets below one directory of a file system.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fs_client::Client;

use crate::attempt::Group;
use crate::error::{Error, Result};
use crate::format::{self, Manifest, RANKS_MAX, SetPaths, Verdict};
use crate::register::{Disk, unique_id};
use crate::snapshot::{RegionInfo, Snapshot};
use crate::writer::Writer;

/// How long [`Checkpoints::wait`] sleeps between two looks, at first and at most.
const LOOK_FIRST: Duration = Duration::from_millis(1);
const LOOK_LAST: Duration = Duration::from_millis(100);

/// The checkpoint sets below one directory, seen by one group of ranks. Cheap to clone, usable from every thread. Calls block.
#[derive(Clone)]
pub struct Checkpoints {
    disk: Disk,
    root: Arc<str>,
    group: Arc<str>,
}

impl Checkpoints {
    /// The sets below directory `root` (absolute in the file system; made when needed).
    ///
    /// All ranks of one run must share a *group*, and every run, also a restart, must have another. It is taken from the first of
    /// `HAYATE_GROUP`, `SLURM_JOB_ID` with `SLURM_STEP_ID` and `SLURM_RESTART_COUNT`, and `PMIX_NAMESPACE` that is set; without any it
    /// is random, which suits ranks that are threads with clones of one `Checkpoints`. See [`Checkpoints::with_group`].
    ///
    /// # Errors
    /// [`Error::FileSystem`] if this thread cannot reach the file system.
    pub fn open(client: Client, root: &str) -> Result<Checkpoints> {
        let group = group_of(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
        Ok(Checkpoints {
            disk: Disk::new(client)?,
            root: root.into(),
            group: group.unwrap_or_else(unique_id).into(),
        })
    }

    /// The same, as a member of another group.
    #[must_use]
    pub fn with_group(self, group: &str) -> Checkpoints {
        Checkpoints { group: group.into(), ..self }
    }

    /// The group that this process writes for.
    pub fn group(&self) -> &str {
        &self.group
    }

    pub(crate) fn of(&self, set: &str) -> Result<Group> {
        format::check_set_name(set)?;
        Ok(Group {
            disk: self.disk.clone(),
            set: set.to_owned(),
            paths: SetPaths::new(&self.root, set),
            name: self.group.to_string(),
        })
    }

    /// Begins to write a version as `rank` of `nranks`. Does not wait for the other ranks.
    ///
    /// # Errors
    /// [`Error::VersionExists`], [`Error::RanksDiffer`], [`Error::Superseded`] (another group began this version after ours),
    /// [`Error::Invalid`] for a bad name or rank, [`Error::FileSystem`].
    pub fn begin(&self, set: &str, version: u64, rank: u32, nranks: u32) -> Result<Writer> {
        if rank >= nranks || nranks > RANKS_MAX {
            return Err(Error::Invalid(format!(
                "rank {rank} of {nranks}: ranks count from 0, and there are at most {RANKS_MAX}"
            )));
        }
        let group = self.of(set)?;
        let attempt = group.join(version, rank, nranks)?;
        Ok(Writer::new(group, attempt, rank))
    }

    /// The newest committed version whose manifest is whole.
    pub fn latest(&self, set: &str) -> Result<Option<u64>> {
        let group = self.of(set)?;
        for version in listed(&group)?.into_iter().rev() {
            if whole(&group, version)? {
                return Ok(Some(version));
            }
        }
        Ok(None)
    }

    /// All committed versions whose manifest is whole, oldest first.
    pub fn versions(&self, set: &str) -> Result<Vec<u64>> {
        let group = self.of(set)?;
        let mut versions = Vec::new();
        for version in listed(&group)? {
            if whole(&group, version)? {
                versions.push(version);
            }
        }
        Ok(versions)
    }

    /// Waits until a version is committed.
    ///
    /// # Errors
    /// [`Error::Aborted`] if its newest attempt was given up, [`Error::TimedOut`].
    pub fn wait(&self, set: &str, version: u64, timeout: Duration) -> Result<()> {
        let (group, begun) = (self.of(set)?, Instant::now());
        let mut pause = LOOK_FIRST;
        loop {
            if manifest(&group, version)?.is_some() {
                return Ok(());
            }
            if let Some(newest) = group.attempts_at(version)?.last()
                && let Some(Verdict::Aborted { reason, .. }) = group.verdict(newest)?
            {
                return Err(Error::Aborted { set: set.to_owned(), version, reason });
            }
            if begun.elapsed() >= timeout {
                let seconds = timeout.as_secs();
                return Err(Error::TimedOut { set: set.to_owned(), version, seconds });
            }
            std::thread::sleep(pause.min(timeout.saturating_sub(begun.elapsed())));
            pause = (pause * 2).min(LOOK_LAST);
        }
    }

    /// A committed version, for many reads.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Corrupt`] if its manifest is damaged.
    pub fn snapshot(&self, set: &str, version: u64) -> Result<Snapshot> {
        let group = self.of(set)?;
        match manifest(&group, version)? {
            Some(manifest) => Ok(Snapshot::new(group, manifest)),
            None => Err(Error::NotFound { set: set.to_owned(), what: format!("version {version}") }),
        }
    }

    /// The regions of a committed version, by rank.
    pub fn regions(&self, set: &str, version: u64) -> Result<Vec<RegionInfo>> {
        self.snapshot(set, version)?.regions()
    }

    /// Reads from a region that `rank` wrote; see [`Snapshot::read`], which is cheaper for several reads.
    pub fn read(
        &self,
        set: &str,
        version: u64,
        rank: u32,
        name: &str,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<usize> {
        self.snapshot(set, version)?.read(rank, name, offset, buf)
    }
}

/// Versions with a manifest, whole or not, ascending.
pub(crate) fn listed(group: &Group) -> Result<Vec<u64>> {
    let entries = group.disk.list(&group.paths.versions)?;
    let mut versions: Vec<_> =
        entries.iter().filter_map(|entry| format::parse_version(&entry.name)).collect();
    versions.sort_unstable();
    Ok(versions)
}

/// The manifest of a version, if it is committed.
pub(crate) fn manifest(group: &Group, version: u64) -> Result<Option<Manifest>> {
    let path = format!("{}/{}", group.paths.versions, format::version_name(version));
    let found: Option<Manifest> = group.disk.read(&path)?;
    match found {
        Some(manifest) if manifest.version != version => {
            Err(Error::corrupt(&path, format!("it is the manifest of version {}", manifest.version)))
        }
        found => Ok(found),
    }
}

/// Whether a version is committed and its manifest whole.
pub(crate) fn whole(group: &Group, version: u64) -> Result<bool> {
    match manifest(group, version) {
        Ok(found) => Ok(found.is_some()),
        Err(Error::Corrupt { path, what }) => {
            tracing::warn!(path, what, "a damaged checkpoint is passed over");
            Ok(false)
        }
        Err(e) => Err(e),
    }
}

/// The group's name, from the environment.
fn group_of(var: impl Fn(&str) -> Option<String>) -> Option<String> {
    if let Some(given) = var("HAYATE_GROUP") {
        return Some(given);
    }
    if let Some(job) = var("SLURM_JOB_ID") {
        let part = |name| var(name).unwrap_or_else(|| "0".to_owned());
        return Some(format!("slurm-{job}.{}.{}", part("SLURM_STEP_ID"), part("SLURM_RESTART_COUNT")));
    }
    var("PMIX_NAMESPACE").map(|namespace| format!("pmix-{namespace}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(vars: &[(&str, &str)]) -> Option<String> {
        group_of(|name| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn the_group_is_that_of_the_run() {
        assert_eq!(group(&[]), None);
        assert_eq!(group(&[("HAYATE_GROUP", "g"), ("SLURM_JOB_ID", "7")]).as_deref(), Some("g"));
        let slurm = [("SLURM_JOB_ID", "7"), ("SLURM_STEP_ID", "2"), ("SLURM_RESTART_COUNT", "1")];
        assert_eq!(group(&slurm).as_deref(), Some("slurm-7.2.1"));
        assert_eq!(group(&slurm[..1]).as_deref(), Some("slurm-7.0.0"));
        assert_eq!(group(&[("PMIX_NAMESPACE", "n")]).as_deref(), Some("pmix-n"));
    }
}
