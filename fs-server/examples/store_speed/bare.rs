//! A file opened with `O_DIRECT`, read and written by io_uring with several requests under way: the device without Hayate.

use aligned_vec::{AVec, ConstAlign};
use io_uring::{IoUring, opcode, types};
use rustix::fs::OFlags;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

type Memory = AVec<u8, ConstAlign<4096>>;

/// The file, and memory for its requests.
pub struct BareFile {
    file: File,
    ring: IoUring,
    buffers: Vec<Memory>,
}

impl BareFile {
    /// A new file of `bytes`, with room for `depth` requests of up to 1 MiB.
    pub fn new(path: &Path, bytes: u64, depth: usize) -> io::Result<BareFile> {
        let flags = OFlags::DIRECT.bits() as i32;
        let file = File::options().read(true).write(true).create_new(true).custom_flags(flags).open(path)?;
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes)?;
        let buffer = || {
            let mut memory = Memory::with_capacity(0, 1 << 20);
            memory.resize(1 << 20, 0x5a);
            memory
        };
        Ok(BareFile { file, ring: IoUring::new(64)?, buffers: (0..depth).map(|_| buffer()).collect() })
    }

    /// Carries out one request for each position: bytes, and how many at once; written or read.
    pub fn run(
        &mut self,
        mut at: impl Iterator<Item = u64>,
        (len, depth): (u32, usize),
        write: bool,
    ) -> io::Result<()> {
        let mut free: Vec<usize> = (0..depth.min(self.buffers.len())).collect();
        let all = free.len();
        loop {
            while let Some(slot) = free.pop() {
                let Some(offset) = at.next() else {
                    free.push(slot);
                    break;
                };
                self.push(slot, offset, len, write)?;
            }
            if free.len() == all {
                return Ok(());
            }
            self.ring.submit_and_wait(1)?;
            for completion in self.ring.completion() {
                if completion.result() != len as i32 {
                    return Err(io::Error::other(format!("a request ended with {}", completion.result())));
                }
                free.push(completion.user_data() as usize);
            }
        }
    }

    fn push(&mut self, slot: usize, offset: u64, len: u32, write: bool) -> io::Result<()> {
        let (fd, memory) = (types::Fd(self.file.as_raw_fd()), &mut self.buffers[slot]);
        let entry = if write {
            opcode::Write::new(fd, memory.as_ptr(), len).offset(offset).build()
        } else {
            opcode::Read::new(fd, memory.as_mut_ptr(), len).offset(offset).build()
        };
        // SAFETY: the memory belongs to this file and is not used before the request's completion was reaped.
        unsafe { self.ring.submission().push(&entry.user_data(slot as u64)) }.map_err(io::Error::other)
    }

    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}
