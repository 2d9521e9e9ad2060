//! What a holder has lent: for each file one generation, the servers with leases, and for each piece the order in which they asked for it.
//!
//! A change of a file (a write, a cut, a hole) is announced before it looks whether anything is lent, and a lease is entered before it is looked whether a
//! change is announced: one of the two sees the other. For files of which nothing is lent a change costs two additions and a look.
//!
//! # Invariants
//! - Of a generation nothing changes: a change that finds a file lent ends its generation (`a_change_ends_the_generation`).
//! - Nothing is lent while a change of the file is announced, nor for [`COOLING`] after one that found it lent.
//! - What is lent is counted in a part of the pool `hot_files` before it is: without room nothing more is lent, and who asks reads as if nothing were hot
//!   (`without_room_nothing_more_is_lent`). Not counted: 32 KiB of places for changes, and of each of at most two times [`FILES_MAX`] files that cool some 60 bytes.
//! - A server is named only to those that asked after it, so who waits for another never waits for itself (`the_tree_has_bounded_degree`).

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fs_proto::{ChunkIndex, InodeId, ServerId};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::part::{Part, PartCharge, in_table, shrink};
use super::{COOLING, FAN_OUT, LEASE_HELD, PieceKey};
use crate::error::OpResult;
use crate::kv::{Batch, Kv};
use crate::namespace::keys;

/// Places for announced changes; files share them.
const SLOTS: usize = 4096;
/// Files that are lent at once or cool, at most.
const FILES_MAX: usize = 4096;
/// Pieces of a file that are lent in one generation, at most.
const PIECES_MAX: usize = 65_536;
/// What things are counted with: their places in tables, which may be half empty.
const FILE_BYTES: usize = 512;
const LEASE_BYTES: usize = 64;
/// With its first askers.
const PIECE_BYTES: usize = 128;
const ASKER_BYTES: usize = 4;
/// Memory of a file is counted in steps.
const STEP_BYTES: usize = 1024;

const _: () = assert!(in_table(size_of::<(InodeId, File)>()) <= FILE_BYTES);
const _: () = assert!(in_table(size_of::<(ServerId, Instant)>()) <= LEASE_BYTES);
const _: () = assert!(in_table(size_of::<((ChunkIndex, u32), Vec<ServerId>)>()) + 32 <= PIECE_BYTES);
const _: () = assert!(2 * size_of::<ServerId>() <= ASKER_BYTES);

/// How long a change counts of which it is not known when it ends: longer than requests live.
const UNSURE: Duration = Duration::from_secs(60);
/// The fact that leases may be out.
const FACT: &str = "leases of hot files";

/// See the module.
pub struct Grants {
    slots: Vec<Slot>,
    state: Mutex<State>,
    memory: Part,
    generation: AtomicU64,
    files: AtomicUsize,
    started: Instant,
    /// Leases of before the start may be out.
    has_inherited: AtomicBool,
    /// Whether the store says that leases may be out.
    is_noted: Mutex<bool>,
}

#[derive(Default)]
struct Slot {
    changes: AtomicU32,
    lent: AtomicU32,
}

#[derive(Default)]
struct State {
    files: HashMap<InodeId, File>,
    cooling: HashMap<InodeId, Instant>,
    /// By place, changes of which it is not known when they end: until when they count, and how many.
    unsure: HashMap<usize, (Instant, u32)>,
}

struct File {
    generation: u64,
    leases: HashMap<ServerId, Instant>,
    pieces: HashMap<(ChunkIndex, u32), Vec<ServerId>>,
    /// Becomes true when all leases were called back.
    recalled: Option<watch::Receiver<bool>>,
    /// Bytes that it takes, and for how many there is room, held by `charges`.
    bytes: usize,
    counted: usize,
    charges: Vec<PartCharge>,
}

/// Memory for what a loan adds to a file.
struct Room {
    bytes: usize,
    counted: usize,
    charge: Option<PartCharge>,
    /// Of the server among those that asked for the piece before.
    place: Option<usize>,
}

impl File {
    fn new(generation: u64) -> File {
        File {
            generation,
            leases: HashMap::new(),
            pieces: HashMap::new(),
            recalled: None,
            bytes: 0,
            counted: 0,
            charges: Vec::new(),
        }
    }

    fn take(&mut self, room: Room) {
        self.bytes += room.bytes;
        self.counted += room.counted;
        self.charges.extend(room.charge);
    }
}

/// A lease, and where the piece is to be had.
#[derive(Debug, PartialEq, Eq)]
pub struct Lent {
    /// Of what is lent.
    pub generation: u64,
    /// The server that asked before, on whom the asker hangs, the one on whom that hangs, and so on; empty: from here.
    pub from: Vec<ServerId>,
}

/// A change that is announced; until it is done nothing is lent.
pub struct Change {
    grants: Arc<Grants>,
    slot: usize,
    is_done: bool,
}

impl Change {
    /// It is over, and will not come to anything later.
    pub fn done(mut self) {
        self.is_done = true;
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        if self.is_done {
            self.grants.slots[self.slot].changes.fetch_sub(1, Ordering::SeqCst);
        } else {
            // Whoever waited for it gave up, or it failed in the middle: something of it may still be under way.
            let until = Instant::now() + UNSURE;
            let mut state = self.grants.state.lock();
            let (end, count) = state.unsure.entry(self.slot).or_insert((until, 0));
            (*end, *count) = (until, *count + 1);
        }
    }
}

/// What a change has to wait for.
pub enum Lease {
    /// Nothing.
    None,
    /// Who changes calls these back, and then says so.
    Recall(Vec<(ServerId, Instant)>, watch::Sender<bool>),
    /// Somebody calls them back.
    Wait(watch::Receiver<bool>),
}

impl Grants {
    /// Those of a server with a namespace in `kv`. What a run before has lent is not known, but for that it has. What is lent is counted in
    /// `memory`.
    pub fn open(kv: &dyn Kv, memory: Part) -> Arc<Self> {
        let started = Instant::now();
        // If it cannot be read it is as if leases were out: that costs two seconds.
        let is_noted = !matches!(kv.get(&keys::fact(FACT)), Ok(None));
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Arc::new(Grants {
            slots: std::iter::repeat_with(Slot::default).take(SLOTS).collect(),
            state: Mutex::default(),
            memory,
            generation: AtomicU64::new((since.as_nanos() as u64).max(1)),
            files: AtomicUsize::new(0),
            started,
            has_inherited: AtomicBool::new(is_noted),
            is_noted: Mutex::new(is_noted),
        })
    }

    /// Files of which something is lent, or was not long ago.
    pub fn files(&self) -> usize {
        self.files.load(Ordering::Relaxed)
    }

    fn slot(&self, ino: InodeId) -> &Slot {
        &self.slots[ino.place(SLOTS)]
    }

    /// Announces a change of a file.
    pub fn announce(self: &Arc<Self>, ino: InodeId) -> Change {
        let slot = ino.place(SLOTS);
        self.slots[slot].changes.fetch_add(1, Ordering::SeqCst);
        Change { grants: Arc::clone(self), slot, is_done: false }
    }

    /// Whether something may be lent of a file. After [`Grants::announce`] a no is final.
    pub fn may_be_lent(&self, ino: InodeId) -> bool {
        self.slot(ino).lent.load(Ordering::SeqCst) > 0 || self.has_inherited.load(Ordering::Relaxed)
    }

    /// Until when leases that are not known any more may be out.
    pub fn inherited_until(&self) -> Option<Instant> {
        let until = self.started + LEASE_HELD;
        if self.has_inherited.load(Ordering::Relaxed) && Instant::now() < until {
            return Some(until);
        }
        self.has_inherited.store(false, Ordering::Relaxed);
        None
    }

    /// What an announced change has to wait for. It ends the generation.
    pub fn end(&self, ino: InodeId, now: Instant) -> Lease {
        let mut state = self.state.lock();
        let Some(file) = state.files.get_mut(&ino) else { return Lease::None };
        if let Some(recalled) = &file.recalled {
            return Lease::Wait(recalled.clone());
        }
        file.leases.retain(|_, until| *until > now);
        if file.leases.is_empty() {
            self.forget(&mut state, ino);
            return Lease::None;
        }
        let (done, recalled) = watch::channel(false);
        file.recalled = Some(recalled);
        let leases = file.leases.iter().map(|(server, until)| (*server, *until)).collect();
        state.cooling.retain(|_, until| *until > now);
        state.cooling.insert(ino, now + COOLING);
        Lease::Recall(leases, done)
    }

    /// All leases of a file were called back.
    pub fn ended(&self, ino: InodeId, done: &watch::Sender<bool>) {
        self.forget(&mut self.state.lock(), ino);
        done.send_replace(true);
    }

    fn forget(&self, state: &mut State, ino: InodeId) {
        if state.files.remove(&ino).is_some() {
            self.slot(ino).lent.fetch_sub(1, Ordering::SeqCst);
            self.files.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Whether the piece is lent to somebody already, so that whoever asks for it should borrow it, too.
    pub fn is_lent(&self, key: PieceKey, now: Instant) -> bool {
        if !self.may_be_lent(key.ino) {
            return false;
        }
        let state = self.state.lock();
        state.files.get(&key.ino).is_some_and(|file| {
            file.recalled.is_none()
                && file.pieces.contains_key(&(key.chunk, key.piece))
                && file.leases.values().any(|until| *until > now)
        })
    }

    /// Whether a file may be lent now.
    pub fn is_lendable(&self, ino: InodeId, now: Instant) -> bool {
        let state = self.state.lock();
        self.slot(ino).changes.load(Ordering::SeqCst) == 0
            && state.cooling.get(&ino).is_none_or(|until| *until <= now)
            && state.files.get(&ino).is_none_or(|file| file.recalled.is_none())
    }

    /// Lends a piece, and with it the file's others, to `server`. None: not now.
    pub fn lend(&self, key: PieceKey, server: ServerId, now: Instant) -> Option<Lent> {
        let slot = self.slot(key.ino);
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if state.cooling.get(&key.ino).is_some_and(|until| *until > now) {
            return None;
        }
        let is_full = |state: &State| {
            !state.files.contains_key(&key.ino) && state.files.len() + state.cooling.len() >= FILES_MAX
        };
        if is_full(state) {
            self.drop_ended(state, now);
        }
        let room = if is_full(state) { None } else { self.room(state, key, server, now) }?;
        let file = state.files.entry(key.ino).or_insert_with(|| {
            slot.lent.fetch_add(1, Ordering::SeqCst);
            self.files.fetch_add(1, Ordering::Relaxed);
            File::new(self.generation.fetch_add(1, Ordering::Relaxed))
        });
        // After it is said that something is lent: a change that did not see that is seen here.
        if file.recalled.is_some()
            || slot.changes.load(Ordering::SeqCst) > 0
            || file.pieces.len() > PIECES_MAX
        {
            if file.bytes == 0 {
                self.forget(state, key.ino);
            }
            return None;
        }
        file.leases.insert(server, now + LEASE_HELD);
        let askers = file.pieces.entry((key.chunk, key.piece)).or_default();
        let place = room.place.unwrap_or_else(|| {
            askers.push(server);
            askers.len() - 1
        });
        let lent = Lent { generation: file.generation, from: above(askers, place) };
        file.take(room);
        Some(lent)
    }

    /// Memory for a loan; of files whose leases are over, if there is no other.
    fn room(&self, state: &mut State, key: PieceKey, server: ServerId, now: Instant) -> Option<Room> {
        self.try_room(state, key, server).or_else(|| {
            self.drop_ended(state, now);
            self.try_room(state, key, server)
        })
    }

    fn try_room(&self, state: &State, key: PieceKey, server: ServerId) -> Option<Room> {
        let file = state.files.get(&key.ino).filter(|file| file.bytes > 0);
        let askers = file.and_then(|file| file.pieces.get(&(key.chunk, key.piece)));
        let place = askers.and_then(|askers| askers.iter().position(|asker| *asker == server));
        let parts = [
            (file.is_none(), FILE_BYTES),
            (file.is_none_or(|file| !file.leases.contains_key(&server)), LEASE_BYTES),
            (askers.is_none(), PIECE_BYTES),
            (place.is_none(), ASKER_BYTES),
        ];
        let mut bytes: usize = parts.iter().filter(|(is_new, _)| *is_new).map(|(_, bytes)| bytes).sum();
        let (used, counted) = file.map_or((0, 0), |file| (file.bytes, file.counted));
        if used + bytes <= counted {
            return Some(Room { bytes, counted: 0, charge: None, place });
        }
        // With the charge itself, twice in a list that grows.
        bytes += 2 * size_of::<PartCharge>();
        let counted = (used + bytes - counted).next_multiple_of(STEP_BYTES);
        Some(Room { bytes, counted, charge: Some(self.memory.try_get(counted)?), place })
    }

    fn drop_ended(&self, state: &mut State, now: Instant) {
        state.cooling.retain(|_, until| *until > now);
        let is_over =
            |file: &File| file.recalled.is_none() && file.leases.values().all(|until| *until <= now);
        let over: Vec<InodeId> =
            state.files.iter().filter(|(_, file)| is_over(file)).map(|(ino, _)| *ino).collect();
        for ino in over {
            self.forget(state, ino);
        }
        shrink(&mut state.files);
        shrink(&mut state.cooling);
    }

    /// Has the store say that leases may be out, before the first is told.
    pub fn note(&self, kv: &dyn Kv) -> OpResult<()> {
        let mut is_noted = self.is_noted.lock();
        if !*is_noted {
            let mut batch = Batch::default();
            batch.put(keys::fact(FACT), Vec::new());
            kv.commit(batch)?;
            *is_noted = true;
        }
        Ok(())
    }

    /// Forgets what is over. `is_all` is whether nothing else is lent by this server.
    pub fn tidy(&self, kv: &dyn Kv, now: Instant, is_all: impl Fn() -> bool) -> OpResult<()> {
        let mut is_noted = self.is_noted.lock();
        let mut state = self.state.lock();
        self.drop_ended(&mut state, now);
        for (slot, (_, count)) in state.unsure.extract_if(|_, (until, _)| *until <= now) {
            self.slots[slot].changes.fetch_sub(count, Ordering::SeqCst);
        }
        let is_out = !state.files.is_empty() || now < self.started + LEASE_HELD || !is_all();
        drop(state);
        if *is_noted && !is_out {
            let mut batch = Batch::default();
            batch.delete(keys::fact(FACT));
            kv.commit(batch)?;
            *is_noted = false;
        }
        Ok(())
    }
}

/// Those above `place` in a tree in which the first [`FAN_OUT`] hang on the holder, and the next on those, in order.
fn above(askers: &[ServerId], mut place: usize) -> Vec<ServerId> {
    let mut from = Vec::new();
    while place >= FAN_OUT {
        place = place / FAN_OUT - 1;
        from.push(askers[place]);
    }
    from
}
