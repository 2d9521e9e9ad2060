//! The command line: `hayate bench ior ...` and its siblings.

use std::io::Write;

use clap::{Args, Subcommand};

use crate::backend::{Api, Connect, Connection};
use crate::charts::ReportArgs;
use crate::checkpoint::options::CheckpointArgs;
use crate::common::Common;
use crate::compare::CompareArgs;
use crate::dataset::options::DatasetArgs;
use crate::error::{BenchError, Result};
use crate::io500::options::Io500Args;
use crate::ior::options::IorArgs;
use crate::mdtest::options::MdtestArgs;
use crate::scale::options::ScaleArgs;
use crate::servers::Monitor;
use crate::session::Session;
use crate::tasks::{self, launch::Launch};
use crate::{charts, checkpoint, compare, dataset, io500, ior, mdtest, scale};

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
    Ior(Box<IorArgs>),
    /// Creates, stats, opens and removes per second, with the options and output of mdtest
    Mdtest(Box<MdtestArgs>),
    /// The phases of IO500, with its lines, files and score
    Io500(Box<Io500Args>),
    /// Checkpoints: how long they stop the application, until they are committed, until they are in the shared tier, and the recovery
    Checkpoint(Box<CheckpointArgs>),
    /// A data set for training: samples a second and accelerator utilisation
    Dataset(Box<DatasetArgs>),
    /// The scale model: dump, storms and drain on up to 10,000 nodes
    Scale(Box<ScaleArgs>),
    /// Compare the figures of two JSON documents
    Compare(CompareArgs),
    /// Make a page with charts of JSON documents
    Report(ReportArgs),
}

/// Runs a benchmark and prints its report. Returns the number of wrong words of content found, which is the exit
/// status of the program by [`exit_status`].
///
/// Tasks are this program started again with the same arguments; in them, this function does the task's work and
/// returns. So call it before anything that one run should do once. `connect` is called for the native client only, in
/// each task, and for whoever watches the servers.
///
/// # Errors
/// What ended the run.
pub fn run(args: BenchArgs, connect: Connect<'_>) -> Result<u64> {
    if tasks::is_task() {
        return match tasks::serve(connect, args.what.common().is_some_and(|common| common.spread)) {
            // That is how a run is ended early; why, the coordinator says once for all tasks.
            Ok(()) | Err(BenchError::Coordinator(_)) => Ok(0),
            Err(error) => Err(error),
        };
    }
    let command_line = command_line();
    let out = &mut std::io::stdout().lock() as &mut dyn Write;
    match args.what {
        BenchCommand::Ior(args) => {
            let launch = launch(args.common.threads)?;
            let plan = args.plan(launch.natural_size(), command_line)?;
            let api = plan.tests.first().map_or(args.common.api, |test| test.spec.api);
            let mut session = session(plan.tasks(), &launch, &Common { api, ..args.common }, connect)?;
            Ok(ior::run(&plan, &mut session, out)?.errors())
        }
        BenchCommand::Mdtest(args) => {
            let launch = launch(args.common.threads)?;
            let setup = args.setup(launch.natural_size(), command_line)?;
            let mut session = session(setup.spec.tasks, &launch, &args.common, connect)?;
            Ok(mdtest::run(&setup, &mut session, out)?.errors)
        }
        BenchCommand::Io500(args) => {
            let launch = launch(args.common.threads)?;
            let tasks = args.num.tasks.unwrap_or_else(|| launch.natural_size());
            let mut session = session(tasks, &launch, &args.common, connect)?;
            io500::run(&args.spec(), &command_line, &mut session, out)
        }
        BenchCommand::Checkpoint(args) => {
            let launch = launch(args.common.threads)?;
            let setup = args.setup(launch.natural_size(), command_line)?;
            let mut session = any_session(setup.spec.tasks, &launch, &args.common, connect)?;
            Ok(checkpoint::run(&setup, &mut session, out)?.errors())
        }
        BenchCommand::Dataset(args) => {
            let launch = launch(args.common.threads)?;
            let setup = args.setup(launch.natural_size(), command_line)?;
            let mut session = session(setup.spec.tasks, &launch, &args.common, connect)?;
            Ok(dataset::run(&setup, &mut session, out)?.iter().map(|result| result.errors).sum())
        }
        BenchCommand::Scale(args) => scale::run(&args, out).map(|()| 0),
        BenchCommand::Compare(args) => compare::run(&args, out).map(|()| 0),
        BenchCommand::Report(args) => charts::run(&args, out).map(|()| 0),
    }
}

impl BenchCommand {
    /// What is measured and by whom, where tasks measure.
    fn common(&self) -> Option<&Common> {
        match self {
            BenchCommand::Ior(args) => Some(&args.common),
            BenchCommand::Mdtest(args) => Some(&args.common),
            BenchCommand::Io500(args) => Some(&args.common),
            BenchCommand::Checkpoint(args) => Some(&args.common),
            BenchCommand::Dataset(args) => Some(&args.common),
            BenchCommand::Scale(_) | BenchCommand::Compare(_) | BenchCommand::Report(_) => None,
        }
    }
}

/// Tasks for a benchmark. Servers are watched if the native client is measured, or if asked for.
fn session(tasks: u32, launch: &Launch, common: &Common, connect: Connect<'_>) -> Result<Session> {
    if common.api == Api::Libio {
        return Err(BenchError::Options("-a LIBIO is for checkpoints".to_owned()));
    }
    any_session(tasks, launch, common, connect)
}

/// The same, also for what is no file system.
fn any_session(tasks: u32, launch: &Launch, common: &Common, connect: Connect<'_>) -> Result<Session> {
    if common.spread && !matches!(common.api, Api::Hayate | Api::Libio) {
        let why = "--spread makes tasks clients of single servers, which only -a HAYATE and -a LIBIO are: a mount has its server";
        return Err(BenchError::Options(why.to_owned()));
    }
    let connection = Connection::new(common.api, None, connect)?;
    let monitor = match connection.client() {
        Some(client) => Some(Monitor::new(client.clone())),
        None if common.servers => Some(Monitor::new(connect(None).map_err(BenchError::Connect)?)),
        None => None,
    };
    let session = Session::start(tasks, launch, &connection, monitor)?;
    Ok(if common.spread { session.spread() } else { session })
}

fn launch(threads: bool) -> Result<Launch> {
    if threads { Ok(Launch::Threads) } else { Launch::same_again() }
}

fn command_line() -> String {
    std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}
