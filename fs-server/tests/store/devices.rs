//! Several devices as one store.

use crate::mem_kv::MemKv;
use crate::support::{Change, Model, Rng, options};
use fs_proto::ids::InodeId;
use fs_server::kv::Kv;
use fs_server::store::{ChunkStore, Devices, StoreError, devices};
use std::path::PathBuf;
use std::sync::Arc;

const INOS: u64 = 5;

fn dirs(base: &tempfile::TempDir, names: &[&str]) -> Vec<PathBuf> {
    names.iter().map(|name| base.path().join(name)).collect()
}

fn open(base: &tempfile::TempDir, names: &[&str], kv: &Arc<MemKv>) -> Result<Devices, StoreError> {
    let kv: Arc<dyn Kv> = kv.clone();
    devices::open(&dirs(base, names), &kv, &options())
}

fn change(rng: &mut Rng, n: u64) -> Change {
    let (ino, chunk, offset) = (rng.below(INOS), rng.below(6), rng.below(9_000) as u32);
    match rng.below(12) {
        0 => Change::Truncate { ino, chunk, keep: offset },
        1 => Change::Remove { inos: vec![ino, rng.below(INOS)] },
        2 => Change::Punch { ino, chunk, offset, len: 3_000 },
        _ => Change::Write { ino, chunk, offset, len: 1 + rng.below(6_000) as usize, seed: n },
    }
}

#[test]
fn many_devices_behave_like_one() {
    // Goal: changes that reach over devices (a truncation drops chunks of all) agree with the model, whatever order the
    // devices are named in at a reopening; each of them holds a part.
    let (base, kv) = (tempfile::tempdir().unwrap(), MemKv::new());
    let (mut rng, mut model) = (Rng(8), Model::default());
    for names in [["a", "b", "c"], ["c", "a", "b"], ["b", "c", "a"]] {
        let store = open(&base, &names, &kv).unwrap();
        model.check(&store, INOS);
        for n in 0..300 {
            let change = change(&mut rng, n);
            change.apply(&store).unwrap();
            model.apply(&change);
        }
        store.sync().unwrap();
        model.check(&store, INOS);
        assert!(store.stores().iter().all(|device| device.stats().written_bytes > 50_000));
    }
}

#[test]
fn devices_are_remembered() {
    // Goal: a device that is missing, too many, or of another store is refused with what to do, and nothing is changed.
    let (base, kv) = (tempfile::tempdir().unwrap(), MemKv::new());
    let mut model = Model::default();
    let store = open(&base, &["a", "b"], &kv).unwrap();
    for chunk in 0..10 {
        let change = Change::Write { ino: 1, chunk, offset: 0, len: 100, seed: chunk };
        change.apply(&store).unwrap();
        model.apply(&change);
    }
    drop(store);
    for wrong in [&["a"][..], &["a", "b", "new"], &["a", "new"]] {
        let refused = open(&base, wrong, &kv).err();
        assert!(
            matches!(&refused, Some(StoreError::Foreign { why, .. }) if why.contains("--store")),
            "{refused:?}"
        );
    }
    model.check(&open(&base, &["b", "a"], &kv).unwrap(), 3);
}

#[test]
fn one_failed_device_does_not_end_the_others() {
    // Goal: with a device whose files are gone, reads and writes of the others' chunks work, and its own are errors.
    let (base, kv) = (tempfile::tempdir().unwrap(), MemKv::new());
    let store = open(&base, &["a", "b"], &kv).unwrap();
    for chunk in 0..40 {
        Change::Write { ino: 1, chunk, offset: 0, len: 100, seed: chunk }.apply(&store).unwrap();
    }
    drop(store);
    for segment in crate::support::segment_files(&base.path().join("a")) {
        std::fs::remove_file(segment).unwrap();
    }
    let store = open(&base, &["a", "b"], &kv).unwrap();
    let readable = |chunk| {
        let mut out = [0; 100];
        store.read(crate::support::key(1, chunk), 0, &mut out).is_ok_and(|got| {
            assert!(out[..got] == crate::support::pattern(chunk, 100));
            got == 100
        })
    };
    let count = (0..40).filter(|chunk| readable(*chunk)).count();
    assert!((5..=35).contains(&count), "{count} of 40");
    assert!(store.stats().crc_failures > 0, "missing files are damage");
    for chunk in 0..40 {
        Change::Write { ino: 1, chunk, offset: 0, len: 100, seed: chunk }.apply(&store).unwrap();
    }
    assert_eq!((0..40).filter(|chunk| readable(*chunk)).count(), 40, "writing again heals");
    assert_eq!(store.chunks(InodeId(1)).unwrap().len(), 40);
}
