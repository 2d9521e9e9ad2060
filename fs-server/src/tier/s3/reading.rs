//! Listing a bucket: what the flusher stored is read back, and what other tools stored gets what such a thing usually has.
//!
//! A listing names keys only, so each object costs a request for what is stored with it; [`super::THREADS`] are under way at once. A directory is a
//! beginning of keys. One that other tools made gets its marker when it is listed first, before anybody hears of it: without one nobody could
//! tell whether it has moved (`moves`). Its number is made of its path, so that servers of two jobs give it the same.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fs_proto::{FileKind, TimeNs};
use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64;

use super::client::{Head, Meta};
use super::keys::{self, ATTRIBUTES};
use super::{PAGE, S3, S3Dir, THREADS, meta};
use crate::tier::{Found, Listed, TakeListed, TierError, TierResult};

/// Longest target of a symbolic link.
const TARGET_MAX: u64 = 4096;

/// After which a request of a listing is made again.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(20),
    Duration::from_millis(80),
    Duration::from_millis(320),
    Duration::from_secs(1),
];

/// What a page of a listing names.
enum Named {
    Object(Bytes, String),
    Directory(Bytes, String),
}

impl S3 {
    /// See [`crate::tier::Tier::list`].
    pub(super) fn list_directory(&self, dir: &S3Dir, take: TakeListed<'_>) -> TierResult<()> {
        let (mut from, mut made, mut unnamed) = (None, Vec::new(), 0u64);
        // Objects of other tools that a directory of the same name may follow: that hides them.
        let mut held: Vec<Listed> = Vec::new();
        loop {
            let page = patiently(|| self.client.list_below(&dir.path, from.clone(), PAGE))?;
            let named = named(&dir.path, &page.objects, &page.prefixes, &mut unnamed);
            let last = page.objects.last().map(|(key, _)| key).into_iter().chain(page.prefixes.last()).max();
            let last = last.cloned().unwrap_or_default();
            let described = at_once(&named, |one| self.describe(one))?;
            let mut ready = Vec::new();
            for (listed, note) in described.into_iter().flatten() {
                match note {
                    Note::Foreign => held.push(listed),
                    Note::Marked(path) => {
                        made.push((path, listed.found.id));
                        ready.push(listed);
                    }
                    Note::Ours => ready.push(listed),
                }
            }
            let is_dir = |name: &Bytes| ready.iter().any(|one| one.found.is_dir && one.name == *name);
            held.retain(|one| !is_dir(&one.name));
            let passed =
                |one: &Listed| keys::key(&dir.path, &one.name).is_ok_and(|key| format!("{key}/") < last);
            let (past, kept) = held.into_iter().partition(|one| page.next.is_none() || passed(one));
            held = kept;
            ready.extend::<Vec<_>>(past);
            if !take(ready) || page.next.is_none() {
                break;
            }
            from = page.next;
        }
        if unnamed > 0 {
            tracing::warn!(
                path = dir.path,
                objects = unnamed,
                "objects whose keys are no names are not shown"
            );
        }
        let confirmed = patiently(|| self.confirm(dir));
        if confirmed.is_err() {
            for (path, id) in &made {
                drop(self.take_directory_back(path, *id));
            }
        }
        confirmed
    }

    fn describe(&self, named: &Named) -> TierResult<Option<(Listed, Note)>> {
        match named {
            Named::Object(name, key) => {
                let Some(head) = patiently(|| self.client.head(key))? else { return Ok(None) };
                let note = if meta::id_of(&head.meta) == 0 { Note::Foreign } else { Note::Ours };
                Ok(Some((self.object(name, key, &head)?, note)))
            }
            Named::Directory(name, path) => self.directory(name, path).map(Some),
        }
    }

    fn object(&self, name: &Bytes, key: &str, head: &Head) -> TierResult<Listed> {
        let kind = match meta::kind(head) {
            FileKind::Symlink if head.size > TARGET_MAX => FileKind::File,
            // An object like "name" that says of itself that it is a directory: nothing is below it.
            FileKind::Directory => FileKind::File,
            kind => kind,
        };
        let target = match kind {
            FileKind::Symlink => patiently(|| self.client.get(key))?.unwrap_or_default().into(),
            _ => Bytes::new(),
        };
        Ok(Listed {
            name: name.clone(),
            found: meta::found(head),
            kind,
            attributes: meta::attributes(head, false),
            ctime: head.modified,
            nlink: 1,
            rdev: meta::rdev(head),
            target,
        })
    }

    /// A directory: its attributes are ours, or s3fs-fuse's, or those that one would be made with now.
    fn directory(&self, name: &Bytes, path: &str) -> TierResult<(Listed, Note)> {
        let marked = if self.is_read_only {
            Some(number_of_path(path))
        } else {
            patiently(|| self.directory_id(path))?
        };
        let (id, note) = match marked {
            Some(id) => (id, Note::Ours),
            None => (patiently(|| self.mark(path))?, Note::Marked(path.to_owned())),
        };
        let head = match patiently(|| self.client.head(&format!("{path}{ATTRIBUTES}")))? {
            Some(head) => Some(head),
            None => patiently(|| self.client.head(path))?,
        };
        let head =
            head.unwrap_or_else(|| Head { size: 0, meta: Meta::new(), tag: String::new(), modified: now() });
        let listed = Listed {
            name: name.clone(),
            found: Found { id, is_dir: true, size: 0, mtime: 0 },
            kind: FileKind::Directory,
            ctime: head.modified,
            attributes: meta::attributes(&head, true),
            nlink: 2,
            rdev: 0,
            target: Bytes::new(),
        };
        Ok((listed, note))
    }

    fn mark(&self, path: &str) -> TierResult<u64> {
        let id = number_of_path(path);
        self.put_marker(path, id).map(|()| id)
    }

    /// The number of a directory, also of one that other tools made and nobody has listed; None if there is none.
    pub(super) fn directory_found(&self, path: &str) -> TierResult<Option<u64>> {
        if let Some(id) = self.directory_id(path)? {
            return Ok(Some(id));
        }
        let any = !self.client.list(path, "", 1)?.is_empty();
        Ok(any.then(|| number_of_path(path)))
    }
}

/// What else is to be known of something listed.
enum Note {
    /// It is as the flusher makes it.
    Ours,
    /// An object of another tool.
    Foreign,
    /// A directory, by its path, that got its marker now.
    Marked(String),
}

/// Of a directory that has no number of its own.
pub(super) fn number_of_path(path: &str) -> u64 {
    xxh3_64(path.as_bytes()) | 1
}

fn now() -> TimeNs {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    since.as_nanos() as TimeNs
}

/// What is listed under which name; `unnamed` counts what no name has.
fn named(dir: &str, objects: &[(String, u64)], prefixes: &[String], unnamed: &mut u64) -> Vec<Named> {
    let parts = objects.iter().map(|(key, _)| key).chain(prefixes).filter_map(|key| key.strip_prefix(dir));
    let mut found: Vec<Named> = Vec::new();
    for part in parts {
        // Some servers do not know of delimiters.
        let (first, is_dir) = part.split_once('/').map_or((part, false), |(first, _)| (first, true));
        if part.is_empty() || keys::is_own(first) {
            continue;
        }
        let Some(name) = keys::name(first) else {
            *unnamed += 1;
            continue;
        };
        let path = format!("{dir}{first}/");
        if !is_dir {
            found.push(Named::Object(name, format!("{dir}{first}")));
        } else if !matches!(found.last(), Some(Named::Directory(_, known)) if *known == path) {
            found.push(Named::Directory(name, path));
        }
    }
    found
}

/// A page is a thousand requests: one that fails must not fail the listing, or a busy server would never get to the end of one.
fn patiently<R>(request: impl Fn() -> TierResult<R>) -> TierResult<R> {
    PAUSES
        .iter()
        .find_map(|pause| match request() {
            Err(TierError::Failed(_)) => {
                std::thread::sleep(*pause);
                None
            }
            outcome => Some(outcome),
        })
        .unwrap_or_else(request)
}

/// Does something with each, many at once, and gives the results in order. After a failure nothing more is begun.
fn at_once<T: Sync, R: Send>(all: &[T], body: impl Fn(&T) -> TierResult<R> + Sync) -> TierResult<Vec<R>> {
    let (next, done, failure) = (AtomicUsize::new(0), Mutex::new(Vec::new()), Mutex::new(None));
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(one) = all.get(index).filter(|_| failure.lock().is_none()) else { return };
            match body(one) {
                Ok(result) => done.lock().push((index, result)),
                Err(error) => *failure.lock() = Some(error),
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..THREADS.min(all.len()) {
            scope.spawn(work);
        }
        work();
    });
    if let Some(error) = failure.into_inner() {
        return Err(error);
    }
    let mut done = done.into_inner();
    done.sort_by_key(|(index, _)| *index);
    Ok(done.into_iter().map(|(_, result)| result).collect())
}
