//! An open storm: every process opens the same file, as decisions 0038 and 0046 have it built.
//!
//! ```text
//! process -> server of its node -- nothing kept, or not any more: one asks, the others wait ----> home: notes which servers ask; from the third on
//!                 |  <--------------------------------------------- answer, lent or not                 it lends its answers
//!                 |-- lent: all of them are answered here, as who comes until two seconds after it was asked for
//!                 +-- not lent: those who wait, and who comes within a second, go to the home, all of them
//! ```
//!
//! So the home hears of each node once, but for those that asked first, and for its own. How the processes come is [`Machine::arrival_s`].
//!
//! # Invariants
//! - Every process is counted once: answered by the home, or by the server of its node (`tests::opens_are_answered_by_each_node`).
//! - A process that comes runs when those before it on its node have sent their question; servers, which were asleep, run before it. With all processes in
//!   one queue before all servers nobody would be answered until everybody has asked.
//!
//! The first processes of a node are operations of their own; later ones go in batches of a sixteenth of those before them, so that ten million fit. The
//! cores of a host are one station that is as fast as all of them, and what an operation takes on one core beyond that is time that passes.

use std::collections::HashSet;

use super::engine::{After, Op, Step, Time, Workload};
use super::model::{Calibration, Cluster, NodeSpec, ns};
use super::scenarios::{FILE, Machine, Prediction};
use crate::error::Result;

/// Servers that must have asked, within [`WINDOW_NS`], for answers to be lent: `fs-server/src/hot/mod.rs`.
const HOT_SERVERS: usize = 3;
const WINDOW_NS: Time = 2_000_000_000;
/// How long what was lent is given on, from when it was asked for.
const LEASE_NS: Time = 2_000_000_000;
/// How long a server passes on everything of what was not lent: `fs-server/src/hot/underway.rs`.
const ALONE_NS: Time = 1_000_000_000;
/// How long the home counts it as lent.
const LEASE_HELD_NS: Time = 2_250_000_000;
/// A batch is this part of the processes before it, as a divisor.
const BATCH_PART: u64 = 16;

/// Where a batch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Its processes have put their question.
    Begun,
    /// At the server of its node.
    Sent,
    /// At the home, which has answered all that is left of it.
    Asked,
    /// Back at the server of its node, with an answer that is lent, or not.
    Back { lent: bool },
    /// At the home, which has answered the one question for all.
    AskedForAll,
    /// Back with that.
    BackForAll { lent: bool },
    /// All of it is answered.
    Answered,
}

impl Stage {
    const ALL: [Stage; 9] = [
        Stage::Begun,
        Stage::Sent,
        Stage::Asked,
        Stage::Back { lent: false },
        Stage::Back { lent: true },
        Stage::AskedForAll,
        Stage::BackForAll { lent: false },
        Stage::BackForAll { lent: true },
        Stage::Answered,
    ];

    fn tag(self, batch: usize) -> u64 {
        let stage = Stage::ALL.iter().position(|stage| *stage == self).unwrap_or(0);
        (batch * Stage::ALL.len() + stage) as u64
    }

    fn of(tag: u64) -> (Stage, usize) {
        let tag = tag as usize;
        (Stage::ALL[tag % Stage::ALL.len()], tag / Stage::ALL.len())
    }
}

/// What the server of a node knows.
#[derive(Debug, Clone, Default)]
struct Gateway {
    /// Batches that have begun.
    begun: usize,
    /// Whether the next may.
    may_begin: bool,
    /// Until when its answer is given on; none: it has none.
    until: Option<Time>,
    /// Somebody asks for all.
    asking: bool,
    /// Until when everybody asks for himself.
    alone_until: Time,
    /// When each batch was passed on.
    sent: Vec<Time>,
    /// Processes of each batch that have no answer yet.
    left: Vec<u64>,
}

struct Storm<'a> {
    /// For the steps; it does not run.
    cluster: Cluster,
    costs: &'a Calibration,
    machine: &'a Machine,
    home: u32,
    /// First process, and how many.
    batches: Vec<(u64, u64)>,
    gateways: Vec<Gateway>,
    askers: HashSet<u32>,
    since: Time,
    lent_until: Time,
    /// Questions that the home answered, and processes that each node's server did.
    asked: u64,
    given: Vec<u64>,
    released: Option<u64>,
}

fn batches(processes: u64) -> Vec<(u64, u64)> {
    let size = |first: u64| (first / BATCH_PART).max(1).min(processes - first);
    let next = |(first, size): &(u64, u64)| Some(first + size).filter(|first| *first < processes);
    std::iter::successors(Some((0, size(0))), |last| next(last).map(|first| (first, size(first)))).collect()
}

impl Storm<'_> {
    /// What an operation of so many microseconds takes on one core, beyond what all cores of a host together take for it.
    fn alone_ns(&self, us: f64) -> Time {
        let spec = &self.machine.node;
        ns(us / spec.core_speed * (1.0 - 1.0 / f64::from(spec.cores)))
    }

    /// CPU time of `count` operations, of so many microseconds each, side by side on a node's cores.
    fn work(&self, node: u32, count: u64, us: f64, then_ns: Time) -> Step {
        self.cluster.cpu(node, us * count as f64, then_ns + self.alone_ns(us))
    }

    fn op(batch: usize, stage: Stage, steps: impl IntoIterator<Item = Step>) -> Op {
        Op { steps: steps.into_iter().collect(), tag: stage.tag(batch) }
    }

    /// The server of the node answers all that is left of a batch: what it holds, or what it is the home of.
    fn answer(&self, node: u32, batch: usize) -> Op {
        let wake = ns(self.costs.wake_us / 2.0);
        let left = self.gateways[node as usize].left[batch];
        Storm::op(batch, Stage::Answered, [self.work(node, left, self.costs.open_server_us, wake)])
    }

    /// The same, of what was lent to it.
    fn give(&mut self, node: u32, batch: usize) -> Op {
        self.given[node as usize] += self.gateways[node as usize].left[batch];
        self.answer(node, batch)
    }

    /// Questions go to the home: all that is left of a batch, or one for all.
    fn pass(&mut self, node: u32, batch: usize, count: u64, stage: Stage, now: Time) -> Op {
        self.gateways[node as usize].sent[batch] = now;
        let half = self.costs.forward_us / 2.0;
        let steps = [
            self.work(node, count, half, self.cluster.way_ns()),
            self.work(self.home, count, self.costs.open_server_us + half, 0),
        ];
        Storm::op(batch, stage, steps)
    }

    /// The home has answered `count` questions of a node; whether it lent the answer.
    fn lends(&mut self, node: u32, count: u64, now: Time) -> bool {
        self.asked += count;
        if now - self.since > WINDOW_NS {
            (self.since, self.askers) = (now, HashSet::new());
        }
        self.askers.insert(node);
        let is_hot = self.askers.len() >= HOT_SERVERS || self.lent_until > now;
        let lent = self.machine.hot_names && is_hot;
        if lent {
            self.lent_until = now + LEASE_HELD_NS;
        }
        lent
    }

    fn way_back(&self) -> impl Iterator<Item = Step> + use<> {
        self.cluster.woken(self.cluster.way_ns() + ns(self.costs.wake_us / 2.0)).into_iter()
    }

    /// A batch is at the server of its node; `Err`: it waits.
    fn sent(&mut self, node: u32, batch: usize, now: Time) -> std::result::Result<Op, u64> {
        let gateway = &mut self.gateways[node as usize];
        let count = gateway.left[batch];
        if node == self.home {
            self.lends(node, count, now);
            return Ok(self.answer(node, batch));
        }
        match gateway.until {
            _ if !self.machine.hot_names => Ok(self.pass(node, batch, count, Stage::Asked, now)),
            Some(until) if until > now => Ok(self.give(node, batch)),
            _ if gateway.asking => Err(u64::from(node)),
            None if gateway.alone_until > now => Ok(self.pass(node, batch, count, Stage::Asked, now)),
            _ => {
                gateway.asking = true;
                Ok(self.pass(node, batch, 1, Stage::AskedForAll, now))
            }
        }
    }

    /// One has asked for all, and has the answer.
    fn told(&mut self, node: u32, batch: usize, lent: bool, now: Time) -> After {
        self.keep(node, batch, lent);
        self.released = Some(u64::from(node));
        let gateway = &mut self.gateways[node as usize];
        gateway.asking = false;
        gateway.left[batch] -= 1;
        let left = gateway.left[batch];
        if !lent {
            (gateway.until, gateway.alone_until) = (None, now + ALONE_NS);
        }
        match left {
            0 => After::Done,
            _ if lent => After::On(self.give(node, batch)),
            _ => After::On(self.pass(node, batch, left, Stage::Asked, now)),
        }
    }

    fn keep(&mut self, node: u32, batch: usize, lent: bool) {
        let gateway = &mut self.gateways[node as usize];
        let until = gateway.sent[batch] + LEASE_NS;
        gateway.until = if lent { gateway.until.max(Some(until)) } else { gateway.until };
    }

    fn balance(&self) -> f64 {
        let mut all = self.given.clone();
        all[self.home as usize] += self.asked;
        let (most, sum) = (all.iter().max().copied().unwrap_or(0), all.iter().sum::<u64>());
        most as f64 * all.len() as f64 / sum.max(1) as f64
    }
}

impl Workload for Storm<'_> {
    fn next(&mut self, client: u32, now: Time) -> Option<Op> {
        let gateway = &mut self.gateways[client as usize];
        if !std::mem::take(&mut gateway.may_begin) {
            return None;
        }
        let batch = gateway.begun;
        let (first, count) = *self.batches.get(batch)?;
        gateway.begun += 1;
        // A batch comes with its last process.
        let share = (first + count - 1) as f64 / f64::from(self.machine.processes);
        let comes = (self.machine.arrival_s * share * 1e9) as Time;
        let waits = self.cluster.woken(comes.saturating_sub(now));
        let works = self.cluster.cpu(client, self.costs.open_client_us * count as f64, 0);
        Some(Storm::op(batch, Stage::Begun, waits.into_iter().chain([works])))
    }

    fn again(&mut self, _client: u32, _tag: u64, _now: Time) -> Option<(Time, Op)> {
        None
    }

    fn after(&mut self, client: u32, tag: u64, now: Time) -> After {
        let (stage, batch) = Stage::of(tag);
        match stage {
            Stage::Begun => {
                self.gateways[client as usize].may_begin = true;
                let on_its_way = self.alone_ns(self.costs.open_client_us) + ns(self.costs.wake_us / 2.0);
                After::OnAndNext(Storm::op(batch, Stage::Sent, self.cluster.woken(on_its_way)))
            }
            Stage::Sent => match self.sent(client, batch, now) {
                Ok(op) => After::On(op),
                Err(what) => After::Wait(what),
            },
            Stage::Asked => {
                let count = self.gateways[client as usize].left[batch];
                let lent = self.lends(client, count, now);
                After::On(Storm::op(batch, Stage::Back { lent }, self.way_back()))
            }
            Stage::AskedForAll => {
                let lent = self.lends(client, 1, now);
                After::On(Storm::op(batch, Stage::BackForAll { lent }, self.way_back()))
            }
            Stage::Back { lent } => {
                self.keep(client, batch, lent);
                After::Done
            }
            Stage::BackForAll { lent } => self.told(client, batch, lent, now),
            Stage::Answered => After::Done,
        }
    }

    fn released(&mut self) -> Option<u64> {
        self.released.take()
    }
}

impl Machine {
    /// Every process opens the same file once, through the server of its node.
    ///
    /// # Errors
    /// If there is no such cluster.
    pub fn open_storm(&self, calibration: &Calibration) -> Result<Prediction> {
        let whole = NodeSpec {
            cores: 1,
            core_speed: self.node.core_speed * f64::from(self.node.cores),
            ..self.node.clone()
        };
        let made = || Cluster::new(self.nodes, self.hosts, &whole, calibration);
        let (mut running, cluster) = (made()?, made()?);
        let batches = batches(u64::from(self.processes));
        let left = batches.iter().map(|(_, count)| *count).collect();
        let gateway = Gateway { may_begin: true, sent: vec![0; batches.len()], left, ..Gateway::default() };
        let mut storm = Storm {
            home: cluster.owner(FILE.partition()),
            cluster,
            costs: calibration,
            machine: self,
            batches,
            gateways: vec![gateway; self.nodes as usize],
            askers: HashSet::new(),
            since: 0,
            lent_until: 0,
            asked: 0,
            given: vec![0; self.nodes as usize],
            released: None,
        };
        let end = running.engine.run(self.nodes, 1, &mut storm);
        let (bottleneck, utilisation) = running.bottleneck(end);
        let processes = u64::from(self.processes);
        Ok(Prediction {
            seconds: end as f64 / 1e9,
            operations: processes,
            simulated: processes,
            bottleneck: bottleneck.to_owned(),
            utilisation,
            balance: storm.balance(),
            drift: 0.0,
            lost: 0,
            events: running.engine.events(),
            asked: Some(storm.asked),
        })
    }
}
