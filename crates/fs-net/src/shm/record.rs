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

/// Length of a record's head.
pub(super) const HEAD_BYTES: usize = 16;

/// Kind of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Frame = 1,
    FrameByReference = 2,
    GivenBack = 3,
}

/// What the head of a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub kind: Kind,
    pub body_bytes: usize,
    pub offset: u32,
}

/// The head of a record.
pub(super) fn head(kind: Kind, body_bytes: usize, offset: u32) -> [u8; HEAD_BYTES] {
    let mut raw = [0; HEAD_BYTES];
    raw[0..4].copy_from_slice(&(kind as u32).to_le_bytes());
    raw[4..8].copy_from_slice(&(body_bytes as u32).to_le_bytes());
    raw[8..12].copy_from_slice(&offset.to_le_bytes());
    raw
}

/// Reads the head of the first of `records`, which are whole: its body comes after it.
pub(super) fn first(records: &[u8]) -> Result<Head, NetError> {
    let bad = |what: &str| Err(NetError::protocol(what));
    let Some((raw, rest)) = records.split_first_chunk::<HEAD_BYTES>() else {
        return bad("half a record in shared memory");
    };
    let word = |at: usize| u32::from_le_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]]);
    let kind = match word(0) {
        1 => Kind::Frame,
        2 => Kind::FrameByReference,
        3 => Kind::GivenBack,
        _ => return bad("an unknown record in shared memory"),
    };
    let body_bytes = word(4) as usize;
    if word(12) != 0 || body_bytes > rest.len() {
        return bad("a damaged record in shared memory");
    }
    Ok(Head { kind, body_bytes, offset: word(8) })
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
        let whole = [&head(Kind::Frame, 3, 0)[..], b"abc", &head(Kind::GivenBack, 0, 8192)].concat();
        let frame = Head { kind: Kind::Frame, body_bytes: 3, offset: 0 };
        let given_back = Head { kind: Kind::GivenBack, body_bytes: 0, offset: 8192 };
        assert_eq!(first(&whole).expect("sound"), frame);
        assert_eq!(first(&whole[HEAD_BYTES + 3..]).expect("sound"), given_back);
        for cut in 1..HEAD_BYTES + 3 {
            assert!(first(&whole[..cut]).is_err(), "{cut}");
        }
        for (at, byte) in [(0, 4), (0, 0), (7, 1), (12, 1)] {
            let mut bad = whole.clone();
            bad[at] = byte;
            assert!(first(&bad).is_err(), "{at}");
        }
    }
}
