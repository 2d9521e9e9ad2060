//! A sync that fails on a real kernel: what it leaves is taken for written there.

use crate::failing_device::Device;
use crate::{reboot, scan};
use fs_server::kv::{self, Batch, Kv, KvError, KvKind};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// With memtables so large that none is flushed: the journal alone has what is committed.
fn open(kind: KvKind, dir: &Path) -> Arc<dyn Kv> {
    kv::open(kind, dir, 256 << 20).unwrap()
}

fn put(store: &dyn Kv, n: u32) -> Result<(), KvError> {
    let mut batch = Batch::new();
    batch.put(n.to_be_bytes(), vec![n as u8; 30_000]);
    store.commit(batch)
}

fn fill(store: &dyn Kv, numbers: Range<u32>) {
    numbers.for_each(|n| put(store, n).unwrap());
}

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

fn pairs(numbers: Range<u32>) -> Pairs {
    numbers.map(|n| (n.to_be_bytes().to_vec(), vec![n as u8; 30_000])).collect()
}

fn all(store: &dyn Kv) -> Pairs {
    scan(store, &[], &[0xff], usize::MAX)
}

#[test]
fn the_device_has_what_is_synced_after_a_failed_sync() {
    // Goal: a device fails a sync and is well again; the store refuses changes, is opened on the same boot, and a sync is answered well. Then
    // what the device has must be all that the store has shown: what was acknowledged, and what was committed later. On Linux and
    // ext4: the engines alone replay their logs, which the kernel shows and takes for written, and promise them.
    for kind in KvKind::ALL {
        let Some(device) = Device::mount() else { return };
        let dir = device.path().join("kv");
        let store = open(kind, &dir);
        fill(&*store, 0..20);
        store.sync().unwrap();
        device.fail();
        // An engine that flushes for each commit meets the failure there.
        let acknowledged = (20..200).find(|n| put(&*store, *n).is_err()).unwrap_or(200);
        assert!(store.sync().is_err(), "the device took what it should have failed: the test shows nothing");
        assert!(store.sync().is_err());
        assert!(matches!(put(&*store, 900), Err(KvError::Refused)), "{kind}");
        drop(store);
        device.recover();

        let store = open(kind, &dir);
        store.sync().unwrap();
        let mut shown = all(&*store);
        assert!(shown.starts_with(&pairs(0..acknowledged)), "{kind}: of {acknowledged}, {}", shown.len());
        fill(&*store, 300..320);
        store.sync().unwrap();
        shown.extend(pairs(300..320));
        let after = device.after_power_loss().join("kv");
        reboot(&after);
        let found = all(&*open(kind, &after));
        assert!(found == shown, "{kind}: {} pairs and not {}", found.len(), shown.len());
    }
}
