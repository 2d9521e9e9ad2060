//! Segment files past the page cache (`O_DIRECT`): they take no memory from the job, and cost a fraction of the CPU time.
//!
//! These calls block; requests of the workers go through `ring` instead. Whatever is not aligned goes through an aligned
//! buffer, and a write that does not cover its blocks reads them first: only repairs at an opening are like that.

use super::buffered::{self, path_of};
use super::{Disk, Patch, Renewed, SegmentFile};
use aligned_vec::{AVec, ConstAlign};
use fs_proto::checksum::BLOCK_BYTES;
use rustix::fs::OFlags;
use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What positions, lengths and memory are multiples of. Devices with smaller blocks gain nothing by less: file systems
/// would have to fill up their own blocks.
pub(in super::super) const ALIGN: u64 = BLOCK_BYTES as u64;
/// Bytes of buffers that a thread keeps for its next I/O.
const SPARE_BYTES: usize = 8 << 20;

type Memory = AVec<u8, ConstAlign<BLOCK_BYTES>>;

thread_local! {
    static SPARE: RefCell<Vec<Memory>> = const { RefCell::new(Vec::new()) };
}

/// Aligned memory, used again by its thread.
pub(in super::super) struct Aligned {
    /// All of it was written to before: no use has to fill it.
    memory: Memory,
    bytes: usize,
}

impl Aligned {
    /// `bytes` of memory with any content; a multiple of [`ALIGN`].
    pub fn new(bytes: usize) -> Self {
        let bytes = bytes.next_multiple_of(BLOCK_BYTES);
        let found = SPARE.with_borrow_mut(|spare| {
            // The latest that is large enough, but not so large that others would miss it.
            let fits = |memory: &Memory| (bytes..=4 * bytes).contains(&memory.len());
            spare.iter().rposition(fits).map(|at| spare.remove(at))
        });
        let memory = found.unwrap_or_else(|| {
            let room = bytes.next_power_of_two();
            let mut memory = AVec::with_capacity(0, room);
            memory.resize(room, 0);
            memory
        });
        Aligned { memory, bytes }
    }
}

impl Drop for Aligned {
    fn drop(&mut self) {
        let memory = std::mem::replace(&mut self.memory, AVec::new(0));
        if memory.len() > SPARE_BYTES {
            return;
        }
        // A thread that ends has no spare list any more.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            let mut held: usize = spare.iter().map(AVec::len).sum();
            // What was not used for longest goes: else buffers of a size that nobody asks for any more would keep all others from being kept,
            // and each of those would be made of new pages.
            while held + memory.len() > SPARE_BYTES {
                held -= spare.remove(0).len();
            }
            spare.push(memory);
        });
    }
}

impl std::ops::Deref for Aligned {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.memory[..self.bytes]
    }
}

impl std::ops::DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[..self.bytes]
    }
}

/// Whether memory may be given to the device as it is.
pub(in super::super) fn is_aligned(memory: &[u8]) -> bool {
    (memory.as_ptr() as usize).is_multiple_of(BLOCK_BYTES)
}

/// Segment files in a directory, opened for direct I/O.
pub(in super::super) struct DirectDisk {
    dir: PathBuf,
}

impl DirectDisk {
    /// A disk in `dir`, if its file system takes direct I/O; else why not.
    pub fn new(dir: &Path) -> io::Result<Self> {
        let disk = DirectDisk { dir: dir.to_owned() };
        let probe = dir.join("direct-probe");
        let tried = disk.probe(&probe);
        match std::fs::remove_file(&probe) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        tried.map(|()| disk)
    }

    fn probe(&self, path: &Path) -> io::Result<()> {
        let file = DirectFile(options().create(true).truncate(true).open(path)?);
        let mut block = Aligned::new(BLOCK_BYTES);
        block.fill(0x5a);
        file.write_at(&mut [IoSlice::new(&block)], 0)?;
        file.read_at(&mut [IoSliceMut::new(&mut block)], 0).map(drop)
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags((OFlags::DIRECT | OFlags::NOATIME).bits() as i32);
    options
}

impl Disk for DirectDisk {
    fn list(&self) -> io::Result<Vec<u32>> {
        buffered::list(&self.dir)
    }

    fn create(&self, id: u32) -> io::Result<Arc<dyn SegmentFile>> {
        Ok(Arc::new(DirectFile(options().create_new(true).open(path_of(&self.dir, id))?)))
    }

    fn open(&self, id: u32) -> io::Result<Arc<dyn SegmentFile>> {
        Ok(Arc::new(DirectFile(options().open(path_of(&self.dir, id))?)))
    }

    fn renew(&self, id: u32, bytes: u64, patches: &[Patch]) -> io::Result<Renewed> {
        let made = options().create(true).truncate(true).open(buffered::next_path_of(&self.dir, id))?;
        buffered::put_in_place(&self.dir, id, &*self.open(id)?, Arc::new(DirectFile(made)), bytes, patches)
    }

    fn remove(&self, id: u32) -> io::Result<()> {
        std::fs::remove_file(path_of(&self.dir, id))
    }

    fn sync_names(&self) -> io::Result<()> {
        buffered::sync_dir(&self.dir)
    }

    fn space(&self) -> io::Result<(u64, u64)> {
        buffered::space(&self.dir)
    }
}

/// An open segment file.
pub struct DirectFile(pub(super) File);

/// The blocks that cover `len` bytes from `at`: first byte, and number of bytes.
pub(in super::super) fn blocks(at: u64, len: usize) -> (u64, usize) {
    let begin = at / ALIGN * ALIGN;
    let end = (at + len as u64).next_multiple_of(ALIGN);
    (begin, (end - begin) as usize)
}

impl DirectFile {
    fn read_blocks(&self, begin: u64, bytes: usize) -> io::Result<(Aligned, usize)> {
        let mut buffer = Aligned::new(bytes);
        let got = SegmentFile::read_at(&self.0, &mut [IoSliceMut::new(&mut buffer)], begin)?;
        Ok((buffer, got))
    }
}

impl SegmentFile for DirectFile {
    fn write_at(&self, parts: &mut [IoSlice<'_>], at: u64) -> io::Result<()> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let (begin, bytes) = blocks(at, len);
        let mut buffer = if (begin, bytes) == (at, len) {
            Aligned::new(bytes)
        } else {
            let (mut old, got) = self.read_blocks(begin, bytes)?;
            old[got..].fill(0);
            old
        };
        let mut to = (at - begin) as usize;
        for part in parts.iter() {
            buffer[to..to + part.len()].copy_from_slice(part);
            to += part.len();
        }
        SegmentFile::write_at(&self.0, &mut [IoSlice::new(&buffer)], begin)
    }

    fn read_at(&self, parts: &mut [IoSliceMut<'_>], at: u64) -> io::Result<usize> {
        if let [one] = parts
            && is_aligned(one)
            && blocks(at, one.len()) == (at, one.len())
        {
            return SegmentFile::read_at(&self.0, parts, at);
        }
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let (begin, bytes) = blocks(at, len);
        let (buffer, got) = self.read_blocks(begin, bytes)?;
        let mut from = &buffer[((at - begin) as usize).min(got)..got];
        let mut total = 0;
        for part in parts {
            let here = part.len().min(from.len());
            part[..here].copy_from_slice(&from[..here]);
            from = &from[here..];
            total += here;
        }
        Ok(total)
    }

    fn reserve(&self, bytes: u64) -> io::Result<()> {
        self.0.reserve(bytes)
    }

    fn cut(&self, bytes: u64) -> io::Result<()> {
        self.0.cut(bytes)
    }

    fn bytes(&self) -> io::Result<u64> {
        self.0.bytes()
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn direct(self: Arc<Self>) -> Option<Arc<DirectFile>> {
        Some(self)
    }
}
