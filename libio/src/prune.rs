//! Removing versions, and what attempts left behind.
//!
//! A version leaves in an order that a crash may interrupt anywhere: a mark that nobody may publish it again, the manifest (from then on
//! it is invisible), the data, the group record, the verdict, the mark. The next call goes on where it stopped.
//!
//! # Invariants
//! - The newest complete version, and what is newer, is never touched by [`Checkpoints::prune`] (`prune_keeps_the_newest`).
//! - Damage does not stop it: names alone say what belongs to a version (`a_damaged_version_can_be_removed`).

use std::collections::BTreeSet;

use crate::attempt::{Attempt, Group};
use crate::checkpoints::{Checkpoints, listed, whole};
use crate::error::{Error, Result};
use crate::format::{self, Pruned, SetPaths, Verdict};

impl Checkpoints {
    /// Removes all but the newest `keep` complete versions (at least one stays), and the data of attempts that were given up. Answers
    /// the versions removed. May be called while others write and read; attempts at versions older than the oldest one kept
    /// are ended.
    pub fn prune(&self, set: &str, keep: usize) -> Result<Vec<u64>> {
        let group = self.of(set)?;
        let listed = listed(&group)?;
        let Some(oldest) = oldest_kept(&group, &listed, keep.max(1))? else {
            return Ok(Vec::new());
        };
        for version in names_of_all(&group)?.range(..oldest) {
            remove_version(&group, *version)?;
        }
        for (version, number) in group.attempts()?.into_iter().filter(|(version, _)| *version >= oldest) {
            if let Some(attempt) = readable(group.attempt(version, number))?
                && let Some(Verdict::Aborted { .. }) = readable(group.verdict(&attempt))?
            {
                // Record and verdict stay: the number must not be used again while ranks may come late.
                group.disk.remove_tree(&group.data_dir(&attempt))?;
            }
        }
        Ok(listed.into_iter().filter(|version| *version < oldest).collect())
    }

    /// Removes one version, whichever it is: a damaged one, say, whose number is to be written again.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it is not committed.
    pub fn remove(&self, set: &str, version: u64) -> Result<()> {
        let group = self.of(set)?;
        if !listed(&group)?.contains(&version) {
            return Err(Error::NotFound { set: set.to_owned(), what: format!("version {version}") });
        }
        remove_version(&group, version)
    }
}

/// The oldest of the newest `keep` complete versions.
fn oldest_kept(group: &Group, listed: &[u64], keep: usize) -> Result<Option<u64>> {
    let (mut oldest, mut kept) = (None, 0);
    for version in listed.iter().rev() {
        if kept < keep && whole(group, *version)? {
            (oldest, kept) = (Some(*version), kept + 1);
        }
    }
    Ok(oldest)
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
    for name in names_of(group, attempts, version)? {
        if let Some((_, number)) = format::parse_attempt(name.as_bytes())
            && let Some(attempt) = readable(group.attempt(version, number))?
        {
            mark(group, &attempt)?;
        }
    }
    group.disk.remove_file(&format!("{versions}/{}", format::version_name(version)))?;
    for name in names_of(group, data, version)? {
        // A rank that goes on writing may keep it from vanishing; what it leaves goes with the next call.
        group.disk.remove_tree(&format!("{data}/{name}"))?;
    }
    let mut records = names_of(group, attempts, version)?;
    records.sort_by_key(|name| leaving_order(name));
    for name in records {
        group.disk.remove_file(&format!("{attempts}/{name}"))?;
    }
    for name in names_of(group, versions, version)?.iter().filter(|name| name.contains('~')) {
        group.disk.remove_file(&format!("{versions}/{name}"))?;
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
        _ if name.ends_with(".verdict") => 1,
        _ => 0,
    }
}

/// What can be read; damage counts as nothing.
fn readable<T>(result: Result<Option<T>>) -> Result<Option<T>> {
    match result {
        Err(Error::Corrupt { path, what }) => {
            tracing::warn!(path, what, "a damaged record of a checkpoint is passed over");
            Ok(None)
        }
        other => other,
    }
}
