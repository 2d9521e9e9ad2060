//! `hayate bench`: the measuring harness, with this cluster as one of the things to measure.

use crate::args::Global;
use crate::error::{CliError, Result, failed};
use clap::Args;

/// Arguments of `hayate bench`: those of the harness.
#[derive(Debug, Args)]
pub struct BenchCommand {
    #[command(flatten)]
    bench: bench::cli::BenchArgs,
}

/// Runs the harness. Its tasks are this program again, with the same arguments.
pub fn run(global: &Global, command: BenchCommand) -> Result<()> {
    let connect = || global.connect().map_err(|error| error.to_string());
    match bench::cli::run(command.bench, &connect).map_err(failed)? {
        0 => Ok(()),
        words => Err(CliError::Wrong(words)),
    }
}
