//! Openings that the kernel serves by itself, from a copy of the file that the node's server has: which, and how they go together with others.

use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use fs_client::{Attr, FileKind, HotCopied, InodeId};
use fuser::{BackingId, Errno};

use super::Adapter;
use crate::failure::Outcome;
use crate::passing::{Opener, Seat, Way};

/// Why a copy cannot be used, and others cannot, either.
const LASTING: [i32; 6] =
    [libc::EPERM, libc::EACCES, libc::ELOOP, libc::EOPNOTSUPP, libc::EINVAL, libc::ENOTTY];

/// What the kernel knows a copy by.
pub(crate) type Backing = Arc<BackingId>;

/// An opening that the kernel asks for.
pub(super) struct Opening<'a> {
    /// Its number of the inode.
    pub(super) node: u64,
    /// The thread that opens.
    pub(super) thread: u32,
    pub(super) flags: i32,
    /// Tells the kernel of a copy.
    pub(super) backing: &'a dyn Fn(&File) -> std::io::Result<BackingId>,
}

/// What an opening goes by.
pub(super) struct Served {
    pub(super) seat: Seat<Backing>,
    /// The copy that is mapped, and read.
    pub(super) copy: Option<Backing>,
    /// Only mapped: reading goes through this process.
    pub(super) is_read_here: bool,
}

impl Adapter {
    /// Decides how a file that was just opened is served.
    pub(super) fn served(&self, opening: &Opening<'_>, attr: &Attr) -> Outcome<Served> {
        let who = Opener { node: opening.node, ino: attr.ino.0, thread: opening.thread };
        let copy = if self.may_pass(opening, attr) { self.copy_of(opening, attr) } else { None };
        let way = match self.passing.enter(who, copy) {
            // It has no name to be looked up.
            Way::Elsewhere if attr.nlink == 0 => Way::Nowhere,
            way => way,
        };
        match way {
            Way::Through(seat) => Ok(Served { seat, copy: None, is_read_here: true }),
            Way::Past(seat, copy) => Ok(Served { seat, copy: Some(copy), is_read_here: false }),
            Way::Elsewhere => Err(Errno::from_i32(libc::ESTALE).into()),
            // By way of an opening of the old copy, as /proc/self/fd. Who only reads gets what is there now; maps are of what the other has. What somebody would write
            // to such a map would go to the copy, and be lost.
            Way::Nowhere if is_reading(opening.flags) => {
                let (seat, copy) = self.passing.join(opening.node);
                Ok(Served { seat, copy, is_read_here: true })
            }
            Way::Nowhere => Err(Errno::from_i32(libc::ETXTBSY).into()),
        }
    }

    /// How a new file is: nobody else has it open.
    pub(super) fn newly_served(&self, ino: InodeId) -> Served {
        let (seat, copy) = self.passing.join(ino.0);
        Served { seat, copy, is_read_here: true }
    }

    fn may_pass(&self, opening: &Opening<'_>, attr: &Attr) -> bool {
        self.passing.may_pass(opening.node)
            && is_reading(opening.flags)
            && opening.flags & libc::O_DIRECT == 0
            && attr.kind == FileKind::File
            && !attr.inline
            && attr.size > 0
    }

    /// The copy that the node's server has at this moment, after the opening.
    fn copy_of(&self, opening: &Opening<'_>, attr: &Attr) -> Option<(u64, Backing)> {
        let told = self.client.whole_copy(attr.ino, attr.size);
        let (number, path) = match told {
            Ok(HotCopied::Here { number, path }) => (number, path),
            Ok(HotCopied::No {} | HotCopied::Coming {}) => return None,
            Err(error) => {
                tracing::debug!(%error, "it is not known whether there is a copy");
                return None;
            }
        };
        if let Some(backing) = self.passing.known(opening.node, number) {
            return Some((number, backing));
        }
        let path = Path::new(std::ffi::OsStr::from_bytes(&path));
        let file = match open_copy(path, attr.size) {
            Ok(file) => file?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None, // Called back.
            Err(error) => return self.refused(path, &error),
        };
        match (opening.backing)(&file) {
            Ok(backing) => Some((number, Arc::new(backing))),
            Err(error) => self.refused(path, &error),
        }
    }

    /// What lacks rights once, or another file system below, lacks them always; anything else may pass.
    fn refused<T>(&self, path: &Path, error: &std::io::Error) -> Option<T> {
        if !error.raw_os_error().is_some_and(|code| LASTING.contains(&code)) {
            tracing::debug!(path = %path.display(), %error, "a copy cannot be used");
        } else if self.passing.refuse() {
            tracing::warn!(
                path = %path.display(),
                %error,
                "--passthrough has no effect from now on: the copy cannot be used. It takes a mount made by root (CAP_SYS_ADMIN) and a store that is not on overlayfs"
            );
        }
        None
    }
}

fn is_reading(flags: i32) -> bool {
    flags & libc::O_ACCMODE == libc::O_RDONLY && flags & libc::O_TRUNC == 0
}

/// None: it is not what was said.
fn open_copy(path: &Path, size: u64) -> std::io::Result<Option<File>> {
    let file = File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
    let meta = file.metadata()?;
    Ok((meta.is_file() && meta.len() == size).then_some(file))
}
