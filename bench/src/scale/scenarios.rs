//! What is asked of the model: a dump into one shared file, a metadata storm, a drain. An open storm is in [`super::opens`].
//!
//! A whole dump has a thousand million chunks. The model does two parts of it, one twice as long as the other, and draws the line through
//! both: what the start costs, and what each further operation does.

use fs_proto::placement::{MapEvent, chunk_partition, entry_partition, name_hash};
use fs_proto::{ChunkIndex, InodeId, Partition, ServerId};
use serde::{Deserialize, Serialize};

use super::engine::{Op, Step, Time, Workload};
use super::model::{Calibration, Cluster, NodeSpec};
use crate::error::Result;
use crate::pattern::mix;

/// A machine and its load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Nodes, each with a server.
    pub nodes: u32,
    /// Hosts; as many as nodes but in runs of comparison.
    pub hosts: u32,
    /// A node.
    pub node: NodeSpec,
    /// Processes of each node; with `clients`, operations of each client.
    pub processes: u32,
    /// 0: every node is a client with all its processes at once. Else so many clients, each one operation at a time (runs of comparison).
    pub clients: u32,
    /// Bytes that each node dumps.
    pub dump_bytes: u64,
    /// Bytes of a chunk.
    pub chunk_bytes: u64,
    /// Chunks that a node has under way.
    pub window: u32,
    /// Every node keeps what it writes (layout `writer`).
    pub writer: bool,
    /// Nodes that die when a third of the simulated part is done.
    pub deaths: u32,
    /// Seconds until the others know.
    pub detection_s: f64,
    /// All of the shared tier, GB/s.
    pub tier_gbs: f64,
    /// Names and inodes that many ask for are lent to the servers that ask (decision 0038).
    pub hot_names: bool,
    /// Seconds within which the processes of an open storm come, evenly; 0: at one moment.
    pub arrival_s: f64,
    /// Operations of each node that are simulated (the longer of two parts).
    pub simulated: u64,
}

/// What the model says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// Seconds until the last is done.
    pub seconds: f64,
    /// Operations of each node in the whole.
    pub operations: u64,
    /// Of these, how many were simulated; the rest follows from two parts.
    pub simulated: u64,
    /// What was used most.
    pub bottleneck: String,
    /// And how much, from 0 to 1.
    pub utilisation: f64,
    /// Load of the fullest server over the mean, of the whole.
    pub balance: f64,
    /// How much slower the second half of the simulated part was than its second quarter, as a share: far from 0, the start is not over.
    pub drift: f64,
    /// Operations that were lost with the nodes that died.
    pub lost: u64,
    /// Events of the longer part.
    pub events: u64,
    /// Questions that came to the one home of a file, of all processes' in an open storm.
    pub asked: Option<u64>,
}

/// The shared file of a dump.
pub(super) const FILE: InodeId = InodeId(0x5eed_0000_0000_0001);
/// The directory of a storm.
const DIRECTORY: InodeId = InodeId(0xd1ec_0000_0000_0001);

/// Where the next operation goes.
type Route<'a> = dyn Fn(&Cluster, u32, u64) -> Vec<Step> + 'a;

struct Clients<'a> {
    cluster_map: &'a Cluster,
    left: Vec<u64>,
    each: u64,
    route: &'a Route<'a>,
    /// (which nodes, from when, until everybody knows, the cluster afterwards)
    deaths: Option<(&'a [u32], Time, Time, &'a Cluster)>,
    lost: u64,
}

impl Workload for Clients<'_> {
    fn next(&mut self, client: u32, now: Time) -> Option<Op> {
        let left = &mut self.left[client as usize];
        let index = self.each - *left;
        let mut cluster = self.cluster_map;
        if let Some((dead, from, known, after)) = self.deaths {
            if dead.contains(&client) && now >= from {
                self.lost += std::mem::take(left);
                return None;
            }
            if now >= known {
                cluster = after;
            }
        }
        *left = left.checked_sub(1)?;
        Some(Op { steps: (self.route)(cluster, client, index), tag: index })
    }

    fn again(&mut self, client: u32, tag: u64, now: Time) -> Option<(Time, Op)> {
        let (dead, _, known, after) = self.deaths?;
        if dead.contains(&client) {
            self.lost += 1;
            return None;
        }
        Some((now.max(known), Op { steps: (self.route)(after, client, tag), tag }))
    }
}

impl Machine {
    fn cluster(&self, calibration: &Calibration) -> Result<Cluster> {
        Cluster::new(self.nodes, self.hosts, &self.node, calibration)
    }

    /// Chunks that each node dumps.
    fn chunks(&self) -> u64 {
        (self.dump_bytes / self.chunk_bytes).max(1)
    }

    /// Simulates `each` operations of every node.
    fn part(
        &self,
        calibration: &Calibration,
        each: u64,
        window: u32,
        route: &Route<'_>,
        deaths: &[u32],
        end_guess: Time,
    ) -> Result<(Time, Cluster, u64)> {
        let mut running = self.cluster(calibration)?;
        let map = self.cluster(calibration)?;
        let mut after = self.cluster(calibration)?;
        let (from, known) = (end_guess / 3, end_guess / 3 + (self.detection_s * 1e9) as Time);
        for node in deaths {
            running.kill(*node, from);
            if let Ok(next) = after.map.apply(MapEvent::Leave(ServerId(*node as u16))) {
                after.map = next;
            }
        }
        let deaths = (!deaths.is_empty()).then_some((deaths, from, known, &after));
        let (count, window) = if self.clients > 0 { (self.clients, 1) } else { (self.nodes, window) };
        let mut clients =
            Clients { cluster_map: &map, left: vec![each; count as usize], each, route, deaths, lost: 0 };
        let end = running.engine.run(count, window, &mut clients);
        let lost = clients.lost;
        Ok((end, running, lost))
    }

    /// Two parts, and the line through them.
    fn predict(
        &self,
        calibration: &Calibration,
        total: u64,
        window: u32,
        route: &Route<'_>,
        balance: f64,
    ) -> Result<Prediction> {
        let long = self.simulated.min(total).max(1);
        let (short, early) = ((long / 2).max(1), (long / 4).max(1));
        let (before, ..) = self.part(calibration, early, window, route, &[], 0)?;
        let (first, ..) = self.part(calibration, short, window, route, &[], 0)?;
        let (second, cluster, _) = self.part(calibration, long, window, route, &[], 0)?;
        let line = |from: (u64, Time), to: (u64, Time)| {
            if to.0 > from.0 { to.1.saturating_sub(from.1) as f64 / (to.0 - from.0) as f64 } else { 0.0 }
        };
        let (slope, earlier) = (line((short, first), (long, second)), line((early, before), (short, first)));
        let seconds = (second as f64 + slope * (total - long) as f64) / 1e9;
        let (bottleneck, utilisation) = cluster.bottleneck(second);
        let mut prediction = Prediction {
            seconds,
            operations: total,
            simulated: long,
            bottleneck: bottleneck.to_owned(),
            utilisation,
            balance,
            drift: if earlier > 0.0 { slope / earlier - 1.0 } else { 0.0 },
            lost: 0,
            events: cluster.engine.events(),
            asked: None,
        };
        if self.deaths > 0 {
            let dead: Vec<u32> =
                (0..self.deaths).map(|n| (mix(u64::from(n)) % u64::from(self.nodes)) as u32).collect();
            let (with, _, lost) = self.part(calibration, long, window, route, &dead, second)?;
            // What a death costs is its detection and the larger shares of the others afterwards; the rest of the dump has the latter only.
            prediction.seconds += (with.saturating_sub(second)) as f64 / 1e9;
            prediction.lost = lost;
        }
        Ok(prediction)
    }

    /// Load of the fullest server over the mean if partitions get these loads.
    fn balance(&self, calibration: &Calibration, load: impl Fn(Partition) -> f64) -> Result<f64> {
        let cluster = self.cluster(calibration)?;
        let mut loads = vec![0.0; self.nodes as usize];
        for (partition, owner) in cluster.map.iter() {
            loads[usize::from(owner.0)] += load(partition);
        }
        let sum: f64 = loads.iter().sum();
        Ok(loads.iter().copied().fold(0.0, f64::max) * f64::from(self.nodes) / sum.max(1e-12))
    }

    /// Every node dumps its memory into its own part of one shared file.
    ///
    /// # Errors
    /// If there is no such cluster.
    pub fn dump(&self, calibration: &Calibration) -> Result<Prediction> {
        let (chunks, bytes, writer) = (self.chunks(), self.chunk_bytes, self.writer);
        let route = move |cluster: &Cluster, client: u32, index: u64| {
            let node = client % cluster.nodes();
            let owner = cluster.owner(chunk_partition(FILE, ChunkIndex(u64::from(client) * chunks + index)));
            if !writer {
                return cluster.write(node, owner, bytes);
            }
            // The owner notes who has the chunk: a small message before the first write of it.
            let mut steps = cluster.ask(node, owner, 0.0, calibration.create_server_us);
            steps.extend(cluster.write(node, node, bytes));
            steps
        };
        let balance = if writer { 1.0 } else { self.balance(calibration, |_| 1.0)? };
        self.predict(calibration, chunks, self.window, &route, balance)
    }

    /// Every process creates a file in one wide directory.
    ///
    /// # Errors
    /// If there is no such cluster.
    pub fn metadata_storm(&self, calibration: &Calibration) -> Result<Prediction> {
        let processes = self.processes;
        let partition = move |node: u32, index: u64| {
            let name = format!("rank.{}", u64::from(node) * u64::from(processes) + index);
            entry_partition(DIRECTORY, name_hash(DIRECTORY, name.as_bytes()), true)
        };
        let route = |cluster: &Cluster, client: u32, index: u64| {
            let owner = cluster.owner(partition(client, index));
            cluster.ask(
                client % cluster.nodes(),
                owner,
                calibration.create_client_us,
                calibration.create_server_us,
            )
        };
        let mut loads = vec![0.0; 1 << 16];
        for node in 0..self.nodes {
            for index in 0..u64::from(processes) {
                loads[usize::from(partition(node, index).0)] += 1.0;
            }
        }
        let balance = self.balance(calibration, |partition| loads[usize::from(partition.0)])?;
        self.predict(calibration, u64::from(processes), self.processes, &route, balance)
    }

    /// Clients open files whose homes they reach themselves, each one after the other: for comparison with runs where nothing is hot.
    ///
    /// # Errors
    /// If there is no such cluster.
    pub fn plain_opens(&self, calibration: &Calibration) -> Result<Prediction> {
        let route = |cluster: &Cluster, client: u32, _: u64| {
            let home = cluster.owner(FILE.partition());
            cluster.ask(
                client % cluster.nodes(),
                home,
                calibration.open_client_us,
                calibration.open_server_us,
            )
        };
        self.predict(calibration, u64::from(self.processes), self.processes, &route, f64::from(self.nodes))
    }

    /// Every node copies what it holds to the shared tier, which takes all together at its own rate.
    ///
    /// # Errors
    /// If there is no such cluster.
    pub fn drain(&self, calibration: &Calibration) -> Result<Prediction> {
        let share_gbs = self.tier_gbs / f64::from(self.nodes);
        let (bytes, tier_ns) = (self.chunk_bytes, self.chunk_bytes as f64 / share_gbs.max(1e-9));
        let route = move |cluster: &Cluster, client: u32, _: u64| {
            let node = client % cluster.nodes();
            // The tier's share of a node is a station that nobody else uses: its receiving card, which draining leaves idle.
            let tier = Step {
                station: cluster.tier_station(node),
                service_ns: tier_ns as u64,
                then_ns: cluster.way_ns(),
            };
            cluster.flush(node, bytes, tier)
        };
        let balance = self.balance(calibration, |_| 1.0)?;
        let mut prediction = self.predict(calibration, self.chunks(), self.window, &route, balance)?;
        if prediction.bottleneck == "network card, receiving" {
            "the shared tier".clone_into(&mut prediction.bottleneck);
        }
        prediction.seconds *= balance;
        Ok(prediction)
    }
}
