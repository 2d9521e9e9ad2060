//! What is lent of names and inodes: other servers answer questions about them for a while, so nothing of them changes before they were called back.
//!
//! Loans are a part of the lock table: a key is lent, and a change of it is let in, by who holds the key's stripe. Whoever is about to change a
//! key that is lent has it called back and waits. `docs/decisions/0038-hot-names.md`.
//!
//! # Invariants
//! - While a key is lent nobody changes what was lent of it: `apply.rs` asserts it (`a_change_waits_until_all_have_given_back`).
//! - A key that was called back is not lent for [`COOLING`] (`what_was_called_back_cools`).
//! - Who does not give back delays a change until its lease is over, and no longer (`a_lease_that_is_over_delays_nothing`).

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Instant;

use fs_proto::ServerId;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use super::locks::{LockKey, Mode};
use crate::hot::{COOLING, LEASE_HELD};

/// Keys that are lent at once, at most.
const KEYS_MAX: usize = 65_536;

/// How much of an inode is lent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Extent {
    /// Who may do what with it; of a name: what it stands for. Entries that come and go in a directory do not matter.
    Access,
    /// All attributes, and the content of a small file.
    Whole,
}

/// Keys that are to be called back, from whom, and until when that makes sense.
pub struct CallBack {
    /// What was lent.
    pub keys: Vec<LockKey>,
    /// To whom.
    pub servers: Vec<(ServerId, Instant)>,
}

#[derive(Clone, Copy)]
struct Lease {
    server: ServerId,
    until: Instant,
    /// Until when it is of [`Extent::Whole`].
    whole: Option<Instant>,
}

impl Lease {
    /// Whether it is in the way of who has the key in this mode.
    fn forbids(&self, mode: Mode, now: Instant) -> bool {
        match mode {
            Mode::Shared => false,
            Mode::Touch => self.whole.is_some_and(|until| until > now),
            Mode::Alter | Mode::Exclusive => self.until > now,
        }
    }
}

#[derive(Default)]
struct Loan {
    leases: Vec<Lease>,
    /// Becomes true when all have given back; there from when it is called back.
    ended: Option<watch::Sender<bool>>,
}

impl Loan {
    fn until(&self) -> Option<Instant> {
        self.leases.iter().map(|lease| lease.until).max()
    }

    /// Keeps the leases that are not over.
    fn tidy(&mut self, now: Instant) {
        self.leases.retain(|lease| lease.until > now);
    }

    fn forbids(&self, mode: Mode, now: Instant) -> bool {
        self.leases.iter().any(|lease| lease.forbids(mode, now))
    }
}

/// What a change has to wait for.
pub(super) struct Outstanding {
    given_back: Option<watch::Receiver<bool>>,
    until: Instant,
}

impl Outstanding {
    /// Returns when all of it was given back, or its time is over.
    pub async fn over(self) {
        let until = self.until.into();
        match self.given_back {
            // A sender that is gone means the same as a message, and so does the end of the lease: look again.
            Some(mut ended) => drop(tokio::time::timeout_at(until, ended.wait_for(|ended| *ended)).await),
            None => tokio::time::sleep_until(until).await,
        }
    }
}

/// All loans of a server.
pub struct Loans {
    state: Mutex<State>,
    /// Keys that are lent, by stripe: who finds none need not look further.
    by_stripe: Vec<AtomicU32>,
    keys: AtomicUsize,
    inherited: Mutex<Option<Instant>>,
    has_inherited: AtomicUsize,
    calls: mpsc::UnboundedSender<CallBack>,
    receiver: Mutex<Option<mpsc::UnboundedReceiver<CallBack>>>,
}

#[derive(Default)]
struct State {
    loans: HashMap<LockKey, Loan>,
    cooling: HashMap<LockKey, Instant>,
}

impl Loans {
    pub(super) fn new(stripes: usize) -> Self {
        let (calls, receiver) = mpsc::unbounded_channel();
        Loans {
            state: Mutex::default(),
            by_stripe: std::iter::repeat_with(AtomicU32::default).take(stripes).collect(),
            keys: AtomicUsize::new(0),
            inherited: Mutex::new(None),
            has_inherited: AtomicUsize::new(0),
            calls,
            receiver: Mutex::new(Some(receiver)),
        }
    }

    /// What is to be called back, for the one who does it.
    pub fn calls(&self) -> Option<mpsc::UnboundedReceiver<CallBack>> {
        self.receiver.lock().take()
    }

    /// Keys that are lent.
    pub fn len(&self) -> usize {
        self.keys.load(Ordering::Relaxed)
    }

    /// Whether nothing is lent.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A run before this one may have lent anything; until then nothing changes.
    pub fn inherit(&self, until: Instant) {
        *self.inherited.lock() = Some(until);
        self.has_inherited.store(1, Ordering::Release);
    }

    fn inherited_until(&self) -> Option<Instant> {
        if self.has_inherited.load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut inherited = self.inherited.lock();
        if inherited.is_none_or(|until| until <= Instant::now()) {
            *inherited = None;
            self.has_inherited.store(0, Ordering::Release);
        }
        *inherited
    }

    /// Lends a key; the caller has its stripe, and nobody holds it in a way that forbids it. False: not now.
    pub(super) fn lend(
        &self,
        stripe: usize,
        key: LockKey,
        extent: Extent,
        server: ServerId,
        now: Instant,
    ) -> bool {
        let mut state = self.state.lock();
        if state.cooling.get(&key).is_some_and(|until| *until > now) {
            return false;
        }
        if !state.loans.contains_key(&key) {
            if state.loans.len() >= KEYS_MAX {
                return false;
            }
            state.loans.insert(key, Loan::default());
            self.by_stripe[stripe].fetch_add(1, Ordering::SeqCst);
            self.keys.fetch_add(1, Ordering::Relaxed);
        }
        let Some(loan) = state.loans.get_mut(&key).filter(|loan| loan.ended.is_none()) else { return false };
        // Servers that do not come back would stay as long as others do.
        loan.tidy(now);
        let until = now + LEASE_HELD;
        let whole = (extent == Extent::Whole).then_some(until);
        match loan.leases.iter_mut().find(|lease| lease.server == server) {
            Some(lease) => (lease.until, lease.whole) = (until, whole.or(lease.whole)),
            None => loan.leases.push(Lease { server, until, whole }),
        }
        true
    }

    /// Whether a key is lent to anybody.
    pub(super) fn is_lent(&self, stripe: usize, key: LockKey, now: Instant) -> bool {
        if self.by_stripe[stripe].load(Ordering::SeqCst) == 0 {
            return false;
        }
        let state = self.state.lock();
        let is_out = |loan: &Loan| loan.ended.is_none() && loan.until().is_some_and(|until| until > now);
        state.loans.get(&key).is_some_and(is_out)
    }

    /// Whether nothing is in the way of who changes `key`, having it in this mode; for assertions.
    pub(super) fn bears(&self, key: LockKey, mode: Mode, now: Instant) -> bool {
        !self.state.lock().loans.get(&key).is_some_and(|loan| loan.forbids(mode, now))
    }

    /// What has to be over before somebody gets the keys, whose stripes the caller has. All of them are called back at once.
    pub(super) fn outstanding(
        &self,
        keys: &[(LockKey, Mode)],
        of: fn(LockKey) -> usize,
    ) -> Option<Outstanding> {
        let inherited = self.inherited_until();
        if let Some(until) = inherited.filter(|_| keys.iter().any(|(_, mode)| *mode != Mode::Shared)) {
            return Some(Outstanding { given_back: None, until });
        }
        let is_suspect = |key: LockKey| self.by_stripe[of(key)].load(Ordering::SeqCst) > 0;
        if keys.iter().all(|(key, mode)| *mode == Mode::Shared || !is_suspect(*key)) {
            return None;
        }
        let now = Instant::now();
        let mut state = self.state.lock();
        let mut first = None;
        let mut call = CallBack { keys: Vec::new(), servers: Vec::new() };
        for &(key, mode) in keys {
            let Some(loan) = state.loans.get_mut(&key).filter(|loan| loan.forbids(mode, now)) else {
                continue;
            };
            loan.tidy(now);
            let Some(until) = loan.until() else { continue };
            let is_new = loan.ended.is_none();
            let ended = loan.ended.get_or_insert_with(|| watch::Sender::new(false));
            let given_back = Some(ended.subscribe());
            if is_new {
                call.keys.push(key);
                call.servers.extend(loan.leases.iter().map(|lease| (lease.server, lease.until)));
            }
            first.get_or_insert(Outstanding { given_back, until });
        }
        drop(state);
        if !call.keys.is_empty() {
            call.servers.sort_unstable_by_key(|(server, until)| (*server, Reverse(*until)));
            call.servers.dedup_by_key(|(server, _)| *server);
            // Without anybody who calls back the lease ends by itself.
            let _ = self.calls.send(call);
        }
        first
    }

    /// A server has given these back.
    pub fn returned(&self, keys: &[LockKey], server: ServerId, of: fn(LockKey) -> usize) {
        let now = Instant::now();
        let mut state = self.state.lock();
        for key in keys {
            // Only what was called back cannot have been lent again meanwhile.
            let Some(loan) = state.loans.get_mut(key).filter(|loan| loan.ended.is_some()) else { continue };
            loan.leases.retain(|lease| lease.server != server);
            if loan.leases.is_empty() {
                self.end(&mut state, of(*key), *key, now);
            }
        }
    }

    fn end(&self, state: &mut State, stripe: usize, key: LockKey, now: Instant) {
        let Some(loan) = state.loans.remove(&key) else { return };
        self.by_stripe[stripe].fetch_sub(1, Ordering::SeqCst);
        self.keys.fetch_sub(1, Ordering::Relaxed);
        if let Some(ended) = loan.ended {
            state.cooling.insert(key, now + COOLING);
            ended.send_replace(true);
        }
    }

    /// Forgets what is over.
    pub(super) fn tidy(&self, of: fn(LockKey) -> usize, now: Instant) {
        let mut state = self.state.lock();
        state.cooling.retain(|_, until| *until > now);
        for loan in state.loans.values_mut() {
            loan.tidy(now);
            loan.leases.shrink_to(2 * loan.leases.len());
        }
        let is_over = |loan: &Loan| loan.leases.is_empty();
        let over: Vec<LockKey> =
            state.loans.iter().filter(|(_, loan)| is_over(loan)).map(|(key, _)| *key).collect();
        for key in over {
            self.end(&mut state, of(key), key, now);
        }
    }
}

#[cfg(test)]
mod tests {
    //! Goal: what the module promises, by the lock table that it is a part of. Method: one after the other, with moments that are made up where they matter.
    use super::*;
    use crate::namespace::locks::{LockSet, LockTable};
    use fs_proto::InodeId;
    use std::future::Future;
    use std::pin::pin;
    use std::sync::Arc;
    use std::task::{Context, Poll, Waker};

    const INO: LockKey = LockKey::Inode(InodeId(5));
    const ONE: ServerId = ServerId(1);
    const OTHER: ServerId = ServerId(2);

    fn is_pending<F: Future>(future: std::pin::Pin<&mut F>) -> bool {
        matches!(future.poll(&mut Context::from_waker(Waker::noop())), Poll::Pending)
    }

    fn set(mode: Mode) -> LockSet {
        LockSet::of(&[(INO, mode)])
    }

    /// Waiting needs a clock.
    fn within_a_runtime(test: impl FnOnce()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let _entered = runtime.enter();
        test();
    }

    #[test]
    fn a_change_waits_until_all_have_given_back() {
        within_a_runtime(|| {
            let (table, now) = (LockTable::default(), Instant::now());
            let mut calls = table.loans().calls().expect("the first who asks");
            assert!(table.lend(INO, Extent::Whole, ONE, now) && table.lend(INO, Extent::Access, OTHER, now));
            assert!(table.is_lent(INO, now) && !table.may_change(&set(Mode::Touch)));
            let shared = set(Mode::Shared);
            assert!(!is_pending(pin!(table.with(&shared, || ()))), "reading changes nothing");
            let alter = set(Mode::Alter);
            let mut change = pin!(table.with(&alter, || 7));
            assert!(is_pending(change.as_mut()) && table.try_with(&alter, || ()).is_none());
            let call = calls.try_recv().expect("it is called back");
            assert_eq!(call.keys, [INO]);
            assert_eq!(call.servers.iter().map(|(server, _)| *server).collect::<Vec<_>>(), [ONE, OTHER]);
            assert!(calls.try_recv().is_err(), "once for all who wait");
            assert!(!table.lend(INO, Extent::Access, ServerId(3), now), "not while it is called back");
            table.returned(&[INO], ONE);
            assert!(is_pending(change.as_mut()));
            table.returned(&[INO], OTHER);
            assert!(!is_pending(change) && table.loans().is_empty() && table.may_change(&alter));
        });
    }

    #[test]
    fn who_may_enter_is_lent_while_names_come_and_go() {
        let (table, now) = (LockTable::default(), Instant::now());
        assert!(table.lend(INO, Extent::Access, ONE, now));
        assert!(table.try_with(&set(Mode::Touch), || ()).is_some());
        assert!(table.try_with(&set(Mode::Exclusive), || ()).is_none());
    }

    #[test]
    fn what_was_called_back_cools() {
        let (table, now) = (LockTable::default(), Instant::now());
        assert!(table.lend(INO, Extent::Whole, ONE, now));
        assert!(table.try_with(&set(Mode::Exclusive), || ()).is_none());
        table.returned(&[INO], ONE);
        assert!(!table.lend(INO, Extent::Whole, ONE, now));
        assert!(table.lend(INO, Extent::Whole, ONE, now + COOLING * 2));
    }

    #[test]
    fn a_lease_that_is_over_delays_nothing() {
        let (table, now) = (LockTable::default(), Instant::now());
        let before = now.checked_sub(LEASE_HELD * 2).expect("the machine runs for longer");
        assert!(table.lend(INO, Extent::Whole, ONE, before) && !table.is_lent(INO, now));
        assert!(table.try_with(&set(Mode::Exclusive), || ()).is_some());
        table.tidy_loans(now);
        assert!(table.loans().is_empty());
        table.loans().inherit(now + LEASE_HELD);
        assert!(table.try_with(&set(Mode::Shared), || ()).is_some());
        assert!(table.try_with(&set(Mode::Touch), || ()).is_none(), "what was lent before is not known");
        table.loans().inherit(now);
        assert!(table.try_with(&set(Mode::Touch), || ()).is_some());
    }

    /// Goal: what is lent takes memory for servers that have it, not for all that ever had. Method: many servers, each after the lease of the one before.
    #[test]
    fn leases_that_are_over_are_not_kept() {
        let (table, now) = (LockTable::default(), Instant::now());
        let leases = || table.loans().state.lock().loans.get(&INO).map_or(0, |loan| loan.leases.len());
        for turn in 0..100_u16 {
            let then = now + LEASE_HELD * u32::from(turn);
            assert!(table.lend(INO, Extent::Whole, ServerId(turn), then) && leases() == 1, "{turn}");
        }
        let last = now + LEASE_HELD * 99;
        assert!(table.lend(INO, Extent::Access, ONE, last + LEASE_HELD / 2) && leases() == 2);
        table.tidy_loans(last + LEASE_HELD);
        assert_eq!(leases(), 1, "one of two is over");
        table.tidy_loans(last + LEASE_HELD * 2);
        assert!(table.loans().is_empty());
    }

    #[test]
    fn nothing_is_lent_that_a_transaction_holds() {
        let (table, now) = (Arc::new(LockTable::default()), Instant::now());
        let mut held = pin!(table.hold(set(Mode::Touch)));
        let Poll::Ready(held) = held.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
            panic!("free")
        };
        assert!(!table.lend(INO, Extent::Whole, ONE, now) && table.lend(INO, Extent::Access, ONE, now));
        drop(held);
        assert!(table.lend(INO, Extent::Whole, ONE, now));
    }
}
