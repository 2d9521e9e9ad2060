//! States of a version, and waiting for them.
//!
//! # Invariants
//! - A version is DURABLE only if the servers say so of every file of it, and manifest and seals in the shared tier are those of
//!   tier 1 (`a_version_becomes_durable_by_itself`).
//! - No call waits beyond its time-out, but for a server that does not answer (the client's own time-out).

use std::collections::HashSet;
use std::time::{Duration, Instant};

use fs_client::InodeId;

use crate::attempt::Group;
use crate::checkpoints::{self, Checkpoints};
use crate::error::{Error, Result};
use crate::format::{self, Manifest, Verdict};
use crate::snapshot::Snapshot;

/// How long a wait sleeps between two looks, at first and at most.
const LOOK_FIRST: Duration = Duration::from_millis(1);
const LOOK_LAST: Duration = Duration::from_millis(100);

/// What became of a version so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Its ranks write.
    Open,
    /// A rank gave up, or did not come.
    Aborted,
    /// It was committed, and a restart from it failed: it is not offered again.
    Failed,
    /// All ranks have closed; sizes and checksums are recorded.
    Sealed,
    /// It can be restarted from.
    Committed,
    /// And is whole in the shared tier.
    Durable,
}

impl State {
    /// Its name, in small letters.
    pub fn name(self) -> &'static str {
        match self {
            State::Open => "open",
            State::Aborted => "aborted",
            State::Failed => "failed",
            State::Sealed => "sealed",
            State::Committed => "committed",
            State::Durable => "durable",
        }
    }
}

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// [`State::Sealed`] or more.
    Sealed,
    /// [`State::Committed`] or more.
    Committed,
    /// [`State::Durable`].
    Durable,
}

impl Level {
    fn reached(self, state: State) -> bool {
        let least = match self {
            Level::Sealed => State::Sealed,
            Level::Committed => State::Committed,
            Level::Durable => State::Durable,
        };
        state >= least
    }
}

/// Sleeps longer and longer, up to a tenth of a second, until a time-out.
pub(crate) struct Pauses {
    end: Instant,
    next: Duration,
}

impl Pauses {
    pub fn until(timeout: Duration) -> Pauses {
        // A time-out that no clock can tell is as good as none.
        let end = Instant::now().checked_add(timeout);
        Pauses { end: end.unwrap_or_else(|| Instant::now() + Duration::from_secs(1 << 30)), next: LOOK_FIRST }
    }

    /// Sleeps; answers whether there was time left.
    pub fn sleep(&mut self) -> bool {
        let left = self.end.saturating_duration_since(Instant::now());
        std::thread::sleep(self.next.min(left));
        self.next = (self.next * 2).min(LOOK_LAST);
        !left.is_zero()
    }
}

/// Which files of a version were found durable: they stay so, as nobody changes them.
#[derive(Default)]
struct Seen(HashSet<InodeId>);

impl Checkpoints {
    /// What became of a version so far.
    ///
    /// # Errors
    /// [`Error::NotFound`] if nobody began it, [`Error::FileSystem`].
    pub fn state(&self, set: &str, version: u64) -> Result<State> {
        self.look(&self.of(set)?, version, true, &mut Seen::default())
    }

    /// Waits until a version has reached `level`.
    ///
    /// # Errors
    /// [`Error::Aborted`] if its newest attempt was given up, [`Error::Failed`], [`Error::TimedOut`], and for [`Level::Durable`]
    /// [`Error::Invalid`] if the cluster has no shared tier.
    pub fn wait(&self, set: &str, version: u64, level: Level, timeout: Duration) -> Result<()> {
        let group = self.of(set)?;
        if level == Level::Durable && group.disk.cluster_tier().is_none() {
            return Err(Error::Invalid(
                "nothing becomes durable in a cluster without a shared tier".to_owned(),
            ));
        }
        let (mut pauses, mut seen) = (Pauses::until(timeout), Seen::default());
        loop {
            match self.look(&group, version, level == Level::Durable, &mut seen) {
                Ok(state) if level.reached(state) => return Ok(()),
                Ok(State::Failed) => return Err(Error::Failed { set: set.to_owned(), version }),
                Ok(State::Aborted) => {
                    let reason = aborted(&group, version)?.unwrap_or_default();
                    return Err(Error::Aborted { set: set.to_owned(), version, reason });
                }
                Ok(_) | Err(Error::NotFound { .. }) => {}
                Err(e) => return Err(e),
            }
            if !pauses.sleep() {
                let (set, seconds) = (set.to_owned(), timeout.as_secs());
                return Err(Error::TimedOut {
                    set,
                    version,
                    level: format!("{level:?}").to_lowercase(),
                    seconds,
                });
            }
        }
    }

    fn look(&self, group: &Group, version: u64, tier_too: bool, seen: &mut Seen) -> Result<State> {
        let Some(manifest) = checkpoints::manifest(group, version)? else {
            return attempted(group, version);
        };
        if group.has_failed(&manifest)? {
            return Ok(State::Failed);
        }
        let durable = tier_too && is_durable(group, &manifest, seen)?;
        Ok(if durable { State::Durable } else { State::Committed })
    }
}

/// The state of a version without a manifest.
fn attempted(group: &Group, version: u64) -> Result<State> {
    let Some(newest) = group.attempts_at(version)?.pop() else {
        let what = format!("version {version}");
        return Err(Error::NotFound { set: group.set.clone(), what });
    };
    Ok(match group.verdict(&newest)? {
        None => State::Open,
        Some(Verdict::Sealed(_)) => State::Sealed,
        Some(Verdict::Aborted { .. }) => State::Aborted,
    })
}

/// Why the newest attempt at a version was given up, if it was.
fn aborted(group: &Group, version: u64) -> Result<Option<String>> {
    let Some(newest) = group.attempts_at(version)?.pop() else { return Ok(None) };
    Ok(match group.verdict(&newest)? {
        Some(Verdict::Aborted { reason, .. }) => Some(reason),
        _ => None,
    })
}

/// Whether a committed version is whole in the shared tier.
pub(crate) fn is_in_tier(group: &Group, manifest: &Manifest) -> Result<bool> {
    is_durable(group, manifest, &mut Seen::default())
}

fn is_durable(group: &Group, manifest: &Manifest, seen: &mut Seen) -> Result<bool> {
    if group.disk.cluster_tier().is_none() {
        return Ok(false);
    }
    let version = format!("{}/{}", group.paths.versions, format::version_name(manifest.version));
    match group.disk.inode(&version)? {
        Some(ino) if is_copied(group, ino, seen)? => {}
        Some(_) => return Ok(false),
        // Tier 1 has lost it, or never had it: another cluster wrote it.
        None => return Ok(Snapshot::new(group.clone(), manifest.clone()).is_whole_in_tier()),
    }
    for rank in 0..manifest.seals.len() as u32 {
        let dir = format!("{}/r{rank}", group.paths.attempt_data(&manifest.full_name()));
        for entry in group.disk.list(&dir)? {
            if !is_copied(group, entry.ino, seen)? {
                return Ok(false);
            }
        }
    }
    for path in Snapshot::new(group.clone(), manifest.clone()).borrowed_files()? {
        let copied = group.disk.inode(&path)?.map(|ino| is_copied(group, ino, seen)).transpose()?;
        if copied != Some(true) {
            return Ok(false);
        }
    }
    // Where the tier cannot be looked into from here, the servers' word stands.
    Ok(group.disk.tier().is_none() || Snapshot::new(group.clone(), manifest.clone()).is_whole_in_tier())
}

fn is_copied(group: &Group, ino: InodeId, seen: &mut Seen) -> Result<bool> {
    Ok(seen.0.contains(&ino) || (group.disk.is_durable(ino)? && seen.0.insert(ino)))
}
