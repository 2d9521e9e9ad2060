//! Which checksum crate is the fastest here? Goal: the figures of docs/decisions/0008-crc32c.md. Method: each candidate in turn, many
//! rounds (A B C A B C ...), medians over the rounds; buffers are warm, as those that were just received or are about to be sent.
//!
//! `cargo run --release -p fs-proto --example checksum_speed`

use std::hint::black_box;
use std::time::Instant;

/// Buffers: a header, a piece of one, a block, a small write, a chunk.
const SIZES: [usize; 5] = [64, 512, 4 << 10, 64 << 10, 1 << 20];
const ROUNDS: usize = 41;
/// Bytes that a candidate goes through in a round.
const ROUND_BYTES: usize = 32 << 20;

/// Name and checksum.
type Candidate = (&'static str, fn(&[u8]) -> u32);

const CANDIDATES: [Candidate; 4] = [
    ("crc32fast, CRC-32", crc32fast::hash),
    ("crc-fast, CRC-32", crc_fast::crc32_iso_hdlc),
    ("crc-fast, CRC-32C", crc_fast::crc32_iscsi),
    ("crc32c, CRC-32C", crc32c::crc32c),
];

/// Nanoseconds of one checksum.
fn time(sum: fn(&[u8]) -> u32, data: &[u8]) -> f64 {
    let calls = (ROUND_BYTES / data.len()).min(200_000);
    let begin = Instant::now();
    for _ in 0..calls {
        black_box(sum(black_box(data)));
    }
    begin.elapsed().as_nanos() as f64 / calls as f64
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() {
    let data: Vec<u8> = (0..SIZES[4]).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect();
    println!("crc-fast uses {}", crc_fast::get_calculator_target(crc_fast::CrcAlgorithm::Crc32Iscsi));
    println!("{:20} {:>9} {:>12} {:>8}", "", "bytes", "nanoseconds", "GB/s");
    for size in SIZES {
        let mut times = CANDIDATES.map(|_| Vec::new());
        for _ in 0..ROUNDS {
            for (times, (_, sum)) in times.iter_mut().zip(CANDIDATES) {
                times.push(time(sum, &data[..size]));
            }
        }
        for (times, (name, _)) in times.into_iter().zip(CANDIDATES) {
            let ns = median(times);
            println!("{name:20} {size:9} {ns:12.1} {:8.1}", size as f64 / ns);
        }
    }
}
