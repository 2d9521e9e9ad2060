//! The tables of results as mdtest prints them: rates, times, over repetitions, over tasks, and each task.
//!
//! # Invariants
//! - Headings and columns are those of mdtest 4 (`tests::text_has_the_shape_of_mdtest`, `tests::other_tables_have_the_shape_of_mdtest`).

use std::io::{self, Write};

use super::report::rows;
use super::spec::MdtestSpec;
use super::{Setup, Show};
use crate::csv::exponent;
use crate::phase::Phase;
use crate::results::{PhaseResult, RankTimes, Spread, of_phase};

/// What a table is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Rates,
    Times,
}

impl Of {
    fn all(self, result: &PhaseResult) -> f64 {
        match self {
            Of::Rates => result.rate(),
            Of::Times => result.total_s,
        }
    }

    fn one(self, times: &RankTimes) -> f64 {
        match self {
            Of::Rates if times.total_s > 0.0 => times.operations as f64 / times.total_s,
            Of::Rates => 0.0,
            Of::Times => times.total_s,
        }
    }
}

/// Writes the tables that are asked for, of one number of tasks.
///
/// # Errors
/// Of writing.
pub(super) fn write(
    out: &mut dyn Write,
    setup: &Setup,
    spec: &MdtestSpec,
    results: &[PhaseResult],
) -> io::Result<()> {
    for (wanted, of) in [(setup.show.rate, Of::Rates), (setup.show.time, Of::Times)] {
        if wanted {
            if setup.show.each_rank {
                each_rank(out, of, spec, results)?;
            }
            summary(out, of, setup.show, spec, results)?;
        }
    }
    out.flush()
}

fn each_rank(out: &mut dyn Write, of: Of, spec: &MdtestSpec, results: &[PhaseResult]) -> io::Result<()> {
    let what = if of == Of::Rates { "rate" } else { "time" };
    writeln!(out, "\nPer process result ({what}):")?;
    for repetition in 0..spec.repetitions {
        writeln!(out, "iteration: {repetition}")?;
        for (phase, name) in rows(spec) {
            let Some(result) = of_phase(results, phase).find(|result| result.repetition == repetition) else {
                continue;
            };
            let values: Vec<String> = result.ranks.iter().map(|times| exponent(of.one(times), 6)).collect();
            writeln!(out, "Test {name} {}", values.join(","))?;
        }
    }
    Ok(())
}

/// The spread as mdtest computes it: the deviation is the estimate for more repetitions.
fn spread(values: &[f64]) -> Spread {
    let spread = Spread::of(values);
    let count = values.len() as f64;
    let deviation = if count > 1.0 { spread.deviation * (count / (count - 1.0)).sqrt() } else { 0.0 };
    Spread { deviation, ..spread }
}

fn summary(
    out: &mut dyn Write,
    of: Of,
    show: Show,
    spec: &MdtestSpec,
    results: &[PhaseResult],
) -> io::Result<()> {
    let what = if of == Of::Rates { "rate (in ops/sec)" } else { "time (in s)" };
    writeln!(out, "\nSUMMARY {what}: (of {} iterations)", spec.repetitions)?;
    let (of_ranks, lines) = if show.of_ranks {
        let lines = "         ---            ---           ----       ";
        ("per Rank: Max            Min           Mean      per Iteration:", lines)
    } else {
        ("               ", "")
    };
    writeln!(out, "   Operation     {of_ranks} Max            Min           Mean        Std Dev")?;
    writeln!(
        out,
        "   ---------      {lines}               ---            ---           ----        -------"
    )?;
    for (phase, name) in rows(spec) {
        let values: Vec<f64> = of_phase(results, phase).map(|result| of.all(result)).collect();
        let Spread { max, min, mean, deviation } = spread(&values);
        let tree = matches!(phase, Phase::TreeCreate | Phase::TreeRemove);
        let columns = if show.of_ranks {
            let each = of_phase(results, phase).flat_map(|result| &result.ranks).map(|times| of.one(times));
            // mdtest has no more of trees than task 0's figures.
            let ranks = if tree { spread(&values) } else { spread(&each.collect::<Vec<_>>()) };
            format!("{:14.3} {:14.3} {:14.3}     ", ranks.max, ranks.min, ranks.mean)
        } else {
            String::new()
        };
        let name = if tree || !show.of_ranks { format!("{name:<22}") } else { format!("{name:<18}") };
        let gap = if show.of_ranks && !tree { "    " } else { "" };
        writeln!(out, "   {name} {columns}{gap}{max:14.3} {min:14.3} {mean:14.3} {deviation:14.3}")?;
    }
    Ok(())
}
