//! A full device: a small file system of its own, for which the test must be root.

use crate::mem_kv::MemKv;
use crate::sim_disk::SimDisk;
use crate::small_file_system::Mount;
use crate::support::{Change, Model, open_with, options, pattern};
use fs_proto::ids::InodeId;
use fs_server::store::{self, ChunkStore, StoreError, StoreOptions};

#[test]
fn a_full_device_recovers_when_space_is_freed() {
    // Goal: writes end with NoSpace and nothing else, reads and deletes go on, and after deletes there is room again, many
    // times over; at the end and after reopening everything that was acknowledged is there.
    let Some(mount) = Mount::of_mib(24) else { return };
    let store = open_with(mount.path(), StoreOptions::default()).unwrap();
    let mut model = Model::default();
    for round in 0..4_u64 {
        let mut ino = round * 200;
        let full = loop {
            let change = Change::Write { ino, chunk: 0, offset: 0, len: 150_000, seed: ino };
            match change.apply(&*store) {
                Ok(()) => model.apply(&change),
                Err(error) => break error,
            }
            ino += 1;
            assert!(ino < round * 200 + 200, "24 MiB took more than there is");
        };
        assert!(matches!(full, StoreError::NoSpace), "{full}");
        assert!(ino > round * 200 + 90, "round {round}: full after {} files", ino - round * 200);
        model.check(&*store, 800);
        // Keeps every seventh file of the round, so that freeing needs compaction, too; drops older ones.
        let gone: Vec<_> = (0..ino).filter(|i| i % 7 != 0 || *i + 400 < ino).collect();
        store.remove(&gone.iter().map(|i| InodeId(*i)).collect::<Vec<_>>()).unwrap();
        model.apply(&Change::Remove { inos: gone });
        model.check(&*store, 800);
    }
    drop(store);
    let store = open_with(mount.path(), StoreOptions::default()).unwrap();
    model.check(&*store, 800);
}

#[test]
fn deletes_work_when_the_device_was_filled_by_others() {
    // Goal: even with no free byte left a delete gets through once the reserve is given back, and never breaks the store.
    let Some(mount) = Mount::of_mib(24) else { return };
    let store = open_with(mount.path(), StoreOptions::default()).unwrap();
    let change = |ino| Change::Write { ino, chunk: 0, offset: 0, len: 300_000, seed: ino };
    (0..10).for_each(|ino| change(ino).apply(&*store).unwrap());
    let ballast = mount.path().join("ballast");
    let filled = std::fs::write(&ballast, pattern(1, 30 << 20));
    assert_eq!(filled.unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    // What the active segment has left is used up first.
    let full = (100..).find_map(|ino| change(ino).apply(&*store).err());
    assert!(matches!(full, Some(StoreError::NoSpace)), "{full:?}");
    store.remove(&(0..10).map(InodeId).collect::<Vec<_>>()).unwrap();
    std::fs::remove_file(&ballast).unwrap();
    change(50).apply(&*store).unwrap();
    let mut out = vec![0; 300_000];
    assert_eq!(store.read(crate::support::key(50, 0), 0, &mut out).unwrap(), out.len());
    assert!(out == pattern(50, 300_000));
    assert!(store.chunks(InodeId(3)).unwrap().is_empty());
}

#[test]
fn an_index_without_room_is_saved_later() {
    // Goal: a save of the index that the key-value store has no room for does not stop the store; what it held is in the next save.
    let (disk, kv) = (SimDisk::new(), MemKv::new());
    let store = store::open_on(disk.clone(), 3, kv.clone(), options()).unwrap();
    let change = |ino| Change::Write { ino, chunk: 0, offset: 0, len: 50_000, seed: ino };
    let mut model = Model::default();
    let mut apply = |change: Change| {
        change.apply(&store).unwrap();
        model.apply(&change);
    };
    (0..10).for_each(|ino| apply(change(ino)));
    kv.set_full(true);
    for round in 0..3 {
        assert!(matches!(store.save(), Err(StoreError::NoSpace)));
        apply(change(20 + round));
        apply(Change::Remove { inos: vec![round] });
    }
    kv.set_full(false);
    store.save().unwrap();
    model.check(&store, 40);
    store.abandon();
    model.check(&store::open_on(disk.after_kill(), 3, kv.after_kill(), options()).unwrap(), 40);
}
