//! Whole files by name: put and get, one message for a small file, and many small files in few messages. Files of any size work;
//! those that do not lie with their inode take the ordinary way.
//!
//! # Invariants
//! - A put replaces the whole content, and of a small file at once: nobody reads a mixture (`tests/tests/small.rs`).
//! - Every file of a put or get of many has a result of its own, in the order in which they were given.

use bytes::Bytes;
use fs_proto::checksum::crc;
use fs_proto::msg::Caller;
use fs_proto::msg::small::{Get, GetOutcome, Put, PutOutcome};
use fs_proto::{Attr, FileKind, InodeId, Status};

use super::looking::{Look, is_gone, looking};
use super::names::name_target;
use super::opens::check_regular;
use super::{Core, Handle};
use crate::config::{OpenFlags, OpenOptions};
use crate::error::{Error, Result};

impl Core {
    /// See [`crate::Client::put_at`].
    pub async fn put_at(
        &self,
        who: &Caller,
        parent: InodeId,
        name: &[u8],
        data: &[u8],
        mode: u32,
        exclusive: bool,
    ) -> Result<Attr> {
        if data.len() as u64 <= self.shared.inline_limit()
            && let Some(attr) = self.put_small(who, parent, name, data, mode, exclusive).await?
        {
            return Ok(attr);
        }
        self.put_openly(who, parent, name, data, mode, exclusive).await
    }

    /// None if the file has to be put the ordinary way.
    async fn put_small(
        &self,
        who: &Caller,
        parent: InodeId,
        name: &[u8],
        data: &[u8],
        mode: u32,
        exclusive: bool,
    ) -> Result<Option<Attr>> {
        let target = name_target(parent, name)?;
        self.shared.cache.drop_entry(parent, name);
        let request = Put { parent, name: Bytes::copy_from_slice(name), mode, exclusive, crc: crc(data) };
        let bulk = self.copied(target, data).await?;
        let answer = self.exchange(who, target, &request, bulk, self.patience()).await?.body;
        self.shared.note_inline_limit(answer.limit);
        self.take_put(parent, name, answer.outcome)
    }

    /// Takes what became of one file that was put; None if it has to be put the ordinary way.
    pub(super) fn take_put(&self, parent: InodeId, name: &[u8], outcome: PutOutcome) -> Result<Option<Attr>> {
        match outcome {
            PutOutcome::Done { mut attr, .. } => {
                if let Some(inode) = self.shared.opens.get(attr.ino) {
                    inode.wrote_inline(&attr);
                }
                self.note_attr(&mut attr);
                self.shared.cache.put_entry(parent, name, attr.ino, attr.kind);
                Ok(Some(attr))
            }
            PutOutcome::There { kind, .. } => check_regular(kind).map(|()| None),
            PutOutcome::TooLarge {} => Ok(None),
            PutOutcome::Failed { status } => Err(refused(status)),
        }
    }

    /// Create, write, close.
    pub(super) async fn put_openly(
        &self,
        who: &Caller,
        parent: InodeId,
        name: &[u8],
        data: &[u8],
        mode: u32,
        exclusive: bool,
    ) -> Result<Attr> {
        let flags = OpenFlags { truncate: true, ..OpenFlags::WRITE };
        let (handle, _) = self.create_open(who, parent, name, mode, flags, exclusive).await?;
        self.write_and_close(handle, data).await
    }

    async fn write_and_close(&self, handle: Handle, data: &[u8]) -> Result<Attr> {
        let written = self.write_at(&handle, data, 0).await;
        let inode = handle.inode.clone();
        let closed = self.close(handle).await;
        written?;
        closed?;
        Ok(inode.known_attr())
    }

    /// See [`crate::Client::put`].
    pub(super) async fn put_through_link(&self, path: &[u8], data: &[u8], mode: u32) -> Result<Attr> {
        let options = OpenOptions { mode, ..OpenOptions::create_truncate() };
        let handle = self.open_path(path, options).await?;
        self.write_and_close(handle, data).await
    }

    /// See [`crate::Client::get_at`].
    pub async fn get_at(&self, who: &Caller, parent: InodeId, name: &[u8]) -> Result<Bytes> {
        let target = name_target(parent, name)?;
        let request = Get { parent, name: Bytes::copy_from_slice(name) };
        let mut damaged = false;
        looking(async || {
            let answer = self.exchange(who, target, &request, Bytes::new(), self.patience()).await?;
            match self.take_found(parent, name, answer.body, &answer.bulk)? {
                Taken::Whole => Ok(Look::At(answer.bulk)),
                Taken::Openly(ino) => match self.get_openly(who, ino).await {
                    Err(e) if is_gone(&e) => Ok(Look::Gone(e)),
                    got => got.map(Look::At),
                },
                Taken::Damaged(ino) => {
                    let corrupt = Error::Corrupt { ino, offset: 0, server: answer.server };
                    // Damage on the way is read once more.
                    if std::mem::replace(&mut damaged, true) { Err(corrupt) } else { Ok(Look::Gone(corrupt)) }
                }
                Taken::Left => {
                    let what = "no room for one small file".to_owned();
                    Err(Error::Protocol { server: answer.server, what })
                }
            }
        })
        .await
    }

    /// Takes what was found of one file; `bulk` is its part of the data.
    pub(super) fn take_found(
        &self,
        parent: InodeId,
        name: &[u8],
        outcome: GetOutcome,
        bulk: &Bytes,
    ) -> Result<Taken> {
        match outcome {
            GetOutcome::Whole { mut attr, crc: sum } => {
                let (ino, size) = (attr.ino, attr.size);
                if crc(bulk) != sum || bulk.len() as u64 != size {
                    return Ok(Taken::Damaged(ino));
                }
                self.note_attr(&mut attr);
                self.shared.cache.put_entry(parent, name, ino, attr.kind);
                Ok(Taken::Whole)
            }
            GetOutcome::There { ino, kind, attr } => {
                check_regular(kind)?;
                if let Some(mut attr) = attr {
                    self.note_attr(&mut attr);
                }
                self.shared.cache.put_entry(parent, name, ino, FileKind::File);
                Ok(Taken::Openly(ino))
            }
            GetOutcome::Failed { status } => Err(refused(status)),
            GetOutcome::Left {} => Ok(Taken::Left),
        }
    }

    /// Open, read, close.
    pub(super) async fn get_openly(&self, who: &Caller, ino: InodeId) -> Result<Bytes> {
        let handle = self.open(who, ino, OpenFlags::READ).await?;
        self.read_and_close(handle).await
    }

    async fn read_and_close(&self, handle: Handle) -> Result<Bytes> {
        let read = self.read_whole(&handle).await;
        let closed = self.close(handle).await;
        let bytes = read?;
        closed?;
        Ok(bytes)
    }

    async fn read_whole(&self, handle: &Handle) -> Result<Bytes> {
        // Of a file that is open here already the opening was not announced, and nothing new was heard.
        let attr =
            if handle.inode.is_heard_of() { handle.known_attr() } else { self.file_attr(handle).await? };
        self.read_bytes_at(handle, usize::try_from(attr.size).unwrap_or(usize::MAX), 0).await
    }

    /// See [`crate::Client::get`].
    pub(super) async fn get_through_link(&self, path: &[u8]) -> Result<Bytes> {
        let handle = self.open_path(path, OpenOptions::read_only()).await?;
        self.read_and_close(handle).await
    }
}

/// What a look at one file came to.
pub(super) enum Taken {
    /// The data are all of it.
    Whole,
    /// It is to be read the ordinary way.
    Openly(InodeId),
    /// The data are not what was stored.
    Damaged(InodeId),
    /// It is to be asked for again.
    Left,
}

/// A refusal of one file of several, which comes without words.
pub(super) fn refused(status: Status) -> Error {
    Error::status(status, format!("{status:?}"))
}
