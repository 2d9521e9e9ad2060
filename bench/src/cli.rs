//! The command line: `hayate bench ior ...` and `hayate bench metadata ...`.

use std::io::Write;

use clap::{Args, Subcommand};

use crate::backend::{Connect, Connection};
use crate::error::{BenchError, Result};
use crate::ior::options::IorArgs;
use crate::metadata::options::MetadataArgs;
use crate::tasks::{self, launch::Launch};
use crate::{ior, metadata};

pub use crate::error::exit_status;
pub use crate::ior::options::accept_np;

/// `hayate bench`: measures a file system.
#[derive(Debug, Clone, Args)]
pub struct BenchArgs {
    /// What to measure.
    #[command(subcommand)]
    pub what: BenchCommand,
}

/// What to measure.
#[derive(Debug, Clone, Subcommand)]
pub enum BenchCommand {
    /// Bandwidth, with the options and output of IOR
    Ior(IorArgs),
    /// Creates, stats, opens and removes per second, in the manner of mdtest
    Metadata(MetadataArgs),
}

/// Runs a benchmark and prints its report. Returns the number of wrong words of content found, which is the exit
/// status of the program by [`exit_status`].
///
/// Tasks are this program started again with the same arguments; in them, this function does the task's work and
/// returns. So call it before anything that one run should do once. `connect` is called for the native client only, in
/// each task.
///
/// # Errors
/// What ended the run.
pub fn run(args: BenchArgs, connect: Connect<'_>) -> Result<u64> {
    if tasks::is_task() {
        return match tasks::serve(connect) {
            // That is how a run is ended early; why, the coordinator says once for all tasks.
            Ok(()) | Err(BenchError::Coordinator(_)) => Ok(0),
            Err(error) => Err(error),
        };
    }
    let command_line = command_line();
    let out = &mut std::io::stdout().lock() as &mut dyn Write;
    match args.what {
        BenchCommand::Ior(args) => {
            let (spec, output) = (args.spec()?, args.output(command_line)?);
            let launch = launch(args.threads)?;
            let connection = Connection::new(spec.api, connect)?;
            Ok(ior::run(&spec, &output, &launch, &connection, out)?.errors)
        }
        BenchCommand::Metadata(args) => {
            let spec = args.spec()?;
            let connection = Connection::new(spec.api, connect)?;
            let launch = launch(args.threads)?;
            Ok(metadata::run(&spec, &command_line, &launch, &connection, out)?.errors)
        }
    }
}

fn launch(threads: bool) -> Result<Launch> {
    if threads { Ok(Launch::Threads) } else { Launch::same_again() }
}

fn command_line() -> String {
    std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}
