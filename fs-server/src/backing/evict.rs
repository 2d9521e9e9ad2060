//! Making room: files whose copies in the shared tier are up to date lose their chunks, the coldest first, about.
//!
//! # Invariants
//! - Only what its home found clean under the inode's hold is evicted, and a holder drops nothing of a file that was written to since it was last
//!   copied from here (`tests/flush`: `what_is_dirty_or_pinned_stays`).
//! - The row that says where a file is fetched from is committed, and with `--durability device` synced, before its chunks go.
//! - Nobody reads, writes or fetches chunks while they go (`claims`).
//! - Who finds no room waits as long as something that can be evicted afterwards is on its way to a tier that has room, however long that is away
//!   (`tests/flush`: `writers_wait_for_a_tier_that_is_away`), and no longer (`a_full_tier_makes_no_hope`, `files_that_the_tier_refuses_make_no_hope`).
//! - Nobody is told that there is none because of an answer from before he came (`tests/flush`: `who_writes_right_after_the_closing_waits`; below,
//!   `a_promise_holds_and_its_absence_does_not`).

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fs_proto::msg::tier::{EvictChunks, EvictNow, TierHope, TierHoped, TierSource};
use fs_proto::record::{InodeRecord, Mutation};
use fs_proto::{ChunkIndex, FileKind, InodeId, Placement, ServerId, Status, TimeNs};
use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::claims::Alone;
use super::dirty::Dirty;
use super::{home, pins, rows};
use crate::error::{OpError, OpResult};
use crate::hash::{Cache, cache};
use crate::hot::grants::Change;
use crate::hot::holder;
use crate::namespace::decode_record;
use crate::namespace::keys;
use crate::namespace::locks::{HoldGuard, LockKey, LockSet, Mode};
use crate::node::Node;
use crate::ops::setattr::holders;
use crate::overflow;
use crate::store::{ChunkStore, StoreStats};
use crate::worker::Worker;

/// Percent of what a store can hold: above the first, files are evicted until it holds less than the second.
const MARKS: (u64, u64) = (80, 70);
/// Between two looks at the marks.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// After a round in which nothing could be evicted.
const REST: Duration = Duration::from_millis(500);
/// How long waiting for room is worth while after the last bit of it was made, or promised.
pub const HOPE: Duration = Duration::from_secs(10);
/// After so long without movement servers are asked whether some will come.
const ASK_AFTER: Duration = Duration::from_secs(2);
/// How long they may take to answer.
const ANSWER_TIME: Duration = Duration::from_secs(3);
/// How long what they said holds.
const TOLD_LASTS: Duration = Duration::from_millis(500);
/// Inodes that are compared at a time, of which half may go.
const SAMPLE: usize = 256;
/// Samples of one request, and how many of them may be empty.
const SAMPLES_MAX: (usize, usize) = (64, 16);
/// Files that are held at a time: who wants one of them waits for looks at all of them.
const GROUP: usize = 16;
/// A file that was evicted is not looked at again for so long.
const AGAIN: Duration = Duration::from_secs(3);
/// How long a file that is in use is waited for.
const BUSY: Duration = Duration::from_millis(200);
/// Files of which it is known when they were used, or evicted.
const KNOWN: usize = 64 << 10;

/// To who waited for room long enough to be asked again.
pub const WAITING: OpError =
    OpError::new(Status::Waiting, "waiting for room: files are copied to the shared tier");

/// State of one server.
pub struct Evictor {
    /// Files that lost chunks here since the start.
    pub files: AtomicU64,
    /// Bytes of them.
    pub bytes: AtomicU64,
    full: AtomicBool,
    episode: Mutex<Episode>,
    /// What servers said last of what they have for the tier. Who wants to know waits for who asks.
    told: watch::Sender<Told>,
    /// Somebody asks them.
    is_asking: AtomicBool,
    dirty: Dirty,
    hand: tokio::sync::Mutex<Vec<u8>>,
    used: Cache<InodeId, TimeNs>,
    emptied: Cache<InodeId, Instant>,
}

/// What servers said, when they were asked, and when all had answered.
#[derive(Clone, Copy, Default)]
struct Told {
    asked: Option<Instant>,
    answered: Option<Instant>,
    is_promised: bool,
}

impl Told {
    /// What that says to somebody who wants to know since `since`: a promise holds for a while, but nobody is told to give up because of an answer from before he
    /// came. Somebody may have closed the file that he waits for.
    fn answer(&self, since: Instant) -> Option<bool> {
        self.answered.filter(|answered| answered.elapsed() < TOLD_LASTS)?;
        (self.is_promised || self.asked >= Some(since)).then_some(self.is_promised)
    }
}

/// The turn to ask servers. Ends also if who has it goes.
struct Turn<'a>(&'a Evictor);

impl<'a> Turn<'a> {
    fn take(evictor: &'a Evictor) -> Option<Self> {
        (!evictor.is_asking.swap(true, Ordering::AcqRel)).then_some(Turn(evictor))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.is_asking.store(false, Ordering::Release);
        // Who waits looks again, and takes the turn if nothing was told.
        self.0.told.send_modify(|_| ());
    }
}

/// A time in which writes found no room.
struct Episode {
    last_full: Option<Instant>,
    moved: u64,
    since: Instant,
}

impl Default for Evictor {
    fn default() -> Self {
        Evictor {
            files: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            full: AtomicBool::new(false),
            episode: Mutex::new(Episode { last_full: None, moved: 0, since: Instant::now() }),
            told: watch::Sender::default(),
            is_asking: AtomicBool::new(false),
            dirty: Dirty::default(),
            hand: tokio::sync::Mutex::default(),
            used: cache(KNOWN),
            emptied: cache(KNOWN),
        }
    }
}

impl Evictor {
    /// Files that were written to here.
    pub fn dirty(&self) -> &Dirty {
        &self.dirty
    }

    /// A file that lives here is opened.
    pub fn note_use(&self, ino: InodeId, now: TimeNs) {
        self.used.insert(ino, now);
        self.emptied.remove(&ino);
    }

    /// A write found no room.
    pub fn note_full(&self) {
        self.full.store(true, Ordering::Release);
        self.episode.lock().last_full = Some(Instant::now());
    }

    /// How long nothing has moved that makes room; None if nothing can.
    fn quiet(&self, node: &Node) -> Option<Duration> {
        let has_tier = node.flusher.has_tier();
        if !has_tier && !node.overflow.is_hopeful() {
            return None;
        }
        if has_tier && node.is_forgetful() {
            return Some(Duration::ZERO);
        }
        let given = node.overflow.sent_bytes();
        // Not what was copied: that may be in vain, again and again. While a large file is copied, servers say that it is on its way.
        let published = node.namespace.published().counts().1;
        let moved = published + self.bytes.load(Ordering::Relaxed) + given;
        let mut episode = self.episode.lock();
        let is_new = episode.last_full.is_none_or(|last| last.elapsed() > HOPE);
        if is_new || episode.moved != moved {
            (episode.moved, episode.since) = (moved, Instant::now());
        }
        Some(episode.since.elapsed())
    }
}

/// Whether room is being made, or will be when the tier is back, so that waiting for it makes sense.
pub async fn is_hopeful(worker: &Rc<Worker>) -> bool {
    let (node, evictor) = (&worker.node, &worker.node.backing.evictor);
    let Some(quiet) = evictor.quiet(node) else { return false };
    if quiet < ASK_AFTER || !node.flusher.has_tier() {
        return quiet < HOPE;
    }
    let promised = is_promised(worker).await;
    if promised {
        // For as long as if something had moved: a server may be too busy for the next answer.
        evictor.episode.lock().since = Instant::now();
    }
    promised || quiet < HOPE
}

/// As [`ask_all`], of which there is one at a time.
async fn is_promised(worker: &Rc<Worker>) -> bool {
    let (evictor, since) = (&worker.node.backing.evictor, Instant::now());
    let mut told = evictor.told.subscribe();
    loop {
        let known = *told.borrow_and_update();
        if let Some(is_promised) = known.answer(since) {
            return is_promised;
        }
        if let Some(_turn) = Turn::take(evictor) {
            let asked = Some(Instant::now());
            let is_promised = ask_all(worker).await;
            evictor.told.send_replace(Told { asked, answered: Some(Instant::now()), is_promised });
            return is_promised;
        }
        // Its sender lives as long as the server.
        let _ = told.changed().await;
    }
}

/// Whether a server has something to flush that makes room, and none that has says that the tier is full. What lies here may be any server's to flush.
async fn ask_all(worker: &Rc<Worker>) -> bool {
    let asked = worker.node.stores().into_iter().map(|server| async move {
        let answer = tokio::time::timeout(ANSWER_TIME, worker.ask(server, &TierHope {})).await;
        answer.ok()?.ok()
    });
    let answers: Vec<TierHoped> = join_all(asked).await.into_iter().flatten().collect();
    answers.iter().any(|hoped| hoped.waits) && !answers.iter().any(|hoped| hoped.waits && hoped.is_full)
}

/// What a store can hold, in bytes.
fn capacity(stats: &StoreStats) -> u64 {
    stats.total_bytes.min(stats.disk_bytes + stats.free_bytes)
}

/// Bytes that are to go so that the store is below its low mark; 0 while it is below the high one. One that is full below its low mark, too, has room
/// to come from compaction, and is left alone if that is enough.
fn surplus(stats: &StoreStats, is_full: bool) -> u64 {
    let capacity = capacity(stats);
    let mark = |percent: u64| capacity / 100 * percent;
    let over = stats.live_bytes.saturating_sub(mark(MARKS.1));
    let is_coming = over == 0 && stats.disk_bytes.saturating_sub(stats.live_bytes) >= mark(5);
    match (stats.live_bytes > mark(MARKS.0), is_full) {
        (true, _) => over,
        (false, true) if is_coming => 0,
        (false, true) => over.max(mark(5)),
        (false, false) => 0,
    }
}

/// Evicts whenever this server's store is above its mark, until the server ends.
pub async fn run(worker: Rc<Worker>) {
    let node = Arc::clone(&worker.node);
    if !node.flusher.has_tier() {
        return;
    }
    let mut pause = LOOK_EVERY;
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = node.stopped() => return,
        }
        let is_full = node.backing.evictor.full.swap(false, Ordering::AcqRel);
        let bytes = surplus(&node.store.stats(), is_full);
        pause = LOOK_EVERY;
        if bytes > 0 && ask_homes(&worker, bytes).await == 0 {
            pause = REST;
        }
    }
}

/// Files of all homes lie here: each frees its part of what is wanted. What one has not is asked of all again.
async fn ask_homes(worker: &Rc<Worker>, bytes: u64) -> u64 {
    let homes = worker.node.stores();
    let request = EvictNow { bytes: bytes.div_ceil(homes.len().max(1) as u64), server: worker.node.id() };
    let asked = homes.into_iter().map(|server| {
        let request = &request;
        async move { worker.ask(server, request).await.unwrap_or(0) }
    });
    join_all(asked).await.into_iter().sum()
}

/// Evicts files that live here until what is wanted is free at the server that wants it, or all were looked at.
pub async fn evict(worker: &Rc<Worker>, wanted: EvictNow) -> OpResult<u64> {
    let node = &worker.node;
    if node.is_forgetful() {
        return Ok(0);
    }
    // Else another request moves the hand already.
    let Ok(mut hand) = node.backing.evictor.hand.try_lock() else { return Ok(0) };
    let (mut freed, mut empty) = (0, 0);
    for _ in 0..SAMPLES_MAX.0 {
        let (mut sample, is_end) = sample(node, &mut hand)?;
        empty += usize::from(sample.is_empty());
        sample.sort_by_key(|(used, _)| *used);
        sample.truncate(sample.len().div_ceil(2));
        let inos: Vec<_> = sample.into_iter().map(|(_, ino)| ino).collect();
        for group in inos.chunks(GROUP) {
            freed += evict_files(worker, group, wanted.server).await?;
            if freed >= wanted.bytes {
                return Ok(freed);
            }
        }
        if is_end || empty >= SAMPLES_MAX.1 {
            break;
        }
        // A sample may be thousands of inodes of which none can go.
        tokio::task::yield_now().await;
    }
    Ok(freed)
}

/// The next files that may go, with the time of their last use; whether the hand came round.
fn sample(node: &Node, hand: &mut Vec<u8>) -> OpResult<(Vec<(TimeNs, InodeId)>, bool)> {
    let (first, to) = keys::range_of_kind(b'i');
    let from = if hand.is_empty() { first } else { [&hand[..], &[0]].concat() };
    let (mut found, mut failure, mut looked) = (Vec::new(), None, 0);
    node.namespace.kv().scan(&from, &to, &mut |key, value| {
        looked += 1;
        hand.clear();
        hand.extend_from_slice(key);
        match decode_record::<InodeRecord>(bytes::Bytes::copy_from_slice(value)) {
            Ok(inode) if may_go(node, &inode) => found.push((last_use(node, &inode), inode.attr.ino)),
            Ok(_) => {}
            Err(error) => failure = Some(error),
        }
        let goes_on = found.len() < SAMPLE && looked < 16 * SAMPLE && failure.is_none();
        if goes_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    let is_end = found.len() < SAMPLE && looked < 16 * SAMPLE;
    if is_end {
        hand.clear();
    }
    failure.map_or(Ok((found, is_end)), Err)
}

/// A first look, without any lock.
fn may_go(node: &Node, inode: &InodeRecord) -> bool {
    let attr = &inode.attr;
    let lately = node.backing.evictor.emptied.get(&attr.ino).is_some_and(|then| then.elapsed() < AGAIN);
    attr.kind == FileKind::File
        && !attr.inline
        && attr.size > 0
        && attr.layout.placement != Placement::Writer
        && home::is_clean(node, inode)
        && !lately
}

fn last_use(node: &Node, inode: &InodeRecord) -> TimeNs {
    let attr = &inode.attr;
    if node.opens.is_open(attr.ino) {
        return TimeNs::MAX;
    }
    node.backing.evictor.used.get(&attr.ino).unwrap_or(attr.mtime.max(attr.atime))
}

/// A file whose inode is held and that can go.
struct Ready {
    ino: InodeId,
    source: TierSource,
    who: Vec<ServerId>,
    _hold: HoldGuard,
}

/// Answers what was freed at `server`.
async fn evict_files(worker: &Rc<Worker>, inos: &[InodeId], server: ServerId) -> OpResult<u64> {
    let ready = join_all(inos.iter().map(|ino| ready(worker, *ino, server))).await;
    let ready = ready.into_iter().collect::<OpResult<Vec<_>>>()?;
    let ready: Vec<Ready> = ready.into_iter().flatten().collect();
    let mut by_holder: BTreeMap<ServerId, Vec<(InodeId, TierSource)>> = BTreeMap::new();
    for file in &ready {
        worker.node.backing.evictor.emptied.insert(file.ino, Instant::now());
        for holder in &file.who {
            by_holder.entry(*holder).or_default().push((file.ino, file.source.clone()));
        }
    }
    let asked = by_holder.into_iter().map(|(holder, files)| async move {
        // A holder that is away keeps what it has.
        let freed = worker.ask(holder, &EvictChunks { files, must: false }).await.unwrap_or(0);
        if holder == server { freed } else { 0 }
    });
    Ok(join_all(asked).await.into_iter().sum())
}

/// Holds a file, and writes down what it is fetched from, if it can go and may be held at `server`.
async fn ready(worker: &Rc<Worker>, ino: InodeId, server: ServerId) -> OpResult<Option<Ready>> {
    let node = &worker.node;
    let namespace = &node.namespace;
    let set = LockSet::of(&[(LockKey::Inode(ino), Mode::Exclusive)]);
    let Ok(hold) = tokio::time::timeout(BUSY, namespace.locks().hold(set)).await else { return Ok(None) };
    let Some(inode) = namespace.inode_in_section(ino)?.filter(|inode| may_go(node, inode)) else {
        return Ok(None);
    };
    let chunks = inode.attr.size.div_ceil(inode.attr.layout.chunk_bytes());
    let who = holders(node, &inode.attr, ChunkIndex(0), ChunkIndex(chunks));
    if !who.contains(&server) {
        return Ok(None);
    }
    // What cannot be known now stays, and the others go.
    if pins::is_pinned(worker, &inode).await.unwrap_or(true) {
        return Ok(None);
    }
    let Some(at) = inode.tier.clone() else { return Ok(None) };
    let Some(Some(found)) = home::look(worker, &at).await else { return Ok(None) };
    if !home::is_copy(&found, &at, inode.attr.size) {
        return Ok(None);
    }
    let backing = home::backing_of(&found);
    // Others changed it: that is for who opens it.
    if inode.backed.is_some_and(|known| known.mtime != backing.mtime || known.size != backing.size) {
        return Ok(None);
    }
    if inode.backed != Some(backing) {
        let change = [Mutation::SetBacked { ino, backed: Some(backing) }];
        namespace.locks().with_held(hold.set(), || namespace.commit(&change))?;
    }
    let source = TierSource { at, backing, layout: inode.attr.layout };
    Ok(Some(Ready { ino, source, who, _hold: hold }))
}

/// To be alone with a file whose chunks are dropped; what need not go is not waited for.
async fn claim(node: &Node, ino: InodeId, must: bool) -> Option<Alone> {
    let claims = &node.backing.claims;
    let alone = if must {
        tokio::time::timeout(BUSY * 10, claims.dropping(ino)).await.ok()
    } else {
        claims.try_dropping(ino)
    };
    alone.filter(|_| !node.backing.evictor.dirty.has(ino))
}

/// Drops chunks that are held here; answers their bytes. `must`: fails instead of leaving out a file that is in use or dirty.
pub async fn drop_chunks(worker: &Rc<Worker>, request: EvictChunks) -> OpResult<u64> {
    let node = &worker.node;
    let evictor = &node.backing.evictor;
    if !request.must && node.is_forgetful() {
        // What was dirty here is forgotten.
        return Ok(0);
    }
    let (mut alone, mut changes, mut inos, mut freed) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for (ino, source) in &request.files {
        let Some(guard) = claim(node, *ino, request.must).await else {
            if request.must {
                return Err(OpError::new(Status::Busy, "the file is in use"));
            }
            continue;
        };
        // What is fetched in their place may be another copy.
        changes.push(holder::change(worker, *ino).await?);
        freed += node.store.chunks(*ino)?.iter().map(|(_, end)| u64::from(*end)).sum::<u64>();
        rows::replace(node, *ino, source)?;
        alone.push(guard);
        inos.push(*ino);
    }
    if inos.is_empty() {
        return Ok(0);
    }
    if node.syncs_device() {
        crate::sync::group_sync(node).await?;
    }
    node.store.remove(&inos)?;
    overflow::forget(node, &inos)?;
    changes.into_iter().for_each(Change::done);
    evictor.files.fetch_add(inos.len() as u64, Ordering::Relaxed);
    evictor.bytes.fetch_add(freed, Ordering::Relaxed);
    Ok(freed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_holds_and_its_absence_does_not() {
        let asked = Instant::now();
        let told = |is_promised| Told { asked: Some(asked), answered: Some(asked), is_promised };
        let later = asked + Duration::from_millis(1);
        assert_eq!([told(true).answer(later), told(false).answer(later)], [Some(true), None]);
        assert_eq!([told(true).answer(asked), told(false).answer(asked)], [Some(true), Some(false)]);
        let slow = Told { asked: asked.checked_sub(TOLD_LASTS), ..told(true) };
        assert_eq!(slow.answer(later), Some(true), "a server took long to answer");
        let old = Told { answered: asked.checked_sub(TOLD_LASTS), ..told(true) };
        assert_eq!([old.answer(asked), Told::default().answer(asked)], [None; 2]);
    }

    #[test]
    fn files_go_above_the_high_mark_down_to_the_low_one() {
        let at = |live_bytes| StoreStats {
            live_bytes,
            disk_bytes: live_bytes,
            total_bytes: 1_000,
            free_bytes: 1_000 - live_bytes,
            ..StoreStats::default()
        };
        assert_eq!([700, 800, 801, 1_000].map(|live| surplus(&at(live), false)), [0, 0, 101, 300]);
        assert_eq!([100, 720, 801].map(|live| surplus(&at(live), true)), [50, 50, 101]);
        let with_dead = |live_bytes| StoreStats { disk_bytes: 1_000, free_bytes: 0, ..at(live_bytes) };
        assert_eq!([100, 700, 720].map(|live| surplus(&with_dead(live), true)), [0, 0, 50]);
    }
}
