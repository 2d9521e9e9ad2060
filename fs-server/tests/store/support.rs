//! A model of the store, and what the tests share.

use crate::mem_kv::MemKv;
use fs_proto::ids::{ChunkIndex, InodeId};
use fs_server::store::{
    self, BlockSums, ChunkKey, ChunkStore, ChunkWrite, LogStore, StoreError, StoreOptions,
};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};

/// Small segments, so that a test of a few hundred KiB sees many.
pub const SEGMENT_BYTES: u64 = 64 << 10;

pub fn options() -> StoreOptions {
    StoreOptions {
        segment_bytes: SEGMENT_BYTES,
        boot_id: Some(1),
        max_open_files: 8,
        ..StoreOptions::default()
    }
}

/// The key-value stores that belong to the directories of tests.
static KVS: LazyLock<Mutex<HashMap<PathBuf, Arc<MemKv>>>> = LazyLock::new(Mutex::default);

/// The key-value store of a directory.
pub fn kv_of(dir: &Path) -> Arc<MemKv> {
    KVS.lock().unwrap().entry(dir.to_owned()).or_default().clone()
}

/// Opens the store in a directory, with the key-value store that belongs to it.
pub fn open(dir: &Path) -> Arc<LogStore> {
    open_with(dir, options()).expect("open the store")
}

pub fn open_with(dir: &Path, options: StoreOptions) -> Result<Arc<LogStore>, StoreError> {
    store::open(dir, kv_of(dir), options)
}

/// Ends a store as a kill would.
pub fn abandon(store: Arc<LogStore>) {
    Arc::into_inner(store).expect("the only handle").abandon();
}

pub fn key(ino: u64, chunk: u64) -> ChunkKey {
    ChunkKey { ino: InodeId(ino), chunk: ChunkIndex(chunk) }
}

/// Bytes that tell where they come from.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    out
}

/// A small generator of numbers for tests that run their own loops.
pub struct Rng(pub u64);

impl Rng {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Write { ino: u64, chunk: u64, offset: u32, len: usize, seed: u64 },
    Truncate { ino: u64, chunk: u64, keep: u32 },
    Remove { inos: Vec<u64> },
    Punch { ino: u64, chunk: u64, offset: u32, len: u32 },
}

impl Change {
    pub fn apply(&self, store: &dyn ChunkStore) -> Result<(), StoreError> {
        match self {
            Change::Write { ino, chunk, offset, len, seed } => {
                store.write(key(*ino, *chunk), *offset, &pattern(*seed, *len))
            }
            Change::Truncate { ino, chunk, keep } => store.truncate(InodeId(*ino), ChunkIndex(*chunk), *keep),
            Change::Remove { inos } => store.remove(&inos.iter().map(|i| InodeId(*i)).collect::<Vec<_>>()),
            Change::Punch { ino, chunk, offset, len } => store.punch(key(*ino, *chunk), *offset, *len),
        }
    }
}

/// The piece that a write puts.
pub fn piece(change: &Change) -> ChunkWrite {
    let Change::Write { ino, chunk, offset, len, seed } = change else { panic!("{change:?} is no write") };
    let data = pattern(*seed, *len);
    ChunkWrite {
        key: key(*ino, *chunk),
        offset: *offset,
        sums: BlockSums::of(*offset, &data),
        data: data.into(),
    }
}

/// Applies changes that must work.
pub fn apply_all(changes: &[Change], store: &dyn ChunkStore) {
    for change in changes {
        change.apply(store).unwrap();
    }
}

/// Every byte of every chunk; `None` in holes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Model {
    pub chunks: BTreeMap<(u64, u64), Vec<Option<u8>>>,
}

impl Model {
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Write { ino, chunk, offset, len, seed } => {
                let bytes = self.chunks.entry((*ino, *chunk)).or_default();
                let end = *offset as usize + len;
                bytes.resize(bytes.len().max(end), None);
                let data = pattern(*seed, *len);
                bytes[*offset as usize..end].iter_mut().zip(data).for_each(|(to, from)| *to = Some(from));
            }
            Change::Truncate { ino, chunk, keep } => {
                self.chunks.retain(|(i, c), _| i != ino || c <= chunk);
                if let Some(bytes) = self.chunks.get_mut(&(*ino, *chunk)) {
                    bytes.truncate(*keep as usize);
                }
            }
            Change::Remove { inos } => self.chunks.retain(|(i, _), _| !inos.contains(i)),
            Change::Punch { ino, chunk, offset, len } => {
                let bytes = self.chunks.entry((*ino, *chunk)).or_default();
                let hole = (*offset as usize).min(bytes.len())..((offset + len) as usize).min(bytes.len());
                bytes[hole].fill(None);
            }
        }
        for bytes in self.chunks.values_mut() {
            let end = bytes.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
            bytes.truncate(end);
        }
        self.chunks.retain(|_, bytes| !bytes.is_empty());
    }

    pub fn of<'a>(changes: impl IntoIterator<Item = &'a Change>) -> Self {
        let mut model = Model::default();
        changes.into_iter().for_each(|c| model.apply(c));
        model
    }

    pub fn bytes(&self, ino: u64, chunk: u64) -> Vec<u8> {
        self.chunks.get(&(ino, chunk)).map_or(Vec::new(), |b| b.iter().map(|b| b.unwrap_or(0)).collect())
    }

    /// Where a chunk has data.
    pub fn ranges(&self, ino: u64, chunk: u64) -> Vec<std::ops::Range<u32>> {
        let bytes = self.chunks.get(&(ino, chunk)).map_or(&[][..], |b| b);
        let mut at = 0;
        let runs = bytes.chunk_by(|a, b| a.is_some() == b.is_some()).map(|run| {
            at += run.len() as u32;
            (run[0].is_some(), at - run.len() as u32..at)
        });
        runs.filter(|(has_data, _)| *has_data).map(|(_, range)| range).collect()
    }

    pub fn live_bytes(&self) -> u64 {
        self.chunks.values().flatten().filter(|b| b.is_some()).count() as u64
    }

    /// The first difference between the store and the model, over the inodes below `inos`.
    pub fn difference(&self, store: &dyn ChunkStore, inos: u64) -> Option<String> {
        (0..inos).find_map(|ino| self.difference_of(store, ino))
    }

    /// The first difference in one inode.
    pub fn difference_of(&self, store: &dyn ChunkStore, ino: u64) -> Option<String> {
        let held = self.chunks.range((ino, 0)..=(ino, u64::MAX));
        let want: Vec<_> = held.map(|((_, c), b)| (ChunkIndex(*c), b.len() as u32)).collect();
        let have = store.chunks(InodeId(ino)).unwrap();
        if have != want {
            return Some(format!("inode {ino}: chunks {have:?} and not {want:?}"));
        }
        want.into_iter().find_map(|(chunk, end)| {
            let ranges = store.ranges(key(ino, chunk.0)).unwrap();
            if ranges != self.ranges(ino, chunk.0) {
                return Some(format!("inode {ino} {chunk:?}: data at {ranges:?}"));
            }
            let mut out = vec![0xaa; end as usize + 100];
            match store.read(key(ino, chunk.0), 0, &mut out) {
                Ok(got) if out[..got] == self.bytes(ino, chunk.0) => None,
                Ok(got) => Some(format!("inode {ino} {chunk:?}: {got} bytes of other content")),
                Err(error) => Some(format!("inode {ino} {chunk:?}: {error}")),
            }
        })
    }

    /// Panics unless the store is as the model says, counters included.
    pub fn check(&self, store: &dyn ChunkStore, inos: u64) {
        if let Some(difference) = self.difference(store, inos) {
            panic!("{difference}");
        }
        let stats = store.stats();
        assert_eq!((stats.chunks, stats.live_bytes), (self.chunks.len() as u64, self.live_bytes()));
        assert_eq!(stats.crc_failures, 0);
    }
}

/// A directory in memory, if there is one, for tests that open a store thousands of times.
pub fn fast_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Copies a store as a kill would have left it.
pub fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    copy_kv(from, to);
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Gives `to` the key-value store that `from` has.
pub fn copy_kv(from: &Path, to: &Path) {
    let copy = kv_of(from).after_kill();
    KVS.lock().unwrap().insert(to.to_owned(), copy);
}

/// Gives `to` one segment file with this content, and the key-value store that `from` has. What compaction has made of an earlier content
/// goes: it would say that all of this one is durable.
pub fn put_segment(from: &Path, to: &Path, name: &std::ffi::OsStr, bytes: &[u8]) {
    for file in segment_files(to) {
        std::fs::remove_file(file).unwrap();
    }
    std::fs::write(to.join(name), bytes).unwrap();
    copy_kv(from, to);
}

/// The segment files of a store, ascending.
pub fn segment_files(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    let mut files: Vec<_> = entries.filter(|p| p.extension().is_some_and(|e| e == "seg")).collect();
    files.sort();
    files
}
