//! How the chunk store grows: memory, and the time of an opening, with a tebibyte or with millions of extents.
//!
//! Of the tebibyte only the frames of records are written; their data are holes in sparse files, so that it fits anywhere. The
//! extents are small records of real data. Each is opened after a clean end and after a kill.
//!
//! ```text
//! cargo run --release -p fs-server --example store_scale -- DIRECTORY [GIB] [MILLION EXTENTS]
//! ```

use fs_proto::ids::{ChunkIndex, InodeId};
use fs_server::kv::{self, Kv, KvKind};
use fs_server::store::disk::{Disk, Lost, Patch, Renewed, SegmentFile};
use fs_server::store::{self, ChunkKey, ChunkStore, LogStore, StoreOptions};
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

type Failure = Box<dyn std::error::Error>;

const KV_BYTES: u64 = 64 << 20;
const INDEX_BYTES: u64 = 32 << 20;
const LARGE_BYTES: usize = 1 << 20;
const SMALL_BYTES: usize = 256;
/// Extents of a chunk in the second part: below the number from which small ones are merged.
const EXTENTS_OF_CHUNK: u64 = 200;
/// Data from this size on is left out.
const SPARSE_FROM: usize = 64 << 10;

/// Segment files without the data of large records.
struct SparseDisk(PathBuf);

struct SparseFile(File);

impl SparseDisk {
    fn path(&self, id: u32) -> PathBuf {
        self.0.join(format!("{id:08x}.seg"))
    }
}

impl Disk for SparseDisk {
    fn list(&self) -> io::Result<Vec<u32>> {
        let mut ids = Vec::new();
        for entry in std::fs::read_dir(&self.0)? {
            let name = entry?.file_name();
            ids.extend(name.to_str().and_then(|n| u32::from_str_radix(n.strip_suffix(".seg")?, 16).ok()));
        }
        ids.sort_unstable();
        Ok(ids)
    }

    fn create(&self, id: u32) -> io::Result<Arc<dyn SegmentFile>> {
        Ok(Arc::new(SparseFile(File::options().read(true).write(true).create_new(true).open(self.path(id))?)))
    }

    fn open(&self, id: u32) -> io::Result<Arc<dyn SegmentFile>> {
        Ok(Arc::new(SparseFile(File::options().read(true).write(true).open(self.path(id))?)))
    }

    /// Nothing here survives a loss of power: the file may stay, and sparse.
    fn renew(&self, id: u32, _: u64, _: &[Patch]) -> io::Result<Renewed> {
        Ok(Renewed { file: self.open(id)?, lost: Lost::new() })
    }

    fn remove(&self, id: u32) -> io::Result<()> {
        std::fs::remove_file(self.path(id))
    }

    fn sync_names(&self) -> io::Result<()> {
        File::open(&self.0)?.sync_all()
    }

    fn space(&self) -> io::Result<(u64, u64)> {
        Ok((4 << 40, 2 << 40))
    }
}

impl SegmentFile for SparseFile {
    fn write_at(&self, parts: &mut [IoSlice<'_>], mut at: u64) -> io::Result<()> {
        for part in parts {
            if part.len() < SPARSE_FROM {
                self.0.write_all_at(part, at)?;
            }
            at += part.len() as u64;
        }
        Ok(())
    }

    fn read_at(&self, parts: &mut [IoSliceMut<'_>], mut at: u64) -> io::Result<usize> {
        let mut total = 0;
        for part in parts {
            let got = FileExt::read_at(&self.0, part, at)?;
            (total, at) = (total + got, at + got as u64);
        }
        Ok(total)
    }

    fn reserve(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }

    fn cut(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

/// Anonymous memory of this process in MiB.
fn memory_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    line.and_then(|l| l.split_whitespace().nth(1)).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) >> 10
}

struct Place {
    dir: PathBuf,
    sparse: bool,
}

impl Place {
    fn open(&self) -> Result<(LogStore, f64), Failure> {
        std::fs::create_dir_all(self.dir.join("chunks"))?;
        let kv: Arc<dyn Kv> = kv::open(KvKind::default(), &self.dir.join("kv"), KV_BYTES)?;
        let options = StoreOptions { index_bytes: INDEX_BYTES, ..StoreOptions::default() };
        let begin = Instant::now();
        let store = if self.sparse {
            store::open_on(Arc::new(SparseDisk(self.dir.join("chunks"))), 1, kv, options)?
        } else {
            Arc::into_inner(store::open(&self.dir.join("chunks"), kv, options)?).ok_or("one handle")?
        };
        Ok((store, begin.elapsed().as_secs_f64()))
    }
}

fn report(what: &str, store: &LogStore, seconds: f64) {
    let stats = store.stats();
    println!(
        "| {what} | {seconds:.2} | {} | {:.1} | {} | {} | {} | {} |",
        stats.chunks,
        stats.live_bytes as f64 / f64::from(1 << 30),
        stats.segments,
        stats.index_saves,
        stats.index_bytes >> 20,
        memory_mib()
    );
}

/// Fills a store, and opens it again and again.
fn grow(
    place: &Place,
    name: &str,
    fill: impl Fn(&LogStore, u64) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let (store, _) = place.open()?;
    let begin = Instant::now();
    fill(&store, 0)?;
    report(&format!("{name}, filled"), &store, begin.elapsed().as_secs_f64());
    drop(store);
    let (store, seconds) = place.open()?;
    report("opened after a clean end", &store, seconds);
    fill(&store, 1)?;
    store.abandon();
    let (store, seconds) = place.open()?;
    report("opened after more and a kill", &store, seconds);
    Ok(())
}

fn key(ino: u64, chunk: u64) -> ChunkKey {
    ChunkKey { ino: InodeId(ino), chunk: ChunkIndex(chunk) }
}

fn large(place: &Place, gib: u64) -> Result<(), Failure> {
    let data = vec![0x5a; LARGE_BYTES];
    grow(place, &format!("{gib} GiB in records of 1 MiB"), |store, round| {
        // The second round is less than a save's worth, so that a kill leaves all of it to be read from the log.
        let count = if round == 0 { gib << 10 } else { 900 };
        (0..count).try_for_each(|n| Ok(store.write(key(1 + round * 1_000 + n % 16, n / 16), 0, &data)?))
    })
}

fn small(place: &Place, millions: u64) -> Result<(), Failure> {
    let data = vec![0x5a; SMALL_BYTES];
    grow(place, &format!("{millions} M extents of {SMALL_BYTES} bytes"), |store, round| {
        let count = if round == 0 { millions * 1_000_000 } else { 200_000 };
        (0..count).try_for_each(|n| {
            // A gap after each, so that every record stays an extent of its own.
            let offset = (n % EXTENTS_OF_CHUNK) as u32 * 2 * SMALL_BYTES as u32;
            let chunk = n / EXTENTS_OF_CHUNK;
            Ok(store.write(key(1 + round * 1_000_000 + chunk / 64, chunk % 64), offset, &data)?)
        })
    })
}

/// Overwrites a file at random, many times what it holds: bytes written to segments for each byte of the user, and space
/// taken for each byte that is live.
fn churn(place: &Place, transfer: usize) -> Result<(), Failure> {
    const FILE_BYTES: u64 = 256 << 20;
    const TIMES: u64 = 8;
    let (store, _) = place.open()?;
    let data = vec![0x5a; transfer];
    let slots = FILE_BYTES / transfer as u64;
    let per_chunk = LARGE_BYTES as u64 / transfer as u64;
    let mut state = 1_u64;
    for n in 0..slots * TIMES {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let slot = if n < slots { n } else { (state >> 33) % slots };
        store.write(key(1, slot / per_chunk), (slot % per_chunk) as u32 * transfer as u32, &data)?;
    }
    let space = |store: &LogStore| store.stats().disk_bytes as f64 / store.stats().live_bytes as f64;
    let at_once = space(&store);
    // What upkeep does by itself in the seconds that follow.
    (0..50).try_for_each(|_| store.compact())?;
    let stats = store.stats();
    let user_bytes = (slots * TIMES * transfer as u64) as f64;
    println!(
        "| {} KiB | {:.2} | {:.2} | {at_once:.2} | {:.2} |",
        transfer >> 10,
        stats.written_bytes as f64 / user_bytes,
        stats.compacted_bytes as f64 / user_bytes,
        space(&store)
    );
    Ok(())
}

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let base = arguments.next().ok_or("usage: store_scale DIRECTORY [GIB] [MILLION EXTENTS]")?;
    let gib: u64 = arguments.next().map_or(Ok(1024), |a| a.parse())?;
    let millions: u64 = arguments.next().map_or(Ok(5), |a| a.parse())?;
    let dir = tempfile::tempdir_in(Path::new(&base))?;
    println!(
        "| step | seconds | chunks | live GiB | segments | saves | index MiB | anonymous memory MiB |\n|---|---|---|---|---|---|---|---|"
    );
    if gib > 0 {
        large(&Place { dir: dir.path().join("large"), sparse: true }, gib)?;
    }
    if millions > 0 {
        small(&Place { dir: dir.path().join("small"), sparse: false }, millions)?;
    }
    println!(
        "\n| random overwrites of | written per byte | of it copied | space per live byte, at once | after upkeep |\n|---|---|---|---|---|"
    );
    for transfer in [4 << 10, 16 << 10, 128 << 10, 1 << 20] {
        churn(&Place { dir: dir.path().join(format!("churn{transfer}")), sparse: false }, transfer)?;
    }
    Ok(())
}
