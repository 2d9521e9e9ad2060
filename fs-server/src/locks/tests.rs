//! Goal: the invariants of the table. Method: the table alone, with times that the test chooses, beside a naive model.

use std::time::{Duration, Instant};

use fs_proto::lock::{LOCK_END, LockFamily, LockKind, LockRange};
use fs_proto::msg::lock::{LockClaim, LockClear, LockCount, LockSet};
use fs_proto::{ClientId, InodeId};
use proptest::prelude::*;
use tokio::sync::oneshot::error::TryRecvError;

use super::*;

const INO: InodeId = InodeId(7);
const LEASE: Duration = Duration::from_secs(30);
const SESSION: u64 = 9;

struct World {
    table: LockTable,
    now: Instant,
    serial: u64,
}

impl World {
    fn new(clients: u64) -> World {
        let world = World { table: LockTable::new(SESSION, LEASE), now: Instant::now(), serial: 0 };
        (1..=clients).for_each(|client| world.table.admit(ClientId(client), world.now));
        world
    }

    fn count(&mut self) -> LockCount {
        self.serial += 1;
        LockCount { serial: self.serial, settled: 0, session: SESSION }
    }

    fn request(&mut self, owner: u64, bytes: (u64, u64), kind: LockKind, wait_ms: Option<u32>) -> LockSet {
        let range = LockRange { first: bytes.0, last: bytes.1 };
        let count = self.count();
        LockSet { ino: INO, family: LockFamily::Posix, owner, range, kind, pid: 1, wait_ms, count }
    }

    fn try_lock(&mut self, client: u64, bytes: (u64, u64), kind: LockKind) -> Verdict {
        let request = self.request(1, bytes, kind, None);
        match self.table.set(ClientId(client), &request, self.now) {
            Step::Now(verdict) => verdict,
            Step::Later(_) => panic!("waits although it was not to"),
        }
    }

    fn wait_on(&mut self, ino: InodeId, client: u64, bytes: (u64, u64), kind: LockKind) -> Step {
        let request = LockSet { ino, ..self.request(1, bytes, kind, Some(1000)) };
        self.table.set(ClientId(client), &request, self.now)
    }

    fn wait(&mut self, client: u64, bytes: (u64, u64), kind: LockKind) -> oneshot::Receiver<Verdict> {
        match self.wait_on(INO, client, bytes, kind) {
            Step::Later(told) => told,
            Step::Now(verdict) => panic!("does not wait: {verdict:?}"),
        }
    }

    fn unlock(&mut self, client: u64, bytes: (u64, u64)) {
        let range = LockRange { first: bytes.0, last: bytes.1 };
        let count = self.count();
        let request = LockClear { ino: INO, family: LockFamily::Posix, owner: 1, range, count };
        assert!(self.table.clear(ClientId(client), &request));
    }
}

const ALL: (u64, u64) = (0, LOCK_END);

#[test]
fn waiters_are_granted_in_their_order() {
    let mut world = World::new(5);
    assert_eq!(world.try_lock(1, ALL, LockKind::Write), Verdict::Granted);
    let mut reader = world.wait(2, ALL, LockKind::Read);
    let mut writer = world.wait(3, ALL, LockKind::Write);
    let mut late_reader = world.wait(4, ALL, LockKind::Read);
    world.unlock(1, ALL);
    assert_eq!(reader.try_recv(), Ok(Verdict::Granted));
    assert_eq!(late_reader.try_recv(), Err(TryRecvError::Empty), "the writer was there before");
    world.unlock(2, ALL);
    assert_eq!(writer.try_recv(), Ok(Verdict::Granted));
    world.unlock(3, ALL);
    assert_eq!(late_reader.try_recv(), Ok(Verdict::Granted));
    world.unlock(4, ALL);
    assert_eq!(world.table.counts(), (0, 0));
    assert!(world.table.inner.lock().files.is_empty() && world.table.inner.lock().waits.is_empty());
}

#[test]
fn who_holds_already_does_not_queue_behind_who_waits_for_it() {
    let mut world = World::new(3);
    assert_eq!(world.try_lock(1, (0, 9), LockKind::Read), Verdict::Granted);
    let mut writer = world.wait(2, (0, 19), LockKind::Write);
    // Behind the writer in the queue it would wait for itself.
    assert!(matches!(world.wait_on(INO, 1, (10, 19), LockKind::Read), Step::Now(Verdict::Granted)));
    world.unlock(1, ALL);
    assert_eq!(writer.try_recv(), Ok(Verdict::Granted));
}

#[test]
fn waiting_in_a_circle_is_refused() {
    let mut world = World::new(3);
    for client in 1..=3 {
        assert_eq!(world.try_lock(client, (client * 10, client * 10), LockKind::Write), Verdict::Granted);
    }
    let _one = world.wait(1, (20, 20), LockKind::Write);
    let _two = world.wait(2, (30, 30), LockKind::Write);
    assert!(matches!(world.wait_on(INO, 3, (10, 10), LockKind::Write), Step::Now(Verdict::Deadlock)));
    world.unlock(2, (20, 20));
    assert_eq!(world.table.counts(), (3, 1));
}

#[test]
fn a_circle_through_the_queue_is_none() {
    let mut world = World::new(4);
    let other = InodeId(8);
    let lock_other = |world: &mut World, client| world.wait_on(other, client, ALL, LockKind::Read);
    assert_eq!(world.try_lock(1, ALL, LockKind::Write), Verdict::Granted);
    assert!(matches!(lock_other(&mut world, 4), Step::Now(Verdict::Granted)));
    // 4 waits for 1; 2 waits for 4; 1, which needs nothing of 4, would have to let 2 go first.
    let _four = world.wait(4, ALL, LockKind::Write);
    let Step::Later(_two) = world.wait_on(other, 2, ALL, LockKind::Write) else { panic!("it is held") };
    let granted = match lock_other(&mut world, 1) {
        Step::Now(verdict) => verdict,
        Step::Later(mut told) => told.try_recv().expect("it waits for itself"),
    };
    assert_eq!(granted, Verdict::Granted);
}

#[test]
fn a_cancelled_request_leaves_nothing() {
    let mut world = World::new(3);
    assert_eq!(world.try_lock(1, ALL, LockKind::Write), Verdict::Granted);
    let mut first = world.wait(2, ALL, LockKind::Write);
    let serial = world.serial;
    let mut second = world.wait(3, ALL, LockKind::Write);
    world.table.cancel(ClientId(2), INO, serial);
    assert_eq!(first.try_recv(), Ok(Verdict::Cancelled));
    world.unlock(1, ALL);
    assert_eq!(second.try_recv(), Ok(Verdict::Granted));
}

#[test]
fn nobody_is_granted_what_it_cannot_be_told_of() {
    let mut world = World::new(3);
    assert_eq!(world.try_lock(1, ALL, LockKind::Write), Verdict::Granted);
    drop(world.wait(2, ALL, LockKind::Write));
    let asked = world.serial;
    world.unlock(1, ALL);
    assert_eq!(world.table.counts(), (0, 1));
    // It asks again, with the same number, and keeps its place until then.
    let mut other = world.wait(3, ALL, LockKind::Write);
    world.serial = asked - 1;
    assert!(matches!(world.wait_on(INO, 2, ALL, LockKind::Write), Step::Now(Verdict::Granted)));
    assert_eq!(other.try_recv(), Err(TryRecvError::Empty));
}

#[test]
fn who_does_not_ask_again_loses_its_place() {
    let mut world = World::new(3);
    assert_eq!(world.try_lock(1, ALL, LockKind::Read), Verdict::Granted);
    drop(world.wait(2, ALL, LockKind::Write));
    let mut third = world.wait(3, ALL, LockKind::Read);
    world.table.silent(world.now + Duration::from_secs(10));
    assert_eq!(third.try_recv(), Ok(Verdict::Granted));
}

#[test]
fn a_late_copy_changes_nothing() {
    let mut world = World::new(1);
    let request = world.request(1, ALL, LockKind::Write, None);
    assert!(matches!(world.table.set(ClientId(1), &request, world.now), Step::Now(Verdict::Granted)));
    let mut count = world.count();
    count.settled = count.serial;
    let clear = LockClear { ino: INO, family: LockFamily::Posix, owner: 1, range: LockRange::ALL, count };
    assert!(world.table.clear(ClientId(1), &clear));
    assert!(matches!(world.table.set(ClientId(1), &request, world.now), Step::Now(Verdict::Late)));
    assert_eq!(world.table.counts(), (0, 0));
}

#[test]
fn a_lease_ends() {
    let mut world = World::new(2);
    assert_eq!(world.try_lock(1, ALL, LockKind::Write), Verdict::Granted);
    let mut waits = world.wait(2, ALL, LockKind::Write);
    let later = world.now + LEASE / 2;
    assert_eq!(world.table.stand(ClientId(2), SESSION, later), Standing::Known);
    assert_eq!(world.table.silent(world.now + LEASE), [ClientId(1)]);
    world.table.forget(ClientId(1));
    assert_eq!(waits.try_recv(), Ok(Verdict::Granted));
    assert_eq!(world.table.stand(ClientId(1), SESSION, later), Standing::Lost);
    assert_eq!(world.table.stand(ClientId(1), 0, later), Standing::New);
}

#[test]
fn after_a_restart_claims_come_first() {
    let world = World::new(0);
    let (one, two, now) = (ClientId(1), ClientId(2), world.now);
    world.table.expect([one, two], now);
    assert_eq!(world.table.stand(one, SESSION - 1, now), Standing::Restarted);
    assert!(world.table.is_expected(one, now) && world.table.is_in_grace(now));
    world.table.admit(one, now);
    let claim = |owner, kind| LockClaim {
        ino: INO,
        family: LockFamily::Posix,
        owner,
        range: LockRange::ALL,
        kind,
        pid: 1,
    };
    let claims = [claim(1, LockKind::Read), claim(2, LockKind::Read), claim(3, LockKind::Write)];
    assert_eq!(world.table.claim(one, &claims, false, now), [2]);
    assert!(world.table.is_in_grace(now), "the other may still come");
    assert!(!world.table.is_in_grace(now + LEASE));
    assert_eq!(world.table.stand(two, 0, now), Standing::New, "it has nothing");
    assert!(!world.table.is_in_grace(now));
    assert_eq!(world.table.claim(two, &claims, false, now), [0, 1, 2], "too late");
}

/// Bytes of a small file, per owner, and what an owner may do.
#[derive(Default)]
struct Model([[Option<LockKind>; 16]; 4]);

impl Model {
    fn lock(&mut self, owner: usize, bytes: std::ops::RangeInclusive<usize>, kind: LockKind) -> bool {
        let free =
            |other: Option<LockKind>| other.is_none_or(|o| o == LockKind::Read && kind == LockKind::Read);
        let others = (0..4).filter(|other| *other != owner);
        if others
            .flat_map(|other| bytes.clone().map(move |byte| (other, byte)))
            .any(|(o, b)| !free(self.0[o][b]))
        {
            return false;
        }
        bytes.for_each(|byte| self.0[owner][byte] = Some(kind));
        true
    }
}

proptest! {
    /// Also merging and splitting: no two ranges of an owner touch with the same kind.
    #[test]
    fn behaves_like_an_array_of_bytes(
        steps in prop::collection::vec((1u64..=4, 0u64..16, 0u64..16, 0u8..3), 1..80),
    ) {
        let (mut world, mut model) = (World::new(4), Model::default());
        for (client, from, to, what) in steps {
            let (first, last) = (from.min(to), from.max(to));
            let bytes = first as usize..=last as usize;
            if what == 0 {
                world.unlock(client, (first, last));
                bytes.for_each(|byte| model.0[client as usize - 1][byte] = None);
            } else {
                let kind = if what == 1 { LockKind::Read } else { LockKind::Write };
                let granted = world.try_lock(client, (first, last), kind) == Verdict::Granted;
                prop_assert_eq!(granted, model.lock(client as usize - 1, bytes, kind));
            }
        }
        let inner = world.table.inner.lock();
        let held: Vec<HeldLock> =
            inner.files.get(&INO).map(|f| f.of(LockFamily::Posix).ranges.held().to_vec()).unwrap_or_default();
        prop_assert_eq!(held.len(), inner.held);
        let mut pieces = 0;
        for (owner, bytes) in model.0.iter().enumerate() {
            let mine = |byte: u64| {
                held.iter().find(|h| h.owner.client.0 == owner as u64 + 1 && h.range.first <= byte && byte <= h.range.last)
            };
            for (byte, kind) in bytes.iter().enumerate() {
                prop_assert_eq!(mine(byte as u64).map(|h| h.kind), *kind);
                pieces += usize::from(kind.is_some() && (byte == 0 || bytes[byte - 1] != *kind));
            }
        }
        prop_assert_eq!(held.len(), pieces);
    }
}
