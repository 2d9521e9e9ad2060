//! The record of a client that may hold locks: what a restarted server has to wait for.
//!
//! ```text
//! 'j' client:u64 -> ()
//! ```
//!
//! # Invariants
//! - A record is in the store before its client's first lock is granted, and goes after the client is forgotten
//!   (`tests/tests/locks.rs`, `a_restarted_server_gets_its_locks_back`).
//! - Records that nobody claims anything for go when the grace period is over.

use std::time::Instant;

use fs_proto::ClientId;

use super::LockTable;
use crate::error::OpResult;
use crate::kv::Batch;
use crate::namespace::{Namespace, encode_record, keys};

impl LockTable {
    /// Takes a client in, with its record.
    pub fn enter(&self, namespace: &Namespace, client: ClientId, now: Instant) -> OpResult<()> {
        let _alone = self.records.lock();
        let mut batch = Batch::default();
        batch.put(keys::lock_client(client), encode_record(&()));
        namespace.kv().commit(batch)?;
        self.admit(client, now);
        Ok(())
    }

    /// Releases all that a client has, and removes its record.
    pub fn expel(&self, namespace: &Namespace, client: ClientId) -> OpResult<()> {
        let _alone = self.records.lock();
        self.forget(client);
        let mut batch = Batch::default();
        batch.delete(keys::lock_client(client));
        Ok(namespace.kv().commit(batch)?)
    }

    /// Forgets a client that says it has nothing, if that is so.
    pub fn leave(&self, namespace: &Namespace, client: ClientId) -> OpResult<()> {
        let _alone = self.records.lock();
        if !self.forget_idle(client) {
            return Ok(());
        }
        let mut batch = Batch::default();
        batch.delete(keys::lock_client(client));
        Ok(namespace.kv().commit(batch)?)
    }

    /// At the start: whoever has a record is waited for.
    pub fn recover(&self, namespace: &Namespace, now: Instant) -> OpResult<()> {
        let keys = namespace.keys_of_kind(b'j', usize::MAX)?;
        let clients: Vec<ClientId> = keys.iter().filter_map(|key| keys::split_lock_client(key)).collect();
        if !clients.is_empty() {
            tracing::info!(clients = clients.len(), "locks of before the restart may be claimed");
        }
        self.expect(clients, now);
        Ok(())
    }

    /// What is to be done now and then: clients that are silent lose their locks, and records without clients go.
    pub fn tidy_up(&self, namespace: &Namespace, now: Instant) -> OpResult<()> {
        for client in self.silent(now) {
            if self.has_any(client) {
                tracing::warn!(?client, "a client was not heard of for a lease: its locks are released");
            }
            self.expel(namespace, client)?;
        }
        for client in self.unclaimed(now) {
            tracing::warn!(?client, "a client did not claim its locks after the restart: they are released");
            self.expel(namespace, client)?;
        }
        Ok(())
    }
}
