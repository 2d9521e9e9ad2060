//! What a message over RDMA is: a head, then records.
//!
//! ```text
//! head    0 u32 credits that the receiver of this message gets back       4 u32 zero
//! record  0 u32 kind       4 u32 body bytes       8 u64 address (kind 2)       16 u32 key (kind 2)       20 u32 id (kinds 2, 3)
//! kinds   1 a frame: the body is header, meta and bulk
//!         2 a frame whose bulk lies in the sender's memory, to be read from there: the body is header and meta
//!         3 given back: what the receiver of this record had lent as `id`; no body
//! ```
//! A message with a frame costs its sender a credit, one without does not. Decoding is total and works on a private copy
//! (`any_bytes_are_survived`).

use crate::error::NetError;
use bytes::{Buf, Bytes};
use fs_proto::{HEADER_BYTES, Header};

/// Largest message: a frame with both parts a little smaller than what is lent, heads, and things given back.
pub(super) const MESSAGE_BYTES: usize = 17 << 10;
/// Length of a message's head.
pub(super) const HEAD_BYTES: usize = 8;
/// Length of a record without its body.
pub(super) const RECORD_BYTES: usize = 24;

const _: () = assert!(
    HEAD_BYTES + RECORD_BYTES + HEADER_BYTES + 2 * crate::send_queue::BY_REFERENCE_BYTES <= MESSAGE_BYTES
);

/// Bytes in a peer's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub address: u64,
    pub key: u32,
    pub id: u32,
}

/// A record.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Record {
    Frame { header: Header, meta: Bytes, bulk: Bytes },
    ByReference { header: Header, meta: Bytes, place: Place },
    GivenBack(u32),
}

/// Fills a message.
pub(super) struct Writer<'a> {
    out: &'a mut [u8],
    len: usize,
    frames: usize,
}

impl<'a> Writer<'a> {
    pub fn new(out: &'a mut [u8], credits: u32) -> Writer<'a> {
        out[..4].copy_from_slice(&credits.to_le_bytes());
        out[4..8].fill(0);
        Writer { out, len: HEAD_BYTES, frames: 0 }
    }

    pub fn has_room(&self, body: usize) -> bool {
        self.len + RECORD_BYTES + body <= self.out.len()
    }

    /// A frame's record; `staged` begins with the header, `meta` comes after it. There must be room.
    pub fn frame(&mut self, staged: &[u8], meta: &[u8], place: Option<Place>) {
        let kind = if place.is_some() { 2 } else { 1 };
        self.head(kind, staged.len() + meta.len(), place.unwrap_or(Place { address: 0, key: 0, id: 0 }));
        let (header, rest) = staged.split_at(HEADER_BYTES);
        for bytes in [header, meta, rest] {
            self.put(bytes);
        }
        self.frames += 1;
    }

    pub fn given_back(&mut self, id: u32) {
        self.head(3, 0, Place { address: 0, key: 0, id });
    }

    fn head(&mut self, kind: u32, body: usize, place: Place) {
        self.put(&kind.to_le_bytes());
        self.put(&(body as u32).to_le_bytes());
        self.put(&place.address.to_le_bytes());
        self.put(&place.key.to_le_bytes());
        self.put(&place.id.to_le_bytes());
    }

    fn put(&mut self, bytes: &[u8]) {
        self.out[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    /// Bytes and frames that the message has.
    pub fn finish(self) -> (usize, usize) {
        (self.len, self.frames)
    }
}

/// Takes the head off a message: the credits that come back.
pub(super) fn credits(message: &mut Bytes) -> Result<u32, NetError> {
    if message.len() < HEAD_BYTES {
        return Err(NetError::protocol("half a message over RDMA"));
    }
    let (credits, zero) = (message.get_u32_le(), message.get_u32_le());
    if zero != 0 {
        return Err(NetError::protocol("a damaged message over RDMA"));
    }
    Ok(credits)
}

/// Takes the next record off a message.
pub(super) fn next(message: &mut Bytes) -> Result<Option<Record>, NetError> {
    let bad = |what: &str| Err(NetError::protocol(what));
    if message.is_empty() {
        return Ok(None);
    }
    if message.len() < RECORD_BYTES {
        return bad("half a record over RDMA");
    }
    let (kind, body_bytes) = (message.get_u32_le(), message.get_u32_le() as usize);
    let place = Place { address: message.get_u64_le(), key: message.get_u32_le(), id: message.get_u32_le() };
    if body_bytes > message.len() {
        return bad("a damaged record over RDMA");
    }
    let body = message.split_to(body_bytes);
    match kind {
        1 | 2 => frame(kind == 2, body, place).map(Some),
        3 if body.is_empty() => Ok(Some(Record::GivenBack(place.id))),
        _ => bad("an unknown record over RDMA"),
    }
}

fn frame(is_lent: bool, mut body: Bytes, place: Place) -> Result<Record, NetError> {
    let raw = body.first_chunk::<HEADER_BYTES>().ok_or_else(|| NetError::protocol("half a header"))?;
    let header = Header::decode(raw).map_err(NetError::protocol)?;
    body.advance(HEADER_BYTES);
    let inline_bytes = if is_lent { 0 } else { header.bulk_bytes as usize };
    if body.len() != header.meta_bytes as usize + inline_bytes || (is_lent && header.bulk_bytes == 0) {
        return Err(NetError::protocol("a message of another length than its header says"));
    }
    let meta = body.split_to(header.meta_bytes as usize);
    Ok(if is_lent {
        Record::ByReference { header, meta, place }
    } else {
        Record::Frame { header, meta, bulk: body }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use fs_proto::{Op, Partition};
    use proptest::prelude::*;

    fn header(meta: u32, bulk: u32) -> Header {
        let mut header = Header::request(Op::Ping, Partition(3));
        (header.meta_bytes, header.bulk_bytes) = (meta, bulk);
        header
    }

    fn message(fill: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
        let mut out = vec![0xEE; MESSAGE_BYTES];
        let mut writer = Writer::new(&mut out, 7);
        fill(&mut writer);
        let (len, _) = writer.finish();
        out.truncate(len);
        out
    }

    fn read(message: Vec<u8>) -> Result<(u32, Vec<Record>), NetError> {
        let mut message = Bytes::from(message);
        let (credits, mut records) = (credits(&mut message)?, Vec::new());
        while let Some(record) = next(&mut message)? {
            records.push(record);
        }
        Ok((credits, records))
    }

    #[test]
    fn golden_bytes() {
        let raw = message(|writer| {
            writer.given_back(0x0102_0304);
            let place = Place { address: 0x0A0B_0C0D_0E0F, key: 0x55, id: 9 };
            writer.frame(&header(0, 70_000).encode(), &[], Some(place));
        });
        let heads = concat!(
            "0700000000000000",
            "030000000000000000000000000000000000000004030201",
            "02000000400000000f0e0d0c0b0a00005500000009000000"
        );
        assert_eq!(hex::encode(&raw[..56]), heads);
    }

    #[test]
    fn records_come_back_and_halves_are_refused() {
        let small = [&header(2, 3).encode()[..], b"bcd"].concat();
        let place = Place { address: 1 << 40, key: 3, id: 4 };
        let whole = message(|writer| {
            writer.frame(&small, b"me", None);
            writer.given_back(11);
            writer.frame(&header(1, 9000).encode(), b"m", Some(place));
        });
        let (credits, records) = read(whole.clone()).expect("sound");
        let expected = [
            Record::Frame {
                header: header(2, 3),
                meta: Bytes::from_static(b"me"),
                bulk: Bytes::from_static(b"bcd"),
            },
            Record::GivenBack(11),
            Record::ByReference { header: header(1, 9000), meta: Bytes::from_static(b"m"), place },
        ];
        assert_eq!((credits, &records[..]), (7, &expected[..]));
        let ends = [8, 8 + 24 + 69, 8 + 24 + 69 + 24, whole.len()];
        for cut in 0..whole.len() {
            assert_eq!(read(whole[..cut].to_vec()).is_ok(), ends.contains(&cut), "{cut}");
        }
    }

    proptest! {
        /// Goal: whatever a peer sends gives records or an error. Method: any bytes, and sound messages with bytes changed.
        #[test]
        fn any_bytes_are_survived(
            noise in prop::collection::vec(any::<u8>(), 0..600),
            changes in prop::collection::vec((0..600_usize, any::<u8>()), 0..8),
            lent in any::<bool>(),
        ) {
            let _ = read(noise.clone());
            let place = lent.then_some(Place { address: 5, key: 6, id: 7 });
            let mut sound = message(|writer| {
                writer.given_back(1);
                let bulk = if lent { 12_000 } else { 0 };
                writer.frame(&header(noise.len() as u32, bulk).encode(), &noise, place);
            });
            prop_assert!(read(sound.clone()).is_ok());
            for (at, byte) in changes {
                let at = at % sound.len();
                sound[at] = byte;
            }
            let _ = read(sound);
        }
    }
}
