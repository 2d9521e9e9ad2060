//! The state of one server, shared by its worker threads.
//!
//! Each field has its own lock or none; no two are taken together except as the namespace's lock table orders them.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fs_net::{ClusterFile, NetCounters, Rdma, ShareStats, Sharing};
use fs_proto::msg::inode::LEASE_MS;
use fs_proto::{Partition, PartitionMap, ServerId, TimeNs};
use tokio::sync::watch;

use crate::backing::Backing;
use crate::config::{Durability, ServerConfig};
use crate::departed::Departed;
use crate::errands::Errands;
use crate::executions::Executions;
use crate::flush::Flusher;
use crate::hot::Hot;
use crate::hot::copies::Copies;
use crate::locks::LockTable;
use crate::metrics::OpCounters;
use crate::namespace::Namespace;
use crate::opened::Opened;
use crate::opens::OpenTable;
use crate::overflow::Overflow;
use crate::pointers::Pointers;
use crate::pools::Pools;
use crate::sizes::PendingSizes;
use crate::space::Space;
use crate::store::{Devices, IoMode};
use crate::sync::GroupSync;
use crate::transaction::Transactions;
use crate::vault::Vault;

/// One server.
pub struct Node {
    /// What it was started with.
    pub config: ServerConfig,
    /// Names and inodes.
    pub namespace: Namespace,
    /// Chunks.
    pub store: Arc<Devices>,
    /// What clients have open of what lives here.
    pub opens: OpenTable,
    /// What clients of this node have open of what lives elsewhere.
    pub opened: Opened,
    /// Where chunks in layout `writer` are.
    pub pointers: Pointers,
    /// Objects outside of the namespace.
    pub vault: Vault,
    /// How far writes reached that are not published yet.
    pub sizes: PendingSizes,
    /// Locks of files that live here.
    pub locks: LockTable,
    /// Clients of this node that lock, to be missed when their process ends.
    pub departed: Departed,
    /// Transactions between servers.
    pub transactions: Transactions,
    /// Copies in the shared tier.
    pub flusher: Flusher,
    /// Work that outlives its request.
    pub errands: Errands,
    /// What is only in the shared tier.
    pub backing: Backing,
    /// Chunks that other servers keep for this one.
    pub overflow: Overflow,
    /// Files that many nodes read.
    pub hot: Hot,
    /// Copies of some of them that lie whole on this node.
    pub copies: Copies,
    /// What was asked, how often and for how long.
    pub counters: OpCounters,
    /// Messages, bytes and system calls of connections.
    pub net: Arc<NetCounters>,
    /// Its memory.
    pub pools: Pools,
    /// The cluster's epoch.
    pub epoch: Arc<AtomicU64>,
    /// RDMA with other nodes.
    pub rdma: Arc<Rdma>,
    /// When it started.
    pub started: Instant,
    /// Cuts of chunks that were interrupted and are not done yet, about: 0 only if there are none.
    pub unfinished_cuts: AtomicU64,
    /// Shared syncs of the device.
    pub group_sync: GroupSync,
    /// Room for names and contents of small files.
    pub space: Space,
    cluster: OnceLock<(ClusterFile, PartitionMap)>,
    /// Requests that run, or were sent again.
    pub executions: Executions,
    stop: watch::Sender<bool>,
    discard: AtomicBool,
}

/// The parts that a node is made of.
pub struct NodeParts {
    /// What it was started with.
    pub config: ServerConfig,
    /// Names and inodes.
    pub namespace: Namespace,
    /// Chunks.
    pub store: Arc<Devices>,
    /// Copies in the shared tier.
    pub flusher: Flusher,
    /// Its memory.
    pub pools: Pools,
    /// RDMA with other nodes.
    pub rdma: Rdma,
    /// When the store was made, if it has taken the place of another.
    pub replaced: Option<TimeNs>,
}

impl Node {
    /// Figures of the memory shared with clients of this node.
    pub fn share_stats(&self) -> ShareStats {
        match &self.pools.sharing {
            Sharing::Grant(budget) => budget.stats(),
            Sharing::Never | Sharing::Ask | Sharing::Insist => ShareStats::default(),
        }
    }

    /// A node that does not know its cluster yet.
    pub fn new(parts: NodeParts) -> Self {
        let lease = Duration::from_millis(u64::from(parts.config.lock_lease_ms));
        let open_lease = Duration::from_millis(u64::from(parts.config.open_lease_ms));
        let hot = Hot::open(&**parts.namespace.kv(), parts.pools.hot_files.clone(), parts.config.hot_files);
        if let Some(until) = hot.grants.inherited_until() {
            parts.namespace.locks().loans().inherit(until);
        }
        let is_restart = parts.namespace.allocator().is_restart() || parts.replaced.is_some();
        Node {
            errands: Errands::default(),
            space: Space::of(parts.config.stores.first().map_or(Path::new("."), PathBuf::as_path))
                .beside(Arc::clone(parts.namespace.kv())),
            backing: Backing::open(&**parts.namespace.kv(), parts.flusher.has_tier(), parts.replaced),
            overflow: Overflow::open(&**parts.namespace.kv()),
            hot,
            copies: Copies::open(parts.config.stores.first().map_or(Path::new("."), PathBuf::as_path)),
            namespace: parts.namespace,
            store: parts.store,
            opens: OpenTable::new(parts.pools.open_files.clone(), open_lease),
            opened: Opened::new(
                parts.config.id,
                session(),
                parts.pools.open_files.clone(),
                open_lease,
                is_restart,
            ),
            config: parts.config,
            pointers: Pointers::default(),
            vault: Vault::default(),
            sizes: PendingSizes::default(),
            locks: LockTable::new(session(), lease),
            departed: Departed::default(),
            transactions: Transactions::default(),
            flusher: parts.flusher,
            counters: OpCounters::default(),
            net: Arc::default(),
            pools: parts.pools,
            rdma: Arc::new(parts.rdma),
            epoch: Arc::new(AtomicU64::new(0)),
            started: Instant::now(),
            // Until it is known (`setattr::finish_cuts`).
            unfinished_cuts: AtomicU64::new(1),
            group_sync: GroupSync::default(),
            cluster: OnceLock::new(),
            executions: Executions::default(),
            stop: watch::Sender::new(false),
            discard: AtomicBool::new(false),
        }
    }

    /// Tells the node its cluster; once.
    pub fn join(&self, cluster: ClusterFile, map: PartitionMap) {
        self.epoch.store(map.epoch(), Ordering::Release);
        let first = self.cluster.set((cluster, map)).is_ok();
        debug_assert!(first, "a node joins once");
    }

    /// This server's number.
    pub fn id(&self) -> ServerId {
        self.config.id
    }

    /// The cluster file in force.
    pub fn cluster(&self) -> &ClusterFile {
        &self.cluster.get().expect("requests are served after joining").0
    }

    /// The partition map in force.
    pub fn map(&self) -> &PartitionMap {
        &self.cluster.get().expect("requests are served after joining").1
    }

    /// Whether it is part of its cluster yet.
    pub fn has_joined(&self) -> bool {
        self.cluster.get().is_some()
    }

    /// Who owns a partition.
    pub fn owner(&self, partition: Partition) -> ServerId {
        self.map().owner(partition)
    }

    /// Whether this server owns a partition.
    pub fn owns(&self, partition: Partition) -> bool {
        self.owner(partition) == self.id()
    }

    /// Whether this home may not know yet who writes, as it was restarted: clients renew what they have open three times a lease.
    pub fn is_forgetful(&self) -> bool {
        let known_after = Duration::from_millis(u64::from(LEASE_MS / 3));
        self.namespace.allocator().is_restart() && self.started.elapsed() < known_after
    }

    /// All servers, pure gateways included.
    pub fn members(&self) -> Vec<ServerId> {
        self.map().members().iter().map(|member| member.id).collect()
    }

    /// Servers that hold partitions, ascending.
    pub fn stores(&self) -> Vec<ServerId> {
        let mut ids: Vec<_> = self.map().members().iter().filter(|m| m.weight > 0).map(|m| m.id).collect();
        ids.sort_unstable();
        ids
    }

    /// Now.
    pub fn now(&self) -> TimeNs {
        now()
    }

    /// Whether fsync waits for the device.
    pub fn syncs_device(&self) -> bool {
        self.config.durability == Durability::Device
    }

    /// Whether copies are synced before they appear in the shared tier. Where another machine keeps it they are not in it before.
    pub fn syncs_tier(&self) -> bool {
        self.syncs_device() || self.flusher.is_remote()
    }

    /// How each device is really read and written.
    pub fn io_modes(&self) -> Vec<String> {
        let mode = |direct| if direct { IoMode::Direct } else { IoMode::Buffered };
        self.store.stores().iter().map(|store| mode(store.is_direct()).to_string()).collect()
    }

    /// Whether chunks of some device are read past the page cache.
    pub fn reads_directly(&self) -> bool {
        self.store.stores().iter().any(|store| store.is_direct())
    }

    /// The namespace's directory and the chunks'.
    pub fn store_dirs(&self) -> &[PathBuf] {
        &self.config.stores
    }

    /// Asks the server to end; `discard` deletes its store.
    pub fn request_stop(&self, discard: bool) {
        if discard {
            self.discard.store(true, Ordering::Release);
        }
        self.stop.send_replace(true);
    }

    /// Whether the store is to be deleted at the end.
    pub fn is_discarded(&self) -> bool {
        self.discard.load(Ordering::Acquire)
    }

    /// Waits for the request to end.
    pub async fn stopped(&self) {
        let mut stop = self.stop.subscribe();
        // The sender lives as long as `self`: waiting cannot fail.
        let _ = stop.wait_for(|stop| *stop).await;
    }

    /// Whether the server is asked to end.
    pub fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }
}

/// Now.
pub fn now() -> TimeNs {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |past| past.as_nanos() as TimeNs)
}

/// A number of this run of the server: later runs have others.
fn session() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (since.as_nanos() as u64).max(1)
}
