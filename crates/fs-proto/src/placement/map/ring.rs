//! The partitions of each server as a linked ring, to tell in one step how crowded a server is around a partition.
//!
//! What placement tries to keep small is the sum of the squares of the distances between neighbouring partitions of a server: it is
//! least when they are evenly spaced. A partition at the distances a and b from its owner's neighbours takes 2ab from that sum, so ab,
//! its *room*, is what both giving and receiving are judged by.

use super::COUNT;
use crate::ids::ServerId;

/// Links of partitions to the next and the previous one of the same owner, looked at from a place that moves up from partition 0.
pub(super) struct Ring {
    previous: Vec<u16>,
    next: Vec<u16>,
    /// By server: its last partition at or before the place; before partition 0 comes the end of the ring.
    latest: Vec<Option<u16>>,
}

impl Ring {
    /// The ring of the listed partitions (ascending) with their owners, looked at from before partition 0.
    pub(super) fn new(partitions: impl Iterator<Item = (u16, ServerId)> + Clone) -> Self {
        let mut ring = Ring { previous: vec![0; COUNT], next: vec![0; COUNT], latest: vec![None; COUNT] };
        for (partition, owner) in partitions.clone() {
            ring.pass(partition, owner);
        }
        for (partition, owner) in partitions {
            let latest = ring.latest[usize::from(owner.0)].replace(partition).unwrap_or(partition);
            ring.join(latest, partition);
        }
        ring
    }

    fn join(&mut self, a: u16, b: u16) {
        self.next[usize::from(a)] = b;
        self.previous[usize::from(b)] = a;
    }

    /// Moves on past `partition`, which is `owner`'s.
    pub(super) fn pass(&mut self, partition: u16, owner: ServerId) {
        self.latest[usize::from(owner.0)] = Some(partition);
    }

    /// The partitions of `server` before and after the place.
    pub(super) fn around(&self, server: ServerId) -> Option<[u16; 2]> {
        self.latest[usize::from(server.0)].map(|latest| [latest, self.next[usize::from(latest)]])
    }

    /// The room of `partition` among its owner's.
    pub(super) fn room_of(&self, partition: u16) -> u64 {
        let at = usize::from(partition);
        distance(self.previous[at], partition) * distance(partition, self.next[at])
    }

    /// The room that `partition`, at the place, would have among those of `server`.
    pub(super) fn room_for(&self, partition: u16, server: ServerId) -> u64 {
        let Some([before, after]) = self.around(server) else { return (COUNT * COUNT) as u64 };
        distance(before, partition) * distance(partition, after)
    }

    /// Takes `partition` from `owner`.
    pub(super) fn unlink(&mut self, partition: u16, owner: ServerId) {
        let (previous, next) = (self.previous[usize::from(partition)], self.next[usize::from(partition)]);
        self.join(previous, next);
        let latest = &mut self.latest[usize::from(owner.0)];
        if *latest == Some(partition) {
            *latest = (previous != partition).then_some(previous);
        }
    }

    /// Gives `partition`, at the place, to `server` and moves on past it.
    pub(super) fn link(&mut self, partition: u16, server: ServerId) {
        let [before, after] = self.around(server).unwrap_or([partition; 2]);
        self.join(before, partition);
        self.join(partition, after);
        self.pass(partition, server);
    }
}

/// How far it is from `a` up to `b`; all the way round if they are one.
fn distance(a: u16, b: u16) -> u64 {
    match b.wrapping_sub(a) {
        0 => COUNT as u64,
        steps => u64::from(steps),
    }
}
