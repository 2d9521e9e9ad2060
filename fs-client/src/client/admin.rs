//! What operators ask. Each question is asked once, with a time limit of its own: a dead server is an answer here.

use std::time::Duration;

use bytes::Bytes;
use fs_proto::msg::admin::ShutdownMode;
use fs_proto::msg::hot::HotCopied;
use fs_proto::msg::scrub::{Scrub, Scrubbed};
use fs_proto::msg::tier::{FlushAccount, FlushPage, Migrated};
use fs_proto::{Attr, InodeId, ServerId};

use super::Client;
use crate::error::Result;

impl Client {
    /// The server's state as JSON.
    pub fn server_status(&self, server: ServerId) -> Result<String> {
        self.run(async |core| core.server_status(server).await)
    }

    /// Whether the server answers, within five seconds.
    pub fn ping(&self, server: ServerId) -> Result<()> {
        self.run(async |core| core.ping(server).await)
    }

    /// Whether a file of this size, which many read, lies whole on this node, as a file of the node's own; asks the one server through which all requests go, for
    /// which it is as it is now. A server that is not on this node has none.
    pub fn whole_copy(&self, ino: InodeId, size: u64) -> Result<HotCopied> {
        self.run(async |core| core.whole_copy(ino, size).await)
    }

    /// Ends a server.
    pub fn shutdown(&self, server: ServerId, mode: ShutdownMode) -> Result<()> {
        self.run(async |core| core.shutdown(server, mode).await)
    }

    /// Verifies a part of what a server holds; see [`Scrub`].
    pub fn scrub(&self, server: ServerId, step: &Scrub) -> Result<Scrubbed> {
        self.run(async |core| core.scrub(server, step).await)
    }

    /// What is not yet in the shared tier, for every server.
    pub fn flush_status(&self) -> Result<Vec<(ServerId, Result<FlushAccount>)>> {
        self.run(async |core| Ok(core.flush_status().await))
    }

    /// Waits until no server has anything to flush, or for `longest`: then it is time to look again at [`Client::flush_status`].
    pub fn flush_wait(&self, longest: Duration) -> Result<()> {
        self.run(async |core| {
            core.flush_wait(longest).await;
            Ok(())
        })
    }

    /// A page of the names that a server has to flush yet; `after` is the last page's `next`, empty for the first.
    pub fn flush_list(&self, server: ServerId, after: Bytes) -> Result<FlushPage> {
        self.run(async |core| core.flush_list(server, after).await)
    }

    /// Makes the servers flush this inode under all its names, whatever the policy that holds for it. Publishes first what this process
    /// wrote.
    pub fn flush_inode(&self, ino: InodeId) -> Result<()> {
        self.run(async |core| core.flush_inode(ino).await)
    }

    /// With `ask`, has the server that owns a name flush it soon, whatever its policy; with `open` also if somebody has it open for writing, as it is then. An
    /// empty name stands for the attributes of the directory itself. Answers why that was not done since somebody asked (empty: its turn has not come); None if
    /// it was, or nobody asked. Publishes first what this process wrote, if it asks.
    pub fn flush_name(&self, parent: InodeId, name: &[u8], ask: bool, open: bool) -> Result<Option<String>> {
        self.run(async |core| core.flush_name(parent, name, ask, open).await)
    }

    /// What the directory at `path` has, on every server, moves to the shared tier from now on. Nothing is changed if a server refuses it.
    pub fn attach_old(&self, path: Bytes) -> Result<()> {
        self.run(async |core| core.attach_old(path).await)
    }

    /// All has moved from there: it is forgotten. Busy while something is left.
    pub fn detach_old(&self) -> Result<()> {
        self.run(async |core| core.detach_old().await)
    }

    /// What moves from there, for every server.
    pub fn migrate_status(&self) -> Result<Vec<(ServerId, Result<Migrated>)>> {
        self.run(async |core| Ok(core.migrate_status().await))
    }

    /// Has all of a file at hand that is in the shared tier: whoever holds chunks of it fetches them. `done` hears of bytes that are there.
    pub fn stage(&self, attr: &Attr, done: impl FnMut(u64)) -> Result<()> {
        self.run(async |core| core.stage(attr, done).await)
    }

    /// Makes every server flush without the usual delay, with `everything` also files that are open for writing. Publishes
    /// first what this process wrote.
    pub fn flush_now(&self, everything: bool) -> Result<()> {
        self.run(async |core| core.flush_now(everything).await)
    }
}
