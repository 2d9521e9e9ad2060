//! Creates, stats, opens, renames and removes per second, with the options, meaning and output of mdtest 4.
//!
//! | module | what |
//! |---|---|
//! | [`options`] | the command line |
//! | [`spec`], [`checks`] | the resolved test: which items lie where; which tests have a meaning |
//! | [`task`], [`items`] | what one task does; what is done to one item |
//! | [`report`], [`table`] | the text and the JSON document; the tables of results |
//! | [`ranks`] | the CSV file of tasks |
//!
//! A phase lasts from the first task that began to the last that ended; its rate is the items of all tasks in that time.
//!
//! Where this differs from mdtest:
//! - Items of `-n` with `-I` lie in directories beside each other, and not in a tree at the same time.
//! - Files have random content that names its place, so that `-X` finds what was swapped, too.
//! - With `-C` and `-w`, a stat (`-T`) of a wrong size ends the run; what mdtest warns of (an item that cannot be made, read or removed) does,
//!   too.
//! - `-Z` and `-P` print the seconds of a phase, as mdtest does, and say so: mdtest 4.1 calls them milliseconds of an operation.
//! - With `-S` all tasks write the same content, so that `-X` can compare it; task 0 removes the files, and they count once.
//! - `-W` ends the creation of directories, too. It does not go together with `-c`.
//! - Commands (`--run-cmd-before-phase`) that fail end the run.

pub mod checks;
mod items;
pub mod options;
pub mod ranks;
pub mod report;
pub mod spec;
pub mod table;
pub mod task;
#[cfg(test)]
mod tests;

use std::io::Write;
use std::time::Duration;

use crate::backend::Storage;
use crate::configuration::Configuration;
use crate::error::{BenchError, Result};
use crate::ior::write_file;
use crate::machine::Machine;
use crate::phase::Phase;
use crate::results::{PhaseResult, of_phase};
use crate::session::Session;
use crate::tasks::Job;
use spec::MdtestSpec;

/// Which tables are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // mdtest's independent switches.
pub struct Show {
    /// Operations a second.
    pub rate: bool,
    /// Seconds (`-Z`, `-P`).
    pub time: bool,
    /// Columns over all tasks (`--showRankStatistics`).
    pub of_ranks: bool,
    /// A line of each phase with all tasks (`--print-all-procs`).
    pub each_rank: bool,
    /// A line for each phase when it is done (`-v`).
    pub verbose: u8,
}

/// What one command measures, and where results go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setup {
    /// The test.
    pub spec: MdtestSpec,
    /// The numbers of tasks that do it, one after the other (`-f`, `-l`, `-s`).
    pub counts: Vec<u32>,
    /// Which tables are printed.
    pub show: Show,
    /// Where a deadline of the creation notes how far it came, and later runs find it.
    pub status_file: Option<String>,
    /// Where rate and time of each task go.
    pub rank_csv: Option<String>,
    /// Where the JSON document goes.
    pub json: Option<String>,
    /// The command line, for the header.
    pub command_line: String,
}

impl Setup {
    /// A test by its specification only: a table of rates.
    pub fn new(spec: MdtestSpec) -> Self {
        let show = Show { rate: true, time: false, of_ranks: false, each_rank: false, verbose: 0 };
        Setup {
            counts: vec![spec.tasks],
            spec,
            show,
            status_file: None,
            rank_csv: None,
            json: None,
            command_line: String::new(),
        }
    }
}

/// All that a run gave.
#[derive(Debug, Clone)]
pub struct MdtestOutcome {
    /// One entry for each phase and repetition, in the order they ended.
    pub results: Vec<PhaseResult>,
    /// Wrong 8-byte words found.
    pub errors: u64,
    /// From the start of the first task until all were ready.
    pub startup: Duration,
    /// The machine of the coordinator.
    pub machine: Machine,
    /// What tasks are.
    pub tasks_are: &'static str,
    /// Hosts that the tasks were on.
    pub hosts: u32,
    /// How many servers were watched.
    pub servers: Option<usize>,
    /// What lies below the directory.
    pub storage: Storage,
    /// How what was measured is configured.
    pub configuration: Configuration,
    /// What is to be known of the CPU time of a mount.
    pub of_mount: Vec<String>,
}

/// Runs a test and writes its report.
///
/// # Errors
/// What ended the run (see [`BenchError`]); wrong content is counted in the outcome.
pub fn run(setup: &Setup, session: &mut Session, out: &mut dyn Write) -> Result<MdtestOutcome> {
    let mut setup = setup.clone();
    let placement = session.placement(setup.spec.tasks);
    setup.spec.node_step = placement.step();
    if !setup.spec.create
        && let Some(path) = &setup.status_file
    {
        setup.spec.items = read_status(path)?.min(setup.spec.items);
    }
    let spec = &setup.spec;
    if let Some(path) = &setup.rank_csv {
        write_file(path, false, ranks::header)?;
    }
    let of_mount = session.watch_mount(spec.directory(0));
    let backend = session.connection().backend();
    let (capacity, storage) = (backend.capacity(spec.directory(0))?, backend.storage(spec.directory(0)));
    let configuration = session.configuration(spec.directory(0), setup.counts.iter().copied());
    report::header(out, &setup, &placement, capacity)?;
    out.flush()?;
    let mut results = Vec::new();
    for count in &setup.counts {
        let begin = results.len();
        let spec = MdtestSpec { tasks: *count, ..spec.clone() };
        report::begins(out, &setup, &spec)?;
        session.run(&Job::Mdtest(Box::new(spec.clone())), *count, &mut |result: PhaseResult| {
            report::done(out, &setup, &result)?;
            results.push(result);
            Ok(())
        })?;
        table::write(out, &setup, &spec, &results[begin..])?;
        if let Some(path) = &setup.rank_csv {
            write_file(path, true, |file| ranks::write(file, &spec, &results[begin..]))?;
        }
    }
    let outcome = MdtestOutcome {
        errors: results.iter().map(|result| result.errors).sum(),
        results,
        startup: session.startup(),
        machine: Machine::this(),
        tasks_are: session.launch().kind(),
        hosts: session.hosts(spec.tasks),
        servers: session.servers(),
        storage,
        configuration,
        of_mount,
    };
    if let Some(path) = setup.status_file.as_ref().filter(|_| spec.create) {
        write_file(path, false, |file| writeln!(file, "{}", created(spec, &outcome)))?;
    }
    report::footer(out, &setup, &outcome)?;
    out.flush()?;
    if let Some(path) = &setup.json {
        write_file(path, false, |file| writeln!(file, "{:#}", report::document(&setup, &outcome)))?;
    }
    Ok(outcome)
}

/// Items that each task has after the creation.
fn created(spec: &MdtestSpec, outcome: &MdtestOutcome) -> u64 {
    let phase = if spec.files { Phase::FileCreate } else { Phase::DirCreate };
    let walls = of_phase(&outcome.results, phase).filter_map(|result| result.stonewall);
    walls.map(|wall| wall.max_operations).max().unwrap_or(spec.items)
}

fn read_status(path: &str) -> Result<u64> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| BenchError::Options(format!("cannot read stonewall status {path}: {error}")))?;
    text.trim().parse().map_err(|_| BenchError::Options(format!("{path} holds no number of items")))
}
