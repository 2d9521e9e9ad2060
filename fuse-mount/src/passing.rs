//! Which of the kernel's inodes is open in which way: through this process, or past it, by the kernel reading a copy of the file by itself (passthrough).
//!
//! The kernel does not mix the two on an inode: while one is open past this process, every opening has to be, with the same copy, and as soon as one is not no
//! other can be (`EIO`; fs/fuse/iomode.c). So an opening that must not see an old copy, or that writes, goes to **another inode of the kernel for the same file**:
//! it is answered `ESTALE`, on which the kernel looks the name up again, and finds the other number. What is open stays with the old one until it is closed.
//! `docs/decisions/0052-passthrough.md`.
//!
//! # Invariants
//! - Openings of one number are all past this process, with one copy, or all through it (`ways_are_never_mixed`).
//! - Whoever is sent elsewhere finds an inode that is not open in the way that does not suit (`who_is_sent_elsewhere_finds_a_place`).
//! - Other numbers go when neither the kernel nor anybody else knows them (`numbers_go_with_who_knows_them`).
//!
//! One owner: the adapter. One lock, held for a few loads and stores. Where passthrough is not asked for nothing is counted.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// First of the numbers that stand for a file beside its own. No inode of Hayate has one: it would be the last of some 34 billion that one server allocated, as the
/// last of the servers that there can be, for the last partition.
const OTHERS: u64 = u64::MAX - (1 << 32);
/// How long nothing is opened past this process at a new number: whoever was sent there has opened it by then.
const SETTLING: Duration = Duration::from_secs(5);
/// Threads that are remembered to have been sent elsewhere.
const SENT_MAX: usize = 1024;
/// How long they are: the kernel comes again at once.
pub(crate) const SECOND_ATTEMPT: Duration = Duration::from_secs(1);
/// Files known by another number, from which on it is looked which of them need not be any more.
const CURRENT_MANY: usize = 256;

/// See the module. `B`: what the kernel knows a copy by.
pub(crate) struct Passing<B> {
    enabled: AtomicBool,
    /// The kernel did not take a copy: it will not take others.
    refused: AtomicBool,
    state: Mutex<State<B>>,
    opened: AtomicU64,
}

struct State<B> {
    open: HashMap<u64, Node<B>>,
    others: HashMap<u64, Other>,
    /// By file, the number that look-ups answer if it is not its own.
    current: HashMap<u64, u64>,
    last: u64,
    /// By thread, the number from which it was sent elsewhere.
    sent: HashMap<u32, (u64, Instant)>,
}

/// An open inode of the kernel's.
struct Node<B> {
    count: u32,
    /// The copy's number, if it is open past this process.
    past: Option<(u64, B)>,
}

/// A number beside a file's own.
struct Other {
    ino: u64,
    /// How often the kernel was told of it and has not forgotten it.
    known: u64,
    made: Instant,
}

/// How an opening goes on.
pub(crate) enum Way<B> {
    /// Through this process.
    Through(Seat<B>),
    /// Past it.
    Past(Seat<B>, B),
    /// At another number: the name is to be looked up again.
    Elsewhere,
    /// Nowhere: the kernel came again without looking the name up, as for /proc/self/fd.
    Nowhere,
}

/// An opening; counted out when dropped.
pub(crate) struct Seat<B> {
    table: Option<Arc<Passing<B>>>,
    node: u64,
}

/// Who opens what.
#[derive(Clone, Copy)]
pub(crate) struct Opener {
    /// The kernel's number of the inode.
    pub(crate) node: u64,
    /// The file.
    pub(crate) ino: u64,
    /// The thread.
    pub(crate) thread: u32,
}

impl<B: Clone> Passing<B> {
    /// Nothing is open. Until [`Passing::enable`] everything goes through this process.
    pub(crate) fn new() -> Self {
        Passing {
            enabled: AtomicBool::new(false),
            refused: AtomicBool::new(false),
            state: Mutex::new(State {
                open: HashMap::new(),
                others: HashMap::new(),
                current: HashMap::new(),
                last: OTHERS,
                sent: HashMap::new(),
            }),
            opened: AtomicU64::new(0),
        }
    }

    /// The kernel offers it. Before the first opening.
    pub(crate) fn enable(&self) {
        self.enabled.store(true, Ordering::Relaxed);
    }

    /// Whether files may be opened past this process.
    pub(crate) fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::Relaxed)
    }

    /// The kernel did not take a copy. Answers whether that is news.
    pub(crate) fn refuse(&self) -> bool {
        !self.refused.swap(true, Ordering::Relaxed)
    }

    /// Whether more files may be.
    pub(crate) fn goes_on(&self) -> bool {
        self.is_enabled() && !self.refused.load(Ordering::Relaxed)
    }

    /// Files that were opened past this process.
    pub(crate) fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    /// The file that the kernel knows by this number.
    pub(crate) fn file_of(&self, node: u64) -> u64 {
        if node <= OTHERS || !self.is_enabled() {
            return node;
        }
        self.state.lock().others.get(&node).map_or(node, |other| other.ino)
    }

    /// The number by which the kernel is told of a file, once more.
    pub(crate) fn tell(&self, ino: u64) -> u64 {
        if !self.is_enabled() {
            return ino;
        }
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let Some(node) = state.current.get(&ino).copied() else { return ino };
        if let Some(other) = state.others.get_mut(&node) {
            other.known += 1;
        }
        node
    }

    /// The kernel forgets what it was told so often.
    pub(crate) fn forget(&self, node: u64, times: u64) {
        if node <= OTHERS || !self.is_enabled() {
            return;
        }
        let mut state = self.state.lock();
        if let Some(other) = state.others.get_mut(&node) {
            other.known = other.known.saturating_sub(times);
            state.tidy(node);
        }
    }

    /// What the kernel knows the copy of this number by, if it is open already.
    pub(crate) fn known(&self, node: u64, copy: u64) -> Option<B> {
        let state = self.state.lock();
        let (number, backing) = state.open.get(&node)?.past.as_ref()?;
        (*number == copy).then(|| backing.clone())
    }

    /// Whether an opening of this inode could be past this process, as far as others are concerned.
    pub(crate) fn may_pass(&self, node: u64) -> bool {
        if !self.goes_on() {
            return false;
        }
        let state = self.state.lock();
        state.is_settled(node) && state.open.get(&node).is_none_or(|open| open.past.is_some())
    }

    /// Counts an opening in: past this process by `copy`, if that is there and nothing stands against it.
    pub(crate) fn enter(self: &Arc<Self>, who: Opener, copy: Option<(u64, B)>) -> Way<B> {
        if !self.is_enabled() {
            return Way::Through(Seat { table: None, node: who.node });
        }
        let mut guard = self.state.lock();
        let state = &mut *guard;
        // Again, as a server was asked since.
        let is_settled = state.is_settled(who.node);
        let open = state.open.entry(who.node).or_insert(Node { count: 0, past: None });
        let past = match (&open.past, &copy) {
            (Some((number, backing)), Some((wanted, _))) if number == wanted => Some(backing.clone()),
            (Some(_), _) => return state.send_elsewhere(who),
            (None, Some((number, backing))) if open.count == 0 && is_settled => {
                open.past = Some((*number, backing.clone()));
                Some(backing.clone())
            }
            (None, _) => None,
        };
        open.count += 1;
        state.sent.remove(&who.thread);
        drop(guard);
        let seat = Seat { table: Some(Arc::clone(self)), node: who.node };
        match past {
            Some(backing) => {
                self.opened.fetch_add(1, Ordering::Relaxed);
                Way::Past(seat, backing)
            }
            None => Way::Through(seat),
        }
    }

    /// Counts an opening in that is made by way of another, whatever that goes by.
    pub(crate) fn join(self: &Arc<Self>, node: u64) -> (Seat<B>, Option<B>) {
        if !self.is_enabled() {
            return (Seat { table: None, node }, None);
        }
        let mut state = self.state.lock();
        let open = state.open.entry(node).or_insert(Node { count: 0, past: None });
        open.count += 1;
        let backing = open.past.as_ref().map(|(_, backing)| backing.clone());
        (Seat { table: Some(Arc::clone(self)), node }, backing)
    }
}

impl<B> Passing<B> {
    fn leave(&self, node: u64) {
        let mut state = self.state.lock();
        let Some(open) = state.open.get_mut(&node) else { return };
        open.count -= 1;
        if open.count > 0 {
            return;
        }
        let gone = state.open.remove(&node);
        let ino = state.others.get(&node).map_or(node, |other| other.ino);
        state.settle(ino);
        state.tidy(node);
        drop(state);
        // Telling the kernel that the copy is not needed any more.
        drop(gone);
    }
}

impl<B> State<B> {
    /// Look-ups of the file answer another number from now on, unless they do already.
    fn send_elsewhere(&mut self, who: Opener) -> Way<B> {
        self.sent.retain(|_, (_, when)| when.elapsed() < SECOND_ATTEMPT);
        if self.sent.get(&who.thread).is_some_and(|(node, _)| *node == who.node) {
            self.sent.remove(&who.thread);
            return Way::Nowhere;
        }
        if self.sent.len() < SENT_MAX {
            self.sent.insert(who.thread, (who.node, Instant::now()));
        }
        self.find_place(who);
        Way::Elsewhere
    }

    fn find_place(&mut self, who: Opener) {
        let old = self.current.get(&who.ino).copied();
        let is_through =
            |node: &u64| *node != who.node && self.open.get(node).is_none_or(|open| open.past.is_none());
        if let Some(other) = old.filter(is_through).and_then(|node| self.others.get_mut(&node)) {
            // Nobody opens it past this process before he is there.
            other.made = Instant::now();
            return;
        }
        if self.current.len() >= CURRENT_MANY {
            self.settle_all();
        }
        self.last += 1;
        self.others.insert(self.last, Other { ino: who.ino, known: 0, made: Instant::now() });
        self.current.insert(who.ino, self.last);
    }

    /// Whether everybody who was sent to this number has opened it.
    fn is_settled(&self, node: u64) -> bool {
        self.others.get(&node).is_none_or(|other| other.made.elapsed() >= SETTLING)
    }

    /// A file is known by its own number again when it is open by no other.
    fn settle(&mut self, ino: u64) {
        let Some(node) = self.current.get(&ino).copied() else { return };
        if self.is_settled(node) && !self.open.contains_key(&ino) && !self.open.contains_key(&node) {
            self.current.remove(&ino);
            self.tidy(node);
        }
    }

    fn settle_all(&mut self) {
        let inos: Vec<u64> = self.current.keys().copied().collect();
        for ino in inos {
            self.settle(ino);
        }
    }

    fn tidy(&mut self, node: u64) {
        let Some(other) = self.others.get(&node) else { return };
        if other.known == 0 && !self.open.contains_key(&node) && self.current.get(&other.ino) != Some(&node) {
            self.others.remove(&node);
        }
    }
}

impl<B> Seat<B> {
    /// The kernel's number of the inode.
    pub(crate) fn node(&self) -> u64 {
        self.node
    }
}

impl<B> Drop for Seat<B> {
    fn drop(&mut self) {
        if let Some(table) = self.table.take() {
            table.leave(self.node);
        }
    }
}

#[cfg(test)]
mod tests {
    //! Goal: what the module promises. Method: openings of one file by threads, and what the kernel would do on each answer.
    use super::*;

    const INO: u64 = 7;

    type Table = Arc<Passing<&'static str>>;

    fn table() -> Table {
        let table = Arc::new(Passing::new());
        table.enable();
        table
    }

    fn at(node: u64, thread: u32) -> Opener {
        Opener { node, ino: INO, thread }
    }

    fn past(table: &Table, node: u64, copy: u64) -> Seat<&'static str> {
        match table.enter(at(node, 1), Some((copy, "copy"))) {
            Way::Past(seat, _) => seat,
            _ => panic!("past the process"),
        }
    }

    fn through(table: &Table, node: u64) -> Seat<&'static str> {
        match table.enter(at(node, 1), None) {
            Way::Through(seat) => seat,
            _ => panic!("through the process"),
        }
    }

    /// Whoever was sent to this number has opened it.
    fn settled(table: &Table, node: u64) {
        table.state.lock().others.get_mut(&node).expect("known").made -= SETTLING;
    }

    fn is_sent(table: &Table, node: u64, thread: u32, copy: Option<u64>) -> bool {
        matches!(table.enter(at(node, thread), copy.map(|copy| (copy, "copy"))), Way::Elsewhere)
    }

    #[test]
    fn ways_are_never_mixed() {
        let table = table();
        let first = past(&table, INO, 1);
        let second = past(&table, INO, 1);
        assert_eq!(table.known(INO, 1), Some("copy"));
        assert!(table.known(INO, 2).is_none());
        assert!(is_sent(&table, INO, 2, None) && is_sent(&table, INO, 3, Some(2)));
        drop(first);
        assert!(is_sent(&table, INO, 4, None), "the second is still open");
        drop(second);
        let _through = through(&table, INO);
        // With a copy or without: the first says how.
        assert!(matches!(table.enter(at(INO, 1), Some((3, "copy"))), Way::Through(_)));
        assert!(!table.may_pass(INO) && table.opened() == 2);
    }

    #[test]
    fn who_is_sent_elsewhere_finds_a_place() {
        let table = table();
        let old = past(&table, INO, 1);
        assert_eq!(table.tell(INO), INO);
        assert!(is_sent(&table, INO, 2, None));
        let other = table.tell(INO);
        assert!(other != INO && table.file_of(other) == INO && !table.may_pass(other));
        assert!(is_sent(&table, INO, 3, None) && table.tell(INO) == other, "all who come now find the same");
        let writer = through(&table, other);
        drop(old);
        assert_eq!(table.tell(INO), other, "as long as somebody has it open there");
        drop(writer);
        assert_eq!(table.file_of(INO), INO);
    }

    #[test]
    fn who_is_sent_elsewhere_is_not_sent_to_another_copy() {
        let table = table();
        let _old = past(&table, INO, 1);
        assert!(is_sent(&table, INO, 2, None));
        let other = table.tell(INO);
        settled(&table, other);
        let _newer = past(&table, other, 2);
        // By a name that still leads to the old one, after the file has changed again.
        assert!(is_sent(&table, INO, 3, None));
        let third = table.tell(INO);
        assert!(third != INO && third != other, "it is open by the second copy");
        let _writer = through(&table, third);
        settled(&table, third);
        assert!(is_sent(&table, INO, 4, None) && table.tell(INO) == third && !table.may_pass(third));
    }

    #[test]
    fn who_comes_again_to_the_same_place_is_told_so() {
        let table = table();
        let _old = past(&table, INO, 1);
        assert!(is_sent(&table, INO, 2, None));
        assert!(matches!(table.enter(at(INO, 2), None), Way::Nowhere));
        assert!(is_sent(&table, INO, 2, None), "the next call begins anew");
        let Way::Through(_new) = table.enter(at(table.tell(INO), 2), None) else { panic!("a place") };
        assert!(is_sent(&table, INO, 2, None), "by another name that leads to the old one");
    }

    #[test]
    fn numbers_go_with_who_knows_them() {
        let table = table();
        let old = past(&table, INO, 1);
        assert!(is_sent(&table, INO, 2, None));
        let other = table.tell(INO);
        let writer = through(&table, other);
        settled(&table, other);
        drop(old);
        drop(writer);
        assert_eq!(table.tell(INO), INO, "nobody has it open: it is itself again");
        assert_eq!(table.file_of(other), INO, "the kernel knows it still");
        table.forget(other, 1);
        let state = table.state.lock();
        assert!(state.others.is_empty() && state.current.is_empty() && state.open.is_empty());
    }

    #[test]
    fn nothing_is_counted_unless_it_is_asked_for() {
        let table: Table = Arc::new(Passing::new());
        assert!(matches!(table.enter(at(INO, 1), Some((1, "copy"))), Way::Through(_)));
        assert!(table.state.lock().open.is_empty() && !table.may_pass(INO) && table.tell(INO) == INO);
    }
}
