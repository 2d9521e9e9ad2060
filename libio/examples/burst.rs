//! How long checkpoints of several ranks block, take to commit, and to become durable, beside plain files with fsync(2).
//!
//! `cargo run --release -p libio --example burst -- CLUSTER_FILE POSIX_DIR [MIB_PER_RANK [RANKS]]` prints rows of a table (ranks, MiB a rank, way, seconds blocked, to the commit, to durable). POSIX_DIR should be on the
//! device that the servers' stores are on. Ranks are threads, each with a connection of its own.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use fs_client::{Client, ClientConfig};
use libio::{Checkpoints, Level, Options, Redundancy};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const REPETITIONS: usize = 3;
/// Bytes of one write.
const PIECE: usize = 16 << 20;

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [cluster, posix, rest @ ..] = &args[..] else {
        return Err("usage: burst CLUSTER_FILE POSIX_DIR [MIB_PER_RANK [RANKS]]".into());
    };
    let mib: usize = rest.first().map_or(Ok(64), |text| text.parse())?;
    let ranks: u32 = rest.get(1).map_or(Ok(1), |text| text.parse())?;
    let data: Vec<Vec<u8>> = (0..ranks).map(|rank| noise(u64::from(rank), mib << 20)).collect();
    let client = Client::connect(ClientConfig::load(Path::new(cluster))?)?;
    let has_tier = client.cluster().tier.is_some();
    let stores = client.stores()?.len();
    let checkpoints = Checkpoints::open(client, "/burst")?;
    let mut ways = vec![("none", Redundancy::None)];
    if stores > 1 {
        ways.push(("1 copy", Redundancy::Copies(1)));
    }
    if stores > 2 {
        ways.push(("parity 2+1", Redundancy::Parity { data: 2, extra: 1 }));
    }
    let posix_s = best(|_| posix_burst(Path::new(posix), &data))?;
    println!("| {ranks} | {mib} | POSIX, fsync | | {:.3} | |", posix_s[0]);
    for (name, redundancy) in ways {
        let set = format!("{}-{ranks}-{mib}", name.replace([' ', '+'], "_"));
        let [blocking, commit, durable] =
            best(|at| burst(&checkpoints, &set, at as u64, redundancy, &data, has_tier))?;
        println!("| {ranks} | {mib} | {name} | {blocking:.3} | {commit:.3} | {durable:.3} |");
        for version in checkpoints.versions(&set)? {
            checkpoints.remove(&set, version)?;
        }
    }
    Ok(())
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

/// The repetition that took least up to the commit.
fn best(mut once: impl FnMut(usize) -> Result<[f64; 3], Failure>) -> Result<[f64; 3], Failure> {
    let mut all = (0..REPETITIONS).map(&mut once).collect::<Result<Vec<_>, _>>()?;
    all.sort_by(|a, b| (a[0] + a[1]).total_cmp(&(b[0] + b[1])));
    Ok(all[0])
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

/// Seconds until all ranks' files are on the device.
fn posix_burst(dir: &Path, data: &[Vec<u8>]) -> Result<[f64; 3], Failure> {
    let began = Instant::now();
    together(data.len() as u32, |rank| {
        let path = dir.join(format!("posix.{rank}"));
        let mut file = File::create(&path)?;
        for piece in data[rank as usize].chunks(PIECE) {
            file.write_all(piece)?;
        }
        file.sync_all()?;
        Ok(began.elapsed().as_secs_f64())
    })?;
    let took = began.elapsed().as_secs_f64();
    for rank in 0..data.len() {
        std::fs::remove_file(dir.join(format!("posix.{rank}")))?;
    }
    Ok([took, 0.0, took])
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
