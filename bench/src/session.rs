//! What every benchmark runs in: its tasks, its connection, and who watches the servers.

use std::time::Duration;

use crate::backend::Connection;
use crate::clock;
use crate::error::Result;
use crate::phase::{Phase, PhaseRecord};
use crate::results::PhaseResult;
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
        Ok(Session { launch, connection, crew, monitor, start_ns, startup: Duration::ZERO })
    }

    /// How many tasks there are.
    pub fn tasks(&self) -> u32 {
        self.crew.size()
    }

    /// On how many hosts `tasks` of them are.
    pub fn nodes(&self, tasks: u32) -> u32 {
        self.crew.nodes(tasks)
    }

    /// A digit for each of `tasks` tasks: 1 if it is on the host of task 0.
    pub fn node_map(&self, tasks: u32) -> String {
        self.crew.node_map(tasks)
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
