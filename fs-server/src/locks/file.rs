//! Locks of one file: what is held, and who waits for it.

use std::collections::VecDeque;
use std::time::Instant;

use fs_proto::ClientId;
use fs_proto::lock::{HeldLock, LockFamily, LockOwner, LockRanges, collide};
use tokio::sync::oneshot;

use super::{Verdict, wish};

/// Both families of one file.
#[derive(Default)]
pub(super) struct FileLocks {
    posix: Family,
    flock: Family,
}

/// Locks of one family.
#[derive(Default)]
pub(super) struct Family {
    pub ranges: LockRanges,
    pub queue: VecDeque<Waiter>,
    /// Who has left the queue, for the owner of this to take.
    pub gone: Vec<(LockOwner, u64)>,
}

/// A request in the queue.
pub(super) struct Waiter {
    /// Its number at its client.
    pub serial: u64,
    pub lock: HeldLock,
    /// Lets those before it go first. Not who holds something of the file already: they may wait for just that.
    pub fair: bool,
    /// Forgotten then, unless its client asks again.
    pub until: Instant,
    /// Where its client waits for the answer.
    pub parked: Option<oneshot::Sender<Verdict>>,
}

impl Waiter {
    pub fn tell(self, verdict: Verdict) {
        if let Some(parked) = self.parked {
            // The client's question may have timed out: it asks again and finds out.
            let _ = parked.send(verdict);
        }
    }

    pub fn is_stale(&self, now: Instant) -> bool {
        self.until <= now && !self.can_be_told()
    }

    /// A grant needs somebody who takes it.
    fn can_be_told(&self) -> bool {
        self.parked.as_ref().is_some_and(|parked| !parked.is_closed())
    }
}

impl FileLocks {
    pub fn of(&self, family: LockFamily) -> &Family {
        match family {
            LockFamily::Posix => &self.posix,
            LockFamily::Flock => &self.flock,
        }
    }

    pub fn of_mut(&mut self, family: LockFamily) -> &mut Family {
        match family {
            LockFamily::Posix => &mut self.posix,
            LockFamily::Flock => &mut self.flock,
        }
    }

    pub fn is_empty(&self) -> bool {
        [&self.posix, &self.flock].iter().all(|family| family.ranges.is_empty() && family.queue.is_empty())
    }

    pub fn has(&self, client: ClientId) -> bool {
        [&self.posix, &self.flock].iter().any(|family| {
            family.ranges.held().iter().any(|held| held.owner.client == client)
                || family.queue.iter().any(|waiter| waiter.lock.owner.client == client)
        })
    }
}

impl Family {
    pub fn waiter_mut(&mut self, client: ClientId, serial: u64) -> Option<&mut Waiter> {
        self.queue.iter_mut().find(|w| w.serial == serial && w.lock.owner.client == client)
    }

    /// Takes a request out of the queue, if it is in it. Its answer is the caller's.
    pub fn leave(&mut self, client: ClientId, serial: u64) {
        let at = self.queue.iter().position(|w| w.serial == serial && w.lock.owner.client == client);
        if let Some(waiter) = at.and_then(|at| self.queue.remove(at)) {
            self.gone.push((waiter.lock.owner, serial));
        }
    }

    /// Sends waiters away.
    pub fn dismiss(&mut self, verdict: Verdict, which: impl Fn(&Waiter) -> bool) {
        let (gone, stay): (Vec<_>, _) = std::mem::take(&mut self.queue).into_iter().partition(which);
        self.queue = stay.into();
        for waiter in gone {
            self.gone.push((waiter.lock.owner, waiter.serial));
            waiter.tell(verdict);
        }
    }

    /// Whether others wait, before this request, for what excludes it.
    pub fn is_behind_others(&self, lock: HeldLock, serial: u64) -> bool {
        let own = |w: &Waiter| w.serial == serial && w.lock.owner.client == lock.owner.client;
        let fair = self.queue.iter().find(|w| own(w)).map_or(!self.ranges.has(lock.owner), |w| w.fair);
        fair && self.queue.iter().take_while(|w| !own(w)).any(|w| is_in_the_way(w, &lock))
    }

    /// Grants what nothing is in the way of, in the order of the queue.
    pub fn grant(&mut self) {
        let mut at = 0;
        while at < self.queue.len() {
            let waiter = &self.queue[at];
            let lock = waiter.lock;
            let free = waiter.can_be_told()
                && self.ranges.conflicts(lock.owner, lock.range, lock.kind).next().is_none()
                && !(waiter.fair && self.queue.iter().take(at).any(|w| is_in_the_way(w, &lock)));
            if !free {
                at += 1;
                continue;
            }
            let Some(waiter) = self.queue.remove(at) else { break };
            self.ranges.set(lock);
            self.gone.push((lock.owner, waiter.serial));
            waiter.tell(Verdict::Granted);
        }
    }

    /// Whom a request waits for: holders, and with `turns` those before it in the queue.
    pub fn blockers(&self, lock: &HeldLock, serial: Option<u64>, turns: bool) -> Vec<LockOwner> {
        let holders = self.ranges.conflicts(lock.owner, lock.range, lock.kind).map(|held| held.owner);
        let mut blockers: Vec<LockOwner> = holders.collect();
        let own = |w: &&Waiter| Some(w.serial) != serial || w.lock.owner.client != lock.owner.client;
        if turns {
            let before = self.queue.iter().take_while(own);
            blockers.extend(before.filter(|w| is_in_the_way(w, lock)).map(|w| w.lock.owner));
        }
        blockers
    }
}

fn is_in_the_way(waiter: &Waiter, lock: &HeldLock) -> bool {
    waiter.lock.owner != lock.owner && collide(wish(&waiter.lock), wish(lock))
}
