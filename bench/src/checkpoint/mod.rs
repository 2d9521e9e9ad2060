//! `hayate bench checkpoint`: how long a checkpoint stops the application, until it is safe, and until it can be read back.
//!
//! Every task has a state of the same size and writes it into a file of its own, or into its part of one file that all share. Three times
//! are told, each from the moment that the application stops to the last task:
//!
//! | column | until |
//! |---|---|
//! | blocking | every task's data is handed over and its file closed: the application may go on |
//! | committed | every file is synced, and a marker that names the version is renamed into place: a restart finds it |
//! | durable | every file is in the shared tier (`user.hayate.durable`); `-` where nobody tells |
//!
//! With `-a LIBIO` the checkpoint library does it ([`library`]): blocking ends when its last write has returned, committed when the commit has.
//!
//! Then, after the command of `--fault` if there is one (kill a server, start it again), every task reads the newest version, of another
//! task's rank, and compares it: recovery.

pub mod library;
pub mod options;
pub mod task;
#[cfg(test)]
mod tests;

use std::io::Write;
use std::time::Instant;

use serde_json::{Value, json};

use crate::command;
use crate::configuration::Configuration;
use crate::error::Result;
use crate::ior::write_file;
use crate::machine::Machine;
use crate::metrics::Metric;
use crate::notes::{self, Reads};
use crate::phase::Phase;
use crate::results::{PhaseResult, Spread, of_phase};
use crate::session::Session;
use crate::tasks::Job;
use options::{CheckpointSetup, CheckpointSpec};

/// What a run gave.
#[derive(Debug, Clone)]
pub struct CheckpointOutcome {
    /// All phases of all versions.
    pub results: Vec<PhaseResult>,
    /// Seconds that the command of `--fault` took.
    pub fault_s: Option<f64>,
    /// How what was measured is configured.
    pub configuration: Configuration,
    /// What a reader of the figures must know.
    pub notes: Vec<String>,
}

impl CheckpointOutcome {
    /// Wrong words found.
    pub fn errors(&self) -> u64 {
        self.results.iter().map(|result| result.errors).sum()
    }

    /// Seconds of each version until it was committed.
    fn committed(&self) -> Vec<f64> {
        self.until(Phase::Commit)
    }

    /// Seconds from the stop to the end of a later phase, by version.
    fn until(&self, phase: Phase) -> Vec<f64> {
        let upto = |result: &PhaseResult| {
            let parts = self.results.iter().filter(|r| r.repetition == result.repetition && r.phase <= phase);
            parts.filter(|r| r.phase >= Phase::Save).map(|r| r.total_s).sum::<f64>()
        };
        of_phase(&self.results, phase).map(upto).collect()
    }
}

/// Runs it. Wrong words found are in the outcome.
///
/// # Errors
/// What ended the run (see [`BenchError`]).
pub fn run(setup: &CheckpointSetup, session: &mut Session, out: &mut dyn Write) -> Result<CheckpointOutcome> {
    let spec = &setup.spec;
    let configuration = session.configuration(&spec.directory, [spec.tasks]);
    header(out, setup, &configuration)?;
    let mut notes = notes_of(spec, &configuration, session);
    notes.extend(session.watch_mount(&spec.directory));
    let mut outcome = CheckpointOutcome { results: Vec::new(), fault_s: None, configuration, notes };
    step(&CheckpointSpec { restore: false, ..spec.clone() }, session, &mut outcome)?;
    for version in 0..spec.versions {
        row(out, version, &outcome)?;
    }
    if let Some(line) = &setup.fault {
        let start = Instant::now();
        command::call(line)?;
        outcome.fault_s = Some(start.elapsed().as_secs_f64());
    }
    step(&CheckpointSpec { restore: true, ..spec.clone() }, session, &mut outcome)?;
    footer(out, spec, &outcome)?;
    if let Some(path) = &setup.json {
        write_file(path, false, |file| writeln!(file, "{:#}", document(setup, &outcome, session)))?;
    }
    Ok(outcome)
}

fn step(spec: &CheckpointSpec, session: &mut Session, outcome: &mut CheckpointOutcome) -> Result<()> {
    let tasks = session.tasks();
    session.run(&Job::Checkpoint(Box::new(spec.clone())), tasks, &mut |result: PhaseResult| {
        outcome.results.push(result);
        Ok(())
    })
}

/// Who may have answered the recovery without the storage: what ranks read back was written a moment before.
fn notes_of(spec: &CheckpointSpec, configuration: &Configuration, session: &Session) -> Vec<String> {
    let (hosts, machine) = (session.hosts(spec.tasks), Machine::this());
    let reads = Reads {
        what: "what the recovery reads",
        storage: session.connection().backend().storage(&spec.directory),
        bytes: u64::from(spec.tasks) * spec.state_bytes,
        memory_bytes: machine.memory_bytes.saturating_mul(u64::from(hosts)),
        direct: false,
        // A rank reads what the next one wrote: with one of each node, what another node did.
        moved: hosts > 1 && hosts == spec.tasks,
        advice: "a rank for each node; or drop caches by --fault",
        servers: configuration.servers.as_ref(),
    };
    let mut all = reads.notes();
    all.extend(notes::of_durability(configuration));
    all.extend(notes::of_run(session.launch().kind(), &machine));
    all
}

fn header(out: &mut dyn Write, setup: &CheckpointSetup, configuration: &Configuration) -> Result<()> {
    let spec = &setup.spec;
    writeln!(out, "Command line        : {}", setup.command_line)?;
    writeln!(out, "machine             : {}", Machine::this().line())?;
    configuration.write(out)?;
    let shape = if spec.shared { "one file" } else { "a file each" };
    writeln!(
        out,
        "state               : {} x {}, {shape}, {}",
        spec.tasks,
        crate::size::human(spec.state_bytes),
        spec.api
    )?;
    writeln!(out, "\nversion  blocking(s)  committed(s)  durable(s)  blocking(MiB/s)  committed(MiB/s)")?;
    Ok(out.flush()?)
}

fn row(out: &mut dyn Write, version: u32, outcome: &CheckpointOutcome) -> Result<()> {
    let at = |phase| outcome.until(phase).get(version as usize).copied();
    let text = |seconds: Option<f64>| seconds.map_or("-".to_owned(), |s| format!("{s:.4}"));
    let bytes = of_phase(&outcome.results, Phase::Save).map(|r| r.bytes).next().unwrap_or(0);
    let rate = |seconds: Option<f64>| {
        seconds.map_or("-".to_owned(), |s| format!("{:.1}", bytes as f64 / 1_048_576.0 / s.max(1e-9)))
    };
    let (save, commit, durable) = (at(Phase::Save), at(Phase::Commit), at(Phase::Durable));
    writeln!(
        out,
        "{version:<8} {:>11} {:>13} {:>11} {:>16} {:>17}",
        text(save),
        text(commit),
        text(durable),
        rate(save),
        rate(commit)
    )?;
    Ok(())
}

fn footer(out: &mut dyn Write, spec: &CheckpointSpec, outcome: &CheckpointOutcome) -> Result<()> {
    let blocking = Spread::of(&outcome.until(Phase::Save));
    if spec.compute_ms > 0 {
        let share = blocking.mean / (blocking.mean + spec.compute_ms as f64 / 1e3) * 100.0;
        writeln!(
            out,
            "lost                : {share:.2} % of the time, with {} ms of work between checkpoints",
            spec.compute_ms
        )?;
    }
    for restore in of_phase(&outcome.results, Phase::Restore) {
        let fault = outcome.fault_s.map_or(String::new(), |s| format!(", after {s:.3} s of --fault"));
        writeln!(
            out,
            "recovery            : {:.4} s, {:.1} MiB/s, {} wrong words{fault}",
            restore.total_s,
            restore.bandwidth_mib(),
            restore.errors
        )?;
    }
    let name = |phase| match phase {
        Phase::Save => "save",
        Phase::Commit => "commit",
        Phase::Durable => "durable",
        _ => "recovery",
    };
    crate::cost::table(out, outcome.results.iter().map(|result| (name(result.phase), result)))?;
    for wrong in outcome.results.iter().filter_map(|r| r.first_error.as_ref()) {
        writeln!(out, "WARNING: Incorrect data on read: {wrong}")?;
    }
    Ok(notes::write(out, &outcome.notes)?)
}

fn document(setup: &CheckpointSetup, outcome: &CheckpointOutcome, session: &Session) -> Value {
    let mut metrics = vec![
        Metric::lower("checkpoint blocking", "s", outcome.until(Phase::Save)),
        Metric::lower("checkpoint committed", "s", outcome.committed()),
        Metric::lower("checkpoint durable", "s", outcome.until(Phase::Durable)),
        Metric::lower(
            "recovery",
            "s",
            of_phase(&outcome.results, Phase::Restore).map(|r| r.total_s).collect(),
        ),
    ];
    metrics.retain(|metric| !metric.values.is_empty());
    let results: Vec<Value> = outcome
        .results
        .iter()
        .map(|result| {
            let mut entry = crate::cost::json(result);
            entry.insert("operation".to_owned(), json!(format!("{:?}", result.phase)));
            entry.insert("iter".to_owned(), json!(result.repetition));
            entry.insert("totalTime".to_owned(), json!(result.total_s));
            Value::Object(entry)
        })
        .collect();
    json!({
        "Command line": setup.command_line,
        "Parameters": setup.spec,
        "Results": results,
        "hayate": {
            "benchmark": "checkpoint",
            "machine": Machine::this().json(),
            "tasksAre": session.launch().kind(),
            "servers": session.servers(),
            "configuration": outcome.configuration,
            "warnings": outcome.notes,
            "errors": outcome.errors(),
            "faultSeconds": outcome.fault_s,
            "metrics": metrics,
        },
    })
}
