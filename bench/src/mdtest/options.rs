//! The command line of `hayate bench mdtest`: mdtest's letters with mdtest's meaning.

use clap::{ArgAction, Args};

use super::spec::MdtestSpec;
use super::{Setup, Show};
use crate::backend::Api;
use crate::clock;
use crate::common::{Common, Foreign, JsonFile};
use crate::error::{BenchError, Result};
use crate::pattern::{Packet, mix};
use crate::size;

/// Options of `hayate bench mdtest`. Without -C, -T, -E, -r and -U all phases run; without -F and -D items are files and directories.
#[derive(Debug, Clone, Args)]
#[allow(clippy::struct_excessive_bools)] // mdtest's independent switches.
pub struct MdtestArgs {
    /// What is measured, and by whom.
    #[command(flatten)]
    pub common: Common,
    /// Where the results go besides.
    #[command(flatten)]
    pub json: JsonFile,
    /// What has no meaning here.
    #[command(flatten)]
    pub foreign: Foreign,
    /// Branching factor of the directory tree
    #[arg(short = 'b', value_name = "N", default_value_t = 1)]
    pub branch: u64,
    /// Barriers between phases: only 0, which keeps them, as in mdtest 4
    #[arg(short = 'B', value_name = "N", default_value_t = 0, value_parser = barriers)]
    pub no_barriers: u32,
    /// Task 0 does all creates and removes
    #[arg(short = 'c')]
    pub collective: bool,
    /// Only create
    #[arg(short = 'C')]
    pub create: bool,
    /// Directory of the test, or several (A@B) that tasks take by turns; they are made if they are not there
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
    /// First number of tasks of the test (with -l)
    #[arg(short = 'f', value_name = "N", default_value_t = 1)]
    pub first: u32,
    /// Files only
    #[arg(short = 'F')]
    pub files: bool,
    /// Lustre's directory layout; here it is `hayate mkdir --layout`
    #[arg(short = 'g', hide = true, num_args = 0, default_missing_value = "1", value_parser = no_lustre)]
    pub lustre_layout: Option<String>,
    /// Iterations
    #[arg(short = 'i', value_name = "N", default_value_t = 1)]
    pub repetitions: u32,
    /// Items per directory of the tree
    #[arg(short = 'I', value_name = "N", default_value_t = 0)]
    pub items_per_dir: u64,
    /// Make files by mknod, without opening them
    #[arg(short = 'k')]
    pub make_node: bool,
    /// Last number of tasks of the test (default: all tasks, once)
    #[arg(short = 'l', value_name = "N", default_value_t = 0)]
    pub last: u32,
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
    /// Print rate and time
    #[arg(short = 'P')]
    pub rate_and_time: bool,
    /// Print the results of each task
    #[arg(long)]
    pub print_all_procs: bool,
    /// Only remove
    #[arg(short = 'r')]
    pub remove: bool,
    /// Stat and read in random order
    #[arg(short = 'R')]
    pub random: bool,
    /// Seed of the random order, which it also asks for
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    pub random_seed: u64,
    /// Stride between the numbers of tasks (with -f and -l)
    #[arg(short = 's', value_name = "N", default_value_t = 1)]
    pub tasks_stride: u32,
    /// All tasks work on the same files; no directories
    #[arg(short = 'S')]
    pub shared_files: bool,
    /// Time also what it takes to find the directory of -u
    #[arg(short = 't')]
    pub time_unique: bool,
    /// Only stat
    #[arg(short = 'T')]
    pub stat: bool,
    /// A directory for each task
    #[arg(short = 'u')]
    pub unique_dir: bool,
    /// Rename directories
    #[arg(short = 'U')]
    pub rename: bool,
    /// verbose: a line for each phase (may be repeated)
    #[arg(short = 'v', action = ArgAction::Count)]
    pub verbose: u8,
    /// The same, as a number
    #[arg(short = 'V', value_name = "N", default_value_t = 0)]
    pub verbosity: u8,
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
    /// Read back and compare at once what was written
    #[arg(long)]
    pub verify_write: bool,
    /// fsync each file after writing
    #[arg(short = 'y')]
    pub sync: bool,
    /// sync(2) at the end of each phase, timed: writes everything of the host back (POSIX)
    #[arg(short = 'Y')]
    pub sync_host: bool,
    /// Levels of the directory tree
    #[arg(short = 'z', value_name = "N", default_value_t = 0)]
    pub depth: u32,
    /// Print time instead of rate
    #[arg(short = 'Z')]
    pub time: bool,
    /// Seed of the content, to compare files of an earlier run (default: a new one each run)
    #[arg(short = 'G', value_name = "SEED")]
    pub seed: Option<u64>,
    /// What content looks like: random (incompressible), offset, or timestamp (the signature of -G)
    #[arg(long = "dataPacketType", value_name = "TYPE", default_value = "random", value_parser = Packet::parse)]
    pub packet: Packet,
    /// Command of each task before each phase, not timed
    #[arg(long, value_name = "COMMAND", default_value = "", hide_default_value = true)]
    pub run_cmd_before_phase: String,
    /// Command of each task at the end of each phase, timed
    #[arg(long, value_name = "COMMAND", default_value = "", hide_default_value = true)]
    pub run_cmd_after_phase: String,
    /// Write rate and time of each task into this CSV file
    #[arg(long = "saveRankPerformanceDetails", value_name = "FILE")]
    pub rank_csv: Option<String>,
    /// Write each operation on files into PREFIX-PHASE-RANK.csv
    #[arg(long = "savePerOpDataCSV", value_name = "PREFIX", default_value = "", hide_default_value = true)]
    pub operations_csv: String,
    /// A column for each kind of statistics of tasks
    #[arg(long = "showRankStatistics")]
    pub rank_statistics: bool,
    /// What is worth a warning ends the run
    #[arg(long = "warningAsErrors")]
    pub warnings_are_errors: bool,
    /// O_DIRECT: bypass the page cache (POSIX)
    #[arg(long = "posix.odirect")]
    pub direct: bool,
}

fn barriers(text: &str) -> std::result::Result<u32, String> {
    match text.parse() {
        Ok(0) => Ok(0),
        _ => Err("phases are measured between barriers, as in mdtest 4, which refuses this too".to_owned()),
    }
}

fn no_lustre(_: &str) -> std::result::Result<String, String> {
    Err("Lustre's directory layout: see `hayate mkdir --layout`".to_owned())
}

impl MdtestArgs {
    /// The test that these options describe, if there are `natural` tasks where nobody says how many.
    ///
    /// # Errors
    /// [`crate::BenchError::Options`] if they have no meaning.
    pub fn setup(&self, natural: u32, command_line: String) -> Result<Setup> {
        let wrong = |what: &str| Err(BenchError::Options(what.to_owned()));
        if self.sync_host && self.common.api == Api::Hayate {
            return wrong("-Y is sync(2), which the native client does not have; -y syncs each file");
        }
        if self.direct && self.common.api != Api::Posix {
            return wrong("--posix.odirect is for -a POSIX");
        }
        let spec = self.spec(self.tasks.unwrap_or(natural))?;
        if self.warnings_are_errors && spec.read && spec.files && spec.read_bytes == 0 {
            return wrong("read bytes (-e) is 0, so reads would just open and close (--warningAsErrors)");
        }
        let counts = counts(self.first, self.last, self.tasks_stride, spec.tasks)?;
        let show = Show {
            rate: self.rate_and_time || !self.time,
            time: self.rate_and_time || self.time,
            of_ranks: self.rank_statistics,
            each_rank: self.print_all_procs,
            verbose: self.verbose.max(self.verbosity),
        };
        Ok(Setup {
            counts,
            show,
            status_file: self.status_file.clone(),
            rank_csv: self.rank_csv.clone(),
            json: self.json.json.clone(),
            command_line,
            ..Setup::new(spec)
        })
    }

    fn spec(&self, tasks: u32) -> Result<MdtestSpec> {
        let all = !(self.create || self.stat || self.read || self.remove || self.rename);
        let both = !self.files && !self.dirs;
        let mut spec = MdtestSpec {
            directories: self.directory.split('@').map(|path| self.common.rooted(path)).collect(),
            tasks,
            items_per_dir: self.items_per_dir,
            branch: self.branch,
            depth: self.depth,
            leaf_only: self.leaf_only,
            files: self.files || both,
            dirs: (self.dirs || both) && !self.shared_files,
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
            rename: self.rename || all,
            remove: self.remove || all,
            verify: self.verify,
            sync: self.sync,
            random: self.random || self.random_seed > 0,
            random_seed: self.random_seed,
            delay_s: self.delay_s,
            collective: self.collective,
            shared_files: self.shared_files,
            make_node: self.make_node,
            verify_write: self.verify_write,
            sync_host: self.sync_host,
            direct: self.direct,
            packet: self.packet,
            before_phase: self.run_cmd_before_phase.clone(),
            after_phase: self.run_cmd_after_phase.clone(),
            operations_csv: self.operations_csv.clone(),
            seed: self.seed.unwrap_or_else(|| mix(clock::now_ns() ^ clock::unix_seconds()) >> 33),
            ..MdtestSpec::new(self.common.api, String::new(), self.items)
        };
        spec.distribute()?;
        spec.validate()?;
        Ok(spec)
    }
}

/// The numbers of tasks that one command tests: `-f`, `-l` and `-s`. As in mdtest, a stride counts from 0: 1, 2, 4, 6.
fn counts(first: u32, last: u32, stride: u32, tasks: u32) -> Result<Vec<u32>> {
    if last == 0 {
        return Ok(vec![tasks]);
    }
    if first == 0 || stride == 0 || first > last.min(tasks) {
        let what = format!(
            "there is no number of tasks from {first} (-f) to {last} (-l) by {stride} (-s), of {tasks}"
        );
        return Err(BenchError::Options(what));
    }
    let next = |count: &u32| Some(if *count == 1 && stride > 1 { stride } else { count + stride });
    Ok(std::iter::successors(Some(first), next).take_while(|count| *count <= last.min(tasks)).collect())
}

#[cfg(test)]
#[path = "options_tests.rs"]
mod tests;
