//! A task's end of its socket: barriers and reports.

use std::io::BufReader;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use super::{FromTask, Job, ToTask, cpu_of, lost, receive, send};
use crate::backend::Backend;
use crate::clock::CpuOf;
use crate::error::Result;
use crate::phase::{PhaseRecord, Usage};

/// A task's connection to its coordinator, and who the task is.
pub struct TaskLink {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
    rank: u32,
    tasks: u32,
    job: Job,
    cpu_of: CpuOf,
    errors: u64,
}

impl TaskLink {
    /// For a task that is a process: its socket is standard input.
    pub(super) fn from_stdin() -> Result<Self> {
        let stdin = std::io::stdin().as_fd().try_clone_to_owned().map_err(lost)?;
        TaskLink::new(UnixStream::from(stdin), false)
    }

    /// Takes the job from a fresh socket.
    pub(super) fn new(stream: UnixStream, thread: bool) -> Result<Self> {
        let writer = stream.try_clone().map_err(lost)?;
        let mut reader = BufReader::new(stream);
        match receive(&mut reader).map_err(lost)? {
            Some(ToTask::Job { rank, tasks, job }) => {
                Ok(TaskLink { reader, writer, rank, tasks, job, cpu_of: cpu_of(thread), errors: 0 })
            }
            Some(other) => Err(lost(format!("expected a job, got {other:?}"))),
            None => Err(lost("it ended before it gave a job")),
        }
    }

    /// Number of this task, from 0.
    pub fn rank(&self) -> u32 {
        self.rank
    }

    /// How many tasks there are.
    pub fn tasks(&self) -> u32 {
        self.tasks
    }

    /// What to do.
    pub(super) fn job(&self) -> &Job {
        &self.job
    }

    /// The counters of this task now.
    pub fn usage(&self, backend: &dyn Backend) -> Usage {
        Usage::now(self.cpu_of, backend)
    }

    /// Waits until all tasks are here. Returns the wrong words that all of them reported so far.
    ///
    /// # Errors
    /// If the run was ended meanwhile.
    pub fn barrier(&mut self) -> Result<u64> {
        send(&mut self.writer, &FromTask::Barrier { errors: self.errors }).map_err(lost)?;
        match receive(&mut self.reader).map_err(lost)? {
            Some(ToTask::Go { errors }) => Ok(errors),
            Some(other) => Err(lost(format!("expected the end of a barrier, got {other:?}"))),
            None => Err(lost("it ended during a barrier")),
        }
    }

    /// Reports a phase.
    ///
    /// # Errors
    /// If the run was ended meanwhile.
    pub fn report(&mut self, record: PhaseRecord) -> Result<()> {
        self.errors += record.errors;
        send(&mut self.writer, &FromTask::Phase(record)).map_err(lost)
    }

    /// Tells how the job went.
    pub(super) fn finish(mut self, outcome: Result<()>) -> Result<()> {
        let last = match outcome {
            Ok(()) => FromTask::Done,
            Err(error) => FromTask::Failed(error.to_string()),
        };
        send(&mut self.writer, &last).map_err(lost)
    }
}
