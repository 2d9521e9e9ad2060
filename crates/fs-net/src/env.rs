//! What the connections of a process share, and who they speak for.

use crate::budget::Budget;
use crate::counters::NetCounters;
use crate::pool::BufferPool;
use crate::rdma::Rdma;
use crate::secret::Secret;
use crate::shm::ShareBudget;
use fs_proto::msg::session::Role;
use std::sync::Arc;
use std::time::Duration;

/// Who this process is to the servers that it connects to.
#[derive(Debug, Clone)]
pub struct Identity {
    /// A client, or a server with its number.
    pub role: Role,
    /// Job that the servers must belong to.
    pub job: String,
    /// The job's secret.
    pub secret: Secret,
}

/// What the connections of a process share. Cheap to clone.
#[derive(Debug, Clone)]
pub struct NetEnv {
    /// Where large bulk parts are received into.
    pub pool: BufferPool,
    /// Small requests that wait, and answers that nobody has read yet.
    pub messages: Budget,
    /// Connections that were accepted.
    pub connections: Budget,
    /// A peer that owes the rest of a message, or has answers to read, and moves no byte for this long (up to twice) is cut off.
    pub stall: Duration,
    /// What was sent and received.
    pub counters: Arc<NetCounters>,
    /// Shared memory between a server and the clients of its node.
    pub sharing: Sharing,
    /// How long a side of such a connection looks for a message before it sleeps, now and then ten times as long; it learns whether that pays.
    pub spin: Duration,
    /// RDMA with peers on other nodes.
    pub rdma: Arc<Rdma>,
}

/// What [`NetEnv::spin`] is unless said otherwise: measured, see docs/performance.md.
pub const SPIN_DEFAULT: Duration = Duration::from_micros(10);

/// What [`NetEnv::stall`] is unless said otherwise.
pub const STALL_DEFAULT: Duration = Duration::from_secs(30);

/// What this process does about shared memory on connections over Unix sockets.
#[derive(Debug, Clone, Default)]
pub enum Sharing {
    /// Neither asks nor gives.
    #[default]
    Never,
    /// A client: asks, and goes on over the socket if there is none.
    Ask,
    /// A client: asks, and does not connect to a server of this node without.
    Insist,
    /// A server: gives, within a budget.
    Grant(Arc<ShareBudget>),
}

impl NetEnv {
    /// An environment with a pool of `pool_bytes` (see [`BufferPool::new`]) and counters at zero, without shared memory and RDMA.
    pub fn new(pool_bytes: usize) -> NetEnv {
        NetEnv {
            pool: BufferPool::new(pool_bytes),
            messages: Budget::for_messages(pool_bytes),
            connections: Budget::for_connections(pool_bytes),
            stall: STALL_DEFAULT,
            counters: Arc::default(),
            sharing: Sharing::Never,
            spin: SPIN_DEFAULT,
            rdma: Arc::default(),
        }
    }
}
