//! The contract of the key-value port, run over every engine.

mod contract;
#[path = "../common/damage.rs"]
mod damage;
mod failed_sync;
#[path = "../common/failing_device.rs"]
mod failing_device;
mod guard;
mod kill;
mod memory;
mod power;
#[path = "../../../tests/src/skip.rs"]
mod skip;
#[path = "../common/small_file_system.rs"]
mod small_file_system;
mod space;

use damage::{FENCE, reboot};
use fs_server::kv::{self, Kv, KvKind};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

const CACHE_BYTES: u64 = 16 << 20;

fn open(kind: KvKind, dir: &Path) -> Arc<dyn Kv> {
    kv::open(kind, dir, CACHE_BYTES).expect("open the store")
}

/// Runs `test` with a fresh directory for each engine.
fn for_each_engine(test: impl Fn(KvKind, &Path)) {
    for kind in KvKind::ALL {
        let dir = tempfile::tempdir().expect("temporary directory");
        test(kind, dir.path());
    }
}

type Pair = (Vec<u8>, Vec<u8>);

fn scan(store: &dyn Kv, from: &[u8], to: &[u8], limit: usize) -> Vec<Pair> {
    let mut seen = Vec::new();
    let mut visit = |key: &[u8], value: &[u8]| {
        seen.push((key.to_vec(), value.to_vec()));
        if seen.len() == limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    store.scan(from, to, &mut visit).expect("scan");
    seen
}
