//! The disk port: what the store needs of a device, so that tests can put one below it that tears, fails or counts.
//!
//! Adapters: `buffered` (files through the page cache) and `direct` (files past it, with `ring` for requests that must
//! not block). A test's own disk implements the same two traits.

pub(super) mod buffered;
pub(super) mod direct;
pub(super) mod ring;

use super::StoreError;
use super::format::HEADER_BYTES;
use fs_proto::checksum::BLOCK_BYTES;
use std::collections::BTreeSet;
use std::io::{self, IoSlice, IoSliceMut};
use std::sync::Arc;

/// A header that belongs at a byte of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patch {
    /// The byte.
    pub at: u64,
    /// The header.
    pub bytes: [u8; HEADER_BYTES],
}

/// Blocks of a file that the device cannot read, by their first bytes.
pub type Lost = BTreeSet<u64>;

/// A file that has taken the place of another.
pub struct Renewed {
    /// The new file.
    pub file: Arc<dyn SegmentFile>,
    /// What could not be read in the old one: zeros in the new one.
    pub lost: Lost,
}

/// Segment files by number. Shared by threads; calls block for as long as the device needs.
pub trait Disk: Send + Sync {
    /// Numbers of the segment files that are there, ascending.
    fn list(&self) -> io::Result<Vec<u32>>;
    /// Makes the file of a new segment; fails if it is there.
    fn create(&self, id: u32) -> io::Result<Arc<dyn SegmentFile>>;
    /// Opens the file of a segment.
    fn open(&self, id: u32) -> io::Result<Arc<dyn SegmentFile>>;
    /// Puts the first `bytes` of a segment's file into a new one, with `patches` over them, which is synced and takes its place
    /// (see [`copy`]). After an error, or a kill, the old one is there.
    fn renew(&self, id: u32, bytes: u64, patches: &[Patch]) -> io::Result<Renewed>;
    /// Removes the file of a segment; open handles stay readable.
    fn remove(&self, id: u32) -> io::Result<()>;
    /// On return files that were made or removed before stay so after a loss of power.
    fn sync_names(&self) -> io::Result<()>;
    /// Size and free bytes of what holds the files.
    fn space(&self) -> io::Result<(u64, u64)>;
}

/// One open segment file.
pub trait SegmentFile: Send + Sync {
    /// Writes all of `parts`, one after the other, at byte `at`. After an error any part of it may be written.
    fn write_at(&self, parts: &mut [IoSlice<'_>], at: u64) -> io::Result<()>;
    /// Fills `parts` from byte `at`. Returns fewer bytes than they hold only at the end of the file.
    fn read_at(&self, parts: &mut [IoSliceMut<'_>], at: u64) -> io::Result<usize>;
    /// Makes the file `bytes` long, and takes the space where the file system can.
    fn reserve(&self, bytes: u64) -> io::Result<()>;
    /// Cuts the file to `bytes`.
    fn cut(&self, bytes: u64) -> io::Result<()>;
    /// Its length in bytes.
    fn bytes(&self) -> io::Result<u64>;
    /// On return what was written before stays after a loss of power.
    fn sync(&self) -> io::Result<()>;
    /// The file as one that `ring` can read and write, if it is.
    fn direct(self: Arc<Self>) -> Option<Arc<direct::DirectFile>> {
        None
    }
}

/// Bytes that are copied with one call.
const PIECE_BYTES: usize = 1 << 20;

/// Blocks of a file that may be unreadable. With more it is the device that is not well, and what it has must not be taken for lost.
const MOST_LOST: usize = 256;

/// Copies the first `bytes` of a file by reading and writing: what the kernel copies by itself may share the blocks below, which
/// need not have what is read. Then writes `patches`, and syncs. Blocks that cannot be read become zeros, and are returned.
pub fn copy(from: &dyn SegmentFile, to: &dyn SegmentFile, bytes: u64, patches: &[Patch]) -> io::Result<Lost> {
    let (mut buffer, mut at, mut lost) = (direct::Aligned::new(PIECE_BYTES), 0, Lost::new());
    while at < bytes {
        let piece = (bytes - at).min(PIECE_BYTES as u64) as usize;
        read_around(from, &mut buffer[..piece], at, &mut lost)?;
        to.write_at(&mut [IoSlice::new(&buffer[..piece])], at)?;
        at += piece as u64;
    }
    for patch in patches {
        to.write_at(&mut [IoSlice::new(&patch.bytes)], patch.at)?;
    }
    // Direct I/O writes whole blocks.
    to.cut(bytes)?;
    to.sync()?;
    Ok(lost)
}

/// As [`read_padded`], with zeros for blocks that the device cannot read, which are entered into `lost`.
pub(super) fn read_around(
    file: &dyn SegmentFile,
    out: &mut [u8],
    at: u64,
    lost: &mut Lost,
) -> io::Result<()> {
    match read_padded(file, out, at) {
        Err(error) if is_unreadable(&error) => {}
        other => return other,
    }
    let (mut rest, mut at) = (out, at);
    while !rest.is_empty() {
        let len = rest.len().min(BLOCK_BYTES - at as usize % BLOCK_BYTES);
        let (block, behind) = rest.split_at_mut(len);
        match read_padded(file, block, at) {
            Err(error) if is_unreadable(&error) => {
                block.fill(0);
                lost.insert(at - at % BLOCK_BYTES as u64);
            }
            other => other?,
        }
        if lost.len() > MOST_LOST {
            let why =
                "too many blocks of a segment file cannot be read: see what the kernel says of the device";
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        (rest, at) = (behind, at + len as u64);
    }
    Ok(())
}

/// Whether an error says that the device has what was asked for no more, as opposed to a call that failed.
pub(super) fn is_unreadable(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::ENODATA | libc::EILSEQ | libc::EBADMSG))
        || error.kind() == io::ErrorKind::InvalidData
}

/// Fills `out` from `at`, zeros behind the end of the file.
pub(super) fn read_padded(file: &dyn SegmentFile, out: &mut [u8], at: u64) -> io::Result<()> {
    let got = file.read_at(&mut [IoSliceMut::new(out)], at)?;
    out[got..].fill(0);
    Ok(())
}

/// Sorts an I/O error: a full disk is its own case.
pub(super) fn lift(error: io::Error) -> StoreError {
    if is_full(&error) { StoreError::NoSpace } else { StoreError::Io(error) }
}

/// Whether an error says that the file system, or the user's part of it, is full.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
}
