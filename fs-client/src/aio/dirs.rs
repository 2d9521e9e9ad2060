//! Listing directories.

use std::collections::HashMap;

use fs_proto::msg::Caller;
use fs_proto::msg::inode::GetattrMany;
use fs_proto::msg::name::{DirEntry, DirPage, Readdir};
use fs_proto::{Attr, InodeId, ServerId, Status};

use super::Core;
use super::inodes::FAN_OUT;
use crate::dir_merge;
use crate::error::{Error, Result};
use crate::router::Target;
use crate::window;

/// Inodes in one `GetattrMany`, so that the answer fits into a message.
const GETATTR_MAX: usize = 8192;
/// More than an encoded attribute takes.
const ATTR_BYTES_MAX: usize = 160;
const _: () = assert!(GETATTR_MAX * ATTR_BYTES_MAX < fs_proto::META_MAX as usize);

/// Entries asked of one server at once, so that the answer fits into a message even with the longest names.
const PAGE_MAX: usize = 8192;
const _: () = assert!(PAGE_MAX * (ATTR_BYTES_MAX + fs_proto::NAME_MAX + 24) < fs_proto::META_MAX as usize);

impl Core {
    /// See [`crate::Client::readdir`].
    pub async fn readdir(
        &self,
        who: &Caller,
        dir: InodeId,
        after: u64,
        limit: usize,
        plus: bool,
    ) -> Result<DirPage> {
        let limit = limit.clamp(1, PAGE_MAX);
        let mut page = match self.readdir_narrow(who, dir, after, limit, plus).await? {
            Some(page) => page,
            None => self.readdir_wide(who, dir, after, limit, plus).await?,
        };
        if plus {
            self.complete(who, &mut page.entries).await?;
        }
        Ok(page)
    }

    /// The page of a narrow directory; `None` if it is wide.
    async fn readdir_narrow(
        &self,
        who: &Caller,
        dir: InodeId,
        after: u64,
        limit: usize,
        plus: bool,
    ) -> Result<Option<DirPage>> {
        if self.shared.is_wide(dir) {
            return Ok(None);
        }
        let request = Readdir { dir, after, limit: limit as u32, plus };
        match self.ask(who, Target::home(dir), &request).await {
            Ok(page) if !page.wide => return Ok(Some(page)),
            Err(e) if e.code() != Some(Status::WideDirectory) => return Err(e),
            _ => {}
        }
        self.shared.note_wide(dir);
        Ok(None)
    }

    /// The merged page of all servers' parts.
    async fn readdir_wide(
        &self,
        who: &Caller,
        dir: InodeId,
        after: u64,
        limit: usize,
        plus: bool,
    ) -> Result<DirPage> {
        let view = self.shared.view();
        let request = Readdir { dir, after, limit: dir_merge::share(limit, view.stores().len()), plus };
        let request = &request;
        let asked = view
            .stores()
            .iter()
            .map(|&server| async move { self.ask(who, Target::Server(server), request).await });
        let mut pages = Vec::with_capacity(view.stores().len());
        if let Err(e) = window::each(asked, FAN_OUT, |page| pages.push(page)).await {
            if e.code() == Some(Status::Stale) {
                self.shared.forget_wide(dir);
            }
            return Err(e);
        }
        dir_merge::merge(pages, limit).ok_or_else(|| Error::Protocol {
            server: view.owner(Target::home(dir)),
            what: "an empty page of a directory that is said to go on".to_owned(),
        })
    }

    /// Fetches the attributes that did not come along, with one message per server, and adds what was written here to all.
    async fn complete(&self, who: &Caller, entries: &mut [DirEntry]) -> Result<()> {
        let view = self.shared.view();
        let mut homes: HashMap<ServerId, Vec<InodeId>> = HashMap::new();
        for entry in entries.iter().filter(|entry| entry.attr.is_none()) {
            homes.entry(view.owner(Target::home(entry.ino))).or_default().push(entry.ino);
        }
        let batches: Vec<(ServerId, &[InodeId])> = homes
            .iter()
            .flat_map(|(home, inos)| inos.chunks(GETATTR_MAX).map(|part| (*home, part)))
            .collect();
        let asked = batches.iter().map(|(home, inos)| async move {
            self.ask(who, Target::Server(*home), &GetattrMany { inos: inos.to_vec() }).await
        });
        let mut found: HashMap<InodeId, Attr> = HashMap::new();
        window::each(asked, FAN_OUT, |attrs: Vec<Option<Attr>>| {
            found.extend(attrs.into_iter().flatten().map(|attr| (attr.ino, attr)));
        })
        .await?;
        for entry in entries {
            entry.attr = entry.attr.take().or_else(|| found.get(&entry.ino).cloned());
            if let Some(attr) = &mut entry.attr {
                self.note_attr(attr);
            }
        }
        Ok(())
    }
}
