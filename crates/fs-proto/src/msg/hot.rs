//! Files that many nodes read at the same time: servers keep pieces of their chunks for their own node, under leases of who holds the chunk, and
//! pass them on to each other. `docs/decisions/0033-hot-files.md`. Answers about their names and inodes are lent, too: `docs/decisions/0038-hot-names.md`.

use bytes::Bytes;

use crate::ids::{ChunkIndex, InodeId, ServerId};
use crate::op::request;
use crate::wire::{wire_struct, wire_union};

/// Bytes of a piece: what is leased, fetched and kept as a whole. A chunk has one or more, the last may be short.
pub const HOT_PIECE_BYTES: u32 = 1 << 20;

wire_struct! {
    /// Lend me a piece of a chunk. Goes to the chunk's holder. Server to server.
    pub struct HotAsk {
        /// Who asks.
        pub server: ServerId,
        /// File.
        pub ino: InodeId,
        /// Chunk of it.
        pub chunk: ChunkIndex,
        /// Piece of the chunk, from 0.
        pub piece: u32,
        /// Generation of what the asker has of it; 0: nothing.
        pub have: u64,
        /// Nobody else gave it: the bytes are wanted from the holder.
        pub direct: bool,
    }
}

wire_union! {
    /// Answer to [`HotAsk`]. A lease is of all pieces of the file that the holder has, and counts from when it was asked for. Nothing of a generation
    /// ever changes.
    pub enum HotGrant {
        /// Nothing is lent of this file now.
        Cold = 1 {},
        /// What the asker has is right.
        Same = 2 { lease_ms: u32 },
        /// The answer's bulk part is the piece, short where the chunk ends; `crc` is of it.
        Here = 3 { generation: u64, lease_ms: u32, crc: u32 },
        /// The piece is to be had from these servers; the first is to be tried first.
        From = 4 { generation: u64, lease_ms: u32, servers: Vec<ServerId> },
        /// The answer's bulk part is the piece as it is now; it may not be kept. Only if it was asked for directly.
        Loose = 5 { crc: u32 },
    }
}

wire_struct! {
    /// Pass a piece on that you have, or are about to have. Answered by the CRC of the answer's bulk part, which is the piece; absent: it is not to be
    /// had here. Server to server.
    pub struct HotFetch {
        /// File.
        pub ino: InodeId,
        /// Chunk of it.
        pub chunk: ChunkIndex,
        /// Piece of the chunk.
        pub piece: u32,
        /// What is wanted.
        pub generation: u64,
    }
}

wire_struct! {
    /// The file is about to change: drop what I have lent you of it. Server to server.
    pub struct HotRecall {
        /// Who lent it.
        pub holder: ServerId,
        /// File.
        pub ino: InodeId,
    }
}

/// How long an answer with [`crate::Flags::LENT`] may be given again, in milliseconds from when it was asked for.
pub const HOT_ANSWER_MS: u32 = 2_000;

wire_union! {
    /// What answers depend on.
    pub enum HotKey {
        /// A name in a directory, by its hash.
        Name = 1 { parent: InodeId, hash: u64 },
        /// An inode: its attributes, its content if it is small, who may find names in it.
        Inode = 2 { ino: InodeId },
    }
}

wire_struct! {
    /// These are about to change: forget all answers that depend on one of them, and those that are under way. Server to server.
    pub struct HotForget {
        /// Which.
        pub keys: Vec<HotKey>,
    }
}

wire_struct! {
    /// Is a file that many read whole on this node, as a file that the kernel could read by itself? Goes from a mount to the server of its own node, which makes
    /// such a copy if it is worth it.
    pub struct HotCopy {
        /// File.
        pub ino: InodeId,
        /// Its size.
        pub size: u64,
    }
}

wire_union! {
    /// Answer to [`HotCopy`].
    pub enum HotCopied {
        /// No, and it will not be soon.
        No = 1 {},
        /// It is being made.
        Coming = 2 {},
        /// It is this file's content at this moment. Copies have different numbers, also those of different runs of the server; the path may be gone when it is used.
        Here = 3 { number: u64, path: Bytes },
    }
}

request! {
    HotCopy => HotCopy -> HotCopied;
    HotForget => HotForget -> ();
    HotAsk => HotAsk -> HotGrant;
    HotFetch => HotFetch -> Option<u32>;
    HotRecall => HotRecall -> ();
}
