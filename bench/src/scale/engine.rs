//! Discrete events: operations that pass stations, one after the other, each with a queue.
//!
//! # Invariants
//! - A station serves in the order of arrival and never two at a time for one of its servers (`tests::queues_are_those_of_theory`).
//! - The same input gives the same result: events at the same time are handled in the order in which they were made.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// Nanoseconds since the beginning.
pub type Time = u64;

/// A place where operations wait for a server: the cores of a host, a network card, a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Station {
    /// When each server is free.
    free: Vec<Time>,
    /// Service given so far, in nanoseconds of one server.
    busy: u64,
    /// From then on it answers nothing.
    dies_at: Time,
}

/// One visit of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Where.
    pub station: u32,
    /// How long it is served.
    pub service_ns: u64,
    /// How long it is on its way afterwards.
    pub then_ns: u64,
}

/// An operation: where it goes, and what it was made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Op {
    /// Its steps, in order.
    pub steps: Vec<Step>,
    /// What the workload knows it by.
    pub tag: u64,
}

/// What becomes of an operation that has passed its steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum After {
    /// It is done; its client may have another.
    Done,
    /// It goes on, as this one.
    On(Op),
    /// The same, and its client may have another besides.
    OnAndNext(Op),
    /// It waits until somebody [releases](Workload::released) those that wait for this, and is asked again then.
    Wait(u64),
}

/// Gives operations to clients.
pub trait Workload {
    /// The next operation of a client, or none if it has no more.
    fn next(&mut self, client: u32, now: Time) -> Option<Op>;

    /// An operation came to a station that is dead: when it is sent again, and where; none if it is given up.
    fn again(&mut self, client: u32, tag: u64, now: Time) -> Option<(Time, Op)>;

    /// An operation has passed its steps: where it goes depends on what has happened meanwhile.
    fn after(&mut self, client: u32, tag: u64, now: Time) -> After {
        let _ = (client, tag, now);
        After::Done
    }

    /// What operations waited for that need not wait any more; asked after each [`Workload::after`].
    fn released(&mut self) -> Option<u64> {
        None
    }
}

struct Running {
    client: u32,
    at: usize,
    op: Op,
}

/// The stations and what is on its way between them.
#[derive(Default)]
pub struct Engine {
    stations: Vec<Station>,
    heap: BinaryHeap<Reverse<(Time, u64, u32)>>,
    running: Vec<Option<Running>>,
    waiting: HashMap<u64, Vec<u32>>,
    spare: Vec<u32>,
    made: u64,
    events: u64,
}

impl Engine {
    /// A station with so many servers.
    pub fn station(&mut self, servers: usize) -> u32 {
        self.stations.push(Station { free: vec![0; servers.max(1)], busy: 0, dies_at: Time::MAX });
        self.stations.len() as u32 - 1
    }

    /// A station answers nothing from then on.
    pub fn kill(&mut self, station: u32, at: Time) {
        self.stations[station as usize].dies_at = at;
    }

    /// The share of the time until `end` that a station's servers were busy, from 0 to 1.
    pub fn utilisation(&self, station: u32, end: Time) -> f64 {
        let station = &self.stations[station as usize];
        station.busy as f64 / (end.max(1) as f64 * station.free.len() as f64)
    }

    /// Events handled.
    pub fn events(&self) -> u64 {
        self.events
    }

    fn start(&mut self, client: u32, op: Op, at: Time) {
        let running = Some(Running { client, at: 0, op });
        let slot = if let Some(slot) = self.spare.pop() {
            self.running[slot as usize] = running;
            slot
        } else {
            self.running.push(running);
            self.running.len() as u32 - 1
        };
        self.push(at, slot);
    }

    fn push(&mut self, at: Time, slot: u32) {
        self.made += 1;
        self.heap.push(Reverse((at, self.made, slot)));
    }

    /// Serves who arrives now. Returns when it is done.
    fn serve(&mut self, step: Step, now: Time) -> Time {
        let station = &mut self.stations[step.station as usize];
        let (mut earliest, mut at) = (Time::MAX, 0);
        for (index, free) in station.free.iter().enumerate() {
            if *free < earliest {
                (earliest, at) = (*free, index);
            }
        }
        let end = now.max(earliest) + step.service_ns;
        station.free[at] = end;
        station.busy += step.service_ns;
        end
    }

    /// An operation has passed its steps. Answers whether it is done.
    fn passed(&mut self, slot: u32, client: u32, now: Time, workload: &mut dyn Workload) -> bool {
        let tag = self.running[slot as usize].as_ref().map_or(0, |running| running.op.tag);
        let after = workload.after(client, tag, now);
        let done = after == After::Done;
        let next = matches!(after, After::Done | After::OnAndNext(_));
        match after {
            After::Done => {
                self.running[slot as usize] = None;
                self.spare.push(slot);
            }
            After::On(op) | After::OnAndNext(op) => {
                self.running[slot as usize] = Some(Running { client, at: 0, op });
                self.push(now, slot);
            }
            After::Wait(what) => self.waiting.entry(what).or_default().push(slot),
        }
        if let Some(op) = next.then(|| workload.next(client, now)).flatten() {
            self.start(client, op, now);
        }
        let released = workload.released().and_then(|what| self.waiting.remove(&what));
        released.into_iter().flatten().for_each(|slot| self.push(now, slot));
        done
    }

    /// Lets `clients` clients work, each with `window` operations under way at most, until nobody has any. Returns when the last
    /// ended.
    pub fn run(&mut self, clients: u32, window: u32, workload: &mut dyn Workload) -> Time {
        for _ in 0..window {
            for client in 0..clients {
                if let Some(op) = workload.next(client, 0) {
                    self.start(client, op, 0);
                }
            }
        }
        let mut last = 0;
        while let Some(Reverse((now, _, slot))) = self.heap.pop() {
            self.events += 1;
            let Some(running) = self.running[slot as usize].as_mut() else { continue };
            let client = running.client;
            let Some(step) = running.op.steps.get(running.at).copied() else {
                if self.passed(slot, client, now, workload) {
                    last = last.max(now);
                }
                continue;
            };
            if now >= self.stations[step.station as usize].dies_at {
                let tag = running.op.tag;
                self.running[slot as usize] = None;
                self.spare.push(slot);
                if let Some((at, op)) = workload.again(client, tag, now) {
                    self.start(client, op, at.max(now));
                }
                continue;
            }
            running.at += 1;
            let end = self.serve(step, now);
            self.push(end + step.then_ns, slot);
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed {
        left: Vec<u32>,
        steps: Vec<Step>,
        again: Option<Vec<Step>>,
    }

    impl Workload for Fixed {
        fn next(&mut self, client: u32, _now: Time) -> Option<Op> {
            let left = &mut self.left[client as usize];
            *left = left.checked_sub(1)?;
            Some(Op { steps: self.steps.clone(), tag: u64::from(*left) })
        }

        fn again(&mut self, _client: u32, tag: u64, now: Time) -> Option<(Time, Op)> {
            Some((now + 1000, Op { steps: self.again.clone()?, tag }))
        }
    }

    fn step(station: u32, service_ns: u64, then_ns: u64) -> Step {
        Step { station, service_ns, then_ns }
    }

    /// Goal: known results of queues. Method: one server, several servers, two stations in a row (the slower one decides), a closed
    /// loop with a window (the delay decides until the window is large enough).
    #[test]
    fn queues_are_those_of_theory() {
        let run = |servers: usize, clients: u32, window: u32, each: u32, steps: Vec<Step>| {
            let mut engine = Engine::default();
            engine.station(servers);
            engine.station(1);
            let mut workload = Fixed { left: vec![each; clients as usize], steps, again: None };
            (engine.run(clients, window, &mut workload), engine.utilisation(0, engine_end(&engine)))
        };
        assert_eq!(run(1, 10, 1, 5, vec![step(0, 100, 0)]).0, 5000);
        assert_eq!(run(5, 10, 1, 5, vec![step(0, 100, 0)]).0, 1000);
        assert_eq!(run(1, 1, 1, 10, vec![step(0, 100, 900)]).0, 10_000, "one at a time: the way counts");
        assert_eq!(run(1, 1, 10, 100, vec![step(0, 100, 900)]).0, 10_000 + 900, "a window hides the way");
        let (time, _) = run(1, 4, 4, 25, vec![step(0, 50, 0), step(1, 100, 0)]);
        assert_eq!(time, 100 * 100 + 50, "the slower station is always busy");
    }

    fn engine_end(engine: &Engine) -> Time {
        engine.stations.iter().flat_map(|station| station.free.iter().copied()).max().unwrap_or(0)
    }

    /// One that asks, and others that wait for its answer: they go on when it has come, at the same moment, and none before.
    struct Answer {
        left: u32,
        comes_at: Option<Time>,
        told: bool,
    }

    impl Workload for Answer {
        fn next(&mut self, _client: u32, _now: Time) -> Option<Op> {
            self.left = self.left.checked_sub(1)?;
            Some(Op { steps: vec![step(0, 10, 0)], tag: u64::from(self.left == 3) })
        }

        fn again(&mut self, _client: u32, _tag: u64, _now: Time) -> Option<(Time, Op)> {
            None
        }

        fn after(&mut self, _client: u32, tag: u64, now: Time) -> After {
            match (tag, self.comes_at) {
                // The first asks elsewhere, where it takes a while.
                (1, _) => After::On(Op { steps: vec![step(1, 1000, 0)], tag: 2 }),
                (2, _) => {
                    self.comes_at = Some(now);
                    After::Done
                }
                (_, None) => After::Wait(7),
                (_, Some(at)) => {
                    assert_eq!(now, at, "nobody waits longer than until then");
                    After::Done
                }
            }
        }

        fn released(&mut self) -> Option<u64> {
            (self.comes_at.is_some() && !std::mem::replace(&mut self.told, true)).then_some(7)
        }
    }

    #[test]
    fn who_waits_goes_on_when_it_has_come() {
        let mut engine = Engine::default();
        for _ in 0..2 {
            engine.station(1);
        }
        let mut workload = Answer { left: 4, comes_at: None, told: false };
        assert_eq!(engine.run(1, 4, &mut workload), 1010);
        assert!(engine.waiting.is_empty() && workload.told);
    }

    /// Operations that come to a dead station go elsewhere after a while, and none is lost.
    #[test]
    fn the_dead_are_gone_round() {
        let mut engine = Engine::default();
        let (dead, alive) = (engine.station(1), engine.station(1));
        engine.kill(dead, 250);
        let mut workload =
            Fixed { left: vec![10], steps: vec![step(dead, 100, 0)], again: Some(vec![step(alive, 100, 0)]) };
        let end = engine.run(1, 1, &mut workload);
        // Three before it dies; each of the others comes to the dead first.
        assert_eq!(end, 300 + 7 * 1100);
        assert!(engine.events() > 20);
    }
}
