//! What is only in the shared tier: names that were not taken over yet, and chunks that are fetched when somebody wants them, because they were
//! there before the cluster was, or were evicted. `docs/decisions/0021-read-through.md` and `0022-eviction.md` argue why it is as it is.
//!
//! `listing` takes over the names of a directory, at its home; `home` is what a file's home knows and decides; `rows`, `claims` and `fetch` are the side
//! of who holds chunks; `evict` is both sides of making room.
//!
//! # Invariants
//! - A chunk that is held is the truth; one that is not is a hole only if neither the row of its file nor its file's home says that it is in the
//!   shared tier (`tests/flush`, `reading`).
//! - A chunk comes into being whole: fetched, or written to its end (`tests/flush`: `parts_that_are_written_leave_the_rest`).
//! - What is fetched is of the copy that the home knows, as it was when it was taken over, or nothing is (`a_copy_that_others_change_is_noticed`).
//! - A chunk is dropped only where its file's row says already where it is fetched from (`evict`).

pub mod claims;
pub mod dirty;
pub mod evict;
pub mod fetch;
pub mod home;
pub mod listing;
pub mod migrate;
mod old_names;
pub mod ops;
pub mod pins;
pub mod replaced;
pub mod room;
pub mod rows;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fs_proto::{InodeId, TimeNs};

use self::claims::{Alone, Claims, Copied, Use};
use self::evict::Evictor;
use self::home::Looks;
use self::listing::Listings;
use self::migrate::Migration;
use self::rows::Rows;
use crate::inherited::Inherited;
use crate::kv::Kv;

/// State of one server.
pub struct Backing {
    enabled: bool,
    /// When this store was made in the place of another, which was lost with what it held.
    replaced: Option<TimeNs>,
    claims: Arc<Claims>,
    rows: Rows,
    listings: Listings,
    migration: Migration,
    looks: Looks,
    evictor: Evictor,
    pins: Inherited<bool>,
    /// Bytes fetched from the shared tier since the start.
    pub fetched_bytes: AtomicU64,
    ahead: AtomicU64,
}

impl Backing {
    /// That of a server with a namespace in `kv`; `enabled` if there is a tier that can be read.
    pub fn open(kv: &dyn Kv, enabled: bool, replaced: Option<TimeNs>) -> Self {
        Backing {
            enabled,
            replaced,
            claims: Arc::default(),
            rows: Rows::open(kv),
            listings: Listings::default(),
            migration: Migration::default(),
            looks: Looks::default(),
            evictor: Evictor::default(),
            pins: pins::pins(),
            fetched_bytes: AtomicU64::new(0),
            ahead: AtomicU64::new(0),
        }
    }

    /// Whether chunks of the file that are not held here may be in the shared tier, or lost.
    pub fn concerns(&self, ino: InodeId) -> bool {
        self.replaced.is_some() || self.enabled && (ino.is_adopted() || self.rows.any())
    }

    /// When this store was made, if it has taken the place of one that was lost.
    pub fn replaced(&self) -> Option<TimeNs> {
        self.replaced
    }

    /// Whether there is a tier that chunks can be fetched from.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// To use chunks of a file: none of them is dropped or cut meanwhile.
    pub async fn enter(&self, ino: InodeId) -> Use {
        self.claims.enter(ino).await
    }

    /// To cut or remove chunks of a file: nobody uses, fetches or moves them meanwhile.
    pub async fn alone(&self, ino: InodeId) -> Alone {
        self.claims.alone(ino).await
    }

    /// To copy chunks of a file: none of them is dropped meanwhile.
    pub async fn copy(&self, ino: InodeId) -> Copied {
        self.claims.copy(ino).await
    }

    /// Who works with the chunks of which file.
    pub fn claims(&self) -> &Arc<Claims> {
        &self.claims
    }

    /// The copy of a file that lives here was just seen in the tier.
    pub fn note_look(&self, ino: InodeId) {
        self.looks.note(ino);
    }

    /// What is known of use, for eviction.
    pub fn evictor(&self) -> &Evictor {
        &self.evictor
    }

    /// Since the start: bytes fetched from the shared tier, files that lost chunks here, bytes of those.
    pub fn counts(&self) -> (u64, u64, u64) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (load(&self.fetched_bytes), load(&self.evictor.files), load(&self.evictor.bytes))
    }

    /// For the status page.
    pub fn status_json(&self) -> serde_json::Value {
        let (fetched_bytes, evicted_files, evicted_bytes) = self.counts();
        serde_json::json!({
            "fetched_bytes": fetched_bytes,
            "evicted_files": evicted_files,
            "evicted_bytes": evicted_bytes,
            "migration": self.migration.status_json(),
        })
    }
}
