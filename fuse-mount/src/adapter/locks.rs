//! Locks: fcntl(2) by process and by open file description, and flock(2).
//!
//! The kernel names an owner by a number: a process, whose locks go when it closes any descriptor of the file (`flush`), or an open file
//! description, whose locks go with its last descriptor (`release`). Which of the two a number is it does not say, and nobody needs to
//! know: `flush` comes with the process's number only, and at `release` everything goes that was locked through that opening.

use std::sync::Arc;

use fs_client::{HeldLock, LOCK_END, LockFamily, LockKind, LockRange, LockWish, Locked};
use fuser::{Errno, FileHandle, LockOwner, ReplyEmpty, ReplyLock, Request};

use super::{Adapter, OpenFile};
use crate::failure::{Missing, Outcome, attempt};
use crate::lock_desk::Wait;

/// What the kernel asks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct LockCall {
    pub handle: FileHandle,
    pub owner: LockOwner,
    /// First and last byte.
    pub bytes: (u64, u64),
    /// `F_RDLCK`, `F_WRLCK` or `F_UNLCK`.
    pub kind: i32,
    pub pid: u32,
    pub flock: bool,
}

impl LockCall {
    fn family(&self) -> LockFamily {
        if self.flock { LockFamily::Flock } else { LockFamily::Posix }
    }

    fn range(&self) -> LockRange {
        LockRange { first: self.bytes.0, last: self.bytes.1.min(LOCK_END) }
    }

    /// None: unlock.
    fn wish(&self) -> Result<Option<LockWish>, Errno> {
        let kind = match self.kind {
            libc::F_RDLCK => LockKind::Read,
            libc::F_WRLCK => LockKind::Write,
            libc::F_UNLCK => return Ok(None),
            _ => return Err(Errno::EINVAL),
        };
        let (family, range) = (self.family(), self.range());
        Ok(Some(LockWish { family, owner: self.owner.0, range, kind, pid: self.pid }))
    }
}

/// What became of a call that does not wait.
enum Done {
    /// As asked.
    Yes,
    /// As asked, once the kernel's copy of the content, which may be older than this version, is dropped.
    Changed(Arc<OpenFile>, u64),
    /// Somebody is in the way of this.
    Busy(LockWish),
}

impl Adapter {
    /// Locks or unlocks, and answers: at once, or from the desk.
    pub(super) fn set_lock(&self, req: &Request, ino: u64, call: LockCall, sleep: bool, reply: ReplyEmpty) {
        match attempt("setlk", ino, Missing::Inode, || self.change_lock(&call)) {
            Ok(Done::Yes) => reply.ok(),
            Ok(Done::Changed(open, version)) => self.desk.refresh(open, version, reply),
            Ok(Done::Busy(wish)) if sleep => match self.files.get(call.handle.0) {
                Some(open) => self.desk.wait(Wait { open, wish, unique: req.unique().0, reply }),
                None => reply.error(Errno::EBADF),
            },
            Ok(Done::Busy(_)) => reply.error(Errno::EAGAIN),
            Err(errno) => reply.error(errno),
        }
    }

    fn change_lock(&self, call: &LockCall) -> Outcome<Done> {
        let open = self.files.get(call.handle.0).ok_or(Errno::EBADF)?;
        let Some(wish) = call.wish()? else {
            open.file.unlock(call.family(), call.owner.0, call.range())?;
            return Ok(Done::Yes);
        };
        open.note_owner(wish.family, wish.owner);
        match open.file.try_lock(&wish)? {
            Locked::Yes { changed: None } => Ok(Done::Yes),
            Locked::Yes { changed: Some(version) } => Ok(Done::Changed(open, version)),
            Locked::Busy(_) => Ok(Done::Busy(wish)),
            Locked::GivenUp => Err(Errno::EINTR.into()),
        }
    }

    pub(super) fn get_lock(&self, ino: u64, call: LockCall, reply: ReplyLock) {
        match attempt("getlk", ino, Missing::Inode, || self.find_lock(&call)) {
            Ok(None) => reply.locked(0, 0, libc::F_UNLCK, 0),
            Ok(Some((held, own))) => {
                let kind = if held.kind == LockKind::Read { libc::F_RDLCK } else { libc::F_WRLCK };
                // A process of another mount has no number here that would mean anything.
                reply.locked(held.range.first, held.range.last, kind, if own { held.pid } else { 0 });
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn find_lock(&self, call: &LockCall) -> Outcome<Option<(HeldLock, bool)>> {
        let open = self.files.get(call.handle.0).ok_or(Errno::EBADF)?;
        match call.wish()? {
            Some(wish) => Ok(open.file.test_lock(&wish)?),
            None => Err(Errno::EINVAL.into()),
        }
    }
}
