//! Layouts, and where files lie.

use std::path::Path;

use fs_proto::msg::Caller;
use fs_proto::{Attr, InodeId, LayoutWish, ServerId};

use super::Client;
use crate::error::Result;

/// What a server holds of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Which.
    pub server: ServerId,
    /// Chunks with data.
    pub chunks: u64,
    /// Bytes of data in them.
    pub bytes: u64,
}

/// Where a file's bytes lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Located {
    /// Beside its inode, on this server.
    Inode(ServerId),
    /// In chunks: servers without any are left out, the rest ascends.
    Chunks(Vec<Held>),
}

impl Client {
    /// Changes the layout of a directory, for what is made in it from then on, or of a file that never had data in chunks; answers it as
    /// it is then.
    ///
    /// # Errors
    /// `ENOTEMPTY` if the file has, or had, data and another layout.
    pub fn set_layout(&self, who: &Caller, ino: InodeId, wish: LayoutWish) -> Result<Attr> {
        self.run(async |core| core.set_layout(who, ino, wish).await)
    }

    /// Where a file's bytes lie: all servers that may hold some are asked.
    ///
    /// # Errors
    /// `EINVAL` if it is not a regular file.
    pub fn located(&self, who: &Caller, ino: InodeId) -> Result<Located> {
        self.run(async |core| core.located(who, ino).await)
    }

    /// [`Client::set_layout`] by path, on behalf of this process's user.
    ///
    /// # Errors
    /// As there.
    pub fn set_layout_path(&self, path: impl AsRef<Path>, wish: LayoutWish) -> Result<Attr> {
        self.at(path.as_ref(), async |core, path| {
            let ino = core.walk(path, true).await?;
            core.set_layout(core.caller(), ino, wish).await
        })
    }

    /// [`Client::located`] by path, on behalf of this process's user.
    ///
    /// # Errors
    /// As there.
    pub fn located_path(&self, path: impl AsRef<Path>) -> Result<Located> {
        self.at(path.as_ref(), async |core, path| {
            let ino = core.walk(path, true).await?;
            core.located(core.caller(), ino).await
        })
    }
}
