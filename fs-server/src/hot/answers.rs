//! Answers about names and inodes that are kept here for this node's clients, under leases of their homes, and who is asking for what.
//!
//! # Invariants
//! - What is found was lent, and neither called back nor over, at the moment when it is found (`only_what_is_lent_is_found`).
//! - An answer that was under way when anything was called back is not kept (`what_arrives_after_a_recall_is_not_kept`), and nobody who
//!   asks after that waits for it.
//! - Memory of answers is counted in the pool before it is used; what was unused for longest makes room (`what_is_kept_is_bounded`).

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fs_proto::msg::hot::HOT_ANSWER_MS;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::HINT;
use super::part::{Part, PartCharge};
use super::question::Said;
use crate::namespace::locks::LockKey;

/// Answers that are kept at once, at most.
const ANSWERS_MAX: usize = 8192;
/// Part of the answers that make room at once, as a divisor: they are looked for among all.
const SHED_PART: usize = 16;
/// What an answer is counted with besides its bytes: its places in tables, its keys.
const ANSWER_BYTES: usize = 512;

const LEASE: Duration = Duration::from_millis(HOT_ANSWER_MS as u64);
const _: () = assert!(LEASE.as_millis() < super::LEASE_HELD.as_millis());

/// See the module.
pub struct Answers {
    state: Mutex<State>,
    memory: Part,
    /// How often something was called back.
    recalls: AtomicU64,
    count: AtomicUsize,
}

#[derive(Default)]
struct State {
    kept: HashMap<Bytes, Kept>,
    flights: HashMap<Bytes, Flight>,
    /// Grows with every flight.
    turn: u64,
}

struct Kept {
    /// None: it is known only that this is lent.
    said: Option<Said>,
    keys: Vec<LockKey>,
    until: Instant,
    used: Instant,
    _charge: PartCharge,
}

/// A question that was sent to the home.
struct Flight {
    number: u64,
    recalls: u64,
    /// Closed when it is over.
    over: watch::Receiver<()>,
}

/// The moment when something is asked.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    since: Instant,
    recalls: u64,
}

impl Mark {
    /// Its time.
    pub fn since(self) -> Instant {
        self.since
    }

    /// Whether the answer to what was asked now may still be kept for who asks at `later`.
    pub fn may_serve(self, later: Mark) -> bool {
        self.recalls == later.recalls && later.since < self.since + LEASE
    }

    /// One that is made up.
    #[cfg(test)]
    pub fn at(since: Instant, recalls: u64) -> Mark {
        Mark { since, recalls }
    }
}

/// What somebody finds who asks.
pub enum Found<'a> {
    /// The answer.
    Answer(Said),
    /// Somebody asks the same: to be looked for again afterwards.
    Coming(watch::Receiver<()>),
    /// It is to be asked for, by who finds this.
    Ask(Asking<'a>),
    /// It is not hot.
    Cold,
}

/// The right to ask for all. Others wait until it is dropped.
pub struct Asking<'a> {
    answers: &'a Answers,
    key: Bytes,
    number: u64,
    /// When it began.
    pub mark: Mark,
    _over: watch::Sender<()>,
}

impl Answers {
    /// Nothing yet; at most as much as `memory` has.
    pub fn new(memory: Part) -> Self {
        Answers { state: Mutex::default(), memory, recalls: AtomicU64::new(0), count: AtomicUsize::new(0) }
    }

    /// Answers that are kept.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// For who asks now.
    pub fn mark(&self) -> Mark {
        // The recalls first: what is called back from here on is noticed.
        let recalls = self.recalls.load(Ordering::SeqCst);
        Mark { since: Instant::now(), recalls }
    }

    /// Looks for an answer.
    pub fn find(&self, key: &Bytes) -> Found<'_> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let mark = self.mark();
        let Some(kept) = state.kept.get_mut(key) else { return Found::Cold };
        kept.used = mark.since;
        if kept.until > mark.since
            && let Some(said) = &kept.said
        {
            return Found::Answer(said.clone());
        }
        if let Some(flight) = state.flights.get(key).filter(|flight| flight.recalls == mark.recalls) {
            return Found::Coming(flight.over.clone());
        }
        state.turn += 1;
        let (over, flight_over) = watch::channel(());
        let number = state.turn;
        let flight = Flight { number, recalls: mark.recalls, over: flight_over };
        state.flights.insert(key.clone(), flight);
        Found::Ask(Asking { answers: self, key: key.clone(), number, mark, _over: over })
    }

    /// Keeps an answer that was lent to who asked at `mark`; without `said` only that it is lent. Answers whether that holds.
    pub fn keep(&self, key: &Bytes, mark: Mark, said: Option<&Said>, keys: Vec<LockKey>) -> bool {
        let until = mark.since + LEASE;
        let size = |said: &Said| said.meta.len() + said.bulk.len();
        let bytes = ANSWER_BYTES + key.len() + said.map_or(0, size);
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if self.recalls.load(Ordering::SeqCst) != mark.recalls || until <= Instant::now() {
            return false;
        }
        if said.is_none() && state.kept.contains_key(key) {
            return false;
        }
        self.remove(state, key);
        let Some(charge) = self.room(state, bytes) else { return false };
        // Copies, not to keep the buffers that it came in.
        let copied = |said: &Said| Said {
            status: said.status,
            meta: Bytes::copy_from_slice(&said.meta),
            bulk: Bytes::copy_from_slice(&said.bulk),
        };
        let used = mark.since;
        let kept = Kept { said: said.map(copied), keys, until, used, _charge: charge };
        state.kept.insert(Bytes::copy_from_slice(key), kept);
        self.count.store(state.kept.len(), Ordering::Relaxed);
        true
    }

    /// An answer is not lent any more.
    pub fn cold(&self, key: &Bytes) {
        self.remove(&mut self.state.lock(), key);
    }

    /// A home calls back all that depends on these.
    pub fn forget(&self, keys: &[LockKey]) {
        let mut guard = self.state.lock();
        self.recalls.fetch_add(1, Ordering::SeqCst);
        self.retain(&mut guard, |kept| !kept.keys.iter().any(|key| keys.contains(key)));
    }

    /// Forgets what nobody asks for.
    pub fn tidy(&self, now: Instant) {
        self.retain(&mut self.state.lock(), |kept| kept.used + HINT > now);
    }

    fn retain(&self, state: &mut State, stays: impl Fn(&Kept) -> bool) {
        state.kept.retain(|_, kept| stays(kept));
        self.count.store(state.kept.len(), Ordering::Relaxed);
    }

    fn remove(&self, state: &mut State, key: &Bytes) {
        if state.kept.remove(key).is_some() {
            self.count.store(state.kept.len(), Ordering::Relaxed);
        }
    }

    /// Memory for an answer, of which those unused for longest go. None: there is not so much.
    fn room(&self, state: &mut State, bytes: usize) -> Option<PartCharge> {
        loop {
            if state.kept.len() < ANSWERS_MAX
                && let Some(charge) = self.memory.try_get(bytes)
            {
                return Some(charge);
            }
            let mut used: Vec<Instant> = state.kept.values().map(|kept| kept.used).collect();
            let last = used.len().checked_sub(1)?;
            let limit = *used.select_nth_unstable(last / SHED_PART).1;
            self.retain(state, |kept| kept.used > limit);
        }
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let mut state = self.answers.state.lock();
        if state.flights.get(&self.key).is_some_and(|flight| flight.number == self.number) {
            state.flights.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    //! Goal: what the module promises. Method: one after the other, with moments that are made up where they matter.
    use super::*;
    use fs_net::Budget;
    use fs_proto::{InodeId, Status};

    const KEY: Bytes = Bytes::from_static(b"what");
    const INO: LockKey = LockKey::Inode(InodeId(7));

    fn said(bytes: usize) -> Said {
        Said { status: Status::Ok, meta: Bytes::from(vec![1; bytes]), bulk: Bytes::new() }
    }

    fn answers(bytes: usize) -> Answers {
        Answers::new(Part::of(&Budget::new(bytes), bytes as u64))
    }

    fn keep(answers: &Answers, mark: Mark) -> bool {
        answers.keep(&KEY, mark, Some(&said(5)), vec![INO])
    }

    fn has(answers: &Answers) -> bool {
        matches!(answers.find(&KEY), Found::Answer(_))
    }

    #[test]
    fn only_what_is_lent_is_found() {
        let answers = answers(10_000);
        assert!(matches!(answers.find(&KEY), Found::Cold));
        assert!(keep(&answers, answers.mark()) && has(&answers));
        answers.forget(&[LockKey::Inode(InodeId(8))]);
        assert!(has(&answers), "another was called back");
        answers.forget(&[INO]);
        assert!(answers.is_empty() && answers.memory.stats().used == 0);
    }

    #[test]
    fn a_lease_ends_and_one_asks_for_all() {
        let answers = answers(10_000);
        let since = |ago| Instant::now().checked_sub(ago).expect("the machine runs for longer");
        let soon = Mark { since: since(LEASE) + Duration::from_millis(50), ..answers.mark() };
        assert!(keep(&answers, soon));
        while has(&answers) {
            std::thread::yield_now();
        }
        let Found::Ask(asking) = answers.find(&KEY) else { panic!("it is over") };
        assert!(matches!(answers.find(&KEY), Found::Coming(_)));
        assert!(keep(&answers, asking.mark));
        drop(asking);
        assert!(has(&answers));
        assert!(!keep(&answers, Mark { since: since(LEASE), ..answers.mark() }), "it comes too late");
    }

    #[test]
    fn what_arrives_after_a_recall_is_not_kept() {
        let answers = answers(10_000);
        assert!(answers.keep(&KEY, answers.mark(), None, vec![INO]), "it is known to be lent");
        let Found::Ask(asking) = answers.find(&KEY) else { panic!("nothing is there yet") };
        answers.forget(&[LockKey::Inode(InodeId(8))]);
        let Found::Ask(next) = answers.find(&KEY) else {
            panic!("nobody waits for what is older than a recall")
        };
        assert!(!keep(&answers, asking.mark));
        drop(asking);
        assert!(matches!(answers.find(&KEY), Found::Coming(_)), "the next is not in its way");
        assert!(keep(&answers, next.mark) && has(&answers));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let answers = answers(10_000);
        for number in 0..100_u8 {
            let key = Bytes::copy_from_slice(&[number]);
            assert!(answers.keep(&key, answers.mark(), Some(&said(487)), vec![INO]));
            assert!(matches!(answers.find(&key), Found::Answer(_)));
        }
        assert!(answers.len() == 10 && answers.memory.stats().used == 10_000, "{:?}", answers.memory.stats());
        assert!(!answers.keep(&KEY, answers.mark(), Some(&said(20_000)), vec![INO]), "more than there is");
        answers.tidy(Instant::now() + HINT * 2);
        assert!(answers.is_empty() && answers.memory.stats().used == 0);
    }
}
