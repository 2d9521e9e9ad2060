//! Versions of a set by two ranks, a region each.

use super::{Sandbox, pattern};
use fs_client::{Client, ClientConfig};
use libio::Checkpoints;
use std::time::Duration;

/// The set.
pub const SET: &str = "set";
/// Bytes of a rank's region.
pub const BYTES: usize = (4 << 20) + 99;

/// The checkpoints of a sandbox, by a client of its own.
pub fn checkpoints(sandbox: &Sandbox) -> Checkpoints {
    let mut config = ClientConfig::load(&sandbox.path("c.toml")).unwrap();
    config.timeout = Duration::from_secs(5);
    Checkpoints::open(Client::connect(config).unwrap(), "/checkpoints").unwrap().with_group("test")
}

/// What a rank writes.
pub fn content(version: u64, rank: u32) -> Vec<u8> {
    let mut content = pattern(BYTES);
    for byte in &mut content {
        *byte ^= (version * 16 + u64::from(rank)) as u8;
    }
    content
}

/// Both ranks' regions are what they wrote.
pub fn assert_whole(checkpoints: &Checkpoints, version: u64) {
    let snapshot = checkpoints.snapshot(SET, version).unwrap();
    for rank in 0..2 {
        let mut found = vec![0; BYTES];
        snapshot.read(&format!("field.{rank}"), 0, &mut found).unwrap();
        assert!(found == content(version, rank), "version {version}, rank {rank}");
    }
}
