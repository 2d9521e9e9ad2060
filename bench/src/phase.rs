//! What one task reports of one phase, and what a phase costs.

use serde::{Deserialize, Serialize};

use crate::backend::Backend;
use crate::clock::{self, CpuOf};

/// A timed part of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Phase {
    /// Writing the test file.
    Write,
    /// Reading back what was written, to compare it only.
    CheckWrite,
    /// Reading.
    Read,
    /// Removing test files.
    Remove,
    /// Making the directories of a metadata run.
    TreeCreate,
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
}

/// What one task did in one phase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
