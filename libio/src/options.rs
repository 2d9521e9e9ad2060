//! How a version is written.

use std::time::Duration;

use crate::pack::Packing;

/// How long ranks wait for each other at a commit, if nothing is said.
const TIMEOUT: Duration = Duration::from_secs(600);

/// How a version is written. All ranks of a version give the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// How long [`crate::Writer::commit`] waits for the other ranks before the version is aborted for all. Default 10 minutes.
    pub timeout: Duration,
    /// When the servers copy the data to the shared tier: `close`, `idle:SECONDS`, `demand` or `never`; absent: what holds for the
    /// directory (`close`, if nothing was said).
    pub flush: Option<String>,
    /// What the data survive.
    pub redundancy: Redundancy,
    /// Store only blocks of 1 MiB that differ (by a hash of 128 bits) from those that this rank wrote in the newest version before this one; the others stay where
    /// they are, as long as a version needs them. Regions are then not readable by their path.
    pub incremental: bool,
    /// Compress blocks by zstd at this level (1 is fast), where that saves an eighth or more. Regions are then not readable by their path.
    pub compress: Option<i32>,
}

/// What data survive in tier 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Redundancy {
    /// No loss of a server's store; the data are spread over all servers.
    #[default]
    None,
    /// The loss of as many servers: the data lie with a server of the writer's node, and so many copies with others.
    Copies(u8),
    /// The loss of `extra` servers: the data are spread over `data` servers, and Reed-Solomon parity over `extra` others. Takes `extra / data` of
    /// the space more, and all data cross the network.
    Parity {
        /// Servers with data, at least 2.
        data: u8,
        /// Servers with parity, at least 1.
        extra: u8,
    },
}

impl Redundancy {
    /// Parts with data, and parts besides; none without redundancy.
    pub(crate) fn parts(self) -> Option<(usize, usize)> {
        match self {
            Redundancy::None | Redundancy::Copies(0) => None,
            Redundancy::Copies(extra) => Some((1, extra.into())),
            Redundancy::Parity { data, extra } => Some((data.into(), extra.into())),
        }
    }
}

impl Options {
    /// How blocks are packed, if they are.
    pub(crate) fn packing(&self) -> Option<Packing> {
        let Options { incremental, compress, .. } = *self;
        (incremental || compress.is_some()).then_some(Packing { incremental, compress })
    }
}

impl Default for Options {
    fn default() -> Options {
        Options {
            timeout: TIMEOUT,
            flush: None,
            redundancy: Redundancy::None,
            incremental: false,
            compress: None,
        }
    }
}
