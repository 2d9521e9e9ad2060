//! `hayate bench`: the measuring harness, with this cluster as one of the things to measure.

use crate::args::Global;
use crate::error::{CliError, Result, failed};
use bench::seat::Seat;
use clap::Args;
use fs_client::{Client, ClientConfig, Route};

/// Arguments of `hayate bench`: those of the harness.
#[derive(Debug, Args)]
pub struct BenchCommand {
    #[command(flatten)]
    bench: bench::cli::BenchArgs,
}

/// Runs the harness. Its tasks are this program again, with the same arguments.
pub fn run(global: &Global, command: BenchCommand) -> Result<()> {
    let connect = |seat: Option<Seat>| connect(global, seat).map_err(|error| error.to_string());
    match bench::cli::run(command.bench, &connect).map_err(failed)? {
        0 => Ok(()),
        words => Err(CliError::Wrong(words)),
    }
}

/// A client; with a seat, of the server that stands for the task's node.
fn connect(global: &Global, seat: Option<Seat>) -> Result<Client> {
    let Some(seat) = seat else { return global.connect() };
    let mut config = ClientConfig::load(&global.cluster_path()?).map_err(failed)?;
    let members = &config.cluster.members;
    if let Some(member) = members.get(seat.server(members.len())) {
        config.route = Route::Gateway(member.id);
    }
    Client::connect(config).map_err(failed)
}
