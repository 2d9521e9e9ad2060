//! A cluster as the model sees it: hosts with cores, network cards and devices, and what a message costs them.
//!
//! Costs of messages are measured ([`Calibration`]); who is asked for what is the placement code that servers and clients use.

use fs_proto::placement::{Member, PartitionMap};
use fs_proto::{Partition, ServerId};
use serde::{Deserialize, Serialize};

use super::engine::{Engine, Step, Time};
use crate::error::{BenchError, Result};
use crate::pattern::mix;

const MIB: f64 = 1_048_576.0;
const GB: f64 = 1e9;

/// CPU time of messages, measured by `bench/scale.py`. `_us` is for each operation, `_us_mib` for each MiB that it moves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Where and when it was measured.
    pub machine: String,
    /// A write: client.
    pub write_client_us_mib: f64,
    /// A write: server.
    pub write_server_us_mib: f64,
    /// What a write waits for without CPU time, on the machine that was measured: its page cache and its device. Where a device is modelled, that is
    /// what a write waits for instead.
    #[serde(default)]
    pub write_wait_us_mib: f64,
    /// Passing a write on to another server: both servers together.
    pub forward_us_mib: f64,
    /// A create: client.
    pub create_client_us: f64,
    /// A create: server.
    pub create_server_us: f64,
    /// Opening and closing a file: client.
    pub open_client_us: f64,
    /// Opening and closing a file: server.
    pub open_server_us: f64,
    /// Passing a small message on to another server: both servers together.
    pub forward_us: f64,
    /// Copying to the shared tier: server.
    pub flush_us_mib: f64,
    /// From sending a message to the first instruction of who was woken by it, both ways together.
    pub wake_us: f64,
}

/// A node of the machine that is asked about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeSpec {
    /// Cores that servers and clients have.
    pub cores: u32,
    /// How many times as fast as the core that was measured.
    pub core_speed: f64,
    /// Network card, GB/s each way; 0 for no limit.
    pub nic_gbs: f64,
    /// One way through the network.
    pub latency_us: f64,
    /// Device, GB/s; 0 for no limit.
    pub device_gbs: f64,
    /// Share of nodes that are slow, from 0 to 1.
    pub stragglers: f64,
    /// How many times as slow those are (card and device).
    pub slow: f64,
}

/// The stations of one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host {
    /// Its cores.
    pub cpu: u32,
    /// Its network card, sending.
    pub nic_out: u32,
    /// And receiving.
    pub nic_in: u32,
    /// Its device.
    pub device: u32,
}

/// One of a host's stations.
type Which = fn(&Host) -> u32;

/// A cluster in the engine.
pub struct Cluster {
    /// Its stations.
    pub engine: Engine,
    /// Its map, by the code of the file system.
    pub map: PartitionMap,
    hosts: Vec<Host>,
    /// A station where only time passes.
    idle: u32,
    slow: Vec<bool>,
    nodes: u32,
    node: NodeSpec,
    calibration: Calibration,
}

pub(super) fn ns(us: f64) -> u64 {
    (us * 1e3).round().max(0.0) as u64
}

/// Which of so many hosts are slow: that share of them, by chance, the same every time.
fn chosen(hosts: usize, share: f64) -> Vec<bool> {
    let mut order: Vec<usize> = (0..hosts).collect();
    order.sort_by_key(|host| mix(*host as u64));
    let mut slow = vec![false; hosts];
    for host in order.into_iter().take((share * hosts as f64).round() as usize) {
        slow[host] = true;
    }
    slow
}

impl Cluster {
    /// `nodes` servers on `hosts` hosts (fewer than nodes: several share one, as in the runs that the model is compared with).
    ///
    /// # Errors
    /// [`BenchError::Options`] if there is no such map.
    pub fn new(nodes: u32, hosts: u32, node: &NodeSpec, calibration: &Calibration) -> Result<Self> {
        let wrong = |why: String| BenchError::Options(format!("no cluster of {nodes} nodes: {why}"));
        if nodes == 0 || hosts == 0 || nodes > u32::from(u16::MAX) {
            return Err(wrong("there can be 1 to 65,535".to_owned()));
        }
        let members: Vec<Member> =
            (0..nodes).map(|id| Member { id: ServerId(id as u16), weight: 1 }).collect();
        let map = PartitionMap::initial(&members).map_err(|error| wrong(error.to_string()))?;
        let mut engine = Engine::default();
        let mut station = |servers: u32| engine.station(servers as usize);
        let hosts: Vec<Host> = (0..hosts.min(nodes))
            .map(|_| Host {
                cpu: station(node.cores),
                nic_out: station(1),
                nic_in: station(1),
                device: station(1),
            })
            .collect();
        let idle = engine.station(1);
        let slow = chosen(hosts.len(), node.stragglers);
        Ok(Cluster {
            engine,
            map,
            idle,
            slow,
            hosts,
            nodes,
            node: node.clone(),
            calibration: calibration.clone(),
        })
    }

    /// How many nodes there are.
    pub fn nodes(&self) -> u32 {
        self.nodes
    }

    /// The host of a node.
    pub fn host(&self, node: u32) -> usize {
        node as usize % self.hosts.len()
    }

    /// The node that owns a partition.
    pub fn owner(&self, partition: Partition) -> u32 {
        u32::from(self.map.owner(partition).0)
    }

    /// A node answers nothing from then on.
    pub fn kill(&mut self, node: u32, at: Time) {
        let host = self.hosts[self.host(node)];
        for station in [host.cpu, host.nic_in, host.device] {
            self.engine.kill(station, at);
        }
    }

    /// Time of one way through the network.
    pub fn way_ns(&self) -> u64 {
        ns(self.node.latency_us)
    }

    /// CPU time on a node's host.
    pub fn cpu(&self, node: u32, us: f64, then_ns: u64) -> Step {
        let station = self.hosts[self.host(node)].cpu;
        Step { station, service_ns: ns(us / self.node.core_speed), then_ns }
    }

    fn moving(&self, node: u32, bytes: u64, gbs: f64, station: Which, then_ns: u64) -> Option<Step> {
        let host = self.host(node);
        let slow = if self.slow[host] { self.node.slow.max(1.0) } else { 1.0 };
        (gbs > 0.0).then(|| Step {
            station: station(&self.hosts[host]),
            service_ns: ns(bytes as f64 / (gbs * GB) * 1e6 * slow),
            then_ns,
        })
    }

    /// Bytes on a node's device.
    pub fn device(&self, node: u32, bytes: u64) -> Option<Step> {
        self.moving(node, bytes, self.node.device_gbs, |host| host.device, 0)
    }

    /// Bytes out of a node's network card.
    pub fn nic_out(&self, node: u32, bytes: u64) -> Option<Step> {
        self.moving(node, bytes, self.node.nic_gbs, |host| host.nic_out, self.way_ns())
    }

    fn nic_in(&self, node: u32, bytes: u64) -> Option<Step> {
        self.moving(node, bytes, self.node.nic_gbs, |host| host.nic_in, 0)
    }

    /// A write from a process of `from` into a chunk of `to`, straight or through the server of its own node.
    pub fn write(&self, from: u32, to: u32, bytes: u64) -> Vec<Step> {
        let (c, mib) = (&self.calibration, bytes as f64 / MIB);
        let wake = ns(c.wake_us / 2.0);
        let waits = if self.node.device_gbs > 0.0 { 0 } else { ns(c.write_wait_us_mib * mib) };
        let server = self.cpu(to, c.write_server_us_mib * mib, waits);
        if self.host(from) == self.host(to) {
            let client = self.cpu(from, c.write_client_us_mib * mib, wake);
            return [Some(client), Some(server), self.device(to, bytes), self.woken(wake)]
                .into_iter()
                .flatten()
                .collect();
        }
        let forward = c.forward_us_mib * mib / 2.0;
        let steps = [
            Some(self.cpu(from, c.write_client_us_mib * mib + forward, wake)),
            self.nic_out(from, bytes),
            self.nic_in(to, bytes),
            Some(self.cpu(to, c.write_server_us_mib * mib + forward, waits)),
            self.device(to, bytes),
            self.woken(self.way_ns() + wake),
        ];
        steps.into_iter().flatten().collect()
    }

    /// The answer is on its way, and wakes who waits for it: a visit without service where nobody else is.
    pub(super) fn woken(&self, then_ns: u64) -> Option<Step> {
        (then_ns > 0).then_some(Step { station: self.idle, service_ns: 0, then_ns })
    }

    /// The station of a node's share of the shared tier: its receiving card, which nothing else uses while it drains.
    pub fn tier_station(&self, node: u32) -> u32 {
        self.hosts[self.host(node)].nic_in
    }

    /// A small operation of a process of `from` that the server of `to` does.
    pub fn ask(&self, from: u32, to: u32, client_us: f64, server_us: f64) -> Vec<Step> {
        let c = &self.calibration;
        let wake = ns(c.wake_us / 2.0);
        if self.host(from) == self.host(to) {
            return [
                Some(self.cpu(from, client_us, wake)),
                Some(self.cpu(to, server_us, 0)),
                self.woken(wake),
            ]
            .into_iter()
            .flatten()
            .collect();
        }
        let half = c.forward_us / 2.0;
        let steps = [
            Some(self.cpu(from, client_us + half, self.way_ns() + wake)),
            Some(self.cpu(to, server_us + half, 0)),
            self.woken(self.way_ns() + wake),
        ];
        steps.into_iter().flatten().collect()
    }

    /// Copying bytes of a node to the shared tier, which has `tier` as its station and takes `tier_ns` for them.
    pub fn flush(&self, node: u32, bytes: u64, tier: Step) -> Vec<Step> {
        let cpu = self.cpu(node, self.calibration.flush_us_mib * bytes as f64 / MIB, 0);
        [self.device(node, bytes), Some(cpu), self.nic_out(node, bytes), Some(tier)]
            .into_iter()
            .flatten()
            .collect()
    }

    /// What was used most until `end`: name and largest utilisation of its stations, from 0 to 1.
    pub fn bottleneck(&self, end: Time) -> (&'static str, f64) {
        let kinds: [(&'static str, Which); 4] = [
            ("cores", |host| host.cpu),
            ("network card, sending", |host| host.nic_out),
            ("network card, receiving", |host| host.nic_in),
            ("device", |host| host.device),
        ];
        let most = |of: Which| {
            self.hosts.iter().map(|host| self.engine.utilisation(of(host), end)).fold(0.0, f64::max)
        };
        let all = kinds.into_iter().map(|(name, of)| (name, most(of)));
        all.fold(("nothing", 0.0), |best, next| if next.1 > best.1 { next } else { best })
    }
}
