//! kill -9: the test binary runs itself as a child that commits batches and reports each, and kills it.

use crate::{open, scan};
use fs_server::kv::{Batch, KvKind};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

const CHILD_DIR: &str = "HAYATE_TEST_KV_DIR";
const CHILD_KIND: &str = "HAYATE_TEST_KV_KIND";
const CHILD_FIRST: &str = "HAYATE_TEST_KV_FIRST";
const KEYS: u32 = 8;

#[test]
fn acknowledged_batches_survive_kill() {
    // Goal: what commit() returned for is there, whole, after SIGKILL at an arbitrary moment; and a batch that was
    // under way is there wholly or not at all. Several kills in a row, on the same store.
    if std::env::var_os(CHILD_DIR).is_some() {
        return child();
    }
    for kind in KvKind::ALL {
        kill_again_and_again(kind, [1, 37, 250]);
    }
    let more: Vec<u32> = (0..long_rounds()).map(|round| 1 + round * 37 % 200).collect();
    // What is there is read after each kill, so it must not become too much.
    more.chunks(10).for_each(|some| kill_again_and_again(KvKind::Fjall, some.iter().copied()));
}

/// Further kills of the default engine in the long tier.
fn long_rounds() -> u32 {
    std::env::var("HAYATE_TEST_KILLS").map_or(0, |rounds| rounds.parse().expect("a number of kills"))
}

fn kill_again_and_again(kind: KvKind, kills: impl IntoIterator<Item = u32>) {
    let dir = tempfile::tempdir().expect("temporary directory");
    let mut first = 0;
    for kill_after in kills {
        let last = run_and_kill(kind, dir.path(), first, kill_after);
        assert!(last >= first + kill_after - 1);
        first = check(kind, dir.path(), last) + 1;
    }
}

/// Starts the child, lets it acknowledge `kill_after` batches, kills it. Returns the last batch that it acknowledged.
fn run_and_kill(kind: KvKind, dir: &Path, first: u32, kill_after: u32) -> u32 {
    let mut child = spawn(kind, dir, first);
    let mut acknowledged = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let Some(number) = line.unwrap().strip_prefix("ack ").map(|n| n.parse::<u32>().unwrap()) else {
            continue;
        };
        acknowledged.push(number);
        if acknowledged.len() as u32 == kill_after {
            child.kill().unwrap();
        }
    }
    assert!(!child.wait().unwrap().success());
    *acknowledged.last().expect("the child acknowledged something")
}

fn spawn(kind: KvKind, dir: &Path, first: u32) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill::acknowledged_batches_survive_kill", "--nocapture"])
        .env(CHILD_DIR, dir)
        .env(CHILD_KIND, kind.to_string())
        .env(CHILD_FIRST, first.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Batch n puts n under KEYS keys of its own and under KEYS shared ones.
pub fn numbered(n: u32) -> Batch {
    let mut batch = Batch::new();
    for i in 0..KEYS {
        batch.put(own_key(n, i), value(n));
        batch.put(shared_key(i), value(n));
    }
    batch
}

/// Commits batches until killed.
fn child() {
    let var = |name| std::env::var(name).unwrap();
    let store = open(var(CHILD_KIND).parse().unwrap(), Path::new(&var(CHILD_DIR)));
    let first: u32 = var(CHILD_FIRST).parse().unwrap();
    for n in first.. {
        store.commit(numbered(n)).unwrap();
        std::io::stdout().write_all(format!("\nack {n}\n").as_bytes()).unwrap();
    }
}

/// Checks that all batches up to `last` are there, perhaps some that follow, each wholly, and nothing else. Returns the last that is there.
pub fn check(kind: KvKind, dir: &Path, last: u32) -> u32 {
    let store = open(kind, dir);
    let shared = scan(&*store, b"shared", b"t", usize::MAX);
    let newest = u32::from_le_bytes(shared[0].1[..4].try_into().unwrap());
    assert!(newest >= last, "{kind}: {newest} is older than the acknowledged {last}");
    assert_eq!(shared.len() as u32, KEYS, "{kind}");
    assert!(shared.iter().all(|p| p.1 == value(newest)), "{kind}: torn batch {newest}");
    let own = scan(&*store, b"own", b"p", usize::MAX);
    assert_eq!(
        own.len() as u32,
        (newest + 1) * KEYS,
        "{kind}: batches or parts of them are lost, or too many"
    );
    for (at, pair) in own.iter().enumerate() {
        let n = at as u32 / KEYS;
        assert_eq!(*pair, (own_key(n, at as u32 % KEYS), value(n)), "{kind}");
    }
    newest
}

fn own_key(n: u32, i: u32) -> Vec<u8> {
    [&b"own"[..], &n.to_be_bytes(), &i.to_be_bytes()].concat()
}

fn shared_key(i: u32) -> Vec<u8> {
    [&b"shared"[..], &i.to_be_bytes()].concat()
}

fn value(n: u32) -> Vec<u8> {
    let mut value = n.to_le_bytes().to_vec();
    value.resize(4 + (n as usize * 37) % 5_000, n as u8);
    value
}
