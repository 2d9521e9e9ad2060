//! What is lent of names and inodes: other servers answer questions about them for a while, so nothing of them changes before they were called back.
//!
//! Loans are a part of the lock table: a key is lent, and a change of it is let in, by who holds the key's stripe. Whoever is about to change a
//! key that is lent has it called back and waits. `docs/decisions/0038-hot-names.md`.
//!
//! # Invariants
//! - While a key is lent nobody changes what was lent of it: `apply.rs` asserts it (`a_change_waits_until_all_have_given_back`).
//! - A key that was called back is not lent for [`hot::COOLING`] (`what_was_called_back_cools`).
//! - Who does not give back delays a change until the last lease of the key is over, and no longer (`a_lease_that_is_over_delays_nothing`).
//! - What is lent is counted in a part of the pool `hot_files` before it is: without room nothing more is lent, and who asks gets the answer as if nothing
//!   were hot (`without_room_nothing_more_is_lent`, `tests/lent_bytes.rs`). Not counted: places of fixed size by which changes look and wait, some 8 KiB.

mod loan;
mod table;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Instant;

use fs_net::Budget;
use fs_proto::ServerId;
use parking_lot::Mutex;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, mpsc};

use self::loan::Tick;
use self::table::Table;
use super::locks::{LockKey, Mode};
use crate::hot;

/// Places at which changes wait for what they called back; keys share them.
const WAITING_PLACES: usize = 64;

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
    pub servers: Vec<ServerId>,
    /// The end of the last lease.
    pub until: Instant,
}

/// What a change has to wait for.
pub(super) struct Outstanding<'a> {
    given_back: Option<Notified<'a>>,
    until: Instant,
}

impl Outstanding<'_> {
    /// Returns when it is worth looking again: all was given back (or something else of this place), or its time is over.
    pub async fn over(self) {
        let ended = tokio::time::sleep_until(self.until.into());
        match self.given_back {
            Some(given_back) => tokio::select! { () = given_back => {} () = ended => {} },
            None => ended.await,
        }
    }
}

/// All loans of a server.
pub struct Loans {
    table: Mutex<Table>,
    /// What ticks are counted from.
    since: Instant,
    /// Keys that are lent, by stripe: who finds none need not look further.
    by_stripe: Vec<AtomicU32>,
    keys: AtomicUsize,
    /// Where changes wait until all have given back.
    waiting: Vec<Notify>,
    inherited: Mutex<Option<Instant>>,
    has_inherited: AtomicUsize,
    calls: mpsc::UnboundedSender<CallBack>,
    receiver: Mutex<Option<mpsc::UnboundedReceiver<CallBack>>>,
}

impl Loans {
    /// None yet. They are counted in their part of the pool `hot_files`.
    pub(super) fn new(stripes: usize, hot_files: &Budget) -> Self {
        let (calls, receiver) = mpsc::unbounded_channel();
        Loans {
            table: Mutex::new(Table::new(hot::part_for_loans(hot_files))),
            since: Instant::now(),
            by_stripe: std::iter::repeat_with(AtomicU32::default).take(stripes).collect(),
            keys: AtomicUsize::new(0),
            waiting: std::iter::repeat_with(Notify::default).take(WAITING_PLACES).collect(),
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

    /// Whether anything is lent, or may be by a run before this one.
    pub fn are_any(&self) -> bool {
        !self.is_empty() || self.inherited_until().is_some()
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

    fn tick(&self, now: Instant) -> Tick {
        Tick::of(now, self.since)
    }

    /// Lends a key; the caller has its stripe, and nobody holds it in a way that forbids it. False: not now, or there is no memory to remember it.
    pub(super) fn lend(
        &self,
        stripe: usize,
        key: LockKey,
        extent: Extent,
        server: ServerId,
        now: Instant,
    ) -> bool {
        let tick = self.tick(now);
        let mut table = self.table.lock();
        let mut is_new = true;
        if let Some(loan) = table.get(key) {
            if loan.is_cooling() && !loan.is_on(tick) {
                table.remove(key);
            } else if loan.is_open() {
                is_new = false;
            } else {
                return false;
            }
        }
        let Some(loan) = table.place(key, server, tick) else { return false };
        loan.lend(server, extent, tick);
        if is_new {
            self.by_stripe[stripe].fetch_add(1, Ordering::SeqCst);
            self.keys.fetch_add(1, Ordering::Relaxed);
        }
        true
    }

    /// Whether a key is lent to anybody.
    pub(super) fn is_lent(&self, stripe: usize, key: LockKey, now: Instant) -> bool {
        if self.by_stripe[stripe].load(Ordering::SeqCst) == 0 {
            return false;
        }
        let tick = self.tick(now);
        self.table.lock().get(key).is_some_and(|loan| loan.is_open() && loan.is_on(tick))
    }

    /// Whether nothing is in the way of who changes `key`, having it in this mode; for assertions.
    pub(super) fn bears(&self, key: LockKey, mode: Mode, now: Instant) -> bool {
        let tick = self.tick(now);
        !self.table.lock().get(key).is_some_and(|loan| loan.forbids(mode, tick))
    }

    /// What has to be over before somebody gets the keys, whose stripes the caller has. All of them are called back at once.
    pub(super) fn outstanding(
        &self,
        keys: &[(LockKey, Mode)],
        of: fn(LockKey) -> usize,
    ) -> Option<Outstanding<'_>> {
        let inherited = self.inherited_until();
        if let Some(until) = inherited.filter(|_| keys.iter().any(|(_, mode)| *mode != Mode::Shared)) {
            return Some(Outstanding { given_back: None, until });
        }
        let is_suspect = |key: LockKey| self.by_stripe[of(key)].load(Ordering::SeqCst) > 0;
        if keys.iter().all(|(key, mode)| *mode == Mode::Shared || !is_suspect(*key)) {
            return None;
        }
        let mut table = self.table.lock();
        let now = Instant::now();
        let tick = self.tick(now);
        let mut first = None;
        let mut call = CallBack { keys: Vec::new(), servers: Vec::new(), until: now };
        for &(key, mode) in keys {
            let Some(loan) = table.get_mut(key).filter(|loan| loan.forbids(mode, tick)) else { continue };
            let until = loan.until(tick, now);
            if loan.call_back() {
                loan.turn(tick);
                call.keys.push(key);
                call.servers.extend(loan.servers());
                call.until = call.until.max(until);
            }
            first.get_or_insert_with(|| {
                // Before the lock is let go: what is given back from here on is noticed.
                let given_back = Some(self.waiting_place(of(key)).notified());
                Outstanding { given_back, until }
            });
        }
        drop(table);
        if !call.keys.is_empty() {
            call.servers.sort_unstable();
            call.servers.dedup();
            // Without anybody who calls back the lease ends by itself.
            let _ = self.calls.send(call);
        }
        first
    }

    fn waiting_place(&self, stripe: usize) -> &Notify {
        &self.waiting[stripe % WAITING_PLACES]
    }

    /// A server has given these back.
    pub fn returned(&self, keys: &[LockKey], server: ServerId, of: fn(LockKey) -> usize) {
        let tick = self.tick(Instant::now());
        let mut table = self.table.lock();
        for &key in keys {
            // Only what was called back cannot have been lent again meanwhile.
            let called_back = table.get_mut(key).filter(|loan| !loan.is_open() && !loan.is_cooling());
            if called_back.is_some_and(|loan| loan.give_back(server)) {
                table.cool(key, tick);
                self.ended(of(key), true);
            }
        }
    }

    /// A key is not lent any more.
    fn ended(&self, stripe: usize, was_called_back: bool) {
        self.by_stripe[stripe].fetch_sub(1, Ordering::SeqCst);
        self.keys.fetch_sub(1, Ordering::Relaxed);
        if was_called_back {
            self.waiting_place(stripe).notify_waiters();
        }
    }

    /// Forgets what is over.
    pub(super) fn tidy(&self, of: fn(LockKey) -> usize, now: Instant) {
        let tick = self.tick(now);
        self.table.lock().retain(|key, loan| {
            if loan.is_cooling() {
                return loan.is_on(tick);
            }
            // Servers that do not come back would stay as long as others do.
            loan.turn(tick);
            if loan.is_on(tick) && !loan.is_empty() {
                return true;
            }
            let was_called_back = !loan.is_open();
            if was_called_back {
                loan.cool(tick);
            }
            self.ended(of(key), was_called_back);
            was_called_back
        });
    }
}
