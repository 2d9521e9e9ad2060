//! The chunk stores of a server, one a device, as one.
//!
//! A chunk lies wholly on one device, which follows from the hash of its key and the devices' sizes when the store was
//! made. So devices share nothing but the key-value store: a device that fails refuses its own chunks, and all others
//! go on. The price: devices cannot be added to a store, only servers to a cluster.
//!
//! # Invariants
//! - The devices, their order apart, are those that the store was made with (`tests/store`, `devices_are_remembered`).
//! - Load follows size (`larger_devices_get_more`).

use super::disk::buffered;
use super::engine::LogStore;
use super::scrub::ScrubPage;
use super::{ChunkData, ChunkKey, ChunkStore, ChunkWrite, Compare, StoreError, StoreOptions, StoreStats};
use crate::kv::{Batch, Kv, KvError};
use fs_net::PoolBuffer;
use fs_proto::ids::{ChunkIndex, InodeId};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

/// Most devices of a server.
pub const MAX_DEVICES: usize = 250;
/// Key of the list of devices: version:u8, then store id:u64 and weight:u64 of each, little-endian.
const LIST_KEY: [u8; 3] = [b'v', 255, 0];
const LIST_VERSION: u8 = 1;

/// A device as the store remembers it. Its place in the list is its number in the keys of its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    store_id: u64,
    /// Its size in MiB when the store was made.
    weight: u64,
}

/// All chunk stores of a server.
pub struct Devices {
    stores: Vec<Arc<LogStore>>,
    weights: Vec<u64>,
}

/// Opens, or creates, a chunk store in each of `dirs`, with all indexes in `kv`. Memory of `options` is for all together.
pub fn open(dirs: &[PathBuf], kv: &Arc<dyn Kv>, options: &StoreOptions) -> Result<Devices, StoreError> {
    let mut found = Vec::new();
    for dir in dirs {
        std::fs::create_dir_all(dir)?;
        let id = super::engine::peek_store_id(dir)?;
        found.push((dir.as_path(), id));
    }
    let known = if let Some(row) = kv.get(&LIST_KEY)? {
        decode_list(&row).ok_or_else(|| KvError::Corrupt("the list of devices".to_owned()))?
    } else {
        let known = measure(&found)?;
        let mut batch = Batch::new();
        batch.put(LIST_KEY, encode_list(&known));
        kv.commit(batch)?;
        kv.sync()?;
        known
    };
    let ordered = match_up(&found, &known)?;
    let share = ordered.len() as u64;
    let open = |(device, dir): (usize, &Path)| {
        let options = StoreOptions {
            device: device as u8,
            index_bytes: options.index_bytes / share,
            crc_cache_bytes: options.crc_cache_bytes / share,
            ..options.clone()
        };
        super::engine::open(dir, Arc::clone(kv), options)
    };
    // Side by side: each reads the end of its own log.
    let stores = side_by_side(ordered.into_iter().enumerate(), open)?;
    Ok(Devices { stores, weights: known.iter().map(|k| k.weight).collect() })
}

/// Does the same with each, side by side. All have ended when it returns.
fn side_by_side<I: Send, T: Send>(
    all: impl Iterator<Item = I>,
    work: impl Fn(I) -> Result<T, StoreError> + Sync,
) -> Result<Vec<T>, StoreError> {
    let work = &work;
    let panicked = |_| Err(StoreError::Io(std::io::Error::other("a thread of the chunk store panicked")));
    std::thread::scope(|scope| {
        let threads: Vec<_> = all.map(|one| scope.spawn(move || work(one))).collect();
        let outcomes: Vec<_> = threads.into_iter().map(|t| t.join().unwrap_or_else(panicked)).collect();
        outcomes.into_iter().collect()
    })
}

fn measure(found: &[(&Path, u64)]) -> Result<Vec<Known>, StoreError> {
    let size = |dir: &Path| Ok::<_, StoreError>((buffered::space(dir)?.0 >> 20).max(1));
    found.iter().map(|(dir, store_id)| Ok(Known { store_id: *store_id, weight: size(dir)? })).collect()
}

/// The directories in the order of the list.
fn match_up<'a>(found: &[(&'a Path, u64)], known: &[Known]) -> Result<Vec<&'a Path>, StoreError> {
    let foreign = |path: &Path, why| Err(StoreError::Foreign { path: path.to_owned(), why });
    if let Some((path, _)) = found.iter().find(|(_, id)| !known.iter().any(|k| k.store_id == *id)) {
        return foreign(
            path,
            "not one of the devices that this server's store was made with: name the same --store directories as then",
        );
    }
    let place = |k: &Known| found.iter().find(|(_, id)| *id == k.store_id).map(|(path, _)| *path);
    match known.iter().map(place).collect::<Option<Vec<_>>>() {
        Some(ordered) if ordered.len() == found.len() => Ok(ordered),
        _ => foreign(
            found[0].0,
            "a device that this server's store was made with is missing: name all its --store directories",
        ),
    }
}

fn encode_list(known: &[Known]) -> Vec<u8> {
    let mut out = vec![LIST_VERSION];
    for device in known {
        out.extend_from_slice(&device.store_id.to_le_bytes());
        out.extend_from_slice(&device.weight.to_le_bytes());
    }
    out
}

fn decode_list(from: &[u8]) -> Option<Vec<Known>> {
    let (version, rest) = from.split_first()?;
    let (devices, odd) = rest.as_chunks::<16>();
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    let known: Vec<_> =
        devices.iter().map(|d| Known { store_id: number(&d[..8]), weight: number(&d[8..]) }).collect();
    let is_sane = known.iter().all(|k| k.weight > 0) && !known.is_empty() && known.len() <= MAX_DEVICES;
    (*version == LIST_VERSION && odd.is_empty() && is_sane).then_some(known)
}

/// Which device holds a chunk: each has a stretch of all hashes as long as its weight.
fn place(weights: &[u64], key: ChunkKey) -> usize {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&key.ino.0.to_le_bytes());
    bytes[8..].copy_from_slice(&key.chunk.0.to_le_bytes());
    let all: u128 = weights.iter().map(|weight| u128::from(*weight)).sum();
    let mut left = (u128::from(xxh3_64(&bytes)) * all) >> 64;
    for (device, weight) in weights.iter().enumerate() {
        match left.checked_sub(u128::from(*weight)) {
            Some(rest) => left = rest,
            None => return device,
        }
    }
    weights.len() - 1
}

impl Devices {
    fn of(&self, key: ChunkKey) -> &LogStore {
        match &self.stores[..] {
            [one] => one,
            many => &many[place(&self.weights, key)],
        }
    }

    /// Its parts.
    pub fn stores(&self) -> &[Arc<LogStore>] {
        &self.stores
    }

    /// As [`LogStore::write_bytes`].
    pub async fn write_bytes(&self, write: ChunkWrite) -> Result<(), StoreError> {
        self.of(write.key).write_bytes(write).await
    }

    /// As [`LogStore::read_buffer`].
    pub async fn read_buffer(
        &self,
        key: ChunkKey,
        offset: u32,
        len: usize,
        buffer: PoolBuffer,
        compare: Compare,
    ) -> Result<ChunkData, StoreError> {
        self.of(key).read_buffer(key, offset, len, buffer, compare).await
    }

    /// As [`LogStore::scrub`], on one device.
    pub fn scrub(
        &self,
        device: usize,
        after: Option<ChunkKey>,
        budget_bytes: u64,
    ) -> Result<ScrubPage, StoreError> {
        self.stores[device].scrub(after, budget_bytes)
    }

    /// As [`LogStore::chunks_after`], of one device.
    pub fn chunks_after(
        &self,
        device: usize,
        after: Option<ChunkKey>,
        limit: usize,
    ) -> Result<Vec<ChunkKey>, StoreError> {
        self.stores[device].chunks_after(after, limit)
    }

    /// Carries something out on all devices, also after one has failed; the first failure is told.
    fn on_all(&self, mut call: impl FnMut(&LogStore) -> Result<(), StoreError>) -> Result<(), StoreError> {
        let outcomes: Vec<_> = self.stores.iter().map(|store| call(store)).collect();
        outcomes.into_iter().collect()
    }
}

impl ChunkStore for Devices {
    fn write(&self, key: ChunkKey, offset: u32, data: &[u8]) -> Result<(), StoreError> {
        self.of(key).write(key, offset, data)
    }

    fn read(&self, key: ChunkKey, offset: u32, out: &mut [u8]) -> Result<usize, StoreError> {
        self.of(key).read(key, offset, out)
    }

    fn truncate(&self, ino: InodeId, chunk: ChunkIndex, keep_bytes: u32) -> Result<(), StoreError> {
        if let [one] = &self.stores[..] {
            return one.truncate(ino, chunk, keep_bytes);
        }
        let holder = place(&self.weights, ChunkKey { ino, chunk });
        let later = ChunkIndex(chunk.0.saturating_add(1));
        self.on_all(|store| store.truncate(ino, later, 0))?;
        self.stores[holder].truncate(ino, chunk, keep_bytes)
    }

    fn punch(&self, key: ChunkKey, offset: u32, len: u32) -> Result<(), StoreError> {
        self.of(key).punch(key, offset, len)
    }

    fn holds(&self, key: ChunkKey) -> Result<bool, StoreError> {
        self.of(key).holds(key)
    }

    fn ranges(&self, key: ChunkKey) -> Result<Vec<Range<u32>>, StoreError> {
        self.of(key).ranges(key)
    }

    fn remove(&self, inos: &[InodeId]) -> Result<(), StoreError> {
        self.on_all(|store| store.remove(inos))
    }

    fn chunks_from(
        &self,
        ino: InodeId,
        from: ChunkIndex,
        limit: usize,
    ) -> Result<Vec<(ChunkIndex, u32)>, StoreError> {
        let mut all = Vec::new();
        for store in &self.stores {
            all.extend(store.chunks_from(ino, from, limit)?);
        }
        all.sort_unstable();
        all.truncate(limit);
        Ok(all)
    }

    fn sync(&self) -> Result<(), StoreError> {
        if let [one] = &self.stores[..] {
            return one.sync();
        }
        // Side by side: each waits for its own device.
        side_by_side(self.stores.iter(), |store| store.sync()).map(drop)
    }

    fn stats(&self) -> StoreStats {
        self.stores.iter().map(|store| store.stats()).fold(StoreStats::default(), StoreStats::plus)
    }

    fn index_bytes(&self) -> u64 {
        self.stores.iter().map(|store| store.index_bytes()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn larger_devices_get_more() {
        // Goal: chunks spread over devices by their weights, within 3 %.
        let weights = [1_000, 2_000, 1_000];
        let mut counts = [0_u64; 3];
        for n in 0..40_000 {
            counts[place(&weights, ChunkKey { ino: InodeId(n / 100), chunk: ChunkIndex(n % 100) })] += 1;
        }
        for (count, weight) in counts.iter().zip(weights) {
            let share = *count as f64 / 40_000.0 / (weight as f64 / 4_000.0);
            assert!((0.97..1.03).contains(&share), "{counts:?}");
        }
    }

    #[test]
    fn golden_list() {
        // Goal: the list's bytes and the places of chunks never change unnoticed: both decide where data is found.
        let known = [Known { store_id: 0x0102, weight: 3 }, Known { store_id: 4, weight: 5 }];
        let bytes = encode_list(&known);
        assert_eq!(hex::encode(&bytes), "010201000000000000030000000000000004000000000000000500000000000000");
        assert_eq!(decode_list(&bytes), Some(known.to_vec()));
        assert_eq!(decode_list(&bytes[..20]), None);
        assert_eq!(decode_list(&encode_list(&[])), None);
        let places: Vec<_> = (0..12)
            .map(|n| place(&[5, 5, 9], ChunkKey { ino: InodeId(1 << 40 | n), chunk: ChunkIndex(n * n) }))
            .collect();
        assert_eq!(places, GOLDEN_PLACES);
    }

    const GOLDEN_PLACES: [usize; 12] = [0, 0, 1, 2, 0, 0, 2, 0, 1, 2, 2, 2];
}
