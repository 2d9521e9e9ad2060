//! Locks of files that live here: in memory, one table for all threads. Decision 0013.
//!
//! # Invariants
//! - What is granted excludes what was granted before, whatever is asked in whatever order (`tests.rs`, `behaves_like_an_array_of_bytes`).
//! - Who waits longest is granted first, of those whose wishes exclude each other (`tests.rs`, `waiters_are_granted_in_their_order`).
//! - A client that is not heard of for a lease holds nothing (`tests.rs`, `a_lease_ends`), and learns it at its next word.
//! - A request that arrives after its answer was settled changes nothing (`tests.rs`, `a_late_copy_changes_nothing`).
//! - After a restart nothing new is granted until all who held something have claimed it, or a lease is over (`tests.rs`,
//!   `after_a_restart_claims_come_first`).
//! - Memory is bounded: [`HELD_MAX`] and [`WAITING_MAX`].
//!
//! One mutex, held for one step in memory. The record of a client ('j' in the store) is written before its first lock is granted and
//! removed after its last one is gone (`records.rs`).

mod clients;
mod file;
pub mod records;
#[cfg(test)]
mod tests;
mod wait;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use fs_proto::lock::{HeldLock, LockFamily, LockKind, LockOwner, LockRange};
use fs_proto::msg::lock::{LockClaim, LockClear, LockCount, LockSet, LockTest, WAITER_MS};
use fs_proto::{ClientId, InodeId};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use clients::Clients;
pub use clients::Standing;
use file::{Family, FileLocks, Waiter};

/// Locks that a server keeps, about 50 bytes each; beyond that `ENOLCK`.
pub const HELD_MAX: usize = 1 << 18;
/// Requests that wait at a server, about 150 bytes each; beyond that `ENOLCK`.
pub const WAITING_MAX: usize = 1 << 16;

/// What became of a wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Locked.
    Granted,
    /// This is in the way, and the asker does not wait.
    Conflict(HeldLock),
    /// In the queue.
    Waiting,
    /// Given up by its client.
    Cancelled,
    /// It would wait for itself.
    Deadlock,
    /// The table is full.
    TooMany,
    /// A copy of a request that was answered: nobody waits for this answer.
    Late,
}

/// A verdict now or later.
#[derive(Debug)]
pub enum Step {
    /// Now.
    Now(Verdict),
    /// When it comes; [`LockTable::unpark`] ends the waiting.
    Later(oneshot::Receiver<Verdict>),
}

/// See the module.
pub struct LockTable {
    inner: Mutex<Inner>,
    /// Which run of the server this is.
    session: u64,
    lease: Duration,
    /// Held while clients' records are changed.
    records: Mutex<()>,
}

struct Inner {
    files: HashMap<InodeId, FileLocks>,
    clients: Clients,
    /// Where owners wait, by the number of the request.
    waits: HashMap<LockOwner, Vec<(InodeId, LockFamily, u64)>>,
    held: usize,
    waiting: usize,
}

impl LockTable {
    /// An empty table of a run `session` (not 0), which gives a silent client's locks away after `lease`.
    pub fn new(session: u64, lease: Duration) -> Self {
        let inner = Inner {
            files: HashMap::new(),
            clients: Clients::new(session, lease),
            waits: HashMap::new(),
            held: 0,
            waiting: 0,
        };
        LockTable { inner: Mutex::new(inner), session, lease, records: Mutex::new(()) }
    }

    /// Which run of the server this is.
    pub fn session(&self) -> u64 {
        self.session
    }

    /// How long a client may be silent.
    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// Locks held and requests waiting.
    pub fn counts(&self) -> (usize, usize) {
        let inner = self.inner.lock();
        (inner.held, inner.waiting)
    }

    /// Locks, or waits. Its client must be known ([`LockTable::stand`]).
    pub fn set(&self, client: ClientId, request: &LockSet, now: Instant) -> Step {
        let owner = LockOwner { client, number: request.owner };
        let lock = HeldLock { owner, range: request.range, kind: request.kind, pid: request.pid };
        let mut inner = self.inner.lock();
        if !inner.clients.settle(client, request.count) {
            return Step::Now(Verdict::Late);
        }
        inner.set(request, lock, now)
    }

    /// Ends the keeping back of an answer; false if the verdict came meanwhile.
    pub fn unpark(&self, client: ClientId, request: &LockSet, now: Instant) -> bool {
        let mut inner = self.inner.lock();
        let Some(file) = inner.files.get_mut(&request.ino) else { return false };
        let waiter = file.of_mut(request.family).waiter_mut(client, request.count.serial);
        let Some(waiter) = waiter else { return false };
        waiter.parked = None;
        waiter.until = now + Duration::from_millis(u64::from(WAITER_MS));
        true
    }

    /// Unlocks; answers false if this is a late copy.
    pub fn clear(&self, client: ClientId, request: &LockClear) -> bool {
        let mut inner = self.inner.lock();
        if !inner.clients.settle(client, request.count) {
            return false;
        }
        let owner = LockOwner { client, number: request.owner };
        inner.change(request.ino, request.family, |file| {
            file.ranges.clear(owner, request.range);
        });
        true
    }

    /// Takes a grant back whose answer cannot be given.
    pub fn take_back(&self, client: ClientId, request: &LockSet) {
        let owner = LockOwner { client, number: request.owner };
        self.inner.lock().change(request.ino, request.family, |file| {
            file.ranges.clear(owner, request.range);
        });
    }

    /// What is in the way.
    pub fn test(&self, client: ClientId, request: &LockTest) -> Option<HeldLock> {
        let inner = self.inner.lock();
        let file = inner.files.get(&request.ino)?.of(request.family);
        let owner = LockOwner { client, number: request.owner };
        file.ranges.conflicts(owner, request.range, request.kind).next().copied()
    }

    /// Ends the waiting of a request.
    pub fn cancel(&self, client: ClientId, ino: InodeId, serial: u64) {
        let mut inner = self.inner.lock();
        for family in [LockFamily::Posix, LockFamily::Flock] {
            inner.drop_waiters(ino, family, Verdict::Cancelled, |waiter| {
                waiter.lock.owner.client == client && waiter.serial == serial
            });
        }
    }

    /// Where a client stands that says it is in `session`; its lease begins anew if it is known.
    pub fn stand(&self, client: ClientId, session: u64, now: Instant) -> Standing {
        self.inner.lock().clients.stand(client, session, now)
    }

    /// Takes a client in: its record is written.
    fn admit(&self, client: ClientId, now: Instant) {
        self.inner.lock().clients.admit(client, now);
    }

    /// Whether a client has a lease here.
    pub fn is_known(&self, client: ClientId) -> bool {
        self.inner.lock().clients.is_known(client)
    }

    /// Whether a client may claim locks of before the restart.
    pub fn is_expected(&self, client: ClientId, now: Instant) -> bool {
        self.inner.lock().clients.is_expected(client, now)
    }

    /// Whether new locks have to wait for claims.
    pub fn is_in_grace(&self, now: Instant) -> bool {
        self.inner.lock().clients.is_in_grace(now)
    }

    /// These held locks in the run before: nothing is granted until they have claimed them, or a lease is over.
    pub fn expect(&self, clients: impl IntoIterator<Item = ClientId>, now: Instant) {
        self.inner.lock().clients.expect(clients, now);
    }

    /// Claims of a client that is taken in; answers the indices of those that are refused.
    pub fn claim(&self, client: ClientId, claims: &[LockClaim], more: bool, now: Instant) -> Vec<u32> {
        let mut inner = self.inner.lock();
        let grace = inner.clients.is_in_grace(now);
        let mut refused = Vec::new();
        for (index, claim) in claims.iter().enumerate() {
            if !(grace && inner.claim(client, claim)) {
                refused.push(index as u32);
            }
        }
        if !more {
            inner.clients.claimed(client);
        }
        refused
    }

    /// Releases all that a client has; it is not known any more.
    fn forget(&self, client: ClientId) {
        let mut inner = self.inner.lock();
        inner.clients.forget(client);
        inner.release(client);
    }

    /// The same for a client that has nothing; false if it has.
    fn forget_idle(&self, client: ClientId) -> bool {
        let mut inner = self.inner.lock();
        let idle = !inner.has_any(client);
        if idle {
            inner.clients.forget(client);
        }
        idle
    }

    /// Whether a client holds or waits for anything.
    pub fn has_any(&self, client: ClientId) -> bool {
        self.inner.lock().has_any(client)
    }

    /// Who claimed nothing until the grace period was over; once.
    fn unclaimed(&self, now: Instant) -> Vec<ClientId> {
        self.inner.lock().clients.unclaimed(now)
    }

    /// Drops waiters that nobody asks for any more; answers clients whose lease is over.
    fn silent(&self, now: Instant) -> Vec<ClientId> {
        let mut inner = self.inner.lock();
        let files: Vec<InodeId> = inner.files.keys().copied().collect();
        for ino in files {
            for family in [LockFamily::Posix, LockFamily::Flock] {
                inner.drop_waiters(ino, family, Verdict::Waiting, |waiter| waiter.is_stale(now));
            }
        }
        inner.clients.silent(now)
    }
}

impl Inner {
    fn has_any(&self, client: ClientId) -> bool {
        self.files.values().any(|file| file.has(client))
    }

    fn set(&mut self, request: &LockSet, lock: HeldLock, now: Instant) -> Step {
        let (ino, family, serial) = (request.ino, request.family, request.count.serial);
        let full = self.held >= HELD_MAX;
        let file = self.files.entry(ino).or_default().of_mut(family);
        let asked_before = file.waiter_mut(lock.owner.client, serial).is_some();
        let conflict = file.ranges.conflicts(lock.owner, lock.range, lock.kind).next().copied();
        let waits_its_turn = request.wait_ms.is_some() && file.is_behind_others(lock, serial);
        if conflict.is_none() && !waits_its_turn {
            let verdict = if full { Verdict::TooMany } else { Verdict::Granted };
            self.change(ino, family, |file| {
                file.leave(lock.owner.client, serial);
                if verdict == Verdict::Granted {
                    file.ranges.set(lock);
                }
            });
            return Step::Now(verdict);
        }
        let Some(wait_ms) = request.wait_ms else {
            self.tidy(ino);
            // Without waiting only what is held is in the way.
            return Step::Now(conflict.map_or(Verdict::Granted, Verdict::Conflict));
        };
        let mut loosened = Vec::new();
        if !asked_before {
            match self.join(ino, family, lock, serial, now) {
                Ok(files) => loosened = files,
                Err(verdict) => {
                    self.tidy(ino);
                    return Step::Now(verdict);
                }
            }
        }
        let step = self.park(ino, family, (lock.owner.client, serial), wait_ms, now);
        for (ino, family) in loosened {
            self.change(ino, family, |_| ());
        }
        step
    }

    /// Puts a request into the queue, unless it cannot wait. Answers files whose waiters need not keep their order any more.
    fn join(
        &mut self,
        ino: InodeId,
        family: LockFamily,
        lock: HeldLock,
        serial: u64,
        now: Instant,
    ) -> Result<Vec<(InodeId, LockFamily)>, Verdict> {
        if self.waiting >= WAITING_MAX {
            return Err(Verdict::TooMany);
        }
        if family == LockFamily::Posix && self.would_deadlock(ino, family, lock) {
            return Err(Verdict::Deadlock);
        }
        let file = self.files.entry(ino).or_default().of_mut(family);
        let fair = !file.ranges.has(lock.owner);
        file.queue.push_back(Waiter { serial, lock, fair, until: now, parked: None });
        self.waiting += 1;
        self.waits.entry(lock.owner).or_default().push((ino, family, serial));
        Ok(self.loosen(lock.owner))
    }

    fn park(
        &mut self,
        ino: InodeId,
        family: LockFamily,
        (client, serial): (ClientId, u64),
        wait_ms: u32,
        now: Instant,
    ) -> Step {
        let file = self.files.entry(ino).or_default().of_mut(family);
        let Some(waiter) = file.waiter_mut(client, serial) else { return Step::Now(Verdict::Cancelled) };
        // Long enough for the answer that is kept back, and for the way to and fro.
        waiter.until = now + Duration::from_millis(u64::from(wait_ms) + u64::from(WAITER_MS));
        if wait_ms == 0 {
            waiter.parked = None;
            return Step::Now(Verdict::Waiting);
        }
        let (tell, told) = oneshot::channel();
        waiter.parked = Some(tell);
        Step::Later(told)
    }

    fn claim(&mut self, client: ClientId, claim: &LockClaim) -> bool {
        let owner = LockOwner { client, number: claim.owner };
        let lock = HeldLock { owner, range: claim.range, kind: claim.kind, pid: claim.pid };
        let full = self.held >= HELD_MAX;
        let file = self.files.entry(claim.ino).or_default().of_mut(claim.family);
        let before = file.ranges.held().len();
        let taken = !full
            && claim.range.is_valid()
            && file.ranges.conflicts(owner, claim.range, claim.kind).next().is_none();
        if taken {
            file.ranges.set(lock);
        }
        self.held = self.held + file.ranges.held().len() - before;
        self.tidy(claim.ino);
        taken
    }

    /// Changes a file's locks, then grants what can be granted.
    fn change(&mut self, ino: InodeId, family: LockFamily, how: impl FnOnce(&mut Family)) {
        let file = self.files.entry(ino).or_default().of_mut(family);
        let held = file.ranges.held().len();
        how(file);
        file.grant();
        self.held = self.held + file.ranges.held().len() - held;
        for (owner, serial) in std::mem::take(&mut file.gone) {
            self.waiting -= 1;
            self.forget_wait(owner, (ino, family, serial));
        }
        self.tidy(ino);
    }

    /// Removes waiters and tells those who are parked.
    fn drop_waiters(
        &mut self,
        ino: InodeId,
        family: LockFamily,
        verdict: Verdict,
        which: impl Fn(&Waiter) -> bool,
    ) {
        let Some(file) = self.files.get_mut(&ino) else { return };
        if !file.of(family).queue.iter().any(&which) {
            return;
        }
        self.change(ino, family, |file| file.dismiss(verdict, which));
    }

    fn release(&mut self, client: ClientId) {
        let files: Vec<InodeId> =
            self.files.iter().filter(|(_, file)| file.has(client)).map(|(ino, _)| *ino).collect();
        for ino in files {
            for family in [LockFamily::Posix, LockFamily::Flock] {
                self.drop_waiters(ino, family, Verdict::Cancelled, |w| w.lock.owner.client == client);
                self.change(ino, family, |file| file.ranges.clear_all(|owner| owner.client == client));
            }
        }
    }

    /// Forgets a file without locks and waiters.
    fn tidy(&mut self, ino: InodeId) {
        if self.files.get(&ino).is_some_and(FileLocks::is_empty) {
            self.files.remove(&ino);
        }
    }
}

/// Range and kind of a wish.
fn wish(lock: &HeldLock) -> (LockRange, LockKind) {
    (lock.range, lock.kind)
}

/// Whether a request of this number was answered already.
fn is_late(count: LockCount, floor: u64) -> bool {
    count.serial < floor
}
