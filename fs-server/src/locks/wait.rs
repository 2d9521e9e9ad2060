//! Who waits for whom: waiting that would never end is refused.

use std::collections::HashSet;

use fs_proto::InodeId;
use fs_proto::lock::{HeldLock, LockFamily, LockOwner};

use super::Inner;

/// Owners that one search looks at; a longer chain is taken for endless waiting that is none.
const SEARCH_MAX: usize = 4096;

impl Inner {
    /// Whether whoever holds what `lock` wants waits, maybe through others, for its owner.
    pub(super) fn would_deadlock(&self, ino: InodeId, family: LockFamily, lock: HeldLock) -> bool {
        let Some(file) = self.files.get(&ino) else { return false };
        let blockers = file.of(family).blockers(&lock, None, false);
        self.reach(lock.owner, blockers, false).is_some()
    }

    /// The order of the queue must not make a circle of what is none without it: if it does, those in it do not keep the order. Answers
    /// where they wait.
    pub(super) fn loosen(&mut self, owner: LockOwner) -> Vec<(InodeId, LockFamily)> {
        let Some(mut circle) = self.reach(owner, self.blockers_of(owner, true), true) else {
            return Vec::new();
        };
        circle.insert(owner);
        let mut files = Vec::new();
        for member in circle {
            for (ino, family, serial) in self.waits_of(member) {
                let Some(file) = self.files.get_mut(&ino) else { continue };
                for waiter in file.of_mut(family).queue.iter_mut().filter(|w| w.serial == serial) {
                    waiter.fair = false;
                }
                files.push((ino, family));
            }
        }
        files
    }

    fn waits_of(&self, owner: LockOwner) -> Vec<(InodeId, LockFamily, u64)> {
        self.waits.get(&owner).cloned().unwrap_or_default()
    }

    fn blockers_of(&self, owner: LockOwner, turns: bool) -> Vec<LockOwner> {
        let mut blockers = Vec::new();
        for (ino, family, serial) in self.waits_of(owner) {
            let Some(file) = self.files.get(&ino).map(|file| file.of(family)) else { continue };
            for waiter in file.queue.iter().filter(|w| w.serial == serial && w.lock.owner == owner) {
                blockers.extend(file.blockers(&waiter.lock, Some(serial), turns && waiter.fair));
            }
        }
        blockers
    }

    /// Those who were met on the way from `from` to `goal`, if there is one.
    fn reach(&self, goal: LockOwner, from: Vec<LockOwner>, turns: bool) -> Option<HashSet<LockOwner>> {
        let (mut met, mut next) = (HashSet::new(), from);
        while let Some(owner) = next.pop() {
            if owner == goal {
                return Some(met);
            }
            if met.len() < SEARCH_MAX && met.insert(owner) {
                next.extend(self.blockers_of(owner, turns));
            }
        }
        None
    }

    /// An owner waits there no more.
    pub(super) fn forget_wait(&mut self, owner: LockOwner, place: (InodeId, LockFamily, u64)) {
        if let Some(waits) = self.waits.get_mut(&owner) {
            waits.retain(|wait| *wait != place);
            if waits.is_empty() {
                self.waits.remove(&owner);
            }
        }
    }
}
