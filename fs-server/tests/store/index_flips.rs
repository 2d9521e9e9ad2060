//! A flipped bit below the index: the chunk store on a real key-value store, in whose files single bits flip while all is closed.

use crate::damage::flip_all;
use crate::support::{Change, Model, Rng, key, options};
use fs_proto::ids::{ChunkIndex, InodeId};
use fs_server::kv::{self, Batch, Kv, KvKind};
use fs_server::store::{self, ChunkStore, LogStore, StoreOptions};
use std::path::Path;
use std::sync::Arc;

const INOS: u64 = 60;
const CHUNKS: u64 = 3;
/// The smallest there is: memtables are flushed and tables merged after a few thousand rows.
const CACHE_BYTES: u64 = 1 << 20;

type Opened = (Arc<dyn Kv>, Arc<LogStore>);

fn open(dir: &Path) -> Result<Opened, String> {
    let kv = kv::open(KvKind::Fjall, &dir.join("kv"), CACHE_BYTES).map_err(|error| error.to_string())?;
    let options = StoreOptions { segment_bytes: 256 << 10, ..options() };
    let store = store::open(&dir.join("chunks"), kv.clone(), options).map_err(|error| error.to_string())?;
    Ok((kv, store))
}

/// Rows of others, as the namespace has beside those of the index.
fn fill(kv: &dyn Kv, round: u32) {
    for step in 0..700_u32 {
        let mut batch = Batch::new();
        for row in 0..4 {
            let number = u64::from(step * 4 + row);
            batch.put([&b"i"[..], &number.to_be_bytes()].concat(), [round as u8; 300]);
        }
        kv.commit(batch).unwrap();
    }
}

/// Rounds of changes, each saved, so that older rows of the index are in older tables and would show what is gone.
fn make(dir: &Path, is_killed: bool) -> Model {
    let (mut rng, mut model) = (Rng(9), Model::default());
    let (kv, store) = open(dir).unwrap();
    for round in 0..6 {
        for _ in 0..80 {
            let (ino, chunk) = (rng.below(INOS), rng.below(CHUNKS));
            let (offset, len) = (rng.below(9_000) as u32, 1 + rng.below(6_000) as usize);
            let change = match rng.below(9) {
                0 => Change::Remove { inos: vec![ino] },
                1 => Change::Truncate { ino, chunk, keep: offset },
                _ => Change::Write { ino, chunk, offset, len, seed: rng.below(1 << 30) },
            };
            change.apply(&*store).unwrap();
            model.apply(&change);
        }
        if round < 5 {
            store.save().unwrap();
        }
        fill(&*kv, round);
    }
    store.sync().unwrap();
    kv.sync().unwrap();
    if is_killed {
        Arc::into_inner(store).unwrap().abandon();
    }
    model
}

/// Reads all: it must be the model, or an error. Answers whether there was one.
fn is_read_or_told(store: &LogStore, model: &Model, what: &str) -> bool {
    let mut has_told = false;
    for ino in 0..INOS {
        let want: Vec<_> = model.chunks.range((ino, 0)..=(ino, u64::MAX)).collect();
        match store.chunks(InodeId(ino)) {
            Ok(have) => {
                let want: Vec<_> = want.iter().map(|((_, c), b)| (ChunkIndex(*c), b.len() as u32)).collect();
                assert!(have == want, "{what}: inode {ino} has chunks {have:?} and not {want:?}");
            }
            Err(_) => has_told = true,
        }
        for chunk in 0..CHUNKS {
            let mut out = vec![0xaa; 20_000];
            match store.read(key(ino, chunk), 0, &mut out) {
                Ok(got) => {
                    assert!(out[..got] == model.bytes(ino, chunk), "{what}: {ino} {chunk} reads wrong");
                }
                Err(_) => has_told = true,
            }
        }
    }
    has_told
}

/// What a server's scrub does.
fn is_told_by_scrub((kv, store): &Opened) -> bool {
    let mut has_told = kv.verify().map_or(true, |report| !report.is_clean());
    let mut after = None;
    loop {
        let Ok(page) = store.scrub(after, 1 << 20) else { return true };
        has_told |= !page.damaged.is_empty();
        after = page.next;
        if after.is_none() {
            return has_told;
        }
    }
}

#[test]
fn a_flip_below_the_index_is_told_or_harmless() {
    // Goal: one bit flips in any file of the key-value store that holds the index. It does not open, or every chunk and every list of chunks is right or an error,
    // before and after a scrub, which tells what a reader would be told. After a kill the index is read from the log behind the last save as well.
    let per_file = if std::env::var_os("HAYATE_TEST_LONG").is_some() { 200 } else { 8 };
    for is_killed in [false, true] {
        let source = tempfile::tempdir().unwrap();
        let model = make(source.path(), is_killed);
        let judge = |dir: &Path, what: &str| {
            let Ok(opened) = open(dir) else { return true };
            let is_told = is_read_or_told(&opened.1, &model, what);
            let is_found = is_told_by_scrub(&opened);
            assert!(is_found || !is_told, "{what}: readers are told, and a scrub finds nothing");
            assert_eq!(is_read_or_told(&opened.1, &model, what), is_told, "{what}: after the scrub");
            is_found
        };
        let (told, harmless) = flip_all(source.path(), Path::new("kv"), per_file, is_killed, judge);
        assert!(told > 30, "told {told}, harmless {harmless}");
    }
}
