//! How long checkpoints of several ranks block, take to commit, and to become durable, beside plain files with fsync(2).
//!
//! `cargo run --release -p libio --example burst -- CLUSTER_FILE POSIX_DIR [MIB_PER_RANK [RANKS [ROUNDS]]]` prints rows of a table: ranks, MiB a rank, way, seconds blocked, to
//! the commit, to durable, and the commit as a multiple of plain files. POSIX_DIR should be on the device that the servers' stores are on. Ranks are threads, each
//! with a connection of its own. The ways take turns, so that what else the machine does falls on all alike; each figure is the median of the rounds. `bench/checkpoints.py` runs
//! this for several sizes.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use fs_client::{Client, ClientConfig};
use libio::{Checkpoints, Level, Options, Redundancy};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Rounds, if nothing is said.
const ROUNDS: usize = 5;
/// Bytes of one write.
const PIECE: usize = 16 << 20;

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [cluster, posix, rest @ ..] = &args[..] else {
        return Err("usage: burst CLUSTER_FILE POSIX_DIR [MIB_PER_RANK [RANKS [ROUNDS]]]".into());
    };
    let number = |at: usize, usual: usize| rest.get(at).map_or(Ok(usual), |text| text.parse());
    let (mib, ranks, rounds) = (number(0, 64)?, number(1, 1)?, number(2, ROUNDS)?);
    let data: Vec<Vec<u8>> = (0..ranks).map(|rank| noise(rank as u64, mib << 20)).collect();
    let client = Client::connect(ClientConfig::load(Path::new(cluster))?)?;
    let has_tier = client.cluster().tier.is_some();
    let ways = ways(client.stores()?.len());
    let checkpoints = Checkpoints::open(client, "/burst")?;
    let mut took: Vec<Vec<[f64; 3]>> = vec![Vec::new(); ways.len()];
    for round in 0..rounds {
        for ((name, redundancy), took) in ways.iter().zip(&mut took) {
            let Some(redundancy) = redundancy else {
                took.push(posix_burst(Path::new(posix), &data)?);
                continue;
            };
            let set: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
            took.push(burst(&checkpoints, &set, round as u64, *redundancy, &data, has_tier)?);
            checkpoints.remove(&set, round as u64)?;
        }
    }
    let plain = median(&took[0], 1);
    for ((name, redundancy), took) in ways.iter().zip(&took) {
        let [blocking, commit, durable] = [0, 1, 2].map(|at| median(took, at));
        let (times, durable) =
            (commit / plain, redundancy.map_or(String::new(), |_| format!("{durable:.3}")));
        println!("| {ranks} | {mib} | {name} | {blocking:.3} | {commit:.3} | {durable} | {times:.2} |");
    }
    Ok(())
}

/// Plain files, and what so many servers allow.
fn ways(servers: usize) -> Vec<(&'static str, Option<Redundancy>)> {
    let mut ways = vec![("plain files, fsync", None), ("libio", Some(Redundancy::None))];
    if servers > 1 {
        ways.push(("libio, 1 copy", Some(Redundancy::Copies(1))));
    }
    if servers > 2 {
        ways.push(("libio, parity 2+1", Some(Redundancy::Parity { data: 2, extra: 1 })));
    }
    ways
}

fn median(took: &[[f64; 3]], at: usize) -> f64 {
    let mut times: Vec<f64> = took.iter().map(|times| times[at]).collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Bytes that nothing compresses.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Seconds that a rank's writes took (the slowest rank's), until the version was committed, and until it was durable.
fn burst(
    checkpoints: &Checkpoints,
    set: &str,
    version: u64,
    redundancy: Redundancy,
    data: &[Vec<u8>],
    has_tier: bool,
) -> Result<[f64; 3], Failure> {
    let ranks = data.len() as u32;
    let options = Options { redundancy, ..Options::default() };
    let began = Instant::now();
    let work = |rank: u32| -> Result<f64, Failure> {
        let part = &data[rank as usize];
        let mut writer = checkpoints.begin_with(set, version, rank, ranks, &options)?;
        for (index, piece) in part.chunks(PIECE).enumerate() {
            writer.write("array", piece, u64::from(rank) * part.len() as u64 + (index * PIECE) as u64)?;
        }
        let blocked = began.elapsed().as_secs_f64();
        writer.commit(true)?;
        Ok(blocked)
    };
    let blocking = together(ranks, work)?;
    let commit = began.elapsed().as_secs_f64();
    if has_tier {
        checkpoints.wait(set, version, Level::Durable, Duration::from_secs(600))?;
    }
    Ok([blocking, commit, began.elapsed().as_secs_f64()])
}

/// Seconds until all ranks have written their files, and until these are on the device.
fn posix_burst(dir: &Path, data: &[Vec<u8>]) -> Result<[f64; 3], Failure> {
    let began = Instant::now();
    let blocking = together(data.len() as u32, |rank| {
        let path = dir.join(format!("posix.{rank}"));
        let mut file = File::create(&path)?;
        for piece in data[rank as usize].chunks(PIECE) {
            file.write_all(piece)?;
        }
        let blocked = began.elapsed().as_secs_f64();
        file.sync_all()?;
        Ok(blocked)
    })?;
    let took = began.elapsed().as_secs_f64();
    for rank in 0..data.len() {
        std::fs::remove_file(dir.join(format!("posix.{rank}")))?;
    }
    Ok([blocking, took, took])
}

/// The largest of what the ranks answer.
fn together(ranks: u32, work: impl Fn(u32) -> Result<f64, Failure> + Sync) -> Result<f64, Failure> {
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..ranks).map(|rank| scope.spawn(move || work(rank))).collect();
        let mut slowest: f64 = 0.0;
        for thread in threads {
            slowest = slowest.max(thread.join().map_err(|_| "a rank panicked")??);
        }
        Ok(slowest)
    })
}
