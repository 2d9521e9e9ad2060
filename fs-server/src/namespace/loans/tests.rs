//! Goal: what the module promises, by the lock table that it is a part of. Method: one after the other, with moments that are made up where they matter.
use super::loan::Loan;
use super::*;
use crate::hot::{COOLING, LEASE_HELD};
use crate::namespace::locks::{LockSet, LockTable};
use fs_proto::InodeId;
use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

const INO: LockKey = LockKey::Inode(InodeId(5));
const ONE: ServerId = ServerId(1);
const OTHER: ServerId = ServerId(2);
/// What rounding may add, and moments that come late.
const SLACK: Duration = Duration::from_millis(80);

/// Numbers from a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Bytes that are counted for what is lent.
fn used(table: &LockTable) -> usize {
    table.loans().table.lock().counted()
}

fn is_pending<F: Future>(future: std::pin::Pin<&mut F>) -> bool {
    matches!(future.poll(&mut Context::from_waker(Waker::noop())), Poll::Pending)
}

fn set(mode: Mode) -> LockSet {
    LockSet::of(&[(INO, mode)])
}

/// Waiting needs a clock.
fn within_a_runtime(test: impl FnOnce()) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _entered = runtime.enter();
    test();
}

#[test]
fn a_change_waits_until_all_have_given_back() {
    within_a_runtime(|| {
        let (table, now) = (LockTable::default(), Instant::now());
        let mut calls = table.loans().calls().expect("the first who asks");
        assert!(table.lend(INO, Extent::Whole, ONE, now) && table.lend(INO, Extent::Access, OTHER, now));
        assert!(table.is_lent(INO, now) && !table.may_change(&set(Mode::Touch)));
        let shared = set(Mode::Shared);
        assert!(!is_pending(pin!(table.with(&shared, || ()))), "reading changes nothing");
        let alter = set(Mode::Alter);
        let mut change = pin!(table.with(&alter, || 7));
        assert!(is_pending(change.as_mut()) && table.try_with(&alter, || ()).is_none());
        let call = calls.try_recv().expect("it is called back");
        assert_eq!(call.keys, [INO]);
        assert_eq!(call.servers, [ONE, OTHER]);
        assert!(calls.try_recv().is_err(), "once for all who wait");
        assert!(!table.lend(INO, Extent::Access, ServerId(3), now), "not while it is called back");
        table.returned(&[INO], ONE);
        assert!(is_pending(change.as_mut()));
        table.returned(&[INO], OTHER);
        assert!(!is_pending(change) && table.loans().is_empty() && table.may_change(&alter));
    });
}

#[test]
fn who_may_enter_is_lent_while_names_come_and_go() {
    let (table, now) = (LockTable::default(), Instant::now());
    assert!(table.lend(INO, Extent::Access, ONE, now));
    assert!(table.try_with(&set(Mode::Touch), || ()).is_some());
    assert!(table.try_with(&set(Mode::Exclusive), || ()).is_none());
}

#[test]
fn what_was_called_back_cools() {
    let (table, now) = (LockTable::default(), Instant::now());
    assert!(table.lend(INO, Extent::Whole, ONE, now));
    assert!(table.try_with(&set(Mode::Exclusive), || ()).is_none());
    table.returned(&[INO], ONE);
    assert!(!table.lend(INO, Extent::Whole, ONE, now));
    assert!(table.lend(INO, Extent::Whole, ONE, now + COOLING * 2));
}

#[test]
fn a_lease_that_is_over_delays_nothing() {
    let (table, now) = (LockTable::default(), Instant::now());
    let before = now.checked_sub(LEASE_HELD * 2).expect("the machine runs for longer");
    assert!(table.lend(INO, Extent::Whole, ONE, before) && !table.is_lent(INO, now));
    assert!(table.try_with(&set(Mode::Exclusive), || ()).is_some());
    table.tidy_loans(now);
    assert!(table.loans().is_empty());
    table.loans().inherit(now + LEASE_HELD);
    assert!(table.try_with(&set(Mode::Shared), || ()).is_some());
    assert!(table.try_with(&set(Mode::Touch), || ()).is_none(), "what was lent before is not known");
    table.loans().inherit(now);
    assert!(table.try_with(&set(Mode::Touch), || ()).is_some());
}

/// Goal: what is lent takes memory for servers that have it, or had it not long ago, not for all that ever had. Method: many servers, each after the lease of the one before, or in
/// the middle of it.
#[test]
fn leases_that_are_over_are_not_kept() {
    for (step, most) in [(LEASE_HELD + SLACK, 1), (LEASE_HELD / 2, 6)] {
        let (table, now) = (LockTable::default(), Instant::now());
        let servers = || table.loans().table.lock().get(INO).map_or(0, |loan| loan.servers().count());
        for turn in 0..100_u16 {
            let then = now + step * u32::from(turn);
            assert!(table.lend(INO, Extent::Whole, ServerId(turn), then) && servers() <= most, "{turn}");
        }
        let last = now + step * 99;
        table.tidy_loans(last + LEASE_HELD / 2);
        assert!(table.is_lent(INO, last + LEASE_HELD / 2) && servers() <= most);
        table.tidy_loans(last + LEASE_HELD + SLACK);
        assert!(table.loans().is_empty() && used(&table) == 0);
    }
}

/// Method: any servers ask at any moments, some of them a little late, now and then long after all is over; a list of all leases says who must be known.
#[test]
fn a_server_is_known_as_long_as_its_lease() {
    for seed in 1..=100 {
        let (mut random, since) = (Random(seed), Instant::now());
        let mut leases: HashMap<u16, Instant> = HashMap::new();
        let (most, mut now) = ([4, 32, 33, 300, 4096][seed as usize % 5], since);
        let mut loan = Loan::new(ServerId(0), Tick::of(now, since));
        for step in 0..1000 {
            let pause_us = if random.below(100) == 0 { 20_000_000 } else { 40_000 };
            now += Duration::from_micros(random.below(pause_us));
            let asked = now.checked_sub(Duration::from_millis(random.below(30))).expect("after the start");
            let server = random.below(most) as u16;
            if !loan.has_place(ServerId(server)) {
                loan.widen(ServerId(server));
            }
            loan.lend(ServerId(server), Extent::Access, Tick::of(asked, since));
            leases.entry(server).and_modify(|until| *until = asked.max(*until)).or_insert(asked);
            if random.below(50) == 0 {
                loan.turn(Tick::of(now, since));
            }
            let known: HashSet<u16> = loan.servers().map(|server| server.0).collect();
            let until = loan.until(Tick::of(now, since), now);
            for (server, asked) in leases.iter().filter(|(_, asked)| **asked + LEASE_HELD > now) {
                assert!(known.contains(server) && until >= *asked + LEASE_HELD, "seed {seed}, step {step}");
                assert!(loan.is_on(Tick::of(now, since)) && loan.forbids(Mode::Alter, Tick::of(now, since)));
            }
            let is_long_over = |server: &u16| leases[server] + LEASE_HELD * 3 + SLACK * 3 < now;
            assert!(!known.iter().any(is_long_over), "seed {seed}, step {step}: {known:?}");
            assert!(until <= now + LEASE_HELD + SLACK, "seed {seed}, step {step}");
        }
    }
}

/// Method: a key is lent once, and looked at until moments come round again.
#[test]
fn what_nobody_tidied_delays_a_lease_at_most() {
    let since = Instant::now();
    let mut loan = Loan::new(ONE, Tick::of(since, since));
    loan.lend(ONE, Extent::Whole, Tick::of(since, since));
    let over = (1..20_000).filter(|step| {
        let now = since + LEASE_HELD + SLACK + Duration::from_millis(100 * step);
        assert!(loan.until(Tick::of(now, since), now) <= now + LEASE_HELD + SLACK);
        !loan.is_on(Tick::of(now, since))
    });
    assert!(over.count() > 8_000, "for half of the time it is known to be over");
}

/// Goal: a full pool lends nothing more and harms nobody. Method: names and inodes without end, of few servers and of many, in little memory; what is lent, changed, and lent again then.
#[test]
fn without_room_nothing_more_is_lent() {
    for server in [ServerId(3), ServerId(4000)] {
        let pool = Budget::new(4 << 20);
        let (table, now) = (LockTable::new(&pool), Instant::now());
        let mut calls = table.loans().calls().expect("the first who asks");
        let key = |number| match number % 2 {
            0 => LockKey::Inode(InodeId(number)),
            _ => LockKey::Entry(InodeId(7), number),
        };
        let lend = |number, now| table.lend(key(number), Extent::Whole, server, now);
        let lent: Vec<u64> = (0..100_000).filter(|number| lend(*number, now)).collect();
        assert!(lent.len() > if server.0 < 32 { 4_000 } else { 150 }, "{} keys", lent.len());
        assert!(lent.len() < 20_000 && table.loans().len() == lent.len(), "{} keys", lent.len());
        assert!(pool.used() <= 256 << 10 && pool.used() > 200 << 10, "{} bytes", pool.used());
        assert!(lent.iter().all(|number| lend(*number, now)), "what is lent may be lent again");
        let other = key(100_001);
        assert!(!lend(100_001, now) && !table.is_lent(other, now));
        let exclusive = |key| LockSet::of(&[(key, Mode::Exclusive)]);
        assert!(table.try_with(&exclusive(other), || ()).is_some(), "what is not lent changes at once");
        for number in &lent[..100] {
            let set = exclusive(key(*number));
            assert!(table.try_with(&set, || ()).is_none());
            let call = calls.try_recv().expect("it is called back");
            assert_eq!((&call.keys[..], &call.servers[..]), (&[key(*number)][..], &[server][..]));
            table.returned(&call.keys, server);
            assert!(table.try_with(&set, || ()).is_some());
        }
        table.tidy_loans(now + LEASE_HELD * 2);
        assert!(table.loans().is_empty() && table.loans().table.lock().len() == 100, "they cool");
        let later = now + COOLING + LEASE_HELD * 2;
        assert!(lend(100_001, later) && table.is_lent(other, later), "there is room again");
        table.tidy_loans(later + LEASE_HELD * 2);
        assert_eq!((pool.used(), table.loans().len(), table.loans().table.lock().len()), (0, 0, 0));
    }
}

#[test]
fn nothing_is_lent_that_a_transaction_holds() {
    let (table, now) = (Arc::new(LockTable::default()), Instant::now());
    let mut held = pin!(table.hold(set(Mode::Touch)));
    let Poll::Ready(held) = held.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
        panic!("free")
    };
    assert!(!table.lend(INO, Extent::Whole, ONE, now) && table.lend(INO, Extent::Access, ONE, now));
    drop(held);
    assert!(table.lend(INO, Extent::Whole, ONE, now));
}
