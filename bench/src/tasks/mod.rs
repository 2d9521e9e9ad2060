//! The tasks of a run: processes (or threads) that do the same work on different parts.
//!
//! Each task has one socket to the coordinator. On it, one JSON object a line:
//!
//! ```text
//! task -> coordinator                          coordinator -> task
//! Hello { host, boot }                         Job { rank, tasks, job, boot }
//! Time            (another host: what is it?)  Time { ns }
//! Barrier { errors, value, begins }            Go { errors, agreed }     (all tasks are there)
//! Phase(PhaseRecord)
//! Failed(reason) | Done                        Job ... or the end of the socket
//! ```
//!
//! Tasks come in three ways ([`launch::Launch`]). A process is this program started again with the same arguments, [`TASK_ENV`] in
//! its environment and its socket as standard input; so it has the options of the command that started the run (which cluster,
//! which secret), and nothing is inherited by accident. Under mpirun or srun the ranks are there already and call rank 0
//! ([`ranks`]). Threads are for tests and for what a process would cost too much.
//!
//! # Invariants
//! - A task that ends early closes its socket, which ends the run at once with its name (`tests/processes.rs`).
//! - Barriers release everybody or nobody (`coordinator::tests::barriers_hold_until_all_are_there`).
//! - No task outlives the run: processes are killed and waited for, threads joined, ranks see their socket closed.
//!
//! Rejected: fork without exec (locks of other threads stay locked in the child), and barriers in shared memory (a
//! dead task is not noticed). The price is a barrier of some 10 microseconds a task; none is inside a timed loop.

pub mod coordinator;
pub mod launch;
pub mod link;
pub mod placement;
pub mod ranks;

use std::io::{BufRead, Write};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::backend::{Api, Connect, Connection};
use crate::checkpoint::options::CheckpointSpec;
use crate::clock::CpuOf;
use crate::dataset::options::DatasetSpec;
use crate::error::{BenchError, Result};
use crate::io500::find::FindSpec;
use crate::ior::spec::IorSpec;
use crate::mdtest::spec::MdtestSpec;
use crate::phase::{Phase, PhaseRecord};
use crate::seat::Seat;
use link::{Line, TaskLink};

/// Set in the environment of a process that is a task.
pub const TASK_ENV: &str = "HAYATE_BENCH_TASK";

/// What tasks shall do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Job {
    /// `hayate bench ior`.
    Ior(Box<IorSpec>),
    /// `hayate bench mdtest`.
    Mdtest(Box<MdtestSpec>),
    /// `hayate bench checkpoint`.
    Checkpoint(Box<CheckpointSpec>),
    /// `hayate bench dataset`.
    Dataset(Box<DatasetSpec>),
    /// The walk of `hayate bench io500`.
    Find(Box<FindSpec>),
}

impl Job {
    /// Which interface the job measures.
    pub fn api(&self) -> Api {
        match self {
            Job::Ior(spec) => spec.api,
            Job::Mdtest(spec) => spec.api,
            Job::Find(spec) => spec.api,
            Job::Checkpoint(spec) => spec.api,
            Job::Dataset(spec) => spec.api,
        }
    }
}

/// What the values that all tasks gave at a barrier have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Agreed {
    /// The smallest.
    pub min: u64,
    /// The largest.
    pub max: u64,
    /// All together.
    pub sum: u64,
}

/// From the coordinator to a task.
#[derive(Debug, Serialize, Deserialize)]
enum ToTask {
    Job { rank: u32, tasks: u32, job: Job, boot: String },
    Time { ns: u64 },
    Go { errors: u64, agreed: Agreed },
}

/// From a task to the coordinator.
#[derive(Debug, Serialize, Deserialize)]
enum FromTask {
    Hello { host: String, boot: String },
    Time,
    Barrier { errors: u64, value: u64, begins: Option<(u32, Phase)> },
    Phase(PhaseRecord),
    Failed(String),
    Done,
}

fn send<T: Serialize>(to: &mut impl Write, message: &T) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    to.write_all(&line)
}

/// The next message, or none if the other side closed.
fn receive<T: DeserializeOwned>(from: &mut impl BufRead) -> std::io::Result<Option<T>> {
    let mut line = String::new();
    if from.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    Ok(Some(serde_json::from_str(&line)?))
}

/// Whether this process was started as a task, or is a rank of mpirun or srun that serves rank 0.
pub fn is_task() -> bool {
    std::env::var_os(TASK_ENV).is_some() || ranks::Rank::of_this_process().is_some_and(|rank| rank.rank > 0)
}

/// The life of a task that is a process: takes jobs from its socket, does them, reports. With `spread` it is the client of the server that stands
/// for its node.
///
/// # Errors
/// If the coordinator cannot be talked to. What goes wrong in the job is reported to the coordinator, which tells it.
pub fn serve(connect: Connect<'_>, spread: bool) -> Result<()> {
    let rank = ranks::Rank::of_this_process().filter(|_| std::env::var_os(TASK_ENV).is_none());
    let line = match rank {
        Some(rank) => Line::new(rank.call()?)?,
        None => Line::from_stdin()?,
    };
    let mut kept: Option<((Api, Option<Seat>), Connection)> = None;
    serve_line(line, CpuOf::Process, |api, seat| {
        let who = (api, seat.filter(|_| spread));
        if kept.as_ref().is_none_or(|(of, _)| *of != who) {
            kept = Some((who, Connection::new(api, who.1, connect)?));
        }
        kept.as_ref().map(|(_, connection)| connection.clone()).ok_or_else(|| lost("no connection"))
    })
}

/// The life of a task that is a thread.
fn serve_thread(line: Result<Line>, connection: &Connection) -> Result<()> {
    serve_line(line?, CpuOf::Thread, |_, _| Ok(connection.clone()))
}

fn serve_line(
    mut line: Line,
    cpu_of: CpuOf,
    mut connection: impl FnMut(Api, Option<Seat>) -> Result<Connection>,
) -> Result<()> {
    line.hello()?;
    while let Some((rank, tasks, job)) = line.next_job()? {
        let mut link = TaskLink::new(&mut line, rank, tasks, cpu_of);
        let seat = Some(Seat { rank, tasks });
        let outcome = connection(job.api(), seat).and_then(|connection| work(&job, &mut link, &connection));
        line.finish(outcome)?;
    }
    Ok(())
}

/// Does the job of a task.
fn work(job: &Job, link: &mut TaskLink<'_>, connection: &Connection) -> Result<()> {
    let backend = connection.backend();
    if let (Job::Checkpoint(spec), Api::Libio, Some(client)) = (job, job.api(), connection.client()) {
        return crate::checkpoint::library::run(spec, client, backend.as_ref(), link);
    }
    match job {
        Job::Ior(spec) => crate::ior::task::run(spec, backend.as_ref(), link),
        Job::Mdtest(spec) => crate::mdtest::task::run(spec, backend.as_ref(), link),
        Job::Checkpoint(spec) => crate::checkpoint::task::run(spec, backend.as_ref(), link),
        Job::Dataset(spec) => crate::dataset::task::run(spec, backend.as_ref(), link),
        Job::Find(spec) => crate::io500::find::run(spec, backend.as_ref(), link),
    }
}

fn lost(why: impl std::fmt::Display) -> BenchError {
    BenchError::Coordinator(why.to_string())
}
