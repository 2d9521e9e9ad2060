//! Copying between open files, from server to server.
//!
//! A range is cut where a chunk of the source or of the copy ends; each piece is one message to the server that holds the source's chunk, which
//! sends the bytes on. Small files, which lie with their inodes, are read and written: they are no more than a message holds anyway.
//!
//! # Invariants
//! - What is copied is pending to be published, as a write is, before the call returns.
//! - No byte of a file that lies in chunks passes the client (`tests/tests/cost.rs`).
//! - However long a hole, chunks that are not there cost no message each (`tests/tests/copy.rs`: `a_hole_of_exbibytes_is_copied_at_once`).

use std::ops::Range;

use bytes::Bytes;
use fs_proto::msg::chunk::{CopyChunk, CopyChunkTo};
use fs_proto::msg::small::Spill;
use fs_proto::{ChunkIndex, Layout, Status};

use super::data::{FILE_END_MAX, WINDOW};
use super::{Core, Handle, now};
use crate::error::{Error, Result};
use crate::router::Target;
use crate::window;

/// Largest piece of one message: what a server holds in memory for it.
const PIECE_MAX: u64 = 4 << 20;
/// Chunks of each server that are asked for at once, and ranges of fewer chunks that are copied without asking which are there.
const PAGE: u32 = 1024;
const FEW: u64 = 64;

/// A part of a copy within one chunk of each file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    from: u64,
    to: u64,
    len: u64,
}

/// Cuts `from` (a range of the source, which goes to `to`) where a chunk of either ends.
fn parts(from: Range<u64>, to: u64, layouts: (Layout, Layout)) -> impl Iterator<Item = Part> {
    let left = |at: u64, layout: Layout| layout.chunk_bytes() - (at & (layout.chunk_bytes() - 1));
    let mut at = from.start;
    std::iter::from_fn(move || {
        let target = to + (at - from.start);
        let len = (from.end - at).min(left(at, layouts.0)).min(left(target, layouts.1)).min(PIECE_MAX);
        let part = Part { from: at, to: target, len };
        at += len;
        (len > 0).then_some(part)
    })
}

impl Core {
    /// See [`crate::File::copy_range_to`].
    pub async fn copy_range(&self, from: &Handle, at: u64, to: &Handle, start: u64, len: u64) -> Result<u64> {
        if !from.flags.read {
            return Err(Error::NotOpenFor("reading"));
        }
        if !to.flags.writes() {
            return Err(Error::NotOpenFor("writing"));
        }
        if from.ino() == to.ino() && at < start.saturating_add(len) && start < at.saturating_add(len) {
            return Err(Error::status(Status::Invalid, "a range cannot be copied over itself"));
        }
        let len = len.min(self.file_attr(from).await?.size.saturating_sub(at));
        let end = start.checked_add(len).filter(|end| *end <= FILE_END_MAX);
        let end =
            end.ok_or(Error::status(Status::FileTooBig, "the copy would end beyond the largest file size"))?;
        if len == 0 {
            return Ok(0);
        }
        let small = to.inode.is_inline() && end <= self.shared.inline_limit();
        if from.inode.is_inline() || small {
            let bytes = self.read_bytes_at(from, len as usize, at).await?;
            self.write_at(to, &bytes, start).await?;
            return Ok(bytes.len() as u64);
        }
        if to.inode.is_inline() {
            let attr = self.ask(&to.who, Target::home(to.ino()), &Spill { ino: to.ino() }).await?;
            self.note_written(to, attr);
        }
        self.copy_chunks(from, at..at + len, to, start).await?;
        Ok(len)
    }

    async fn copy_chunks(&self, from: &Handle, range: Range<u64>, to: &Handle, start: u64) -> Result<()> {
        let log2 = from.inode.layout().chunk_log2;
        let (mut chunk, end) = (range.start >> log2, ((range.end - 1) >> log2) + 1);
        if end - chunk <= FEW {
            return self.copy_parts(from, range.clone(), to, start).await;
        }
        while chunk < end {
            let map = self.data_map(from, chunk, PAGE).await?;
            let there: Vec<u64> = map.chunks.range(..end).map(|(chunk, _)| *chunk).collect();
            let told = map.to.min(end);
            for run in there.into_iter().chain([told]) {
                let bytes = |chunk: u64| chunk << log2;
                let hole = range.start.max(bytes(chunk))..range.end.min(bytes(run));
                self.copy_hole(to, hole.start + start - range.start, hole.end.saturating_sub(hole.start))
                    .await?;
                if run < told {
                    let data = range.start.max(bytes(run))..range.end.min(bytes(run + 1));
                    let target = start + (data.start - range.start);
                    self.copy_parts(from, data, to, target).await?;
                }
                chunk = run + 1;
            }
            chunk = told;
        }
        Ok(())
    }

    /// A hole of `len` bytes in the copy, which is at least as long then.
    async fn copy_hole(&self, to: &Handle, start: u64, len: u64) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        self.flush(to).await?; // For the true size, as when zeros are asked for.
        let size = self.file_attr(to).await?.size;
        if start < size {
            self.punch_chunks(to, start..size.min(start + len)).await?;
        }
        self.reach(to, size, start + len).await?;
        to.inode.touched(now());
        Ok(())
    }

    async fn copy_parts(&self, from: &Handle, range: Range<u64>, to: &Handle, start: u64) -> Result<()> {
        let layouts = (from.inode.layout(), to.inode.layout());
        let sent = parts(range, start, layouts).map(|part| self.copy_part(from, to, part, layouts));
        window::each(sent, WINDOW, drop).await
    }

    async fn copy_part(
        &self,
        from: &Handle,
        to: &Handle,
        part: Part,
        layouts: (Layout, Layout),
    ) -> Result<()> {
        let split = |at: u64, layout: Layout| {
            (ChunkIndex(at >> layout.chunk_log2), (at & (layout.chunk_bytes() - 1)) as u32)
        };
        let ((from_chunk, from_offset), (chunk, offset)) =
            (split(part.from, layouts.0), split(part.to, layouts.1));
        let file_end = part.to + part.len;
        let Some(source) = self.found(from, from_chunk).await? else {
            return self.copy_hole(to, part.to, part.len).await;
        };
        let target = self.placed(to, chunk).await?;
        let writing = to.inode.begin_write();
        let request = CopyChunk {
            from: from.ino(),
            from_chunk,
            from_offset,
            len: part.len as u32,
            ino: to.ino(),
            chunk,
            offset,
            file_end,
            since: writing.since,
        };
        let holder = self.shared.view().owner(target);
        if let Target::Server(to_server) = target {
            let request = CopyChunkTo { copy: request, to: to_server };
            self.exchange(&to.who, source, &request, Bytes::new(), self.patience()).await?;
        } else {
            self.exchange(&to.who, source, &request, Bytes::new(), self.patience()).await?;
        }
        to.inode.wrote(file_end, holder, now());
        drop(writing);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn layout(chunk_log2: u8) -> Layout {
        Layout { chunk_log2, ..Layout::default() }
    }

    proptest! {
        #[test]
        fn parts_cover_the_range_and_cross_no_chunk(
            a in 16u8..=24, b in 16u8..=24, from in 0u64..(1 << 40), to in 0u64..(1 << 40), len in 1u64..(8 << 20)
        ) {
            let layouts = (layout(a), layout(b));
            let mut at = 0;
            for part in parts(from..from + len, to, layouts) {
                prop_assert_eq!((part.from, part.to), (from + at, to + at));
                prop_assert!(part.len > 0 && part.len <= PIECE_MAX);
                prop_assert_eq!(part.from >> a, (part.from + part.len - 1) >> a);
                prop_assert_eq!(part.to >> b, (part.to + part.len - 1) >> b);
                at += part.len;
            }
            prop_assert_eq!(at, len);
        }
    }
}
