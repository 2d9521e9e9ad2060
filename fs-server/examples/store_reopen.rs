//! How long an opening of the chunk store takes when the process before has died with much that was not synced, and how long the first sync
//! after it, which copies what is in doubt.
//!
//! After a kill the page cache has what was written. For a loss of power it is brought to the device behind the store's back and dropped
//! from the page cache, and the store is told of another boot. Both in turns, several times.
//!
//! ```text
//! cargo run --release -p fs-server --example store_reopen -- DIRECTORY [MIB] [ROUNDS]
//! ```

use fs_proto::ids::{ChunkIndex, InodeId};
use fs_server::kv::{self, KvKind};
use fs_server::store::{self, ChunkKey, ChunkStore, LogStore, StoreOptions};
use rustix::fs::Advice;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

type Failure = Box<dyn std::error::Error>;

const RECORD_BYTES: usize = 1 << 20;
const KV_BYTES: u64 = 64 << 20;

fn open(dir: &Path, boot_id: u128) -> Result<LogStore, Failure> {
    let kv = kv::open(KvKind::default(), &dir.join("kv"), KV_BYTES)?;
    let options = StoreOptions { boot_id: Some(boot_id), ..StoreOptions::default() };
    Ok(Arc::into_inner(store::open(&dir.join("chunks"), kv, options)?).ok_or("one handle")?)
}

/// Brings the segment files to the device, and drops them from the page cache.
fn drop_cache(dir: &Path) -> Result<(), Failure> {
    for entry in std::fs::read_dir(dir)? {
        let file = File::open(entry?.path())?;
        file.sync_all()?;
        rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?;
    }
    Ok(())
}

/// Seconds of an opening, and of the first sync after it.
fn reopen(base: &Path, mib: u64, is_power_loss: bool) -> Result<(f64, f64), Failure> {
    let dir = tempfile::tempdir_in(base)?;
    let store = open(dir.path(), 1)?;
    let data: Vec<u8> = (0..RECORD_BYTES).map(|i| (i * 31 + i / 251) as u8).collect();
    for n in 0..mib {
        store.write(ChunkKey { ino: InodeId(1 + n % 16), chunk: ChunkIndex(n / 16) }, 0, &data)?;
    }
    store.abandon();
    if is_power_loss {
        drop_cache(&dir.path().join("chunks"))?;
    }
    let begin = Instant::now();
    let store = open(dir.path(), if is_power_loss { 2 } else { 1 })?;
    let opened = begin.elapsed().as_secs_f64();
    let begin = Instant::now();
    store.sync()?;
    let synced = begin.elapsed().as_secs_f64();
    if store.stats().chunks != mib {
        return Err("the store has lost chunks".into());
    }
    Ok((opened, synced))
}

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let base = arguments.next().ok_or("usage: store_reopen DIRECTORY [MIB] [ROUNDS]")?;
    let mib: u64 = arguments.next().map_or(Ok(900), |a| a.parse())?;
    let rounds: usize = arguments.next().map_or(Ok(3), |a| a.parse())?;
    println!(
        "| {mib} MiB not synced, then | round | opened after seconds | first sync, seconds |\n|---|---|---|---|"
    );
    for round in 1..=rounds {
        for (what, is_power_loss) in [("a kill", false), ("a loss of power", true)] {
            let (opened, synced) = reopen(Path::new(&base), mib, is_power_loss)?;
            println!("| {what} | {round} | {opened:.2} | {synced:.2} |");
        }
    }
    Ok(())
}
