//! Starting tasks.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;

use super::link::Line;
use super::ranks::Rank;
use super::{TASK_ENV, serve_thread};
use crate::backend::Connection;
use crate::error::{BenchError, Result};

/// How tasks are started.
#[derive(Debug, Clone)]
pub enum Launch {
    /// A process each: `program` with `args`, which must come to [`super::serve`] when [`super::is_task`].
    Processes {
        /// What to start.
        program: PathBuf,
        /// Its arguments.
        args: Vec<OsString>,
    },
    /// mpirun or srun started this process as rank 0 and the others beside it: they call this one. Task 0 is a process of its own.
    Ranks {
        /// Who this is.
        rank: Rank,
        /// What to start for task 0.
        program: PathBuf,
        /// Its arguments.
        args: Vec<OsString>,
    },
    /// A thread each. CPU time then leaves out the client's own threads, and messages are not counted.
    Threads,
}

impl Launch {
    /// This program, again, with the arguments it has; with the ranks of mpirun or srun if there are any.
    ///
    /// # Errors
    /// If the system does not tell which program this is.
    pub fn same_again() -> Result<Self> {
        let program = std::env::current_exe().map_err(|error| {
            BenchError::Options(format!("cannot find this program to start tasks: {error}"))
        })?;
        let args = std::env::args_os().skip(1).collect();
        Ok(match Rank::of_this_process() {
            Some(rank) => Launch::Ranks { rank, program, args },
            None => Launch::Processes { program, args },
        })
    }

    /// How many tasks there are if the user does not say: the ranks of mpirun or srun, or one.
    pub fn natural_size(&self) -> u32 {
        if let Launch::Ranks { rank, .. } = self { rank.size } else { 1 }
    }

    /// Whether tasks are threads.
    pub fn is_threads(&self) -> bool {
        matches!(self, Launch::Threads)
    }

    /// What tasks are, for the report.
    pub fn kind(&self) -> &'static str {
        match self {
            Launch::Processes { .. } => "processes",
            Launch::Ranks { .. } => "ranks of mpirun or srun",
            Launch::Threads => "threads",
        }
    }

    /// Starts all tasks; each with its socket.
    pub(super) fn start(&self, tasks: u32, connection: &Connection) -> Result<Vec<(Started, UnixStream)>> {
        if let Launch::Ranks { rank, .. } = self
            && tasks > rank.size
        {
            let why = format!("{tasks} tasks were asked for, mpirun or srun started {}", rank.size);
            return Err(BenchError::Options(why));
        }
        let mut all = Vec::new();
        let outcome = match self {
            Launch::Ranks { rank, program, args } => {
                process(program, args, 0).map(|first| all.push(first)).and_then(|()| {
                    all.extend(rank.gather()?.into_iter().map(|socket| (Started::Rank, socket)));
                    Ok(())
                })
            }
            Launch::Processes { program, args } => {
                (0..tasks).try_for_each(|rank| process(program, args, rank).map(|one| all.push(one)))
            }
            Launch::Threads => {
                (0..tasks).try_for_each(|rank| thread(connection, rank).map(|one| all.push(one)))
            }
        };
        if outcome.is_err() {
            for (mut started, socket) in all.drain(..) {
                drop(socket);
                started.stop();
            }
        }
        outcome.map(|()| all)
    }
}

/// A started task.
pub(super) enum Started {
    Process(Child),
    Thread(Option<JoinHandle<Result<()>>>),
    /// Started by others, and ended by them.
    Rank,
}

fn process(program: &PathBuf, args: &[OsString], rank: u32) -> Result<(Started, UnixStream)> {
    let failed = |error: std::io::Error| BenchError::Start { rank, why: error.to_string() };
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    let mut command = Command::new(program);
    command.args(args).env(TASK_ENV, rank.to_string()).stdin(Stdio::from(OwnedFd::from(theirs)));
    Ok((Started::Process(command.spawn().map_err(failed)?), ours))
}

fn thread(connection: &Connection, rank: u32) -> Result<(Started, UnixStream)> {
    let failed = |error: std::io::Error| BenchError::Start { rank, why: error.to_string() };
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    let connection = connection.clone();
    let thread = std::thread::Builder::new().name(format!("task-{rank}"));
    let body = move || serve_thread(Line::new(theirs), &connection);
    Ok((Started::Thread(Some(thread.spawn(body).map_err(failed)?)), ours))
}

impl Started {
    /// The process, if it is one that this program started.
    pub(super) fn pid(&self) -> Option<u32> {
        match self {
            Started::Process(child) => Some(child.id()),
            Started::Thread(_) | Started::Rank => None,
        }
    }

    /// Waits for a task whose socket is closed, and says how it ended.
    pub(super) fn how_it_ended(&mut self) -> String {
        match self {
            Started::Process(child) => {
                let pid = child.id();
                match child.wait() {
                    Ok(status) => format!("process {pid} {}", describe(status)),
                    Err(error) => format!("process {pid} cannot be waited for: {error}"),
                }
            }
            Started::Rank => "it closed its connection; mpirun or srun knows why".to_owned(),
            Started::Thread(handle) => match handle.take().map(JoinHandle::join) {
                Some(Err(_)) => "its thread panicked".to_owned(),
                Some(Ok(Err(error))) => format!("its thread ended: {error}"),
                Some(Ok(Ok(()))) | None => "its thread ended without a report".to_owned(),
            },
        }
    }

    /// Ends the task if it has not ended, and waits for it. The caller closed its socket.
    pub(super) fn stop(&mut self) {
        match self {
            Started::Process(child) => {
                // Failures mean that it has ended and was waited for already, which is what is wanted.
                drop(child.kill());
                drop(child.wait());
            }
            // Its outcome was told over the socket, or the run has another error to tell.
            Started::Thread(handle) => drop(handle.take().map(JoinHandle::join)),
            Started::Rank => {}
        }
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}
