//! Copies to the shared tier: on close, asynchronous, by the servers that hold the chunks, published by rename.
//!
//! The server that owns a name of the namespace owns the same name in the tier. Whatever may differ is queued (`queue`), in the
//! batch that changes it; the run loop takes what is due, compares the name (`names`, `leaf`) or inode (`inodes`) with what the
//! tier has, and brings the tier in line. `docs/decisions/0006-flush-by-name.md` argues why.
//!
//! # Invariants
//! - An item leaves the queue only after the tier has what the namespace had when it was taken (`tests/flush`,
//!   `tier_equals_the_namespace`); failures are tried again without end (`a_failing_tier_recovers`).
//! - No request waits for the tier on a worker's thread: calls to it run in `pool`.
//!
//! What is read back from the tier, and what is evicted because it is safe there, is `backing`'s.

mod account;
mod aside;
mod attempt;
mod content;
mod control;
pub(crate) mod dirs;
pub(crate) mod entry;
mod estimate;
mod gathering;
mod group;
mod inodes;
mod leaf;
mod names;
mod never;
pub mod old;
pub mod ops;
pub(crate) mod outcome;
mod parts;
pub mod policy;
mod pool;
pub mod published;
pub mod queue;
pub(crate) mod remote;
mod tidying;
mod underway;
pub mod window;

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fs_proto::msg::tier::FlushAccount;
use fs_proto::{ClientId, ServerId};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

pub use self::gathering::Patience;
pub use self::queue::FlushItem;
pub use self::remote::path_of;

use self::account::Account;
use self::content::Shares;
use self::control::Control;
use self::dirs::Dirs;
use self::policy::Policy;
use self::pool::Pool;
use self::queue::{FlushQueue, Taken};
use self::tidying::Tidying;
use self::underway::Underway;
use self::window::{Call, Window};
use crate::config::ServerConfig;
use crate::error::ServerError;
use crate::identity;
use crate::inherited::Inherited;
use crate::node::Node;
use crate::tier::both::{self, Both, Old};
use crate::tier::late::Late;
use crate::tier::posix::{self, Posix};
use crate::tier::s3::target::is_s3;
use crate::tier::s3::{self, S3};
use crate::tier::{Base, Dir, Tier, TierError, TierFile, TierResult, staged_prefix};
use crate::worker::Worker;

/// Items that are being flushed at once, for each call that may be under way; and their bounds.
const ITEMS_A_CALL: usize = 4;
const IN_FLIGHT: (usize, usize) = (8, 128);
/// Pauses after failures: the first, doubled up to the last.
const FAILURE_PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Pauses while something else has to be done first: a directory is made in a millisecond, mostly.
const WAIT_PAUSES: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(500));
/// Pause before a file that is open for writing is looked at again.
const OPEN_PAUSE: Duration = Duration::from_millis(500);
/// What has to wait for longer counts as failing.
const WAIT_LIMIT: Duration = Duration::from_secs(5);
/// How long a tier counts as full after it said so.
const FULL_LASTS: Duration = Duration::from_secs(15);
/// How long a hurry lasts after nothing waits here any more: other servers may still hand something over.
const HURRY_LASTS: Duration = Duration::from_secs(5);
/// Longest sleep of the run loop.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);
/// Time between two estimates: when somebody waits for them, and else.
const ESTIMATE_EVERY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(1));
/// Threads that list and read at once.
const READERS: usize = 8;
/// How long the end of the server waits for the tier.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// What the server does about the shared tier.
pub struct Flusher {
    tier: Option<Arc<Both>>,
    path: Option<PathBuf>,
    pool: Pool,
    /// Listing and reading, which do not wait behind copies.
    readers: Pool,
    dirs: Dirs,
    account: Account,
    shares: Shares,
    underway: Underway,
    policies: Inherited<Policy>,
    control: Control,
    /// Bytes of parts that may be in memory, in MiB.
    part_room: OnceLock<Semaphore>,
    everything: AtomicBool,
    /// Failures before the last estimate.
    failures_seen: AtomicU64,
    /// When the tier last refused something for want of space.
    full: Mutex<Option<Instant>>,
    hurry_until: Mutex<Option<Instant>>,
    /// Uses of staging so far, and those before the last time that it was tidied up.
    staged: AtomicU64,
    tidied: AtomicU64,
    tidied_now: Notify,
    tidying: Mutex<Tidying>,
    /// Names that a group has at most.
    together: AtomicUsize,
    /// Names in this server's staging that could not be removed yet.
    doomed: Mutex<Vec<Bytes>>,
    run: u64,
}

impl Flusher {
    /// Checks the tier: it must be there, take files, and lie outside the stores. A server that has run on its stores before does not wait for it.
    pub fn open(config: &ServerConfig) -> Result<Self, ServerError> {
        let tier = config.tier.as_ref().map(|path| open_tier(path, config)).transpose()?;
        Ok(Flusher { path: config.tier.clone(), ..Flusher::on(tier) })
    }

    /// Writes down which directory it is, to know it again. What cannot be opened yet was checked, and is, when it is opened.
    pub fn claim_tier(&self, config: &ServerConfig) -> Result<(), ServerError> {
        let (Some(path), Some(tier)) = (&self.path, &self.tier) else { return Ok(()) };
        if is_s3(&path.to_string_lossy()) {
            return Ok(());
        }
        tier.base(Base::Root).map_or(Ok(()), |root| identity::claim_tier(config, path, root.id))
    }

    /// A flusher to a tier that is open already, or to none.
    pub fn on(tier: Option<Arc<dyn Tier>>) -> Self {
        let facts = tier.as_ref().map(|tier| tier.facts());
        let left_over = u64::from(facts.is_some_and(|facts| facts.left_over));
        Flusher {
            tier: tier.map(|tier| Arc::new(Both::new(tier))),
            path: None,
            pool: Pool::new(facts.map_or(Window::fixed(1), |facts| window_of(facts.threads))),
            readers: Pool::new(Window::fixed(READERS)),
            dirs: Dirs::default(),
            account: Account::default(),
            shares: Shares::default(),
            underway: Underway::default(),
            policies: policy::policies(),
            control: Control::default(),
            part_room: OnceLock::new(),
            everything: AtomicBool::new(false),
            full: Mutex::new(None),
            hurry_until: Mutex::new(None),
            staged: AtomicU64::new(left_over),
            tidied: AtomicU64::new(0),
            tidied_now: Notify::new(),
            tidying: Mutex::default(),
            failures_seen: AtomicU64::new(0),
            together: AtomicUsize::new(group::SIZES.1),
            doomed: Mutex::default(),
            run: rand::random(),
        }
    }

    /// The same, with another patience between servers that copy a file together.
    pub fn with_patience(mut self, patience: Patience) -> Self {
        self.shares.gatherings.patience = patience;
        self
    }

    /// Whether another machine keeps what the tier has.
    pub fn is_remote(&self) -> bool {
        self.tier.as_ref().is_some_and(|tier| tier.facts().is_remote)
    }

    /// Whether there is a tier.
    pub fn has_tier(&self) -> bool {
        self.tier.is_some()
    }

    /// Runs a call to the tier on a thread of the pool. After a failure nothing that was open is trusted any more.
    pub(crate) async fn on_tier<R: Send + 'static>(
        &self,
        call: impl FnOnce(&dyn Tier) -> TierResult<R> + Send + 'static,
    ) -> TierResult<R> {
        self.call_on(&self.pool, call).await
    }

    /// As [`Flusher::on_tier`], for what only looks.
    pub(crate) async fn on_reader<R: Send + 'static>(
        &self,
        call: impl FnOnce(&dyn Tier) -> TierResult<R> + Send + 'static,
    ) -> TierResult<R> {
        self.call_on(&self.readers, call).await
    }

    async fn call_on<R: Send + 'static>(
        &self,
        pool: &Pool,
        call: impl FnOnce(&dyn Tier) -> TierResult<R> + Send + 'static,
    ) -> TierResult<R> {
        let Some(tier) = self.tier.clone() else {
            return Err(TierError::Failed("this cluster has no shared tier".to_owned()));
        };
        let outcome = pool.run(move || call(tier.as_ref())).await;
        if let Err(error) = &outcome {
            self.note_trouble(error);
        }
        outcome
    }

    fn note_trouble(&self, error: &TierError) {
        match error {
            TierError::Failed(_) | TierError::Refused(_) => self.distrust(),
            TierError::Full(_) => *self.full.lock() = Some(Instant::now()),
            _ => {}
        }
    }

    /// Whether the tier has no space, as far as is known: what it refused is tried again before that is forgotten.
    fn is_tier_full(&self) -> bool {
        self.full.lock().is_some_and(|then| then.elapsed() < FULL_LASTS)
    }

    /// So many names of a group were flushed in a job's time, which was over before all were if `is_cut`.
    fn note_together(&self, done: usize, is_cut: bool) {
        let size = self.together.load(Ordering::Relaxed);
        if is_cut || done >= size {
            let size = if is_cut { done } else { 2 * size };
            self.together.store(size.clamp(group::SIZES.0, group::SIZES.1), Ordering::Relaxed);
        }
    }

    /// A call failed: nothing that was open is trusted any more.
    fn distrust(&self) {
        self.dirs.clear();
        if let Some(tier) = &self.tier {
            tier.reset();
        }
    }

    /// From now on this is the old tier, or there is none any more.
    pub(crate) fn set_old(&self, old: Option<Old>) {
        if let Some(tier) = &self.tier {
            tier.set_old(old);
        }
    }

    /// Whether things move from an old tier to this one.
    pub(crate) fn has_old(&self) -> bool {
        self.tier.as_ref().is_some_and(|tier| tier.has_old())
    }

    /// The old tier's directory.
    pub(crate) async fn old_root(&self) -> TierResult<Dir> {
        let Some(tier) = self.tier.clone() else { return Err(both::none()) };
        self.readers.run(move || tier.old_root()).await
    }

    /// Bytes of each part but the last in which the tier wants a file of `size` bytes; None: in any pieces.
    fn part_bytes(&self, size: u64) -> Option<u64> {
        self.tier.as_ref().and_then(|tier| tier.facts().part_bytes(size))
    }

    /// Makes a call that the window of calls is measured by.
    fn measured<R>(&self, call: Call, body: impl FnOnce() -> TierResult<R>) -> TierResult<R> {
        let began = Instant::now();
        let done = body()?;
        self.pool.window().note(call, began.elapsed(), self.pool.is_full());
        Ok(done)
    }

    /// Writes to a staged file when it is its turn.
    fn write(&self, node: &Node, file: &dyn TierFile, offset: u64, data: &[u8]) -> TierResult<()> {
        let bytes = data.len() as u64;
        self.control.pace(node, bytes);
        self.measured(Call::Write(bytes), || file.write_at(offset, data))?;
        self.account.note_copied(bytes);
        Ok(())
    }

    fn dirs(&self) -> &Dirs {
        &self.dirs
    }

    fn account(&self) -> &Account {
        &self.account
    }

    fn shares(&self) -> &Shares {
        &self.shares
    }

    /// How far the copies of large files are.
    pub(crate) fn underway(&self) -> &Underway {
        &self.underway
    }

    /// How fast flushing goes, and how much may wait for it.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Bytes of files that wait for being flushed and live here: an estimate.
    fn pending_bytes(&self) -> u64 {
        self.account.pending_bytes.load(Ordering::Relaxed)
    }

    fn policies(&self) -> &Inherited<Policy> {
        &self.policies
    }

    /// A name in staging that was never used.
    fn new_staging_name(&self, me: ServerId) -> Bytes {
        self.new_staging_names(me, 1).next().unwrap_or_default()
    }

    /// So many of them.
    fn new_staging_names(&self, me: ServerId, count: u64) -> impl Iterator<Item = Bytes> + use<> {
        let first = self.staged.fetch_add(count, Ordering::AcqRel);
        let start = format!("{}{:x}-", staged_prefix(me), self.run);
        (first..first + count).map(move |number| Bytes::from([&start, number.to_string().as_str()].concat()))
    }

    /// Waits until nothing is to be flushed or tidied up, at most `longest`.
    async fn settled(&self, queue: &FlushQueue, longest: Duration) {
        let until = tokio::time::Instant::now() + longest;
        loop {
            // Before the look: what happens after it ends the wait.
            let (emptied, tidied) = (queue.emptied(), self.tidied_now.notified());
            if queue.is_empty() && !self.is_untidy() {
                return;
            }
            tokio::select! {
                () = emptied => {}
                () = tidied => {}
                () = tokio::time::sleep_until(until) => return,
            }
        }
    }

    /// Items that may be under way.
    fn in_flight(&self) -> usize {
        (ITEMS_A_CALL * self.pool.window().size()).clamp(IN_FLIGHT.0, IN_FLIGHT.1)
    }

    /// Files that are open for writing are flushed, too.
    fn takes_everything(&self) -> bool {
        self.everything.load(Ordering::Acquire)
    }

    /// No delay from now on, until nothing waits.
    fn hurry(&self, queue: &FlushQueue, everything: bool) {
        if everything {
            self.everything.store(true, Ordering::Release);
        }
        *self.hurry_until.lock() = Some(Instant::now() + HURRY_LASTS);
        queue.set_hurry(true);
    }

    /// As [`Flusher::hurry`], if there is no hurry: what failed keeps its pauses.
    fn begin_hurry(&self, queue: &FlushQueue) {
        if self.hurry_until.lock().is_none() {
            self.hurry(queue, false);
        }
    }

    /// Ends a hurry once nothing waited for some time.
    fn end_hurry(&self, queue: &FlushQueue) {
        let mut until = self.hurry_until.lock();
        match *until {
            Some(_) if !queue.is_idle() => *until = Some(Instant::now() + HURRY_LASTS),
            Some(end) if Instant::now() >= end => {
                *until = None;
                self.everything.store(false, Ordering::Release);
                queue.set_hurry(false);
            }
            _ => {}
        }
    }

    /// Bytes copied, also in vain, and failed attempts since the start.
    pub fn counts(&self) -> (u64, u64) {
        self.account.counts()
    }

    /// The account for a client that asks, or for anybody.
    pub fn account_of(&self, node: &Node, asker: Option<ClientId>) -> FlushAccount {
        let (copied_bytes, failures) = self.account.counts();
        // What was voted for is queued when it is decided, also after a restart of who decides.
        let undecided = node.transactions.undecided() as u64;
        let (names, inodes) = node.namespace.queue().len();
        // Asked after the queue: what is not pending any more has been counted.
        let (files, bytes) = node.namespace.published().counts();
        let pending_names =
            names as u64 + undecided + self.account.on_the_way(asker).max(u64::from(self.is_untidy()));
        FlushAccount {
            pending_names,
            pending_dirs: inodes as u64,
            pending_bytes: if names == 0 { 0 } else { self.pending_bytes() },
            files,
            bytes,
            copied_bytes,
            failures,
            oldest_ms: node.namespace.queue().oldest().map_or(0, |age| age.as_millis() as u64),
            bytes_per_s: self.control.bytes_per_s(),
            unsafe_names: self.account.unsafe_names(),
            has_tier: self.has_tier(),
        }
    }

    /// For the status page.
    pub fn status_json(&self, node: &Node) -> serde_json::Value {
        let account = self.account_of(node, None);
        let names = account.unsafe_names.iter();
        let failing: Vec<_> = names
            .map(|(name, why)| serde_json::json!({"name": String::from_utf8_lossy(name), "reason": why}))
            .collect();
        serde_json::json!({
            "tier": self.path,
            "pending_names": account.pending_names,
            "pending_dirs": account.pending_dirs,
            "pending_bytes": account.pending_bytes,
            "oldest_ms": account.oldest_ms,
            "bytes_per_s": account.bytes_per_s,
            "window": self.pool.window().size(),
            "files": account.files,
            "bytes": account.bytes,
            "copied_bytes": account.copied_bytes,
            "failures": account.failures,
            "failing": failing,
            "copying": self.underway.status_json(),
        })
    }
}

fn open_tier(path: &Path, config: &ServerConfig) -> Result<Arc<dyn Tier>, ServerError> {
    let is_bucket = is_s3(&path.to_string_lossy());
    if is_bucket {
        S3::target(path)?;
    }
    let (own, at) = (config.clone(), path.to_owned());
    let open = move || -> Result<Arc<dyn Tier>, ServerError> {
        Ok(if is_bucket { Arc::new(S3::from_env(&at, &own)?) } else { Arc::new(Posix::open(&at, &own)?) })
    };
    match open() {
        Err(error) if identity::has_run(config) => {
            tracing::warn!(%error, "the shared tier cannot be used yet; what is here is served, and it is tried again");
            let facts = if is_bucket { s3::UNOPENED } else { posix::UNOPENED };
            Ok(Arc::new(Late::new(error.to_string(), facts, Box::new(open))))
        }
        outcome => outcome,
    }
}

/// The window of a tier for which `threads` calls at once pay in general.
fn window_of(threads: usize) -> Window {
    Window::new(threads, (2.min(threads), 4 * threads))
}

/// Flushes until the server ends; on a thread of its own.
pub async fn run(worker: Rc<Worker>) {
    let node = Arc::clone(&worker.node);
    if !node.flusher.has_tier() {
        return node.stopped().await;
    }
    let queue = Arc::clone(node.namespace.queue());
    let mut tasks = JoinSet::new();
    let kept_back = tokio::task::spawn_local(never::watch(Rc::clone(&worker)));
    // A deadline, and those who wait for room, want fresh estimates.
    let watched = node.config.dirty_max.is_some() || node.config.deadline_unix_s.is_some();
    let every = if watched { ESTIMATE_EVERY.0 } else { ESTIMATE_EVERY.1 };
    let mut estimated = Instant::now();
    while !node.is_stopping() {
        let in_flight = node.flusher.in_flight();
        let shares = node.flusher.pool.window().size();
        let together = node.flusher.together.load(Ordering::Relaxed);
        for group in queue.take_groups(in_flight.saturating_sub(tasks.len()), together, shares) {
            let worker = Rc::clone(&worker);
            tasks.spawn_local(async move {
                match <[Taken; 1]>::try_from(group) {
                    Ok([alone]) => attempt::flush_one(worker, alone).await,
                    Err(group) => group::flush(&worker, group).await,
                }
            });
        }
        node.flusher.end_hurry(&queue);
        if estimated.elapsed() >= every {
            estimate::estimate(&node);
            estimated = Instant::now();
            if node.flusher.control.is_urgent(&node) && !queue.is_empty() {
                node.flusher.hurry(&queue, false);
            }
        }
        let sleep = if queue.is_idle() { tidying::tidy(&worker).await } else { None };
        let (full, sleep) = (tasks.len() >= in_flight, sleep.unwrap_or(LONGEST_SLEEP).min(LONGEST_SLEEP));
        tokio::select! {
            Some(_) = tasks.join_next() => {
                while tasks.try_join_next().is_some() {}
                node.flusher.forget_untidy();
            }
            () = queue.wait(sleep), if !full => {}
            () = tokio::time::sleep(every), if full || watched => {}
            () = node.stopped() => break,
        }
    }
    kept_back.abort();
    tasks.shutdown().await;
    node.flusher.pool.close(CLOSE_LIMIT);
    node.flusher.readers.close(CLOSE_LIMIT);
}
