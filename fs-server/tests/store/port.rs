//! The rest of the contract, case by case.

use crate::support::{Change, Model, key, open, open_with, options, pattern};
use fs_server::store::{ChunkStore, StoreError};
use std::sync::Barrier;

#[test]
fn edges_of_ranges() {
    // Goal: empty writes, reads at and behind the end, holes, the largest chunk, and what is too large.
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (at, mut out) = (key(1, 0), [0xaa; 16]);
    store.write(at, 100, &[]).unwrap();
    assert_eq!(store.read(at, 0, &mut out).unwrap(), 0);
    store.write(at, 8, b"data").unwrap();
    assert_eq!(store.read(at, 0, &mut out).unwrap(), 12);
    assert_eq!(&out[..12], b"\0\0\0\0\0\0\0\0data");
    assert_eq!(store.read(at, 12, &mut out).unwrap(), 0);
    assert_eq!(store.read(at, u32::MAX, &mut out).unwrap(), 0);
    assert_eq!(store.read(at, 9, &mut out[..2]).unwrap(), 2);
    assert_eq!(&out[..2], b"at");
    assert_eq!(store.read(at, 9, &mut []).unwrap(), 0);
    let whole = pattern(7, 16 << 20);
    store.write(key(2, 9), 0, &whole).unwrap();
    let mut back = vec![0; whole.len() + 1];
    assert_eq!(store.read(key(2, 9), 0, &mut back).unwrap(), whole.len());
    assert!(back[..whole.len()] == whole);
    let beyond = store.write(key(2, 9), 1, &whole);
    assert!(matches!(beyond, Err(StoreError::OutOfRange { offset: 1, .. })), "{beyond:?}");
}

#[test]
fn large_records_read_back_wherever_they_begin() {
    // Goal: records of many pieces that begin and end off the grid of blocks, read whole, in part, and over each other.
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut model = Model::default();
    for (chunk, (offset, len)) in
        [(1, 900_000), (4_095, 700_001), (100, 2 << 20), (0, 1 << 20)].iter().enumerate()
    {
        let change =
            Change::Write { ino: 1, chunk: chunk as u64, offset: *offset, len: *len, seed: *len as u64 };
        change.apply(&*store).unwrap();
        model.apply(&change);
    }
    let over = Change::Write { ino: 1, chunk: 2, offset: 300_001, len: 600_000, seed: 5 };
    over.apply(&*store).unwrap();
    model.apply(&over);
    model.check(&*store, 2);
    for (offset, len) in [(1_u32, 800_000_usize), (262_144, 262_144), (100, 262_044), (4_096, 1 << 19)] {
        for chunk in 0..4 {
            let mut out = vec![0; len];
            let got = store.read(key(1, chunk), offset, &mut out).unwrap();
            let all = model.bytes(1, chunk);
            let end = (offset as usize + len).min(all.len());
            assert!(out[..got] == all[offset as usize..end], "chunk {chunk} at {offset}");
        }
    }
}

#[test]
fn a_second_opening_says_in_use() {
    // Goal: one process at a time; after closing it can be opened again.
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let second = open_with(dir.path(), options());
    assert!(matches!(second.err(), Some(StoreError::InUse(path)) if path == dir.path()));
    drop(store);
    drop(open(dir.path()));
}

#[test]
fn what_is_not_a_store_is_refused() {
    // Goal: a directory with another file named `store`, or with segments without identity, is left alone.
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("store"), b"groceries").unwrap();
    assert!(matches!(open_with(dir.path(), options()).err(), Some(StoreError::Foreign { .. })));
    std::fs::remove_file(dir.path().join("store")).unwrap();
    std::fs::write(dir.path().join("00000001.seg"), b"x").unwrap();
    assert!(matches!(open_with(dir.path(), options()).err(), Some(StoreError::Foreign { .. })));
    assert_eq!(std::fs::read(dir.path().join("00000001.seg")).unwrap(), b"x");
}

#[test]
fn many_small_writes_are_merged() {
    // Goal: a chunk of thousands of tiny writes keeps its content, and comes to refer to few records: those that were
    // merged into others are dead, so their segments go. Without merging every record keeps its unit of 512 bytes.
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut model = Model::default();
    for n in 0..3_000_u64 {
        let offset = ((n * 7_919) % 3_000 * 20) as u32;
        let change = Change::Write { ino: 1, chunk: 0, offset, len: 20, seed: n };
        change.apply(&*store).unwrap();
        model.apply(&change);
    }
    model.check(&*store, 3);
    (0..10).for_each(|_| store.compact().unwrap());
    assert!(store.stats().disk_bytes < 3_000 * 512 / 2, "{:?}", store.stats());
    model.check(&*store, 3);
    drop(store);
    model.check(&*open(dir.path()), 3);
}

#[test]
fn concurrent_writers_end_as_a_reopening_sees_it() {
    // Goal: threads write, cut and remove overlapping ranges of the same chunks at once. Whatever order that gave, it is
    // the one that a reopening finds; with small extents merged and segments emptied on the way.
    for round in 0..6 {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let start = Barrier::new(4);
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let (store, start) = (&store, &start);
                scope.spawn(move || {
                    let mut rng = crate::support::Rng(round * 100 + thread);
                    start.wait();
                    for n in 0..700 {
                        let (ino, chunk, offset) = (rng.below(2), rng.below(2), rng.below(30_000) as u32);
                        let len = 1 + rng.below(300) as usize;
                        let change = match rng.below(60) {
                            0 => Change::Truncate { ino, chunk, keep: offset },
                            1 => Change::Remove { inos: vec![ino] },
                            _ => Change::Write { ino, chunk, offset, len, seed: thread * 1000 + n },
                        };
                        change.apply(&**store).unwrap();
                    }
                });
            }
        });
        let seen = contents(&*store);
        let live_bytes = store.stats().live_bytes;
        drop(store);
        let store = open(dir.path());
        assert!(contents(&*store) == seen, "round {round}");
        assert_eq!(store.stats().live_bytes, live_bytes);
    }
}

fn contents(store: &dyn ChunkStore) -> Vec<Vec<u8>> {
    let chunks = [(0, 0), (0, 1), (1, 0), (1, 1)];
    chunks
        .map(|(ino, chunk)| {
            let mut out = vec![0; 40_000];
            let got = store.read(key(ino, chunk), 0, &mut out).unwrap();
            out.truncate(got);
            out
        })
        .into()
}
