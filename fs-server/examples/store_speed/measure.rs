//! Rates, CPU time, medians, and the table.

use std::fmt::Write as _;
use std::time::Instant;

/// The measurements of a round, in the order of the table: name, unit, and bytes or operations of a step.
pub const STEPS: [(&str, &str); 5] = [
    ("1 MiB writes", "MiB/s"),
    ("1 MiB reads", "MiB/s"),
    ("47,008-byte strided writes", "MiB/s"),
    ("47,008-byte strided reads", "MiB/s"),
    ("4 KiB random reads", "k/s"),
];

/// Of these, what strided writes are compared with besides: the same store's, or file's, writes in order.
const SEQUENTIAL: usize = 0;
const STRIDED: usize = 2;

/// One measurement.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sample {
    /// Units a second.
    pub rate: f64,
    /// CPU microseconds of this process for each unit (MiB, or thousand operations).
    pub cpu_us: f64,
}

/// All of a round.
pub type Round = [Sample; STEPS.len()];

/// Rounds of the store and of plain files.
#[derive(Default)]
pub struct Figures {
    store: Vec<Round>,
    files: Vec<Round>,
}

impl Figures {
    pub fn add(&mut self, store: Round, files: Round) {
        self.store.push(store);
        self.files.push(files);
    }
}

fn cpu_us() -> f64 {
    fs_server::metrics::cpu_us() as f64
}

/// Runs `step`, which does `units` of work.
pub fn measure<E>(units: f64, step: impl FnOnce() -> Result<(), E>) -> Result<Sample, E> {
    let (begin, cpu) = (Instant::now(), cpu_us());
    step()?;
    let spent = begin.elapsed().as_secs_f64();
    Ok(Sample { rate: units / spent, cpu_us: (cpu_us() - cpu) / units })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Medians of all steps, as a table in Markdown.
pub fn table(name: &str, figures: &Figures) -> String {
    let mut out = format!(
        "| {name} | store | file | ratio | CPU us per MiB (per operation): store | file |\n|---|---|---|---|---|---|\n"
    );
    for (step, (what, unit)) in STEPS.iter().enumerate() {
        let rate = |rounds: &[Round]| median(rounds.iter().map(|r| r[step].rate).collect());
        let cpu_us = |rounds: &[Round]| median(rounds.iter().map(|r| r[step].cpu_us).collect());
        let ratios: Vec<f64> =
            figures.store.iter().zip(&figures.files).map(|(s, f)| s[step].rate / f[step].rate).collect();
        let per = if *unit == "k/s" { 1_000.0 } else { 1.0 };
        let _ = writeln!(
            out,
            "| {what}, {unit} | {:.0} | {:.0} | {:.2} | {:.1} | {:.1} |",
            rate(&figures.store),
            rate(&figures.files),
            median(ratios),
            cpu_us(&figures.store) / per,
            cpu_us(&figures.files) / per,
        );
    }
    let share =
        |rounds: &[Round]| median(rounds.iter().map(|r| r[STRIDED].rate / r[SEQUENTIAL].rate).collect());
    let (store, file) = (share(&figures.store), share(&figures.files));
    let _ = writeln!(out, "| strided writes next to 1 MiB writes | {store:.2} | {file:.2} | | | |");
    out
}
