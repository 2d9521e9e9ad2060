//! Beginning and ending, and settings.

use std::ffi::{CStr, OsStr, c_char, c_int};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use fs_client::{Client, ClientConfig, LayoutWish};
use hayate::border::{Failure, Result};
use hayate::handles::{PerProcess, Table};
use parking_lot::{Mutex, RwLock};

use crate::errors::call;
use crate::files::Opened;
use crate::paths::first_directory;

/// What one process has.
pub struct State {
    client: RwLock<Option<Client>>,
    /// Open files.
    pub files: Table<Opened>,
    /// Where relative paths begin.
    pub directory: Mutex<PathBuf>,
}

static STATE: PerProcess<State> = PerProcess::new(|forks| State {
    client: RwLock::new(None),
    files: Table::new("file", forks),
    directory: Mutex::new(first_directory()),
});

/// Bytes of a chunk of new files; 0: left to Hayate.
static CHUNK_BYTES: AtomicI32 = AtomicI32::new(0);
/// Milliseconds that a call tries again while a server is away; 0: as usual.
static TIMEOUT_MS: AtomicI32 = AtomicI32::new(0);
/// Bytes that staging in reads at once; 0: as usual.
pub static STAGE_BYTES: AtomicI32 = AtomicI32::new(0);

/// The calling process's state.
pub fn state() -> &'static State {
    STATE.get()
}

/// The connection.
///
/// # Errors
/// `ENOTCONN` before `chfs_init` and after `chfs_term`, and in a forked child.
pub fn client() -> Result<Client> {
    let client = state().client.read().clone();
    client.ok_or_else(|| Failure::new(libc::ENOTCONN, "this process has not called chfs_init"))
}

/// What the program wants of a new file's layout. CHFS takes any size of chunks, Hayate powers of two from 64 KiB to 16 MiB: the next larger.
pub fn layout(chunk_bytes: c_int) -> Option<LayoutWish> {
    let bytes = u32::try_from(chunk_bytes).ok().filter(|bytes| *bytes > 0)?;
    let chunk_log2 = bytes.clamp(1 << 16, 1 << 24).next_power_of_two().trailing_zeros() as u8;
    Some(LayoutWish { chunk_log2: Some(chunk_log2), ..LayoutWish::default() })
}

/// Bytes of a chunk that were set, or that the environment's `CHFS_CHUNK_SIZE` says; 0 if neither.
pub fn chunk_bytes() -> c_int {
    let set = CHUNK_BYTES.load(Ordering::Relaxed);
    let said = || std::env::var("CHFS_CHUNK_SIZE").ok().and_then(|text| text.parse().ok());
    if set > 0 { set } else { said().unwrap_or(0) }
}

/// Connects. `server`, or else the environment's `CHFS_SERVER`, may name a cluster file; what is none, as the address of a CHFS server, is left
/// aside, and the cluster is that of `HAYATE_CLUSTER` or of the user's usual place.
///
/// # Safety
/// `server` is null or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn chfs_init(server: *const c_char) -> c_int {
    call(|| {
        // SAFETY: the caller's promise.
        let given = (!server.is_null()).then(|| unsafe { CStr::from_ptr(server) });
        let mut config = ClientConfig::load(&cluster(given))?;
        // As CHFS does: ranks that have met remove, make and extend each other's files. Under a name that is remembered one would write to the file that was removed.
        (config.entry_ttl, config.attr_ttl) = (Duration::ZERO, Duration::ZERO);
        if let Ok(timeout @ 1..) = u64::try_from(TIMEOUT_MS.load(Ordering::Relaxed)) {
            config.timeout = Duration::from_millis(timeout);
        }
        let mut place = state().client.write();
        if place.is_none() {
            *place = Some(Client::connect(config)?);
        }
        Ok(0)
    })
}

fn cluster(given: Option<&CStr>) -> PathBuf {
    let given = given.map(|text| PathBuf::from(OsStr::from_bytes(text.to_bytes())));
    let named = given.or_else(|| std::env::var_os("CHFS_SERVER").map(PathBuf::from));
    named
        .filter(|path| Path::is_file(path))
        .or_else(|| std::env::var_os("HAYATE_CLUSTER").map(PathBuf::from))
        .unwrap_or_else(fs_client::default_cluster_path)
}

/// Whether `chfs_init` has succeeded in this process.
#[unsafe(no_mangle)]
pub extern "C" fn chfs_initialized() -> c_int {
    call(|| Ok(i64::from(state().client.read().is_some())))
}

/// Closes all files and disconnects. Nothing waits for tier 2: the servers copy what is due also when no program runs any more.
#[unsafe(no_mangle)]
pub extern "C" fn chfs_term() -> c_int {
    call(|| {
        let closed: Vec<_> = state().files.find(|_| true).into_iter().map(crate::files::close).collect();
        drop(state().client.write().take());
        closed.into_iter().collect::<Result<Vec<()>>>().map(|_| 0)
    })
}

/// The same.
#[unsafe(no_mangle)]
pub extern "C" fn chfs_term_without_sync() -> c_int {
    chfs_term()
}

/// Number of servers.
#[unsafe(no_mangle)]
pub extern "C" fn chfs_size() -> c_int {
    call(|| Ok(client()?.cluster().members.len() as i64))
}

/// The version of Hayate.
#[unsafe(no_mangle)]
pub extern "C" fn chfs_version() -> *const c_char {
    const VERSION: &CStr =
        match CStr::from_bytes_with_nul(concat!("hayate ", env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
            Ok(version) => version,
            Err(_) => panic!("a version has no zeros"),
        };
    VERSION.as_ptr()
}

/// Bytes of a chunk of files that are created from now on; 0 or less: as Hayate thinks fit.
#[unsafe(no_mangle)]
pub extern "C" fn chfs_set_chunk_size(chunk_size: c_int) {
    CHUNK_BYTES.store(chunk_size.max(0), Ordering::Relaxed);
}

/// How long a call tries again while a server is away, from the next `chfs_init` on.
#[unsafe(no_mangle)]
pub extern "C" fn chfs_set_rpc_timeout_msec(timeout: c_int) {
    TIMEOUT_MS.store(timeout.max(0), Ordering::Relaxed);
}

/// Bytes that `chfs_stagein` reads at once.
#[unsafe(no_mangle)]
pub extern "C" fn chfs_set_stagein_buf_size(buf_size: c_int) {
    STAGE_BYTES.store(buf_size.max(0), Ordering::Relaxed);
}

/// Means nothing here: what was written is with the servers when the call returns.
#[unsafe(no_mangle)]
pub extern "C" fn chfs_set_buf_size(_buf_size: c_int) {}

/// Means nothing here, as [`chfs_set_buf_size`].
#[unsafe(no_mangle)]
pub extern "C" fn chfs_set_async_access(_enable: c_int) {}

/// Means nothing here: how data travels is chosen by itself.
#[unsafe(no_mangle)]
pub extern "C" fn chfs_set_rdma_thresh(_thresh: usize) {}

/// Means nothing here: members are looked up when a server says that they changed.
#[unsafe(no_mangle)]
pub extern "C" fn chfs_set_node_list_cache_timeout(_timeout: c_int) {}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: any chunk size of CHFS becomes one of Hayate's.
    #[test]
    fn chunk_sizes_are_the_next_larger() {
        let log2 = |bytes| layout(bytes).map(|wish| wish.chunk_log2.expect("a size"));
        assert_eq!([log2(-1), log2(0)], [None, None]);
        assert_eq!(
            [log2(1), log2(1 << 16), log2((1 << 16) + 1), log2(1 << 20), log2(i32::MAX)],
            [16, 16, 17, 20, 24].map(Some)
        );
    }
}
