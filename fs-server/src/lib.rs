//! The Hayate server: one per compute node. Holds a part of the namespace and of the chunks, serves clients, forwards what belongs to
//! other servers, and flushes to the shared tier.
//!
//! The life of a request: `worker` (admit, route) -> `dispatch` (decode) -> `ops` (check, plan) -> `namespace` or `transaction`
//! (commit), or `store` (chunks) -> reply.
//!
//! Deliberately absent: anything that only clients need (caches, paths, retries), FUSE, and command-line handling.

mod backing;
mod boot;
pub mod config;
mod departed;
mod dispatch;
pub mod errands;
mod error;
mod executions;
pub mod flush;
mod hash;
mod hot;
mod identity;
mod inherited;
mod inside;
pub mod kv;
mod locks;
pub mod metrics;
mod metrics_page;
pub mod namespace;
pub mod node;
mod opened;
mod opens;
mod ops;
mod overflow;
mod pointers;
pub mod pools;
mod reaper;
mod sizes;
#[cfg(test)]
#[path = "../../tests/src/skip.rs"]
mod skip;
mod space;
mod start;
pub mod store;
mod sync;
mod threads;
pub mod tier;
mod transaction;
mod vault;
mod widen;
mod worker;

pub use config::{Durability, KvKind, ServerConfig};
pub use error::ServerError;
pub use start::{BoundAddresses, BoundServer, bind, bind_with};
