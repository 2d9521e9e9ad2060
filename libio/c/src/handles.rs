//! Which number is which connection, file or listing.
//!
//! A number has 31 bits: 4 of how many forks the process came through, 7 that count how often its place was given, and 20 of the place.
//!
//! # Invariants
//! - A number leads to the object that it was given for, or to nothing (`a_closed_number_leads_nowhere`).
//! - A forked child has tables of its own; its parent's are not touched, because a thread that the child does not have may hold their
//!   locks (`a_forked_child_does_not_find_its_parents`).
//!
//! Prices: a system call (getpid) and a shared lock for each look-up, and what the parent had stays in the child's memory. Rejected: pointers as
//! handles, which turn a second closing into damaged memory.

use std::ffi::c_int;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use fs_client::{Client, File, ReadDir};

use crate::border::{Failure, Result};
use crate::ckpt::{Ckpt, CkptWriter};

const PLACE_BITS: u32 = 20;
const TURN_BITS: u32 = 7;
const FORK_BITS: u32 = 4;
const _: () = assert!(PLACE_BITS + TURN_BITS + FORK_BITS == 31);

/// An open file, as C sees it.
pub struct Opened {
    /// Its connection.
    pub fs: c_int,
    /// What it is.
    pub file: File,
    /// Writes go to the end.
    pub append: bool,
    /// Writes are durable when they return.
    pub sync: bool,
}

/// A listing of a directory.
pub struct Listing {
    /// Its connection.
    pub fs: c_int,
    /// What is left of it; threads take turns.
    pub entries: Mutex<ReadDir>,
}

/// Something that each process has for itself: made when it is first asked for, and made anew in a forked child, whose parent's is left as it is.
pub struct PerProcess<T: 'static> {
    current: AtomicPtr<Made<T>>,
    /// Makes it, after so many forks.
    make: fn(u32) -> T,
}

struct Made<T> {
    pid: u32,
    forks: u32,
    value: T,
}

impl<T: Sync> PerProcess<T> {
    /// Nothing is made yet.
    pub const fn new(make: fn(forks: u32) -> T) -> PerProcess<T> {
        PerProcess { current: AtomicPtr::new(ptr::null_mut()), make }
    }

    /// The calling process's.
    pub fn get(&self) -> &'static T {
        let seen = self.current.load(Ordering::Acquire);
        // SAFETY: what was stored is never freed.
        match unsafe { seen.as_ref() } {
            Some(made) if made.pid == std::process::id() => &made.value,
            old => self.replace(seen, old.map_or(0, |old| old.forks + 1)),
        }
    }

    /// Puts a new one in place of a parent's, or of none.
    fn replace(&self, seen: *mut Made<T>, forks: u32) -> &'static T {
        let new = Box::into_raw(Box::new(Made { pid: std::process::id(), forks, value: (self.make)(forks) }));
        match self.current.compare_exchange(seen, new, Ordering::AcqRel, Ordering::Acquire) {
            // SAFETY: it is stored now, and what was stored is never freed.
            Ok(_) => unsafe { &(*new).value },
            Err(faster) => {
                // SAFETY: nobody else has seen it.
                drop(unsafe { Box::from_raw(new) });
                // SAFETY: another thread of this process stored it.
                unsafe { &(*faster).value }
            }
        }
    }
}

/// The tables of one process.
pub struct Tables {
    /// Connections.
    pub clients: Table<Client>,
    /// Files.
    pub files: Table<Opened>,
    /// Listings.
    pub listings: Table<Listing>,
    /// Directories of checkpoint sets.
    pub ckpts: Table<Ckpt>,
    /// Ranks' parts of versions.
    pub writers: Table<CkptWriter>,
}

impl Tables {
    fn new(forks: u32) -> Tables {
        Tables {
            clients: Table::new("connection", forks),
            files: Table::new("file", forks),
            listings: Table::new("listing", forks),
            ckpts: Table::new("directory of checkpoints", forks),
            writers: Table::new("version being written", forks),
        }
    }
}

static TABLES: PerProcess<Tables> = PerProcess::new(Tables::new);

/// The calling process's tables.
pub fn tables() -> &'static Tables {
    TABLES.get()
}

struct Place<T> {
    turn: u32,
    object: Option<Arc<T>>,
}

struct Places<T> {
    all: Vec<Place<T>>,
    free: Vec<usize>,
}

/// Objects by number.
pub struct Table<T> {
    what: &'static str,
    forks: u32,
    places: RwLock<Places<T>>,
}

impl<T> Table<T> {
    /// An empty one, of a process that came through so many forks; `what` is what its objects are called.
    pub fn new(what: &'static str, forks: u32) -> Table<T> {
        let places = Places { all: Vec::new(), free: Vec::new() };
        Table { what, forks: forks % (1 << FORK_BITS), places: RwLock::new(places) }
    }

    /// A number for `object`.
    ///
    /// # Errors
    /// `EMFILE` if there are a million.
    pub fn add(&self, object: T) -> Result<c_int> {
        let mut places = self.places.write().unwrap_or_else(PoisonError::into_inner);
        let place = if let Some(place) = places.free.pop() {
            place
        } else if places.all.len() < 1 << PLACE_BITS {
            places.all.push(Place { turn: 0, object: None });
            places.all.len() - 1
        } else {
            return Err(Failure::new(
                libc::EMFILE,
                format!("this process has a million of a {} open", self.what),
            ));
        };
        let slot = &mut places.all[place];
        slot.object = Some(Arc::new(object));
        Ok(self.number(place, slot.turn))
    }

    /// The object of a number.
    ///
    /// # Errors
    /// `EBADF` if it has none, `ENOTCONN` if it is of before a fork.
    pub fn get(&self, number: c_int) -> Result<Arc<T>> {
        let (place, turn) = self.split(number)?;
        let places = self.places.read().unwrap_or_else(PoisonError::into_inner);
        let slot = places.all.get(place).filter(|slot| slot.turn == turn);
        slot.and_then(|slot| slot.object.clone()).ok_or_else(|| self.nothing(number))
    }

    /// Gives a number back. Whoever is using its object may go on.
    ///
    /// # Errors
    /// As [`Table::get`].
    pub fn take(&self, number: c_int) -> Result<Arc<T>> {
        let (place, turn) = self.split(number)?;
        let mut places = self.places.write().unwrap_or_else(PoisonError::into_inner);
        let slot = places.all.get_mut(place).filter(|slot| slot.turn == turn);
        let Some((slot, object)) = slot.and_then(|slot| slot.object.take().map(|object| (slot, object)))
        else {
            return Err(self.nothing(number));
        };
        slot.turn = (slot.turn + 1) % (1 << TURN_BITS);
        places.free.push(place);
        Ok(object)
    }

    /// All numbers whose objects are as asked.
    pub fn find(&self, which: impl Fn(&T) -> bool) -> Vec<c_int> {
        let places = self.places.read().unwrap_or_else(PoisonError::into_inner);
        let used = places.all.iter().enumerate();
        used.filter(|(_, slot)| slot.object.as_deref().is_some_and(&which))
            .map(|(place, slot)| self.number(place, slot.turn))
            .collect()
    }

    fn number(&self, place: usize, turn: u32) -> c_int {
        (self.forks << (PLACE_BITS + TURN_BITS) | turn << PLACE_BITS | place as u32) as c_int
    }

    fn split(&self, number: c_int) -> Result<(usize, u32)> {
        let bits = u32::try_from(number).map_err(|_| self.nothing(number))?;
        if bits >> (PLACE_BITS + TURN_BITS) != self.forks {
            let what = self.what;
            let words =
                format!("{what} {number} was opened before this process was forked: connect again in it");
            return Err(Failure::new(libc::ENOTCONN, words));
        }
        Ok(((bits & ((1 << PLACE_BITS) - 1)) as usize, bits >> PLACE_BITS & ((1 << TURN_BITS) - 1)))
    }

    fn nothing(&self, number: c_int) -> Failure {
        let what = self.what;
        Failure::new(libc::EBADF, format!("{number} is the number of no open {what}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errno<T>(result: Result<T>) -> c_int {
        result.err().expect("a failure").errno
    }

    /// Goal: a number leads to its own object or to nothing. Method: a place is given many times.
    #[test]
    fn a_closed_number_leads_nowhere() {
        let table = Table::new("thing", 0);
        let stays = table.add("stays").expect("a number");
        let mut old = Vec::new();
        for _ in 0..100 {
            let number = table.add("goes").expect("a number");
            assert_eq!(*table.get(number).expect("there"), "goes");
            table.take(number).expect("there");
            assert_eq!(errno(table.take(number)), libc::EBADF);
            old.push(number);
        }
        let now = table.add("new").expect("a number");
        assert!(old.iter().all(|number| errno(table.get(*number)) == libc::EBADF), "{now} or an old one");
        for bad in [-1, c_int::MIN, 1 << 19, (1 << 27) - 1] {
            assert_eq!(errno(table.get(bad)), libc::EBADF, "{bad}");
        }
        assert_eq!(table.find(|name| *name == "stays"), [stays]);
    }

    /// Goal: a child's tables and its parent's do not know each other's numbers. Method: tables of both, as [`tables`] makes them.
    #[test]
    fn a_forked_child_does_not_find_its_parents() {
        let (parents, childs) = (Table::new("thing", 3), Table::new("thing", 4));
        let number = parents.add(()).expect("a number");
        childs.add(()).expect("a number");
        let failure = childs.get(number).expect_err("the parent's");
        assert_eq!(failure.errno, libc::ENOTCONN);
        assert!(failure.message.contains("forked"), "{}", failure.message);
        assert_eq!(errno(Table::<()>::new("thing", 16 + 4).get(number)), libc::ENOTCONN);
    }
}
