//! Locks of files: set, clear, test, cancel, signs of life. The table is in `locks/`.
//!
//! # Invariants
//! - A grant is answered with attributes as of after it: what whoever held the lock before published is in them
//!   (`tests/tests/locks.rs`, `who_locks_next_sees_what_was_written`).
//! - At most [`PARKED_MAX`] answers of a thread are kept back at once, so that waiting takes no connection from those who would end it.

use std::rc::Rc;
use std::time::{Duration, Instant};

use fs_proto::lock::HeldLock;
use fs_proto::msg::lock::{
    ClientGone, LockAnswer, LockCancel, LockClear, LockOutcome, LockRenew, LockRenewed, LockSet,
    LockStanding, LockTest,
};
use fs_proto::{ClientId, Status};

use super::getattr;
use crate::error::{OpError, OpResult};
use crate::locks::{Standing, Step, Verdict};
use crate::node::Node;
use crate::worker::{Context, Worker};

/// Answers that are kept back at once, of one thread: a connection runs at most 256 requests at once, and all connections from another
/// server may be one.
pub const PARKED_MAX: usize = 128;
const _: () = assert!(PARKED_MAX < fs_net::MAX_RUNNING);

/// Locks bytes, or waits for them.
pub async fn set(worker: &Rc<Worker>, context: &Context, request: LockSet) -> OpResult<LockAnswer> {
    let (node, client) = (&worker.node, context.client());
    if client.0 == 0 || !request.range.is_valid() {
        return Err(OpError::new(Status::Invalid, "not a range of a file that a client can lock"));
    }
    if let Some(outcome) = stand(node, client, request.count.session)? {
        return Ok(answer(node, outcome));
    }
    after_grace(node)?;
    let outcome = match decide(worker, client, &request).await {
        Verdict::Granted => granted(worker, context, &request).await?,
        Verdict::Conflict(holder) => LockOutcome::Conflict { holder },
        Verdict::Waiting => LockOutcome::Waiting {},
        Verdict::Cancelled => LockOutcome::Cancelled {},
        Verdict::Deadlock => LockOutcome::Deadlock {},
        Verdict::TooMany => LockOutcome::TooMany {},
        Verdict::Late => return Err(LATE),
    };
    Ok(answer(node, outcome))
}

/// Nothing is said of locks while those of before the restart are being claimed.
fn after_grace(node: &Node) -> OpResult<()> {
    if node.locks.is_in_grace(Instant::now()) {
        return Err(OpError::new(
            Status::Retry,
            "the server was restarted: locks of before are claimed first",
        ));
    }
    Ok(())
}

/// Nobody waits for this answer.
const LATE: OpError =
    OpError::new(Status::Invalid, "a copy of a request about locks that was answered before");

fn answer(node: &Node, outcome: LockOutcome) -> LockAnswer {
    let lease_ms = node.locks.lease().as_millis() as u32;
    LockAnswer { outcome, session: node.locks.session(), lease_ms }
}

/// Lets a client in; None if it may lock.
fn stand(node: &Node, client: ClientId, session: u64) -> OpResult<Option<LockOutcome>> {
    let now = Instant::now();
    match node.locks.stand(client, session, now) {
        Standing::Known => Ok(None),
        Standing::New => node.locks.enter(&node.namespace, client, now).map(|()| None),
        Standing::Restarted => Ok(Some(LockOutcome::Restarted {})),
        Standing::Lost => Ok(Some(LockOutcome::Lost {})),
    }
}

async fn decide(worker: &Rc<Worker>, client: ClientId, request: &LockSet) -> Verdict {
    let locks = &worker.node.locks;
    let parked = &worker.parked;
    let mut asked = request.clone();
    if parked.get() >= PARKED_MAX {
        asked.wait_ms = asked.wait_ms.map(|_| 0);
    }
    let mut told = match locks.set(client, &asked, Instant::now()) {
        Step::Now(verdict) => return verdict,
        Step::Later(told) => told,
    };
    let _place = Parked::take(worker);
    let limit = Duration::from_millis(u64::from(asked.wait_ms.unwrap_or(0)));
    match tokio::time::timeout(limit, &mut told).await {
        Ok(verdict) => verdict.unwrap_or(Verdict::Waiting), // Another sending of the request has taken this one's place.
        Err(_) if locks.unpark(client, request, Instant::now()) => Verdict::Waiting,
        Err(_) => told.try_recv().unwrap_or(Verdict::Waiting),
    }
}

/// One of [`PARKED_MAX`].
struct Parked(Rc<Worker>);

impl Parked {
    fn take(worker: &Rc<Worker>) -> Parked {
        worker.parked.set(worker.parked.get() + 1);
        Parked(Rc::clone(worker))
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        self.0.parked.set(self.0.parked.get() - 1);
    }
}

async fn granted(worker: &Rc<Worker>, context: &Context, request: &LockSet) -> OpResult<LockOutcome> {
    match getattr::home_attributes(worker, request.ino, Some(context.asker())).await {
        Ok(attr) => Ok(LockOutcome::Granted { attr }),
        Err(error) => {
            worker.node.locks.take_back(context.client(), request);
            Err(error)
        }
    }
}

/// Unlocks bytes.
#[allow(clippy::unused_async)] // One signature for all operations.
pub async fn clear(worker: &Rc<Worker>, context: &Context, request: LockClear) -> OpResult<LockAnswer> {
    let (node, client) = (&worker.node, context.client());
    if !request.range.is_valid() {
        return Err(OpError::new(Status::Invalid, "not a range of a file"));
    }
    let now = Instant::now();
    let outcome = match node.locks.stand(client, request.count.session, now) {
        Standing::Known if node.locks.clear(client, &request) => LockOutcome::Cleared {},
        Standing::Known => return Err(LATE),
        Standing::New => LockOutcome::Cleared {},
        Standing::Restarted => LockOutcome::Restarted {},
        Standing::Lost => LockOutcome::Lost {},
    };
    Ok(answer(node, outcome))
}

/// Who is in the way?
#[allow(clippy::unused_async)]
pub async fn test(worker: &Rc<Worker>, context: &Context, request: LockTest) -> OpResult<Option<HeldLock>> {
    let node = &worker.node;
    after_grace(node)?;
    Ok(node.locks.test(context.client(), &request))
}

/// Ends the waiting of a request.
#[allow(clippy::unused_async)]
pub async fn cancel(worker: &Rc<Worker>, context: &Context, request: LockCancel) -> OpResult<()> {
    worker.node.locks.cancel(context.client(), request.ino, request.serial);
    Ok(())
}

/// A sign of life; after a restart, claims.
#[allow(clippy::unused_async)]
pub async fn renew(worker: &Rc<Worker>, context: &Context, request: LockRenew) -> OpResult<LockRenewed> {
    let (node, client) = (&worker.node, context.client());
    let locks = &node.locks;
    let now = Instant::now();
    let mut standing = locks.stand(client, request.session, now);
    if standing == Standing::Lost && locks.is_expected(client, now) {
        locks.enter(&node.namespace, client, now)?;
        standing = Standing::Known;
    }
    let standing = match standing {
        Standing::Known => {
            LockStanding::Known { refused: locks.claim(client, &request.claims, request.more, now) }
        }
        // It holds nothing, so there is nothing to keep alive.
        Standing::New => LockStanding::Known { refused: Vec::new() },
        Standing::Restarted => LockStanding::Restarted {},
        Standing::Lost => LockStanding::Lost {},
    };
    if request.leave {
        locks.leave(&node.namespace, client)?;
    }
    let lease_ms = locks.lease().as_millis() as u32;
    Ok(LockRenewed { standing, session: locks.session(), lease_ms })
}

/// A client's process has ended.
#[allow(clippy::unused_async)]
pub async fn client_gone(worker: &Rc<Worker>, _: &Context, request: ClientGone) -> OpResult<()> {
    let node = &worker.node;
    if node.locks.is_known(request.client) {
        node.locks.expel(&node.namespace, request.client)?;
    }
    Ok(())
}
