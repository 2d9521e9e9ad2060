//! Locations in an old tier, which things move away from (`docs/decisions/0030-migration.md`): the parent is a number that no inode has, and the name is
//! the path there. A directory remembers its path in `InodeRecord::target`, which only symbolic links have otherwise: it has no copy until it is made
//! in the shared tier, and is listed in the old one by path, wherever it was moved meanwhile.

use bytes::Bytes;
use fs_proto::InodeId;
use fs_proto::ids::MAX_SERVERS;
use fs_proto::record::{Backing, InodeRecord, TierLocation};

/// Stands for the old tier as a parent: the number below those that stand for staging (`aside`).
pub const PARENT: InodeId = InodeId(u64::MAX - MAX_SERVERS as u64);

/// Path of the old tier's root in it.
pub const ROOT: &[u8] = b".";

/// [`InodeRecord::backed`] of a directory of which only the old tier's names were not taken over yet.
pub const ONLY_OLD: Backing = Backing { size: 0, mtime: 0, limit: 1 };

/// Whether a copy lies in the old tier.
pub fn is_in(location: &TierLocation) -> bool {
    location.parent == PARENT
}

/// Whether something of an inode is in the old tier only: the copy of anything but a directory, the names of a directory.
pub fn is_to_move(inode: &InodeRecord) -> bool {
    if inode.attr.is_dir() {
        return inode.backed.is_some() && !inode.target.is_empty();
    }
    inode.tier.as_ref().is_some_and(is_in)
}

/// The path of a name in a directory of the old tier.
pub fn path_of(dir: &[u8], name: &[u8]) -> Bytes {
    if dir == ROOT { Bytes::copy_from_slice(name) } else { [dir, b"/", name].concat().into() }
}

#[cfg(test)]
mod tests {
    use super::super::aside;
    use super::*;

    #[test]
    fn the_old_tier_is_no_staging_and_no_inode() {
        assert_eq!(aside::server(PARENT), None);
        assert!(aside::server(InodeId(PARENT.0 + 1)).is_some());
        assert_eq!(path_of(ROOT, b"a"), "a");
        assert_eq!(path_of(b"a/b", b"c"), "a/b/c");
    }
}
