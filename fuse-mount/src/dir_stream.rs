//! Cuts the client's large pages of a directory into the kernel's small ones.
//!
//! The kernel asks for a few kilobytes at a time and names the cookie of the last entry that it took. A page of the client
//! holds about a thousand entries; what does not fit into one answer is kept for the next.
//!
//! # Invariants
//! - The kept entries are those that follow cookie `resume`; a request that continues elsewhere drops them
//!   (`seeking_drops_what_is_kept`).
//! - Entries of one cookie (a hash collision) are not lost when an answer ends between them
//!   (`entries_of_one_cookie_survive_a_full_answer`).
//! - Kept entries are given out for [`MAX_AGE`] at most, then fetched anew (`old_entries_are_fetched_again`).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use fs_client::{DirEntry, DirPage};

/// How long entries are kept.
pub(crate) const MAX_AGE: Duration = Duration::from_secs(1);

/// Entries asked of the client at a time.
pub(crate) const PAGE_ENTRIES: usize = 1024;

/// Cookies of "." and "..": those of entries are above.
pub(crate) const DOT: u64 = 1;
/// See [`DOT`].
pub(crate) const DOT_DOT: u64 = 2;

/// State of one open directory.
#[derive(Debug, Default)]
pub(crate) struct DirStream {
    kept: VecDeque<DirEntry>,
    /// Cookie that the kept entries follow.
    resume: u64,
    /// Nothing comes after the kept entries.
    end: bool,
    /// Attributes were fetched, too.
    plus: bool,
    fetched: Option<Instant>,
}

/// How giving out entries ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The answer is complete: full, or something in it and nothing left to give.
    Answer,
    /// Nothing is at hand: fetch the page after this cookie.
    Fetch(u64),
}

impl DirStream {
    /// Gets ready to go on after `offset`, the kernel's cookie. Kept entries stay only if they follow it, have what is asked
    /// for, and are fresh.
    pub(crate) fn seek(&mut self, offset: u64, plus: bool, now: Instant) {
        let after = if offset <= DOT_DOT { 0 } else { offset };
        let fresh = self.fetched.is_some_and(|at| now.saturating_duration_since(at) < MAX_AGE);
        let usable = fresh && after != 0 && after == self.resume && (self.plus || !plus);
        if !usable {
            *self = DirStream { resume: after, plus, ..DirStream::default() };
        }
    }

    /// Takes a page that was fetched at `now` after the cookie that [`Step::Fetch`] named.
    pub(crate) fn fill(&mut self, page: DirPage, plus: bool, now: Instant) {
        // An empty page that claims to be followed by others would be asked for again without end.
        self.end = page.end || page.entries.is_empty();
        self.kept = page.entries.into();
        self.plus = plus;
        self.fetched = Some(now);
    }

    /// Gives entries to `add` until it says that it is full.
    pub(crate) fn give(&mut self, mut add: impl FnMut(&DirEntry) -> Added) -> Step {
        let mut begun = false;
        while let Some(entry) = self.kept.front() {
            match add(entry) {
                Added::Full => return Step::Answer,
                Added::Skipped => {}
                Added::Taken => begun = true,
            }
            self.resume = entry.cookie;
            self.kept.pop_front();
        }
        if self.end || begun { Step::Answer } else { Step::Fetch(self.resume) }
    }
}

/// What became of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Added {
    /// It is in the answer.
    Taken,
    /// It vanished meanwhile and is left out.
    Skipped,
    /// There was no room.
    Full,
}

#[cfg(test)]
mod tests {
    use super::*;
    use fs_client::{FileKind, InodeId};

    fn page(cookies: &[u64], end: bool) -> DirPage {
        let entry = |(n, cookie): (usize, &u64)| DirEntry {
            cookie: *cookie,
            ino: InodeId(100 + n as u64),
            kind: FileKind::File,
            name: format!("f{n}").into_bytes().into(),
            attr: None,
        };
        DirPage { entries: cookies.iter().enumerate().map(entry).collect(), end, wide: false }
    }

    /// Gives at most `room` entries; answers their inode numbers and how it ended.
    fn take(stream: &mut DirStream, room: usize) -> (Vec<u64>, Step) {
        let mut taken = Vec::new();
        let step = stream.give(|entry| {
            if taken.len() == room {
                return Added::Full;
            }
            taken.push(entry.ino.0);
            Added::Taken
        });
        (taken, step)
    }

    fn filled(cookies: &[u64], now: Instant) -> DirStream {
        let mut stream = DirStream::default();
        stream.seek(0, false, now);
        stream.fill(page(cookies, true), false, now);
        stream
    }

    #[test]
    fn an_answer_that_is_full_continues_at_the_next_entry() {
        let now = Instant::now();
        let mut stream = filled(&[10, 20, 30], now);
        assert_eq!(take(&mut stream, 2), (vec![100, 101], Step::Answer));
        stream.seek(20, false, now);
        assert_eq!(take(&mut stream, 2), (vec![102], Step::Answer));
        // Nothing is left, and no message is needed to know it.
        stream.seek(30, false, now);
        assert_eq!(take(&mut stream, 2), (vec![], Step::Answer));
    }

    #[test]
    fn entries_of_one_cookie_survive_a_full_answer() {
        let now = Instant::now();
        let mut stream = filled(&[10, 10, 10], now);
        assert_eq!(take(&mut stream, 1).0, vec![100]);
        stream.seek(10, false, now);
        assert_eq!(take(&mut stream, 9).0, vec![101, 102]);
    }

    #[test]
    fn seeking_drops_what_is_kept() {
        let now = Instant::now();
        let mut stream = filled(&[10, 20, 30], now);
        take(&mut stream, 2);
        stream.seek(10, false, now);
        assert_eq!(take(&mut stream, 9), (vec![], Step::Fetch(10)));
    }

    #[test]
    fn rewinding_fetches_again() {
        let now = Instant::now();
        for offset in [0, DOT, DOT_DOT] {
            let mut stream = filled(&[10], now);
            stream.seek(offset, false, now);
            assert_eq!(take(&mut stream, 9), (vec![], Step::Fetch(0)), "offset {offset}");
        }
    }

    #[test]
    fn old_entries_are_fetched_again() {
        let now = Instant::now();
        let mut stream = filled(&[10, 20], now);
        take(&mut stream, 1);
        stream.seek(10, false, now + MAX_AGE);
        assert_eq!(take(&mut stream, 9), (vec![], Step::Fetch(10)));
    }

    #[test]
    fn attributes_that_were_not_fetched_are_fetched() {
        let now = Instant::now();
        let mut stream = filled(&[10, 20], now);
        take(&mut stream, 1);
        stream.seek(10, true, now);
        assert_eq!(take(&mut stream, 9), (vec![], Step::Fetch(10)));
    }

    #[test]
    fn a_page_of_vanished_entries_leads_to_the_next() {
        let now = Instant::now();
        let mut stream = DirStream::default();
        stream.seek(0, true, now);
        stream.fill(page(&[10, 20], false), true, now);
        assert_eq!(stream.give(|_| Added::Skipped), Step::Fetch(20));
    }

    #[test]
    fn an_empty_page_ends_the_listing() {
        let now = Instant::now();
        let mut stream = DirStream::default();
        stream.seek(0, false, now);
        stream.fill(page(&[], false), false, now);
        assert_eq!(take(&mut stream, 9), (vec![], Step::Answer));
    }
}
