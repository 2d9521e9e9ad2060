//! The locks of one family on one file: who holds which bytes, and how.
//!
//! Both sides keep one: the home to decide, a client to know what it would have to claim again.
//!
//! # Invariants
//! - Of two owners that hold a byte, neither holds it for writing; an owner holds a byte at most once; touching ranges of an owner with the
//!   same kind are one (fs-server's `locks/tests.rs`, `behaves_like_an_array_of_bytes`).

use crate::ids::ClientId;
use crate::wire::{wire_enum, wire_struct};

/// Last byte that a lock can have: what the kernel calls the end of the file.
pub const LOCK_END: u64 = i64::MAX as u64;

wire_enum! {
    /// How bytes are locked.
    pub enum LockKind: u8 {
        /// With others that read.
        Read = 1,
        /// Alone.
        Write = 2,
    }
}

wire_enum! {
    /// Locks of one family do not see those of the other.
    pub enum LockFamily: u8 {
        /// Ranges of bytes: fcntl(2), both those of processes and those of open file descriptions.
        Posix = 1,
        /// Whole files: flock(2).
        Flock = 2,
    }
}

wire_struct! {
    /// Bytes of a file, both ends included.
    #[derive(Copy)]
    pub struct LockRange {
        /// First.
        pub first: u64,
        /// Last, at most [`LOCK_END`].
        pub last: u64,
    }
}

impl LockRange {
    /// The whole file.
    pub const ALL: LockRange = LockRange { first: 0, last: LOCK_END };

    /// Whether it is one.
    pub fn is_valid(self) -> bool {
        self.first <= self.last && self.last <= LOCK_END
    }

    fn meets(self, other: LockRange) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

wire_struct! {
    /// Who locks: the client's own number of a process, or of an open file description.
    #[derive(Copy, Hash, PartialOrd, Ord)]
    pub struct LockOwner {
        /// Client.
        pub client: ClientId,
        /// Number within the client, as the kernel gives it.
        pub number: u64,
    }
}

wire_struct! {
    /// Bytes that somebody holds.
    #[derive(Copy)]
    pub struct HeldLock {
        /// Who.
        pub owner: LockOwner,
        /// Which bytes.
        pub range: LockRange,
        /// How.
        pub kind: LockKind,
        /// Process number at its client, for people.
        pub pid: u32,
    }
}

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LockRanges {
    /// In the order of the first byte.
    held: Vec<HeldLock>,
}

impl LockRanges {
    /// All that is held.
    pub fn held(&self) -> &[HeldLock] {
        &self.held
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// What is in the way of `owner` having `range` as `kind`.
    pub fn conflicts(
        &self,
        owner: LockOwner,
        range: LockRange,
        kind: LockKind,
    ) -> impl Iterator<Item = &HeldLock> {
        self.held
            .iter()
            .take_while(move |held| held.range.first <= range.last)
            .filter(move |held| held.owner != owner && held.range.meets(range) && excludes(held.kind, kind))
    }

    /// Gives `lock.range` to its owner, whatever it had there before. Nothing may be in the way.
    pub fn set(&mut self, lock: HeldLock) {
        debug_assert!(self.conflicts(lock.owner, lock.range, lock.kind).next().is_none());
        self.clear(lock.owner, lock.range);
        let mut lock = lock;
        let touches = |held: &HeldLock, lock: &HeldLock| {
            let (one, two) = (held.range, lock.range);
            let beside = one.last.checked_add(1) == Some(two.first) || two.last + 1 == one.first;
            held.owner == lock.owner && held.kind == lock.kind && beside
        };
        while let Some(at) = self.held.iter().position(|held| touches(held, &lock)) {
            let other = self.held.remove(at).range;
            lock.range.first = lock.range.first.min(other.first);
            lock.range.last = lock.range.last.max(other.last);
        }
        self.insert(lock);
    }

    /// Takes `range` from an owner. Answers whether it had any of it.
    pub fn clear(&mut self, owner: LockOwner, range: LockRange) -> bool {
        let hit = |held: &HeldLock| held.owner == owner && held.range.meets(range);
        let hits: Vec<HeldLock> = self.held.extract_if(.., |held| hit(held)).collect();
        for held in &hits {
            if held.range.first < range.first {
                let left = LockRange { first: held.range.first, last: range.first - 1 };
                self.insert(HeldLock { range: left, ..*held });
            }
            if held.range.last > range.last {
                let right = LockRange { first: range.last + 1, last: held.range.last };
                self.insert(HeldLock { range: right, ..*held });
            }
        }
        !hits.is_empty()
    }

    /// Takes everything from those whom `of` names.
    pub fn clear_all(&mut self, of: impl Fn(LockOwner) -> bool) {
        self.held.retain(|held| !of(held.owner));
    }

    /// Whether an owner holds anything.
    pub fn has(&self, owner: LockOwner) -> bool {
        self.held.iter().any(|held| held.owner == owner)
    }

    fn insert(&mut self, lock: HeldLock) {
        let at = self.held.partition_point(|held| held.range.first <= lock.range.first);
        self.held.insert(at, lock);
    }
}

/// Whether two owners cannot have the same byte so.
fn excludes(one: LockKind, other: LockKind) -> bool {
    one == LockKind::Write || other == LockKind::Write
}

/// Whether two wishes of different owners exclude each other.
pub fn collide(one: (LockRange, LockKind), other: (LockRange, LockKind)) -> bool {
    one.0.meets(other.0) && excludes(one.1, other.1)
}
