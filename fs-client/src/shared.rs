//! What all threads of a client share.
//!
//! # Invariants
//! - A lane number belongs to one [`crate::aio::Core`] at a time, and its count goes on where the previous owner stopped, so a
//!   (client, sequence) is never used twice (`tests/fake/threads.rs`).
//! - After a fork each child is another client: new id, new lanes (`tests/fork.rs`).
//!
//! Locks are held for a look-up or an insertion, never across an await.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fs_net::{Address, ClusterFile, Identity, NetCounters, NetEnv, Rdma, RdmaChoice, Sharing};
use fs_proto::msg::inode::Space;
use fs_proto::msg::session::Role;
use fs_proto::{ChunkIndex, ClientId, INLINE_MAX, InodeId, ServerId};
use parking_lot::{Mutex, RwLock};
use quick_cache::sync::Cache;

use crate::cache::PathCache;
use crate::config::{ClientConfig, Transport};
use crate::error::{Error, Result};
use crate::housekeeper::Keeper;
use crate::locks::LockBook;
use crate::open_table::OpenTable;
use crate::router::View;

/// Directories remembered as wide. Forgetting one costs a message.
const WIDE_REMEMBERED: usize = 16 << 10;

/// Chunks in layout `writer` whose servers are remembered, some 3 MiB. Forgetting one costs a message.
const PLACES_REMEMBERED: usize = 64 << 10;

/// Shares of the memory budget, in eighths: buffers, path cache, open files; the rest is for connections and requests.
const BUFFER_EIGHTHS: usize = 4;
const CACHE_EIGHTHS: usize = 2;
const OPEN_EIGHTHS: usize = 1;
const _: () = assert!(BUFFER_EIGHTHS + CACHE_EIGHTHS + OPEN_EIGHTHS < 8);

/// Least memory that a client works with, in bytes.
const MEMORY_MIN: usize = 8 << 20;

/// How long a figure of [`Shared::space`] holds.
const SPACE_TTL: Duration = Duration::from_secs(1);

/// How often at most the cluster file and the local sockets are looked at again.
const REFRESH_PAUSE: Duration = Duration::from_millis(200);

static SERIAL: AtomicU64 = AtomicU64::new(1);

pub(crate) struct Shared {
    pub config: ClientConfig,
    pub counters: Arc<NetCounters>,
    pub env: NetEnv,
    pub opens: OpenTable,
    pub cache: PathCache,
    /// What is locked.
    pub locks: LockBook,
    pub keeper: Keeper,
    /// Bytes of the buffer pool.
    pub buffer_bytes: usize,
    /// Tells clients of one process apart, for thread-local lanes.
    pub serial: u64,
    /// Largest file that servers keep with its inode, as last heard from one.
    inline_limit: AtomicU32,
    wide: Cache<InodeId, ()>,
    /// Who holds chunks in layout `writer`: never wrong (`aio/places.rs`).
    pub places: Cache<(InodeId, ChunkIndex), ServerId>,
    view: RwLock<Arc<View>>,
    refreshed: Mutex<Instant>,
    lives: Mutex<Life>,
    space: Mutex<Option<(Instant, Space)>>,
    closed: AtomicBool,
}

/// A process's identity; a forked child gets another.
struct Life {
    pid: u32,
    client: ClientId,
    /// Lane numbers given back, with the count to go on from.
    free: Vec<(u16, u64)>,
    next: u32,
}

impl Life {
    /// The number comes from the system: a generator of this process would give the same to all children that it is forked into.
    fn new() -> Result<Life> {
        let number = getrandom::u64()
            .map_err(|e| Error::System { what: "get random numbers", cause: e.to_string() })?;
        let client = ClientId(number.max(1));
        Ok(Life { pid: std::process::id(), client, free: Vec::new(), next: 0 })
    }
}

/// The identity that a core works under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seat {
    pub pid: u32,
    pub client: ClientId,
    pub lane: u16,
    /// Requests that the lane has sent.
    pub count: u64,
}

impl Shared {
    pub fn new(config: ClientConfig) -> Result<Arc<Shared>> {
        let memory = config.memory_bytes.max(MEMORY_MIN);
        let buffer_bytes = memory / 8 * BUFFER_EIGHTHS;
        let mut env = NetEnv::new(buffer_bytes);
        env.sharing = match config.transport {
            Transport::Auto => Sharing::Ask,
            Transport::Shm => Sharing::Insist,
            Transport::Unix | Transport::Tcp => Sharing::Never,
        };
        env.rdma = Arc::new(Rdma::new(RdmaChoice::Auto, buffer_bytes as u64, 1));
        let view = View::new(&config.cluster, config.route)?;
        Ok(Arc::new(Shared {
            counters: env.counters.clone(),
            env,
            opens: OpenTable::new(memory / 8 * OPEN_EIGHTHS),
            cache: PathCache::new(memory / 8 * CACHE_EIGHTHS, config.entry_ttl, config.attr_ttl),
            locks: LockBook::default(),
            keeper: Keeper::default(),
            buffer_bytes,
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            inline_limit: AtomicU32::new(INLINE_MAX),
            wide: Cache::new(WIDE_REMEMBERED),
            places: Cache::new(PLACES_REMEMBERED),
            view: RwLock::new(Arc::new(view)),
            refreshed: Mutex::new(Instant::now()),
            lives: Mutex::new(Life::new()?),
            space: Mutex::new(None),
            closed: AtomicBool::new(false),
            config,
        }))
    }

    /// Ends the background work, after a last round of it.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.keeper.stop();
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Makes the housekeeper look at once.
    pub fn wake_housekeeper(&self) {
        self.keeper.wake();
    }

    pub fn identity(&self, client: ClientId) -> Identity {
        let cluster = &self.config.cluster;
        Identity {
            role: Role::Client { id: client },
            job: cluster.job.clone(),
            secret: cluster.secret.clone(),
        }
    }

    // --- lanes ---

    /// A lane number for a new core. Answers also whether the process is a forked child that asks for the first time.
    pub fn take_seat(&self) -> Result<(Seat, bool)> {
        let mut life = self.lives.lock();
        let forked = life.pid != std::process::id();
        if forked {
            *life = Life::new()?;
        }
        let (lane, count) = if let Some(left) = life.free.pop() {
            left
        } else {
            let lane = u16::try_from(life.next)
                .map_err(|_| Error::Limit { what: "threads that use this client", limit: 1 << 16 })?;
            life.next += 1;
            (lane, 0)
        };
        Ok((Seat { pid: life.pid, client: life.client, lane, count }, forked))
    }

    pub fn give_back(&self, seat: Seat) {
        let mut life = self.lives.lock();
        if life.pid == seat.pid {
            life.free.push((seat.lane, seat.count));
        }
    }

    // --- where things are ---

    pub fn view(&self) -> Arc<View> {
        self.view.read().clone()
    }

    pub fn address(&self, server: ServerId) -> Option<Address> {
        let view = self.view.read();
        if self.config.transport == Transport::Tcp { view.tcp_address(server) } else { view.address(server) }
    }

    /// Looks again who the members are and which of them run here. Not more often than every [`REFRESH_PAUSE`].
    pub fn refresh(&self) {
        {
            let mut refreshed = self.refreshed.lock();
            if refreshed.elapsed() < REFRESH_PAUSE {
                return;
            }
            *refreshed = Instant::now();
        }
        let old = self.view();
        match self.reload(&old) {
            Ok(view) => *self.view.write() = Arc::new(view),
            // Whoever refreshes retries until its own time-out and reports then.
            Err(e) => {
                tracing::debug!(error = %e, "the cluster file cannot be read again; going on with the old one");
            }
        }
    }

    fn reload(&self, old: &View) -> Result<View> {
        let Some(path) = &self.config.cluster_path else {
            return old.again(&self.config.cluster, self.config.route);
        };
        let cluster = ClusterFile::load(path).map_err(|e| Error::Cluster(e.to_string()))?;
        if cluster.epoch == old.epoch() {
            old.again(&cluster, self.config.route)
        } else {
            View::new(&cluster, self.config.route)
        }
    }

    /// Bytes up to which a file is worth being sent to its inode's home.
    pub fn inline_limit(&self) -> u64 {
        u64::from(self.inline_limit.load(Ordering::Relaxed))
    }

    /// A server told its limit.
    pub fn note_inline_limit(&self, bytes: u32) {
        self.inline_limit.store(bytes.min(INLINE_MAX), Ordering::Relaxed);
    }

    pub fn is_wide(&self, dir: InodeId) -> bool {
        self.wide.get(&dir).is_some()
    }

    /// Remembers a wide directory; answers whether that is news.
    pub fn note_wide(&self, dir: InodeId) -> bool {
        let news = !self.is_wide(dir);
        if news {
            self.wide.insert(dir, ());
        }
        news
    }

    /// Forgets it, because its parts are gone.
    pub fn forget_wide(&self, dir: InodeId) {
        self.wide.remove(&dir);
    }

    // --- space ---

    pub fn space(&self) -> Option<Space> {
        self.space.lock().as_ref().filter(|(at, _)| at.elapsed() < SPACE_TTL).map(|(_, space)| space.clone())
    }

    pub fn set_space(&self, space: &Space) {
        *self.space.lock() = Some((Instant::now(), space.clone()));
    }
}
