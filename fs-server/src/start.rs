//! Starting and ending a server: stores opened and addresses bound first, the cluster joined when all members are known.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fs_net::{Acceptor, Address, ClusterFile, NetError, Rdma, ServerInside};
use fs_proto::{INLINE_MAX, InodeId};

use crate::backing::{self, replaced};
use crate::config::ServerConfig;
use crate::error::{OpError, ServerError};
use crate::flush::Flusher;
use crate::flush::queue::FlushQueue;
use crate::identity;
use crate::inside::Inside;
use crate::kv;
use crate::metrics_page::MetricsPage;
use crate::namespace::Namespace;
use crate::node::{self, Node, NodeParts};
use crate::pools::Pools;
use crate::store::{ChunkStore, StoreError, StoreOptions, devices};
use crate::threads;

/// Threads with connections of their own, besides the workers.
const OTHER_THREADS: usize = 2;

/// Least memory that a server works with, in bytes.
pub const MEMORY_MIN: u64 = 64 << 20;

/// Where a server really listens.
#[derive(Debug, Clone)]
pub struct BoundAddresses {
    /// `host:port`.
    pub tcp: String,
    /// Unix socket.
    pub unix: PathBuf,
    /// `host:port` of the metrics page.
    pub metrics: Option<String>,
}

/// A server that has its stores and addresses, and does not serve yet.
pub struct BoundServer {
    node: Arc<Node>,
    acceptors: Vec<Acceptor>,
    metrics: Option<MetricsPage>,
    addresses: BoundAddresses,
}

/// Opens the stores and binds the addresses.
pub fn bind(config: ServerConfig) -> Result<BoundServer, ServerError> {
    let flusher = Flusher::open(&config)?;
    bind_with(config, flusher)
}

/// As [`bind`], with a flusher to a shared tier of the caller's choice.
pub fn bind_with(config: ServerConfig, flusher: Flusher) -> Result<BoundServer, ServerError> {
    let dir = check_stores(&config.stores)?.to_owned();
    if config.memory_bytes < MEMORY_MIN {
        return Err(ServerError::Config(format!(
            "a server needs at least {} MiB of memory",
            MEMORY_MIN >> 20
        )));
    }
    if config.inline_bytes > INLINE_MAX {
        return Err(ServerError::Config(format!(
            "files of at most {INLINE_MAX} bytes can lie with their inodes (--inline)"
        )));
    }
    config.stores.iter().try_for_each(|store| identity::claim(&config, store))?;
    flusher.claim_tier(&config)?;
    let pools = Pools::new(config.memory_bytes, !overcommit_is_strict());
    let rdma =
        Rdma::new(config.rdma.clone(), pools.registrable_bytes(), config.worker_count() + OTHER_THREADS);
    rdma.open_and_tell();
    let kv = kv::open(config.kv, &dir.join("namespace"), pools.metadata_bytes)?;
    let options = StoreOptions {
        index_bytes: pools.index_bytes,
        crc_cache_bytes: pools.checksum_bytes,
        io: config.io,
        capacity_bytes: config.capacity,
        ..StoreOptions::default()
    };
    let chunk_dirs: Vec<_> = config.stores.iter().map(|store| store.join("chunks")).collect();
    let chunks = devices::open(&chunk_dirs, &kv, &options).map_err(|e| store_failure(&dir, e))?;
    let delay = Duration::from_millis(config.flush_delay_ms);
    let queue = Arc::new(FlushQueue::open(Arc::clone(&kv), flusher.has_tier(), delay)?);
    let namespace = Namespace::open(kv, config.id, pools.inode_bytes, &pools.hot_files, queue)
        .map_err(namespace_failure)?;
    namespace.count_inodes().map_err(namespace_failure)?;
    let replaced = replaced::since(&namespace, config.rejoins, node::now()).map_err(namespace_failure)?;

    let tcp = listen(&Address::Tcp(config.listen_tcp.clone()))?;
    let unix = listen(&Address::Unix(config.listen_unix.clone()))?;
    let metrics = config.listen_metrics.as_deref().map(MetricsPage::bind).transpose()?;
    let addresses = BoundAddresses {
        tcp: match tcp.address() {
            Address::Tcp(address) => address.clone(),
            Address::Unix(_) => config.listen_tcp.clone(),
        },
        unix: config.listen_unix.clone(),
        metrics: metrics.as_ref().map(MetricsPage::address),
    };
    let store = Arc::new(chunks);
    let node = Arc::new(Node::new(NodeParts { config, namespace, store, flusher, pools, rdma, replaced }));
    Ok(BoundServer { node, acceptors: vec![tcp, unix], metrics, addresses })
}

/// Whether the kernel counts every page before it gives it. Then memory that a client punched holes into might be missing when the server
/// touches it, which would end the server.
fn overcommit_is_strict() -> bool {
    std::fs::read_to_string("/proc/sys/vm/overcommit_memory").is_ok_and(|mode| mode.trim() == "2")
}

/// The first directory, which holds the namespace. All must be directories of their own.
fn check_stores(stores: &[PathBuf]) -> Result<&Path, ServerError> {
    let Some(first) = stores.first() else {
        return Err(ServerError::Config("a server needs a store directory (--store)".to_owned()));
    };
    if stores.len() > devices::MAX_DEVICES {
        return Err(ServerError::Config(format!(
            "a server takes at most {} store directories",
            devices::MAX_DEVICES
        )));
    }
    for (number, store) in stores.iter().enumerate() {
        if let Some(other) = stores[..number].iter().find(|o| store.starts_with(o) || o.starts_with(store)) {
            return Err(ServerError::Store {
                path: store.clone(),
                reason: format!(
                    "lies in or around {}: give each device a directory of its own",
                    other.display()
                ),
            });
        }
    }
    Ok(first)
}

fn store_failure(dir: &Path, error: StoreError) -> ServerError {
    ServerError::Store { path: dir.to_owned(), reason: error.to_string() }
}

fn namespace_failure(error: OpError) -> ServerError {
    ServerError::Config(format!("the namespace store cannot be read: {}", error.message))
}

fn listen(address: &Address) -> Result<Acceptor, ServerError> {
    Acceptor::bind(address).map_err(|error: NetError| ServerError::Listen {
        address: address.to_string(),
        reason: match error {
            NetError::InUse { reason, .. } => reason,
            NetError::Listen { source, .. } => source.to_string(),
            other => other.to_string(),
        },
    })
}

impl BoundServer {
    /// Where the server listens.
    pub fn addresses(&self) -> BoundAddresses {
        self.addresses.clone()
    }

    /// The server, for clients within this process.
    pub fn inside(&self) -> Arc<dyn ServerInside> {
        Arc::new(Inside::new(&self.node))
    }

    /// Serves until SIGTERM, SIGINT or a shutdown request.
    pub fn serve(self, cluster: ClusterFile) -> Result<(), ServerError> {
        self.serve_with(cluster, || ())
    }

    /// As [`BoundServer::serve`]; `before_end` is called when the end was asked for, and after a signal the server still answers meanwhile.
    pub fn serve_with(
        self,
        cluster: ClusterFile,
        before_end: impl FnOnce() + Send + 'static,
    ) -> Result<(), ServerError> {
        let node = self.node;
        let map = cluster.map().map_err(|error| ServerError::Cluster(error.to_string()))?;
        if cluster.job != node.config.job || cluster.member(node.id()).is_none() {
            return Err(ServerError::Cluster(format!(
                "it does not name {:?} of job {}",
                node.id(),
                node.config.job
            )));
        }
        node.join(cluster, map);
        if node.owns(InodeId::ROOT.partition()) {
            let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
            let in_tier = node.flusher.has_tier();
            node.namespace.ensure_root(uid, gid, node.now(), in_tier).map_err(namespace_failure)?;
        }
        backing::migrate::resume(&node).map_err(namespace_failure)?;
        node.locks.recover(&node.namespace, Instant::now()).map_err(namespace_failure)?;
        tracing::info!(server = node.id().0, tcp = %self.addresses.tcp, "serving");
        let outcome = threads::run(&node, self.acceptors, self.metrics, before_end);
        finish(node, &self.addresses);
        outcome
    }
}

/// The last things: what is promised to be there after a clean end is on the device.
fn finish(node: Arc<Node>, addresses: &BoundAddresses) {
    // A socket file that is gone already is as good.
    let _ = std::fs::remove_file(&addresses.unix);
    if node.is_discarded() {
        let dirs = node.store_dirs().to_vec();
        // Closed first: the namespace store's own files are removed by it, and missed with a warning.
        drop(node);
        for dir in dirs {
            if let Err(error) = std::fs::remove_dir_all(&dir) {
                tracing::error!(dir = %dir.display(), %error, "the store could not be deleted; delete it by hand");
            }
        }
        return;
    }
    if let Err(error) = node.store.sync() {
        tracing::error!(%error, "chunks could not be synced to the device at the end");
    }
    if let Err(error) = node.namespace.kv().sync() {
        tracing::error!(%error, "the namespace could not be synced to the device at the end");
    }
    tracing::info!(server = node.id().0, "ended");
}
