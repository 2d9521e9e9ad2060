//! Operations by path, on behalf of the process's own user.
//!
//! A remembered name may lead to an inode that is gone by now. What fails for that reason is done once more without memory.

use bytes::Bytes;
use fs_proto::msg::name::Create;
use fs_proto::{Attr, FileKind, InodeId, Status};

use super::looking::{Look, is_gone, looking};
use super::walk::{End, Last, Walk};
use super::{Core, Handle};
use crate::config::OpenOptions;
use crate::error::{Error, Result};
use crate::path::{LINKS_MAX, components, names_directory};

impl Core {
    /// Does `op` with remembered names, and again without if that failed because of one, or because the file that its walk came to was
    /// removed or replaced before it was asked for.
    async fn walking<T>(&self, op: impl AsyncFn(&mut Walk<'_>) -> Result<T>) -> Result<T> {
        let mut trusting = true;
        looking(async || {
            let mut walk = Walk::new(self, trusting);
            trusting = false;
            match op(&mut walk).await {
                Err(e) if walk.remembered && leads_nowhere(&e) || walk.arrived && is_gone(&e) => {
                    Ok(Look::Gone(e))
                }
                done => done.map(Look::At),
            }
        })
        .await
    }

    /// The inode that a path leads to.
    pub async fn walk(&self, path: &[u8], follow: bool) -> Result<InodeId> {
        let last = if follow { Last::Follow } else { Last::Stay };
        self.walking(async |walk| Ok(found(&walk.go(path, last).await?, walk).0)).await
    }

    /// The directory that a path leads to.
    pub async fn walk_dir(&self, path: &[u8]) -> Result<InodeId> {
        let (ino, kind) =
            self.walking(async |walk| Ok(found(&walk.go(path, Last::Follow).await?, walk))).await?;
        if kind == FileKind::Directory {
            return Ok(ino);
        }
        Err(Error::status(Status::NotDirectory, "it is not a directory"))
    }

    /// See [`crate::Client::stat`] and [`crate::Client::lstat`].
    pub async fn stat(&self, path: &[u8], follow: bool) -> Result<Attr> {
        let last = if follow { Last::Follow } else { Last::Stay };
        self.walking(async |walk| {
            let (ino, _) = found(&walk.go(path, last).await?, walk);
            if let Some(attr) = walk.attr.take_if(|attr| attr.ino == ino) {
                return Ok(attr);
            }
            if let Some(mut attr) = self.shared.cache.attr(ino) {
                self.shared.opens.merge(&mut attr);
                return Ok(attr);
            }
            self.getattr(&self.caller, ino).await
        })
        .await
    }

    /// See [`crate::Client::open_path`].
    pub async fn open_path(&self, path: &[u8], options: OpenOptions) -> Result<Handle> {
        let flags = options.flags();
        if options.creates() {
            return self.walking(async |walk| self.open_or_create(walk, path, options).await).await;
        }
        self.walking(async |walk| {
            let (ino, kind) = found(&walk.go(path, Last::Follow).await?, walk);
            if kind == FileKind::Directory {
                return Err(Error::status(Status::IsDirectory, "it is a directory"));
            }
            self.open_named(&self.caller, ino, flags).await
        })
        .await
    }

    /// Makes the file with the first message, instead of looking first: new files are the usual case. Only the name's server knows whether there
    /// is one, so a remembered name is not used.
    async fn open_or_create(&self, walk: &mut Walk<'_>, path: &[u8], options: OpenOptions) -> Result<Handle> {
        if names_directory(path) {
            return Err(Error::status(Status::IsDirectory, "a path that ends so names a directory"));
        }
        let mut rest = Bytes::copy_from_slice(path);
        for _ in 0..=LINKS_MAX {
            let (parent, name) = named(walk.go(&rest, Last::Leave).await?, Status::IsDirectory)?;
            let flags = options.flags();
            let new = self.new_file(parent, name.clone(), options.mode, options.create_new, flags);
            let new = Create { layout: options.layout, ..new };
            match self.make_open(&self.caller, &new, flags).await {
                // It is a symbolic link: the file to make is where it leads.
                Err(e) if e.code() == Some(Status::Loop) && !options.create_new => {
                    let link = self.lookup(&self.caller, parent, &name).await?;
                    rest = self.readlink(&self.caller, link.ino).await?;
                }
                created => return created.map(|(handle, _)| handle),
            }
        }
        Err(Error::status(Status::Loop, format!("more than {LINKS_MAX} symbolic links on the way")))
    }

    /// See [`crate::Client::put`].
    pub async fn put(&self, path: &[u8], data: &[u8], mode: u32) -> Result<Attr> {
        if names_directory(path) {
            return Err(Error::status(Status::IsDirectory, "a path that ends so names a directory"));
        }
        let put = self
            .walking(async |walk| {
                let (parent, name) = named(walk.go(path, Last::Leave).await?, Status::IsDirectory)?;
                self.put_at(&self.caller, parent, &name, data, mode, false).await
            })
            .await;
        match put {
            Err(e) if e.code() == Some(Status::Loop) => self.put_through_link(path, data, mode).await,
            put => put,
        }
    }

    /// See [`crate::Client::get`].
    pub async fn get(&self, path: &[u8]) -> Result<Bytes> {
        if names_directory(path) {
            return Err(Error::status(Status::IsDirectory, "a path that ends so names a directory"));
        }
        let got = self
            .walking(async |walk| {
                let (parent, name) = named(walk.go(path, Last::Leave).await?, Status::IsDirectory)?;
                self.get_at(&self.caller, parent, &name).await
            })
            .await;
        match got {
            Err(e) if e.code() == Some(Status::Loop) => self.get_through_link(path).await,
            got => got,
        }
    }

    /// See [`crate::Client::mkdir_path`].
    pub async fn mkdir_path(&self, path: &[u8], mode: u32) -> Result<Attr> {
        self.walking(async |walk| {
            let (parent, name) = named(walk.go(path, Last::Leave).await?, Status::Exists)?;
            self.mkdir(&self.caller, parent, &name, mode).await
        })
        .await
    }

    /// See [`crate::Client::mkdir_all`].
    pub async fn mkdir_all(&self, path: &[u8], mode: u32) -> Result<Attr> {
        match self.stat(path, true).await {
            Ok(attr) if attr.is_dir() => return Ok(attr),
            Ok(_) => return Err(Error::status(Status::Exists, "it exists and is not a directory")),
            Err(e) if e.is_not_found() => {}
            Err(e) => return Err(e),
        }
        let path = Bytes::copy_from_slice(path);
        let mut left = components(&path);
        let mut at = Vec::with_capacity(path.len() + 1);
        while let Some(name) = left.pop() {
            at.push(b'/');
            at.extend_from_slice(&name);
            match self.mkdir_path(&at, mode).await {
                Err(e) if e.code() != Some(Status::Exists) => return Err(e.at(&at)),
                _ => {}
            }
        }
        self.stat(&path, true).await
    }

    /// See [`crate::Client::remove_file`] and [`crate::Client::remove_dir`].
    pub async fn remove_path(&self, path: &[u8], directory: bool) -> Result<()> {
        self.walking(async |walk| {
            let (parent, name) = named(walk.go(path, Last::Leave).await?, Status::Busy)?;
            if directory {
                self.rmdir(&self.caller, parent, &name).await
            } else {
                self.unlink(&self.caller, parent, &name).await
            }
        })
        .await
    }

    /// See [`crate::Client::rename_path`].
    pub async fn rename_path(&self, from: &[u8], to: &[u8]) -> Result<()> {
        self.walking(async |walk| {
            let trusting = walk.is_trusting();
            let (parent, name) = named(walk.go(from, Last::Leave).await?, Status::Busy)?;
            let (new_parent, new_name) =
                named(Walk::new(self, trusting).go(to, Last::Leave).await?, Status::Busy)?;
            self.rename(&self.caller, (parent, &name), (new_parent, &new_name), false, false).await
        })
        .await
    }

    /// See [`crate::Client::link_path`].
    pub async fn link_path(&self, from: &[u8], to: &[u8]) -> Result<Attr> {
        let ino = self.walk(from, false).await?;
        self.walking(async |walk| {
            let (parent, name) = named(walk.go(to, Last::Leave).await?, Status::Exists)?;
            self.link(&self.caller, ino, parent, &name).await
        })
        .await
    }

    /// See [`crate::Client::symlink_path`].
    pub async fn symlink_path(&self, target: &[u8], path: &[u8]) -> Result<Attr> {
        self.walking(async |walk| {
            let (parent, name) = named(walk.go(path, Last::Leave).await?, Status::Exists)?;
            let what = Create {
                parent,
                name,
                kind: FileKind::Symlink,
                mode: 0o777,
                rdev: 0,
                target: Bytes::copy_from_slice(target),
                exclusive: true,
                layout: None,
                open: None,
            };
            Ok(self.create(&self.caller, what).await?.0)
        })
        .await
    }

    /// See [`crate::Client::read_link`].
    pub async fn readlink_path(&self, path: &[u8]) -> Result<Bytes> {
        self.walking(async |walk| {
            let (ino, kind) = found(&walk.go(path, Last::Stay).await?, walk);
            if kind != FileKind::Symlink {
                return Err(Error::status(Status::Invalid, "it is not a symbolic link"));
            }
            self.readlink(&self.caller, ino).await
        })
        .await
    }
}

/// Whether an error can come from an inode that is gone, or that is something else by now.
fn leads_nowhere(e: &Error) -> bool {
    matches!(e.code(), Some(Status::NotFound | Status::Stale | Status::NotDirectory))
}

/// The inode that a walk to the end reached.
fn found(end: &End, walk: &Walk<'_>) -> (InodeId, FileKind) {
    match end {
        End::At(ino, kind) => (*ino, *kind),
        // Only a walk that leaves the last name ends so; its directory is then what there is.
        End::Name(..) => (walk.here(), FileKind::Directory),
    }
}

/// The name that a walk left; `status` if the path leads to a directory without naming it (the root, or "..").
fn named(end: End, status: Status) -> Result<(InodeId, Bytes)> {
    match end {
        End::Name(parent, name) => Ok((parent, name)),
        End::At(..) => Err(Error::status(status, "the path does not end in a name")),
    }
}
