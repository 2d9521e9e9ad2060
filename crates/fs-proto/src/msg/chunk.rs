//! Operations on chunks. Reads and writes go to the chunk's partition ([`crate::placement::chunk_partition`]), the others to
//! a server.

use crate::ids::{ChunkIndex, InodeId, ServerId};
use crate::op::request;
use crate::wire::wire_struct;

wire_struct! {
    /// Write the frame's bulk part into a chunk.
    pub struct WriteChunk {
        /// File.
        pub ino: InodeId,
        /// Chunk of it.
        pub chunk: ChunkIndex,
        /// Byte within the chunk.
        pub offset: u32,
        /// End of the write within the file, for the size that others ask about.
        pub file_end: u64,
        /// [`crate::Attr::version`] as the client last knew it (see [`super::inode::Publish`]).
        pub since: u64,
        /// CRC of the whole bulk part, from the writer's memory.
        pub crc: u32,
    }
}

wire_struct! {
    /// Read from a chunk; the answer's bulk part holds the bytes, short when the chunk ends earlier, zeros in holes.
    pub struct ReadChunk {
        /// File.
        pub ino: InodeId,
        /// Chunk of it.
        pub chunk: ChunkIndex,
        /// Byte within the chunk.
        pub offset: u32,
        /// Bytes wanted.
        pub len: u32,
        /// Whether the server compares all of it with the checksums that it was stored with. Else whoever asks compares it with the one in the answer, and asks again with this
        /// if they differ: so it is summed once on its way, by the last who has it.
        pub compared: bool,
    }
}

wire_struct! {
    /// What the bulk part of a read's answer is.
    pub struct ChunkRead {
        /// CRC of the bulk part, as it was stored.
        pub crc: u32,
    }
}

wire_struct! {
    /// Cut a file's chunks on one server. Server to server.
    pub struct TruncateChunks {
        /// File.
        pub ino: InodeId,
        /// First chunk that is cut.
        pub chunk: ChunkIndex,
        /// Bytes of it that stay; later chunks go wholly.
        pub keep_bytes: u32,
    }
}

wire_struct! {
    /// Remove all chunks of files on one server. Server to server.
    pub struct DropChunks {
        /// Files.
        pub inos: Vec<InodeId>,
    }
}

wire_struct! {
    /// Make all written chunks on one server durable, as far as its durability promises. Goes to a server.
    pub struct SyncChunks {
        /// File.
        pub ino: InodeId,
    }
}

wire_struct! {
    /// Make a hole of `len` bytes at `offset` of a chunk: it reads as zeros and takes no space.
    pub struct PunchChunk {
        /// The file.
        pub ino: InodeId,
        /// The chunk.
        pub chunk: ChunkIndex,
        /// First byte within the chunk.
        pub offset: u32,
        /// Bytes.
        pub len: u32,
    }
}

wire_struct! {
    /// Copy a piece of a chunk into a chunk, holes as holes; what lies beyond the source's end is one. Goes to the source chunk's partition, whose
    /// server sends the bytes on.
    pub struct CopyChunk {
        /// File that is copied from.
        pub from: InodeId,
        /// Chunk of it.
        pub from_chunk: ChunkIndex,
        /// First byte within that chunk.
        pub from_offset: u32,
        /// Bytes.
        pub len: u32,
        /// File that is copied to.
        pub ino: InodeId,
        /// Chunk of it.
        pub chunk: ChunkIndex,
        /// First byte within that chunk.
        pub offset: u32,
        /// End of the copy within its file, as in [`WriteChunk`].
        pub file_end: u64,
        /// As in [`WriteChunk`].
        pub since: u64,
    }
}

wire_struct! {
    /// Ask where a chunk has data. Answered by (begin, end) pairs within the chunk, ascending and apart.
    pub struct ChunkRanges {
        /// The file.
        pub ino: InodeId,
        /// The chunk.
        pub chunk: ChunkIndex,
    }
}

wire_struct! {
    /// Ask which chunks a server holds of a file, and where they have data. Goes to a server.
    pub struct ChunkMap {
        /// The file.
        pub ino: InodeId,
        /// First chunk that is asked about.
        pub from: ChunkIndex,
        /// Chunks wanted; the server answers as many, or fewer.
        pub limit: u32,
    }
}

wire_struct! {
    /// Answer to [`ChunkMap`].
    pub struct ChunkMapPage {
        /// Chunks that the server holds, ascending, each with its data as (begin, end) pairs. Those that are not listed up to the last
        /// one are not there.
        pub chunks: Vec<(ChunkIndex, Vec<(u32, u32)>)>,
        /// No chunk comes after these.
        pub end: bool,
    }
}

wire_struct! {
    /// Have a place for a chunk of a file in layout `writer`: the first asker's, which is where the bytes go from then on. Goes to the chunk's
    /// partition. Answered by the server that holds the chunk.
    pub struct ClaimChunk {
        /// The file.
        pub ino: InodeId,
        /// The chunk.
        pub chunk: ChunkIndex,
        /// Whose it shall be if it is nobody's: absent, that of the server that the request came through.
        pub at: Option<ServerId>,
    }
}

wire_struct! {
    /// Ask where chunks of a file in layout `writer` are. Goes to the partition of the first; answered with what that server knows of this one and of
    /// later ones, ascending. A chunk that is not told and would be this server's has never been written.
    pub struct FindChunks {
        /// The file.
        pub ino: InodeId,
        /// First chunk that is asked about.
        pub from: ChunkIndex,
        /// Chunks wanted; the server answers as many, or fewer.
        pub limit: u32,
    }
}

wire_struct! {
    /// [`CopyChunk`] between files of any layout: goes to the server that holds the source's chunk, and says which holds the copy's.
    pub struct CopyChunkTo {
        /// What is copied.
        pub copy: CopyChunk,
        /// The server that holds, or gets, the copy's chunk.
        pub to: ServerId,
    }
}

request! {
    ClaimChunk => ClaimChunk -> ServerId;
    FindChunks => FindChunks -> Vec<(ChunkIndex, ServerId)>;
    CopyChunkTo => CopyChunkTo -> ();
    ChunkMap => ChunkMap -> ChunkMapPage;
    PunchChunk => PunchChunk -> ();
    CopyChunk => CopyChunk -> ();
    ChunkRanges => ChunkRanges -> Vec<(u32, u32)>;
    WriteChunk => WriteChunk -> ();
    ReadChunk => ReadChunk -> ChunkRead;
    TruncateChunks => TruncateChunks -> ();
    DropChunks => DropChunks -> ();
    SyncChunks => SyncChunks -> ();
}
