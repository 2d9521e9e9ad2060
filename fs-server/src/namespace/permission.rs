//! Who may do what, by owner, group, mode bits and access control list.

use bytes::Bytes;
use fs_proto::msg::Caller;
use fs_proto::{Attr, Status};

use super::acl;
use crate::error::{OpError, OpResult};

/// Read permission.
pub const READ: u32 = 4;
/// Write permission.
pub const WRITE: u32 = 2;
/// Execute, or search in a directory.
pub const SEARCH: u32 = 1;

const STICKY: u32 = 0o1000;
const GROUP_CLASS: u32 = 0o070;

/// What decides who may use an object.
#[derive(Debug, Clone)]
pub struct Access {
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Its access control list, if it has one.
    pub acl: Option<Bytes>,
}

impl Access {
    /// Without an access control list.
    pub fn plain(mode: u32, uid: u32, gid: u32) -> Self {
        Access { mode, uid, gid, acl: None }
    }
}

/// Denies unless `caller` has all of `want` on an object. Root needs nothing.
pub fn require(caller: &Caller, access: &Access, want: u32) -> OpResult<()> {
    if may(caller, access, want) {
        Ok(())
    } else {
        Err(OpError::new(Status::AccessDenied, "permission denied"))
    }
}

fn may(caller: &Caller, access: &Access, want: u32) -> bool {
    let Access { mode, uid, gid, acl } = access;
    let granted = if caller.is_root() {
        READ | WRITE | SEARCH
    } else if caller.uid == *uid {
        mode >> 6
    } else if let Some(list) = acl.as_ref().filter(|_| mode & GROUP_CLASS != 0) {
        // Linux does not look at a list that its mask, the group's bits, makes mean nothing.
        return acl::permits(list, caller, *gid, want);
    } else if caller.in_group(*gid) {
        mode >> 3
    } else {
        *mode
    };
    granted & want == want
}

/// Denies unless `caller` may change entries of a directory; with the sticky bit, those that stand for an inode of `victim_uid`.
pub fn require_change(caller: &Caller, dir: &Access, victim_uid: Option<u32>) -> OpResult<()> {
    require(caller, dir, WRITE | SEARCH)?;
    let bound = dir.mode & STICKY != 0 && !caller.is_root() && caller.uid != dir.uid;
    match victim_uid {
        Some(victim) if bound && victim != caller.uid => {
            Err(OpError::new(Status::NotPermitted, "the directory is sticky and the file is another user's"))
        }
        _ => Ok(()),
    }
}

/// Denies unless `caller` owns the inode.
pub fn require_owner(caller: &Caller, attr: &Attr) -> OpResult<()> {
    if caller.is_root() || caller.uid == attr.uid {
        return Ok(());
    }
    Err(OpError::new(Status::NotPermitted, "only the owner may do this"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(uid: u32, gid: u32, groups: &[u32]) -> Caller {
        Caller { uid, gid, groups: groups.to_vec() }
    }

    #[test]
    fn the_first_class_that_fits_decides() {
        // Owner denied although others may: POSIX looks at one class only.
        assert!(require(&user(1, 1, &[]), &Access::plain(0o077, 1, 1), READ).is_err());
        assert!(require(&user(2, 1, &[]), &Access::plain(0o070, 1, 1), READ).is_ok());
        assert!(require(&user(2, 9, &[1]), &Access::plain(0o040, 1, 1), READ).is_ok());
        assert!(require(&user(2, 9, &[8]), &Access::plain(0o640, 1, 1), READ).is_err());
        assert!(require(&Caller::ROOT, &Access::plain(0, 1, 1), READ | WRITE).is_ok());
    }

    #[test]
    fn sticky_directories_protect_the_files_of_others() {
        let dir = &Access::plain(0o1777, 5, 5);
        assert!(require_change(&user(1, 1, &[]), dir, Some(1)).is_ok());
        assert!(require_change(&user(1, 1, &[]), dir, Some(2)).is_err());
        assert!(require_change(&user(5, 1, &[]), dir, Some(2)).is_ok());
        assert!(require_change(&user(1, 1, &[]), dir, None).is_ok());
    }
}
