//! Having what is in the shared tier at hand before somebody reads it.

use fs_proto::msg::tier::FetchChunk;
use fs_proto::placement::{ChunkPlace, chunk_place};
use fs_proto::{Attr, ChunkIndex, FileKind};

use super::Core;
use super::data::WINDOW;
use crate::error::Result;
use crate::router::Target;
use crate::window;

impl Core {
    /// See [`crate::Client::stage`].
    pub async fn stage(&self, attr: &Attr, mut done: impl FnMut(u64)) -> Result<()> {
        if attr.kind != FileKind::File || attr.inline {
            done(attr.size);
            return Ok(());
        }
        let chunk_bytes = attr.layout.chunk_bytes();
        let asked = (0..attr.size.div_ceil(chunk_bytes)).map(ChunkIndex).map(async |chunk| {
            let bytes = chunk_bytes.min(attr.size - chunk.0 * chunk_bytes);
            let target = match chunk_place(attr.layout, attr.ino, chunk) {
                ChunkPlace::Owner(partition) => Target::Partition(partition),
                ChunkPlace::Server(server) => Target::Server(server),
                // Chunks that lie with their writers never leave them.
                ChunkPlace::Pointer(_) => return Ok(bytes),
            };
            self.ask(&self.caller, target, &FetchChunk { ino: attr.ino, chunk, later: false }).await?;
            Ok(bytes)
        });
        window::each(asked, WINDOW, done).await
    }
}
