//! Files that are gathered in parts (`parts`): what a holder of their chunks keeps for as long.
//!
//! Who directs a copy claims the file at all that hold chunks of it, the first holder first, says now and then that it goes on, and tells them how it ended. With a
//! claim go what this server writes of the copy: the staged file, open once for all objects of it, and which parts are written, so that a share that
//! failed goes on where it was.
//!
//! # Invariants
//! - Of a file one copy is gathered at a time, and no chunk of it is dropped meanwhile (`one_copy_of_a_file_is_gathered_at_a_time`; `tests/flush`:
//!   `a_file_that_is_gathered_is_claimed`).
//! - A claim whose director is silent for [`Patience::lease`] gives way to another copy, and keeps chunks for as long as it may yet end well; after
//!   [`Patience::gone`] it ends, and what had been written counts as in no copy until the director is heard of again and ends it well after all
//!   (`the_claim_of_a_director_that_is_gone_ends`, `a_claim_that_lapsed_may_end_well`; `tests/flush`: `a_director_that_hangs_leaves_nothing_dirty`).
//! - A copy that is not counted by a holder, as another has taken its place there, is thrown away by its director (`a_copy_whose_place_was_taken_is_refused`).
//! - After a failed sync each share that had begun before is written again: of pages that are lost the kernel tells one sync of a descriptor
//!   (`a_failed_sync_is_every_shares`; `tests/flush`: `a_sync_that_fails_loses_all_shares`). What a share of a former claim wrote counts for no later one
//!   (`what_was_written_for_a_former_claim_is_not_noted`).
//! - At most [`OPEN_MAX`] staged files are open that nobody writes, the others are closed, least recently used first, and opened again
//!   (`files_that_nobody_writes_are_closed`); those of one file are opened once (`tests/flush`: `a_file_of_two_thousand_objects_is_opened_once_by_each_server`).

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fs_proto::msg::tier::{FlushChunks, PartsOf};
use fs_proto::{InodeId, ServerId, Status};
use parking_lot::Mutex;
use tokio::sync::{OnceCell, Semaphore};

use super::outcome::FlushResult;
use crate::backing::Backing;
use crate::backing::claims::{Claims, Copied};
use crate::backing::dirty::Dirty;
use crate::error::{OpError, OpResult};
use crate::tier::{Base, Place, Tier, TierError, TierFile, TierResult};
use crate::worker::Worker;

/// How patient holders are with directors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// How often a director says that it goes on.
    pub renew: Duration,
    /// After how long a silent one is in nobody's way.
    pub lease: Duration,
    /// And after how long it counts as gone.
    pub gone: Duration,
}

const RENEW: Duration = Duration::from_secs(2);
const LEASE: Duration = Duration::from_secs(12);
const GONE: Duration = Duration::from_secs(60);
const _: () = assert!(RENEW.as_secs() < LEASE.as_secs() && LEASE.as_secs() < GONE.as_secs());

impl Default for Patience {
    fn default() -> Self {
        Patience { renew: RENEW, lease: LEASE, gone: GONE }
    }
}

/// Staged files that are open and not written.
const OPEN_MAX: usize = 32;
/// Shares that are written at once: each uses a file, and has some pieces in memory or waits for room.
const SHARES_MAX: usize = 32;

const ANOTHER: OpError = OpError::new(Status::Busy, "another copy of the file is gathered");
const LOST: OpError = OpError::new(Status::Busy, "another copy of the file has taken the place of this one");

/// A staged file, opened by the first who writes.
type Slot = Arc<OnceCell<Arc<dyn TierFile>>>;

/// Syncs of a staged file.
#[derive(Default)]
struct Syncs {
    /// Held over each of them: who finds that none failed meanwhile is told of every failure before its own.
    turn: Mutex<()>,
    /// Changed under the lock of all gatherings.
    failed: AtomicU64,
}

/// What is known when a share begins, before it writes.
#[derive(Clone, Default)]
pub struct Begun {
    /// Which gathering it is of; 0: none.
    number: u64,
    syncs: Arc<Syncs>,
    /// Syncs that had failed.
    failed: u64,
}

impl Begun {
    fn is_lost(&self) -> bool {
        self.syncs.failed.load(Ordering::Acquire) != self.failed
    }
}

/// A staged file, open for a share.
#[derive(Clone)]
pub struct Opened {
    /// The file.
    pub file: Arc<dyn TierFile>,
    begun: Begun,
}

struct Gathering {
    /// Unlike those of all others, also under the same name.
    number: u64,
    ino: InodeId,
    /// Who directs it.
    server: ServerId,
    _claim: Copied,
    told: Instant,
    slot: Slot,
    used: Instant,
    syncs: Arc<Syncs>,
    written: HashSet<u64>,
}

type Running = HashMap<Bytes, Gathering>;

/// All of a server, by the name of the staged file.
pub struct Gatherings {
    running: Mutex<Running>,
    /// Gatherings so far.
    count: AtomicU64,
    is_watched: Mutex<bool>,
    shares: Semaphore,
    /// How patient this server is, as director and as holder.
    pub patience: Patience,
}

impl Default for Gatherings {
    fn default() -> Self {
        Gatherings {
            running: Mutex::default(),
            count: AtomicU64::new(0),
            is_watched: Mutex::default(),
            shares: Semaphore::new(SHARES_MAX),
            patience: Patience::default(),
        }
    }
}

/// What a server knows of its chunks.
#[derive(Clone, Copy)]
struct Known<'a> {
    claims: &'a Arc<Claims>,
    dirty: &'a Dirty,
}

impl<'a> From<&'a Backing> for Known<'a> {
    fn from(backing: &'a Backing) -> Self {
        Known { claims: backing.claims(), dirty: backing.evictor().dirty() }
    }
}

/// Whether parts that are asked for are none, but a step of the director's.
pub fn is_step(parts: &PartsOf) -> bool {
    parts.first == PartsOf::NONE.first
}

/// Takes a director's step.
pub async fn step(worker: &Rc<Worker>, request: &FlushChunks, parts: &PartsOf) -> OpResult<()> {
    let node = &worker.node;
    let (gatherings, known) = (&node.flusher.shares().gatherings, Known::from(&node.backing));
    if *parts == PartsOf::NONE || *parts == PartsOf::STILL {
        let former = gatherings.claim(known, request, *parts == PartsOf::NONE).await?;
        watch(worker);
        close(worker, former).await;
        return Ok(());
    }
    let file = gatherings.end(known, request, *parts == PartsOf::DONE)?;
    close(worker, file).await;
    Ok(())
}

/// Closes files where that may take its time.
async fn close(worker: &Rc<Worker>, files: impl IntoIterator<Item = Slot>) {
    let files: Vec<Slot> = files.into_iter().filter(|slot| slot.initialized()).collect();
    if files.is_empty() {
        return;
    }
    let closing = move |_: &dyn Tier| {
        drop(files);
        Ok(())
    };
    if let Err(error) = worker.node.flusher.on_tier(closing).await {
        tracing::debug!(%error, "a staged file is not closed in its turn");
    }
}

/// Sees to it that claims end whose directors are gone.
fn watch(worker: &Rc<Worker>) {
    let gatherings = &worker.node.flusher.shares().gatherings;
    if std::mem::replace(&mut *gatherings.is_watched.lock(), true) {
        return;
    }
    let worker = Rc::clone(worker);
    tokio::task::spawn_local(async move {
        let gatherings = &worker.node.flusher.shares().gatherings;
        loop {
            tokio::time::sleep(gatherings.patience.renew).await;
            close(&worker, gatherings.expire(Known::from(&worker.node.backing), Instant::now())).await;
            let mut is_watched = gatherings.is_watched.lock();
            if gatherings.running.lock().is_empty() {
                *is_watched = false;
                return;
            }
        }
    });
}

/// Runs of one server stage under names of their own: `f-SERVER-RUN-NUMBER`.
fn run_of(staging: &[u8]) -> &[u8] {
    let end = staging.iter().rposition(|byte| *byte == b'-').unwrap_or(0);
    &staging[..end]
}

impl Gatherings {
    /// `begins`: what is written from now on is dirty again; else the director only goes on, and a claim that this server has forgotten is made anew. Answers
    /// files of claims that made way.
    async fn claim(&self, known: Known<'_>, request: &FlushChunks, begins: bool) -> OpResult<Vec<Slot>> {
        let FlushChunks { ino, server, staging, .. } = request;
        let lease = self.patience.lease;
        if renew(&mut self.running.lock(), request, (begins, lease))? {
            return Ok(Vec::new());
        }
        let claim = known.claims.copy(*ino).await;
        let mut running = self.running.lock();
        // As another may have come while this waited, or this one once more.
        if renew(&mut running, request, (begins, lease))? {
            return Ok(Vec::new());
        }
        // A director that was started again knows nothing of what it began before.
        let former: Vec<_> = running.extract_if(|_, one| one.ino == *ino).map(|(_, one)| one.slot).collect();
        if begins {
            known.dirty.note_copy(*ino);
        }
        let now = Instant::now();
        let gathering = Gathering {
            number: self.count.fetch_add(1, Ordering::Relaxed) + 1,
            ino: *ino,
            server: *server,
            _claim: claim,
            told: now,
            slot: Slot::default(),
            used: now,
            syncs: Arc::default(),
            written: HashSet::new(),
        };
        running.insert(staging.clone(), gathering);
        Ok(former)
    }

    /// Ends a claim; answers the file that is to be closed. Fails for a copy that ended well and is not counted here: the director was silent, and another copy cleaned
    /// since what may not be in this one.
    fn end(&self, known: Known<'_>, request: &FlushChunks, is_done: bool) -> OpResult<Option<Slot>> {
        let FlushChunks { ino, staging, .. } = request;
        let mut running = self.running.lock();
        let ended = running.remove(staging);
        let is_taken = running.values().any(|one| one.ino == *ino);
        if is_done {
            known.dirty.settle(*ino, staging);
            // Of one that this server has forgotten in a restart nothing is dirty but what was written since.
            if ended.is_none() && (is_taken || known.dirty.has(*ino)) {
                return Err(LOST);
            }
        } else if !is_taken {
            // Also if nothing is known of it: it may have been begun before a restart. But not for one that was refused because of another.
            known.dirty.note_write(*ino);
        }
        Ok(ended.map(|one| one.slot))
    }

    /// Ends the claims of directors that are gone at `now`; answers their files.
    fn expire(&self, known: Known<'_>, now: Instant) -> Vec<Slot> {
        let mut running = self.running.lock();
        let gone = running.extract_if(|_, one| now.saturating_duration_since(one.told) >= self.patience.gone);
        gone.map(|(staging, one)| {
            known.dirty.doubt(one.ino, &staging);
            one.slot
        })
        .collect()
    }

    /// Whether a part of a share is written already.
    pub fn is_written(&self, staging: &Bytes, share: &Opened, part: u64) -> bool {
        of(&mut self.running.lock(), staging, &share.begun).is_some_and(|one| one.written.contains(&part))
    }

    /// A part is written, unless it may be lost already.
    pub fn note_written(&self, staging: &Bytes, share: &Opened, part: u64) {
        let mut running = self.running.lock();
        if let Some(one) = of(&mut running, staging, &share.begun)
            && !share.begun.is_lost()
        {
            one.written.insert(part);
        }
    }

    /// Syncs what a share wrote. If that fails nobody knows what was lost: whatever was written is written again. Runs where blocking is allowed.
    pub fn sync(&self, staging: &Bytes, share: &Opened) -> TierResult<()> {
        let begun = &share.begun;
        let _turn = begun.syncs.turn.lock();
        if let Err(error) = share.file.sync() {
            let mut running = self.running.lock();
            begun.syncs.failed.fetch_add(1, Ordering::AcqRel);
            if let Some(one) = of(&mut running, staging, begun) {
                one.written.clear();
            }
            return Err(error);
        }
        if begun.is_lost() {
            return Err(TierError::Failed("a sync of the file failed meanwhile".to_owned()));
        }
        Ok(())
    }

    /// The file of a copy to be opened, and those that are to be closed, so that not too many are open.
    fn begin(&self, staging: &Bytes, keeps_all: bool) -> (Slot, Begun, Vec<Slot>) {
        let mut running = self.running.lock();
        // Without a claim it is open for this share only.
        let Some(one) = running.get_mut(staging) else {
            return (Slot::default(), Begun::default(), Vec::new());
        };
        one.used = Instant::now();
        let slot = Arc::clone(&one.slot);
        let failed = one.syncs.failed.load(Ordering::Acquire);
        let begun = Begun { number: one.number, syncs: Arc::clone(&one.syncs), failed };
        if keeps_all {
            return (slot, begun, Vec::new());
        }
        let mut idle: Vec<&mut Gathering> = running.values_mut().filter(|one| is_idle(&one.slot)).collect();
        let surplus = idle.len().saturating_sub(OPEN_MAX - 1);
        if surplus > 0 {
            idle.sort_by_key(|one| one.used);
        }
        let closed = idle.into_iter().take(surplus).map(|one| std::mem::take(&mut one.slot)).collect();
        (slot, begun, closed)
    }

    /// The file cannot be trusted any more, as after its file system was mounted anew: it is opened again by the next who writes, unless it was since.
    fn reopen(&self, staging: &Bytes, slot: &Slot) {
        if let Some(one) = self.running.lock().get_mut(staging)
            && Arc::ptr_eq(&one.slot, slot)
        {
            one.slot = Slot::default();
        }
    }
}

/// The gathering that a share began with.
fn of<'a>(running: &'a mut Running, staging: &Bytes, begun: &Begun) -> Option<&'a mut Gathering> {
    running.get_mut(staging).filter(|one| one.number == begun.number)
}

/// Whether the file is claimed for this copy already. `how`: whether the copy begins, and after how long a claim gives way to it.
fn renew(running: &mut Running, request: &FlushChunks, how: (bool, Duration)) -> OpResult<bool> {
    if let Some(known) = running.get_mut(&request.staging) {
        known.told = Instant::now();
        return Ok(true);
    }
    if in_the_way(running, request, how) { Err(ANOTHER) } else { Ok(false) }
}

fn in_the_way(running: &Running, request: &FlushChunks, (begins, lease): (bool, Duration)) -> bool {
    let FlushChunks { ino, server, staging, .. } = request;
    running.iter().any(|(name, one)| {
        let is_former_run = one.server == *server && run_of(name) != run_of(staging);
        // A copy that only goes on would clean nothing in its place.
        let gives_way = begins && (is_former_run || one.told.elapsed() >= lease);
        one.ino == *ino && name != staging && !gives_way
    })
}

/// Whether a file is open that nobody writes.
fn is_idle(slot: &Slot) -> bool {
    Arc::strong_count(slot) == 1 && slot.get().is_some_and(|file| Arc::strong_count(file) == 1)
}

/// A share's turn, and its file. What it is given back for, `parts` says.
pub async fn with_file<R>(
    worker: &Rc<Worker>,
    request: &FlushChunks,
    keeps_all: bool,
    write: impl AsyncFnOnce(&Opened) -> FlushResult<R>,
) -> FlushResult<R> {
    let node = &worker.node;
    let gatherings = &node.flusher.shares().gatherings;
    let _turn = gatherings.shares.acquire().await;
    let (server, staging) = (request.server, request.staging.clone());
    let (slot, begun, surplus) = gatherings.begin(&staging, keeps_all);
    close(worker, surplus).await;
    let open = async || {
        let (node, staging) = (Arc::clone(node), staging.clone());
        let open = move |tier: &dyn Tier| {
            let place = Place { dir: tier.base(Base::Staging(server))?, name: staging };
            Ok(Arc::<dyn TierFile>::from(tier.open_file(&place)?))
        };
        node.flusher.on_tier(open).await
    };
    let opened = Opened { file: Arc::clone(slot.get_or_try_init(open).await?), begun };
    let outcome = write(&opened).await;
    drop(opened);
    if outcome.is_err() && !keeps_all {
        gatherings.reopen(&staging, &slot);
    }
    if Arc::strong_count(&slot) == 1 {
        // It is not trusted, or of a copy that is no more, or was never claimed.
        close(worker, [slot]).await;
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use fs_proto::Layout;
    use futures_util::FutureExt;

    const INO: InodeId = InodeId(7);

    /// A file of which so many syncs fail.
    #[derive(Default)]
    struct Fails(AtomicU64);

    impl TierFile for Fails {
        fn write_at(&self, _: u64, _: &[u8]) -> TierResult<()> {
            Ok(())
        }
        fn sync(&self) -> TierResult<()> {
            let left = self.0.load(Ordering::Acquire);
            self.0.store(left.saturating_sub(1), Ordering::Release);
            if left > 0 { Err(TierError::Failed("as asked".to_owned())) } else { Ok(()) }
        }
        fn receipt(&self) -> Bytes {
            Bytes::new()
        }
    }

    fn request(server: u16, staging: &str, ino: InodeId) -> FlushChunks {
        FlushChunks {
            ino,
            server: ServerId(server),
            staging: Bytes::copy_from_slice(staging.as_bytes()),
            layout: Layout::default(),
            size: 1,
            parts: None,
        }
    }

    async fn claim(all: &Gatherings, known: Known<'_>, request: &FlushChunks) -> bool {
        all.claim(known, request, true).await.is_ok()
    }

    fn share(all: &Gatherings, staging: &Bytes, file: &Arc<dyn TierFile>) -> Opened {
        Opened { file: Arc::clone(file), begun: all.begin(staging, false).1 }
    }

    /// The director was silent for so long.
    fn is_silent(all: &Gatherings, request: &FlushChunks, time: Duration) {
        all.running.lock().get_mut(&request.staging).unwrap().told -= time;
    }

    #[tokio::test]
    async fn one_copy_of_a_file_is_gathered_at_a_time() {
        // Goal: a second copy is refused until the first has ended, but for one of a director that was started again; asking again for one's own is fine.
        let (all, claims, dirty) = (Gatherings::default(), Arc::default(), Dirty::default());
        let known = Known { claims: &claims, dirty: &dirty };
        let (first, second) = (request(1, "f-1-aa-0", INO), request(2, "f-2-bb-0", INO));
        assert!(claim(&all, known, &first).await && claim(&all, known, &first).await);
        assert!(!claim(&all, known, &second).await);
        assert!(!claim(&all, known, &request(1, "f-1-aa-1", INO)).await, "of another name of it");
        assert!(claim(&all, known, &request(2, "f-2-bb-1", InodeId(8))).await);
        let restarted = request(1, "f-1-cc-0", INO);
        assert!(claim(&all, known, &restarted).await);
        all.end(known, &restarted, true).unwrap();
        assert!(claim(&all, known, &second).await);
    }

    #[tokio::test]
    async fn the_claim_of_a_director_that_is_gone_ends() {
        // Goal: nothing is dropped while a director tells that it goes on; when it is silent its claim ends, and so it does when it says so. What was written before the
        // copy is dirty again unless the copy was made; what was written meanwhile is dirty in any case.
        let (all, claims, dirty) = (Gatherings::default(), Arc::default(), Dirty::default());
        let known = Known { claims: &claims, dirty: &dirty };
        let first = request(1, "f-1-aa-0", INO);
        dirty.note_write(INO);
        assert!(claim(&all, known, &first).await);
        assert!(!dirty.has(INO) && claims.try_dropping(INO).is_none());
        assert!(all.expire(known, Instant::now() + LEASE).is_empty());
        assert!(!dirty.has(INO) && claims.try_dropping(INO).is_none());
        assert_eq!(all.expire(known, Instant::now() + GONE).len(), 1);
        assert!(dirty.has(INO) && claims.try_dropping(INO).is_some());
        for (is_done, writes, expected) in [(true, false, false), (true, true, true), (false, false, true)] {
            assert!(claim(&all, known, &first).await);
            if writes {
                dirty.note_write(INO);
            }
            all.end(known, &first, is_done).unwrap();
            assert_eq!(dirty.has(INO), expected, "{is_done} {writes}");
            assert!(claims.try_dropping(INO).is_some());
        }
        // One that was refused leaves the other's alone.
        dirty.note_copy(INO);
        assert!(claim(&all, known, &first).await);
        all.end(known, &request(2, "f-2-bb-0", INO), false).unwrap();
        assert!(!dirty.has(INO));
        all.end(known, &first, true).unwrap();
        // One that was forgotten, as in a restart, and goes on, does not make clean what was written meanwhile.
        dirty.note_write(INO);
        all.claim(known, &first, false).await.unwrap();
        assert!(dirty.has(INO) && claims.try_dropping(INO).is_none());
    }

    #[tokio::test]
    async fn files_that_nobody_writes_are_closed() {
        // Goal: of many copies so many files stay open, the last that were used, besides those that are written; what was written of the others is known still.
        let (all, claims, dirty) = (Gatherings::default(), Arc::default(), Dirty::default());
        let known = Known { claims: &claims, dirty: &dirty };
        let names: Vec<_> = (0..3 * OPEN_MAX).map(|number| format!("f-1-aa-{number}")).collect();
        let mut written = Vec::new();
        for (number, name) in names.iter().enumerate() {
            let request = request(1, name, InodeId(number as u64));
            assert!(claim(&all, known, &request).await);
            let (slot, begun, closed) = all.begin(&request.staging, false);
            assert!(closed.len() <= 1);
            let file = slot.get_or_init(|| async { Arc::new(Fails::default()) as Arc<dyn TierFile> }).await;
            if number % 10 == 0 {
                written.push(Arc::clone(file));
            }
            all.note_written(&request.staging, &Opened { file: Arc::clone(file), begun }, 3);
        }
        all.begin(&Bytes::from(names[names.len() - 1].clone()), false);
        // Written last, and idle now.
        let open: Vec<_> = all.running.lock().values().map(|one| one.slot.get().is_some()).collect();
        assert_eq!(open.iter().filter(|is_open| **is_open).count(), OPEN_MAX + written.len());
        assert!(all.running.lock()[&Bytes::from(names[0].clone())].slot.get().is_some(), "it is written");
        assert!(all.running.lock()[&Bytes::from(names[1].clone())].slot.get().is_none());
        let (staging, file) = (Bytes::from(names[1].clone()), Arc::new(Fails::default()) as _);
        let again = share(&all, &staging, &file);
        assert!(all.is_written(&staging, &again, 3) && !all.is_written(&staging, &again, 4));
    }

    #[tokio::test]
    async fn a_claim_that_lapsed_may_end_well() {
        // Goal: of a director that was silent, and is not gone, chunks are kept and what was written before stays clean; it goes on, also with what it has written, and ends as
        // if nothing had been. One that counted as gone does, too, but for what is written again; and what was written meanwhile stays dirty.
        let (all, claims, dirty) = (Gatherings::default(), Arc::default(), Dirty::default());
        let known = Known { claims: &claims, dirty: &dirty };
        let (first, second) = (request(1, "f-1-aa-0", INO), request(2, "f-2-bb-0", INO));
        let file = Arc::new(Fails::default()) as Arc<dyn TierFile>;
        for (is_done, goes_on) in [(true, true), (true, false), (false, false)] {
            dirty.note_write(INO);
            assert!(claim(&all, known, &first).await);
            all.note_written(&first.staging, &share(&all, &first.staging, &file), 3);
            is_silent(&all, &first, 2 * LEASE);
            assert!(all.expire(known, Instant::now()).is_empty());
            assert!(!dirty.has(INO) && claims.try_dropping(INO).is_none());
            if goes_on {
                all.claim(known, &first, false).await.unwrap();
                assert!(all.is_written(&first.staging, &share(&all, &first.staging, &file), 3));
                assert!(!claim(&all, known, &second).await);
            }
            all.end(known, &first, is_done).unwrap();
            assert_eq!(dirty.has(INO), !is_done);
            assert!(claims.try_dropping(INO).is_some());
        }
        for (is_done, goes_on, writes) in [
            (true, true, false),
            (true, false, false),
            (false, true, false),
            (false, false, false),
            (true, true, true),
        ] {
            dirty.note_write(INO);
            assert!(claim(&all, known, &first).await);
            is_silent(&all, &first, GONE);
            assert_eq!(all.expire(known, Instant::now()).len(), 1);
            assert!(dirty.has(INO));
            if goes_on {
                all.claim(known, &first, false).await.unwrap();
                assert!(dirty.has(INO) && claims.try_dropping(INO).is_none());
            }
            if writes {
                dirty.note_write(INO);
            }
            all.end(known, &first, is_done).unwrap();
            assert_eq!(dirty.has(INO), !is_done || writes, "{is_done} {goes_on} {writes}");
            assert!(claims.try_dropping(INO).is_some());
        }
    }

    #[tokio::test]
    async fn a_copy_whose_place_was_taken_is_refused() {
        // Goal: another copy may take the place of one whose director was silent, and cleans for itself. That one does not get its place again while it only goes on, and is
        // told at its end if something may be dirty that is not in it: while the other is gathered, when that was in vain, or was not heard of again.
        let (all, claims, dirty) = (Gatherings::default(), Arc::default(), Dirty::default());
        let known = Known { claims: &claims, dirty: &dirty };
        let (first, second) = (request(1, "f-1-aa-0", INO), request(2, "f-2-bb-0", INO));
        let take_over = async || {
            dirty.note_copy(INO);
            assert!(claim(&all, known, &first).await);
            is_silent(&all, &first, LEASE);
            assert!(all.claim(known, &second, false).await.is_err());
            dirty.note_write(INO);
            assert_eq!(all.claim(known, &second, true).await.unwrap().len(), 1);
            assert!(!dirty.has(INO) && all.claim(known, &first, false).await.is_err());
        };
        take_over().await;
        assert!(all.end(known, &first, true).is_err());
        all.end(known, &first, false).unwrap();
        assert!(!dirty.has(INO), "the other copy has it");
        all.end(known, &second, true).unwrap();
        assert!(!dirty.has(INO) && claims.try_dropping(INO).is_some());
        all.end(known, &first, true).unwrap();
        take_over().await;
        all.end(known, &second, false).unwrap();
        assert!(all.end(known, &first, true).is_err());
        take_over().await;
        is_silent(&all, &second, GONE);
        assert_eq!(all.expire(known, Instant::now()).len(), 1);
        assert!(all.end(known, &first, true).is_err());
        all.end(known, &second, true).unwrap();
        assert!(!dirty.has(INO) && claims.try_dropping(INO).is_some());
    }

    #[tokio::test]
    async fn a_failed_sync_is_every_shares() {
        // Goal: of shares that write at once one is told that pages were lost; all that had begun fail, nothing is taken for written that may be lost, and one that begins
        // afterwards does not fail.
        let (all, claims, dirty) = (Gatherings::default(), Arc::default(), Dirty::default());
        let request = request(1, "f-1-aa-0", INO);
        assert!(claim(&all, Known { claims: &claims, dirty: &dirty }, &request).await);
        let (staging, file) = (&request.staging, Arc::new(Fails(1.into())) as Arc<dyn TierFile>);
        let [one, other] = [0, 1].map(|part| {
            let share = share(&all, staging, &file);
            all.note_written(staging, &share, part);
            share
        });
        assert!(all.sync(staging, &other).is_err());
        let later = share(&all, staging, &file);
        all.note_written(staging, &one, 2);
        assert!((0..3).all(|part| !all.is_written(staging, &later, part)));
        assert!(all.sync(staging, &one).is_err());
        all.note_written(staging, &later, 5);
        assert!(all.sync(staging, &later).is_ok() && all.is_written(staging, &later, 5));
    }

    #[tokio::test]
    async fn what_was_written_for_a_former_claim_is_not_noted() {
        // Goal: a claim that is made anew has another file.
        let (all, claims, dirty) = (Gatherings::default(), Arc::default(), Dirty::default());
        let known = Known { claims: &claims, dirty: &dirty };
        let (request, file) = (request(1, "f-1-aa-0", INO), Arc::new(Fails::default()) as Arc<dyn TierFile>);
        assert!(claim(&all, known, &request).await);
        let former = share(&all, &request.staging, &file);
        assert_eq!(all.expire(known, Instant::now() + GONE).len(), 1);
        all.claim(known, &request, false).await.unwrap();
        all.note_written(&request.staging, &former, 3);
        assert!(!all.is_written(&request.staging, &share(&all, &request.staging, &file), 3));
    }

    #[tokio::test]
    async fn a_claim_that_is_made_twice_is_one() {
        // Goal: a request that comes once more while the first waits takes nothing from it.
        let (all, claims, dirty) = (Gatherings::default(), Arc::<Claims>::default(), Dirty::default());
        let known = Known { claims: &claims, dirty: &dirty };
        let (request, file) = (request(1, "f-1-aa-0", INO), Arc::new(Fails::default()) as Arc<dyn TierFile>);
        let alone = claims.alone(INO).await;
        let [mut first, mut second] =
            [true, false].map(|begins| Box::pin(all.claim(known, &request, begins)));
        assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());
        drop(alone);
        assert!(first.await.unwrap().is_empty());
        all.note_written(&request.staging, &share(&all, &request.staging, &file), 3);
        assert!(second.await.unwrap().is_empty());
        assert!(all.is_written(&request.staging, &share(&all, &request.staging, &file), 3));
    }
}
