//! What a server is started with.

use std::path::PathBuf;
use std::str::FromStr;

use fs_net::{RdmaChoice, Secret};
use fs_proto::ServerId;
use fs_proto::msg::inode::LEASE_MS;

pub use crate::kv::KvKind;
pub use crate::store::IoMode;

/// What survives when an fsync'd or closed file was promised to be safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Every process may be killed: bytes are with the operating system when a write is answered.
    Process,
    /// Power may fail: fsync waits for the device.
    Device,
}

impl FromStr for Durability {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "process" => Ok(Durability::Process),
            "device" => Ok(Durability::Device),
            other => Err(format!("durability is `process` or `device`, not `{other}`")),
        }
    }
}

impl std::fmt::Display for Durability {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Durability::Process => "process",
            Durability::Device => "device",
        })
    }
}

/// Everything that a server needs before it knows its peers.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Number within the cluster.
    pub id: ServerId,
    /// Job (cluster) id: a store belongs to one.
    pub job: String,
    /// The job's secret.
    pub secret: Secret,
    /// Directories for metadata (the first) and chunks (all): one a device.
    pub stores: Vec<PathBuf>,
    /// `host:port` to listen on; port 0 takes a free one.
    pub listen_tcp: String,
    /// Unix socket to listen on.
    pub listen_unix: PathBuf,
    /// `host:port` of the metrics page, if wanted.
    pub listen_metrics: Option<String>,
    /// Memory budget in bytes.
    pub memory_bytes: u64,
    /// Engine of the namespace.
    pub kv: KvKind,
    /// How chunks are read and written.
    pub io: IoMode,
    /// What fsync promises.
    pub durability: Durability,
    /// Threads that serve connections; 0 takes one per CPU, at most 8.
    pub workers: usize,
    /// Directory of the shared tier.
    pub tier: Option<PathBuf>,
    /// How long a closed file rests before it is flushed, so that write-then-rename flushes once.
    pub flush_delay_ms: u64,
    /// Most bytes a second that this server writes to the shared tier; None: as many as go.
    pub flush_bandwidth: Option<u64>,
    /// Bytes that may wait for being flushed before making and closing files waits; None: any number.
    pub dirty_max: Option<u64>,
    /// When everything has to be in the shared tier, in seconds since 1970.
    pub deadline_unix_s: Option<u64>,
    /// Age in milliseconds of the last look at a file's copy in the shared tier from which on opening it looks again.
    pub tier_check_ms: u64,
    /// Most bytes of chunks on each device; None: as many as its file system takes.
    pub capacity: Option<u64>,
    /// Whether the server has been part of its cluster before: a store that is new then has taken the place of one that was lost.
    pub rejoins: bool,
    /// Entries above which a directory becomes wide.
    pub wide_threshold: u64,
    /// Largest file in bytes that lies with its inode, at most [`fs_proto::INLINE_MAX`]; 0: none.
    pub inline_bytes: u32,
    /// Whether files that many nodes read are kept by their servers and passed on (`hot/`).
    pub hot_files: bool,
    /// How long a client may be silent before what it locked is given to others, in milliseconds.
    pub lock_lease_ms: u32,
    /// How long a client or node may be silent before what it has open counts as closed, in milliseconds. Clients renew three times in [`LEASE_MS`], so less is
    /// for tests.
    pub open_lease_ms: u32,
    /// RDMA devices for connections to and from other nodes.
    pub rdma: RdmaChoice,
    /// Commit that the program was built from: figures of a server belong to it.
    pub commit: &'static str,
}

/// What `lock_lease_ms` is unless said otherwise: `docs/decisions/0013-locks.md`.
pub const LOCK_LEASE_DEFAULT_MS: u32 = 30_000;

/// What `inline_bytes` is unless said otherwise: measured, see `docs/decisions/0009-inline-small-files.md`.
pub const INLINE_DEFAULT: u32 = 16 << 10;

impl ServerConfig {
    /// A server with defaults for everything but its identity and place.
    pub fn new(id: ServerId, job: String, secret: Secret, store: PathBuf) -> Self {
        let listen_unix = store.join("server.sock");
        ServerConfig {
            id,
            job,
            secret,
            stores: vec![store],
            listen_tcp: "127.0.0.1:0".to_owned(),
            listen_unix,
            listen_metrics: None,
            memory_bytes: 512 << 20,
            kv: KvKind::Fjall,
            io: IoMode::default(),
            durability: Durability::Process,
            workers: 0,
            tier: None,
            flush_delay_ms: 200,
            flush_bandwidth: None,
            dirty_max: None,
            deadline_unix_s: None,
            tier_check_ms: 2_000,
            capacity: None,
            rejoins: false,
            wide_threshold: 10_000,
            inline_bytes: INLINE_DEFAULT,
            hot_files: true,
            lock_lease_ms: LOCK_LEASE_DEFAULT_MS,
            open_lease_ms: LEASE_MS,
            rdma: RdmaChoice::Auto,
            commit: "unknown",
        }
    }

    /// Threads to serve with.
    pub fn worker_count(&self) -> usize {
        match self.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from).min(8),
            n => n,
        }
    }
}
