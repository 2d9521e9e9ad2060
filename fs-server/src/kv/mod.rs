//! The key-value port: what the namespace needs of an ordered store, and nothing more.
//!
//! # Invariants
//! - A committed batch is whole or absent after a crash, and there once `commit` returned, even if the process is
//!   killed the next moment (`tests/kv`, `acknowledged_batches_survive_kill`).
//! - Within a batch the last operation on a key wins (`tests/kv`, `last_operation_on_a_key_wins`).
//! - What is damaged is told, and so is what is missing (`guard.rs`).
//! - `scan` sees a batch wholly or not at all while others commit (`tests/kv`, `scans_see_whole_batches`).
//!
//! Deliberately absent: transactions that read (one owner decides, then commits), several trees (keys carry a prefix),
//! descending scans, snapshots that outlive a call.

mod batch;
mod fence;
mod fjall;
mod guard;
mod lock;
mod renew;
mod sled;
mod verify;

pub use batch::{Batch, Change};
pub use fjall::FjallOptions;
pub use verify::KvReport;

use bytes::Bytes;
use guard::{Engine as _, Guarded};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use thiserror::Error;

/// Why the key-value store failed: one variant per thing that a caller can do.
#[derive(Debug, Error)]
pub enum KvError {
    /// The file system is full. What a commit would have written is not there; after space was freed the next succeeds, unless it is
    /// [`KvError::Refused`].
    #[error("no space left for the key-value store")]
    NoSpace,
    /// Another process (or another handle) has the store open.
    #[error("the key-value store in {} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// What is on disk makes no sense; the text says where.
    #[error("the key-value store is damaged: {0}")]
    Corrupt(String),
    /// An earlier write or sync failed, so that writes are refused until the store is reopened.
    #[error(
        "the key-value store refuses writes after an earlier failure; restart the server once its device has room and is well"
    )]
    Refused,
    /// The operating system failed an operation.
    #[error("key-value store: {0}")]
    Io(#[from] std::io::Error),
}

impl KvError {
    /// Sorts an I/O error: a full disk is its own case.
    fn from_io(error: std::io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => KvError::NoSpace,
            _ => KvError::Io(error),
        }
    }
}

/// An ordered map of byte strings on disk. Shared by threads; calls block for as long as the engine needs.
pub trait Kv: Send + Sync {
    /// The value of `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, KvError>;
    /// Applies all of `batch` or nothing. On return it survives a kill of the process.
    fn commit(&self, batch: Batch) -> Result<(), KvError>;
    /// Shows the pairs with `from <= key < to` in ascending order until `visit` breaks.
    /// `visit` may read the store but must not commit to it.
    fn scan(&self, from: &[u8], to: &[u8], visit: &mut ScanVisitor<'_>) -> Result<(), KvError>;
    /// On return everything committed before the call survives loss of power.
    fn sync(&self) -> Result<(), KvError>;
    /// Bytes of files. May take locks of the engine and ask the file system.
    fn disk_bytes(&self) -> u64;
    /// Bytes of caches and write buffers, as far as the engine tells. Cheap.
    fn memory_bytes(&self) -> u64;
    /// Bytes that the engine may still want of the file system for what was committed already. Cheap.
    fn owed_bytes(&self) -> u64 {
        0
    }
    /// Reads everything, and goes on behind what is damaged.
    fn verify(&self) -> Result<KvReport, KvError> {
        verify::walk(self, &mut |_, _| true)
    }
}

/// Gets a key and its value; decides whether the scan goes on.
pub type ScanVisitor<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// The engines behind the port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KvKind {
    /// A log-structured merge tree: the default.
    #[default]
    Fjall,
    /// A B-link tree on a log. Needs a flush for each commit and does not keep a memory bound.
    Sled,
}

impl KvKind {
    /// Every engine.
    pub const ALL: [KvKind; 2] = [KvKind::Fjall, KvKind::Sled];
}

impl FromStr for KvKind {
    type Err = String;
    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "fjall" => Ok(KvKind::Fjall),
            "sled" => Ok(KvKind::Sled),
            other => Err(format!("unknown key-value store '{other}': use fjall or sled")),
        }
    }
}

impl std::fmt::Display for KvKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            KvKind::Fjall => "fjall",
            KvKind::Sled => "sled",
        })
    }
}

/// Opens, or creates, the store in `dir`. `cache_bytes` bounds caches and write buffers together, as far as the
/// engine keeps bounds.
pub fn open(kind: KvKind, dir: &Path, cache_bytes: u64) -> Result<Arc<dyn Kv>, KvError> {
    std::fs::create_dir_all(dir).map_err(KvError::from_io)?;
    Ok(match kind {
        KvKind::Fjall => guarded_fjall(dir, &FjallOptions::within(cache_bytes))?,
        KvKind::Sled => Arc::new(Guarded::open(sled::SledKv::open(dir, cache_bytes)?, dir)?),
    })
}

/// Opens fjall with options of the caller's choice, with or without the guard: for measuring (`bench/kv-engines`).
pub fn open_fjall(dir: &Path, options: &FjallOptions, is_guarded: bool) -> Result<Arc<dyn Kv>, KvError> {
    std::fs::create_dir_all(dir).map_err(KvError::from_io)?;
    if is_guarded {
        return guarded_fjall(dir, options);
    }
    let engine = fjall::FjallKv::open(dir, options)?;
    engine.accept()?;
    Ok(Arc::new(engine))
}

fn guarded_fjall(dir: &Path, options: &FjallOptions) -> Result<Arc<dyn Kv>, KvError> {
    let opened = fjall::FjallKv::open(dir, options).and_then(|engine| Guarded::open(engine, dir));
    Ok(Arc::new(opened.inspect_err(|error| {
        // Who has it open has accepted it.
        if !matches!(error, KvError::InUse(_)) {
            fjall::put_back(dir);
        }
    })?))
}

/// Opens sled without the guard: for measuring.
pub fn open_bare_sled(dir: &Path, cache_bytes: u64) -> Result<Arc<dyn Kv>, KvError> {
    std::fs::create_dir_all(dir).map_err(KvError::from_io)?;
    Ok(Arc::new(sled::SledKv::open(dir, cache_bytes)?))
}
