//! Operations by inode number, each on behalf of a caller. Names are never answered from a cache: a kernel has one above.

use bytes::Bytes;
use fs_proto::msg::Caller;
use fs_proto::msg::inode::{Setattr, Space};
use fs_proto::msg::name::{Create, DirPage};
use fs_proto::{Attr, InodeId};

use super::Client;
use crate::config::{Bring, OpenFlags};
use crate::error::Result;
use crate::file::File;

impl Client {
    /// Attributes of what `name` stands for in directory `parent`. One message, two if its inode lives elsewhere.
    pub fn lookup(&self, who: &Caller, parent: InodeId, name: &[u8]) -> Result<Attr> {
        self.run(async |core| core.lookup(who, parent, name).await)
    }

    /// Attributes of an inode, what this process wrote and did not publish included.
    pub fn getattr(&self, who: &Caller, ino: InodeId) -> Result<Attr> {
        self.run(async |core| core.getattr(who, ino).await)
    }

    /// Makes a file at least `size` bytes long; never shorter, whatever others write meanwhile.
    pub fn extend(&self, who: &Caller, ino: InodeId, size: u64) -> Result<Attr> {
        self.run(async |core| core.extend(who, ino, size).await)
    }

    /// Makes the record of an inode durable, a directory's entries included as far as they are with its home.
    pub fn sync_inode(&self, who: &Caller, ino: InodeId) -> Result<()> {
        self.run(async |core| core.sync_inode(who, ino).await)
    }

    /// Changes attributes; answers them as they are now.
    pub fn setattr(&self, who: &Caller, change: Setattr) -> Result<Attr> {
        self.run(async |core| core.setattr(who, change).await)
    }

    /// Makes a file, symbolic link, pipe, socket or device node (`what.open` is ignored). Answers the attributes of what is
    /// there now, and whether it is new.
    pub fn create(&self, who: &Caller, what: Create) -> Result<(Attr, bool)> {
        self.run(async |core| core.create(who, what).await)
    }

    /// Makes a regular file if need be, and opens it; answers whether it is new. One message for a new file.
    pub fn create_open(
        &self,
        who: &Caller,
        parent: InodeId,
        name: &[u8],
        mode: u32,
        flags: OpenFlags,
        exclusive: bool,
    ) -> Result<(File, bool)> {
        let (handle, fresh) =
            self.run(async |core| core.create_open(who, parent, name, mode, flags, exclusive).await)?;
        Ok((File::new(self.clone(), handle), fresh))
    }

    /// Makes a regular file without a name (O_TMPFILE), and opens it. It ends with its last closing, unless [`Client::link`] names it before.
    pub fn create_nameless(
        &self,
        who: &Caller,
        parent: InodeId,
        mode: u32,
        flags: OpenFlags,
    ) -> Result<File> {
        let handle = self.run(async |core| core.create_nameless(who, parent, mode, flags).await)?;
        Ok(File::new(self.clone(), handle))
    }

    /// Makes a directory.
    pub fn mkdir(&self, who: &Caller, parent: InodeId, name: &[u8], mode: u32) -> Result<Attr> {
        self.run(async |core| core.mkdir(who, parent, name, mode).await)
    }

    /// Removes a name that is not a directory.
    pub fn unlink(&self, who: &Caller, parent: InodeId, name: &[u8]) -> Result<()> {
        self.run(async |core| core.unlink(who, parent, name).await)
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, who: &Caller, parent: InodeId, name: &[u8]) -> Result<()> {
        self.run(async |core| core.rmdir(who, parent, name).await)
    }

    /// Moves a name over whatever the new name stands for, unless `no_replace`; with `exchange` swaps the two.
    #[allow(clippy::too_many_arguments)] // As many as renameat2(2) has.
    pub fn rename(
        &self,
        who: &Caller,
        parent: InodeId,
        name: &[u8],
        new_parent: InodeId,
        new_name: &[u8],
        no_replace: bool,
        exchange: bool,
    ) -> Result<()> {
        self.run(async |core| {
            core.rename(who, (parent, name), (new_parent, new_name), no_replace, exchange).await
        })
    }

    /// Gives an inode a further name.
    pub fn link(&self, who: &Caller, ino: InodeId, new_parent: InodeId, new_name: &[u8]) -> Result<Attr> {
        self.run(async |core| core.link(who, ino, new_parent, new_name).await)
    }

    /// Target of a symbolic link.
    pub fn readlink(&self, who: &Caller, ino: InodeId) -> Result<Bytes> {
        self.run(async |core| core.readlink(who, ino).await)
    }

    /// Value of an extended attribute.
    pub fn getxattr(&self, who: &Caller, ino: InodeId, name: &[u8]) -> Result<Bytes> {
        self.run(async |core| core.getxattr(who, ino, name).await)
    }

    /// Sets an extended attribute; fails if it exists with `create`, and if it does not with `replace`.
    pub fn setxattr(
        &self,
        who: &Caller,
        ino: InodeId,
        name: &[u8],
        value: &[u8],
        create: bool,
        replace: bool,
    ) -> Result<()> {
        self.run(async |core| core.setxattr(who, ino, name, value, create, replace).await)
    }

    /// Names of all extended attributes.
    pub fn listxattr(&self, who: &Caller, ino: InodeId) -> Result<Vec<Bytes>> {
        self.run(async |core| core.listxattr(who, ino).await)
    }

    /// Removes an extended attribute.
    pub fn removexattr(&self, who: &Caller, ino: InodeId, name: &[u8]) -> Result<()> {
        self.run(async |core| core.removexattr(who, ino, name).await)
    }

    /// Entries of a directory after cookie `after` (0: from the beginning), about `limit` of them, by ascending cookie, without
    /// "." and "..". With `plus`, every entry has its attributes unless it vanished meanwhile.
    pub fn readdir(
        &self,
        who: &Caller,
        dir: InodeId,
        after: u64,
        limit: usize,
        plus: bool,
    ) -> Result<DirPage> {
        self.run(async |core| core.readdir(who, dir, after, limit, plus).await)
    }

    /// Space of all servers together; up to a second old.
    pub fn statfs(&self) -> Result<Space> {
        self.run(async |core| core.statfs().await)
    }

    /// [`Client::put`] by directory and name; with `exclusive` fails if the name exists. A symbolic link is not followed (`ELOOP`).
    pub fn put_at(
        &self,
        who: &Caller,
        parent: InodeId,
        name: &[u8],
        data: &[u8],
        mode: u32,
        exclusive: bool,
    ) -> Result<Attr> {
        self.run(async |core| core.put_at(who, parent, name, data, mode, exclusive).await)
    }

    /// [`Client::get`] by directory and name. A symbolic link is not followed (`ELOOP`).
    pub fn get_at(&self, who: &Caller, parent: InodeId, name: &[u8]) -> Result<Bytes> {
        self.run(async |core| core.get_at(who, parent, name).await)
    }

    /// Puts many files of a directory, (name, content) each: small ones in one message for up to 128 of a server. Each has its own
    /// result, in the order given; of files with the same name the last stays.
    pub fn put_many(
        &self,
        who: &Caller,
        parent: InodeId,
        files: &[(&[u8], &[u8])],
        mode: u32,
    ) -> Result<Vec<Result<Attr>>> {
        self.run(async |core| Ok(core.put_many(who, parent, files, mode).await))
    }

    /// Gets many files of a directory: small ones in one message for up to 128 of a server. Each has its own result, in the order
    /// given.
    pub fn get_many(&self, who: &Caller, parent: InodeId, names: &[&[u8]]) -> Result<Vec<Result<Bytes>>> {
        self.run(async |core| Ok(core.get_many(who, parent, names).await))
    }

    /// As [`Client::open`], with a say in whether a small file's content comes along.
    pub fn open_bringing(&self, who: &Caller, ino: InodeId, flags: OpenFlags, bring: Bring) -> Result<File> {
        let handle = self.run(async |core| core.open_bringing(who, ino, flags, bring).await)?;
        Ok(File::new(self.clone(), handle))
    }

    /// Opens a regular file; answers attributes as they are now (close-to-open).
    pub fn open(&self, who: &Caller, ino: InodeId, flags: OpenFlags) -> Result<File> {
        let handle = self.run(async |core| core.open(who, ino, flags).await)?;
        Ok(File::new(self.clone(), handle))
    }
}
