//! Segments that are begun while the index is saved, and are gone after a loss of power.

use crate::mem_kv::MemKv;
use crate::sim_disk::SimDisk;
use crate::support::{Change, Model, Rng, SEGMENT_BYTES, options};
use fs_server::kv::Kv;
use fs_server::store::disk::{Disk, Patch, Renewed, SegmentFile};
use fs_server::store::{self, ChunkStore, LogStore, StoreOptions};
use std::io;
use std::sync::{Arc, Mutex};

const STORE_ID: u64 = 6;
const INOS: u64 = 3;
/// Losses of power that are tried: each keeps the name of a new segment or loses it.
const LOSSES: u64 = 16;

type Then = Box<dyn FnOnce() + Send>;

/// Does something once its names were synced.
struct BusyDisk(Arc<SimDisk>, Mutex<Option<Then>>);

impl Disk for BusyDisk {
    fn list(&self) -> io::Result<Vec<u32>> {
        self.0.list()
    }

    fn create(&self, id: u32) -> io::Result<Arc<dyn SegmentFile>> {
        self.0.create(id)
    }

    fn open(&self, id: u32) -> io::Result<Arc<dyn SegmentFile>> {
        self.0.open(id)
    }

    fn renew(&self, id: u32, bytes: u64, patches: &[Patch]) -> io::Result<Renewed> {
        self.0.renew(id, bytes, patches)
    }

    fn remove(&self, id: u32) -> io::Result<()> {
        self.0.remove(id)
    }

    fn sync_names(&self) -> io::Result<()> {
        self.0.sync_names()?;
        let then = self.1.lock().unwrap().take();
        if let Some(then) = then {
            then();
        }
        Ok(())
    }

    fn space(&self) -> io::Result<(u64, u64)> {
        self.0.space()
    }
}

fn open(disk: Arc<dyn Disk>, kv: Arc<dyn Kv>, boot_id: u128) -> LogStore {
    let options = StoreOptions { boot_id: Some(boot_id), ..options() };
    store::open_on(disk, STORE_ID, kv, options).unwrap()
}

fn write(ino: u64, len: u64) -> Change {
    Change::Write { ino, chunk: 0, offset: 0, len: len as usize, seed: ino }
}

/// A store that was saved while a second segment was begun, after a loss of power that kept the save.
fn crashed(seed: u64) -> (Arc<SimDisk>, Arc<MemKv>) {
    let (disk, kv) = (Arc::new(BusyDisk(SimDisk::new(), Mutex::default())), MemKv::new());
    let store = Arc::new(open(disk.clone(), kv.clone(), 1));
    write(0, 900).apply(&*store).unwrap();
    let writer = Arc::clone(&store);
    let then = move || write(1, SEGMENT_BYTES - 1_000).apply(&*writer).unwrap();
    *disk.1.lock().unwrap() = Some(Box::new(then));
    store.save().unwrap();
    Arc::into_inner(store).expect("the only handle").abandon();
    (disk.0.after_power_loss(&mut Rng(seed)), kv.after_power_loss(kv.unsynced()))
}

#[test]
fn a_number_is_not_used_twice() {
    // Goal: a segment whose name is lost with the power, but that the index counts already, leaves nothing behind from
    // which a later segment would be taken for dead. Method: many losses of power; then a write, a save, a kill, and
    // compaction, which unlinks what is dead.
    let mut lost = 0;
    for seed in 0..LOSSES {
        let (disk, kv) = crashed(seed);
        lost += u64::from(disk.list().unwrap().len() == 1);
        let store = open(disk.clone(), kv.clone(), 2);
        let mut model = Model::of([&write(0, 900)]);
        if store.stats().chunks == 2 {
            model.apply(&write(1, SEGMENT_BYTES - 1_000));
        }
        write(2, 5_000).apply(&store).unwrap();
        model.apply(&write(2, 5_000));
        store.save().unwrap();
        store.abandon();
        let (disk, kv) = (disk.after_kill(), kv.after_kill());
        let store = open(disk, kv, 2);
        model.check(&store, INOS);
        store.compact().unwrap();
        model.check(&store, INOS);
    }
    assert!((1..LOSSES).contains(&lost), "names were lost {lost} times of {LOSSES}");
}
