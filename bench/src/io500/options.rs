//! The command line of `hayate bench io500`.

use clap::Args;
use serde::{Deserialize, Serialize};

use super::phases::{EASY_BLOCK_BYTES, HARD_SEGMENTS, ITEMS, OFFICIAL_STONEWALL_S};
use crate::backend::Api;
use crate::common::{Common, NumTasks};
use crate::size;

/// Options of `hayate bench io500`. Without the sizes, they are those of IO500, and a run takes an hour.
#[derive(Debug, Clone, Args)]
pub struct Io500Args {
    /// What is measured, and by whom.
    #[command(flatten)]
    pub common: Common,
    /// How many tasks.
    #[command(flatten)]
    pub num: NumTasks,
    /// Directory of the data; the run makes its own in it, and removes it
    #[arg(short = 'd', long, value_name = "DIR", default_value = "./datafiles")]
    pub datadir: String,
    /// Directory of the results; each run has its own in it
    #[arg(long, value_name = "DIR", default_value = "./results")]
    pub resultdir: String,
    /// Seconds of each phase that writes; other than 300 makes the run invalid
    #[arg(long, value_name = "SECONDS", default_value_t = OFFICIAL_STONEWALL_S)]
    pub stonewall: u64,
    /// ior-easy: bytes of each task at most
    #[arg(long, value_name = "SIZE", default_value_t = EASY_BLOCK_BYTES, value_parser = size::parse)]
    pub easy_block: u64,
    /// ior-hard: segments at most
    #[arg(long, value_name = "N", default_value_t = HARD_SEGMENTS)]
    pub hard_segments: u64,
    /// mdtest-easy: files of each task at most
    #[arg(long, value_name = "N", default_value_t = ITEMS)]
    pub easy_files: u64,
    /// mdtest-hard: files of each task at most
    #[arg(long, value_name = "N", default_value_t = ITEMS)]
    pub hard_files: u64,
}

/// An IO500 run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Io500Spec {
    /// Interface under test.
    pub api: Api,
    /// Where data goes.
    pub data_dir: String,
    /// Where results go.
    pub result_dir: String,
    /// Deadline of the phases that write.
    pub stonewall_s: u64,
    /// Bytes of each task of ior-easy at most.
    pub easy_block: u64,
    /// Segments of ior-hard at most.
    pub hard_segments: u64,
    /// Files of each task of mdtest-easy at most.
    pub easy_files: u64,
    /// Files of each task of mdtest-hard at most.
    pub hard_files: u64,
}

impl Io500Args {
    /// The run that these options describe.
    pub fn spec(&self) -> Io500Spec {
        Io500Spec {
            api: self.common.api,
            data_dir: self.common.rooted(&self.datadir),
            result_dir: self.resultdir.clone(),
            stonewall_s: self.stonewall,
            easy_block: self.easy_block,
            hard_segments: self.hard_segments,
            easy_files: self.easy_files,
            hard_files: self.hard_files,
        }
    }
}

impl Io500Spec {
    /// Why no run with these options can be valid by IO500's rules.
    pub fn faults(&self) -> Vec<String> {
        let mut all = Vec::new();
        if self.stonewall_s != OFFICIAL_STONEWALL_S {
            all.push(format!("stonewall-time is {}, not {OFFICIAL_STONEWALL_S}", self.stonewall_s));
        }
        for (name, have, official) in [
            ("ior-easy blockSize", self.easy_block, EASY_BLOCK_BYTES),
            ("ior-hard segmentCount", self.hard_segments, HARD_SEGMENTS),
            ("mdtest-easy n", self.easy_files, ITEMS),
            ("mdtest-hard n", self.hard_files, ITEMS),
        ] {
            if have < official {
                all.push(format!("{name} is {have}, less than {official}"));
            }
        }
        match self.api {
            Api::Null => all.push("nothing is stored".to_owned()),
            Api::Hayate => all.push(
                "no sync at the end of mdtest writes (-Y): the native client has no such call".to_owned(),
            ),
            Api::Posix | Api::Libio => {}
        }
        all
    }
}
