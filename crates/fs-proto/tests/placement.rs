//! Goal: the partition map keeps its promises (balance, least movement, determinism, even spacing, valid wire form) for any number
//! of servers, any weights and any history. Method: random members and events, checked against formulas that do not share code with
//! the map; named cases where an exact answer is known.

use bytes::{Bytes, BytesMut};
use fs_proto::ids::{PARTITIONS, Partition, ServerId};
use fs_proto::placement::{MapError, MapEvent, Member};
use fs_proto::{DecodeError, PartitionMap, Wire};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::Index;

const EPOCH_BYTES: usize = 8;
const MEMBER_BYTES: usize = 6;

/// A step of a history that fits whatever members there are.
#[derive(Debug, Clone)]
enum Step {
    Join { id: u16, weight: u32 },
    Leave(Index),
}

fn weight() -> impl Strategy<Value = u32> {
    prop_oneof![4 => Just(1u32), 3 => 0..8u32, 1 => 1..1000u32, 1 => any::<u32>()]
}

fn steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    let join = (any::<u16>(), weight()).prop_map(|(id, weight)| Step::Join { id, weight });
    vec(prop_oneof![join, any::<Index>().prop_map(Step::Leave)], 0..most)
}

/// Members with any weights, at least one of them a store.
fn members(most: usize) -> impl Strategy<Value = Vec<Member>> {
    let ids = btree_map(any::<u16>(), weight(), 1..=most);
    ids.prop_map(|ids| {
        ids.into_iter().map(|(id, weight)| Member { id: ServerId(id), weight }).collect::<Vec<_>>()
    })
    .prop_filter("a store", |members| members.iter().any(|m| m.weight > 0))
}

/// 1 to 4,096 servers, small numbers as likely as large ones.
fn sizes() -> impl Strategy<Value = u16> {
    (0u32..=12, any::<u16>()).prop_map(|(log2, low)| (1 << log2 | low & ((1 << log2) - 1)).min(4096))
}

fn equal(servers: u16) -> Vec<Member> {
    (0..servers).map(|s| Member { id: ServerId(s), weight: 1 }).collect()
}

fn join(id: u16) -> MapEvent {
    MapEvent::Join(Member { id: ServerId(id), weight: 1 })
}

/// The event that a step means to `map`; none if it would be refused.
fn event(map: &PartitionMap, step: &Step) -> Option<MapEvent> {
    match step {
        Step::Join { id, weight } => {
            let id = ServerId(*id);
            let known = map.members().iter().any(|m| m.id == id);
            (!known).then_some(MapEvent::Join(Member { id, weight: *weight }))
        }
        Step::Leave(at) => {
            let leaver = *at.get(map.members());
            let stores = map.members().iter().filter(|m| m.weight > 0 && m.id != leaver.id).count();
            (stores > 0).then_some(MapEvent::Leave(leaver.id))
        }
    }
}

/// Partitions of each member, counted from the owners.
fn counts(map: &PartitionMap) -> Vec<u64> {
    let mut owned = vec![0; 1 << 16];
    map.iter().for_each(|(_, owner)| owned[usize::from(owner.0)] += 1);
    map.members().iter().map(|m| owned[usize::from(m.id.0)]).collect()
}

/// The bounds of each member's share.
fn bounds(members: &[Member]) -> impl Iterator<Item = (Member, u64, u64)> {
    let total: u64 = members.iter().map(|m| u64::from(m.weight)).sum();
    members.iter().map(move |m| {
        let floor = u64::from(PARTITIONS) * u64::from(m.weight) / total;
        (*m, floor, if m.weight == 0 { 0 } else { floor + 1 })
    })
}

fn check_balance(map: &PartitionMap) {
    let counts = counts(map);
    for ((member, least, most), count) in bounds(map.members()).zip(&counts) {
        assert!((least..=most).contains(count), "{member:?} owns {count}, not {least} to {most}");
        assert_eq!(u64::from(map.share(member.id)), *count);
    }
    assert_eq!(counts.iter().sum::<u64>(), u64::from(PARTITIONS), "strangers own partitions");
}

/// The least that any map within the bounds moves: what is too much somewhere, or what is missing somewhere, whichever is more.
fn least_moves(before: &PartitionMap, after: &[Member]) -> u64 {
    let leaves = before.members().iter().filter(|m| !after.iter().any(|a| a.id == m.id));
    let mut surplus: u64 = leaves.map(|m| u64::from(before.share(m.id))).sum();
    let mut missing = 0;
    for (member, least, most) in bounds(after) {
        let held = u64::from(before.share(member.id));
        surplus += held.saturating_sub(most);
        missing += least.saturating_sub(held);
    }
    surplus.max(missing)
}

/// Largest number of `len` consecutive partitions that one server owns.
fn peak(map: &PartitionMap, len: usize) -> u32 {
    let owners: Vec<usize> = map.iter().map(|(_, owner)| usize::from(owner.0)).collect();
    let mut loads = vec![0u32; 1 << 16];
    owners[..len].iter().for_each(|owner| loads[*owner] += 1);
    let mut peak = *loads.iter().max().expect("loads");
    for start in 0..owners.len() {
        loads[owners[start]] -= 1;
        let entering = &mut loads[owners[(start + len) % owners.len()]];
        *entering += 1;
        peak = peak.max(*entering);
    }
    peak
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn every_map_is_balanced(first in members(40), steps in steps(8)) {
        let mut map = PartitionMap::initial(&first).expect("initial");
        check_balance(&map);
        for step in &steps {
            let Some(event) = event(&map, step) else { continue };
            map = map.apply(event).expect("possible event");
            check_balance(&map);
        }
    }

    #[test]
    fn events_move_the_least_possible(first in members(40), steps in steps(8)) {
        let mut map = PartitionMap::initial(&first).expect("initial");
        for step in &steps {
            let Some(event) = event(&map, step) else { continue };
            let next = map.apply(event).expect("possible event");
            prop_assert_eq!(next.epoch(), map.epoch() + 1);
            prop_assert_eq!(u64::from(next.moved_from(&map)), least_moves(&map, next.members()));
            map = next;
        }
    }

    #[test]
    fn with_equal_weights_only_the_newcomer_or_leaver_moves(servers in sizes(), leaver in any::<Index>()) {
        let map = PartitionMap::initial(&equal(servers)).expect("initial");
        check_balance(&map);
        let new = ServerId(servers);
        let joined = map.apply(join(new.0)).expect("join");
        check_balance(&joined);
        prop_assert!(joined.moves_from(&map).all(|(_, _, to)| to == new));
        prop_assert_eq!(joined.moved_from(&map), PARTITIONS / (u32::from(servers) + 1));
        let gone = ServerId(leaver.index(usize::from(servers)) as u16);
        let left = joined.apply(MapEvent::Leave(gone)).expect("leave");
        check_balance(&left);
        prop_assert!(left.moves_from(&joined).all(|(_, from, _)| from == gone));
        prop_assert_eq!(left.moved_from(&joined), joined.share(gone));
    }

    #[test]
    fn maps_are_deterministic(first in members(300).prop_shuffle(), steps in steps(4)) {
        let mut sorted = first.clone();
        sorted.sort_by_key(|m| m.id);
        let mut map = PartitionMap::initial(&first).expect("initial");
        let mut events = Vec::new();
        for step in &steps {
            let Some(event) = event(&map, step) else { continue };
            map = map.apply(event).expect("possible event");
            events.push(event);
        }
        prop_assert_eq!(&PartitionMap::replay(&sorted, &events).expect("replay"), &map);
        prop_assert!(map.members().is_sorted_by_key(|m| m.id));
    }

    #[test]
    fn look_ups_agree(first in members(40)) {
        let map = PartitionMap::initial(&first).expect("initial");
        for (partition, owner) in map.iter().step_by(4_099) {
            prop_assert_eq!(map.owner(partition), owner);
            prop_assert!(map.partitions_of(owner).any(|p| p == partition));
        }
        for member in map.members() {
            prop_assert_eq!(map.partitions_of(member.id).count() as u32, map.share(member.id));
        }
    }

    #[test]
    fn wire_form_round_trips(first in members(40), steps in steps(3)) {
        let first = PartitionMap::initial(&first).expect("initial");
        let map = steps.iter().fold(first, |map, step| match event(&map, step) {
            Some(event) => map.apply(event).expect("possible event"),
            None => map,
        });
        let bytes = map.to_bytes();
        let again = PartitionMap::from_bytes(bytes.clone()).expect("decodes");
        prop_assert_eq!(&again, &map);
        prop_assert_eq!(again.to_bytes(), bytes);
    }

    #[test]
    fn arbitrary_bytes_are_no_map(bytes in vec(any::<u8>(), 0..3000)) {
        prop_assert!(PartitionMap::from_bytes(Bytes::from(bytes)).is_err());
    }

    /// What decodes after damage is a valid map all the same.
    #[test]
    fn decoded_maps_are_valid(first in members(12), damage in vec((any::<Index>(), any::<u8>()), 1..4), head in any::<bool>()) {
        let map = PartitionMap::initial(&first).expect("initial");
        let mut bytes = map.to_bytes().to_vec();
        let reach = if head { EPOCH_BYTES + 4 + first.len() * MEMBER_BYTES } else { bytes.len() };
        for (at, byte) in damage {
            bytes[at.index(reach)] = byte;
        }
        let bytes = Bytes::from(bytes);
        if let Ok(map) = PartitionMap::from_bytes(bytes.clone()) {
            check_balance(&map);
            prop_assert_eq!(map.to_bytes(), bytes);
            let fresh = (0..=u16::MAX).map(ServerId).find(|id| map.members().iter().all(|m| m.id != *id));
            let next = map.apply(join(fresh.expect("a free number").0)).expect("join");
            check_balance(&next);
        }
    }
}

#[test]
fn first_map_deals_in_turn() {
    for servers in [1u16, 2, 3, 7, 256, 3400, 4096] {
        let map = PartitionMap::initial(&equal(servers)).expect("initial");
        assert!(map.iter().all(|(p, owner)| owner.0 == p.0 % servers), "{servers} servers");
    }
}

#[test]
fn weighted_deal_is_interleaved() {
    let weights = [1u32, 2, 1, 0, 4];
    let members: Vec<_> =
        (0u16..).zip(weights).map(|(s, weight)| Member { id: ServerId(s), weight }).collect();
    let map = PartitionMap::initial(&members).expect("initial");
    for (server, weight) in (0u16..).zip(weights) {
        let at: Vec<u16> = map.partitions_of(ServerId(server)).map(|p| p.0).collect();
        assert_eq!(at.len() as u32, PARTITIONS * weight / 8);
        let ideal = 8 / weight.max(1);
        let gaps = at.windows(2).map(|pair| u32::from(pair[1] - pair[0]));
        assert!(
            gaps.into_iter().all(|gap| gap.abs_diff(ideal) <= ideal / 2),
            "server {server} of weight {weight}"
        );
    }
}

#[test]
fn every_server_count_makes_a_map() {
    for servers in (1..=4096u16).step_by(61).chain([4096]) {
        check_balance(&PartitionMap::initial(&equal(servers)).expect("initial"));
    }
}

/// As many servers as partitions is the limit, and one more is an error rather than an idle server.
#[test]
fn as_many_servers_as_partitions() {
    let all: Vec<_> = (0..=u16::MAX).map(|s| Member { id: ServerId(s), weight: 1 }).collect();
    let map = PartitionMap::initial(&all).expect("initial");
    assert!(map.iter().all(|(p, owner)| owner.0 == p.0));
    assert_eq!(PartitionMap::from_bytes(map.to_bytes()), Ok(map));
    let more = [&all[..], &equal(1)].concat();
    assert_eq!(PartitionMap::initial(&more), Err(MapError::TooMany(65_537)));
}

#[test]
fn extreme_weights() {
    let mut members: Vec<_> = (0..=u16::MAX).map(|s| Member { id: ServerId(s), weight: u32::MAX }).collect();
    check_balance(&PartitionMap::initial(&members).expect("all of the largest weight"));
    members.iter_mut().skip(1).for_each(|m| m.weight = 1);
    let map = PartitionMap::initial(&members).expect("one outweighs all");
    check_balance(&map);
    check_balance(&map.apply(MapEvent::Leave(ServerId(0))).expect("it leaves"));
}

/// Joins and leaves, one after the other, keep the ring nearly in turn: no server has many partitions of any stretch.
#[test]
fn histories_stay_nearly_in_turn() {
    let grow = |from: u16, to: u16| {
        PartitionMap::replay(&equal(from), &(from..to).map(join).collect::<Vec<_>>()).expect("grown")
    };
    let shrink = |from: u16, to: u16| {
        let leaves: Vec<_> = (to..from).rev().map(|s| MapEvent::Leave(ServerId(s))).collect();
        PartitionMap::replay(&equal(from), &leaves).expect("shrunk")
    };
    // Least possible: 100, 63, 16, 5. Over all places of a file's first chunk, so the worst of any file.
    for (map, most) in [(grow(4, 10), 108), (grow(4, 16), 72), (grow(16, 64), 22), (shrink(256, 200), 10)] {
        let peak = peak(&map, 1000);
        assert!(peak <= most, "{peak} of 1,000 partitions on one of {} servers", map.members().len());
    }
}

/// A gateway comes and goes without moving data, but both are events that everybody must know of.
#[test]
fn gateways_move_nothing() {
    let map = PartitionMap::initial(&equal(5)).expect("initial");
    let gateway = Member { id: ServerId(9), weight: 0 };
    let with = map.apply(MapEvent::Join(gateway)).expect("join");
    let without = with.apply(MapEvent::Leave(gateway.id)).expect("leave");
    assert_eq!((with.moved_from(&map), without.moved_from(&map)), (0, 0));
    assert_eq!((with.share(gateway.id), with.epoch(), without.epoch()), (0, 2, 3));
    assert_eq!(without.members(), map.members());
}

#[test]
fn impossible_maps_are_refused() {
    let one = equal(1);
    let gateway = Member { id: ServerId(1), weight: 0 };
    assert_eq!(PartitionMap::initial(&[]), Err(MapError::Empty));
    assert_eq!(PartitionMap::initial(&[gateway]), Err(MapError::Empty));
    assert_eq!(PartitionMap::initial(&[one[0], gateway, one[0]]), Err(MapError::Duplicate(ServerId(0))));
    let map = PartitionMap::initial(&[one[0], gateway]).expect("initial");
    assert_eq!(map.apply(join(0)), Err(MapError::Duplicate(ServerId(0))));
    assert_eq!(map.apply(join(1)), Err(MapError::Duplicate(ServerId(1))));
    assert_eq!(map.apply(MapEvent::Leave(ServerId(7))), Err(MapError::Unknown(ServerId(7))));
    assert_eq!(map.apply(MapEvent::Leave(ServerId(0))), Err(MapError::Empty));
    assert_eq!(map.share(ServerId(7)), 0);
}

/// A wire form put together by hand, with all parts open to harm.
fn wire_form(epoch: u64, members: &[Member], owner: impl Fn(u16) -> u16) -> Bytes {
    let mut out = BytesMut::new();
    epoch.put(&mut out);
    members.to_vec().put(&mut out);
    (0..=u16::MAX).for_each(|p| ServerId(owner(p)).put(&mut out));
    out.freeze()
}

#[test]
fn invalid_wire_forms_are_refused() {
    let two = equal(2);
    let swapped = [two[1], two[0]];
    let decode = |bytes: Bytes| PartitionMap::from_bytes(bytes).map(|map| map.owner(Partition(3)));
    let invalid = |what| Err(DecodeError::Invalid(what));
    assert_eq!(decode(wire_form(1, &two, |p| p % 2)), Ok(ServerId(1)));
    assert_eq!(decode(wire_form(0, &two, |p| p % 2)), invalid("epoch"));
    assert_eq!(decode(wire_form(u64::MAX, &two, |p| p % 2)), invalid("epoch"));
    assert_eq!(decode(wire_form(1, &swapped, |p| p % 2)), invalid("members"));
    assert_eq!(decode(wire_form(1, &[two[0], two[0]], |p| p % 2)), invalid("members"));
    assert_eq!(decode(wire_form(1, &[], |p| p % 2)), invalid("members"));
    assert_eq!(decode(wire_form(1, &two, |p| p % 3)), invalid("owners"));
    assert_eq!(decode(wire_form(1, &two, |p| u16::from(p > 9))), invalid("owners"));
    let good = wire_form(1, &two, |p| p % 2);
    assert_eq!(decode(good.slice(..good.len() - 1)), Err(DecodeError::Short));
    assert_eq!(decode([&good[..], &[0]].concat().into()), Err(DecodeError::Trailing(1)));
}
