//! The coordinator: starts tasks, runs their barriers, collects their reports, and notices when one dies.

use std::collections::BTreeMap;
use std::io::BufReader;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use super::launch::{Launch, Started, start};
use super::{FromTask, Job, ToTask, receive, send};
use crate::backend::Connection;
use crate::error::{BenchError, Result};
use crate::phase::{Phase, PhaseRecord};

/// Who is told of a run's progress.
pub trait Observer {
    /// All tasks were started; `pids` is empty if they are threads.
    fn started(&mut self, pids: &[u32]) {
        let _ = pids;
    }

    /// All tasks are at their first barrier.
    fn ready(&mut self) {}

    /// All tasks reported one phase: their records in order of rank.
    ///
    /// # Errors
    /// End the run.
    fn phase(&mut self, records: Vec<PhaseRecord>) -> Result<()>;
}

/// Runs `job` in `tasks` tasks and tells `observer` of each phase.
///
/// # Errors
/// The first task that failed or died, or what the observer returned. No task is left running.
pub fn run(
    job: &Job,
    tasks: u32,
    launch: &Launch,
    connection: &Connection,
    observer: &mut dyn Observer,
) -> Result<()> {
    let (events, inbox) = channel();
    let mut run = Run { tasks: Vec::new(), waiting: 0, errors: 0, ready: false, records: BTreeMap::new() };
    let outcome =
        run.start_all(job, tasks, launch, connection, events).and_then(|()| run.coordinate(&inbox, observer));
    run.stop();
    outcome
}

struct Task {
    started: Started,
    socket: UnixStream,
    reader: Option<JoinHandle<()>>,
    done: bool,
}

/// A message of a task, or none when its socket closed.
type Event = (u32, Option<FromTask>);

struct Run {
    tasks: Vec<Task>,
    waiting: usize,
    errors: u64,
    ready: bool,
    records: BTreeMap<(u32, Phase), Vec<(u32, PhaseRecord)>>,
}

impl Run {
    fn start_all(
        &mut self,
        job: &Job,
        tasks: u32,
        launch: &Launch,
        connection: &Connection,
        events: Sender<Event>,
    ) -> Result<()> {
        for rank in 0..tasks {
            let failed = |error: std::io::Error| BenchError::Start { rank, why: error.to_string() };
            let (started, socket) = start(launch, rank, connection)?;
            let stream = socket.try_clone().map_err(failed);
            self.tasks.push(Task { started, socket, reader: None, done: false });
            let task = &mut self.tasks[rank as usize];
            let (events, stream) = (events.clone(), stream?);
            let thread = std::thread::Builder::new().name(format!("task-{rank}-reports"));
            task.reader = Some(thread.spawn(move || forward(rank, stream, &events)).map_err(failed)?);
            // A task that is dead already shows as a closed socket, which tells more than this error.
            drop(send(&mut task.socket, &ToTask::Job { rank, tasks, job: job.clone() }));
        }
        Ok(())
    }

    fn coordinate(&mut self, inbox: &Receiver<Event>, observer: &mut dyn Observer) -> Result<()> {
        let pids: Vec<u32> = self.tasks.iter().filter_map(|task| task.started.pid()).collect();
        observer.started(&pids);
        while self.tasks.iter().any(|task| !task.done) {
            // Every reader sends a last event before it goes, and is counted in `done` or ends the run.
            let Ok((rank, message)) = inbox.recv() else { return Err(self.died(0)) };
            self.handle(rank, message, observer)?;
        }
        Ok(())
    }

    fn handle(&mut self, rank: u32, message: Option<FromTask>, observer: &mut dyn Observer) -> Result<()> {
        match message {
            Some(FromTask::Barrier { errors }) => self.arrive(errors, observer),
            Some(FromTask::Phase(record)) => self.collect(rank, record, observer)?,
            Some(FromTask::Failed(why)) => return Err(BenchError::Task { rank, why }),
            Some(FromTask::Done) => self.tasks[rank as usize].done = true,
            None if self.tasks[rank as usize].done => {}
            None => return Err(self.died(rank)),
        }
        Ok(())
    }

    fn arrive(&mut self, errors: u64, observer: &mut dyn Observer) {
        self.waiting += 1;
        self.errors += errors;
        if self.waiting < self.tasks.len() {
            return;
        }
        if !self.ready {
            self.ready = true;
            observer.ready();
        }
        let go = ToTask::Go { errors: self.errors };
        (self.waiting, self.errors) = (0, 0);
        for task in &mut self.tasks {
            // A task that died meanwhile shows as a closed socket.
            drop(send(&mut task.socket, &go));
        }
    }

    fn collect(&mut self, rank: u32, record: PhaseRecord, observer: &mut dyn Observer) -> Result<()> {
        let key = (record.repetition, record.phase);
        let records = self.records.entry(key).or_default();
        records.push((rank, record));
        if records.len() < self.tasks.len() {
            return Ok(());
        }
        let mut records = self.records.remove(&key).unwrap_or_default();
        records.sort_by_key(|(rank, _)| *rank);
        observer.phase(records.into_iter().map(|(_, record)| record).collect())
    }

    fn died(&mut self, rank: u32) -> BenchError {
        BenchError::TaskDied { rank, how: self.tasks[rank as usize].started.how_it_ended() }
    }

    /// Ends what still runs. Tasks that are done end by themselves.
    fn stop(&mut self) {
        for task in &mut self.tasks {
            if !task.done {
                // It may be closed already.
                drop(task.socket.shutdown(Shutdown::Both));
            }
        }
        for task in &mut self.tasks {
            match &mut task.started {
                Started::Process(child) if task.done => drop(child.wait()),
                started => started.stop(),
            }
            if let Some(reader) = task.reader.take() {
                drop(reader.join());
            }
        }
    }
}

/// Hands on what a task says until its socket closes.
fn forward(rank: u32, stream: UnixStream, events: &Sender<Event>) {
    let mut reader = BufReader::new(stream);
    loop {
        let event = match receive(&mut reader) {
            Ok(message) => message,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(error) => Some(FromTask::Failed(format!("cannot understand it: {error}"))),
        };
        let last = !matches!(event, Some(FromTask::Barrier { .. } | FromTask::Phase(_) | FromTask::Done));
        if events.send((rank, event)).is_err() || last {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Api;
    use crate::ior::spec::IorSpec;

    #[derive(Default)]
    struct Records {
        phases: Vec<Vec<PhaseRecord>>,
        stop_after: Option<usize>,
    }

    impl Observer for Records {
        fn phase(&mut self, records: Vec<PhaseRecord>) -> Result<()> {
            self.phases.push(records);
            match self.stop_after {
                Some(n) if self.phases.len() >= n => Err(BenchError::Options("enough".to_owned())),
                _ => Ok(()),
            }
        }
    }

    fn spec() -> IorSpec {
        let base = IorSpec::new(Api::Null, "f");
        IorSpec { tasks: 8, block_size: 64, transfer_size: 8, repetitions: 20, intra_barriers: true, ..base }
    }

    fn run_threads(spec: &IorSpec, observer: &mut dyn Observer) -> Result<()> {
        run(&Job::Ior(spec.clone()), spec.tasks, &Launch::Threads, &Connection::Null, observer)
    }

    /// Goal: no task passes a barrier before the last came. Method: time stamps before and after barriers (-g), of all
    /// tasks, of many repetitions.
    #[test]
    fn barriers_hold_until_all_are_there() {
        let mut observer = Records::default();
        run_threads(&spec(), &mut observer).expect("a run");
        assert_eq!(observer.phases.len(), 60);
        let mut before = 0;
        for records in observer.phases.iter().filter(|records| records[0].phase != Phase::Remove) {
            let first = |of: fn(&PhaseRecord) -> u64| records.iter().map(of).min().unwrap_or(0);
            let last = |of: fn(&PhaseRecord) -> u64| records.iter().map(of).max().unwrap_or(u64::MAX);
            assert_eq!(records.len(), 8);
            assert!(before <= first(|r| r.times.open_start), "a phase begins after the one before it");
            assert!(last(|r| r.times.open_end) <= first(|r| r.times.access_start));
            assert!(last(|r| r.times.access_end) <= first(|r| r.times.close_start));
            before = last(|r| r.times.close_end);
        }
    }

    /// An observer that has enough ends the run and all its tasks.
    #[test]
    fn the_observer_can_end_a_run() {
        let mut observer = Records { stop_after: Some(2), ..Records::default() };
        let outcome = run_threads(&spec(), &mut observer);
        assert!(matches!(outcome, Err(BenchError::Options(what)) if what == "enough"));
        assert_eq!(observer.phases.len(), 2);
    }

    /// A task that cannot open its file ends the run with its name and reason, while the others wait at a barrier.
    #[test]
    fn a_failing_task_ends_the_run() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("f").to_string_lossy().into_owned();
        let spec = IorSpec {
            api: Api::Posix,
            file_per_process: true,
            keep: true,
            ..IorSpec { test_file: file, ..spec() }
        };
        let go = |spec: &IorSpec| {
            run(&Job::Ior(spec.clone()), 8, &Launch::Threads, &Connection::Posix, &mut Records::default())
        };
        go(&spec).expect("all files are there");
        std::fs::remove_file(spec.file_of(5).1).expect("a file");
        let outcome = go(&IorSpec { write: false, ..spec });
        let expected = |why: &str| why.contains("cannot open") && why.contains(".00000005");
        assert!(matches!(&outcome, Err(BenchError::Task { rank: 5, why }) if expected(why)), "{outcome:?}");
    }
}
