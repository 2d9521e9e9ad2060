//! Goal: what the module promises of one holder's leases. Method: on a real store, with moments that are made up.
use super::*;
use crate::kv::{self, KvKind};
use fs_net::Budget;

const KEY: PieceKey = PieceKey { ino: InodeId(7), chunk: ChunkIndex(0), piece: 0 };

/// Those of a store, with so much memory.
fn of(kv: &dyn Kv, bytes: usize) -> Arc<Grants> {
    Grants::open(kv, Part::of(&Budget::new(bytes), bytes as u64))
}

fn store(dir: &tempfile::TempDir) -> Arc<dyn Kv> {
    kv::open(KvKind::default(), dir.path(), 8 << 20).expect("a store")
}

#[test]
fn the_tree_has_bounded_degree() {
    let dir = tempfile::tempdir().expect("a directory");
    let (grants, now) = (of(&*store(&dir), 1 << 20), Instant::now());
    let mut children = HashMap::new();
    for server in 0..400 {
        let lent = grants.lend(KEY, ServerId(server), now).expect("lent");
        assert!(lent.from.iter().all(|above| above.0 < server), "{lent:?} to {server}");
        assert!(lent.from.len() <= 4, "{lent:?}");
        *children.entry(lent.from.first().copied()).or_insert(0) += 1;
    }
    assert!(children.values().all(|count| *count <= FAN_OUT), "{children:?}");
    let again = grants.lend(KEY, ServerId(3), now).expect("lent");
    assert!(again.from.is_empty(), "who asks again stays where it was");
}

#[test]
fn a_change_ends_the_generation() {
    let dir = tempfile::tempdir().expect("a directory");
    let (grants, now) = (of(&*store(&dir), 1 << 20), Instant::now());
    assert!(!grants.may_be_lent(KEY.ino));
    let before = grants.lend(KEY, ServerId(1), now).expect("lent").generation;
    let change = grants.announce(KEY.ino);
    assert!(grants.may_be_lent(KEY.ino) && grants.lend(KEY, ServerId(2), now).is_none());
    let Lease::Recall(leases, done) = grants.end(KEY.ino, now) else { panic!("a lease is out") };
    assert_eq!(leases, [(ServerId(1), now + LEASE_HELD)]);
    let Lease::Wait(recalled) = grants.end(KEY.ino, now) else { panic!("it is being called back") };
    assert!(!*recalled.borrow());
    grants.ended(KEY.ino, &done);
    assert!(*recalled.borrow() && !grants.may_be_lent(KEY.ino));
    change.done();
    assert!(grants.lend(KEY, ServerId(1), now).is_none(), "it cools");
    let after = grants.lend(KEY, ServerId(1), now + COOLING).expect("lent").generation;
    assert_ne!(before, after);
}

#[test]
fn what_may_still_be_under_way_counts_for_a_while() {
    let dir = tempfile::tempdir().expect("a directory");
    let kv = store(&dir);
    let (grants, now) = (of(&*kv, 1 << 20), Instant::now());
    drop(grants.announce(KEY.ino));
    grants.tidy(&*kv, now, || true).expect("tidied");
    assert!(!grants.is_lendable(KEY.ino, now) && grants.lend(KEY, ServerId(1), now).is_none());
    grants.tidy(&*kv, now + UNSURE * 2, || true).expect("tidied");
    assert!(grants.lend(KEY, ServerId(1), now).is_some());
}

#[test]
fn leases_that_are_over_are_not_called_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let (grants, now) = (of(&*store(&dir), 1 << 20), Instant::now());
    grants.lend(KEY, ServerId(1), now).expect("lent");
    let _change = grants.announce(KEY.ino);
    assert!(matches!(grants.end(KEY.ino, now + LEASE_HELD), Lease::None));
    assert!(!grants.may_be_lent(KEY.ino));
}

#[test]
fn a_run_that_has_lent_is_remembered_until_its_leases_are_over() {
    let dir = tempfile::tempdir().expect("a directory");
    let kv = store(&dir);
    let grants = of(&*kv, 1 << 20);
    assert!(grants.inherited_until().is_none());
    grants.lend(KEY, ServerId(1), Instant::now()).expect("lent");
    grants.note(&*kv).expect("noted");
    let next = of(&*kv, 1 << 20);
    assert!(next.inherited_until().is_some());
    next.tidy(&*kv, Instant::now(), || true).expect("tidied");
    assert!(of(&*kv, 1 << 20).inherited_until().is_some(), "a second crash within the lease");
    next.tidy(&*kv, Instant::now() + LEASE_HELD, || true).expect("tidied");
    assert!(of(&*kv, 1 << 20).inherited_until().is_none());
}

/// Method: pieces and servers without end, in little memory; what is lent then, and what is when those leases are over.
#[test]
fn without_room_nothing_more_is_lent() {
    let dir = tempfile::tempdir().expect("a directory");
    let kv = store(&dir);
    let (grants, now) = (of(&*kv, 64 << 10), Instant::now());
    let used = || grants.memory.stats().used as usize;
    let lend = |ino, piece, server, now| {
        grants.lend(PieceKey { ino: InodeId(ino), chunk: ChunkIndex(0), piece }, ServerId(server), now)
    };
    let lent = (0..10_000).take_while(|piece| lend(7, *piece, 1, now).is_some()).count();
    assert!((200..512).contains(&lent), "{lent} pieces of 128 bytes in 64 KiB");
    assert!(used() > (60 << 10) && used() <= 64 << 10, "{}", used());
    assert!(lend(7, 0, 1, now).is_some(), "what it has it may ask for again");
    assert!(lend(8, 0, 1, now).is_none() && grants.files() == 1 && !grants.may_be_lent(InodeId(8)));
    let later = now + LEASE_HELD * 2;
    assert!(lend(8, 0, 1, later).is_some(), "in the room of the leases that are over");
    assert!(grants.files() == 1 && used() == STEP_BYTES, "{}", used());
    let servers = (2..u16::MAX).take_while(|server| lend(8, 0, *server, later).is_some()).count();
    assert!((800..1000).contains(&servers), "{servers} servers of 68 bytes in 64 KiB");
    let files = (9..10_000).filter(|ino| lend(*ino, 0, 1, later).is_some()).count();
    assert_eq!(files, 0, "all of it is in use");
    grants.tidy(&*kv, later + LEASE_HELD, || true).expect("tidied");
    assert_eq!(used(), 0);
}

/// Method: files that are lent and changed, more than may cool at once.
#[test]
fn files_that_cool_are_bounded() {
    let dir = tempfile::tempdir().expect("a directory");
    let (grants, now) = (of(&*store(&dir), 64 << 20), Instant::now());
    let lend = |ino, now| grants.lend(PieceKey { ino: InodeId(ino), ..KEY }, ServerId(1), now).is_some();
    let mut lent = 0;
    for ino in 0..2 * FILES_MAX as u64 {
        let change = grants.announce(InodeId(ino));
        change.done();
        if lend(ino, now) {
            lent += 1;
            let Lease::Recall(_, done) = grants.end(InodeId(ino), now) else { panic!("a lease is out") };
            grants.ended(InodeId(ino), &done);
        }
    }
    assert_eq!((lent, grants.state.lock().cooling.len()), (FILES_MAX, FILES_MAX));
    assert!(lend(1 << 20, now + COOLING));
    assert_eq!(grants.memory.stats().used as usize, STEP_BYTES);
}

/// Method: a file that is lent for the first time while a change of it is announced.
#[test]
fn what_could_not_be_lent_takes_no_room() {
    let dir = tempfile::tempdir().expect("a directory");
    let (grants, now) = (of(&*store(&dir), 64 << 10), Instant::now());
    let change = grants.announce(KEY.ino);
    for server in 0..1000 {
        assert!(grants.lend(KEY, ServerId(server), now).is_none());
    }
    assert!(grants.files() == 0 && !grants.may_be_lent(KEY.ino) && grants.memory.stats().used == 0);
    change.done();
    assert!(grants.lend(KEY, ServerId(1), now).is_some());
    let used = grants.memory.stats().used;
    let _change = grants.announce(KEY.ino);
    for server in 0..1000 {
        assert!(grants.lend(KEY, ServerId(server), now).is_none());
    }
    assert_eq!(grants.memory.stats().used, used);
}
