//! Directories that had to make way for others in the shared tier: they lie in the staging of the server that moved them there.
//!
//! A location in staging has, instead of its parent, a number that no inode has: its server's.

use bytes::Bytes;
use fs_proto::ids::MAX_SERVERS;
use fs_proto::record::TierLocation;
use fs_proto::{InodeId, ServerId};

/// Stands for a server's staging as a parent. The numbers are the last ones of the last server that there may be: never given.
pub fn number(server: ServerId) -> InodeId {
    InodeId(u64::MAX - u64::from(server.0))
}

/// The server in whose staging things with this parent lie; None for any other directory.
pub fn server(parent: InodeId) -> Option<ServerId> {
    let server = u64::MAX - parent.0;
    (server < u64::from(MAX_SERVERS)).then_some(ServerId(server as u16))
}

/// Whether a directory had to make way.
pub fn is_aside(location: &TierLocation) -> bool {
    server(location.parent).is_some()
}

/// The name in staging of a directory that had to make way.
pub fn name(dir: InodeId) -> Bytes {
    Bytes::from(format!("d-{:016x}", dir.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_found_again_and_inodes_are_no_servers() {
        for id in [0, 1, 4_095] {
            assert_eq!(server(number(ServerId(id))), Some(ServerId(id)));
        }
        assert_eq!((server(InodeId::ROOT), server(InodeId(u64::MAX - 4_096))), (None, None));
    }
}
