//! How a client reaches its cluster, and how files are opened.

use fs_net::{ClusterFile, ServerInside};
use fs_proto::{LayoutWish, ServerId};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};

/// Which server a request is sent to first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Route {
    /// The owner's Unix socket if it runs on this host, else a server of this host, which forwards; without one, the
    /// owner over TCP.
    #[default]
    Auto,
    /// Always this server, which forwards what is not its own.
    Gateway(ServerId),
    /// Always the owner.
    Owners,
}

/// How messages reach servers of the same node. Other nodes are reached by RDMA if both sides have it, else by TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transport {
    /// Shared memory if the server has some to give, else its Unix socket.
    #[default]
    Auto,
    /// Shared memory, or not at all.
    Shm,
    /// The Unix socket.
    Unix,
    /// RDMA or TCP, as from another node.
    Tcp,
}

impl FromStr for Transport {
    type Err = String;
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "auto" => Ok(Transport::Auto),
            "shm" => Ok(Transport::Shm),
            "unix" => Ok(Transport::Unix),
            "tcp" => Ok(Transport::Tcp),
            other => Err(format!("a transport is auto, shm, unix or tcp, not `{other}`")),
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Transport::Auto => "auto",
            Transport::Shm => "shm",
            Transport::Unix => "unix",
            Transport::Tcp => "tcp",
        })
    }
}

/// Variable of the environment that [`ClientConfig::load`] takes the transport from.
pub const TRANSPORT_VARIABLE: &str = "HAYATE_TRANSPORT";

/// Variable of the environment that [`ClientConfig::load`] takes a server's number from: [`Route::Gateway`].
pub const GATEWAY_VARIABLE: &str = "HAYATE_GATEWAY";

/// What a client needs to know, with defaults for all but the cluster.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// The cluster's servers and secret.
    pub cluster: ClusterFile,
    /// Where `cluster` was read from: read again when a server says that the members changed.
    pub cluster_path: Option<PathBuf>,
    /// See [`Route`].
    pub route: Route,
    /// See [`Transport`].
    pub transport: Transport,
    /// How long attributes are trusted by path operations, and sizes by reads. Zero asks every time. Default 1 s.
    pub attr_ttl: Duration,
    /// How long names are trusted by path operations. Zero asks every time. Default 1 s.
    pub entry_ttl: Duration,
    /// How long an operation is retried while a server is away. Default 60 s.
    pub timeout: Duration,
    /// Bytes for buffers, caches and open files together. Default 256 MiB.
    pub memory_bytes: usize,
    /// A server in this process: what it can answer at once is carried out by the thread that asks. Default none.
    pub inside: Option<Arc<dyn ServerInside>>,
    /// The kernel has checked the callers' permissions (mounts with `default_permissions`). Default false.
    pub checked: bool,
}

impl ClientConfig {
    /// Defaults for `cluster`.
    pub fn new(cluster: ClusterFile) -> Self {
        ClientConfig {
            cluster,
            cluster_path: None,
            route: Route::Auto,
            transport: Transport::default(),
            attr_ttl: Duration::from_secs(1),
            entry_ttl: Duration::from_secs(1),
            timeout: Duration::from_secs(60),
            memory_bytes: 256 << 20,
            inside: None,
            checked: false,
        }
    }

    /// Defaults for the cluster whose file is `path`; the file is read again when members change. The environment's `HAYATE_TRANSPORT`
    /// (auto, shm, unix or tcp) chooses the transport, and `HAYATE_GATEWAY` (a server's number) the one server that everything goes through.
    ///
    /// # Errors
    /// [`Error::Cluster`] if the file is missing, damaged or open to others.
    pub fn load(path: &Path) -> Result<Self> {
        let cluster = ClusterFile::load(path).map_err(|e| Error::Cluster(e.to_string()))?;
        let mut config = ClientConfig { cluster_path: Some(path.to_owned()), ..ClientConfig::new(cluster) };
        if let Ok(text) = std::env::var(TRANSPORT_VARIABLE) {
            config.transport =
                text.parse().map_err(|e| Error::Cluster(format!("{TRANSPORT_VARIABLE}: {e}")))?;
        }
        if let Ok(text) = std::env::var(GATEWAY_VARIABLE) {
            let number = text.parse().map_err(|_| {
                Error::Cluster(format!("{GATEWAY_VARIABLE}: it is the number of a server, not `{text}`"))
            })?;
            config.route = Route::Gateway(ServerId(number));
        }
        Ok(config)
    }
}

/// What an open file may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(clippy::struct_excessive_bools)] // Independent switches, as in open(2).
pub struct OpenFlags {
    /// Reading.
    pub read: bool,
    /// Writing.
    pub write: bool,
    /// Writing at the end only (implies `write`). `write_at` still writes where it is told to: see [`crate::File::append`].
    pub append: bool,
    /// Cut to zero bytes when opened (needs `write`).
    pub truncate: bool,
}

impl OpenFlags {
    /// For reading only.
    pub const READ: OpenFlags = OpenFlags { read: true, write: false, append: false, truncate: false };
    /// For writing only.
    pub const WRITE: OpenFlags = OpenFlags { read: false, write: true, append: false, truncate: false };
    /// For both.
    pub const READ_WRITE: OpenFlags = OpenFlags { read: true, write: true, append: false, truncate: false };

    /// Whether it may be written.
    pub fn writes(self) -> bool {
        self.write || self.append
    }
}

/// Whether the content of a small file comes with its opening for reading, to be read once within [`ClientConfig::attr_ttl`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bring {
    /// Yes: opening and reading are one message.
    Content,
    /// Unless it is of this version ([`fs_proto::Attr::version`]), which is at hand already.
    Unless(u64),
    /// No: every read shall ask.
    Nothing,
}

/// How [`crate::Client::open_path`] opens, as in the standard library: `read`, `write`, `create` and so on, all off at first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // Independent switches, as in open(2).
pub struct OpenOptions {
    /// Reading.
    pub read: bool,
    /// Writing.
    pub write: bool,
    /// Make the file if it does not exist.
    pub create: bool,
    /// Make the file, and fail if it exists.
    pub create_new: bool,
    /// Cut to zero bytes.
    pub truncate: bool,
    /// Writing at the end.
    pub append: bool,
    /// Permission bits of a new file, umask already applied.
    pub mode: u32,
    /// Layout of a new file, if not its directory's, or how large it will become. A file that was there keeps its own.
    pub layout: Option<LayoutWish>,
}

impl Default for OpenOptions {
    fn default() -> Self {
        OpenOptions {
            read: false,
            write: false,
            create: false,
            create_new: false,
            truncate: false,
            append: false,
            mode: 0o644,
            layout: None,
        }
    }
}

impl OpenOptions {
    /// For reading.
    pub fn read_only() -> Self {
        OpenOptions { read: true, ..Self::default() }
    }

    /// For writing a new or emptied file.
    pub fn create_truncate() -> Self {
        OpenOptions { write: true, create: true, truncate: true, ..Self::default() }
    }

    pub(crate) fn flags(self) -> OpenFlags {
        OpenFlags { read: self.read, write: self.write, append: self.append, truncate: self.truncate }
    }

    pub(crate) fn creates(self) -> bool {
        self.create || self.create_new
    }
}
