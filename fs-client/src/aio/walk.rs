//! Path walks: from a path to an inode, or to a directory and a name in it.
//!
//! The walk keeps the directories that it came through, so ".." needs no message; symbolic links are put in front of what is left.

use bytes::Bytes;
use fs_proto::msg::inode::Readlink;
use fs_proto::msg::name::Lookup;
use fs_proto::{Attr, FileKind, InodeId, Status};

use super::Core;
use super::names::name_target;
use crate::error::{Error, Result};
use crate::path::{LINKS_MAX, components, names_directory};
use crate::router::Target;

/// What to do with the last name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Last {
    /// Find it; follow it if it is a symbolic link.
    Follow,
    /// Find it, whatever it is.
    Stay,
    /// Leave it: it may not exist.
    Leave,
}

/// Where a walk ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// At an inode.
    At(InodeId, FileKind),
    /// At a name in a directory, not looked up.
    Name(InodeId, Bytes),
}

/// A walk under way.
pub(super) struct Walk<'a> {
    core: &'a Core,
    /// Whether remembered names may be used.
    trusting: bool,
    /// Whether the last step used one: then its inode may be gone.
    pub remembered: bool,
    /// Whether it came to an inode at its end: if that is gone when it is asked for, the name may stand for another one by now.
    pub arrived: bool,
    /// Attributes that came with the last step.
    pub attr: Option<Attr>,
    /// From the root to where the walk is.
    dirs: Vec<InodeId>,
    links: usize,
}

impl<'a> Walk<'a> {
    pub fn new(core: &'a Core, trusting: bool) -> Self {
        Walk {
            core,
            trusting,
            remembered: false,
            arrived: false,
            attr: None,
            dirs: vec![InodeId::ROOT],
            links: 0,
        }
    }

    /// Walks from where it is (the root, at first).
    pub async fn go(&mut self, path: &[u8], last: Last) -> Result<End> {
        let path = Bytes::copy_from_slice(path);
        let directory = names_directory(&path);
        if path.first() == Some(&b'/') {
            self.dirs.truncate(1);
        }
        let mut left = components(&path);
        while let Some(name) = left.pop() {
            if name == b"..".as_slice() {
                if self.dirs.len() > 1 {
                    self.dirs.pop();
                }
                continue;
            }
            let parent = self.here();
            if left.is_empty() && last == Last::Leave {
                return Ok(End::Name(parent, name));
            }
            let (ino, kind) = self.step(parent, &name).await?;
            match kind {
                FileKind::Directory => self.dirs.push(ino),
                FileKind::Symlink if !left.is_empty() || directory || last != Last::Stay => {
                    let target = self.link(ino).await?;
                    if target.first() == Some(&b'/') {
                        self.dirs.truncate(1);
                    }
                    left.extend(components(&target));
                }
                _ if left.is_empty() && !directory => {
                    self.arrived = true;
                    return Ok(End::At(ino, kind));
                }
                _ => {
                    let name = String::from_utf8_lossy(&name);
                    return Err(Error::status(Status::NotDirectory, format!("{name:?} is not a directory")));
                }
            }
        }
        Ok(End::At(self.here(), FileKind::Directory))
    }

    /// The directory where the walk is.
    pub fn here(&self) -> InodeId {
        self.dirs.last().copied().unwrap_or(InodeId::ROOT)
    }

    /// Whether it may use remembered names.
    pub fn is_trusting(&self) -> bool {
        self.trusting
    }

    async fn step(&mut self, parent: InodeId, name: &Bytes) -> Result<(InodeId, FileKind)> {
        let core = self.core;
        if self.trusting
            && let Some(found) = core.shared.cache.entry(parent, name)
        {
            self.remembered = true;
            self.attr = None;
            return Ok(found);
        }
        self.remembered = false;
        let target = name_target(parent, name)?;
        let mut entry = core.ask(&core.caller, target, &Lookup { parent, name: name.clone() }).await?;
        // Where only the home can tell the size, who needs it asks.
        entry.attr.take_if(|attr| core.shared.opens.doubted(attr).is_some());
        if let Some(attr) = &mut entry.attr {
            core.note_attr(attr);
        }
        self.attr = entry.attr;
        core.shared.cache.put_entry(parent, name, entry.ino, entry.kind);
        Ok((entry.ino, entry.kind))
    }

    async fn link(&mut self, ino: InodeId) -> Result<Bytes> {
        self.links += 1;
        if self.links > LINKS_MAX {
            return Err(Error::status(
                Status::Loop,
                format!("more than {LINKS_MAX} symbolic links on the way"),
            ));
        }
        self.core.ask(&self.core.caller, Target::home(ino), &Readlink { ino }).await
    }
}
