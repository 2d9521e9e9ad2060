//! Bandwidth, with the options, meaning and output of IOR 4.0.
//!
//! | module | what |
//! |---|---|
//! | [`options`] | the command line |
//! | [`spec`] | the resolved test: who transfers which range of which file |
//! | [`task`] | what one task does |
//! | [`stats`] | records of tasks to results |
//! | [`report`] | the text |
//! | [`json`] | the JSON document |
//!
//! Where this differs from IOR:
//! - `-R` compares what the timed read returned, within the timing, so verification lowers the bandwidth shown and
//!   nothing unverified is counted.
//! - Latency is the smallest mean time of a transfer over the tasks. IOR divides by the transfers of one segment.
//! - `-z` deals the transfers of a shared file evenly to the tasks, and works together with `-R` and `-W`.
//! - Verification, `-C` and `-Z` on one node shift by tasks, not by nodes.
//! - Data is never compressible, and not chosen by `-l`.

pub mod json;
pub mod options;
pub mod report;
pub mod spec;
pub mod stats;
pub mod task;
#[cfg(test)]
mod tests;

use std::io::Write;
use std::time::Duration;

use crate::backend::{Capacity, Connection};
use crate::clock;
use crate::error::{BenchError, Result};
use crate::phase::{Phase, PhaseRecord};
use crate::tasks::coordinator::{self, Observer};
use crate::tasks::{Job, launch::Launch};
use report::TextReport;
use spec::IorSpec;
use stats::PhaseResult;

/// How and where results are shown.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Output {
    /// No text on the standard output (the JSON document goes there).
    pub quiet: bool,
    /// Write JSON: to this file, or with an empty name to the standard output.
    pub json: Option<String>,
    /// More lines, as with IOR's `-v`.
    pub verbose: u8,
    /// The user's own number of the test (`-A`).
    pub reference: i64,
    /// The command line, for the header.
    pub command_line: String,
}

/// All that a run gave.
#[derive(Debug, Clone, Default)]
pub struct IorOutcome {
    /// One entry for each phase and repetition, in the order they ended.
    pub results: Vec<PhaseResult>,
    /// Wrong 8-byte words found.
    pub errors: u64,
    /// From the start of the first task to the first barrier, which all tasks reached.
    pub startup: Duration,
}

/// Facts of a run that the reports show.
#[derive(Debug, Clone)]
pub struct RunFacts {
    /// When it began, in seconds since 1970.
    pub began: u64,
    /// When it ended.
    pub finished: u64,
    /// `Linux` and the host's name.
    pub machine: String,
    /// Space of the file system under test.
    pub capacity: Capacity,
    /// Time until all tasks were ready.
    pub startup: Duration,
    /// Whether tasks were threads.
    pub threads: bool,
}

/// Runs a test and writes its report.
///
/// # Errors
/// What ended the run (see [`BenchError`]); wrong content is counted in the outcome.
pub fn run(
    spec: &IorSpec,
    output: &Output,
    launch: &Launch,
    connection: &Connection,
    out: &mut dyn Write,
) -> Result<IorOutcome> {
    let uname = rustix::system::uname();
    let facts = RunFacts {
        began: clock::unix_seconds(),
        finished: 0,
        machine: format!("Linux {}", uname.nodename().to_string_lossy()),
        capacity: connection.backend().capacity(&spec.test_file)?,
        startup: Duration::ZERO,
        threads: matches!(launch, Launch::Threads),
    };
    let text = (!output.quiet).then(|| TextReport::new(spec, output));
    let mut progress =
        Progress { spec, text, out, facts, start_ns: clock::now_ns(), outcome: IorOutcome::default() };
    progress.header()?;
    coordinator::run(&Job::Ior(spec.clone()), spec.tasks, launch, connection, &mut progress)?;
    progress.facts.finished = clock::unix_seconds();
    progress.facts.startup = progress.outcome.startup;
    progress.footer(output)?;
    Ok(progress.outcome)
}

struct Progress<'a> {
    spec: &'a IorSpec,
    text: Option<TextReport<'a>>,
    out: &'a mut dyn Write,
    facts: RunFacts,
    start_ns: u64,
    outcome: IorOutcome,
}

impl Progress<'_> {
    fn header(&mut self) -> Result<()> {
        if let Some(text) = &self.text {
            text.header(self.out, &self.facts)?;
            self.out.flush()?;
        }
        Ok(())
    }

    fn footer(&mut self, output: &Output) -> Result<()> {
        if let Some(text) = &self.text {
            text.footer(self.out, &self.facts, &self.outcome)?;
        }
        match output.json.as_deref() {
            None => {}
            Some("") => json::write(self.out, self.spec, output, &self.facts, &self.outcome)?,
            Some(path) => {
                let failed = |error: std::io::Error| {
                    BenchError::Report(std::io::Error::new(error.kind(), format!("{path}: {error}")))
                };
                let mut file = std::fs::File::create(path).map_err(failed)?;
                json::write(&mut file, self.spec, output, &self.facts, &self.outcome).map_err(failed)?;
            }
        }
        self.out.flush()?;
        Ok(())
    }
}

impl Observer for Progress<'_> {
    fn ready(&mut self) {
        self.outcome.startup = Duration::from_nanos(clock::now_ns() - self.start_ns);
    }

    fn phase(&mut self, records: Vec<PhaseRecord>) -> Result<()> {
        let result = PhaseResult::new(self.spec, &records);
        self.outcome.errors += result.errors;
        if let Some(text) = &self.text {
            text.row(self.out, &result)?;
            self.out.flush()?;
        }
        self.outcome.results.push(result);
        Ok(())
    }
}

/// The results of one kind of phase, in order of repetition.
pub(crate) fn of_phase(results: &[PhaseResult], phase: Phase) -> impl Iterator<Item = &PhaseResult> {
    results.iter().filter(move |result| result.phase == phase)
}
