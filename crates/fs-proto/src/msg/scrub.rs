//! Verifying what a server holds, step by step. Goes to a server.

use crate::ids::{ChunkIndex, InodeId};
use crate::op::request;
use crate::wire::wire_struct;
use bytes::Bytes;

wire_struct! {
    /// Up to where a server was verified: all records of its key-value store, and of its devices those before this one.
    pub struct ScrubCursor {
        /// The device that is being verified.
        pub device: u16,
        /// The last of its chunks that was; none yet without.
        pub last: Option<(InodeId, ChunkIndex)>,
    }
}

wire_struct! {
    /// Verify what comes after `after`, and answer after about so many bytes; without it, all records of the key-value store.
    pub struct Scrub {
        /// Where the last step ended.
        pub after: Option<ScrubCursor>,
        /// Bytes to read.
        pub budget_bytes: u64,
    }
}

wire_struct! {
    /// What a step found.
    pub struct Scrubbed {
        /// Where to go on; none at the end.
        pub next: Option<ScrubCursor>,
        /// Records of the key-value store that were verified.
        pub records: u64,
        /// Chunks that were verified.
        pub chunks: u64,
        /// Bytes of chunks that were read.
        pub bytes: u64,
        /// Damaged copies that were written again from whole ones.
        pub repaired: u64,
        /// What is damaged.
        pub damaged: Vec<Damage>,
    }
}

wire_struct! {
    /// Something that is damaged.
    pub struct Damage {
        /// The file, if it is one's.
        pub ino: Option<InodeId>,
        /// Its path, or what it is, for people.
        pub what: Bytes,
    }
}

request! {
    Scrub => Scrub -> Scrubbed;
}
