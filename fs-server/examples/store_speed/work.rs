//! The same work on a store and on files.

use crate::Failure;
use crate::bare::BareFile;
use crate::measure::{Round, measure};
use bytes::Bytes;
use fs_net::BufferPool;
use fs_proto::ids::{ChunkIndex, InodeId};
use fs_server::kv::{self, KvKind};
use fs_server::store::{
    self, BlockSums, ChunkKey, ChunkStore, ChunkWrite, Compare, IoMode, LogStore, StoreOptions,
};
use rustix::fs::Advice;
use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use tokio::runtime::LocalRuntime;

const CHUNK_BYTES: usize = 1 << 20;
/// The transfer size of the IO500 benchmark's hard case.
const STRIDED_BYTES: usize = 47_008;
const RANDOM_READS: usize = 100_000;
/// Requests of a mebibyte or of 4 KiB that are under way at once.
const DEPTH: usize = 8;
/// Writers and readers of the strided file, each with one transfer under way.
const STRIDED_DEPTH: usize = 32;

fn depth(len: usize) -> usize {
    if len == STRIDED_BYTES { STRIDED_DEPTH } else { DEPTH }
}

/// How both sides do their I/O.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Buffered,
    Cold,
    Direct,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Buffered => "buffered",
            Kind::Cold => "buffered, cold",
            Kind::Direct => "direct",
        }
    }

    /// Random reads from a cold device take long: fewer of them.
    fn random_reads(self) -> usize {
        if self == Kind::Buffered { RANDOM_READS } else { RANDOM_READS / 10 }
    }
}

/// Two interleaved writers: transfers come in the order 0, 2, 4, ..., 1, 3, 5, ...
fn strided(count: usize) -> impl Iterator<Item = u64> {
    let order = (0..count).step_by(2).chain((1..count).step_by(2));
    order.map(|transfer| (transfer * STRIDED_BYTES) as u64)
}

fn random(bytes: usize, count: usize) -> impl Iterator<Item = u64> {
    let mut state = 1_u64;
    (0..count).map(move |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % (bytes as u64 / 4096) * 4096
    })
}

fn sequential(bytes: usize) -> impl Iterator<Item = u64> {
    (0..bytes as u64).step_by(CHUNK_BYTES)
}

fn mib(bytes: usize) -> f64 {
    bytes as f64 / (1 << 20) as f64
}

/// The five steps in their order: each carries out transfers of so many bytes at these places.
trait Target {
    /// `file` tells the two files of a round apart.
    fn write(&mut self, file: usize, at: &mut dyn Iterator<Item = u64>, len: usize) -> Result<(), Failure>;
    fn read(&mut self, file: usize, at: &mut dyn Iterator<Item = u64>, len: usize) -> Result<(), Failure>;
    /// After writes, and before reads: for the cold mode.
    fn settle(&mut self) -> Result<(), Failure>;
}

/// Touches as much memory as the page cache will take, by what it takes it in: memory that the host of a virtual machine
/// has not backed, or has been given back, costs milliseconds for each MiB at its first touch, and free memory in large
/// pieces is what is given back.
fn warm(dir: &Path, bytes: usize) -> Result<(), Failure> {
    let mut file = tempfile::tempfile_in(dir)?;
    let piece = vec![1; CHUNK_BYTES];
    (0..bytes / CHUNK_BYTES).try_for_each(|_| std::io::Write::write_all(&mut file, &piece))?;
    Ok(())
}

fn round(target: &mut dyn Target, dir: &Path, kind: Kind, bytes: usize) -> Result<Round, Failure> {
    let transfers = bytes / STRIDED_BYTES;
    let strides = mib(transfers * STRIDED_BYTES);
    let reads = kind.random_reads();
    let mut out = Round::default();
    warm(dir, bytes)?;
    out[0] = measure(mib(bytes), || target.write(0, &mut sequential(bytes), CHUNK_BYTES))?;
    target.settle()?;
    warm(dir, bytes)?;
    out[1] = measure(mib(bytes), || target.read(0, &mut sequential(bytes), CHUNK_BYTES))?;
    warm(dir, bytes)?;
    out[2] = measure(strides, || target.write(1, &mut strided(transfers), STRIDED_BYTES))?;
    target.settle()?;
    warm(dir, bytes)?;
    out[3] = measure(strides, || target.read(1, &mut strided(transfers), STRIDED_BYTES))?;
    target.settle()?;
    warm(dir, bytes)?;
    out[4] = measure(reads as f64 / 1e3, || target.read(0, &mut random(bytes, reads), 4096))?;
    Ok(out)
}

pub fn of_store(kind: Kind, dir: &Path, bytes: usize) -> Result<Round, Failure> {
    let kv = kv::open(KvKind::default(), &dir.join("kv"), 32 << 20)?;
    let io = if kind == Kind::Direct { IoMode::Direct } else { IoMode::Buffered };
    let store = store::open(&dir.join("chunks"), kv, StoreOptions { io, ..StoreOptions::default() })?;
    let data: Vec<u8> = (0..CHUNK_BYTES).map(|i| (i * 31 + i / 251) as u8).collect();
    let worker =
        Worker { store: store.clone(), runtime: LocalRuntime::new()?, pool: BufferPool::new(64 << 20), data };
    let out = if kind == Kind::Direct {
        round(&mut DirectStore(worker), dir, kind, bytes)?
    } else {
        let chunks = dir.join("chunks");
        let mut store = BufferedStore { worker, kind, dir: chunks };
        round(&mut store, dir, kind, bytes)?
    };
    store.remove(&[InodeId(1), InodeId(2)])?;
    // Neither side writes back what the other has left behind.
    store.compact()?;
    store.sync()?;
    Ok(out)
}

/// The parts of a range by chunk: index, offset in the chunk, range in the buffer.
fn parts(offset: u64, len: usize) -> impl Iterator<Item = (ChunkIndex, u32, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let within = (at % CHUNK_BYTES as u64) as usize;
        let part = done..len.min(done + CHUNK_BYTES - within);
        done = part.end;
        (!part.is_empty()).then_some((ChunkIndex(at / CHUNK_BYTES as u64), within as u32, part))
    })
}

fn ino(file: usize) -> InodeId {
    InodeId(file as u64 + 1)
}

struct BufferedStore {
    worker: Worker,
    kind: Kind,
    dir: std::path::PathBuf,
}

impl Target for BufferedStore {
    fn write(&mut self, file: usize, at: &mut dyn Iterator<Item = u64>, len: usize) -> Result<(), Failure> {
        self.worker.write(file, at, len)
    }

    fn read(&mut self, file: usize, at: &mut dyn Iterator<Item = u64>, len: usize) -> Result<(), Failure> {
        self.worker.read(file, at, len)
    }

    fn settle(&mut self) -> Result<(), Failure> {
        if self.kind == Kind::Cold {
            self.worker.store.sync()?;
            for entry in std::fs::read_dir(&self.dir)? {
                forget(&File::open(entry?.path())?)?;
            }
        }
        Ok(())
    }
}

/// Drops a file from the page cache.
fn forget(file: &File) -> Result<(), Failure> {
    Ok(rustix::fs::fadvise(file, 0, None, Advice::DontNeed)?)
}

/// Requests as a worker thread of a server has them: several under way.
struct Worker {
    store: Arc<LogStore>,
    runtime: LocalRuntime,
    pool: BufferPool,
    data: Vec<u8>,
}

impl Worker {
    /// Carries out the transfers, each by whichever of several tasks is done with the one before, as clients that have one request under way each.
    fn run<F>(
        &mut self,
        at: &mut dyn Iterator<Item = u64>,
        len: usize,
        start: impl Fn(ChunkKey, u32, std::ops::Range<usize>) -> F + 'static,
        file: usize,
    ) -> Result<(), Failure>
    where
        F: Future<Output = Result<(), String>> + 'static,
    {
        let pieces: Vec<_> = at.flat_map(|offset| parts(offset, len)).collect();
        let shared = Rc::new((RefCell::new(pieces.into_iter()), start));
        let tasks: Vec<_> = (0..depth(len))
            .map(|_| {
                let shared = Rc::clone(&shared);
                self.runtime.spawn_local(async move {
                    let (pieces, start) = &*shared;
                    loop {
                        let Some((chunk, begin, part)) = pieces.borrow_mut().next() else {
                            return Ok::<(), String>(());
                        };
                        start(ChunkKey { ino: ino(file), chunk }, begin, part).await?;
                    }
                })
            })
            .collect();
        tasks.into_iter().try_for_each(|task| Ok::<_, Failure>(self.runtime.block_on(task)??))
    }

    fn write(&mut self, file: usize, at: &mut dyn Iterator<Item = u64>, len: usize) -> Result<(), Failure> {
        let (store, pool) = (self.store.clone(), self.pool.clone());
        // As it comes from a connection: in a buffer of the pool.
        let mut buffer = pool.try_get(self.data.len()).ok_or("no buffer")?;
        buffer.copy_from_slice(&self.data);
        let data = buffer.freeze();
        let start = move |key, offset, part: std::ops::Range<usize>| {
            let (store, data): (_, Bytes) = (store.clone(), data.slice(0..part.len()));
            async move {
                let sums = BlockSums::of(offset, &data);
                store.write_bytes(ChunkWrite { key, offset, data, sums }).await.map_err(|e| e.to_string())
            }
        };
        self.run(at, len, start, file)
    }

    /// As for a client, which compares what it gets.
    fn read(&mut self, file: usize, at: &mut dyn Iterator<Item = u64>, len: usize) -> Result<(), Failure> {
        let (store, pool) = (self.store.clone(), self.pool.clone());
        let start = move |key, begin, part: std::ops::Range<usize>| {
            let (store, pool) = (store.clone(), pool.clone());
            async move {
                let buffer = pool.get(part.len()).await.map_err(|e| e.to_string())?;
                let read = store.read_buffer(key, begin, part.len(), buffer, Compare::ByReader).await;
                let got = read.map_err(|e| e.to_string())?.data.len();
                if got == part.len() { Ok(()) } else { Err("short read".to_owned()) }
            }
        };
        self.run(at, len, start, file)
    }
}

struct DirectStore(Worker);

impl Target for DirectStore {
    fn write(&mut self, file: usize, at: &mut dyn Iterator<Item = u64>, len: usize) -> Result<(), Failure> {
        self.0.write(file, at, len)
    }

    fn read(&mut self, file: usize, at: &mut dyn Iterator<Item = u64>, len: usize) -> Result<(), Failure> {
        self.0.read(file, at, len)
    }

    fn settle(&mut self) -> Result<(), Failure> {
        Ok(self.0.store.sync()?)
    }
}

pub fn of_files(kind: Kind, dir: &Path, bytes: usize) -> Result<Round, Failure> {
    std::fs::create_dir_all(dir)?;
    let paths = ["a", "b"].map(|name| dir.join(name));
    let out = if kind == Kind::Direct {
        let new = |path| BareFile::new(path, bytes as u64 + (1 << 20), STRIDED_DEPTH);
        round(&mut DirectFiles([new(&paths[0])?, new(&paths[1])?]), dir, kind, bytes)?
    } else {
        let open = |path| File::options().read(true).write(true).create_new(true).open(path);
        let files = [open(&paths[0])?, open(&paths[1])?];
        let data: Vec<u8> = (0..CHUNK_BYTES).map(|i| (i * 31 + i / 251) as u8).collect();
        round(&mut PlainFiles { files, data, out: vec![0; CHUNK_BYTES], kind }, dir, kind, bytes)?
    };
    paths.iter().try_for_each(std::fs::remove_file)?;
    Ok(out)
}

struct PlainFiles {
    files: [File; 2],
    data: Vec<u8>,
    out: Vec<u8>,
    kind: Kind,
}

impl Target for PlainFiles {
    fn write(&mut self, file: usize, at: &mut dyn Iterator<Item = u64>, len: usize) -> Result<(), Failure> {
        for offset in at {
            self.files[file].write_all_at(&self.data[..len], offset)?;
        }
        Ok(())
    }

    fn read(&mut self, file: usize, at: &mut dyn Iterator<Item = u64>, len: usize) -> Result<(), Failure> {
        for offset in at {
            self.files[file].read_exact_at(&mut self.out[..len], offset)?;
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<(), Failure> {
        if self.kind == Kind::Cold {
            for file in &self.files {
                file.sync_data()?;
                forget(file)?;
            }
        }
        Ok(())
    }
}

struct DirectFiles([BareFile; 2]);

impl DirectFiles {
    fn run(
        &mut self,
        file: usize,
        at: &mut dyn Iterator<Item = u64>,
        len: usize,
        write: bool,
    ) -> Result<(), Failure> {
        // What is not aligned cannot be asked of the device: the blocks around it are, which is less than a program would
        // have to do that keeps what is beside it.
        let request = (len.next_multiple_of(4096) as u32, depth(len));
        Ok(self.0[file].run(at.map(|offset| offset / 4096 * 4096), request, write)?)
    }
}

impl Target for DirectFiles {
    fn write(&mut self, file: usize, at: &mut dyn Iterator<Item = u64>, len: usize) -> Result<(), Failure> {
        self.run(file, at, len, true)
    }

    fn read(&mut self, file: usize, at: &mut dyn Iterator<Item = u64>, len: usize) -> Result<(), Failure> {
        self.run(file, at, len, false)
    }

    fn settle(&mut self) -> Result<(), Failure> {
        self.0.iter().try_for_each(|file| Ok(file.sync()?))
    }
}
