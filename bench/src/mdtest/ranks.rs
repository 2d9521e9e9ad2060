//! The file of `saveRankPerformanceDetails`: rate and time of each task, with mdtest's columns.

use std::io::{self, Write};

use super::spec::MdtestSpec;
use crate::csv::exponent;
use crate::phase::Phase;
use crate::results::{PhaseResult, of_phase};

/// Columns in mdtest's order; it has one for reading directories, which nobody does.
const COLUMNS: [(&str, Option<Phase>); 11] = [
    ("Directory creation", Some(Phase::DirCreate)),
    ("Directory stat", Some(Phase::DirStat)),
    ("Directory read", None),
    ("Directory rename", Some(Phase::DirRename)),
    ("Directory removal", Some(Phase::DirRemove)),
    ("File creation", Some(Phase::FileCreate)),
    ("File stat", Some(Phase::FileStat)),
    ("File read", Some(Phase::FileRead)),
    ("File removal", Some(Phase::FileRemove)),
    ("Tree creation", Some(Phase::TreeCreate)),
    ("Tree removal", Some(Phase::TreeRemove)),
];
/// How many of them are of tasks: trees are task 0's.
const OF_TASKS: usize = 9;

/// The first line.
///
/// # Errors
/// Of writing.
pub(super) fn header(out: &mut std::fs::File) -> io::Result<()> {
    write!(out, "rank,items")?;
    for (name, _) in COLUMNS {
        write!(out, ",rate-{name},time-{name}")?;
    }
    writeln!(out)
}

/// The lines of one number of tasks: for each repetition all tasks together, then each.
///
/// # Errors
/// Of writing.
pub(super) fn write(out: &mut dyn Write, spec: &MdtestSpec, results: &[PhaseResult]) -> io::Result<()> {
    for repetition in 0..spec.repetitions {
        let find = |phase: &Option<Phase>| {
            of_phase(results, (*phase)?).find(|result| result.repetition == repetition)
        };
        let all = COLUMNS.iter().map(|(_, phase)| find(phase).map(|result| (result.rate(), result.total_s)));
        writeln!(out, "all,{}{}", spec.items, cells(all))?;
        for rank in 0..spec.tasks as usize {
            let mine = COLUMNS[..OF_TASKS].iter().map(|(_, phase)| {
                let times = find(phase)?.ranks.get(rank)?;
                Some((times.operations as f64 / times.total_s.max(1e-9), times.total_s))
            });
            writeln!(out, "{rank},{}", cells(mine))?;
        }
    }
    Ok(())
}

/// Two columns each; empty where there is nothing.
fn cells(all: impl Iterator<Item = Option<(f64, f64)>>) -> String {
    let cell = |(rate, time): (f64, f64)| format!(",{},{}", exponent(rate, 10), exponent(time, 10));
    all.map(|values| values.map_or(",,".to_owned(), cell)).collect::<Vec<_>>().concat()
}
