//! Goal: decoding is total. Whatever the bytes, it neither panics nor allocates more than they justify; what decodes, encodes to the
//! same bytes; what was encoded, decodes to the same value. Method: for every request, reply, record and header, arbitrary values,
//! arbitrary bytes, and valid encodings with harm done to them; by proptest (which shrinks) and by a counter (which is fast).
//!
//! `HAYATE_FUZZ_CASES` sets how many cases the counter runs through (20,000 else). A failure names type and case.

mod common;

use allocation_counter::measure;
use bytes::Bytes;
use common::{Arbitrary, Entropy};
use fs_proto::checksum::crc;
use fs_proto::ids::{ChunkIndex, ClientId, InodeId, Partition, ServerId};
use fs_proto::msg::{
    Caller, admin::*, chunk::*, hot::*, inode::*, lock::*, name::*, node::*, overflow::*, scrub::*,
    session::*, small::*, tier::*, transaction::*, vault::*,
};
use fs_proto::op::Request;
use fs_proto::placement::{MapEvent, Member};
use fs_proto::record::*;
use fs_proto::{BULK_MAX, Flags, HEADER_BYTES, Header, META_MAX, Op, Status, Wire, attr};
use proptest::collection::vec;
use proptest::prelude::*;
use std::any::type_name;
use std::collections::BTreeSet;
use std::fmt::Debug;

/// Bytes of memory that one byte of a message may cost while it is decoded: a list of absent attributes costs most, a byte each,
/// times the growth of a list.
const COST_OF_BYTE: u64 = 512;
/// Bytes of memory that any message may cost.
const COST_OF_MESSAGE: u64 = 4096;

/// One type: how to make an encoding of an arbitrary value (checked to round-trip), and how to decode and encode again.
#[derive(Clone, Copy)]
struct Kind {
    name: &'static str,
    encoding: fn(&mut Entropy) -> Bytes,
    again: fn(Bytes) -> Option<Bytes>,
}

fn kind<T: Wire + Arbitrary + PartialEq + Debug>() -> Kind {
    Kind {
        name: type_name::<T>(),
        encoding: encoding::<T>,
        again: |bytes| Some(T::from_bytes(bytes).ok()?.to_bytes()),
    }
}

fn encoding<T: Wire + Arbitrary + PartialEq + Debug>(entropy: &mut Entropy) -> Bytes {
    let value = T::arbitrary(entropy);
    let bytes = value.to_bytes();
    assert_eq!(T::from_bytes(bytes.clone()).as_ref(), Ok(&value), "round trip of {}", type_name::<T>());
    bytes
}

fn operation<T>() -> (Op, [Kind; 2])
where
    T: Request + Arbitrary + PartialEq + Debug,
    T::Reply: Arbitrary + PartialEq + Debug,
{
    (T::OP, [kind::<T>(), kind::<T::Reply>()])
}

/// Every request and its reply.
fn operations() -> Vec<(Op, [Kind; 2])> {
    macro_rules! list {
        ($($t:ident)*) => { vec![$(operation::<$t>()),*] };
    }
    list! {
        Hello Prove Ping Share Rdma
        Lookup Create Mkdir Unlink Rmdir Rename Link Readdir
        Getattr GetattrMany Setattr Readlink Getxattr Setxattr SetLayout Listxattr Removexattr Open Release Renew Publish PollSize Statfs
        Put Get PutMany GetMany WriteInline ReadInline OpenRead Spill PunchInline Append
        LockSet LockClear LockTest LockCancel LockRenew ClientGone
        WriteChunk ReadChunk TruncateChunks DropChunks SyncChunks PunchChunk ChunkRanges ChunkMap ClaimChunk FindChunks CopyChunkTo
        Prepare Decide Outcome TreeLock GetShard
        FlushChunks TierPath TierState FlushStatus FlushNow FlushWait FlushInode FlushList FlushName TierHope
        FindSource FetchChunk EvictChunks EvictNow DetachFile FetchShare AttachOld MergeOld MigrateStatus FlushNote TierPlace TierForget
        HotAsk HotFetch HotRecall HotForget HotCopy MayOverflow KeptFor FindLost NodeOpens
        ServerStatus Shutdown Scrub CopyChunk VaultPut VaultList VaultDrop
    }
}

/// Everything that has a wire form; partition maps are in `placement.rs`.
fn kinds() -> Vec<Kind> {
    macro_rules! list {
        ($($t:ty),* $(,)?) => { [$(kind::<$t>()),*] };
    }
    let parts = list![
        Caller,
        Member,
        MapEvent,
        Op,
        Status,
        InodeId,
        Partition,
        ServerId,
        ClientId,
        ChunkIndex,
        attr::Attr,
        attr::Layout,
        attr::FileKind,
        attr::Placement,
        Role,
        OpenMode,
        SetTime,
        OpenInode,
        ForNode,
        DirEntry,
        ShutdownMode,
        Verdict,
        TransactionId,
        TierLocation,
        InodeRecord,
        InlineRecord,
        PutFile,
        PutOutcome,
        ShardRecord,
        EntryRecord,
        VaultRecord,
        OverflowRecord,
        Kept,
        VaultObject,
        VaultPage,
        Check,
        Mutation,
        RequestResult,
    ];
    operations().into_iter().flat_map(|(_, kinds)| kinds).chain(parts).collect()
}

/// Decodes: whether it succeeded. Checks the rest of what this file promises.
fn decode(kind: &Kind, bytes: &Bytes) -> bool {
    let mut again = None;
    // Includes the new encoding, which is as large as the input.
    let cost = measure(|| again = (kind.again)(bytes.clone())).bytes_max;
    let most = COST_OF_MESSAGE + COST_OF_BYTE * bytes.len() as u64;
    assert!(
        cost <= most,
        "{}: {cost} bytes of memory for {} on the wire: {bytes:x?}",
        kind.name,
        bytes.len()
    );
    if let Some(again) = &again {
        assert_eq!(again, bytes, "{}: decodes, but encodes otherwise", kind.name);
    }
    again.is_some()
}

/// Does one harm to an encoding.
fn harm(bytes: &mut Vec<u8>, entropy: &mut Entropy) {
    let at = entropy.below(bytes.len() + 1);
    match entropy.byte() % 6 {
        0 => bytes.truncate(at),
        1 => bytes.insert(at, entropy.byte()),
        2 => lie(bytes, at, entropy),
        3 => drop(bytes.drain(at..(at + entropy.below(9)).min(bytes.len()))),
        4 => bytes.iter_mut().skip(at).take(1).for_each(|b| *b = entropy.byte()),
        _ => bytes.iter_mut().skip(at).take(1).for_each(|b| *b ^= 1 << entropy.below(8)),
    }
}

/// Writes a number where a length may be that the bytes after it do not bear out.
fn lie(bytes: &mut [u8], at: usize, entropy: &mut Entropy) {
    let Some(left) = bytes.len().checked_sub(at + 4) else { return };
    let left = left as u32;
    let lies = [u32::MAX, 1 << 31, 1 << 24, left + 1, left, left.saturating_sub(1), left / 2];
    bytes[at..at + 4].copy_from_slice(&lies[entropy.below(lies.len())].to_le_bytes());
}

/// One case of a kind: a round trip, harmed encodings and plain noise. How many of the latter two decoded.
fn case(kind: &Kind, entropy: &mut Entropy) -> usize {
    let valid = (kind.encoding)(entropy);
    assert!(decode(kind, &valid), "{}: does not decode", kind.name);
    let mut decoded = 0;
    let mut harmed = valid.to_vec();
    for _ in 0..3 {
        harm(&mut harmed, entropy);
        decoded += usize::from(decode(kind, &Bytes::from(harmed.clone())));
    }
    let len = entropy.below(100);
    let noise = Bytes::from(entropy.take(len));
    decoded + usize::from(decode(kind, &noise))
}

#[test]
fn every_operation_is_listed() {
    let listed: BTreeSet<Op> = operations().iter().map(|(op, _)| *op).collect();
    let all: BTreeSet<Op> = Op::ALL.iter().copied().collect();
    assert_eq!(listed, all);
    assert_eq!(operations().len(), all.len(), "an operation has two requests");
}

#[test]
fn many_cases() {
    let cases = match std::env::var("HAYATE_FUZZ_CASES") {
        Ok(text) => text.parse().expect("HAYATE_FUZZ_CASES is a number"),
        Err(_) => 20_000u64,
    };
    let kinds = kinds();
    let mut decoded = 0;
    for number in 0..cases {
        let kind = &kinds[(number % kinds.len() as u64) as usize];
        let run = || case(kind, &mut Entropy::from_seed(number, 1200));
        decoded += std::panic::catch_unwind(run)
            .unwrap_or_else(|_| panic!("{}: case {number} failed", kind.name)) as u64;
    }
    // Neither all nor none: the harm is neither too small nor too large to test anything.
    assert!(
        (cases / 10..cases * 3).contains(&decoded),
        "{decoded} harmed encodings of {cases} cases decoded"
    );
}

#[test]
fn lists_that_claim_to_be_long_cost_nothing() {
    for kind in kinds() {
        for claim in [u32::MAX, 1 << 31, 1 << 20] {
            for before in 0..64 {
                let bytes = [&vec![1; before][..], &claim.to_le_bytes(), &[0; 16]].concat();
                decode(&kind, &Bytes::from(bytes));
            }
        }
    }
}

/// A header of a valid form, made with the CRC right so that the checks behind it are reached.
fn sealed(mut raw: [u8; HEADER_BYTES]) -> [u8; HEADER_BYTES] {
    let sum = crc(&raw[..HEADER_BYTES - 4]);
    raw[HEADER_BYTES - 4..].copy_from_slice(&sum.to_le_bytes());
    raw
}

fn header(entropy: &mut Entropy) -> Header {
    Header {
        op: Arbitrary::arbitrary(entropy),
        tag: Arbitrary::arbitrary(entropy),
        flags: Flags(u16::from(entropy.byte() % 128)),
        hops: Arbitrary::arbitrary(entropy),
        epoch: Arbitrary::arbitrary(entropy),
        client: Arbitrary::arbitrary(entropy),
        sequence: Arbitrary::arbitrary(entropy),
        meta_bytes: u32::arbitrary(entropy) % (META_MAX + 1),
        bulk_bytes: u32::arbitrary(entropy) % (BULK_MAX + 1),
        target: Arbitrary::arbitrary(entropy),
        status: Arbitrary::arbitrary(entropy),
        deadline_ms: Arbitrary::arbitrary(entropy),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_values_round_trip(entropy in vec(any::<u8>(), 0..1200)) {
        for kind in kinds() {
            (kind.encoding)(&mut Entropy::new(entropy.clone()));
        }
    }

    #[test]
    fn arbitrary_bytes_decode_or_do_not(bytes in vec(any::<u8>(), 0..400)) {
        let bytes = Bytes::from(bytes);
        for kind in kinds() {
            decode(&kind, &bytes);
        }
    }

    #[test]
    fn harmed_encodings_decode_or_do_not(entropy in vec(any::<u8>(), 0..1200)) {
        for kind in kinds() {
            case(&kind, &mut Entropy::new(entropy.clone()));
        }
    }

    #[test]
    fn headers_round_trip(entropy in vec(any::<u8>(), 0..80)) {
        let header = header(&mut Entropy::new(entropy));
        prop_assert_eq!(Header::decode(&header.encode()), Ok(header));
    }

    #[test]
    fn harmed_headers_decode_or_do_not(entropy in vec(any::<u8>(), 0..80), harm in vec((0..HEADER_BYTES, any::<u8>()), 0..3)) {
        let mut raw = header(&mut Entropy::new(entropy)).encode();
        for (at, byte) in harm {
            raw[at] = byte;
        }
        let raw = sealed(raw);
        if let Ok(header) = Header::decode(&raw) {
            prop_assert_eq!(header.encode(), raw);
        }
    }
}
