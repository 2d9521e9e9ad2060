//! Room for the contents of small files: the key-value store fails for good when the file system is full, so they are refused before.
//!
//! # Invariants
//! - Contents leave what chunks leave: a reserve for names, deletions and compaction (`a_full_file_system_is_noticed`).
//! - The kernel is asked at most every [`HOLDS`], and no less often while contents are written.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use fs_proto::Status;

use crate::error::{OpError, OpResult};
use crate::node::Node;
use crate::store::StoreOptions;

/// How long an answer of the kernel holds: less than it takes to write the reserve.
const HOLDS: Duration = Duration::from_millis(50);

/// What is known of the room.
#[derive(Default)]
pub struct Space {
    /// Milliseconds since the server's start, plus one, of the last look; 0 before the first.
    looked: AtomicU64,
    full: AtomicBool,
}

impl Space {
    /// Refuses when the file system has no room for contents.
    pub fn check(&self, node: &Node) -> OpResult<()> {
        let now = node.started.elapsed().as_millis() as u64 + 1;
        let looked = self.looked.load(Ordering::Relaxed);
        if looked == 0 || now - looked.min(now) >= HOLDS.as_millis() as u64 {
            self.looked.store(now, Ordering::Relaxed);
            let full = node.store_dirs().first().is_some_and(|dir| is_full(dir));
            self.full.store(full, Ordering::Relaxed);
        }
        if self.full.load(Ordering::Relaxed) {
            return Err(OpError::new(Status::NoSpace, "no space left on the server's file system"));
        }
        Ok(())
    }
}

/// A file system that cannot tell is not full: the store will say so.
fn is_full(dir: &Path) -> bool {
    let Ok(info) = rustix::fs::statvfs(dir) else { return false };
    leaves_no_room(info.f_blocks * info.f_frsize, info.f_bavail * info.f_frsize)
}

fn leaves_no_room(total_bytes: u64, free_bytes: u64) -> bool {
    free_bytes < StoreOptions::default().reserve_bytes.min(total_bytes / 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_system_is_noticed() {
        let (gib, mib) = (1 << 30, 1 << 20);
        assert!(!leaves_no_room(100 * gib, 300 * mib));
        assert!(leaves_no_room(100 * gib, 200 * mib));
        assert!(!leaves_no_room(gib, 65 * mib), "a small one keeps a sixteenth");
        assert!(leaves_no_room(gib, 63 * mib));
    }
}
