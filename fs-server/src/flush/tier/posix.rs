//! A directory of a mounted file system as shared tier: Lustre, CephFS, GlusterFS, NFS, or a local directory.
//!
//! # Invariants
//! - Names are resolved one component at a time, relative to open directories, with `O_NOFOLLOW`; attributes are set through an
//!   open descriptor of the object whose number was checked (`symlinks_are_not_followed`).
//! - The staging directory is only ours (mode 0700): nobody can exchange what is being staged.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use fs_proto::{FileKind, ServerId};
use parking_lot::Mutex;
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use rustix::io::{self, Errno};

use super::{Attributes, Base, Dir, Found, Make, Place, Tier, TierError, TierFile, TierResult};
use crate::config::ServerConfig;
use crate::error::ServerError;

mod attributes;

/// Beginning of the staging directory's name; the job follows.
const STAGING: &str = ".hayate-staging-";
const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The adapter.
pub struct Posix {
    path: PathBuf,
    staging_name: String,
    is_root: bool,
    bases: Mutex<Bases>,
    refused: Mutex<bool>,
}

#[derive(Default)]
struct Bases {
    root: Option<Dir>,
    staging: Option<Dir>,
}

/// The name of a job's staging directory.
pub fn staging_name(job: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' };
    let job: String = job.chars().take(64).map(plain).collect();
    format!("{STAGING}{job}")
}

/// Beginning of the names of staged objects of one server.
pub fn staged_prefix(server: ServerId) -> String {
    format!("f-{}-", server.0)
}

/// Each other server removes the staging directory once at its start; this many at the same time are enough for a cluster.
const PROBE_ATTEMPTS: u32 = 10_000;

impl Posix {
    /// Checks that the directory can be used, and removes what a former run of this server left in staging.
    pub fn open(path: &Path, config: &ServerConfig) -> Result<Self, ServerError> {
        let refuse = |reason: String| ServerError::Tier { path: path.to_owned(), reason };
        let meta = std::fs::metadata(path).map_err(|error| {
            refuse(format!(
                "{error}; name an existing directory of the shared file system with --tier, or mount it first"
            ))
        })?;
        if !meta.is_dir() {
            return Err(refuse("is not a directory; name a directory with --tier".to_owned()));
        }
        apart_from_stores(path, &config.stores).map_err(refuse)?;
        let tier = Posix {
            path: path.to_owned(),
            staging_name: staging_name(&config.job),
            is_root: rustix::process::geteuid().is_root(),
            bases: Mutex::default(),
            refused: Mutex::new(false),
        };
        let prefix = staged_prefix(config.id);
        // Nothing of the namespace changes by a start. Servers that start at the same time may still move these times: they are set again
        // with the first thing that is flushed.
        let probed = tier.base(Base::Root).and_then(|root| keeping_times(&root, || tier.probe(&prefix)));
        probed.map_err(|error| {
            refuse(format!(
                "cannot be written: {error}; make it writable for this user, or name another with --tier"
            ))
        })?;
        Ok(tier)
    }

    /// As [`Posix::probe_once`]. Another server that starts or ends may remove the staging directory, when it is empty, between two
    /// steps: then it is done again, in a new one.
    fn probe(&self, prefix: &str) -> TierResult<()> {
        for _ in 1..PROBE_ATTEMPTS {
            match self.probe_once(prefix) {
                Err(TierError::Missing(_)) => {}
                outcome => return outcome,
            }
        }
        self.probe_once(prefix)
    }

    /// Makes and removes a staged file, then removes what is left of a former run.
    fn probe_once(&self, prefix: &str) -> TierResult<()> {
        let staging = self.base(Base::Staging)?;
        self.remove_stale(&staging, prefix)?;
        let place = Place::new(&staging, &Bytes::from(format!("{prefix}probe")));
        self.make(&place, &Make::File { size: 1 })?;
        self.remove(&place, false)?;
        self.rest()
    }

    fn remove_stale(&self, staging: &Dir, prefix: &str) -> TierResult<()> {
        let listing = fs::Dir::read_from(fd(staging)?).map_err(|error| failed("list", b"staging", error))?;
        for entry in listing {
            let entry = entry.map_err(|error| failed("list", b"staging", error))?;
            let name = entry.file_name().to_bytes();
            if name.starts_with(prefix.as_bytes()) {
                tracing::debug!(name = %String::from_utf8_lossy(name), "removing what an interrupted flush left");
                self.remove(&Place::new(staging, &Bytes::copy_from_slice(name)), false)?;
            }
        }
        Ok(())
    }

    fn open_root(&self) -> TierResult<Dir> {
        let name = self.path.as_os_str().as_encoded_bytes();
        let root = fs::open(&self.path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| failed("open", name, error))?;
        dir_of(root, name)
    }

    fn open_staging(&self, root: &Dir) -> TierResult<Dir> {
        let place = Place::new(root, &Bytes::from(self.staging_name.clone()));
        match self.open_dir(&place) {
            Err(TierError::Missing(_)) => {}
            opened => return opened,
        }
        match self.make(&place, &Make::Directory) {
            Ok(_) | Err(TierError::Occupied(_)) => self.open_dir(&place),
            Err(error) => Err(error),
        }
    }

    /// Runs `body`; when a directory's owner may not write in it (its mode says so), gives the permission and runs it again. The
    /// directory's attributes are set after its entries.
    fn with_write<R>(&self, dir: &Dir, body: impl Fn() -> io::Result<R>) -> io::Result<R> {
        match body() {
            Err(Errno::ACCESS) if !self.is_root => {
                let fd = fd(dir).map_err(|_| Errno::BADF)?;
                let mode = fs::fstat(fd)?.st_mode;
                fs::fchmod(fd, Mode::from_raw_mode(mode & 0o7777 | 0o700))?;
                body()
            }
            outcome => outcome,
        }
    }
}

/// Refuses a tier inside a store or a store inside the tier's staging: `down --discard` deletes stores.
fn apart_from_stores(tier: &Path, stores: &[PathBuf]) -> Result<(), String> {
    let Ok(tier) = tier.canonicalize() else { return Ok(()) };
    for store in stores {
        // A store that does not exist yet cannot hold the tier, which does.
        let Ok(store) = store.canonicalize() else { continue };
        if tier.starts_with(&store) {
            return Err(format!(
                "lies inside the store {}, which is deleted with the cluster; name a directory outside with --tier",
                store.display()
            ));
        }
    }
    Ok(())
}

fn fd(dir: &Dir) -> TierResult<&OwnedFd> {
    dir.handle().ok_or_else(|| TierError::Failed("a directory handle of another adapter".to_owned()))
}

fn dir_of(handle: OwnedFd, name: &[u8]) -> TierResult<Dir> {
    let stat = fs::fstat(&handle).map_err(|error| failed("stat", name, error))?;
    Ok(Dir::new(stat.st_ino, handle))
}

/// The error for a failed call: `doing` is a verb.
fn failed(doing: &str, name: &[u8], error: Errno) -> TierError {
    let text = format!("cannot {doing} {:?} in the shared tier: {error}", String::from_utf8_lossy(name));
    match error {
        Errno::NOENT => TierError::Missing(text),
        Errno::EXIST | Errno::NOTEMPTY | Errno::ISDIR | Errno::NOTDIR => TierError::Occupied(text),
        _ => TierError::Failed(text),
    }
}

fn keeping_times<R>(dir: &Dir, body: impl FnOnce() -> TierResult<R>) -> TierResult<R> {
    let handle = fd(dir)?;
    let before = fs::fstat(handle).map_err(|error| failed("stat", b".", error))?;
    let done = body()?;
    let time = |seconds: i64, ns: u64| fs::Timespec { tv_sec: seconds, tv_nsec: ns as _ };
    let times = fs::Timestamps {
        last_access: time(before.st_atime, before.st_atime_nsec),
        last_modification: time(before.st_mtime, before.st_mtime_nsec),
    };
    match fs::futimens(handle, &times) {
        // Somebody else's directory that we may write in: its times are not ours to keep.
        Ok(()) | Err(Errno::PERM | Errno::ACCESS) => Ok(done),
        Err(error) => Err(failed("set the times of", b".", error)),
    }
}

fn is_gone(dir: &Dir) -> bool {
    fd(dir).ok().and_then(|handle| fs::fstat(handle).ok()).is_none_or(|stat| stat.st_nlink == 0)
}

impl Tier for Posix {
    fn base(&self, base: Base) -> TierResult<Dir> {
        let mut bases = self.bases.lock();
        bases.root.take_if(|dir| is_gone(dir));
        let root = match &bases.root {
            Some(root) => root.clone(),
            None => bases.root.insert(self.open_root()?).clone(),
        };
        if base == Base::Root {
            return Ok(root);
        }
        bases.staging.take_if(|dir| is_gone(dir));
        match &bases.staging {
            Some(staging) => Ok(staging.clone()),
            None => Ok(bases.staging.insert(self.open_staging(&root)?).clone()),
        }
    }

    fn open_dir(&self, at: &Place) -> TierResult<Dir> {
        let parent = fd(&at.dir)?;
        let open = || fs::openat(parent, &at.name[..], DIRECTORY, Mode::empty());
        let opened = self.with_write(&at.dir, || match open() {
            Err(Errno::ACCESS) if !self.is_root => {
                attributes::make_accessible(parent, &at.name)?;
                open()
            }
            outcome => outcome,
        });
        // A symbolic link in the place of a directory is not that directory.
        let opened = opened.map_err(|error| if error == Errno::LOOP { Errno::NOTDIR } else { error });
        dir_of(opened.map_err(|error| failed("open", &at.name, error))?, &at.name)
    }

    fn look(&self, at: &Place) -> TierResult<Option<Found>> {
        match fs::statat(fd(&at.dir)?, &at.name[..], AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => {
                let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
                Ok(Some(Found { id: stat.st_ino, is_dir, size: stat.st_size as u64 }))
            }
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(failed("look at", &at.name, error)),
        }
    }

    fn make(&self, at: &Place, what: &Make) -> TierResult<u64> {
        let (parent, name) = (fd(&at.dir)?, &at.name[..]);
        let error = |error| failed("make", name, error);
        let private = Mode::from_raw_mode(0o600);
        match what {
            Make::File { size } => {
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = fs::openat(parent, name, flags, private).map_err(error)?;
                fs::ftruncate(&file, *size).map_err(error)?;
                return fs::fstat(&file).map(|stat| stat.st_ino).map_err(error);
            }
            Make::Directory => {
                self.with_write(&at.dir, || fs::mkdirat(parent, name, Mode::from_raw_mode(0o700)))
                    .map_err(error)?;
            }
            Make::Symlink { target } => fs::symlinkat(&target[..], parent, name).map_err(error)?,
            Make::Special { kind, rdev } => {
                let kind = match kind {
                    FileKind::Fifo => FileType::Fifo,
                    FileKind::Socket => FileType::Socket,
                    FileKind::CharDevice => FileType::CharacterDevice,
                    FileKind::BlockDevice => FileType::BlockDevice,
                    FileKind::File | FileKind::Directory | FileKind::Symlink => {
                        return Err(error(Errno::INVAL));
                    }
                };
                fs::mknodat(parent, name, kind, private, u64::from(*rdev)).map_err(error)?;
            }
            Make::Link { of } => {
                fs::linkat(fd(&of.dir)?, &of.name[..], parent, name, AtFlags::empty()).map_err(error)?;
            }
        }
        let found = self.look(at)?;
        found.map(|found| found.id).ok_or_else(|| error(Errno::NOENT))
    }

    fn open_file(&self, at: &Place) -> TierResult<Box<dyn TierFile>> {
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = fs::openat(fd(&at.dir)?, &at.name[..], flags, Mode::empty());
        let file = file.map_err(|error| failed("open", &at.name, error))?;
        Ok(Box::new(PosixFile { file, name: at.name.clone() }))
    }

    fn set(&self, at: &Place, id: u64, attributes: &Attributes) -> TierResult<()> {
        let parent = fd(&at.dir)?;
        let object;
        let handle = if &at.name[..] == b"." {
            parent
        } else {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            object = fs::openat(parent, &at.name[..], flags, Mode::empty())
                .map_err(|error| failed("open", &at.name, error))?;
            &object
        };
        let error = |error| failed("set the attributes of", &at.name, error);
        let stat = fs::fstat(handle).map_err(error)?;
        if stat.st_ino != id {
            return Err(error(Errno::NOENT));
        }
        let target = format!("/proc/self/fd/{}", handle.as_raw_fd());
        let refused = match attributes::set(&target, &stat, attributes, self.is_root) {
            // A tier's own directory that belongs to somebody else, where we may make entries: its times are not ours to set.
            Err(Errno::PERM | Errno::ACCESS) if attributes.mode.is_none() => None,
            outcome => outcome.map_err(error)?,
        };
        if let Some(name) = refused {
            self.tell_refused(&name);
        }
        Ok(())
    }

    fn rename(&self, from: &Place, to: &Place) -> TierResult<()> {
        let (source, target) = (fd(&from.dir)?, fd(&to.dir)?);
        let rename = || fs::renameat(source, &from.name[..], target, &to.name[..]);
        let renamed = self.with_write(&to.dir, || self.with_write(&from.dir, rename));
        renamed.map_err(|error| match error {
            Errno::INVAL => {
                TierError::BelowItself("a directory of the shared tier cannot move below itself".to_owned())
            }
            error => failed("publish", &to.name, error),
        })
    }

    fn remove(&self, at: &Place, is_dir: bool) -> TierResult<()> {
        let parent = fd(&at.dir)?;
        let flags = if is_dir { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        let removed = self.with_write(&at.dir, || fs::unlinkat(parent, &at.name[..], flags));
        removed.map_err(|error| failed("remove", &at.name, error))
    }

    fn rest(&self) -> TierResult<()> {
        let root = self.base(Base::Root)?;
        self.bases.lock().staging = None;
        let place = Place::new(&root, &Bytes::from(self.staging_name.clone()));
        match self.remove(&place, true) {
            // Not empty: another server still stages, or a directory waits there for its new place.
            Ok(()) | Err(TierError::Missing(_) | TierError::Occupied(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn reset(&self) {
        *self.bases.lock() = Bases::default();
    }
}

impl Posix {
    /// Says once that the file system does not take an attribute.
    fn tell_refused(&self, name: &[u8]) {
        if !std::mem::replace(&mut *self.refused.lock(), true) {
            let (name, tier) = (String::from_utf8_lossy(name), self.path.display());
            tracing::warn!(%name, %tier, "the shared tier's file system does not take this extended attribute; such are left out there");
        }
    }
}

struct PosixFile {
    file: OwnedFd,
    name: Bytes,
}

impl TierFile for PosixFile {
    fn write_at(&self, mut offset: u64, mut data: &[u8]) -> TierResult<()> {
        while !data.is_empty() {
            match io::pwrite(&self.file, data, offset) {
                Ok(0) => return Err(failed("write", &self.name, Errno::NOSPC)),
                Ok(written) => {
                    data = &data[written..];
                    offset += written as u64;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(failed("write", &self.name, error)),
            }
        }
        Ok(())
    }

    fn sync(&self) -> TierResult<()> {
        fs::fsync(&self.file).map_err(|error| failed("sync", &self.name, error))
    }
}

#[cfg(test)]
mod tests;
