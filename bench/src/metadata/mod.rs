//! Creates, stats, opens and removes per second, in the manner of mdtest.
//!
//! Every task makes its files in one directory that all share, or in one of its own (`-u`). A phase lasts from the first
//! task that began to the last that ended; its rate is the files of all tasks in that time.

pub mod options;
pub mod report;
pub mod task;
#[cfg(test)]
mod tests;

use std::io::Write;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::backend::{Api, Connection};
use crate::clock;
use crate::error::{BenchError, Result};
use crate::ior::spec::IorSpec;
use crate::ior::stats::PhaseResult;
use crate::phase::PhaseRecord;
use crate::tasks::coordinator::{self, Observer};
use crate::tasks::{Job, launch::Launch};

/// A metadata test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::struct_excessive_bools)] // mdtest's independent switches.
pub struct MetadataSpec {
    /// Interface under test.
    pub api: Api,
    /// Directory in which the test makes its own.
    pub directory: String,
    /// How many tasks.
    pub tasks: u32,
    /// Files of each task.
    pub items: u64,
    /// Repetitions.
    pub repetitions: u32,
    /// Each task in a directory of its own.
    pub unique_dir: bool,
    /// Bytes written into each file at its creation.
    pub write_bytes: u64,
    /// Whose files a task stats and reads: those of the task so much further.
    pub shift: u32,
    /// Create files.
    pub create: bool,
    /// Stat them.
    pub stat: bool,
    /// Open them, read `write_bytes` and compare, close.
    pub read: bool,
    /// Remove them.
    pub remove: bool,
    /// Seed of the content.
    pub seed: u64,
}

impl MetadataSpec {
    /// One task that creates, stats, reads and removes `items` empty files in a directory within `directory`.
    pub fn new(api: Api, directory: impl Into<String>, items: u64) -> Self {
        MetadataSpec {
            api,
            directory: directory.into(),
            tasks: 1,
            items,
            repetitions: 1,
            unique_dir: false,
            write_bytes: 0,
            shift: 0,
            create: true,
            stat: true,
            read: true,
            remove: true,
            seed: 1,
        }
    }

    /// Checks that the test has a meaning.
    ///
    /// # Errors
    /// [`BenchError::Options`] with what is wrong.
    pub fn validate(&self) -> Result<()> {
        if self.tasks == 0 || self.items == 0 || self.repetitions == 0 {
            let what = "tasks (-N), items (-n) and repetitions (-i) must be at least 1";
            return Err(BenchError::Options(what.to_owned()));
        }
        if self.repetitions > 1 && self.create != self.remove {
            let what = "repetitions (-i) need the phases that create (-C) and remove (-r), or neither";
            return Err(BenchError::Options(what.to_owned()));
        }
        if self.write_bytes > 1 << 30 {
            return Err(BenchError::Options("files of a metadata test are at most 1 GiB (-w)".to_owned()));
        }
        Ok(())
    }

    /// The directory of the test.
    pub fn root(&self) -> String {
        format!("{}/mdtest.hayate", self.directory.trim_end_matches('/'))
    }

    /// The directory with the files of a task.
    pub fn dir_of(&self, rank: u32) -> String {
        let root = self.root();
        if self.unique_dir { format!("{root}/task.{rank}") } else { root }
    }

    /// A file of a task.
    pub fn file_of(&self, rank: u32, item: u64) -> String {
        format!("{}/file.mdtest.{rank}.{item}", self.dir_of(rank))
    }

    /// Number of a file for its content.
    pub fn file_number(&self, rank: u32, item: u64) -> u64 {
        u64::from(rank) * self.items + item
    }
}

/// All that a run gave.
#[derive(Debug, Clone, Default)]
pub struct MetadataOutcome {
    /// One entry for each phase and repetition, in the order they ended.
    pub results: Vec<PhaseResult>,
    /// Wrong 8-byte words found.
    pub errors: u64,
    /// From the start of the first task until all were ready.
    pub startup: Duration,
}

/// Runs a test and writes its report.
///
/// # Errors
/// What ended the run (see [`BenchError`]); wrong content is counted in the outcome.
pub fn run(
    spec: &MetadataSpec,
    command_line: &str,
    launch: &Launch,
    connection: &Connection,
    out: &mut dyn Write,
) -> Result<MetadataOutcome> {
    spec.validate()?;
    let capacity = connection.backend().capacity(&spec.directory)?;
    report::header(out, spec, command_line, capacity)?;
    out.flush()?;
    let mut progress = Progress { start_ns: clock::now_ns(), outcome: MetadataOutcome::default() };
    coordinator::run(&Job::Metadata(spec.clone()), spec.tasks, launch, connection, &mut progress)?;
    report::footer(out, spec, &progress.outcome, matches!(launch, Launch::Threads))?;
    out.flush()?;
    Ok(progress.outcome)
}

struct Progress {
    start_ns: u64,
    outcome: MetadataOutcome,
}

impl Observer for Progress {
    fn ready(&mut self) {
        self.outcome.startup = Duration::from_nanos(clock::now_ns() - self.start_ns);
    }

    fn phase(&mut self, records: Vec<PhaseRecord>) -> Result<()> {
        // Only the latency depends on the sizes of an IOR test, and it is not shown.
        let result = PhaseResult::new(&IorSpec::new(Api::Null, ""), &records);
        self.outcome.errors += result.errors;
        self.outcome.results.push(result);
        Ok(())
    }
}
