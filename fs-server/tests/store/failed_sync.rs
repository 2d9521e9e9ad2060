//! A sync that fails on a real kernel: what it leaves is taken for written there.

use crate::failing_device::Device;
use crate::support::{Change, Model, abandon, apply_all, copy_kv, open_with, options};
use fs_server::store::{ChunkStore, StoreOptions};

const INOS: u64 = 3;

fn writes(numbers: std::ops::Range<u64>) -> Vec<Change> {
    let write = |n| Change::Write { ino: n % INOS, chunk: n, offset: 100, len: 100_000, seed: n };
    numbers.map(write).collect()
}

#[test]
fn the_device_has_what_is_synced_after_a_failed_sync() {
    // Goal: a device fails a sync and is well again; the store is killed and opened on the same boot, and a sync is answered
    // well. Then what the device has must be all of it. As the property test of `power.rs` has it, with Linux and
    // ext4 in place of the simulated disk.
    let Some(device) = Device::mount() else { return };
    let dir = device.path().join("chunks");
    // Larger segments: the file system is not to need new places for anything but data.
    let options = StoreOptions { segment_bytes: 8 << 20, ..options() };
    let store = open_with(&dir, options.clone()).unwrap();
    apply_all(&writes(0..3), &*store);
    store.sync().unwrap();
    device.fail();
    apply_all(&writes(3..60), &*store);
    assert!(store.sync().is_err(), "the device took what it should have failed: the test shows nothing");
    assert!(store.sync().is_err());
    abandon(store);
    device.recover();

    let model = Model::of(&writes(0..60));
    let store = open_with(&dir, options.clone()).unwrap();
    model.check(&*store, INOS);
    store.sync().unwrap();
    let after = device.after_power_loss().join("chunks");
    copy_kv(&dir, &after);
    let store = open_with(&after, StoreOptions { boot_id: Some(2), ..options }).unwrap();
    model.check(&*store, INOS);
}
