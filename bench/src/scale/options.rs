//! The command line of `hayate bench scale`. Without options: the example of the requirement, 20 PB of memory on 3,400 nodes.

use clap::Args;

use super::model::{Calibration, NodeSpec};
use super::scenarios::Machine;
use crate::error::{BenchError, Result};
use crate::size;

/// Options of `hayate bench scale`.
#[derive(Debug, Clone, Args)]
#[allow(clippy::struct_excessive_bools)] // Independent switches.
pub struct ScaleArgs {
    /// Costs of messages, as bench/scale.py measures them (default: those that this program was built with)
    #[arg(long, value_name = "FILE")]
    pub calibration: Option<String>,
    /// Numbers of nodes
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [64, 512, 3400, 10_000])]
    pub nodes: Vec<u32>,
    /// Hosts that the nodes share (for comparison with real runs); 0: each its own
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub hosts: u32,
    /// Cores of a node that servers and clients may use
    #[arg(long, value_name = "N", default_value_t = 48)]
    pub cores: u32,
    /// How many times as fast as the core that was measured
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub core_speed: f64,
    /// Network card of a node, GB/s each way; 0: no limit
    #[arg(long, value_name = "GB/s", default_value_t = 100.0)]
    pub nic: f64,
    /// One way through the network, microseconds
    #[arg(long, value_name = "US", default_value_t = 5.0)]
    pub latency: f64,
    /// Device of a node, GB/s; 0: no limit
    #[arg(long, value_name = "GB/s", default_value_t = 110.0)]
    pub device: f64,
    /// Memory of a node, which it dumps
    #[arg(long, value_name = "SIZE", default_value = "5480g", value_parser = size::parse)]
    pub memory: u64,
    /// Processes of a node
    #[arg(long, value_name = "N", default_value_t = 3000)]
    pub processes: u32,
    /// For comparison with real runs: so many clients, one operation at a time each, instead of all processes of all nodes
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub clients: u32,
    /// Chunk size
    #[arg(long, value_name = "SIZE", default_value = "16m", value_parser = size::parse)]
    pub chunk: u64,
    /// Chunks that a node has under way
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub window: u32,
    /// Layout `writer`: every node keeps what it writes
    #[arg(long)]
    pub writer: bool,
    /// Share of nodes whose card and device are slow, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0)]
    pub stragglers: f64,
    /// How many times as slow those are
    #[arg(long, value_name = "X", default_value_t = 2.0)]
    pub slow: f64,
    /// Nodes that die during the dump
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub deaths: u32,
    /// Seconds until the others know
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0)]
    pub detection: f64,
    /// The shared tier, GB/s for each node
    #[arg(long, value_name = "GB/s", default_value_t = 20.0)]
    pub tier: f64,
    /// Operations of each node that are simulated at most
    #[arg(long, value_name = "N", default_value_t = 400)]
    pub simulated: u64,
    /// No server answers for others' names and inodes (as with `hayate up --hot-files off`): every open asks the file's home
    #[arg(long)]
    pub no_hot_names: bool,
    /// Milliseconds within which all processes come to open the file, in the second answer about that
    #[arg(long, value_name = "MS", default_value_t = 100.0)]
    pub arrival: f64,
    /// Write a JSON document into this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<String>,
}

/// What was measured last, with the commit that measured it.
const BUILT_IN: &str = include_str!("calibration.json");

impl ScaleArgs {
    /// The costs of messages.
    ///
    /// # Errors
    /// [`BenchError::Options`] if the file has no meaning.
    pub fn costs(&self) -> Result<Calibration> {
        let wrong = |why: String| {
            BenchError::Options(format!(
                "calibration {}: {why}",
                self.calibration.as_deref().unwrap_or("built in")
            ))
        };
        let text = match &self.calibration {
            Some(path) => std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?,
            None => BUILT_IN.to_owned(),
        };
        serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))
    }

    /// The machine with so many nodes.
    ///
    /// # Errors
    /// [`BenchError::Options`] if a number has no meaning.
    pub fn machine(&self, nodes: u32) -> Result<Machine> {
        if self.chunk == 0
            || self.processes == 0
            || self.cores == 0
            || self.core_speed <= 0.0
            || self.window == 0
            || self.arrival < 0.0
        {
            return Err(BenchError::Options(
                "sizes, cores, processes and window must be more than 0".to_owned(),
            ));
        }
        if self.deaths >= nodes {
            return Err(BenchError::Options("some nodes must live".to_owned()));
        }
        Ok(Machine {
            nodes,
            hosts: if self.hosts == 0 { nodes } else { self.hosts },
            node: NodeSpec {
                cores: self.cores,
                core_speed: self.core_speed,
                nic_gbs: self.nic,
                latency_us: self.latency,
                device_gbs: self.device,
                stragglers: self.stragglers / 100.0,
                slow: self.slow,
            },
            processes: self.processes,
            clients: self.clients,
            dump_bytes: self.memory,
            chunk_bytes: self.chunk,
            window: self.window,
            writer: self.writer,
            deaths: self.deaths,
            detection_s: self.detection,
            tier_gbs: self.tier * f64::from(nodes),
            hot_names: !self.no_hot_names,
            arrival_s: 0.0,
            simulated: self.simulated,
        })
    }
}
