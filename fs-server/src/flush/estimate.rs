//! Bytes that wait for being flushed, and how fast flushing goes.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use fs_proto::{FileKind, InodeId};

use super::outcome::FlushResult;
use crate::node::Node;

/// Names whose sizes are added up.
const SAMPLE: usize = 1_000;

/// Estimates the bytes that pending names stand for, from some of them.
pub fn estimate(node: &Node) {
    node.flusher.control.begin_estimate();
    let queue = node.namespace.queue();
    let some = queue.some_names(SAMPLE);
    let sizes = some.iter().map(|(parent, name)| size_of(node, *parent, name).unwrap_or(0));
    let sum: u64 = sizes.sum();
    let total = if some.len() < SAMPLE {
        sum
    } else {
        // Parked names are left out: they wait for somebody else.
        let all = (queue.len().0 as u64).saturating_sub(queue.parked() as u64);
        let sampled = some.len() as u64;
        (u128::from(sum) * u128::from(all.max(sampled)) / u128::from(sampled)) as u64
    };
    let flusher = &node.flusher;
    flusher.account.pending_bytes.store(total, Ordering::Relaxed);
    let (copied, failures) = flusher.account.counts();
    let has_failed = flusher.failures_seen.swap(failures, Ordering::Relaxed) != failures;
    flusher.control.measure(copied, !has_failed && !queue.is_busy());
    flusher.control.ease();
}

/// Size of the file under a name, if its inode lives here.
fn size_of(node: &Node, parent: InodeId, name: &Bytes) -> FlushResult<u64> {
    let Some(entry) = node.namespace.entry(parent, name)?.filter(|entry| entry.kind == FileKind::File) else {
        return Ok(0);
    };
    if !node.owns(entry.ino.partition()) {
        return Ok(0);
    }
    Ok(node.namespace.inode(entry.ino)?.map_or(0, |inode| inode.attr.size))
}
