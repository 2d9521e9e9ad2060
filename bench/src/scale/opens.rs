//! An open storm: every process opens the same file, as decision 0038 has it built.
//!
//! ```text
//! process -> server of its node -- nothing kept ----> home: notes which servers ask; from the third on it lends its answers
//!                 |  <------------------------------- answer, lent or not
//!                 |-- kept: answered here, until two seconds after it was asked for
//!                 +-- kept, but that is over: one asks for all, the others wait
//! ```
//!
//! What comes to a server before an answer is kept goes to the home, however much it is: that is what a storm costs. So how the processes come matters: at
//! one moment, or within a time ([`Machine::arrival_s`]).
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
    /// At the home, which has answered all of it.
    Asked,
    /// Back at the server of its node, with an answer that is lent, or not.
    Back { lent: bool },
    /// At the home, which has answered the one question for all.
    Renewed,
    /// Back with that.
    Fresh { lent: bool },
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
        Stage::Renewed,
        Stage::Fresh { lent: false },
        Stage::Fresh { lent: true },
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
    /// Until when its answer is given on; none: it never had one.
    until: Option<Time>,
    /// Somebody asks for all.
    asking: bool,
    /// When each batch was passed on.
    sent: Vec<Time>,
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

    /// The server of the node answers all of a batch: what it holds, or what it is the home of.
    fn answer(&self, node: u32, batch: usize) -> Op {
        let wake = ns(self.costs.wake_us / 2.0);
        let works = self.work(node, self.batches[batch].1, self.costs.open_server_us, wake);
        Storm::op(batch, Stage::Answered, [works])
    }

    /// The same, of what was lent to it.
    fn give(&mut self, node: u32, batch: usize) -> Op {
        self.given[node as usize] += self.batches[batch].1;
        self.answer(node, batch)
    }

    /// Questions go to the home: all of a batch, or one for all.
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
        let count = self.batches[batch].1;
        let gateway = &self.gateways[node as usize];
        if node == self.home {
            self.lends(node, count, now);
            return Ok(self.answer(node, batch));
        }
        match gateway.until.filter(|_| self.machine.hot_names) {
            Some(until) if until > now => Ok(self.give(node, batch)),
            Some(_) if gateway.asking => Err(u64::from(node)),
            Some(_) => {
                self.gateways[node as usize].asking = true;
                Ok(self.pass(node, batch, 1, Stage::Renewed, now))
            }
            None => Ok(self.pass(node, batch, count, Stage::Asked, now)),
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
        let count = self.batches[batch].1;
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
            Stage::Asked | Stage::Renewed => {
                let (one, of) = (stage == Stage::Renewed, if stage == Stage::Renewed { 1 } else { count });
                let lent = self.lends(client, of, now);
                let next = if one { Stage::Fresh { lent } } else { Stage::Back { lent } };
                After::On(Storm::op(batch, next, self.way_back()))
            }
            Stage::Back { lent } => {
                self.keep(client, batch, lent);
                After::Done
            }
            Stage::Fresh { lent } => {
                self.keep(client, batch, lent);
                self.gateways[client as usize].asking = false;
                self.released = Some(u64::from(client));
                After::On(self.give(client, batch))
            }
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
        let gateway = Gateway { may_begin: true, sent: vec![0; batches.len()], ..Gateway::default() };
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
