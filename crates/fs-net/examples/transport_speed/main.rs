//! Shared memory beside a Unix socket and TCP, and beside what a bare ring in shared memory gives, in one run between two processes:
//!
//! ```text
//! cargo run --release -p fs-net --example transport_speed -- [ROUNDS] [SECONDS PER FIGURE] [CASE, e.g. "Small, 16"]
//! ```
//! Client and server are processes with one thread each, as a lane of a client and a worker of a server are. The ways take turns; medians of
//! the rounds. *64 B*: header only, there and back. *write*: the client copies 1 MiB from memory of its own to where it is sent from, the
//! server computes its CRC. *read*: the server copies 1 MiB of its own to where it is sent from, the client copies it to its own. The bare ring does the
//! same work with nothing else around: two futexes, no checks. CPU time is of both processes; calls are the client's that send and
//! receive (without waiting).

mod bare;
mod hayate;
mod process;

use std::path::{Path, PathBuf};
use std::time::Duration;

/// What is exchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// A header there, a header back.
    Small,
    /// 1 MiB to the server.
    Write,
    /// 1 MiB from the server.
    Read,
}

/// One way to exchange it, as often as the time allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The ceiling.
    Bare,
    /// As it comes.
    Shm,
    /// Without looking before sleeping.
    ShmNoSpin,
    /// Unix socket.
    Unix,
    /// Loopback.
    Tcp,
}

/// What a round gave.
#[derive(Debug, Clone, Copy, Default)]
pub struct Figure {
    /// Exchanges.
    pub per_second: f64,
    /// Of both processes, for each.
    pub cpu_us: f64,
    /// System calls of the client that send or receive, for each.
    pub calls: f64,
    /// Median latency.
    pub p50_us: f64,
}

/// Length of a large payload.
pub const MIB: usize = 1 << 20;

const WAYS: [Way; 5] = [Way::Bare, Way::Shm, Way::ShmNoSpin, Way::Unix, Way::Tcp];
const CASES: [(Load, usize); 6] = [
    (Load::Small, 1),
    (Load::Small, 16),
    (Load::Write, 1),
    (Load::Write, 4),
    (Load::Read, 1),
    (Load::Read, 4),
];

fn main() {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("serve") => hayate::serve(Path::new(&args[2]), &args[3]),
        Some("serve-bare") => bare::serve(Path::new(&args[2])),
        _ => {
            let number =
                |at: usize, default: f64| args.get(at).and_then(|text| text.parse().ok()).unwrap_or(default);
            let case = args.get(3).map_or("", String::as_str);
            compare(number(1, 5.0) as usize, Duration::from_secs_f64(number(2, 0.5)), case);
        }
    }
}

fn compare(rounds: usize, time: Duration, case: &str) {
    let dir = PathBuf::from(format!("/dev/shm/hayate-transport-speed-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory");
    for (load, depth) in CASES {
        let name = format!("{load:?}, {depth} in flight");
        if !name.contains(case) {
            continue;
        }
        let mut figures = vec![Vec::new(); WAYS.len()];
        for _ in 0..rounds {
            for (way, of_way) in WAYS.iter().zip(&mut figures) {
                of_way.push(match way {
                    Way::Bare => bare::measure(&dir, load, depth, time),
                    other => hayate::measure(&dir, *other, load, depth, time),
                });
            }
        }
        print(load, &name, &figures);
    }
    std::fs::remove_dir_all(&dir).expect("removed");
}

fn print(load: Load, name: &str, figures: &[Vec<Figure>]) {
    let median = |of_way: &[Figure], what: fn(&Figure) -> f64| {
        let mut values: Vec<f64> = of_way.iter().map(what).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let ceiling = median(&figures[0], |figure| figure.per_second);
    println!(
        "| {name} | {} | p50 us | CPU us each | calls each | of the bare ring |",
        match load {
            Load::Small => "k/s",
            Load::Write | Load::Read => "MiB/s",
        }
    );
    println!("|---|---|---|---|---|---|");
    for (way, of_way) in WAYS.iter().zip(figures) {
        let rate = median(of_way, |figure| figure.per_second);
        println!(
            "| {way:?} | {:.1} | {:.1} | {:.2} | {:.2} | {:.0} % |",
            if load == Load::Small { rate / 1e3 } else { rate },
            median(of_way, |figure| figure.p50_us),
            median(of_way, |figure| figure.cpu_us),
            median(of_way, |figure| figure.calls),
            100.0 * rate / ceiling,
        );
    }
    println!();
}
