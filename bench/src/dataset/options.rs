//! The command line of `hayate bench dataset`.

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::backend::Api;
use crate::common::{Common, JsonFile, NumTasks};
use crate::error::{BenchError, Result};
use crate::size;

/// Options of `hayate bench dataset`.
#[derive(Debug, Clone, Args)]
#[allow(clippy::struct_excessive_bools)] // Independent switches.
pub struct DatasetArgs {
    /// What is measured, and by whom.
    #[command(flatten)]
    pub common: Common,
    /// How many tasks.
    #[command(flatten)]
    pub num: NumTasks,
    /// Where the results go besides.
    #[command(flatten)]
    pub json: JsonFile,
    /// Directory of the data set; it is made if it is not there
    #[arg(short = 'd', value_name = "DIR", default_value = "./dataset")]
    pub directory: String,
    /// Files of the data set
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub files: u64,
    /// Samples of a file: 1 for a file each (images), many for records (TFRecord, HDF5)
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub samples_per_file: u64,
    /// Bytes of a sample
    #[arg(long, value_name = "SIZE", default_value = "112k", value_parser = size::parse)]
    pub sample: u64,
    /// Samples of a batch
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub batch: u64,
    /// What an accelerator computes for a batch, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pub compute_ms: u64,
    /// Batches that a task reads ahead
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub prefetch: u64,
    /// Epochs
    #[arg(short = 'i', value_name = "N", default_value_t = 3)]
    pub epochs: u32,
    /// Seed of the order of the samples, and of the content
    #[arg(short = 'G', value_name = "SEED", default_value_t = 1)]
    pub seed: u64,
    /// Compare what is read, within the timing
    #[arg(short = 'R')]
    pub verify: bool,
    /// The data set is there: do not make it
    #[arg(short = 'E')]
    pub use_existing: bool,
    /// Do not remove it at the end
    #[arg(short = 'k')]
    pub keep: bool,
}

/// A data set and how it is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::struct_excessive_bools)] // Independent switches.
pub struct DatasetSpec {
    /// Interface under test.
    pub api: Api,
    /// Where.
    pub directory: String,
    /// How many tasks.
    pub tasks: u32,
    /// How many files.
    pub files: u64,
    /// Samples of a file.
    pub samples_per_file: u64,
    /// Bytes of a sample.
    pub sample_bytes: u64,
    /// Samples of a batch.
    pub batch: u64,
    /// Compute time of a batch.
    pub compute_ms: u64,
    /// Batches ahead.
    pub prefetch: u64,
    /// Epochs.
    pub epochs: u32,
    /// Seed of order and content.
    pub seed: u64,
    /// Compare what is read.
    pub verify: bool,
    /// Make the files.
    pub make: bool,
    /// Remove them.
    pub remove: bool,
}

impl DatasetSpec {
    /// A file; a thousand of them share a directory.
    pub fn file_of(&self, file: u64) -> String {
        format!("{}/{}/{file:08}", self.directory, file / 1000)
    }

    /// Samples of the whole set.
    pub fn samples(&self) -> u64 {
        self.files * self.samples_per_file
    }
}

/// What one command measures, and where results go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetSetup {
    /// The run.
    pub spec: DatasetSpec,
    /// Where the JSON document goes.
    pub json: Option<String>,
    /// The command line, for the header.
    pub command_line: String,
}

impl DatasetArgs {
    /// The run that these options describe, if there are `natural` tasks where nobody says how many.
    ///
    /// # Errors
    /// [`BenchError::Options`] if they have no meaning.
    pub fn setup(&self, natural: u32, command_line: String) -> Result<DatasetSetup> {
        let tasks = self.num.tasks.unwrap_or(natural);
        let counts =
            [u64::from(tasks), self.files, self.samples_per_file, self.sample, self.batch, self.prefetch];
        if counts.contains(&0) || self.epochs == 0 {
            return Err(BenchError::Options("all counts and sizes must be at least 1".to_owned()));
        }
        let spec = DatasetSpec {
            api: self.common.api,
            directory: self.common.rooted(&self.directory),
            tasks,
            files: self.files,
            samples_per_file: self.samples_per_file,
            sample_bytes: self.sample,
            batch: self.batch,
            compute_ms: self.compute_ms,
            prefetch: self.prefetch,
            epochs: self.epochs,
            seed: self.seed,
            verify: self.verify,
            make: !self.use_existing,
            remove: !self.keep,
        };
        Ok(DatasetSetup { spec, json: self.json.json.clone(), command_line })
    }
}
