//! Memory that is counted before it is used: a fixed number of bytes, given out to peers by turns.
//!
//! A peer is a client or a server, however many connections it has: its [`Account`] counts what it holds. Decision 0018.
//!
//! # Invariants
//! - What was got (not [`Budget::charge`]d) never exceeds the size, nor a class its limit (`pool/tests.rs`, `budget_is_never_exceeded`).
//! - Peers that wait are served by turns, whatever they ask and however often (`a_greedy_peer_gets_its_turn_and_no_more`).
//! - No peer alone holds more than twice what it leaves free (`a_peer_that_lets_nothing_go_leaves_room`).
//! - Within a class and a peer, order is kept; a class waits while a higher one waits for room (`pool/tests.rs`, `waiters_are_served_in_order`).
//! - A wait that is dropped, even after its grant, loses nothing (`pool/tests.rs`, `a_dropped_get_gives_its_grant_back`).
//!
//! The lock is held for operations on lists only.

mod turns;

use parking_lot::Mutex;
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use fs_proto::msg::session::Role;
use turns::{Turn, Turns};

/// Classes of a budget.
pub(crate) const CLASSES: usize = 4;
/// Bytes that a turn brings in a budget for small things.
const SMALL_TURN_BYTES: usize = 2 << 10;
/// How much of what is free a peer may hold.
const SHARE_OF_FREE: usize = 2;

/// What memory is for, and so how much of the budget may be in use when it is given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum BufferClass {
    /// Data that a client sends: a quarter.
    ClientRequest = 0,
    /// Buffers that the process fills itself, such as reads from its store: half.
    Local = 1,
    /// Data that a server answers: three quarters.
    PeerReply = 2,
    /// Data that another server sends; it is carried out here without further buffers: all.
    PeerRequest = 3,
}

/// State of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolStats {
    /// Budget in bytes.
    pub size: u64,
    /// Bytes given out.
    pub used: u64,
    /// Most bytes ever given out.
    pub peak: u64,
    /// How often somebody had to wait.
    pub waits: u64,
    /// How long they waited in all, in nanoseconds.
    pub wait_ns: u64,
    /// How many wait now.
    pub waiting: u64,
    /// Bytes kept for reuse.
    pub idle: u64,
}

/// The budget. Clones share it.
#[derive(Clone)]
pub struct Budget(Arc<Inner>);

struct Inner {
    size: usize,
    limits: [usize; CLASSES],
    /// Where in an account its counters are, and how many.
    counters: Range<usize>,
    /// Changed under `state`'s lock only.
    used: AtomicUsize,
    state: Mutex<State>,
    shares: Mutex<Shares>,
}

struct State {
    waiting: [Turns<Waiter>; CLASSES],
    granted: Vec<u64>,
    next_ticket: u64,
    /// The class in which somebody waits for room; it and lower ones wait with him.
    blocked: Option<usize>,
    peak: usize,
    waits: u64,
    wait_ns: u64,
}

#[derive(Default)]
struct Shares {
    by_peer: HashMap<Peer, Weak<Held>>,
    /// Size at which entries of peers that are gone are dropped.
    tidy_at: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Peer {
    Client(u64),
    Server(u16),
}

/// Counters of an account: of the buffers by class, and one each of messages and connections.
const COUNTERS: usize = CLASSES + 2;

/// What a peer holds of the budgets of a process. Clones are of the same peer.
#[derive(Debug, Clone)]
pub struct Account(Arc<Held>);

#[derive(Debug)]
struct Held {
    /// Place in the turns; 0 is this process itself.
    number: u64,
    /// Each changed under its budget's lock only.
    held: [AtomicUsize; COUNTERS],
}

struct Waiter {
    ticket: u64,
    bytes: usize,
    share: Option<Account>,
    waker: Waker,
}

/// Bytes of a budget in use; they go back when dropped.
pub struct Charge {
    budget: Budget,
    share: Option<Account>,
    class: BufferClass,
    bytes: usize,
}

impl Budget {
    /// A budget of `bytes`, all of it for every class.
    pub fn new(bytes: usize) -> Budget {
        Budget::with_limits(bytes, [bytes; CLASSES], SMALL_TURN_BYTES)
    }

    /// As [`Budget::new`], counted in accounts beside a buffer pool: for messages.
    pub fn for_messages(bytes: usize) -> Budget {
        Budget::made(bytes, [bytes; CLASSES], SMALL_TURN_BYTES, CLASSES..CLASSES + 1)
    }

    /// As [`Budget::new`], counted in accounts beside a buffer pool: for connections.
    pub fn for_connections(bytes: usize) -> Budget {
        Budget::made(bytes, [bytes; CLASSES], SMALL_TURN_BYTES, CLASSES + 1..COUNTERS)
    }

    /// A budget of `bytes`, in which each class finds room only below its limit, and peers that wait are served `turn_bytes` at a time.
    pub(crate) fn with_limits(size: usize, limits: [usize; CLASSES], turn_bytes: usize) -> Budget {
        Budget::made(size, limits, turn_bytes, 0..CLASSES)
    }

    fn made(size: usize, limits: [usize; CLASSES], turn_bytes: usize, counters: Range<usize>) -> Budget {
        let state = State {
            waiting: std::array::from_fn(|_| Turns::new(turn_bytes)),
            granted: Vec::new(),
            next_ticket: 0,
            blocked: None,
            peak: 0,
            waits: 0,
            wait_ns: 0,
        };
        let (used, state, shares) = (AtomicUsize::new(0), Mutex::new(state), Mutex::default());
        Budget(Arc::new(Inner { size, limits, counters, used, state, shares }))
    }

    /// The account of a peer; budgets that share accounts get it from one of them.
    pub fn account(&self, role: &Role) -> Account {
        let peer = match role {
            Role::Client { id } => Peer::Client(id.0),
            Role::Server { id } => Peer::Server(id.0),
        };
        self.0.shares.lock().of(peer)
    }

    /// Bytes that there are.
    pub(crate) fn size(&self) -> usize {
        self.0.size
    }

    /// Bytes that a peer holds in a class.
    pub fn held(&self, class: BufferClass, share: &Account) -> usize {
        self.0.held(share, class).load(Ordering::Relaxed)
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }

    /// Whether a peer may take `bytes` more without waiting. A guess: nothing is taken.
    pub fn has_room(&self, class: BufferClass, share: Option<&Account>, bytes: usize) -> bool {
        let used = self.used();
        used + bytes <= self.0.limits[class as usize] && self.0.is_within(used, class, share, bytes)
    }

    /// Counts `bytes` that are in use already, whether there is room or not.
    pub fn charge(&self, class: BufferClass, share: Option<&Account>, bytes: usize) -> Charge {
        let mut state = self.0.state.lock();
        self.0.take(&mut state, class, share, bytes);
        Charge { budget: self.clone(), share: share.cloned(), class, bytes }
    }

    /// `bytes`, if there is room now and nobody is to be served before.
    pub fn try_get(&self, class: BufferClass, share: Option<&Account>, bytes: usize) -> Option<Charge> {
        let mut state = self.0.state.lock();
        let number = share.map_or(0, |share| share.0.number);
        let is_behind = state.blocked.is_some_and(|blocked| class as usize <= blocked)
            || state.waiting[class as usize].has(number);
        if is_behind || !self.has_room(class, share, bytes) {
            return None;
        }
        self.0.take(&mut state, class, share, bytes);
        Some(Charge { budget: self.clone(), share: share.cloned(), class, bytes })
    }

    /// `bytes` (at most the class's limit), when it is the peer's turn. May be dropped at any time.
    pub fn get(&self, class: BufferClass, share: Option<&Account>, bytes: usize) -> Wait {
        let (budget, share) = (self.clone(), share.cloned());
        Wait { budget, share, class, bytes, ticket: None, since: Instant::now() }
    }

    /// The budget's figures.
    pub fn stats(&self) -> PoolStats {
        let state = self.0.state.lock();
        PoolStats {
            size: self.0.size as u64,
            used: self.used() as u64,
            peak: state.peak as u64,
            waits: state.waits,
            wait_ns: state.wait_ns,
            waiting: state.waiting.iter().map(|turns| turns.len() as u64).sum(),
            idle: 0,
        }
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stats().fmt(f)
    }
}

impl Shares {
    fn of(&mut self, peer: Peer) -> Account {
        if let Some(held) = self.by_peer.get(&peer).and_then(Weak::upgrade) {
            return Account(held);
        }
        if self.by_peer.len() >= self.tidy_at {
            self.by_peer.retain(|_, held| held.strong_count() > 0);
            self.tidy_at = (2 * self.by_peer.len()).max(64);
        }
        let number = match peer {
            Peer::Client(id) => id << 1 | 1,
            Peer::Server(id) => u64::from(id) << 1 | 1 << 63,
        };
        let held = Arc::new(Held { number, held: Default::default() });
        self.by_peer.insert(peer, Arc::downgrade(&held));
        Account(held)
    }
}

impl Inner {
    fn held<'a>(&self, account: &'a Account, class: BufferClass) -> &'a AtomicUsize {
        &account.0.held[self.counters.start + (class as usize).min(self.counters.len() - 1)]
    }

    /// Whether `bytes` more keep a peer within its part. Who holds nothing may always have something.
    fn is_within(&self, used: usize, class: BufferClass, share: Option<&Account>, bytes: usize) -> bool {
        let Some(share) = share else { return true };
        let held = self.held(share, class).load(Ordering::Relaxed);
        let free = self.limits[class as usize].saturating_sub(used);
        held == 0 || held + bytes <= free.saturating_mul(SHARE_OF_FREE)
    }

    fn take(&self, state: &mut State, class: BufferClass, share: Option<&Account>, bytes: usize) {
        let used = self.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        state.peak = state.peak.max(used);
        if let Some(share) = share {
            self.held(share, class).fetch_add(bytes, Ordering::Relaxed);
        }
    }

    fn give_back(&self, class: BufferClass, share: Option<&Account>, bytes: usize) {
        let mut wakers = Vec::new();
        {
            let mut state = self.state.lock();
            self.used.fetch_sub(bytes, Ordering::Relaxed);
            if let Some(share) = share {
                self.held(share, class).fetch_sub(bytes, Ordering::Relaxed);
            }
            self.serve(&mut state, &mut wakers);
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Lets waiters in, highest class first, until one finds no room.
    fn serve(&self, state: &mut State, wakers: &mut Vec<Waker>) {
        state.blocked = None;
        for class in
            [BufferClass::PeerRequest, BufferClass::PeerReply, BufferClass::Local, BufferClass::ClientRequest]
        {
            loop {
                let decide = |waiter: &Waiter| {
                    let used = self.used.load(Ordering::Relaxed);
                    if !self.is_within(used, class, waiter.share.as_ref(), waiter.bytes) {
                        Turn::Pass
                    } else if used + waiter.bytes > self.limits[class as usize] {
                        Turn::Stop
                    } else {
                        Turn::Take(waiter.bytes)
                    }
                };
                match state.waiting[class as usize].next(decide) {
                    Ok(Some(waiter)) => {
                        self.take(state, class, waiter.share.as_ref(), waiter.bytes);
                        state.granted.push(waiter.ticket);
                        wakers.push(waiter.waker);
                    }
                    Ok(None) => break,
                    Err(turns::Stopped) => {
                        state.blocked = Some(class as usize);
                        return;
                    }
                }
            }
        }
    }
}

impl State {
    fn claim(&mut self, ticket: u64) -> bool {
        let found = self.granted.iter().position(|&granted| granted == ticket);
        found.map(|at| self.granted.swap_remove(at)).is_some()
    }
}

/// What a [`Charge`] stands for, of one that was kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kept {
    class: BufferClass,
    bytes: u32,
}

impl Budget {
    /// Gives back what [`Charge::keep`] kept, from the account that it was on.
    pub(crate) fn give_back(&self, kept: Kept, share: &Account) {
        self.0.give_back(kept.class, Some(share), kept.bytes as usize);
    }
}

impl Charge {
    /// Leaves it in use: whoever knows budget and account anyway gives it back by [`Budget::give_back`], and has no pointers to them for it.
    pub(crate) fn keep(self) -> Kept {
        debug_assert!(u32::try_from(self.bytes).is_ok(), "what a connection is counted with");
        let kept = Kept { class: self.class, bytes: self.bytes as u32 };
        let mut charge = self;
        charge.bytes = 0;
        kept
    }

    /// Puts it on account of a peer that is known by now.
    pub fn assign(&mut self, share: Account) {
        let _changing = self.budget.0.state.lock();
        if let Some(before) = &self.share {
            self.budget.0.held(before, self.class).fetch_sub(self.bytes, Ordering::Relaxed);
        }
        self.budget.0.held(&share, self.class).fetch_add(self.bytes, Ordering::Relaxed);
        self.share = Some(share);
    }

    /// Bytes that it stands for.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl fmt::Debug for Charge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Charge({} bytes)", self.bytes)
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.budget.0.give_back(self.class, self.share.as_ref(), self.bytes);
        }
    }
}

/// Waits for its turn and for room.
pub struct Wait {
    budget: Budget,
    share: Option<Account>,
    class: BufferClass,
    bytes: usize,
    ticket: Option<u64>,
    since: Instant,
}

impl Wait {
    fn number(&self) -> u64 {
        self.share.as_ref().map_or(0, |share| share.0.number)
    }

    fn enqueue(&self, state: &mut State, cx: &Context<'_>, wakers: &mut Vec<Waker>) -> u64 {
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.waits += 1;
        let (share, waker) = (self.share.clone(), cx.waker().clone());
        state.waiting[self.class as usize]
            .push(self.number(), Waiter { ticket, bytes: self.bytes, share, waker });
        // Something may have come back between the first try and now.
        self.budget.0.serve(state, wakers);
        ticket
    }
}

impl Future for Wait {
    type Output = Charge;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Charge> {
        let budget = self.budget.clone();
        let mut wakers = Vec::new();
        let mut state = budget.0.state.lock();
        let ticket = match self.ticket {
            Some(ticket) => ticket,
            None => self.enqueue(&mut state, cx, &mut wakers),
        };
        self.ticket = Some(ticket);
        let is_granted = state.claim(ticket);
        if is_granted {
            self.ticket = None;
            state.wait_ns += self.since.elapsed().as_nanos() as u64;
        } else {
            let mut waiting = state.waiting[self.class as usize].of(self.number());
            if let Some(waiter) = waiting.find(|waiter| waiter.ticket == ticket) {
                waiter.waker.clone_from(cx.waker());
            }
        }
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        if !is_granted {
            return Poll::Pending;
        }
        Poll::Ready(Charge { budget, share: self.share.take(), class: self.class, bytes: self.bytes })
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let inner = &self.budget.0;
        let mut wakers = Vec::new();
        let mut state = inner.state.lock();
        state.wait_ns += self.since.elapsed().as_nanos() as u64;
        if state.claim(ticket) {
            drop(state);
            inner.give_back(self.class, self.share.as_ref(), self.bytes);
            return;
        }
        state.waiting[self.class as usize].remove(self.number(), |waiter| waiter.ticket == ticket);
        inner.serve(&mut state, &mut wakers);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests;
