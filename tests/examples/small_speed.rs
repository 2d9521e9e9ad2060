//! From which size on do files not lie with their inodes? Makes, reads, and reads by one message files of several sizes, once with everything
//! inline and once with everything in chunks, and puts and gets many. Servers and client are threads of this process.
//!
//! ```text
//! cargo run --release -p hayate-tests --example small_speed -- [SERVERS] [FILES] [ROUNDS] [BYTES...]
//! ```
//! Per operation: how many a second, and CPU microseconds of client and servers together; medians of the rounds, which take turns.
//! "written" is what this process made dirty in files while it made them, per byte of content; "disk" what the stores hold then.

use std::time::Instant;

use fs_client::{Caller, InodeId, OpenFlags};
use fs_server::ServerConfig;
use hayate_tests::{Cluster, ClusterOptions};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

const ROOT: Caller = Caller::ROOT;
const SIZES: [usize; 7] = [0, 1 << 10, 4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10];
const NAMES: [&str; 6] =
    ["create, write, close", "open, read, close", "put", "get", "put of many, a file", "get of many, a file"];

/// Operations a second, CPU microseconds each.
type Figure = (f64, f64);

struct Round {
    figures: Vec<Figure>,
    written: f64,
    disk: f64,
}

fn cpu_us() -> u64 {
    // Fields 14 and 15 are ticks of 10 ms in user and kernel mode.
    let stat = std::fs::read_to_string("/proc/self/stat").expect("proc");
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    let field =
        |n: usize| after.split_whitespace().nth(n).and_then(|ticks| ticks.parse::<u64>().ok()).unwrap_or(0);
    (field(11) + field(12)) * 10_000
}

/// Bytes of pages that this process made dirty.
fn written_bytes() -> f64 {
    let io = std::fs::read_to_string("/proc/self/io").expect("proc");
    let count = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    count.and_then(|count| count.parse().ok()).unwrap_or(0.0)
}

fn disk_bytes(path: &std::path::Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else { return 0 };
    let blocks = |entry: std::fs::DirEntry| {
        let meta = entry.metadata().expect("metadata");
        let own = std::os::unix::fs::MetadataExt::blocks(&meta) * 512;
        own + if meta.is_dir() { disk_bytes(&entry.path()) } else { 0 }
    };
    entries.flatten().map(blocks).sum()
}

fn timed(times: usize, per_call: usize, mut op: impl FnMut(usize)) -> Figure {
    let (began, cpu) = (Instant::now(), cpu_us());
    (0..times).for_each(&mut op);
    let files = (times * per_call) as f64;
    (files / began.elapsed().as_secs_f64(), (cpu_us() - cpu) as f64 / files)
}

fn name(kind: char, i: usize) -> Vec<u8> {
    format!("{kind}{i}").into_bytes()
}

fn round(servers: u16, files: usize, size: usize, edit: fn(&mut ServerConfig)) -> Round {
    let cluster = Cluster::configured(ClusterOptions { servers, ..ClusterOptions::default() }, edit);
    let client = cluster.client();
    let mut content = vec![0; size];
    SmallRng::seed_from_u64(7).fill(&mut content[..]);
    // Many directories, so that all servers take part.
    let dirs: Vec<InodeId> =
        (0..16).map(|i| client.mkdir_path(format!("/d{i}"), 0o755).expect("mkdir").ino).collect();
    let dir = |i: usize| dirs[i % dirs.len()];
    let before = written_bytes();
    let mut figures = Vec::new();
    figures.push(timed(files, 1, |i| {
        let made = client.create_open(&ROOT, dir(i), &name('f', i), 0o644, OpenFlags::WRITE, true);
        let file = made.expect("create").0;
        if size > 0 {
            file.write_at(&content, 0).expect("write");
        }
        file.close().expect("close");
    }));
    let written = (written_bytes() - before) / (files * size.max(1)) as f64;
    let stores = (0..servers).map(|id| disk_bytes(&cluster.store_dir(id))).sum::<u64>();
    let disk = stores as f64 / (files * size.max(1)) as f64;
    let mut buf = vec![0; size];
    figures.push(timed(files, 1, |i| {
        let ino = client.lookup(&ROOT, dir(i), &name('f', i)).expect("lookup").ino;
        let file = client.open(&ROOT, ino, OpenFlags::READ).expect("open");
        assert_eq!(file.read_at(&mut buf, 0).expect("read"), size);
        file.close().expect("close");
    }));
    figures.push(timed(files, 1, |i| {
        client.put_at(&ROOT, dir(i), &name('p', i), &content, 0o644, false).expect("put");
    }));
    figures.push(timed(files, 1, |i| {
        assert_eq!(client.get_at(&ROOT, dir(i), &name('p', i)).expect("get").len(), size);
    }));
    let batch = |i: usize| (0..100).map(|n| name('m', i * 100 + n)).collect::<Vec<_>>();
    figures.push(timed(files / 100, 100, |i| {
        let names = batch(i);
        let many: Vec<(&[u8], &[u8])> = names.iter().map(|name| (&name[..], &content[..])).collect();
        let put = client.put_many(&ROOT, dir(i), &many, 0o644).expect("put");
        assert!(put.iter().all(Result::is_ok));
    }));
    figures.push(timed(files / 100, 100, |i| {
        let names = batch(i);
        let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
        let got = client.get_many(&ROOT, dir(i), &names).expect("get");
        assert!(got.iter().all(|got| got.as_ref().is_ok_and(|bytes| bytes.len() == size)));
    }));
    Round { figures, written, disk }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn row(size: usize, kind: &str, rounds: &[Round]) {
    let over = |pick: &dyn Fn(&Round) -> f64| median(rounds.iter().map(pick).collect());
    let figures: Vec<String> = (0..NAMES.len())
        .map(|at| {
            format!("{:.0} ({:.0})", over(&|round| round.figures[at].0), over(&|round| round.figures[at].1))
        })
        .collect();
    let (written, disk) = (over(&|round| round.written), over(&|round| round.disk));
    println!("| {size} | {kind} | {} | {written:.1} | {disk:.1} |", figures.join(" | "));
}

fn main() {
    let mut words = std::env::args().skip(1).map(|word| word.parse::<usize>().expect("a number"));
    let servers = words.next().unwrap_or(1) as u16;
    let (files, rounds) = (words.next().unwrap_or(3000), words.next().unwrap_or(3));
    println!("{servers} servers, {files} files; operations a second (CPU microseconds each)\n");
    println!("| bytes | content | {} | written | disk |", NAMES.join(" | "));
    println!("|---|---|{}---|---|", "---|".repeat(NAMES.len()));
    let chosen: Vec<usize> = words.collect();
    for size in if chosen.is_empty() { SIZES.to_vec() } else { chosen } {
        let (mut inline, mut chunks) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            inline.push(round(servers, files, size, |config| config.inline_bytes = fs_proto::INLINE_MAX));
            chunks.push(round(servers, files, size, |config| config.inline_bytes = 0));
        }
        row(size, "inline", &inline);
        row(size, "chunks", &chunks);
    }
}
