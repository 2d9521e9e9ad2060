//! What the connections of a process share, and who they speak for.

use crate::counters::NetCounters;
use crate::pool::BufferPool;
use crate::secret::Secret;
use fs_proto::msg::session::Role;
use std::sync::Arc;

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
    /// What was sent and received.
    pub counters: Arc<NetCounters>,
}

impl NetEnv {
    /// An environment with a pool of `pool_bytes` (see [`BufferPool::new`]) and counters at zero.
    pub fn new(pool_bytes: usize) -> NetEnv {
        NetEnv { pool: BufferPool::new(pool_bytes), counters: Arc::default() }
    }
}
