//! Starting tasks.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;

use super::link::TaskLink;
use super::{TASK_ENV, serve_thread};
use crate::backend::Connection;
use crate::error::{BenchError, Result};

/// How tasks are started.
#[derive(Clone)]
pub enum Launch {
    /// A process each: `program` with `args`, which must come to [`super::serve`] when [`super::is_task`].
    Processes {
        /// What to start.
        program: PathBuf,
        /// Its arguments.
        args: Vec<OsString>,
    },
    /// A thread each. CPU time then leaves out the client's own threads, and messages are not counted.
    Threads,
}

impl Launch {
    /// This program, again, with the arguments it has.
    ///
    /// # Errors
    /// If the system does not tell which program this is.
    pub fn same_again() -> Result<Self> {
        let program = std::env::current_exe().map_err(|error| {
            BenchError::Options(format!("cannot find this program to start tasks: {error}"))
        })?;
        Ok(Launch::Processes { program, args: std::env::args_os().skip(1).collect() })
    }
}

/// A started task.
pub(super) enum Started {
    Process(Child),
    Thread(Option<JoinHandle<Result<()>>>),
}

/// Starts task `rank`. Its socket is the second value.
pub(super) fn start(launch: &Launch, rank: u32, connection: &Connection) -> Result<(Started, UnixStream)> {
    let failed = |error: std::io::Error| BenchError::Start { rank, why: error.to_string() };
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    let started = match launch {
        Launch::Processes { program, args } => {
            let mut command = Command::new(program);
            command.args(args).env(TASK_ENV, rank.to_string()).stdin(Stdio::from(OwnedFd::from(theirs)));
            Started::Process(command.spawn().map_err(failed)?)
        }
        Launch::Threads => {
            let connection = connection.clone();
            let thread = std::thread::Builder::new().name(format!("task-{rank}"));
            let body = move || serve_thread(TaskLink::new(theirs, true), &connection);
            Started::Thread(Some(thread.spawn(body).map_err(failed)?))
        }
    };
    Ok((started, ours))
}

impl Started {
    /// The process, if it is one.
    pub(super) fn pid(&self) -> Option<u32> {
        match self {
            Started::Process(child) => Some(child.id()),
            Started::Thread(_) => None,
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
