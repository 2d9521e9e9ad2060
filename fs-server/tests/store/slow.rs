//! A writer that the device holds up while the log goes on without it.

use crate::mem_kv::MemKv;
use crate::sim_disk::SimDisk;
use crate::support::{SEGMENT_BYTES, key, options, pattern};
use fs_proto::ids::InodeId;
use fs_server::store::disk::{Disk, Patch, Renewed, SegmentFile};
use fs_server::store::{self, ChunkStore};
use std::io::{self, IoSlice, IoSliceMut};
use std::sync::{Arc, Condvar, Mutex};

/// Data of this length is held up.
const SLOW_BYTES: usize = 777;
const STORE_ID: u64 = 5;

#[derive(Default)]
struct Gate {
    /// Whether a write is held up, and whether it may go on.
    state: Mutex<(bool, bool)>,
    changed: Condvar,
}

impl Gate {
    fn hold_up(&self) {
        let mut state = self.state.lock().unwrap();
        state.0 = true;
        self.changed.notify_all();
        drop(self.changed.wait_while(state, |state| !state.1).unwrap());
    }

    fn wait_until_held_up(&self) {
        drop(self.changed.wait_while(self.state.lock().unwrap(), |state| !state.0).unwrap());
    }

    fn release(&self) {
        self.state.lock().unwrap().1 = true;
        self.changed.notify_all();
    }
}

struct SlowDisk(Arc<SimDisk>, Arc<Gate>);

struct SlowFile(Arc<dyn SegmentFile>, Arc<Gate>);

impl Disk for SlowDisk {
    fn list(&self) -> io::Result<Vec<u32>> {
        self.0.list()
    }

    fn create(&self, id: u32) -> io::Result<Arc<dyn SegmentFile>> {
        Ok(Arc::new(SlowFile(self.0.create(id)?, self.1.clone())))
    }

    fn open(&self, id: u32) -> io::Result<Arc<dyn SegmentFile>> {
        Ok(Arc::new(SlowFile(self.0.open(id)?, self.1.clone())))
    }

    fn renew(&self, id: u32, bytes: u64, patches: &[Patch]) -> io::Result<Renewed> {
        self.0.renew(id, bytes, patches)
    }

    fn remove(&self, id: u32) -> io::Result<()> {
        self.0.remove(id)
    }

    fn sync_names(&self) -> io::Result<()> {
        self.0.sync_names()
    }

    fn space(&self) -> io::Result<(u64, u64)> {
        self.0.space()
    }
}

impl SegmentFile for SlowFile {
    fn write_at(&self, parts: &mut [IoSlice<'_>], at: u64) -> io::Result<()> {
        if parts.iter().any(|part| part.len() == SLOW_BYTES) {
            self.1.hold_up();
        }
        self.0.write_at(parts, at)
    }

    fn read_at(&self, parts: &mut [IoSliceMut<'_>], at: u64) -> io::Result<usize> {
        self.0.read_at(parts, at)
    }

    fn reserve(&self, bytes: u64) -> io::Result<()> {
        self.0.reserve(bytes)
    }

    fn cut(&self, bytes: u64) -> io::Result<()> {
        self.0.cut(bytes)
    }

    fn bytes(&self) -> io::Result<u64> {
        self.0.bytes()
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }
}

#[test]
fn a_tombstone_stays_while_what_it_hides_may_be_replayed() {
    // Goal: a write in the first segment is held up, so the mark of saves stays before it, and a file behind it in that
    // segment is removed by a tombstone in the second, which is otherwise dead. The second segment must stay until the mark
    // has passed it: a crash before that replays the removed file.
    let (disk, kv, gate) = (SimDisk::new(), MemKv::new(), Arc::new(Gate::default()));
    let slow = Arc::new(SlowDisk(disk.clone(), gate.clone()));
    let store = Arc::new(store::open_on(slow, STORE_ID, kv.clone(), options()).unwrap());
    let held_up = {
        let store = store.clone();
        std::thread::spawn(move || store.write(key(9, 0), 0, &pattern(9, SLOW_BYTES)))
    };
    gate.wait_until_held_up();
    let fill = |chunks: std::ops::Range<u64>| {
        chunks.for_each(|chunk| store.write(key(6, chunk), 0, &pattern(chunk, 10_000)).unwrap());
    };
    store.write(key(5, 0), 0, &pattern(5, 10_000)).unwrap();
    let of_segment = SEGMENT_BYTES / 10_000;
    fill(0..of_segment);
    store.remove(&[InodeId(5)]).unwrap();
    fill(of_segment..3 * of_segment);
    store.remove(&[InodeId(6)]).unwrap();
    (0..4).for_each(|_| store.compact().unwrap());
    let after = store::open_on(disk.after_kill(), STORE_ID, kv.after_kill(), options()).unwrap();
    assert!(after.chunks(InodeId(5)).unwrap().is_empty(), "a removed file is back");
    assert!(after.chunks(InodeId(6)).unwrap().is_empty());
    drop(after);
    gate.release();
    held_up.join().unwrap().unwrap();
    // Nothing is held up any more: what was kept may go.
    (0..4).for_each(|_| store.compact().unwrap());
    assert!(disk.list().unwrap().len() <= 2, "{:?}", disk.list());
    let mut out = [0; SLOW_BYTES];
    assert_eq!(store.read(key(9, 0), 0, &mut out).unwrap(), SLOW_BYTES);
}
