//! What every benchmark runs in: its tasks, its connection, and who watches the servers.

use std::time::Duration;

use crate::backend::Connection;
use crate::clock;
use crate::configuration::{Configuration, ServersSetup};
use crate::error::Result;
use crate::phase::{Phase, PhaseRecord};
use crate::results::PhaseResult;
use crate::seat;
use crate::servers::Monitor;
use crate::tasks::Job;
use crate::tasks::coordinator::{Crew, Observer};
use crate::tasks::launch::Launch;

/// Started tasks and what they measure.
pub struct Session {
    launch: Launch,
    connection: Connection,
    crew: Crew,
    monitor: Option<Monitor>,
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
        Ok(Session { launch, connection, crew, monitor, spread: None, start_ns, startup: Duration::ZERO })
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

    /// On how many nodes `tasks` of them are: hosts, or servers that stand for nodes.
    pub fn nodes(&self, tasks: u32) -> u32 {
        self.spread.map_or_else(|| self.hosts(tasks), |servers| seat::nodes(tasks, servers))
    }

    /// On how many hosts `tasks` of them are.
    pub fn hosts(&self, tasks: u32) -> u32 {
        self.crew.nodes(tasks)
    }

    /// A digit for each of `tasks` tasks: 1 if it is on the node of task 0.
    pub fn node_map(&self, tasks: u32) -> String {
        let Some(servers) = self.spread else { return self.crew.node_map(tasks) };
        let first = seat::tasks_per_node(tasks, servers);
        (0..tasks).map(|rank| if rank < first { '1' } else { '0' }).collect()
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

    /// Has `tasks` tasks do `job`, and tells `sink` of each phase when all of them reported it.
    ///
    /// # Errors
    /// What ended the run, or what `sink` returned.
    pub fn run(
        &mut self,
        job: &Job,
        tasks: u32,
        sink: &mut dyn FnMut(PhaseResult) -> Result<()>,
    ) -> Result<()> {
        let mut watcher = Watcher { monitor: self.monitor.as_mut(), sink, ready_ns: None };
        let outcome = self.crew.run(job, tasks, &mut watcher);
        if let Some(ready_ns) = watcher.ready_ns {
            self.startup = Duration::from_nanos(ready_ns - self.start_ns);
        }
        outcome
    }
}

struct Watcher<'a> {
    monitor: Option<&'a mut Monitor>,
    sink: &'a mut dyn FnMut(PhaseResult) -> Result<()>,
    ready_ns: Option<u64>,
}

impl Observer for Watcher<'_> {
    fn ready(&mut self) {
        self.ready_ns = Some(clock::now_ns());
    }

    fn begins(&mut self, _repetition: u32, _phase: Phase) {
        if let Some(monitor) = &mut self.monitor {
            monitor.begin();
        }
    }

    fn phase(&mut self, records: Vec<PhaseRecord>) -> Result<()> {
        let servers = self.monitor.as_mut().and_then(|monitor| monitor.end());
        (self.sink)(PhaseResult { servers, ..PhaseResult::new(&records) })
    }
}
