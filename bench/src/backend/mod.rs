//! What is measured: a small port with an adapter for each interface.
//!
//! | adapter | what |
//! |---|---|
//! | [`posix`] | system calls on any path: a mount, tier 2, a local disk |
//! | [`native`] | the client library, no kernel in between |
//! | [`null`] | nothing: the harness's own cost |

#[cfg(test)]
pub mod fake;
pub mod native;
pub mod null;
pub mod posix;

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::error::{BenchError, Result};
use crate::seat::Seat;

/// The attribute that tells whether a file is in the shared tier.
const DURABLE: &str = "user.hayate.durable";
/// The attribute that tells how a file, or what is made in a directory, is laid out.
const LAYOUT: &str = "user.hayate.layout";

/// What lies below a path, as far as caches are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Storage {
    /// A file system of this host.
    #[default]
    Local,
    /// A mount that a process serves, most likely for others.
    Fuse,
    /// A mount of a network file system.
    Network(&'static str),
    /// Hayate's servers, without a kernel in between.
    Servers,
    /// Nothing.
    Nothing,
}

/// Which interface to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub enum Api {
    /// System calls on any path.
    #[value(name = "POSIX", alias = "posix")]
    Posix,
    /// The native client; paths are absolute in the file system.
    #[value(name = "HAYATE", alias = "hayate")]
    Hayate,
    /// The checkpoint library; for checkpoints only.
    #[value(name = "LIBIO", alias = "libio")]
    Libio,
    /// No storage at all: what the harness itself costs.
    #[value(name = "NULL", aliases = ["null", "DUMMY", "dummy"])]
    Null,
}

impl fmt::Display for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Api::Posix => "POSIX",
            Api::Hayate => "HAYATE",
            Api::Libio => "LIBIO",
            Api::Null => "NULL",
        })
    }
}

/// A failed operation: what was tried, on which path, and why it failed.
#[derive(Debug, thiserror::Error)]
#[error("{action} {path}: {why}")]
pub struct IoFailure {
    /// What was tried.
    pub action: &'static str,
    /// On which path.
    pub path: String,
    /// What the file system said.
    pub why: String,
    /// Whether it said that there is no such file.
    pub not_found: bool,
}

/// Result of a backend.
pub type IoResult<T> = std::result::Result<T, IoFailure>;

/// How to open a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(clippy::struct_excessive_bools)] // Independent switches of open(2).
pub struct OpenHow {
    /// For writing (else for reading).
    pub write: bool,
    /// For reading, too.
    pub read_too: bool,
    /// Make it if it does not exist.
    pub create: bool,
    /// Bypass the page cache where there is one.
    pub direct: bool,
    /// Do not go on with a transfer that the system did in part (IOR's `-x`).
    pub single_attempt: bool,
}

/// Attributes of a file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attributes {
    /// Size.
    pub bytes: u64,
    /// Last change of content, in nanoseconds since 1970.
    pub modified_ns: u64,
    /// Whether it is a directory.
    pub directory: bool,
}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The name.
    pub name: String,
    /// Whether it is a directory.
    pub directory: bool,
    /// Its attributes, if the listing brought them.
    pub attributes: Option<Attributes>,
}

/// Space of a file system; a count is zero where it is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capacity {
    /// Bytes in all.
    pub bytes: u64,
    /// Bytes free.
    pub free_bytes: u64,
    /// Inodes in all.
    pub inodes: u64,
    /// Inodes free.
    pub free_inodes: u64,
}

/// A file system as one task sees it.
pub trait Backend {
    /// Opens a file.
    fn open(&self, path: &str, how: OpenHow) -> IoResult<Box<dyn OpenFile>>;
    /// Makes an empty file that is not there, without opening it.
    fn make_file(&self, path: &str) -> IoResult<()>;
    /// Attributes of a file or directory.
    fn stat(&self, path: &str) -> IoResult<Attributes>;
    /// Removes a file.
    fn unlink(&self, path: &str) -> IoResult<()>;
    /// Makes a directory.
    fn mkdir(&self, path: &str) -> IoResult<()>;
    /// Removes an empty directory.
    fn rmdir(&self, path: &str) -> IoResult<()>;
    /// Gives a file or directory another name.
    fn rename(&self, from: &str, to: &str) -> IoResult<()>;
    /// The names in a directory.
    fn list(&self, dir: &str) -> IoResult<Vec<Listed>>;
    /// Space of the file system that holds `path`.
    fn capacity(&self, path: &str) -> IoResult<Capacity>;
    /// What lies below a path that need not exist yet.
    fn storage(&self, path: &str) -> Storage;
    /// Layout of a file, or of what is made where it will be; none where there is no such thing.
    fn layout(&self, path: &str) -> Option<String> {
        let _ = path;
        None
    }
    /// Whether a file is in the shared tier; none where nobody tells.
    fn durable(&self, path: &str) -> IoResult<Option<bool>> {
        let _ = path;
        Ok(None)
    }
    /// Writes everything of this host back, where there is such a call.
    fn sync_host(&self) -> IoResult<()> {
        Ok(())
    }
    /// Messages this process sent so far, if the backend counts them.
    fn messages_sent(&self) -> Option<u64> {
        None
    }
}

/// An open file.
pub trait OpenFile {
    /// Writes all of `data` at `offset`.
    fn write_at(&self, data: &[u8], offset: u64) -> IoResult<()>;
    /// Reads into `buffer`; fewer bytes than asked for only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> IoResult<usize>;
    /// Makes what was written durable.
    fn sync(&self) -> IoResult<()>;
    /// Closes the file; the native client reports here what could not be published.
    fn close(self: Box<Self>) -> IoResult<()>;
}

/// What tasks make their backend from; threads share it.
#[derive(Clone)]
pub enum Connection {
    /// System calls need nothing.
    Posix,
    /// A connected client.
    Hayate(fs_client::Client),
    /// Nothing.
    Null,
    /// A fake.
    #[cfg(test)]
    Fake(fake::Fake),
}

/// Gives a client, or says why not; with a seat that of the server which stands for the task's node.
pub type Connect<'a> = &'a dyn Fn(Option<Seat>) -> std::result::Result<fs_client::Client, String>;

impl Connection {
    /// The connection that `api` needs; `connect` is called for the native client only.
    ///
    /// # Errors
    /// [`BenchError::Connect`] with what `connect` said.
    pub fn new(api: Api, seat: Option<Seat>, connect: Connect<'_>) -> Result<Self> {
        Ok(match api {
            Api::Posix => Connection::Posix,
            Api::Null => Connection::Null,
            Api::Hayate | Api::Libio => Connection::Hayate(connect(seat).map_err(BenchError::Connect)?),
        })
    }

    /// The native client, if it is what is measured.
    pub fn client(&self) -> Option<&fs_client::Client> {
        if let Connection::Hayate(client) = self { Some(client) } else { None }
    }

    /// A backend for one task.
    pub fn backend(&self) -> Box<dyn Backend> {
        match self {
            Connection::Posix => Box::new(posix::Posix),
            Connection::Hayate(client) => Box::new(native::Native::new(client.clone())),
            Connection::Null => Box::new(null::Null::default()),
            #[cfg(test)]
            Connection::Fake(fake) => Box::new(fake.for_task()),
        }
    }
}

/// Makes a directory that may exist, and those above it.
///
/// # Errors
/// If it is not there in the end.
pub fn make_all(backend: &dyn Backend, path: &str) -> IoResult<()> {
    let path = path.trim_end_matches('/');
    if path.is_empty() || path == "." || backend.stat(path).is_ok() {
        return Ok(());
    }
    if let Some((parent, _)) = path.rsplit_once('/') {
        make_all(backend, parent)?;
    }
    // Another task may have made it meanwhile.
    backend.mkdir(path).or_else(|failure| backend.stat(path).map(drop).map_err(|_| failure))
}

/// Removes a directory with all that is in it, if it is there.
///
/// # Errors
/// Any failure but that there is no such directory.
pub fn remove_tree(backend: &dyn Backend, path: &str) -> IoResult<()> {
    let entries = match backend.list(path) {
        Err(failure) if failure.not_found => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let below = format!("{path}/{}", entry.name);
        if entry.directory { remove_tree(backend, &below)? } else { remove_if_there(backend, &below)? }
    }
    backend.rmdir(path)
}

/// Removes a file that need not exist.
///
/// # Errors
/// Any failure but that there is no such file.
pub fn remove_if_there(backend: &dyn Backend, path: &str) -> IoResult<()> {
    match backend.unlink(path) {
        Err(failure) if !failure.not_found => Err(failure),
        _ => Ok(()),
    }
}
