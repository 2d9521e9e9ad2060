//! What servers, clients and tools of Hayate say to each other, and where things are placed.
//!
//! This crate is pure: no sockets, files, clock or randomness; time is an argument.
//!
//! | module | what |
//! |---|---|
//! | [`ids`] | partition, inode, server, client and chunk numbers |
//! | [`header`] | the fixed frame header |
//! | [`wire`] | encoding of message bodies |
//! | [`op`] | operation numbers, and which request and reply belong to each |
//! | [`status`] | how a request ended, and its errno |
//! | [`msg`] | the messages, one file a family |
//! | [`attr`] | attributes and layouts |
//! | [`record`] | mutations of the namespace, as logged and as sent in transactions |
//! | [`placement`] | the consistent hash: partition to server, name and chunk to partition |
//! | [`lock`] | who holds which bytes of a file |
//! | [`checksum`] | the CRC of headers, chunks and records |

pub mod attr;
pub mod checksum;
pub mod header;
pub mod ids;
pub mod layout;
pub mod lock;
pub mod msg;
pub mod op;
pub mod placement;
pub mod record;
pub mod status;
pub mod wire;

pub use attr::{Attr, FileKind, Layout, Placement, TimeNs};
pub use header::{Flags, HEADER_BYTES, Header};
pub use ids::{ChunkIndex, ClientId, InodeId, PARTITIONS, Partition, ServerId};
pub use layout::{LAYOUT_ATTRIBUTE, LayoutWish, layout_text};
pub use op::{Op, Request};
pub use placement::PartitionMap;
pub use status::Status;
pub use wire::{DecodeError, Wire};

/// Version of the wire protocol. Peers of another version are refused at the handshake.
pub const PROTOCOL_VERSION: u16 = 2;

/// Longest file name, in bytes.
pub const NAME_MAX: usize = 255;

/// Largest `meta` part of a frame, in bytes (a widening directory's batch of entries is the largest).
pub const META_MAX: u32 = 4 << 20;

/// Most bytes of a file that can lie with its inode, whatever a server's threshold: what outgrows it is one piece of one chunk.
pub const INLINE_MAX: u32 = 64 << 10;
const _: () = assert!(INLINE_MAX as u64 <= 1 << *attr::CHUNK_LOG2.start());

/// Largest bulk part of a frame, in bytes: the largest chunk piece that one message moves.
pub const BULK_MAX: u32 = 16 << 20;
