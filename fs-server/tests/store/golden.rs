//! The format, byte for byte.

use fs_proto::ids::{ChunkIndex, InodeId};
use fs_server::store::BlockSums;
use fs_server::store::format::{self, BlockSpan, Header, Kind, Position, Shape};

const STORE_ID: u64 = 0x0123_4567_89ab_cdef;

fn header() -> Header {
    Header {
        kind: Kind::Data,
        at: Position { segment: 0x11, unit: 0x22 },
        ino: InodeId(0x3300_0000_0000_0044),
        chunk: ChunkIndex(0x55),
        sequence: 0x66,
        durable: Position { segment: 0x10, unit: 0x77 },
        offset: 4000,
        data_bytes: 200,
        table_crc: 0,
    }
}

#[test]
fn golden_record() {
    // Goal: the bytes of a record never change unnoticed. 200 bytes at 4000 touch two blocks.
    let data = [0x5a; 200];
    let sums = BlockSums::of(4000, &data);
    let table = sums.table();
    assert_eq!(sums.crc(), fs_proto::checksum::crc(&data));
    assert_eq!(hex::encode(table), format!("{}{}", le_crc(&data[..96]), le_crc(&data[96..])));
    let header = Header { table_crc: fs_proto::checksum::crc(table), ..header() };
    let (front, back) = format::frame(&header, table, STORE_ID, 512);
    let want = GOLDEN_HEADER.replace(char::is_whitespace, "");
    assert_eq!(hex::encode(&front[..64]), want);
    assert_eq!(front[64..72], *table);
    assert_eq!((front.len(), back.len()), (128, 512 - 128 - 200));
    assert_eq!(hex::encode(&back[back.len() - 64..]), want);
    assert!(front[72..].iter().chain(&back[..back.len() - 64]).all(|b| *b == 0));
    assert_eq!(Header::decode(front[..64].try_into().unwrap(), STORE_ID), Some(header));
}

const GOLDEN_HEADER: &str = "
    48594331 01 03 0000 11000000 22000000
    4400000000000033 5500000000000000
    6600000000000000 10000000 77000000
    a00f0000 c8000000 0b3b9574 f49a22f6";

fn le_crc(bytes: &[u8]) -> String {
    hex::encode(fs_proto::checksum::crc(bytes).to_le_bytes())
}

#[test]
fn what_fills_a_block_is_a_void_record() {
    // Goal: nothing but records lies behind a record, up to the end of the write; the filling is as long as it has to be.
    let header = Header { at: Position { segment: 0x11, unit: 0x23 }, ..header() };
    let sums = BlockSums::of(4000, &[0x5a; 200]);
    let (front, back) = format::frame(&header, sums.table(), STORE_ID, 4096);
    let end = header.end();
    assert_eq!((end.byte() + back.len() as u64 + 128 + 200 - 512) % 4096, 0);
    let filling = &back[512 - front.len() - 200..];
    let void = Header::decode(filling[..64].try_into().unwrap(), STORE_ID).unwrap();
    assert_eq!((void.kind, void.at, u64::from(void.units()) * 512), (Kind::Void, end, filling.len() as u64));
    assert!(filling[64..].iter().all(|byte| *byte == 0));
}

#[test]
fn golden_heads() {
    // Goal: so do the heads of segments and the file that identifies the store.
    let head = format::encode_segment_head(0x11, 0x2233);
    assert_eq!(
        hex::encode(&head[..36]),
        "4841594154452d5303000000110000003322000000000000000000000000000000000000"
    );
    assert_eq!(format::decode_segment_head(&head, 0x11), Some(0x2233));
    assert_eq!(format::decode_segment_head(&head, 0x12), None);
    let file = format::encode_store_file(STORE_ID);
    assert_eq!(hex::encode(&file[..24]), "4841594154452d430300000000000000efcdab8967452301");
    assert_eq!(format::decode_store_file(&file), Ok(STORE_ID));
    for bit in 0..file.len() * 8 {
        let mut flipped = file;
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(format::decode_store_file(&flipped).is_err(), "bit {bit}");
    }
}

#[test]
fn a_header_with_a_flipped_bit_is_none() {
    // Goal: every bit is covered; a header of another store is none either.
    let bytes = header().encode(STORE_ID);
    assert_eq!(Header::decode(&bytes, STORE_ID + 1), None);
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes;
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(Header::decode(&flipped, STORE_ID), None, "bit {bit}");
    }
}

#[test]
fn shapes() {
    // Goal: data of 64 KiB and more lies on pages, short data does not waste any; blocks follow the chunk's grid.
    let small = Shape { unit: 3, offset: 10, data_bytes: 100 };
    assert_eq!((small.blocks(), small.data_at(), small.units()), (1, 128, 1));
    let large = Shape { unit: 3, offset: 0, data_bytes: 1 << 20 };
    assert_eq!((large.blocks(), (3 * 512 + large.data_at()) % 4096), (256, 0));
    let odd = Shape { unit: 1, offset: 5000, data_bytes: 10_000 };
    assert_eq!(odd.blocks(), 3);
    assert_eq!(
        [odd.block_range(0), odd.block_range(1), odd.block_range(2)],
        [5000..8192, 8192..12288, 12288..15000]
    );
    let span = BlockSpan::covering(odd, 6000, 3000);
    assert_eq!(span, BlockSpan { blocks: 0..2, start: 5000, head: 1000, tail: 12288 - 9000 });
    let tombstone = Header { kind: Kind::Truncate, data_bytes: 0, ..header() };
    assert_eq!(tombstone.units(), 1);
}
