//! Requests that clients sent again: a mutation runs once at a time, and a first sending that comes late does not run at all.
//!
//! # Invariants
//! - Of a lane of a client one mutation runs, which is not begun a second time (`what_runs_is_not_begun_again`).
//! - Once a request was sent again, its first sending is refused: that was under way when its connection broke, by another server perhaps, and
//!   would undo what came after the answer (`a_first_sending_that_comes_late_is_refused`).
//! - What is remembered of requests that were sent again is bounded: twice [`REPEATED_MAX`].

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};

use fs_proto::{ClientId, Flags, Header, Status};
use parking_lot::Mutex;

use crate::error::{OpError, OpResult};
use crate::hash::Map;

/// Requests remembered as sent again, in each of two generations.
const REPEATED_MAX: usize = 32_768;

/// See the module.
#[derive(Default)]
pub struct Executions {
    running: Mutex<Map<(ClientId, u16), u64>>,
    repeated: Mutex<Repeated>,
    /// Something is in `repeated`.
    any_repeated: AtomicBool,
}

#[derive(Default)]
struct Repeated {
    young: HashSet<(ClientId, u64)>,
    old: HashSet<(ClientId, u64)>,
}

/// A mutation that runs, until dropped.
pub struct Execution<'a> {
    of: &'a Executions,
    client: ClientId,
    lane: u16,
    count: u64,
}

impl Drop for Execution<'_> {
    fn drop(&mut self) {
        let mut running = self.of.running.lock();
        if running.get(&(self.client, self.lane)) == Some(&self.count) {
            running.remove(&(self.client, self.lane));
        }
    }
}

impl Repeated {
    fn note(&mut self, request: (ClientId, u64)) {
        if self.young.len() >= REPEATED_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(request);
    }

    fn has(&self, request: (ClientId, u64)) -> bool {
        self.young.contains(&request) || self.old.contains(&request)
    }
}

impl Executions {
    /// Begins a request, unless it is a late first sending, or a mutation that runs already (its connection broke, and it was sent again).
    ///
    /// # Errors
    /// [`Status::Retry`] then.
    pub fn begin(&self, header: &Header) -> OpResult<Option<Execution<'_>>> {
        if header.client.0 == 0 {
            return Ok(None);
        }
        let request = (header.client, header.sequence);
        if header.flags.has(Flags::RETRY) {
            self.repeated.lock().note(request);
            self.any_repeated.store(true, Ordering::Release);
        } else if self.any_repeated.load(Ordering::Acquire) && self.repeated.lock().has(request) {
            return Err(OpError::new(Status::Retry, "the same request was sent again since"));
        }
        if !header.op.is_mutation() {
            return Ok(None);
        }
        let (lane, count) = header.lane_and_count();
        let mut running = self.running.lock();
        if running.get(&(header.client, lane)) == Some(&count) {
            return Err(OpError::new(Status::Retry, "the same request is still running"));
        }
        running.insert((header.client, lane), count);
        Ok(Some(Execution { of: self, client: header.client, lane, count }))
    }
}

#[cfg(test)]
mod tests {
    use fs_proto::{Op, Partition};

    use super::*;

    fn sent(op: Op, count: u64) -> Header {
        Header { client: ClientId(7), sequence: 3 << 48 | count, ..Header::request(op, Partition(0)) }
    }

    fn again(op: Op, count: u64) -> Header {
        let flags = Flags::default().with(Flags::RETRY);
        Header { flags, ..sent(op, count) }
    }

    #[test]
    fn what_runs_is_not_begun_again() {
        let executions = Executions::default();
        let running = executions.begin(&sent(Op::Unlink, 1)).unwrap();
        assert!(running.is_some() && executions.begin(&again(Op::Unlink, 1)).is_err());
        drop(running);
        assert!(executions.begin(&again(Op::Unlink, 1)).unwrap().is_some());
        assert!(executions.running.lock().is_empty());
    }

    #[test]
    fn a_first_sending_that_comes_late_is_refused() {
        let executions = Executions::default();
        for op in [Op::Unlink, Op::WriteChunk, Op::WriteInline] {
            let count = op as u64;
            drop(executions.begin(&again(op, count)).unwrap());
            assert!(executions.begin(&sent(op, count)).is_err(), "{op:?}");
            assert!(executions.begin(&again(op, count)).is_ok(), "{op:?}: a third sending");
            assert!(executions.begin(&sent(op, count + 1000)).is_ok(), "{op:?}: another request");
        }
        for count in 0..3 * REPEATED_MAX as u64 {
            executions.begin(&again(Op::WriteChunk, count)).unwrap();
        }
        let repeated = executions.repeated.lock();
        assert!(repeated.young.len() + repeated.old.len() <= 2 * REPEATED_MAX);
    }
}
