//! Segment files through the page cache: plain positioned system calls.

use super::{Disk, Patch, Renewed, SegmentFile};
use rustix::fs::{FallocateFlags, OFlags};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Segment files in a directory.
pub(in super::super) struct BufferedDisk {
    dir: PathBuf,
}

impl BufferedDisk {
    pub fn new(dir: &Path) -> Self {
        BufferedDisk { dir: dir.to_owned() }
    }
}

/// For reading and writing. Nobody looks at access times of segments.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(OFlags::NOATIME.bits() as i32);
    options
}

/// The file of segment `id` in `dir`.
pub(in super::super) fn path_of(dir: &Path, id: u32) -> PathBuf {
    dir.join(format!("{id:08x}.seg"))
}

/// The file that is to take the place of segment `id` in `dir`.
pub(in super::super) fn next_path_of(dir: &Path, id: u32) -> PathBuf {
    dir.join(format!("{id:08x}.new"))
}

/// Copies a segment's file into `file`, which was made under its next name, and puts that in its place.
pub(in super::super) fn put_in_place(
    dir: &Path,
    id: u32,
    from: &dyn SegmentFile,
    file: Arc<dyn SegmentFile>,
    bytes: u64,
    patches: &[Patch],
) -> io::Result<Renewed> {
    let next = next_path_of(dir, id);
    let renewed = super::copy(from, &*file, bytes, patches)
        .and_then(|lost| std::fs::rename(&next, path_of(dir, id)).map(|()| lost));
    // Half a copy would hold the space that another try needs. Should it stay, then that overwrites it.
    let lost = renewed.inspect_err(|_| drop(std::fs::remove_file(&next)))?;
    Ok(Renewed { file, lost })
}

/// Numbers of the segment files in `dir`, ascending.
pub(in super::super) fn list(dir: &Path) -> io::Result<Vec<u32>> {
    let mut ids = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name();
        let digits = name.to_str().and_then(|n| n.strip_suffix(".seg")).filter(|d| d.len() == 8);
        ids.extend(digits.and_then(|d| u32::from_str_radix(d, 16).ok()));
    }
    ids.sort_unstable();
    Ok(ids)
}

/// Makes names that were created or removed in `dir` durable.
pub(in super::super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Size and free bytes of the file system that holds `dir`.
pub(in super::super) fn space(dir: &Path) -> io::Result<(u64, u64)> {
    let info = rustix::fs::statvfs(dir)?;
    Ok((info.f_blocks * info.f_frsize, info.f_bavail * info.f_frsize))
}

/// Takes space for the first `bytes` of a file. File systems without that are left to fail at the write.
pub(in super::super) fn preallocate(file: &File, bytes: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        other => Ok(other?),
    }
}

impl Disk for BufferedDisk {
    fn list(&self) -> io::Result<Vec<u32>> {
        list(&self.dir)
    }

    fn create(&self, id: u32) -> io::Result<Arc<dyn SegmentFile>> {
        Ok(Arc::new(options().create_new(true).open(path_of(&self.dir, id))?))
    }

    fn open(&self, id: u32) -> io::Result<Arc<dyn SegmentFile>> {
        Ok(Arc::new(options().open(path_of(&self.dir, id))?))
    }

    fn renew(&self, id: u32, bytes: u64, patches: &[Patch]) -> io::Result<Renewed> {
        let made = options().create(true).truncate(true).open(next_path_of(&self.dir, id))?;
        put_in_place(&self.dir, id, &*self.open(id)?, Arc::new(made), bytes, patches)
    }

    fn remove(&self, id: u32) -> io::Result<()> {
        std::fs::remove_file(path_of(&self.dir, id))
    }

    fn sync_names(&self) -> io::Result<()> {
        sync_dir(&self.dir)
    }

    fn space(&self) -> io::Result<(u64, u64)> {
        space(&self.dir)
    }
}

impl SegmentFile for File {
    /// One `pwritev`, more only if the kernel takes part of it.
    fn write_at(&self, parts: &mut [IoSlice<'_>], mut at: u64) -> io::Result<()> {
        let mut left = parts;
        while !left.is_empty() {
            match rustix::io::pwritev(self, left, at) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    at += written as u64;
                    IoSlice::advance_slices(&mut left, written);
                }
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    fn read_at(&self, parts: &mut [IoSliceMut<'_>], mut at: u64) -> io::Result<usize> {
        let (mut left, mut total) = (parts, 0);
        while !left.is_empty() {
            // The kernel takes a single buffer for a tenth less than a list of one.
            let read = match &mut *left {
                [one] => rustix::io::pread(self, &mut **one, at),
                many => rustix::io::preadv(self, many, at),
            };
            match read {
                Ok(0) => break,
                Ok(got) => {
                    at += got as u64;
                    total += got;
                    IoSliceMut::advance_slices(&mut left, got);
                }
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(total)
    }

    fn reserve(&self, bytes: u64) -> io::Result<()> {
        preallocate(self, bytes)
    }

    fn cut(&self, bytes: u64) -> io::Result<()> {
        Ok(rustix::fs::ftruncate(self, bytes)?)
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fdatasync(self)?)
    }
}
