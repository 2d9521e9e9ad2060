//! Clients that hold locks, or may: their leases, what they have had answers for, and who is waited for after a restart.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use fs_proto::ClientId;
use fs_proto::msg::lock::LockCount;

use super::is_late;

/// Where a client stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Its locks are here.
    Known,
    /// It has none yet.
    New,
    /// It had some before the server was restarted.
    Restarted,
    /// It was silent for too long.
    Lost,
}

struct Lease {
    until: Instant,
    /// All requests with smaller numbers have been answered.
    floor: u64,
}

struct Grace {
    until: Instant,
    expected: HashSet<ClientId>,
}

pub(super) struct Clients {
    session: u64,
    lease: Duration,
    known: HashMap<ClientId, Lease>,
    grace: Option<Grace>,
}

impl Clients {
    pub fn new(session: u64, lease: Duration) -> Self {
        Clients { session, lease, known: HashMap::new(), grace: None }
    }

    /// Takes note of what the client has answers for; false for a request whose own answer is among it.
    pub fn settle(&mut self, client: ClientId, count: LockCount) -> bool {
        let Some(lease) = self.known.get_mut(&client) else { return false };
        lease.floor = lease.floor.max(count.settled);
        !is_late(count, lease.floor)
    }

    /// See [`super::LockTable::stand`].
    pub fn stand(&mut self, client: ClientId, session: u64, now: Instant) -> Standing {
        let standing = match self.known.get_mut(&client) {
            Some(lease) => {
                lease.until = now + self.lease;
                Standing::Known
            }
            None if session == 0 => Standing::New,
            None if session == self.session => Standing::Lost,
            None => Standing::Restarted,
        };
        if standing == Standing::New {
            // It has nothing to claim.
            self.claimed(client);
        }
        standing
    }

    pub fn admit(&mut self, client: ClientId, now: Instant) {
        let until = now + self.lease;
        self.known.entry(client).or_insert(Lease { until, floor: 0 }).until = until;
    }

    pub fn forget(&mut self, client: ClientId) {
        self.known.remove(&client);
        self.claimed(client);
    }

    pub fn expect(&mut self, clients: impl IntoIterator<Item = ClientId>, now: Instant) {
        let expected: HashSet<ClientId> = clients.into_iter().collect();
        if !expected.is_empty() {
            self.grace = Some(Grace { until: now + self.lease, expected });
        }
    }

    /// A client has claimed all that it will.
    pub fn claimed(&mut self, client: ClientId) {
        if let Some(grace) = &mut self.grace {
            grace.expected.remove(&client);
        }
    }

    pub fn is_known(&self, client: ClientId) -> bool {
        self.known.contains_key(&client)
    }

    pub fn is_expected(&self, client: ClientId, now: Instant) -> bool {
        let grace = self.grace.as_ref().filter(|grace| grace.until > now);
        grace.is_some_and(|grace| grace.expected.contains(&client))
    }

    pub fn is_in_grace(&self, now: Instant) -> bool {
        self.grace.as_ref().is_some_and(|grace| grace.until > now && !grace.expected.is_empty())
    }

    /// Ends the grace period if it is over; answers who did not claim anything.
    pub fn unclaimed(&mut self, now: Instant) -> Vec<ClientId> {
        if self.grace.is_none() || self.is_in_grace(now) {
            return Vec::new();
        }
        self.grace.take().map(|grace| grace.expected.into_iter().collect()).unwrap_or_default()
    }

    /// Those who were not heard of for a lease.
    pub fn silent(&self, now: Instant) -> Vec<ClientId> {
        self.known.iter().filter(|(_, lease)| lease.until <= now).map(|(client, _)| *client).collect()
    }
}
