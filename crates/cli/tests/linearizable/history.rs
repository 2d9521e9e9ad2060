//! What clients did, when each call began and when its answer came.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use porcupine_rs::{CheckResult, Model, Operation};

/// How long the search for an order may take; a history without one is told as such long before.
const SEARCH: Duration = Duration::from_secs(60);

/// Calls that may have happened twice on one object: a client has one under way, and few kills meet one object.
const REPEATED_MAX: usize = 10;

/// Calls on one object before all clients go on to the next, so that they meet, and each search stays small.
const CALLS_EACH: usize = 80;

/// The answer to a call.
pub enum Came {
    /// It came.
    Answer,
    /// It was lost: the call may have taken effect at any time since, or never.
    Nothing,
}

/// What a call is to the recorder.
pub trait Call: Clone {
    /// As if its answer had been lost.
    fn lose_answer(&mut self);

    /// What may have happened once more, if it was under way when a server died.
    fn twice(&self) -> Option<Self> {
        None
    }
}

/// A recorded history.
pub struct History<M: Model> {
    from: Instant,
    begun: AtomicUsize,
    objects: usize,
    calls: Mutex<Vec<Operation<M>>>,
    /// When servers that were killed were gone.
    kills: Mutex<Vec<i64>>,
}

impl<M: Model<Op: Call>> History<M> {
    /// An empty one, over so many objects that do not depend on each other.
    pub fn new(objects: usize) -> Self {
        History {
            from: Instant::now(),
            begun: AtomicUsize::new(0),
            objects,
            calls: Mutex::default(),
            kills: Mutex::default(),
        }
    }

    fn now(&self) -> i64 {
        self.from.elapsed().as_nanos() as i64
    }

    /// Runs a call on the object whose turn it is, and records it.
    pub fn record(&self, client: u32, call: impl FnOnce(usize) -> (M::Op, Came)) {
        let object = self.begun.fetch_add(1, Ordering::Relaxed) / CALLS_EACH % self.objects;
        let call_time = self.now();
        let (op, came) = call(object);
        let return_time = if matches!(came, Came::Answer) { self.now() } else { i64::MAX };
        let one = Operation { client_id: Some(client), call_time, return_time, op, metadata: None };
        self.calls.lock().unwrap().push(one);
    }

    /// Calls, and those without an answer.
    pub fn counts(&self) -> (usize, usize) {
        let calls = self.calls.lock().unwrap();
        (calls.len(), calls.iter().filter(|call| call.return_time == i64::MAX).count())
    }

    /// Records that `kill` has killed a server, which is gone when it returns.
    pub fn record_kill(&self, kill: impl FnOnce()) {
        kill();
        self.kills.lock().unwrap().push(self.now());
    }

    /// Of these calls, those that may have happened once more meanwhile: who asked a server that died, or was asked through it, was not answered before it
    /// ran again.
    fn repeated(&self, calls: &[Operation<M>]) -> Vec<Operation<M>> {
        let kills = self.kills.lock().unwrap();
        let met = |call: &&Operation<M>| {
            kills.iter().any(|gone| (call.call_time..=call.return_time).contains(gone))
        };
        let again = |call: &Operation<M>| Some(Operation { op: call.op.twice()?, ..call.clone() });
        calls.iter().filter(met).filter_map(again).collect()
    }

    /// Whether there is an order of these calls and of any of those that may have happened once more.
    fn has_order(&self, calls: &[Operation<M>]) -> bool {
        let repeated = self.repeated(calls);
        assert!(
            repeated.len() <= REPEATED_MAX,
            "{} calls of one object may have happened twice: too many to try",
            repeated.len()
        );
        (0..1usize << repeated.len()).any(|which| {
            let chosen = repeated.iter().enumerate().filter(|(at, _)| which >> at & 1 == 1);
            let all: Vec<_> = calls.iter().chain(chosen.map(|(_, call)| call)).cloned().collect();
            porcupine_rs::check_operations_timeout::<M>(&all, SEARCH) == CheckResult::Ok
        })
    }

    /// The shortest beginning of a history that has no order.
    fn smallest(&self, mut part: Vec<Operation<M>>) -> Vec<Operation<M>> {
        part.sort_by_key(|call| call.return_time);
        let fails = |answers: usize| !self.has_order(&beginning(&part, answers));
        let (mut good, mut bad) = (0, part.len());
        while bad - good > 1 {
            let middle = usize::midpoint(good, bad);
            *(if fails(middle) { &mut bad } else { &mut good }) = middle;
        }
        beginning(&part, bad)
    }

    /// There is an order of the calls, each between its beginning and its answer, in which all answers are right.
    pub fn assert_linearizable(&self, what: &str) {
        let calls = self.calls.lock().unwrap();
        let mut wrong = Vec::new();
        for part in M::partition_operations(&calls) {
            if !self.has_order(&part) {
                wrong.push(self.smallest(part));
            }
        }
        assert!(
            wrong.is_empty(),
            "{what}: {} objects without an order; one: {}",
            wrong.len(),
            told(&wrong[0])
        );
    }
}

/// A history up to its so-manieth answer: what had begun by then may have taken effect.
fn beginning<M: Model<Op: Call>>(part: &[Operation<M>], answers: usize) -> Vec<Operation<M>> {
    let last = part[..answers].last().map_or(i64::MIN, |call| call.return_time);
    let mut begun: Vec<_> = part.iter().filter(|call| call.call_time <= last).cloned().collect();
    for call in begun.iter_mut().filter(|call| call.return_time > last) {
        call.return_time = i64::MAX;
        call.op.lose_answer();
    }
    begun
}

fn told<M: Model>(calls: &[Operation<M>]) -> String {
    let last = calls.iter().rev().take(48).rev();
    let lines = last.map(|call| {
        let (from, to) = (call.call_time / 1000, call.return_time / 1000);
        format!("\n  {from}..{to} us, client {}: {:?}", call.client_id.unwrap_or(0), call.op)
    });
    lines.collect()
}
