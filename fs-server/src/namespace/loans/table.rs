//! Loans by key, in memory that is counted before it is used.
//!
//! # Invariants
//! - What this takes of the heap is counted, the old and the new table while one grows included (`tests/lent_bytes.rs`).

use std::hash::Hash;

use fs_proto::{InodeId, ServerId};

use super::loan::{Loan, Tick, heap};
use crate::hash::Map;
use crate::hot::part::{Part, PartCharge};
use crate::namespace::locks::LockKey;

/// Keys at once, at most: all of them are looked at every second.
pub const KEYS_MAX: usize = 65_536;
/// Memory is counted in steps.
const STEP_BYTES: usize = 16 << 10;
/// What a step has besides that which keeps count of it: in a list that may be half empty, and grows.
const STEP_USABLE: usize = STEP_BYTES - 6 * size_of::<PartCharge>();
/// Places of the smallest table.
const PLACES_MIN: usize = 64;
/// A table is filled to seven eighths, and has a byte for each place besides, 16 at its end.
const FULL: (usize, usize) = (7, 8);

/// See the module.
pub struct Table {
    inodes: Places<InodeId>,
    names: Places<(InodeId, u64)>,
    memory: Memory,
}

struct Memory {
    part: Part,
    steps: Vec<PartCharge>,
    used: usize,
}

struct Places<K> {
    map: Map<K, Loan>,
    /// Of `map`, those that are empty included.
    places: usize,
}

impl Memory {
    /// Counts so many bytes more. False: there is no room for them.
    fn take(&mut self, bytes: usize) -> bool {
        while self.steps.len() * STEP_USABLE < self.used + bytes {
            let Some(step) = self.part.try_get(STEP_BYTES) else { return false };
            self.steps.push(step);
        }
        self.used += bytes;
        true
    }

    fn give(&mut self, bytes: usize) {
        self.used -= bytes;
    }

    /// Gives back steps that are not needed any more.
    fn trim(&mut self) {
        self.steps.truncate(self.used.div_ceil(STEP_USABLE));
        self.steps.shrink_to(2 * self.steps.len());
    }
}

impl<K: Copy + Eq + Hash> Places<K> {
    fn new() -> Self {
        Places { map: Map::default(), places: 0 }
    }

    fn bytes(places: usize) -> usize {
        if places == 0 { 0 } else { heap(places * (size_of::<(K, Loan)>() + 1) + 16) }
    }

    /// Makes room for one more. False: there is no memory for it.
    fn make_room(&mut self, memory: &mut Memory) -> bool {
        if self.map.len() < self.map.capacity() {
            return true;
        }
        // Removed ones leave marks, so it may be less than full.
        let mut places = self.places.max(PLACES_MIN);
        if (self.map.len() + 1) * FULL.1 * FULL.1 > places * FULL.0 * FULL.0 {
            places *= 2;
        }
        self.resize(places, memory)
    }

    /// Moves into a table of so many places.
    fn resize(&mut self, places: usize, memory: &mut Memory) -> bool {
        if !memory.take(Self::bytes(places)) {
            return false;
        }
        let capacity = places / FULL.1 * FULL.0;
        let mut map = Map::with_capacity_and_hasher(capacity, self.map.hasher().clone());
        map.extend(self.map.drain());
        debug_assert_eq!(map.capacity(), capacity, "as the standard library's tables are");
        self.map = map;
        memory.give(Self::bytes(std::mem::replace(&mut self.places, places)));
        true
    }

    /// Gives back most of what is not needed any more.
    fn shrink(&mut self, memory: &mut Memory) {
        if self.places == 0 {
            return;
        }
        if self.map.is_empty() {
            self.map = Map::default();
            memory.give(Self::bytes(std::mem::take(&mut self.places)));
        } else if self.places > PLACES_MIN && self.map.len() < self.places / 8 {
            // Without memory for both it stays as it is.
            self.resize(self.places / 4, memory);
        }
    }

    /// Room for a server in the loan of a key, which is made if there is none. None: there is no memory for it.
    fn place(&mut self, key: K, server: ServerId, now: Tick, memory: &mut Memory) -> Option<&mut Loan> {
        let has_place = self.map.get(&key).map(|loan| loan.has_place(server));
        let bytes = Loan::heap_bytes_for(server);
        match has_place {
            Some(true) => {}
            Some(false) => {
                if !memory.take(bytes) {
                    return None;
                }
                let loan = self.map.get_mut(&key)?;
                memory.give(loan.heap_bytes());
                loan.widen(server);
            }
            None => {
                if !self.make_room(memory) || !memory.take(bytes) {
                    return None;
                }
                self.map.insert(key, Loan::new(server, now));
            }
        }
        self.map.get_mut(&key)
    }
}

impl Table {
    /// Nothing yet; at most as much as `part` has.
    pub fn new(part: Part) -> Table {
        let memory = Memory { part, steps: Vec::new(), used: 0 };
        Table { inodes: Places::new(), names: Places::new(), memory }
    }

    /// Bytes of the pool that are in use for it.
    #[cfg(test)]
    pub fn counted(&self) -> usize {
        self.memory.part.stats().used as usize
    }

    /// Keys of which there is a loan.
    pub fn len(&self) -> usize {
        self.inodes.map.len() + self.names.map.len()
    }

    /// The loan of a key.
    pub fn get(&self, key: LockKey) -> Option<&Loan> {
        match key {
            LockKey::Inode(ino) => self.inodes.map.get(&ino),
            LockKey::Entry(parent, hash) => self.names.map.get(&(parent, hash)),
        }
    }

    /// The loan of a key, to change it.
    pub fn get_mut(&mut self, key: LockKey) -> Option<&mut Loan> {
        match key {
            LockKey::Inode(ino) => self.inodes.map.get_mut(&ino),
            LockKey::Entry(parent, hash) => self.names.map.get_mut(&(parent, hash)),
        }
    }

    /// Room for a server in the loan of a key, which is made if there is none. None: there is no memory for it.
    pub fn place(&mut self, key: LockKey, server: ServerId, now: Tick) -> Option<&mut Loan> {
        let is_full = self.len() >= KEYS_MAX && self.get(key).is_none();
        let memory = &mut self.memory;
        match key {
            _ if is_full => None,
            LockKey::Inode(ino) => self.inodes.place(ino, server, now, memory),
            LockKey::Entry(parent, hash) => self.names.place((parent, hash), server, now, memory),
        }
    }

    /// Has a key only cool from now on.
    pub fn cool(&mut self, key: LockKey, now: Tick) {
        let Some(loan) = self.get_mut(key) else { return };
        let bytes = loan.heap_bytes();
        loan.cool(now);
        self.memory.give(bytes);
    }

    /// Removes the loan of a key.
    pub fn remove(&mut self, key: LockKey) {
        let removed = match key {
            LockKey::Inode(ino) => self.inodes.map.remove(&ino),
            LockKey::Entry(parent, hash) => self.names.map.remove(&(parent, hash)),
        };
        self.memory.give(removed.map_or(0, |loan| loan.heap_bytes()));
    }

    /// Keeps the loans of which `keeps` says so, which may change them to take less, and gives back what is not needed any more.
    pub fn retain(&mut self, mut keeps: impl FnMut(LockKey, &mut Loan) -> bool) {
        let memory = &mut self.memory;
        let mut look = |key: LockKey, loan: &mut Loan| {
            let bytes = loan.heap_bytes();
            let is_kept = keeps(key, loan);
            memory.give(bytes - if is_kept { loan.heap_bytes() } else { 0 });
            is_kept
        };
        self.inodes.map.retain(|ino, loan| look(LockKey::Inode(*ino), loan));
        self.names.map.retain(|(parent, hash), loan| look(LockKey::Entry(*parent, *hash), loan));
        self.inodes.shrink(&mut self.memory);
        self.names.shrink(&mut self.memory);
        self.memory.trim();
    }
}
