//! Kinds of file systems, by the number that statfs(2) tells: see linux/magic.h.

/// File systems of this machine's own devices and memory.
const LOCAL: [u64; 9] = [
    0xEF53,      // ext2, ext3, ext4
    0x5846_5342, // XFS
    0x9123_683E, // Btrfs
    0xF2F5_2010, // F2FS
    0x2FC1_2FC1, // ZFS
    0xCA45_1A4E, // bcachefs
    0x794C_7630, // overlay
    0x0102_1994, // tmpfs
    0x8584_58F6, // ramfs
];

/// Whether another machine keeps what is written there. So is assumed of all that is not known: to sync in vain costs time and nothing else.
pub fn is_remote(kind: u64) -> bool {
    !LOCAL.contains(&kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_file_systems_are_remote() {
        for (name, kind) in [
            ("NFS", 0x6969),
            ("Lustre", 0x0BD0_0BD0),
            ("CephFS", 0x00C3_6400),
            ("GPFS", 0x4750_4653),
            ("SMB", 0xFE53_4D42),
            ("FUSE, of which GlusterFS is one", 0x6573_5546),
            ("one of the future", 1),
        ] {
            assert!(is_remote(kind), "{name}");
        }
        assert!(!is_remote(0xEF53) && !is_remote(0x0102_1994));
    }
}
