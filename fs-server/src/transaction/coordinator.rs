//! Carrying out a plan.

use std::rc::Rc;
use std::time::Duration;

use fs_proto::msg::transaction::{Decide, Prepare, TransactionId};
use fs_proto::record::Mutation;
use fs_proto::{ServerId, Status};

use super::{Part, Plan, verify};
use crate::error::{OpError, OpResult};
use crate::kv::Batch;
use crate::namespace::locks::HoldGuard;
use crate::namespace::{encode_record, keys};
use crate::worker::{Context, Worker};

/// Attempts at a change whose ground moved between planning and locking.
const ATTEMPTS: u32 = 32;

/// Plans and carries out, again when what the plan was made from changed meanwhile.
pub async fn retrying<R>(mut attempt: impl AsyncFnMut() -> OpResult<R>) -> OpResult<R> {
    for _ in 1..ATTEMPTS {
        match attempt().await {
            Err(error) if error.status == Status::Retry => {}
            outcome => return outcome,
        }
    }
    attempt().await
}

/// Carries out `plan` for the request in `context`; `remember` is what a retry of it is answered with.
pub async fn run(worker: &Rc<Worker>, plan: Plan, remember: Option<Mutation>) -> OpResult<()> {
    let me = worker.node.id();
    if plan.parts.keys().all(|server| *server == me) {
        let part = plan.parts.into_values().next().unwrap_or_default();
        return run_here(worker, part, remember).await;
    }
    detached(worker, plan, remember, None).await
}

/// As [`run`], for a caller that holds keys of this server already: they are not taken again.
pub async fn run_holding(worker: &Rc<Worker>, plan: Plan, hold: HoldGuard) -> OpResult<()> {
    detached(worker, plan, None, Some(hold)).await
}

/// For operations: remembers the request as done with `ino`.
pub async fn run_for(
    worker: &Rc<Worker>,
    plan: Plan,
    context: &Context,
    ino: fs_proto::InodeId,
) -> OpResult<()> {
    run(worker, plan, context.remember(ino)).await
}

async fn run_here(worker: &Rc<Worker>, mut part: Part, remember: Option<Mutation>) -> OpResult<()> {
    part.mutations.extend(remember);
    let node = &worker.node;
    let set = part.lock_set();
    node.namespace
        .locks()
        .with(&set, || {
            verify(node, &part.checks)?;
            node.namespace.commit(&part.mutations)
        })
        .await
}

/// In a task of its own, so that a connection that breaks does not leave a transaction half run.
async fn detached(
    worker: &Rc<Worker>,
    plan: Plan,
    remember: Option<Mutation>,
    hold: Option<HoldGuard>,
) -> OpResult<()> {
    let own = Rc::clone(worker);
    let task = tokio::task::spawn_local(async move { distributed(&own, plan, remember, hold).await });
    task.await.unwrap_or_else(|_| Err(OpError::new(Status::Io, "the transaction's task ended unexpectedly")))
}

async fn distributed(
    worker: &Rc<Worker>,
    mut plan: Plan,
    remember: Option<Mutation>,
    mut hold: Option<HoldGuard>,
) -> OpResult<()> {
    let node = &worker.node;
    let me = node.id();
    let id = TransactionId { coordinator: me, number: node.namespace.allocator().transaction() };
    let _running = Running::begin(worker, id.number);
    let own = plan.parts.remove(&me).unwrap_or_default();
    let mut own_waits = hold.is_none();
    let mut voted = Vec::with_capacity(plan.parts.len());
    for (server, part) in plan.parts {
        if own_waits && server > me {
            own_waits = false;
            hold = Some(prepare_own(worker, &own, id, &voted).await?);
        }
        let request = Prepare { id, checks: part.checks, mutations: part.mutations };
        // A vote that got lost may have been given: such a server is told, too.
        voted.push(server);
        if let Err(error) = worker.ask(server, &request).await {
            tell(worker, id, voted, false);
            return Err(error);
        }
    }
    if own_waits {
        hold = Some(prepare_own(worker, &own, id, &voted).await?);
    } else if let Err(error) = verify(node, &own.checks) {
        tell(worker, id, voted, false);
        return Err(error);
    }
    decide(worker, id, own, remember, &voted)?;
    drop(hold);
    tell(worker, id, voted, true);
    Ok(())
}

async fn prepare_own(
    worker: &Rc<Worker>,
    own: &Part,
    id: TransactionId,
    voted: &[ServerId],
) -> OpResult<HoldGuard> {
    let hold = worker.node.namespace.locks().hold(own.lock_set()).await;
    verify(&worker.node, &own.checks).inspect_err(|_| tell(worker, id, voted.to_vec(), false))?;
    Ok(hold)
}

/// The commit point: our part and the decision in one batch.
fn decide(
    worker: &Rc<Worker>,
    id: TransactionId,
    mut own: Part,
    remember: Option<Mutation>,
    voted: &[ServerId],
) -> OpResult<()> {
    own.mutations.extend(remember);
    let mut batch = Batch::default();
    batch.put(keys::decided(id.number), encode_record(&voted.to_vec()));
    let namespace = &worker.node.namespace;
    let outcome =
        namespace.locks().with_held(&own.lock_set(), || namespace.commit_with(&own.mutations, batch));
    outcome.inspect_err(|_| tell(worker, id, voted.to_vec(), false))
}

/// Tells the others, until they have heard; a decision to commit is forgotten only then.
pub fn tell(worker: &Rc<Worker>, id: TransactionId, servers: Vec<ServerId>, commit: bool) {
    let worker = Rc::clone(worker);
    tokio::task::spawn_local(async move {
        let mut pause = Duration::from_millis(20);
        let mut left = servers;
        loop {
            let mut unheard = Vec::new();
            for server in left {
                if worker.ask(server, &Decide { id, commit }).await.is_err() {
                    unheard.push(server);
                }
            }
            // An abort need not be heard: who voted asks.
            if unheard.is_empty() || !commit || worker.node.is_stopping() {
                break forget(&worker, id, commit && unheard.is_empty());
            }
            left = unheard;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(2));
        }
    });
}

fn forget(worker: &Rc<Worker>, id: TransactionId, heard: bool) {
    if !heard {
        return;
    }
    let mut batch = Batch::default();
    batch.delete(keys::decided(id.number));
    if let Err(error) = worker.node.namespace.kv().commit(batch) {
        tracing::error!(%error, "a finished transaction could not be forgotten; it is told again after a restart");
    }
}

/// Marks a transaction as not decided yet, so that a participant that asks is told to wait.
struct Running {
    worker: Rc<Worker>,
    number: u64,
}

impl Running {
    fn begin(worker: &Rc<Worker>, number: u64) -> Self {
        worker.node.transactions.running.lock().insert(number);
        Running { worker: Rc::clone(worker), number }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.worker.node.transactions.running.lock().remove(&self.number);
    }
}
