//! The text of a metadata run: mdtest's lines and SUMMARY table, then the costs.
//!
//! # Invariants
//! - Up to the line `-- finished at`, lines and columns are those of mdtest 4 (`tests::text_has_the_shape_of_mdtest`).

use std::io::{self, Write};

use serde_json::{Value, json};

use super::spec::MdtestSpec;
use super::{MdtestOutcome, Setup};
use crate::backend::{Capacity, Storage};
use crate::clock::{american_date, unix_seconds};
use crate::ior::report::file_system;
use crate::metrics::Metric;
use crate::notes;
use crate::phase::Phase;
use crate::results::{PhaseResult, of_phase};
use crate::tasks::placement::Placement;

/// Phases in the order of the table, with mdtest's names.
pub const ROWS: [(Phase, &str); 10] = [
    (Phase::DirCreate, "Directory creation"),
    (Phase::DirStat, "Directory stat"),
    (Phase::DirRename, "Directory rename"),
    (Phase::DirRemove, "Directory removal"),
    (Phase::FileCreate, "File creation"),
    (Phase::FileStat, "File stat"),
    (Phase::FileRead, "File read"),
    (Phase::FileRemove, "File removal"),
    (Phase::TreeCreate, "Tree creation"),
    (Phase::TreeRemove, "Tree removal"),
];

/// mdtest's name of a phase.
pub fn name(phase: Phase) -> &'static str {
    ROWS.iter().find(|(of, _)| *of == phase).map_or("", |(_, name)| *name)
}

/// The rows that a test shows.
pub fn rows(spec: &MdtestSpec) -> impl Iterator<Item = (Phase, &'static str)> {
    let (files, dirs) = (spec.files, spec.dirs);
    ROWS.into_iter().filter(move |(_, name)| match name.split(' ').next() {
        Some("Directory") => dirs,
        Some("File") => files,
        _ => true,
    })
}

/// Everything before the results.
pub(super) fn header(
    out: &mut dyn Write,
    setup: &Setup,
    placement: &Placement,
    capacity: Capacity,
) -> io::Result<()> {
    let spec = &setup.spec;
    writeln!(out, "-- started at {} --\n", american_date(unix_seconds()))?;
    writeln!(
        out,
        "mdtest-4.0.0+hayate-bench-{} was launched with {} total task(s) on {} node(s)",
        env!("CARGO_PKG_VERSION"),
        spec.tasks,
        placement.nodes
    )?;
    writeln!(out, "Command line used: {}", setup.command_line)?;
    if spec.read && spec.files && spec.read_bytes == 0 {
        writeln!(out, "WARNING: Read bytes is 0, thus, a read test will actually just open/close")?;
    }
    writeln!(out, "Nodemap: {}", placement.map())?;
    writeln!(out, "{:<20}: {}", "Path", spec.directories.join("@"))?;
    writeln!(out, "{:<20}: {}", "FS", file_system(capacity))?;
    if spec.stride > 0 {
        writeln!(out, "Shifting ranks by {} for each phase.", spec.stride * spec.node_step)?;
    }
    if spec.random {
        let seed = if spec.random_seed > 0 { spec.random_seed } else { spec.seed };
        writeln!(out, "random seed: {seed}")?;
    }
    Ok(())
}

/// The line of a number of tasks, before they begin.
pub(super) fn begins(out: &mut dyn Write, setup: &Setup, spec: &MdtestSpec) -> io::Result<()> {
    let all = u64::from(spec.tasks) * spec.items;
    match (spec.files, spec.dirs) {
        (true, true) => writeln!(out, "{} tasks, {all} files/directories", spec.tasks)?,
        (true, false) if spec.shared_files => writeln!(out, "{} tasks, 1 file", spec.tasks)?,
        (true, false) => writeln!(out, "{} tasks, {all} files", spec.tasks)?,
        _ => writeln!(out, "{} tasks, {all} directories", spec.tasks)?,
    }
    if setup.show.verbose > 0 {
        writeln!(out, "V-1: Rank   0 Line     0    Operation               Duration              Rate")?;
        writeln!(out, "V-1: Rank   0 Line     0    ---------               --------              ----")?;
    }
    out.flush()
}

/// The line of a phase, with `-v`.
pub(super) fn done(out: &mut dyn Write, setup: &Setup, result: &PhaseResult) -> io::Result<()> {
    if setup.show.verbose == 0 {
        return Ok(());
    }
    let (name, seconds, rate) = (name(result.phase), result.total_s, result.rate());
    writeln!(out, "V-1: Rank   0 Line     0    {name:<18}: {seconds:14.3} sec, {rate:14.3} ops/sec")?;
    out.flush()
}

/// What follows the tables.
pub(super) fn footer(out: &mut dyn Write, setup: &Setup, outcome: &MdtestOutcome) -> io::Result<()> {
    writeln!(out, "-- finished at {} --", american_date(unix_seconds()))?;
    details(out, &setup.spec, outcome)
}

fn details(out: &mut dyn Write, spec: &MdtestSpec, outcome: &MdtestOutcome) -> io::Result<()> {
    writeln!(out, "\nHayate details (dates above are UTC):")?;
    writeln!(out, "{:<20}: {}", "machine", outcome.machine.line())?;
    outcome.configuration.write(out)?;
    let startup_ms = outcome.startup.as_secs_f64() * 1e3;
    writeln!(out, "{:<20}: {}, ready after {startup_ms:.1} ms", "tasks are", outcome.tasks_are)?;
    writeln!(out, "{:<20}: {} (for -G)", "content seed", spec.seed)?;
    writeln!(out, "{:<20}: {}", "wrong words", outcome.errors)?;
    let by_row =
        rows(spec).flat_map(|(phase, name)| of_phase(&outcome.results, phase).map(move |r| (name, r)));
    crate::cost::table(out, by_row)?;
    for result in &outcome.results {
        if let Some(wall) = result.stonewall {
            writeln!(
                out,
                "stonewall: {}: {} to {} items of each task after {:.1} s, {:.3} ops/sec until then",
                name(result.phase),
                wall.min_operations,
                wall.max_operations,
                wall.time_s,
                wall.total_operations as f64 / wall.time_s.max(1e-9)
            )?;
        }
    }
    for first in outcome.results.iter().filter_map(|r| r.first_error.as_ref()) {
        writeln!(out, "WARNING: Incorrect data on read: {first}")?;
    }
    notes::write(out, &notes_of(spec, outcome))
}

/// What a reader of the figures must know.
pub(super) fn notes_of(spec: &MdtestSpec, outcome: &MdtestOutcome) -> Vec<String> {
    let mut all = Vec::new();
    if spec.stat || spec.read {
        let how = match (spec.create, spec.stride) {
            // The native client of an earlier run is gone, with what it had.
            (false, _) if outcome.storage == Storage::Servers => None,
            (false, _) => Some("what an earlier run left there, unless caches were dropped since"),
            (true, 0) => Some("tasks ask for what they made themselves (see -N)"),
            (true, _) if outcome.hosts == 1 => Some("all tasks share one node"),
            (true, _) => None,
        };
        all.extend(notes::of_names(outcome.storage, how));
    }
    if spec.sync {
        all.extend(notes::of_durability(&outcome.configuration));
    }
    all.extend_from_slice(&outcome.of_mount);
    all.extend(notes::of_run(outcome.tasks_are, &outcome.machine));
    all
}

/// The JSON document.
pub(super) fn document(setup: &Setup, outcome: &MdtestOutcome) -> Value {
    let spec = &setup.spec;
    let results: Vec<Value> = rows(spec)
        .flat_map(|(phase, name)| of_phase(&outcome.results, phase).map(move |result| (name, result)))
        .map(|(name, result)| {
            let mut entry = crate::cost::json(result);
            entry.insert("operation".to_owned(), json!(name));
            entry.insert("iter".to_owned(), json!(result.repetition));
            entry.insert("tasks".to_owned(), json!(result.ranks.len()));
            entry.insert("opsPerSecond".to_owned(), json!(result.rate()));
            entry.insert("totalTime".to_owned(), json!(result.total_s));
            Value::Object(entry)
        })
        .collect();
    json!({
        "Version": format!("mdtest-4.0.0+hayate-bench-{}", env!("CARGO_PKG_VERSION")),
        "Command line": setup.command_line,
        "Parameters": spec,
        "Results": results,
        "hayate": {
            "benchmark": "mdtest",
            "machine": outcome.machine.json(),
            "tasksAre": outcome.tasks_are,
            "servers": outcome.servers,
            "configuration": outcome.configuration,
            "errors": outcome.errors,
            "warnings": notes_of(spec, outcome),
            "metrics": metrics(spec, outcome),
        },
    })
}

fn metrics(spec: &MdtestSpec, outcome: &MdtestOutcome) -> Vec<Metric> {
    let mut all = Vec::new();
    for (phase, name) in rows(spec) {
        let of = |value: fn(&PhaseResult) -> f64| of_phase(&outcome.results, phase).map(value).collect();
        all.push(Metric::higher(format!("{name} rate"), "ops/s", of(PhaseResult::rate)));
        all.push(Metric::lower(format!("{name} CPU of clients"), "us/op", of(PhaseResult::cpu_us_per_op)));
    }
    all.retain(|metric| !metric.values.is_empty());
    all
}
