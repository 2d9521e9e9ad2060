//! Operations on names.

use std::ffi::OsStr;

use bytes::Bytes;
use fs_client::{Attr, Caller, Create, FileKind, InodeId};
use fs_proto::attr::with_umask;
use fuser::{Errno, RenameFlags};

use super::Adapter;
use crate::failure::Outcome;
use crate::translate::{name_bytes, node_kind};

/// Permission bits of symbolic links, as Linux shows them; they are not checked.
const SYMLINK_MODE: u32 = 0o777;

impl Adapter {
    pub(super) fn find(&self, who: &Caller, parent: InodeId, name: &OsStr) -> Outcome<Attr> {
        Ok(self.client.lookup(who, parent, name_bytes(name)?)?)
    }

    pub(super) fn make_node(
        &self,
        who: &Caller,
        parent: InodeId,
        name: &OsStr,
        (mode, umask): (u32, u32),
        rdev: u32,
    ) -> Outcome<Attr> {
        let kind = node_kind(mode)?;
        let rdev = if matches!(kind, FileKind::CharDevice | FileKind::BlockDevice) { rdev } else { 0 };
        self.make(who, Create { kind, mode: with_umask(mode, umask), rdev, ..new_entry(parent, name)? })
    }

    pub(super) fn make_symlink(
        &self,
        who: &Caller,
        parent: InodeId,
        name: &OsStr,
        target: &[u8],
    ) -> Outcome<Attr> {
        let target = Bytes::copy_from_slice(target);
        self.make(
            who,
            Create { kind: FileKind::Symlink, mode: SYMLINK_MODE, target, ..new_entry(parent, name)? },
        )
    }

    fn make(&self, who: &Caller, what: Create) -> Outcome<Attr> {
        let (attr, _fresh) = self.client.create(who, what)?;
        Ok(attr)
    }

    pub(super) fn make_dir(&self, who: &Caller, parent: InodeId, name: &OsStr, mode: u32) -> Outcome<Attr> {
        Ok(self.client.mkdir(who, parent, name_bytes(name)?, mode)?)
    }

    pub(super) fn remove(&self, who: &Caller, parent: InodeId, name: &OsStr) -> Outcome<()> {
        Ok(self.client.unlink(who, parent, name_bytes(name)?)?)
    }

    pub(super) fn remove_dir(&self, who: &Caller, parent: InodeId, name: &OsStr) -> Outcome<()> {
        Ok(self.client.rmdir(who, parent, name_bytes(name)?)?)
    }

    pub(super) fn move_name(
        &self,
        who: &Caller,
        from: (InodeId, &OsStr),
        to: (InodeId, &OsStr),
        flags: RenameFlags,
    ) -> Outcome<()> {
        let no_replace = flags.contains(RenameFlags::RENAME_NOREPLACE);
        let exchange = flags.contains(RenameFlags::RENAME_EXCHANGE);
        let known = RenameFlags::RENAME_NOREPLACE | RenameFlags::RENAME_EXCHANGE;
        if !known.contains(flags) || (no_replace && exchange) {
            return Err(Errno::EINVAL.into());
        }
        let (name, new_name) = (name_bytes(from.1)?, name_bytes(to.1)?);
        Ok(self.client.rename(who, from.0, name, to.0, new_name, no_replace, exchange)?)
    }

    pub(super) fn add_name(
        &self,
        who: &Caller,
        ino: InodeId,
        parent: InodeId,
        name: &OsStr,
    ) -> Outcome<Attr> {
        Ok(self.client.link(who, ino, parent, name_bytes(name)?)?)
    }
}

/// A request for a new entry, to be completed with what it is.
fn new_entry(parent: InodeId, name: &OsStr) -> Result<Create, Errno> {
    Ok(Create {
        parent,
        name: Bytes::copy_from_slice(name_bytes(name)?),
        kind: FileKind::File,
        mode: 0,
        rdev: 0,
        target: Bytes::new(),
        exclusive: true,
        layout: None,
        open: None,
    })
}
