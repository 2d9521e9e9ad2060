//! The partition map: which server owns each of the 65,536 partitions.
//!
//! A map is a pure function of a cluster's history: its first members and the joins and leaves since then, in order. Every node that
//! knows the history computes the same map, bit for bit: integers only, no hash of the machine's, no clock. Why it is made so, and
//! what was rejected: decision record 0002.
//!
//! A server's *quota* is 65,536 x its weight / the sum of the weights, in general not whole.
//!
//! # Invariants
//! - Every server owns its quota rounded down, or one more; so a gateway (weight 0) owns nothing (`every_map_is_balanced`).
//! - An event moves as few partitions as any map within those bounds would have to, and with equal weights only to the newcomer or
//!   from the leaver (`events_move_the_least_possible`, `with_equal_weights_only_the_newcomer_or_leaver_moves`).
//! - The first map deals partitions in turn: with equal weights, partition p belongs to the (p mod N)-th server
//!   (`first_map_deals_in_turn`, `weighted_deal_is_interleaved`).
//! - Same history, same map; the order in which the first members are listed does not matter (`maps_are_deterministic`, golden in
//!   `partition_maps_never_change`).
//! - A decoded map has been checked for all of this that can be checked without its history (`decoded_maps_are_valid`).
//!
//! Deliberately absent: a change of weight (leave and join under a new number), and racks: no copies are placed by this map yet.

mod codec;
mod deal;
mod quota;
mod ring;

use crate::ids::{PARTITIONS, Partition, ServerId};
use std::fmt;

const COUNT: usize = PARTITIONS as usize;

/// A server and how much of the whole it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Which.
    pub id: ServerId,
    /// Share relative to the others; 0 is a pure gateway.
    pub weight: u32,
}

/// A change of the members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MapEvent {
    /// A server comes.
    Join(Member),
    /// A server goes.
    Leave(ServerId),
}

/// Why there is no such map.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// Nobody has a weight above zero.
    #[error("no server with a store: at least one member needs a weight above 0")]
    Empty,
    /// A server joins twice.
    #[error("server {0} is a member already")]
    Duplicate(ServerId),
    /// A server leaves that is not there.
    #[error("server {0} is not a member")]
    Unknown(ServerId),
    /// More members than partitions.
    #[error("{0} servers are more than the {PARTITIONS} partitions")]
    TooMany(usize),
}

/// Which server owns which partition. 128 KiB, whatever the number of servers.
#[derive(Clone, PartialEq, Eq)]
pub struct PartitionMap {
    epoch: u64,
    /// Ascending by id, each once.
    members: Vec<Member>,
    /// How many partitions each of `members` owns.
    shares: Vec<u32>,
    /// By partition. Of fixed length, so that looking up an owner needs no check of bounds.
    owners: Box<[ServerId; COUNT]>,
}

impl PartitionMap {
    /// The first map of a cluster, epoch 1. The order of `members` does not matter.
    ///
    /// # Errors
    /// [`MapError::Empty`], [`MapError::Duplicate`] and [`MapError::TooMany`].
    pub fn initial(members: &[Member]) -> Result<Self, MapError> {
        if members.len() > COUNT {
            return Err(MapError::TooMany(members.len()));
        }
        let mut members = members.to_vec();
        members.sort_unstable_by_key(|m| m.id);
        check_members(&members)?;
        let shares = quota::targets(&members, &vec![0; members.len()], None);
        let turns = deal::in_turn(&members, &shares).into_iter().map(|member| member.id).collect();
        Ok(PartitionMap { epoch: 1, members, shares, owners: owners_from(turns) })
    }

    /// The map after `first` and then all `events`, in their order.
    ///
    /// # Errors
    /// What [`PartitionMap::initial`] and [`PartitionMap::apply`] return.
    pub fn replay(first: &[Member], events: &[MapEvent]) -> Result<Self, MapError> {
        events.iter().try_fold(Self::initial(first)?, |map, event| map.apply(*event))
    }

    /// The next map, after `event`. `self` stays, so that requests under way can be compared with both.
    ///
    /// # Errors
    /// [`MapError::Duplicate`] (join), [`MapError::Unknown`] (leave) and [`MapError::Empty`] (leave of the last store).
    pub fn apply(&self, event: MapEvent) -> Result<Self, MapError> {
        let (members, newcomer) = self.members_after(event)?;
        check_members(&members)?;
        let held: Vec<u32> = members.iter().map(|m| self.share(m.id)).collect();
        let shares = quota::targets(&members, &held, newcomer);
        let mut owners = self.owners.clone();
        let leaver = if let MapEvent::Leave(id) = event { Some(id) } else { None };
        // The last turns of a hand-over suit their places least: start elsewhere each time, by the golden section.
        let start = (self.epoch.wrapping_mul(40_503) % COUNT as u64) as usize;
        owners.rotate_left(start);
        deal::hand_over(&mut owners, &members, &held, &shares, leaver);
        owners.rotate_right(start);
        Ok(PartitionMap { epoch: self.epoch + 1, members, shares, owners })
    }

    /// Members after `event`, and the position of the one that came.
    fn members_after(&self, event: MapEvent) -> Result<(Vec<Member>, Option<usize>), MapError> {
        let mut members = self.members.clone();
        match event {
            MapEvent::Join(new) => {
                let Err(at) = self.position(new.id) else { return Err(MapError::Duplicate(new.id)) };
                members.insert(at, new);
                Ok((members, Some(at)))
            }
            MapEvent::Leave(id) => {
                let at = self.position(id).map_err(|_| MapError::Unknown(id))?;
                members.remove(at);
                Ok((members, None))
            }
        }
    }

    fn position(&self, id: ServerId) -> Result<usize, usize> {
        self.members.binary_search_by_key(&id, |m| m.id)
    }

    /// Counts the changes since the first map, from 1.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// All members, gateways included, ascending by number.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The owner of a partition. One load.
    pub fn owner(&self, partition: Partition) -> ServerId {
        self.owners[usize::from(partition.0)]
    }

    /// How many partitions `server` owns; 0 for gateways and strangers.
    pub fn share(&self, server: ServerId) -> u32 {
        self.position(server).map_or(0, |at| self.shares[at])
    }

    /// The partitions that `server` owns, ascending. Reads the whole map, some ten microseconds.
    pub fn partitions_of(&self, server: ServerId) -> impl Iterator<Item = Partition> + '_ {
        self.iter().filter(move |(_, owner)| *owner == server).map(|(partition, _)| partition)
    }

    /// Every partition with its owner, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (Partition, ServerId)> + '_ {
        (0..=u16::MAX).map(Partition).zip(self.owners.iter().copied())
    }

    /// The partitions that have another owner here than in `older`, with the old and the new owner.
    pub fn moves_from(&self, older: &PartitionMap) -> impl Iterator<Item = (Partition, ServerId, ServerId)> {
        let pairs = older.iter().zip(self.iter());
        pairs.filter(|(old, new)| old.1 != new.1).map(|(old, new)| (old.0, old.1, new.1))
    }

    /// How many partitions have another owner here than in `older`.
    pub fn moved_from(&self, older: &PartitionMap) -> u32 {
        self.moves_from(older).count() as u32
    }
}

impl fmt::Debug for PartitionMap {
    /// Without the 65,536 owners.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("PartitionMap");
        out.field("epoch", &self.epoch).field("members", &self.members).finish_non_exhaustive()
    }
}

/// Checks members in ascending order.
fn check_members(members: &[Member]) -> Result<(), MapError> {
    if let Some(twice) = members.windows(2).find(|pair| pair[0].id == pair[1].id) {
        return Err(MapError::Duplicate(twice[0].id));
    }
    if members.iter().all(|m| m.weight == 0) {
        return Err(MapError::Empty);
    }
    Ok(())
}

/// Boxes the owners of all partitions. Quotas add up to the number of partitions, so there are as many.
fn owners_from(owners: Vec<ServerId>) -> Box<[ServerId; COUNT]> {
    owners.try_into().expect("one owner for each partition")
}
