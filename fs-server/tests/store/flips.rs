//! Single flipped bits: detected or repaired, never returned.

use crate::crash::{Span, records};
use crate::support::{
    Change, Model, abandon, apply_all, copy_dir, fast_dir, key, open, open_with, options, pattern, piece,
    put_segment, segment_files,
};
use fs_net::BufferPool;
use fs_proto::checksum::crc;
use fs_server::store::{ChunkKey, ChunkStore, Compare, IoMode, LogStore, StoreError, StoreOptions};
use std::path::Path;
use std::sync::Arc;
use tokio::runtime::LocalRuntime;

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

/// Each chunk reads as the model says or tells that it is damaged, also to who compares it. Returns whether any did.
fn reads_or_tells(model: &Model, store: &LogStore, what: &str) -> bool {
    let mut has_told = false;
    let (runtime, pool) = (LocalRuntime::new().unwrap(), BufferPool::new(1 << 20));
    for (ino, chunk) in [(1, 0), (2, 0), (3, 1)] {
        let mut out = vec![0xaa; 12_000];
        let is_told = match store.read(key(ino, chunk), 0, &mut out) {
            Ok(got) => {
                assert!(out[..got] == model.bytes(ino, chunk), "{what}: inode {ino} reads wrong");
                false
            }
            Err(StoreError::Corrupt { .. }) => true,
            Err(other) => panic!("{what}: {other}"),
        };
        has_told |= is_told;
        let buffer = pool.try_get(12_000).unwrap();
        let read = store.read_buffer(key(ino, chunk), 0, 12_000, buffer, Compare::ByReader);
        match runtime.block_on(read) {
            Ok(read) if crc(&read.data) == read.crc => {
                assert!(read.data == model.bytes(ino, chunk), "{what}: inode {ino} matches and is wrong");
            }
            Ok(_) => assert!(is_told, "{what}: inode {ino} does not match what was written, and is whole"),
            Err(error) => assert!(is_told && matches!(error, StoreError::Corrupt { .. }), "{what}: {error}"),
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
fn flip_everywhere(end: impl Fn(Arc<LogStore>)) -> u32 {
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
        put_segment(source.path(), dir.path(), &name, &flipped);
        let boot_id = Some(1 + (at as u128 / 3) % 2);
        let store = open_with(dir.path(), StoreOptions { boot_id, ..options() }).unwrap();
        told += u32::from(reads_or_tells(&model, &store, &format!("byte {at}")));
        abandon(store);
    }
    told
}

/// A killed store of one segment, and what it is to read as: records on pages and small ones, some in groups; what they overwrite, cut and remove
/// shows again if one of them is lost. The last are a group that nothing follows.
struct Killed {
    dir: tempfile::TempDir,
    options: StoreOptions,
    segment: std::ffi::OsString,
    bytes: Vec<u8>,
    records: Vec<Span>,
    /// Where that begins which was not synced: under the boot that wrote it all of it is due.
    tail: usize,
    contents: Vec<(ChunkKey, Vec<u8>)>,
}

impl Killed {
    /// With a first record of `len` bytes. None where there is no direct I/O, which is noted.
    fn new(io: IoMode, len: usize) -> Option<Killed> {
        let dir = fast_dir();
        let options = StoreOptions { io, segment_bytes: 4 << 20, ..options() };
        let store = open_with(dir.path(), options.clone()).unwrap();
        if io == IoMode::Direct && !store.is_direct() {
            crate::skip::note("no direct I/O here, so nothing of its layout is shown");
            return None;
        }
        let write = |ino, offset, len, seed| Change::Write { ino, chunk: 0, offset, len, seed };
        let mut model = Model::default();
        let mut apply = |changes: &[Change], at_once: bool| {
            if at_once {
                let pieces: Vec<_> = changes.iter().map(piece).collect();
                store.write_many(&pieces).into_iter().for_each(|written| written.unwrap());
            } else {
                apply_all(changes, &*store);
            }
            for change in changes {
                model.apply(change);
            }
        };
        apply(&[write(1, 0, len, 1)], false);
        apply(&[write(2, 7, 5_000, 2), write(3, 0, 900, 3), write(4, 4_000, 300, 4)], true);
        apply(&[write(1, 10_000, 3_000, 5), Change::Truncate { ino: 2, chunk: 0, keep: 4_500 }], false);
        apply(&[Change::Remove { inos: vec![3] }], false);
        store.sync().unwrap();
        let file = segment_files(dir.path()).remove(0);
        let find = || records(dir.path(), &std::fs::read(&file).unwrap());
        let tail = find().last().unwrap().end;
        apply(&[write(5, 0, 600, 6), write(6, 0, 70_000, 7)], true);
        let contents = (1..=6).map(|ino| (key(ino, 0), model.bytes(ino, 0))).collect();
        abandon(store);
        let records = find();
        let mut bytes = std::fs::read(&file).unwrap();
        bytes.truncate(records.last().unwrap().end);
        let segment = file.file_name().unwrap().to_owned();
        Some(Killed { dir, options, segment, bytes, records, tail, contents })
    }

    /// Bits of the bytes that are not data: all of the headers and the table of every third record and of the last, of others one of each byte.
    fn bits_around_data(&self) -> Vec<(usize, usize)> {
        let last = self.records.len() - 1;
        let is_long = std::env::var_os("HAYATE_TEST_LONG").is_some();
        let mut bits = Vec::new();
        for (number, record) in self.records.iter().enumerate() {
            // A table of a mebibyte's record is as large as sixteen others.
            let front = record.start..record.end.min(record.start + 64 + 4 * 32);
            let step = if is_long || number % 3 == 0 || number == last { 1 } else { 8 };
            for at in front.chain(record.end - 64..record.end) {
                bits.extend((at % step..8).step_by(step).map(|bit| (at, bit)));
            }
        }
        bits
    }

    /// Opens the store with one bit flipped and reads all; answers whether anything was told.
    fn is_told(&self, dir: &Path, (at, bit): (usize, usize)) -> bool {
        let mut flipped = self.bytes.clone();
        flipped[at] ^= 1 << bit;
        put_segment(self.dir.path(), dir, &self.segment, &flipped);
        let boot_id = if at < self.tail { Some(1 + (at as u128 / 3) % 2) } else { Some(1) };
        let store = open_with(dir, StoreOptions { boot_id, ..self.options.clone() }).unwrap();
        let mut has_told = store.stats().crc_failures > 0;
        for (key, want) in &self.contents {
            let mut out = vec![0xaa; want.len() + 10_000];
            match store.read(*key, 0, &mut out) {
                Ok(got) => {
                    assert!(out[..got] == *want, "byte {at} bit {bit}: {key:?} reads wrong, {got} bytes");
                }
                Err(StoreError::Corrupt { .. }) => has_told = true,
                Err(other) => panic!("byte {at} bit {bit}: {other}"),
            }
        }
        abandon(store);
        has_told
    }

    /// Flips each of these bits in turn; answers how many were told.
    fn flip(&self, bits: impl IntoIterator<Item = (usize, usize)>) -> usize {
        let dir = fast_dir();
        copy_dir(self.dir.path(), dir.path());
        bits.into_iter().filter(|bit| self.is_told(dir.path(), *bit)).count()
    }
}

fn flip_around_data(io: IoMode) {
    let Some(killed) = Killed::new(io, 64 << 10) else { return };
    let bits = killed.bits_around_data();
    let told = killed.flip(bits.iter().copied());
    // Each header is there twice, so that of those none is told. Tables and the data behind short ones are not.
    assert!(told > 100 && told < bits.len() / 2, "{told} of {}", bits.len());
    let step = 499;
    let data = (0..killed.bytes.len()).step_by(step).map(|at| (at, at / step % 8));
    let told = killed.flip(data);
    assert!(told > killed.bytes.len() / step / 2, "{told} flips in data were told");
}

#[test]
fn flips_around_data_on_pages_and_in_groups_are_never_returned() {
    // Goal: every bit of headers and tables of records of 64 KiB and more and of those of groups, also of the last group, which nothing confirms but
    // the boot; reads give the right bytes or Corrupt.
    flip_around_data(IoMode::Buffered);
}

#[test]
fn flips_in_the_direct_layout_are_never_returned() {
    // Goal: the same where records begin and groups end on blocks.
    flip_around_data(IoMode::Direct);
}

#[test]
fn flips_in_a_record_of_a_mebibyte_are_never_returned() {
    // Goal: a record with a table of 256 sums: its table's bytes, and samples of its data, in both layouts.
    for io in [IoMode::Buffered, IoMode::Direct] {
        let Some(killed) = Killed::new(io, 1 << 20) else { return };
        let large = killed.records.iter().max_by_key(|record| record.end - record.start).unwrap();
        let table = (large.start + 64..large.start + 64 + 4 * 256).step_by(3).map(|at| (at, at % 8));
        assert!(killed.flip(table) > 300);
        let data = (large.data_end - (1 << 20)..large.data_end).step_by(5_003).map(|at| (at, at / 7 % 8));
        let (told, all) = (killed.flip(data.clone()), data.count());
        // Three thousand bytes in between were overwritten.
        assert!(told >= all - 1, "{told} of {all}");
    }
}

#[test]
fn a_flip_while_open_is_told() {
    // Goal: the same for damage that happens while the store is open; other blocks of the record stay readable, and
    // overwriting the damaged range heals it.
    let dir = fast_dir();
    let store = open(dir.path());
    let at = key(1, 0);
    let data = pattern(1, 20_000);
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
fn scrub_all(store: &LogStore) -> fs_server::store::ScrubPage {
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
    let datas: Vec<_> = (0..300).map(|n| pattern(n, 700 + n as usize)).collect();
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
