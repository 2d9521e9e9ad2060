//! Files that many nodes read at the same time. `docs/decisions/0033-hot-files.md` argues why it is as it is.
//!
//! `watch` notices, at a chunk's holder, that a piece of it is asked for through several servers. From then on those servers keep pieces of the
//! file (`kept`) under leases that the holder gives (`grants`), and get them from each other, in a tree that the holder makes of them in the order in which
//! they ask: it sends a piece [`FAN_OUT`] times, each server at most as often. `reader` is the side of a server whose clients read; `holder` is that of the
//! server that has the chunk.
//!
//! What is asked about names and inodes comes from their homes, not in a tree: an answer is no larger than being told whom to ask would be. `lender` is the
//! side of the home (with `namespace/loans.rs`), `gateway` that of the server whose clients ask, which keeps `answers` to each `question`, and knows which are `underway`.
//! `docs/decisions/0038-hot-names.md`.
//!
//! # Invariants
//! - Before a chunk changes, every server that holds a lease on its file from here has dropped what it kept, or its lease is over; and none is given
//!   until the change is done (`tests/tests/hot/`: `no_read_returns_what_was_overwritten_before_it_began`).
//! - That holds if a server ends: its leases end by themselves, and who gave some before it was restarted lets no change begin before they are over
//!   (`a_restarted_holder_waits_for_the_leases_of_before`).
//! - The same holds of answers about names and inodes, and what changes those (`tests/tests/hot/names.rs`).
//! - What is kept never exceeds the pool `hot_files` (`what_is_kept_is_bounded`), nor pieces, answers or what is lent their part of it (`part`).

pub mod answers;
pub mod copier;
pub mod copies;
pub mod gateway;
pub mod grants;
pub mod holder;
pub mod kept;
pub mod lender;
pub mod part;
pub mod question;
pub mod reader;
pub mod underway;
pub mod watch;
pub mod whole;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fs_net::Budget;
use fs_proto::msg::hot::HOT_PIECE_BYTES;
use fs_proto::{ChunkIndex, InodeId};

use self::answers::Answers;
use self::grants::Grants;
use self::kept::Kept;
use self::part::Part;
use self::underway::Underway;
use self::watch::Watch;
use crate::error::OpResult;
use crate::kv::Kv;
use crate::namespace::Namespace;
use crate::namespace::locks::LockKey;

/// Servers that a piece is sent to by the holder, and by each of those that pass it on.
pub const FAN_OUT: usize = 4;
/// Servers that must have asked for the same piece for it to be hot, within [`WINDOW`].
pub const HOT_SERVERS: u32 = 3;
/// See [`HOT_SERVERS`].
pub const WINDOW: Duration = Duration::from_secs(2);
/// How long what was lent may be used without asking again.
pub const LEASE: Duration = Duration::from_secs(2);
/// How long the holder counts it as lent: longer, should clocks differ.
pub const LEASE_HELD: Duration = Duration::from_millis(2_250);
/// How long a file that was changed is not hot again.
pub const COOLING: Duration = Duration::from_secs(5);
/// How long a server takes a file for hot of which none of its clients reads.
pub const HINT: Duration = Duration::from_secs(10);
/// Reads of so many bytes of a hot file fetch the whole piece, although that is not known to be hot itself.
pub const JOIN_BYTES: u32 = 128 << 10;
/// How long a server waits for another that should pass a piece on.
pub const PARENT_WAIT: Duration = Duration::from_millis(500);
/// How long a server that did not answer is not asked again.
pub const SHUN: Duration = Duration::from_secs(5);

/// Parts of the memory that answers have, and what is known of leases of files, and of names and inodes, as divisors; pieces have the rest.
const ANSWERS_PART: u64 = 4;
const GRANTS_PART: u64 = 16;
const LOANS_PART: u64 = 16;

const _: () = assert!(LEASE.as_millis() < LEASE_HELD.as_millis());
const _: () = assert!(JOIN_BYTES <= HOT_PIECE_BYTES);

/// The part of the pool that what is known of leases of names and inodes has.
pub fn part_for_loans(hot_files: &Budget) -> Part {
    Part::of(hot_files, bytes_for_loans(hot_files))
}

fn bytes_for_loans(hot_files: &Budget) -> u64 {
    hot_files.stats().size / LOANS_PART
}

/// A piece of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PieceKey {
    /// File.
    pub ino: InodeId,
    /// Chunk of it.
    pub chunk: ChunkIndex,
    /// Piece of the chunk.
    pub piece: u32,
}

impl PieceKey {
    /// The piece that has a byte of a chunk.
    pub fn of(ino: InodeId, chunk: ChunkIndex, offset: u32) -> PieceKey {
        PieceKey { ino, chunk, piece: offset / HOT_PIECE_BYTES }
    }

    /// Its first byte within the chunk.
    pub fn offset(&self) -> u32 {
        self.piece.saturating_mul(HOT_PIECE_BYTES)
    }
}

/// What happened, since the start.
#[derive(Debug, Default)]
pub struct HotCounters {
    /// Reads answered from what was kept.
    pub hits: AtomicU64,
    /// Pieces fetched from holders.
    pub from_holder: AtomicU64,
    /// Pieces fetched from other servers.
    pub from_peers: AtomicU64,
    /// Pieces sent to servers that asked the holder, which this server is.
    pub lent: AtomicU64,
    /// Pieces passed on to other servers.
    pub passed_on: AtomicU64,
    /// Servers that did not pass a piece on, or were not asked, as they had not answered a moment before.
    pub refusals: AtomicU64,
    /// Leases called back from other servers.
    pub recalls: AtomicU64,
    /// Leases that ended by themselves while a change waited for them.
    pub ends_waited: AtomicU64,
    /// Answers about names and inodes that were lent by this server, their home.
    pub answers_lent: AtomicU64,
    /// Questions about names and inodes answered from what was kept.
    pub answers_given: AtomicU64,
    /// Times that a question waited for an equal one of this node, which was on its way to the home.
    pub answers_joined: AtomicU64,
    /// Calls that had servers forget answers before a change.
    pub answers_recalled: AtomicU64,
    /// Leases of answers that ended by themselves while a change waited for them.
    pub answers_waited: AtomicU64,
}

/// State of one server.
pub struct Hot {
    enabled: bool,
    /// Who reads what.
    pub watch: Watch<PieceKey>,
    /// Who asks about what.
    pub questions: Watch<LockKey>,
    /// What is lent from here.
    pub grants: Arc<Grants>,
    /// What is kept here.
    pub kept: Kept,
    /// Answers about names and inodes that are kept here.
    pub answers: Answers,
    /// Questions that are on their way to their homes.
    pub underway: Underway,
    /// Figures.
    pub counters: HotCounters,
}

impl Hot {
    /// That of a server with a namespace in `kv`, which keeps pieces and answers, and what it knows of its leases of files, in `memory`, each in its own part. That of
    /// leases of names and inodes is in the lock table ([`part_for_loans`]).
    pub fn open(kv: &dyn Kv, memory: Budget, enabled: bool) -> Self {
        let size = memory.stats().size;
        let (for_answers, for_grants) = (size / ANSWERS_PART, size / GRANTS_PART);
        let for_loans = bytes_for_loans(&memory);
        Hot {
            enabled,
            watch: Watch::default(),
            questions: Watch::default(),
            grants: Grants::open(kv, Part::of(&memory, for_grants)),
            answers: Answers::new(Part::of(&memory, for_answers)),
            kept: Kept::new(Part::of(&memory, size - for_answers - for_grants - for_loans)),
            underway: Underway::default(),
            counters: HotCounters::default(),
        }
    }

    /// Forgets what is over.
    pub fn tidy(&self, namespace: &Namespace, now: Instant) -> OpResult<()> {
        self.kept.tidy(now);
        self.answers.tidy(now);
        let locks = namespace.locks();
        locks.tidy_loans(now);
        self.grants.tidy(&**namespace.kv(), now, || locks.loans().is_empty())
    }

    /// Whether files become hot here.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Names, what they say, and figures that only grow.
    pub fn counts(&self) -> [(&'static str, &'static str, u64); 13] {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let own = &self.counters;
        [
            ("hot_hits", "Reads answered from kept pieces of hot files", load(&own.hits)),
            ("hot_from_holder", "Pieces of hot files fetched from their holders", load(&own.from_holder)),
            ("hot_from_peers", "Pieces of hot files fetched from other servers", load(&own.from_peers)),
            ("hot_lent", "Pieces of hot files sent as their holder", load(&own.lent)),
            ("hot_passed_on", "Pieces of hot files passed on to other servers", load(&own.passed_on)),
            (
                "hot_refusals",
                "Times that a server did not pass a piece on, or was not asked as it had not answered",
                load(&own.refusals),
            ),
            ("hot_recalls", "Leases called back before a change", load(&own.recalls)),
            ("hot_ends_waited", "Leases that a change waited for until they ended", load(&own.ends_waited)),
            (
                "hot_answers_lent",
                "Answers about names and inodes lent as their home",
                load(&own.answers_lent),
            ),
            (
                "hot_answers_given",
                "Questions about names and inodes answered from kept answers",
                load(&own.answers_given),
            ),
            (
                "hot_answers_joined",
                "Times that a question waited for an equal one that was on its way to the home",
                load(&own.answers_joined),
            ),
            (
                "hot_answers_recalled",
                "Calls that had servers forget answers before a change",
                load(&own.answers_recalled),
            ),
            (
                "hot_answers_waited",
                "Leases of answers that a change waited for until they ended",
                load(&own.answers_waited),
            ),
        ]
    }

    /// Names, what they say, and figures of now.
    pub fn gauges(&self) -> [(&'static str, &'static str, u64); 3] {
        [
            (
                "hot_files_lent",
                "Files of which other servers hold leases from here",
                self.grants.files() as u64,
            ),
            ("hot_pieces_kept", "Pieces of hot files kept here", self.kept.len() as u64),
            ("hot_answers_kept", "Answers about names and inodes kept here", self.answers.len() as u64),
        ]
    }

    /// For the status page.
    pub fn status_json(&self) -> serde_json::Value {
        let all = self.counts().into_iter().chain(self.gauges());
        all.map(|(name, _, value)| (name.trim_start_matches("hot_").to_owned(), value.into()))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }
}
