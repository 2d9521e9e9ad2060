//! Groups of records: what their writes end with.

use crate::mem_kv::MemKv;
use crate::sim_disk::SimDisk;
use crate::support::{Change, Model, options, piece};
use fs_server::store::{self, IoMode, LogStore, StoreError, StoreOptions};
use std::sync::Arc;

const STORE_ID: u64 = 3;
const INOS: u64 = 3;

fn writes(seed: u64) -> Vec<Change> {
    let write = |n: u64| Change::Write {
        ino: n % INOS,
        chunk: 0,
        offset: 3_000 * n as u32,
        len: 4_000,
        seed: seed + n,
    };
    (0..6).map(write).collect()
}

fn write_all(store: &LogStore, changes: &[Change]) -> Vec<Result<(), StoreError>> {
    store.write_many(&changes.iter().map(piece).collect::<Vec<_>>())
}

fn write_well(store: &LogStore, changes: &[Change]) {
    for written in write_all(store, changes) {
        written.unwrap();
    }
}

fn check_failure(io: IoMode, errno: i32, is_failure: fn(&StoreError) -> bool, goes_on: bool) {
    let (disk, kv) = (SimDisk::new(), MemKv::new());
    let options = StoreOptions { io, ..options() };
    let store = store::open_on(disk.clone(), STORE_ID, kv.clone(), options.clone()).unwrap();
    let mut model = Model::of(&writes(1));
    write_well(&store, &writes(1));
    disk.fail_next(errno);
    for outcome in write_all(&store, &writes(100)) {
        assert!(is_failure(&outcome.unwrap_err()));
    }
    model.check(&store, INOS);
    for outcome in write_all(&store, &writes(200)) {
        match outcome {
            Ok(()) => assert!(goes_on),
            Err(error) => assert!(!goes_on && matches!(error, StoreError::Refused), "{error}"),
        }
    }
    if goes_on {
        for change in writes(200) {
            model.apply(&change);
        }
    }
    store.abandon();
    let again: Arc<SimDisk> = disk.after_kill();
    model.check(&store::open_on(again, STORE_ID, kv.after_kill(), options).unwrap(), INOS);
}

#[test]
fn a_failed_group_fails_all_its_writes() {
    // Goal: a device that fails the write of a group fails all its writes, none of which shows then or after a kill, and
    // refuses what comes after; a full one fails them, and the store goes on.
    for io in [IoMode::Buffered, IoMode::Direct] {
        check_failure(io, libc::EIO, |error| matches!(error, StoreError::Io(_)), false);
        check_failure(io, libc::ENOSPC, |error| matches!(error, StoreError::NoSpace), true);
    }
}

#[test]
fn a_group_that_does_not_fit_goes_on_in_the_next_segment() {
    // Goal: far more than a segment holds, in one call: all is there, now and after a kill.
    for io in [IoMode::Buffered, IoMode::Direct] {
        let (disk, kv) = (SimDisk::new(), MemKv::new());
        let options = StoreOptions { io, ..options() };
        let store = store::open_on(disk.clone(), STORE_ID, kv.clone(), options.clone()).unwrap();
        let write = |n: u64| Change::Write { ino: n % INOS, chunk: n / 9, offset: 11, len: 5_000, seed: n };
        let changes: Vec<_> = (0..60).map(write).collect();
        write_well(&store, &changes);
        let model = Model::of(&changes);
        model.check(&store, INOS);
        store.abandon();
        model.check(&store::open_on(disk.after_kill(), STORE_ID, kv.after_kill(), options).unwrap(), INOS);
    }
}
