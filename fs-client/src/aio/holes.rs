//! Making holes in open files, and setting space aside.
//!
//! # Invariants
//! - A hole lies within the file as it was when it was asked for: no size changes by it, and what is written beyond meanwhile stays
//!   (`tests/fake/holes.rs`).
//! - A hole is pending to be published, as a write is, before the call returns.
//! - However long the range, messages go to chunks that are there, up to [`WINDOW`] at once.

use std::ops::Range;

use bytes::Bytes;
use fs_proto::msg::chunk::PunchChunk;
use fs_proto::{ChunkIndex, Status};

use super::data::{FILE_END_MAX, WINDOW};
use super::{Core, Handle, now};
use crate::error::{Error, Result};
use crate::stripe::pieces;
use crate::window;

/// Chunks of each server that are asked for at once.
const PAGE: u32 = 1024;

/// Ranges of fewer chunks than these (and than four times the servers) are punched without asking which chunks are there.
const FEW: usize = 16;

impl Core {
    /// See [`crate::File::punch`].
    pub async fn punch(&self, handle: &Handle, range: Range<u64>) -> Result<()> {
        check(handle, &range)?;
        self.clear(handle, range).await.map(drop)
    }

    /// See [`crate::File::zero_range`].
    pub async fn zero_range(&self, handle: &Handle, range: Range<u64>, keep_size: bool) -> Result<()> {
        check(handle, &range)?;
        let small = range.end <= self.shared.inline_limit();
        if !keep_size && small && handle.inode.is_inline() {
            let zeros = vec![0; (range.end - range.start) as usize];
            if self.write_inline(handle, &zeros, range.start).await? {
                return Ok(());
            }
        }
        if !keep_size {
            self.flush(handle).await?; // For the true size: another client may have cut what was written here.
        }
        let end = range.end;
        let size = self.clear(handle, range).await?;
        if keep_size { Ok(()) } else { self.reach(handle, size, end).await }
    }

    /// See [`crate::File::allocate`].
    pub async fn allocate(&self, handle: &Handle, range: Range<u64>, keep_size: bool) -> Result<()> {
        check(handle, &range)?;
        if !keep_size {
            self.flush(handle).await?; // As above.
        }
        let size = self.file_attr(handle).await?.size;
        let new_bytes = range.end.saturating_sub(range.start.max(size));
        if new_bytes > 0 && new_bytes > self.statfs().await?.free_bytes {
            return Err(Error::status(Status::NoSpace, "the servers have less space than is asked for"));
        }
        if keep_size { Ok(()) } else { self.reach(handle, size, range.end).await }
    }

    /// Makes a file that had `size` bytes at least `end` bytes long; cuts nothing.
    pub(super) async fn reach(&self, handle: &Handle, size: u64, end: u64) -> Result<()> {
        if size < end {
            self.extend(&handle.who, handle.ino(), end).await?;
        }
        Ok(())
    }

    /// Makes the hole; answers the file's size.
    async fn clear(&self, handle: &Handle, range: Range<u64>) -> Result<u64> {
        if handle.inode.is_inline() && self.punch_inline(handle, &range).await? {
            return Ok(handle.known_attr().size);
        }
        let size = self.file_attr(handle).await?.size;
        let end = range.end.min(size);
        if range.start < end {
            self.punch_chunks(handle, range.start..end).await?;
        }
        handle.inode.touched(now());
        Ok(size)
    }

    pub(super) async fn punch_chunks(&self, handle: &Handle, range: Range<u64>) -> Result<()> {
        let log2 = handle.inode.layout().chunk_log2;
        let (first, to) = (range.start >> log2, ((range.end - 1) >> log2) + 1);
        if to - first <= FEW.max(4 * self.shared.view().stores().len()) as u64 {
            return self.punch_parts(handle, &range, std::iter::once(first..to)).await;
        }
        let mut from = first;
        while from < to {
            let map = self.data_map(handle, from, PAGE).await?;
            let there = map.chunks.range(..to).map(|(chunk, _)| *chunk..*chunk + 1);
            self.punch_parts(handle, &range, there).await?;
            from = map.to;
        }
        Ok(())
    }

    /// Punches what lies in `range` of these runs of chunks.
    async fn punch_parts(
        &self,
        handle: &Handle,
        range: &Range<u64>,
        runs: impl Iterator<Item = Range<u64>>,
    ) -> Result<()> {
        let layout = handle.inode.layout();
        let parts = runs.flat_map(|run| {
            let start = range.start.max(run.start << layout.chunk_log2);
            let end = if range.end >> layout.chunk_log2 < run.end {
                range.end
            } else {
                run.end << layout.chunk_log2
            };
            pieces(layout, start, (end - start) as usize, u32::MAX)
        });
        let sent = parts.map(|piece| self.punch_part(handle, piece.chunk, piece.offset, piece.len));
        window::each(sent, WINDOW, drop).await
    }

    async fn punch_part(&self, handle: &Handle, chunk: ChunkIndex, offset: u32, len: u32) -> Result<()> {
        let ino = handle.ino();
        let Some(target) = self.found(handle, chunk).await? else { return Ok(()) };
        let request = PunchChunk { ino, chunk, offset, len };
        let answer = self.exchange(&handle.who, target, &request, Bytes::new(), self.patience()).await?;
        handle.inode.wrote(0, answer.server, now());
        Ok(())
    }
}

fn check(handle: &Handle, range: &Range<u64>) -> Result<()> {
    if !handle.flags.writes() {
        return Err(Error::NotOpenFor("writing"));
    }
    if range.is_empty() {
        return Err(Error::status(Status::Invalid, "the range is empty"));
    }
    if range.end > FILE_END_MAX {
        return Err(Error::status(Status::FileTooBig, "the range ends beyond the largest file size"));
    }
    Ok(())
}
