//! The table that `fuser` calls: one line of work and one of answer for each operation.
//!
//! Left to the kernel, on purpose: `access` (`default_permissions`).

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use fs_client::{Attr, DirEntry, Setattr};
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, INodeNo, IoctlFlags,
    KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr,
    ReplyBmap, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyIoctl, ReplyLock, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request,
    RequestId, TimeOrNow, WriteFlags,
};

use super::dirs::Sink;
use super::files::Opened;
use super::locks::LockCall;
use super::past::Opening;
use super::{Adapter, GENERATION, caller, xattr_caller};
use crate::capabilities::{self, Asked};
use crate::failure::{Missing, attempt};
use crate::translate::{STATFS_BLOCK, XattrAnswer, directory_stub, file_type, set_time, xattr_answer};
use fs_proto::NAME_MAX;
use fs_proto::attr::with_umask;

impl Adapter {
    fn answer_entry(&self, result: Result<Attr, Errno>, reply: ReplyEntry) {
        match result {
            Ok(attr) => {
                let (node, shown) = (INodeNo(self.passing.tell(attr.ino.0)), self.show(&attr));
                reply.entry_of_node(node, &self.attr_timeout, &self.entry_timeout, &shown, GENERATION);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn answer_attr(&self, result: Result<Attr, Errno>, reply: ReplyAttr) {
        match result {
            Ok(attr) => reply.attr(&self.attr_timeout, &self.show(&attr)),
            Err(errno) => reply.error(errno),
        }
    }

    fn answer_created(&self, result: Result<(Attr, Opened), Errno>, reply: ReplyCreate) {
        match result {
            Ok((attr, opened)) => {
                let ttl = self.joint_timeout();
                reply.created(&ttl, &self.show(&attr), GENERATION, opened.handle, opened.flags);
            }
            Err(errno) => reply.error(errno),
        }
    }
}

fn answer_empty(result: Result<(), Errno>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

fn answer_xattr<B: AsRef<[u8]>>(result: Result<B, Errno>, room: u32, reply: ReplyXattr) {
    match result.as_ref().map_err(|errno| *errno).and_then(|value| xattr_answer(value.as_ref(), room)) {
        Ok(XattrAnswer::Size(size)) => reply.size(size),
        Ok(XattrAnswer::Data(data)) => reply.data(data),
        Err(errno) => reply.error(errno),
    }
}

/// The kernel's buffer of names.
struct Names(ReplyDirectory);

impl Sink for Names {
    const PLUS: bool = false;

    fn add_dot(&mut self, ino: u64, cookie: u64, name: &str) -> bool {
        self.0.add(INodeNo(ino), cookie, fuser::FileType::Directory, name)
    }

    fn add(&mut self, entry: &DirEntry) -> bool {
        self.0.add(INodeNo(entry.ino.0), entry.cookie, file_type(entry.kind), OsStr::from_bytes(&entry.name))
    }
}

/// The kernel's buffer of names and attributes.
struct NamesPlus<'a> {
    reply: ReplyDirectoryPlus,
    adapter: &'a Adapter,
    timeout: Duration,
}

impl Sink for NamesPlus<'_> {
    const PLUS: bool = true;

    fn add_dot(&mut self, ino: u64, cookie: u64, name: &str) -> bool {
        self.reply.add(INodeNo(ino), cookie, name, &Duration::ZERO, &directory_stub(ino), GENERATION)
    }

    fn add(&mut self, entry: &DirEntry) -> bool {
        // Entries without attributes are not given to this sink.
        let Some(attr) = &entry.attr else { return false };
        let shown = self.adapter.show(attr);
        let name = OsStr::from_bytes(&entry.name);
        let passing = &self.adapter.passing;
        let node = passing.tell(entry.ino.0);
        let is_full = self.reply.add(INodeNo(node), entry.cookie, name, &self.timeout, &shown, GENERATION);
        if is_full {
            passing.forget(node, 1); // The kernel was not told.
        }
        is_full
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let asked = Asked { writeback: self.writeback, passthrough: self.passthrough };
        if capabilities::negotiate(config, asked) {
            self.passing.enable();
            tracing::info!("--passthrough: the kernel reads copies of files that many nodes read by itself");
        } else if self.passthrough {
            tracing::warn!(
                "--passthrough has no effect: this kernel does not offer it; Linux 6.9 or later does"
            );
        }
        Ok(())
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let work = || self.find(&caller(req), self.inode(parent), name);
        self.answer_entry(attempt("lookup", parent.0, Missing::Name, work), reply);
    }

    fn getattr(&self, req: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        let work = || self.stat(&caller(req), self.inode(ino), fh);
        self.answer_attr(attempt("getattr", ino.0, Missing::Inode, work), reply);
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let change = Setattr {
            mode: mode.map(|mode| mode & 0o7777),
            uid,
            gid,
            size,
            atime: atime.map(set_time),
            mtime: mtime.map(set_time),
            by_handle: fh.is_some(),
            ..Setattr::nothing(self.inode(ino))
        };
        let work = || self.change(&caller(req), change);
        self.answer_attr(attempt("setattr", ino.0, Missing::Inode, work), reply);
    }

    fn readlink(&self, req: &Request, ino: INodeNo, reply: ReplyData) {
        match attempt("readlink", ino.0, Missing::Inode, || self.link_target(&caller(req), self.inode(ino))) {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(errno),
        }
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let work = || self.make_node(&caller(req), self.inode(parent), name, (mode, umask), rdev);
        self.answer_entry(attempt("mknod", parent.0, Missing::Name, work), reply);
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let work = || self.make_dir(&caller(req), self.inode(parent), name, with_umask(mode, umask));
        self.answer_entry(attempt("mkdir", parent.0, Missing::Name, work), reply);
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let work = || self.remove(&caller(req), self.inode(parent), name);
        answer_empty(attempt("unlink", parent.0, Missing::Name, work), reply);
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let work = || self.remove_dir(&caller(req), self.inode(parent), name);
        answer_empty(attempt("rmdir", parent.0, Missing::Name, work), reply);
    }

    fn symlink(&self, req: &Request, parent: INodeNo, link_name: &OsStr, target: &Path, reply: ReplyEntry) {
        let target = target.as_os_str().as_bytes();
        let work = || self.make_symlink(&caller(req), self.inode(parent), link_name, target);
        self.answer_entry(attempt("symlink", parent.0, Missing::Name, work), reply);
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let work = || {
            self.move_name(&caller(req), (self.inode(parent), name), (self.inode(newparent), newname), flags)
        };
        answer_empty(attempt("rename", parent.0, Missing::Name, work), reply);
    }

    fn link(&self, req: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        let work = || self.add_name(&caller(req), self.inode(ino), self.inode(newparent), newname);
        self.answer_entry(attempt("link", ino.0, Missing::Name, work), reply);
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let opening = Opening {
            node: ino.0,
            thread: req.pid(),
            flags: flags.0,
            backing: &|file| reply.open_backing(file),
        };
        match attempt("open", ino.0, Missing::Inode, || self.open_file(&caller(req), &opening)) {
            Ok(Opened { handle, flags, copy: None }) => reply.opened(handle, flags),
            Ok(Opened { handle, flags, copy: Some(copy) }) => reply.opened_passthrough(handle, flags, &copy),
            Err(errno) => reply.error(errno),
        }
    }

    fn forget(&self, _: &Request, ino: INodeNo, times: u64) {
        self.passing.forget(ino.0, times);
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let work =
            || self.create_file(&caller(req), self.inode(parent), name, with_umask(mode, umask), flags);
        self.answer_created(attempt("create", parent.0, Missing::Name, work), reply);
    }

    fn tmpfile(&self, req: &Request, parent: INodeNo, mode: u32, umask: u32, flags: i32, reply: ReplyCreate) {
        let work = || self.create_nameless(&caller(req), self.inode(parent), with_umask(mode, umask), flags);
        self.answer_created(attempt("tmpfile", parent.0, Missing::Inode, work), reply);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match attempt("read", ino.0, Missing::Inode, || self.read_file(fh, offset, size)) {
            Ok(data) => reply.data(&data),
            Err(errno) => reply.error(errno),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let work = || self.write_file(fh, offset, data, write_flags, flags.0);
        match attempt("write", ino.0, Missing::Inode, work) {
            Ok(elsewhere) => {
                reply.written(data.len() as u32);
                if elsewhere {
                    self.desk.forget(ino.0);
                }
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn flush(&self, _: &Request, ino: INodeNo, fh: FileHandle, lock_owner: LockOwner, reply: ReplyEmpty) {
        answer_empty(attempt("flush", ino.0, Missing::Inode, || self.flush_file(fh, lock_owner.0)), reply);
    }

    fn getlk(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        lock_owner: LockOwner,
        start: u64,
        end: u64,
        typ: i32,
        pid: u32,
        flock: bool,
        reply: ReplyLock,
    ) {
        let call = LockCall { handle: fh, owner: lock_owner, bytes: (start, end), kind: typ, pid, flock };
        self.get_lock(ino.0, call, reply);
    }

    fn setlk(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        lock_owner: LockOwner,
        start: u64,
        end: u64,
        typ: i32,
        pid: u32,
        sleep: bool,
        flock: bool,
        reply: ReplyEmpty,
    ) {
        let call = LockCall { handle: fh, owner: lock_owner, bytes: (start, end), kind: typ, pid, flock };
        self.set_lock(req, ino.0, call, sleep, reply);
    }

    fn interrupt(&self, unique: RequestId) {
        self.desk.interrupt(unique.0);
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        answer_empty(attempt("release", ino.0, Missing::Inode, || self.release_file(fh)), reply);
    }

    fn fsync(&self, _: &Request, ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        answer_empty(attempt("fsync", ino.0, Missing::Inode, || self.sync_file(fh)), reply);
    }

    fn opendir(&self, _: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(self.open_dir(), FopenFlags::empty());
    }

    fn readdir(&self, req: &Request, ino: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectory) {
        let mut sink = Names(reply);
        let work = || self.list(&caller(req), self.inode(ino), fh, offset, &mut sink);
        match attempt("readdir", ino.0, Missing::Inode, work) {
            Ok(()) => sink.0.ok(),
            Err(errno) => sink.0.error(errno),
        }
    }

    fn readdirplus(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        let mut sink = NamesPlus { reply, adapter: self, timeout: self.joint_timeout() };
        let work = || self.list(&caller(req), self.inode(ino), fh, offset, &mut sink);
        match attempt("readdirplus", ino.0, Missing::Inode, work) {
            Ok(()) => sink.reply.ok(),
            Err(errno) => sink.reply.error(errno),
        }
    }

    fn releasedir(&self, _: &Request, _ino: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        self.release_dir(fh);
        reply.ok();
    }

    fn fsyncdir(&self, req: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let work = || Ok(self.client.sync_inode(&caller(req), self.inode(ino))?);
        answer_empty(attempt("fsyncdir", ino.0, Missing::Inode, work), reply);
    }

    fn statfs(&self, _: &Request, ino: INodeNo, reply: ReplyStatfs) {
        match attempt("statfs", ino.0, Missing::Inode, || self.space()) {
            Ok(space) => reply.statfs(
                space.blocks,
                space.free,
                space.free,
                space.files,
                space.files_free,
                STATFS_BLOCK,
                NAME_MAX as u32,
                STATFS_BLOCK,
            ),
            Err(errno) => reply.error(errno),
        }
    }

    fn setxattr(
        &self,
        req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let work = || self.set_xattr(&xattr_caller(req, name), self.inode(ino), name, value, flags);
        answer_empty(attempt("setxattr", ino.0, Missing::Inode, work), reply);
    }

    fn getxattr(&self, req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let work = || self.xattr(&caller(req), self.inode(ino), name);
        answer_xattr(attempt("getxattr", ino.0, Missing::Inode, work), size, reply);
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let work = || self.xattr_names(&caller(req), self.inode(ino));
        answer_xattr(attempt("listxattr", ino.0, Missing::Inode, work), size, reply);
    }

    fn removexattr(&self, req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let work = || self.remove_xattr(&caller(req), self.inode(ino), name);
        answer_empty(attempt("removexattr", ino.0, Missing::Inode, work), reply);
    }

    fn fallocate(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let work = || self.allocate(&caller(req), fh, offset, length, mode);
        answer_empty(attempt("fallocate", ino.0, Missing::Inode, work), reply);
    }

    /// Only for data and holes; other positions are the kernel's.
    fn lseek(&self, _: &Request, ino: INodeNo, fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        match attempt("lseek", ino.0, Missing::Inode, || self.seek_file(fh, offset, whence)) {
            Ok(at) => reply.offset(at),
            Err(errno) => reply.error(errno),
        }
    }

    fn copy_file_range(
        &self,
        req: &Request,
        _ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let work = || self.copy_file(&caller(req), (fh_in, offset_in), (fh_out, offset_out), len);
        match attempt("copy_file_range", ino_out.0, Missing::Inode, work) {
            Ok(copied) => reply.written(copied),
            Err(errno) => reply.error(errno),
        }
    }

    fn ioctl(
        &self,
        _: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    /// `ENOSYS` makes the kernel answer itself from then on: files are always ready.
    fn poll(
        &self,
        _: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _ph: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }

    /// Asked for swap files and the like, which need a device below.
    fn bmap(&self, _: &Request, _ino: INodeNo, _blocksize: u32, _idx: u64, reply: ReplyBmap) {
        reply.error(Errno::ENOSYS);
    }
}
