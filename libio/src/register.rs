//! Files that are written once: whoever comes first decides, all others find what was decided.
//!
//! The content is written to a name of its own, made durable, and renamed without replacing. The price is a message more than writing
//! in place; in return no reader, and no crash, ever sees half of one.
//!
//! # Invariants
//! - Of any number of [`Disk::place`] at one path one wins, and all others get its document (`one_of_many_places_wins`).

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use fs_client::{Caller, Client, DirEntry, File, InodeId, OpenOptions, Status};

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::format::{self, Document};
use crate::tier::Tier;

/// Permission bits of files and directories: a checkpoint is for its owner, and for the group to read.
const FILE_MODE: u32 = 0o640;
const DIR_MODE: u32 = 0o750;

/// How [`Disk::place`] ended.
#[derive(Debug)]
pub(crate) enum Placed<D> {
    /// It is ours.
    Won,
    /// This was there before.
    Lost(D),
}

/// How [`Disk::move_new`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moved {
    /// It is there now.
    Done,
    /// Something else was there before.
    Taken,
    /// There was nothing to move.
    Missing,
}

/// Is told of every change before it is made, by its kind, and may fail it.
pub type Hook = Arc<dyn Fn(&'static str) -> Result<()> + Send + Sync>;

const POLICY: &[u8] = b"user.hayate.flush";
/// Attribute that says whether chunks may be with other servers than they belong to.
const OVERFLOW: &[u8] = b"user.hayate.overflow";
const DURABLE: &[u8] = b"user.hayate.durable";

/// How often a document is written again that somebody removed before it had its name.
const PUT_TRIES: u32 = 10;

/// How long a server that does not answer is waited for, when that is known.
const HASTE: Duration = Duration::from_secs(3);

/// The file system, as this library uses it.
#[derive(Clone)]
pub(crate) struct Disk {
    client: Client,
    caller: Caller,
    tier: Option<Tier>,
    mount: Option<Arc<Path>>,
    hook: Option<Hook>,
    /// Attempts whose bytes in the shared tier were all read and found right: nobody changes them.
    whole: Arc<Mutex<BTreeSet<String>>>,
}

impl Disk {
    pub fn new(client: Client) -> Result<Disk> {
        let caller = client.core()?.caller().clone();
        let tier = Tier::seen(client.cluster().tier.as_deref(), client.config().timeout);
        Ok(Disk { client, caller, tier, mount: None, hook: None, whole: Arc::default() })
    }

    pub fn with_hook(self, hook: Hook) -> Disk {
        Disk { hook: Some(hook), ..self }
    }

    pub fn with_mount(self, mount: &Path) -> Disk {
        Disk { mount: Some(mount.into()), ..self }
    }

    /// The path of a file for programs that do not go through the client.
    pub fn in_mount(&self, path: &str) -> PathBuf {
        match &self.mount {
            Some(mount) => mount.join(path.trim_start_matches('/')),
            None => PathBuf::from(path),
        }
    }

    /// To be called before a change.
    pub fn step(&self, kind: &'static str) -> Result<()> {
        self.hook.as_ref().map_or(Ok(()), |hook| hook(kind))
    }

    /// The shared tier as the cluster names it.
    pub fn cluster_tier(&self) -> Option<&Path> {
        self.client.cluster().tier.as_deref()
    }

    /// The shared tier, if it can be looked into from here.
    pub fn tier(&self) -> Option<&Tier> {
        self.tier.as_ref()
    }

    /// Whether [`Disk::note_whole`] was told of an attempt.
    pub fn was_whole(&self, full_name: &str) -> bool {
        self.whole.lock().unwrap_or_else(PoisonError::into_inner).contains(full_name)
    }

    /// Remembers that the shared tier has every byte of an attempt.
    pub fn note_whole(&self, full_name: String) {
        self.whole.lock().unwrap_or_else(PoisonError::into_inner).insert(full_name);
    }

    /// The inode at `path`, if there is one.
    pub fn inode(&self, path: &str) -> Result<Option<InodeId>> {
        Ok(found(self.client.stat(path))?.map(|attr| attr.ino))
    }

    /// Whether the servers say that this inode is in the shared tier as it is here.
    pub fn is_durable(&self, ino: InodeId) -> Result<bool> {
        let answer = found(self.client.getxattr(&self.caller, ino, DURABLE))?;
        Ok(answer.is_some_and(|answer| answer == "yes"))
    }

    /// Says when what is in a directory goes to the shared tier.
    pub fn set_policy(&self, dir: &str, policy: &str) -> Result<()> {
        self.set_attribute(dir, POLICY, policy)
    }

    /// Says that what is in a directory lies with the servers that it was written to, or not at all: what is to survive the loss of some is counted by them.
    pub fn stay_in_place(&self, dir: &str) -> Result<()> {
        self.set_attribute(dir, OVERFLOW, "no")
    }

    fn set_attribute(&self, dir: &str, name: &[u8], value: &str) -> Result<()> {
        let ino = self.client.resolve(dir)?.ino;
        self.step("attribute")?;
        Ok(self.client.setxattr(&self.caller, ino, name, value.as_bytes(), false, false)?)
    }

    /// Places `document` at `dir/name` unless something is there.
    pub fn place<D: Document>(&self, dir: &str, name: &str, document: &D) -> Result<Placed<D>> {
        if self.put(dir, name, document, true)? { Ok(Placed::Won) } else { self.lost(dir, name) }
    }

    /// Places `document` at `dir/name`, whatever is there.
    pub fn replace<D: Document>(&self, dir: &str, name: &str, document: &D) -> Result<()> {
        self.put(dir, name, document, false).map(drop)
    }

    /// Places a document; answers whether it is there, which it is not if the name was taken.
    fn put<D: Document>(&self, dir: &str, name: &str, document: &D, no_replace: bool) -> Result<bool> {
        let mut tries_left = PUT_TRIES;
        loop {
            tries_left -= 1;
            let (aside, file) = self.write_aside(dir, name, document)?;
            let parent = self.client.resolve(dir)?.ino;
            self.step("rename")?;
            let (from, to) = (aside.as_bytes(), name.as_bytes());
            match self.client.rename(&self.caller, parent, from, parent, to, no_replace, false) {
                Ok(()) => {
                    self.step("sync")?;
                    file.sync()?; // The new name too.
                    file.close()?;
                    return Ok(true);
                }
                Err(e) if e.code() == Some(Status::Exists) => {
                    file.close()?;
                    self.remove_file(&format!("{dir}/{aside}"))?;
                    return Ok(false);
                }
                // Whoever removes a version removes all that has its number, this too.
                Err(e) if e.code() == Some(Status::NotFound) && tries_left > 0 => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Makes a document durable under a name of its own; answers that, and the file.
    fn write_aside<D: Document>(&self, dir: &str, name: &str, document: &D) -> Result<(String, File)> {
        let aside = format::aside_name(name, &unique_id());
        let file = self.create(&format!("{dir}/{aside}"))?;
        self.step("write")?;
        file.write_at(&format::encode(document), 0)?;
        self.step("sync")?;
        file.sync()?;
        Ok((aside, file))
    }

    fn lost<D: Document>(&self, dir: &str, name: &str) -> Result<Placed<D>> {
        let path = format!("{dir}/{name}");
        let there = self.read(&path)?;
        there.map(Placed::Lost).ok_or_else(|| Error::corrupt(&path, "it was removed while it was looked at"))
    }

    /// The document at `path`, if there is one.
    pub fn read<D: Document>(&self, path: &str) -> Result<Option<D>> {
        self.read_raw(path)?.map(|text| format::decode(path, &text)).transpose()
    }

    /// The bytes at `path`, if it exists.
    pub fn read_raw(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let Some(file) = self.open(path)? else { return Ok(None) };
        let mut text = vec![0; file.attr()?.size as usize];
        let read = file.read_at(&mut text, 0)?;
        text.truncate(read);
        Ok(Some(text))
    }

    /// The first bytes of the file at `path`, if it exists.
    pub fn read_head(&self, path: &str, bytes: usize) -> Result<Option<Vec<u8>>> {
        let Some(file) = self.open(path)? else { return Ok(None) };
        let mut head = vec![0; bytes];
        let read = file.read_at(&mut head, 0)?;
        head.truncate(read);
        Ok(Some(head))
    }

    /// Gives a file, whose content is durable, another name unless something has it, and makes that durable.
    pub fn move_new(&self, from: &str, to: &str) -> Result<Moved> {
        let split = |path: &str| path.rsplit_once('/').map(|(dir, name)| (dir.to_owned(), name.to_owned()));
        let ((from_dir, from_name), (to_dir, to_name)) = split(from)
            .zip(split(to))
            .ok_or_else(|| Error::Invalid(format!("{from} or {to} is no absolute path")))?;
        let (from_dir, to_dir) = (self.client.resolve(&from_dir)?.ino, self.client.resolve(&to_dir)?.ino);
        let (from_name, to_name) = (from_name.as_bytes(), to_name.as_bytes());
        self.step("rename")?;
        match self.client.rename(&self.caller, from_dir, from_name, to_dir, to_name, true, false) {
            Ok(()) => self.sync_file(to).map(|()| Moved::Done),
            Err(e) if e.code() == Some(Status::Exists) => Ok(Moved::Taken),
            Err(e) if e.code() == Some(Status::NotFound) => Ok(Moved::Missing),
            Err(e) => Err(e.into()),
        }
    }

    /// Opens a file for reading, if it exists.
    pub fn open(&self, path: &str) -> Result<Option<File>> {
        found(self.client.open_path(path, &OpenOptions::read_only()))
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The same, which does not wait long for servers that do not answer.
    pub fn hasty(&self) -> Disk {
        Disk { client: self.client.within(HASTE), ..self.clone() }
    }

    /// How long a server is waited for that does not answer.
    pub fn timeout(&self) -> Duration {
        self.client.timeout()
    }

    /// Makes a file that must not exist, for writing and reading.
    pub fn create(&self, path: &str) -> Result<File> {
        self.create_as(path, OpenOptions::default())
    }

    /// The same, with more options.
    pub fn create_as(&self, path: &str, options: OpenOptions) -> Result<File> {
        let how = OpenOptions { read: true, write: true, create_new: true, mode: FILE_MODE, ..options };
        self.step("create")?;
        Ok(self.client.open_path(path, &how)?)
    }

    /// Makes a file that must not exist, with this content, and makes it durable.
    pub fn write_new(&self, path: &str, content: &[u8]) -> Result<()> {
        let file = self.create(path)?;
        self.step("write")?;
        file.write_at(content, 0)?;
        self.step("sync")?;
        file.sync()?;
        self.step("close")?;
        Ok(file.close()?)
    }

    /// Opens a file that somebody else wrote, to read it and make it durable.
    pub fn open_for_sync(&self, path: &str) -> Result<File> {
        let how = OpenOptions { read: true, write: true, ..OpenOptions::default() };
        Ok(self.client.open_path(path, &how)?)
    }

    /// Makes a file durable that somebody else wrote.
    pub fn sync_file(&self, path: &str) -> Result<()> {
        let file = self.open_for_sync(path)?;
        self.step("sync")?;
        file.sync()?;
        Ok(file.close()?)
    }

    /// Makes an empty file; answers whether it is new.
    pub fn claim_file(&self, path: &str) -> Result<bool> {
        match self.create(path) {
            Ok(file) => {
                file.close()?;
                Ok(true)
            }
            Err(Error::FileSystem(e)) if e.code() == Some(Status::Exists) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Makes a directory; answers whether it is new.
    pub fn claim_dir(&self, path: &str) -> Result<bool> {
        self.step("mkdir")?;
        match self.client.mkdir_path(path, DIR_MODE) {
            Ok(_) => Ok(true),
            Err(e) if e.code() == Some(Status::Exists) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Makes a directory and what is missing above it.
    pub fn make_dirs(&self, path: &str) -> Result<()> {
        self.step("mkdir")?;
        self.client.mkdir_all(path, DIR_MODE)?;
        Ok(())
    }

    /// The entries of a directory as they are now; none if it does not exist.
    pub fn list(&self, path: &str) -> Result<Vec<DirEntry>> {
        let Some(entries) = found(self.client.read_dir(path))? else { return Ok(Vec::new()) };
        Ok(entries.collect::<fs_client::Result<_>>()?)
    }

    /// Removes a file. It is no error if there is none.
    pub fn remove_file(&self, path: &str) -> Result<()> {
        self.step("remove")?;
        found(self.client.remove_file(path)).map(drop)
    }

    /// Removes a directory and everything below. Answers whether it is gone: somebody may be adding to it.
    pub fn remove_tree(&self, path: &str) -> Result<bool> {
        for entry in self.list(path)? {
            let below = format!("{path}/{}", String::from_utf8_lossy(&entry.name));
            if entry.kind == fs_client::FileKind::Directory {
                self.remove_tree(&below)?;
            } else {
                self.remove_file(&below)?;
            }
        }
        self.step("remove")?;
        match found(self.client.remove_dir(path)) {
            Err(Error::FileSystem(e)) if e.code() == Some(Status::NotEmpty) => Ok(false),
            removed => removed.map(|_| true),
        }
    }
}

/// Whether a server did not answer for as long as it was waited for.
pub(crate) fn is_silence(e: &Error) -> bool {
    matches!(e, Error::FileSystem(fs_client::Error::Unavailable { .. }))
}

/// Nothing, instead of an error that says that there is nothing.
fn found<T>(result: fs_client::Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        // Stale: removed between the look-up and the use.
        Err(e) if matches!(e.code(), Some(Status::NotFound | Status::Stale)) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// 16 hexadecimal digits that nobody else has: from the system's random numbers, the process and a count.
pub(crate) fn unique_id() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    // Keyed at random for each instance; hashing the rest makes a forked child, which inherits the key, differ.
    let id = RandomState::new().hash_one((
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed),
        std::time::SystemTime::now(),
    ));
    format!("{id:016x}")
}

#[cfg(test)]
mod tests {
    use hayate_tests::Cluster;

    use super::*;
    use crate::format::GroupRecord;

    /// Goal: a place is taken once, and all see the winner's document. Method: eight threads at one name, and again later.
    #[test]
    fn one_of_many_places_wins() {
        let cluster = Cluster::start(2);
        let disk = Disk::new(cluster.client()).unwrap();
        disk.make_dirs("/d").unwrap();
        let record = |nranks| GroupRecord { group: "g".repeat(5000), nranks, id: String::new() };
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let place = |i| disk.place("/d", "x", &record(i)).unwrap();
            let threads: Vec<_> = (1..9).map(|i| scope.spawn(move || (i, place(i)))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let winners: Vec<_> = outcomes.iter().filter(|(_, placed)| matches!(placed, Placed::Won)).collect();
        assert_eq!(winners.len(), 1);
        let winner = record(winners[0].0);
        for (_, placed) in &outcomes {
            assert!(
                matches!(placed, Placed::Won) || matches!(placed, Placed::Lost(there) if *there == winner)
            );
        }
        assert!(matches!(disk.place("/d", "x", &record(9)), Ok(Placed::Lost(there)) if there == winner));
        let names: Vec<_> = disk.list("/d").unwrap().into_iter().map(|entry| entry.name).collect();
        assert_eq!(names, ["x"], "nothing is left over");
    }
}
