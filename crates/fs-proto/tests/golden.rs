//! Goal: the wire and disk formats do not change by accident. Method: bytes of known values, written down once. A test that fails
//! here means that old and new releases, or an old store and a new server, do not understand each other: raise
//! `PROTOCOL_VERSION` or `RECORD_VERSION`, or take the change back.

use bytes::Bytes;
use fs_proto::attr::{Attr, FileKind, Layout};
use fs_proto::checksum::crc;
use fs_proto::header::HeaderError;
use fs_proto::ids::{ChunkIndex, ClientId, InodeId, Partition, ServerId};
use fs_proto::lock::{HeldLock, LockFamily, LockKind, LockOwner, LockRange};
use fs_proto::msg::{
    Caller, admin::*, chunk::*, hot::*, inode::*, lock::*, name::*, node::*, overflow::*, scrub::*,
    session::*, small::*, tier::*, transaction::*, vault::*,
};
use fs_proto::placement::{
    MapEvent, Member, chunk_partition, directory_partition, entry_cookie, entry_partition, name_hash,
};
use fs_proto::record::*;
use fs_proto::{Flags, HEADER_BYTES, Header, LayoutWish, Op, PartitionMap, Placement, Status, Wire};
use std::collections::BTreeSet;
use std::fmt::{Debug, Write};

const FILE: InodeId = InodeId(0x1234_0000_0000_0007);
const DIR: InodeId = InodeId(0xabcd_0000_0000_0002);
const TX: TransactionId = TransactionId { coordinator: ServerId(3), number: 0x0102 };

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("strings take all");
        text
    })
}

/// Collects values with the bytes they must have, so that one run shows all that changed.
#[derive(Default)]
struct Golden {
    wrong: Vec<String>,
}

impl Golden {
    fn is<T: Wire + PartialEq + Debug>(&mut self, value: T, expected: &str) -> &mut Self {
        let bytes = value.to_bytes();
        let actual = hex(&bytes);
        if actual != expected {
            self.wrong.push(format!("{value:?}\n  is       {actual}\n  must be  {expected}"));
        }
        assert_eq!(T::from_bytes(bytes), Ok(value));
        self
    }

    fn done(&self) {
        assert!(self.wrong.is_empty(), "changed:\n{}", self.wrong.join("\n"));
    }
}

fn name(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn attr() -> Attr {
    Attr {
        ino: FILE,
        kind: FileKind::File,
        mode: 0o644,
        uid: 1000,
        gid: 100,
        nlink: 1,
        rdev: 0,
        size: 0x1_0000_0001,
        atime: 1,
        mtime: -2,
        ctime: 3,
        btime: 4,
        layout: Layout::default(),
        wide: false,
        inline: false,
        acl: false,
        capable: false,
        version: 5,
        parent: DIR,
    }
}

fn tier() -> TierLocation {
    TierLocation { parent: DIR, name: name("t"), version: 5, ctime: 3, tier_ino: 0x99 }
}

fn backing() -> Backing {
    Backing { size: 7, mtime: -1, limit: 6 }
}

fn inode() -> InodeRecord {
    let (name, target, tier, backed) = (name("a"), Bytes::new(), Some(tier()), Some(backing()));
    InodeRecord { attr: attr(), name, target, tier, cut_version: 4, backed }
}

fn shard() -> ShardRecord {
    ShardRecord {
        dir: DIR,
        mode: 0o1777,
        uid: 1,
        gid: 2,
        layout: Layout { chunk_log2: 16, ..Layout::default() },
        mtime: -1,
        entries: 10,
        subdirs: 3,
    }
}

fn request_header() -> Header {
    let mut header = Header::request(Op::WriteChunk, Partition(0xbeef));
    header.tag = 0x0102_0304;
    header.flags = Flags::RETRY.with(Flags::CHECKED);
    header.hops = 1;
    header.epoch = 7;
    header.client = ClientId(0x1122_3344_5566_7788);
    header.sequence = 0x0009_0000_0000_000a;
    header.meta_bytes = 0x50;
    header.bulk_bytes = 0x10_0000;
    header.deadline_ms = 30_000;
    header
}

const REQUEST_HEADER: &str = "4859543102002800040302010c000100070000000000000088776655443322110a000000000009005000000000001000efbe000030750000000000001c07543a";
const REPLY_HEADER: &str = "48595431020028000403020101000100070000000000000088776655443322110a000000000009000c00000000000000efbe1400000000000000000060277721";
const TO_SERVER_HEADER: &str = "485954310200470000000000020000000000000000000000000000000000000000000000000000000000000000000000020100000000000000000000c20c9ee4";

#[test]
fn headers_never_change() {
    let request = request_header();
    let reply = request.reply(Status::StaleEpoch, 12, 0);
    let to_server = Header::request_to_server(Op::Statfs, ServerId(0x0102));
    for (header, expected) in
        [(request, REQUEST_HEADER), (reply, REPLY_HEADER), (to_server, TO_SERVER_HEADER)]
    {
        let raw = header.encode();
        assert_eq!(hex(&raw), expected);
        assert_eq!(Header::decode(&raw), Ok(header));
    }
}

/// One and two flipped bits, anywhere, the checksum included.
#[test]
fn header_bit_flips_are_detected() {
    let raw = request_header().encode();
    let flip = |raw: &[u8; HEADER_BYTES], bit: usize| {
        let mut raw = *raw;
        raw[bit / 8] ^= 1 << (bit % 8);
        raw
    };
    for first in 0..HEADER_BYTES * 8 {
        let once = flip(&raw, first);
        let expected = if first < 32 { HeaderError::Magic } else { HeaderError::Checksum };
        assert_eq!(Header::decode(&once), Err(expected), "bit {first}");
        for second in 0..first {
            assert!(Header::decode(&flip(&once, second)).is_err(), "bits {first} and {second}");
        }
    }
}

/// Each field out of its range, with the checksum right.
#[test]
fn headers_out_of_range_are_refused() {
    let decode_with = |at: usize, bytes: &[u8]| {
        let mut raw = request_header().encode();
        raw[at..at + bytes.len()].copy_from_slice(bytes);
        let sum = crc(&raw[..60]);
        raw[60..].copy_from_slice(&sum.to_le_bytes());
        Header::decode(&raw).map(|header| header.tag)
    };
    assert_eq!(decode_with(8, &[5, 0, 0, 0]), Ok(5));
    assert_eq!(decode_with(0, b"HYT2"), Err(HeaderError::Magic));
    assert_eq!(decode_with(4, &[0xff, 0xff]), Err(HeaderError::Version(0xffff)));
    assert_eq!(decode_with(6, &[0, 0]), Err(HeaderError::Unknown("operation")));
    assert_eq!(decode_with(12, &[0, 0x80]), Err(HeaderError::Unknown("flag")));
    assert_eq!(decode_with(15, &[1]), Err(HeaderError::Unknown("reserved byte")));
    assert_eq!(
        decode_with(40, &(fs_proto::META_MAX + 1).to_le_bytes()),
        Err(HeaderError::TooLarge(fs_proto::META_MAX + 1))
    );
    assert_eq!(
        decode_with(44, &(fs_proto::BULK_MAX + 1).to_le_bytes()),
        Err(HeaderError::TooLarge(fs_proto::BULK_MAX + 1))
    );
    assert_eq!(decode_with(50, &[0xff, 0xff]), Err(HeaderError::Unknown("status")));
    for at in 56..60 {
        assert_eq!(decode_with(at, &[1]), Err(HeaderError::Unknown("reserved byte")));
    }
}

#[test]
fn messages_never_change() {
    let mut golden = Golden::default();
    golden
        .is(Caller { uid: 1000, gid: 100, groups: vec![4, 24] }, "e803000064000000020000000400000018000000")
        .is(Shutdown { mode: ShutdownMode::Keep }, "01")
        .is(ServerStatus {}, "")
        .is(PunchChunk { ino: FILE, chunk: ChunkIndex(9), offset: 1, len: 2 }, "070000000000341209000000000000000100000002000000")
        .is(ChunkRanges { ino: FILE, chunk: ChunkIndex(9) }, "07000000000034120900000000000000")
        .is(Scrub { after: Some(ScrubCursor { device: 1, last: Some((FILE, ChunkIndex(9))) }), budget_bytes: 5 }, "01010001070000000000341209000000000000000500000000000000")
        .is(ChunkMap { ino: FILE, from: ChunkIndex(9), limit: 16 }, "0700000000003412090000000000000010000000")
        .is(ChunkMapPage { chunks: vec![(ChunkIndex(9), vec![(1, 2)])], end: true }, "01000000090000000000000001000000010000000200000001")
        .is(PunchInline { ino: FILE, offset: 1, len: 2, mtime: -1 }, "070000000000341201000000000000000200000000000000ffffffffffffffff")
        .is(
            CopyChunk { from: FILE, from_chunk: ChunkIndex(9), from_offset: 1, len: 2, ino: DIR, chunk: ChunkIndex(8), offset: 3, file_end: 9 << 20, since: 5 },
            "070000000000341209000000000000000100000002000000020000000000cdab08000000000000000300000000009000000000000500000000000000",
        )
        .is("é".to_string(), "02000000c3a9")
        .is(WriteChunk { ino: FILE, chunk: ChunkIndex(9), offset: 4096, file_end: 9 << 20, since: 5, crc: 0xdead_beef }, "070000000000341209000000000000000010000000009000000000000500000000000000efbeadde")
        .is(ReadChunk { ino: FILE, chunk: ChunkIndex(9), offset: 1, len: 2, compared: true }, "07000000000034120900000000000000010000000200000001")
        .is(ChunkRead { crc: 0xdead_beef }, "efbeadde")
        .is(attr(), "070000000000341201a4010000e803000064000000010000000000000001000000010000000100000000000000feffffffffffffff030000000000000004000000000000000114000500000000000000020000000000cdab")
        .is(Attr { inline: true, ..attr() }, "070000000000341201a4010000e803000064000000010000000000000001000000010000000100000000000000feffffffffffffff030000000000000004000000000000000114020500000000000000020000000000cdab")
        .is(Attr { inline: true, wide: true, ..attr() }, "070000000000341201a4010000e803000064000000010000000000000001000000010000000100000000000000feffffffffffffff030000000000000004000000000000000114030500000000000000020000000000cdab")
        .is(Attr { acl: true, ..attr() }, "070000000000341201a4010000e803000064000000010000000000000001000000010000000100000000000000feffffffffffffff030000000000000004000000000000000114040500000000000000020000000000cdab")
        .is(Attr { capable: true, ..attr() }, "070000000000341201a4010000e803000064000000010000000000000001000000010000000100000000000000feffffffffffffff030000000000000004000000000000000114080500000000000000020000000000cdab")
        .is(Setattr { mode: Some(0o600), size: Some(0), mtime: Some(SetTime::Now {}), atime: Some(SetTime::At { ns: -1 }), ..Setattr::nothing(FILE) }, "0700000000003412018001000000000100000000000000000102ffffffffffffffff010100")
        .is(vec![None, Some(FILE)], "0200000000010700000000003412")
        .is(Open { ino: FILE, mode: OpenMode::Write { via: Some(ServerId(3)) } }, "070000000000341202010300")
        .is(Open { ino: FILE, mode: OpenMode::ReadWrite { via: None } }, "07000000000034120300")
        .is(Create { parent: DIR, name: name("a"), kind: FileKind::Symlink, mode: 0o777, rdev: 0, target: name("b"), exclusive: true, layout: None, open: Some(OpenMode::Read {}) }, "020000000000cdab010000006103ff01000000000000010000006201000101")
        .is(DirPage { entries: vec![DirEntry { cookie: 3, ino: FILE, kind: FileKind::File, name: name("a"), attr: None }], end: true, wide: false }, "0100000003000000000000000700000000003412010100000061000100")
        .is(Hello { role: Role::Client { id: ClientId(0x11) }, job: "j".into(), nonce: name("n") }, "011100000000000000010000006a010000006e")
        .is(Challenge { server: ServerId(3), nonce: name("n"), proof: name("p") }, "0300010000006e0100000070")
        .is(Role::Server { id: ServerId(3) }, "020300")
        .is(TierState { ino: FILE, published: Some(tier()), published_bytes: 8, published_as: Some(backing()) }, "070000000000341201020000000000cdab01000000740500000000000000030000000000000099000000000000000800000000000000010700000000000000ffffffffffffffff0600000000000000")
        .is(FlushAccount { pending_names: 1, pending_dirs: 2, pending_bytes: 3, files: 4, bytes: 5, copied_bytes: 7, failures: 6, oldest_ms: 8, bytes_per_s: 9, unsafe_names: vec![(name("a"), "why".into())], has_tier: true }, "0100000000000000020000000000000003000000000000000400000000000000050000000000000007000000000000000600000000000000080000000000000009000000000000000100000001000000610300000077687901")
        .is(FlushWait { longest_ms: 0x0102_0304 }, "04030201")
        .is(FlushName { parent: FILE, name: name("a"), ask: true, open: false }, "070000000000341201000000610100")
        .is(TierHope {}, "")
        .is(TierHoped { waits: true, is_full: false }, "0100")
        .is(Prepare { id: TX, checks: vec![Check::DirLive { dir: DIR }], mutations: vec![Mutation::DelInode { ino: FILE }] }, "030002010000000000000100000002020000000000cdab01000000060700000000003412")
        .is(Decide { id: TX, commit: true }, "0300020100000000000001")
        .is(Verdict::Aborted, "02")
        .done();
}

#[test]
fn messages_of_hot_files_never_change() {
    let (server, chunk) = (ServerId(3), ChunkIndex(2));
    Golden::default()
        .is(
            HotAsk { server, ino: FILE, chunk, piece: 1, have: 9, direct: true },
            "03000700000000003412020000000000000001000000090000000000000001",
        )
        .is(HotGrant::Cold {}, "01")
        .is(HotGrant::Same { lease_ms: 7 }, "0207000000")
        .is(
            HotGrant::Here { generation: 9, lease_ms: 7, crc: 0xdead_beef },
            "03090000000000000007000000efbeadde",
        )
        .is(
            HotGrant::From { generation: 9, lease_ms: 7, servers: vec![server] },
            "04090000000000000007000000010000000300",
        )
        .is(HotGrant::Loose { crc: 0xdead_beef }, "05efbeadde")
        .is(
            HotFetch { ino: FILE, chunk, piece: 1, generation: 9 },
            "07000000000034120200000000000000010000000900000000000000",
        )
        .is(HotRecall { holder: server, ino: FILE }, "03000700000000003412")
        .is(
            HotForget { keys: vec![HotKey::Name { parent: FILE, hash: 9 }, HotKey::Inode { ino: FILE }] },
            "020000000107000000000034120900000000000000020700000000003412",
        )
        .is(HotCopy { ino: FILE, size: 9 }, "07000000000034120900000000000000")
        .is(HotCopied::No {}, "01")
        .is(HotCopied::Coming {}, "02")
        .is(HotCopied::Here { number: 5, path: Bytes::from_static(b"/a") }, "030500000000000000020000002f61")
        .done();
}

#[test]
fn messages_of_a_nodes_openings_never_change() {
    let open = vec![OpenInode { ino: FILE, mode: OpenMode::Read {} }];
    Golden::default()
        .is(ForNode { session: 9, stamp: 10, reads: true }, "09000000000000000a0000000000000001")
        .is(
            NodeOpens {
                server: ServerId(3),
                session: 9,
                stamp: 10,
                settled: 8,
                open,
                read: vec![FILE],
                closed: vec![DIR],
                lost: vec![],
            },
            "030009000000000000000a000000000000000800000000000000010000000700000000003412010100000007000000000034120100000002000000\
             0000cdab00000000",
        )
        .done();
}

#[test]
fn messages_of_small_files_never_change() {
    let there = PutOutcome::There { ino: FILE, kind: FileKind::Symlink, attr: None };
    let file = PutFile { name: name("a"), len: 3, crc: 0xdead_beef };
    let attr_bytes = hex(&attr().to_bytes());
    Golden::default()
        .is(
            Put { parent: DIR, name: name("a"), mode: 0o600, exclusive: true, crc: 0xdead_beef },
            "020000000000cdab01000000618001000001efbeadde",
        )
        .is(PutAnswer { outcome: PutOutcome::TooLarge {}, limit: 1 << 14 }, "0300400000")
        .is(
            PutMany { parent: DIR, mode: 0o600, files: vec![file] },
            "020000000000cdab8001000001000000010000006103000000efbeadde",
        )
        .is(
            PutManyAnswer {
                outcomes: vec![there, PutOutcome::Failed { status: Status::IsDirectory }],
                limit: 1,
            },
            "02000000020700000000003412030004040001000000",
        )
        .is(PutOutcome::Done { attr: attr(), fresh: true }, &format!("01{attr_bytes}01"))
        .is(Get { parent: DIR, name: name("a") }, "020000000000cdab0100000061")
        .is(GetMany { parent: DIR, names: vec![name("a")] }, "020000000000cdab010000000100000061")
        .is(GetOutcome::Whole { attr: attr(), crc: 0xdead_beef }, &format!("01{attr_bytes}efbeadde"))
        .is(GetOutcome::There { ino: FILE, kind: FileKind::File, attr: None }, "0207000000000034120100")
        .is(GetOutcome::Failed { status: Status::NotFound }, "030100")
        .is(GetOutcome::Left {}, "04")
        .is(
            WriteInline { ino: FILE, offset: 5, mtime: -2, crc: 0xdead_beef },
            "07000000000034120500000000000000feffffffffffffffefbeadde",
        )
        .is(InlineWritten { attr: attr(), written: true, limit: 1 << 14 }, &format!("{attr_bytes}0100400000"))
        .is(ReadInline { ino: FILE, offset: 5, len: 6 }, "0700000000003412050000000000000006000000")
        .is(InlineRead { attr: attr(), crc: 0xdead_beef }, &format!("{attr_bytes}efbeadde"))
        .is(OpenRead { ino: FILE, known_version: Some(9) }, "0700000000003412010900000000000000")
        .is(Opened { attr: attr(), crc: Some(0xdead_beef) }, &format!("{attr_bytes}01efbeadde"))
        .is(Spill { ino: FILE }, "0700000000003412")
        .done();
}

#[test]
fn records_never_change() {
    assert_eq!(RECORD_VERSION, 1);
    let result = RequestResult { count: 8, op: Op::Create, status: Status::Exists, ino: FILE };
    Golden::default()
        .is(inode(), "070000000000341201a4010000e803000064000000010000000000000001000000010000000100000000000000feffffffffffffff030000000000000004000000000000000114000500000000000000020000000000cdab01000000610000000001020000000000cdab01000000740500000000000000030000000000000099000000000000000400000000000000010700000000000000ffffffffffffffff0600000000000000")
        .is(InlineRecord { crc: 0xdead_beef, data: name("ab") }, "efbeadde020000006162")
        .is(shard(), "020000000000cdabff03000001000000020000000110ffffffffffffffff0a0000000000000003000000")
        .is(EntryRecord { ino: FILE, kind: FileKind::File }, "070000000000341201")
        .is(tier(), "020000000000cdab0100000074050000000000000003000000000000009900000000000000")
        .is(result, "08000000000000000b0002000700000000003412")
        .done();
}

#[test]
fn checks_never_change() {
    let caller = Caller { uid: 1000, gid: 100, groups: vec![4] };
    Golden::default()
        .is(
            Check::EntryIs { parent: DIR, name: name("a"), ino: Some(FILE) },
            "01020000000000cdab0100000061010700000000003412",
        )
        .is(Check::DirLive { dir: DIR }, "02020000000000cdab")
        .is(Check::DirEmpty { dir: DIR }, "03020000000000cdab")
        .is(Check::InodeLive { ino: FILE }, "040700000000003412")
        .is(Check::InodeLinkable { ino: FILE }, "080700000000003412")
        .is(Check::DirHeld { dir: DIR }, "05020000000000cdab")
        .is(
            Check::DirWritable { dir: DIR, caller, victim_uid: Some(1001) },
            "06020000000000cdabe803000064000000010000000400000001e9030000",
        )
        .is(Check::DirNarrow { dir: DIR }, "07020000000000cdab")
        .done();
}

#[test]
fn mutations_never_change() {
    let entry = EntryRecord { ino: FILE, kind: FileKind::File };
    let result = RequestResult { count: 8, op: Op::Create, status: Status::Ok, ino: FILE };
    let layout = Layout::default();
    Golden::default()
        .is(Mutation::PutEntry { parent: DIR, name: name("a"), entry: entry.clone() }, "01020000000000cdab0100000061070000000000341201")
        .is(Mutation::DelEntry { parent: DIR, name: name("a") }, "02020000000000cdab0100000061")
        .is(Mutation::PutInode { inode: inode() }, "03070000000000341201a4010000e803000064000000010000000000000001000000010000000100000000000000feffffffffffffff030000000000000004000000000000000114000500000000000000020000000000cdab01000000610000000001020000000000cdab01000000740500000000000000030000000000000099000000000000000400000000000000010700000000000000ffffffffffffffff0600000000000000")
        .is(Mutation::AdjustInode { ino: FILE, nlink_delta: -1, ctime: 3, linked: Some((DIR, name("b"))), unlinked: None }, "040700000000003412ffffffff030000000000000001020000000000cdab010000006200")
        .is(Mutation::TouchDir { dir: DIR, time: 3, entries_delta: -1, subdirs_delta: 1 }, "05020000000000cdab0300000000000000ffffffffffffffff01000000")
        .is(Mutation::DelInode { ino: FILE }, "060700000000003412")
        .is(Mutation::PutShard { shard: shard() }, "07020000000000cdabff03000001000000020000000110ffffffffffffffff0a0000000000000003000000")
        .is(Mutation::DelShard { dir: DIR }, "08020000000000cdab")
        .is(Mutation::SetWide { dir: DIR }, "09020000000000cdab")
        .is(Mutation::PutXattr { ino: FILE, name: name("user.a"), value: name("v") }, "0a070000000000341206000000757365722e610100000076")
        .is(Mutation::DelXattr { ino: FILE, name: name("user.a") }, "0b070000000000341206000000757365722e61")
        .is(Mutation::SetTier { ino: FILE, tier: None }, "0c070000000000341200")
        .is(Mutation::Remember { client: ClientId(0x11), lane: 2, result }, "0d1100000000000000020008000000000000000b0000000700000000003412")
        .is(Mutation::DelOrphan { ino: FILE }, "0e0700000000003412")
        .is(Mutation::AdoptEntry { parent: DIR, name: name("a"), entry }, "0f020000000000cdab0100000061070000000000341201")
        .is(Mutation::ReleaseEntry { parent: DIR, name: name("a") }, "10020000000000cdab0100000061")
        .is(Mutation::SetShardAttr { dir: DIR, mode: 0o755, uid: 1, gid: 2, layout }, "11020000000000cdabed01000001000000020000000114")
        .is(Mutation::PutInline { ino: FILE, content: InlineRecord { crc: 0xdead_beef, data: name("ab") } }, "120700000000003412efbeadde020000006162")
        .is(Mutation::DelInline { ino: FILE }, "130700000000003412")
        .is(Mutation::SetBacked { ino: FILE, backed: Some(backing()) }, "140700000000003412010700000000000000ffffffffffffffff0600000000000000")
        .is(Mutation::CountEntries { dir: DIR, entries: 3, subdirs: 1 }, "15020000000000cdab030000000000000001000000")
        .done();
}

/// Which partition a name or a chunk is on is part of the disk format: another answer, and it is not found any more.
#[test]
fn placement_hashes_never_change() {
    // XXH3's own value for the empty string without a seed.
    assert_eq!(name_hash(InodeId(0), b""), 0x2d06_8005_38d3_94c2);
    assert_eq!(name_hash(DIR, b"checkpoint-0001"), 0xc42f_6b83_6814_7692);
    assert_eq!(name_hash(InodeId::ROOT, &[b'x'; 255]), 0x0b3d_9880_f295_6543);
    assert_eq!([0, 7, 8, u64::MAX].map(entry_cookie), [3, 3, 4, u64::MAX >> 1]);
    assert_eq!(entry_partition(DIR, 0x1111_2222_3333_4444, false), Partition(0xabcd));
    assert_eq!(entry_partition(DIR, 0x1111_2222_3333_4444, true), Partition(0x1111));
    let directories = [(DIR, "a", 0), (DIR, "a", 1), (InodeId::ROOT, "a", 0), (DIR, "b", 0)];
    let partitions =
        directories.map(|(parent, name, salt)| directory_partition(parent, name.as_bytes(), salt).0);
    assert_eq!(partitions, [37416, 17855, 54006, 22748]);
    let chunks = [(FILE, 0), (FILE, 1), (FILE, 65_535), (FILE, 65_536), (FILE, u64::MAX), (DIR, 0)];
    assert_eq!(
        chunks.map(|(ino, chunk)| chunk_partition(ino, ChunkIndex(chunk)).0),
        [48098, 48099, 48097, 48098, 48097, 54367]
    );
}

fn members(weights: &[u32]) -> Vec<Member> {
    (0u16..).zip(weights).map(|(s, weight)| Member { id: ServerId(s), weight: *weight }).collect()
}

/// Nodes of different releases must compute the same map from the same history.
#[test]
fn partition_maps_never_change() {
    let join = |id, weight| MapEvent::Join(Member { id: ServerId(id), weight });
    let leave = |id| MapEvent::Leave(ServerId(id));
    let histories = [
        (members(&[1]), vec![], 0xbbce_2f34),
        (members(&[1; 3]), vec![join(3, 1)], 0x0da2_591b),
        (members(&[1; 5]), vec![leave(2)], 0xed4b_e597),
        (members(&[3, 1, 0, 2]), vec![join(9, 5), leave(0), join(4, 1)], 0xc417_7a7e),
        (members(&[1; 200]), vec![leave(199), leave(198), join(300, 1), join(301, 7)], 0xfc86_5f7e),
        (members(&[1; 4096]), vec![join(5000, 1), leave(17)], 0x935b_b0d7),
    ];
    let sums: Vec<u32> = histories
        .iter()
        .map(|(first, events, _)| crc(&PartitionMap::replay(first, events).expect("map").to_bytes()))
        .collect();
    assert_eq!(sums, histories.iter().map(|(.., sum)| *sum).collect::<Vec<u32>>(), "{sums:#010x?}");
    let map = PartitionMap::replay(&members(&[1; 3]), &[join(3, 2)]).expect("map").to_bytes();
    assert_eq!(map.len(), 8 + 4 + 4 * 6 + 2 * 65_536);
    assert_eq!(
        hex(&map[..60]),
        "020000000000000004000000000001000000010001000000020001000000030002000000000001000300000003000200030001000300000001000200"
    );
    Golden::default().is(join(0x0102, 3), "01020103000000").is(leave(0x0102), "020201").done();
}

#[test]
fn layouts_never_change() {
    let place = |placement| Layout { placement, ..Layout::default() };
    let copy = CopyChunk {
        from: FILE,
        from_chunk: ChunkIndex(9),
        from_offset: 1,
        len: 2,
        ino: DIR,
        chunk: ChunkIndex(8),
        offset: 3,
        file_end: 9 << 20,
        since: 5,
    };
    let wish = LayoutWish { placement: Some(Placement::Writer), chunk_log2: Some(22), expected_bytes: 5 };
    Golden::default()
        .is(Layout::default(), "0114")
        .is(place(Placement::Local(None)), "02ffff14")
        .is(Layout { chunk_log2: 16, given: true, ..place(Placement::Local(Some(ServerId(3)))) }, "02030090")
        .is(place(Placement::Writer), "0314")
        .is(ClaimChunk { ino: FILE, chunk: ChunkIndex(9), at: Some(ServerId(3)) }, "07000000000034120900000000000000010300")
        .is(FindChunks { ino: FILE, from: ChunkIndex(9), limit: 16 }, "0700000000003412090000000000000010000000")
        .is(vec![(ChunkIndex(9), ServerId(3))], "0100000009000000000000000300")
        .is(
            CopyChunkTo { copy, to: ServerId(3) },
            "070000000000341209000000000000000100000002000000020000000000cdab080000000000000003000000000090000000000005000000000000000300",
        )
        .is(SetLayout { ino: FILE, wish }, "0700000000003412010301160500000000000000")
        .done();
}

const OPERATIONS: &[(u16, &str)] = &[
    (1, "Hello"),
    (2, "Prove"),
    (3, "Ping"),
    (4, "Share"),
    (10, "Lookup"),
    (11, "Create"),
    (12, "Mkdir"),
    (13, "Unlink"),
    (14, "Rmdir"),
    (15, "Rename"),
    (16, "Link"),
    (17, "Readdir"),
    (20, "Getattr"),
    (21, "Setattr"),
    (22, "Readlink"),
    (23, "Getxattr"),
    (24, "Setxattr"),
    (25, "Listxattr"),
    (26, "Removexattr"),
    (27, "Open"),
    (28, "Release"),
    (29, "Publish"),
    (30, "Renew"),
    (31, "GetattrMany"),
    (32, "Put"),
    (33, "Get"),
    (34, "PutMany"),
    (35, "GetMany"),
    (36, "WriteInline"),
    (37, "ReadInline"),
    (38, "OpenRead"),
    (39, "Spill"),
    (40, "WriteChunk"),
    (41, "ReadChunk"),
    (42, "TruncateChunks"),
    (43, "DropChunks"),
    (44, "SyncChunks"),
    (45, "PunchChunk"),
    (46, "ChunkRanges"),
    (47, "ChunkMap"),
    (48, "PunchInline"),
    (50, "Prepare"),
    (51, "Decide"),
    (52, "Outcome"),
    (53, "PollSize"),
    (54, "TreeLock"),
    (55, "GetShard"),
    (56, "ClientGone"),
    (57, "Append"),
    (60, "FlushChunks"),
    (61, "TierPath"),
    (62, "TierState"),
    (64, "FlushStatus"),
    (65, "FlushNow"),
    (66, "FlushNote"),
    (67, "TierPlace"),
    (68, "TierForget"),
    (70, "ServerStatus"),
    (71, "Statfs"),
    (72, "Shutdown"),
    (73, "Scrub"),
    (74, "CopyChunk"),
    (80, "LockSet"),
    (81, "LockClear"),
    (82, "LockTest"),
    (83, "LockCancel"),
    (84, "LockRenew"),
    (90, "ClaimChunk"),
    (91, "FindChunks"),
    (92, "CopyChunkTo"),
    (93, "SetLayout"),
    (94, "Rdma"),
    (96, "VaultPut"),
    (97, "VaultList"),
    (98, "VaultDrop"),
    (100, "FlushInode"),
    (101, "FlushList"),
    (102, "FindSource"),
    (103, "FetchChunk"),
    (104, "EvictChunks"),
    (105, "EvictNow"),
    (106, "DetachFile"),
    (107, "FetchShare"),
    (108, "AttachOld"),
    (109, "MergeOld"),
    (110, "MigrateStatus"),
    (111, "HotAsk"),
    (112, "HotFetch"),
    (113, "HotRecall"),
    (114, "FlushWait"),
    (115, "HotCopy"),
    (116, "HotForget"),
    (122, "MayOverflow"),
    (123, "KeptFor"),
    (124, "FindLost"),
    (125, "FlushName"),
    (126, "TierHope"),
    (127, "NodeOpens"),
];

#[test]
fn objects_outside_of_the_namespace() {
    let object = VaultObject { key: Bytes::from_static(b"k"), ino: FILE, value: Bytes::from_static(b"v") };
    Golden::default()
        .is(
            VaultPut { key: Bytes::from_static(b"k"), value: Bytes::from_static(b"v") },
            "010000006b0100000076",
        )
        .is(VaultList { prefix: Bytes::from_static(b"k"), after: Bytes::new() }, "010000006b00000000")
        .is(
            VaultPage { store: 9, objects: vec![object], end: true },
            "090000000000000001000000010000006b0700000000003412010000007601",
        )
        .is(VaultDrop { prefix: Bytes::from_static(b"k") }, "010000006b")
        .is(
            VaultRecord { uid: 5, ino: FILE, value: Bytes::from_static(b"v") },
            "0500000007000000000034120100000076",
        )
        .done();
}

#[test]
fn chunks_that_others_keep_and_lost_ones() {
    let (ino, chunk, keeper) = (FILE, ChunkIndex(2), ServerId(3));
    Golden::default()
        .is(MayOverflow { ino }, "0700000000003412")
        .is(
            KeptFor { chunks: vec![Kept { ino, chunk, place: InodeId(5) }] },
            "01000000070000000000341202000000000000000500000000000000",
        )
        .is(FindLost { ino, made: 9 }, "07000000000034120900000000000000")
        .is(
            OverflowRecord { keeper, store: 9, place: InodeId(5), nonce: 7 },
            "0300090000000000000005000000000000000700000000000000",
        )
        .done();
}

/// Numbers of operations. Append only: a number that is gone moves to the second list and never comes back.
#[test]
fn operation_numbers_are_never_reused() {
    let retired: [u16; 0] = [];
    let actual: Vec<(u16, String)> = Op::ALL.iter().map(|op| (*op as u16, format!("{op:?}"))).collect();
    let expected: Vec<(u16, String)> =
        OPERATIONS.iter().map(|(number, name)| (*number, name.to_string())).collect();
    assert_eq!(actual, expected);
    assert_unique(actual.iter().map(|(number, _)| *number).chain(retired));
    assert!(actual.iter().all(|(number, _)| *number != 0), "0 is what a forgotten field would be");
}

#[test]
fn lock_messages() {
    let range = LockRange { first: 3, last: 9 };
    let count = LockCount { serial: 8, settled: 6, session: 4 };
    let owner = LockOwner { client: ClientId(2), number: 5 };
    let holder = HeldLock { owner, range, kind: LockKind::Write, pid: 77 };
    let (ino, number) = (FILE, 5);
    let claim = LockClaim { ino, family: LockFamily::Flock, owner: 5, range, kind: LockKind::Read, pid: 77 };
    let attr_bytes = hex(&attr().to_bytes());
    let answer = |outcome| LockAnswer { outcome, session: 4, lease_ms: 30_000 };
    let (family, kind) = (LockFamily::Posix, LockKind::Write);
    Golden::default()
        .is(
            LockSet { ino, family, owner: number, range, kind, pid: 77, wait_ms: Some(15_000), count },
            "070000000000341201050000000000000003000000000000000900000000000000024d00000001983a0000080000000000000006000000000000000400000000000000",
        )
        .is(
            LockClear { ino, family, owner: number, range, count },
            "070000000000341201050000000000000003000000000000000900000000000000080000000000000006000000000000000400000000000000",
        )
        .is(LockTest { ino, family, owner: number, range, kind }, "07000000000034120105000000000000000300000000000000090000000000000002")
        .is(LockCancel { ino, serial: 8 }, "07000000000034120800000000000000")
        .is(
            LockRenew { session: 4, claims: vec![claim], more: true, leave: false },
            "040000000000000001000000070000000000341202050000000000000003000000000000000900000000000000014d0000000100",
        )
        .is(answer(LockOutcome::Granted { attr: attr() }), &format!("01{attr_bytes}040000000000000030750000"))
        .is(answer(LockOutcome::Cleared {}), "02040000000000000030750000")
        .is(
            answer(LockOutcome::Conflict { holder }),
            "030200000000000000050000000000000003000000000000000900000000000000024d000000040000000000000030750000",
        )
        .is(answer(LockOutcome::Waiting {}), "04040000000000000030750000")
        .is(answer(LockOutcome::Cancelled {}), "05040000000000000030750000")
        .is(answer(LockOutcome::Deadlock {}), "06040000000000000030750000")
        .is(answer(LockOutcome::TooMany {}), "07040000000000000030750000")
        .is(answer(LockOutcome::Restarted {}), "08040000000000000030750000")
        .is(answer(LockOutcome::Lost {}), "09040000000000000030750000")
        .is(
            LockRenewed { standing: LockStanding::Known { refused: vec![1] }, session: 4, lease_ms: 30_000 },
            "010100000001000000040000000000000030750000",
        )
        .is(LockStanding::Restarted {}, "02")
        .is(LockStanding::Lost {}, "03")
        .is(ClientGone { client: ClientId(2) }, "0200000000000000")
        .is(Append { ino, mtime: -2, crc: 0xdead_beef }, "0700000000003412feffffffffffffffefbeadde")
        .is(Appended { attr: attr(), offset: 5, limit: 1 << 14 }, &format!("{attr_bytes}050000000000000000400000"))
        .done();
}

/// Numbers of statuses. Append only, as above.
#[test]
fn status_numbers_are_never_reused() {
    let retired: [u16; 0] = [];
    let expected = [
        (0, 0, "Ok"),
        (1, 2, "NotFound"),
        (2, 17, "Exists"),
        (3, 20, "NotDirectory"),
        (4, 21, "IsDirectory"),
        (5, 39, "NotEmpty"),
        (6, 1, "NotPermitted"),
        (7, 13, "AccessDenied"),
        (8, 22, "Invalid"),
        (9, 36, "NameTooLong"),
        (10, 28, "NoSpace"),
        (11, 30, "ReadOnly"),
        (12, 5, "Io"),
        (13, 31, "TooManyLinks"),
        (14, 61, "NoAttribute"),
        (15, 34, "OutOfRange"),
        (16, 16, "Busy"),
        (17, 95, "NotSupported"),
        (18, 27, "FileTooBig"),
        (19, 5, "Corrupt"),
        (20, 11, "StaleEpoch"),
        (21, 11, "WideDirectory"),
        (22, 11, "Retry"),
        (23, 107, "Unavailable"),
        (24, 110, "TimedOut"),
        (25, 5, "BadMessage"),
        (26, 71, "WrongVersion"),
        (27, 129, "Unauthenticated"),
        (28, 116, "Stale"),
        (29, 5, "TierFailed"),
        (30, 40, "Loop"),
        (31, 11, "Waiting"),
        (32, 5, "TierRefused"),
    ];
    let actual: Vec<(u16, i32, String)> =
        Status::ALL.iter().map(|status| (*status as u16, status.errno(), format!("{status:?}"))).collect();
    let expected = expected.map(|(number, errno, name): (u16, i32, &str)| (number, errno, name.to_string()));
    assert_eq!(actual, expected);
    assert_unique(actual.iter().map(|(number, ..)| *number).chain(retired));
}

fn assert_unique(numbers: impl Iterator<Item = u16>) {
    let mut seen = BTreeSet::new();
    for number in numbers {
        assert!(seen.insert(number), "{number} is used twice");
    }
}
