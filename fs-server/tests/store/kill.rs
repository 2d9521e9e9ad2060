//! kill -9: the test binary runs itself as a child that changes a store and reports each change, and kills it.

use crate::support::{Change, Model, Rng, options};
use fs_server::kv::{self, KvKind};
use fs_server::store::{self, LogStore, StoreOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

const CHILD_DIR: &str = "HAYATE_TEST_STORE_DIR";
const CHILD_FROM: &str = "HAYATE_TEST_STORE_FROM";
/// Threads of the child; thread t owns the inodes 2t and 2t + 1.
const THREADS: u64 = 2;
const INOS: u64 = 2 * THREADS;

/// The store with its index in the default engine; with little memory, so that it is saved all the time.
fn open(dir: &Path) -> Arc<LogStore> {
    let kv = kv::open(KvKind::default(), &dir.join("kv"), 16 << 20).unwrap();
    let options = StoreOptions { index_bytes: 4_000, ..options() };
    store::open(&dir.join("chunks"), kv, options).unwrap()
}

/// Change number `n` of a thread. Small chunks that are overwritten all the time, so that segments die and upkeep is busy.
fn change(thread: u64, n: u64) -> Change {
    let mut rng = Rng(thread << 40 | n);
    rng.below(2);
    let (ino, chunk) = (2 * thread + rng.below(2), rng.below(3));
    let offset = rng.below(20_000) as u32;
    match rng.below(25) {
        0 => Change::Truncate { ino, chunk, keep: offset },
        1 => Change::Remove { inos: vec![ino] },
        2 => Change::Punch { ino, chunk, offset, len: 1 + rng.below(9_000) as u32 },
        _ => Change::Write { ino, chunk, offset, len: 1 + rng.below(9_000) as usize, seed: n },
    }
}

#[test]
fn killed_writers_lose_nothing() {
    // Goal: after SIGKILL at an arbitrary moment every acknowledged change is there, and one that was under way is there
    // wholly or not at all; while segments are emptied and unlinked. Several kills in a row on one store.
    if let Some(dir) = std::env::var_os(CHILD_DIR) {
        return child(Path::new(&dir));
    }
    let dir = tempfile::tempdir().unwrap();
    let mut from = vec![0; THREADS as usize];
    let more = (0..long_rounds()).map(|round| 1 + round * 37 % 900);
    for kill_after in [3, 200, 1_500, 700].into_iter().chain(more) {
        let acknowledged = run_and_kill(dir.path(), &from, kill_after);
        let store = open(dir.path());
        for thread in 0..THREADS {
            from[thread as usize] = check(&store, thread, acknowledged[thread as usize]);
        }
        assert_eq!(fs_server::store::ChunkStore::stats(&*store).crc_failures, 0);
    }
}

/// Further kills of the long tier.
fn long_rounds() -> u32 {
    std::env::var("HAYATE_TEST_KILLS").map_or(0, |rounds| rounds.parse().expect("a number of kills"))
}

/// Runs the child until it has acknowledged `kill_after` changes, kills it, and returns how many each thread has done.
fn run_and_kill(dir: &Path, from: &[u64], kill_after: u32) -> Vec<u64> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill::killed_writers_lose_nothing", "--nocapture"])
        .env(CHILD_DIR, dir)
        .env(CHILD_FROM, from.iter().map(u64::to_string).collect::<Vec<_>>().join(","))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut done, mut seen) = (from.to_vec(), 0);
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let Some((thread, n)) = line.strip_prefix("ack ").and_then(|l| l.split_once(' ')) else { continue };
        done[thread.parse::<usize>().unwrap()] = n.parse::<u64>().unwrap() + 1;
        seen += 1;
        if seen == kill_after {
            child.kill().unwrap();
        }
    }
    assert!(!child.wait().unwrap().success());
    assert!(seen >= kill_after, "the child ended by itself after {seen} changes");
    done
}

fn child(dir: &Path) {
    let store = open(dir);
    let from: Vec<u64> = std::env::var(CHILD_FROM).unwrap().split(',').map(|n| n.parse().unwrap()).collect();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (store, first) = (&store, from[thread as usize]);
            scope.spawn(move || {
                for n in first.. {
                    change(thread, n).apply(&**store).unwrap();
                    std::io::stdout().write_all(format!("\nack {thread} {n}\n").as_bytes()).unwrap();
                }
            });
        }
    });
}

/// Checks a thread's inodes after `done` changes, or one more. Returns the number that are there.
fn check(store: &Arc<LogStore>, thread: u64, done: u64) -> u64 {
    let mut model = Model::of(&(0..done).map(|n| change(thread, n)).collect::<Vec<_>>());
    let differs = |model: &Model| {
        let other = |(ino, _): &(u64, u64)| ino / 2 != thread;
        assert!(!model.chunks.keys().any(other));
        (0..INOS).filter(|ino| ino / 2 == thread).find_map(|ino| model.difference_of(&**store, ino))
    };
    let Some(without) = differs(&model) else { return done };
    model.apply(&change(thread, done));
    match differs(&model) {
        None => done + 1,
        Some(with) => panic!("thread {thread} after {done} changes: {without}; with one more: {with}"),
    }
}
