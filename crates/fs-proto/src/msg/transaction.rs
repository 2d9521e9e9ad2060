//! Two-phase commit between servers, presumed abort: a coordinator that does not know a transaction never committed it.

use crate::ids::{InodeId, ServerId};
use crate::op::request;
use crate::record::{Check, Mutation, ShardRecord};
use crate::wire::{wire_enum, wire_struct};

wire_struct! {
    /// Identity of a transaction: its coordinator and a number never used again there.
    #[derive(Copy, Hash, PartialOrd, Ord)]
    pub struct TransactionId {
        /// Who decides.
        pub coordinator: ServerId,
        /// Which of its transactions.
        pub number: u64,
    }
}

wire_struct! {
    /// Lock, check and remember; the answer `Ok` is a yes that survives a crash.
    pub struct Prepare {
        /// Which.
        pub id: TransactionId,
        /// What must hold.
        pub checks: Vec<Check>,
        /// What will be done.
        pub mutations: Vec<Mutation>,
    }
}

wire_struct! {
    /// The coordinator's decision. Repeating it is harmless.
    pub struct Decide {
        /// Which.
        pub id: TransactionId,
        /// Apply, else forget.
        pub commit: bool,
    }
}

wire_enum! {
    /// How a transaction ended.
    pub enum Verdict: u8 {
        /// Decided: apply.
        Committed = 1,
        /// Never decided, and never will be: forget.
        Aborted = 2,
        /// Still running: ask later.
        Open = 3,
    }
}

wire_struct! {
    /// A participant asks after a crash or a long silence.
    pub struct Outcome {
        /// Which.
        pub id: TransactionId,
    }
}

wire_struct! {
    /// Take or give back the right to move directories between directories. Goes to the root's home.
    pub struct TreeLock {
        /// For which transaction.
        pub id: TransactionId,
        /// Take, else give back.
        pub take: bool,
    }
}

wire_struct! {
    /// The asked server's part of a wide directory. Goes to a server.
    pub struct GetShard {
        /// Which.
        pub dir: InodeId,
    }
}

/// Milliseconds after which a tree lock that was not given back is void.
pub const TREE_LOCK_MS: u32 = 5_000;

request! {
    Prepare => Prepare -> ();
    Decide => Decide -> ();
    Outcome => Outcome -> Verdict;
    TreeLock => TreeLock -> ();
    GetShard => GetShard -> Option<ShardRecord>;
}
