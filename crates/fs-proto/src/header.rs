//! The frame header: 64 bytes, little-endian, in front of every message.
//!
//! ```text
//!  0 u32 magic "HYT1"      4 u16 version        6 u16 operation
//!  8 u32 tag               12 u16 flags         14 u8 hops        15 u8 zero
//! 16 u64 epoch
//! 24 u64 client            32 u64 sequence      (a request's identity from end to end)
//! 40 u32 meta bytes        44 u32 bulk bytes
//! 48 u16 target            50 u16 status        52 u32 deadline (ms from receipt, 0 none)
//! 56 u16 zero              58 u16 zero          60 u32 CRC of bytes 0 to 59
//! ```
//! A frame is the header, then `meta` (the encoded body), then `bulk` (data, last, so that it can be received in place).
//!
//! # Invariants
//! - Reserved bytes are zero and checked; any bit flip of a header is detected (`tests/golden.rs`, `header_bit_flips_are_detected`).
//! - `tag` is valid on one connection and rewritten at each hop; (`client`, `sequence`) never changes on the way.
//! - Upper 16 bits of `sequence` are the client's lane, the rest counts within it; a mutation sent again carries the same.

use crate::checksum::crc;
use crate::ids::{ClientId, Partition, ServerId};
use crate::op::Op;
use crate::status::Status;
use crate::{BULK_MAX, META_MAX, PROTOCOL_VERSION};
use thiserror::Error;

/// Size of a header.
pub const HEADER_BYTES: usize = 64;

const MAGIC: u32 = u32::from_le_bytes(*b"HYT1");
const CRC_AT: usize = 60;
const _: () = assert!(CRC_AT + 4 == HEADER_BYTES);

/// Bits of [`Header::flags`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(pub u16);

impl Flags {
    /// This frame answers a request.
    pub const REPLY: Flags = Flags(1);
    /// `target` is a server number, not a partition.
    pub const TO_SERVER: Flags = Flags(1 << 1);
    /// Sent again; the first may have been executed.
    pub const RETRY: Flags = Flags(1 << 2);
    /// The kernel has checked the caller's permissions (mounts with `default_permissions`).
    pub const CHECKED: Flags = Flags(1 << 3);
    /// In an answer from server to server: the asker may give the same answer to others for [`crate::msg::hot::HOT_ANSWER_MS`] from when it
    /// asked, unless it is told to forget it (`Op::HotForget`).
    pub const LENT: Flags = Flags(1 << 4);
    /// In a client's request that its node's server sends on: the file is open for the node, not for the client. The body is followed by a
    /// [`crate::msg::node::ForNode`].
    pub const FOR_NODE: Flags = Flags(1 << 5);
    /// In a client's request about an inode that its node's server sends on: no other client of that server writes the inode.
    pub const SOLE: Flags = Flags(1 << 6);
    /// In a client's request: whatever this client asks passes the server that it is sent to.
    pub const ONE_WAY: Flags = Flags(1 << 7);
    const KNOWN: u16 = 0b1111_1111;

    /// Whether all bits of `other` are set.
    pub fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// With the bits of `other`.
    #[must_use]
    pub fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    /// Without the bits of `other`.
    #[must_use]
    pub fn without(self, other: Flags) -> Flags {
        Flags(self.0 & !other.0)
    }
}

/// A decoded frame header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What is asked, or was asked.
    pub op: Op,
    /// Matches a reply with its request on this connection.
    pub tag: u32,
    /// See [`Flags`].
    pub flags: Flags,
    /// How often the request was forwarded. At most one.
    pub hops: u8,
    /// Epoch of the partition map that the sender used.
    pub epoch: u64,
    /// Who asked first.
    pub client: ClientId,
    /// Lane (16 bits) and count (48 bits) of the request at its client.
    pub sequence: u64,
    /// Bytes of the encoded body.
    pub meta_bytes: u32,
    /// Bytes of data after the body.
    pub bulk_bytes: u32,
    /// Partition, or server with [`Flags::TO_SERVER`], that the request is for.
    pub target: u16,
    /// How the request ended; `Ok` in requests.
    pub status: Status,
    /// Milliseconds that the asker still waits; 0 is without limit.
    pub deadline_ms: u32,
}

/// Why 64 bytes are not a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum HeaderError {
    /// Not this protocol at all.
    #[error("not a Hayate message (bad magic number)")]
    Magic,
    /// Another version of it.
    #[error(
        "the peer speaks protocol version {0}, this side {PROTOCOL_VERSION}: use the same release of hayate on all nodes"
    )]
    Version(u16),
    /// Bits changed on the way.
    #[error("message header is damaged (checksum differs)")]
    Checksum,
    /// An operation, status, flag or reserved byte that this version does not know.
    #[error("message header has an unknown {0}")]
    Unknown(&'static str),
    /// A part is larger than the protocol allows.
    #[error("message of {0} bytes is above the limit")]
    TooLarge(u32),
}

impl Header {
    /// A request for the owner of `target`.
    pub fn request(op: Op, target: Partition) -> Header {
        Header {
            op,
            tag: 0,
            flags: Flags::default(),
            hops: 0,
            epoch: 0,
            client: ClientId::default(),
            sequence: 0,
            meta_bytes: 0,
            bulk_bytes: 0,
            target: target.0,
            status: Status::Ok,
            deadline_ms: 0,
        }
    }

    /// A request for one server, whatever it owns.
    pub fn request_to_server(op: Op, server: ServerId) -> Header {
        let mut header = Header::request(op, Partition(server.0));
        header.flags = Flags::TO_SERVER;
        header
    }

    /// The thread of the client that sends one mutation after the other, and the number of this one.
    pub fn lane_and_count(&self) -> (u16, u64) {
        ((self.sequence >> 48) as u16, self.sequence & ((1 << 48) - 1))
    }

    /// The header of the answer to `self`.
    #[must_use]
    pub fn reply(&self, status: Status, meta_bytes: u32, bulk_bytes: u32) -> Header {
        Header { flags: Flags::REPLY, status, meta_bytes, bulk_bytes, deadline_ms: 0, ..*self }
    }

    /// Bytes that follow the header.
    pub fn body_bytes(&self) -> usize {
        self.meta_bytes as usize + self.bulk_bytes as usize
    }

    /// The wire form.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut raw = [0; HEADER_BYTES];
        raw[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        raw[4..6].copy_from_slice(&PROTOCOL_VERSION.to_le_bytes());
        raw[6..8].copy_from_slice(&(self.op as u16).to_le_bytes());
        raw[8..12].copy_from_slice(&self.tag.to_le_bytes());
        raw[12..14].copy_from_slice(&self.flags.0.to_le_bytes());
        raw[14] = self.hops;
        raw[16..24].copy_from_slice(&self.epoch.to_le_bytes());
        raw[24..32].copy_from_slice(&self.client.0.to_le_bytes());
        raw[32..40].copy_from_slice(&self.sequence.to_le_bytes());
        raw[40..44].copy_from_slice(&self.meta_bytes.to_le_bytes());
        raw[44..48].copy_from_slice(&self.bulk_bytes.to_le_bytes());
        raw[48..50].copy_from_slice(&self.target.to_le_bytes());
        raw[50..52].copy_from_slice(&(self.status as u16).to_le_bytes());
        raw[52..56].copy_from_slice(&self.deadline_ms.to_le_bytes());
        let sum = crc(&raw[..CRC_AT]);
        raw[CRC_AT..].copy_from_slice(&sum.to_le_bytes());
        raw
    }

    /// Reads the wire form. The order of checks tells a stranger, an old release and damage apart.
    pub fn decode(raw: &[u8; HEADER_BYTES]) -> Result<Header, HeaderError> {
        let u16_at = |at: usize| u16::from_le_bytes([raw[at], raw[at + 1]]);
        let u32_at = |at: usize| u32::from_le_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        if u32_at(0) != MAGIC {
            return Err(HeaderError::Magic);
        }
        if u32_at(CRC_AT) != crc(&raw[..CRC_AT]) {
            return Err(HeaderError::Checksum);
        }
        if u16_at(4) != PROTOCOL_VERSION {
            return Err(HeaderError::Version(u16_at(4)));
        }
        if raw[15] != 0 || u32_at(56) != 0 {
            return Err(HeaderError::Unknown("reserved byte"));
        }
        if u16_at(12) & !Flags::KNOWN != 0 {
            return Err(HeaderError::Unknown("flag"));
        }
        let header = Header {
            op: Op::from_number(u16_at(6)).ok_or(HeaderError::Unknown("operation"))?,
            tag: u32_at(8),
            flags: Flags(u16_at(12)),
            hops: raw[14],
            epoch: u64_at(16),
            client: ClientId(u64_at(24)),
            sequence: u64_at(32),
            meta_bytes: u32_at(40),
            bulk_bytes: u32_at(44),
            target: u16_at(48),
            status: Status::from_number(u16_at(50)).ok_or(HeaderError::Unknown("status"))?,
            deadline_ms: u32_at(52),
        };
        if header.meta_bytes > META_MAX {
            return Err(HeaderError::TooLarge(header.meta_bytes));
        }
        if header.bulk_bytes > BULK_MAX {
            return Err(HeaderError::TooLarge(header.bulk_bytes));
        }
        Ok(header)
    }
}
