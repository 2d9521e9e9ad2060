//! What this client has locked, at which servers, and what it has asked and not heard of yet.
//!
//! # Invariants
//! - What was granted and not given back is here, so that it can be claimed from a restarted server (`tests/tests/locks.rs`,
//!   `a_restarted_server_gets_its_locks_back`).
//! - A number is settled when its answer was heard, and not before (`numbers_are_settled_in_any_order`).
//!
//! One mutex, for a few loads and stores.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fs_proto::lock::{HeldLock, LockFamily, LockKind, LockOwner, LockRange, LockRanges};
use fs_proto::msg::lock::{LockClaim, LockCount};
use fs_proto::{ClientId, InodeId, ServerId};
use parking_lot::Mutex;

/// A wish to lock bytes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockWish {
    /// Family: the two do not see each other.
    pub family: LockFamily,
    /// Who, by a number of the caller's choice: what one number holds is not in its own way.
    pub owner: u64,
    /// Which bytes.
    pub range: LockRange,
    /// How.
    pub kind: LockKind,
    /// Process number, for those who ask who holds it.
    pub pid: u32,
}

/// What became of a wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locked {
    /// Granted. `changed`: a copy that is kept may be older than this version of the content, so it has to be dropped before the lock is
    /// relied on, and [`crate::File::set_copied`] told then. As long as it is not told, every grant says so.
    Yes {
        /// See above.
        changed: Option<u64>,
    },
    /// This is in the way.
    Busy(HeldLock),
    /// The caller gave up waiting; nothing is locked by this wish.
    GivenUp,
}

/// Questions that wait at servers at once, for one client; further ones ask now and then.
const PARKED_MAX: usize = 64;
/// How long a server may keep an answer back, in milliseconds.
const PARK_MS: u32 = 15_000;

/// A share of the lease after which a sign of life is sent.
const RENEW_SHARE: u32 = 6;

#[derive(Debug, Clone, Copy)]
struct Session {
    id: u64,
    lease: Duration,
    heard: Instant,
    used: Instant,
}

#[derive(Debug, Default)]
struct File {
    posix: LockRanges,
    flock: LockRanges,
    /// Owners of whom it is not known what they hold: a request failed.
    doubtful: HashSet<u64>,
    /// Owners whose locks were given to others.
    lost: HashSet<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    last: u64,
    unsettled: BTreeSet<u64>,
    sessions: HashMap<ServerId, Session>,
    files: HashMap<InodeId, File>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct LockBook {
    inner: Arc<Mutex<Inner>>,
    parked: Arc<AtomicUsize>,
    /// Held while locks are claimed.
    pub claiming: tokio::sync::Mutex<()>,
}

/// The number of a request; settled when dropped.
pub(crate) struct Ticket {
    inner: Arc<Mutex<Inner>>,
    pub serial: u64,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.inner.lock().unsettled.remove(&self.serial);
    }
}

/// One of [`PARKED_MAX`].
pub(crate) struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A sign of life that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Due {
    pub server: ServerId,
    pub session: u64,
    /// Nothing is held there, and nothing was asked for a lease.
    pub leave: bool,
}

fn owner(number: u64) -> LockOwner {
    LockOwner { client: ClientId(0), number }
}

impl File {
    fn of(&mut self, family: LockFamily) -> &mut LockRanges {
        match family {
            LockFamily::Posix => &mut self.posix,
            LockFamily::Flock => &mut self.flock,
        }
    }

    fn is_empty(&self) -> bool {
        self.posix.is_empty() && self.flock.is_empty() && self.doubtful.is_empty() && self.lost.is_empty()
    }
}

impl LockBook {
    /// A number for a request.
    pub fn ticket(&self) -> Ticket {
        let mut inner = self.inner.lock();
        inner.last += 1;
        let serial = inner.last;
        inner.unsettled.insert(serial);
        Ticket { inner: self.inner.clone(), serial }
    }

    /// What is sent with it.
    pub fn count(&self, ticket: &Ticket, server: ServerId) -> LockCount {
        let mut inner = self.inner.lock();
        let settled = inner.unsettled.first().copied().unwrap_or(ticket.serial);
        let session = inner.sessions.get_mut(&server).map_or(0, |session| {
            session.used = Instant::now();
            session.id
        });
        LockCount { serial: ticket.serial, settled, session }
    }

    /// How long a server may keep an answer back, with the place that this takes; 0 if there are too many.
    pub fn park(&self) -> (u32, Option<Place>) {
        let place = Place(self.parked.clone());
        if self.parked.fetch_add(1, Ordering::Relaxed) < PARKED_MAX {
            return (PARK_MS, Some(place));
        }
        (0, None)
    }

    /// A server answered in this session.
    pub fn heard(&self, server: ServerId, id: u64, lease_ms: u32) {
        let now = Instant::now();
        let lease = Duration::from_millis(u64::from(lease_ms));
        let mut inner = self.inner.lock();
        let session = inner.sessions.entry(server).or_insert(Session { id, lease, heard: now, used: now });
        (session.id, session.lease, session.heard) = (id, lease, now);
    }

    /// The session that is known of a server.
    pub fn session(&self, server: ServerId) -> u64 {
        self.inner.lock().sessions.get(&server).map_or(0, |session| session.id)
    }

    /// Nothing is held at a server.
    pub fn forget_session(&self, server: ServerId) {
        self.inner.lock().sessions.remove(&server);
    }

    pub fn hold(&self, ino: InodeId, wish: &LockWish) {
        let lock = HeldLock { owner: owner(wish.owner), range: wish.range, kind: wish.kind, pid: wish.pid };
        let mut inner = self.inner.lock();
        let ranges = inner.files.entry(ino).or_default().of(wish.family);
        // Another grant of this client may be given back only after this one's answer was heard: the later word holds.
        let in_the_way: Vec<LockOwner> =
            ranges.conflicts(lock.owner, lock.range, lock.kind).map(|held| held.owner).collect();
        for other in in_the_way {
            ranges.clear(other, lock.range);
        }
        ranges.set(lock);
    }

    /// Nobody knows what became of this owner's wish.
    pub fn doubt(&self, ino: InodeId, owner: u64) {
        self.inner.lock().files.entry(ino).or_default().doubtful.insert(owner);
    }

    /// Bytes are given back.
    pub fn drop_range(&self, ino: InodeId, family: LockFamily, number: u64, range: LockRange) {
        let mut inner = self.inner.lock();
        let Some(file) = inner.files.get_mut(&ino) else { return };
        file.of(family).clear(owner(number), range);
        if range == LockRange::ALL {
            file.doubtful.remove(&number);
        }
        if file.is_empty() {
            inner.files.remove(&ino);
        }
    }

    /// Whether an owner has, or may have, anything of the family.
    pub fn may_hold(&self, ino: InodeId, family: LockFamily, number: u64) -> bool {
        let mut inner = self.inner.lock();
        inner
            .files
            .get_mut(&ino)
            .is_some_and(|file| file.of(family).has(owner(number)) || file.doubtful.contains(&number))
    }

    /// Owners that have, or may have, anything of a file.
    pub fn owners(&self, ino: InodeId) -> Vec<(LockFamily, u64)> {
        let inner = self.inner.lock();
        let Some(file) = inner.files.get(&ino) else { return Vec::new() };
        let of = |family, ranges: &LockRanges| {
            ranges.held().iter().map(|held| (family, held.owner.number)).collect::<Vec<_>>()
        };
        let mut owners = of(LockFamily::Posix, &file.posix);
        owners.extend(of(LockFamily::Flock, &file.flock));
        let all = file.doubtful.iter().chain(&file.lost);
        owners.extend(all.flat_map(|number| [(LockFamily::Posix, *number), (LockFamily::Flock, *number)]));
        owners.sort_unstable();
        owners.dedup();
        owners
    }

    /// The owner knows that its locks were lost; answers whether nobody of the file has to learn it any more.
    pub fn forgive(&self, ino: InodeId, number: u64) -> bool {
        let mut inner = self.inner.lock();
        let Some(file) = inner.files.get_mut(&ino) else { return true };
        file.lost.remove(&number);
        let clean = file.lost.is_empty();
        if file.is_empty() {
            inner.files.remove(&ino);
        }
        clean
    }

    /// Everything that is held of the inodes that `at` names.
    pub fn claims(&self, at: impl Fn(InodeId) -> bool) -> Vec<LockClaim> {
        let inner = self.inner.lock();
        let mut claims = Vec::new();
        for (ino, file) in inner.files.iter().filter(|(ino, _)| at(**ino)) {
            for (family, ranges) in [(LockFamily::Posix, &file.posix), (LockFamily::Flock, &file.flock)] {
                claims.extend(ranges.held().iter().map(|held| LockClaim {
                    ino: *ino,
                    family,
                    owner: held.owner.number,
                    range: held.range,
                    kind: held.kind,
                    pid: held.pid,
                }));
            }
        }
        claims
    }

    /// These are held by others now, maybe.
    pub fn lose(&self, claims: &[LockClaim]) {
        let mut inner = self.inner.lock();
        for claim in claims {
            let file = inner.files.entry(claim.ino).or_default();
            file.of(claim.family).clear(owner(claim.owner), claim.range);
            file.lost.insert(claim.owner);
        }
    }

    /// Signs of life that are due.
    pub fn due(&self, holds: impl Fn(ServerId, InodeId) -> bool) -> Vec<Due> {
        let inner = self.inner.lock();
        let due = |(server, session): (&ServerId, &Session)| {
            let holds = inner.files.keys().any(|ino| holds(*server, *ino));
            let leave = !holds && inner.unsettled.is_empty() && session.used.elapsed() >= session.lease;
            let soon = session.heard.elapsed() >= session.lease / RENEW_SHARE;
            (soon || leave).then_some(Due { server: *server, session: session.id, leave })
        };
        inner.sessions.iter().filter_map(due).collect()
    }

    /// Whether no server has to hear of this client.
    pub fn is_idle(&self) -> bool {
        self.inner.lock().sessions.is_empty()
    }

    /// In a forked child: what the parent locked is the parent's.
    pub fn forget_all(&self) {
        let mut inner = self.inner.lock();
        inner.sessions.clear();
        inner.files.clear();
        inner.unsettled.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_settled_in_any_order() {
        let book = LockBook::default();
        let (one, two, three) = (book.ticket(), book.ticket(), book.ticket());
        assert_eq!(book.count(&three, ServerId(0)).settled, one.serial);
        drop(two);
        assert_eq!(book.count(&three, ServerId(0)).settled, one.serial);
        drop(one);
        assert_eq!(book.count(&three, ServerId(0)).settled, three.serial);
    }

    #[test]
    fn what_is_lost_is_not_claimed_and_told_to_its_owner() {
        let book = LockBook::default();
        let (ino, range) = (InodeId(7), LockRange { first: 3, last: 9 });
        let wish = LockWish { family: LockFamily::Posix, owner: 5, range, kind: LockKind::Write, pid: 1 };
        book.hold(ino, &wish);
        let claims = book.claims(|_| true);
        assert_eq!((claims.len(), claims[0].range), (1, range));
        book.lose(&claims);
        assert!(book.claims(|_| true).is_empty() && !book.may_hold(ino, LockFamily::Posix, 5));
        assert_eq!(book.owners(ino).len(), 2);
        assert!(book.forgive(ino, 5) && book.owners(ino).is_empty());
    }
}
