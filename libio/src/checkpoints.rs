//! The sets below one directory of a file system.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fs_client::Client;

use crate::attempt::Group;
use crate::copies::{self, Keys};
use crate::error::{Error, Result};
use crate::format::{self, Failed, Manifest, Pin, RANKS_MAX, SetPaths};
use crate::look::{Look, Offer};
use crate::options::{Options, Redundancy};
use crate::packed::Base;
use crate::register::{Disk, Hook, unique_id};
use crate::snapshot::{RegionInfo, Snapshot};
use crate::spread::Plan;
use crate::state::{Pauses, State};
use crate::writer::Writer;

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
            keys: Keys::new(&self.root, set),
            name: self.group.to_string(),
        })
    }

    /// The same, for programs that see the file system mounted on directory `mount`: see [`Writer::route`].
    #[must_use]
    pub fn with_mount(self, mount: &Path) -> Checkpoints {
        Checkpoints { disk: self.disk.with_mount(mount), ..self }
    }

    /// The same, with somebody who is told of every change before it is made, by its kind (`create`, `write`, `sync`, `close`, `rename`,
    /// `mkdir`, `remove`), and may fail it: for tests of programs.
    #[doc(hidden)]
    #[must_use]
    pub fn with_hook(self, hook: Hook) -> Checkpoints {
        Checkpoints { disk: self.disk.with_hook(hook), ..self }
    }

    /// [`Checkpoints::begin_with`] the usual options.
    pub fn begin(&self, set: &str, version: u64, rank: u32, nranks: u32) -> Result<Writer> {
        self.begin_with(set, version, rank, nranks, &Options::default())
    }

    /// Begins to write a version as `rank` of `nranks`. Does not wait for the other ranks.
    ///
    /// # Errors
    /// [`Error::VersionExists`], [`Error::RanksDiffer`], [`Error::Superseded`] (another group began this version after ours),
    /// [`Error::Aborted`] (another rank gave up before this one came: the same that all others hear), [`Error::Invalid`] for a bad name,
    /// rank or option, [`Error::FileSystem`].
    pub fn begin_with(
        &self,
        set: &str,
        version: u64,
        rank: u32,
        nranks: u32,
        options: &Options,
    ) -> Result<Writer> {
        if rank >= nranks || nranks > RANKS_MAX {
            return Err(Error::Invalid(format!(
                "rank {rank} of {nranks}: ranks count from 0, and there are at most {RANKS_MAX}"
            )));
        }
        let group = self.of(set)?;
        let plan = plan(&group.disk, rank, options.redundancy)?;
        let attempt = group.join(version, rank, nranks, options)?;
        let base = match Base::find(&group, &attempt, options) {
            Ok(base) => base,
            Err(e) => {
                group.abort(&attempt, &format!("rank {rank} could not look for an earlier version"))?;
                return Err(e);
            }
        };
        Ok(Writer::new(group, attempt, rank, options.clone(), plan, base))
    }

    /// The newest version to restart from: committed, its manifest whole, in tier 1 or else whole in the shared tier, and no restart from
    /// it failed.
    pub fn latest(&self, set: &str) -> Result<Option<u64>> {
        self.latest_below(set, u64::MAX)
    }

    /// The newest version to restart from that is less than `below`.
    ///
    /// # Errors
    /// [`Error::Lost`] if there are versions, and servers are lost or away without which none of them is whole. Servers that do not
    /// answer are waited for, up to the client's time-out.
    pub fn latest_below(&self, set: &str, below: u64) -> Result<Option<u64>> {
        let mut pauses = Pauses::until(self.disk.client().config().timeout);
        loop {
            let look = Look::take(&self.of(set)?)?;
            let (found, lost) = look.newest(below)?;
            // What a server that is away has comes back when it does, so a newer version is worth waiting.
            let Some((version, servers)) = lost else { return Ok(found) };
            if look.survey.silent.is_empty() || !pauses.sleep() {
                let servers: Vec<_> = servers.iter().map(ToString::to_string).collect();
                let lost = Error::Lost { set: set.to_owned(), version, servers: servers.join(", ") };
                if found.is_some() {
                    tracing::warn!(set, version, error = %lost, "an older version is used");
                }
                return found.map(Some).ok_or(lost);
            }
        }
    }

    /// All versions that can be restarted from, oldest first.
    pub fn versions(&self, set: &str) -> Result<Vec<u64>> {
        let look = Look::take(&self.of(set)?)?;
        let mut versions = Vec::new();
        for version in &look.versions {
            if matches!(look.offered(*version)?, Offer::Yes) {
                versions.push(*version);
            }
        }
        Ok(versions)
    }

    /// Tells how the restart from a version ended. One that failed is remembered, and not offered again; its number may be removed.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it is not committed.
    pub fn finish(&self, set: &str, version: u64, ok: bool) -> Result<()> {
        let group = self.of(set)?;
        let manifest = manifest(&group, version)?.ok_or_else(|| group.no_version(version))?;
        if ok {
            return Ok(());
        }
        group.disk.make_dirs(&group.paths.versions)?;
        let name = format::failed_name(version, &manifest.id);
        group.disk.place(&group.paths.versions, &name, &Failed { group: group.name.clone() })?;
        Ok(())
    }

    /// Says that a version is never pruned, or that it may be.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it is not committed.
    pub fn pin(&self, set: &str, version: u64, pinned: bool) -> Result<()> {
        let group = self.of(set)?;
        if !listed(&group)?.contains(&version) {
            return Err(group.no_version(version));
        }
        let name = format::pin_name(version);
        if pinned {
            group.disk.make_dirs(&group.paths.versions)?;
            return group.disk.place(&group.paths.versions, &name, &Pin {}).map(drop);
        }
        group.disk.remove_file(&format!("{}/{name}", group.paths.versions))
    }

    /// All versions that somebody began, oldest first, with what became of them.
    pub fn list(&self, set: &str) -> Result<Vec<VersionInfo>> {
        let group = self.of(set)?;
        let mut versions: BTreeSet<u64> = listed(&group)?.into_iter().collect();
        versions.extend(group.attempts()?.into_iter().map(|(version, _)| version));
        let pins = names(&group)?;
        let mut all = Vec::with_capacity(versions.len());
        for version in versions {
            let state = match self.state(set, version) {
                Ok(state) => state,
                Err(Error::NotFound { .. }) => continue, // Removed meanwhile.
                Err(Error::Corrupt { .. }) => State::Failed,
                Err(e) => return Err(e),
            };
            let manifest = manifest(&group, version).ok().flatten();
            all.push(VersionInfo {
                version,
                state,
                nranks: manifest.as_ref().map(|manifest| manifest.seals.len() as u32),
                bytes: manifest.as_ref().map(|manifest| manifest.bytes),
                pinned: pins.contains(format::pin_name(version).as_bytes()),
            });
        }
        Ok(all)
    }

    /// A committed version, for many reads.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Corrupt`] if its manifest is damaged.
    pub fn snapshot(&self, set: &str, version: u64) -> Result<Snapshot> {
        let group = self.of(set)?;
        if let Ok(Some(manifest)) = here(&group, version) {
            return Ok(Snapshot::new(group, manifest));
        }
        let look = Look::take(&group)?;
        match look.manifest(version)? {
            Some(manifest) => Ok(Snapshot::new(look.group, manifest)),
            None => Err(group.no_version(version)),
        }
    }

    /// The regions of a committed version, by name.
    pub fn regions(&self, set: &str, version: u64) -> Result<Vec<RegionInfo>> {
        self.snapshot(set, version)?.regions()
    }

    /// Reads from a region; see [`Snapshot::read`], which is cheaper for several reads.
    pub fn read(&self, set: &str, version: u64, name: &str, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.snapshot(set, version)?.read(name, offset, buf)
    }

    /// How long the servers take, at their present rate, to bring to the shared tier what waits for it, and `more` bytes; none if no rate is known yet, or
    /// there is no shared tier.
    pub fn drain_time(&self, more: u64) -> Result<Option<Duration>> {
        let (mut pending, mut rate) = (more, 0);
        for (_, account) in self.disk.client().flush_status()? {
            let account = account?;
            pending += account.pending_bytes;
            rate += account.bytes_per_s;
        }
        Ok((rate > 0).then(|| Duration::from_secs_f64(pending as f64 / rate as f64)))
    }

    /// Sets below this directory, in either tier, by name.
    pub fn sets(&self) -> Result<Vec<String>> {
        let entries = self.disk.list(self.root.trim_end_matches('/'))?;
        let mut names: BTreeSet<Vec<u8>> = entries.iter().map(|entry| entry.name.to_vec()).collect();
        if let Some(tier) = self.disk.tier() {
            names.extend(tier.list(&self.root)?);
        }
        let names = names.into_iter().filter_map(|name| String::from_utf8(name).ok());
        Ok(names.filter(|name| format::check_set_name(name).is_ok()).collect())
    }
}

/// Where the parts of a rank's regions go.
fn plan(disk: &Disk, rank: u32, redundancy: Redundancy) -> Result<Option<Plan>> {
    let Some((data, extra)) = redundancy.parts() else { return Ok(None) };
    if data == 0 || extra == 0 {
        return Err(Error::Invalid("parity needs servers for data, and others for parity".to_owned()));
    }
    let servers = copies::ring(disk.client(), rank as usize, data + extra)?;
    Ok(Some(Plan { servers, data, keys: String::new() }))
}

/// What is known of a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionInfo {
    /// Its number.
    pub version: u64,
    /// What became of it.
    pub state: State,
    /// How many ranks wrote it, once it is committed.
    pub nranks: Option<u32>,
    /// Bytes that they wrote, once it is committed.
    pub bytes: Option<u64>,
    /// Whether it is kept whatever is pruned.
    pub pinned: bool,
}

/// The names in `versions/` of both tiers.
fn names(group: &Group) -> Result<BTreeSet<Vec<u8>>> {
    let dir = &group.paths.versions;
    let mut names = BTreeSet::new();
    if let Some(tier) = group.disk.tier() {
        names.extend(tier.list(dir)?);
    }
    match group.disk.list(dir) {
        Ok(entries) => names.extend(entries.iter().map(|entry| entry.name.to_vec())),
        // A part of tier 1 is gone: what the shared tier has will do.
        Err(e @ Error::FileSystem(_)) if !names.is_empty() => {
            tracing::warn!(dir, error = %e, "versions are listed from the shared tier only");
        }
        Err(e) => return Err(e),
    }
    Ok(names)
}

/// Versions with a manifest in either tier, whole or not, ascending.
pub(crate) fn listed(group: &Group) -> Result<Vec<u64>> {
    Ok(names(group)?.iter().filter_map(|name| format::parse_version(name)).collect())
}

/// Versions with a manifest in tier 1, whole or not, ascending.
pub(crate) fn listed_here(group: &Group) -> Result<Vec<u64>> {
    let entries = group.disk.list(&group.paths.versions)?;
    let mut versions: Vec<_> =
        entries.iter().filter_map(|entry| format::parse_version(&entry.name)).collect();
    versions.sort_unstable();
    Ok(versions)
}

fn manifest_path(group: &Group, version: u64) -> String {
    format!("{}/{}", group.paths.versions, format::version_name(version))
}

/// The manifest of a version, if it is committed: from tier 1, or else the shared tier.
pub(crate) fn manifest(group: &Group, version: u64) -> Result<Option<Manifest>> {
    match here(group, version) {
        Ok(Some(manifest)) => Ok(Some(manifest)),
        Ok(None) => in_tier(group, version),
        Err(e) => match in_tier(group, version) {
            Ok(Some(manifest)) => Ok(Some(manifest)),
            Ok(None) | Err(_) => Err(e),
        },
    }
}

/// The manifest of a version that tier 1 has.
pub(crate) fn here(group: &Group, version: u64) -> Result<Option<Manifest>> {
    let path = manifest_path(group, version);
    group.disk.read(&path)?.map(|found| of_version(found, version, &path)).transpose()
}

/// The manifest of a version that the shared tier has.
pub(crate) fn in_tier(group: &Group, version: u64) -> Result<Option<Manifest>> {
    let path = manifest_path(group, version);
    let text = group.disk.tier().map(|tier| tier.read_raw(&path)).transpose()?.flatten();
    text.map(|text| of_version(format::decode(&path, &text)?, version, &path)).transpose()
}

fn of_version(manifest: Manifest, version: u64, path: &str) -> Result<Manifest> {
    if manifest.version == version {
        return Ok(manifest);
    }
    Err(Error::corrupt(path, format!("it is the manifest of version {}", manifest.version)))
}

/// Whether tier 1 has a version, and its manifest is whole.
pub(crate) fn whole_here(group: &Group, version: u64) -> Result<Option<Manifest>> {
    undamaged(here(group, version))
}

pub(crate) fn undamaged(found: Result<Option<Manifest>>) -> Result<Option<Manifest>> {
    match found {
        Err(Error::Corrupt { path, what }) => {
            tracing::warn!(path, what, "a damaged checkpoint is passed over");
            Ok(None)
        }
        other => other,
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
