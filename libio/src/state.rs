//! States of a version, and waiting for them.
//!
//! # Invariants
//! - A version is DURABLE only if the servers say so of every file that its seals name, and manifest and seals in the shared tier are those of
//!   tier 1; and if a store was lost since the commit, only if every byte there is right (`holes_are_not_durable`; `a_version_becomes_durable_by_itself`, `what_tier_1_does_not_list_is_not_durable`).
//! - No call waits beyond its time-out, but for a server that does not answer (the client's own time-out; `crates/cli/tests/ckpt.rs`:
//!   `calls_end_while_a_server_does_not_answer`).

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crate::attempt::{Attempt, Group};
use crate::checkpoints::{self, Checkpoints};
use crate::copies::Survey;
use crate::error::{Error, Result};
use crate::format::{Manifest, Verdict};
use crate::register::is_silence;
use crate::snapshot::Snapshot;

/// How long a wait sleeps between two looks, at first and at most.
const LOOK_FIRST: Duration = Duration::from_millis(1);
const LOOK_LAST: Duration = Duration::from_millis(100);

/// How long a sealed version is left to the rank that publishes it; then whoever waits does so.
pub(crate) const PUBLISHING: Duration = Duration::from_secs(1);

/// What became of a version so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Its ranks write.
    Open,
    /// A rank gave up, or did not come.
    Aborted,
    /// It was committed, and a restart from it failed: it is not offered again.
    Failed,
    /// It may have been committed: its manifest is damaged, wherever it is.
    Damaged,
    /// All ranks have closed; sizes and checksums are recorded.
    Sealed,
    /// It can be restarted from.
    Committed,
    /// And the servers say that all of it is in the shared tier, where manifest, seals and sizes are right. The bytes there are read only if a store was lost since the
    /// commit: damage of the tier's own is found by [`Snapshot::audit`], and by another cluster before it offers the version.
    Durable,
}

impl State {
    /// Its name, in small letters.
    pub fn name(self) -> &'static str {
        match self {
            State::Open => "open",
            State::Aborted => "aborted",
            State::Failed => "failed",
            State::Damaged => "damaged",
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

    /// Whether no time is left.
    pub fn is_over(&self) -> bool {
        Instant::now() >= self.end
    }

    /// How much time is left.
    pub fn left(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// Sleeps; answers whether there was time left.
    pub fn sleep(&mut self) -> bool {
        let left = self.left();
        std::thread::sleep(self.next.min(left));
        self.next = (self.next * 2).min(LOOK_LAST);
        !left.is_zero()
    }
}

/// What a version has, and which files of it were found durable: they stay so, as nobody changes them.
#[derive(Default)]
struct Seen {
    /// Of this manifest's attempt.
    version: Option<Snapshot>,
    durable: HashSet<String>,
}

impl Seen {
    fn snapshot(&mut self, group: &Group, manifest: &Manifest) -> Snapshot {
        match self.version.take() {
            Some(snapshot) if snapshot.is_of(manifest) => snapshot,
            _ => {
                self.durable.clear();
                Snapshot::new(group.clone(), manifest.clone())
            }
        }
    }
}

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
        let (mut pauses, mut seen, mut since) = (Pauses::until(timeout), Seen::default(), Instant::now());
        loop {
            match self.look(&group, version, level == Level::Durable, &mut seen) {
                Ok(state) if level.reached(state) => return Ok(()),
                Ok(State::Failed) => return Err(Error::Failed { set: set.to_owned(), version }),
                Ok(State::Aborted) => {
                    let reason = aborted(&group, version)?.unwrap_or_default();
                    return Err(Error::Aborted { set: set.to_owned(), version, reason });
                }
                Ok(State::Sealed | State::Open) => {
                    if since.elapsed() >= PUBLISHING {
                        complete(&group, version)?;
                        since = Instant::now();
                    }
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
        let here = checkpoints::here(group, version);
        // A server that was waited for once is not waited for as long again.
        let hasty = here.as_ref().is_err_and(is_silence).then(|| group.hasty());
        let group = hasty.as_ref().unwrap_or(group);
        let manifest = match checkpoints::or_in_tier(here, group, version) {
            Ok(Some(manifest)) => manifest,
            nowhere => return elsewhere(group, version, nowhere.err()),
        };
        // Where there are copies of the manifest, the mark is with them, and its name may be lost.
        let failed = group.has_failed(&manifest)?
            || (manifest.spare > 0 && Survey::take(&group.disk, &group.keys)?.has_failed(&manifest));
        if failed {
            return Ok(State::Failed);
        }
        let durable = tier_too && is_durable(group, &manifest, seen)?;
        Ok(if durable { State::Durable } else { State::Committed })
    }
}

/// The state of a version whose manifest neither tier shows: single servers may have copies of it.
fn elsewhere(group: &Group, version: u64, failure: Option<Error>) -> Result<State> {
    let state = failure.map_or_else(|| attempted(group, version), Err);
    if let Ok(State::Open | State::Aborted) = state {
        return state;
    }
    let survey = Survey::take(&group.disk, &group.keys)?;
    match survey.manifest(&group.disk, version) {
        Some(manifest) if survey.has_failed(&manifest) => Ok(State::Failed),
        // A sealed one is on its way.
        Some(_) if !matches!(state, Ok(State::Sealed)) => Ok(State::Committed),
        _ => state,
    }
}

/// The newest attempt at a version, and how it ended.
fn newest_attempt(group: &Group, version: u64) -> Result<Option<(Attempt, Option<Verdict>)>> {
    let Some(newest) = group.attempts_at(version)?.pop() else { return Ok(None) };
    let verdict = group.verdict(&newest)?;
    Ok(Some((newest, verdict)))
}

/// The state of a version without a manifest.
fn attempted(group: &Group, version: u64) -> Result<State> {
    match newest_attempt(group, version)? {
        None => Err(group.no_version(version)),
        Some((_, None)) => Ok(State::Open),
        Some((_, Some(Verdict::Sealed(_)))) => Ok(State::Sealed),
        Some((_, Some(Verdict::Aborted { .. }))) => Ok(State::Aborted),
    }
}

/// Makes a version visible that all ranks have sealed: whoever should have died.
fn complete(group: &Group, version: u64) -> Result<()> {
    match newest_attempt(group, version)? {
        Some((newest, Some(Verdict::Sealed(sealed)))) => group.finish_sealed(&newest, &sealed),
        // Who may only look waits for those who write.
        Some((newest, None)) => {
            if let Err(e) = group.complete(&newest) {
                tracing::debug!(set = group.set, version, error = %e, "whether all ranks have sealed it is not known");
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Why the newest attempt at a version was given up, if it was.
fn aborted(group: &Group, version: u64) -> Result<Option<String>> {
    Ok(match newest_attempt(group, version)? {
        Some((_, Some(Verdict::Aborted { reason, .. }))) => Some(reason),
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
    let snapshot = seen.snapshot(group, manifest);
    let durable = is_all_durable(group, manifest, &snapshot, &mut seen.durable);
    seen.version = Some(snapshot);
    durable
}

fn is_all_durable(
    group: &Group,
    manifest: &Manifest,
    snapshot: &Snapshot,
    seen: &mut HashSet<String>,
) -> Result<bool> {
    let version = group.paths.manifest(manifest.version);
    match is_copied(group, version, seen)? {
        Some(true) => {}
        Some(false) => return Ok(false),
        // Tier 1 has lost it, or never had it: another cluster wrote it.
        None => return Ok(group.disk.tier().is_some() && is_whole_in_tier(group, manifest, snapshot)?),
    }
    // What a directory lists would not do: it lists nothing when it is lost.
    let files = match snapshot.all_files() {
        Err(Error::Corrupt { .. } | Error::NotFound { .. }) => return Ok(false),
        files => files?,
    };
    for path in files {
        if is_copied(group, path, seen)? != Some(true) {
            return Ok(false);
        }
    }
    is_whole_in_tier(group, manifest, snapshot)
}

/// A server that lost its share of a file may have flushed holes: then the servers' word does not count, and the tier's bytes are read.
fn is_whole_in_tier(group: &Group, manifest: &Manifest, snapshot: &Snapshot) -> Result<bool> {
    let lost = !Survey::take(&group.disk, &group.keys)?.lost(manifest).is_empty();
    // Where the tier cannot be looked into from here, the servers' word stands.
    Ok((group.disk.tier().is_none() && !lost) || snapshot.is_whole_in_tier(lost))
}

/// Whether a file is in the shared tier; none if it does not exist.
fn is_copied(group: &Group, path: String, seen: &mut HashSet<String>) -> Result<Option<bool>> {
    if seen.contains(&path) {
        return Ok(Some(true));
    }
    let Some(ino) = group.disk.inode(&path)? else { return Ok(None) };
    let durable = group.disk.is_durable(ino)?;
    if durable {
        seen.insert(path);
    }
    Ok(Some(durable))
}
