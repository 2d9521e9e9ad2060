//! The command line of `hayate bench mdtest`: mdtest's letters with mdtest's meaning.

use clap::Args;

use super::Setup;
use super::spec::MdtestSpec;
use crate::backend::Api;
use crate::clock;
use crate::error::Result;
use crate::pattern::mix;
use crate::size;

/// Options of `hayate bench mdtest`. Without -C, -T, -E and -r all phases run; without -F and -D items are files and directories.
#[derive(Debug, Clone, Args)]
#[allow(clippy::struct_excessive_bools)] // mdtest's independent switches.
pub struct MdtestArgs {
    /// API: POSIX (any path), HAYATE (native client) or NULL (what the harness itself costs)
    #[arg(short = 'a', value_name = "API", default_value = "POSIX", ignore_case = true)]
    pub api: Api,
    /// Branching factor of the directory tree
    #[arg(short = 'b', value_name = "N", default_value_t = 1)]
    pub branch: u64,
    /// Only create
    #[arg(short = 'C')]
    pub create: bool,
    /// Directory of the test; it is made if it is not there
    #[arg(short = 'd', value_name = "DIR", default_value = "./out")]
    pub directory: String,
    /// Directories only
    #[arg(short = 'D')]
    pub dirs: bool,
    /// Bytes to read from each file
    #[arg(short = 'e', value_name = "SIZE", default_value = "0", value_parser = size::parse)]
    pub read_bytes: u64,
    /// Only read
    #[arg(short = 'E')]
    pub read: bool,
    /// Files only
    #[arg(short = 'F')]
    pub files: bool,
    /// Iterations
    #[arg(short = 'i', value_name = "N", default_value_t = 1)]
    pub repetitions: u32,
    /// Items per directory of the tree
    #[arg(short = 'I', value_name = "N", default_value_t = 0)]
    pub items_per_dir: u64,
    /// Items at the last level of the tree only
    #[arg(short = 'L')]
    pub leaf_only: bool,
    /// Items of each task
    #[arg(short = 'n', value_name = "N", default_value_t = 0)]
    pub items: u64,
    /// Stride between tasks from phase to phase; with several nodes, of nodes (1: no client meets what it made)
    #[arg(short = 'N', value_name = "N", default_value_t = 0)]
    pub stride: u32,
    /// Tasks (-np N means the same)
    #[arg(long = "np", value_name = "N")]
    pub tasks: Option<u32>,
    /// Seconds to wait before each phase
    #[arg(short = 'p', value_name = "SECONDS", default_value_t = 0)]
    pub delay_s: u64,
    /// Only remove
    #[arg(short = 'r')]
    pub remove: bool,
    /// Stat in random order
    #[arg(short = 'R')]
    pub random: bool,
    /// Time also what it takes to find the directory of -u
    #[arg(short = 't')]
    pub time_unique: bool,
    /// Only stat
    #[arg(short = 'T')]
    pub stat: bool,
    /// A directory for each task
    #[arg(short = 'u')]
    pub unique_dir: bool,
    /// Bytes to write into each file after it is created
    #[arg(short = 'w', value_name = "SIZE", default_value = "0", value_parser = size::parse)]
    pub write_bytes: u64,
    /// Seconds after which creation stops; then all tasks go on to where the fastest was
    #[arg(short = 'W', value_name = "SECONDS", default_value_t = 0)]
    pub deadline_s: u64,
    /// File that keeps how many items -W left, for phases of a later run
    #[arg(short = 'x', value_name = "FILE")]
    pub status_file: Option<String>,
    /// Compare what is read
    #[arg(short = 'X', long = "verify-read")]
    pub verify: bool,
    /// fsync each file after writing
    #[arg(short = 'y')]
    pub sync: bool,
    /// Levels of the directory tree
    #[arg(short = 'z', value_name = "N", default_value_t = 0)]
    pub depth: u32,
    /// Seed of the content, to compare files of an earlier run (default: a new one each run)
    #[arg(short = 'G', value_name = "SEED")]
    pub seed: Option<u64>,
    /// Write a JSON document into this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<String>,
    /// Ask the cluster's servers for their counters, though a mount is measured (default with -a HAYATE)
    #[arg(long)]
    pub servers: bool,
    /// Tasks are threads of one process
    #[arg(long)]
    pub threads: bool,
}

impl MdtestArgs {
    /// The test that these options describe, if there are `natural` tasks where nobody says how many.
    ///
    /// # Errors
    /// [`crate::BenchError::Options`] if they have no meaning.
    pub fn setup(&self, natural: u32, command_line: String) -> Result<Setup> {
        let all = !(self.create || self.stat || self.read || self.remove);
        let rooted = self.api != Api::Hayate || self.directory.starts_with('/');
        let relative = self.directory.trim_start_matches("./");
        let directory = if rooted { self.directory.clone() } else { format!("/{relative}") };
        let both = !self.files && !self.dirs;
        let mut spec = MdtestSpec {
            tasks: self.tasks.unwrap_or(natural),
            items_per_dir: self.items_per_dir,
            branch: self.branch,
            depth: self.depth,
            leaf_only: self.leaf_only,
            files: self.files || both,
            dirs: self.dirs || both,
            unique_dir: self.unique_dir,
            time_unique: self.time_unique,
            stride: self.stride,
            write_bytes: self.write_bytes,
            read_bytes: self.read_bytes,
            deadline_s: self.deadline_s,
            repetitions: self.repetitions,
            create: self.create || all,
            stat: self.stat || all,
            read: self.read || all,
            rename: all,
            remove: self.remove || all,
            verify: self.verify,
            sync: self.sync,
            random: self.random,
            delay_s: self.delay_s,
            seed: self.seed.unwrap_or_else(|| mix(clock::now_ns() ^ clock::unix_seconds()) >> 33),
            ..MdtestSpec::new(self.api, directory, self.items)
        };
        spec.distribute()?;
        spec.validate()?;
        Ok(Setup { spec, status_file: self.status_file.clone(), json: self.json.clone(), command_line })
    }
}
