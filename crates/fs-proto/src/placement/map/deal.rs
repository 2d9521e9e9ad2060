//! Which partitions, once it is known how many: dealing in turn, taking at even distances, handing on.
//!
//! All three keep every server's partitions evenly spaced along the ring, so that the chunks of a file, which lie on consecutive
//! partitions, load all servers alike, also after many joins and leaves. Giving and receiving go in turn, too, but look some turns
//! ahead for the server that suits the place best.

use super::ring::Ring;
use super::{COUNT, Member};
use crate::ids::ServerId;

/// How many turns are looked ahead at most. More spreads no better (measured: 32 to 256) and takes longer: what one server of half of
/// all weight takes from 4,096 others costs 50 ms, everything usual under 4 ms on a free core.
const LOOK_AHEAD: usize = 64;

/// Whose turn it is: `counts[i]` turns for `members[i]`, which ascend, as evenly interleaved as weights allow. With equal weights, strictly in turn.
///
/// The j-th turn of a member is due at time (2j + 1) / weight: the middle of its j-th share of the time.
pub(super) fn in_turn(members: &[Member], counts: &[u32]) -> Vec<Member> {
    let mut weights = members.iter().zip(counts).filter(|(_, count)| **count > 0).map(|(m, _)| m.weight);
    let first = weights.next();
    if weights.all(|weight| Some(weight) == first) {
        in_rounds(members, counts)
    } else {
        by_time(members, counts)
    }
}

/// [`in_turn`] with equal weights, in a tenth of the time: every client that connects waits for it.
fn in_rounds(members: &[Member], counts: &[u32]) -> Vec<Member> {
    let mut turns = Vec::with_capacity(counts.iter().sum::<u32>() as usize);
    let mut left: Vec<(u32, Member)> = counts.iter().copied().zip(members.iter().copied()).collect();
    for round in 0.. {
        left.retain(|(count, _)| *count > round);
        if left.is_empty() {
            break;
        }
        turns.extend(left.iter().map(|(_, member)| *member));
    }
    turns
}

/// [`in_turn`] with any weights.
fn by_time(members: &[Member], counts: &[u32]) -> Vec<Member> {
    let each = members.iter().zip(counts);
    let mut turns: Vec<(u64, Member)> =
        each.flat_map(|(member, count)| (0..*count).map(|j| (u64::from(2 * j + 1), *member))).collect();
    // Fractions compared exactly: 17 bits times 32 bits. A gateway has no turns, so no weight is zero.
    turns.sort_unstable_by(|(a, m), (b, n)| {
        (a * u64::from(n.weight)).cmp(&(b * u64::from(m.weight))).then(m.id.cmp(&n.id))
    });
    turns.into_iter().map(|(_, member)| member).collect()
}

/// Moves partitions until each of `members`, who held `held`, owns its target. A `leaver` gives all.
pub(super) fn hand_over(
    owners: &mut [ServerId; COUNT],
    members: &[Member],
    held: &[u32],
    targets: &[u32],
    leaver: Option<ServerId>,
) {
    let gives: Vec<u32> =
        held.iter().zip(targets).map(|(held, target)| held.saturating_sub(*target)).collect();
    let takes: Vec<u32> =
        targets.iter().zip(held).map(|(target, held)| target.saturating_sub(*held)).collect();
    let receivers = in_turn(members, &takes);
    let heaviest = receivers.iter().map(|m| m.weight).max().unwrap_or(0);
    let mut released = release(owners, in_turn(members, &gives), heaviest);
    for (released, owner) in released.iter_mut().zip(owners.iter()) {
        *released |= Some(*owner) == leaver;
    }
    hand_on(owners, &released, receivers);
}

/// Chooses what the givers give, at even distances for a receiver of weight `heaviest`: for each place, the partition near it whose
/// loss makes its owner's least uneven.
fn release(owners: &[ServerId; COUNT], givers: Vec<Member>, heaviest: u32) -> Vec<bool> {
    let mut ring = Ring::new((0..=u16::MAX).zip(owners.iter().copied()));
    let mut released = vec![false; COUNT];
    let (count, mut passed) = (givers.len(), 0);
    let mut turns = Turns::new(givers);
    for place in (0..count).map(|k| k * COUNT / count) {
        for partition in (passed..=place).filter(|p| !released[*p]) {
            ring.pass(partition as u16, owners[partition]);
        }
        passed = place + 1;
        let cost = |giver: &Member, partition: u16| {
            let off = partition.wrapping_sub(place as u16).min((place as u16).wrapping_sub(partition));
            squared(giver.weight) * u128::from(ring.room_of(partition))
                + squared(heaviest) * squared(u32::from(off))
        };
        let cheapest = |giver: &Member| ring.around(giver.id)?.into_iter().map(|p| (cost(giver, p), p)).min();
        let options = turns.ahead().map(|(turn, giver)| (cheapest(giver), turn));
        // Nobody has more turns to give than partitions.
        let Some((Some((_, partition)), turn)) = options.min() else {
            unreachable!("a giver owns what it gives")
        };
        ring.unlink(partition, turns.take(turn).id);
        released[usize::from(partition)] = true;
    }
    released
}

/// Gives each partition that is `released` to the one with the most room around it.
fn hand_on(owners: &mut [ServerId; COUNT], released: &[bool], receivers: Vec<Member>) {
    let kept = (0..=u16::MAX).zip(owners.iter().copied()).filter(|(p, _)| !released[usize::from(*p)]);
    let mut ring = Ring::new(kept);
    let mut turns = Turns::new(receivers);
    for partition in 0..=u16::MAX {
        let owner = &mut owners[usize::from(partition)];
        if !released[usize::from(partition)] {
            ring.pass(partition, *owner);
            continue;
        }
        let room = |m: &Member| squared(m.weight) * u128::from(ring.room_for(partition, m.id));
        let options = turns.ahead().rev().map(|(turn, receiver)| (room(receiver), turn));
        // The last of equals in reverse order: turns are kept where it does not matter.
        let (_, turn) = options.max_by_key(|(room, _)| *room).expect("as much is received as is given");
        *owner = turns.take(turn).id;
        ring.link(partition, *owner);
    }
}

fn squared(value: u32) -> u128 {
    u128::from(value).pow(2)
}

/// Turns still to be taken, in order, of which the first few may be chosen from.
struct Turns {
    next: Vec<Member>,
    later: std::vec::IntoIter<Member>,
    /// How often the first of `next` was passed over.
    waited: usize,
}

impl Turns {
    fn new(turns: Vec<Member>) -> Self {
        // With equal weights, turns repeat after one round of the servers: more than two rounds show nothing new.
        let mut servers: Vec<ServerId> = turns.iter().map(|m| m.id).collect();
        servers.sort_unstable();
        servers.dedup();
        let ahead = LOOK_AHEAD.min(2 * servers.len());
        let mut later = turns.into_iter();
        Turns { next: later.by_ref().take(ahead).collect(), later, waited: 0 }
    }

    /// Those to choose from, with their positions. A turn that suits no place is taken where it comes, lest all such turns are left
    /// for the end of the ring.
    fn ahead(&self) -> impl DoubleEndedIterator<Item = (usize, &Member)> {
        let all = if self.waited > self.next.len() { 1 } else { self.next.len() };
        self.next[..all].iter().enumerate()
    }

    /// Takes the turn at a position.
    fn take(&mut self, at: usize) -> Member {
        self.waited = if at == 0 { 0 } else { self.waited + 1 };
        self.next.extend(self.later.next());
        self.next.remove(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Goal: the short way for equal weights is the long way. Method: random counts, both ways.
        #[test]
        fn rounds_are_turns(weight in 1_u32.., counts in prop::collection::vec(0_u32..50, 0..20)) {
            let members: Vec<Member> =
                (0..counts.len()).map(|i| Member { id: ServerId(3 * i as u16), weight }).collect();
            prop_assert_eq!(in_rounds(&members, &counts), by_time(&members, &counts));
        }
    }
}
