//! Reading and writing of open small files, whose content lies with their inode. One message each; a write publishes itself.
//!
//! # Invariants
//! - What is believed to lie with its inode and does not is noticed by the answer's attributes, and goes on with chunks
//!   (`tests/fake/small.rs`).

use std::ops::Range;

use bytes::Bytes;
use fs_proto::checksum::crc;
use fs_proto::msg::small::{PunchInline, ReadInline, Spill, WriteInline};
use fs_proto::{Attr, INLINE_MAX, ServerId};

use super::{Core, Handle, now};
use crate::error::{Error, Result};
use crate::router::Target;

impl Core {
    /// Writes beside the inode. `false`: the file lies in chunks now, and nothing was written.
    pub(super) async fn write_inline(&self, handle: &Handle, data: &[u8], offset: u64) -> Result<bool> {
        if data.is_empty() {
            return Ok(true);
        }
        let (ino, home) = (handle.ino(), Target::home(handle.ino()));
        if offset + data.len() as u64 > self.shared.inline_limit() {
            let attr = self.ask(&handle.who, home, &Spill { ino }).await?;
            self.note_written(handle, attr);
            return Ok(false);
        }
        let request = WriteInline { ino, offset, mtime: now(), crc: crc(data) };
        let bulk = self.copied(home, data).await?;
        handle.inode.forget_kept();
        let answer = self.exchange(&handle.who, home, &request, bulk, self.patience()).await?.body;
        self.shared.note_inline_limit(answer.limit);
        self.note_written(handle, answer.attr);
        Ok(answer.written)
    }

    /// Makes a hole beside the inode. `false`: the file lies in chunks now, and nothing was done.
    pub(super) async fn punch_inline(&self, handle: &Handle, range: &Range<u64>) -> Result<bool> {
        let len = range.end - range.start;
        let request = PunchInline { ino: handle.ino(), offset: range.start, len, mtime: now() };
        handle.inode.forget_kept();
        let answer = self.ask(&handle.who, Target::home(request.ino), &request).await?;
        self.shared.note_inline_limit(answer.limit);
        self.note_written(handle, answer.attr);
        Ok(answer.written)
    }

    pub(super) fn note_written(&self, handle: &Handle, mut attr: Attr) {
        handle.inode.wrote_inline(&attr);
        self.note_attr(&mut attr);
    }

    /// Reads beside the inode, as far as the file goes. None: the file lies in chunks.
    pub(super) async fn read_inline(
        &self,
        handle: &Handle,
        len: usize,
        offset: u64,
    ) -> Result<Option<Bytes>> {
        let inode = &handle.inode;
        if !inode.is_inline() {
            return Ok(None);
        }
        if let Some(bytes) = inode.read_kept(offset, len, self.shared.config.attr_ttl) {
            return Ok(Some(bytes));
        }
        let len = len.min(INLINE_MAX as usize);
        let request = ReadInline { ino: inode.ino, offset, len: len as u32 };
        let mut last = ServerId::default();
        for _ in 0..2 {
            let stamp = inode.stamp();
            let (home, patience) = (Target::home(inode.ino), self.patience());
            let answer = self.exchange(&handle.who, home, &request, Bytes::new(), patience).await?;
            let (is_inline, layout) = (answer.body.attr.inline, answer.body.attr.layout);
            let mut attr = inode.learn(answer.body.attr, stamp);
            self.note_attr(&mut attr);
            if !is_inline {
                inode.left_inode(layout);
                return Ok(None);
            }
            if answer.bulk.len() > len {
                let what = "more bytes than asked for".to_owned();
                return Err(Error::Protocol { server: answer.server, what });
            }
            if crc(&answer.bulk) == answer.body.crc {
                return Ok(Some(answer.bulk));
            }
            last = answer.server;
        }
        Err(Error::Corrupt { ino: inode.ino, offset, server: last })
    }
}
