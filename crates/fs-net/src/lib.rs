//! How servers, clients and tools of Hayate reach each other: addresses, the cluster file, handshakes, connections, buffers.
//!
//! Everything that touches a connection lives on one `current_thread` runtime, as its local tasks, and is not `Send`: a request
//! never changes threads. What threads share is the [`BufferPool`], the [`NetCounters`] and the [`Acceptor`], which hands
//! sockets to the threads.
//!
//! | module | what |
//! |---|---|
//! | [`address`] | where a server listens |
//! | [`secret`] | what proves that a peer belongs to the job |
//! | [`cluster`] | the small file that names a cluster |
//! | [`budget`] | memory counted before it is used, given to peers by turns |
//! | [`pool`] | bulk buffers within a fixed budget |
//! | [`counters`] | what was sent and received |
//! | [`connection`] | the asking side: many calls on one connection |
//! | [`peers`] | connections to servers by number |
//! | [`acceptor`] | listeners |
//! | [`serve`] | the answering side |
//! | `landing` | where answers that are passed on are received |
//! | `inside` | a server within its client's process |
//! | `shm` | sessions over shared memory on one node |
//! | `rdma` | sessions over RDMA verbs |
//!
//! Connections stand on a small private port, `transport`: byte streams, shared memory and RDMA are its adapters.
//!
//! Deliberately absent: retries and routing (fs-client and fs-server decide), the meaning of messages, threads and runtimes.

pub mod acceptor;
pub mod address;
pub mod budget;
pub mod cluster;
pub mod connection;
pub mod counters;
mod env;
pub mod error;
pub mod frame;
mod handshake;
mod inside;
mod landing;
pub mod peers;
pub mod pool;
mod rdma;
pub mod secret;
mod send_queue;
pub mod serve;
mod shm;
#[cfg(test)]
#[path = "../../../tests/src/skip.rs"]
mod skip;
mod stream;
mod transport;

pub use acceptor::{Accepted, Acceptor, CONNECTION_BYTES, Socket};
pub use address::Address;
pub use budget::{Account, Budget, BufferClass, Charge, PoolStats};
pub use cluster::{ClusterError, ClusterEvent, ClusterFile, MemberEntry, default_cluster_path, host_name};
pub use connection::Connection;
pub use counters::NetCounters;
pub use env::{Identity, NetEnv, SPIN_DEFAULT, STALL_DEFAULT, Sharing};
pub use error::NetError;
pub use frame::Frame;
pub use inside::ServerInside;
pub use peers::Peers;
pub use pool::{BufferPool, LARGEST_BUFFER, PoolBuffer, TooLarge};
pub use rdma::{Rdma, RdmaChoice, RdmaPort, RdmaStats};
pub use secret::Secret;
pub use serve::{
    Handled, Handler, MAX_RUNNING, PeerInfo, Reply, ServerIdentity, close_idle_connections, serve_connection,
};
pub use shm::{Lending, ShareBudget, ShareStats};
