//! What flags of opening mean.
//!
//! CHFS looks at few of them, so programs pass what is no flag of open(2). IOR passes its own: 1 for reading, 2 for writing, 4 for both, 8 to append, 16
//! to create, 32 to cut. Bits 2 to 5 mean nothing to open(2) on Linux, so who sets one of them speaks IOR's language; and 1, which is `O_WRONLY`
//! or IOR's reading, opens for what of both is permitted.
//!
//! IOR's 32 cuts nothing: each of its ranks creates the shared file with it, none waits for the others, and the last one would cut what the first have written. CHFS and
//! IOR's own POSIX backend do not look at it either, and IOR removes an old file before.

use fs_client::OpenOptions;

/// Bits that only IOR sets.
const IORS: i32 = 0b11_1100;
const IOR_APPEND: i32 = 8;

/// Whether the file may be written, by a program that passed these flags to `chfs_open`.
pub fn writes(flags: i32) -> bool {
    flags & IORS != 0 || flags & libc::O_ACCMODE != libc::O_RDONLY
}

/// How `chfs_open` opens: for reading, and for writing if the flags say so.
pub fn opening(flags: i32) -> OpenOptions {
    let ior = flags & IORS != 0;
    let has = |flag| flags & flag != 0;
    let write = writes(flags);
    OpenOptions {
        read: true,
        write,
        truncate: write && !ior && has(libc::O_TRUNC),
        append: write && has(if ior { IOR_APPEND } else { libc::O_APPEND }),
        ..OpenOptions::default()
    }
}

/// Whether `chfs_open` may have been asked to read only, by IOR's 1: then that is enough where writing is not permitted.
pub fn may_read_only(flags: i32) -> bool {
    let changes = libc::O_TRUNC | libc::O_APPEND;
    flags & IORS == 0 && flags & libc::O_ACCMODE == libc::O_WRONLY && flags & changes == 0
}

/// How `chfs_create` opens: for both, as CHFS does.
pub fn creation(flags: i32) -> OpenOptions {
    let exclusive = libc::O_CREAT | libc::O_EXCL;
    let create_new = flags & IORS == 0 && flags & exclusive == exclusive;
    OpenOptions { write: true, create: true, create_new, ..opening(flags | libc::O_RDWR) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: flags of open(2) are taken as they are.
    #[test]
    fn linux() {
        assert!(
            !opening(libc::O_RDONLY).write && opening(libc::O_RDWR).write && opening(libc::O_WRONLY).write
        );
        assert!(
            !opening(libc::O_RDONLY | libc::O_TRUNC).truncate
                && opening(libc::O_WRONLY | libc::O_TRUNC).truncate
        );
        assert!(opening(libc::O_WRONLY | libc::O_APPEND).append);
        assert!(creation(libc::O_CREAT | libc::O_EXCL).create_new && !creation(libc::O_EXCL).create_new);
        assert!(!creation(libc::O_WRONLY).truncate && creation(libc::O_TRUNC).truncate);
    }

    /// Goal: IOR's flags are taken as it means them: it creates with 2 + 16 + 32, from all ranks, writes what is there with 4, and reads with 1.
    #[test]
    fn ior() {
        let created = creation(4 | 16);
        assert!(created.read && created.write && created.create && !created.create_new && !created.truncate);
        assert!(!creation(2 | 16 | 32).truncate && !opening(4 | 32).truncate);
        assert!(opening(4).write && opening(4 | 8).append);
        assert!(opening(1).read && may_read_only(1) && may_read_only(1 | 128));
        assert!(![2, 4, 1 | 16].into_iter().any(may_read_only));
        assert!(!may_read_only(libc::O_RDONLY) && !may_read_only(libc::O_WRONLY | libc::O_TRUNC));
        // IOR's request for direct I/O is 128, which is O_EXCL: several ranks create one file with it.
        assert!(!creation(4 | 16 | 128).create_new);
    }
}
