//! The chunk store beside plain files: what do records, checksums and the index cost?
//!
//! Store and file take turns (A B A B ...) in one process, so that both see the same machine; the figures are medians of the
//! rounds, in MiB/s or thousands of reads per second, and their ratio. Run it on the device in question:
//!
//! ```text
//! cargo run --release -p fs-server --example store_speed -- DIRECTORY [MIB per round] [rounds]
//! ```

use fs_proto::ids::{ChunkIndex, InodeId};
use fs_server::kv::{self, KvKind};
use fs_server::store::{self, ChunkKey, ChunkStore, LogStore, StoreOptions};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

const CHUNK_BYTES: usize = 1 << 20;
/// The transfer size of the IO500 benchmark's hard case.
const STRIDED_BYTES: usize = 47_008;
const RANDOM_READS: usize = 100_000;

type Failure = Box<dyn std::error::Error>;

/// One round of each measurement: MiB/s for the first four, thousand reads a second for the last.
const NAMES: [&str; 5] = [
    "1 MiB writes",
    "1 MiB reads",
    "47,008-byte strided writes",
    "47,008-byte strided reads",
    "4 KiB random reads",
];

/// What is measured: bytes at an offset of a file.
trait Target {
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Failure>;
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Failure>;
}

struct Chunks {
    store: Arc<LogStore>,
    ino: InodeId,
}

/// The parts of a range by chunk: index, offset in the chunk, range in the buffer.
fn parts(offset: u64, len: usize) -> impl Iterator<Item = (ChunkIndex, u32, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let within = (at % CHUNK_BYTES as u64) as usize;
        let part = done..len.min(done + CHUNK_BYTES - within);
        done = part.end;
        (!part.is_empty()).then_some((ChunkIndex(at / CHUNK_BYTES as u64), within as u32, part))
    })
}

impl Target for Chunks {
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Failure> {
        for (chunk, at, part) in parts(offset, data.len()) {
            self.store.write(ChunkKey { ino: self.ino, chunk }, at, &data[part])?;
        }
        Ok(())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Failure> {
        for (chunk, at, part) in parts(offset, out.len()) {
            let want = part.len();
            let got = self.store.read(ChunkKey { ino: self.ino, chunk }, at, &mut out[part])?;
            assert_eq!(got, want, "short read");
        }
        Ok(())
    }
}

impl Target for File {
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Failure> {
        Ok(self.write_all_at(data, offset)?)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Failure> {
        Ok(self.read_exact_at(out, offset)?)
    }
}

/// Runs `step` for each transfer of a pass; returns transfers a second.
fn rate(count: usize, mut step: impl FnMut(usize) -> Result<(), Failure>) -> Result<f64, Failure> {
    let begin = Instant::now();
    (0..count).try_for_each(&mut step)?;
    Ok(count as f64 / begin.elapsed().as_secs_f64())
}

/// Two interleaved writers: transfers come in the order 0, 2, 4, ..., 1, 3, 5, ...
fn strided(index: usize, count: usize) -> u64 {
    let half = count.div_ceil(2);
    let transfer = if index < half { 2 * index } else { 2 * (index - half) + 1 };
    (transfer * STRIDED_BYTES) as u64
}

fn round(streamed: &dyn Target, holes: &dyn Target, bytes: usize) -> Result<[f64; 5], Failure> {
    let data: Vec<u8> = (0..CHUNK_BYTES).map(|i| (i * 31 + i / 251) as u8).collect();
    let mut out = vec![0; CHUNK_BYTES];
    let mib = |transfer: usize| transfer as f64 / (1 << 20) as f64;
    let chunks = bytes / CHUNK_BYTES;
    let transfers = bytes / STRIDED_BYTES;
    let writes = rate(chunks, |i| streamed.write((i * CHUNK_BYTES) as u64, &data))?;
    let reads = rate(chunks, |i| streamed.read((i * CHUNK_BYTES) as u64, &mut out))?;
    assert!(out == data);
    let small = &data[..STRIDED_BYTES];
    let strided_writes = rate(transfers, |i| holes.write(strided(i, transfers), small))?;
    let strided_reads = rate(transfers, |i| holes.read(strided(i, transfers), &mut out[..STRIDED_BYTES]))?;
    assert!(out[..STRIDED_BYTES] == *small);
    let mut state = 1_u64;
    let random = rate(RANDOM_READS, |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        streamed.read((state >> 33) % (bytes as u64 / 4096) * 4096, &mut out[..4096])
    })?;
    let strides = mib(STRIDED_BYTES);
    Ok([writes, reads, strided_writes * strides, strided_reads * strides, random / 1e3])
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let base =
        PathBuf::from(arguments.next().ok_or("usage: store_speed DIRECTORY [MIB per round] [rounds]")?);
    let bytes = arguments.next().map_or(Ok(256), |a| a.parse::<usize>())? << 20;
    let rounds: usize = arguments.next().map_or(Ok(7), |a| a.parse())?;
    let dir = tempfile::tempdir_in(base)?;
    let kv = kv::open(KvKind::default(), &dir.path().join("kv"), 32 << 20)?;
    let store = store::open(&dir.path().join("chunks"), kv, StoreOptions::default())?;
    let (mut of_store, mut of_files) = (Vec::new(), Vec::new());
    for n in 0..rounds as u64 {
        let inos = [InodeId(2 * n + 1), InodeId(2 * n + 2)];
        let [a, b] = inos.map(|ino| Chunks { store: store.clone(), ino });
        of_store.push(round(&a, &b, bytes)?);
        store.remove(&inos)?;
        let paths = ["a", "b"].map(|name| dir.path().join(name));
        let open = |path| File::options().read(true).write(true).create_new(true).open(path);
        of_files.push(round(&open(&paths[0])?, &open(&paths[1])?, bytes)?);
        paths.iter().try_for_each(std::fs::remove_file)?;
        // Neither side writes back what the other has left behind.
        store.sync()?;
    }
    println!("{:30} {:>10} {:>10} {:>7}", "", "store", "files", "ratio");
    for (index, name) in NAMES.iter().enumerate() {
        let of = |all: &[[f64; 5]]| median(all.iter().map(|r| r[index]).collect());
        let (a, b) = (of(&of_store), of(&of_files));
        println!("{name:30} {a:10.0} {b:10.0} {:7.2}", a / b);
    }
    Ok(())
}
