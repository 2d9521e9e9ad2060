//! Copies of hot files that lie whole on this node, each a file of its own below the store: what a mount has the kernel read by itself. `copier` makes them and holds
//! their leases. `docs/decisions/0052-passthrough.md`.
//!
//! # Invariants
//! - A copy is given out only while every server that has a part of the file has lent it, unchanged since it was copied: a recall takes it away before
//!   it is answered (`what_was_called_back_is_not_given`), and the end of a lease does so by itself (`a_copy_is_given_as_long_as_it_is_lent`).
//! - Copies have no more room than their share; the one that was not opened for longest makes room (`copies_have_a_share`).
//! - Nothing of an earlier run is left (`what_an_earlier_run_left_goes`).

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fs_proto::InodeId;
use parking_lot::Mutex;

/// Part of the store's file system that copies may take, as a divisor.
const SHARE: u64 = 32;
/// Part of that which one copy may take, as a divisor.
const LARGEST: u64 = 4;
/// How long a copy is not tried again that came to nothing.
const REST: Duration = Duration::from_secs(5);
/// Files that rest at once, at most.
const RESTING_MAX: usize = 4096;
/// Name of the directory below the store's.
const DIRECTORY: &str = "hot";

/// See the module.
pub struct Copies {
    dir: PathBuf,
    state: Mutex<State>,
    /// Figures.
    pub counters: CopyCounters,
}

/// What happened, since the start.
#[derive(Debug, Default)]
pub struct CopyCounters {
    /// Copies that were made.
    pub made: AtomicU64,
    /// Copies that came to nothing.
    pub given_up: AtomicU64,
    /// Openings that were told of a copy.
    pub opened: AtomicU64,
    /// Copies that were called back.
    pub recalled: AtomicU64,
}

#[derive(Default)]
struct State {
    copies: HashMap<InodeId, Copy>,
    used_bytes: u64,
    resting: HashMap<InodeId, Instant>,
    number: u64,
}

struct Copy {
    number: u64,
    size: u64,
    path: PathBuf,
    /// Until when it is known to be the file's content; None: it is being made.
    until: Option<Instant>,
    opened: Instant,
}

/// What somebody finds who opens a file.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// There is none.
    Nothing,
    /// It is being made.
    Coming,
    /// Its number, and where it is.
    Here(u64, PathBuf),
}

/// A copy that is being made or kept.
#[derive(Debug, Clone)]
pub struct Place {
    /// Whose.
    pub ino: InodeId,
    /// Bytes.
    pub size: u64,
    /// Where.
    pub path: PathBuf,
    number: u64,
}

impl Copies {
    /// Those of a server with this store. What an earlier run left there goes.
    pub fn open(store: &Path) -> Self {
        let dir = store.join(DIRECTORY);
        match std::fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(dir = %dir.display(), %error, "copies of hot files of an earlier run could not be removed; remove them by hand");
            }
            _ => {}
        }
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let state = State { number: since.as_nanos() as u64, ..State::default() };
        Copies { dir, state: Mutex::new(state), counters: CopyCounters::default() }
    }

    /// The copy of a file of this size, if there is one that is right at this moment.
    pub fn find(&self, ino: InodeId, size: u64, now: Instant) -> Found {
        let mut state = self.state.lock();
        let Some(copy) = state.copies.get_mut(&ino).filter(|copy| copy.size == size) else {
            return Found::Nothing;
        };
        match copy.until {
            Some(until) if until > now => {
                copy.opened = now;
                self.counters.opened.fetch_add(1, Ordering::Relaxed);
                Found::Here(copy.number, copy.path.clone())
            }
            // Its lease is being renewed, or it is on its way out.
            _ => Found::Coming,
        }
    }

    /// The place for a new copy, and what is to be removed for it. None: there is no room, or it came to nothing a moment ago.
    pub fn begin(
        &self,
        ino: InodeId,
        size: u64,
        share_bytes: u64,
        now: Instant,
    ) -> Option<(Place, Vec<PathBuf>)> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        state.resting.retain(|_, until| *until > now);
        if size > share_bytes / LARGEST || state.resting.contains_key(&ino) {
            return None;
        }
        let mut gone = Vec::new();
        match state.copies.get(&ino) {
            // The file only grew or was cut in what is a hole: nothing that was lent has changed.
            Some(copy) if copy.size != size && copy.until.is_some() => gone.extend(state.take(ino)),
            Some(_) => return None,
            None => {}
        }
        let made = state.copies.values().filter(|copy| copy.until.is_some());
        let being_made = state.used_bytes - made.map(|copy| copy.size).sum::<u64>();
        if being_made + size > share_bytes {
            return None; // Before any goes in vain.
        }
        while state.used_bytes + size > share_bytes {
            gone.push(state.take_oldest()?);
        }
        state.number += 1;
        let number = state.number;
        let path = self.dir.join(format!("{:x}-{number:x}", ino.0));
        let copy = Copy { number, size, path: path.clone(), until: None, opened: now };
        state.copies.insert(ino, copy);
        state.used_bytes += size;
        Some((Place { ino, size, path, number }, gone))
    }

    /// The copy is right until then. Answers whether it is still wanted.
    pub fn extend(&self, place: &Place, until: Instant) -> bool {
        let mut state = self.state.lock();
        let Some(copy) = state.own(place) else { return false };
        if copy.until.replace(until).is_none() {
            self.counters.made.fetch_add(1, Ordering::Relaxed);
        }
        true
    }

    /// When a copy was opened last, if it is still wanted.
    pub fn last_opened(&self, place: &Place) -> Option<Instant> {
        self.state.lock().own(place).map(|copy| copy.opened)
    }

    /// It is given up, by who keeps it.
    pub fn end(&self, place: &Place, now: Instant) {
        let mut state = self.state.lock();
        let Some(copy) = state.own(place) else { return };
        if copy.until.is_none() {
            self.counters.given_up.fetch_add(1, Ordering::Relaxed);
            if state.resting.len() < RESTING_MAX {
                state.resting.insert(place.ino, now + REST);
            }
        }
        state.take(place.ino);
    }

    /// The file is about to change: nobody gets the copy any more. Answers what is to be removed.
    pub fn call_back(&self, ino: InodeId) -> Option<PathBuf> {
        let path = self.state.lock().take(ino)?;
        self.counters.recalled.fetch_add(1, Ordering::Relaxed);
        Some(path)
    }

    /// Where copies lie.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Bytes that copies may take on a file system of so many.
    pub fn share_of(total_bytes: u64) -> u64 {
        total_bytes / SHARE
    }

    /// Names, what they say, and figures that only grow.
    pub fn counts(&self) -> [(&'static str, &'static str, u64); 4] {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let own = &self.counters;
        [
            ("hot_copies_made", "Copies of hot files made for the kernel to read", load(&own.made)),
            ("hot_copies_given_up", "Copies of hot files that came to nothing", load(&own.given_up)),
            ("hot_copies_opened", "Openings that were told of a copy of a hot file", load(&own.opened)),
            ("hot_copies_recalled", "Copies of hot files called back before a change", load(&own.recalled)),
        ]
    }

    /// Names, what they say, and figures of now.
    pub fn gauges(&self) -> [(&'static str, &'static str, u64); 2] {
        let state = self.state.lock();
        [
            (
                "hot_copies",
                "Copies of hot files, those that are being made included",
                state.copies.len() as u64,
            ),
            ("hot_copies_bytes", "Bytes of copies of hot files", state.used_bytes),
        ]
    }

    /// For the status page.
    pub fn status_json(&self) -> serde_json::Value {
        let all = self.counts().into_iter().chain(self.gauges());
        all.map(|(name, _, value)| {
            (name.strip_prefix("hot_copies_").unwrap_or("kept").to_owned(), value.into())
        })
        .collect::<serde_json::Map<_, _>>()
        .into()
    }
}

impl State {
    fn own(&mut self, place: &Place) -> Option<&mut Copy> {
        self.copies.get_mut(&place.ino).filter(|copy| copy.number == place.number)
    }

    fn take(&mut self, ino: InodeId) -> Option<PathBuf> {
        let copy = self.copies.remove(&ino)?;
        self.used_bytes -= copy.size;
        Some(copy.path)
    }

    /// What is being made stays: it was wanted a moment ago.
    fn take_oldest(&mut self) -> Option<PathBuf> {
        let made = self.copies.iter().filter(|(_, copy)| copy.until.is_some());
        let oldest = made.min_by_key(|(_, copy)| copy.opened).map(|(ino, _)| *ino)?;
        self.take(oldest)
    }
}

#[cfg(test)]
mod tests {
    //! Goal: what the module promises. Method: made-up moments; no copy is really made.
    use super::*;

    const INO: InodeId = InodeId(7);
    const SHARE_BYTES: u64 = 4_000;
    const LEASE: Duration = Duration::from_secs(2);

    fn copies() -> (tempfile::TempDir, Copies) {
        let dir = tempfile::tempdir().expect("a directory");
        let copies = Copies::open(dir.path());
        (dir, copies)
    }

    fn made(copies: &Copies, ino: InodeId, size: u64, now: Instant) -> Place {
        let (place, _) = copies.begin(ino, size, SHARE_BYTES, now).expect("room");
        assert!(copies.extend(&place, now + LEASE));
        place
    }

    #[test]
    fn a_copy_is_given_as_long_as_it_is_lent() {
        let ((_dir, copies), now) = (copies(), Instant::now());
        let (place, gone) = copies.begin(INO, 9, SHARE_BYTES, now).expect("room");
        assert!(gone.is_empty() && copies.find(INO, 9, now) == Found::Coming, "it is being made");
        assert!(copies.begin(INO, 9, SHARE_BYTES, now).is_none(), "once");
        assert!(copies.extend(&place, now + LEASE));
        assert!(matches!(copies.find(INO, 9, now), Found::Here(_, path) if path == place.path));
        assert_eq!(copies.find(INO, 10, now), Found::Nothing, "of another size");
        assert_eq!(copies.find(INO, 9, now + LEASE), Found::Coming, "the lease is over");
        assert!(copies.extend(&place, now + LEASE * 2));
        assert!(matches!(copies.find(INO, 9, now + LEASE), Found::Here(..)), "it was unchanged");
    }

    #[test]
    fn what_was_called_back_is_not_given() {
        let ((_dir, copies), now) = (copies(), Instant::now());
        let place = made(&copies, INO, 9, now);
        assert_eq!(copies.call_back(INO).as_ref(), Some(&place.path));
        assert_eq!(copies.find(INO, 9, now), Found::Nothing);
        // A renewal that was under way brings it back no more than another copy's keeper ends it.
        assert!(!copies.extend(&place, now + LEASE) && copies.last_opened(&place).is_none());
        let next = made(&copies, INO, 9, now);
        copies.end(&place, now);
        assert!(matches!(copies.find(INO, 9, now), Found::Here(number, _) if number == next.number));
        assert_ne!(place.number, next.number);
    }

    #[test]
    fn one_that_is_called_back_while_it_is_made_is_never_given() {
        let ((_dir, copies), now) = (copies(), Instant::now());
        let (place, _) = copies.begin(INO, 9, SHARE_BYTES, now).expect("room");
        copies.call_back(INO).expect("it is known");
        assert!(!copies.extend(&place, now + LEASE));
        assert_eq!(copies.find(INO, 9, now), Found::Nothing);
    }

    #[test]
    fn copies_have_a_share() {
        let ((_dir, copies), now) = (copies(), Instant::now());
        let later = |n| now + Duration::from_millis(n);
        assert!(copies.begin(INO, SHARE_BYTES / 4 + 1, SHARE_BYTES, now).is_none(), "too large");
        let places: Vec<_> = (0..4).map(|n| made(&copies, InodeId(n + 1), 1_000, later(n))).collect();
        assert!(matches!(copies.find(InodeId(1), 1_000, later(9)), Found::Here(..)));
        let (_, gone) = copies.begin(INO, 1_000, SHARE_BYTES, later(10)).expect("room is made");
        assert_eq!(gone, [places[1].path.clone()], "the one that was not opened for longest");
        assert_eq!(copies.gauges().map(|(_, _, value)| value), [4, SHARE_BYTES]);
    }

    #[test]
    fn what_came_to_nothing_rests() {
        let ((_dir, copies), now) = (copies(), Instant::now());
        let (place, _) = copies.begin(INO, 9, SHARE_BYTES, now).expect("room");
        copies.end(&place, now);
        assert!(copies.begin(INO, 9, SHARE_BYTES, now).is_none());
        assert!(copies.begin(INO, 9, SHARE_BYTES, now + REST).is_some());
    }

    #[test]
    fn what_an_earlier_run_left_goes() {
        let (dir, copies) = copies();
        std::fs::create_dir(copies.dir()).expect("the directory");
        std::fs::write(copies.dir().join("7-1"), b"old").expect("a copy");
        let next = Copies::open(dir.path());
        assert!(!next.dir().exists());
        let (before, after) = (copies.state.lock().number, next.state.lock().number);
        assert_ne!(before, after, "numbers are of one run");
    }
}
