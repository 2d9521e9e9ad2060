//! The text of a metadata run: mdtest's summary table, then the cost of clients.

use std::io::{self, Write};

use super::{MetadataOutcome, MetadataSpec};
use crate::backend::Capacity;
use crate::clock::{ctime, unix_seconds};
use crate::ior::of_phase;
use crate::ior::report::{cost_header, cost_row, file_system};
use crate::ior::stats::Spread;
use crate::phase::Phase;

/// Phases in the order of the table, with mdtest's names.
pub const ROWS: [(Phase, &str); 6] = [
    (Phase::FileCreate, "File creation"),
    (Phase::FileStat, "File stat"),
    (Phase::FileRead, "File read"),
    (Phase::FileRemove, "File removal"),
    (Phase::TreeCreate, "Tree creation"),
    (Phase::TreeRemove, "Tree removal"),
];

/// Everything before the results.
pub(super) fn header(
    out: &mut dyn Write,
    spec: &MetadataSpec,
    command_line: &str,
    capacity: Capacity,
) -> io::Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    writeln!(out, "-- started at {} --\n", ctime(unix_seconds()))?;
    writeln!(
        out,
        "hayate-bench-{version} metadata was launched with {} total task(s) on 1 node(s)",
        spec.tasks
    )?;
    writeln!(out, "Command line used: {command_line}")?;
    writeln!(out, "{:<20}: {}", "Path", spec.directory)?;
    writeln!(out, "{:<20}: {}", "FS", file_system(capacity))?;
    writeln!(out, "{} tasks, {} files", spec.tasks, u64::from(spec.tasks) * spec.items)
}

/// The results.
pub(super) fn footer(
    out: &mut dyn Write,
    spec: &MetadataSpec,
    outcome: &MetadataOutcome,
    threads: bool,
) -> io::Result<()> {
    writeln!(out, "\nSUMMARY rate (in ops/sec): (of {} iterations)", spec.repetitions)?;
    writeln!(out, "   Operation                     Max            Min           Mean        Std Dev")?;
    writeln!(out, "   ---------                     ---            ---           ----        -------")?;
    for (phase, name) in ROWS {
        let rates: Vec<f64> = of_phase(&outcome.results, phase).map(rate).collect();
        let Spread { max, min, mean, deviation } = Spread::of(&rates);
        writeln!(out, "   {name:<22} {max:>14.3} {min:>14.3} {mean:>14.3} {deviation:>14.3}")?;
    }
    writeln!(out, "-- finished at {} --", ctime(unix_seconds()))?;
    writeln!(out, "\nHayate details (dates above are UTC):")?;
    let kind = if threads { "threads" } else { "processes" };
    writeln!(out, "{:<20}: {kind}, ready after {:.1} ms", "tasks are", outcome.startup.as_secs_f64() * 1e3)?;
    writeln!(out, "{:<20}: {} (for -G)", "content seed", spec.seed)?;
    writeln!(out, "{:<20}: {}", "wrong words", outcome.errors)?;
    writeln!(out, "{}", cost_header())?;
    for (phase, name) in ROWS {
        for result in of_phase(&outcome.results, phase) {
            writeln!(out, "{}", cost_row(name, result))?;
        }
    }
    for first in outcome.results.iter().filter_map(|r| r.first_error.as_ref()) {
        writeln!(out, "WARNING: Incorrect data on read: {first}")?;
    }
    Ok(())
}

/// Operations per second of a phase.
pub fn rate(result: &crate::ior::stats::PhaseResult) -> f64 {
    if result.total_s > 0.0 { result.operations as f64 / result.total_s } else { 0.0 }
}
