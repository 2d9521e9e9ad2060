//! Arbitrary valid values of every type with a wire form, made from a string of bytes ("entropy"): so the same generator serves
//! proptest, which shrinks the string, and fast runs from a counter.

use bytes::Bytes;
use fs_proto::LayoutWish;
use fs_proto::attr::*;
use fs_proto::ids::*;
use fs_proto::lock::{HeldLock, LockFamily, LockKind, LockOwner, LockRange};
use fs_proto::msg::{
    Caller, admin::*, chunk::*, hot::*, inode::*, lock::*, name::*, node::*, overflow::*, scrub::*,
    session::*, small::*, tier::*, transaction::*, vault::*,
};
use fs_proto::placement::{MapEvent, Member};
use fs_proto::record::*;
use fs_proto::{Op, Status};

/// Where values come from. When the bytes are used up, zeros follow.
pub struct Entropy {
    bytes: Vec<u8>,
    at: usize,
}

impl Entropy {
    /// These bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Entropy { bytes, at: 0 }
    }

    /// `len` bytes of a fixed pseudo-random sequence (splitmix64).
    pub fn from_seed(seed: u64, len: usize) -> Self {
        let mut state = seed;
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            bytes.extend((z ^ z >> 31).to_le_bytes());
        }
        Entropy::new(bytes)
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        self.at += 1;
        self.bytes.get(self.at - 1).copied().unwrap_or(0)
    }

    /// A number below `end`, which is above 0.
    pub fn below(&mut self, end: usize) -> usize {
        let wide = (0..4).fold(0, |wide, _| wide << 8 | usize::from(self.byte()));
        wide % end
    }

    /// `len` bytes.
    pub fn take(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.byte()).collect()
    }
}

/// A type of which arbitrary valid values can be made.
pub trait Arbitrary {
    /// One value; all zeros give a small one.
    fn arbitrary(from: &mut Entropy) -> Self;
}

macro_rules! integers {
    ($($t:ty),*) => {$(
        impl Arbitrary for $t {
            fn arbitrary(from: &mut Entropy) -> Self {
                match from.byte() % 8 {
                    0 => 0,
                    1 => 1,
                    2 => <$t>::MIN,
                    3 => <$t>::MAX,
                    4 => <$t>::try_from(from.byte()).unwrap_or(<$t>::MAX),
                    _ => (0..size_of::<$t>()).fold(0, |value, at| value | (from.byte() as $t) << (8 * at)),
                }
            }
        }
    )*};
}
integers!(u8, u16, u32, u64, i32, i64);

macro_rules! newtypes {
    ($($t:ident),*) => {$(
        impl Arbitrary for $t {
            fn arbitrary(from: &mut Entropy) -> Self {
                $t(Arbitrary::arbitrary(from))
            }
        }
    )*};
}
newtypes!(InodeId, Partition, ServerId, ClientId, ChunkIndex);

macro_rules! enums {
    ($($t:ident),*) => {$(
        impl Arbitrary for $t {
            fn arbitrary(from: &mut Entropy) -> Self {
                $t::ALL[from.below($t::ALL.len())]
            }
        }
    )*};
}
enums!(LockFamily, LockKind, FileKind, Op, Status, ShutdownMode, Verdict);

/// All fields must be listed: a new one does not compile until it is here.
macro_rules! structs {
    ($($t:ident { $($field:ident),* })*) => {$(
        impl Arbitrary for $t {
            fn arbitrary(from: &mut Entropy) -> Self {
                let _ = &from;
                $t { $($field: Arbitrary::arbitrary(from)),* }
            }
        }
    )*};
}

/// All variants must be listed: the second function does not compile else.
macro_rules! unions {
    ($($t:ident { $($variant:ident { $($field:ident),* })* })*) => {$(
        impl Arbitrary for $t {
            fn arbitrary(from: &mut Entropy) -> Self {
                let _all_are_here = |value: &$t| match value { $($t::$variant { .. } => (),)* };
                let makers: &[fn(&mut Entropy) -> $t] = &[$(|from| {
                    let _ = &from;
                    $t::$variant { $($field: Arbitrary::arbitrary(from)),* }
                }),*];
                makers[from.below(makers.len())](from)
            }
        }
    )*};
}

impl Arbitrary for bool {
    fn arbitrary(from: &mut Entropy) -> Self {
        from.byte() % 2 == 1
    }
}

impl Arbitrary for () {
    fn arbitrary(_: &mut Entropy) -> Self {}
}

impl Arbitrary for Bytes {
    fn arbitrary(from: &mut Entropy) -> Self {
        let len = if from.byte() % 16 == 15 { 255 } else { from.below(12) };
        from.take(len).into()
    }
}

impl Arbitrary for String {
    fn arbitrary(from: &mut Entropy) -> Self {
        let len = from.below(12);
        (0..len).map(|_| ['a', '\0', '/', 'é', '波', '🦀'][from.below(6)]).collect()
    }
}

impl<T: Arbitrary> Arbitrary for Option<T> {
    fn arbitrary(from: &mut Entropy) -> Self {
        bool::arbitrary(from).then(|| T::arbitrary(from))
    }
}

impl<T: Arbitrary> Arbitrary for Vec<T> {
    fn arbitrary(from: &mut Entropy) -> Self {
        let len = from.below(5);
        (0..len).map(|_| T::arbitrary(from)).collect()
    }
}

impl<A: Arbitrary, B: Arbitrary> Arbitrary for (A, B) {
    fn arbitrary(from: &mut Entropy) -> Self {
        (A::arbitrary(from), B::arbitrary(from))
    }
}

impl Arbitrary for Layout {
    fn arbitrary(from: &mut Entropy) -> Self {
        let sizes: Vec<u8> = CHUNK_LOG2.collect();
        let chunk_log2 = sizes[from.below(sizes.len())];
        Layout { placement: Arbitrary::arbitrary(from), chunk_log2, given: bool::arbitrary(from) }
    }
}

impl Arbitrary for Placement {
    fn arbitrary(from: &mut Entropy) -> Self {
        match from.below(4) {
            0 => Placement::Striped,
            1 => Placement::Local(None),
            2 => Placement::Local(Some(ServerId(from.below(u16::MAX as usize) as u16))),
            _ => Placement::Writer,
        }
    }
}

impl Arbitrary for MapEvent {
    fn arbitrary(from: &mut Entropy) -> Self {
        if bool::arbitrary(from) {
            MapEvent::Join(Arbitrary::arbitrary(from))
        } else {
            MapEvent::Leave(Arbitrary::arbitrary(from))
        }
    }
}

structs! {
    Attr { ino, kind, mode, uid, gid, nlink, rdev, size, atime, mtime, ctime, btime, layout, wide, inline, acl, capable, version, parent }
    Caller { uid, gid, groups }
    Member { id, weight }

    ServerStatus {}
    Shutdown { mode }

    WriteChunk { ino, chunk, offset, file_end, crc, since }
    ReadChunk { ino, chunk, offset, len, compared }
    ChunkRead { crc }
    TruncateChunks { ino, chunk, keep_bytes }
    DropChunks { inos }
    SyncChunks { ino }
    PunchChunk { ino, chunk, offset, len }
    CopyChunk { from, from_chunk, from_offset, len, ino, chunk, offset, file_end, since }
    ChunkRanges { ino, chunk }
    ClaimChunk { ino, chunk, at }
    FindChunks { ino, from, limit }
    CopyChunkTo { copy, to }
    ChunkMap { ino, from, limit }
    ChunkMapPage { chunks, end }

    Scrub { after, budget_bytes }
    Scrubbed { next, records, chunks, bytes, repaired, damaged }
    Damage { ino, what }
    ScrubCursor { device, last }

    Getattr { ino }
    GetattrMany { inos }
    Setattr { ino, mode, uid, gid, size, atime, mtime, by_handle }
    Readlink { ino }
    Getxattr { ino, name }
    Setxattr { ino, name, value, create, replace }
    SetLayout { ino, wish }
    LayoutWish { placement, chunk_log2, expected_bytes }
    Listxattr { ino }
    Removexattr { ino, name }
    Open { ino, mode }
    Release { inos }
    OpenInode { ino, mode }
    Renew { open }
    Publish { ino, end, mtime, sync, close, since }
    PollSize { ino, forget, writers }
    ForNode { session, stamp, reads }
    NodeOpens { server, session, stamp, settled, open, read, closed, lost }
    Space { total_bytes, free_bytes, inodes, device }
    Statfs { server }

    Put { parent, name, mode, exclusive, crc }
    PutAnswer { outcome, limit }
    PutFile { name, len, crc }
    PutMany { parent, mode, files }
    PutManyAnswer { outcomes, limit }
    Get { parent, name }
    GetMany { parent, names }
    WriteInline { ino, offset, mtime, crc }
    InlineWritten { attr, written, limit }
    ReadInline { ino, offset, len }
    InlineRead { attr, crc }
    OpenRead { ino, known_version }
    Opened { attr, crc }
    Spill { ino }
    Append { ino, mtime, crc }
    Appended { attr, offset, limit }

    LockRange { first, last }
    LockOwner { client, number }
    HeldLock { owner, range, kind, pid }
    LockCount { serial, settled, session }
    LockSet { ino, family, owner, range, kind, pid, wait_ms, count }
    LockClear { ino, family, owner, range, count }
    LockTest { ino, family, owner, range, kind }
    LockCancel { ino, serial }
    LockClaim { ino, family, owner, range, kind, pid }
    LockRenew { session, claims, more, leave }
    LockAnswer { outcome, session, lease_ms }
    LockRenewed { standing, session, lease_ms }
    ClientGone { client }

    PunchInline { ino, offset, len, mtime }

    Lookup { parent, name }
    Entry { ino, kind, attr }
    Create { parent, name, kind, mode, rdev, target, exclusive, layout, open }
    Created { ino, kind, attr, fresh }
    Mkdir { parent, name, mode }
    Unlink { parent, name }
    Rmdir { parent, name }
    Rename { parent, name, new_parent, new_name, no_replace, exchange }
    Link { ino, parent, name }
    Readdir { dir, after, limit, plus }
    DirEntry { cookie, ino, kind, name, attr }
    DirPage { entries, end, wide }

    Hello { role, job, nonce }
    Challenge { server, nonce, proof }
    Prove { proof }
    Welcome { epoch }
    Ping {}
    Share {}
    Shared { arena_bytes }
    Rdma {}
    RdmaOffer { port, addresses, token }

    FlushChunks { ino, server, staging, layout, size, parts }
    PartsOf { part_bytes, first, every }
    FlushedShare { bytes, receipt }
    TierPath { dir }
    TierState { ino, published, published_bytes, published_as }
    TierView { inode, xattrs, writing }
    FlushStatus {}
    MigrateStatus {}
    FlushAccount { pending_names, pending_dirs, pending_bytes, files, bytes, copied_bytes, failures, oldest_ms, bytes_per_s, unsafe_names, has_tier }
    FlushNow { everything }
    FlushWait { longest_ms }
    FlushInode { ino }
    FlushList { after }
    FlushName { parent, name, ask, open }
    TierHope {}
    TierHoped { waits, is_full }
    FlushPage { names, next }
    TierSource { at, backing, layout }
    FindSource { ino, look }
    FetchChunk { ino, chunk, later }
    EvictChunks { files, must }
    EvictNow { bytes, server }
    DetachFile { ino, parent, name }
    FetchShare { ino }
    AttachOld { path, id }
    MergeOld { dir, path }
    Migrated { left, found, same_files, compared_bytes, again, gone, trouble }
    HotAsk { server, ino, chunk, piece, have, direct }
    HotFetch { ino, chunk, piece, generation }
    HotRecall { holder, ino }
    HotForget { keys }
    HotCopy { ino, size }
    MayOverflow { ino }
    Kept { ino, chunk, place }
    KeptFor { chunks }
    FindLost { ino, made }
    FlushNote { ino, name, had, forced, open }
    VaultPut { key, value }
    VaultList { prefix, after }
    VaultPage { store, objects, end }
    VaultObject { key, ino, value }
    VaultDrop { prefix }
    TierPlace { dir }
    TierForget { dir }

    TransactionId { coordinator, number }
    Prepare { id, checks, mutations }
    Decide { id, commit }
    Outcome { id }
    TreeLock { id, take }
    GetShard { dir }

    TierLocation { parent, name, version, ctime, tier_ino }
    Backing { size, mtime, limit }
    InodeRecord { attr, name, target, tier, cut_version, backed }
    InlineRecord { crc, data }
    ShardRecord { dir, mode, uid, gid, layout, mtime, entries, subdirs }
    EntryRecord { ino, kind }
    VaultRecord { uid, ino, value }
    OverflowRecord { keeper, store, place, nonce }
    RequestResult { count, op, status, ino }
}

unions! {
    LockOutcome {
        Granted { attr }
        Cleared {}
        Conflict { holder }
        Waiting {}
        Cancelled {}
        Deadlock {}
        TooMany {}
        Restarted {}
        Lost {}
    }
    LockStanding {
        Known { refused }
        Restarted {}
        Lost {}
    }
    HotGrant {
        Cold {}
        Same { lease_ms }
        Here { generation, lease_ms, crc }
        From { generation, lease_ms, servers }
        Loose { crc }
    }
    HotCopied {
        No {}
        Coming {}
        Here { number, path }
    }
    HotKey {
        Name { parent, hash }
        Inode { ino }
    }
    SetTime { Now {} At { ns } }
    OpenMode { Read {} Write { via } ReadWrite { via } }
    Role { Client { id } Server { id } }
    PutOutcome {
        Done { attr, fresh }
        There { ino, kind, attr }
        TooLarge {}
        Failed { status }
    }
    GetOutcome {
        Whole { attr, crc }
        There { ino, kind, attr }
        Failed { status }
        Left {}
    }
    Check {
        EntryIs { parent, name, ino }
        DirLive { dir }
        DirEmpty { dir }
        InodeLive { ino }
        InodeLinkable { ino }
        DirHeld { dir }
        DirWritable { dir, caller, victim_uid }
        DirNarrow { dir }
    }
    Mutation {
        PutEntry { parent, name, entry }
        DelEntry { parent, name }
        PutInode { inode }
        AdjustInode { ino, nlink_delta, ctime, linked, unlinked }
        TouchDir { dir, time, entries_delta, subdirs_delta }
        DelInode { ino }
        PutShard { shard }
        DelShard { dir }
        SetWide { dir }
        PutXattr { ino, name, value }
        DelXattr { ino, name }
        SetTier { ino, tier }
        Remember { client, lane, result }
        DelOrphan { ino }
        AdoptEntry { parent, name, entry }
        ReleaseEntry { parent, name }
        SetShardAttr { dir, mode, uid, gid, layout }
        PutInline { ino, content }
        DelInline { ino }
        SetBacked { ino, backed }
        CountEntries { dir, entries, subdirs }
    }
}
