//! What an extended attribute says that holds for everything below a directory, unless something below says otherwise.
//!
//! Looked up when it is wanted, not copied when something is made: a directory may say something else later. What a directory says, or
//! inherits, is remembered for [`REMEMBERED`].

use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fs_proto::record::InodeRecord;
use fs_proto::{InodeId, Status};

use crate::error::{OpError, OpResult};
use crate::flush::remote;
use crate::hash::{Cache, cache};
use crate::namespace::DEPTH_MAX;
use crate::worker::Worker;

/// How long it is remembered what a directory says.
const REMEMBERED: Duration = Duration::from_secs(2);
/// Directories of which it is remembered.
const LIMIT: usize = 4_096;

/// Checks a value of an attribute that is `yes` or `no`.
pub fn check_switch(name: &[u8], value: &[u8]) -> OpResult<()> {
    match value {
        b"yes" | b"no" => Ok(()),
        _ => {
            let name = String::from_utf8_lossy(name);
            Err(OpError::because(Status::Invalid, format!("{name} is yes or no")))
        }
    }
}

/// What directories say, or inherit, of one attribute.
pub struct Inherited<T> {
    known: Cache<InodeId, (Instant, T)>,
    name: &'static [u8],
    read: fn(&[u8]) -> Option<T>,
    unsaid: T,
}

impl<T: Copy> Inherited<T> {
    /// Of the attribute `name`, whose value `read` understands; `unsaid` holds where nobody says anything.
    pub fn new(name: &'static [u8], read: fn(&[u8]) -> Option<T>, unsaid: T) -> Self {
        Inherited { known: cache(LIMIT), name, read, unsaid }
    }

    /// What extended attributes say themselves.
    pub fn said(&self, xattrs: &[(Bytes, Bytes)]) -> Option<T> {
        let (_, value) = xattrs.iter().find(|(name, _)| name == self.name)?;
        (self.read)(value)
    }

    /// What holds for an inode with these extended attributes, whose parent is `parent`.
    pub async fn of(
        &self,
        worker: &Rc<Worker>,
        ino: InodeId,
        parent: InodeId,
        xattrs: &[(Bytes, Bytes)],
    ) -> OpResult<T> {
        match self.said(xattrs) {
            Some(said) => Ok(said),
            None if ino == InodeId::ROOT => Ok(self.unsaid),
            None => self.below(worker, parent).await,
        }
    }

    /// What holds for an inode that lives here.
    pub async fn of_inode(&self, worker: &Rc<Worker>, inode: &InodeRecord) -> OpResult<T> {
        let xattrs = worker.node.namespace.xattrs(inode.attr.ino)?;
        self.of(worker, inode.attr.ino, inode.attr.parent, &xattrs).await
    }

    /// What holds for what lies in a directory and says nothing itself.
    pub async fn below(&self, worker: &Rc<Worker>, dir: InodeId) -> OpResult<T> {
        let (mut at, mut passed) = (dir, Vec::new());
        let found = loop {
            if let Some((since, known)) = self.known.get(&at)
                && since.elapsed() < REMEMBERED
            {
                break known;
            }
            passed.push(at);
            let view = remote::state(worker, at, None).await?;
            if let Some(said) = self.said(&view.xattrs) {
                break said;
            }
            match view.inode {
                Some(inode) if at != InodeId::ROOT && passed.len() < DEPTH_MAX => at = inode.attr.parent,
                _ => break self.unsaid,
            }
        };
        let now = Instant::now();
        for dir in passed {
            self.known.insert(dir, (now, found));
        }
        Ok(found)
    }
}
