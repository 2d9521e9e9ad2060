//! `user.hayate.pin` = `yes` or `no`: of a file, or of a directory for everything below that says nothing else.

use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fs_proto::record::InodeRecord;
use fs_proto::{InodeId, Status};

use crate::error::{OpError, OpResult};
use crate::flush::remote;
use crate::worker::Worker;

/// The attribute.
pub const PIN: &[u8] = b"user.hayate.pin";

/// Directories above one another.
const DEPTH_MAX: usize = 4096;
/// How long it is remembered what a directory says.
const REMEMBERED: Duration = Duration::from_secs(2);
/// Directories of which it is remembered.
const LIMIT: usize = 4096;

/// What directories say, or inherit.
pub struct Pins {
    known: quick_cache::sync::Cache<InodeId, (Instant, bool)>,
}

impl Default for Pins {
    fn default() -> Self {
        Pins { known: quick_cache::sync::Cache::new(LIMIT) }
    }
}

/// Checks a value of the attribute.
pub fn check(value: &[u8]) -> OpResult<()> {
    match value {
        b"yes" | b"no" => Ok(()),
        _ => Err(OpError::new(Status::Invalid, "user.hayate.pin is yes or no")),
    }
}

fn said(xattrs: &[(Bytes, Bytes)]) -> Option<bool> {
    let (_, value) = xattrs.iter().find(|(name, _)| name == PIN)?;
    Some(&value[..] == b"yes")
}

/// Whether a file that lives here is to stay.
pub async fn is_pinned(worker: &Rc<Worker>, inode: &InodeRecord) -> OpResult<bool> {
    match said(&worker.node.namespace.xattrs(inode.attr.ino)?) {
        Some(pinned) => Ok(pinned),
        None => below(worker, inode.attr.parent).await,
    }
}

async fn below(worker: &Rc<Worker>, dir: InodeId) -> OpResult<bool> {
    let known = &worker.node.backing.pins.known;
    let (mut at, mut passed) = (dir, Vec::new());
    let pinned = loop {
        if let Some((since, pinned)) = known.get(&at)
            && since.elapsed() < REMEMBERED
        {
            break pinned;
        }
        passed.push(at);
        let view = remote::state(worker, at, None).await?;
        if let Some(pinned) = said(&view.xattrs) {
            break pinned;
        }
        match view.inode {
            Some(inode) if at != InodeId::ROOT && passed.len() < DEPTH_MAX => at = inode.attr.parent,
            _ => break false,
        }
    };
    let now = Instant::now();
    for dir in passed {
        known.insert(dir, (now, pinned));
    }
    Ok(pinned)
}
