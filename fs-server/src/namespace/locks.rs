//! Locks on names and inodes: short ones for local changes, long ones for transactions between servers.
//!
//! A local change holds the mutexes of its keys' stripes while it reads, checks and commits: microseconds, no waiting inside.
//! A transaction marks its keys as held from its vote to its decision, across messages; whoever meets a held key waits without
//! blocking its thread.
//!
//! # Invariants
//! - Stripe mutexes are taken in ascending order and never across an await (`with` takes a plain closure).
//! - A server's keys of one transaction are taken all at once or not at all, and servers in ascending order
//!   ([`crate::transaction`]): no deadlock.
//! - Whoever holds a key exclusively is alone (`exclusive_excludes_and_wakes`); shared holders only exclude exclusive ones.
//! - Nobody gets a key to change it while it is lent to other servers (`loans.rs`).
//! - A reader waits for what is held, and not for local changes: what these commit it finds or does not, wholly (`readers_do_not_wait_for_local_changes`).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use fs_net::Budget;
use fs_proto::{InodeId, ServerId};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;

use super::loans::{Extent, Loans, Outstanding};
use crate::hash::Map;

/// What can be locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LockKey {
    /// A name in a directory, by its hash.
    Entry(InodeId, u64),
    /// An inode, or this server's part of a wide directory.
    Inode(InodeId),
}

/// How a key is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// With others who do not hold it exclusively.
    Shared,
    /// As `Shared`, by somebody who will change attributes: who reads those waits, who only needs the thing to stay does not.
    Touch,
    /// As `Touch`, by somebody who changes what the thing itself says, too: what is lent of it is called back first.
    Alter,
    /// Alone.
    Exclusive,
}

/// Keys of one change, each once, the stronger mode of doubles.
#[derive(Debug, Clone, Default)]
pub struct LockSet(Vec<(LockKey, Mode)>);

impl LockSet {
    /// A set of `keys`.
    pub fn of(keys: &[(LockKey, Mode)]) -> Self {
        let mut set = LockSet::default();
        for &(key, mode) in keys {
            set.add(key, mode);
        }
        set
    }

    /// Adds a key, or strengthens it.
    pub fn add(&mut self, key: LockKey, mode: Mode) {
        match self.0.iter_mut().find(|(have, _)| *have == key) {
            Some((_, have)) => *have = mode.max(*have),
            None => self.0.push((key, mode)),
        }
    }

    /// Whether the set covers `key`.
    pub fn has(&self, key: LockKey) -> bool {
        self.0.iter().any(|&(have, _)| have == key)
    }
}

#[derive(Default)]
struct Held {
    shared: u32,
    touching: u32,
    exclusive: bool,
    waiters: Vec<oneshot::Sender<()>>,
}

impl Held {
    fn refuses(&self, mode: Mode) -> bool {
        self.exclusive || (mode == Mode::Exclusive && !self.is_free())
    }

    fn is_free(&self) -> bool {
        self.shared == 0 && self.touching == 0 && !self.exclusive
    }

    fn take(&mut self, mode: Mode) {
        match mode {
            Mode::Shared => self.shared += 1,
            Mode::Touch | Mode::Alter => self.touching += 1,
            Mode::Exclusive => self.exclusive = true,
        }
    }

    fn give_back(&mut self, mode: Mode) {
        match mode {
            Mode::Shared => self.shared -= 1,
            Mode::Touch | Mode::Alter => self.touching -= 1,
            Mode::Exclusive => self.exclusive = false,
        }
    }

    fn wait(&mut self) -> oneshot::Receiver<()> {
        let (wake, woken) = oneshot::channel();
        self.waiters.retain(|waiter| !waiter.is_closed());
        self.waiters.push(wake);
        woken
    }
}

type Keys = Map<LockKey, Held>;

#[derive(Default)]
struct Stripe {
    keys: Mutex<Keys>,
    /// Keys that are held: readers who find none need not have the mutex, which somebody may have for the time of a commit.
    held: AtomicUsize,
}

const STRIPES: usize = 1024;

/// All locks of a server.
pub struct LockTable {
    stripes: Vec<Stripe>,
    loans: Loans,
}

#[cfg(test)]
impl Default for LockTable {
    fn default() -> Self {
        LockTable::new(&Budget::new(32 << 20))
    }
}

fn stripe_of(key: LockKey) -> usize {
    let word = match key {
        LockKey::Entry(parent, hash) => parent.0.rotate_left(17) ^ hash,
        LockKey::Inode(ino) => ino.0 ^ ino.0 >> 48,
    };
    (word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54) as usize % STRIPES
}

/// The stripes of one set, locked in ascending order.
struct Section<'a> {
    guards: Vec<(usize, MutexGuard<'a, Keys>)>,
}

impl Section<'_> {
    fn keys(&mut self, key: LockKey) -> &mut Keys {
        let index = stripe_of(key);
        let (_, guard) =
            self.guards.iter_mut().find(|(at, _)| *at == index).expect("stripe of the set is locked");
        guard
    }

    /// What is in the way of having all keys of the set: None when they can be had.
    fn refusal<'a>(&mut self, set: &LockSet, loans: &'a Loans) -> Option<Refusal<'a>> {
        for &(key, mode) in &set.0 {
            if let Some(held) = self.keys(key).get_mut(&key).filter(|held| held.refuses(mode)) {
                return Some(Refusal::Held(held.wait()));
            }
        }
        loans.outstanding(&set.0, stripe_of).map(|outstanding| Refusal::Lent(Box::new(outstanding)))
    }
}

/// Why keys cannot be had now.
enum Refusal<'a> {
    /// Fires when the first of them that is held is given back.
    Held(oneshot::Receiver<()>),
    Lent(Box<Outstanding<'a>>),
}

impl Refusal<'_> {
    /// Returns when it is worth looking again.
    async fn over(self) {
        match self {
            // A closed channel means the same as a message.
            Refusal::Held(woken) => drop(woken.await),
            // Rare, and not to make the futures of all changes larger.
            Refusal::Lent(outstanding) => Box::pin(outstanding.over()).await,
        }
    }
}

impl LockTable {
    /// Nothing locked; what is lent is counted in the pool `hot_files`.
    pub fn new(hot_files: &Budget) -> Self {
        let stripes = (0..STRIPES).map(|_| Stripe::default()).collect();
        LockTable { stripes, loans: Loans::new(STRIPES, hot_files) }
    }

    fn section(&self, set: &LockSet) -> Section<'_> {
        let mut indexes: Vec<usize> = set.0.iter().map(|&(key, _)| stripe_of(key)).collect();
        indexes.sort_unstable();
        indexes.dedup();
        Section {
            guards: indexes.into_iter().map(|index| (index, self.stripes[index].keys.lock())).collect(),
        }
    }

    /// Runs `body` alone on the keys of `set`, once no transaction holds one of them against it.
    pub async fn with<R>(&self, set: &LockSet, body: impl FnOnce() -> R) -> R {
        loop {
            let refusal = {
                let mut section = self.section(set);
                match section.refusal(set, &self.loans) {
                    None => return body(),
                    Some(refusal) => refusal,
                }
            };
            refusal.over().await;
        }
    }

    /// The same at once, or not at all: None while a transaction holds one of the keys against it, or another server has borrowed it.
    pub fn try_with<R>(&self, set: &LockSet, body: impl FnOnce() -> R) -> Option<R> {
        let mut section = self.section(set);
        section.refusal(set, &self.loans).is_none().then(body)
    }

    /// Runs `body` alone on the keys of `set` for a holder of them: other local changes are kept out, holds are not looked at.
    pub fn with_held<R>(&self, set: &LockSet, body: impl FnOnce() -> R) -> R {
        let _section = self.section(set);
        body()
    }

    /// Waits until nobody holds `key` exclusively: what a reader does who needs the thing to be there.
    pub async fn readable(&self, key: LockKey) {
        self.wait_while(key, |held| held.exclusive).await;
    }

    /// Waits until nobody is about to change anything of `key`: what a reader of attributes does.
    pub async fn settled(&self, key: LockKey) {
        self.wait_while(key, |held| held.exclusive || held.touching > 0).await;
    }

    async fn wait_while(&self, key: LockKey, busy: impl Fn(&Held) -> bool) {
        let stripe = &self.stripes[stripe_of(key)];
        while stripe.held.load(Ordering::Acquire) > 0 {
            let woken = {
                let mut keys = stripe.keys.lock();
                match keys.get_mut(&key).filter(|held| busy(held)) {
                    None => return,
                    Some(held) => held.wait(),
                }
            };
            let _ = woken.await;
        }
    }

    /// Holds all keys of `set`, across awaits, until the guard is dropped.
    pub async fn hold(self: &Arc<Self>, set: LockSet) -> HoldGuard {
        loop {
            let refusal = {
                let mut section = self.section(&set);
                match section.refusal(&set, &self.loans) {
                    None => {
                        for &(key, mode) in &set.0 {
                            section.keys(key).entry(key).or_default().take(mode);
                        }
                        self.count(&section);
                        drop(section);
                        return HoldGuard { table: Arc::clone(self), set };
                    }
                    Some(refusal) => refusal,
                }
            };
            refusal.over().await;
        }
    }

    /// What is lent of names and inodes.
    pub fn loans(&self) -> &Loans {
        &self.loans
    }

    /// Lends a key to a server. False: not now, because it is being changed or was not long ago, or there is no memory to remember it.
    pub fn lend(&self, key: LockKey, extent: Extent, server: ServerId, now: Instant) -> bool {
        let index = stripe_of(key);
        let keys = self.stripes[index].keys.lock();
        let is_busy = |held: &Held| held.exclusive || held.touching > 0 && extent == Extent::Whole;
        !keys.get(&key).is_some_and(is_busy) && self.loans.lend(index, key, extent, server, now)
    }

    /// Whether a key is lent to anybody.
    pub fn is_lent(&self, key: LockKey, now: Instant) -> bool {
        self.loans.is_lent(stripe_of(key), key, now)
    }

    /// A server has given these back.
    pub fn returned(&self, keys: &[LockKey], server: ServerId) {
        self.loans.returned(keys, server, stripe_of);
    }

    /// Forgets loans that are over.
    pub fn tidy_loans(&self, now: Instant) {
        self.loans.tidy(stripe_of, now);
    }

    /// Whether who has `set` may change it all: nothing of it is lent. For assertions.
    pub fn may_change(&self, set: &LockSet) -> bool {
        let now = Instant::now();
        self.loans.is_empty()
            || set.0.iter().all(|&(key, mode)| match key {
                // Who borrows a name borrows its directory, too.
                LockKey::Entry(parent, _) => {
                    self.loans.bears(key, mode, now)
                        || self.loans.bears(LockKey::Inode(parent), Mode::Exclusive, now)
                }
                LockKey::Inode(_) => self.loans.bears(key, mode, now),
            })
    }

    fn give_back(&self, set: &LockSet) {
        let (mut section, mut woken) = (self.section(set), Vec::new());
        for &(key, mode) in &set.0 {
            let keys = section.keys(key);
            let Some(held) = keys.get_mut(&key) else { continue };
            held.give_back(mode);
            let waiters = std::mem::take(&mut held.waiters);
            if held.is_free() {
                keys.remove(&key);
            }
            woken.extend(waiters);
        }
        // Before they are woken: they look there first.
        self.count(&section);
        drop(section);
        for waiter in woken {
            // A waiter that gave up needs no waking.
            let _ = waiter.send(());
        }
    }

    /// Notes how many keys are held in the stripes of a section.
    fn count(&self, section: &Section<'_>) {
        for (index, keys) in &section.guards {
            self.stripes[*index].held.store(keys.len(), Ordering::Release);
        }
    }
}

/// Keys held for a transaction; given back when dropped.
pub struct HoldGuard {
    table: Arc<LockTable>,
    set: LockSet,
}

impl HoldGuard {
    /// What is held.
    pub fn set(&self) -> &LockSet {
        &self.set
    }
}

impl Drop for HoldGuard {
    fn drop(&mut self) {
        self.table.give_back(&self.set);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    fn assert_nothing_held(table: &LockTable) {
        for stripe in &table.stripes {
            assert!(stripe.keys.lock().is_empty() && stripe.held.load(Ordering::Relaxed) == 0);
        }
    }

    fn one(mode: Mode) -> LockSet {
        LockSet::of(&[(LockKey::Inode(InodeId(5)), mode)])
    }

    #[test]
    fn exclusive_excludes_and_wakes() {
        let table = Arc::new(LockTable::default());
        let Poll::Ready(first) = poll_once(pin!(table.hold(one(Mode::Exclusive)))) else { panic!("free") };
        let shared = one(Mode::Shared);
        let mut local = pin!(table.with(&shared, || 7));
        assert!(poll_once(local.as_mut()).is_pending());
        let mut reader = pin!(table.readable(LockKey::Inode(InodeId(5))));
        assert!(poll_once(reader.as_mut()).is_pending());
        drop(first);
        assert_eq!(poll_once(local), Poll::Ready(7));
        assert_eq!(poll_once(reader), Poll::Ready(()));
    }

    #[test]
    fn who_does_not_wait_is_refused_at_once() {
        let table = Arc::new(LockTable::default());
        let shared = one(Mode::Shared);
        assert_eq!(table.try_with(&shared, || 7), Some(7));
        let Poll::Ready(held) = poll_once(pin!(table.hold(one(Mode::Exclusive)))) else { panic!("free") };
        assert_eq!(table.try_with(&shared, || 7), None);
        drop(held);
        assert_eq!(table.try_with(&shared, || 7), Some(7));
        assert_nothing_held(&table);
    }

    #[test]
    fn readers_do_not_wait_for_local_changes() {
        let table = LockTable::default();
        let key = LockKey::Inode(InodeId(5));
        let read = || {
            poll_once(pin!(table.readable(key))).is_ready() && poll_once(pin!(table.settled(key))).is_ready()
        };
        assert_eq!(table.try_with(&one(Mode::Exclusive), read), Some(true));
    }

    #[test]
    fn shared_holders_exclude_exclusive_ones_only() {
        let table = Arc::new(LockTable::default());
        let Poll::Ready(first) = poll_once(pin!(table.hold(one(Mode::Shared)))) else { panic!("free") };
        let Poll::Ready(second) = poll_once(pin!(table.hold(one(Mode::Shared)))) else { panic!("shared") };
        let mut alone = pin!(table.hold(one(Mode::Exclusive)));
        assert!(poll_once(alone.as_mut()).is_pending());
        drop(first);
        assert!(poll_once(alone.as_mut()).is_pending());
        drop(second);
        assert!(poll_once(alone).is_ready());
        assert_nothing_held(&table);
    }

    #[test]
    fn readers_of_attributes_wait_for_those_who_touch_and_others_do_not() {
        let table = Arc::new(LockTable::default());
        let Poll::Ready(first) = poll_once(pin!(table.hold(one(Mode::Touch)))) else { panic!("free") };
        let Poll::Ready(second) = poll_once(pin!(table.hold(one(Mode::Touch)))) else { panic!("compatible") };
        let key = LockKey::Inode(InodeId(5));
        assert!(poll_once(pin!(table.readable(key))).is_ready());
        let mut attributes = pin!(table.settled(key));
        assert!(poll_once(attributes.as_mut()).is_pending());
        drop((first, second));
        assert!(poll_once(attributes).is_ready());
    }

    #[test]
    fn a_set_is_taken_wholly_or_not_at_all() {
        let table = Arc::new(LockTable::default());
        let a = LockKey::Inode(InodeId(1));
        let b = LockKey::Entry(InodeId(1), 9);
        let Poll::Ready(first) = poll_once(pin!(table.hold(LockSet::of(&[(b, Mode::Exclusive)])))) else {
            panic!()
        };
        let both = LockSet::of(&[(a, Mode::Exclusive), (b, Mode::Exclusive)]);
        assert!(poll_once(pin!(table.hold(both))).is_pending());
        let only_a = LockSet::of(&[(a, Mode::Exclusive)]);
        assert!(poll_once(pin!(table.hold(only_a))).is_ready());
        drop(first);
    }
}
