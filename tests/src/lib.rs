//! A whole cluster within the test process: several servers on threads, each with its store in a temporary directory, and clients.
//!
//! Servers differ in how they keep their chunks, so that every test meets all ways: odd ones use direct I/O, every third has two
//! devices.
//!
//! For what needs real processes (SIGKILL, mounts, the command line) see the tests of `crates/cli` and the scripts beside this crate.

pub mod mpi;
mod raw;
pub mod skip;
mod watched;

pub use raw::{ask_again, ask_raw, send_raw};
pub use watched::watched;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fs_client::{Client, ClientConfig, File, OpenOptions, Route, ServerInside};
use fs_net::{ClusterFile, MemberEntry, Secret};
use fs_proto::ServerId;
use fs_proto::msg::admin::ShutdownMode;
use fs_server::config::IoMode;
use fs_server::{ServerConfig, ServerError};
use serde_json::Value;
use tempfile::TempDir;

/// How long [`until`] polls.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Opens a file for reading and writing; makes it if it is not there.
pub fn open(client: &Client, path: &str) -> File {
    let options = OpenOptions { read: true, write: true, create: true, ..OpenOptions::default() };
    client.open_path(path, &options).expect("open")
}

/// Bytes without a zero among them.
pub fn full(len: u64, seed: u8) -> Vec<u8> {
    (0..len).map(|at| 1 + ((at / 7) as u8 ^ seed) % 250).collect()
}

/// What a server says of itself.
pub fn status(client: &Client, server: ServerId) -> Value {
    let text = client.server_status(server).expect("status");
    serde_json::from_str(&text).expect("JSON")
}

/// Polls until `done`, or fails.
pub fn until(what: &str, done: impl Fn() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// How a cluster differs from the usual.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// Number of servers.
    pub servers: u16,
    /// Entries above which a directory becomes wide.
    pub wide_threshold: u64,
    /// How many of the servers, the last ones, keep no data.
    pub gateways: u16,
    /// With a shared tier (a directory beside the stores).
    pub tier: bool,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        ClusterOptions { servers: 4, wide_threshold: 10_000, gateways: 0, tier: false }
    }
}

/// What a server is told of the cluster, where that differs from what clients are.
type Told = Box<dyn Fn(ServerId, &mut ClusterFile) + Send + Sync>;

/// A running cluster; ended and removed when dropped.
pub struct Cluster {
    dir: TempDir,
    options: ClusterOptions,
    edit: fn(&mut ServerConfig),
    told: Told,
    file: ClusterFile,
    threads: Vec<Option<JoinHandle<Result<(), ServerError>>>>,
    inside: Vec<Arc<dyn ServerInside>>,
}

static JOBS: AtomicU64 = AtomicU64::new(0);

impl Cluster {
    /// Starts a cluster of `servers` servers.
    pub fn start(servers: u16) -> Self {
        Cluster::with(ClusterOptions { servers, ..ClusterOptions::default() })
    }

    /// Starts a cluster.
    pub fn with(options: ClusterOptions) -> Self {
        Cluster::configured(options, |_| ())
    }

    /// Starts a cluster whose servers are configured by `edit`, besides.
    pub fn configured(options: ClusterOptions, edit: fn(&mut ServerConfig)) -> Self {
        Cluster::made(options, edit, Box::new(|_, _| ()))
    }

    /// Starts a cluster whose servers find each other as `told` changes the cluster file for each, when all have their addresses.
    pub fn told(
        options: ClusterOptions,
        told: impl Fn(ServerId, &mut ClusterFile) + Send + Sync + 'static,
    ) -> Self {
        Cluster::made(options, |_| (), Box::new(told))
    }

    fn made(options: ClusterOptions, edit: fn(&mut ServerConfig), told: Told) -> Self {
        let dir = TempDir::with_prefix("hayate-test-").expect("a temporary directory");
        let job = format!("test-{}-{}", std::process::id(), JOBS.fetch_add(1, Ordering::Relaxed));
        let tier = options.tier.then(|| dir.path().join("tier"));
        if let Some(tier) = &tier {
            std::fs::create_dir(tier).expect("the tier's directory");
        }
        let file = ClusterFile {
            name: "test".to_owned(),
            job,
            secret: Secret::random(),
            epoch: 1,
            tier,
            members: Vec::new(),
            events: Vec::new(),
        };
        let mut cluster = Cluster { dir, options, edit, told, file, threads: Vec::new(), inside: Vec::new() };
        let bound: Vec<_> = (0..cluster.options.servers)
            .map(|id| fs_server::bind(cluster.config(id)).expect("a server binds"))
            .collect();
        for (id, server) in bound.iter().enumerate() {
            let addresses = server.addresses();
            cluster.file.members.push(MemberEntry {
                id: ServerId(id as u16),
                host: fs_net::host_name(),
                tcp: addresses.tcp,
                unix: addresses.unix,
                stores: vec![cluster.store_dir(id as u16)],
                weight: u32::from((id as u16) < cluster.options.servers - cluster.options.gateways),
                metrics: addresses.metrics,
                pid: std::process::id(),
            });
        }
        for (id, server) in bound.into_iter().enumerate() {
            cluster.inside.push(server.inside());
            let file = cluster.file_of(id as u16);
            cluster.threads.push(Some(std::thread::spawn(move || server.serve(file))));
        }
        cluster
    }

    fn config(&self, id: u16) -> ServerConfig {
        let mut config = ServerConfig::new(
            ServerId(id),
            self.file.job.clone(),
            self.file.secret.clone(),
            self.store_dir(id),
        );
        if id % 2 == 1 {
            config.io = IoMode::Direct;
        }
        if id % 3 == 2 {
            config.stores.push(self.dir.path().join(format!("store-{id}-second")));
        }
        config.workers = 2;
        config.memory_bytes = 128 << 20;
        config.wide_threshold = self.options.wide_threshold;
        config.tier.clone_from(&self.file.tier);
        config.listen_unix = self.dir.path().join(format!("{id}.sock"));
        config.listen_metrics = Some("127.0.0.1:0".to_owned());
        if let Some(member) = self.file.member(ServerId(id)) {
            config.listen_tcp.clone_from(&member.tcp);
        }
        (self.edit)(&mut config);
        config
    }

    /// Where server `id` keeps its data.
    pub fn store_dir(&self, id: u16) -> PathBuf {
        self.dir.path().join(format!("store-{id}"))
    }

    /// The shared tier's directory, if there is one.
    pub fn tier(&self) -> Option<&Path> {
        self.file.tier.as_deref()
    }

    fn file_of(&self, id: u16) -> ClusterFile {
        let mut file = self.file.clone();
        (self.told)(ServerId(id), &mut file);
        file
    }

    /// The cluster file.
    pub fn file(&self) -> &ClusterFile {
        &self.file
    }

    /// A client that finds its way as `route` says.
    pub fn client_by(&self, route: Route) -> Client {
        let mut config = ClientConfig::new(self.file.clone());
        config.route = route;
        Client::connect(config).expect("a client connects")
    }

    /// A client with the usual route.
    pub fn client(&self) -> Client {
        self.client_by(Route::Auto)
    }

    /// A client that trusts nothing that it heard before.
    pub fn strict_client(&self, route: Route) -> Client {
        let mut config = ClientConfig::new(self.file.clone());
        (config.attr_ttl, config.entry_ttl, config.route) = (Duration::ZERO, Duration::ZERO, route);
        Client::connect(config).expect("a client connects")
    }

    /// A client that trusts names and attributes for longer than a test takes.
    pub fn trusting_client(&self) -> Client {
        let mut config = ClientConfig::new(self.file.clone());
        (config.attr_ttl, config.entry_ttl) = (Duration::from_secs(3600), Duration::from_secs(3600));
        Client::connect(config).expect("a client connects")
    }

    /// A strict client that asks by server `id`, which it is inside of until that ends for the first time. `checked`: for a mount.
    pub fn inside_client(&self, id: u16, checked: bool) -> Client {
        let mut config = ClientConfig::new(self.file.clone());
        (config.attr_ttl, config.entry_ttl) = (Duration::ZERO, Duration::ZERO);
        config.route = Route::Gateway(ServerId(id));
        config.inside = Some(Arc::clone(&self.inside[usize::from(id)]));
        config.checked = checked;
        Client::connect(config).expect("a client connects")
    }

    /// Ends server `id` and starts it again on its store and its addresses.
    pub fn restart(&mut self, id: u16) {
        self.stop(id);
        let server = fs_server::bind(self.config(id)).expect("a server binds again");
        let file = self.file_of(id);
        self.threads[id as usize] = Some(std::thread::spawn(move || server.serve(file)));
    }

    /// What servers that start from now on are configured by.
    pub fn configure(&mut self, edit: fn(&mut ServerConfig)) {
        self.edit = edit;
    }

    /// Ends server `id`.
    pub fn stop(&mut self, id: u16) {
        let Some(thread) = self.threads[id as usize].take() else { return };
        let mut config = ClientConfig::new(self.file.clone());
        config.route = Route::Owners;
        let asked =
            Client::connect(config).and_then(|client| client.shutdown(ServerId(id), ShutdownMode::Keep));
        asked.expect("the server takes the request to end");
        thread.join().expect("no panic").expect("a clean end");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for id in 0..self.threads.len() {
            if !std::thread::panicking() {
                self.stop(id as u16);
            } else if let Some(thread) = self.threads[id].take() {
                let config = ClientConfig::new(self.file.clone());
                let _ = Client::connect(config)
                    .map(|client| client.shutdown(ServerId(id as u16), ShutdownMode::Keep));
                let _ = thread.join();
            }
        }
    }
}
