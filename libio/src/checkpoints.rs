//! The sets below one directory of a file system.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fs_client::Client;

use crate::attempt::Group;
use crate::completion;
use crate::copies::{self, Keys, Survey};
use crate::error::{Error, Result};
use crate::format::{self, Failed, Manifest, Pin, RANKS_MAX, SetPaths};
use crate::look::{Look, Newest, Offer};
use crate::options::{Options, Redundancy};
use crate::packed::Base;
use crate::register::{Disk, Hook, is_silence, unique_id};
use crate::snapshot::{RegionInfo, Snapshot};
use crate::spread::Plan;
use crate::state::{Pauses, State};
use crate::writer::Writer;

const UNCOMPLETED: &str = "all ranks may have sealed a newer version, which could not be completed";

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

    /// The same, with somebody who is told of every change before it is made, by its kind (`create`, `write`, `cut`, `sync`, `close`,
    /// `rename`, `mkdir`, `attribute`, `remove`), and may fail it: for tests of programs.
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
    /// rank or option, [`Error::FileSystem`], also if a server with a store does not answer within the client's time-out.
    pub fn begin_with(
        &self,
        set: &str,
        version: u64,
        rank: u32,
        nranks: u32,
        options: &Options,
    ) -> Result<Writer> {
        if version == u64::MAX {
            return Err(Error::Invalid(format!(
                "version {version} cannot be asked for: use a smaller number"
            )));
        }
        if rank >= nranks || nranks > RANKS_MAX {
            return Err(Error::Invalid(format!(
                "rank {rank} of {nranks}: ranks count from 0, and there are at most {RANKS_MAX}"
            )));
        }
        let group = self.of(set)?;
        let plan = plan(&group.disk, rank, options.redundancy)?;
        // Before the first byte is written: what these stores lose from now on is noticed.
        let stores = copies::stores(&group.disk)?;
        let attempt = group.join(version, rank, nranks, options)?;
        let base = match Base::find(&group, &attempt, options) {
            Ok(base) => base,
            Err(e) => {
                group.abort(&attempt, &format!("rank {rank} could not look for an earlier version"))?;
                return Err(e);
            }
        };
        Ok(Writer::new(group, attempt, rank, options.clone(), plan, base, stores))
    }

    /// The newest version to restart from: committed, its manifest whole, in tier 1 or else whole in the shared tier, and no restart from
    /// it failed. One that all ranks have sealed, and whose last rank died before it was published, is published by this call.
    pub fn latest(&self, set: &str) -> Result<Option<u64>> {
        self.latest_below(set, u64::MAX)
    }

    /// The newest version to restart from that is less than `below`.
    ///
    /// # Errors
    /// [`Error::Lost`] if there are versions, and servers are lost or away without which none of them is whole. Servers that do not
    /// answer are waited for, up to the client's time-out, if a newer version may depend on them. [`Error::Tier`] if there is nothing in tier 1, and the shared
    /// tier cannot be read.
    ///
    /// Two ranks that ask may hear different answers, if a server comes or goes between them: let one ask, and tell the others.
    pub fn latest_below(&self, set: &str, below: u64) -> Result<Option<u64>> {
        let mut pauses = Pauses::until(self.disk.timeout());
        let mut before: Option<(Newest, Listing)> = None;
        let mut unseen = true;
        loop {
            let look = Look::take(&self.of(set)?)?;
            // A later look is given up for the earlier one's answer when the time is over.
            let Some(newest) = look.newest(below, &|| before.is_some() && pauses.is_over())? else {
                return before.map_or(Ok(None), |(newest, listing)| settled(set, newest, listing));
            };
            // Once: what was completed is looked at again.
            if std::mem::take(&mut unseen) && completes_newer(&look, &newest, below)? {
                continue;
            }
            // What a server that is away has comes back when it does, so a newer version is worth waiting.
            let unlisted = look.listing.unlisted.is_some();
            let waits = unlisted || (newest.1.is_some() && !look.survey.silent.is_empty());
            if !waits || !pauses.sleep() {
                return settled(set, newest, look.listing);
            }
            before = Some((newest, look.listing));
        }
    }

    /// All that is found of a set, after what all ranks sealed was completed, as far as that can be.
    pub(crate) fn completed(&self, set: &str) -> Result<Look> {
        let look = Look::take(&self.of(set)?)?;
        match completion::complete_unseen(&look, 0..u64::MAX) {
            Ok(true) => Look::take(&look.group),
            Ok(false) => Ok(look),
            Err(e) => {
                tracing::warn!(set, error = %e, "{UNCOMPLETED}");
                Ok(look)
            }
        }
    }

    /// All versions that can be restarted from, oldest first.
    pub fn versions(&self, set: &str) -> Result<Vec<u64>> {
        let look = self.completed(set)?.complete()?;
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
        let look = Look::take(&self.of(set)?)?;
        let group = &look.group;
        let manifest = look.manifest(version)?.ok_or_else(|| group.no_version(version))?;
        if ok {
            return Ok(());
        }
        // What latest offers from copies must be marked where these are.
        let kept = copies::keep_failed(&group.disk, &group.keys, &look.survey, &manifest);
        let (versions, name) = (&group.paths.versions, format::failed_name(version, &manifest.id));
        let placed = group.disk.make_dirs(versions).and_then(|()| {
            group.disk.place(versions, &name, &Failed { group: group.name.clone() }).map(drop)
        });
        match placed {
            Err(Error::FileSystem(e)) if kept => {
                tracing::warn!(set, version, error = %e, "a failed restart is marked at single servers only");
                Ok(())
            }
            placed => placed,
        }
    }

    /// Says that a version is never pruned, or that it may be.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it is not committed, or is being removed at this moment, or only the shared tier has it: then nothing prunes it.
    pub fn pin(&self, set: &str, version: u64, pinned: bool) -> Result<()> {
        let group = self.of(set)?;
        if !keeps(&group, version)? {
            return Err(group.no_version(version));
        }
        let name = format::pin_name(version);
        if pinned {
            group.disk.make_dirs(&group.paths.versions)?;
            group.disk.place(&group.paths.versions, &name, &Pin {})?;
            // It may be on its way out, or gone, by now: see `prune::mark_unpinned`.
            if !group.is_version_marked(version)? && keeps(&group, version)? {
                return Ok(());
            }
            group.disk.remove_file(&format!("{}/{name}", group.paths.versions))?;
            return Err(group.no_version(version));
        }
        group.disk.remove_file(&format!("{}/{name}", group.paths.versions))
    }

    /// All versions that somebody began, oldest first, with what became of them.
    pub fn list(&self, set: &str) -> Result<Vec<VersionInfo>> {
        let group = self.of(set)?;
        let mut look = self.completed(set)?.complete()?;
        let mut versions = std::mem::take(&mut look.versions);
        versions.extend(group.attempts()?.into_iter().map(|(version, _)| version));
        let mut all = Vec::with_capacity(versions.len());
        for version in versions {
            let state = match self.state(set, version) {
                Ok(state) => state,
                Err(Error::NotFound { .. }) => continue, // Removed meanwhile.
                Err(Error::Corrupt { .. }) => State::Damaged,
                Err(e) => return Err(e),
            };
            let manifest = look.manifest(version).ok().flatten();
            all.push(VersionInfo {
                version,
                state,
                nranks: manifest.as_ref().map(|manifest| manifest.seals.len() as u32),
                bytes: manifest.as_ref().map(|manifest| manifest.bytes),
                pinned: look.listing.is_pinned(version),
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
        // Asked before: a manifest that takes its place between the two is then not taken for it.
        let name = group.disk.inode(&group.paths.manifest(version));
        // A server that was waited for once is not waited for as long again.
        let group = if name.as_ref().is_err_and(is_silence) { group.hasty() } else { group };
        let name = name.ok().flatten();
        if let Ok(Some(manifest)) = here(&group, version) {
            return Ok(Snapshot::new(group, manifest).named(name));
        }
        let look = Look::take(&group)?;
        match look.manifest(version)? {
            Some(manifest) => {
                let silent = look.survey.silent.keys().copied();
                Ok(Snapshot::new(look.group, manifest).without(silent))
            }
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
            match tier.list(&self.root) {
                Ok(more) => names.extend(more),
                Err(e) => tracing::warn!(error = %e, "sets of the shared tier are not seen"),
            }
        }
        let names = names.into_iter().filter_map(|name| String::from_utf8(name).ok());
        Ok(names.filter(|name| format::check_set_name(name).is_ok()).collect())
    }
}

/// Whether a version newer than what was found became visible by this call: see `completion`.
fn completes_newer(look: &Look, (found, lost): &Newest, below: u64) -> Result<bool> {
    match completion::complete_unseen(look, found.map_or(0, |version| version + 1)..below) {
        // Nothing to restart from is an answer only if all could be looked through.
        Err(e) if found.is_some() || lost.is_some() => {
            tracing::warn!(set = look.group.set, error = %e, "{UNCOMPLETED}");
            Ok(false)
        }
        done => done,
    }
}

/// What is left to use when nobody is waited for any more.
fn settled(set: &str, (found, lost): Newest, listing: Listing) -> Result<Option<u64>> {
    // Nothing to restart from is an answer only if all could be looked through.
    if let Some(e) = listing.unlisted.or(listing.untiered) {
        if found.is_none() && lost.is_none() {
            return Err(e);
        }
        tracing::warn!(set, error = %e, "not all versions are listed: there may be newer ones");
    }
    let Some((version, servers)) = lost else { return Ok(found) };
    let servers: Vec<_> = servers.iter().map(ToString::to_string).collect();
    let lost = Error::Lost { set: set.to_owned(), version, servers: servers.join(", ") };
    if found.is_some() {
        tracing::warn!(set, version, error = %lost, "an older version is used");
    }
    found.map(Some).ok_or(lost)
}

/// Where the parts of a rank's regions go.
fn plan(disk: &Disk, rank: u32, redundancy: Redundancy) -> Result<Option<Plan>> {
    let Some((data, extra)) = redundancy.parts() else { return Ok(None) };
    let too_few =
        matches!(redundancy, Redundancy::Parity { data: 0 | 1, .. } | Redundancy::Parity { extra: 0, .. });
    if too_few {
        return Err(Error::Invalid(
            "parity needs at least 2 servers for data, and others for parity".to_owned(),
        ));
    }
    let servers = copies::ring(disk.client(), rank as usize, data + extra)?;
    if !copies::are_apart(disk.client(), &servers) {
        tracing::warn!(
            servers = data + extra,
            "this redundancy takes more servers than there are hosts: the loss of a host may be more than it can spare"
        );
    }
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
#[derive(Debug, Default)]
pub(crate) struct Listing {
    names: BTreeSet<Vec<u8>>,
    /// Why tier 1's are not among them.
    pub unlisted: Option<Error>,
    /// Why the shared tier's are not.
    pub untiered: Option<Error>,
}

impl Listing {
    pub fn take(group: &Group) -> Result<Listing> {
        let (dir, mut listing) = (&group.paths.versions, Listing::default());
        match group.disk.tier().map(|tier| tier.list(dir)) {
            Some(Ok(names)) => listing.names.extend(names),
            // What tier 1 has does not depend on it.
            Some(Err(e)) => {
                tracing::warn!(dir, error = %e, "versions of the shared tier are not seen");
                listing.untiered = Some(e);
            }
            None => {}
        }
        match group.disk.list(dir) {
            Ok(entries) => listing.names.extend(entries.iter().map(|entry| entry.name.to_vec())),
            Err(e @ Error::FileSystem(_)) => listing.unlisted = Some(e),
            Err(e) => return Err(e),
        }
        Ok(listing)
    }

    /// Versions with a manifest, whole or not, ascending.
    pub fn versions(&self) -> BTreeSet<u64> {
        self.names.iter().filter_map(|name| format::parse_version(name)).collect()
    }

    pub fn is_pinned(&self, version: u64) -> bool {
        self.names.contains(format::pin_name(version).as_bytes())
    }
}

/// Whether tier 1, or a single server, has the manifest of a version, whole or not. The shared tier follows behind.
fn keeps(group: &Group, version: u64) -> Result<bool> {
    Ok(listed_here(group)?.contains(&version)
        || Survey::take(&group.disk, &group.keys)?.versions().any(|kept| kept == version))
}

/// Versions with a manifest in tier 1, whole or not, ascending.
pub(crate) fn listed_here(group: &Group) -> Result<Vec<u64>> {
    let entries = group.disk.list(&group.paths.versions)?;
    let mut versions: Vec<_> =
        entries.iter().filter_map(|entry| format::parse_version(&entry.name)).collect();
    versions.sort_unstable();
    Ok(versions)
}

/// The manifest of a version, if it is committed: from tier 1, or else the shared tier.
pub(crate) fn manifest(group: &Group, version: u64) -> Result<Option<Manifest>> {
    or_in_tier(here(group, version), group, version)
}

/// What tier 1 has, or else the shared tier.
pub(crate) fn or_in_tier(
    here: Result<Option<Manifest>>,
    group: &Group,
    version: u64,
) -> Result<Option<Manifest>> {
    match here {
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
    let path = group.paths.manifest(version);
    group.disk.read(&path)?.map(|found| of_version(found, version, &path)).transpose()
}

/// The manifest of a version that the shared tier has.
pub(crate) fn in_tier(group: &Group, version: u64) -> Result<Option<Manifest>> {
    let path = group.paths.manifest(version);
    let text = group.disk.tier().map(|tier| tier.read_raw(&path)).transpose()?.flatten();
    text.map(|text| of_version(format::decode(&path, &text)?, version, &path)).transpose()
}

fn of_version(manifest: Manifest, version: u64, path: &str) -> Result<Manifest> {
    if manifest.version == version {
        return Ok(manifest);
    }
    Err(Error::corrupt(path, format!("it is the manifest of version {}", manifest.version)))
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
