//! Blocks that the device cannot read any more, and segments that an opening has left in doubt.

use crate::mem_kv::MemKv;
use crate::sim_disk::{BLOCK_BYTES, SimDisk};
use crate::support::{Change, Model, Rng, apply_all, key, options, pattern, piece};
use fs_proto::ids::{ChunkIndex, InodeId};
use fs_server::store::disk::Disk;
use fs_server::store::format::{HEADER_BYTES, Header, Kind, UNIT_BYTES};
use fs_server::store::{self, ChunkKey, ChunkStore, IoMode, LogStore, StoreError, StoreOptions};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

const STORE_ID: u64 = 12;
/// What is written before the sync, and behind it.
const SYNCED: u64 = 7;
const INOS: u64 = 11;

fn write(ino: u64, offset: u32, len: usize) -> Change {
    Change::Write { ino, chunk: 0, offset, len, seed: ino + len as u64 }
}

/// Where a data record lies in a segment, and whose it is.
struct Placed {
    segment: u32,
    bytes: Range<u64>,
    ino: u64,
}

/// A store that was killed: records that are large, small, and in groups, with older content below some.
struct Killed {
    disk: Arc<SimDisk>,
    kv: Arc<MemKv>,
    io: IoMode,
    is_saved: bool,
    model: Model,
    placed: Vec<Placed>,
}

impl Killed {
    fn new(io: IoMode, is_saved: bool) -> Killed {
        let (disk, kv) = (SimDisk::new(), MemKv::new());
        let store = open(&disk, &kv, io, 1).unwrap();
        let mut model = Model::default();
        let before = [write(1, 0, 100_000), write(2, 0, 9_000), write(2, 3_000, 500), write(3, 0, 300)];
        let group = [write(4, 0, 20_000), write(5, 9, 4_000), write(6, 0, 100)];
        let behind = [write(7, 0, 70_000), write(8, 0, 600), write(9, 5, 30_000), write(10, 0, 5_000)];
        apply_all(&before, &store);
        let written = store.write_many(&group.each_ref().map(piece));
        for outcome in written {
            outcome.unwrap();
        }
        if is_saved {
            store.save().unwrap();
        } else {
            store.sync().unwrap();
        }
        // The first of them says that all before it is durable.
        apply_all(&behind, &store);
        before.iter().chain(&group).chain(&behind).for_each(|change| model.apply(change));
        store.abandon();
        let placed =
            disk.list().unwrap().into_iter().flat_map(|id| placed_in(id, &disk.bytes_of(id))).collect();
        Killed { disk, kv, io, is_saved, model, placed }
    }

    /// Inodes with a record that touches a block, and those with one that lies wholly in it.
    fn hit(&self, segment: u32, block: u64) -> (BTreeSet<u64>, BTreeSet<u64>) {
        let (begin, end) = (block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES);
        let touching =
            self.placed.iter().filter(|p| p.segment == segment && p.bytes.start < end && p.bytes.end > begin);
        let is_within = |p: &&Placed| p.bytes.start >= begin && p.bytes.end <= end;
        (touching.clone().map(|p| p.ino).collect(), touching.filter(is_within).map(|p| p.ino).collect())
    }
}

fn placed_in(segment: u32, bytes: &[u8]) -> Vec<Placed> {
    let headers = bytes.chunks_exact(UNIT_BYTES as usize).enumerate().filter_map(|(unit, bytes)| {
        let header = Header::decode(bytes.first_chunk::<HEADER_BYTES>()?, STORE_ID)?;
        (header.kind == Kind::Data && header.at.unit as usize == unit).then_some(header)
    });
    headers.map(|h| Placed { segment, bytes: h.at.byte()..h.end().byte(), ino: h.ino.0 }).collect()
}

fn open(disk: &Arc<SimDisk>, kv: &Arc<MemKv>, io: IoMode, boot_id: u128) -> Result<LogStore, StoreError> {
    let options = StoreOptions { boot_id: Some(boot_id), io, ..options() };
    store::open_on(disk.clone(), STORE_ID, kv.clone(), options)
}

/// What a read of a file's first chunk gives; none if it is told as damaged.
fn read(store: &LogStore, ino: u64) -> Option<Vec<u8>> {
    let mut out = vec![0xaa; 120_000];
    match store.read(key(ino, 0), 0, &mut out) {
        Ok(got) => Some(out[..got].to_vec()),
        Err(StoreError::Corrupt { .. }) => None,
        Err(other) => panic!("inode {ino}: {other}"),
    }
}

fn scrubbed(store: &LogStore) -> Vec<ChunkKey> {
    let (mut after, mut damaged) = (None, Vec::new());
    loop {
        let page = store.scrub(after, 1 << 20).unwrap();
        damaged.extend(page.damaged);
        after = page.next;
        if after.is_none() {
            return damaged;
        }
    }
}

/// Opens a store with a bad block. Returns whether it was told that something is lost.
fn check(killed: &Killed, segment: u32, block: u64, boot_id: u128) -> bool {
    let what = format!(
        "{}, saved {}, block {block} of segment {segment}, boot {boot_id}",
        killed.io, killed.is_saved
    );
    let (disk, kv) = (killed.disk.after_kill(), killed.kv.after_kill());
    disk.spoil(segment, block);
    let store = open(&disk, &kv, killed.io, boot_id).unwrap_or_else(|error| panic!("{what}: {error}"));
    let (touched, within) = killed.hit(segment, block);
    let seen: Vec<_> = (0..INOS).map(|ino| read(&store, ino)).collect();
    store.sync().unwrap();
    let is_told = store.stats().crc_failures > 0;
    for (ino, seen) in (0..INOS).zip(&seen) {
        let is_right = seen.as_ref().is_some_and(|bytes| *bytes == killed.model.bytes(ino, 0));
        // Of a record that is gone with both its headers nobody knows whose it was, unless the index does.
        let is_unknown = within.contains(&ino) && is_told && !(killed.is_saved && ino < SYNCED);
        // What nobody was told of may be gone.
        let is_undone = boot_id != 1 && ino >= SYNCED && seen.as_ref().is_some_and(Vec::is_empty);
        let is_lost = touched.contains(&ino) && (seen.is_none() || is_unknown || is_undone);
        assert!(is_right || is_lost, "{what}: inode {ino}, {:?} bytes", seen.as_ref().map(Vec::len));
    }
    let damaged: Vec<_> =
        (0..INOS).filter(|ino| seen[*ino as usize].is_none()).map(|ino| key(ino, 0)).collect();
    assert_eq!(scrubbed(&store), damaged, "{what}");
    // What was judged stays so when there is a newer durable mark, after a kill and on another boot.
    apply_all(&[write(INOS, 0, 3_000), write(INOS, 9_000, 10)], &store);
    store.sync().unwrap();
    write(INOS, 20_000, 10).apply(&store).unwrap();
    store.abandon();
    let after = [(disk.after_kill(), boot_id), (disk.after_power_loss(&mut Rng(block)), boot_id + 1)];
    for (disk, boot_id) in after {
        let store = open(&disk, &kv.after_kill(), killed.io, boot_id).unwrap();
        let again: Vec<_> = (0..INOS).map(|ino| read(&store, ino)).collect();
        assert!(again == seen, "{what}: another opening has found something else");
        let mut out = [0; 3_000];
        assert_eq!(store.read(key(INOS, 0), 0, &mut out).unwrap(), out.len(), "{what}");
        assert!(out[..] == pattern(INOS + 3_000, 3_000));
    }
    is_told
}

#[test]
fn an_unreadable_block_costs_what_is_in_it() {
    // Goal: any block of the log cannot be read when the store is opened, after a kill or on another boot, with the index saved or not. It
    // opens; all records that do not touch the block are right; the others are right, told as damaged by reads and by
    // scrubbing, or, if nobody was told that they were there, gone for good.
    let mut told = 0;
    for (io, is_saved) in
        [IoMode::Buffered, IoMode::Direct].into_iter().flat_map(|io| [(io, false), (io, true)])
    {
        let killed = Killed::new(io, is_saved);
        let of_log = |id: u32| {
            let end = killed.placed.iter().filter(|p| p.segment == id).map(|p| p.bytes.end).max();
            (0..end.unwrap_or(0).div_ceil(BLOCK_BYTES)).map(move |block| (id, block))
        };
        for (segment, block) in killed.disk.list().unwrap().into_iter().flat_map(of_log) {
            told += (1..3).filter(|boot_id| check(&killed, segment, block, *boot_id)).count();
        }
    }
    assert!(told > 100, "{told}");
}

#[test]
fn a_device_that_reads_nothing_is_not_taken_for_empty() {
    // Goal: when hundreds of blocks cannot be read the opening fails, and what is there stays as it was: it may be the cable.
    let (disk, kv) = (SimDisk::new(), MemKv::new());
    let options = StoreOptions { segment_bytes: 4 << 20, ..options() };
    let open = |disk: &Arc<SimDisk>| store::open_on(disk.clone(), STORE_ID, kv.clone(), options.clone());
    let store = open(&disk).unwrap();
    let change = |ino| write(ino, 0, 300_000);
    (0..8).for_each(|ino| change(ino).apply(&store).unwrap());
    store.abandon();
    let (whole, broken) = (disk.bytes_of(1), disk.after_kill());
    (0..600).for_each(|block| broken.spoil(1, block));
    let error = open(&broken).err().expect("a device that cannot be read");
    assert!(error.to_string().contains("too many blocks"), "{error}");
    assert!(broken.bytes_of(1) == whole, "the segment was changed");
    let store = open(&disk.after_kill()).unwrap();
    Model::of(&(0..8).map(change).collect::<Vec<_>>()).check(&store, 8);
}

#[test]
fn what_is_in_doubt_needs_room() {
    // Goal: after a kill, with no room to copy what is in doubt, the store opens and reads; neither a sync nor a save is answered. Once there is room they are,
    // and hold through a loss of power.
    without_room_for_doubts(&|store| store.sync());
    without_room_for_doubts(&|store| store.save());
}

fn without_room_for_doubts(keep: &dyn Fn(&LogStore) -> Result<(), StoreError>) {
    let (disk, kv) = (SimDisk::new(), MemKv::new());
    let store = open(&disk, &kv, IoMode::Buffered, 1).unwrap();
    let changes: Vec<_> = (0..6).map(|ino| write(ino, 0, 30_000)).collect();
    apply_all(&changes, &store);
    store.abandon();
    let (disk, kv) = (disk.after_kill(), kv.after_kill());
    disk.set_full(true);
    let store = open(&disk, &kv, IoMode::Buffered, 1).unwrap();
    let model = Model::of(&changes);
    model.check(&store, 6);
    for _ in 0..3 {
        assert!(matches!(keep(&store), Err(StoreError::NoSpace)));
    }
    disk.set_full(false);
    keep(&store).unwrap();
    model.check(&store, 6);
    store.abandon();
    let store = open(&disk.after_power_loss(&mut Rng(5)), &kv.after_kill(), IoMode::Buffered, 2).unwrap();
    model.check(&store, 6);
    assert!(store.chunks(InodeId(0)).unwrap() == [(ChunkIndex(0), 30_000)]);
}
