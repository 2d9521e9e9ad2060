//! The other servers' side of a transaction.

use std::rc::Rc;
use std::time::{Duration, Instant};

use fs_proto::msg::transaction::{Decide, Outcome, Prepare, TREE_LOCK_MS, TransactionId, TreeLock, Verdict};
use fs_proto::{InodeId, Status};

use super::{Prepared, lock_set, verify};
use crate::error::{OpError, OpResult};
use crate::kv::Batch;
use crate::namespace::{encode_record, keys};
use crate::node::Node;
use crate::worker::{Context, Worker};

/// How long a vote waits for locks: less than the coordinator waits for the vote.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// First phase: lock, check, remember, vote.
pub async fn prepare(worker: &Rc<Worker>, _: &Context, request: Prepare) -> OpResult<()> {
    let node = &worker.node;
    if node.transactions.prepared.lock().contains_key(&request.id) {
        return Ok(());
    }
    let set = lock_set(&request.checks, &request.mutations);
    let waiting = node.namespace.locks().hold(set);
    let Ok(hold) = tokio::time::timeout(LOCK_WAIT, waiting).await else {
        return Err(OpError::new(Status::Retry, "a name stayed locked by another change"));
    };
    verify(node, &request.checks)?;
    let mut batch = Batch::default();
    batch.put(keys::prepared(request.id), encode_record(&request));
    node.namespace.kv().commit(batch)?;
    let prepared = Prepared { request, since: Instant::now(), hold };
    node.transactions.prepared.lock().insert(prepared.request.id, prepared);
    Ok(())
}

/// Second phase: apply or forget.
#[allow(clippy::unused_async)] // One signature for all operations.
pub async fn decide(worker: &Rc<Worker>, _: &Context, request: Decide) -> OpResult<()> {
    conclude(&worker.node, request.id, request.commit)
}

/// Ends a prepared transaction. One that is not prepared has ended before.
pub fn conclude(node: &Node, id: TransactionId, commit: bool) -> OpResult<()> {
    let Some(prepared) = node.transactions.prepared.lock().remove(&id) else { return Ok(()) };
    let mut batch = Batch::default();
    batch.delete(keys::prepared(id));
    let mutations: &[_] = if commit { &prepared.request.mutations } else { &[] };
    let namespace = &node.namespace;
    let outcome =
        namespace.locks().with_held(prepared.hold.set(), || namespace.commit_with(mutations, batch));
    if outcome.is_err() {
        // Still prepared: the coordinator tells again.
        node.transactions.prepared.lock().insert(id, prepared);
    }
    outcome
}

/// How a transaction of ours ended.
#[allow(clippy::unused_async)]
pub async fn outcome(worker: &Rc<Worker>, _: &Context, request: Outcome) -> OpResult<Verdict> {
    let node = &worker.node;
    // In this order: a transaction leaves `running` after its decision is stored.
    let running = node.transactions.running.lock().contains(&request.id.number);
    if node.namespace.kv().get(&keys::decided(request.id.number))?.is_some() {
        return Ok(Verdict::Committed);
    }
    Ok(if running { Verdict::Open } else { Verdict::Aborted })
}

/// The right to move directories between directories, one at a time in the whole cluster: two such moves at once could build a cycle.
#[allow(clippy::unused_async)]
pub async fn tree_lock(worker: &Rc<Worker>, _: &Context, request: TreeLock) -> OpResult<()> {
    let node = &worker.node;
    if !node.owns(InodeId::ROOT.partition()) {
        return Err(OpError::new(Status::StaleEpoch, "the root directory lives elsewhere"));
    }
    let term = Duration::from_millis(u64::from(TREE_LOCK_MS));
    // A lock that was given before a restart is forgotten: until its term is over, none is given.
    if node.started.elapsed() < term && node.namespace.allocator().is_restart() {
        return Err(OpError::new(Status::Retry, "the server has just restarted"));
    }
    let mut tree = node.transactions.tree.lock();
    let holder = tree.filter(|(_, since)| since.elapsed() < term).map(|(id, _)| id);
    match (request.take, holder) {
        (true, Some(other)) if other != request.id => {
            Err(OpError::new(Status::Busy, "another directory is being moved"))
        }
        (true, _) => {
            *tree = Some((request.id, Instant::now()));
            Ok(())
        }
        (false, Some(other)) if other == request.id => {
            *tree = None;
            Ok(())
        }
        (false, _) => Ok(()),
    }
}
