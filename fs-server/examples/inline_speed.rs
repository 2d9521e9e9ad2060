//! Where to keep the content of small files in the key-value store: with the inode or beside it, with values in files of their own (fjall's
//! key-value separation) or not? Each variant makes files, looks at inodes, changes them, and reads contents, in random order.
//!
//! ```text
//! cargo run --release -p fs-server --example inline_speed -- DIRECTORY [FILES] [BYTES...]
//! ```
//! Per operation: microseconds, and CPU microseconds of all threads of the process. "written" is what the kernel was given to write, per byte
//! of content; "disk" the store's files, per byte of content: after making, after rewriting everything eight times, after removing everything.

use std::path::{Path, PathBuf};
use std::time::Instant;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, PersistMode};
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

type Failure = Box<dyn std::error::Error>;

/// As a server with 512 MiB has it.
const CACHE_BYTES: u64 = 64 << 20;
const MEMTABLE_BYTES: u64 = 12 << 20;
const INODE_BYTES: usize = 160;
/// How often each file is written again, in another order.
const REWRITES: usize = 8;

#[derive(Clone, Copy, Debug)]
enum Variant {
    Within,
    Beside,
    BesideSeparated,
}

struct Store {
    database: Database,
    tree: Keyspace,
    within: bool,
}

fn key(kind: u8, ino: usize) -> Vec<u8> {
    [&[kind][..], &(ino as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()].concat()
}

impl Store {
    fn open(dir: &Path, variant: Variant) -> Result<Store, Failure> {
        let database = Database::builder(dir)
            .cache_size(CACHE_BYTES)
            .max_journaling_size(128 << 20)
            .journal_compression(fjall::CompressionType::None)
            .worker_threads(2)
            .open()?;
        let separated = matches!(variant, Variant::BesideSeparated).then(KvSeparationOptions::default);
        let options = || {
            KeyspaceCreateOptions::default()
                .max_memtable_size(MEMTABLE_BYTES)
                .with_kv_separation(separated.clone())
        };
        let tree = database.keyspace("namespace", options)?;
        Ok(Store { database, tree, within: matches!(variant, Variant::Within) })
    }

    fn commit(&self, puts: &[(Vec<u8>, Vec<u8>)]) -> Result<(), Failure> {
        let mut batch = fjall::OwnedWriteBatch::with_capacity(self.database.clone(), puts.len())
            .durability(Some(PersistMode::Buffer));
        for (key, value) in puts {
            batch.insert(&self.tree, key.as_slice(), value.as_slice());
        }
        Ok(batch.commit()?)
    }

    fn create(&self, ino: usize, inode: &[u8], content: &[u8]) -> Result<(), Failure> {
        let entry = (key(b'd', ino), vec![1; 12]);
        if self.within {
            return self.commit(&[entry, (key(b'i', ino), [inode, content].concat())]);
        }
        self.commit(&[entry, (key(b'i', ino), inode.to_vec()), (key(b'f', ino), content.to_vec())])
    }

    fn get(&self, kind: u8, ino: usize) -> Result<usize, Failure> {
        Ok(self.tree.get(key(kind, ino))?.ok_or("gone")?.len())
    }

    fn remove(&self, ino: usize) -> Result<(), Failure> {
        let mut batch = fjall::OwnedWriteBatch::with_capacity(self.database.clone(), 3)
            .durability(Some(PersistMode::Buffer));
        for kind in [b'd', b'i', b'f'] {
            batch.remove(&self.tree, key(kind, ino).as_slice());
        }
        Ok(batch.commit()?)
    }

    fn touch(&self, ino: usize) -> Result<(), Failure> {
        let mut inode = self.tree.get(key(b'i', ino))?.ok_or("gone")?.to_vec();
        inode[0] = inode[0].wrapping_add(1);
        self.commit(&[(key(b'i', ino), inode)])
    }
}

fn cpu_us() -> u64 {
    // Fields 14 and 15 are ticks of 10 ms in user and kernel mode.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    let field =
        |n: usize| after.split_whitespace().nth(n).and_then(|ticks| ticks.parse::<u64>().ok()).unwrap_or(0);
    (field(11) + field(12)) * 10_000
}

fn written_bytes() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = io.lines().find_map(|line| line.strip_prefix("wchar: "));
    line.and_then(|count| count.parse().ok()).unwrap_or(0)
}

fn timed(times: usize, mut op: impl FnMut(usize) -> Result<(), Failure>) -> Result<String, Failure> {
    let (began, cpu) = (Instant::now(), cpu_us());
    for i in 0..times {
        op(i)?;
    }
    let per = |us: u64| us as f64 / times as f64;
    Ok(format!("{:.1} ({:.1})", per(began.elapsed().as_micros() as u64), per(cpu_us() - cpu)))
}

fn run(dir: &Path, variant: Variant, files: usize, bytes: usize) -> Result<(), Failure> {
    let store = Store::open(dir, variant)?;
    let mut rng = SmallRng::seed_from_u64(7);
    let mut content = vec![0; bytes];
    rng.fill(&mut content[..]);
    let mut order: Vec<usize> = (0..files).collect();
    order.shuffle(&mut rng);
    let before = written_bytes();
    let create = timed(files, |i| store.create(i, &[1; INODE_BYTES], &content))?;
    let stat = timed(files, |i| store.get(b'i', order[i]).map(drop))?;
    let get = timed(files, |i| {
        store.get(b'i', order[i])?;
        if !store.within {
            store.get(b'f', order[i])?;
        }
        Ok(())
    })?;
    let touch = timed(files, |i| store.touch(order[i]))?;
    let payload = (files * bytes) as f64;
    let written = (written_bytes() - before) as f64 / payload;
    let disk = store.database.disk_space()? as f64 / payload;
    let rewrite = timed(files * REWRITES, |i| {
        let ino = order[i * 7 % files];
        content[0] = content[0].wrapping_add(1);
        store.create(ino, &[1; INODE_BYTES], &content)
    })?;
    let rewritten = store.database.disk_space()? as f64 / payload;
    for i in &order {
        store.remove(*i)?;
    }
    let removed = store.database.disk_space()? as f64 / payload;
    println!(
        "| {bytes} | {variant:?} | {create} | {stat} | {get} | {touch} | {written:.1} | {disk:.1} | {rewrite} | {rewritten:.1} | {removed:.1} |"
    );
    Ok(())
}

fn main() -> Result<(), Failure> {
    let mut words = std::env::args().skip(1);
    let dir = PathBuf::from(words.next().ok_or("a directory is needed")?);
    let files = words.next().map_or(Ok(20_000), |word| word.parse())?;
    let mut sizes: Vec<usize> = words.map(|word| word.parse()).collect::<Result<_, _>>()?;
    if sizes.is_empty() {
        sizes = vec![1 << 10, 4 << 10, 16 << 10];
    }
    println!("{files} files; microseconds (CPU microseconds) per operation\n");
    println!(
        "| bytes | content | create | stat | get | change | written | disk | rewrite | disk then | all removed |\n|---|---|---|---|---|---|---|---|---|---|---|"
    );
    for bytes in sizes {
        for variant in [Variant::Within, Variant::Beside, Variant::BesideSeparated] {
            let at = dir.join(format!("{variant:?}-{bytes}"));
            run(&at, variant, files, bytes)?;
            std::fs::remove_dir_all(&at)?;
        }
    }
    Ok(())
}
