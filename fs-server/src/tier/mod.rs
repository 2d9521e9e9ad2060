//! The port of the shared tier: what flushing needs of a place for files, and nothing more.
//!
//! Directories are addressed by handle, not by path. A handle stays with its directory when that, or one above it, moves: a file
//! published while a directory moves lands in that directory, without a lock in the cluster (`docs/decisions/0006-flush-by-name.md`).
//!
//! # Invariants
//! - An adapter follows no symbolic link below the tier's directory (`tests` of each adapter: `symlinks_are_not_followed`).
//! - `rename` shows the old or the new object under a name, whole; nothing is ever written to a published file.
//!
//! Deliberately absent: inodes, names and versions of the cluster, retries, threads. Calls block for as long as the tier needs.

pub mod both;
pub mod late;
pub mod posix;
pub mod s3;

use std::any::Any;
use std::sync::Arc;

use bytes::Bytes;
use fs_proto::{FileKind, ServerId, TimeNs};
use thiserror::Error;

/// Why the tier failed: one variant per thing that a caller can do.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TierError {
    /// The object or the directory is not there (or is another one than expected): look again who it is.
    #[error("{0}")]
    Missing(String),
    /// Something else has the name, or the directory is not empty: clear it first.
    #[error("{0}")]
    Occupied(String),
    /// A directory would move below itself: move the other one first.
    #[error("{0}")]
    BelowItself(String),
    /// It has no space, or the quota is used up: try again later, and do not count on it.
    #[error("{0}")]
    Full(String),
    /// It answers, and does not take this, whatever the time: try again later, tell a person, and do not count on it.
    #[error("{0}")]
    Refused(String),
    /// The tier failed, or is away: try again later.
    #[error("{0}")]
    Failed(String),
}

/// Result of a call to the tier.
pub type TierResult<T> = Result<T, TierError>;

/// A directory of the tier. Clones share the handle.
#[derive(Clone)]
pub struct Dir {
    /// The tier's own number of the directory.
    pub id: u64,
    handle: Arc<dyn Any + Send + Sync>,
}

impl Dir {
    /// A directory behind an adapter's own handle.
    pub fn new(id: u64, handle: impl Any + Send + Sync) -> Self {
        Dir { id, handle: Arc::new(handle) }
    }

    /// The handle, for the adapter that made it.
    pub fn handle<T: Any>(&self) -> Option<&T> {
        self.handle.downcast_ref()
    }
}

/// A name in a directory of the tier. The name "." is the directory itself, for [`Tier::set`].
#[derive(Clone)]
pub struct Place {
    /// The directory.
    pub dir: Dir,
    /// The name.
    pub name: Bytes,
}

impl Place {
    /// `name` in `dir`.
    pub fn new(dir: &Dir, name: &Bytes) -> Self {
        Place { dir: dir.clone(), name: name.clone() }
    }

    /// The directory itself.
    pub fn itself(dir: &Dir) -> Self {
        Place { dir: dir.clone(), name: Bytes::from_static(b".") }
    }
}

/// A directory to begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// The tier's directory, which is the root of the namespace.
    Root,
    /// Where a server makes objects before they get their place. Its own is made on need; another's is missing if it is not there.
    Staging(ServerId),
}

/// What to make.
#[derive(Clone)]
pub enum Make {
    /// A staged file of `size` bytes, all zero.
    File {
        /// Bytes.
        size: u64,
        /// Where it will be published: some tiers want to know before the first byte. Absent for a file that never will.
        to: Option<Box<Destination>>,
    },
    /// An empty directory.
    Directory,
    /// A symbolic link.
    Symlink {
        /// What it points to.
        target: Bytes,
    },
    /// A pipe, socket or device node.
    Special {
        /// Which of them.
        kind: FileKind,
        /// Device number.
        rdev: u32,
    },
    /// A further name of an object.
    Link {
        /// One of its names.
        of: Place,
    },
}

/// Where a staged file will be published.
#[derive(Clone)]
pub struct Destination {
    /// Its place. If it is published at another, the tier may refuse that.
    pub place: Place,
    /// Its attributes; later ones of [`Tier::set`] may come too late.
    pub attributes: Attributes,
}

/// What is fixed about a tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// A former run of this server left something in its staging that another server takes out, or [`Tier::rest`] has something to tidy up.
    pub left_over: bool,
    /// Another machine keeps it: what is written may be in this one's memory only, and go with it, until it is synced.
    pub is_remote: bool,
    /// Calls at the same time that are worth while.
    pub threads: usize,
    /// A file is written in parts of at least so many bytes, each in one call; see [`Facts::part_bytes`]. None: in any pieces.
    pub part_bytes: Option<u64>,
}

/// Most parts of a file.
pub const PARTS_MAX: u64 = 10_000;

impl Facts {
    /// Bytes of each part but the last of a file of `size` bytes; None if it is written in any pieces.
    pub fn part_bytes(&self, size: u64) -> Option<u64> {
        const UNIT: u64 = 1 << 20;
        self.part_bytes.map(|least| least.max(size.div_ceil(PARTS_MAX).next_multiple_of(UNIT)))
    }
}

/// How a staged file is cut into objects, each of which a server of the tier holds and locks as a whole: stripe `k` is in object `k` mod `count`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stripes {
    /// Bytes of a stripe; never 0.
    pub stripe_bytes: u64,
    /// Objects; never 0.
    pub count: u64,
}

/// Attributes to set.
#[derive(Debug, Clone, Default)]
pub struct Attributes {
    /// Permission bits; absent leaves them.
    pub mode: Option<u32>,
    /// User and group; absent leaves them.
    pub owner: Option<(u32, u32)>,
    /// Extended attributes; `user.*` and `trusted.*` that are not here are removed. Absent leaves them.
    pub xattrs: Option<Vec<(Bytes, Bytes)>>,
    /// Access time.
    pub atime: TimeNs,
    /// Change time of the content.
    pub mtime: TimeNs,
}

/// What lies at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// The tier's own number of the object.
    pub id: u64,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Bytes.
    pub size: u64,
    /// Change time of its content.
    pub mtime: TimeNs,
}

/// All that a listing tells of an object.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Its name.
    pub name: Bytes,
    /// Number, size and time.
    pub found: Found,
    /// What it is.
    pub kind: FileKind,
    /// Mode, owner, times and extended attributes: those of the user, access control lists and capabilities. What cannot be known is as it
    /// would be made.
    pub attributes: Attributes,
    /// Last change of attributes.
    pub ctime: TimeNs,
    /// Links of a directory (2 and its subdirectories), as far as the tier counts them.
    pub nlink: u32,
    /// Device number.
    pub rdev: u32,
    /// Target of a symbolic link.
    pub target: Bytes,
}

/// A staged file that is ready to be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Staged {
    /// The tier's own number of it.
    pub id: u64,
    /// As [`Tier::look`] will show it when it is published, if that is known already.
    pub found: Option<Found>,
}

/// Writes the content of a staged file.
pub type Fill<'a> = &'a mut dyn FnMut(&dyn TierFile) -> TierResult<()>;

/// A file that is made in one go and shown.
pub struct Publication<'a> {
    /// Where it may be staged.
    pub at: &'a Place,
    /// Bytes.
    pub size: u64,
    /// Where it will be, and how.
    pub to: &'a Destination,
    /// Writes its content.
    pub fill: Fill<'a>,
    /// Asked when it is ready: whether it is to be shown still.
    pub is_wanted: &'a dyn Fn() -> bool,
}

impl Publication<'_> {
    /// [`Tier::publish`] by staging and a rename.
    fn in_two_steps<T: Tier + ?Sized>(self, tier: &T) -> TierResult<Option<Staged>> {
        let staged = tier.stage(self.at, self.size, self.to, self.fill)?;
        if !(self.is_wanted)() {
            return Ok(None);
        }
        tier.rename(self.at, &self.to.place)?;
        Ok(Some(staged))
    }
}

/// Takes a part of a listing; false ends it.
pub type TakeListed<'a> = &'a mut dyn FnMut(Vec<Listed>) -> bool;

/// A staged file that is being filled, from several threads.
pub trait TierFile: Send + Sync {
    /// Writes all of `data` at `offset`.
    fn write_at(&self, offset: u64, data: &[u8]) -> TierResult<()>;
    /// Waits until what was written survives loss of power.
    fn sync(&self) -> TierResult<()>;
    /// What the server that publishes the file has to know of the writes here: see [`Tier::collect`].
    fn receipt(&self) -> Bytes;
}

/// The shared tier.
pub trait Tier: Send + Sync {
    /// What is fixed about it.
    fn facts(&self) -> Facts;
    /// A directory to begin with.
    fn base(&self, base: Base) -> TierResult<Dir>;
    /// The directory at a place.
    fn open_dir(&self, at: &Place) -> TierResult<Dir>;
    /// What lies at a place.
    fn look(&self, at: &Place) -> TierResult<Option<Found>>;
    /// Gives what lies in a directory to `take`, in parts and in any order; nothing of staging.
    fn list(&self, dir: &Dir, take: TakeListed<'_>) -> TierResult<()>;
    /// Fills `out` from byte `offset` of a file. It is missing unless it is `wanted` before and after reading: number, size and time.
    fn read(&self, at: &Place, wanted: &Found, offset: u64, out: &mut [u8]) -> TierResult<()>;
    /// Makes something where nothing is; returns its number.
    fn make(&self, at: &Place, what: &Make) -> TierResult<u64>;
    /// Makes a staged file, has it filled if it is not empty, and gives it the attributes: for files that are made in one go.
    fn stage(&self, at: &Place, size: u64, to: &Destination, fill: Fill<'_>) -> TierResult<Staged> {
        let id = self.make(at, &Make::File { size, to: Some(Box::new(to.clone())) })?;
        if size > 0 {
            fill(self.open_file(at)?.as_ref())?;
        }
        self.set(at, id, &to.attributes)?;
        Ok(Staged { id, found: None })
    }
    /// Makes a file as [`Tier::stage`] does, and shows it at its destination if it is wanted still. None: it is not. What is left in staging unless the file is shown
    /// is the caller's to remove.
    fn publish(&self, new: Publication<'_>) -> TierResult<Option<Staged>> {
        new.in_two_steps(self)
    }
    /// Whether [`Tier::look`] shows a file that is staged and has its attributes as it will when the file is published.
    fn shows_staged(&self) -> bool {
        false
    }
    /// The objects of a staged file, if each should be written by one server of the cluster. None: whoever has a range may write it.
    fn stripes(&self, at: &Place) -> TierResult<Option<Stripes>> {
        let _ = at;
        Ok(None)
    }
    /// Opens a staged file for writing.
    fn open_file(&self, at: &Place) -> TierResult<Box<dyn TierFile>>;
    /// Takes over what servers wrote into a staged file, by the receipts of all of them.
    fn collect(&self, at: &Place, receipts: &[Bytes]) -> TierResult<()>;
    /// Sets attributes of what lies at a place, if that has number `id`; else it is missing.
    fn set(&self, at: &Place, id: u64, attributes: &Attributes) -> TierResult<()>;
    /// Moves an object, replacing what is no directory at the new place.
    fn rename(&self, from: &Place, to: &Place) -> TierResult<()>;
    /// Moves directory `id`; false if it is at neither place. What was cut off before is finished.
    fn move_directory(&self, id: u64, from: &Place, to: &Place) -> TierResult<bool> {
        if self.look(from)?.is_some_and(|found| found.id == id) {
            self.rename(from, to)?;
            return Ok(true);
        }
        // A crash after the move and before it was told: it is there already.
        Ok(self.look(to)?.is_some_and(|found| found.id == id))
    }
    /// After a move to this place was cut off and is not wanted any more: the directory is wholly where it was, or wholly here.
    fn undo_move(&self, to: &Place) -> TierResult<()> {
        let _ = to;
        Ok(())
    }
    /// Removes an object: an empty directory if `is_dir`, else anything but a directory.
    fn remove(&self, at: &Place, is_dir: bool) -> TierResult<()>;
    /// Server `me`, which this is, stages nothing any more: tidies up what only its staging needs, and what was cut off. False while
    /// something lies in staging.
    fn rest(&self, me: ServerId) -> TierResult<bool>;
    /// After failures: forgets what may have become invalid (a remounted file system). Unlike all other calls it never waits: workers make it.
    fn reset(&self);
}

/// Beginning of the names of staging directories; job and server follow.
const STAGING: &str = ".hayate-staging-";

/// A job's name as part of a file's name.
fn plain_job(job: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' };
    job.chars().take(64).map(plain).collect()
}

fn staging_of_job(job: &str) -> String {
    format!("{STAGING}{}-", plain_job(job))
}

/// The name of a server's staging directory, beside the names of the namespace's root.
pub fn staging_name(job: &str, server: ServerId) -> String {
    format!("{}{}", staging_of_job(job), server.0)
}

/// Whether an extended attribute is taken over from a tier.
pub fn is_kept_xattr(name: &[u8]) -> bool {
    name.starts_with(b"user.") || name.starts_with(b"system.posix_acl_") || name == b"security.capability"
}

/// Whether servers of any job may stage under this name.
pub fn is_anyones_staging(name: &[u8]) -> bool {
    name.starts_with(STAGING.as_bytes())
}

/// Whether a server of the job may stage under this name.
pub fn is_staging_name(name: &[u8], job: &str) -> bool {
    let server = name.strip_prefix(staging_of_job(job).as_bytes());
    server.is_some_and(|server| !server.is_empty() && server.iter().all(u8::is_ascii_digit))
}

/// Beginning of the names of staged objects of one server.
pub fn staged_prefix(server: ServerId) -> String {
    format!("f-{}-", server.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn staging_names_are_known_again() {
        let name = staging_name("a/7", ServerId(3));
        assert_eq!(name, ".hayate-staging-a_7-3");
        assert!(is_staging_name(name.as_bytes(), "a/7"));
        for other in [&b".hayate-staging-a_7"[..], b".hayate-staging-a_7-", b".hayate-staging-a_7-1-0", b"x"]
        {
            assert!(!is_staging_name(other, "a/7"));
        }
    }
}
