//! Chunks that a server without room has another one keep.

use crate::ids::{ChunkIndex, InodeId};
use crate::op::request;
use crate::wire::wire_struct;

wire_struct! {
    /// May chunks of this file be kept by another server than the one that should hold them? Goes to its home. Server to server.
    pub struct MayOverflow {
        /// Which.
        pub ino: InodeId,
    }
}

wire_struct! {
    /// A chunk that is kept for another server.
    pub struct Kept {
        /// Its file.
        pub ino: InodeId,
        /// Which of the file's.
        pub chunk: ChunkIndex,
        /// Inode number under which its keeper has it.
        pub place: InodeId,
    }
}

wire_struct! {
    /// Which of these are still yours? Goes to the server that they are kept for. Server to server.
    pub struct KeptFor {
        /// Chunks.
        pub chunks: Vec<Kept>,
    }
}

request! {
    MayOverflow => MayOverflow -> bool;
    KeptFor => KeptFor -> Vec<bool>;
}
