//! The command line of `hayate bench ior`: IOR's letters with IOR's meaning.

use std::ffi::{OsStr, OsString};

use clap::{ArgAction, Args};

use super::plan::{Format, Output, Plan, Test};
use super::spec::{FILES_DELIMITER, IorSpec, OFFSET_SEED, Reorder};
use super::{directives, script};
use crate::clock;
use crate::common::{Common, Foreign, NumTasks};
use crate::error::{BenchError, Result};
use crate::machine;
use crate::pattern::{Packet, mix};
use crate::size;

/// Options of `hayate bench ior`. Sizes may end in k, m, g or t.
#[derive(Debug, Clone, Args)]
#[allow(clippy::struct_excessive_bools)] // IOR's independent switches.
pub struct IorArgs {
    /// What is measured, and by whom.
    #[command(flatten)]
    pub common: Common,
    /// How many tasks.
    #[command(flatten)]
    pub num: NumTasks,
    /// What has no meaning here.
    #[command(flatten)]
    pub foreign: Foreign,
    /// refNum: the user's number of the test, for the summary
    #[arg(short = 'A', value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    pub reference: i64,
    /// blockSize: contiguous bytes to write per task
    #[arg(short = 'b', value_name = "SIZE", default_value = "1m", value_parser = size::parse)]
    pub block_size: u64,
    /// O_DIRECT: bypass the page cache (POSIX)
    #[arg(short = 'B', long = "posix.odirect")]
    pub direct: bool,
    /// collective I/O: no API here has it; said and ignored, as IOR does
    #[arg(short = 'c', long)]
    pub collective: bool,
    /// reorderTasks: read what the task N further (-Q) wrote; with several nodes, N nodes further
    #[arg(short = 'C')]
    pub reorder_constant: bool,
    /// interTestDelay: seconds to wait before each phase
    #[arg(short = 'd', value_name = "SECONDS", default_value_t = 0)]
    pub delay_s: u64,
    /// deadlineForStonewalling: seconds after which a write or read phase stops
    #[arg(short = 'D', value_name = "SECONDS", default_value_t = 0)]
    pub deadline_s: u64,
    /// fsync at the end of the write phase, timed
    #[arg(short = 'e')]
    pub fsync: bool,
    /// useExistingTestFile: do not remove the test file before writing
    #[arg(short = 'E')]
    pub use_existing: bool,
    /// scriptFile: tests of a file (IOR START ... RUN ... IOR STOP); the other options are its defaults
    #[arg(short = 'f', value_name = "FILE")]
    pub script: Option<String>,
    /// filePerProc: a file for each task
    #[arg(short = 'F')]
    pub file_per_process: bool,
    /// intraTestBarriers: barriers between open, access and close
    #[arg(short = 'g')]
    pub intra_barriers: bool,
    /// setTimeStampSignature: seed of the content (default: a new one each run)
    #[arg(short = 'G', value_name = "SEED")]
    pub seed: Option<u64>,
    /// repetitions
    #[arg(short = 'i', value_name = "N", default_value_t = 1)]
    pub repetitions: u32,
    /// outlierThreshold: warn of tasks whose times are N seconds from the mean
    #[arg(short = 'j', value_name = "SECONDS", default_value_t = 0)]
    pub outlier_s: u64,
    /// keepFile: do not remove the test file at the end
    #[arg(short = 'k')]
    pub keep: bool,
    /// keepFileWithError: do not remove a file in which wrong content was found
    #[arg(short = 'K')]
    pub keep_with_error: bool,
    /// data packet type: random (incompressible), offset, or timestamp (the signature of -G)
    #[arg(short = 'l', long = "dataPacketType", value_name = "TYPE", default_value = "random", value_parser = Packet::parse)]
    pub packet: Packet,
    /// multiFile: a file for each repetition
    #[arg(short = 'm')]
    pub multi_file: bool,
    /// memoryPerNode: memory to take away from the page cache (2g, 75%)
    #[arg(short = 'M', value_name = "SIZE", value_parser = machine::memory_share)]
    pub hog_per_node: Option<u64>,
    /// testFile; of several (A@B) tasks with -F take one by turns
    #[arg(short = 'o', value_name = "FILE", default_value = "testFile")]
    pub test_file: String,
    /// Directives: summaryFile=PATH, summaryFormat=JSON|CSV|default (with a file the text is printed too),
    /// saveRankPerformanceDetailsCSV=PATH, stoneWallingWearOut=1, stoneWallingStatusFile=PATH, and the long names of options
    #[arg(short = 'O', value_name = "KEY=VALUE", value_delimiter = ',', action = ArgAction::Append)]
    pub directives: Vec<String>,
    /// quitOnError: stop at the first wrong content
    #[arg(short = 'q')]
    pub quit_on_error: bool,
    /// taskPerNodeOffset: by how many tasks -C shifts, and -Z at least
    #[arg(short = 'Q', value_name = "N", default_value_t = 1)]
    pub task_offset: u32,
    /// readFile: read (default with -w if none of -w -r -W -R is given)
    #[arg(short = 'r')]
    pub read: bool,
    /// checkRead: compare what is read, within the timing
    #[arg(short = 'R')]
    pub check_read: bool,
    /// segmentCount
    #[arg(short = 's', value_name = "N", default_value_t = 1)]
    pub segments: u64,
    /// transferSize: bytes of one call
    #[arg(short = 't', value_name = "SIZE", default_value = "256k", value_parser = size::parse)]
    pub transfer_size: u64,
    /// maxTimeDuration: minutes after which no further phase begins
    #[arg(short = 'T', value_name = "MINUTES", default_value_t = 0)]
    pub max_minutes: u64,
    /// uniqueDir: a directory for each file of -F
    #[arg(short = 'u')]
    pub unique_dir: bool,
    /// verbose: more lines (may be repeated)
    #[arg(short = 'v', action = ArgAction::Count)]
    pub verbose: u8,
    /// writeFile: write
    #[arg(short = 'w')]
    pub write: bool,
    /// checkWrite: read back and compare after writing, not timed
    #[arg(short = 'W')]
    pub check_write: bool,
    /// singleXferAttempt: a transfer that the system did in part is an error
    #[arg(short = 'x')]
    pub single_attempt: bool,
    /// reorderTasksRandomSeed: order of -Z; negative: another order each repetition
    #[arg(short = 'X', value_name = "SEED", default_value_t = 0, allow_negative_numbers = true)]
    pub reorder_seed: i64,
    /// What is worth a warning ends the run
    #[arg(long = "warningAsErrors")]
    pub warnings_are_errors: bool,
    /// dualMount: refused
    #[arg(short = 'y', long = "dualMount", hide = true, num_args = 0, default_missing_value = "1", value_parser = no_dual_mount)]
    pub dual_mount: Option<String>,
    /// fsyncPerWrite: fsync after every write
    #[arg(short = 'Y')]
    pub fsync_per_write: bool,
    /// randomOffset: random, not sequential, offsets
    #[arg(short = 'z', action = ArgAction::Count)]
    pub random_offset: u8,
    /// Seed of the offsets of -z
    #[arg(long, value_name = "SEED", default_value_t = OFFSET_SEED as i64, allow_negative_numbers = true, hide_default_value = true)]
    pub random_offset_seed: i64,
    /// randomPrefill: refused
    #[arg(long = "randomPrefill", hide = true, value_name = "SIZE", value_parser = no_prefill)]
    pub random_prefill: Option<String>,
    /// dryRun: refused
    #[arg(long = "dryRun", hide = true, num_args = 0, default_missing_value = "1", value_parser = no_dry_run)]
    pub dry_run: Option<String>,
    /// reorderTasksRandom: read what a random task wrote
    #[arg(short = 'Z')]
    pub reorder_random: bool,
    /// What only directives can set.
    #[arg(skip)]
    pub more: More,
}

/// What only directives can set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct More {
    /// stoneWallingWearOut.
    pub wear_out: bool,
    /// stoneWallingWearOutIterations.
    pub wear_out_iterations: u64,
    /// stoneWallingStatusFile: how far a write phase came, for the reads of a later run.
    pub status_file: Option<String>,
    /// summaryFormat.
    pub format: Format,
    /// summaryFile.
    pub summary_file: Option<String>,
    /// saveRankPerformanceDetailsCSV.
    pub rank_csv: Option<String>,
    /// savePerOpDataCSV.
    pub operations_csv: String,
    /// memoryPerTask.
    pub hog_per_task: u64,
}

fn no_dual_mount(_: &str) -> std::result::Result<String, String> {
    Err("two mounts of a file system: give each run the path of one".to_owned())
}

fn no_prefill(_: &str) -> std::result::Result<String, String> {
    Err("-z writes every byte once, so there is nothing to fill before".to_owned())
}

fn no_dry_run(_: &str) -> std::result::Result<String, String> {
    Err("-a NULL does everything but the I/O".to_owned())
}

/// `-np 4`, as mpirun spells it, to `--np 4`. For the program's arguments, before they are parsed.
pub fn accept_np(args: impl IntoIterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    args.into_iter().map(|arg| if arg == OsStr::new("-np") { OsString::from("--np") } else { arg })
}

impl IorArgs {
    /// The tests that these options describe, if there are `natural` tasks where nobody says how many.
    ///
    /// # Errors
    /// [`BenchError::Options`] if they contradict each other, or the script has no meaning.
    pub fn plan(&self, natural: u32, command_line: String) -> Result<Plan> {
        let mut base = self.clone();
        for directive in &self.directives {
            directives::apply_line(&mut base, directive)?;
        }
        let all = match &self.script {
            None => vec![base.clone()],
            Some(path) => script::read(path, &base)?,
        };
        let tests =
            (0..).zip(&all).map(|(id, args)| args.test(id, natural)).collect::<Result<Vec<Test>>>()?;
        Ok(Plan { tests, output: all.last().unwrap_or(&base).output(command_line) })
    }

    fn output(&self, command_line: String) -> Output {
        Output {
            format: self.more.format,
            file: self.more.summary_file.clone(),
            rank_csv: self.more.rank_csv.clone(),
            verbose: self.verbose,
            command_line,
        }
    }

    fn test(&self, id: u32, natural: u32) -> Result<Test> {
        let spec = self.spec(self.num.tasks.unwrap_or(natural))?;
        Ok(Test {
            id,
            spec,
            reference: self.reference,
            collective: self.collective,
            warnings_are_errors: self.warnings_are_errors,
            hog_per_node: self.hog_per_node.unwrap_or(0),
            status_file: self.more.status_file.clone(),
        })
    }

    fn spec(&self, tasks: u32) -> Result<IorSpec> {
        let none = !(self.write || self.read || self.check_write || self.check_read);
        let spec = IorSpec {
            tasks,
            block_size: self.block_size,
            transfer_size: self.transfer_size,
            segments: self.segments,
            repetitions: self.repetitions,
            file_per_process: self.file_per_process,
            unique_dir: self.unique_dir,
            write: self.write || none,
            read: self.read || none,
            check_write: self.check_write,
            check_read: self.check_read,
            random_offset: self.random_offset > 0,
            reorder: self.reorder()?,
            fsync: self.fsync,
            fsync_per_write: self.fsync_per_write,
            use_existing: self.use_existing,
            keep: self.keep,
            keep_with_error: self.keep_with_error,
            quit_on_error: self.quit_on_error,
            intra_barriers: self.intra_barriers,
            direct: self.direct,
            delay_s: self.delay_s,
            packet: self.packet,
            multi_file: self.multi_file,
            single_attempt: self.single_attempt,
            deadline_s: self.deadline_s,
            wear_out: self.more.wear_out,
            wear_out_iterations: self.more.wear_out_iterations,
            max_minutes: self.max_minutes,
            outlier_s: self.outlier_s,
            hog_bytes: self.more.hog_per_task,
            offset_seed: self.random_offset_seed.cast_unsigned(),
            operations_csv: self.more.operations_csv.clone(),
            ..IorSpec::new(self.common.api, self.rooted())
        };
        if self.warnings_are_errors && self.collective {
            let what = "no API here has collective I/O (-c), so it would be ignored (--warningAsErrors)";
            return Err(BenchError::Options(what.to_owned()));
        }
        let checks_old = !spec.write && (spec.check_read || spec.check_write);
        if checks_old && self.seed.is_none() && spec.packet != Packet::Offset {
            let hint = "to verify a file of an earlier run give the seed that it printed (-G SEED)";
            return Err(BenchError::Options(hint.to_owned()));
        }
        spec.validate()?;
        Ok(IorSpec { seeds: self.seeds(), ..spec })
    }

    /// The names of the test files as the interface has them.
    fn rooted(&self) -> String {
        let names = self.test_file.split(FILES_DELIMITER).map(|name| self.common.rooted(name));
        names.collect::<Vec<_>>().join(&FILES_DELIMITER.to_string())
    }

    fn reorder(&self) -> Result<Reorder> {
        match (self.reorder_constant, self.reorder_random) {
            (false, false) => Ok(Reorder::None),
            (true, false) => Ok(Reorder::Constant { offset: self.task_offset }),
            (false, true) => Ok(Reorder::Random { seed: self.reorder_seed, offset: self.task_offset }),
            (true, true) => Err(BenchError::Options("give -C or -Z, not both".to_owned())),
        }
    }

    /// A seed a repetition, so that content left over from an earlier one is found; one for all if it was given. They
    /// are short, because people type them.
    fn seeds(&self) -> Vec<u64> {
        let base = mix(clock::now_ns() ^ mix(u64::from(std::process::id())) ^ mix(clock::unix_seconds()));
        match self.seed {
            Some(seed) => vec![seed],
            None => (0..self.repetitions).map(|n| mix(base ^ u64::from(n)) >> 33).collect(),
        }
    }
}

#[cfg(test)]
#[path = "options_tests.rs"]
mod tests;
