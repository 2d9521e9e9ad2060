//! Operations on open files.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bytes::Bytes;
use fs_client::{Attr, Bring, Caller, File, InodeId, LockFamily, LockRange, Status};
use fuser::{Errno, FileHandle, FopenFlags, INodeNo, WriteFlags};
use parking_lot::Mutex;

use super::past::{Opening, Served};
use super::{Adapter, Backing, ContentStamp, Emptied, OpenFile};
use crate::failure::Outcome;
use crate::open_inodes::Present;
use crate::passing::SECOND_ATTEMPT;
use crate::translate::{
    Allocation, allocation, file_range, fopen_flags, held_back, is_direct, name_bytes, open_flags,
    without_privileges,
};

/// Bytes of one copy_file_range(2) at most: its caller waits, and cannot be interrupted, as long as this takes.
const COPY_MAX: u64 = 128 << 20;

/// An opening, as the kernel is told about it.
pub(super) struct Opened {
    pub(super) handle: FileHandle,
    pub(super) flags: FopenFlags,
    /// What the kernel reads, or maps, by itself.
    pub(super) copy: Option<Backing>,
}

impl Adapter {
    pub(super) fn open_file(&self, who: &Caller, opening: &Opening<'_>) -> Outcome<Opened> {
        let (ino, node) = (self.inode(INodeNo(opening.node)), opening.node);
        let flags = self.served_flags(opening.flags);
        let mut how = open_flags(flags);
        let cuts = std::mem::take(&mut how.truncate); // Not before it is known that this is what the name stands for.
        let (present, alone) = self.inodes.enter(ino.0);
        let file = self.client.open_bringing(who, ino, how, self.wanted_content(node, flags))?;
        // With others the client has not asked the home, and close-to-open wants to know what is there now.
        let mut attr = if alone { file.known_attr() } else { file.attr()? };
        if attr.nlink == 0 && (alone || self.is_first_attempt(ino)) {
            return Err(Errno::from_i32(libc::ESTALE).into());
        }
        let served = self.served(opening, &attr)?;
        if without_privileges(attr.mode).is_some() {
            self.inodes.suspect(ino.0);
        }
        if cuts {
            file.set_len(0)?;
            if who.uid != 0 {
                self.drop_privileges(&file)?;
            }
            attr = file.known_attr();
        }
        Ok(self.admit(file, present, &attr, flags, served))
    }

    /// An inode without names is opened by a name in the kernel's cache that another node removed, or by /proc/self/fd of an open file, and
    /// nothing tells which. `ESTALE` makes the kernel look the name up again, and come again if there is none to look up.
    fn is_first_attempt(&self, ino: InodeId) -> bool {
        let mut nameless = self.nameless.lock();
        if nameless.get(ino.0).is_some_and(|when| when.elapsed() < SECOND_ATTEMPT) {
            nameless.forget(ino.0);
            return false;
        }
        nameless.put(ino.0, Instant::now());
        true
    }

    /// The flags that an opening is served by.
    fn served_flags(&self, flags: i32) -> i32 {
        if self.writeback { held_back(flags) } else { flags }
    }

    /// Of a small file the first read of the page cache costs no message, and none at all if the cache has this content.
    fn wanted_content(&self, node: u64, flags: i32) -> Bring {
        if is_direct(flags, self.direct_io) {
            return Bring::Nothing;
        }
        self.cached.lock().get(node).map_or(Bring::Content, |stamp| Bring::Unless(stamp.version))
    }

    /// Makes and opens a file. The kernel asks for this after a look-up that found nothing. If the file is there after all,
    /// another node was faster, and nobody has checked its permissions: `ESTALE` makes the kernel look again and open it in
    /// the ordinary way.
    pub(super) fn create_file(
        &self,
        who: &Caller,
        parent: InodeId,
        name: &OsStr,
        mode: u32,
        flags: i32,
    ) -> Outcome<(Attr, Opened)> {
        let flags = self.served_flags(flags);
        let mut how = open_flags(flags);
        how.truncate = false; // A new file is empty.
        let made = self.client.create_open(who, parent, name_bytes(name)?, mode, how, true);
        let file = match made {
            Ok((file, _fresh)) => file,
            Err(e) if e.code() == Some(Status::Exists) && flags & libc::O_EXCL == 0 => {
                return Err(Errno::from_i32(libc::ESTALE).into());
            }
            Err(e) => return Err(e.into()),
        };
        Ok(self.admit_new(file, flags))
    }

    /// Makes and opens a file without a name.
    pub(super) fn create_nameless(
        &self,
        who: &Caller,
        parent: InodeId,
        mode: u32,
        flags: i32,
    ) -> Outcome<(Attr, Opened)> {
        let flags = self.served_flags(flags);
        let file = self.client.create_nameless(who, parent, mode, open_flags(flags))?;
        Ok(self.admit_new(file, flags))
    }

    fn admit_new(&self, file: File, flags: i32) -> (Attr, Opened) {
        let attr = file.known_attr();
        let (present, _) = self.inodes.enter(attr.ino.0);
        self.note_incapable(attr.ino);
        let opened = self.admit(file, present, &attr, flags, self.newly_served(attr.ino));
        (attr, opened)
    }

    /// Enters an opened file into the table; decides about its cached pages. `attr`: as of the opening.
    fn admit(&self, file: File, present: Present, attr: &Attr, flags: i32, served: Served) -> Opened {
        let Served { seat, copy, is_read_here } = served;
        let stamp = ContentStamp::of(attr);
        let keep_cache = self.cached.lock().get(seat.node()) == Some(stamp);
        // Of what is read past the cache, nothing is known of the cache.
        let emptied = Emptied { for_content: stamp, known: AtomicBool::new(keep_cache || copy.is_some()) };
        let direct = copy.is_some() || is_direct(flags, self.direct_io);
        let answer = match &copy {
            None => fopen_flags(flags, self.direct_io, keep_cache),
            Some(_) if is_read_here => FopenFlags::FOPEN_DIRECT_IO,
            Some(_) => FopenFlags::empty(),
        };
        let lockers = Mutex::default();
        let handle =
            FileHandle(self.files.insert(OpenFile { file, direct, lockers, emptied, present, seat }));
        Opened { handle, flags: answer, copy }
    }

    /// A call by this descriptor shows that the kernel has taken the answer to its opening. It has emptied the cache then, so that others who
    /// open this content may keep what is in it.
    fn note_emptied(&self, open: &OpenFile) {
        if !open.emptied.known.load(Ordering::Relaxed) && !open.emptied.known.swap(true, Ordering::Relaxed) {
            self.cached.lock().put(open.node(), open.emptied.for_content);
        }
    }

    fn opened(&self, handle: FileHandle) -> Outcome<Arc<OpenFile>> {
        Ok(self.files.get(handle.0).ok_or(Errno::EBADF)?)
    }

    pub(super) fn read_file(&self, handle: FileHandle, offset: u64, size: u32) -> Outcome<Bytes> {
        let open = self.opened(handle)?;
        self.note_emptied(&open);
        Ok(open.file.read_bytes_at(size as usize, offset)?)
    }

    /// Writes everything or fails. Appends go to the end as their inode's home knows it. Answers whether the page cache has the bytes at
    /// another place: `O_APPEND` was set after the opening (fcntl(2)), and others append, too.
    pub(super) fn write_file(
        &self,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        open_flags: i32,
    ) -> Outcome<bool> {
        let open = self.opened(handle)?;
        if write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID) {
            self.drop_privileges(&open.file)?;
        }
        let from_cache = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        if open_flags & libc::O_APPEND != 0 && !from_cache {
            return Ok(open.file.append(data)? != offset && !open.direct);
        }
        open.file.write_at(data, offset)?;
        Ok(false)
    }

    /// Clears setuid and setgid bits of a file that somebody without privileges writes, if it may have any.
    fn drop_privileges(&self, file: &File) -> Outcome<()> {
        let ino = file.ino();
        if !self.inodes.take_suspicion(ino.0) {
            return Ok(());
        }
        let cleared = self.clear_bits(file);
        if cleared.is_err() {
            self.inodes.suspect(ino.0);
        }
        cleared
    }

    fn clear_bits(&self, file: &File) -> Outcome<()> {
        if let Some(mode) = without_privileges(file.attr()?.mode) {
            self.set_mode(file.ino(), mode)?;
        }
        Ok(())
    }

    /// A descriptor is closed: publishes, and gives back what its process has locked.
    pub(super) fn flush_file(&self, handle: FileHandle, owner: u64) -> Outcome<()> {
        let open = self.opened(handle)?;
        self.note_emptied(&open);
        let published = if open.file.flags().writes() { open.file.flush() } else { Ok(()) };
        open.file.unlock(LockFamily::Posix, owner, LockRange::ALL)?;
        Ok(published?)
    }

    pub(super) fn sync_file(&self, handle: FileHandle) -> Outcome<()> {
        Ok(self.opened(handle)?.file.sync()?)
    }

    /// Closes. A failure is logged and not seen by the application, which has had its answer from the flush.
    pub(super) fn release_file(&self, handle: FileHandle) -> Outcome<()> {
        match self.files.remove(handle.0).map(Arc::try_unwrap) {
            Some(Ok(OpenFile { file, lockers, present, seat, .. })) => {
                for (family, owner) in lockers.into_inner() {
                    if let Err(error) = file.unlock(family, owner, LockRange::ALL) {
                        tracing::error!(ino = file.ino().0, %error, "a lock could not be given back");
                    }
                }
                let closed = file.close();
                drop((present, seat)); // After the closing: see `OpenInodes`.
                Ok(closed?)
            }
            // Another thread is still at it; the last one to let go closes.
            Some(Err(_)) | None => Ok(()),
        }
    }

    pub(super) fn allocate(
        &self,
        who: &Caller,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
    ) -> Outcome<()> {
        let (open, what) = (self.opened(handle)?, allocation(mode)?);
        let (file, range) = (&open.file, file_range(offset, length)?);
        if who.uid != 0 {
            self.drop_privileges(file)?;
        }
        match what {
            Allocation::Space { keep_size } => file.allocate(range, keep_size)?,
            // The kernel drops its pages of the range after the answer.
            Allocation::Hole => file.punch(range)?,
            Allocation::Zeros { keep_size } => file.zero_range(range, keep_size)?,
        }
        Ok(())
    }

    /// Copies on the servers; answers how many bytes, at most [`COPY_MAX`].
    pub(super) fn copy_file(
        &self,
        who: &Caller,
        from: (FileHandle, u64),
        to: (FileHandle, u64),
        len: u64,
    ) -> Outcome<u32> {
        let (source, target) = (self.opened(from.0)?, self.opened(to.0)?);
        if who.uid != 0 {
            self.drop_privileges(&target.file)?;
        }
        let copied = source.file.copy_range_to(from.1, &target.file, to.1, len.min(COPY_MAX))?;
        Ok(copied as u32)
    }

    /// Data or a hole at or after `offset`. What was written through a memory map and not synced is the kernel's still, and not data here.
    pub(super) fn seek_file(&self, handle: FileHandle, offset: i64, whence: i32) -> Outcome<i64> {
        let open = self.opened(handle)?;
        let from = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
        let found = match whence {
            libc::SEEK_DATA => open.file.seek_data(from)?,
            libc::SEEK_HOLE => open.file.seek_hole(from)?,
            _ => return Err(Errno::EINVAL.into()),
        };
        Ok(found.and_then(|at| i64::try_from(at).ok()).ok_or(Errno::ENXIO)?)
    }
}
