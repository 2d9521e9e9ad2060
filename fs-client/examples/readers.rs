//! Readers of one node for `bench/hot.py`: so many threads that each open a file and read all of it, beginning at a moment that is given.
//!
//!     readers CLUSTER_FILE PATH READERS BEGIN_MS [each]
//!
//! The node is the one whose server `HAYATE_GATEWAY` names. `BEGIN_MS` is in milliseconds since 1970. With `each`, every reader is a client of its own, as a process is,
//! which remembers nothing that another has heard. Prints the milliseconds from then until the last reader had all; ends with an error if somebody did not read the same
//! as the others.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use fs_client::{Client, ClientConfig, OpenOptions};

const BLOCK: usize = 1 << 20;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (is_each, words) = match &words[..] {
        [words @ .., last] if last == "each" => (true, words),
        words => (false, words),
    };
    let [cluster, path, readers, begin] = words else {
        eprintln!("readers CLUSTER_FILE PATH READERS BEGIN_MS [each]");
        return ExitCode::from(2);
    };
    let readers: usize = readers.parse().expect("a number of readers");
    let begin = UNIX_EPOCH + Duration::from_millis(begin.parse().expect("milliseconds since 1970"));
    let config = ClientConfig::load(Path::new(cluster)).expect("a cluster file");
    let connect = || Client::connect(config.clone()).expect("a client connects");
    let clients: Vec<Client> = (0..if is_each { readers } else { 1 }).map(|_| connect()).collect();
    let sums: Vec<u64> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..readers)
            .map(|reader| {
                let client = &clients[reader % clients.len()];
                scope.spawn(move || {
                    std::thread::sleep(begin.elapsed().err().map_or(Duration::ZERO, |left| left.duration()));
                    read(client, path)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("a reader ends")).collect()
    });
    println!("{}", begin.elapsed().expect("it has begun").as_millis());
    if sums.iter().all(|sum| *sum == sums[0]) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A sum over the content that tells blocks and their order apart.
fn read(client: &Client, path: &str) -> u64 {
    let file = client.open_path(path, &OpenOptions::read_only()).expect("open");
    let mut block = vec![0; BLOCK];
    let (mut at, mut sum) = (0, 0_u64);
    loop {
        let len = file.read_at(&mut block, at).expect("read");
        if len == 0 {
            return sum;
        }
        sum = sum.wrapping_mul(31).wrapping_add(u64::from(fs_proto::checksum::crc(&block[..len])));
        at += len as u64;
    }
}
