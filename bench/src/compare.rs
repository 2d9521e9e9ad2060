//! `hayate bench compare A.json B.json`: the ratio of every figure that both documents have, and whether their spreads overlap.

use std::io::Write;

use clap::Args;
use serde_json::Value;

use crate::error::{BenchError, Result};
use crate::metrics::Metric;
use crate::results::Spread;

/// Options of `hayate bench compare`.
#[derive(Debug, Clone, Args)]
pub struct CompareArgs {
    /// JSON document of the first run (the base)
    pub base: String,
    /// JSON document of the second run
    pub other: String,
    /// Fail (exit status 1) if a figure is worse by more than so many percent and the spreads do not overlap
    #[arg(long, value_name = "PERCENT")]
    pub fail_below: Option<f64>,
}

/// A figure in both runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Compared {
    /// Of the base.
    pub base: Metric,
    /// Of the other.
    pub other: Metric,
}

impl Compared {
    /// Mean of the other over mean of the base.
    pub fn ratio(&self) -> f64 {
        Spread::of(&self.other.values).mean / Spread::of(&self.base.values).mean
    }

    /// Whether the values of the two lie among each other, so that the ratio may be chance.
    pub fn overlaps(&self) -> bool {
        let (a, b) = (Spread::of(&self.base.values), Spread::of(&self.other.values));
        a.min <= b.max && b.min <= a.max
    }

    /// By how many percent the other is worse; negative if it is better.
    pub fn worse_percent(&self) -> f64 {
        let ratio = self.ratio();
        if self.base.higher_is_better { (1.0 - ratio) * 100.0 } else { (ratio - 1.0) * 100.0 }
    }

    fn verdict(&self) -> &'static str {
        match (
            self.base.values.len().min(self.other.values.len()),
            self.overlaps(),
            self.worse_percent() > 0.0,
        ) {
            (1, ..) => "one value each: no spread",
            (_, true, _) => "within the spread",
            (_, false, true) => "WORSE",
            (_, false, false) => "better",
        }
    }
}

/// Reads a document of this program.
///
/// # Errors
/// [`BenchError::Options`] if it is none.
pub fn read(path: &str) -> Result<Value> {
    let wrong = |why: String| BenchError::Options(format!("{path}: {why}"));
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let document: Value = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    if document["hayate"]["metrics"].is_array() {
        Ok(document)
    } else {
        Err(wrong("this is no JSON document of hayate bench".to_owned()))
    }
}

fn metrics(document: &Value) -> Result<Vec<Metric>> {
    serde_json::from_value(document["hayate"]["metrics"].clone())
        .map_err(|error| BenchError::Options(format!("the figures of a document cannot be read: {error}")))
}

/// The figures that both documents have, in the order of the base.
///
/// # Errors
/// [`BenchError::Options`] if a document is not of this program.
pub fn compare(base: &Value, other: &Value) -> Result<Vec<Compared>> {
    let theirs = metrics(other)?;
    let both = metrics(base)?.into_iter().filter_map(|base| {
        let other =
            theirs.iter().find(|metric| metric.name == base.name && metric.unit == base.unit)?.clone();
        Some(Compared { base, other })
    });
    Ok(both.collect())
}

/// Writes the comparison.
///
/// # Errors
/// If a document cannot be read, or figures are worse than allowed.
pub fn run(args: &CompareArgs, out: &mut dyn Write) -> Result<()> {
    let (base, other) = (read(&args.base)?, read(&args.other)?);
    for (name, path, document) in [("A", &args.base, &base), ("B", &args.other, &other)] {
        let machine = &document["hayate"]["machine"];
        let text = |key: &str| machine[key].as_str().unwrap_or("?").to_owned();
        writeln!(
            out,
            "{name}: {path} (commit {}, {} x {}, {})",
            text("commit"),
            machine["cpus"],
            text("cpu"),
            text("kernel")
        )?;
    }
    for key in ["cpu", "cpus", "kernel", "memoryBytes", "optimised"] {
        let of = |document: &Value| document["hayate"]["machine"][key].clone();
        if of(&base) != of(&other) {
            writeln!(out, "note: the runs differ in {key}: {} and {}", of(&base), of(&other))?;
        }
    }
    let compared = compare(&base, &other)?;
    if compared.is_empty() {
        return Err(BenchError::Options("the two documents have no figure in common".to_owned()));
    }
    writeln!(
        out,
        "\n{:<40} {:>8} {:>22} {:>22} {:>7}",
        "", "unit", "A (min to max)", "B (min to max)", "B/A"
    )?;
    for one in &compared {
        let cell = |metric: &Metric| {
            let spread = Spread::of(&metric.values);
            format!("{:.1} ({:.1} to {:.1})", spread.mean, spread.min, spread.max)
        };
        let (a, b) = (cell(&one.base), cell(&one.other));
        writeln!(
            out,
            "{:<40} {:>8} {a:>22} {b:>22} {:>7.3} {}",
            one.base.name,
            one.base.unit,
            one.ratio(),
            one.verdict()
        )?;
    }
    let limit = args.fail_below.unwrap_or(f64::INFINITY);
    let worse = compared.iter().filter(|one| one.worse_percent() > limit && !one.overlaps()).count();
    if worse == 0 {
        Ok(())
    } else {
        Err(BenchError::Options(format!("{worse} figures are worse by more than {limit} %")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn document(commit: &str, metrics: &[Metric]) -> Value {
        json!({"hayate": {"metrics": metrics, "machine": {"commit": commit, "cpus": 2, "cpu": "X", "kernel": "L"}}})
    }

    /// Ratios, spreads and verdicts of known figures; rates and costs are worse in opposite directions.
    #[test]
    fn ratios_and_verdicts() {
        let base = document(
            "a",
            &[
                Metric::higher("write", "MiB/s", vec![100.0, 110.0]),
                Metric::higher("read", "MiB/s", vec![100.0, 130.0]),
                Metric::lower("CPU", "us/op", vec![10.0, 10.0]),
                Metric::higher("only here", "", vec![1.0]),
            ],
        );
        let other = document(
            "b",
            &[
                Metric::higher("write", "MiB/s", vec![50.0, 55.0]),
                Metric::higher("read", "MiB/s", vec![120.0, 140.0]),
                Metric::lower("CPU", "us/op", vec![5.0, 5.0]),
            ],
        );
        let compared = compare(&base, &other).expect("figures");
        let verdicts: Vec<&str> = compared.iter().map(Compared::verdict).collect();
        assert_eq!(verdicts, ["WORSE", "within the spread", "better"]);
        assert!(
            (compared[0].ratio() - 0.5).abs() < 1e-9 && (compared[2].worse_percent() + 50.0).abs() < 1e-9
        );
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
        std::fs::write(path("a"), base.to_string()).expect("a file");
        std::fs::write(path("b"), other.to_string()).expect("a file");
        let mut text = Vec::new();
        let args = CompareArgs { base: path("a"), other: path("b"), fail_below: Some(10.0) };
        let worse = run(&args, &mut text).expect_err("a figure is worse").to_string();
        assert!(worse.starts_with("1 figures are worse"), "{worse}");
        run(&CompareArgs { fail_below: None, ..args.clone() }, &mut text).expect("nothing bounds it");
        assert!(String::from_utf8_lossy(&text).contains("0.500 WORSE"));
        std::fs::write(path("b"), "{}").expect("a file");
        assert!(run(&args, &mut text).is_err());
    }
}
