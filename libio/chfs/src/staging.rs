//! To and from the file system behind: tier 2 of Hayate, and for staging in the directory of the environment's `CHFS_BACKEND_PATH`.

use std::ffi::{c_char, c_int};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use fs_client::{Client, OpenOptions, SetTime};
use hayate::border::{Failure, Result};

use crate::errors::call;
use crate::paths::absolute;
use crate::session::{STAGE_BYTES, client};

/// The environment's name for the directory that is staged in from.
const BACKEND_VARIABLE: &str = "CHFS_BACKEND_PATH";

/// Bytes that are read at once if nothing else was set.
const STAGE_BYTES_USUAL: usize = 8 << 20;

/// How long `chfs_sync` waits without seeing anything done, and how often it looks at least and at most.
const STALL: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(1);

/// Publishes what this process wrote and waits until everything that is due is in tier 2, as long as that goes on. It cannot fail: what it could not
/// do the servers try on.
#[unsafe(no_mangle)]
pub extern "C" fn chfs_sync() {
    let _errno_is_set: c_int = call(|| {
        let client = client()?;
        client.flush_now(false)?;
        let (mut least, mut progress) = (u64::MAX, Instant::now());
        while progress.elapsed() < STALL {
            // Servers are asked one after the other, and a name may pass from one that is yet to be asked to one that was: what counts is twice nothing.
            let pending = match pending(&client)? {
                0 => pending(&client)?,
                some => some,
            };
            if pending == 0 {
                break;
            }
            if pending < least {
                (least, progress) = (pending, Instant::now());
            }
            client.flush_wait(LOOK_EVERY)?;
            std::thread::sleep(PAUSE);
        }
        Ok(0)
    });
}

/// Names and bytes that are not in tier 2 yet; none without one.
fn pending(client: &Client) -> Result<u64> {
    let mut pending = 0;
    for (_, account) in client.flush_status()? {
        let account = account?;
        if account.has_tier {
            pending += account.pending_names + account.pending_dirs + account.pending_bytes;
        }
    }
    Ok(pending)
}

/// Copies a file, directory (without what is in it) or symbolic link from the directory of `CHFS_BACKEND_PATH`, with mode and time.
///
/// # Safety
/// `path` is null or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn chfs_stagein(path: *const c_char) -> c_int {
    call(|| {
        // SAFETY: the caller's promise.
        let path = unsafe { absolute(path) }?;
        let backend = std::env::var_os(BACKEND_VARIABLE).map(PathBuf::from);
        let backend =
            backend.ok_or_else(|| Failure::new(libc::ENOENT, format!("{BACKEND_VARIABLE} is not set")))?;
        let source = backend.join(path.strip_prefix("/").unwrap_or(&path));
        let meta = std::fs::symlink_metadata(&source).map_err(|e| local(&source, &e))?;
        bring(&client()?, &source, &meta, &path)?;
        Ok(0)
    })
}

fn bring(client: &Client, source: &Path, meta: &std::fs::Metadata, path: &Path) -> Result<()> {
    if let Some(parent) = path.parent() {
        client.mkdir_all(parent, 0o755)?;
    }
    if meta.is_symlink() {
        let target = std::fs::read_link(source).map_err(|e| local(source, &e))?;
        client.symlink_path(target.as_os_str(), path)?;
        return Ok(());
    }
    if meta.is_dir() {
        client.mkdir_all(path, meta.mode() & 0o7777)?;
    } else {
        content(client, source, path, meta.mode() & 0o7777)?;
    }
    let time = SetTime::At { ns: meta.mtime() * 1_000_000_000 + meta.mtime_nsec() };
    client.set_times(path, None, Some(time))?;
    Ok(())
}

fn content(client: &Client, source: &Path, path: &Path, mode: u32) -> Result<()> {
    let set = usize::try_from(STAGE_BYTES.load(Ordering::Relaxed)).unwrap_or(0);
    let mut piece = vec![0; if set > 0 { set } else { STAGE_BYTES_USUAL }];
    let mut from = std::fs::File::open(source).map_err(|e| local(source, &e))?;
    let to = client.open_path(path, &OpenOptions { mode, ..OpenOptions::create_truncate() })?;
    let mut offset = 0;
    loop {
        let got = from.read(&mut piece).map_err(|e| local(source, &e))?;
        if got == 0 {
            return Ok(to.close()?);
        }
        to.write_at(&piece[..got], offset)?;
        offset += got as u64;
    }
}

fn local(path: &Path, error: &std::io::Error) -> Failure {
    let path = String::from_utf8_lossy(path.as_os_str().as_bytes());
    Failure::new(error.raw_os_error().unwrap_or(libc::EIO), format!("{path}: {error}"))
}
