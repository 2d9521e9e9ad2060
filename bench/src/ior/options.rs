//! The command line of `hayate bench ior`: IOR's letters with IOR's meaning.

use std::ffi::{OsStr, OsString};

use clap::{ArgAction, Args};

use super::Output;
use super::spec::{IorSpec, Reorder};
use crate::backend::Api;
use crate::clock;
use crate::error::{BenchError, Result};
use crate::pattern::mix;
use crate::size;

/// Options of `hayate bench ior`. Sizes may end in k, m, g or t.
#[derive(Debug, Clone, Args)]
#[allow(clippy::struct_excessive_bools)] // IOR's independent switches.
pub struct IorArgs {
    /// API: POSIX (any path), HAYATE (native client) or NULL (what the harness itself costs)
    #[arg(short = 'a', value_name = "API", default_value = "POSIX", ignore_case = true)]
    pub api: Api,
    /// refNum: the user's number of the test, for the summary
    #[arg(short = 'A', value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    pub reference: i64,
    /// blockSize: contiguous bytes to write per task
    #[arg(short = 'b', value_name = "SIZE", default_value = "1m", value_parser = size::parse)]
    pub block_size: u64,
    /// O_DIRECT: bypass the page cache (POSIX)
    #[arg(short = 'B')]
    pub direct: bool,
    /// reorderTasks: read what the task N further (-Q) wrote
    #[arg(short = 'C')]
    pub reorder_constant: bool,
    /// interTestDelay: seconds to wait before each phase
    #[arg(short = 'd', value_name = "SECONDS", default_value_t = 0)]
    pub delay_s: u64,
    /// fsync at the end of the write phase, timed
    #[arg(short = 'e')]
    pub fsync: bool,
    /// useExistingTestFile: do not remove the test file before writing
    #[arg(short = 'E')]
    pub use_existing: bool,
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
    /// keepFile: do not remove the test file at the end
    #[arg(short = 'k')]
    pub keep: bool,
    /// keepFileWithError: do not remove a file in which wrong content was found
    #[arg(short = 'K')]
    pub keep_with_error: bool,
    /// numTasks: how many tasks (-np N means the same)
    #[arg(short = 'N', long = "np", value_name = "N", default_value_t = 1)]
    pub tasks: u32,
    /// testFile
    #[arg(short = 'o', value_name = "FILE", default_value = "testFile")]
    pub test_file: String,
    /// Directives: summaryFormat=JSON|default, summaryFile=PATH (JSON goes there, the text is printed too)
    #[arg(short = 'O', value_name = "KEY=VALUE", value_delimiter = ',', action = ArgAction::Append)]
    pub directives: Vec<String>,
    /// quitOnError: stop at the first wrong content
    #[arg(short = 'q')]
    pub quit_on_error: bool,
    /// taskPerNodeOffset: by how many tasks -C shifts
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
    /// Tasks are threads of one process
    #[arg(long)]
    pub threads: bool,
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
    /// reorderTasksRandomSeed: order of -Z; negative: another order each repetition
    #[arg(short = 'X', value_name = "SEED", default_value_t = 0, allow_negative_numbers = true)]
    pub reorder_seed: i64,
    /// fsyncPerWrite: fsync after every write
    #[arg(short = 'Y')]
    pub fsync_per_write: bool,
    /// randomOffset: random, not sequential, offsets
    #[arg(short = 'z')]
    pub random_offset: bool,
    /// reorderTasksRandom: read what a random task wrote
    #[arg(short = 'Z')]
    pub reorder_random: bool,
}

/// `-np 4`, as mpirun spells it, to `--np 4`. For the program's arguments, before they are parsed.
pub fn accept_np(args: impl IntoIterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    args.into_iter().map(|arg| if arg == OsStr::new("-np") { OsString::from("--np") } else { arg })
}

impl IorArgs {
    /// The test that these options describe.
    ///
    /// # Errors
    /// [`BenchError::Options`] if they contradict each other.
    pub fn spec(&self) -> Result<IorSpec> {
        let none = !(self.write || self.read || self.check_write || self.check_read);
        let spec = IorSpec {
            tasks: self.tasks,
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
            random_offset: self.random_offset,
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
            ..IorSpec::new(self.api, self.path())
        };
        let checks_old = !spec.write && (spec.check_read || spec.check_write);
        if checks_old && self.seed.is_none() {
            let hint = "to verify a file of an earlier run give the seed that it printed (-G SEED)";
            return Err(BenchError::Options(hint.to_owned()));
        }
        spec.validate()?;
        Ok(IorSpec { seeds: self.seeds(), ..spec })
    }

    /// How to show the results.
    ///
    /// # Errors
    /// [`BenchError::Options`] for directives that are not known here.
    pub fn output(&self, command_line: String) -> Result<Output> {
        let (mut json, mut file) = (false, None);
        for directive in &self.directives {
            let (key, value) = directive.split_once('=').unwrap_or((directive, ""));
            match (key.to_ascii_lowercase().as_str(), value.to_ascii_lowercase().as_str()) {
                ("summaryformat", "json") => json = true,
                ("summaryformat", "default") => json = false,
                ("summaryfile", _) if !value.is_empty() => file = Some(value.to_owned()),
                _ => {
                    let known = "-O knows summaryFormat=JSON, summaryFormat=default and summaryFile=PATH";
                    return Err(BenchError::Options(format!("{known}, not '{directive}'")));
                }
            }
        }
        Ok(Output {
            quiet: json && file.is_none(),
            json: if json || file.is_some() { Some(file.unwrap_or_default()) } else { None },
            verbose: self.verbose,
            reference: self.reference,
            command_line,
        })
    }

    fn path(&self) -> String {
        // The native client knows no working directory.
        let rooted = self.api != Api::Hayate || self.test_file.starts_with('/');
        if rooted { self.test_file.clone() } else { format!("/{}", self.test_file) }
    }

    fn reorder(&self) -> Result<Reorder> {
        match (self.reorder_constant, self.reorder_random) {
            (false, false) => Ok(Reorder::None),
            (true, false) => Ok(Reorder::Constant { offset: self.task_offset }),
            (false, true) => Ok(Reorder::Random { seed: self.reorder_seed }),
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
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        ior: IorArgs,
    }

    fn parse(line: &str) -> IorArgs {
        let words = line.split_whitespace().map(OsString::from);
        Program::try_parse_from(accept_np(words)).unwrap_or_else(|e| panic!("{line}: {e}")).ior
    }

    fn refused(line: &str, about: &str) {
        let message = parse(line).spec().expect_err(line).to_string();
        assert!(message.contains(about), "{line}: {message}");
    }

    /// Without options: IOR's defaults.
    #[test]
    fn defaults_are_those_of_ior() {
        let spec = parse("ior").spec().expect("defaults");
        assert_eq!(IorSpec { seeds: vec![1], ..spec }, IorSpec::new(Api::Posix, "testFile"));
    }

    /// A command line from a published run, and the spellings that IOR accepts.
    #[test]
    fn a_published_command_line_is_understood() {
        let spec = parse("ior -C -F -e -r -w -a POSIX -b 16777216 -t 1048576 -s 321 -o /mnt/x -N 64").spec();
        let spec = spec.expect("valid");
        assert_eq!(
            (spec.block_size, spec.transfer_size, spec.segments, spec.tasks),
            (16 << 20, 1 << 20, 321, 64)
        );
        assert!(spec.file_per_process && spec.fsync && spec.read && spec.write);
        assert_eq!(spec.reorder, Reorder::Constant { offset: 1 });
        let spec = parse("ior -i=10 -t=1M -b 2m -s3 -np 8 -wWkz -vv").spec().expect("valid");
        assert_eq!(
            (spec.repetitions, spec.transfer_size, spec.block_size, spec.segments),
            (10, 1 << 20, 2 << 20, 3)
        );
        assert!(
            spec.tasks == 8
                && spec.write
                && spec.check_write
                && !spec.read
                && spec.keep
                && spec.random_offset
        );
        assert_eq!(spec.seeds.len(), 10);
        let spec = parse("ior -a hayate -o f -Z -X -3 -Q 2 -G 17 -R").spec().expect("valid");
        assert_eq!((spec.test_file.as_str(), spec.seeds), ("/f", vec![17]));
        assert_eq!(spec.reorder, Reorder::Random { seed: -3 });
    }

    #[test]
    fn contradictions_are_refused() {
        refused("ior -C -Z", "-C or -Z");
        refused("ior -b 5k -t 2k", "multiple");
        refused("ior -r -R", "-G");
        refused("ior -W", "-G");
        assert!(Program::try_parse_from(["ior", "-t", "1q"]).is_err());
        assert!(Program::try_parse_from(["ior", "-a", "TAPE"]).is_err());
        assert!(Program::try_parse_from(["ior", "-c"]).is_err(), "collective access does not exist here");
    }

    #[test]
    fn json_goes_to_the_output_or_to_a_file() {
        let output = |line: &str| parse(line).output(String::new());
        let plain = output("ior").expect("plain");
        assert!(!plain.quiet && plain.json.is_none());
        let stdout = output("ior -O summaryFormat=JSON").expect("JSON");
        assert_eq!((stdout.quiet, stdout.json.as_deref()), (true, Some("")));
        let file = output("ior -O summaryFile=out.json,summaryFormat=JSON").expect("JSON file");
        assert_eq!((file.quiet, file.json.as_deref()), (false, Some("out.json")));
        assert!(output("ior -O lustreStripeCount=3").is_err());
    }
}
