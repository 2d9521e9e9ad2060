//! Reading and writing.
//!
//! A range is cut into pieces of chunks, one message each, and up to [`WINDOW`] are under way at once.
//!
//! # Invariants
//! - `write_at` returns only when every piece lies at its server; then it is pending to be published (`tests/fake/data.rs`).
//! - Bytes returned were checked against the checksum that came with them.
//! - A file that is believed to lie with its inode is written and read there (`inline.rs`), until an answer says otherwise.
//! - Reading beyond the size as known here asks the home, so what others wrote is seen.

use bytes::{Bytes, BytesMut};
use fs_net::{NetCounters, PoolBuffer};
use fs_proto::checksum::crc;
use fs_proto::msg::Caller;
use fs_proto::msg::chunk::{ChunkRead, ReadChunk, WriteChunk};
use fs_proto::msg::small::Append;
use fs_proto::{InodeId, ServerId, Status};

use super::call::{Answer, Patience};
use super::{Core, Handle, now};
use crate::error::{Error, LockFailure, Result};
use crate::router::Target;
use crate::stripe::{Piece, pieces};
use crate::window;

/// Pieces of one read or write under way at once.
pub(super) const WINDOW: usize = 16;

/// End of the largest file.
pub(super) const FILE_END_MAX: u64 = i64::MAX as u64;

impl Core {
    /// See [`crate::File::write_at`].
    pub async fn write_at(&self, handle: &Handle, data: &[u8], offset: u64) -> Result<()> {
        check_writable(handle)?;
        let end = offset.checked_add(data.len() as u64).filter(|end| *end <= FILE_END_MAX);
        if end.is_none() {
            return Err(Error::status(
                Status::FileTooBig,
                "the write would end beyond the largest file size",
            ));
        }
        if handle.inode.is_inline() && self.write_inline(handle, data, offset).await? {
            return Ok(());
        }
        let layout = handle.inode.layout();
        let mut all = pieces(layout, offset, data.len(), self.piece_bytes).peekable();
        match (all.next(), all.peek()) {
            (None, _) => Ok(()),
            (Some(only), None) => self.write_piece(handle, only, data, offset).await,
            (Some(first), Some(_)) => {
                let sent = std::iter::once(first).chain(all);
                let sent = sent.map(|piece| self.write_piece(handle, piece, &data[piece.range()], offset));
                window::each(sent, WINDOW, drop).await
            }
        }
    }

    /// Writes one piece; `offset` is the whole range's.
    async fn write_piece(&self, handle: &Handle, piece: Piece, data: &[u8], offset: u64) -> Result<()> {
        let inode = &handle.inode;
        let file_end = offset + piece.range().end as u64;
        let target = self.placed(handle, piece.chunk).await?;
        let writing = inode.begin_write();
        let request = WriteChunk {
            ino: inode.ino,
            chunk: piece.chunk,
            offset: piece.offset,
            file_end,
            since: writing.since,
            crc: crc(data),
        };
        let bulk = self.copied(target, data).await?;
        let answer = self.exchange(&handle.who, target, &request, bulk, self.patience()).await?;
        inode.wrote(file_end, answer.server, now());
        drop(writing);
        Ok(())
    }

    /// A buffer for what is sent to `target`: in memory shared with the server that the request goes to first, if there is some.
    pub(super) async fn send_buffer(&self, target: Target, len: usize) -> Result<PoolBuffer> {
        match self.shared_buffer(target, len) {
            Some(buffer) => Ok(buffer),
            None => self.shared.env.pool.get(len).await.map_err(too_large),
        }
    }

    /// A copy to send to `target`, because the connection may still hold the bytes when a time-out has let the caller go.
    pub(super) async fn copied(&self, target: Target, data: &[u8]) -> Result<Bytes> {
        let mut buffer = self.send_buffer(target, data.len()).await?;
        buffer.copy_from_slice(data);
        NetCounters::add(&self.shared.counters.copied_bytes, data.len() as u64);
        Ok(buffer.freeze())
    }

    /// See [`crate::File::append`].
    pub async fn append(&self, handle: &Handle, data: &[u8]) -> Result<u64> {
        check_writable(handle)?;
        let _alone = handle.inode.appending.lock().await;
        // The home asks the others how far they wrote; what was written here it has to be told.
        self.flush(handle).await?;
        let part_bytes = self.piece_bytes.min(fs_proto::BULK_MAX) as usize;
        let mut parts = data.chunks(part_bytes);
        let Some(first) = parts.next() else { return Ok(handle.known_attr().size) };
        let offset = self.append_part(handle, first).await?;
        for part in parts {
            self.append_part(handle, part).await?;
        }
        Ok(offset)
    }

    /// The home writes at the end as it is then: one message, and nobody sees the part before it is whole.
    async fn append_part(&self, handle: &Handle, data: &[u8]) -> Result<u64> {
        let inode = &handle.inode;
        let request = Append { ino: inode.ino, mtime: now(), crc: crc(data) };
        let home = Target::home(inode.ino);
        let bulk = self.copied(home, data).await?;
        inode.forget_kept();
        let answer = self.exchange(&handle.who, home, &request, bulk, self.patience()).await?.body;
        self.shared.note_inline_limit(answer.limit);
        inode.wrote_inline(&answer.attr);
        if !answer.attr.inline {
            let sent = answer.offset..answer.offset + data.len() as u64;
            inode.appended_at(self.holders_of(&answer.attr, sent));
        }
        let mut attr = answer.attr;
        self.note_attr(&mut attr);
        Ok(answer.offset)
    }

    /// See [`crate::File::read_at`].
    pub async fn read_at(&self, handle: &Handle, buf: &mut [u8], offset: u64) -> Result<usize> {
        check_readable(handle)?;
        if let Some(bytes) = self.read_inline(handle, buf.len(), offset).await? {
            NetCounters::add(&self.shared.counters.copied_bytes, bytes.len() as u64);
            buf[..bytes.len()].copy_from_slice(&bytes);
            return Ok(bytes.len());
        }
        let (size, sure) = self.known_size(handle, offset, buf.len());
        let known = within(size, offset, buf.len());
        if sure {
            self.fill(handle, buf, offset).await?;
            return Ok(buf.len());
        }
        // The size is asked for while what is known to be there is read already.
        let (attr, read) = tokio::join!(self.file_attr(handle), self.fill(handle, &mut buf[..known], offset));
        let len = within(attr?.size, offset, buf.len());
        read?;
        if len > known {
            self.fill(handle, &mut buf[known..len], offset + known as u64).await?;
        }
        Ok(len)
    }

    /// The size as known, and whether a read of this range can rely on it.
    fn known_size(&self, handle: &Handle, offset: u64, len: usize) -> (u64, bool) {
        let (size, fresh) = handle.inode.size(self.shared.config.attr_ttl);
        (size, fresh && within(size, offset, len) == len)
    }

    /// Fills `buf` from `offset` on, which lies within the file.
    async fn fill(&self, handle: &Handle, buf: &mut [u8], offset: u64) -> Result<()> {
        let mut all = pieces(handle.inode.layout(), offset, buf.len(), self.piece_bytes).peekable();
        let copied = &self.shared.counters.copied_bytes;
        let mut put = |piece: Piece, bytes: &[u8]| {
            NetCounters::add(copied, bytes.len() as u64);
            let part = &mut buf[piece.range()];
            part[..bytes.len()].copy_from_slice(bytes);
            part[bytes.len()..].fill(0); // The chunk ends earlier than the file: a hole.
        };
        match (all.next(), all.peek()) {
            (None, _) => Ok(()),
            (Some(only), None) => {
                put(only, &self.read_piece(handle, only).await?);
                Ok(())
            }
            (Some(first), Some(_)) => {
                let asked = std::iter::once(first).chain(all);
                let asked = asked.map(async |piece| Ok((piece, self.read_piece(handle, piece).await?)));
                window::each(asked, WINDOW, |(piece, bytes)| put(piece, &bytes)).await
            }
        }
    }

    /// See [`crate::File::read_bytes_at`].
    pub async fn read_bytes_at(&self, handle: &Handle, len: usize, offset: u64) -> Result<Bytes> {
        check_readable(handle)?;
        if let Some(bytes) = self.read_inline(handle, len, offset).await? {
            return Ok(bytes);
        }
        let (size, sure) = self.known_size(handle, offset, len);
        let known = within(size, offset, len);
        if sure {
            return self.gather(handle, len, offset).await;
        }
        let (attr, head) = tokio::join!(self.file_attr(handle), self.gather(handle, known, offset));
        let len = within(attr?.size, offset, len);
        let mut head = head?;
        if len <= known {
            head.truncate(len);
            return Ok(head);
        }
        if known == 0 {
            return self.gather(handle, len, offset).await;
        }
        let mut whole = BytesMut::zeroed(len);
        whole[..known].copy_from_slice(&head);
        self.fill(handle, &mut whole[known..], offset + known as u64).await?;
        Ok(whole.freeze())
    }

    /// `len` bytes from `offset` on, which lie within the file: as received, if they are one whole piece.
    async fn gather(&self, handle: &Handle, len: usize, offset: u64) -> Result<Bytes> {
        let mut all = pieces(handle.inode.layout(), offset, len, self.piece_bytes);
        let Some(first) = all.next() else { return Ok(Bytes::new()) };
        if all.next().is_none() {
            let bytes = self.read_piece(handle, first).await?;
            if bytes.len() == len {
                return Ok(bytes);
            }
            let mut whole = BytesMut::zeroed(len);
            whole[..bytes.len()].copy_from_slice(&bytes);
            return Ok(whole.freeze());
        }
        let mut whole = BytesMut::zeroed(len);
        self.fill(handle, &mut whole, offset).await?;
        Ok(whole.freeze())
    }

    /// The bytes of a piece, fewer than its length if the chunk ends earlier.
    async fn read_piece(&self, handle: &Handle, piece: Piece) -> Result<Bytes> {
        let ino = handle.ino();
        let Some(target) = self.found(handle, piece.chunk).await? else { return Ok(Bytes::new()) };
        match self.read_chunk(&handle.who, target, (ino, piece), self.patience()).await? {
            Ok(answer) if answer.bulk.len() > piece.len as usize => {
                let what = "more bytes than asked for".to_owned();
                Err(Error::Protocol { server: answer.server, what })
            }
            Ok(answer) => Ok(answer.bulk),
            Err(server) => {
                let offset = (piece.chunk.0 << handle.inode.layout().chunk_log2) + u64::from(piece.offset);
                Err(Error::Corrupt { ino, offset, server })
            }
        }
    }

    /// What a server has of a piece, compared with the checksum that it was stored with. What does not match is read once more, and compared by the server, too: it knows whether
    /// it is its own, and counts what it has lost. If it does not match then, the server is answered.
    pub(super) async fn read_chunk(
        &self,
        who: &Caller,
        target: Target,
        (ino, piece): (InodeId, Piece),
        patience: Patience,
    ) -> Result<std::result::Result<Answer<ChunkRead>, ServerId>> {
        let mut last = ServerId::default();
        for compared in [false, true] {
            let request =
                ReadChunk { ino, chunk: piece.chunk, offset: piece.offset, len: piece.len, compared };
            let answer = self.exchange(who, target, &request, Bytes::new(), patience).await?;
            if crc(&answer.bulk) == answer.body.crc {
                return Ok(Ok(answer));
            }
            last = answer.server;
        }
        Ok(Err(last))
    }
}

fn check_readable(handle: &Handle) -> Result<()> {
    if !handle.flags.read {
        return Err(Error::NotOpenFor("reading"));
    }
    check_locks(handle)
}

fn check_writable(handle: &Handle) -> Result<()> {
    if !handle.flags.writes() {
        return Err(Error::NotOpenFor("writing"));
    }
    check_locks(handle)
}

/// Whoever believes to hold a lock and does not must neither read nor write under it.
fn check_locks(handle: &Handle) -> Result<()> {
    if handle.inode.is_lock_lost() { Err(Error::Lock(LockFailure::Lost)) } else { Ok(()) }
}

/// How many of `len` bytes from `offset` lie below `size`.
fn within(size: u64, offset: u64, len: usize) -> usize {
    size.saturating_sub(offset).min(len as u64) as usize
}

fn too_large(e: fs_net::TooLarge) -> Error {
    Error::status(Status::Invalid, e.to_string())
}
