//! Writers, each a client of its own, that write as fast as they can for some seconds: one file after the other, each closed when it is whole, so that
//! it goes to the tier, and removed when newer ones are there, so that the store is not filled.

use super::{Outcome, targets};
use fs_client::{Client, ClientConfig, OpenOptions};
use fs_net::ClusterFile;
use std::sync::Barrier;
use std::time::{Duration, Instant};

const PIECE: usize = 1 << 20;
/// What is open is not copied to the tier. Less than what waits for it, so that the cap on dirty bytes is met.
const PIECES_OF_A_FILE: u64 = 4;
/// Files that each leaves. All writers' are more than may be dirty, so what is removed has been copied, but for a few.
const KEPT: u64 = 8;

#[derive(Default)]
struct Written {
    pieces: u64,
    /// Of each piece, in microseconds.
    pieces_us: Vec<u64>,
    /// Of opening and closing each file, which wait when too much is dirty.
    files_us: Vec<u64>,
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
        report(&all.into_iter().collect::<Result<Vec<_>, _>>()?, seconds);
    }
    Ok(())
}

fn write(cluster: &ClusterFile, number: usize, time: Duration, barrier: &Barrier) -> Result<Written, String> {
    let text = |error: fs_client::Error| format!("writer {number}: {error}");
    let mut config = ClientConfig::new(cluster.clone());
    config.timeout = Duration::from_secs(300);
    config.memory_bytes = 32 << 20;
    let top = format!("/writer-{number}");
    let ready = Client::connect(config).and_then(|client| client.mkdir_all(&top, 0o755).map(|_| client));
    barrier.wait();
    let client = ready.map_err(text)?;
    let data: Vec<u8> = (0..PIECE).map(|at| (at * 31 + number) as u8).collect();
    let (began, mut written) = (Instant::now(), Written::default());
    for file in 0.. {
        if began.elapsed() >= time {
            break;
        }
        one_file(&client, &format!("{top}/{file}"), &data, (began, time), &mut written).map_err(text)?;
        if let Some(old) = u64::checked_sub(file, KEPT) {
            client.remove_file(format!("{top}/{old}")).map_err(text)?;
        }
    }
    Ok(written)
}

/// Ends early when the time is over: what was late counts for nobody.
fn one_file(
    client: &Client,
    name: &str,
    data: &[u8],
    (began, time): (Instant, Duration),
    written: &mut Written,
) -> Result<(), fs_client::Error> {
    let opening = Instant::now();
    let file = client.open_path(name, &OpenOptions::create_truncate())?;
    let opened = opening.elapsed();
    for at in 0..PIECES_OF_A_FILE {
        if began.elapsed() >= time {
            break;
        }
        let piece = Instant::now();
        file.write_at(data, at * PIECE as u64)?;
        written.pieces_us.push(piece.elapsed().as_micros() as u64);
        written.pieces += 1;
    }
    let closing = Instant::now();
    file.close()?;
    written.files_us.push((opened + closing.elapsed()).as_micros() as u64);
    Ok(())
}

fn report(all: &[Written], seconds: u64) {
    let mut pieces: Vec<u64> = all.iter().map(|written| written.pieces).collect();
    pieces.sort_unstable();
    println!(
        "{} done {seconds} mib {} slowest {} fastest {} {} {}",
        pieces.len(),
        pieces.iter().sum::<u64>(),
        pieces[0],
        pieces[pieces.len() - 1],
        times("piece", all.iter().flat_map(|written| &written.pieces_us)),
        times("file", all.iter().flat_map(|written| &written.files_us)),
    );
}

/// Median, 99th percentile and largest, in milliseconds.
fn times<'a>(what: &str, us: impl Iterator<Item = &'a u64>) -> String {
    let mut us: Vec<u64> = us.copied().collect();
    us.sort_unstable();
    let at = |part: f64| {
        let place = (us.len().saturating_sub(1) as f64 * part) as usize;
        us.get(place).map_or(0.0, |us| *us as f64 / 1e3)
    };
    format!("{what}_p50_ms {:.1} {what}_p99_ms {:.1} {what}_max_ms {:.1}", at(0.5), at(0.99), at(1.0))
}
