//! Pieces of hot files that are kept here for this node's clients and for other servers, the leases under which, and who is fetching what.
//!
//! # Invariants
//! - What is found was lent, and neither called back nor over, at the moment when it is found (`only_what_is_lent_is_found`).
//! - What was under way when its file was called back is not kept when it arrives (`what_arrives_after_a_recall_is_not_kept`).
//! - Memory of pieces is counted in the pool before it is used; the piece that was unused for longest makes room.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fs_net::PoolStats;
use fs_proto::{InodeId, ServerId};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::part::{Part, PartCharge};
use super::whole::Whole;
use super::{HINT, LEASE, PieceKey, SHUN};

/// Files that are taken for hot at once, at most.
const HINTS_MAX: usize = 4096;

/// See the module.
pub struct Kept {
    state: Mutex<State>,
    memory: Part,
    hints: AtomicUsize,
}

#[derive(Default)]
struct State {
    hints: HashMap<InodeId, Instant>,
    leases: HashMap<(InodeId, ServerId), Lease>,
    pieces: HashMap<PieceKey, Piece>,
    flights: HashMap<PieceKey, Flight>,
    shunned: HashMap<ServerId, Instant>,
    /// Grows with every use of a piece, and with every flight.
    turn: u64,
}

#[derive(Clone, Copy)]
struct Lease {
    generation: u64,
    until: Instant,
}

struct Piece {
    holder: ServerId,
    generation: u64,
    data: Whole,
    used: u64,
}

/// A piece that is being asked for.
struct Flight {
    number: u64,
    holder: ServerId,
    /// Closed when it is over.
    over: watch::Receiver<()>,
}

/// What a reader finds.
pub enum Found<'a> {
    /// The piece, and its generation.
    Data(Whole, u64),
    /// Somebody asks for it: to be looked for again afterwards.
    Coming(watch::Receiver<()>),
    /// The reader is to ask for it.
    Ask(Asking<'a>),
}

/// The right to ask for a piece. Others wait until it is dropped.
pub struct Asking<'a> {
    kept: &'a Kept,
    key: PieceKey,
    number: u64,
    holder: ServerId,
    /// Generation of what is there already; 0: nothing.
    pub have: u64,
    since: Instant,
    _over: watch::Sender<()>,
}

impl Kept {
    /// Nothing yet; at most as much as `memory` has.
    pub fn new(memory: Part) -> Self {
        Kept { state: Mutex::default(), memory, hints: AtomicUsize::new(0) }
    }

    /// Figures of its part of the pool.
    pub fn memory(&self) -> PoolStats {
        self.memory.stats()
    }

    /// Pieces that are kept.
    pub fn len(&self) -> usize {
        self.state.lock().pieces.len()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether any file is taken for hot.
    pub fn is_any_hot(&self) -> bool {
        self.hints.load(Ordering::Relaxed) > 0
    }

    /// Whether a file is taken for hot.
    pub fn is_hot(&self, ino: InodeId, now: Instant) -> bool {
        self.is_any_hot() && self.state.lock().hints.get(&ino).is_some_and(|until| *until > now)
    }

    /// Its holder says that a file is hot, or a reader finds it so.
    pub fn note_hot(&self, ino: InodeId, now: Instant) {
        let mut state = self.state.lock();
        if state.hints.len() >= HINTS_MAX {
            state.hints.retain(|_, until| *until > now);
        }
        if state.hints.len() < HINTS_MAX {
            state.hints.insert(ino, now + HINT);
        }
        self.hints.store(state.hints.len(), Ordering::Relaxed);
    }

    /// A file is not hot.
    pub fn note_cold(&self, ino: InodeId) {
        let mut state = self.state.lock();
        state.hints.remove(&ino);
        self.hints.store(state.hints.len(), Ordering::Relaxed);
    }

    /// Looks for a piece that `holder` has.
    pub fn find(&self, key: PieceKey, holder: ServerId, now: Instant) -> Found<'_> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        state.turn += 1;
        let lease = state.leases.get(&(key.ino, holder)).filter(|lease| lease.until > now);
        let piece = state.pieces.get_mut(&key).filter(|piece| piece.holder == holder);
        let have = piece.as_ref().map_or(0, |piece| piece.generation);
        if let (Some(lease), Some(piece)) = (lease, piece)
            && lease.generation == piece.generation
        {
            piece.used = state.turn;
            let data = piece.data.clone();
            // Who reads what is kept keeps it hot.
            if let Some(until) = state.hints.get_mut(&key.ino) {
                *until = now + HINT;
            }
            return Found::Data(data, lease.generation);
        }
        if let Some(flight) = state.flights.get(&key) {
            return Found::Coming(flight.over.clone());
        }
        let (over, flight_over) = watch::channel(());
        let number = state.turn;
        state.flights.insert(key, Flight { number, holder, over: flight_over });
        Found::Ask(Asking { kept: self, key, number, holder, have, since: now, _over: over })
    }

    /// Whether a piece is here or on its way.
    pub fn knows(&self, key: PieceKey) -> bool {
        let state = self.state.lock();
        state.pieces.contains_key(&key) || state.flights.contains_key(&key)
    }

    /// A piece of a certain generation, which never changes, for another server; or what it is to wait for.
    pub fn pass_on(&self, key: PieceKey, generation: u64) -> Result<Whole, Option<watch::Receiver<()>>> {
        let state = self.state.lock();
        match state.pieces.get(&key).filter(|piece| piece.generation == generation) {
            Some(piece) => Ok(piece.data.clone()),
            None => Err(state.flights.get(&key).map(|flight| flight.over.clone())),
        }
    }

    /// The holder calls back what it has lent of a file.
    pub fn drop_file(&self, ino: InodeId, holder: ServerId) {
        let mut state = self.state.lock();
        state.leases.remove(&(ino, holder));
        state.flights.retain(|key, flight| key.ino != ino || flight.holder != holder);
        state.pieces.retain(|key, piece| key.ino != ino || piece.holder != holder);
        state.hints.remove(&ino);
        self.hints.store(state.hints.len(), Ordering::Relaxed);
    }

    /// Forgets what is over.
    pub fn tidy(&self, now: Instant) {
        let mut state = self.state.lock();
        state.hints.retain(|_, until| *until > now);
        state.leases.retain(|_, lease| lease.until > now);
        state.shunned.retain(|_, until| *until > now);
        let State { hints, pieces, .. } = &mut *state;
        // Files of which nobody reads give their memory back.
        pieces.retain(|key, _| hints.contains_key(&key.ino));
        self.hints.store(hints.len(), Ordering::Relaxed);
    }

    /// A server did not answer.
    pub fn shun(&self, server: ServerId, now: Instant) {
        self.state.lock().shunned.insert(server, now + SHUN);
    }

    /// Whether a server did not answer lately.
    pub fn is_shunned(&self, server: ServerId, now: Instant) -> bool {
        self.state.lock().shunned.get(&server).is_some_and(|until| *until > now)
    }

    /// Memory for a piece, of which those unused for longest go. None: there is not so much.
    fn room(&self, bytes: usize) -> Option<PartCharge> {
        loop {
            if let Some(charge) = self.memory.try_get(bytes) {
                return Some(charge);
            }
            let mut state = self.state.lock();
            let oldest = state.pieces.iter().min_by_key(|(_, piece)| piece.used).map(|(key, _)| *key)?;
            let gone = state.pieces.remove(&oldest);
            drop(state);
            drop(gone);
        }
    }
}

impl Asking<'_> {
    /// What was kept is right for as long as a new lease says. Answers whether that holds.
    pub fn renewed(&self, lease: Duration) -> bool {
        let mut state = self.kept.state.lock();
        self.lease(&mut state, self.have, lease)
    }

    /// The piece has arrived under a lease of a generation; answers whether it may be used by those who wait for it.
    pub fn arrived(&self, generation: u64, lease: Duration, data: &Whole) -> bool {
        let copy = self.kept.room(data.len()).map(|charge| data.copied(charge));
        let mut state = self.kept.state.lock();
        if !self.lease(&mut state, generation, lease) {
            return false;
        }
        let (holder, used) = (self.holder, state.turn);
        let old = match copy {
            Some(data) => state.pieces.insert(self.key, Piece { holder, generation, data, used }),
            None => state.pieces.remove(&self.key),
        };
        drop(state);
        drop(old);
        true
    }

    fn lease(&self, state: &mut State, generation: u64, lease: Duration) -> bool {
        let until = self.since + lease.min(LEASE);
        let is_standing = state.flights.get(&self.key).is_some_and(|flight| flight.number == self.number);
        if !is_standing || until <= Instant::now() {
            return false;
        }
        let lease = Lease { generation, until };
        let entry = state.leases.entry((self.key.ino, self.holder)).or_insert(lease);
        if entry.generation != generation || entry.until < until {
            *entry = lease;
        }
        true
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let mut state = self.kept.state.lock();
        if state.flights.get(&self.key).is_some_and(|flight| flight.number == self.number) {
            state.flights.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    //! Goal: what the module promises. Method: one reader after the other, with moments that are made up where they matter.
    use super::*;
    use fs_net::Budget;
    use fs_proto::ChunkIndex;

    const HOLDER: ServerId = ServerId(1);
    const INO: InodeId = InodeId(7);

    fn key(piece: u32) -> PieceKey {
        PieceKey { ino: INO, chunk: ChunkIndex(0), piece }
    }

    fn whole(bytes: usize) -> Whole {
        let data = bytes::Bytes::from(vec![7; bytes]);
        let sum = fs_proto::checksum::crc(&data);
        Whole::verified(data, sum).expect("its sum is right")
    }

    fn kept(bytes: usize) -> Kept {
        let kept = Kept::new(Part::of(&Budget::new(bytes), bytes as u64));
        kept.note_hot(INO, Instant::now());
        kept
    }

    fn ask(kept: &Kept, piece: u32) -> Asking<'_> {
        match kept.find(key(piece), HOLDER, Instant::now()) {
            Found::Ask(asking) => asking,
            Found::Data(..) | Found::Coming(_) => panic!("it is not there, and nobody asks"),
        }
    }

    fn has(kept: &Kept, piece: u32, now: Instant) -> bool {
        matches!(kept.find(key(piece), HOLDER, now), Found::Data(..))
    }

    #[test]
    fn only_what_is_lent_is_found() {
        let (kept, now) = (kept(1 << 20), Instant::now());
        assert!(ask(&kept, 0).arrived(5, LEASE, &whole(5)));
        assert!(has(&kept, 0, now) && !has(&kept, 0, now + LEASE * 2), "the lease ends");
        let asking = ask_again(&kept, now + LEASE * 2);
        assert_eq!(asking.have, 5);
        drop(asking);
        // Another piece comes with a lease of the next generation: the first is of none any more.
        assert!(ask(&kept, 1).arrived(6, LEASE, &whole(6)));
        assert!(has(&kept, 1, now) && !has(&kept, 0, now));
        kept.drop_file(INO, HOLDER);
        assert!(!has(&kept, 1, now) && kept.is_empty() && !kept.is_hot(INO, now));
    }

    fn ask_again(kept: &Kept, now: Instant) -> Asking<'_> {
        match kept.find(key(0), HOLDER, now) {
            Found::Ask(asking) => asking,
            Found::Data(..) | Found::Coming(_) => panic!("the lease is over"),
        }
    }

    #[test]
    fn what_arrives_after_a_recall_is_not_kept() {
        let kept = kept(1 << 20);
        let asking = ask(&kept, 0);
        assert!(matches!(kept.find(key(0), HOLDER, Instant::now()), Found::Coming(_)));
        kept.drop_file(INO, HOLDER);
        let next = ask(&kept, 0);
        assert!(!asking.arrived(5, LEASE, &whole(7)) && kept.is_empty());
        drop(asking);
        assert!(next.arrived(6, LEASE, &whole(8)), "the next is not in its way");
    }

    #[test]
    fn what_comes_too_late_is_not_kept() {
        let kept = kept(1 << 20);
        assert!(!ask(&kept, 0).arrived(5, Duration::ZERO, &whole(7)) && kept.is_empty());
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let kept = kept(10_000);
        for piece in 0..100 {
            assert!(ask(&kept, piece).arrived(5, LEASE, &whole(1_000)));
            assert!(has(&kept, 0, Instant::now()), "what is used stays");
        }
        assert!(kept.len() == 10 && kept.memory().used == 10_000, "{:?}", kept.memory());
        assert!(ask(&kept, 200).arrived(5, LEASE, &whole(20_000)) && kept.is_empty(), "more than there is");
    }

    #[test]
    fn what_nobody_reads_goes() {
        let kept = kept(10_000);
        assert!(ask(&kept, 0).arrived(5, LEASE, &whole(5)));
        kept.tidy(Instant::now());
        assert_eq!(kept.len(), 1);
        kept.tidy(Instant::now() + HINT * 2);
        assert!(kept.is_empty() && kept.memory().used == 0);
    }
}
