//! How a file system is mounted.

use std::path::PathBuf;
use std::time::Duration;

/// Options of one mount.
#[derive(Debug, Clone)]
#[allow(clippy::struct_excessive_bools)] // Independent switches, as in mount(8).
pub struct MountOptions {
    /// Where: an empty directory.
    pub mount_point: PathBuf,
    /// How long the kernel trusts attributes. Zero asks every time, and bypasses the page cache for all files: the kernel drops its
    /// pages when it hears of another time of change, which the writer on another node publishes only later. The client should have the
    /// same time-outs ([`fs_client::ClientConfig::attr_ttl`]).
    pub attr_timeout: Duration,
    /// How long the kernel trusts names. Zero asks every time.
    pub entry_timeout: Duration,
    /// FUSE threads: as many operations are under way at once. At least 1.
    pub threads: usize,
    /// Other users than the one who mounts may use it. An ordinary user needs `user_allow_other` in /etc/fuse.conf.
    pub allow_other: bool,
    /// The mount goes when this process dies, however it dies. Needs fusermount3 (for root, too) and `allow_other`.
    pub auto_unmount: bool,
    /// First column of df(1) and mount(8). Without commas.
    pub fs_name: String,
    /// Refuse all changes.
    pub read_only: bool,
    /// Bypass the page cache for all files.
    pub direct_io: bool,
    /// Let the kernel hold written data back until close, fsync or its own time. For files that no other node changes meanwhile: the kernel then
    /// believes its own sizes and times, and until then what write(2) returned for is lost with this node.
    pub writeback: bool,
    /// Let the kernel read files that many nodes read from a copy on this node, by itself, where there is one when they are opened. What is open so is the file as it
    /// was at the opening: neither later writes nor locks show. Needs Linux 6.9, root, and all servers but one on other nodes; without them it has no effect.
    pub passthrough: bool,
}

impl MountOptions {
    /// Defaults: time-outs of 1 s, 4 threads, the page cache, only for the user who mounts.
    pub fn new(mount_point: impl Into<PathBuf>) -> Self {
        MountOptions {
            mount_point: mount_point.into(),
            attr_timeout: Duration::from_secs(1),
            entry_timeout: Duration::from_secs(1),
            threads: 4,
            allow_other: false,
            auto_unmount: false,
            fs_name: "hayate".to_owned(),
            read_only: false,
            direct_io: false,
            writeback: false,
            passthrough: false,
        }
    }

    /// Whether all files bypass the page cache.
    pub(crate) fn past_the_page_cache(&self) -> bool {
        self.direct_io || self.attr_timeout.is_zero()
    }
}
