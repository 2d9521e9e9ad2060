//! Connections.

use std::ffi::{OsStr, c_char, c_int};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fs_client::{Client, ClientConfig};

use crate::arguments;
use crate::border::{Result, call};
use crate::file::close;
use crate::handles::tables;

/// How a connection differs from the usual. Zeros, and what an older program does not know of, leave things as they are.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// `sizeof(hayate_options_t)`, so that later fields can be told from garbage.
    pub size: usize,
    /// Bytes for buffers, caches and open files together; 0: 256 MiB.
    pub memory_bytes: u64,
    /// How long a call tries again while a server is away, in milliseconds; 0: 60,000.
    pub timeout_ms: u32,
    /// How long names and attributes are trusted, in milliseconds; 0: 1,000; `UINT32_MAX`: never.
    pub trust_ms: u32,
}

/// The environment's name for the cluster file.
const CLUSTER_VARIABLE: &str = "HAYATE_CLUSTER";

/// Connects to the cluster whose file is `cluster`; if that is null, to that of the environment's `HAYATE_CLUSTER`, or else of
/// the user's usual place. Answers the connection's number.
///
/// # Safety
/// `cluster` is null or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hayate_connect(cluster: *const c_char) -> c_int {
    // SAFETY: the caller's promise.
    call(|| connect(&unsafe { config(cluster) }?))
}

/// As hayate_connect, with options, which may be null.
///
/// # Safety
/// `cluster` is null or a string, `options` is null or has `options->size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hayate_connect_with(cluster: *const c_char, options: *const Options) -> c_int {
    call(|| {
        // SAFETY: the caller's promise.
        let mut config = unsafe { config(cluster) }?;
        // SAFETY: the caller's promise.
        if let Some(options) = unsafe { arguments::sized(options, "hayate_options_t") }? {
            apply(&options, &mut config);
        }
        connect(&config)
    })
}

/// Ends a connection: its files and listings are closed, and what they wrote is published. Calls that other threads are in finish first.
/// Answers the first failure, after everything was closed.
#[unsafe(no_mangle)]
pub extern "C" fn hayate_disconnect(fs: c_int) -> c_int {
    call(|| {
        let client = tables().clients.take(fs)?;
        for listing in tables().listings.find(|listing| listing.fs == fs) {
            let _already_closed = tables().listings.take(listing);
        }
        let files = tables().files.find(|opened| opened.fs == fs);
        let closed: Vec<_> = files.into_iter().map(close).collect();
        drop(client);
        closed.into_iter().collect::<Result<Vec<()>>>().map(|_| 0)
    })
}

/// The client behind a connection's number, for what is built upon this library.
///
/// # Errors
/// `EBADF`, or `ENOTCONN` after a fork.
pub fn client_of(fs: c_int) -> Result<Arc<Client>> {
    tables().clients.get(fs)
}

fn connect(config: &ClientConfig) -> Result<c_int> {
    tables().clients.add(Client::connect(config.clone())?)
}

unsafe fn config(cluster: *const c_char) -> Result<ClientConfig> {
    let path = if cluster.is_null() {
        std::env::var_os(CLUSTER_VARIABLE).map_or_else(fs_client::default_cluster_path, PathBuf::from)
    } else {
        // SAFETY: the caller's promise.
        PathBuf::from(OsStr::from_bytes(unsafe { arguments::bytes(cluster, "cluster file") }?))
    };
    Ok(ClientConfig::load(&path)?)
}

fn apply(options: &Options, config: &mut ClientConfig) {
    if options.memory_bytes > 0 {
        config.memory_bytes = usize::try_from(options.memory_bytes).unwrap_or(usize::MAX);
    }
    if options.timeout_ms > 0 {
        config.timeout = Duration::from_millis(u64::from(options.timeout_ms));
    }
    if options.trust_ms > 0 {
        let never = options.trust_ms == u32::MAX;
        let trust = if never { Duration::ZERO } else { Duration::from_millis(u64::from(options.trust_ms)) };
        (config.attr_ttl, config.entry_ttl) = (trust, trust);
    }
}
