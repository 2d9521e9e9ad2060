//! A directory of a mounted file system as shared tier: Lustre, CephFS, GlusterFS, NFS, or a local directory.
//!
//! # Invariants
//! - Names are resolved one component at a time, relative to open directories, with `O_NOFOLLOW`; attributes are set through an
//!   open descriptor of the object whose number was checked (`symlinks_are_not_followed`).
//! - What is flushed to is the directory that was flushed to before, and not the place where it is not mounted, also after a restart
//!   (`crates/cli`, `an_unmounted_tier_gets_nothing`).
//! - The staging directory is only ours (mode 0700): nobody can exchange what is being staged.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use fs_proto::{FileKind, ServerId};
use parking_lot::Mutex;
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use rustix::io::{self, Errno};

use self::file::PosixFile;
use self::lustre::{Calls, Kernel, Lustre};
use self::nameless::Shown;
use super::{
    Attributes, Base, Destination, Dir, Facts, Fill, Found, Make, Place, Publication, Staged, Stripes,
    TakeListed, Tier, TierError, TierFile, TierResult, staged_prefix, staging_name,
};
use crate::config::ServerConfig;
use crate::error::ServerError;
use crate::identity;

mod attributes;
mod file;
mod kinds;
pub mod lustre;
mod nameless;
mod reading;

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

const ANOTHER: &str = "the shared tier's directory is another than before: its file system is not mounted, or was moved; mount it again";

/// Calls that are made at once.
const THREADS: usize = 4;

/// What is known of a directory that cannot be opened yet.
pub const UNOPENED: Facts = Facts { left_over: true, is_remote: true, threads: THREADS, part_bytes: None };

/// The adapter.
pub struct Posix {
    path: PathBuf,
    job: String,
    me: ServerId,
    /// Of the server that flushes into it; none when it is only read.
    config: Option<ServerConfig>,
    is_root: bool,
    bases: Mutex<Bases>,
    /// The bases are to be opened anew: a note only, as whoever has them locked may wait for a file system that hangs.
    is_stale: AtomicBool,
    refused: Mutex<bool>,
    left_over: bool,
    is_remote: bool,
    /// Files without a name cannot be made, or not get one.
    needs_names: AtomicBool,
    lustre: Lustre,
}

#[derive(Default)]
struct Bases {
    root: Option<Dir>,
    /// Number of the directory that is flushed to; none once it was removed, or where it is only read.
    root_id: Option<u64>,
    staging: HashMap<ServerId, Dir>,
}

impl Posix {
    /// Checks that the directory can be used, and removes what a former run of this server left in staging.
    pub fn open(path: &Path, config: &ServerConfig) -> Result<Self, ServerError> {
        Posix::open_with(path, config, Arc::new(Kernel))
    }

    /// The same with other system calls where they concern Lustre.
    pub fn open_with(path: &Path, config: &ServerConfig, calls: Arc<dyn Calls>) -> Result<Self, ServerError> {
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
        let mut tier = Posix {
            path: path.to_owned(),
            job: config.job.clone(),
            me: config.id,
            config: Some(config.clone()),
            is_root: rustix::process::geteuid().is_root(),
            bases: Mutex::default(),
            is_stale: AtomicBool::new(false),
            refused: Mutex::new(false),
            left_over: false,
            is_remote: false,
            needs_names: AtomicBool::new(false),
            lustre: Lustre::new(calls),
        };
        // Nothing of the namespace changes by a start. Servers that start at the same time may still move these times: they are set again
        // with the first thing that is flushed.
        let unusable = |error| {
            refuse(format!(
                "cannot be written: {error}; make it writable for this user, or name another with --tier"
            ))
        };
        let root = tier.open_root().map_err(unusable)?;
        let kind = fd(&root).map(|root| tier.lustre.calls().fs_type(root)).map_err(unusable)?;
        tier.is_remote = kind.is_ok_and(kinds::is_remote);
        identity::check_tier(config, path, root.id).map_err(refuse)?;
        tier.bases.lock().root_id = Some(root.id);
        tier.left_over = !keeping_times(&root, || tier.probe()).map_err(unusable)?;
        Ok(tier)
    }

    /// A directory that is only listed and read. Nothing is opened yet.
    pub fn reading(path: &Path, config: &ServerConfig) -> Self {
        Posix {
            path: path.to_owned(),
            job: config.job.clone(),
            me: config.id,
            config: None,
            // Whoever is not makes accessible what he may not enter.
            is_root: true,
            bases: Mutex::default(),
            is_stale: AtomicBool::new(false),
            refused: Mutex::new(false),
            left_over: false,
            is_remote: false,
            needs_names: AtomicBool::new(false),
            lustre: Lustre::new(Arc::new(Kernel)),
        }
    }

    /// Removes what is left of a former run, then makes and removes a staged file. False if a directory that made way is still there.
    fn probe(&self) -> TierResult<bool> {
        let staging = self.base(Base::Staging(self.me))?;
        self.remove_stale(&staging)?;
        let place = Place::new(&staging, &Bytes::from(format!("{}probe", staged_prefix(self.me))));
        self.make(&place, &Make::File { size: 1, to: None })?;
        self.remove(&place, false)?;
        self.rest(self.me)
    }

    /// Everything in this server's staging was for an attempt that is over, but for directories that made way.
    fn remove_stale(&self, staging: &Dir) -> TierResult<()> {
        let listing = fs::Dir::read_from(fd(staging)?).map_err(|error| failed("list", b"staging", error))?;
        for entry in listing {
            let entry = entry.map_err(|error| failed("list", b"staging", error))?;
            let name = entry.file_name().to_bytes();
            if name.starts_with(staged_prefix(self.me).as_bytes()) {
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

    /// The root, opened anew; another directory only where the one of before was removed.
    fn root(&self, bases: &mut Bases) -> TierResult<Dir> {
        let root = self.open_root()?;
        if bases.root_id.is_some_and(|id| id != root.id) {
            return Err(TierError::Failed(ANOTHER.to_owned()));
        }
        if bases.root_id.is_none()
            && let Some(config) = &self.config
        {
            tracing::warn!(path = %self.path.display(), "the shared tier's directory was removed, and there is another one now, which is used");
            if let Err(error) = identity::claim_tier(config, &self.path, root.id) {
                tracing::warn!(%error, "it will not be known after a restart");
            }
            bases.root_id = Some(root.id);
        }
        bases.root = Some(root.clone());
        Ok(root)
    }

    fn staging_place(&self, root: &Dir, server: ServerId) -> Place {
        Place::new(root, &Bytes::from(staging_name(&self.job, server)))
    }

    fn open_staging(&self, root: &Dir, server: ServerId) -> TierResult<Dir> {
        let place = self.staging_place(root, server);
        match self.open_dir(&place) {
            Err(TierError::Missing(_)) if server == self.me => {}
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
        Errno::NOSPC | Errno::DQUOT => TierError::Full(text),
        Errno::PERM
        | Errno::ACCESS
        | Errno::INVAL
        | Errno::NAMETOOLONG
        | Errno::FBIG
        | Errno::ILSEQ
        | Errno::MLINK
        | Errno::OVERFLOW
        | Errno::OPNOTSUPP => TierError::Refused(text),
        _ => TierError::Failed(text),
    }
}

/// Nobody else gets into staging, so a file may have its mode at once.
fn staged_mode(to: &Destination) -> Mode {
    Mode::from_raw_mode(to.attributes.mode.unwrap_or(0o600) & 0o777)
}

/// The error for a file that could not be made in staging: what is missing then is staging itself, which is looked for again next time.
fn not_made(at: &Place, error: Errno) -> TierError {
    match failed("make", &at.name, error) {
        TierError::Missing(text) => TierError::Failed(text),
        other => other,
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

/// Whether a directory has a name yet; None if its file system went.
fn has_name(dir: &Dir) -> Option<bool> {
    fd(dir).ok().and_then(|handle| fs::fstat(handle).ok()).map(|stat| stat.st_nlink > 0)
}

impl Bases {
    /// Lets go of the root if it is gone, or `anyway`.
    fn let_go_of_root(&mut self, anyway: bool) {
        let Some(root) = &self.root else { return };
        let has_name = has_name(root);
        if has_name == Some(false) {
            self.root_id = None;
        }
        if anyway || has_name != Some(true) {
            self.root = None;
        }
    }
}

impl Tier for Posix {
    fn facts(&self) -> Facts {
        Facts { left_over: self.left_over, is_remote: self.is_remote, threads: THREADS, part_bytes: None }
    }

    fn base(&self, base: Base) -> TierResult<Dir> {
        let mut bases = self.bases.lock();
        if self.is_stale.swap(false, Ordering::AcqRel) {
            bases.let_go_of_root(true);
            bases.staging.clear();
        }
        // Of its own staging this server hears that it has gone when it makes something there.
        if base == Base::Staging(self.me)
            && let Some(staging) = bases.staging.get(&self.me)
        {
            return Ok(staging.clone());
        }
        bases.let_go_of_root(false);
        let root = match &bases.root {
            Some(root) => root.clone(),
            None => self.root(&mut bases)?,
        };
        let Base::Staging(server) = base else { return Ok(root) };
        bases.staging.retain(|_, dir| has_name(dir) == Some(true));
        if let Some(staging) = bases.staging.get(&server) {
            return Ok(staging.clone());
        }
        let staging = self.open_staging(&root, server)?;
        bases.staging.insert(server, staging.clone());
        Ok(staging)
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
            Ok(stat) => Ok(Some(reading::found(&stat))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(failed("look at", &at.name, error)),
        }
    }

    fn list(&self, dir: &Dir, take: TakeListed<'_>) -> TierResult<()> {
        reading::list(fd(dir)?, take)
    }

    fn read(&self, at: &Place, wanted: &Found, offset: u64, out: &mut [u8]) -> TierResult<()> {
        reading::read(fd(&at.dir)?, &at.name, wanted, offset, out)
    }

    fn make(&self, at: &Place, what: &Make) -> TierResult<u64> {
        let (parent, name) = (fd(&at.dir)?, &at.name[..]);
        let error = |error| failed("make", name, error);
        let private = Mode::from_raw_mode(0o600);
        match what {
            Make::File { size, .. } => {
                let file = self.create(at, *size, private)?;
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

    fn stage(&self, at: &Place, size: u64, to: &Destination, fill: Fill<'_>) -> TierResult<Staged> {
        let file = self.create(at, size, staged_mode(to))?;
        self.complete(file, at, size, to, fill).map(|(_, staged)| staged)
    }

    fn publish(&self, mut new: Publication<'_>) -> TierResult<Option<Staged>> {
        match self.show_nameless(&mut new)? {
            Shown::Yes(staged) => Ok(Some(staged)),
            Shown::NotWanted => Ok(None),
            Shown::CannotBe => new.in_two_steps(self),
        }
    }

    fn shows_staged(&self) -> bool {
        true
    }

    fn stripes(&self, at: &Place) -> TierResult<Option<Stripes>> {
        Ok(self.lustre.stripes(fd(&at.dir)?, &at.name))
    }

    fn open_file(&self, at: &Place) -> TierResult<Box<dyn TierFile>> {
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = fd(&at.dir)?;
        let file = self.lustre.calls().open(dir, &at.name, flags);
        let file = file.map_err(|error| failed("open", &at.name, error))?;
        let calls = self.lustre.is_there(dir).then(|| Arc::clone(self.lustre.calls()));
        Ok(Box::new(PosixFile::new(file, at, self.is_remote, calls)))
    }

    fn collect(&self, _: &Place, _: &[Bytes]) -> TierResult<()> {
        Ok(())
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
            // GlusterFS says so of files, too, while it does not know its directories well: they are looked for again then.
            Errno::INVAL if self.look(from).is_ok_and(|found| found.is_some_and(|found| found.is_dir)) => {
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

    fn rest(&self, me: ServerId) -> TierResult<bool> {
        let root = self.base(Base::Root)?;
        self.bases.lock().staging.clear();
        match self.remove(&self.staging_place(&root, me), true) {
            Ok(()) | Err(TierError::Missing(_)) => Ok(true),
            // A directory waits there for its new place.
            Err(TierError::Occupied(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn reset(&self) {
        self.is_stale.store(true, Ordering::Release);
    }
}

impl Posix {
    /// An empty file in staging. If that has gone, as a whole or because the tier was mounted again, it is looked for again next time.
    fn create(&self, at: &Place, size: u64, mode: Mode) -> TierResult<OwnedFd> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.lustre.create(fd(&at.dir)?, &at.name, size, flags, mode).map_err(|error| not_made(at, error))
    }

    /// Has a new file filled, and gives it its size and attributes.
    fn complete(
        &self,
        file: OwnedFd,
        at: &Place,
        size: u64,
        to: &Destination,
        fill: Fill<'_>,
    ) -> TierResult<(OwnedFd, Staged)> {
        let file = PosixFile::new(file, at, self.is_remote, None);
        if size > 0 {
            fill(&file)?;
        }
        let file = file.into_fd();
        let error = |error| failed("finish", &at.name, error);
        let stat = fs::fstat(&file).map_err(error)?;
        if stat.st_size as u64 != size {
            fs::ftruncate(&file, size).map_err(error)?;
        }
        let refused = attributes::set_open(&file, &stat, &to.attributes, self.is_root).map_err(error)?;
        if let Some(name) = refused {
            self.tell_refused(&name);
        }
        let found = reading::found(&fs::fstat(&file).map_err(error)?);
        Ok((file, Staged { id: found.id, found: Some(found) }))
    }

    /// Says once that the file system does not take an attribute.
    fn tell_refused(&self, name: &[u8]) {
        if !std::mem::replace(&mut *self.refused.lock(), true) {
            let (name, tier) = (String::from_utf8_lossy(name), self.path.display());
            tracing::warn!(%name, %tier, "the shared tier's file system does not take this extended attribute; such are left out there");
        }
    }
}

#[cfg(test)]
mod tests;
