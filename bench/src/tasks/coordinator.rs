//! The coordinator: starts tasks, runs their barriers, collects their reports, and notices when one dies.
//!
//! # Invariants
//! - A crew that failed once does nothing more: its tasks are in unknown places (`Crew::run` says so).

use std::collections::BTreeMap;
use std::io::BufReader;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use super::launch::{Launch, Started};
use super::placement::Placement;
use super::{Agreed, FromTask, Job, ToTask, receive, send};
use crate::backend::Connection;
use crate::clock;
use crate::error::{BenchError, Result};
use crate::phase::{Phase, PhaseRecord};

/// Who is told of a run's progress.
pub trait Observer {
    /// All tasks were started; `pids` is empty if they are threads or ranks of mpirun.
    fn started(&mut self, pids: &[u32]) {
        let _ = pids;
    }

    /// All tasks are at their first barrier.
    fn ready(&mut self) {}

    /// All tasks are about to begin a phase, and wait until this returns.
    ///
    /// # Errors
    /// End the run.
    fn begins(&mut self, repetition: u32, phase: Phase) -> Result<()> {
        let _ = (repetition, phase);
        Ok(())
    }

    /// All tasks reported one phase: their records in order of rank.
    ///
    /// # Errors
    /// End the run.
    fn phase(&mut self, records: Vec<PhaseRecord>) -> Result<()>;
}

/// Runs `job` in `tasks` tasks of its own and tells `observer` of each phase.
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
    Crew::start(tasks, launch, connection)?.run(job, tasks, observer)
}

struct Task {
    started: Started,
    socket: UnixStream,
    reader: Option<JoinHandle<()>>,
    done: bool,
    gone: bool,
    host: Option<String>,
}

/// A message of a task, or none when its socket closed.
type Event = (u32, Option<FromTask>);

/// Started tasks, for one job after the other. Dropped, it ends them.
pub struct Crew {
    tasks: Vec<Task>,
    inbox: Receiver<Event>,
    broken: bool,
    met: bool,
}

/// What a run is waiting for.
#[derive(Default)]
struct Progress {
    tasks: usize,
    done: usize,
    waiting: usize,
    errors: u64,
    agreed: Option<Agreed>,
    records: BTreeMap<(u32, Phase), Vec<(u32, PhaseRecord)>>,
}

impl Crew {
    /// Starts `tasks` tasks (or takes those that mpirun started).
    ///
    /// # Errors
    /// The first that cannot be started.
    pub fn start(tasks: u32, launch: &Launch, connection: &Connection) -> Result<Crew> {
        let (events, inbox) = channel();
        let mut crew = Crew { tasks: Vec::new(), inbox, broken: false, met: false };
        for (rank, (started, socket)) in (0..).zip(launch.start(tasks, connection)?) {
            crew.tasks.push(Task { started, socket, reader: None, done: true, gone: false, host: None });
            crew.listen(rank, &events)?;
        }
        Ok(crew)
    }

    fn listen(&mut self, rank: u32, events: &Sender<Event>) -> Result<()> {
        let failed = |error: std::io::Error| BenchError::Start { rank, why: error.to_string() };
        let task = &mut self.tasks[rank as usize];
        let (events, stream) = (events.clone(), task.socket.try_clone().map_err(failed)?);
        let thread = std::thread::Builder::new().name(format!("task-{rank}-reports"));
        task.reader = Some(thread.spawn(move || forward(rank, stream, &events)).map_err(failed)?);
        Ok(())
    }

    /// Waits until every task has said on which host it is.
    ///
    /// # Errors
    /// The first that ended instead.
    pub fn greet(&mut self) -> Result<()> {
        while self.tasks.iter().any(|task| task.host.is_none()) {
            let Ok((rank, message)) = self.inbox.recv() else { return Err(self.died(0)) };
            match message {
                Some(FromTask::Hello { host, .. }) => self.tasks[rank as usize].host = Some(host),
                Some(FromTask::Failed(why)) => return Err(BenchError::Task { rank, why }),
                None => return Err(self.died(rank)),
                Some(other) => {
                    return Err(BenchError::Task { rank, why: format!("it began without a job: {other:?}") });
                }
            }
        }
        Ok(())
    }

    /// How many tasks there are.
    pub fn size(&self) -> u32 {
        self.tasks.len() as u32
    }

    /// On which hosts the first `tasks` are; known after [`Crew::greet`].
    pub fn placement(&self, tasks: u32) -> Placement {
        let hosts: Vec<&Option<String>> =
            self.tasks.iter().take(tasks as usize).map(|task| &task.host).collect();
        Placement::of(&hosts)
    }

    /// Has the first `tasks` tasks do `job`.
    ///
    /// # Errors
    /// As of [`run`]; after one, the crew does nothing more.
    pub fn run(&mut self, job: &Job, tasks: u32, observer: &mut dyn Observer) -> Result<()> {
        let size = self.tasks.len();
        if self.broken || tasks as usize > size {
            let why =
                if self.broken { "an earlier job failed".to_owned() } else { format!("there are {size}") };
            return Err(BenchError::Options(format!("cannot run {tasks} tasks: {why}")));
        }
        self.broken = true;
        if let Some(rank) = self.tasks.iter().take(tasks as usize).position(|task| task.gone) {
            return Err(self.died(rank as u32));
        }
        let pids: Vec<u32> = self.tasks.iter().filter_map(|task| task.started.pid()).collect();
        observer.started(&pids);
        let boot = clock::boot();
        for (rank, task) in (0..tasks).zip(&mut self.tasks) {
            task.done = false;
            // A task that is dead already shows as a closed socket, which tells more than this error.
            drop(send(&mut task.socket, &ToTask::Job { rank, tasks, job: job.clone(), boot: boot.clone() }));
        }
        let mut progress = Progress { tasks: tasks as usize, ..Progress::default() };
        while progress.done < progress.tasks {
            // Every reader sends a last event before it goes, and is counted in `done` or ends the run.
            let Ok((rank, message)) = self.inbox.recv() else { return Err(self.died(0)) };
            self.handle(&mut progress, rank, message, observer)?;
        }
        self.broken = false;
        Ok(())
    }

    fn handle(
        &mut self,
        progress: &mut Progress,
        rank: u32,
        message: Option<FromTask>,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let task = &mut self.tasks[rank as usize];
        match message {
            Some(FromTask::Hello { host, .. }) => task.host = Some(host),
            Some(FromTask::Time) => drop(send(&mut task.socket, &ToTask::Time { ns: clock::now_ns() })),
            Some(FromTask::Barrier { errors, value, begins }) => {
                self.arrive(progress, errors, value, begins, observer)?;
            }
            Some(FromTask::Phase(record)) => progress.collect(rank, record, observer)?,
            Some(FromTask::Failed(why)) => return Err(BenchError::Task { rank, why }),
            Some(FromTask::Done) => {
                task.done = true;
                progress.done += 1;
            }
            None => {
                task.gone = true;
                if !task.done {
                    return Err(self.died(rank));
                }
            }
        }
        Ok(())
    }

    fn arrive(
        &mut self,
        progress: &mut Progress,
        errors: u64,
        value: u64,
        begins: Option<(u32, Phase)>,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        progress.waiting += 1;
        progress.errors += errors;
        let agreed = progress.agreed.get_or_insert(Agreed { min: value, max: value, sum: 0 });
        *agreed = Agreed {
            min: agreed.min.min(value),
            max: agreed.max.max(value),
            sum: agreed.sum.saturating_add(value),
        };
        if progress.waiting < progress.tasks {
            return Ok(());
        }
        if !self.met {
            self.met = true;
            observer.ready();
        }
        if let Some((repetition, phase)) = begins {
            observer.begins(repetition, phase)?;
        }
        let go = ToTask::Go { errors: progress.errors, agreed: progress.agreed.take().unwrap_or_default() };
        (progress.waiting, progress.errors) = (0, 0);
        for task in self.tasks.iter_mut().take(progress.tasks) {
            // A task that died meanwhile shows as a closed socket.
            drop(send(&mut task.socket, &go));
        }
        Ok(())
    }

    fn died(&mut self, rank: u32) -> BenchError {
        BenchError::TaskDied { rank, how: self.tasks[rank as usize].started.how_it_ended() }
    }

    /// Ends what still runs. Tasks that are done end by themselves when their socket is closed.
    fn stop(&mut self) {
        for task in &mut self.tasks {
            // It may be closed already.
            drop(task.socket.shutdown(Shutdown::Both));
        }
        for task in &mut self.tasks {
            match &mut task.started {
                Started::Process(child) if task.done => drop(child.wait()),
                started => started.stop(),
            }
            if let Some(reader) = task.reader.take() {
                // It ends with the socket, and has nothing to tell.
                drop(reader.join());
            }
        }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Progress {
    fn collect(&mut self, rank: u32, record: PhaseRecord, observer: &mut dyn Observer) -> Result<()> {
        let key = (record.repetition, record.phase);
        let records = self.records.entry(key).or_default();
        records.push((rank, record));
        if records.len() < self.tasks {
            return Ok(());
        }
        let mut records = self.records.remove(&key).unwrap_or_default();
        records.sort_by_key(|(rank, _)| *rank);
        observer.phase(records.into_iter().map(|(_, record)| record).collect())
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
        let last = matches!(event, None | Some(FromTask::Failed(_)));
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
        run(&Job::Ior(Box::new(spec.clone())), spec.tasks, &Launch::Threads, &Connection::Null, observer)
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
            run(
                &Job::Ior(Box::new(spec.clone())),
                8,
                &Launch::Threads,
                &Connection::Posix,
                &mut Records::default(),
            )
        };
        go(&spec).expect("all files are there");
        std::fs::remove_file(spec.file_of(5, 0).1).expect("a file");
        let outcome = go(&IorSpec { write: false, ..spec });
        let expected = |why: &str| why.contains("cannot open") && why.contains(".00000005");
        assert!(matches!(&outcome, Err(BenchError::Task { rank: 5, why }) if expected(why)), "{outcome:?}");
    }

    /// A crew does one job after the other, with fewer tasks too; after a failure it refuses, and nothing hangs.
    #[test]
    fn a_crew_does_many_jobs_until_one_fails() {
        let mut crew = Crew::start(4, &Launch::Threads, &Connection::Posix).expect("a crew");
        let mut observer = Records::default();
        let null = |tasks| Job::Ior(Box::new(IorSpec { tasks, repetitions: 1, ..spec() }));
        crew.run(&null(4), 4, &mut observer).expect("all");
        crew.run(&null(2), 2, &mut observer).expect("two of them");
        assert_eq!(observer.phases.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 4, 2, 2, 2]);
        assert_eq!((crew.placement(4).nodes, crew.placement(2).map()), (1, "11".to_owned()));
        let absent = IorSpec { api: Api::Posix, test_file: "/nonexistent/f".to_owned(), ..spec() };
        let outcome = crew.run(&Job::Ior(Box::new(absent)), 4, &mut observer);
        assert!(matches!(outcome, Err(BenchError::Task { .. })), "{outcome:?}");
        let refused = crew.run(&null(4), 4, &mut observer).expect_err("a broken crew").to_string();
        assert!(refused.contains("an earlier job failed"), "{refused}");
    }

    /// Values that tasks give at a barrier come back as smallest, largest and sum; phases are announced before they begin.
    #[test]
    fn barriers_agree_on_values() {
        struct Announced(Vec<(u32, Phase)>);
        impl Observer for Announced {
            fn begins(&mut self, repetition: u32, phase: Phase) -> Result<()> {
                self.0.push((repetition, phase));
                Ok(())
            }
            fn phase(&mut self, records: Vec<PhaseRecord>) -> Result<()> {
                assert_eq!(self.0.last(), Some(&(records[0].repetition, records[0].phase)));
                Ok(())
            }
        }
        let mut announced = Announced(Vec::new());
        let spec = IorSpec { repetitions: 2, ..spec() };
        run_threads(&spec, &mut announced).expect("a run");
        let once = |n| [(n, Phase::Write), (n, Phase::Read), (n, Phase::Remove)];
        assert_eq!(announced.0, [once(0), once(1)].concat());
    }
}
