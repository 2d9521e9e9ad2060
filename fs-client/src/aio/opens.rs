//! Opening, publishing and closing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fs_net::NetCounters;
use fs_proto::checksum::crc;
use fs_proto::msg::Caller;
use fs_proto::msg::chunk::SyncChunks;
use fs_proto::msg::inode::{Open, OpenInode as OpenRecord, Publish, Release, Renew, Setattr};
use fs_proto::msg::name::{Create, OpenMode};
use fs_proto::msg::small::{OpenRead, Opened};
use fs_proto::placement::name_hash;
use fs_proto::{Attr, FileKind, InodeId, ServerId, Status};

use super::call::Patience;
use super::inodes::FAN_OUT;
use super::looking::{Look, is_gone, looking};
use super::{Core, Handle};
use crate::config::{Bring, OpenFlags};
use crate::error::{Error, Result};
use crate::housekeeper::PATIENCE;
use crate::open_inode::{Left, OpenInode};
use crate::router::Target;
use crate::window;

/// Inodes in one `Release`.
const RELEASE_MAX: usize = 4096;

impl Core {
    fn open_mode(&self, flags: OpenFlags) -> OpenMode {
        if !flags.writes() {
            return OpenMode::Read {};
        }
        let via = self.shared.view().via();
        if flags.read { OpenMode::ReadWrite { via } } else { OpenMode::Write { via } }
    }

    /// See [`crate::Client::open`].
    pub async fn open(&self, who: &Caller, ino: InodeId, flags: OpenFlags) -> Result<Handle> {
        self.open_bringing(who, ino, flags, Bring::Content).await
    }

    /// See [`crate::Client::open_bringing`].
    pub async fn open_bringing(
        &self,
        who: &Caller,
        ino: InodeId,
        flags: OpenFlags,
        bring: Bring,
    ) -> Result<Handle> {
        let (inode, announce) = self.join(ino, flags).await?;
        let handle = Handle::new(inode, who, flags);
        // That the file is open here already does not say that this caller may open it.
        let asks = announce || !self.shared.config.checked;
        let opened = async {
            if asks {
                self.announce(who, &handle, bring).await?;
            }
            self.cut(&handle).await
        };
        let opened = opened.await;
        self.keep_or_close(handle, opened).await
    }

    /// Opens what a name stands for. The home is asked in any case: where the name is gone, so may be the file, and what is written to it would be lost.
    pub(super) async fn open_named(&self, who: &Caller, ino: InodeId, flags: OpenFlags) -> Result<Handle> {
        let (inode, _) = self.join(ino, flags).await?;
        let handle = Handle::new(inode, who, flags);
        let opened = async {
            let attr = self.announce(who, &handle, Bring::Content).await?;
            check_named(&attr)?;
            self.cut(&handle).await
        };
        let opened = opened.await;
        self.keep_or_close(handle, opened).await
    }

    async fn join(&self, ino: InodeId, flags: OpenFlags) -> Result<(Arc<OpenInode>, bool)> {
        let joined = self.shared.opens.join(ino, flags.writes()).await?;
        if joined.first {
            self.shared.wake_housekeeper(); // It sleeps while nothing is open.
        }
        Ok((joined.inode, joined.announce))
    }

    pub(super) async fn keep_or_close(&self, handle: Handle, opened: Result<()>) -> Result<Handle> {
        let Err(e) = opened else { return Ok(handle) };
        if let Err(closing) = self.close(handle).await {
            // Only what another handle left unpublished can fail here; its own closing has said so already.
            tracing::debug!(error = %closing, "closing after a failed opening failed, too");
        }
        Err(e)
    }

    /// Tells the home, which answers what is there now.
    async fn announce(&self, who: &Caller, handle: &Handle, bring: Bring) -> Result<Attr> {
        if !handle.flags.writes() && bring != Bring::Nothing {
            return self.announce_reading(who, handle, bring).await;
        }
        let (ino, mode) = (handle.ino(), self.open_mode(handle.flags));
        let attr = self.ask(who, Target::home(ino), &Open { ino, mode }).await?;
        self.announced(who, handle, &attr).await?;
        Ok(attr)
    }

    async fn cut(&self, handle: &Handle) -> Result<()> {
        if handle.flags.truncate && handle.flags.writes() { self.set_len(handle, 0).await } else { Ok(()) }
    }

    async fn announced(&self, who: &Caller, handle: &Handle, attr: &Attr) -> Result<()> {
        check_regular(attr.kind)?;
        handle.inode.announced(handle.flags.writes(), attr, false);
        if self.shared.opens.doubted(attr).is_some() {
            self.settle(who, &handle.inode).await?;
        }
        self.shared.cache.put_attr(&handle.known_attr());
        Ok(())
    }

    /// Takes a small file's content along.
    async fn announce_reading(&self, who: &Caller, handle: &Handle, bring: Bring) -> Result<Attr> {
        let known_version = if let Bring::Unless(version) = bring { Some(version) } else { None };
        let request = OpenRead { ino: handle.ino(), known_version };
        let answer =
            self.exchange(who, Target::home(request.ino), &request, Bytes::new(), self.patience()).await?;
        let Opened { attr, crc: sum } = answer.body;
        self.announced(who, handle, &attr).await?;
        // What was damaged on the way is asked for again by the first read.
        if sum == Some(crc(&answer.bulk))
            && let Some(content) = self.shared.opens.contents.copy(&answer.bulk, attr.version)
        {
            NetCounters::add(&self.shared.counters.copied_bytes, answer.bulk.len() as u64);
            handle.inode.keep(content);
        }
        Ok(attr)
    }

    /// See [`crate::Client::create_open`].
    pub async fn create_open(
        &self,
        who: &Caller,
        parent: InodeId,
        name: &[u8],
        mode: u32,
        flags: OpenFlags,
        exclusive: bool,
    ) -> Result<(Handle, bool)> {
        let what = self.new_file(parent, Bytes::copy_from_slice(name), mode, exclusive, flags);
        self.make_open(who, &what, flags).await
    }

    /// Makes a file, or finds what is there, and has it open.
    pub(super) async fn make_open(
        &self,
        who: &Caller,
        what: &Create,
        flags: OpenFlags,
    ) -> Result<(Handle, bool)> {
        looking(async || self.create_or_look(who, what, flags).await).await
    }

    /// A request for a regular file that is open from its birth.
    pub(super) fn new_file(
        &self,
        parent: InodeId,
        name: Bytes,
        mode: u32,
        exclusive: bool,
        flags: OpenFlags,
    ) -> Create {
        Create {
            parent,
            name,
            kind: FileKind::File,
            mode,
            rdev: 0,
            target: Bytes::new(),
            exclusive,
            layout: None,
            open: Some(self.open_mode(flags)),
        }
    }

    /// See [`crate::Client::create_nameless`].
    pub async fn create_nameless(
        &self,
        who: &Caller,
        parent: InodeId,
        mode: u32,
        flags: OpenFlags,
    ) -> Result<Handle> {
        let what = self.new_file(parent, Bytes::new(), mode, true, flags);
        let created = self.ask(who, Target::Name { parent, hash: name_hash(parent, b"") }, &what).await?;
        let attr = self.attr_or_ask(who, created.ino, created.attr).await?;
        self.counted_as_open(who, &attr, true, flags).await
    }

    /// The home counts a file as open now. Whatever comes, that is given back by closing.
    async fn counted_as_open(
        &self,
        who: &Caller,
        attr: &Attr,
        fresh: bool,
        flags: OpenFlags,
    ) -> Result<Handle> {
        let (inode, _) = self.join(attr.ino, flags).await?;
        inode.announced(flags.writes(), attr, fresh);
        self.shared.cache.put_attr(attr);
        Ok(Handle::new(inode, who, flags))
    }

    async fn create_or_look(
        &self,
        who: &Caller,
        what: &Create,
        flags: OpenFlags,
    ) -> Result<Look<(Handle, bool)>> {
        let before = self.shared.opens.givings_back();
        let created = self.send_create(who, what).await?;
        let regular = check_regular(created.kind);
        let Some(attr) = created.attr else {
            // Its inode lives elsewhere, so nobody counts it as open yet.
            regular?;
            return match self.open_named(who, created.ino, flags).await {
                Err(e) if is_gone(&e) => Ok(Look::Gone(e)),
                opened => Ok(Look::At((opened?, false))),
            };
        };
        let handle = self.counted_as_open(who, &attr, created.fresh, flags).await?;
        let opened = match regular {
            Ok(()) if created.fresh => Ok(()),
            // It was there, and its home has opened it; unless what was given back meanwhile was this file, and the home heard of that later.
            Ok(()) if self.shared.opens.given_back_since(before) => {
                match self.announce(who, &handle, Bring::Nothing).await {
                    Ok(attr) => self.take_over(&handle, &attr).await,
                    Err(e) => Err(e),
                }
            }
            Ok(()) => self.take_over(&handle, &attr).await,
            Err(e) => Err(e),
        };
        match self.keep_or_close(handle, opened).await {
            Err(e) if is_gone(&e) => Ok(Look::Gone(e)),
            opened => Ok(Look::At((opened?, created.fresh))),
        }
    }

    async fn take_over(&self, handle: &Handle, attr: &Attr) -> Result<()> {
        check_named(attr)?;
        if self.shared.opens.doubted(attr).is_some() {
            self.settle(&handle.who, &handle.inode).await?;
        }
        self.cut(handle).await
    }

    /// See [`crate::File::attr`].
    pub async fn file_attr(&self, handle: &Handle) -> Result<Attr> {
        self.getattr(&handle.who, handle.ino()).await
    }

    /// See [`crate::File::set_len`].
    pub async fn set_len(&self, handle: &Handle, size: u64) -> Result<()> {
        if !handle.flags.writes() {
            return Err(Error::NotOpenFor("writing"));
        }
        let change = Setattr { size: Some(size), by_handle: true, ..Setattr::nothing(handle.ino()) };
        self.setattr(&handle.who, change).await.map(drop)
    }

    /// See [`crate::File::flush`].
    pub async fn flush(&self, handle: &Handle) -> Result<()> {
        if !handle.inode.pending().is_dirty() {
            return Ok(());
        }
        self.publish(&handle.inode, &handle.who, false, false, self.patience()).await
    }

    /// See [`crate::File::sync`].
    pub async fn sync(&self, handle: &Handle) -> Result<()> {
        let inode = &handle.inode;
        let tracked = inode.take_unsynced();
        let whole = tracked.is_none();
        let servers: Vec<ServerId> = match tracked {
            Some(servers) => servers.into_iter().collect(),
            None => self.holders(handle),
        };
        let ino = inode.ino;
        let asked = servers.iter().map(|&server| async move {
            self.ask(&handle.who, Target::Server(server), &SyncChunks { ino }).await
        });
        let mut synced = window::each(asked, FAN_OUT, drop).await;
        if synced.is_ok() {
            synced = self.publish(inode, &handle.who, true, false, self.patience()).await;
        }
        match &synced {
            Ok(()) if whole => inode.synced_wholly(),
            Ok(()) => {}
            Err(_) => inode.still_unsynced(servers),
        }
        synced
    }

    /// All servers that can hold data of the file.
    fn holders(&self, handle: &Handle) -> Vec<ServerId> {
        let attr = handle.known_attr();
        if attr.inline {
            return Vec::new(); // The home syncs it with the inode.
        }
        self.holders_of(&attr, 0..attr.size)
    }

    pub(super) async fn publish(
        &self,
        inode: &OpenInode,
        who: &Caller,
        sync: bool,
        close: bool,
        patience: Patience,
    ) -> Result<()> {
        let _settling = inode.settling.lock().await;
        let what = inode.pending();
        let (end, since, mtime) = (what.end, what.since, what.mtime);
        let request = Publish { ino: inode.ino, end, since, mtime, sync, close };
        let attr = self.exchange(who, Target::home(inode.ino), &request, Bytes::new(), patience).await?.body;
        inode.published(&what, &attr);
        let mut attr = attr;
        self.note_attr(&mut attr);
        Ok(())
    }

    /// Closes; says whether what was written is published.
    pub async fn close(&self, handle: Handle) -> Result<()> {
        self.close_within(handle, self.patience()).await
    }

    async fn close_within(&self, handle: Handle, patience: Patience) -> Result<()> {
        let inode = &handle.inode;
        if inode.is_last()
            && let Err(e) = self.unlock_file(&handle).await
        {
            // They go when the lease does, or with this process.
            tracing::warn!(ino = ?inode.ino, error = %e, "locks of a closed file could not be given back");
        }
        match self.shared.opens.leave(inode, handle.flags.writes()) {
            Left::Others(false) => Ok(()),
            Left::Others(true) => self.publish(inode, &handle.who, false, false, patience).await,
            Left::Dirty => {
                let closed = self.publish(inode, &handle.who, false, true, patience).await;
                self.shared.opens.gone(inode);
                closed
            }
            Left::Clean => {
                if self.shared.opens.has_batch() {
                    self.shared.wake_housekeeper();
                }
                Ok(())
            }
        }
    }

    // --- what the housekeeper does ---

    pub(crate) async fn close_deferred(&self, patience: Duration) {
        for handle in self.shared.opens.take_deferred() {
            let ino = handle.ino();
            if let Err(e) = self.close_within(handle, Patience::up_to(patience)).await {
                tracing::error!(?ino, error = %e, "closing a file failed: its size may not be published");
            }
        }
    }

    /// Gives back all inodes that are closed, one message per home and batch.
    pub(crate) async fn release_idle(&self, patience: Duration) {
        let view = self.shared.view();
        let mut homes: HashMap<ServerId, Vec<Arc<OpenInode>>> = HashMap::new();
        for inode in self.shared.opens.take_idle() {
            homes.entry(view.owner(Target::home(inode.ino))).or_default().push(inode);
        }
        let batches: Vec<(ServerId, &[Arc<OpenInode>])> = homes
            .iter()
            .flat_map(|(home, inodes)| inodes.chunks(RELEASE_MAX).map(|batch| (*home, batch)))
            .collect();
        let sent = batches.iter().map(|(home, batch)| async move {
            let request = Release { inos: batch.iter().map(|inode| inode.ino).collect() };
            let released = self.tell(*home, &request, patience).await;
            batch.iter().for_each(|inode| self.shared.opens.gone(inode));
            if let Err(e) = released {
                // Nothing is lost: the home forgets this client's openings when they are not renewed.
                tracing::debug!(error = %e, "closed files could not be given back");
            }
        });
        window::all(sent, FAN_OUT).await;
    }

    /// Publishes what was written `age` ago or earlier. What fails stays pending.
    pub(crate) async fn publish_overdue(&self, age: Duration, patience: Duration) {
        let overdue = self.shared.opens.overdue(age);
        let sent = overdue.iter().map(|inode| async move {
            let who = &self.caller;
            if let Err(e) = self.publish(inode, who, false, false, Patience::up_to(patience)).await {
                tracing::warn!(ino = ?inode.ino, error = %e, "the size of a file that is being written could not be published; it is tried again");
            }
        });
        window::all(sent, FAN_OUT).await;
    }

    /// Tells every home what is open here.
    pub(crate) async fn renew(&self, patience: Duration) {
        let view = self.shared.view();
        let mut homes: HashMap<ServerId, Vec<OpenRecord>> = HashMap::new();
        for record in self.shared.opens.records(view.via()) {
            homes.entry(view.owner(Target::home(record.ino))).or_default().push(record);
        }
        let sent = homes.into_iter().map(|(home, open)| async move {
            if let Err(e) = self.tell(home, &Renew { open }, patience).await {
                tracing::warn!(server = %home, error = %e, "open files could not be renewed; it is tried again");
            }
        });
        window::all(sent, FAN_OUT).await;
    }

    async fn tell<R: fs_proto::Request>(
        &self,
        server: ServerId,
        request: &R,
        patience: Duration,
    ) -> Result<()> {
        let patience = Patience::up_to(patience.min(PATIENCE));
        self.exchange(&self.caller, Target::Server(server), request, Bytes::new(), patience).await.map(drop)
    }
}

/// An inode may outlive its names, for those who have it open; by name nobody comes to it.
fn check_named(attr: &Attr) -> Result<()> {
    if attr.nlink > 0 { Ok(()) } else { Err(Error::status(Status::Stale, "the file was removed meanwhile")) }
}

/// Only regular files are opened here; directories are read by inode, and the rest is the kernel's.
pub(super) fn check_regular(kind: FileKind) -> Result<()> {
    match kind {
        FileKind::File => Ok(()),
        FileKind::Directory => Err(Error::status(Status::IsDirectory, "it is a directory")),
        FileKind::Symlink => Err(Error::status(Status::Loop, "it is a symbolic link")),
        _ => Err(Error::status(
            Status::NotSupported,
            "it is a device, pipe or socket, which only a mount can open",
        )),
    }
}
