//! After a restart, and while a coordinator is silent: finish what was begun.

use std::rc::Rc;
use std::time::{Duration, Instant};

use fs_proto::ServerId;
use fs_proto::msg::transaction::{Outcome, Prepare, TransactionId, Verdict};

use super::{Prepared, coordinator, lock_set, participant};
use crate::error::OpResult;
use crate::namespace::{decode_record, keys};
use crate::node::Node;
use crate::worker::Worker;

/// A vote older than this is asked about.
const SILENCE: Duration = Duration::from_secs(3);

/// Takes the locks of all prepared transactions again, before the first request is served.
pub async fn restore_prepared(node: &Node) -> OpResult<usize> {
    let mut count = 0;
    for key in node.namespace.keys_of_kind(b'p', usize::MAX)? {
        let Some(request) = node.namespace.record::<Prepare>(&key)? else { continue };
        let hold = node.namespace.locks().hold(lock_set(&request.checks, &request.mutations)).await;
        // Asked about at once: its coordinator may have decided long ago.
        let since = Instant::now().checked_sub(SILENCE).unwrap_or_else(Instant::now);
        node.transactions.prepared.lock().insert(request.id, Prepared { request, since, hold });
        count += 1;
    }
    Ok(count)
}

/// Tells the decisions that not everybody had heard before the restart.
pub fn retell_decisions(worker: &Rc<Worker>) -> OpResult<usize> {
    let namespace = &worker.node.namespace;
    let decisions = namespace.keys_of_kind(b'c', usize::MAX)?;
    for key in &decisions {
        let Some(number) = keys::split_decided(key) else { continue };
        let Some(stored) = namespace.kv().get(key)? else { continue };
        let voted: Vec<ServerId> = decode_record(stored)?;
        coordinator::tell(worker, TransactionId { coordinator: worker.node.id(), number }, voted, true);
    }
    Ok(decisions.len())
}

/// Asks about votes whose decision does not come; to be called every second or so.
pub async fn ask_about_silent(worker: &Rc<Worker>) {
    let silent: Vec<TransactionId> = {
        let prepared = worker.node.transactions.prepared.lock();
        prepared.values().filter(|vote| vote.since.elapsed() >= SILENCE).map(|vote| vote.request.id).collect()
    };
    for id in silent {
        let verdict = match worker.ask(id.coordinator, &Outcome { id }).await {
            Ok(Verdict::Open) => continue,
            Ok(verdict) => verdict,
            Err(error) => {
                tracing::debug!(?id, message = %error.message, "the coordinator of a prepared transaction is silent");
                continue;
            }
        };
        if let Err(error) = participant::conclude(&worker.node, id, verdict == Verdict::Committed) {
            tracing::error!(?id, message = %error.message, "a transaction could not be concluded; it is tried again");
        }
    }
}
