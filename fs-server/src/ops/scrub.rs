//! Verifying what the server holds, a step at a time, on a thread of its own: first the records of the key-value store, then the
//! chunks of each device.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use fs_proto::msg::scrub::{Damage, Scrub, ScrubCursor, Scrubbed};
use fs_proto::{InodeId, Status};

use crate::error::{OpError, OpResult};
use crate::flush::{FlushItem, path_of};
use crate::kv::{Kv, KvError};
use crate::namespace::keys;
use crate::node::Node;
use crate::store::{ChunkKey, StoreError};
use crate::worker::{Context, Worker};

/// What one step found, before names are known.
#[derive(Default)]
struct Step {
    next: Option<ScrubCursor>,
    records: u64,
    chunks: u64,
    bytes: u64,
    repaired: u64,
    inodes: Vec<InodeId>,
    others: Vec<String>,
}

/// Verifies a part of what is here.
pub async fn scrub(worker: &Rc<Worker>, _: &Context, request: Scrub) -> OpResult<Scrubbed> {
    let node = Arc::clone(&worker.node);
    let step = tokio::task::spawn_blocking(move || step(&node, request))
        .await
        .map_err(|gone| OpError::because(Status::Io, format!("the scrub ended: {gone}")))??;
    let mut damaged = Vec::new();
    for ino in step.inodes {
        let what = path_of(worker, &FlushItem::Inode(ino)).await;
        damaged.push(Damage { ino: Some(ino), what });
    }
    damaged.extend(step.others.into_iter().map(|what| Damage { ino: None, what: Bytes::from(what) }));
    let Step { next, records, chunks, bytes, repaired, .. } = step;
    Ok(Scrubbed { next, records, chunks, bytes, repaired, damaged })
}

fn step(node: &Node, request: Scrub) -> OpResult<Step> {
    match request.after {
        None => records(&**node.namespace.kv()),
        Some(ScrubCursor { device, last }) => chunks(node, device, last, request.budget_bytes),
    }
}

/// Reads all records.
fn records(kv: &dyn Kv) -> OpResult<Step> {
    let report = kv.verify()?;
    let mut step = Step { records: report.keys, ..Step::default() };
    for key in &report.damaged {
        match keys::split_inode(key).filter(|_| keys::is_of_inode(key)) {
            Some(ino) => step.inodes.push(ino),
            None => step.others.push(format!("record {}", hex::encode(key))),
        }
    }
    let ranges = report.unreadable.iter();
    step.others.extend(ranges.map(|(from, to)| {
        format!("records from {} to {} cannot be read", hex::encode(from), hex::encode(to))
    }));
    step.inodes.dedup();
    step.next = Some(ScrubCursor { device: 0, last: None });
    Ok(step)
}

fn chunks(
    node: &Node,
    device: u16,
    last: Option<(InodeId, fs_proto::ChunkIndex)>,
    budget_bytes: u64,
) -> OpResult<Step> {
    let devices = node.store.stores().len() as u16;
    if device >= devices {
        return Err(OpError::new(Status::Invalid, "there is no such device"));
    }
    let after = last.map(|(ino, chunk)| ChunkKey { ino, chunk });
    let next_device = (device + 1 < devices).then_some(ScrubCursor { device: device + 1, last: None });
    let page = match node.store.scrub(usize::from(device), after, budget_bytes) {
        Err(error @ StoreError::Index(KvError::Corrupt(_))) => {
            // Which chunks come next is not known.
            let from = after.map_or(InodeId(0), |key| key.ino);
            let what = format!("chunks of device {device} from inode {from:?} on were not verified: {error}");
            return Ok(Step { next: next_device, others: vec![what], ..Step::default() });
        }
        page => page?,
    };
    let mut inodes: Vec<_> = page.damaged.iter().map(|key| key.ino).collect();
    inodes.dedup();
    let next = match page.next {
        Some(key) => Some(ScrubCursor { device, last: Some((key.ino, key.chunk)) }),
        None => next_device,
    };
    let (chunks, bytes, repaired) = (page.chunks, page.bytes, page.repaired);
    Ok(Step { next, chunks, bytes, repaired, inodes, ..Step::default() })
}
