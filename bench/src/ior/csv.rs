//! IOR's CSV: one line a phase and repetition; and the times of each task.

use std::io::{self, Write};

use super::IorOutcome;
use super::report::columns;
use crate::csv::exponent;
use crate::phase::Phase;
use crate::results::PhaseResult;

/// Columns of `summaryFormat=CSV`, with IOR's names.
pub const HEADER: &str =
    "access,bw(MiB/s),IOPS,Latency,block(KiB),xfer(KiB),open(s),wr/rd(s),close(s),total(s),numTasks,iter";

/// Columns of `saveRankPerformanceDetailsCSV`.
pub const RANK_HEADER: &str =
    "access,rank,runtime-with-openclose,runtime,throughput-withopenclose,throughput";

fn access(phase: Phase) -> Option<&'static str> {
    match phase {
        Phase::Write => Some("write"),
        Phase::Read => Some("read"),
        _ => None,
    }
}

/// Writes the document.
///
/// # Errors
/// Of writing.
pub fn write(out: &mut dyn Write, outcome: &IorOutcome) -> io::Result<()> {
    writeln!(out, "{HEADER}")?;
    for test in &outcome.tests {
        let spec = &test.test.spec;
        for result in &test.results {
            let Some(access) = access(result.phase) else { continue };
            let numbers = columns(spec, result).map(|number| format!("{number:.4}"));
            writeln!(out, "{access},{},{},{}", numbers.join(","), spec.tasks, result.repetition)?;
        }
    }
    Ok(())
}

/// Adds the tasks' times of a phase: seconds, and bytes a second.
///
/// # Errors
/// Of writing.
pub fn ranks(out: &mut dyn Write, result: &PhaseResult) -> io::Result<()> {
    let Some(access) = access(result.phase) else { return Ok(()) };
    for (rank, times) in result.ranks.iter().enumerate() {
        let rate = |seconds: f64| if seconds > 0.0 { times.bytes as f64 / seconds } else { 0.0 };
        let (total, access_s) = (times.total_s, times.access_s);
        writeln!(
            out,
            "{access},{rank},{},{},{},{}",
            exponent(total, 10),
            exponent(access_s, 10),
            exponent(rate(total), 10),
            exponent(rate(access_s), 10)
        )?;
    }
    Ok(())
}
