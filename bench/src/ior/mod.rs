//! Bandwidth, with the options, meaning and output of IOR 4.0.
//!
//! | module | what |
//! |---|---|
//! | [`options`], [`directives`], [`script`] | the command line, `-O` and `-f` |
//! | [`plan`] | what one command measures, and where results go |
//! | [`spec`] | the resolved test: who transfers which range of which file |
//! | [`task`] | what one task does |
//! | [`report`] | the text |
//! | [`json`], [`csv`] | the documents |
//! | [`warnings`] | what a reader of the figures must know |
//!
//! Where this differs from IOR:
//! - `-R` compares what the timed read returned, within the timing, so verification lowers the bandwidth shown and
//!   nothing unverified is counted.
//! - Latency is the smallest mean time of a transfer over the tasks. IOR divides by the transfers of one segment.
//! - `-z` deals the transfers of a shared file evenly to the tasks, and works together with `-R` and `-W`.
//! - After a deadline (`-D`) without stoneWallingWearOut, reads stop where the slowest writer stopped.
//! - `-Z` reads every task's data once; IOR may read some twice and some not.
//! - `-C` on one node moves by tasks; IOR moves by all tasks of the node, so that each reads its own.
//! - `-v` tells when phases begin, as IOR 4.0 does; 4.1 does from `-vvv` on.
//! - Options after `-f` are defaults of the script too; in IOR they do not count.
//! - Content is random and names its place unless `-l` says otherwise.

pub mod csv;
pub mod directives;
#[cfg(test)]
mod effects_tests;
pub mod json;
pub mod options;
pub mod plan;
pub mod report;
pub mod script;
pub mod spec;
pub mod task;
#[cfg(test)]
mod tests;
pub mod warnings;

use std::fs::OpenOptions;
use std::io::Write;
use std::time::Duration;

use crate::backend::{Capacity, Storage};
use crate::clock;
use crate::configuration::Configuration;
use crate::error::{BenchError, Result};
use crate::machine::Machine;
use crate::phase::Phase;
use crate::results::PhaseResult;
use crate::session::{Session, Sink};
use crate::tasks::Job;
use plan::{Format, Output, Plan, Test};
use report::TextReport;

/// What one test gave.
#[derive(Debug, Clone)]
pub struct TestOutcome {
    /// The test, with what was found out about the tasks.
    pub test: Test,
    /// One entry for each phase and repetition, in the order they ended.
    pub results: Vec<PhaseResult>,
    /// Wrong 8-byte words found.
    pub errors: u64,
    /// When it began, in seconds since 1970.
    pub began: u64,
    /// Space of the file system under test.
    pub capacity: Capacity,
    /// What lies below its path.
    pub storage: Storage,
    /// Nodes that the tasks were on: hosts, or with `--spread` servers.
    pub nodes: u32,
    /// Hosts that the tasks were on.
    pub hosts: u32,
    /// Why the file that says how far an earlier write came could not be read, if it should have been.
    pub status_unread: Option<String>,
    /// What is to be known of the CPU time of a mount.
    pub of_mount: Vec<String>,
}

/// Facts of a run that the reports show.
#[derive(Debug, Clone)]
pub struct RunFacts {
    /// When it began, in seconds since 1970.
    pub began: u64,
    /// When it ended.
    pub finished: u64,
    /// The machine of the coordinator.
    pub machine: Machine,
    /// Time until all tasks were ready.
    pub startup: Duration,
    /// What tasks are.
    pub tasks_are: &'static str,
    /// How many servers were watched.
    pub servers: Option<usize>,
    /// How what was measured is configured.
    pub configuration: Configuration,
}

/// All that a run gave.
#[derive(Debug, Clone)]
pub struct IorOutcome {
    /// The tests in their order.
    pub tests: Vec<TestOutcome>,
    /// About the run.
    pub facts: RunFacts,
}

impl IorOutcome {
    /// Wrong 8-byte words found by all tests.
    pub fn errors(&self) -> u64 {
        self.tests.iter().map(|test| test.errors).sum()
    }
}

/// Runs all tests of a plan and writes its reports.
///
/// # Errors
/// What ended the run (see [`BenchError`]); wrong content is counted in the outcome.
pub fn run(plan: &Plan, session: &mut Session, out: &mut dyn Write) -> Result<IorOutcome> {
    let began = clock::unix_seconds();
    let machine = Machine::this();
    let mut shown = Shown { output: &plan.output, out };
    if let Some(path) = &plan.output.rank_csv {
        write_file(path, false, |file| writeln!(file, "{}", csv::RANK_HEADER))?;
    }
    shown.text(|out, text| text.begin(out, began, &machine))?;
    let path = plan.tests.first().map_or(String::new(), |test| test.spec.file_of(0, 0).1);
    let configuration = session.configuration(&path, plan.tests.iter().map(|test| test.spec.tasks));
    let tests = plan.tests.iter().map(|test| run_test(test, session, &mut shown)).collect::<Result<_>>()?;
    let facts = RunFacts {
        began,
        finished: clock::unix_seconds(),
        machine,
        startup: session.startup(),
        tasks_are: session.launch().kind(),
        servers: session.servers(),
        configuration,
    };
    let outcome = IorOutcome { tests, facts };
    shown.finish(&outcome)?;
    Ok(outcome)
}

fn run_test(test: &Test, session: &mut Session, shown: &mut Shown<'_>) -> Result<TestOutcome> {
    let placement = session.placement(test.spec.tasks);
    let mut test = test.clone();
    (test.spec.tasks_per_node, test.spec.node_step) = (placement.tasks_per_node(), placement.step());
    test.spec.hog_bytes = test.spec.hog_bytes.max(test.hog_per_node / u64::from(test.spec.tasks_per_node));
    let status_unread = recall(&mut test)?;
    let (_, path) = test.spec.file_of(0, 0);
    let of_mount = session.watch_mount(&path);
    let backend = session.connection().backend();
    let mut outcome = TestOutcome {
        results: Vec::new(),
        errors: 0,
        began: clock::unix_seconds(),
        capacity: backend.capacity(&path)?,
        storage: backend.storage(&path),
        nodes: placement.nodes,
        hosts: session.hosts(test.spec.tasks),
        status_unread,
        of_mount,
        test,
    };
    shown.text(|out, text| text.header(out, &outcome))?;
    let job = Job::Ior(Box::new(outcome.test.spec.clone()));
    let tasks = outcome.test.spec.tasks;
    session.run(&job, tasks, &mut Phases { shown, outcome: &mut outcome })?;
    if let Some(path) = outcome.test.status_file.as_ref().filter(|_| outcome.test.spec.write) {
        let done = outcome.results.iter().filter(|r| r.phase == Phase::Write).filter_map(|r| r.stonewall);
        let most =
            done.map(|wall| wall.max_operations).max().unwrap_or(outcome.test.spec.transfers_per_task());
        write_file(path, false, |file| writeln!(file, "{most}"))?;
    }
    shown.text(|out, text| text.maxima(out, &outcome))?;
    Ok(outcome)
}

/// The phases of a test, shown while they pass.
struct Phases<'a, 'b> {
    shown: &'a mut Shown<'b>,
    outcome: &'a mut TestOutcome,
}

impl Sink for Phases<'_, '_> {
    fn begins(&mut self, phase: Phase, now: u64) -> Result<()> {
        self.shown.text(|out, text| text.phase_begins(out, phase, now))
    }

    fn ended(&mut self, result: PhaseResult) -> Result<()> {
        let outcome = &mut *self.outcome;
        outcome.errors += result.errors;
        self.shown.text(|out, text| text.row(out, &outcome.test, &result))?;
        self.shown.ranks(&result)?;
        outcome.results.push(result);
        Ok(())
    }
}

/// Gives a test that only reads what a write phase noted of how far it came. Why it could not: as in IOR this ends a run only with `--warningAsErrors`.
fn recall(test: &mut Test) -> Result<Option<String>> {
    let Some(path) = test.status_file.as_ref().filter(|_| !test.spec.write) else { return Ok(None) };
    match read_status(path) {
        Ok(transfers) => test.spec.wear_out_iterations = transfers,
        Err(why) if test.warnings_are_errors => return Err(BenchError::Options(why)),
        Err(why) => return Ok(Some(why)),
    }
    Ok(None)
}

fn read_status(path: &str) -> std::result::Result<u64, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("cannot read stonewall status {path}: {error}"))?;
    text.trim().parse().map_err(|_| format!("stonewall status {path} holds no number of transfers"))
}

/// Writes a file, or adds to it, with its name in the error.
pub(crate) fn write_file(
    path: &str,
    append: bool,
    write: impl FnOnce(&mut std::fs::File) -> std::io::Result<()>,
) -> Result<()> {
    let mut options = OpenOptions::new();
    options.create(true).write(true).append(append).truncate(!append);
    options
        .open(path)
        .and_then(|mut file| write(&mut file))
        .map_err(|error| BenchError::Report(std::io::Error::new(error.kind(), format!("{path}: {error}"))))
}

/// Where the reports go while the run goes on.
struct Shown<'a> {
    output: &'a Output,
    out: &'a mut dyn Write,
}

impl Shown<'_> {
    fn text(
        &mut self,
        write: impl FnOnce(&mut dyn Write, &TextReport<'_>) -> std::io::Result<()>,
    ) -> Result<()> {
        if self.output.shows_text() {
            write(self.out, &TextReport::new(self.output))?;
            self.out.flush()?;
        }
        Ok(())
    }

    fn ranks(&mut self, result: &PhaseResult) -> Result<()> {
        match &self.output.rank_csv {
            Some(path) => write_file(path, true, |file| csv::ranks(file, result)),
            None => Ok(()),
        }
    }

    fn finish(&mut self, outcome: &IorOutcome) -> Result<()> {
        self.text(|out, text| text.footer(out, outcome))?;
        let output = self.output;
        let document = |out: &mut dyn Write| match output.format {
            Format::Text => TextReport::new(output).whole(out, outcome),
            Format::Json => json::write(out, output, outcome),
            Format::Csv => csv::write(out, outcome),
        };
        match &output.file {
            Some(path) => write_file(path, false, |file| document(file))?,
            None if output.format != Format::Text => document(self.out)?,
            None => {}
        }
        self.out.flush()?;
        Ok(())
    }
}
