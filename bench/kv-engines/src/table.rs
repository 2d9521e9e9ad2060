//! All engines in turn, and the tables of what they came to.

use crate::crash::CrashOutcome;
use crate::run::Outcome;
use std::path::PathBuf;
use std::process::Command;

#[derive(clap::Args, Debug, Clone)]
pub struct AllArgs {
    /// Engines, in the order in which they take turns.
    #[arg(long, value_delimiter = ',', default_value = "fjall,fjall-bare,sled,redb,rocksdb")]
    pub engines: Vec<String>,
    #[arg(long, default_value = ".")]
    pub dir: PathBuf,
    #[arg(long, default_value_t = 1_000_000)]
    pub files: u64,
    #[arg(long, default_value_t = 64)]
    pub cache_mib: u64,
    /// A run's creates end after this many seconds.
    #[arg(long, default_value_t = 120)]
    pub seconds: u64,
    /// Rounds; the table shows the median.
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// Leaves out the kills.
    #[arg(long)]
    pub no_crash: bool,
}

type Failure = Box<dyn std::error::Error>;

fn ask(args: &[&str], all: &AllArgs) -> Result<Vec<u8>, Failure> {
    let output = Command::new(std::env::current_exe()?)
        .args(args)
        .args(["--cache-mib", &all.cache_mib.to_string(), "--dir"])
        .arg(&all.dir)
        .stderr(std::process::Stdio::inherit())
        .output()?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(format!("{args:?}: {}", output.status).into())
    }
}

/// Runs everything and prints.
pub fn all(args: &AllArgs) -> Result<(), Failure> {
    let mut outcomes: Vec<Vec<Outcome>> = vec![Vec::new(); args.engines.len()];
    let (files, seconds) = (args.files.to_string(), args.seconds.to_string());
    for round in 0..args.rounds {
        for (at, engine) in args.engines.iter().enumerate() {
            let run = ["run", "--engine", engine, "--files", &files, "--seconds", &seconds];
            match ask(&run, args) {
                Ok(json) => outcomes[at].push(serde_json::from_slice(&json)?),
                Err(error) => eprintln!("{error}"),
            }
            eprintln!("round {round}: {engine} done, load {}", crate::run::load());
        }
    }
    print_rates(&outcomes);
    print_space(&outcomes);
    if !args.no_crash {
        print_crashes(args)?;
    }
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn phase_names(outcomes: &[Vec<Outcome>]) -> Vec<String> {
    outcomes.iter().flatten().next().map_or(Vec::new(), |o| o.phases.iter().map(|p| p.name.clone()).collect())
}

fn print_rates(outcomes: &[Vec<Outcome>]) {
    let names = phase_names(outcomes);
    println!("Operations a second / CPU microseconds for one (median of rounds)\n");
    println!("| engine | files | {} |", names.join(" | "));
    println!("|---|---|{}", "---|".repeat(names.len()));
    for runs in outcomes.iter().filter(|runs| !runs.is_empty()) {
        let cells = (0..names.len()).map(|at| {
            let of = |pick: fn(&crate::run::Phase) -> f64| {
                median(runs.iter().map(|run| pick(&run.phases[at])).collect())
            };
            format!("{:.0} / {:.1}", of(|p| p.per_second), of(|p| p.cpu_us))
        });
        println!("| {} | {} | {} |", runs[0].engine, runs[0].files, cells.collect::<Vec<_>>().join(" | "));
    }
}

fn print_space(outcomes: &[Vec<Outcome>]) {
    println!("\nAnonymous memory (peak of each phase) and disk, MiB; load when the runs began\n");
    println!("| engine | {} | by tenths of the creates | disk | load |", phase_names(outcomes).join(" | "));
    println!("|---|{}---|---|---|", "---|".repeat(phase_names(outcomes).len()));
    for runs in outcomes.iter().filter(|runs| !runs.is_empty()) {
        let peaks: Vec<_> = (0..runs[0].phases.len())
            .map(|at| format!("{:.0}", median(runs.iter().map(|run| run.phases[at].peak_mib).collect())))
            .collect();
        let growth: Vec<_> = runs[0].growth_mib.iter().map(|mib| format!("{mib:.0}")).collect();
        let loads: Vec<_> = runs.iter().map(|run| run.load.as_str()).collect();
        let disk = median(runs.iter().map(|run| run.disk_mib).collect());
        let (peaks, growth, loads) = (peaks.join(" | "), growth.join(" "), loads.join(" "));
        println!("| {} | {peaks} | {growth} | {disk:.0} | {loads} |", runs[0].engine);
    }
}

fn print_crashes(args: &AllArgs) -> Result<(), Failure> {
    println!("\nSIGKILL after 10 s of creates\n");
    println!("| engine | acknowledged | lost | opening after it, ms |\n|---|---|---|---|");
    for engine in &args.engines {
        match ask(&["crash", "--engine", engine], args) {
            Ok(json) => {
                let crash: CrashOutcome = serde_json::from_slice(&json)?;
                println!(
                    "| {} | {} | {} | {:.0} |",
                    crash.engine, crash.acknowledged, crash.lost, crash.reopen_ms
                );
            }
            Err(error) => eprintln!("{error}"),
        }
    }
    Ok(())
}
