//! `launch.toml`: what every server of a launch is told. Mode 0600, as it holds the secret. A copy on each host remembers how
//! its servers were started, for a restart.

use super::Launcher;
use crate::error::{CliError, Result, cannot};
use crate::place;
use fs_net::Secret;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Name of the file in the rendezvous directory and in a host's own directory.
pub const FILE: &str = "launch.toml";

/// A launch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchSpec {
    /// Name that people gave the cluster.
    pub name: String,
    /// Job id.
    pub job: String,
    /// The job's secret.
    pub secret: Secret,
    /// Directory that all hosts see.
    pub rendezvous: PathBuf,
    /// This program, as a path valid on all hosts.
    pub exe: String,
    /// How many servers.
    pub servers: u16,
    /// Hosts of the servers; empty: all on this machine.
    pub hosts: Vec<String>,
    /// What starts them there; absent: this machine.
    pub launcher: Option<Launcher>,
    /// Address to listen on; absent: each host's own name, or 127.0.0.1 when all are on this machine.
    pub listen: Option<String>,
    /// First port; 0 takes free ones.
    pub port: u16,
    /// Directories under which each server makes its store; empty: the host's own directory of the cluster.
    pub stores: Vec<PathBuf>,
    /// Directory of the shared tier.
    pub tier: Option<PathBuf>,
    /// Where every host mounts the file system.
    pub mount: Option<PathBuf>,
    /// Whether the mount is a part of a server.
    pub mount_inside: bool,
    /// Whether the kernel reads copies of hot files by itself.
    #[serde(default)]
    pub passthrough: bool,
    /// How many of the servers, the last ones, keep no data.
    pub gateways: u16,
    /// Memory budget of a mount in bytes.
    pub client_memory_bytes: u64,
    /// What servers are tuned with.
    pub options: ServerOptions,
}

fn rdma_default() -> String {
    "auto".to_owned()
}

fn hot_files_default() -> bool {
    true
}

/// Options of servers, as on the command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerOptions {
    /// Memory budget of a server in bytes.
    pub memory_bytes: u64,
    /// Engine of the namespace.
    pub kv: String,
    /// How chunks are read and written.
    pub io: String,
    /// What fsync promises.
    pub durability: String,
    /// Threads that serve connections; 0 is automatic.
    pub workers: usize,
    /// How long a closed file rests before it is flushed.
    pub flush_delay_ms: u64,
    /// Most bytes a second to the tier.
    pub flush_bandwidth: Option<u64>,
    /// Bytes that may wait for being flushed.
    pub dirty_max: Option<u64>,
    /// Most bytes of chunks on each store.
    pub capacity: Option<u64>,
    /// How old a look at a file in the tier may be.
    pub tier_check_ms: u64,
    /// When everything has to be in the tier, in seconds since 1970.
    pub deadline_unix_s: Option<u64>,
    /// Entries above which a directory becomes wide.
    pub wide_threshold: u64,
    /// Largest file in bytes that lies with its inode.
    pub inline_bytes: u32,
    /// Files that many nodes read are kept by their servers and passed on.
    #[serde(default = "hot_files_default")]
    pub hot_files: bool,
    /// RDMA devices: `auto`, `off`, or a name.
    #[serde(default = "rdma_default")]
    pub rdma: String,
    /// Serve a metrics page.
    pub metrics: bool,
    /// Log filter.
    pub log: String,
    /// `human` or `json`.
    pub log_format: String,
}

impl LaunchSpec {
    /// Part of the data that server `id` holds, relative to others: none, if it is a gateway.
    pub fn weight_of(&self, id: u16) -> u32 {
        u32::from(id < self.servers.saturating_sub(self.gateways))
    }

    /// Reads it from a directory.
    pub fn load(dir: &Path) -> Result<LaunchSpec> {
        let path = dir.join(FILE);
        let text = std::fs::read_to_string(&path).map_err(cannot("read", &path))?;
        // The parser's message may quote the text, which holds the secret: only its reason is shown.
        toml::from_str(&text).map_err(|error| {
            CliError::Failed(format!("{} is not a launch file: {}", path.display(), error.message()))
        })
    }

    /// Writes it into a directory.
    pub fn store(&self, dir: &Path) -> Result<()> {
        let path = dir.join(FILE);
        let text = toml::to_string(self).map_err(cannot("write", &path))?;
        place::write_private(&path, text.as_bytes())
    }

    /// The stores of server `id`: one directory under each place.
    pub fn stores_of(&self, id: u16) -> Vec<PathBuf> {
        let own = [place::local_dir(&self.job).join("store")];
        let places = if self.stores.is_empty() { &own[..] } else { &self.stores };
        places.iter().map(|place| place.join(format!("server-{id}"))).collect()
    }

    /// Port that server `id` listens on; 0 takes a free one. Servers of one machine take consecutive ones.
    pub fn port_of(&self, id: u16) -> u16 {
        if self.port == 0 || self.launcher.is_some() { self.port } else { self.port.saturating_add(id) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub fn sample() -> LaunchSpec {
        LaunchSpec {
            name: "t".into(),
            job: "0123456789ab".into(),
            secret: Secret::from_raw([7; 32]),
            rendezvous: "/shared/t".into(),
            exe: "/opt/hayate".into(),
            servers: 2,
            hosts: vec!["a".into(), "b".into()],
            launcher: Some(Launcher::Srun),
            listen: None,
            port: 0,
            stores: vec!["/nvme0".into(), "/nvme1".into()],
            tier: Some("/lustre/x".into()),
            mount: None,
            mount_inside: false,
            passthrough: true,
            gateways: 1,
            client_memory_bytes: 1 << 28,
            options: ServerOptions {
                memory_bytes: 1 << 29,
                kv: "fjall".into(),
                io: "direct".into(),
                durability: "process".into(),
                workers: 0,
                flush_delay_ms: 200,
                flush_bandwidth: Some(1 << 30),
                dirty_max: None,
                capacity: Some(1 << 40),
                tier_check_ms: 2_000,
                deadline_unix_s: None,
                wide_threshold: 10_000,
                inline_bytes: 16_384,
                hot_files: false,
                rdma: "auto".into(),
                metrics: true,
                log: "info".into(),
                log_format: "human".into(),
            },
        }
    }

    #[test]
    fn file_gives_back_what_was_stored() {
        let dir = tempfile::tempdir().unwrap();
        sample().store(dir.path()).unwrap();
        assert_eq!(LaunchSpec::load(dir.path()).unwrap(), sample());
    }

    #[test]
    fn file_of_an_earlier_build_has_mounts_without_passthrough() {
        let dir = tempfile::tempdir().unwrap();
        sample().store(dir.path()).unwrap();
        let path = dir.path().join(FILE);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("passthrough = true\n", "")).unwrap();
        assert_eq!(LaunchSpec::load(dir.path()).unwrap(), LaunchSpec { passthrough: false, ..sample() });
    }

    #[test]
    fn garbage_is_refused_without_quoting_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), "secret = \"beef\"\nname = [").unwrap();
        let message = LaunchSpec::load(dir.path()).unwrap_err().to_string();
        assert!(message.contains(FILE) && !message.contains("beef"), "{message}");
    }

    #[test]
    fn every_server_has_stores_of_its_own() {
        let spec = sample();
        assert_eq!(spec.stores_of(1), [PathBuf::from("/nvme0/server-1"), PathBuf::from("/nvme1/server-1")]);
        let none = LaunchSpec { stores: Vec::new(), ..sample() };
        assert_eq!(none.stores_of(0), [place::local_dir("0123456789ab").join("store/server-0")]);
    }

    #[test]
    fn servers_of_one_machine_take_consecutive_ports() {
        let local = LaunchSpec { launcher: None, port: 7000, ..sample() };
        assert_eq!((local.port_of(0), local.port_of(3)), (7000, 7003));
        assert_eq!(LaunchSpec { port: 7000, ..sample() }.port_of(3), 7000);
        assert_eq!(LaunchSpec { launcher: None, ..sample() }.port_of(3), 0);
    }
}
