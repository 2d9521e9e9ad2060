//! Layouts of files and directories, and where a file's chunks lie.

use fs_proto::msg::Caller;
use fs_proto::msg::chunk::ChunkMap;
use fs_proto::msg::inode::SetLayout;
use fs_proto::{Attr, ChunkIndex, FileKind, InodeId, LayoutWish, ServerId, Status};

use super::Core;
use super::inodes::FAN_OUT;
use crate::client::{Held, Located};
use crate::error::{Error, Result};
use crate::router::Target;
use crate::window;

/// Chunks of a server that are asked for at once.
const PAGE: u32 = 4096;

impl Core {
    /// See [`crate::Client::set_layout`].
    pub async fn set_layout(&self, who: &Caller, ino: InodeId, wish: LayoutWish) -> Result<Attr> {
        self.publish_written(who, ino).await?;
        self.shared.cache.drop_attr(ino);
        let mut attr = self.ask(who, Target::home(ino), &SetLayout { ino, wish }).await?;
        self.note_layout(&attr);
        self.note_attr(&mut attr);
        Ok(attr)
    }

    /// The layout was changed, and the home answered `attr`: whoever has the file open goes by it.
    pub(super) fn note_layout(&self, attr: &Attr) {
        if let Some(inode) = self.shared.opens.get(attr.ino) {
            inode.set_layout(attr);
        }
    }

    /// See [`crate::Client::located`].
    pub async fn located(&self, who: &Caller, ino: InodeId) -> Result<Located> {
        let attr = self.getattr(who, ino).await?;
        if attr.kind != FileKind::File {
            return Err(Error::status(Status::Invalid, "only regular files have chunks"));
        }
        if attr.inline {
            return Ok(Located::Inode(self.shared.view().owner(Target::home(ino))));
        }
        let holders = self.holders_of(&attr, 0..u64::MAX);
        let asked = holders.iter().map(|server| self.held(who, ino, *server));
        let mut held = Vec::with_capacity(holders.len());
        window::each(asked, FAN_OUT, |one: Held| held.push(one)).await?;
        held.retain(|one| one.chunks > 0);
        held.sort_unstable_by_key(|one| one.server);
        Ok(Located::Chunks(held))
    }

    async fn held(&self, who: &Caller, ino: InodeId, server: ServerId) -> Result<Held> {
        let mut held = Held { server, chunks: 0, bytes: 0 };
        let mut from = ChunkIndex(0);
        loop {
            let page = self.ask(who, Target::Server(server), &ChunkMap { ino, from, limit: PAGE }).await?;
            held.chunks += page.chunks.len() as u64;
            let data = page.chunks.iter().flat_map(|(_, ranges)| ranges);
            held.bytes += data.map(|(start, end)| u64::from(end.saturating_sub(*start))).sum::<u64>();
            match page.chunks.last() {
                Some((last, _)) if !page.end && *last >= from => from = ChunkIndex(last.0 + 1),
                _ => return Ok(held),
            }
        }
    }
}
