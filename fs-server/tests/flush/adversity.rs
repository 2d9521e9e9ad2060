//! A tier in trouble: errors of every sort, slowness, disappearance; what other systems got wrong; and a stress of all at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fs_proto::ServerId;
use fs_proto::msg::tier::{FlushAccount, FlushNow};
use fs_server::tier::posix::Posix;
use fs_server::tier::{Tier, TierError};
use parking_lot::Mutex;

use crate::client::{Client, ROOT};
use crate::cluster::{Cluster, plain};
use crate::fake::{Fake, Gate};

/// What the file systems say, and what of it a user must read.
const ERRORS: [&str; 4] = [
    "Input/output error (os error 5)",
    "No space left on device (os error 28)",
    "Disk quota exceeded (os error 122)",
    "Stale file handle (os error 116)",
];

/// A tier that fails with what is in the cell, while something is.
fn failing(reason: &Arc<Mutex<Option<&'static str>>>) -> impl Fn(Posix) -> Arc<dyn Tier> + use<> {
    let reason = Arc::clone(reason);
    move |tier: Posix| -> Arc<dyn Tier> {
        let reason = Arc::clone(&reason);
        Arc::new(Fake::before(tier, move |_, _| match *reason.lock() {
            Some(text) => Err(TierError::Failed(text.to_owned())),
            None => Ok(()),
        }))
    }
}

fn failures(accounts: &[FlushAccount]) -> u64 {
    accounts.iter().map(|account| account.failures).sum()
}

#[test]
fn each_error_is_reported_retried_with_pauses_and_survived() {
    // Goal: with each error files stay readable and are reported with the reason; attempts come with growing pauses; then all arrives.
    let reason = Arc::new(Mutex::new(None));
    let cluster = Cluster::start_with(2, 10_000, &failing(&reason));
    let client = Client::connect(&cluster.file);
    for (round, error) in ERRORS.into_iter().enumerate() {
        *reason.lock() = Some(error);
        let name = format!("file{round}");
        let file = client.write_file(ROOT, &name, &vec![round as u8; 2 << 20]);
        let wanted = format!("/{name}");
        let accounts = cluster.wait(&client, "the report", |accounts| {
            let mut unsafe_names = accounts.iter().flat_map(|account| &account.unsafe_names);
            unsafe_names.any(|(name, why)| name[..] == *wanted.as_bytes() && why.contains(error))
        });
        let (before, began) = (failures(&accounts), Instant::now());
        let items: u64 = accounts.iter().map(|account| account.pending_names + account.pending_dirs).sum();
        cluster.wait(&client, "further attempts", |accounts| failures(accounts) >= before + 5 * items);
        // Five more of some item: after 100 ms (or less, of the first), 200, 400, 800 and more.
        assert!(began.elapsed() > Duration::from_millis(500), "no pauses: {:?}", began.elapsed());
        assert_eq!(client.read(&client.attr(file)).len(), 2 << 20);
        *reason.lock() = None;
        let accounts = cluster.drain(&client);
        assert!(accounts.iter().all(|account| account.unsafe_names.is_empty()));
        cluster.compare(&client);
    }
}

#[test]
fn a_tier_that_is_gone_for_a_while_gets_everything_afterwards() {
    // Goal: names made, changed, moved and removed while the tier is away (seconds; a minute with the switch for long tests) end right; nobody
    // waits for it.
    let reason = Arc::new(Mutex::new(None));
    let cluster = Cluster::start_with(2, 10_000, &failing(&reason));
    let client = Client::connect(&cluster.file);
    let dir = client.mkdir(ROOT, "dir");
    for number in 0..20 {
        client.write_file(dir, &format!("f{number}"), &vec![number; 50_000]);
    }
    cluster.check(&client);
    *reason.lock() = Some("Transport endpoint is not connected (os error 107)");
    let (gone, mut round) = (Instant::now(), 0);
    let away = Duration::from_secs(if is_long() { 60 } else { 6 });
    while gone.elapsed() < away && round < 200 {
        let began = Instant::now();
        let name = format!("f{}", round % 20);
        match round % 3 {
            0 => client.unlink(dir, &name),
            1 => client.rename(dir, &name, ROOT, &format!("moved{round}")),
            _ => drop(client.write_file(dir, &name, &[7; 10])),
        }
        client.write_file(dir, &name, &vec![round as u8; 30_000]);
        assert!(began.elapsed() < Duration::from_secs(5), "a request waited {:?}", began.elapsed());
        round += 1;
    }
    cluster.wait(&client, "failures", |accounts| failures(accounts) > 0 && gone.elapsed() >= away);
    *reason.lock() = None;
    cluster.drain(&client);
    cluster.compare(&client);
}

#[test]
fn a_tier_with_a_latency_of_seconds_holds_up_no_request_and_ends_right() {
    // Goal: while each call takes a second, and making a file three, requests take none of that; what was written meanwhile arrives.
    let slow = Arc::new(AtomicBool::new(true));
    let switch = Arc::clone(&slow);
    let wrap = move |tier: Posix| -> Arc<dyn Tier> {
        let switch = Arc::clone(&switch);
        Arc::new(Fake::before(tier, move |what, _| {
            if switch.load(Ordering::Acquire) {
                // The latency itself, not a wait for something.
                std::thread::sleep(Duration::from_secs(if what == "make" { 3 } else { 1 }));
            }
            Ok(())
        }))
    };
    let cluster = Cluster::start_with(2, 10_000, &wrap);
    let client = Client::connect(&cluster.file);
    let (began, mut longest) = (Instant::now(), Duration::ZERO);
    for number in 0..100 {
        let one = Instant::now();
        client.write_file(ROOT, &format!("f{number}"), &vec![number; 20_000]);
        longest = longest.max(one.elapsed());
    }
    assert!(longest < Duration::from_secs(1), "a file took {longest:?}");
    cluster
        .wait(&client, "one file in the tier", |accounts| accounts.iter().any(|account| account.files > 0));
    assert!(began.elapsed() > Duration::from_secs(4), "the tier is not slow");
    slow.store(false, Ordering::Release);
    cluster.drain(&client);
    cluster.compare(&client);
}

#[test]
fn no_old_tail_no_ghost_and_no_stale_copy() {
    // Goal: what PEERS.md tells of others does not happen: an overwritten shorter file keeps no tail, removed files and directories do not
    // come back, a changed file is not left stale. Method: each right after the first version was flushed, and compared each time.
    let cluster = Cluster::start(3);
    let client = Client::connect(&cluster.file);
    let dir = client.mkdir(ROOT, "dir");
    let file = client.write_file(dir, "file", &vec![1; 5 << 20]);
    client.write_file(dir, "gone", &vec![2; 1 << 20]);
    cluster.check(&client);
    client.truncate(file, 0);
    client.write(file, 0, b"short");
    client.close(file, 5);
    client.unlink(dir, "gone");
    cluster.check(&client);
    assert_eq!(std::fs::read(cluster.at("dir/file")).unwrap(), b"short");
    client.unlink(dir, "file");
    client.rmdir(ROOT, "dir");
    cluster.check(&client);
    let again = client.mkdir(ROOT, "dir");
    client.write_file(again, "file", b"another");
    cluster.check(&client);
}

/// How long the stress lasts: minutes with the switch for long tests.
fn stress_time() -> Duration {
    Duration::from_secs(if is_long() { 180 } else { 4 })
}

/// Whether this is the long tier.
pub fn is_long() -> bool {
    std::env::var_os("HAYATE_TEST_LONG").is_some()
}

#[test]
fn what_is_removed_while_it_is_copied_does_not_come_back() {
    // Goal: a file, and a directory with one, that are removed between the end of their copy and its publication are not in the tier afterwards.
    // Method: a gate at the publication.
    let gate = Gate::shut();
    let cluster = Cluster::start_with(1, 10_000, &gate.wrap("rename"));
    let client = Client::connect(&cluster.file);
    let dir = client.mkdir(ROOT, "dir");
    client.write_file(dir, "below", &vec![1; 2 << 20]);
    client.write_file(ROOT, "file", b"small");
    gate.await_somebody();
    client.unlink(ROOT, "file");
    client.unlink(dir, "below");
    client.rmdir(ROOT, "dir");
    gate.open();
    cluster.check(&client);
    cluster.compare_nothing_there();
}

#[test]
fn what_is_cut_while_it_is_copied_has_no_old_tail() {
    // Goal: files that are cut, or overwritten by something shorter, between the end of their copy and its publication are short in the tier.
    // Method: a gate at the publication.
    let gate = Gate::shut();
    let cluster = Cluster::start_with(1, 10_000, &gate.wrap("rename"));
    let client = Client::connect(&cluster.file);
    let cut = client.write_file(ROOT, "cut", &vec![1; 3 << 20]);
    let over = client.write_file(ROOT, "over", &vec![2; 10_000]);
    gate.await_somebody();
    client.truncate(cut, 100_000);
    client.truncate(over, 0);
    client.write(over, 0, b"short");
    client.close(over, 5);
    gate.open();
    cluster.check(&client);
    assert_eq!(std::fs::read(cluster.at("over")).unwrap(), b"short");
    assert_eq!(std::fs::read(cluster.at("cut")).unwrap(), vec![1; 100_000]);
}

#[test]
fn a_flush_that_is_asked_for_while_others_write_has_what_was_closed_before() {
    // Goal: what was closed before a flush is in the tier as it was closed, whatever others write meanwhile, and is not replaced by anything
    // older. Method: rounds of rewriting 20 files and asking for a flush, while two writers rewrite theirs without a pause.
    let mut cluster = Cluster::prepared(2);
    cluster.launch(&plain);
    let (file, done) = (&cluster.file, &AtomicBool::new(false));
    std::thread::scope(|scope| {
        for writer in 0..2_u64 {
            scope.spawn(move || {
                let client = Client::connect(file);
                let dir = client.mkdir(ROOT, &format!("w{writer}"));
                let mut round = 0_u8;
                while !done.load(Ordering::Acquire) {
                    round = round.wrapping_add(1);
                    client.write_file(dir, &format!("f{}", round % 10), &vec![round; 300_000]);
                }
            });
        }
        let client = Client::connect(file);
        let dir = client.mkdir(ROOT, "mine");
        for round in 0..6_usize {
            let content = |number: usize| vec![(round * 20 + number) as u8; 50_000 + round * 30_000];
            for number in 0..20 {
                client.write_file(dir, &format!("f{number}"), &content(number));
            }
            (0..2).for_each(|id| client.ask_server(ServerId(id), &FlushNow { everything: false }).unwrap());
            let began = Instant::now();
            let arrived = |number: usize| {
                std::fs::read(cluster.at(format!("mine/f{number}")))
                    .is_ok_and(|found| found == content(number))
            };
            for number in 0..20 {
                while !arrived(number) {
                    assert!(
                        began.elapsed() < Duration::from_secs(60),
                        "f{number} of round {round} does not come"
                    );
                    std::thread::yield_now();
                }
            }
            assert!((0..20).all(arrived), "something older came after it");
        }
        done.store(true, Ordering::Release);
    });
    let client = Client::connect(&cluster.file);
    cluster.drain(&client);
    cluster.compare(&client);
}

#[test]
fn a_stress_of_changes_that_race_with_flushes_ends_equal() {
    // Goal: writers who rewrite, cut, rename, link, chmod and remove few names as fast as they can, while a tier that fails now and then
    // flushes all the time: it ends equal. Method: each writer has a directory and a seed; names collide within it on purpose.
    let calls = Arc::new(AtomicU64::new(0));
    let wrap = move |tier: Posix| -> Arc<dyn Tier> {
        let calls = Arc::clone(&calls);
        Arc::new(Fake::before(tier, move |_, _| {
            let mixed = calls.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
            if mixed.is_multiple_of(64) { Err(TierError::Failed(ERRORS[0].to_owned())) } else { Ok(()) }
        }))
    };
    let cluster = Cluster::start_with(2, 10_000, &wrap);
    let file = &cluster.file;
    std::thread::scope(|scope| {
        for writer in 0..3_u64 {
            scope.spawn(move || scribble(&Client::connect(file), writer, stress_time()));
        }
    });
    let client = Client::connect(&cluster.file);
    cluster.drain(&client);
    cluster.compare(&client);
}

fn scribble(client: &Client, seed: u64, time: Duration) {
    let dir = client.mkdir(ROOT, &format!("w{seed}"));
    let (began, mut state) = (Instant::now(), seed);
    while began.elapsed() < time {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let pick = |bits: u32, of: u64| (state >> bits) % of;
        let (name, other) = (format!("f{}", pick(20, 5)), format!("f{}", pick(24, 5)));
        let Some(ino) = client.lookup(dir, &name) else {
            let size = [10, 20_000, 1_500_000][pick(30, 3) as usize];
            client.write_file(dir, &name, &vec![pick(40, 256) as u8; size]);
            continue;
        };
        match pick(33, 7) {
            0 => client.unlink(dir, &name),
            1 if name != other => client.rename(dir, &name, dir, &other),
            2 => client.truncate(ino, pick(40, 100_000)),
            3 => client.chmod(ino, 0o600 + pick(40, 64) as u32),
            4 if client.lookup(dir, &other).is_none() => client.link(ino, dir, &other),
            _ => {
                client.write_file(dir, &name, &vec![pick(40, 256) as u8; pick(45, 300_000) as usize]);
            }
        }
    }
    println!("seed {seed}: ended");
}
