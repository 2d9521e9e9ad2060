//! What lies in a ring: records, each published whole.
//!
//! ```text
//!  0 u32 kind       4 u32 body bytes       8 u32 offset in the sender's (kind 2) or receiver's (kind 3) arena       12 u32 zero
//! kinds  1 a frame: the body is header, meta and bulk
//!        2 a frame whose bulk lies in the sender's arena: the body is header and meta, the header says how long the bulk is
//!        3 given back: what the receiver of this record had lent at `offset`; no body
//! ```
//! Decoding is total and works on a private copy (`transport`: `any_bytes_in_a_ring_are_survived`).

use crate::error::NetError;
use bytes::{Buf, Bytes, BytesMut};

/// Length of a record's head.
pub(super) const HEAD_BYTES: usize = 16;

/// Kind of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Frame = 1,
    FrameByReference = 2,
    GivenBack = 3,
}

/// A record with its body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub kind: Kind,
    pub offset: u32,
    pub body: Bytes,
}

/// The head of a record.
pub(super) fn head(kind: Kind, body_bytes: usize, offset: u32) -> [u8; HEAD_BYTES] {
    let mut raw = [0; HEAD_BYTES];
    raw[0..4].copy_from_slice(&(kind as u32).to_le_bytes());
    raw[4..8].copy_from_slice(&(body_bytes as u32).to_le_bytes());
    raw[8..12].copy_from_slice(&offset.to_le_bytes());
    raw
}

/// Takes the next record off `taken`, which holds whole records.
pub(super) fn next(taken: &mut BytesMut) -> Result<Option<Record>, NetError> {
    if taken.is_empty() {
        return Ok(None);
    }
    let bad = |what: &str| Err(NetError::protocol(what));
    if taken.len() < HEAD_BYTES {
        return bad("half a record in shared memory");
    }
    let number = taken.get_u32_le();
    let (body_bytes, offset, zero) = (taken.get_u32_le() as usize, taken.get_u32_le(), taken.get_u32_le());
    let kind = match number {
        1 => Kind::Frame,
        2 => Kind::FrameByReference,
        3 => Kind::GivenBack,
        _ => return bad("an unknown record in shared memory"),
    };
    if zero != 0 || body_bytes > taken.len() {
        return bad("a damaged record in shared memory");
    }
    let body = if body_bytes == 0 { Bytes::new() } else { taken.split_to(body_bytes).freeze() };
    Ok(Some(Record { kind, offset, body }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let raw = head(Kind::FrameByReference, 0x0102, 0x0A0B_0C0D);
        assert_eq!(hex::encode(raw), "02000000020100000d0c0b0a00000000");
    }

    #[test]
    fn records_come_back_and_halves_are_refused() {
        let mut ring = BytesMut::new();
        ring.extend_from_slice(&head(Kind::Frame, 3, 0));
        ring.extend_from_slice(b"abc");
        ring.extend_from_slice(&head(Kind::GivenBack, 0, 8192));
        let whole = ring.clone();
        let first = next(&mut ring).expect("sound").expect("there");
        assert_eq!((first.kind, &first.body[..]), (Kind::Frame, &b"abc"[..]));
        let second = next(&mut ring).expect("sound").expect("there");
        assert_eq!((second.kind, second.offset), (Kind::GivenBack, 8192));
        assert_eq!(next(&mut ring).expect("sound"), None);
        for cut in 1..HEAD_BYTES + 3 {
            assert!(next(&mut whole.clone().split_to(cut)).is_err(), "{cut}");
        }
        for (at, byte) in [(0, 4), (0, 0), (7, 1), (12, 1)] {
            let mut bad = whole.clone();
            bad[at] = byte;
            assert!(next(&mut bad).is_err(), "{at}");
        }
    }
}
