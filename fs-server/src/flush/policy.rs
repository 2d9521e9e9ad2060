//! When contents are copied to the shared tier: the extended attribute `user.hayate.flush` of a file, else of the nearest directory above
//! that has one.
//!
//! ```text
//! close           when the file is closed (what holds if nothing is said)
//! idle:SECONDS    when neither content nor attributes changed for so long
//! demand          when somebody asks: `hayate flush`, `hayate down --drain`
//! never           only `hayate flush PATH` does
//! ```
//! Looked up when a copy is due, not copied when something is made: a directory's policy may be changed later and holds for all below.
//! Directories, removals, renames, and new attributes of what is in the tier are always carried out.

use std::fmt;
use std::rc::Rc;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use fs_proto::record::{InodeRecord, TierLocation};
use fs_proto::{InodeId, Status};

use super::outcome::{FlushResult, Stop};
use super::queue::FlushItem;
use crate::error::{OpError, OpResult};
use crate::inherited::Inherited;
use crate::worker::Worker;

/// The attribute that says it.
pub const FLUSH: &[u8] = b"user.hayate.flush";
/// Shows whether a file is in the shared tier as it is: `yes` or `no`.
pub const DURABLE: &[u8] = b"user.hayate.durable";
/// After which what waits for a demand is looked at again: its policy may have changed.
const DEMAND_PAUSE: Duration = Duration::from_secs(60);

/// When a content is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// When it is closed.
    Close,
    /// When it rested for so many seconds.
    Idle(u32),
    /// When somebody asks.
    Demand,
    /// Not at all.
    Never,
}

impl FromStr for Policy {
    type Err = OpError;
    fn from_str(text: &str) -> OpResult<Self> {
        const WRONG: OpError =
            OpError::new(Status::Invalid, "user.hayate.flush is close, idle:SECONDS, demand or never");
        match text {
            "close" => Ok(Policy::Close),
            "demand" => Ok(Policy::Demand),
            "never" => Ok(Policy::Never),
            text => {
                let seconds = text.strip_prefix("idle:").and_then(|seconds| seconds.parse().ok());
                seconds.map(Policy::Idle).ok_or(WRONG)
            }
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Policy::Close => f.write_str("close"),
            Policy::Idle(seconds) => write!(f, "idle:{seconds}"),
            Policy::Demand => f.write_str("demand"),
            Policy::Never => f.write_str("never"),
        }
    }
}

/// Checks a value of the attribute.
pub fn check(value: &[u8]) -> OpResult<()> {
    String::from_utf8_lossy(value).parse::<Policy>().map(drop)
}

/// What directories say, or inherit.
pub fn policies() -> Inherited<Policy> {
    Inherited::new(FLUSH, |value| String::from_utf8_lossy(value).parse().ok(), Policy::Close)
}

/// What holds for an inode with these attributes of its own.
pub async fn of(worker: &Rc<Worker>, inode: &InodeRecord, xattrs: &[(Bytes, Bytes)]) -> OpResult<Policy> {
    worker.node.flusher.policies().of(worker, inode.attr.ino, inode.attr.parent, xattrs).await
}

/// Lets the copy of a content begin, or says when it may. `forced`: somebody asked for this very file.
pub async fn admit(
    worker: &Rc<Worker>,
    inode: &InodeRecord,
    xattrs: &[(Bytes, Bytes)],
    forced: bool,
) -> FlushResult<()> {
    if forced {
        return Ok(());
    }
    let flusher = &worker.node.flusher;
    let everything = flusher.takes_everything() || flusher.control().is_urgent(&worker.node);
    match of(worker, inode, xattrs).await? {
        Policy::Never => Err(Stop::Never),
        Policy::Demand if !everything => Err(Stop::Later(DEMAND_PAUSE)),
        Policy::Idle(seconds) if !everything => {
            let changed = inode.attr.mtime.max(inode.attr.ctime);
            let rested = worker.node.now().saturating_sub(changed).max(0) as u64;
            let left = Duration::from_secs(u64::from(seconds)).saturating_sub(Duration::from_nanos(rested));
            if left.is_zero() { Ok(()) } else { Err(Stop::Later(left)) }
        }
        Policy::Close | Policy::Demand | Policy::Idle(_) => Ok(()),
    }
}

/// The value of an attribute that is not stored, if `name` is one: of an inode that lives here.
pub async fn shown(worker: &Rc<Worker>, inode: &InodeRecord, name: &[u8]) -> OpResult<Option<Bytes>> {
    let node = &worker.node;
    if !node.flusher.has_tier() {
        return Ok(None);
    }
    if name == DURABLE {
        let text = if is_durable(worker, inode)? { "yes" } else { "no" };
        return Ok(Some(Bytes::from_static(text.as_bytes())));
    }
    if name != FLUSH {
        return Ok(None);
    }
    let policy = of(worker, inode, &node.namespace.xattrs(inode.attr.ino)?).await?;
    Ok(Some(Bytes::from(policy.to_string())))
}

/// Whether the copy is of this version and these attributes, and under the inode's name.
fn is_durable(worker: &Rc<Worker>, inode: &InodeRecord) -> OpResult<bool> {
    let (node, attr) = (&worker.node, &inode.attr);
    // Of all else version and time tell: it may be noted for another name's sake.
    if attr.is_dir() && node.namespace.queue().is_noted(&FlushItem::Inode(attr.ino)) {
        return Ok(false);
    }
    if attr.ino == InodeId::ROOT {
        return Ok(true);
    }
    let Some(copy) = &inode.tier else { return Ok(false) };
    let here = |at: &TierLocation| at.parent == attr.parent && at.name == inode.name;
    if attr.is_dir() {
        return Ok(here(copy));
    }
    let is_name = here(copy)
        || node
            .namespace
            .names_of(inode)?
            .iter()
            .any(|(parent, name)| *parent == copy.parent && *name == copy.name);
    let is_same = copy.version == attr.version && copy.ctime == attr.ctime;
    Ok(is_name && is_same && node.opens.writers(attr.ino).is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_read_as_they_are_written() {
        for policy in [Policy::Close, Policy::Idle(30), Policy::Demand, Policy::Never] {
            assert_eq!(policy.to_string().parse::<Policy>().unwrap(), policy);
        }
        for wrong in ["", "idle", "idle:", "idle:-1", "Close", "never "] {
            assert!(check(wrong.as_bytes()).is_err(), "{wrong:?}");
        }
    }
}
