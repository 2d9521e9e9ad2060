//! Operation numbers, and the tie between each operation, its request and its reply.

use crate::wire::{Wire, wire_enum};

wire_enum! {
    /// What a request asks. Numbers are never changed or used again.
    pub enum Op: u16 {
        /// First frame of a connection: who I am.
        Hello = 1,
        /// Second frame: proof that I know the secret.
        Prove = 2,
        /// Nothing; answers that the server lives.
        Ping = 3,
        /// First request of a client on the server's node: share memory with me.
        Share = 4,
        /// Name to inode.
        Lookup = 10,
        /// Make a file, symbolic link, pipe, socket or device node.
        Create = 11,
        /// Make a directory.
        Mkdir = 12,
        /// Remove a name that is not a directory.
        Unlink = 13,
        /// Remove an empty directory.
        Rmdir = 14,
        /// Move a name.
        Rename = 15,
        /// Give an inode another name.
        Link = 16,
        /// A page of a directory.
        Readdir = 17,
        /// Attributes of an inode.
        Getattr = 20,
        /// Change attributes.
        Setattr = 21,
        /// Target of a symbolic link.
        Readlink = 22,
        /// Value of an extended attribute.
        Getxattr = 23,
        /// Set an extended attribute.
        Setxattr = 24,
        /// Names of extended attributes.
        Listxattr = 25,
        /// Remove an extended attribute.
        Removexattr = 26,
        /// Announce that an inode is open here; answers its attributes.
        Open = 27,
        /// Inodes that are no longer open here.
        Release = 28,
        /// Tell the home what was written: size and time.
        Publish = 29,
        /// Inodes that are still open here.
        Renew = 30,
        /// Attributes of many inodes of one server.
        GetattrMany = 31,
        /// Make a small file with its content, or replace that: create, write and close.
        Put = 32,
        /// Name to content of a small file: lookup and read.
        Get = 33,
        /// [`Op::Put`] of many files of one directory and one server.
        PutMany = 34,
        /// [`Op::Get`] of many files of one directory and one server.
        GetMany = 35,
        /// Write into a small file that lies with its inode.
        WriteInline = 36,
        /// Read from a small file that lies with its inode.
        ReadInline = 37,
        /// [`Op::Open`] for reading; answers the content of a small file, too.
        OpenRead = 38,
        /// The content of an inode goes to chunks from now on.
        Spill = 39,
        /// Write into a chunk.
        WriteChunk = 40,
        /// Read from a chunk.
        ReadChunk = 41,
        /// Cut the chunks of an inode that lie on one server.
        TruncateChunks = 42,
        /// Remove all chunks of inodes that lie on one server.
        DropChunks = 43,
        /// Make written chunks of an inode durable on one server.
        SyncChunks = 44,
        /// Make a hole in a chunk.
        PunchChunk = 45,
        /// Where a chunk has data.
        ChunkRanges = 46,
        /// Which chunks of an inode one server holds, and where they have data.
        ChunkMap = 47,
        /// Make a hole in a small file that lies with its inode.
        PunchInline = 48,
        /// First phase of a transaction.
        Prepare = 50,
        /// Second phase of a transaction.
        Decide = 51,
        /// How did this transaction end?
        Outcome = 52,
        /// How far did writes that went through you reach?
        PollSize = 53,
        /// Take or give back the right to move directories.
        TreeLock = 54,
        /// Your part of a wide directory.
        GetShard = 55,
        /// A client's process has ended.
        ClientGone = 56,
        /// Write at the end of a file, wherever that is by then.
        Append = 57,
        /// Write the chunks that you hold into a file of the shared tier.
        FlushChunks = 60,
        /// Where does this directory lie in the shared tier?
        TierPath = 61,
        /// What is known of an inode's copy in the shared tier; and set it.
        TierState = 62,
        /// What is not yet in the shared tier.
        FlushStatus = 64,
        /// Flush now, without the usual delay.
        FlushNow = 65,
        /// This name, or inode, may differ from the shared tier.
        FlushNote = 66,
        /// Where does this directory lie in the shared tier, even if the namespace has it no more?
        TierPlace = 67,
        /// This directory is gone from the shared tier, too.
        TierForget = 68,
        /// The server's state, as JSON.
        ServerStatus = 70,
        /// Space of one server.
        Statfs = 71,
        /// End the server.
        Shutdown = 72,
        /// Verify a part of what the server holds.
        Scrub = 73,
        /// Copy a piece of a chunk that the server holds into a chunk of another file, or of the same.
        CopyChunk = 74,
        /// Lock bytes of a file.
        LockSet = 80,
        /// Unlock bytes of a file.
        LockClear = 81,
        /// Who is in the way of a lock?
        LockTest = 82,
        /// Give up waiting for a lock.
        LockCancel = 83,
        /// The client lives, and after a restart of the server: claims its locks again.
        LockRenew = 84,
        /// A place for a chunk in layout `writer`.
        ClaimChunk = 90,
        /// Where chunks in layout `writer` are.
        FindChunks = 91,
        /// [`Op::CopyChunk`] to a server that is named.
        CopyChunkTo = 92,
        /// Change the layout of a directory or of an empty file.
        SetLayout = 93,
        /// First request of a peer over TCP: go on over RDMA with me.
        Rdma = 94,
        /// Keep an object outside of the namespace.
        VaultPut = 96,
        /// Objects that a server keeps, page by page.
        VaultList = 97,
        /// Remove objects.
        VaultDrop = 98,
        /// Flush the names of this inode, whatever its policy.
        FlushInode = 100,
        /// Which names are not in the shared tier yet, page by page.
        FlushList = 101,
        /// What are chunks of this file fetched from?
        FindSource = 102,
        /// Fetch this chunk from the shared tier.
        FetchChunk = 103,
        /// Drop chunks that can be fetched again.
        EvictChunks = 104,
        /// Evict some files that live on you.
        EvictNow = 105,
        /// Fetch a file wholly, because its copy in the shared tier goes.
        DetachFile = 106,
        /// Fetch all chunks of a file that you hold.
        FetchShare = 107,
        /// What that directory has moves to the shared tier.
        AttachOld = 108,
        /// A directory has entries in the old tier, too.
        MergeOld = 109,
        /// What has not moved to the shared tier yet.
        MigrateStatus = 110,
        /// Lend me a piece of a file that many read.
        HotAsk = 111,
        /// Pass a piece of such a file on.
        HotFetch = 112,
        /// Drop what was lent of such a file.
        HotRecall = 113,
        /// Answer when you have nothing to flush any more.
        FlushWait = 114,
        /// Is such a file whole on your node, in one piece?
        HotCopy = 115,
        /// Drop answers that were lent about names and inodes.
        HotForget = 116,
        /// May chunks of this file be kept by another server than the one that should hold them?
        MayOverflow = 122,
        /// Which of the chunks that I keep for you are still yours?
        KeptFor = 123,
        /// My store is new: what are the chunks of this file that I lost fetched from?
        FindLost = 124,
        /// Flush this name, whatever its policy; or has that been done?
        FlushName = 125,
        /// Will something that you have to flush make room?
        TierHope = 126,
        /// What clients of my node have open of what lives on you.
        NodeOpens = 127,
    }
}

impl Op {
    /// Whether only servers may ask this of each other.
    pub fn is_internal(self) -> bool {
        matches!(
            self,
            Op::TruncateChunks
                | Op::DropChunks
                | Op::Prepare
                | Op::Decide
                | Op::Outcome
                | Op::PollSize
                | Op::TreeLock
                | Op::GetShard
                | Op::FlushChunks
                | Op::TierPath
                | Op::TierState
                | Op::FlushNote
                | Op::TierPlace
                | Op::TierForget
                | Op::FindSource
                | Op::EvictChunks
                | Op::EvictNow
                | Op::DetachFile
                | Op::FetchShare
                | Op::MergeOld
                | Op::ClientGone
                | Op::HotAsk
                | Op::HotFetch
                | Op::HotRecall
                | Op::HotForget
                | Op::MayOverflow
                | Op::KeptFor
                | Op::FindLost
                | Op::TierHope
                | Op::NodeOpens
        )
    }

    /// Whether executing it twice differs from once, so that a retry must be recognised.
    pub fn is_mutation(self) -> bool {
        matches!(
            self,
            Op::Create
                | Op::Mkdir
                | Op::Unlink
                | Op::Rmdir
                | Op::Rename
                | Op::Link
                | Op::Setxattr
                | Op::Removexattr
                | Op::Put
                | Op::PutMany
                | Op::Append
        )
    }

    /// Whether the bulk part of a request is one piece of data that nothing looks into, but for its checksum.
    pub fn has_plain_data(self) -> bool {
        matches!(self, Op::WriteChunk)
    }

    /// Whether the answer may have so much data that its receiver has to wait for a buffer.
    pub fn answers_data(self) -> bool {
        matches!(self, Op::ReadChunk | Op::GetMany | Op::HotAsk | Op::HotFetch)
    }

    /// The name that logs and metrics show.
    pub fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }
}

/// A request: its operation number and the type of its reply.
pub trait Request: Wire {
    /// The number in the header.
    const OP: Op;
    /// The body of a successful reply.
    type Reply: Wire;
}

macro_rules! request {
    ($($request:ident => $op:ident -> $reply:ty;)*) => {$(
        impl $crate::op::Request for $request {
            const OP: $crate::op::Op = $crate::op::Op::$op;
            type Reply = $reply;
        }
    )*};
}
pub(crate) use request;
