//! Operations on inodes. All go to the partition in the inode number: its *home*.

use crate::attr::{Attr, TimeNs};
use crate::ids::{ClientId, InodeId, ServerId};
use crate::layout::LayoutWish;
use crate::msg::name::OpenMode;
use crate::op::request;
use crate::wire::{wire_struct, wire_union};
use bytes::Bytes;

wire_struct! {
    /// Attributes of an inode, sizes settled with everybody who writes.
    pub struct Getattr {
        /// Which.
        pub ino: InodeId,
    }
}

wire_struct! {
    /// Attributes of many inodes that live on one server. Goes to a server.
    pub struct GetattrMany {
        /// Which.
        pub inos: Vec<InodeId>,
    }
}

wire_union! {
    /// A time to set.
    pub enum SetTime {
        /// The server's clock.
        Now = 1 {},
        /// This one.
        At = 2 { ns: TimeNs },
    }
}

wire_struct! {
    /// Change some attributes.
    pub struct Setattr {
        /// Which.
        pub ino: InodeId,
        /// Permission bits.
        pub mode: Option<u32>,
        /// Owner.
        pub uid: Option<u32>,
        /// Group.
        pub gid: Option<u32>,
        /// Size; chunks are cut.
        pub size: Option<u64>,
        /// Access time.
        pub atime: Option<SetTime>,
        /// Change time of content.
        pub mtime: Option<SetTime>,
        /// The caller has the file open for writing: its mode does not matter for a change of size.
        pub by_handle: bool,
    }
}

impl Setattr {
    /// No change to `ino` yet.
    pub fn nothing(ino: InodeId) -> Self {
        Setattr {
            ino,
            mode: None,
            uid: None,
            gid: None,
            size: None,
            atime: None,
            mtime: None,
            by_handle: false,
        }
    }
}

wire_struct! {
    /// Target of a symbolic link.
    pub struct Readlink {
        /// Which.
        pub ino: InodeId,
    }
}

wire_struct! {
    /// Value of an extended attribute.
    pub struct Getxattr {
        /// Which.
        pub ino: InodeId,
        /// Name, with its namespace.
        pub name: Bytes,
    }
}

wire_struct! {
    /// Set an extended attribute.
    pub struct Setxattr {
        /// Which.
        pub ino: InodeId,
        /// Name, with its namespace.
        pub name: Bytes,
        /// Value.
        pub value: Bytes,
        /// Fail if it exists.
        pub create: bool,
        /// Fail unless it exists.
        pub replace: bool,
    }
}

wire_struct! {
    /// Change the layout of a directory, for what is made in it from then on, or of a file that never had chunks. Answers it as it is then.
    pub struct SetLayout {
        /// Which.
        pub ino: InodeId,
        /// What is wanted.
        pub wish: LayoutWish,
    }
}

wire_struct! {
    /// Names of all extended attributes.
    pub struct Listxattr {
        /// Which.
        pub ino: InodeId,
    }
}

wire_struct! {
    /// Remove an extended attribute.
    pub struct Removexattr {
        /// Which.
        pub ino: InodeId,
        /// Name, with its namespace.
        pub name: Bytes,
    }
}

wire_struct! {
    /// The client has the inode open from now on: it stays when its last name goes, and the home knows who writes.
    /// Repeating it is harmless.
    pub struct Open {
        /// Which.
        pub ino: InodeId,
        /// How.
        pub mode: OpenMode,
    }
}

wire_struct! {
    /// The client has these inodes of one server open no longer. Goes to a server.
    pub struct Release {
        /// Which.
        pub inos: Vec<InodeId>,
    }
}

wire_struct! {
    /// One inode that is open at a client.
    pub struct OpenInode {
        /// Which.
        pub ino: InodeId,
        /// How.
        pub mode: OpenMode,
    }
}

wire_struct! {
    /// All inodes of one server that the client has open; sent within every [`LEASE_MS`]. Goes to a server.
    pub struct Renew {
        /// Which.
        pub open: Vec<OpenInode>,
    }
}

/// Milliseconds after which a client that has not been heard of has nothing open any more.
pub const LEASE_MS: u32 = 90_000;

wire_struct! {
    /// What a client wrote: the home takes the larger size, sets the time and counts a version.
    pub struct Publish {
        /// Which.
        pub ino: InodeId,
        /// End of the furthest write since the last publishing, in bytes; 0 if nothing was written.
        pub end: u64,
        /// [`Attr::version`] as the client last knew it: at open, at the last publishing, or after its own cut.
        pub since: u64,
        /// Time of the last write; absent if nothing was written.
        pub mtime: Option<TimeNs>,
        /// Make the namespace durable before answering (fsync).
        pub sync: bool,
        /// The client closes the inode: as [`Release`], in the same message.
        pub close: bool,
    }
}

wire_struct! {
    /// How far writes of an inode reached that came to the asked server from clients. Server to server.
    pub struct PollSize {
        /// Which.
        pub ino: InodeId,
        /// Whose writes count, and from which version on. A server counts for those of its clients that write and are not listed themselves.
        pub writers: Vec<(ClientId, u64)>,
        /// Forget them, too (the file was cut): those of everybody, if nobody is listed.
        pub forget: bool,
    }
}

wire_struct! {
    /// Space of one server.
    pub struct Space {
        /// Bytes of the store's file system.
        pub total_bytes: u64,
        /// Bytes still free.
        pub free_bytes: u64,
        /// Inodes that exist.
        pub inodes: u64,
        /// Which file system that is (a hash of host and device): servers that share one count it once.
        pub device: u64,
    }
}

wire_struct! {
    /// Space of the asked server.
    pub struct Statfs {
        /// Which server, so that a misrouted request shows.
        pub server: ServerId,
    }
}

request! {
    Getattr => Getattr -> Attr;
    GetattrMany => GetattrMany -> Vec<Option<Attr>>;
    Setattr => Setattr -> Attr;
    Readlink => Readlink -> Bytes;
    Getxattr => Getxattr -> Bytes;
    Setxattr => Setxattr -> ();
    SetLayout => SetLayout -> Attr;
    Listxattr => Listxattr -> Vec<Bytes>;
    Removexattr => Removexattr -> ();
    Open => Open -> Attr;
    Release => Release -> ();
    Renew => Renew -> ();
    Publish => Publish -> Attr;
    PollSize => PollSize -> u64;
    Statfs => Statfs -> Space;
}
