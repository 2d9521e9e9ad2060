//! The index over a key-value store in memory.

use super::super::extent::Place;
use super::super::format::Shape;
use super::super::shard::Reach;
use super::*;
use crate::kv::{Change, ScanVisitor};
use bytes::Bytes;
use parking_lot::Mutex;

/// A key-value store that counts reads.
#[derive(Default)]
struct Rows {
    map: Mutex<BTreeMap<Vec<u8>, Vec<u8>>>,
    gets: AtomicU64,
}

impl Kv for Rows {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        self.gets.fetch_add(1, Ordering::Relaxed);
        Ok(self.map.lock().get(key).cloned().map(Bytes::from))
    }

    fn commit(&self, batch: Batch) -> Result<(), KvError> {
        let mut map = self.map.lock();
        for change in batch.changes() {
            match change {
                Change::Put { key, value } => drop(map.insert(key.to_vec(), value.to_vec())),
                Change::Delete { key } => drop(map.remove(key)),
            }
        }
        Ok(())
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut ScanVisitor<'_>) -> Result<(), KvError> {
        let found: Vec<_> = {
            let map = self.map.lock();
            map.range(from.to_vec()..to.to_vec()).map(|(k, v)| (k.clone(), v.clone())).collect()
        };
        let _ = found.iter().try_for_each(|(key, value)| visit(key, value));
        Ok(())
    }

    fn sync(&self) -> Result<(), KvError> {
        Ok(())
    }

    fn disk_bytes(&self) -> u64 {
        0
    }

    fn memory_bytes(&self) -> u64 {
        0
    }
}

fn index(rows: &Arc<Rows>, budget_bytes: u64) -> Index {
    Index::new(Arc::clone(rows) as Arc<dyn Kv>, Keys { device: 0 }, budget_bytes, 0)
}

fn key(ino: u64, chunk: u64) -> ChunkKey {
    ChunkKey { ino: InodeId(ino), chunk: ChunkIndex(chunk) }
}

fn data(sequence: u64, start: u32, end: u32) -> Extent {
    let shape = Shape { unit: sequence as u32, offset: start, data_bytes: end - start };
    Extent::whole(sequence, Place { segment: 1, shape })
}

fn cut(key: ChunkKey, from: u32, reach: Reach, sequence: u64) -> Deletion {
    Deletion { ino: key.ino, chunk: key.chunk, from, reach, sequence }
}

fn delete(index: &Index, deletion: Deletion, oldest: u64, book: &mut Ledger) {
    index.delete(&deletion, oldest, book, &mut || Ok(())).unwrap();
}

fn save(index: &Index, rows: &Rows, generation: u64) -> BTreeMap<u32, i64> {
    let unsaved = index.collect(generation);
    rows.commit(unsaved.batch).unwrap();
    index.finish(generation);
    unsaved.deltas
}

fn spans(index: &Index, key: ChunkKey) -> Vec<(u32, u32, u64)> {
    let chunk = index.view(key).unwrap();
    chunk.extents().iter().map(|e| (e.start, e.end, e.sequence)).collect()
}

#[test]
fn a_late_write_does_not_undo_a_removal() {
    // Goal: write 5 was under way when truncation 6 and write 7 were applied; it is entered last and changes only
    // what is older than it. Once nothing older than 6 is under way, the truncation is forgotten. The same for a hole.
    let rows = Arc::default();
    let index = index(&rows, 1 << 20);
    let (at, later) = (key(9, 3), key(9, 4));
    let mut live = 0;
    let mut ledger = |_, bytes: i64| live += bytes;
    index.edit(at).unwrap().insert(data(4, 0, 100), &mut ledger);
    delete(&index, cut(at, 50, Reach::End, 6), 5, &mut ledger);
    index.edit(at).unwrap().insert(data(7, 80, 90), &mut ledger);
    index.edit(at).unwrap().insert(data(5, 40, 100), &mut ledger);
    assert_eq!(spans(&index, at), [(0, 40, 4), (40, 50, 5), (80, 90, 7)]);
    index.edit(later).unwrap().insert(data(5, 0, 10), &mut ledger);
    assert_eq!(index.chunks_from(at.ino, ChunkIndex(0), usize::MAX).unwrap(), [(at.chunk, 90)]);
    delete(&index, cut(at, 10, Reach::Byte(20), 9), 7, &mut ledger);
    index.edit(at).unwrap().insert(data(8, 5, 30), &mut ledger);
    assert_eq!(
        spans(&index, at),
        [(0, 5, 4), (5, 10, 8), (20, 30, 8), (30, 40, 4), (40, 50, 5), (80, 90, 7)]
    );
    delete(&index, cut(at, 0, Reach::End, 10), u64::MAX, &mut ledger);
    index.edit(at).unwrap().insert(data(5, 0, 1), &mut ledger);
    assert_eq!(spans(&index, at), [(0, 1, 5)], "nothing is remembered for writes that cannot come");
    delete(&index, cut(at, 0, Reach::End, 11), u64::MAX, &mut ledger);
    assert_eq!((index.chunk_count(), live), (0, 0));
}

#[test]
fn what_was_let_go_comes_back() {
    // Goal: chunks far beyond the budget come and go, saved now and then; each is always as it was last written, whether
    // it is in memory, only a row, or newer than its row, also in a listing from anywhere on. What segments gain is what the rows say.
    let rows: Arc<Rows> = Arc::default();
    let index = index(&rows, 40_000);
    let mut want: BTreeMap<u64, (u32, u32, u64)> = BTreeMap::new();
    let (mut live, mut generation) = (0, 0);
    for n in 1..6_000_u64 {
        let chunk = n * 7_919 % 1_000;
        let end = 1 + (n % 50) as u32;
        if n % 11 == 0 {
            delete(&index, cut(key(1, chunk), 0, Reach::Byte(100), n), u64::MAX, &mut |_, _| {});
            want.remove(&chunk);
        } else {
            delete(&index, cut(key(1, chunk), 0, Reach::Byte(100), n), u64::MAX, &mut |_, _| {});
            index.edit(key(1, chunk)).unwrap().insert(data(n, 0, end), &mut |_, _| {});
            want.insert(chunk, (0, end, n));
        }
        if n % 100 == 0 {
            generation += 1;
            live += save(&index, &rows, generation).get(&1).copied().unwrap_or(0);
        }
        let probe = n * 104_729 % 1_000;
        assert_eq!(spans(&index, key(1, probe)).first(), want.get(&probe), "chunk {probe} after {n}");
        if n % 50 == 0 {
            let limit = n as usize % 70;
            let page: Vec<_> =
                want.range(probe..).take(limit).map(|(chunk, span)| (ChunkIndex(*chunk), span.1)).collect();
            assert_eq!(index.chunks_from(InodeId(1), ChunkIndex(probe), limit).unwrap(), page);
        }
    }
    live += save(&index, &rows, generation + 1).get(&1).copied().unwrap_or(0);
    assert_eq!(live, want.values().map(|(start, end, _)| i64::from(end - start)).sum::<i64>());
    let ends: Vec<_> = want.iter().map(|(chunk, (_, end, _))| (ChunkIndex(*chunk), *end)).collect();
    assert_eq!(index.chunks_from(InodeId(1), ChunkIndex(0), usize::MAX).unwrap(), ends);
    assert_eq!(index.chunk_count(), want.len() as u64);
    let again = super::tests::index(&rows, 40_000);
    assert_eq!(again.chunks_from(InodeId(1), ChunkIndex(0), usize::MAX).unwrap(), ends);
}

#[test]
fn memory_stays_within_its_budget() {
    // Goal: 20,000 chunks at a budget for some 200: after every save memory is within it, and a chunk in use is not
    // read from its row each time.
    let rows: Arc<Rows> = Arc::default();
    let index = index(&rows, 50_000);
    let mut generation = 0;
    for n in 1..20_000_u64 {
        index.edit(key(n % 13, n)).unwrap().insert(data(n, 0, 10), &mut |_, _| {});
        if index.wants_save() {
            generation += 1;
            save(&index, &rows, generation);
            assert!(index.cached_bytes() <= 50_000, "{}", index.cached_bytes());
        }
        spans(&index, key(1, 1));
    }
    assert!(generation > 50);
    let gets = rows.gets.load(Ordering::Relaxed);
    assert!(gets < 20_000 + 1_000, "{gets} reads of rows");
}

#[test]
fn a_large_file_is_removed_page_by_page() {
    // Goal: a removal of more chunks than memory holds, some only rows, some newer than theirs, leaves none, and relief
    // is called so that it can be saved on the way. Other files stay.
    let rows: Arc<Rows> = Arc::default();
    let index = index(&rows, 200_000);
    let mut live = 0;
    for n in 1..=5_000_u64 {
        index.edit(key(7, n)).unwrap().insert(data(n, 0, 10), &mut |_, bytes| live += bytes);
        if index.wants_save() {
            save(&index, &rows, n);
        }
    }
    index.edit(key(8, 0)).unwrap().insert(data(5_001, 0, 10), &mut |_, bytes| live += bytes);
    let (mut generation, mut reliefs) = (10_000, 0);
    let mut relief = || {
        generation += 1;
        reliefs += 1;
        save(&index, &rows, generation);
        Ok(())
    };
    let all = cut(key(7, 0), 0, Reach::End, 6_000);
    assert!(index.has_any(&index.hold(InodeId(7)), &all).unwrap());
    index.delete(&all, 6_000, &mut |_, bytes| live += bytes, &mut relief).unwrap();
    assert!(reliefs >= 3, "{reliefs}");
    assert!(index.chunks_from(InodeId(7), ChunkIndex(0), usize::MAX).unwrap().is_empty());
    assert!(!index.has_any(&index.hold(InodeId(7)), &all).unwrap());
    assert_eq!((live, index.chunk_count()), (10, 1));
    save(&index, &rows, 20_000);
    assert_eq!(rows.map.lock().len(), 1);
}
