//! What every benchmark runs in: its tasks, its connection, and who watches the servers.

use std::time::Duration;

use crate::backend::{Connection, Storage};
use crate::clock;
use crate::configuration::{Configuration, ServersSetup};
use crate::error::Result;
use crate::mount::{Mount, MountUsage};
use crate::notes;
use crate::phase::{Phase, PhaseRecord};
use crate::results::PhaseResult;
use crate::seat::{self, Seat};
use crate::servers::Monitor;
use crate::tasks::Job;
use crate::tasks::coordinator::{Crew, Observer};
use crate::tasks::launch::Launch;
use crate::tasks::placement::Placement;

/// Started tasks and what they measure.
pub struct Session {
    launch: Launch,
    connection: Connection,
    crew: Crew,
    monitor: Option<Monitor>,
    /// The FUSE mount that is measured.
    mount: Option<Mount>,
    /// With `--spread`, how many servers stand for nodes.
    spread: Option<usize>,
    start_ns: u64,
    startup: Duration,
}

impl Session {
    /// Starts `tasks` tasks. `monitor` watches the servers, if there are any.
    ///
    /// # Errors
    /// The first task that cannot be started.
    pub fn start(
        tasks: u32,
        launch: &Launch,
        connection: &Connection,
        monitor: Option<Monitor>,
    ) -> Result<Self> {
        let start_ns = clock::now_ns();
        let mut crew = Crew::start(tasks, launch, connection)?;
        crew.greet()?;
        let (launch, connection) = (launch.clone(), connection.clone());
        let (mount, spread, startup) = (None, None, Duration::ZERO);
        Ok(Session { launch, connection, crew, monitor, mount, spread, start_ns, startup })
    }

    /// The same, of tasks that are clients of one server each; all servers stand for nodes.
    #[must_use]
    pub fn spread(mut self) -> Self {
        self.spread = self.servers();
        self
    }

    /// How many tasks there are.
    pub fn tasks(&self) -> u32 {
        self.crew.size()
    }

    /// On which nodes `tasks` of them are: hosts, or servers that stand for nodes.
    pub fn placement(&self, tasks: u32) -> Placement {
        let Some(servers) = self.spread else { return self.crew.placement(tasks) };
        let seats: Vec<usize> = (0..tasks).map(|rank| Seat { rank, tasks }.server(servers)).collect();
        Placement::of(&seats)
    }

    /// On how many hosts `tasks` of them are.
    pub fn hosts(&self, tasks: u32) -> u32 {
        self.crew.placement(tasks).nodes
    }

    /// How what is measured under `path` is configured, by tests with these numbers of tasks.
    pub fn configuration(&self, path: &str, tasks: impl IntoIterator<Item = u32>) -> Configuration {
        // Each test deals its own tasks to all servers (`tasks::serve`).
        let dealt =
            |servers| tasks.into_iter().map(move |tasks| (tasks, seat::tasks_per_node(tasks, servers)));
        Configuration {
            servers: self.setup().cloned(),
            layout: self.connection.backend().layout(path),
            tasks_of_a_server: self.spread.map(dealt).into_iter().flatten().collect(),
        }
    }

    /// As [`Session::spread`], over servers that nobody watches.
    #[cfg(test)]
    pub fn spread_over(mut self, servers: usize) -> Self {
        self.spread = Some(servers);
        self
    }

    /// From now on the process of the mount that holds `path` is watched, if it is a FUSE mount. What is to be known of its figures.
    pub fn watch_mount(&mut self, path: &str) -> Vec<String> {
        let fuse = self.connection.backend().storage(path) == Storage::Fuse;
        self.mount = fuse.then(|| Mount::of(path)).flatten();
        if !fuse {
            return Vec::new();
        }
        notes::of_mount(self.mount.as_ref(), self.monitor.is_some(), self.hosts(self.tasks()))
    }

    /// What the servers say of themselves, if they are watched.
    pub fn setup(&self) -> Option<&ServersSetup> {
        self.monitor.as_ref().map(Monitor::setup)
    }

    /// How many servers are watched.
    pub fn servers(&self) -> Option<usize> {
        self.monitor.as_ref().map(Monitor::count)
    }

    /// How tasks were started.
    pub fn launch(&self) -> &Launch {
        &self.launch
    }

    /// What is measured.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// From the start of the first task to the first barrier, which all tasks reached.
    pub fn startup(&self) -> Duration {
        self.startup
    }

    /// Has `tasks` tasks do `job`, and tells `sink` of each phase: before all of them begin it, and when all reported it.
    ///
    /// # Errors
    /// What ended the run, or what `sink` returned.
    pub fn run(&mut self, job: &Job, tasks: u32, sink: &mut dyn Sink) -> Result<()> {
        let mut watcher = Watcher {
            monitor: self.monitor.as_mut(),
            mount: self.mount.as_ref(),
            mount_before: None,
            sink,
            ready_ns: None,
            began: 0,
        };
        let outcome = self.crew.run(job, tasks, &mut watcher);
        if let Some(ready_ns) = watcher.ready_ns {
            self.startup = Duration::from_nanos(ready_ns - self.start_ns);
        }
        outcome
    }
}

/// Who is told of the phases of a job. Errors end the run.
pub trait Sink {
    /// All tasks are about to begin a phase, now, in seconds since 1970.
    ///
    /// # Errors
    /// What ends the run.
    fn begins(&mut self, phase: Phase, now: u64) -> Result<()> {
        let _ = (phase, now);
        Ok(())
    }

    /// All tasks ended it.
    ///
    /// # Errors
    /// What ends the run.
    fn ended(&mut self, result: PhaseResult) -> Result<()>;
}

/// Who wants results only.
impl<F: FnMut(PhaseResult) -> Result<()>> Sink for F {
    fn ended(&mut self, result: PhaseResult) -> Result<()> {
        self(result)
    }
}

struct Watcher<'a> {
    monitor: Option<&'a mut Monitor>,
    mount: Option<&'a Mount>,
    mount_before: Option<MountUsage>,
    sink: &'a mut dyn Sink,
    ready_ns: Option<u64>,
    /// When the phase began, in seconds since 1970.
    began: u64,
}

impl Observer for Watcher<'_> {
    fn ready(&mut self) {
        self.ready_ns = Some(clock::now_ns());
    }

    fn begins(&mut self, _repetition: u32, phase: Phase) -> Result<()> {
        self.began = clock::unix_seconds();
        self.sink.begins(phase, self.began)?;
        if let Some(monitor) = &mut self.monitor {
            monitor.begin();
        }
        self.mount_before = self.mount.and_then(Mount::usage);
        Ok(())
    }

    fn phase(&mut self, records: Vec<PhaseRecord>) -> Result<()> {
        let mount = self.mount.and_then(Mount::usage).zip(self.mount_before.take());
        let mount_cpu_s = mount.map(|(now, before)| now.seconds_since(&before));
        let servers = self.monitor.as_mut().and_then(|monitor| monitor.end());
        let result = PhaseResult { servers, mount_cpu_s, began: self.began, ..PhaseResult::new(&records) };
        self.sink.ended(result)
    }
}
