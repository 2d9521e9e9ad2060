//! A small file system of a test's own, which can be filled. Mounting it takes root.

use std::path::Path;
use std::process::Command;

/// A mounted file system, unmounted at the end.
pub struct Mount(tempfile::TempDir);

impl Mount {
    /// None where this user may not mount, which is noted.
    pub fn of_mib(mib: u32) -> Option<Mount> {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={mib}m");
        let status =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "none"]).arg(dir.path()).status();
        if status.is_ok_and(|s| s.success()) {
            return Some(Mount(dir));
        }
        crate::skip::note("mounting a small file system needs root");
        None
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let status = Command::new("umount").arg(self.path()).status();
        assert!(
            std::thread::panicking() || status.is_ok_and(|s| s.success()),
            "cannot unmount the test's file system"
        );
    }
}
