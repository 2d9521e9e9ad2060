//! Removing versions, and what attempts left behind.
//!
//! A version leaves in an order that a crash may interrupt anywhere: a mark that nobody may publish it again, the manifest (from then on
//! it is invisible), the data, the group record, the verdict, the mark. The next call goes on where it stopped.
//!
//! # Invariants
//! - The newest version that can be restarted from, and what is newer, is never touched by [`Checkpoints::prune`] (`prune_keeps_the_newest`, `what_cannot_be_read_is_not_counted_as_kept`); nor is what
//!   is pinned (`a_pinned_version_stays`, `a_pin_that_comes_during_pruning_holds_or_fails`), nor the newest durable version (`the_newest_durable_version_stays`).
//! - Damage does not stop it: names alone say what belongs to a version (`a_damaged_version_can_be_removed`).

use std::collections::BTreeSet;
use std::time::Duration;

use crate::attempt::{Attempt, Group};
use crate::checkpoints::{Checkpoints, listed_here};
use crate::copies;
use crate::error::{Error, Result};
use crate::format::{self, Pruned, SetPaths, Verdict};
use crate::look::{Look, Offer};
use crate::state::{Pauses, is_in_tier};

/// How long [`Checkpoints::remove`] waits for the shared tier.
const TIER_FOLLOWS: Duration = Duration::from_secs(20);

impl Checkpoints {
    /// Removes all but the newest `keep` versions that can be restarted from (at least one stays), those that are pinned, and the newest one that is durable,
    /// and removes the data of attempts that were given up. What is removed goes from the shared tier, too. Answers the versions
    /// removed. May be called while others write and read; attempts at versions older than the oldest one kept
    /// are ended.
    ///
    /// # Errors
    /// [`Error::FileSystem`] if a server with a store does not answer: then nothing is removed. If that, or another failure, comes later the next call goes on.
    pub fn prune(&self, set: &str, keep: usize) -> Result<Vec<u64>> {
        let group = self.of(set)?;
        let look = self.completed(set)?.of_all()?;
        let Some(oldest) = oldest_kept(&look, keep.max(1))? else {
            return Ok(Vec::new());
        };
        let here: BTreeSet<u64> = listed_here(&group)?.into_iter().collect();
        let mut kept = kept_besides(&look, oldest)?;
        // What tier 1 has of a version that only the shared tier lists is a part of a copy that can be read.
        kept.extend(look.listing.versions().difference(&here));
        // Newest first: what they needed is free then.
        let leaving = names_of_all(&group)?;
        for version in leaving.range(..oldest).rev() {
            if kept.contains(version) {
                continue;
            }
            if mark_unpinned(&group, *version)? {
                remove_version(&group, *version)?;
            } else {
                kept.insert(*version);
            }
        }
        for (version, number) in group.attempts()?.into_iter().filter(|(version, _)| *version >= oldest) {
            if let Some(attempt) = readable(group.attempt(version, number))?
                && let Some(Verdict::Aborted { .. }) = readable(group.verdict(&attempt))?
            {
                // Record and verdict stay: the number must not be used again while ranks may come late.
                copies::forget(&group.disk, &group.keys, &attempt.full_name())?;
                group.disk.remove_file(&group.draft_path(&attempt))?;
                group.disk.remove_tree(&group.data_dir(&attempt))?;
            }
        }
        Ok(here.into_iter().filter(|version| *version < oldest && !kept.contains(version)).collect())
    }

    /// Removes one version, whichever it is: a damaged one, say, whose number is to be written again.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it is not committed. [`Error::Tier`] if the shared tier still has it after 20 s: the servers are late, or never knew of it.
    pub fn remove(&self, set: &str, version: u64) -> Result<()> {
        let group = self.of(set)?;
        let look = Look::take(&group)?.of_all()?;
        if !look.versions.contains(&version) {
            look.complete()?;
            return Err(group.no_version(version));
        }
        remove_version(&group, version)?;
        // Until its copy is gone, too, the number could not be used again.
        let mut pauses = Pauses::until(TIER_FOLLOWS);
        let path = group.paths.manifest(version);
        while let Some(tier) = group.disk.tier().filter(|tier| tier.size(&path).is_some()) {
            if !pauses.sleep() {
                return Err(tier.stays(&path));
            }
        }
        Ok(())
    }
}

/// The oldest of the newest `keep` versions that can be restarted from.
fn oldest_kept(look: &Look, keep: usize) -> Result<Option<u64>> {
    let (mut oldest, mut kept) = (None, 0);
    for version in look.versions.iter().rev() {
        if kept < keep && matches!(look.offered(*version)?, Offer::Yes) {
            (oldest, kept) = (Some(*version), kept + 1);
        }
    }
    Ok(oldest)
}

/// Versions before `oldest` that stay: what is pinned, and the newest that the shared tier has whole, unless a newer one is there too.
fn kept_besides(look: &Look, oldest: u64) -> Result<BTreeSet<u64>> {
    let group = &look.group;
    let names = group.disk.list(&group.paths.versions)?;
    let is_pinned = |version: u64| names.iter().any(|entry| entry.name == format::pin_name(version));
    let mut kept: BTreeSet<u64> =
        look.versions.range(..oldest).copied().filter(|version| is_pinned(*version)).collect();
    for version in look.versions.iter().rev() {
        if matches!(look.offered(*version)?, Offer::Yes)
            && let Some(manifest) = look.manifest(*version)?
            && is_in_tier(group, &manifest)?
        {
            kept.insert(*version);
            break;
        }
    }
    Ok(kept)
}

/// All versions of which anything is there.
fn names_of_all(group: &Group) -> Result<BTreeSet<u64>> {
    let mut versions = BTreeSet::new();
    for dir in [&group.paths.versions, &group.paths.attempts, &group.paths.data] {
        versions.extend(
            group.disk.list(dir)?.iter().filter_map(|entry| format::parse_leading_version(&entry.name)),
        );
    }
    Ok(versions)
}

/// The names in `dir` that belong to `version`.
fn names_of(group: &Group, dir: &str, version: u64) -> Result<Vec<String>> {
    let entries = group.disk.list(dir)?;
    let of_it = entries.iter().filter(|entry| format::parse_leading_version(&entry.name) == Some(version));
    Ok(of_it.map(|entry| String::from_utf8_lossy(&entry.name).into_owned()).collect())
}

/// Removes a version, visible or not, with all attempts at it.
fn remove_version(group: &Group, version: u64) -> Result<()> {
    let SetPaths { versions, attempts, data } = &group.paths;
    mark_all(group, version)?;
    group.disk.remove_file(&group.paths.manifest(version))?;
    copies::forget_manifests(&group.disk, &group.keys, version)?;
    if is_needed(group, version)? {
        return Ok(()); // It goes with the last that needs it.
    }
    // Also of attempts whose names are lost.
    copies::forget_data(&group.disk, &group.keys, version)?;
    for name in names_of(group, data, version)? {
        forget_needs(group, &name)?;
        // A rank that goes on writing may keep it from vanishing; what it leaves goes with the next call.
        group.disk.remove_tree(&format!("{data}/{name}"))?;
    }
    let mut records = names_of(group, attempts, version)?;
    records.sort_by_key(|name| leaving_order(name));
    for name in records {
        group.disk.remove_file(&format!("{attempts}/{name}"))?;
    }
    // Pin, mark of failure, and what was left over.
    for name in names_of(group, versions, version)? {
        group.disk.remove_file(&format!("{versions}/{name}"))?;
    }
    Ok(())
}

/// Marks all attempts at a version as leaving.
fn mark_all(group: &Group, version: u64) -> Result<Vec<Attempt>> {
    let mut marked = Vec::new();
    for name in names_of(group, &group.paths.attempts, version)? {
        if let Some((_, number)) = format::parse_attempt(name.as_bytes())
            && let Some(attempt) = readable(group.attempt(version, number))?
        {
            mark(group, &attempt)?;
            marked.push(attempt);
        }
    }
    Ok(marked)
}

/// The same, unless the version is pinned: who pins looks for the mark after its pin, so one of the two sees the other. Both may, and then the version stays
/// without a pin.
fn mark_unpinned(group: &Group, version: u64) -> Result<bool> {
    let marked = mark_all(group, version)?;
    if group.disk.inode(&format!("{}/{}", group.paths.versions, format::pin_name(version)))?.is_none() {
        return Ok(true);
    }
    for attempt in marked {
        group.disk.remove_file(&format!("{}/{}", group.paths.attempts, attempt.pruned_name()))?;
    }
    Ok(false)
}

/// Whether an attempt that is, or may be, committed has blocks in a version's files. To be asked after the version was marked: who marks a need looks
/// afterwards whether the version is being removed.
fn is_needed(group: &Group, version: u64) -> Result<bool> {
    let dir = &group.paths.versions;
    for name in names_of(group, dir, version)? {
        let Some(by) = format::parse_needed(&name) else { continue };
        if needs(group, by, version)? {
            return Ok(true);
        }
        group.disk.remove_file(&format!("{dir}/{name}"))?;
    }
    Ok(false)
}

/// Whether an attempt has blocks in a version's files, or may have when it is sealed.
fn needs(group: &Group, full_name: &str, needed: u64) -> Result<bool> {
    let numbers = full_name.get(..27).and_then(|name| format::parse_attempt(name.as_bytes()));
    let Some((version, number)) = numbers else { return Ok(false) };
    let Some(attempt) = readable(group.attempt(version, number))? else { return Ok(false) };
    if attempt.full_name() != full_name {
        return Ok(false);
    }
    Ok(match readable(group.verdict(&attempt))? {
        None => true,
        Some(Verdict::Sealed(sealed)) => sealed.needs.contains(&needed),
        Some(Verdict::Aborted { .. }) => false,
    })
}

/// Takes back what an attempt that goes needed.
fn forget_needs(group: &Group, full_name: &str) -> Result<()> {
    let dir = &group.paths.versions;
    let names = group.disk.list(dir)?;
    let names = names.iter().map(|entry| String::from_utf8_lossy(&entry.name));
    for name in names.filter(|name| format::parse_needed(name) == Some(full_name)) {
        group.disk.remove_file(&format!("{dir}/{name}"))?;
    }
    Ok(())
}

/// Ends an attempt if it is open, so that its ranks are told, and forbids to publish it.
fn mark(group: &Group, attempt: &Attempt) -> Result<()> {
    match group.abort(attempt, "the version was removed") {
        Ok(()) | Err(Error::Corrupt { .. }) => {}
        Err(e) => return Err(e),
    }
    match group.disk.place(&group.paths.attempts, &attempt.pruned_name(), &Pruned {}) {
        Ok(_) | Err(Error::Corrupt { .. }) => Ok(()), // A damaged mark is a mark.
        Err(e) => Err(e),
    }
}

/// Without a record nothing can be published, so that goes first; the mark outlives the verdict, which could be published.
fn leaving_order(name: &str) -> u8 {
    match name {
        _ if name.ends_with(".pruned") => 2,
        _ if name.ends_with(".verdict") || name.ends_with(".manifest") => 1,
        _ => 0,
    }
}

/// What can be read; damage counts as nothing.
pub(crate) fn readable<T>(result: Result<Option<T>>) -> Result<Option<T>> {
    match result {
        Err(Error::Corrupt { path, what }) => {
            tracing::warn!(path, what, "a damaged record of a checkpoint is passed over");
            Ok(None)
        }
        other => other,
    }
}
