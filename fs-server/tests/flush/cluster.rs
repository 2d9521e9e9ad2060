//! Servers in this process, on threads, in a temporary directory.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fs_net::{ClusterFile, MemberEntry, Secret, host_name};
use fs_proto::ServerId;
use fs_proto::msg::admin::{Shutdown, ShutdownMode};
use fs_proto::msg::tier::{FlushAccount, FlushNow, FlushStatus};
use fs_server::flush::{Flusher, Patience};
use fs_server::tier::Tier;
use fs_server::tier::posix::Posix;
use fs_server::{ServerConfig, ServerError, bind_with};

use crate::client::Client;
use crate::s3_server::S3Server;

const JOB: &str = "flush-test";
/// Longest time that anything may take here.
const LIMIT: Duration = Duration::from_secs(120);

/// Makes the tier of a server from the real one.
pub type Wrap<'a> = &'a dyn Fn(Posix) -> Arc<dyn Tier>;

/// A cluster; its servers may end and start again.
pub struct Cluster {
    /// Holds stores and tier.
    pub dir: tempfile::TempDir,
    /// Servers that run.
    threads: Vec<JoinHandle<Result<(), ServerError>>>,
    /// What clients need.
    pub file: ClusterFile,
    wide_threshold: u64,
    servers: u16,
    /// Changes each server's configuration.
    adjust: fn(&mut ServerConfig),
    /// Of servers that copy a file together.
    pub patience: Patience,
    /// The tier, if it is not a directory.
    pub s3: Option<S3Server>,
    /// Times of reading are compared.
    atimes: bool,
    /// Servers are not started for the first time.
    has_run: bool,
}

/// The tier as it is.
pub fn plain(tier: Posix) -> Arc<dyn Tier> {
    Arc::new(tier)
}

impl Cluster {
    /// Starts `servers` servers on a fresh tier.
    pub fn start(servers: u16) -> Self {
        Cluster::start_with(servers, 10_000, &plain)
    }

    /// The same with directories that widen above `wide_threshold`, and tiers made by `wrap`.
    pub fn start_with(servers: u16, wide_threshold: u64, wrap: Wrap<'_>) -> Self {
        let mut cluster = Self::new(servers, wide_threshold);
        cluster.launch(wrap);
        cluster
    }

    /// The same with configurations that `adjust` changes.
    pub fn start_adjusted(servers: u16, adjust: fn(&mut ServerConfig)) -> Self {
        let mut cluster = Self::new(servers, 10_000);
        cluster.adjust = adjust;
        cluster.launch(&plain);
        cluster
    }

    /// The same with a bucket of an S3 server as tier.
    pub fn start_on_s3(servers: u16) -> Self {
        let mut cluster = Self::new(servers, 10_000);
        cluster.s3 = Some(S3Server::start());
        cluster.launch(&plain);
        cluster
    }

    /// One that is not started yet, so that its tier can be filled before.
    pub fn prepared(servers: u16) -> Self {
        Self::prepared_with(servers, |_| {})
    }

    /// The same with configurations that `adjust` changes.
    pub fn prepared_with(servers: u16, adjust: fn(&mut ServerConfig)) -> Self {
        let mut cluster = Self::new(servers, 10_000);
        (cluster.adjust, cluster.atimes) = (adjust, false);
        cluster
    }

    /// One that is not started yet, with directories that widen above `wide_threshold`.
    pub fn wide_above(servers: u16, wide_threshold: u64) -> Self {
        let mut cluster = Self::new(servers, wide_threshold);
        cluster.atimes = false;
        cluster
    }

    /// Changes configurations of servers that are started from now on.
    pub fn adjust(&mut self, adjust: fn(&mut ServerConfig)) {
        self.adjust = adjust;
    }

    fn new(servers: u16, wide_threshold: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("tier")).unwrap();
        let file = ClusterFile {
            name: "test".to_owned(),
            job: JOB.to_owned(),
            secret: Secret::from_raw([7; 32]),
            epoch: 1,
            tier: None,
            members: Vec::new(),
            events: Vec::new(),
        };
        Cluster {
            dir,
            threads: Vec::new(),
            file,
            wide_threshold,
            servers,
            adjust: |_| {},
            patience: Patience::default(),
            s3: None,
            atimes: true,
            has_run: false,
        }
    }

    /// Deletes the store of a server that was stopped.
    pub fn lose(&self, id: ServerId) {
        std::fs::remove_dir_all(self.dir.path().join(format!("s{}", id.0))).unwrap();
    }

    /// The tier's directory.
    pub fn tier(&self) -> PathBuf {
        self.dir.path().join("tier")
    }

    fn config(&self, id: ServerId) -> ServerConfig {
        let store = self.dir.path().join(format!("s{}", id.0));
        std::fs::create_dir_all(&store).unwrap();
        let mut config = ServerConfig::new(id, JOB.to_owned(), self.file.secret.clone(), store);
        config.tier = Some(self.tier());
        config.workers = 1;
        config.memory_bytes = 128 << 20;
        config.flush_delay_ms = 20;
        config.wide_threshold = self.wide_threshold;
        config.rejoins = self.has_run;
        (self.adjust)(&mut config);
        config
    }

    /// Starts all servers.
    pub fn launch(&mut self, wrap: Wrap<'_>) {
        let s3 = self.s3.take();
        self.launch_on(&|config: &ServerConfig| {
            Some(match &s3 {
                Some(s3) => Arc::new(s3.tier(config)),
                None => wrap(Posix::open(config.tier.as_ref()?, config).unwrap()),
            })
        });
        self.s3 = s3;
    }

    /// Starts all servers with tiers that `tier` opens.
    pub fn launch_on(&mut self, tier: &dyn Fn(&ServerConfig) -> Option<Arc<dyn Tier>>) {
        let mut bound = Vec::new();
        self.file.members.clear();
        for id in (0..self.servers).map(ServerId) {
            let config = self.config(id);
            let flusher = Flusher::on(tier(&config)).with_patience(self.patience);
            let server = bind_with(config.clone(), flusher).unwrap();
            self.file.members.push(MemberEntry {
                id,
                host: host_name(),
                tcp: server.addresses().tcp,
                unix: server.addresses().unix,
                stores: config.stores,
                weight: 1,
                metrics: None,
                pid: std::process::id(),
            });
            bound.push(server);
        }
        for server in bound {
            let file = self.file.clone();
            self.threads.push(std::thread::spawn(move || server.serve(file)));
        }
        self.has_run = true;
    }

    /// Starts all servers without a tier.
    pub fn launch_without_tier(&mut self) {
        self.launch_on(&|_| None);
    }

    /// Ends all servers; their stores stay.
    pub fn stop(&mut self) {
        let client = Client::connect(&self.file);
        for id in (0..self.servers).map(ServerId) {
            client.ask_server(id, &Shutdown { mode: ShutdownMode::Keep }).unwrap();
        }
        drop(client);
        for thread in self.threads.drain(..) {
            thread.join().unwrap().unwrap();
        }
    }

    /// Ends all servers and starts them again.
    pub fn restart(&mut self, wrap: Wrap<'_>) {
        self.stop();
        self.launch(wrap);
    }

    /// All servers' accounts.
    pub fn accounts(&self, client: &Client) -> Vec<FlushAccount> {
        (0..self.servers).map(|id| client.ask_server(ServerId(id), &FlushStatus {}).unwrap()).collect()
    }

    /// Waits until `done` says so of the accounts.
    pub fn wait(
        &self,
        client: &Client,
        what: &str,
        done: impl Fn(&[FlushAccount]) -> bool,
    ) -> Vec<FlushAccount> {
        let began = Instant::now();
        loop {
            let accounts = self.accounts(client);
            if done(&accounts) {
                return accounts;
            }
            assert!(began.elapsed() < LIMIT, "{what} does not happen: {accounts:#?}");
            // Asking takes the servers' time.
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until nothing differs from the tier any more.
    pub fn settle(&self, client: &Client) -> Vec<FlushAccount> {
        self.wait(client, "an empty queue", |accounts| {
            accounts.iter().all(|a| a.pending_names == 0 && a.pending_dirs == 0 && a.pending_bytes == 0)
        });
        // Asked again: the home of a file may have been asked before it counted.
        self.accounts(client)
    }

    /// As [`Cluster::settle`], in a hurry and with files that are open for writing.
    pub fn drain(&self, client: &Client) -> Vec<FlushAccount> {
        for id in (0..self.servers).map(ServerId) {
            client.ask_server(id, &FlushNow { everything: true }).unwrap();
        }
        self.settle(client)
    }

    /// Waits until everything is flushed, and compares.
    pub fn check(&self, client: &Client) -> Vec<FlushAccount> {
        let accounts = self.settle(client);
        self.compare(client);
        if self.s3.is_some() {
            return accounts;
        }
        // Not part of `compare`: who dies between the removal of staging and having the time set again leaves that to the next flush.
        let root = std::fs::metadata(self.tier()).unwrap();
        let mtime = root.mtime() * 1_000_000_000 + root.mtime_nsec();
        assert_eq!(mtime, client.attr(crate::client::ROOT).mtime, "the time of the tier's own directory");
        accounts
    }

    /// Compares tier and namespace.
    pub fn compare(&self, client: &Client) {
        let mut namespace = crate::trees::of_namespace(client);
        let mut tier = match &self.s3 {
            Some(s3) => crate::trees::of_bucket(s3),
            None => crate::trees::of_directory(&self.tier()),
        };
        if !self.atimes {
            [&mut namespace, &mut tier].into_iter().for_each(crate::trees::forget_atimes);
        }
        crate::trees::assert_same(&namespace, &tier);
    }

    /// Path in the tier.
    pub fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.tier().join(path)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Not while unwinding: a server that hangs must not hide why a test failed.
        if !self.threads.is_empty() && !std::thread::panicking() {
            self.stop();
        }
    }
}

impl Cluster {
    /// Nothing has reached the tier yet.
    pub fn compare_nothing_there(&self) {
        assert!(crate::trees::of_directory(&self.tier()).is_empty());
    }
}
