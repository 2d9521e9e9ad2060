//! Where the bytes of chunks are: told by the layout, or, in layout `writer`, by the owner of the chunk's partition.
//!
//! # Invariants
//! - What is remembered of a chunk's place is right for as long as its file lives: places are given once (`fs-server/src/pointers.rs`). That a
//!   chunk was never written is not remembered.

use std::ops::Range;

use fs_proto::msg::chunk::{ClaimChunk, FindChunks};
use fs_proto::placement::{ChunkPlace, chunk_partition, chunk_place};
use fs_proto::{Attr, ChunkIndex, PARTITIONS, Placement, ServerId};

use super::{Core, Handle};
use crate::error::Result;
use crate::router::Target;

/// Places that are asked for at once: whoever reads a chunk mostly reads those behind it.
const PAGE: u32 = 64;

impl Core {
    /// Where a chunk is written: where it is, or where it will be from now on.
    pub(super) async fn placed(&self, handle: &Handle, chunk: ChunkIndex) -> Result<Target> {
        let ino = handle.ino();
        match chunk_place(handle.inode.layout(), ino, chunk) {
            ChunkPlace::Owner(partition) => Ok(Target::Partition(partition)),
            ChunkPlace::Server(server) => Ok(Target::Server(server)),
            ChunkPlace::Pointer(partition) => {
                if let Some(server) = self.shared.places.get(&(ino, chunk)) {
                    return Ok(Target::Server(server));
                }
                let request = ClaimChunk { ino, chunk, at: None };
                let server = self.ask(&handle.who, Target::Partition(partition), &request).await?;
                self.shared.places.insert((ino, chunk), server);
                Ok(Target::Server(server))
            }
        }
    }

    /// Where a chunk is read. None if it was never written.
    pub(super) async fn found(&self, handle: &Handle, chunk: ChunkIndex) -> Result<Option<Target>> {
        let ino = handle.ino();
        let place = chunk_place(handle.inode.layout(), ino, chunk);
        let ChunkPlace::Pointer(partition) = place else { return self.placed(handle, chunk).await.map(Some) };
        if let Some(server) = self.shared.places.get(&(ino, chunk)) {
            return Ok(Some(Target::Server(server)));
        }
        let request = FindChunks { ino, from: chunk, limit: PAGE };
        let told = self.ask(&handle.who, Target::Partition(partition), &request).await?;
        let server =
            told.first().filter(|(first, _)| *first == chunk).map(|(_, server)| Target::Server(*server));
        for (chunk, server) in told {
            self.shared.places.insert((ino, chunk), server);
        }
        Ok(server)
    }

    /// The servers that may hold these bytes of a file with such attributes, each once.
    pub(super) fn holders_of(&self, attr: &Attr, bytes: Range<u64>) -> Vec<ServerId> {
        let view = self.shared.view();
        match attr.layout.placement {
            Placement::Local(Some(server)) => vec![server],
            Placement::Writer => view.stores().to_vec(),
            Placement::Striped | Placement::Local(None) => {
                let (first, end) =
                    (bytes.start >> attr.layout.chunk_log2, bytes.end.div_ceil(attr.layout.chunk_bytes()));
                // Beyond so many the partitions are the same again.
                let end = end.min(first + u64::from(PARTITIONS));
                let mut holders = Vec::new();
                for chunk in first..end {
                    let owner = view.owner(Target::Partition(chunk_partition(attr.ino, ChunkIndex(chunk))));
                    if !holders.contains(&owner) {
                        holders.push(owner);
                    }
                    if holders.len() == view.stores().len() {
                        break;
                    }
                }
                holders
            }
        }
    }
}
