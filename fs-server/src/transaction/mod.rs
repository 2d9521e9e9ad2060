//! Changes of the namespace that span servers: two-phase commit, presumed abort.
//!
//! A [`Plan`] lists, for each server, what must hold and what changes. On one server it is one local change. On several, the
//! coordinator asks every other one to prepare (lock, check, remember), in ascending order of servers; when all said yes it commits
//! its own part together with the decision, in one atomic batch; from then on the change is done, and the others are told until they
//! have heard it. Readers wait for held keys, so nobody sees a part of it.
//!
//! # Invariants
//! - Decided means committed everywhere in the end: the decision is in the coordinator's store until all have heard it.
//! - Not decided means nothing happened: a participant that voted asks the coordinator, and "unknown" is no.
//! - Keys are taken in ascending order of servers, and on each server all at once: no deadlock.

pub mod coordinator;
pub mod participant;
pub mod recovery;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Instant;

use fs_proto::msg::transaction::{Prepare, TransactionId};
use fs_proto::placement::name_hash;
use fs_proto::record::{Check, Mutation};
use fs_proto::{InodeId, ServerId, Status};
use parking_lot::Mutex;

use crate::error::{OpError, OpResult};
use crate::namespace::apply::lock_keys;
use crate::namespace::locks::{HoldGuard, LockKey, LockSet, Mode};
use crate::namespace::permission::require_change;
use crate::node::Node;

/// One server's share of a change.
#[derive(Debug, Clone, Default)]
pub struct Part {
    /// What must hold.
    pub checks: Vec<Check>,
    /// What changes.
    pub mutations: Vec<Mutation>,
}

impl Part {
    fn lock_set(&self) -> LockSet {
        lock_set(&self.checks, &self.mutations)
    }
}

/// A change, by server.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    parts: BTreeMap<ServerId, Part>,
}

impl Plan {
    /// Adds a condition.
    pub fn check(&mut self, server: ServerId, check: Check) {
        self.parts.entry(server).or_default().checks.push(check);
    }

    /// Adds a change.
    pub fn mutate(&mut self, server: ServerId, mutation: Mutation) {
        self.parts.entry(server).or_default().mutations.push(mutation);
    }
}

/// Transactions that run on this server.
#[derive(Default)]
pub struct Transactions {
    prepared: Mutex<HashMap<TransactionId, Prepared>>,
    running: Mutex<HashSet<u64>>,
    tree: Mutex<Option<(TransactionId, Instant)>>,
}

impl Transactions {
    /// How many this server voted for without knowing yet how they end.
    pub fn undecided(&self) -> usize {
        self.prepared.lock().len()
    }
}

/// A transaction that this server voted for.
struct Prepared {
    request: Prepare,
    since: Instant,
    hold: HoldGuard,
}

fn lock_set(checks: &[Check], mutations: &[Mutation]) -> LockSet {
    let mut set = LockSet::default();
    for check in checks {
        match check {
            Check::EntryIs { parent, name, .. } => {
                set.add(LockKey::Entry(*parent, name_hash(*parent, name)), Mode::Exclusive);
            }
            Check::DirLive { dir } | Check::DirWritable { dir, .. } | Check::DirNarrow { dir } => {
                set.add(LockKey::Inode(*dir), Mode::Shared);
            }
            Check::DirEmpty { dir: ino }
            | Check::InodeLive { ino }
            | Check::InodeLinkable { ino }
            | Check::DirHeld { dir: ino } => {
                set.add(LockKey::Inode(*ino), Mode::Exclusive);
            }
        }
    }
    for mutation in mutations {
        lock_keys(mutation, &mut set);
    }
    set
}

const CHANGED: OpError = OpError::new(Status::Retry, "the name changed meanwhile");

/// Whether all of `checks` hold. The caller has their keys.
fn verify(node: &Node, checks: &[Check]) -> OpResult<()> {
    checks.iter().try_for_each(|check| verify_one(node, check))
}

fn verify_one(node: &Node, check: &Check) -> OpResult<()> {
    let namespace = &node.namespace;
    let directory = |dir: InodeId| namespace.directory(dir, node.owns(dir.partition()));
    match check {
        Check::EntryIs { parent, name, ino } => {
            let found = namespace.entry(*parent, name)?.map(|entry| entry.ino);
            if found == *ino { Ok(()) } else { Err(CHANGED) }
        }
        Check::DirLive { dir } | Check::DirHeld { dir } => directory(*dir).map(drop),
        Check::DirEmpty { dir } => {
            directory(*dir)?;
            if namespace.has_entries(*dir)? {
                return Err(OpError::new(Status::NotEmpty, "directory not empty"));
            }
            Ok(())
        }
        Check::InodeLive { ino } => {
            let alive = namespace.inode_in_section(*ino)?.is_some_and(|inode| inode.attr.nlink > 0);
            if alive { Ok(()) } else { Err(CHANGED) }
        }
        Check::InodeLinkable { ino } => {
            let linkable = namespace
                .inode_in_section(*ino)?
                .is_some_and(|inode| inode.attr.nlink > 0 || inode.name.is_empty());
            if linkable { Ok(()) } else { Err(OpError::not_found()) }
        }
        Check::DirWritable { dir, caller, victim_uid } => {
            require_change(caller, &namespace.dir_access(&directory(*dir)?)?, *victim_uid)
        }
        Check::DirNarrow { dir } => {
            let narrow = namespace
                .inode_in_section(*dir)?
                .is_some_and(|inode| inode.attr.is_dir() && !inode.attr.wide);
            if narrow { Ok(()) } else { Err(CHANGED) }
        }
    }
}
