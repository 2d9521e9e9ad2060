//! The client library of Hayate: files, directories and administration of a cluster.
//!
//! [`Client`] blocks and may be used from any thread. [`aio::Core`] is the same for programs that run an event loop of
//! their own; it holds the logic, the blocking side only waits for it.
//!
//! | module | what |
//! |---|---|
//! | [`config`] | how to reach a cluster, and how a file is opened |
//! | [`error`] | what can go wrong, as an errno and in words |
//! | [`client`] | the blocking interface: by inode number, by path, for operators |
//! | [`file`] | an open file |
//! | [`aio`] | the asynchronous core: retries, striping, wide directories, path walks, whole small files |
//! | `lane` | a thread's event loop and connections |
//! | `router` | which server a request is sent to |
//! | `open_table` | what this process has open, and what it wrote but did not publish |
//! | `kept` | contents of small files that came with their opening |
//! | `locks` | what this process has locked |
//! | `cache` | names and attributes remembered for path operations |
//! | `housekeeper` | the thread that publishes, releases and renews in the background |
//! | `stripe`, `data_map`, `dir_merge`, `path` | pure parts: ranges to chunks, data and holes, pages of wide directories, path components |
//!
//! # Invariants
//! - A mutation keeps its (client, sequence) however often it is sent (`tests/fake/retry.rs`).
//! - What `write_at` returned for lies at the servers; its size is published at flush, sync and close, and meanwhile the
//!   file's home can ask for it.
//! - A small file's content that came with its opening is trusted as long as attributes are ([`ClientConfig::attr_ttl`]), and read once.
//! - Memory for buffers, caches and open files is bounded by [`ClientConfig::memory_bytes`].
//!
//! Deliberately absent: a cache of file data (the kernel has one above a mount, and servers one below).

pub mod aio;
mod backoff;
mod cache;
pub mod client;
pub mod config;
mod data_map;
mod dir_merge;
pub mod error;
pub mod file;
mod housekeeper;
mod kept;
mod lane;
mod locks;
mod open_inode;
mod open_table;
mod path;
mod router;
mod shared;
mod stripe;
mod window;

pub use client::{Client, Held, Kept, Located, ReadDir, Spot};
pub use config::{
    Bring, ClientConfig, GATEWAY_VARIABLE, OpenFlags, OpenOptions, Route, TRANSPORT_VARIABLE, Transport,
};
pub use error::{Error, LockFailure, Result};
pub use file::File;
pub use locks::{LockWish, Locked};

pub use fs_net::{ClusterFile, NetCounters, ServerInside, default_cluster_path};
pub use fs_proto::lock::{HeldLock, LOCK_END, LockFamily, LockKind, LockOwner, LockRange};
pub use fs_proto::msg::Caller;
pub use fs_proto::msg::admin::ShutdownMode;
pub use fs_proto::msg::hot::HotCopied;
pub use fs_proto::msg::inode::{SetTime, Setattr, Space};
pub use fs_proto::msg::name::{Create, DirEntry, DirPage};
pub use fs_proto::msg::tier::{FlushAccount, Migrated};
pub use fs_proto::msg::vault::VaultObject;
pub use fs_proto::{
    Attr, FileKind, InodeId, LAYOUT_ATTRIBUTE, Layout, LayoutWish, Placement, ServerId, Status, layout_text,
};
