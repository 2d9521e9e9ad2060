//! Access control lists as they lie in the store: attributes `system.posix_acl_*` beside the inode, and beside each part of a wide directory.
//!
//! # Invariants
//! - `attr.acl` (and [`SHARD_ACL`] of a part) is set if and only if there is a list: who sees it unset need not look
//!   (`tests/tests/acl.rs`: `lists_come_and_go`, `a_wide_directory_has_its_lists_everywhere`).

use bytes::Bytes;
use fs_proto::record::{InodeRecord, Mutation, SHARD_ACL};
use fs_proto::{Attr, FileKind, InodeId};

use super::permission::Access;
use super::{DirView, Namespace, acl};
use crate::error::OpResult;

/// The lists of an inode.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lists {
    /// Who may use it.
    pub access: Option<Bytes>,
    /// What is made in it begins with.
    pub default: Option<Bytes>,
}

impl Lists {
    /// Whether there is any.
    pub fn any(&self) -> bool {
        self.access.is_some() || self.default.is_some()
    }

    /// The changes that turn `before` into these.
    pub fn changes(&self, ino: InodeId, before: &Lists) -> Vec<Mutation> {
        let pairs =
            [(acl::ACCESS, &self.access, &before.access), (acl::DEFAULT, &self.default, &before.default)];
        let changed = pairs.into_iter().filter(|(_, now, before)| now != before);
        changed
            .map(|(name, now, _)| {
                let name = Bytes::from_static(name);
                match now.clone() {
                    Some(value) => Mutation::PutXattr { ino, name, value },
                    None => Mutation::DelXattr { ino, name },
                }
            })
            .collect()
    }
}

/// The mode in a wide directory's parts.
pub fn shard_mode(attr: &Attr) -> u32 {
    attr.mode | if attr.acl { SHARD_ACL } else { 0 }
}

impl Namespace {
    /// The lists of an inode or directory part that lies here, where its flag says `any`.
    pub fn lists(&self, ino: InodeId, any: bool) -> OpResult<Lists> {
        if !any {
            return Ok(Lists::default());
        }
        Ok(Lists { access: self.xattr(ino, acl::ACCESS)?, default: self.xattr(ino, acl::DEFAULT)? })
    }

    /// What decides who may use an inode that lives here.
    pub fn access(&self, inode: &InodeRecord) -> OpResult<Access> {
        let Attr { ino, mode, uid, gid, acl: any, .. } = inode.attr;
        Ok(Access { mode, uid, gid, acl: self.access_list(ino, any)? })
    }

    /// What decides who may use a directory.
    pub fn dir_access(&self, dir: &DirView) -> OpResult<Access> {
        let (mode, uid, gid) = dir.owner();
        Ok(Access { mode, uid, gid, acl: self.access_list(dir.ino(), dir.has_acl())? })
    }

    fn access_list(&self, ino: InodeId, any: bool) -> OpResult<Option<Bytes>> {
        if any { self.xattr(ino, acl::ACCESS) } else { Ok(None) }
    }

    /// What something that is asked for with `asked` (a mode, maybe with a umask) in `dir` gets: its mode, and its lists.
    pub fn born(&self, dir: &DirView, kind: FileKind, asked: u32) -> OpResult<(u32, Lists)> {
        let (mode, umask) = fs_proto::attr::split_umask(asked);
        let default = if dir.has_acl() { self.xattr(dir.ino(), acl::DEFAULT)? } else { None };
        let Some(default) = default.filter(|_| kind != FileKind::Symlink) else {
            return Ok((mode & !umask, Lists::default()));
        };
        let (access, mode) = acl::born_with(&default, mode);
        let default = (kind == FileKind::Directory).then_some(default);
        Ok((mode, Lists { access, default }))
    }
}
