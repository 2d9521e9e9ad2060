//! Goal: what is lent of names and inodes takes no more of the heap than is counted for it in the pool `hot_files`, at no moment, and nothing when nothing is lent.
//! Method: the allocator of this program counts, by the system's account (`tests/src/heap.rs`). Keys are lent until there is no room, to clusters of several sizes, called
//! back, and over; after each step the most that was held meanwhile is compared with what was counted, so moments when tables grow are seen, too.

#[path = "../../tests/src/heap.rs"]
#[allow(dead_code)] // A part of it is used here.
mod heap;

use std::time::{Duration, Instant};

use fs_net::Budget;
use fs_proto::{InodeId, ServerId};
use fs_server::namespace::loans::{CallBack, Extent};
use fs_server::namespace::locks::{LockKey, LockSet, LockTable, Mode};
use tokio::sync::mpsc::UnboundedReceiver;

#[global_allocator]
static COUNTED: heap::Counted = heap::Counted;

/// Longer than a lease, and than what was called back cools.
const LONG: Duration = Duration::from_secs(20);
/// Part of the pool that what is lent has, as a divisor.
const PART: usize = 16;
/// Keys that are called back.
const CALLED_BACK: u64 = 20;

fn key(number: u64) -> LockKey {
    if number.is_multiple_of(2) {
        LockKey::Inode(InodeId(number))
    } else {
        LockKey::Entry(InodeId(7), number)
    }
}

/// What is held besides what was before, as the pool sees it.
struct Meter {
    pool: Budget,
    before: isize,
    counted: usize,
}

impl Meter {
    /// Compares the most that was held with the most that was counted: before this step or after it.
    fn check(&mut self, what: &str) {
        self.check_beside(0, what);
    }

    /// The same while something else is held, too.
    fn check_beside(&mut self, other: usize, what: &str) {
        let (most, counted) = (heap::peak() - self.before, self.pool.used());
        let most_counted = self.counted.max(counted) + other;
        assert!(most <= most_counted as isize, "{what}: {most} bytes held, {most_counted} counted");
        self.counted = counted;
    }
}

/// Lends keys to servers `0..servers`. Answers how many there was room for, and bytes of each.
fn fill(pool_bytes: usize, servers: u16, limit: u64) -> (u64, isize) {
    let pool = Budget::new(pool_bytes);
    let table = LockTable::new(&pool);
    let mut calls = table.loans().calls().expect("the first who asks");
    let now = Instant::now();
    let _ = heap::peak();
    let mut meter = Meter { pool, before: heap::held(), counted: 0 };
    let mut lent = 0;
    while lent < limit {
        let all = (0..servers).all(|server| table.lend(key(lent), Extent::Whole, ServerId(server), now));
        meter.check("lent");
        if !all {
            break;
        }
        lent += 1;
    }
    assert!(meter.pool.used() <= pool_bytes / PART, "{} counted", meter.pool.used());
    let each = (heap::held() - meter.before) / lent.max(1) as isize;
    call_back(&table, &mut calls, &mut meter, lent.min(CALLED_BACK), servers);
    let mut now = Instant::now();
    for _ in 0..4 {
        now += LONG;
        for number in 0..lent / 8 {
            table.lend(key(number), Extent::Access, ServerId((number % u64::from(servers)) as u16), now);
            meter.check("lent again");
        }
        table.tidy_loans(now);
        meter.check("tidied");
    }
    table.tidy_loans(now + LONG);
    assert!(table.loans().is_empty() && meter.pool.used() == 0);
    assert_eq!(heap::held(), meter.before);
    (lent, each)
}

/// Has some keys called back and given back by all servers.
fn call_back(
    table: &LockTable,
    calls: &mut UnboundedReceiver<CallBack>,
    meter: &mut Meter,
    keys: u64,
    servers: u16,
) {
    // The lists of a call are a part of the change that waits for it.
    let lists = 1024 + 8 * usize::from(servers);
    for number in 0..keys {
        let now = Instant::now();
        assert!((0..servers).all(|server| table.lend(key(number), Extent::Whole, ServerId(server), now)));
        assert!(table.try_with(&LockSet::of(&[(key(number), Mode::Exclusive)]), || ()).is_none());
        let call = calls.try_recv().expect("it is called back");
        for server in call.servers {
            table.returned(&call.keys, server);
        }
        meter.check_beside(lists, "called back");
    }
}

#[test]
fn what_is_lent_takes_no_more_than_is_counted() {
    heap::check_the_meter();
    // Bytes of a key: its places in tables that are at least a third full, and the servers' sets.
    for (servers, most) in [(1, 90), (32, 90), (33, 150), (1000, 500), (4096, 1400)] {
        for (pool_bytes, limit) in [(4 << 20, u64::MAX), (32 << 20, 3000)] {
            let (lent, each) = fill(pool_bytes, servers, limit);
            println!("{} KiB, {servers} servers: {lent} keys of {each} bytes", (pool_bytes / PART) >> 10);
            assert!(lent > 100 && each <= most, "{servers} servers: {lent} keys of {each} bytes");
        }
    }
    // Without memory for one step nothing is lent, and nothing taken.
    assert_eq!(fill(PART << 12, 3, u64::MAX).0, 0);
}
