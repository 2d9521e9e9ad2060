//! Operations on inodes.

use std::collections::BTreeSet;

use bytes::Bytes;
use fs_proto::msg::Caller;
use fs_proto::msg::inode::{
    Getattr, Getxattr, Listxattr, Publish, Readlink, Removexattr, Setattr, Setxattr, Space, Statfs,
};
use fs_proto::{Attr, InodeId, LAYOUT_ATTRIBUTE, Request};

use super::Core;
use crate::error::Result;
use crate::open_inode::OpenInode;
use crate::router::Target;
use crate::window;

/// The attribute that falls when a file is written.
const CAPABILITY: &[u8] = b"security.capability";

/// Servers asked at once.
pub(super) const FAN_OUT: usize = 64;

impl Core {
    /// See [`crate::Client::getattr`].
    pub async fn getattr(&self, who: &Caller, ino: InodeId) -> Result<Attr> {
        let open = self.shared.opens.get(ino);
        let stamp = open.as_ref().map(|inode| inode.stamp());
        let mut attr = self.ask(who, Target::home(ino), &Getattr { ino }).await?;
        if let Some(inode) = self.shared.opens.doubted(&attr) {
            return self.settle(who, &inode).await;
        }
        if let (Some(inode), Some(stamp)) = (open, stamp) {
            attr = inode.learn(attr, stamp);
        }
        self.note_attr(&mut attr);
        Ok(attr)
    }

    /// Attributes after the home was told what was written here.
    pub(super) async fn settle(&self, who: &Caller, inode: &OpenInode) -> Result<Attr> {
        self.publish(inode, who, false, false, self.patience()).await?;
        Ok(inode.known_attr())
    }

    /// See [`crate::Client::extend`].
    pub async fn extend(&self, who: &Caller, ino: InodeId, size: u64) -> Result<Attr> {
        loop {
            let open = self.shared.opens.get(ino);
            let stamp = open.as_ref().map(|inode| inode.stamp());
            let since = self.getattr(who, ino).await?.version;
            let request =
                Publish { ino, end: size, since, mtime: Some(super::now()), sync: false, close: false };
            let mut attr = self.ask(who, Target::home(ino), &request).await?;
            if let (Some(inode), Some(stamp)) = (open, stamp) {
                attr = inode.learn(attr, stamp);
            }
            self.note_attr(&mut attr);
            // Smaller means that somebody cut the file between the two messages: the answer is as of before.
            if attr.size >= size {
                return Ok(attr);
            }
        }
    }

    /// See [`crate::Client::sync_inode`].
    pub async fn sync_inode(&self, who: &Caller, ino: InodeId) -> Result<()> {
        let request = Publish { ino, end: 0, since: 0, mtime: None, sync: true, close: false };
        self.ask(who, Target::home(ino), &request).await.map(drop)
    }

    /// See [`crate::Client::setattr`].
    pub async fn setattr(&self, who: &Caller, change: Setattr) -> Result<Attr> {
        let open = self.shared.opens.get(change.ino);
        if let Some(inode) = open.as_ref().filter(|inode| inode.pending().is_dirty())
            && (change.mtime.is_some() || change.mode.is_some())
        {
            // Published after the change, what was written before it would undo it: the time, and by others than root the
            // set-id bits.
            self.publish(inode, who, false, false, self.patience()).await?;
        }
        let mut attr = match open {
            Some(inode) if change.size.is_some() => {
                // A publishing under way would bring the old size back.
                let _settling = inode.settling.lock().await;
                let end = inode.cut();
                let attr = self.ask(who, Target::home(change.ino), &change).await;
                match &attr {
                    Ok(attr) => inode.settled(attr),
                    Err(_) => inode.uncut(end),
                }
                attr?
            }
            _ => self.ask(who, Target::home(change.ino), &change).await?,
        };
        self.note_attr(&mut attr);
        Ok(attr)
    }

    /// See [`crate::Client::readlink`].
    pub async fn readlink(&self, who: &Caller, ino: InodeId) -> Result<Bytes> {
        self.ask(who, Target::home(ino), &Readlink { ino }).await
    }

    /// See [`crate::Client::getxattr`].
    pub async fn getxattr(&self, who: &Caller, ino: InodeId, name: &[u8]) -> Result<Bytes> {
        let name = Bytes::copy_from_slice(name);
        self.ask(who, Target::home(ino), &Getxattr { ino, name }).await
    }

    /// See [`crate::Client::setxattr`].
    pub async fn setxattr(
        &self,
        who: &Caller,
        ino: InodeId,
        name: &[u8],
        value: &[u8],
        create: bool,
        replace: bool,
    ) -> Result<()> {
        let (owned, value) = (Bytes::copy_from_slice(name), Bytes::copy_from_slice(value));
        let request = Setxattr { ino, name: owned, value, create, replace };
        self.change_xattr(who, ino, name, &request).await
    }

    async fn change_xattr(
        &self,
        who: &Caller,
        ino: InodeId,
        name: &[u8],
        request: &impl Request<Reply = ()>,
    ) -> Result<()> {
        let is_layout = name == LAYOUT_ATTRIBUTE;
        if is_layout || name == CAPABILITY {
            // Published after it, what was written before it would take a capability away again, and lie in another layout.
            self.publish_written(who, ino).await?;
        }
        self.shared.cache.drop_attr(ino); // Its change time, and maybe its layout.
        self.ask(who, Target::home(ino), request).await?;
        if is_layout { self.hear_layout(who, ino).await } else { Ok(()) }
    }

    /// See [`crate::Client::listxattr`].
    pub async fn listxattr(&self, who: &Caller, ino: InodeId) -> Result<Vec<Bytes>> {
        self.ask(who, Target::home(ino), &Listxattr { ino }).await
    }

    /// See [`crate::Client::removexattr`].
    pub async fn removexattr(&self, who: &Caller, ino: InodeId, name: &[u8]) -> Result<()> {
        let request = Removexattr { ino, name: Bytes::copy_from_slice(name) };
        self.change_xattr(who, ino, name, &request).await
    }

    /// Tells the home of an inode what was written here and is not published yet.
    pub(super) async fn publish_written(&self, who: &Caller, ino: InodeId) -> Result<()> {
        match self.shared.opens.get(ino).filter(|inode| inode.pending().is_dirty()) {
            Some(inode) => self.publish(&inode, who, false, false, self.patience()).await,
            None => Ok(()),
        }
    }

    /// The layout was changed: what is open here has to know.
    async fn hear_layout(&self, who: &Caller, ino: InodeId) -> Result<()> {
        if self.shared.opens.get(ino).is_some() {
            let attr = self.ask(who, Target::home(ino), &Getattr { ino }).await?;
            self.note_layout(&attr);
        }
        Ok(())
    }

    /// See [`crate::Client::statfs`].
    pub async fn statfs(&self) -> Result<Space> {
        if let Some(space) = self.shared.space() {
            return Ok(space);
        }
        let mut sum = Space { total_bytes: 0, free_bytes: 0, inodes: 0, device: 0 };
        let mut devices = BTreeSet::new();
        let view = self.shared.view();
        let asked = view.stores().iter().map(|&server| async move {
            self.ask(&self.caller, Target::Server(server), &Statfs { server }).await
        });
        window::each(asked, FAN_OUT, |space: Space| {
            if devices.insert(space.device) {
                sum.total_bytes += space.total_bytes;
                sum.free_bytes += space.free_bytes;
            }
            sum.inodes += space.inodes;
        })
        .await?;
        self.shared.set_space(&sum);
        Ok(sum)
    }
}
