//! A sync that fails on a real kernel: what it leaves is taken for written there.

use crate::failing_device::Device;
use crate::{reboot, scan};
use fs_server::kv::{self, Batch, Kv, KvKind};
use std::path::Path;
use std::sync::Arc;

/// With memtables so large that none is flushed: the journal alone has what is committed.
fn open(dir: &Path) -> Arc<dyn Kv> {
    kv::open(KvKind::Fjall, dir, 256 << 20).unwrap()
}

fn fill(store: &dyn Kv, numbers: std::ops::Range<u32>) {
    for n in numbers {
        let mut batch = Batch::new();
        batch.put(n.to_be_bytes(), vec![n as u8; 30_000]);
        store.commit(batch).unwrap();
    }
}

#[test]
fn the_device_has_what_is_synced_after_a_failed_sync() {
    // Goal: a device fails a sync and is well again; the store is opened on the same boot, and a sync is answered well. Then
    // what the device has must be all of it. On Linux and ext4: fjall alone replays its journal, which the kernel shows and takes
    // for written, and promises it.
    let Some(device) = Device::mount() else { return };
    let dir = device.path().join("kv");
    let store = open(&dir);
    fill(&*store, 0..20);
    store.sync().unwrap();
    device.fail();
    fill(&*store, 20..200);
    assert!(store.sync().is_err(), "the device took what it should have failed: the test shows nothing");
    assert!(store.sync().is_err());
    drop(store);
    device.recover();

    let store = open(&dir);
    store.sync().unwrap();
    fill(&*store, 200..220);
    store.sync().unwrap();
    let after = device.after_power_loss().join("kv");
    reboot(&after);
    let pairs = scan(&*open(&after), &[], &[0xff], usize::MAX);
    let expected = (0..220_u32).map(|n| (n.to_be_bytes().to_vec(), vec![n as u8; 30_000]));
    assert!(pairs.into_iter().eq(expected));
}
