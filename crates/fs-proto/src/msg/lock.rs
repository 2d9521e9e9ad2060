//! Locks of files. They live in the memory of the inode's home; decision 0013.
//!
//! Every request carries the *session*: which run of the server granted what this client holds there (0: it holds nothing). A server that was
//! restarted since asks for the locks to be claimed again ([`LockRenew`]); one that has given the client up says that they are lost.

use crate::attr::Attr;
use crate::ids::{ClientId, InodeId};
use crate::lock::{HeldLock, LockFamily, LockKind, LockRange};
use crate::op::request;
use crate::wire::{wire_struct, wire_union};

wire_struct! {
    /// What makes a lock request one that can be sent again: numbers of the client, counted over all its requests about locks.
    #[derive(Copy)]
    pub struct LockCount {
        /// This one's number. All sendings have the same.
        pub serial: u64,
        /// All below this have been answered: what arrives of them late is ignored.
        pub settled: u64,
        /// See the module.
        pub session: u64,
    }
}

wire_struct! {
    /// Lock bytes, or change how they are locked.
    pub struct LockSet {
        /// File.
        pub ino: InodeId,
        /// Family.
        pub family: LockFamily,
        /// Owner, by the client's own number.
        pub owner: u64,
        /// Bytes.
        pub range: LockRange,
        /// How.
        pub kind: LockKind,
        /// Process number, for those who ask who holds it.
        pub pid: u32,
        /// Absent: answer at once. Else wait in the queue, and keep the answer back for at most so many milliseconds; after an answer of
        /// [`LockOutcome::Waiting`] the place in the queue is kept for [`WAITER_MS`].
        pub wait_ms: Option<u32>,
        /// See [`LockCount`].
        pub count: LockCount,
    }
}

/// How long a place in the queue is kept for a client that does not ask again, in milliseconds.
pub const WAITER_MS: u32 = 5_000;

wire_union! {
    /// What became of a [`LockSet`] or [`LockClear`].
    pub enum LockOutcome {
        /// The bytes are locked; the file's attributes as of then, sizes settled.
        Granted = 1 { attr: Attr },
        /// The bytes are not locked any more (or were not).
        Cleared = 2 {},
        /// Somebody is in the way.
        Conflict = 3 { holder: HeldLock },
        /// Still in the queue: ask again with the same number.
        Waiting = 4 {},
        /// [`LockCancel`] came meanwhile: not locked, not in the queue.
        Cancelled = 5 {},
        /// Waiting would never end: whoever is in the way waits for this owner.
        Deadlock = 6 {},
        /// The server keeps no more locks or waiters.
        TooMany = 7 {},
        /// The server was restarted: claim again what was held ([`LockRenew`]), then ask again.
        Restarted = 8 {},
        /// The server did not hear of this client for a lease: all that it held here may have been given to others.
        Lost = 9 {},
    }
}

wire_struct! {
    /// Answer to all that changes locks.
    pub struct LockAnswer {
        /// What became of it.
        pub outcome: LockOutcome,
        /// The session of this run of the server.
        pub session: u64,
        /// How long the server waits for a sign of life before it gives a client's locks to others, in milliseconds.
        pub lease_ms: u32,
    }
}

wire_struct! {
    /// Unlock bytes.
    pub struct LockClear {
        /// File.
        pub ino: InodeId,
        /// Family.
        pub family: LockFamily,
        /// Owner.
        pub owner: u64,
        /// Bytes.
        pub range: LockRange,
        /// See [`LockCount`].
        pub count: LockCount,
    }
}

wire_struct! {
    /// Who is in the way of a lock? Locks nothing.
    pub struct LockTest {
        /// File.
        pub ino: InodeId,
        /// Family.
        pub family: LockFamily,
        /// Owner.
        pub owner: u64,
        /// Bytes.
        pub range: LockRange,
        /// How.
        pub kind: LockKind,
    }
}

wire_struct! {
    /// Give up waiting. The [`LockSet`] is answered: with `Cancelled`, or with what came before this.
    pub struct LockCancel {
        /// File.
        pub ino: InodeId,
        /// [`LockCount::serial`] of the request that waits.
        pub serial: u64,
    }
}

wire_struct! {
    /// A lock to claim again.
    #[derive(Copy)]
    pub struct LockClaim {
        /// File.
        pub ino: InodeId,
        /// Family.
        pub family: LockFamily,
        /// Owner.
        pub owner: u64,
        /// Bytes.
        pub range: LockRange,
        /// How.
        pub kind: LockKind,
        /// Process number.
        pub pid: u32,
    }
}

/// Most claims in one [`LockRenew`].
pub const CLAIMS_MAX: usize = 32 << 10;
const _: () = assert!(CLAIMS_MAX * 64 < crate::META_MAX as usize);

wire_struct! {
    /// A sign of life to one server, and after its restart the locks to claim again. Goes to a server.
    pub struct LockRenew {
        /// The session that the client has, or that it claims in.
        pub session: u64,
        /// Locks of before the restart.
        pub claims: Vec<LockClaim>,
        /// More of them follow.
        pub more: bool,
        /// The client holds nothing here and will not say so again.
        pub leave: bool,
    }
}

wire_union! {
    /// What a server makes of a sign of life.
    pub enum LockStanding {
        /// All is well, but for the claims with these indices, which are lost.
        Known = 1 { refused: Vec<u32> },
        /// See [`LockOutcome::Restarted`].
        Restarted = 2 {},
        /// See [`LockOutcome::Lost`].
        Lost = 3 {},
    }
}

wire_struct! {
    /// Answer to [`LockRenew`].
    pub struct LockRenewed {
        /// How the client stands.
        pub standing: LockStanding,
        /// The session of this run of the server.
        pub session: u64,
        /// See [`LockAnswer::lease_ms`].
        pub lease_ms: u32,
    }
}

wire_struct! {
    /// A client's process has ended: release what it locked. Server to server.
    pub struct ClientGone {
        /// Who.
        pub client: ClientId,
    }
}

request! {
    LockSet => LockSet -> LockAnswer;
    LockClear => LockClear -> LockAnswer;
    LockTest => LockTest -> Option<HeldLock>;
    LockCancel => LockCancel -> ();
    LockRenew => LockRenew -> LockRenewed;
    ClientGone => ClientGone -> ();
}
