//! A task's end of its socket: barriers and reports.

use std::io::BufReader;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use super::{Agreed, FromTask, Job, ToTask, lost, receive, send};
use crate::backend::Backend;
use crate::clock::{self, CpuOf};
use crate::csv;
use crate::error::Result;
use crate::phase::{Meter, Phase, PhaseRecord, Stonewall, Times, Usage};

/// How often another host's clock is asked for; the fastest answer counts.
const CLOCK_ROUNDS: usize = 16;

/// The socket of a task, over all its jobs.
pub(super) struct Line {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
    /// What the coordinator's clock shows more than this host's, once known.
    shift_ns: Option<i64>,
}

impl Line {
    /// For a task that is a process: its socket is standard input.
    pub(super) fn from_stdin() -> Result<Self> {
        let stdin = std::io::stdin().as_fd().try_clone_to_owned().map_err(lost)?;
        Line::new(UnixStream::from(stdin))
    }

    pub(super) fn new(stream: UnixStream) -> Result<Self> {
        let writer = stream.try_clone().map_err(lost)?;
        Ok(Line { reader: BufReader::new(stream), writer, shift_ns: None })
    }

    fn say(&mut self, message: &FromTask) -> Result<()> {
        send(&mut self.writer, message).map_err(lost)
    }

    fn hear(&mut self) -> Result<Option<ToTask>> {
        receive(&mut self.reader).map_err(lost)
    }

    pub(super) fn hello(&mut self) -> Result<()> {
        self.say(&FromTask::Hello { host: clock::host(), boot: clock::boot() })
    }

    /// The next job with rank and number of tasks, or none when there is no more to do.
    pub(super) fn next_job(&mut self) -> Result<Option<(u32, u32, Job)>> {
        match self.hear()? {
            Some(ToTask::Job { rank, tasks, job, boot }) => {
                if self.shift_ns.is_none() {
                    self.shift_ns = Some(if boot == clock::boot() { 0 } else { self.compare_clocks()? });
                }
                Ok(Some((rank, tasks, job)))
            }
            Some(other) => Err(lost(format!("expected a job, got {other:?}"))),
            None => Ok(None),
        }
    }

    /// The difference of the clocks, by the answer that came fastest; wrong by half of its way at most.
    fn compare_clocks(&mut self) -> Result<i64> {
        let mut best = (u64::MAX, 0);
        for _ in 0..CLOCK_ROUNDS {
            let before = clock::now_ns();
            self.say(&FromTask::Time)?;
            let Some(ToTask::Time { ns }) = self.hear()? else {
                return Err(lost("it does not tell the time"));
            };
            let took = clock::now_ns() - before;
            best = best.min((took, ns as i64 - (before + took / 2) as i64));
        }
        Ok(best.1)
    }

    /// Tells how the job went.
    pub(super) fn finish(&mut self, outcome: Result<()>) -> Result<()> {
        self.say(&match outcome {
            Ok(()) => FromTask::Done,
            Err(error) => FromTask::Failed(error.to_string()),
        })
    }
}

/// A task's connection to its coordinator during a job, and who the task is.
pub struct TaskLink<'a> {
    line: &'a mut Line,
    rank: u32,
    tasks: u32,
    cpu_of: CpuOf,
    errors: u64,
}

/// A phase that a task began: its counters at that moment, and what it did since.
pub struct Begun {
    repetition: u32,
    phase: Phase,
    usage: Usage,
    /// What it did.
    pub done: Done,
}

/// What a task did in a phase so far.
#[derive(Debug, Default)]
pub struct Done {
    /// Operations.
    pub operations: u64,
    /// Bytes moved.
    pub bytes: u64,
    /// Wrong words.
    pub errors: u64,
    /// The first of them.
    pub first_error: Option<String>,
    /// Where the deadline was.
    pub stonewall: Option<Stonewall>,
    /// How long operations took.
    pub meter: Meter,
    /// Time that an application would have computed meanwhile.
    pub compute_ns: u64,
    /// Each operation, if asked for.
    log: Option<Vec<csv::Operation>>,
}

impl Done {
    /// From now on each operation is remembered, or none.
    pub fn log_operations(&mut self, wanted: bool) {
        self.log = wanted.then(Vec::new);
    }

    /// The operations, if they were to be remembered.
    pub fn take_operations(&mut self) -> Option<Vec<csv::Operation>> {
        self.log.take()
    }

    /// An operation ended now that moved `bytes`.
    pub fn note(&mut self, start_ns: u64, bytes: u64) {
        let end_ns = clock::now_ns();
        self.meter.note(start_ns, end_ns, bytes);
        if let Some(log) = &mut self.log {
            log.push((start_ns, end_ns));
        }
        self.operations += 1;
        self.bytes += bytes;
    }

    /// Content was wrong.
    pub fn wrong(&mut self, words: u64, what: impl FnOnce() -> String) {
        self.errors += words;
        self.first_error.get_or_insert_with(what);
    }
}

impl<'a> TaskLink<'a> {
    pub(super) fn new(line: &'a mut Line, rank: u32, tasks: u32, cpu_of: CpuOf) -> Self {
        TaskLink { line, rank, tasks, cpu_of, errors: 0 }
    }

    /// Number of this task, from 0.
    pub fn rank(&self) -> u32 {
        self.rank
    }

    /// How many tasks there are.
    pub fn tasks(&self) -> u32 {
        self.tasks
    }

    fn meet(&mut self, value: u64, begins: Option<(u32, Phase)>) -> Result<(u64, Agreed)> {
        self.line.say(&FromTask::Barrier { errors: self.errors, value, begins })?;
        match self.line.hear()? {
            Some(ToTask::Go { errors, agreed }) => Ok((errors, agreed)),
            Some(other) => Err(lost(format!("expected the end of a barrier, got {other:?}"))),
            None => Err(lost("it ended during a barrier")),
        }
    }

    /// Waits until all tasks are here. Returns the wrong words that all of them reported so far.
    ///
    /// # Errors
    /// If the run was ended meanwhile.
    pub fn barrier(&mut self) -> Result<u64> {
        self.meet(0, None).map(|(errors, _)| errors)
    }

    /// A barrier at which every task gives a value.
    ///
    /// # Errors
    /// As of [`TaskLink::barrier`].
    pub fn agree(&mut self, value: u64) -> Result<Agreed> {
        self.meet(value, None).map(|(_, agreed)| agreed)
    }

    /// A barrier after which a phase begins: whoever watches the servers looks at them between.
    ///
    /// # Errors
    /// As of [`TaskLink::barrier`].
    pub fn begin(&mut self, repetition: u32, phase: Phase, backend: &dyn Backend) -> Result<Begun> {
        self.meet(0, Some((repetition, phase)))?;
        Ok(Begun { repetition, phase, usage: Usage::now(self.cpu_of, backend), done: Done::default() })
    }

    /// Reports a phase.
    ///
    /// # Errors
    /// If the run was ended meanwhile.
    pub fn end(&mut self, begun: Begun, times: Times, backend: &dyn Backend) -> Result<()> {
        let (cpu_ns, messages) = begun.usage.since(backend);
        let Done { operations, bytes, errors, first_error, stonewall, meter, compute_ns, .. } = begun.done;
        self.errors += errors;
        let shift = self.line.shift_ns.unwrap_or(0);
        self.line.say(&FromTask::Phase(PhaseRecord {
            repetition: begun.repetition,
            phase: begun.phase,
            times: times.shifted(shift),
            operations,
            bytes,
            cpu_ns,
            messages,
            errors,
            first_error,
            stonewall,
            meter: meter.shifted(shift),
            compute_ns,
        }))
    }
}
