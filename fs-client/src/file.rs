//! An open file.

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use fs_proto::lock::{HeldLock, LockFamily, LockRange};
use fs_proto::{Attr, InodeId};

use crate::aio::{Core, Handle};
use crate::client::Client;
use crate::config::OpenFlags;
use crate::error::Result;
use crate::lane;
use crate::locks::{LockWish, Locked};

/// An open file. Clones share the opening; the last one that goes closes it.
///
/// What `write_at` returned for is seen by every later read, on any node. Sizes and times of the file are published at
/// [`File::flush`], [`File::sync`] and closing, every few seconds, and when somebody asks for them.
#[derive(Clone)]
pub struct File {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    /// Taken by closing.
    handle: Option<Handle>,
}

impl File {
    pub(crate) fn new(client: Client, handle: Handle) -> File {
        File { inner: Arc::new(Inner { client, handle: Some(handle) }) }
    }

    fn parts(&self) -> (&Client, &Handle) {
        let handle =
            self.inner.handle.as_ref().expect("taken only by the last clone's closing, which consumes it");
        (&self.inner.client, handle)
    }

    /// Its inode.
    pub fn ino(&self) -> InodeId {
        self.parts().1.ino()
    }

    /// What it was opened for.
    pub fn flags(&self) -> OpenFlags {
        self.parts().1.flags()
    }

    /// Attributes when it was opened here, or as last heard since, what was written here included. No message.
    pub fn known_attr(&self) -> Attr {
        self.parts().1.known_attr()
    }

    /// Attributes as they are now, what was written here included.
    pub fn attr(&self) -> Result<Attr> {
        let (client, handle) = self.parts();
        client.run(async |core| core.file_attr(handle).await)
    }

    /// Reads at `offset`; answers how many bytes, fewer than asked for only at the end of the file.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let (client, handle) = self.parts();
        client.run(async |core| core.read_at(handle, buf, offset).await)
    }

    /// Reads up to `len` bytes at `offset`, without a copy when they lie in one chunk.
    pub fn read_bytes_at(&self, len: usize, offset: u64) -> Result<Bytes> {
        let (client, handle) = self.parts();
        client.run(async |core| core.read_bytes_at(handle, len, offset).await)
    }

    /// Writes all of `data` at `offset`. After an error parts of it may have been written.
    pub fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        let (client, handle) = self.parts();
        client.run(async |core| core.write_at(handle, data, offset).await)
    }

    /// Writes at the end, wherever that is by then, and answers where that was. Of all appends, from whichever node, each of up to 16 MiB
    /// lies whole behind the one before; it is published with its answer.
    pub fn append(&self, data: &[u8]) -> Result<u64> {
        let (client, handle) = self.parts();
        client.run(async |core| core.append(handle, data).await)
    }

    /// Locks bytes if nobody is in the way. Everything that the holders before wrote is seen from then on. One message.
    ///
    /// # Errors
    /// [`crate::Error::Lock`] if the server has no room.
    pub fn try_lock(&self, wish: &LockWish) -> Result<Locked> {
        let (client, handle) = self.parts();
        client.run(async |core| core.try_lock(handle, wish).await)
    }

    /// As [`File::try_lock`], waiting for its turn.
    ///
    /// # Errors
    /// Also if waiting would never end.
    pub fn lock(&self, wish: &LockWish) -> Result<Locked> {
        let (client, handle) = self.parts();
        client.run(async |core| core.lock(handle, wish, std::future::pending()).await)
    }

    /// As [`File::lock`], on the caller's event loop, given up when `give_up` ends.
    pub async fn lock_on(
        &self,
        core: &Core,
        wish: &LockWish,
        give_up: impl Future<Output = ()>,
    ) -> Result<Locked> {
        core.lock(self.parts().1, wish, give_up).await
    }

    /// Unlocks bytes, after what was written is published. No message if the owner has none.
    pub fn unlock(&self, family: LockFamily, owner: u64, range: LockRange) -> Result<()> {
        let (client, handle) = self.parts();
        client.run(async |core| core.unlock(handle, family, owner, range).await)
    }

    /// What is in the way of a wish, and whether it is this client's.
    pub fn test_lock(&self, wish: &LockWish) -> Result<Option<(HeldLock, bool)>> {
        let (client, handle) = self.parts();
        let held = async |core: &Core| {
            let held = core.test_lock(handle, wish).await?;
            Ok(held.map(|held| (held, core.is_own(&held))))
        };
        client.run(held)
    }

    /// Tells that whoever keeps a copy of the content has dropped what was older than `version`: see [`Locked::Yes`].
    pub fn set_copied(&self, version: u64) {
        self.parts().1.inode.set_copied(version);
    }

    /// Publishes size and time of what was written: what close(2) does for each descriptor.
    pub fn flush(&self) -> Result<()> {
        let (client, handle) = self.parts();
        client.run(async |core| core.flush(handle).await)
    }

    /// Makes everything written durable, data and attributes, and publishes it.
    pub fn sync(&self) -> Result<()> {
        let (client, handle) = self.parts();
        client.run(async |core| core.sync(handle).await)
    }

    /// Cuts or extends to `size` bytes.
    pub fn set_len(&self, size: u64) -> Result<()> {
        let (client, handle) = self.parts();
        client.run(async |core| core.set_len(handle, size).await)
    }

    /// Makes a hole: the bytes of `range` read as zeros and take no space. The size stays, whatever the range. As with writes, the change's
    /// time is published at [`File::flush`], [`File::sync`] and closing.
    ///
    /// # Errors
    /// `EINVAL` if the range is empty, `EFBIG` if it ends beyond the largest file size; as with writes, an error may leave a part done.
    pub fn punch(&self, range: Range<u64>) -> Result<()> {
        let (client, handle) = self.parts();
        client.run(async |core| core.punch(handle, range).await)
    }

    /// [`File::punch`], and then, unless `keep_size`, makes the file at least as long as the range's end.
    pub fn zero_range(&self, range: Range<u64>, keep_size: bool) -> Result<()> {
        let (client, handle) = self.parts();
        client.run(async |core| core.zero_range(handle, range, keep_size).await)
    }

    /// Makes the file, unless `keep_size`, at least as long as the range's end; what is there stays. Nothing is set aside on the servers,
    /// whose space may go to others before it is written to.
    ///
    /// # Errors
    /// As [`File::punch`]; `ENOSPC` if the servers have less free space than the part beyond the present size needs.
    pub fn allocate(&self, range: Range<u64>, keep_size: bool) -> Result<()> {
        let (client, handle) = self.parts();
        client.run(async |core| core.allocate(handle, range, keep_size).await)
    }

    /// Copies `len` bytes from `from` to `start` of the file `to`, or fewer at this one's end; answers how many. The bytes go from server to
    /// server, and holes are copied as holes; small files, which lie with their inodes, pass this client. As with writes, size and time of `to`
    /// are published at [`File::flush`], [`File::sync`] and closing.
    ///
    /// # Errors
    /// `EINVAL` if both are one file and the ranges overlap, `EFBIG` if the copy would end beyond the largest file size; as with writes, an
    /// error may leave a part done.
    pub fn copy_range_to(&self, from: u64, to: &File, start: u64, len: u64) -> Result<u64> {
        let (client, handle) = self.parts();
        let (_, target) = to.parts();
        client.run(async |core| core.copy_range(handle, from, target, start, len).await)
    }

    /// The first byte of data at or after `offset`, what was written anywhere and not published included. `None`, which is lseek(2)'s
    /// `ENXIO`: there is none, or `offset` is not within the file. A small file that lies with its inode is all data.
    pub fn seek_data(&self, offset: u64) -> Result<Option<u64>> {
        let (client, handle) = self.parts();
        client.run(async |core| core.seek_data(handle, offset).await)
    }

    /// The first byte of a hole at or after `offset`; the end of the file is one. `None`, which is lseek(2)'s `ENXIO`: `offset` is not
    /// within the file.
    pub fn seek_hole(&self, offset: u64) -> Result<Option<u64>> {
        let (client, handle) = self.parts();
        client.run(async |core| core.seek_hole(handle, offset).await)
    }

    /// Closes, and says whether what was written is published. With clones left this only drops one.
    pub fn close(self) -> Result<()> {
        let Some(mut inner) = Arc::into_inner(self.inner) else { return Ok(()) };
        match inner.handle.take() {
            Some(handle) => inner.client.run(async |core| core.close(handle).await),
            None => Ok(()),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let Some(handle) = self.handle.take() else { return };
        let shared = self.client.shared();
        if !lane::can_block() {
            // The housekeeper publishes instead.
            shared.opens.defer_close(handle);
            shared.wake_housekeeper();
            return;
        }
        let ino = handle.ino();
        if let Err(e) = self.client.run(async |core| core.close(handle).await) {
            tracing::error!(?ino, error = %e, "closing a file failed: its size may not be published");
        }
    }
}
