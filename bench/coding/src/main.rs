//! Erasure codes and hashes beside each other: what parity and the comparison of blocks cost a core (decision 0032).
//!
//! `cd bench/coding && cargo run --release` prints two tables. One thread; each figure is the median of interleaved rounds (A B C A B C ...), in GB of data a second.
//! Every code restores what it lost, and is checked, before it is timed.

use std::hint::black_box;
use std::time::Instant;

const SHARD_BYTES: usize = 1 << 20;
const ROUNDS: usize = 15;
/// Bytes of one timed run, about.
const RUN_BYTES: usize = 64 << 20;
const SHAPES: [(usize, usize); 4] = [(2, 1), (4, 2), (8, 2), (8, 4)];

fn main() {
    codes();
    hashes();
}

/// Bytes that no table makes cheap.
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..bytes).map(|_| next()).collect()
}

struct Way<'a> {
    name: &'a str,
    /// Works on so many bytes of data each time.
    work: Box<dyn FnMut() + 'a>,
}

fn way<'a>(name: &'a str, work: impl FnMut() + 'a) -> Way<'a> {
    Way { name, work: Box::new(work) }
}

/// GB a second of each way, by the median round.
fn measure(mut ways: Vec<Way>, bytes: usize) -> Vec<(String, f64)> {
    let repeats = RUN_BYTES.div_ceil(bytes);
    let mut rates = vec![Vec::new(); ways.len()];
    for _ in 0..ROUNDS {
        for (way, rates) in ways.iter_mut().zip(&mut rates) {
            let began = Instant::now();
            (0..repeats).for_each(|_| (way.work)());
            rates.push((repeats * bytes) as f64 / began.elapsed().as_secs_f64() / 1e9);
        }
    }
    let median = |mut rates: Vec<f64>| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    };
    ways.iter().map(|way| way.name.to_owned()).zip(rates.into_iter().map(median)).collect()
}

fn codes() {
    println!(
        "| data + parity, shards of 1 MiB | code | encode, GB/s of data | restore as many as parity, GB/s of data |\n|---|---|---|---|"
    );
    for (data, extra) in SHAPES {
        let shards: Vec<Vec<u8>> = (0..data).map(|shard| noise(shard as u64, SHARD_BYTES)).collect();
        let erasure = reed_solomon_erasure::galois_8::ReedSolomon::new(data, extra).expect("a code");
        let simd_parity = encode_simd(&shards, extra);
        let mut parity = vec![vec![0; SHARD_BYTES]; extra];
        erasure.encode_sep(&shards, &mut parity).expect("parity");
        let erasure_parity = parity.clone();
        assert_eq!(restore_simd(&shards, &simd_parity), shards[..extra.min(data)]);
        assert_eq!(restore_erasure(&erasure, &shards, &erasure_parity)[..data], shards[..]);

        let bytes = data * SHARD_BYTES;
        let encoded = measure(
            vec![
                way("reed-solomon-simd 3.1", || drop(black_box(encode_simd(&shards, extra)))),
                way("reed-solomon-erasure 6.0, simd-accel", || {
                    erasure.encode_sep(&shards, &mut parity).expect("parity")
                }),
            ],
            bytes,
        );
        let restored = measure(
            vec![
                way("", || drop(black_box(restore_simd(&shards, &simd_parity)))),
                way("", || drop(black_box(restore_erasure(&erasure, &shards, &erasure_parity)))),
            ],
            bytes,
        );
        for ((name, encode), (_, restore)) in encoded.into_iter().zip(restored) {
            println!("| {data} + {extra} | {name} | {encode:.2} | {restore:.2} |");
        }
    }
}

fn encode_simd(shards: &[Vec<u8>], extra: usize) -> Vec<Vec<u8>> {
    reed_solomon_simd::encode(shards.len(), extra, shards).expect("parity")
}

/// The first data shards, as many as there is parity, from the others.
fn restore_simd(shards: &[Vec<u8>], parity: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let lost = parity.len().min(shards.len());
    let left = shards.iter().enumerate().skip(lost);
    let mut restored = reed_solomon_simd::decode(shards.len(), parity.len(), left, parity.iter().enumerate())
        .expect("restored");
    (0..lost).map(|shard| restored.remove(&shard).expect("it was lost")).collect()
}

/// All shards, the lost ones restored. The others are copied, as this code takes them by value: what that costs is in its figure.
fn restore_erasure(
    code: &reed_solomon_erasure::galois_8::ReedSolomon,
    shards: &[Vec<u8>],
    parity: &[Vec<u8>],
) -> Vec<Vec<u8>> {
    let lost = parity.len().min(shards.len());
    let left = |(number, shard): (usize, &Vec<u8>)| (number >= lost).then(|| shard.clone());
    let mut all: Vec<Option<Vec<u8>>> = shards.iter().chain(parity).enumerate().map(left).collect();
    code.reconstruct_data(&mut all).expect("restored");
    all.into_iter().map(|shard| shard.unwrap_or_default()).collect()
}

fn hashes() {
    println!("\n| hash of blocks of 1 MiB | bits | GB/s |\n|---|---|---|");
    // More than a cache has, so that memory is read.
    let blocks: Vec<Vec<u8>> = (0..64).map(|block| noise(block, SHARD_BYTES)).collect();
    let blocks = &blocks[..];
    let over = |hash: fn(&[u8]) -> u64| {
        move || {
            for block in blocks {
                black_box(hash(block));
            }
        }
    };
    let mut copy = vec![0; SHARD_BYTES];
    let ways = vec![
        way("XXH3 (xxhash-rust 0.8) | 128", over(|block| xxhash_rust::xxh3::xxh3_128(block) as u64)),
        way("XXH3 (xxhash-rust 0.8) | 64", over(xxhash_rust::xxh3::xxh3_64)),
        way(
            "BLAKE3 (blake3 1), cryptographic | 256",
            over(|block| u64::from(blake3::hash(block).as_bytes()[0])),
        ),
        way("CRC-32C (crc-fast 1.10) | 32", over(|block| u64::from(crc_fast::crc32_iscsi(block)))),
        way("CRC-32C (crc32c 0.6) | 32", over(|block| u64::from(crc32c::crc32c(block)))),
        way("for comparison: a copy | -", move || {
            blocks.iter().for_each(|block| black_box(&mut copy).copy_from_slice(black_box(block)));
        }),
    ];
    for (name, rate) in measure(ways, blocks.len() * SHARD_BYTES) {
        println!("| {name} | {rate:.2} |");
    }
}
