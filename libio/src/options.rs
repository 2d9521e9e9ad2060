//! How a version is written.

use std::time::Duration;

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
}

impl Default for Options {
    fn default() -> Options {
        Options { timeout: TIMEOUT, flush: None }
    }
}
