//! Attributes of inodes, and layouts of files.

use crate::ids::{InodeId, ServerId};
use crate::wire::{DecodeError, Reader, Wire, wire_enum};
use bytes::BytesMut;

/// Nanoseconds since 1970-01-01 UTC.
pub type TimeNs = i64;

/// Smallest and largest chunk, as powers of two: 64 KiB and 16 MiB.
pub const CHUNK_LOG2: std::ops::RangeInclusive<u8> = 16..=24;

wire_enum! {
    /// What an inode is.
    pub enum FileKind: u8 {
        /// A regular file.
        File = 1,
        /// A directory.
        Directory = 2,
        /// A symbolic link.
        Symlink = 3,
        /// A named pipe.
        Fifo = 4,
        /// A socket.
        Socket = 5,
        /// A character device.
        CharDevice = 6,
        /// A block device.
        BlockDevice = 7,
    }
}

/// Where the chunks of a file go.
///
/// On the wire: one byte, which is 1 for striped, 2 for local (the server follows as 16 bits, all ones for none), 3 for writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Placement {
    /// Chunk i to partition (hash(inode) + i): all servers alike.
    #[default]
    Striped,
    /// All chunks to one server: the one on the node of whoever makes the file. None in a directory, where it is not known yet.
    Local(Option<ServerId>),
    /// Each chunk to the server on the node that writes it first; chunk i's partition knows which that is.
    Writer,
}

const STRIPED: u8 = 1;
const LOCAL: u8 = 2;
const WRITER: u8 = 3;
/// In place of a server: not known yet. Servers have numbers below [`crate::ids::MAX_SERVERS`].
const NOWHERE: u16 = u16::MAX;

impl Placement {
    /// The name that users give.
    pub fn name(self) -> &'static str {
        match self {
            Placement::Striped => "striped",
            Placement::Local(_) => "local",
            Placement::Writer => "writer",
        }
    }

    /// That of a file made by somebody on the node of `near`: a local file without a node is striped. A server that was named stays.
    #[must_use]
    pub fn settled(self, near: Option<ServerId>) -> Placement {
        match (self, near) {
            (Placement::Local(Some(server)), _) | (Placement::Local(None), Some(server)) => {
                Placement::Local(Some(server))
            }
            (Placement::Local(None), None) => Placement::Striped,
            (other, _) => other,
        }
    }
}

impl Wire for Placement {
    fn put(&self, out: &mut BytesMut) {
        match self {
            Placement::Striped => STRIPED.put(out),
            Placement::Local(server) => {
                LOCAL.put(out);
                server.map_or(NOWHERE, |server| server.0).put(out);
            }
            Placement::Writer => WRITER.put(out),
        }
    }
    fn get(from: &mut Reader) -> Result<Self, DecodeError> {
        match u8::get(from)? {
            STRIPED => Ok(Placement::Striped),
            LOCAL => {
                let server = u16::get(from)?;
                Ok(Placement::Local((server != NOWHERE).then_some(ServerId(server))))
            }
            WRITER => Ok(Placement::Writer),
            _ => Err(DecodeError::Invalid("placement")),
        }
    }
}

/// How a file is cut into chunks and where they go. Final once the file's content lies in chunks.
///
/// On the wire: the placement, then one byte: the chunk size as a power of two, and [`GIVEN`] if somebody chose it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Where chunks go.
    pub placement: Placement,
    /// Chunk size as a power of two, within [`CHUNK_LOG2`].
    pub chunk_log2: u8,
    /// The chunk size was asked for; else it follows the size that a file is expected to get.
    pub given: bool,
}

/// In the byte of the chunk size: it was asked for.
const GIVEN: u8 = 0x80;

/// Chunk size, as a power of two, of a file of which nothing is known: one FUSE request fills one.
const CHUNK_LOG2_USUAL: u8 = 20;
/// A file that is expected to have more chunks gets larger ones.
const CHUNKS_USUAL_LOG2: u8 = 12;

impl Default for Layout {
    /// Striped, chunks of 1 MiB.
    fn default() -> Self {
        Layout { placement: Placement::Striped, chunk_log2: CHUNK_LOG2_USUAL, given: false }
    }
}

impl Layout {
    /// That of a file made by somebody on the node of `near`: see [`Placement::settled`].
    #[must_use]
    pub fn settled(self, near: Option<ServerId>) -> Layout {
        Layout { placement: self.placement.settled(near), ..self }
    }

    /// Chunk size in bytes.
    pub fn chunk_bytes(self) -> u64 {
        1 << self.chunk_log2
    }

    /// That of a file which is expected to get `bytes`: chunks of 1 MiB up to 4 GiB, then larger ones, so that it has about 4096 of them
    /// (16 MiB from 64 GiB on). A size that was asked for stays, and none becomes smaller.
    #[must_use]
    pub fn sized_for(self, bytes: u64) -> Layout {
        if self.given {
            return self;
        }
        let needed =
            bytes.max(1).next_power_of_two().trailing_zeros().saturating_sub(u32::from(CHUNKS_USUAL_LOG2));
        let chunk_log2 = needed.min(u32::from(*CHUNK_LOG2.end())) as u8;
        Layout { chunk_log2: chunk_log2.max(self.chunk_log2), ..self }
    }
}

impl Wire for Layout {
    fn put(&self, out: &mut BytesMut) {
        self.placement.put(out);
        (self.chunk_log2 | if self.given { GIVEN } else { 0 }).put(out);
    }
    fn get(from: &mut Reader) -> Result<Self, DecodeError> {
        let (placement, chunk) = (Wire::get(from)?, u8::get(from)?);
        let layout = Layout { placement, chunk_log2: chunk & !GIVEN, given: chunk & GIVEN != 0 };
        if CHUNK_LOG2.contains(&layout.chunk_log2) {
            Ok(layout)
        } else {
            Err(DecodeError::Invalid("chunk size"))
        }
    }
}

/// Where the umask begins in the `mode` of a request that makes something.
const UMASK_SHIFT: u32 = 16;

/// The mode of a request that makes something, with a umask that is still to be applied: a default access control list of the directory,
/// which only its server knows, takes the umask's place.
pub fn with_umask(mode: u32, umask: u32) -> u32 {
    (mode & 0o7777) | (umask & 0o777) << UMASK_SHIFT
}

/// Mode and umask of a request that makes something.
pub fn split_umask(asked: u32) -> (u32, u32) {
    (asked & 0o7777, asked >> UMASK_SHIFT & 0o777)
}

/// Attributes of an inode, as `stat` shows them and a little more.
///
/// On the wire the fields follow in this order, `wide`, `inline`, `acl` and `capable` in one byte of flags.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // Facts that do not depend on each other.
pub struct Attr {
    /// Its number.
    pub ino: InodeId,
    /// What it is.
    pub kind: FileKind,
    /// Permission, setuid, setgid and sticky bits (07777).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Hard links; for a directory 2 plus its subdirectories.
    pub nlink: u32,
    /// Device number of device nodes.
    pub rdev: u32,
    /// Bytes of a file, length of a symbolic link's target, entries of a directory.
    pub size: u64,
    /// Last access.
    pub atime: TimeNs,
    /// Last change of content.
    pub mtime: TimeNs,
    /// Last change of attributes.
    pub ctime: TimeNs,
    /// Birth.
    pub btime: TimeNs,
    /// Layout of a file; for a directory, what new files inherit.
    pub layout: Layout,
    /// Entries of this directory are spread over all partitions.
    pub wide: bool,
    /// The content of this file lies with its inode, not in chunks. Once false it stays so.
    pub inline: bool,
    /// It has an access control list, for itself or for what is made in it.
    pub acl: bool,
    /// It has a file capability (`security.capability`), which falls when its content or its owner changes.
    pub capable: bool,
    /// Counts changes of content that were published.
    pub version: u64,
    /// Directory that the inode was last linked into.
    pub parent: InodeId,
}

const WIDE: u8 = 1;
const INLINE: u8 = 2;
const ACL: u8 = 4;
const CAPABLE: u8 = 8;

impl Wire for Attr {
    fn put(&self, out: &mut BytesMut) {
        self.ino.put(out);
        self.kind.put(out);
        for field in [self.mode, self.uid, self.gid, self.nlink, self.rdev] {
            field.put(out);
        }
        self.size.put(out);
        for time in [self.atime, self.mtime, self.ctime, self.btime] {
            time.put(out);
        }
        self.layout.put(out);
        let flag = |set, bit| if set { bit } else { 0 };
        let flags = flag(self.wide, WIDE) | flag(self.inline, INLINE);
        (flags | flag(self.acl, ACL) | flag(self.capable, CAPABLE)).put(out);
        self.version.put(out);
        self.parent.put(out);
    }

    fn get(from: &mut Reader) -> Result<Self, DecodeError> {
        let mut attr = Attr {
            ino: Wire::get(from)?,
            kind: Wire::get(from)?,
            mode: Wire::get(from)?,
            uid: Wire::get(from)?,
            gid: Wire::get(from)?,
            nlink: Wire::get(from)?,
            rdev: Wire::get(from)?,
            size: Wire::get(from)?,
            atime: Wire::get(from)?,
            mtime: Wire::get(from)?,
            ctime: Wire::get(from)?,
            btime: Wire::get(from)?,
            layout: Wire::get(from)?,
            ..Attr::unknown(InodeId::default(), FileKind::File)
        };
        let flags = u8::get(from)?;
        if flags & !(WIDE | INLINE | ACL | CAPABLE) != 0 {
            return Err(DecodeError::Invalid("attribute flags"));
        }
        (attr.wide, attr.inline) = (flags & WIDE != 0, flags & INLINE != 0);
        (attr.acl, attr.capable) = (flags & ACL != 0, flags & CAPABLE != 0);
        (attr.version, attr.parent) = (Wire::get(from)?, Wire::get(from)?);
        Ok(attr)
    }
}

impl Attr {
    /// What is told of an inode when nothing but its number and its kind is known: no names, nobody's, empty.
    pub fn unknown(ino: InodeId, kind: FileKind) -> Attr {
        Attr {
            ino,
            kind,
            mode: 0,
            uid: 0,
            gid: 0,
            nlink: 0,
            rdev: 0,
            size: 0,
            atime: 0,
            mtime: 0,
            ctime: 0,
            btime: 0,
            layout: Layout::default(),
            wide: false,
            inline: false,
            acl: false,
            capable: false,
            version: 0,
            parent: InodeId::default(),
        }
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind == FileKind::Directory
    }
}
