//! The tasks of a run: processes (or threads) that do the same work on different parts.
//!
//! Each task has one socket to the coordinator. On it, one JSON object a line:
//!
//! ```text
//! coordinator -> task                    task -> coordinator
//! Job { rank, tasks, job }               Phase(PhaseRecord)
//! Go { errors }     (barrier is over)    Barrier { errors }     (waits for Go)
//!                                        Failed(reason) | Done
//! ```
//!
//! A process is this program started again with the same arguments, [`TASK_ENV`] in its environment and its socket as
//! standard input; so it has the options of the command that started the run (which cluster, which secret), and nothing is
//! inherited by accident.
//!
//! # Invariants
//! - A task that ends early closes its socket, which ends the run at once with its name (`tests/processes.rs`).
//! - Barriers release everybody or nobody (`coordinator::tests::barriers_hold_until_all_are_there`).
//! - No task outlives the run: processes are killed and waited for, threads joined.
//!
//! Rejected: fork without exec (locks of other threads stay locked in the child), and barriers in shared memory (a
//! dead task is not noticed). The price is a barrier of some 10 microseconds a task; none is inside a timed loop.

pub mod coordinator;
pub mod launch;
pub mod link;

use std::io::{BufRead, Write};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::backend::{Api, Connect, Connection};
use crate::clock::CpuOf;
use crate::error::{BenchError, Result};
use crate::ior::spec::IorSpec;
use crate::metadata::MetadataSpec;
use crate::phase::PhaseRecord;
use link::TaskLink;

/// Set in the environment of a process that is a task.
pub const TASK_ENV: &str = "HAYATE_BENCH_TASK";

/// What tasks shall do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Job {
    /// `hayate bench ior`.
    Ior(IorSpec),
    /// `hayate bench metadata`.
    Metadata(MetadataSpec),
}

impl Job {
    /// Which interface the job measures.
    pub fn api(&self) -> Api {
        match self {
            Job::Ior(spec) => spec.api,
            Job::Metadata(spec) => spec.api,
        }
    }
}

/// From the coordinator to a task.
#[derive(Debug, Serialize, Deserialize)]
enum ToTask {
    Job { rank: u32, tasks: u32, job: Job },
    Go { errors: u64 },
}

/// From a task to the coordinator.
#[derive(Debug, Serialize, Deserialize)]
enum FromTask {
    Barrier { errors: u64 },
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

/// Whether this process was started as a task.
pub fn is_task() -> bool {
    std::env::var_os(TASK_ENV).is_some()
}

/// The life of a task that is a process: takes its job from standard input, does it, reports.
///
/// # Errors
/// If the coordinator cannot be talked to. What goes wrong in the job is reported to the coordinator, which tells it.
pub fn serve(connect: Connect<'_>) -> Result<()> {
    let mut link = TaskLink::from_stdin()?;
    let outcome =
        Connection::new(link.job().api(), connect).and_then(|connection| work(&mut link, &connection));
    link.finish(outcome)
}

/// Does the job of a task.
fn work(link: &mut TaskLink, connection: &Connection) -> Result<()> {
    let backend = connection.backend();
    match link.job().clone() {
        Job::Ior(spec) => crate::ior::task::run(&spec, backend.as_ref(), link),
        Job::Metadata(spec) => crate::metadata::task::run(&spec, backend.as_ref(), link),
    }
}

/// The life of a task that is a thread.
fn serve_thread(link: Result<TaskLink>, connection: &Connection) -> Result<()> {
    let mut link = link?;
    let outcome = work(&mut link, connection);
    link.finish(outcome)
}

/// What a task counts as its own CPU time.
fn cpu_of(thread: bool) -> CpuOf {
    if thread { CpuOf::Thread } else { CpuOf::Process }
}

fn lost(why: impl std::fmt::Display) -> BenchError {
    BenchError::Coordinator(why.to_string())
}
