//! What servers tell each other about copies in the shared tier (tier 2).

use crate::attr::{Layout, TimeNs};
use crate::ids::{ChunkIndex, InodeId, ServerId};
use crate::op::request;
use crate::record::{Backing, EntryRecord, InodeRecord, TierLocation};
use crate::wire::wire_struct;
use bytes::Bytes;

wire_struct! {
    /// Write the chunks that you hold into a staging file of the shared tier, which exists. Goes to a server.
    pub struct FlushChunks {
        /// File.
        pub ino: InodeId,
        /// The server in whose staging the file lies: who copies it.
        pub server: ServerId,
        /// Name of the staged file.
        pub staging: Bytes,
        /// How the file is cut.
        pub layout: Layout,
        /// Bytes of the file; what chunks hold beyond is not written.
        pub size: u64,
        /// Which parts to write, whoever holds their chunks; absent: the chunks held.
        pub parts: Option<PartsOf>,
    }
}

wire_struct! {
    /// Parts of a file: of all its parts of `part_bytes` bytes the `first`, and from there each `every`th.
    pub struct PartsOf {
        /// Bytes of each part but the last; never 0.
        pub part_bytes: u64,
        /// The first part, from 0.
        pub first: u64,
        /// From one part to the next; never 0.
        pub every: u64,
    }
}

impl PartsOf {
    /// No part: the file is about to be copied, and what is written to its chunks from now on may not be in the copy. Busy while another copy is.
    pub const NONE: PartsOf = PartsOf { part_bytes: 1, first: u64::MAX, every: 1 };
    /// No part: the copy that was begun failed, and what had been written before is in no copy.
    pub const IN_VAIN: PartsOf = PartsOf { part_bytes: 1, first: u64::MAX, every: 2 };
    /// No part: all of the file was read, and what was written before the copy began is in it.
    pub const DONE: PartsOf = PartsOf { part_bytes: 1, first: u64::MAX, every: 3 };
    /// No part: the copy that was begun goes on.
    pub const STILL: PartsOf = PartsOf { part_bytes: 1, first: u64::MAX, every: 4 };
}

wire_struct! {
    /// What a server wrote of a file.
    pub struct FlushedShare {
        /// Bytes.
        pub bytes: u64,
        /// What the tier wants to know when the file is published.
        pub receipt: Bytes,
    }
}

wire_struct! {
    /// Where a directory lies in the shared tier. Goes to its home.
    pub struct TierPath {
        /// Which.
        pub dir: InodeId,
    }
}

wire_struct! {
    /// Asks what is known of an inode for flushing, and notes where its copy lies now. Goes to its home.
    pub struct TierState {
        /// Which.
        pub ino: InodeId,
        /// The copy that was just published; absent to ask only.
        pub published: Option<TierLocation>,
        /// Bytes of that copy, if it is of a file: what the home counts as published.
        pub published_bytes: u64,
        /// That copy as the tier has it, if it is of a file and can be read again.
        pub published_as: Option<Backing>,
    }
}

wire_struct! {
    /// What an inode's home knows about it.
    pub struct TierView {
        /// The inode; absent when it is gone.
        pub inode: Option<InodeRecord>,
        /// Extended attributes.
        pub xattrs: Vec<(Bytes, Bytes)>,
        /// Somebody has it open for writing.
        pub writing: bool,
    }
}

wire_struct! {
    /// What is not in the shared tier yet.
    pub struct FlushStatus {}
}

wire_struct! {
    /// The asked server's account of flushing.
    pub struct FlushAccount {
        /// Names that differ from the shared tier.
        pub pending_names: u64,
        /// Directories whose attributes differ.
        pub pending_dirs: u64,
        /// Bytes of files among the pending names.
        pub pending_bytes: u64,
        /// Files of this home that were published: a version of a file once, over all starts of the server.
        pub files: u64,
        /// Their bytes.
        pub bytes: u64,
        /// Bytes that this server wrote to the shared tier since its start, also into copies that were thrown away.
        pub copied_bytes: u64,
        /// Attempts that failed since the server's start.
        pub failures: u64,
        /// Milliseconds since the oldest of what is pending was noted.
        pub oldest_ms: u64,
        /// Bytes a second that went to the shared tier lately.
        pub bytes_per_s: u64,
        /// Some names that failed at their last attempt, and why.
        pub unsafe_names: Vec<(Bytes, String)>,
        /// Whether this cluster has a shared tier at all.
        pub has_tier: bool,
    }
}

wire_struct! {
    /// Flush what is pending without the usual delay, files that are open for writing included when `everything`.
    pub struct FlushNow {
        /// Also files that somebody still has open for writing.
        pub everything: bool,
    }
}

wire_struct! {
    /// Answer when nothing is to be flushed on the asked server any more, or when that takes too long: who asks looks then, and may ask again.
    pub struct FlushWait {
        /// Milliseconds after which to answer in any case.
        pub longest_ms: u32,
    }
}

wire_struct! {
    /// The names that the asked server has to flush yet, in an order of its own.
    pub struct FlushList {
        /// Where the last page ended; empty for the first.
        pub after: Bytes,
    }
}

wire_struct! {
    /// A page of names that are not in the shared tier.
    pub struct FlushPage {
        /// Paths, and why.
        pub names: Vec<(Bytes, String)>,
        /// Where it ends; empty after the last.
        pub next: Bytes,
    }
}

wire_struct! {
    /// Flush the names of an inode, whatever its policy. Goes to its home.
    pub struct FlushInode {
        /// Which.
        pub ino: InodeId,
    }
}

wire_struct! {
    /// Flush a name that somebody asks for, whatever its policy. Goes to the server that owns the name. Answers why it has not been flushed since somebody asked
    /// (empty: its turn has not come); None if it has, or nobody asked.
    pub struct FlushName {
        /// The name's directory.
        pub parent: InodeId,
        /// The name; of a directory the tier's copy gets its attributes, too. Empty: the root.
        pub name: Bytes,
        /// Ask for it now.
        pub ask: bool,
        /// With `ask`: also if somebody has it open for writing, as it is then.
        pub open: bool,
    }
}

wire_struct! {
    /// No store has room: will something that waits for flushing at the asked server make some? Hurries all that waits there. Server to server.
    pub struct TierHope {}
}

wire_struct! {
    /// Whether waiting for room makes sense, as the asked server sees it.
    pub struct TierHoped {
        /// Contents wait for the shared tier that can be evicted when they are there, or came there a moment ago.
        pub waits: bool,
        /// The shared tier refused something lately because it has no space.
        pub is_full: bool,
    }
}

wire_struct! {
    /// A name, or an inode, may differ from the shared tier: queue it. Goes to the server that owns the name, or is the inode's home.
    pub struct FlushNote {
        /// The name's directory; without a name, the inode.
        pub ino: InodeId,
        /// The name.
        pub name: Option<Bytes>,
        /// What the shared tier has under the name, from a server that owned it before.
        pub had: Option<EntryRecord>,
        /// Somebody asked for it: whatever its policy.
        pub forced: bool,
        /// And also if it is open for writing, as it is then.
        pub open: bool,
    }
}

wire_struct! {
    /// Where a directory lies in the shared tier, even if the namespace has it no more. Goes to its home.
    pub struct TierPlace {
        /// Which.
        pub dir: InodeId,
    }
}

wire_struct! {
    /// A directory that the namespace had removed is gone from the shared tier, too. Goes to its home.
    pub struct TierForget {
        /// Which.
        pub dir: InodeId,
    }
}

wire_struct! {
    /// The copy in the shared tier that chunks of a file are fetched from.
    pub struct TierSource {
        /// Where it lies, and its number.
        pub at: TierLocation,
        /// What it was when it was taken over, and how much of it counts.
        pub backing: Backing,
        /// How the file is cut.
        pub layout: Layout,
    }
}

wire_struct! {
    /// Asks what chunks of a file are fetched from: absent if every chunk that is not held is a hole. Goes to the file's home. Server to server.
    pub struct FindSource {
        /// Which.
        pub ino: InodeId,
        /// It was not there, or was another: have a look.
        pub look: bool,
    }
}

wire_struct! {
    /// Have a chunk at hand that is in the shared tier. Goes to the chunk's holder.
    pub struct FetchChunk {
        /// File.
        pub ino: InodeId,
        /// Chunk of it.
        pub chunk: ChunkIndex,
        /// Answer at once, fetch afterwards.
        pub later: bool,
    }
}

wire_struct! {
    /// The asker's store has taken the place of one that was lost. What are chunks of this file that it does not hold fetched from? Goes to the file's home. None: they
    /// are holes. A source without a number: they are lost. Server to server.
    pub struct FindLost {
        /// File.
        pub ino: InodeId,
        /// When the store was made: nothing is lost of files that were made later.
        pub made: TimeNs,
    }
}

wire_struct! {
    /// Drop chunks of files whose copies in the shared tier are up to date; they are fetched from there again. Server to server.
    pub struct EvictChunks {
        /// Which, and where each is fetched from.
        pub files: Vec<(InodeId, TierSource)>,
        /// All of them, or none needs to: fail if one is in use.
        pub must: bool,
    }
}

wire_struct! {
    /// Evict files that live here, so that a server has room. Answers the bytes that it held of them. Server to server.
    pub struct EvictNow {
        /// Bytes wanted.
        pub bytes: u64,
        /// Where.
        pub server: ServerId,
    }
}

wire_struct! {
    /// The copy in the shared tier is about to go: have all of the file here, unless nobody can read it any more. Goes to its home. Server to server.
    pub struct DetachFile {
        /// Which.
        pub ino: InodeId,
        /// Directory of the name that the copy goes from.
        pub parent: InodeId,
        /// The name.
        pub name: Bytes,
    }
}

wire_struct! {
    /// Fetch all chunks of a file that the asked server holds. Server to server.
    pub struct FetchShare {
        /// Which.
        pub ino: InodeId,
    }
}

wire_struct! {
    /// What this directory, the old tier, has and the shared tier has not is moved there. Goes to each server; to the root's home last. Answers the
    /// directory's number.
    pub struct AttachOld {
        /// Absolute path of the directory, on every server; empty: all has moved, forget it.
        pub path: Bytes,
        /// Its number, which all servers answered; 0: only have a look whether it can be used.
        pub id: u64,
    }
}

wire_struct! {
    /// A directory has entries in the old tier, too. Goes to its home. Server to server.
    pub struct MergeOld {
        /// Which.
        pub dir: InodeId,
        /// Its path there.
        pub path: Bytes,
    }
}

wire_struct! {
    /// How far the asked server is with moving what lives on it.
    pub struct MigrateStatus {}
}

wire_struct! {
    /// What moves from the old tier to the shared one, of the asked server. Counts are of this run of the server.
    pub struct Migrated {
        /// What has not moved yet, as far as it is known: 0 only if there is nothing.
        pub left: u64,
        /// How often something was found, or found again, that has to move: whatever that led to.
        pub found: u64,
        /// Files of which both copies were read and are the same.
        pub same_files: u64,
        /// Bytes that were compared, also of files that turned out to differ.
        pub compared_bytes: u64,
        /// Copies that were not what the old tier has: they were made again.
        pub again: u64,
        /// Files that the old tier had no more when they were to be compared.
        pub gone: u64,
        /// Why something could not be moved or compared at the last attempt; empty if nothing was in the way.
        pub trouble: String,
    }
}

request! {
    AttachOld => AttachOld -> u64;
    MergeOld => MergeOld -> ();
    MigrateStatus => MigrateStatus -> Migrated;
    FindSource => FindSource -> Option<TierSource>;
    FindLost => FindLost -> Option<TierSource>;
    FetchChunk => FetchChunk -> ();
    EvictChunks => EvictChunks -> u64;
    EvictNow => EvictNow -> u64;
    DetachFile => DetachFile -> ();
    FetchShare => FetchShare -> ();
    FlushChunks => FlushChunks -> FlushedShare;
    TierPath => TierPath -> Option<Bytes>;
    TierState => TierState -> TierView;
    FlushStatus => FlushStatus -> FlushAccount;
    FlushNow => FlushNow -> ();
    FlushWait => FlushWait -> ();
    FlushInode => FlushInode -> ();
    FlushList => FlushList -> FlushPage;
    FlushName => FlushName -> Option<String>;
    TierHope => TierHope -> TierHoped;
    FlushNote => FlushNote -> ();
    TierPlace => TierPlace -> Option<TierLocation>;
    TierForget => TierForget -> ();
}
