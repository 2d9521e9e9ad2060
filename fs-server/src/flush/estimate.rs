//! Bytes that wait for being flushed, and how fast flushing goes.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use fs_proto::{FileKind, InodeId};

use super::remote;
use crate::error::OpResult;
use crate::node::Node;

/// Names whose sizes are added up.
const SAMPLE: usize = 1_000;

/// Estimates the bytes that pending names stand for, from some of them.
pub fn estimate(node: &Node) {
    node.flusher.control.begin_estimate();
    let queue = node.namespace.queue();
    let some = queue.some_names(SAMPLE);
    let sizes = some.iter().map(|(parent, name, ino)| size_of(node, (*parent, name), *ino).unwrap_or(0));
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
fn size_of(node: &Node, name: (InodeId, &Bytes), known: Option<InodeId>) -> OpResult<u64> {
    let inode = remote::inode_here(node, name, known)?.filter(|inode| inode.attr.kind == FileKind::File);
    Ok(inode.map_or(0, |inode| inode.attr.size))
}
