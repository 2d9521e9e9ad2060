//! Verifying what a server holds, step by step. Goes to a server.

use crate::ids::{ChunkIndex, InodeId};
use crate::op::request;
use crate::wire::{wire_struct, wire_union};
use bytes::Bytes;

wire_union! {
    /// Up to where a server was verified.
    pub enum ScrubCursor {
        /// Records of the key-value store, up to this key.
        Records = 1 { key: Bytes },
        /// Chunks of a device, up to this one; none of them yet without.
        Chunks = 2 { device: u16, last: Option<(InodeId, ChunkIndex)> },
    }
}

wire_struct! {
    /// Verify what comes after `after` (everything, without it), and answer after about so many bytes.
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
