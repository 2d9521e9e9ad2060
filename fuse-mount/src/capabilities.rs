//! What is asked of the kernel when the session starts.

use fuser::{InitFlags, KernelConfig};

/// Largest write request, in bytes. The kernel takes the smaller of this and /proc/sys/fs/fuse/max_pages_limit, which is 1 MiB
/// unless the administrator raised it.
const MAX_WRITE_BYTES: u32 = 4 << 20;

/// Requests of read-ahead and asynchronous I/O that may be under way; the kernel's default of 12 starves read-ahead.
const MAX_BACKGROUND: u16 = 128;

/// Everything that helps where the kernel has it.
///
/// `HANDLE_KILLPRIV_V2` moves the clearing of setuid and setgid bits from the kernel to the adapter, which does it at writes
/// that ask for it, at truncation and at changes of owner. Without it the kernel reads the attribute `security.capability`
/// before every write: one more round trip.
///
/// `POSIX_ACL` makes the kernel ask for access control lists when it checks permissions, `DONT_MASK` leaves the umask to the server, which
/// knows whether a directory's default list takes its place.
const WANTED: InitFlags = InitFlags::FUSE_ASYNC_READ
    .union(InitFlags::FUSE_BIG_WRITES)
    .union(InitFlags::FUSE_MAX_PAGES)
    .union(InitFlags::FUSE_ATOMIC_O_TRUNC)
    .union(InitFlags::FUSE_PARALLEL_DIROPS)
    .union(InitFlags::FUSE_DO_READDIRPLUS)
    .union(InitFlags::FUSE_READDIRPLUS_AUTO)
    .union(InitFlags::FUSE_ASYNC_DIO)
    .union(InitFlags::FUSE_AUTO_INVAL_DATA)
    .union(InitFlags::FUSE_HANDLE_KILLPRIV_V2)
    .union(InitFlags::FUSE_CACHE_SYMLINKS)
    .union(InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP)
    .union(InitFlags::FUSE_POSIX_LOCKS)
    .union(InitFlags::FUSE_FLOCK_LOCKS)
    .union(InitFlags::FUSE_POSIX_ACL)
    .union(InitFlags::FUSE_DONT_MASK);

/// Never asked for: the kernel would stop telling of opens.
const REFUSED: InitFlags = InitFlags::FUSE_NO_OPEN_SUPPORT.union(InitFlags::FUSE_NO_OPENDIR_SUPPORT);

/// Asked for only by [`crate::MountOptions::writeback`]: the kernel holds written data back.
const WRITEBACK: InitFlags = InitFlags::FUSE_WRITEBACK_CACHE;

/// Asked for only by [`crate::MountOptions::passthrough`]: the kernel reads copies by itself. It does not go together with the former.
const PASSTHROUGH: InitFlags = InitFlags::FUSE_PASSTHROUGH;

/// File systems that may lie upon each other where copies are: the store's is one.
const STACKED: u32 = 1;

const _: () = assert!(WANTED.intersection(REFUSED).is_empty());
const _: () = assert!(WANTED.intersection(WRITEBACK.union(PASSTHROUGH)).is_empty());

/// What is asked for by an option.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Asked {
    pub(crate) writeback: bool,
    pub(crate) passthrough: bool,
}

/// What to ask of a kernel that offers `offered`.
fn choose(offered: InitFlags, asked: Asked) -> InitFlags {
    let mut wanted = WANTED;
    if asked.writeback {
        wanted |= WRITEBACK;
    }
    if asked.passthrough {
        wanted |= PASSTHROUGH;
    }
    wanted.intersection(offered)
}

/// Settles the session's parameters with the kernel; answers whether it is to read copies by itself.
pub(crate) fn negotiate(config: &mut KernelConfig, asked: Asked) -> bool {
    let chosen = choose(config.capabilities(), asked);
    // Chosen from the offer, so none is left over.
    if let Err(left) = config.add_capabilities(chosen) {
        tracing::error!(?left, "the kernel offered capabilities and does not take them");
    }
    // On refusal both answer the nearest value that the library takes; that one it is.
    if let Err(nearest) = config.set_max_write(MAX_WRITE_BYTES) {
        let _ = config.set_max_write(nearest);
    }
    if let Err(nearest) = config.set_max_background(MAX_BACKGROUND) {
        let _ = config.set_max_background(nearest);
    }
    let passes = chosen.contains(PASSTHROUGH) && config.set_max_stack_depth(STACKED).is_ok();
    tracing::debug!(kernel = ?config.kernel_abi(), offered = ?config.capabilities(), ?chosen, "FUSE session");
    passes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_offered_is_asked_for() {
        let offered = InitFlags::FUSE_ASYNC_READ | InitFlags::FUSE_WRITEBACK_CACHE;
        let asked = |writeback, passthrough| Asked { writeback, passthrough };
        assert_eq!(choose(offered, asked(false, true)), InitFlags::FUSE_ASYNC_READ);
        assert_eq!(choose(offered, asked(true, false)), offered);
        assert_eq!(choose(InitFlags::empty(), asked(true, true)), InitFlags::empty());
    }

    #[test]
    fn an_offer_of_everything_gets_nothing_that_is_refused() {
        assert_eq!(choose(InitFlags::all(), Asked::default()), WANTED);
        let all = choose(InitFlags::all(), Asked { writeback: true, passthrough: true });
        assert!(all.intersection(REFUSED).is_empty() && all.contains(PASSTHROUGH));
    }
}
