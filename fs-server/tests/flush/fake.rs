//! A tier that does what a test wants at each call, and then what the real one does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fs_proto::ServerId;
use fs_server::tier::posix::Posix;
use fs_server::tier::{
    Attributes, Base, Dir, Facts, Found, Make, Place, Stripes, TakeListed, Tier, TierError, TierFile,
    TierResult,
};

/// Called before each call with its name, and with the name in its directory that it is about.
pub type Hook = Box<dyn Fn(&'static str, &[u8]) -> TierResult<()> + Send + Sync>;

/// The fake.
pub struct Fake<T> {
    /// What does the work.
    pub inner: T,
    /// Before each call.
    pub before: Hook,
    /// After each call that succeeded: may turn it into a failure.
    pub after: Hook,
    /// Listings fail after their first page.
    pub cut_listings: bool,
    /// Listing directories is interfered with, too. Else a cluster's first look at its tier, without which nothing can begin, always works.
    pub with_listings: bool,
    /// It says that another machine keeps it.
    pub is_remote: bool,
    /// Files that were synced after they were written.
    pub synced: Arc<AtomicU64>,
    /// Before each sync of a file.
    pub on_sync: Arc<dyn Fn() -> TierResult<()> + Send + Sync>,
    /// Before its facts are told, which is the one thing that is asked on threads which must not block.
    pub on_facts: Box<dyn Fn() + Send + Sync>,
}

/// A file of it.
struct FakeFile {
    inner: Box<dyn TierFile>,
    synced: Arc<AtomicU64>,
    on_sync: Arc<dyn Fn() -> TierResult<()> + Send + Sync>,
}

impl TierFile for FakeFile {
    fn write_at(&self, offset: u64, data: &[u8]) -> TierResult<()> {
        self.inner.write_at(offset, data)
    }
    fn sync(&self) -> TierResult<()> {
        self.synced.fetch_add(1, Ordering::AcqRel);
        (self.on_sync)()?;
        self.inner.sync()
    }
    fn receipt(&self) -> Bytes {
        self.inner.receipt()
    }
}

impl<T: Tier> Fake<T> {
    /// One that interferes before calls.
    pub fn before(
        inner: T,
        before: impl Fn(&'static str, &[u8]) -> TierResult<()> + Send + Sync + 'static,
    ) -> Self {
        Fake {
            inner,
            before: Box::new(before),
            after: Box::new(|_, _| Ok(())),
            cut_listings: false,
            with_listings: false,
            is_remote: false,
            synced: Arc::default(),
            on_sync: Arc::new(|| Ok(())),
            on_facts: Box::new(|| ()),
        }
    }

    fn call<R>(
        &self,
        what: &'static str,
        name: &[u8],
        body: impl FnOnce() -> TierResult<R>,
    ) -> TierResult<R> {
        (self.before)(what, name)?;
        let done = body()?;
        (self.after)(what, name)?;
        Ok(done)
    }
}

impl<T: Tier> Tier for Fake<T> {
    fn facts(&self) -> Facts {
        (self.on_facts)();
        let facts = self.inner.facts();
        Facts { is_remote: facts.is_remote || self.is_remote, ..facts }
    }
    fn collect(&self, at: &Place, receipts: &[Bytes]) -> TierResult<()> {
        self.call("collect", &at.name, || self.inner.collect(at, receipts))
    }
    fn base(&self, base: Base) -> TierResult<Dir> {
        if !self.with_listings && base == Base::Root {
            return self.inner.base(base);
        }
        self.call("base", b"", || self.inner.base(base))
    }
    fn open_dir(&self, at: &Place) -> TierResult<Dir> {
        self.call("open_dir", &at.name, || self.inner.open_dir(at))
    }
    fn look(&self, at: &Place) -> TierResult<Option<Found>> {
        self.call("look", &at.name, || self.inner.look(at))
    }
    fn list(&self, dir: &Dir, take: TakeListed<'_>) -> TierResult<()> {
        let mut pages = 0;
        let mut first = |page| {
            pages += 1;
            (pages == 1 || !self.cut_listings) && take(page)
        };
        if self.with_listings {
            self.call("list", b"", || self.inner.list(dir, &mut first))?;
        } else {
            self.inner.list(dir, &mut first)?;
        }
        if self.cut_listings && pages > 1 {
            return Err(TierError::Failed("the connection broke".to_owned()));
        }
        Ok(())
    }
    fn read(&self, at: &Place, wanted: &Found, offset: u64, out: &mut [u8]) -> TierResult<()> {
        self.call("read", &at.name, || self.inner.read(at, wanted, offset, out))
    }
    fn make(&self, at: &Place, what: &Make) -> TierResult<u64> {
        self.call("make", &at.name, || self.inner.make(at, what))
    }
    fn stripes(&self, at: &Place) -> TierResult<Option<Stripes>> {
        self.inner.stripes(at)
    }
    fn open_file(&self, at: &Place) -> TierResult<Box<dyn TierFile>> {
        let inner = self.call("open_file", &at.name, || self.inner.open_file(at))?;
        let (synced, on_sync) = (Arc::clone(&self.synced), Arc::clone(&self.on_sync));
        Ok(Box::new(FakeFile { inner, synced, on_sync }))
    }
    fn set(&self, at: &Place, id: u64, attributes: &Attributes) -> TierResult<()> {
        self.call("set", &at.name, || self.inner.set(at, id, attributes))
    }
    fn rename(&self, from: &Place, to: &Place) -> TierResult<()> {
        self.call("rename", &to.name, || self.inner.rename(from, to))
    }
    fn undo_move(&self, to: &Place) -> TierResult<()> {
        self.call("undo_move", &to.name, || self.inner.undo_move(to))
    }
    fn remove(&self, at: &Place, is_dir: bool) -> TierResult<()> {
        self.call("remove", &at.name, || self.inner.remove(at, is_dir))
    }
    fn rest(&self, me: ServerId) -> TierResult<bool> {
        self.call("rest", b"", || self.inner.rest(me))
    }
    fn reset(&self) {
        self.inner.reset();
    }
}

/// A gate at one call of the tier: calls wait in front of it while it is shut.
pub struct Gate {
    is_shut: AtomicBool,
    waiting: AtomicU64,
}

impl Gate {
    /// A gate that is shut.
    pub fn shut() -> Arc<Self> {
        Arc::new(Gate { is_shut: AtomicBool::new(true), waiting: AtomicU64::new(0) })
    }

    /// Lets all through from now on.
    pub fn open(&self) {
        self.is_shut.store(false, Ordering::Release);
    }

    /// Lets nobody through from now on.
    pub fn close(&self) {
        self.is_shut.store(true, Ordering::Release);
    }

    /// Tiers with this gate at `call`.
    pub fn wrap(self: &Arc<Self>, call: &'static str) -> impl Fn(Posix) -> Arc<dyn Tier> + use<> {
        let gate = Arc::clone(self);
        move |tier| {
            let gate = Arc::clone(&gate);
            Arc::new(Fake::before(tier, move |what, _| {
                if what == call {
                    gate.pass();
                }
                Ok(())
            }))
        }
    }

    /// Waits while it is shut.
    pub fn pass(&self) {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        while self.is_shut.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.waiting.fetch_sub(1, Ordering::AcqRel);
    }

    /// Until somebody waits in front of it.
    pub fn await_somebody(&self) {
        let began = Instant::now();
        while self.waiting.load(Ordering::Acquire) == 0 {
            assert!(began.elapsed() < Duration::from_secs(60), "nobody comes to the gate");
            std::thread::yield_now();
        }
    }
}
