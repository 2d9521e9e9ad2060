//! Single flipped bits: detected or repaired, never returned.

use crate::crash::records;
use crate::support::{
    Change, Model, abandon, apply_all, copy_dir, copy_kv, fast_dir, key, open, open_with, options,
    segment_files,
};
use fs_server::store::{ChunkStore, StoreError, StoreOptions};

fn changes() -> Vec<Change> {
    let write = |ino, chunk, offset, len, seed| Change::Write { ino, chunk, offset, len, seed };
    vec![
        write(1, 0, 0, 9_000, 1),
        write(2, 0, 0, 500, 2),
        write(1, 0, 1_000, 5_000, 3),
        Change::Truncate { ino: 1, chunk: 0, keep: 8_000 },
        write(3, 1, 77, 400, 4),
        Change::Remove { inos: vec![2] },
        write(3, 1, 100, 50, 5),
    ]
}

/// Each chunk reads as the model says or tells that it is damaged. Returns whether any did.
fn reads_or_tells(model: &Model, store: &dyn ChunkStore, what: &str) -> bool {
    let mut has_told = false;
    for (ino, chunk) in [(1, 0), (2, 0), (3, 1)] {
        let mut out = vec![0xaa; 12_000];
        match store.read(key(ino, chunk), 0, &mut out) {
            Ok(got) => assert!(out[..got] == model.bytes(ino, chunk), "{what}: inode {ino} reads wrong"),
            Err(StoreError::Corrupt { .. }) => has_told = true,
            Err(other) => panic!("{what}: {other}"),
        }
    }
    // Damage to the list of a removal is counted although no read meets it.
    assert!(!has_told || store.stats().crc_failures > 0, "{what}");
    has_told
}

#[test]
fn flipped_bits_are_never_returned() {
    // Goal: a bit flips anywhere in a segment while the store is closed, and it is opened under the same boot, or under
    // another after all of it was synced. Reads give the right bytes or Corrupt; the headers' own damage is repaired.
    assert!(flip_everywhere(abandon) > 100, "flips in data must be noticed");
}

#[test]
fn flipped_bits_are_never_returned_from_a_saved_index() {
    // Goal: the same where the opening reads no log, because the index was saved.
    assert!(flip_everywhere(drop) > 100, "flips in data must be noticed");
}

/// Returns how many flips were told.
fn flip_everywhere(end: impl Fn(std::sync::Arc<fs_server::store::LogStore>)) -> u32 {
    let source = fast_dir();
    let store = open(source.path());
    apply_all(&changes(), &*store);
    store.sync().unwrap();
    // Carries the durable mark behind everything above.
    let last = Change::Write { ino: 0, chunk: 0, offset: 0, len: 10, seed: 6 };
    last.apply(&*store).unwrap();
    end(store);
    let model = Model::of(changes().iter().chain([&last]));
    let name = segment_files(source.path())[0].file_name().unwrap().to_owned();
    let whole = std::fs::read(source.path().join(&name)).unwrap();
    let dir = fast_dir();
    copy_dir(source.path(), dir.path());
    let judged_end = records(source.path(), &whole).last().unwrap().start;
    let mut told = 0;
    for at in (0..judged_end).filter(|at| at % 512 < 80 || at % 512 >= 440 || at % 7 == 0) {
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (at % 8);
        std::fs::write(dir.path().join(&name), &flipped).unwrap();
        copy_kv(source.path(), dir.path());
        let boot_id = Some(1 + (at as u128 / 3) % 2);
        let store = open_with(dir.path(), StoreOptions { boot_id, ..options() }).unwrap();
        told += u32::from(reads_or_tells(&model, &*store, &format!("byte {at}")));
        abandon(store);
    }
    told
}

#[test]
fn a_flip_while_open_is_told() {
    // Goal: the same for damage that happens while the store is open; other blocks of the record stay readable, and
    // overwriting the damaged range heals it.
    let dir = fast_dir();
    let store = open(dir.path());
    let at = key(1, 0);
    let data = crate::support::pattern(1, 20_000);
    store.write(at, 0, &data).unwrap();
    let file = segment_files(dir.path()).remove(0);
    let mut bytes = std::fs::read(&file).unwrap();
    let begin = bytes.windows(64).position(|w| w == &data[9_000..9_064]).unwrap();
    bytes[begin] ^= 0x10;
    std::fs::write(&file, &bytes).unwrap();
    let mut out = vec![0xaa; 20_000];
    assert!(matches!(store.read(at, 0, &mut out), Err(StoreError::Corrupt { .. })));
    assert!(out.iter().all(|b| *b == 0), "unverified bytes were left in the buffer");
    assert_eq!(store.read(at, 0, &mut out[..8_192]).unwrap(), 8_192);
    assert!(out[..8_192] == data[..8_192]);
    store.write(at, 8_192, &data[8_192..12_288]).unwrap();
    assert_eq!(store.read(at, 0, &mut out).unwrap(), 20_000);
    assert!(out == data);
    assert_eq!(store.stats().crc_failures, 1);
}

/// Scrubs everything in small steps.
fn scrub_all(store: &fs_server::store::LogStore) -> fs_server::store::ScrubPage {
    let mut sum = store.scrub(None, 3_000).unwrap();
    while let Some(next) = sum.next {
        let page = store.scrub(Some(next), 3_000).unwrap();
        sum.next = page.next;
        sum.chunks += page.chunks;
        sum.bytes += page.bytes;
        sum.repaired += page.repaired;
        sum.damaged.extend(page.damaged);
    }
    sum
}

#[test]
fn scrubbing_finds_what_no_reader_asked_for() {
    // Goal: a healthy store has no finding and all its live bytes are read; a damaged header is repaired, once; damaged
    // data is told with its chunk, again and again, until it is overwritten.
    let dir = fast_dir();
    let store = open(dir.path());
    let datas: Vec<_> = (0..300).map(|n| crate::support::pattern(n, 700 + n as usize)).collect();
    for (n, data) in datas.iter().enumerate() {
        store.write(key(n as u64 / 7, n as u64 % 7), 100, data).unwrap();
    }
    let clean = scrub_all(&store);
    let bytes: usize = datas.iter().map(Vec::len).sum();
    assert_eq!((clean.chunks, clean.bytes, clean.repaired), (300, bytes as u64, 0));
    assert!(clean.damaged.is_empty());
    let flip = |needle: &[u8], back: usize| {
        for file in segment_files(dir.path()) {
            let mut content = std::fs::read(&file).unwrap();
            if let Some(at) = content.windows(64).position(|w| w == &needle[..64]) {
                content[at - back] ^= 4;
                return std::fs::write(&file, content).unwrap();
            }
        }
        panic!("the data is in no segment");
    };
    flip(&datas[20], 0);
    // The header is 128 bytes before the data of a short record.
    flip(&datas[30], 128);
    let found = scrub_all(&store);
    assert_eq!((found.damaged, found.repaired), (vec![key(2, 6)], 1));
    let again = scrub_all(&store);
    assert_eq!((again.damaged, again.repaired), (vec![key(2, 6)], 0));
    store.write(key(2, 6), 100, &datas[20]).unwrap();
    assert!(scrub_all(&store).damaged.is_empty());
}
