//! The command line of `hayate bench metadata`.

use clap::Args;

use super::MetadataSpec;
use crate::backend::Api;
use crate::clock;
use crate::error::Result;
use crate::pattern::mix;
use crate::size;

/// Options of `hayate bench metadata`. Without -C, -T, -E and -r all four phases run.
#[derive(Debug, Clone, Args)]
#[allow(clippy::struct_excessive_bools)] // mdtest's independent switches.
pub struct MetadataArgs {
    /// API: POSIX (any path), HAYATE (native client) or NULL (what the harness itself costs)
    #[arg(short = 'a', value_name = "API", default_value = "POSIX", ignore_case = true)]
    pub api: Api,
    /// Create files
    #[arg(short = 'C')]
    pub create: bool,
    /// Directory of the test (it must exist)
    #[arg(short = 'd', value_name = "DIR", default_value = "./")]
    pub directory: String,
    /// Open, read and close files
    #[arg(short = 'E')]
    pub read: bool,
    /// Repetitions
    #[arg(short = 'i', value_name = "N", default_value_t = 1)]
    pub repetitions: u32,
    /// Files of each task
    #[arg(short = 'n', value_name = "N", default_value_t = 1000)]
    pub items: u64,
    /// Tasks (-np N means the same)
    #[arg(short = 'N', long = "np", value_name = "N", default_value_t = 1)]
    pub tasks: u32,
    /// Remove files
    #[arg(short = 'r')]
    pub remove: bool,
    /// Stat and read the files of the task N further, so that no cache of the creator answers
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub shift: u32,
    /// Stat files
    #[arg(short = 'T')]
    pub stat: bool,
    /// Tasks are threads of one process
    #[arg(long)]
    pub threads: bool,
    /// A directory for each task
    #[arg(short = 'u')]
    pub unique_dir: bool,
    /// Bytes to write into each file after creating it
    #[arg(short = 'w', value_name = "SIZE", default_value = "0", value_parser = size::parse)]
    pub write_bytes: u64,
    /// Seed of the content, to read files of an earlier run (default: a new one each run)
    #[arg(short = 'G', value_name = "SEED")]
    pub seed: Option<u64>,
}

impl MetadataArgs {
    /// The test that these options describe.
    ///
    /// # Errors
    /// [`crate::BenchError::Options`] if they have no meaning.
    pub fn spec(&self) -> Result<MetadataSpec> {
        let all = !(self.create || self.stat || self.read || self.remove);
        let rooted = self.api != Api::Hayate || self.directory.starts_with('/');
        let relative = self.directory.trim_start_matches("./");
        let directory = if rooted { self.directory.clone() } else { format!("/{relative}") };
        let spec = MetadataSpec {
            tasks: self.tasks,
            repetitions: self.repetitions,
            unique_dir: self.unique_dir,
            write_bytes: self.write_bytes,
            shift: self.shift,
            create: self.create || all,
            stat: self.stat || all,
            read: self.read || all,
            remove: self.remove || all,
            seed: self.seed.unwrap_or_else(|| mix(clock::now_ns() ^ clock::unix_seconds()) >> 33),
            ..MetadataSpec::new(self.api, directory, self.items)
        };
        spec.validate()?;
        Ok(spec)
    }
}
