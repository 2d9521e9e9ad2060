//! Where the bytes of chunks are: told by the layout, or, in layout `writer`, by the owner of the chunk's partition.
//!
//! # Invariants
//! - What is remembered of a chunk's place is right for as long as its file lives: places are given once (`fs-server/src/pointers.rs`). That a
//!   chunk was never written is not remembered.

use fs_proto::msg::chunk::{ClaimChunk, FindChunks};
use fs_proto::placement::{ChunkPlace, chunk_place};
use fs_proto::{Attr, ChunkIndex, Placement, ServerId};

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

    /// The servers that may hold chunks of a file with these attributes.
    pub(super) fn holders_of(&self, attr: &Attr) -> Vec<ServerId> {
        match attr.layout.placement {
            Placement::Local(Some(server)) => vec![server],
            _ => self.shared.view().stores().to_vec(),
        }
    }
}
