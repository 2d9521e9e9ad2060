//! What one task reports of one phase, and what a phase costs.

use serde::{Deserialize, Serialize};

use crate::backend::Backend;
use crate::clock::{self, CpuOf};
use crate::histogram::Histogram;

/// A timed part of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub enum Phase {
    /// Writing the test file.
    #[default]
    Write,
    /// Reading back what was written, to compare it only.
    CheckWrite,
    /// Reading.
    Read,
    /// Removing test files.
    Remove,
    /// Making the directories of a metadata run.
    TreeCreate,
    /// Making directories that are the items of a metadata run.
    DirCreate,
    /// Asking for their attributes.
    DirStat,
    /// Renaming them.
    DirRename,
    /// Removing them.
    DirRemove,
    /// Creating files.
    FileCreate,
    /// Asking for their attributes.
    FileStat,
    /// Opening, reading and closing them.
    FileRead,
    /// Removing them.
    FileRemove,
    /// Removing the directories.
    TreeRemove,
    /// Walking a tree.
    Find,
    /// Writing the state of a checkpoint, until the application may go on.
    Save,
    /// Until a checkpoint is committed: it is what a restart after a crash of all processes finds.
    Commit,
    /// Until a checkpoint is in the shared tier.
    Durable,
    /// Reading a checkpoint back.
    Restore,
    /// Reading samples of a data set.
    Epoch,
}

/// When one task did what, by the host's monotonic clock, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Times {
    /// Before the file was opened.
    pub open_start: u64,
    /// After it was opened.
    pub open_end: u64,
    /// Before the first transfer.
    pub access_start: u64,
    /// After the last transfer, and fsync if asked for.
    pub access_end: u64,
    /// Before the file was closed.
    pub close_start: u64,
    /// After it was closed.
    pub close_end: u64,
}

impl Times {
    /// Times of a phase that has no parts: everything from `start` to `end` is access.
    pub fn simple(start: u64, end: u64) -> Self {
        Times {
            open_start: start,
            open_end: start,
            access_start: start,
            access_end: end,
            close_start: end,
            close_end: end,
        }
    }

    /// The same times on a clock that shows so many nanoseconds more.
    #[must_use]
    pub fn shifted(self, by: i64) -> Self {
        let shift = |time: u64| time.saturating_add_signed(by);
        Times {
            open_start: shift(self.open_start),
            open_end: shift(self.open_end),
            access_start: shift(self.access_start),
            access_end: shift(self.access_end),
            close_start: shift(self.close_start),
            close_end: shift(self.close_end),
        }
    }
}

/// How far a task had come at its deadline (IOR's and mdtest's stonewall), before it did what the others had done more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Stonewall {
    /// Its operations.
    pub operations: u64,
    /// Its bytes.
    pub bytes: u64,
    /// Nanoseconds since it began its first.
    pub after_ns: u64,
    /// Whether the deadline was hit; if not, all work was done before.
    pub hit: bool,
}

/// What one task did in one phase.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PhaseRecord {
    /// Repetition, from 0.
    pub repetition: u32,
    /// The phase.
    pub phase: Phase,
    /// When.
    pub times: Times,
    /// Transfers, or metadata operations.
    pub operations: u64,
    /// Bytes moved.
    pub bytes: u64,
    /// CPU time of the task, in nanoseconds.
    pub cpu_ns: u64,
    /// Messages sent, if the backend counts them for this task alone.
    pub messages: Option<u64>,
    /// Wrong 8-byte words found.
    pub errors: u64,
    /// The first of them, in words.
    pub first_error: Option<String>,
    /// Where the deadline was, if there was one.
    pub stonewall: Option<Stonewall>,
    /// How long each operation took, and what was done when.
    #[serde(default)]
    pub meter: Meter,
    /// Time that an application would have computed meanwhile.
    #[serde(default)]
    pub compute_ns: u64,
}

/// Nanoseconds of one step of [`Meter::steps`].
pub const STEP_NS: u64 = 100_000_000;

/// How long the operations of a phase took, and what was done when.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Meter {
    /// Durations.
    pub latency: Histogram,
    /// By steps of [`STEP_NS`] of the clock: (step, operations, bytes) ended in it.
    pub steps: Vec<(u64, u64, u64)>,
}

impl Meter {
    /// An operation from `start_ns` to `end_ns` moved `bytes`.
    pub fn note(&mut self, start_ns: u64, end_ns: u64, bytes: u64) {
        self.latency.note(end_ns.saturating_sub(start_ns));
        let step = end_ns / STEP_NS;
        match self.steps.last_mut() {
            Some(last) if last.0 == step => {
                last.1 += 1;
                last.2 += bytes;
            }
            _ => self.steps.push((step, 1, bytes)),
        }
    }

    /// Adds what another task did.
    pub fn add(&mut self, other: &Meter) {
        self.latency.add(&other.latency);
        self.steps.extend_from_slice(&other.steps);
        self.steps.sort_unstable_by_key(|step| step.0);
        self.steps.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            if same {
                kept.1 += next.1;
                kept.2 += next.2;
            }
            same
        });
    }

    /// The same on a clock that shows so many nanoseconds more.
    #[must_use]
    pub fn shifted(mut self, by: i64) -> Self {
        for step in &mut self.steps {
            step.0 = (step.0 * STEP_NS).saturating_add_signed(by) / STEP_NS;
        }
        self
    }
}

/// The counters of a task at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    of: CpuOf,
    cpu_ns: u64,
    messages: Option<u64>,
}

impl Usage {
    /// The counters now.
    pub fn now(of: CpuOf, backend: &dyn Backend) -> Self {
        // Threads share one client, whose counter cannot tell them apart.
        let messages = if of == CpuOf::Process { backend.messages_sent() } else { None };
        Usage { of, cpu_ns: clock::cpu_ns(of), messages }
    }

    /// What was used since: CPU nanoseconds and messages.
    pub fn since(&self, backend: &dyn Backend) -> (u64, Option<u64>) {
        let now = Usage::now(self.of, backend);
        let messages = now.messages.zip(self.messages).map(|(after, before)| after - before);
        (now.cpu_ns - self.cpu_ns, messages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What tasks did in the same step is one step; in other steps it stays apart.
    #[test]
    fn steps_of_tasks_join() {
        let (mut one, mut other) = (Meter::default(), Meter::default());
        one.note(0, 10, 5);
        one.note(10, 20, 5);
        one.note(20, STEP_NS * 3, 7);
        other.note(0, STEP_NS - 1, 1);
        other.note(0, STEP_NS * 2, 2);
        one.add(&other);
        assert_eq!(one.steps, [(0, 3, 11), (2, 1, 2), (3, 1, 7)]);
        assert_eq!(one.latency.count(), 5);
        assert_eq!(one.shifted((STEP_NS * 2) as i64).steps[0].0, 2);
    }
}
