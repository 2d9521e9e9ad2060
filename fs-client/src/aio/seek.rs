//! Seeking for data and holes.
//!
//! The chunk at the offset is asked first, which mostly has the answer. Then the few chunks that are left in the file, or, if they are
//! many, all servers for the chunks that they hold: pages that grow, so that neither a hole of exbibytes nor a long run of data costs a
//! message a chunk.
//!
//! # Invariants
//! - The file ends with a hole; nothing is found beyond its size, and what was written and not published counts (`tests/fake/holes.rs`).
//! - A small file, which lies with its inode, is data from end to end.

use fs_proto::msg::chunk::{ChunkMap, ChunkRanges};
use fs_proto::{ChunkIndex, ServerId};

use super::data::WINDOW;
use super::inodes::FAN_OUT;
use super::{Core, Handle};
use crate::data_map::{DataMap, Sought};
use crate::error::{Error, Result};
use crate::router::Target;
use crate::window;

/// So many chunks are asked one by one.
const FEW: u64 = WINDOW as u64;

/// Chunks of each server that are asked for at once, at first and at most.
const PAGE_FIRST: u32 = 16;
const PAGE_MAX: u32 = 4096;

impl Core {
    /// See [`crate::File::seek_data`].
    pub async fn seek_data(&self, handle: &Handle, offset: u64) -> Result<Option<u64>> {
        self.seek(handle, offset, Sought::Data).await
    }

    /// See [`crate::File::seek_hole`].
    pub async fn seek_hole(&self, handle: &Handle, offset: u64) -> Result<Option<u64>> {
        self.seek(handle, offset, Sought::Hole).await
    }

    async fn seek(&self, handle: &Handle, offset: u64, sought: Sought) -> Result<Option<u64>> {
        let attr = self.file_attr(handle).await?;
        if offset >= attr.size {
            return Ok(None);
        }
        let at_end = (sought == Sought::Hole).then_some(attr.size);
        if attr.inline {
            return Ok(at_end.or(Some(offset)));
        }
        let log2 = attr.layout.chunk_log2;
        let to = ((attr.size - 1) >> log2) + 1;
        let mut map = self.chunk_ranges(handle, log2, offset >> log2, (offset >> log2) + 1).await?;
        let (mut at, mut page) = (offset, PAGE_FIRST);
        loop {
            if let Some(found) = map.find(sought, at) {
                return Ok(Some(found).filter(|found| *found < attr.size).or(at_end));
            }
            let from = map.to;
            if from >= to {
                return Ok(at_end);
            }
            at = from << log2;
            map = if to - from <= FEW {
                self.chunk_ranges(handle, log2, from, to).await?
            } else {
                self.data_map(handle, from, page).await?
            };
            page = (page * 4).min(PAGE_MAX);
        }
    }

    /// What chunks `from..to` have, asked one by one.
    async fn chunk_ranges(&self, handle: &Handle, log2: u8, from: u64, to: u64) -> Result<DataMap> {
        let ino = handle.ino();
        let asked = (from..to).map(async |chunk| {
            let Some(target) = self.found(handle, ChunkIndex(chunk)).await? else {
                return Ok((chunk, Vec::new()));
            };
            let request = ChunkRanges { ino, chunk: ChunkIndex(chunk) };
            Ok((chunk, self.ask(&handle.who, target, &request).await?))
        });
        let mut chunks = Vec::new();
        window::each(asked, WINDOW, |told| chunks.push(told)).await?;
        Ok(DataMap::of_chunks(log2, to, chunks))
    }

    /// What chunks there are from `from` on: at most `page` of each server, as far as all of them tell.
    pub(super) async fn data_map(&self, handle: &Handle, from: u64, page: u32) -> Result<DataMap> {
        let request = ChunkMap { ino: handle.ino(), from: ChunkIndex(from), limit: page };
        let holders = self.holders_of(&handle.known_attr(), 0..u64::MAX);
        let (ask, what) = (&request, "a page of chunks that makes no sense".to_owned());
        let asked = holders
            .iter()
            .map(|server| async move { self.ask(&handle.who, Target::Server(*server), ask).await });
        let mut pages = Vec::with_capacity(holders.len());
        window::each(asked, FAN_OUT, |told| pages.push(told)).await?;
        let server = holders.first().copied().unwrap_or(ServerId::default());
        DataMap::merge(handle.inode.layout().chunk_log2, from, pages).ok_or(Error::Protocol { server, what })
    }
}
