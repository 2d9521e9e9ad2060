//! Records of the namespace: what is stored of an inode, and the mutations that change it.
//!
//! Every change of the namespace is a list of [`Mutation`]s, applied by one function of the server, whether it comes from a local
//! operation, a transaction's second phase or a recovery.
//!
//! # Invariants
//! - A record's first byte in the store is [`RECORD_VERSION`].

use crate::attr::{Attr, FileKind, Layout, TimeNs};
use crate::ids::{ClientId, InodeId, ServerId};
use crate::msg::Caller;
use crate::op::Op;
use crate::status::Status;
use crate::wire::{wire_struct, wire_union};
use bytes::Bytes;

/// Version of the stored form of records.
pub const RECORD_VERSION: u8 = 1;

wire_struct! {
    /// Where the copy of an inode lies in the shared tier, and which state of it.
    pub struct TierLocation {
        /// Directory that holds the name.
        pub parent: InodeId,
        /// Name in it.
        pub name: Bytes,
        /// Version of the content that was copied ([`Attr::version`]).
        pub version: u64,
        /// Change time of the attributes that were copied.
        pub ctime: TimeNs,
        /// The shared tier's own inode number, to recognise the file again.
        pub tier_ino: u64,
    }
}

wire_struct! {
    /// What is in the shared tier and may not be here: of a file, content; of a directory, names.
    #[derive(Copy, Default)]
    pub struct Backing {
        /// Bytes of the tier's copy.
        pub size: u64,
        /// Change time of the tier's copy.
        pub mtime: TimeNs,
        /// So many bytes of the copy, from its beginning, still are content of the file where nothing newer is held.
        pub limit: u64,
    }
}

wire_struct! {
    /// All that is stored of an inode, except extended attributes.
    pub struct InodeRecord {
        /// Attributes. `attr.parent` with `name` is the name that it was last linked under.
        pub attr: Attr,
        /// See `attr`.
        pub name: Bytes,
        /// Target of a symbolic link, else empty.
        pub target: Bytes,
        /// Its copy in the shared tier.
        pub tier: Option<TierLocation>,
        /// [`Attr::version`] at the last cut of the file to a smaller size: ends of writes from before mean nothing.
        pub cut_version: u64,
        /// Of a file: chunks that are not held come from the copy that `tier` tells of. Of a directory: its names in the shared tier were not taken
        /// over yet.
        pub backed: Option<Backing>,
    }
}

wire_struct! {
    /// The content of a small file, beside its inode. It may end before the file does: zeros follow.
    pub struct InlineRecord {
        /// CRC of `data`.
        pub crc: u32,
        /// The bytes from the file's beginning.
        pub data: Bytes,
    }
}

/// In [`ShardRecord::mode`]: the directory has access control lists, of which copies lie beside the record.
pub const SHARD_ACL: u32 = 1 << 16;

wire_struct! {
    /// What a server knows of a wide directory whose home is elsewhere (or here): enough to check permissions and to merge.
    pub struct ShardRecord {
        /// The directory.
        pub dir: InodeId,
        /// Permission bits of the directory, and [`SHARD_ACL`].
        pub mode: u32,
        /// Owner of the directory.
        pub uid: u32,
        /// Group of the directory.
        pub gid: u32,
        /// Layout that new files inherit.
        pub layout: Layout,
        /// Last change of this server's part.
        pub mtime: TimeNs,
        /// Entries in this server's part.
        pub entries: u64,
        /// Subdirectories in this server's part.
        pub subdirs: u32,
    }
}

wire_struct! {
    /// What is stored of an object outside of the namespace.
    pub struct VaultRecord {
        /// Whose it is.
        pub uid: u32,
        /// Where its chunks are.
        pub ino: InodeId,
        /// What is remembered with it.
        pub value: Bytes,
    }
}

wire_struct! {
    /// Who keeps a chunk for which there was no room where it belongs.
    pub struct OverflowRecord {
        /// The server.
        pub keeper: ServerId,
        /// The number of that server's store: another one has lost the chunk.
        pub store: u64,
        /// Its inode number there.
        pub place: InodeId,
        /// Drawn when the chunk moved: with it, the name of the object there is never used again.
        pub nonce: u64,
    }
}

wire_struct! {
    /// A directory entry as stored.
    pub struct EntryRecord {
        /// Inode.
        pub ino: InodeId,
        /// What it is.
        pub kind: FileKind,
    }
}

wire_union! {
    /// What must hold for a transaction to be carried out. Checking it also locks what it names until the end.
    pub enum Check {
        /// The name stands for this inode, or for none.
        EntryIs = 1 { parent: InodeId, name: Bytes, ino: Option<InodeId> },
        /// The directory exists, and will until the end. Shared.
        DirLive = 2 { dir: InodeId },
        /// The directory has no entries on this server, and gets none until the end. Exclusive.
        DirEmpty = 3 { dir: InodeId },
        /// The inode exists and has a name. Exclusive.
        InodeLive = 4 { ino: InodeId },
        /// Nobody else changes the directory's entries on this server until the end. Exclusive.
        DirHeld = 5 { dir: InodeId },
        /// The caller may change entries of the directory; with the sticky bit, those of `victim_uid`. Shared.
        DirWritable = 6 { dir: InodeId, caller: Caller, victim_uid: Option<u32> },
        /// The directory lives here and is not wide. Shared.
        DirNarrow = 7 { dir: InodeId },
        /// The inode exists and has a name, or was made without one and never had one. Exclusive.
        InodeLinkable = 8 { ino: InodeId },
    }
}

wire_union! {
    /// One change of the namespace.
    pub enum Mutation {
        /// Set a name.
        PutEntry = 1 { parent: InodeId, name: Bytes, entry: EntryRecord },
        /// Remove a name.
        DelEntry = 2 { parent: InodeId, name: Bytes },
        /// Set an inode.
        PutInode = 3 { inode: InodeRecord },
        /// Names of an inode come and go; at zero links it becomes an orphan.
        AdjustInode = 4 {
            ino: InodeId,
            nlink_delta: i32,
            ctime: TimeNs,
            linked: Option<(InodeId, Bytes)>,
            unlinked: Option<(InodeId, Bytes)>,
        },
        /// Entries of a directory changed on this server.
        TouchDir = 5 { dir: InodeId, time: TimeNs, entries_delta: i64, subdirs_delta: i32 },
        /// Remove an inode and its extended attributes.
        DelInode = 6 { ino: InodeId },
        /// Set this server's part of a wide directory.
        PutShard = 7 { shard: ShardRecord },
        /// Remove this server's part of a wide directory.
        DelShard = 8 { dir: InodeId },
        /// Mark a directory wide at its home.
        SetWide = 9 { dir: InodeId },
        /// Set an extended attribute.
        PutXattr = 10 { ino: InodeId, name: Bytes, value: Bytes },
        /// Remove an extended attribute.
        DelXattr = 11 { ino: InodeId, name: Bytes },
        /// Note where an inode's copy lies in the shared tier.
        SetTier = 12 { ino: InodeId, tier: Option<TierLocation> },
        /// Remember how a request ended, so that a retry is answered and not executed.
        Remember = 13 { client: ClientId, lane: u16, result: RequestResult },
        /// Remove an orphan's record once nobody holds it.
        DelOrphan = 14 { ino: InodeId },
        /// Move an entry to this server because its directory widens (does not count as a change of it).
        AdoptEntry = 15 { parent: InodeId, name: Bytes, entry: EntryRecord },
        /// Give an entry away because its directory widens.
        ReleaseEntry = 16 { parent: InodeId, name: Bytes },
        /// Copy of a wide directory's permissions.
        SetShardAttr = 17 { dir: InodeId, mode: u32, uid: u32, gid: u32, layout: Layout },
        /// Set the content of a small file.
        PutInline = 18 { ino: InodeId, content: InlineRecord },
        /// Remove the content of a small file: it is empty, or lies in chunks now.
        DelInline = 19 { ino: InodeId },
        /// Note what of an inode may only be in the shared tier. No change of the inode.
        SetBacked = 20 { ino: InodeId, backed: Option<Backing> },
        /// Set the counts of a directory whose names were taken over from the shared tier. No change of the inode.
        CountEntries = 21 { dir: InodeId, entries: u64, subdirs: u32 },
    }
}

wire_struct! {
    /// How the last mutation of a client's lane ended.
    pub struct RequestResult {
        /// Count of the request within the lane.
        pub count: u64,
        /// What was asked.
        pub op: Op,
        /// How it ended.
        pub status: Status,
        /// Inode that the answer tells about, or zero.
        pub ino: InodeId,
    }
}
