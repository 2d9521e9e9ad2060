//! Operations on open directories.

use std::time::Instant;

use fs_client::{Caller, DirEntry, InodeId};
use fuser::{Errno, FileHandle};
use parking_lot::Mutex;

use super::{Adapter, OpenDir};
use crate::dir_stream::{Added, DOT, DOT_DOT, DirStream, PAGE_ENTRIES, Step};
use crate::failure::Outcome;

/// Where entries go: the kernel's buffer of one kind or the other. Both answer whether the buffer was full.
pub(super) trait Sink {
    /// Whether entries need attributes.
    const PLUS: bool;
    /// "." or "..".
    fn add_dot(&mut self, ino: u64, cookie: u64, name: &str) -> bool;
    /// An entry, with attributes if [`Self::PLUS`].
    fn add(&mut self, entry: &DirEntry) -> bool;
}

impl Adapter {
    pub(super) fn open_dir(&self) -> FileHandle {
        FileHandle(self.dirs.insert(OpenDir { stream: Mutex::new(DirStream::default()) }))
    }

    pub(super) fn release_dir(&self, handle: FileHandle) {
        // Nobody reads it any more: the kernel releases after the last request.
        drop(self.dirs.remove(handle.0));
    }

    /// Fills `sink` with what follows cookie `offset`. Nothing added is the end.
    pub(super) fn list<S: Sink>(
        &self,
        who: &Caller,
        dir: InodeId,
        handle: FileHandle,
        offset: u64,
        sink: &mut S,
    ) -> Outcome<()> {
        let open = self.dirs.get(handle.0).ok_or(Errno::EBADF)?;
        if !self.add_dots(who, dir, offset, sink)? {
            return Ok(());
        }
        // The kernel reads one open directory from one thread at a time, so nobody waits for this lock.
        let mut stream = open.stream.lock();
        stream.seek(offset, S::PLUS, Instant::now());
        loop {
            let step = stream.give(|entry| add_entry(entry, sink));
            let Step::Fetch(after) = step else { return Ok(()) };
            let page = self.client.readdir(who, dir, after, PAGE_ENTRIES, S::PLUS)?;
            stream.fill(page, S::PLUS, Instant::now());
        }
    }

    /// Adds "." and ".." as far as they follow `offset`. Answers whether there is room left.
    fn add_dots<S: Sink>(&self, who: &Caller, dir: InodeId, offset: u64, sink: &mut S) -> Outcome<bool> {
        if offset < DOT && sink.add_dot(dir.0, DOT, ".") {
            return Ok(false);
        }
        let full = offset < DOT_DOT && sink.add_dot(self.parent_of(who, dir)?, DOT_DOT, "..");
        Ok(!full)
    }

    fn parent_of(&self, who: &Caller, dir: InodeId) -> Outcome<u64> {
        if dir == InodeId::ROOT {
            return Ok(dir.0);
        }
        // Not in one expression: the lock must not be held while a server is asked.
        let known = self.parents.lock().get(dir.0);
        match known {
            Some(parent) => Ok(parent),
            None => Ok(self.client.getattr(who, dir)?.parent.0),
        }
    }
}

fn add_entry<S: Sink>(entry: &DirEntry, sink: &mut S) -> Added {
    if S::PLUS && entry.attr.is_none() {
        return Added::Skipped; // It vanished meanwhile.
    }
    if sink.add(entry) { Added::Full } else { Added::Taken }
}
