//! Who may do what, by owner, group and mode bits.

use fs_proto::msg::Caller;
use fs_proto::{Attr, Status};

use crate::error::{OpError, OpResult};

/// Read permission.
pub const READ: u32 = 4;
/// Write permission.
pub const WRITE: u32 = 2;
/// Execute, or search in a directory.
pub const SEARCH: u32 = 1;

const STICKY: u32 = 0o1000;

/// Denies unless `caller` has all of `want` on an object of this mode, owner and group. Root needs nothing.
pub fn require(caller: &Caller, (mode, uid, gid): (u32, u32, u32), want: u32) -> OpResult<()> {
    let granted = if caller.is_root() {
        READ | WRITE | SEARCH
    } else if caller.uid == uid {
        mode >> 6
    } else if caller.in_group(gid) {
        mode >> 3
    } else {
        mode
    };
    if granted & want == want { Ok(()) } else { Err(OpError::new(Status::AccessDenied, "permission denied")) }
}

/// Denies unless `caller` may change entries of a directory; with the sticky bit, those that stand for an inode of `victim_uid`.
pub fn require_change(caller: &Caller, dir: (u32, u32, u32), victim_uid: Option<u32>) -> OpResult<()> {
    require(caller, dir, WRITE | SEARCH)?;
    let (mode, owner, _) = dir;
    let bound = mode & STICKY != 0 && !caller.is_root() && caller.uid != owner;
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

/// Mode, owner and group of an inode, as [`require`] takes them.
pub fn access_of(attr: &Attr) -> (u32, u32, u32) {
    (attr.mode, attr.uid, attr.gid)
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
        assert!(require(&user(1, 1, &[]), (0o077, 1, 1), READ).is_err());
        assert!(require(&user(2, 1, &[]), (0o070, 1, 1), READ).is_ok());
        assert!(require(&user(2, 9, &[1]), (0o040, 1, 1), READ).is_ok());
        assert!(require(&user(2, 9, &[8]), (0o640, 1, 1), READ).is_err());
        assert!(require(&Caller::ROOT, (0, 1, 1), READ | WRITE).is_ok());
    }

    #[test]
    fn sticky_directories_protect_the_files_of_others() {
        let dir = (0o1777, 5, 5);
        assert!(require_change(&user(1, 1, &[]), dir, Some(1)).is_ok());
        assert!(require_change(&user(1, 1, &[]), dir, Some(2)).is_err());
        assert!(require_change(&user(5, 1, &[]), dir, Some(2)).is_ok());
        assert!(require_change(&user(1, 1, &[]), dir, None).is_ok());
    }
}
