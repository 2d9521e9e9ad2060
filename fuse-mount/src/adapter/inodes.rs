//! Operations on inodes: attributes, links, extended attributes, space.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use bytes::Bytes;
use fs_client::{Attr, Caller, InodeId, Setattr, Status};
use fuser::{Errno, FileHandle};

use super::Adapter;
use crate::failure::Outcome;
use crate::translate::{Capacity, capacity, drops_privileges, is_acl, without_privileges, xattr_list};

/// The attribute of file capabilities, which the kernel asks for at writes.
const CAPABILITY: &[u8] = b"security.capability";

impl Adapter {
    /// Attributes, through the open file where the kernel has one: an unlinked file has no other way.
    pub(super) fn stat(&self, who: &Caller, ino: InodeId, handle: Option<FileHandle>) -> Outcome<Attr> {
        match handle.and_then(|handle| self.files.get(handle.0)) {
            Some(open) => Ok(open.file.attr()?),
            None => Ok(self.client.getattr(who, ino)?),
        }
    }

    /// Changes attributes. Setuid and setgid bits fall with a second change: their present value is known only from the
    /// answer to the first, and files that have them are rare.
    pub(super) fn change(&self, who: &Caller, change: Setattr) -> Outcome<Attr> {
        let attr = self.client.setattr(who, change.clone())?;
        if !drops_privileges(&change, attr.kind, who.uid) {
            return Ok(attr);
        }
        match without_privileges(attr.mode) {
            Some(mode) => self.set_mode(attr.ino, mode),
            None => Ok(attr),
        }
    }

    /// Sets the mode as root, because the bits fall on behalf of whoever wrote, who need not be the owner.
    pub(super) fn set_mode(&self, ino: InodeId, mode: u32) -> Outcome<Attr> {
        Ok(self.client.setattr(&Caller::ROOT, Setattr { mode: Some(mode), ..Setattr::nothing(ino) })?)
    }

    pub(super) fn link_target(&self, who: &Caller, ino: InodeId) -> Outcome<Bytes> {
        Ok(self.client.readlink(who, ino)?)
    }

    pub(super) fn space(&self) -> Outcome<Capacity> {
        Ok(capacity(&self.client.statfs()?))
    }

    pub(super) fn xattr(&self, who: &Caller, ino: InodeId, name: &OsStr) -> Outcome<Bytes> {
        if is_acl(name.as_bytes()) && self.is_without_lists(ino) {
            return Err(Errno::ENODATA.into());
        }
        let of_capability = name.as_bytes() == CAPABILITY;
        if of_capability && self.is_incapable(ino) {
            return Err(Errno::ENODATA.into());
        }
        let value = self.client.getxattr(who, ino, name.as_bytes());
        if of_capability && value.as_ref().is_err_and(|error| error.code() == Some(Status::NoAttribute)) {
            self.note_incapable(ino);
        }
        Ok(value?)
    }

    pub(super) fn xattr_names(&self, who: &Caller, ino: InodeId) -> Outcome<Vec<u8>> {
        Ok(xattr_list(&self.client.listxattr(who, ino)?))
    }

    pub(super) fn set_xattr(
        &self,
        who: &Caller,
        ino: InodeId,
        name: &OsStr,
        value: &[u8],
        flags: i32,
    ) -> Outcome<()> {
        let (create, replace) = (flags & libc::XATTR_CREATE != 0, flags & libc::XATTR_REPLACE != 0);
        let set = self.client.setxattr(who, ino, name.as_bytes(), value, create, replace);
        self.incapable.lock().forget(ino.0);
        self.without_lists.lock().forget(ino.0);
        Ok(set?)
    }

    pub(super) fn remove_xattr(&self, who: &Caller, ino: InodeId, name: &OsStr) -> Outcome<()> {
        Ok(self.client.removexattr(who, ino, name.as_bytes())?)
    }
}
