//! A staged file that is being written. On Lustre large pieces go past the page cache: they are not copied, take no memory of the job, and are with
//! the tier's servers when the call returns. Elsewhere all goes through the cache.
//!
//! # Invariants
//! - What is not aligned, or what the file system does not take past the cache, goes through it (`what_does_not_go_past_the_cache_goes_through_it`).
//! - One descriptor of each kind is open for as long as the file is written (`tests/flush`: `a_large_file_goes_to_lustre_in_parts_one_server_an_object`).

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use rustix::fs::{self, OFlags};
use rustix::io::{self, Errno};

use super::lustre::Calls;
use super::{failed, fd};
use crate::tier::{Place, TierFile, TierResult};

/// What direct I/O wants of place, length and memory: a page. Where pages are larger it is refused, and the cache is used.
const ALIGN: usize = 4096;
/// Fewer bytes go through the cache: Lustre sends requests of 1 to 4 MiB, and gathers smaller ones there.
const DIRECT_MIN: usize = 1 << 20;
/// Most bytes of one call to a file system of this machine: page caches take folios as large as the write, of which a virtual machine often has none that its host has
/// backed, and `cp` writes no more (docs/performance.md).
const LOCAL_MAX: usize = 64 << 10;

/// The file.
pub struct PosixFile {
    file: OwnedFd,
    at: Place,
    /// Most bytes of one call.
    most: usize,
    /// On Lustre.
    lustre: Option<Direct>,
}

struct Direct {
    calls: Arc<dyn Calls>,
    /// None if it cannot be opened so.
    file: OnceLock<Option<OwnedFd>>,
    is_refused: AtomicBool,
}

impl PosixFile {
    /// A file that is open, on another machine's file system or this one's, and how it is written if it is on Lustre.
    pub fn new(file: OwnedFd, at: &Place, is_remote: bool, lustre: Option<Arc<dyn Calls>>) -> Self {
        let direct = |calls| Direct { calls, file: OnceLock::new(), is_refused: AtomicBool::new(false) };
        let most = if is_remote { usize::MAX } else { LOCAL_MAX };
        PosixFile { file, at: at.clone(), most, lustre: lustre.map(direct) }
    }

    /// The descriptor.
    pub fn into_fd(self) -> OwnedFd {
        self.file
    }

    fn write_some(&self, offset: u64, data: &[u8]) -> io::Result<usize> {
        let Some(lustre) = &self.lustre else {
            return io::pwrite(&self.file, &data[..data.len().min(self.most)], offset);
        };
        if let Some(file) = lustre.for_piece(&self.at, offset, data) {
            match lustre.calls.write(file, data, offset, true) {
                Err(Errno::INVAL) => lustre.is_refused.store(true, Ordering::Relaxed),
                outcome => return outcome,
            }
        }
        lustre.calls.write(&self.file, data, offset, false)
    }
}

impl Direct {
    /// The descriptor for a piece that can go past the cache.
    fn for_piece(&self, at: &Place, offset: u64, data: &[u8]) -> Option<&OwnedFd> {
        let is_aligned = offset.is_multiple_of(ALIGN as u64)
            && data.len().is_multiple_of(ALIGN)
            && data.as_ptr().addr().is_multiple_of(ALIGN);
        if data.len() < DIRECT_MIN || !is_aligned || self.is_refused.load(Ordering::Relaxed) {
            return None;
        }
        let open = || {
            let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::DIRECT;
            self.calls.open(fd(&at.dir).ok()?, &at.name, flags).ok()
        };
        self.file.get_or_init(open).as_ref()
    }
}

impl TierFile for PosixFile {
    fn write_at(&self, mut offset: u64, mut data: &[u8]) -> TierResult<()> {
        while !data.is_empty() {
            match self.write_some(offset, data) {
                Ok(0) => return Err(failed("write", &self.at.name, Errno::NOSPC)),
                Ok(written) => {
                    data = &data[written..];
                    offset += written as u64;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(failed("write", &self.at.name, error)),
            }
        }
        Ok(())
    }

    fn sync(&self) -> TierResult<()> {
        fs::fsync(&self.file).map_err(|error| failed("sync", &self.at.name, error))
    }

    fn receipt(&self) -> Bytes {
        Bytes::new()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Posix;
    use super::super::lustre::{Kernel, LUSTRE};
    use super::*;
    use crate::config::ServerConfig;
    use crate::tier::{Base, Make, Tier};
    use fs_net::{BufferPool, Secret};
    use fs_proto::ServerId;
    use parking_lot::Mutex;
    use rustix::fs::Mode;

    const MIB: usize = 1 << 20;

    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Direct {
        Works,
        CannotBeOpened,
        RefusesWrites,
    }

    /// A Lustre whose files are on any file system.
    struct Fake {
        direct: Direct,
        writes: Mutex<Vec<(u64, usize, bool)>>,
        opened: Mutex<u32>,
    }

    impl Calls for Fake {
        fn fs_type(&self, _: &OwnedFd) -> io::Result<u64> {
            Ok(LUSTRE)
        }
        fn create(&self, dir: &OwnedFd, name: &[u8], flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
            Kernel.create(dir, name, flags, mode)
        }
        fn set(&self, _: &OwnedFd, _: &[u8]) -> io::Result<()> {
            Err(Errno::ACCESS)
        }
        fn get(&self, _: &OwnedFd, _: &mut [u8]) -> io::Result<usize> {
            Err(Errno::NODATA)
        }
        fn open(&self, dir: &OwnedFd, name: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
            if flags.contains(OFlags::DIRECT) {
                *self.opened.lock() += 1;
                if self.direct == Direct::CannotBeOpened {
                    return Err(Errno::INVAL);
                }
            }
            Kernel.open(dir, name, flags.difference(OFlags::DIRECT))
        }
        fn write(&self, file: &OwnedFd, data: &[u8], offset: u64, is_direct: bool) -> io::Result<usize> {
            if is_direct && self.direct == Direct::RefusesWrites {
                return Err(Errno::INVAL);
            }
            self.writes.lock().push((offset, data.len(), is_direct));
            Kernel.write(file, data, offset, is_direct)
        }
    }

    /// Writes pieces of all kinds; returns how each was written, and how often the file was opened for direct writes.
    fn written(direct: Direct) -> (Vec<(u64, usize, bool)>, u32) {
        let dir = tempfile::tempdir().unwrap();
        let config =
            ServerConfig::new(ServerId(3), "job".to_owned(), Secret::from_raw([1; 32]), "/none".into());
        let fake = Arc::new(Fake { direct, writes: Mutex::default(), opened: Mutex::new(0) });
        let tier = Posix::open_with(dir.path(), &config, fake.clone()).unwrap();
        let at = Place::new(&tier.base(Base::Root).unwrap(), &Bytes::from_static(b"f"));
        tier.make(&at, &Make::File { size: 9 << 20, to: None }).unwrap();
        let file = tier.open_file(&at).unwrap();
        let mut buffer = BufferPool::new(16 * MIB).try_get(2 * MIB).unwrap();
        buffer.iter_mut().enumerate().for_each(|(index, byte)| *byte = (index / 7) as u8 | 1);
        let pieces = [
            (0, 0..2 * MIB),
            (2 * MIB + 100, 0..MIB),
            (4 * MIB, 8..MIB + 8),
            (6 * MIB, 0..4096),
            (7 * MIB, 0..MIB + 5),
        ];
        let mut expected = vec![0; 9 * MIB];
        for (offset, range) in pieces {
            file.write_at(offset as u64, &buffer[range.clone()]).unwrap();
            expected[offset..offset + range.len()].copy_from_slice(&buffer[range]);
        }
        file.sync().unwrap();
        assert!(std::fs::read(dir.path().join("f")).unwrap() == expected);
        let writes = fake.writes.lock().clone();
        (writes, *fake.opened.lock())
    }

    #[test]
    fn what_does_not_go_past_the_cache_goes_through_it() {
        // Goal: only what is large and aligned in place, length and memory is written directly; where that is not possible, all goes through the cache,
        // and is right. Method: pieces of each kind, and file systems that refuse to open or to write so.
        let through = |is_direct| {
            let pieces = [(0, 2 * MIB, is_direct), (2 * MIB + 100, MIB, false), (4 * MIB, MIB, false)];
            let small = [(6 * MIB, 4096, false), (7 * MIB, MIB + 5, false)];
            let all = pieces.into_iter().chain(small);
            all.map(|(offset, len, direct)| (offset as u64, len, direct)).collect::<Vec<_>>()
        };
        assert_eq!(written(Direct::Works), (through(true), 1));
        assert_eq!(written(Direct::CannotBeOpened), (through(false), 1));
        assert_eq!(written(Direct::RefusesWrites), (through(false), 1));
    }
}
