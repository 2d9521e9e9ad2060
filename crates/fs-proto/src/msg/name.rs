//! Operations on names. All go to the partition of the directory entry: the directory's own when it is narrow, that of
//! the hash of the name when it is wide ([`crate::placement::entry_partition`]).

use crate::attr::{Attr, FileKind};
use crate::ids::InodeId;
use crate::layout::LayoutWish;
use crate::op::request;
use crate::wire::{wire_struct, wire_union};
use bytes::Bytes;

wire_struct! {
    /// Find a name. Attributes come along when the inode lives on the same server.
    pub struct Lookup {
        /// Directory.
        pub parent: InodeId,
        /// Name in it.
        pub name: Bytes,
    }
}

wire_struct! {
    /// What a name stands for.
    pub struct Entry {
        /// Inode.
        pub ino: InodeId,
        /// What it is.
        pub kind: FileKind,
        /// Its attributes, when at hand; else ask its home.
        pub attr: Option<Attr>,
    }
}

wire_struct! {
    /// Make anything but a directory.
    pub struct Create {
        /// Directory.
        pub parent: InodeId,
        /// Name in it. Empty: the file gets no name until it is linked, and ends with its last closing if that never happens; for regular
        /// files that are opened with it.
        pub name: Bytes,
        /// What to make.
        pub kind: FileKind,
        /// Permission bits; a umask that is not applied yet: see [`crate::attr::with_umask`].
        pub mode: u32,
        /// Device number of device nodes.
        pub rdev: u32,
        /// Target of a symbolic link, else empty.
        pub target: Bytes,
        /// Fail if the name exists; else answer what is there, untouched.
        pub exclusive: bool,
        /// What its layout is to have otherwise than the directory's.
        pub layout: Option<LayoutWish>,
        /// Register the file as open at the client, as [`super::inode::Open`] does; also one that is there already, if its attributes are answered.
        pub open: Option<OpenMode>,
    }
}

wire_union! {
    /// How a file is opened.
    pub enum OpenMode {
        /// For reading.
        Read = 1 {},
        /// For writing; writes will go through `via` (a server), or through several when absent.
        Write = 2 { via: Option<crate::ids::ServerId> },
        /// For both, which takes the permission for both; else as for writing. Who renews says for writing.
        ReadWrite = 3 { via: Option<crate::ids::ServerId> },
    }
}

impl OpenMode {
    /// Whether it takes the permission to read.
    pub fn reads(&self) -> bool {
        matches!(self, OpenMode::Read {} | OpenMode::ReadWrite { .. })
    }

    /// Whether it takes the permission to write.
    pub fn writes(&self) -> bool {
        matches!(self, OpenMode::Write { .. } | OpenMode::ReadWrite { .. })
    }

    /// The one server that writes will go through, if there is one.
    pub fn via(&self) -> Option<crate::ids::ServerId> {
        match self {
            OpenMode::Read {} => None,
            OpenMode::Write { via } | OpenMode::ReadWrite { via } => *via,
        }
    }
}

wire_struct! {
    /// The file that is there now.
    pub struct Created {
        /// Its inode.
        pub ino: InodeId,
        /// What it is (an existing name may be anything).
        pub kind: FileKind,
        /// Its attributes, when at hand (always for a new file).
        pub attr: Option<Attr>,
        /// Whether this request made it.
        pub fresh: bool,
    }
}

wire_struct! {
    /// Make a directory.
    pub struct Mkdir {
        /// Directory.
        pub parent: InodeId,
        /// Name in it.
        pub name: Bytes,
        /// Permission bits; a umask that is not applied yet: see [`crate::attr::with_umask`].
        pub mode: u32,
    }
}

wire_struct! {
    /// Remove a name that is not a directory.
    pub struct Unlink {
        /// Directory.
        pub parent: InodeId,
        /// Name in it.
        pub name: Bytes,
    }
}

wire_struct! {
    /// Remove an empty directory.
    pub struct Rmdir {
        /// Directory.
        pub parent: InodeId,
        /// Name in it.
        pub name: Bytes,
    }
}

wire_struct! {
    /// Move a name, over whatever the new name stands for. Goes to the old name's partition.
    pub struct Rename {
        /// Old directory.
        pub parent: InodeId,
        /// Old name.
        pub name: Bytes,
        /// New directory.
        pub new_parent: InodeId,
        /// New name.
        pub new_name: Bytes,
        /// Fail if the new name exists (RENAME_NOREPLACE).
        pub no_replace: bool,
        /// Swap the two names (RENAME_EXCHANGE).
        pub exchange: bool,
    }
}

wire_struct! {
    /// Give an inode a further name. Goes to the new name's partition.
    pub struct Link {
        /// What to name.
        pub ino: InodeId,
        /// New directory.
        pub parent: InodeId,
        /// New name.
        pub name: Bytes,
    }
}

wire_struct! {
    /// A page of a directory, in the order of cookies.
    pub struct Readdir {
        /// Directory.
        pub dir: InodeId,
        /// Entries after this cookie; 0 from the beginning.
        pub after: u64,
        /// At most about this many entries (entries of one cookie are never parted).
        pub limit: u32,
        /// With attributes, where they are at hand.
        pub plus: bool,
    }
}

wire_struct! {
    /// One entry of a page.
    pub struct DirEntry {
        /// Where to go on after this one: stable as long as the name exists.
        pub cookie: u64,
        /// Inode.
        pub ino: InodeId,
        /// What it is.
        pub kind: FileKind,
        /// Name.
        pub name: Bytes,
        /// Attributes, when asked for and at hand.
        pub attr: Option<Attr>,
    }
}

wire_struct! {
    /// A page of entries.
    pub struct DirPage {
        /// Entries, cookies ascending.
        pub entries: Vec<DirEntry>,
        /// Nothing comes after (on this server).
        pub end: bool,
        /// The directory is wide: this page holds the asked server's part only.
        pub wide: bool,
    }
}

request! {
    Lookup => Lookup -> Entry;
    Create => Create -> Created;
    Mkdir => Mkdir -> Attr;
    Unlink => Unlink -> ();
    Rmdir => Rmdir -> ();
    Rename => Rename -> ();
    Link => Link -> Attr;
    Readdir => Readdir -> DirPage;
}
