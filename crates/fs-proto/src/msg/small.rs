//! Operations on small files, whose content lies with the inode ([`crate::Attr::inline`]). `Put` and `Get` go to the partition of the
//! directory entry, their forms for many files to a server, the others to the inode's home.
//!
//! A client that believes a file inline and is wrong is told by the attributes in the answer, and goes on with chunks. The other
//! way round nobody is wrong: what has left its inode never comes back.

use crate::attr::{Attr, FileKind, TimeNs};
use crate::ids::InodeId;
use crate::op::request;
use crate::status::Status;
use crate::wire::{wire_struct, wire_union};
use bytes::Bytes;

/// Most files in one [`PutMany`] or [`GetMany`]: a put is one atomic change.
pub const MANY_MAX: usize = 128;

/// Most bytes of content in one [`PutMany`], and in the answer to one [`GetMany`].
pub const MANY_BYTES: u32 = 2 << 20;
const _: () = assert!(MANY_BYTES >= crate::INLINE_MAX && MANY_BYTES <= crate::BULK_MAX);

wire_struct! {
    /// Make a small file whose content is the frame's bulk part, or replace the content of one that is there.
    pub struct Put {
        /// Directory.
        pub parent: InodeId,
        /// Name in it.
        pub name: Bytes,
        /// Permission bits of a new file, umask already applied.
        pub mode: u32,
        /// Fail if the name exists.
        pub exclusive: bool,
        /// CRC of the bulk part, from the writer's memory.
        pub crc: u32,
    }
}

wire_union! {
    /// What became of one file that was put.
    pub enum PutOutcome {
        /// It is there, with this content. `fresh`: the name is new.
        Done = 1 { attr: Attr, fresh: bool },
        /// Something is there that this message cannot replace: what it is. Nothing was changed.
        There = 2 { ino: InodeId, kind: FileKind, attr: Option<Attr> },
        /// Too large to lie with an inode. Nothing was changed.
        TooLarge = 3 {},
        /// It could not be done.
        Failed = 4 { status: Status },
    }
}

wire_struct! {
    /// Answer to [`Put`].
    pub struct PutAnswer {
        /// What became of it.
        pub outcome: PutOutcome,
        /// Largest file that this server keeps with its inode, in bytes.
        pub limit: u32,
    }
}

wire_struct! {
    /// One file of a [`PutMany`].
    pub struct PutFile {
        /// Name.
        pub name: Bytes,
        /// Its bytes in the bulk part, which follow those of the files before.
        pub len: u32,
        /// CRC of them.
        pub crc: u32,
    }
}

wire_struct! {
    /// [`Put`] of up to [`MANY_MAX`] files of one directory whose entries one server holds. Goes to that server.
    pub struct PutMany {
        /// Directory.
        pub parent: InodeId,
        /// Permission bits of new files, umask already applied.
        pub mode: u32,
        /// Which; no name twice.
        pub files: Vec<PutFile>,
    }
}

wire_struct! {
    /// Answer to [`PutMany`].
    pub struct PutManyAnswer {
        /// What became of each, in the order of the request.
        pub outcomes: Vec<PutOutcome>,
        /// See [`PutAnswer::limit`].
        pub limit: u32,
    }
}

wire_struct! {
    /// Content of a small file.
    pub struct Get {
        /// Directory.
        pub parent: InodeId,
        /// Name in it.
        pub name: Bytes,
    }
}

wire_union! {
    /// What was found of one file.
    pub enum GetOutcome {
        /// All of it: [`Attr::size`] bytes of the bulk part with this CRC, which follow those of the files before.
        Whole = 1 { attr: Attr, crc: u32 },
        /// It does not lie with an inode of this server.
        There = 2 { ino: InodeId, kind: FileKind, attr: Option<Attr> },
        /// It could not be read.
        Failed = 3 { status: Status },
        /// The answer has no room for it: ask again.
        Left = 4 {},
    }
}

wire_struct! {
    /// [`Get`] of up to [`MANY_MAX`] files of one directory whose entries one server holds. Goes to that server.
    pub struct GetMany {
        /// Directory.
        pub parent: InodeId,
        /// Names in it.
        pub names: Vec<Bytes>,
    }
}

wire_struct! {
    /// Write the frame's bulk part into a small file. Size and time are published by it.
    pub struct WriteInline {
        /// File.
        pub ino: InodeId,
        /// Byte within the file.
        pub offset: u64,
        /// Time of the write.
        pub mtime: TimeNs,
        /// CRC of the bulk part, from the writer's memory.
        pub crc: u32,
    }
}

wire_struct! {
    /// Write the frame's bulk part at the end of a file, small or not. Of appends from anywhere each lies whole behind the one before.
    pub struct Append {
        /// File.
        pub ino: InodeId,
        /// Time of the write.
        pub mtime: TimeNs,
        /// CRC of the bulk part, from the writer's memory.
        pub crc: u32,
    }
}

wire_struct! {
    /// Answer to [`Append`].
    pub struct Appended {
        /// Attributes as they are now.
        pub attr: Attr,
        /// Where the bytes lie.
        pub offset: u64,
        /// See [`PutAnswer::limit`].
        pub limit: u32,
    }
}

wire_struct! {
    /// Answer to [`WriteInline`].
    pub struct InlineWritten {
        /// Attributes as they are now.
        pub attr: Attr,
        /// Whether the bytes were taken; else the file lies in chunks, and they have to be written there.
        pub written: bool,
        /// See [`PutAnswer::limit`].
        pub limit: u32,
    }
}

wire_struct! {
    /// Read from a small file. The answer's bulk part ends where the file does.
    pub struct ReadInline {
        /// File.
        pub ino: InodeId,
        /// Byte within the file.
        pub offset: u64,
        /// Bytes wanted.
        pub len: u32,
    }
}

wire_struct! {
    /// Answer to [`ReadInline`].
    pub struct InlineRead {
        /// Attributes as they are now. Unless they say inline, nothing was read: the file lies in chunks.
        pub attr: Attr,
        /// CRC of the bulk part.
        pub crc: u32,
    }
}

wire_struct! {
    /// As [`super::inode::Open`] for reading, with the content of a small file in the answer's bulk part.
    pub struct OpenRead {
        /// Which.
        pub ino: InodeId,
        /// Version of the content that the client has already: that one is not sent.
        pub known_version: Option<u64>,
    }
}

wire_struct! {
    /// Answer to [`OpenRead`].
    pub struct Opened {
        /// Attributes, sizes settled.
        pub attr: Attr,
        /// CRC of the bulk part, which is the whole file; absent when no content is sent.
        pub crc: Option<u32>,
    }
}

wire_struct! {
    /// The client is about to write beyond what lies with an inode: from now on the file lies in chunks. Repeating it is harmless.
    pub struct Spill {
        /// Which.
        pub ino: InodeId,
    }
}

wire_struct! {
    /// Make a hole in a small file, as far as the file goes: its size stays. Repeating it before its answer came is harmless.
    pub struct PunchInline {
        /// Which.
        pub ino: InodeId,
        /// First byte of the hole.
        pub offset: u64,
        /// Bytes.
        pub len: u64,
        /// Time of the change, by the client's clock.
        pub mtime: TimeNs,
    }
}

request! {
    PunchInline => PunchInline -> InlineWritten;
    Put => Put -> PutAnswer;
    Get => Get -> GetOutcome;
    PutMany => PutMany -> PutManyAnswer;
    GetMany => GetMany -> Vec<GetOutcome>;
    WriteInline => WriteInline -> InlineWritten;
    ReadInline => ReadInline -> InlineRead;
    OpenRead => OpenRead -> Opened;
    Spill => Spill -> Attr;
    Append => Append -> Appended;
}
