//! What flags of opening mean.
//!
//! CHFS looks at few of them, so programs pass what is no flag of open(2). IOR passes its own: 1 for reading, 2 for writing, 4 for both, 8 to append, 16
//! to create, 32 to cut. Bits 2 to 5 mean nothing to open(2) on Linux, so who sets one of them speaks IOR's language; and 1, which is `O_WRONLY`
//! or IOR's reading, opens for reading, too, if that is permitted.

use fs_client::OpenOptions;

/// Bits that only IOR sets.
const IORS: i32 = 0b11_1100;
const IOR_APPEND: i32 = 8;
const IOR_TRUNCATE: i32 = 32;

/// Whether the file may be written, by a program that passed these flags to `chfs_open`.
pub fn writes(flags: i32) -> bool {
    flags & IORS != 0 || flags & libc::O_ACCMODE != libc::O_RDONLY
}

/// How `chfs_open` opens: for reading, and for writing if the flags say so.
pub fn opening(flags: i32) -> OpenOptions {
    let ior = flags & IORS != 0;
    let has = |flag, iors| flags & (if ior { iors } else { flag }) != 0;
    let write = writes(flags);
    OpenOptions {
        read: true,
        write,
        truncate: write && has(libc::O_TRUNC, IOR_TRUNCATE),
        append: write && has(libc::O_APPEND, IOR_APPEND),
        ..OpenOptions::default()
    }
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

    /// Goal: IOR's flags are taken as it means them: it creates with 4 + 16, writes what is there with 4, reads with 1, and with 32 cuts.
    #[test]
    fn ior() {
        let created = creation(4 | 16);
        assert!(created.read && created.write && created.create && !created.create_new && !created.truncate);
        assert!(creation(4 | 16 | 32).truncate && opening(4).write && opening(4 | 8).append);
        assert!(opening(1).read);
        // IOR's request for direct I/O is 128, which is O_EXCL: several ranks create one file with it.
        assert!(!creation(4 | 16 | 128).create_new);
    }
}
