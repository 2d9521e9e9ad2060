//! How many partitions each server is to own.
//!
//! The bounds are the *quota rule* of apportionment: the exact share rounded down, or one more. Within them a server keeps what it
//! has; what is left to decide goes by the fraction that rounding cut off, then by number.

use super::Member;
use crate::ids::PARTITIONS;
use std::cmp::Reverse;

/// The exact share of a member: `floor + fraction / (sum of weights)`.
#[derive(Clone, Copy)]
pub(super) struct Quota {
    /// Whole partitions.
    pub floor: u32,
    /// What rounding cut off, in units of 1 / (sum of weights).
    pub fraction: u64,
    /// Most that the member may own.
    pub most: u32,
}

/// The quotas of `members`, in their order. At least one has a weight.
pub(super) fn quotas(members: &[Member]) -> Vec<Quota> {
    // At most 2^16 members of 32 bits: all below fits 64 bits.
    let total: u64 = members.iter().map(|m| u64::from(m.weight)).sum();
    let quota = |m: &Member| {
        let exact = u64::from(PARTITIONS) * u64::from(m.weight);
        let floor = (exact / total) as u32;
        Quota { floor, fraction: exact % total, most: floor + u32::from(m.weight > 0) }
    };
    members.iter().map(quota).collect()
}

/// How many partitions each of `members` is to own, given what each has now: as near to that as the quota rule allows. Adds up to the
/// number of partitions. Where some must give or take one more, the newcomer is the first to take.
pub(super) fn targets(members: &[Member], held: &[u32], newcomer: Option<usize>) -> Vec<u32> {
    let quotas = quotas(members);
    let mut targets: Vec<u32> =
        held.iter().zip(&quotas).map(|(held, q)| (*held).clamp(q.floor, q.most)).collect();
    let sum: u32 = targets.iter().sum();
    if sum < PARTITIONS {
        raise(&mut targets, &quotas, PARTITIONS - sum, newcomer);
    } else {
        lower(&mut targets, &quotas, sum - PARTITIONS);
    }
    targets
}

/// Gives one more to `count` members that are at their lower bound: the newcomer, then those that rounding cost most.
fn raise(targets: &mut [u32], quotas: &[Quota], count: u32, newcomer: Option<usize>) {
    let mut able: Vec<usize> = (0..targets.len()).filter(|i| targets[*i] < quotas[*i].most).collect();
    able.sort_unstable_by_key(|i| (Some(*i) != newcomer, Reverse(quotas[*i].fraction), *i));
    for i in able.into_iter().take(count as usize) {
        targets[i] += 1;
    }
}

/// Takes one from `count` members that are above their lower bound: those that rounding favoured most. Among equals they are evenly
/// spaced in the order of numbers, because then their partitions are evenly spaced, too.
fn lower(targets: &mut [u32], quotas: &[Quota], count: u32) {
    let count = count as usize;
    if count == 0 {
        return;
    }
    let mut able: Vec<usize> = (0..targets.len()).filter(|i| targets[*i] > quotas[*i].floor).collect();
    able.sort_unstable_by_key(|i| (quotas[*i].fraction, *i));
    let last = quotas[able[count - 1]].fraction;
    let surely = able.partition_point(|i| quotas[*i].fraction < last);
    let equals = able.partition_point(|i| quotas[*i].fraction <= last) - surely;
    let picked = (0..count - surely).map(|k| surely + k * equals / (count - surely));
    for at in (0..surely).chain(picked) {
        targets[able[at]] -= 1;
    }
}
