//! Segments are emptied and unlinked, under load, and nothing comes back.

use crate::support::{Change, Model, Rng, SEGMENT_BYTES, open, segment_files};
use fs_server::store::ChunkStore;
use std::sync::atomic::{AtomicBool, Ordering};

const THREADS: u64 = 3;

#[test]
fn compaction_under_load_keeps_everything() {
    // Goal: threads overwrite, cut and remove their own files while another compacts all the time and a third reads.
    // Every thread's files end as its model says, before and after reopening, and the space stays near what is live.
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let done = AtomicBool::new(false);
    let models: Vec<Model> = std::thread::scope(|scope| {
        let compacting = scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                store.compact().unwrap();
            }
        });
        let writers: Vec<_> = (0..THREADS)
            .map(|t| {
                scope.spawn({
                    let store = &store;
                    move || load(&**store, t)
                })
            })
            .collect();
        // A writer that failed must end the compacting, too.
        let ended: Vec<_> = writers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        done.store(true, Ordering::Release);
        compacting.join().unwrap();
        ended.into_iter().map(Result::unwrap).collect()
    });
    let mut all = Model::default();
    all.chunks.extend(models.into_iter().flat_map(|m| m.chunks));
    all.check(&*store, 3 * THREADS);
    (0..50).for_each(|_| store.compact().unwrap());
    assert!(store.stats().compacted_bytes > 0);
    let bound = 4 * all.live_bytes() + 8 * SEGMENT_BYTES;
    assert!(store.stats().disk_bytes < bound, "{:?}", store.stats());
    drop(store);
    all.check(&*open(dir.path()), 3 * THREADS);
}

/// Changes two files of a thread, and reads back as it goes. A third file is written here and there and never changed,
/// so that no segment dies by itself.
fn load(store: &dyn ChunkStore, thread: u64) -> Model {
    let (mut rng, mut model) = (Rng(thread), Model::default());
    for n in 0..1_200 {
        let (ino, chunk, offset) = (2 * thread + rng.below(2), rng.below(4), rng.below(30_000) as u32);
        let change = match rng.below(40) {
            0 => Change::Truncate { ino, chunk, keep: offset },
            1 => Change::Remove { inos: vec![ino] },
            _ => Change::Write { ino, chunk, offset, len: 1 + rng.below(6_000) as usize, seed: n },
        };
        change.apply(store).unwrap();
        model.apply(&change);
        if n % 5 == 0 {
            let steady = Change::Write { ino: 2 * THREADS + thread, chunk: n, offset: 0, len: 200, seed: n };
            steady.apply(store).unwrap();
            model.apply(&steady);
        }
        if n % 20 == 0 {
            assert_eq!(model.difference_of(store, ino), None);
        }
    }
    model
}

#[test]
fn deleted_data_stays_deleted_through_compaction() {
    // Goal: the argument in `compact`. A file that is never touched keeps the oldest segment alive while others are
    // written, cut and removed around it for many segments; after each round the store is reopened.
    let dir = tempfile::tempdir().unwrap();
    let mut model = Model::default();
    let mut rng = Rng(5);
    for round in 0..12_u64 {
        let store = open(dir.path());
        model.check(&*store, 40);
        let mut apply = |change: Change| {
            change.apply(&*store).unwrap();
            model.apply(&change);
        };
        for n in 0..30 {
            let ino = 1 + rng.below(30);
            apply(Change::Write { ino, chunk: rng.below(2), offset: 0, len: 6_000, seed: round * 100 + n });
            match rng.below(4) {
                0 => apply(Change::Remove { inos: vec![ino, 1 + rng.below(30)] }),
                1 => apply(Change::Truncate { ino, chunk: 0, keep: rng.below(6_000) as u32 }),
                _ => {}
            }
            if n == 0 && round == 0 {
                apply(Change::Write { ino: 0, chunk: 0, offset: 0, len: 50_000, seed: 1 });
            }
        }
        (0..3).for_each(|_| store.compact().unwrap());
        model.check(&*store, 40);
    }
    let store = open(dir.path());
    model.check(&*store, 40);
    store.remove(&(0..40).map(fs_proto::ids::InodeId).collect::<Vec<_>>()).unwrap();
    (0..50).for_each(|_| store.compact().unwrap());
    assert!(
        segment_files(dir.path()).len() <= 1,
        "an empty store keeps at most the segment that it writes to"
    );
    drop(store);
    Model::default().check(&*open(dir.path()), 40);
}

#[test]
fn many_openings_do_not_leave_many_segments() {
    // Goal: every opening begins a segment; small ones are put together.
    let dir = tempfile::tempdir().unwrap();
    let mut model = Model::default();
    for n in 0..40 {
        let store = open(dir.path());
        let change = Change::Write { ino: n % 10, chunk: n, offset: 0, len: 100, seed: n };
        change.apply(&*store).unwrap();
        model.apply(&change);
    }
    let store = open(dir.path());
    (0..10).for_each(|_| store.compact().unwrap());
    model.check(&*store, 10);
    assert!(segment_files(dir.path()).len() < 10, "{:?}", store.stats());
}

#[test]
fn small_records_are_not_copied_for_ever() {
    // Goal: records far smaller than their unit leave segments that are full but carry little; copying those gains
    // nothing, so compaction must come to rest.
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for n in 0..1_000 {
        Change::Write { ino: n, chunk: 0, offset: 0, len: 50, seed: n }.apply(&*store).unwrap();
    }
    (0..20).for_each(|_| store.compact().unwrap());
    let copied_bytes = store.stats().compacted_bytes;
    (0..20).for_each(|_| store.compact().unwrap());
    assert_eq!(store.stats().compacted_bytes, copied_bytes);
    assert!(copied_bytes < 2 * 50_000, "{copied_bytes}");
}
