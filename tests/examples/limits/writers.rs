//! Writers, each a client of its own with a file of its own, that write as fast as they can for some seconds.

use super::{Outcome, targets};
use fs_client::{Client, ClientConfig, OpenOptions};
use fs_net::ClusterFile;
use std::sync::Barrier;
use std::time::{Duration, Instant};

const PIECE: usize = 1 << 20;
/// A file is begun anew at this size, so that the store is not filled.
const FILE_BYTES: u64 = 64 << 20;

struct Written {
    bytes: u64,
    /// Of each piece, in microseconds.
    times_us: Vec<u64>,
}

pub fn run(cluster: &ClusterFile, writers: usize, seconds: u64) -> Outcome {
    for _ in targets() {
        let barrier = Barrier::new(writers);
        let all: Vec<Result<Written, String>> = std::thread::scope(|scope| {
            let start = |number: usize| {
                let barrier = &barrier;
                scope.spawn(move || write(cluster, number, Duration::from_secs(seconds), barrier))
            };
            let threads: Vec<_> = (0..writers).map(start).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        report(all.into_iter().collect::<Result<Vec<_>, _>>()?, seconds);
    }
    Ok(())
}

fn write(cluster: &ClusterFile, number: usize, time: Duration, barrier: &Barrier) -> Result<Written, String> {
    let text = |error: fs_client::Error| format!("writer {number}: {error}");
    let mut config = ClientConfig::new(cluster.clone());
    config.timeout = Duration::from_secs(300);
    config.memory_bytes = 32 << 20;
    let ready = Client::connect(config).and_then(|client| {
        let file = client.open_path(format!("/writer-{number}"), &OpenOptions::create_truncate())?;
        Ok((client, file))
    });
    barrier.wait();
    let (_client, file) = ready.map_err(text)?;
    let data: Vec<u8> = (0..PIECE).map(|at| (at * 31 + number) as u8).collect();
    let (began, mut written) = (Instant::now(), Written { bytes: 0, times_us: Vec::new() });
    while began.elapsed() < time {
        let piece = Instant::now();
        file.write_at(&data, written.bytes % FILE_BYTES).map_err(text)?;
        written.times_us.push(piece.elapsed().as_micros() as u64);
        written.bytes += PIECE as u64;
    }
    file.close().map_err(text)?;
    Ok(written)
}

fn report(all: Vec<Written>, seconds: u64) {
    let mut bytes: Vec<u64> = all.iter().map(|written| written.bytes >> 20).collect();
    bytes.sort_unstable();
    let mut times: Vec<u64> = all.into_iter().flat_map(|written| written.times_us).collect();
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize] as f64 / 1e3;
    let sum: u64 = bytes.iter().sum();
    println!(
        "{} done {seconds} mib {sum} slowest {} fastest {} p50_ms {:.1} p99_ms {:.1} max_ms {:.1}",
        bytes.len(),
        bytes[0],
        bytes[bytes.len() - 1],
        at(0.5),
        at(0.99),
        at(1.0)
    );
}
