//! The command line of `hayate bench checkpoint`.

use std::time::Duration;

use clap::Args;
use libio::Redundancy;
use serde::{Deserialize, Serialize};

use crate::backend::Api;
use crate::clock;
use crate::common::{Common, JsonFile, NumTasks};
use crate::error::{BenchError, Result};
use crate::pattern::{Pattern, mix};
use crate::size;

/// Options of `hayate bench checkpoint`.
#[derive(Debug, Clone, Args)]
#[allow(clippy::struct_excessive_bools)] // Independent switches.
pub struct CheckpointArgs {
    /// What is measured, and by whom.
    #[command(flatten)]
    pub common: Common,
    /// How many tasks.
    #[command(flatten)]
    pub num: NumTasks,
    /// Where the results go besides.
    #[command(flatten)]
    pub json: JsonFile,
    /// Directory of the checkpoints; it is made if it is not there
    #[arg(short = 'd', value_name = "DIR", default_value = "./checkpoints")]
    pub directory: String,
    /// State of each task
    #[arg(short = 'b', long, value_name = "SIZE", default_value = "64m", value_parser = size::parse)]
    pub state: u64,
    /// Bytes of one call
    #[arg(short = 't', value_name = "SIZE", default_value = "4m", value_parser = size::parse)]
    pub transfer_size: u64,
    /// All tasks write one file
    #[arg(long)]
    pub shared: bool,
    /// Versions
    #[arg(short = 'i', value_name = "N", default_value_t = 3)]
    pub versions: u32,
    /// Work between two checkpoints, in milliseconds (the tasks wait)
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pub compute_ms: u64,
    /// Wait until each version is in the shared tier, this many seconds at most; 0 does not wait
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub durable: u64,
    /// Shell command between the last version and the recovery: kills a server and starts it again, for example
    #[arg(long, value_name = "COMMAND")]
    pub fault: Option<String>,
    /// With LIBIO, what a version survives: copies:N or parity:DATA+EXTRA servers
    #[arg(long, value_name = "WHAT", value_parser = redundancy)]
    pub redundancy: Option<(u8, u8)>,
    /// Leave the files behind
    #[arg(short = 'k')]
    pub keep: bool,
}

/// A run of checkpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointSpec {
    /// Interface under test.
    pub api: Api,
    /// Where.
    pub directory: String,
    /// How many tasks.
    pub tasks: u32,
    /// Bytes of each task.
    pub state_bytes: u64,
    /// Bytes of one call.
    pub transfer_size: u64,
    /// One file for all.
    pub shared: bool,
    /// How many versions.
    pub versions: u32,
    /// Work between them.
    pub compute_ms: u64,
    /// How long to wait for the shared tier.
    pub durable_s: u64,
    /// Do not remove the files.
    pub keep: bool,
    /// Seed of the content.
    pub seed: u64,
    /// With the library: servers with data, and servers besides; one with data means copies.
    pub redundancy: Option<(u8, u8)>,
    /// Read the newest version, instead of writing.
    pub restore: bool,
}

impl CheckpointSpec {
    /// Where in its file, or region, the state of a rank begins.
    pub fn start(&self, rank: u32) -> u64 {
        if self.shared { u64::from(rank) * self.state_bytes } else { 0 }
    }

    /// What the state of a rank is.
    pub fn pattern(&self, version: u32, rank: u32) -> Pattern {
        let file = if self.shared { 0 } else { u64::from(rank) + 1 };
        Pattern::new(self.seed ^ u64::from(version), file)
    }

    /// The time between two versions, which a program computes.
    pub fn compute(&self, version: u32) {
        if version > 0 && self.compute_ms > 0 {
            std::thread::sleep(Duration::from_millis(self.compute_ms));
        }
    }

    /// The same, as the library has it.
    pub fn redundancy(&self) -> Redundancy {
        match self.redundancy {
            None => Redundancy::None,
            Some((1, extra)) => Redundancy::Copies(extra),
            Some((data, extra)) => Redundancy::Parity { data, extra },
        }
    }
}

/// `copies:N` or `parity:DATA+EXTRA`.
fn redundancy(text: &str) -> std::result::Result<(u8, u8), String> {
    let number = |text: &str| text.parse::<u8>().ok().filter(|number| *number > 0);
    let parsed = match text.split_once(':') {
        Some(("copies", count)) => number(count).map(|count| (1, count)),
        Some(("parity", parts)) => {
            let (data, extra) = parts.split_once('+').unwrap_or_default();
            number(data).filter(|data| *data > 1).zip(number(extra))
        }
        _ => None,
    };
    parsed.ok_or_else(|| {
        format!("{text:?} is neither copies:N nor parity:DATA+EXTRA, with at least 2 for data")
    })
}

/// What one command measures, and where results go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointSetup {
    /// The run.
    pub spec: CheckpointSpec,
    /// Command between the last version and the recovery.
    pub fault: Option<String>,
    /// Where the JSON document goes.
    pub json: Option<String>,
    /// The command line, for the header.
    pub command_line: String,
}

impl CheckpointArgs {
    /// The run that these options describe, if there are `natural` tasks where nobody says how many.
    ///
    /// # Errors
    /// [`BenchError::Options`] if they have no meaning.
    pub fn setup(&self, natural: u32, command_line: String) -> Result<CheckpointSetup> {
        let tasks = self.num.tasks.unwrap_or(natural);
        if tasks == 0
            || self.versions == 0
            || self.transfer_size == 0
            || !self.state.is_multiple_of(self.transfer_size)
        {
            let what = "tasks and versions must be at least 1, and the state (-b) a multiple of the transfer size (-t)";
            return Err(BenchError::Options(what.to_owned()));
        }
        if self.redundancy.is_some() && self.common.api != Api::Libio {
            return Err(BenchError::Options("--redundancy is for -a LIBIO".to_owned()));
        }
        let spec = CheckpointSpec {
            api: self.common.api,
            directory: self.common.rooted(&self.directory),
            tasks,
            state_bytes: self.state,
            transfer_size: self.transfer_size,
            shared: self.shared,
            versions: self.versions,
            compute_ms: self.compute_ms,
            durable_s: self.durable,
            keep: self.keep,
            seed: mix(clock::now_ns() ^ clock::unix_seconds()) >> 33,
            redundancy: self.redundancy,
            restore: false,
        };
        Ok(CheckpointSetup { spec, fault: self.fault.clone(), json: self.json.json.clone(), command_line })
    }
}
