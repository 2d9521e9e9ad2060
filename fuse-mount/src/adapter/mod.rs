//! The operations: each translates, calls the client, and translates the answer.
//!
//! [`Adapter`] holds what lives as long as the mount. `filesystem` is the table that `fuser` calls; the others hold the
//! operations, one file a family.

mod dirs;
mod files;
mod filesystem;
mod inodes;
mod locks;
mod names;
mod past;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use fs_client::{Attr, Caller, Client, File, InodeId, LockFamily};
use fuser::{FileAttr, Notifier, Request};
use parking_lot::Mutex;

pub(crate) use self::past::Backing;
use crate::dir_stream::DirStream;
use crate::handles::Handles;
use crate::lock_desk::LockDesk;
use crate::open_inodes::{OpenInodes, Present};
use crate::options::MountOptions;
use crate::passing::{Passing, Seat};
use crate::recent::Recent;
use crate::translate::{file_attr, is_acl, supplementary_groups, without_privileges};

/// Inodes of which the page cache's version, or the parent, is remembered: each about 50 bytes, twice.
const RECENT_INODES: usize = 32_768;

/// Inode numbers are never used again.
pub(crate) const GENERATION: fuser::Generation = fuser::Generation(0);

/// An open file. Whether it may be written and appended to is in the client's flags.
pub(crate) struct OpenFile {
    /// The client's.
    pub(crate) file: File,
    /// Opened past the page cache.
    direct: bool,
    /// Who locked something through it.
    lockers: Mutex<Vec<(LockFamily, u64)>>,
    emptied: Emptied,
    /// Counted out after `file` is closed (fields are dropped in this order).
    present: Present,
    /// Counted out then, too: the kernel has.
    seat: Seat<Backing>,
}

impl OpenFile {
    /// The kernel's number of its inode.
    pub(crate) fn node(&self) -> u64 {
        self.seat.node()
    }

    /// Notes that `owner` locks through this opening.
    fn note_owner(&self, family: LockFamily, owner: u64) {
        let mut lockers = self.lockers.lock();
        if !lockers.contains(&(family, owner)) {
            lockers.push((family, owner));
        }
    }
}

/// An open directory.
pub(crate) struct OpenDir {
    stream: Mutex<DirStream>,
}

/// What a file's content is known by: equal stamps, equal content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ContentStamp {
    version: u64,
    mtime: i64,
    size: u64,
}

/// What the kernel was told at an opening.
struct Emptied {
    /// The cache holds nothing older than this once the answer is taken.
    for_content: ContentStamp,
    /// That it was taken is known, and noted; or it was told to keep the cache, as nothing older was there.
    known: AtomicBool,
}

impl ContentStamp {
    fn of(attr: &Attr) -> Self {
        ContentStamp { version: attr.version, mtime: attr.mtime, size: attr.size }
    }
}

/// Files that are open in a mount; the unmounter publishes them.
pub(crate) type OpenFiles = Handles<OpenFile>;

/// What `fuser` calls.
pub(crate) struct Adapter {
    client: Client,
    files: Arc<OpenFiles>,
    inodes: Arc<OpenInodes>,
    /// Which of the kernel's inodes is open in which way.
    passing: Arc<Passing<Backing>>,
    dirs: Handles<OpenDir>,
    /// Content that the page cache of the kernel's inode was last emptied for, known to be done.
    cached: Mutex<Recent<u64, ContentStamp>>,
    /// Parents of directories, for "..".
    parents: Mutex<Recent<u64, u64>>,
    /// Inodes that had no file capability when it was last looked: the kernel asks at writes.
    incapable: Mutex<Recent<u64, Instant>>,
    /// Inodes that had no access control list when last heard of: the kernel asks when it checks permissions.
    without_lists: Mutex<Recent<u64, Instant>>,
    /// Inodes without names whose opening was refused once.
    nameless: Mutex<Recent<u64, Instant>>,
    attr_timeout: Duration,
    entry_timeout: Duration,
    desk: LockDesk,
    direct_io: bool,
    writeback: bool,
    passthrough: bool,
}

impl Adapter {
    /// An adapter over `client`.
    ///
    /// # Errors
    /// The system's, if it gives no thread.
    pub(crate) fn new(client: Client, options: &MountOptions) -> std::io::Result<Self> {
        Ok(Adapter {
            desk: LockDesk::open(&client)?,
            client,
            files: Arc::default(),
            inodes: Arc::default(),
            passing: Arc::new(Passing::new()),
            dirs: Handles::default(),
            cached: Mutex::new(Recent::new(RECENT_INODES)),
            parents: Mutex::new(Recent::new(RECENT_INODES)),
            incapable: Mutex::new(Recent::new(RECENT_INODES)),
            without_lists: Mutex::new(Recent::new(RECENT_INODES)),
            nameless: Mutex::new(Recent::new(RECENT_INODES)),
            attr_timeout: options.attr_timeout,
            entry_timeout: options.entry_timeout,
            direct_io: options.past_the_page_cache(),
            writeback: options.writeback,
            passthrough: options.passthrough,
        })
    }

    /// Where the session's notifier belongs.
    pub(crate) fn notifier(&self) -> Arc<OnceLock<Notifier>> {
        self.desk.notifier()
    }

    /// The table of open files.
    pub(crate) fn open_files(&self) -> &Arc<OpenFiles> {
        &self.files
    }

    /// How files are open.
    pub(crate) fn passing(&self) -> &Arc<Passing<Backing>> {
        &self.passing
    }

    /// FUSE's number of an inode, as Hayate's.
    fn inode(&self, ino: fuser::INodeNo) -> InodeId {
        InodeId(self.passing.file_of(ino.0))
    }

    /// `stat` for the kernel; learns on the way where directories lie and which files have setuid bits.
    fn show(&self, attr: &Attr) -> FileAttr {
        if attr.is_dir() {
            self.parents.lock().put(attr.ino.0, attr.parent.0);
        } else if without_privileges(attr.mode).is_some() {
            self.inodes.suspect(attr.ino.0);
        }
        if !attr.acl {
            self.without_lists.lock().put(attr.ino.0, Instant::now());
        }
        file_attr(attr)
    }

    /// Notes that an inode has no file capability now.
    fn note_incapable(&self, ino: InodeId) {
        self.incapable.lock().put(ino.0, Instant::now());
    }

    /// Whether an inode had no access control list within the attributes' time-out.
    fn is_without_lists(&self, ino: InodeId) -> bool {
        let heard = self.without_lists.lock().get(ino.0);
        heard.is_some_and(|when| when.elapsed() < self.attr_timeout)
    }

    /// Whether an inode had no file capability within the attributes' time-out.
    fn is_incapable(&self, ino: InodeId) -> bool {
        let looked = self.incapable.lock().get(ino.0);
        looked.is_some_and(|when| when.elapsed() < self.attr_timeout)
    }

    /// The time-out of answers that have one for the name and the attributes together.
    fn joint_timeout(&self) -> Duration {
        self.attr_timeout.min(self.entry_timeout)
    }
}

/// On whose behalf. Without supplementary groups: FUSE does not pass them, and the kernel has checked permissions.
fn caller(req: &Request) -> Caller {
    Caller { uid: req.uid(), gid: req.gid(), groups: Vec::new() }
}

/// On whose behalf an attribute is set: for an access control list with the supplementary groups, as only a member of the group keeps the
/// set-group-id bit.
fn xattr_caller(req: &Request, name: &OsStr) -> Caller {
    let mut who = caller(req);
    if who.uid != 0 && is_acl(name.as_bytes()) {
        // Nobody to read of has ended meanwhile, and needs no answer.
        let status = std::fs::read_to_string(format!("/proc/{}/status", req.pid())).unwrap_or_default();
        who.groups = supplementary_groups(&status);
    }
    who
}
