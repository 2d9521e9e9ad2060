//! Anonymous memory does not grow with the number of files. The test binary runs itself as a child, so that what is measured is
//! the store's alone.

use fs_proto::attr::{FileKind, Layout};
use fs_proto::op::Op;
use fs_proto::record::{EntryRecord, RequestResult};
use fs_proto::{ClientId, InodeId, Partition, ServerId, Status};
use fs_server::kv::{self, Batch, Kv, KvKind};
use fs_server::namespace::{NewInode, encode_record, keys, new_inode};
use std::path::Path;
use std::process::Command;

const CHILD_DIR: &str = "HAYATE_TEST_KV_MEMORY_DIR";
const DIR_FILES: u64 = 10_000;

/// How many files, with which pool.
struct Scale {
    files: u64,
    pool_bytes: u64,
    /// What comes on top of the pool, whatever the number of files: see decision 0011 for the figures.
    constant_bytes: u64,
}

/// The rows of all files are more than what is allowed: an engine that kept them would not pass.
fn scale() -> Scale {
    if std::env::var_os("HAYATE_TEST_LONG").is_some() {
        Scale { files: 10_000_000, pool_bytes: 64 << 20, constant_bytes: 32 << 20 }
    } else {
        Scale { files: 200_000, pool_bytes: 8 << 20, constant_bytes: 24 << 20 }
    }
}

#[test]
fn memory_stays_within_the_pool_and_a_constant() {
    // Goal: files are created as a server does it, by two threads, then looked up at random; at no moment does the process
    // have more anonymous memory than the pool and a constant. 200,000 files with 8 MiB, or 10 million with 64 MiB in the long tier.
    if let Some(dir) = std::env::var_os(CHILD_DIR) {
        return child(Path::new(&dir));
    }
    let dir = tempfile::tempdir().expect("temporary directory");
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "memory::memory_stays_within_the_pool_and_a_constant", "--nocapture"])
        .env(CHILD_DIR, dir.path())
        // As servers run.
        .env("MALLOC_ARENA_MAX", "1")
        .status()
        .unwrap();
    assert!(status.success());
}

fn child(dir: &Path) {
    let Scale { files, pool_bytes, constant_bytes } = scale();
    let store = kv::open(KvKind::Fjall, dir, pool_bytes).unwrap();
    let each = |thread: u64, operation: &dyn Fn(u64)| {
        for n in (0..files).filter(|n| n / DIR_FILES % 2 == thread) {
            operation(n);
            if n % 1_000 == 0 {
                let taken = anonymous_bytes();
                assert!(taken < pool_bytes + constant_bytes, "{} MiB after {n} files", taken >> 20);
            }
        }
    };
    let on_both = |operation: &(dyn Fn(u64) + Sync)| {
        std::thread::scope(|scope| {
            scope.spawn(|| each(0, operation));
            scope.spawn(|| each(1, operation));
        });
        println!("{} MiB", anonymous_bytes() >> 20);
    };
    on_both(&|n| create(&*store, n));
    // A tenth: each is a random read of the device.
    on_both(&|n| {
        if n % 10 == 0 {
            look_up(&*store, scramble(n) % files);
        }
    });
}

fn anonymous_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

fn scramble(n: u64) -> u64 {
    (n ^ (n >> 15)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 3
}

fn dir_of(n: u64) -> InodeId {
    let dir = n / DIR_FILES;
    InodeId::allocate(Partition(scramble(dir) as u16), ServerId(1), 1_000 + dir).unwrap()
}

fn file_of(n: u64) -> (InodeId, String) {
    (InodeId::allocate(dir_of(n).partition(), ServerId(1), 1 << 30 | n).unwrap(), format!("file.{n}"))
}

fn inode_row(batch: &mut Batch, ino: InodeId, kind: FileKind, parent: InodeId, name: String, now: u64) {
    let (layout, name, now) = (Layout::default(), name.into(), now as i64);
    let inode = new_inode(NewInode { ino, kind, mode: 0o644, uid: 0, gid: 0, parent, name, layout, now });
    batch.put(keys::inode(ino), encode_record(&inode));
}

/// The rows of a create: entry, inode, the touched directory, and how the request ended.
fn create(store: &dyn Kv, n: u64) {
    let (dir, (ino, name)) = (dir_of(n), file_of(n));
    let mut batch = Batch::new();
    let entry = EntryRecord { ino, kind: FileKind::File };
    batch.put(keys::entry(dir, name.as_bytes()), encode_record(&entry));
    inode_row(&mut batch, ino, FileKind::File, dir, name, n);
    inode_row(&mut batch, dir, FileKind::Directory, InodeId::ROOT, "dir".to_owned(), n);
    let result = RequestResult { count: n, op: Op::Create, status: Status::Ok, ino };
    batch.put(keys::remembered(ClientId(7), (n / DIR_FILES % 2) as u16), encode_record(&result));
    store.commit(batch).unwrap();
}

fn look_up(store: &dyn Kv, n: u64) {
    let (ino, name) = file_of(n);
    assert!(store.get(&keys::entry(dir_of(n), name.as_bytes())).unwrap().is_some());
    assert!(store.get(&keys::inode(ino)).unwrap().is_some());
}
