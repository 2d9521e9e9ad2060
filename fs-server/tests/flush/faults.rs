//! Tiers that fail, are slow, or die in the middle.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use fs_proto::msg::chunk::{CopyChunk, CopyChunkTo};
use fs_proto::msg::tier::{FlushAccount, FlushNow, FlushWait};
use fs_proto::{ChunkIndex, ServerId};
use fs_server::tier::posix::Posix;
use fs_server::tier::{Tier, TierError, TierResult};

use crate::client::{Client, ROOT};
use crate::cluster::{Cluster, plain};
use crate::fake::{Fake, Gate};

fn full() -> TierError {
    TierError::Failed("no space left on the shared tier".to_owned())
}

fn some_work(client: &Client) {
    let dir = client.mkdir(ROOT, "dir");
    let file = client.write_file(dir, "file", &vec![7; 3 << 20]);
    client.link(file, ROOT, "link");
    client.write_file(ROOT, "small", b"small");
}

fn more_work(client: &Client) {
    let dir = client.lookup(ROOT, "dir").unwrap();
    client.rename(ROOT, "dir", ROOT, "moved");
    client.mkdir(ROOT, "dir");
    client.unlink(dir, "file");
    client.write_file(ROOT, "small", b"another");
    client.rename(ROOT, "small", dir, "small");
    let sub = client.mkdir(dir, "sub");
    client.write_file(sub, "x", b"x");
    client.chmod(sub, 0o700);
}

fn last_work(client: &Client) {
    let moved = client.lookup(ROOT, "moved").unwrap();
    let sub = client.lookup(moved, "sub").unwrap();
    client.unlink(sub, "x");
    client.rmdir(moved, "sub");
    client.unlink(moved, "small");
    client.rmdir(ROOT, "moved");
    client.unlink(ROOT, "link");
    client.rmdir(ROOT, "dir");
    client.mkdir(ROOT, "small");
}

#[test]
fn a_failing_tier_recovers() {
    // Goal: while every call fails, names are pending and listed with the reason; once it works, everything arrives.
    let broken = Arc::new(AtomicBool::new(true));
    let switch = Arc::clone(&broken);
    let wrap = move |tier: Posix| -> Arc<dyn Tier> {
        let switch = Arc::clone(&switch);
        Arc::new(Fake::before(
            tier,
            move |_, _| if switch.load(Ordering::Acquire) { Err(full()) } else { Ok(()) },
        ))
    };
    let cluster = Cluster::start_with(2, 10_000, &wrap);
    let client = Client::connect(&cluster.file);
    some_work(&client);
    let accounts = cluster.wait(&client, "a failure for each name", |accounts| {
        accounts.iter().flat_map(|a| &a.unsafe_names).filter(|(name, _)| name[..] == b"/small"[..]).count()
            == 1
    });
    let named =
        accounts.iter().flat_map(|a| &a.unsafe_names).find(|(name, _)| name[..] == b"/small"[..]).unwrap();
    assert!(named.1.contains("no space left on the shared tier"), "{named:?}");
    assert!(accounts.iter().any(|a| a.pending_names > 0 && a.failures > 0));
    broken.store(false, Ordering::Release);
    cluster.drain(&client);
    let accounts = cluster.check(&client);
    assert!(accounts.iter().all(|a| a.unsafe_names.is_empty()));
}

/// Goal: one call of sixteen fails, before or after it took effect, and everything arrives all the same.
#[test]
fn calls_that_fail_now_and_then_lose_nothing() {
    let calls = Arc::new(AtomicU64::new(0));
    let wrap = move |tier: Posix| -> Arc<dyn Tier> {
        let calls = Arc::clone(&calls);
        let hook = move |_: &'static str, _: &[u8]| -> TierResult<()> {
            let mixed = calls.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
            if mixed.is_multiple_of(16) { Err(full()) } else { Ok(()) }
        };
        let hook = Arc::new(hook);
        let (before, after) = (Arc::clone(&hook), hook);
        Arc::new(Fake {
            after: Box::new(move |what, name| after(what, name)),
            ..Fake::before(tier, move |what, name| before(what, name))
        })
    };
    let cluster = Cluster::start_with(2, 10_000, &wrap);
    let client = Client::connect(&cluster.file);
    for work in [some_work, more_work, last_work] {
        work(&client);
        cluster.drain(&client);
        cluster.compare(&client);
    }
}

/// A tier that works for `calls` calls and then never again; the last one fails before (even) or after (odd) it was done.
fn dying(tier: Posix, calls: &Arc<AtomicU64>, last: u64, after: bool) -> Arc<dyn Tier> {
    let hook = |counts: bool| {
        let calls = Arc::clone(calls);
        move |_: &'static str, _: &[u8]| {
            let count =
                if counts { calls.fetch_add(1, Ordering::Relaxed) } else { calls.load(Ordering::Relaxed) };
            if count >= last { Err(full()) } else { Ok(()) }
        }
    };
    if after {
        Arc::new(Fake { after: Box::new(hook(true)), ..Fake::before(tier, |_, _| Ok(())) })
    } else {
        Arc::new(Fake::before(tier, hook(true)))
    }
}

#[test]
fn a_restart_in_the_middle_finishes() {
    // Goal: wherever in a flush the servers end, before or after a call to the tier took effect, the next start finishes it.
    let calls = Arc::new(AtomicU64::new(0));
    let mut cluster = Cluster::start(2);
    for round in 0..36 {
        let client = Client::connect(&cluster.file);
        for name in ["dir", "moved", "small", "link"] {
            assert!(client.lookup(ROOT, name).is_none());
        }
        some_work(&client);
        if round % 3 > 0 {
            cluster.drain(&client);
        }
        drop(client);
        calls.store(0, Ordering::Relaxed);
        let wrap = |tier: Posix| dying(tier, &calls, 1 + round, round % 2 == 1);
        cluster.restart(&wrap);
        let client = Client::connect(&cluster.file);
        more_work(&client);
        if round % 3 == 2 {
            last_work(&client);
        }
        for id in 0..2 {
            client.ask_server(ServerId(id), &FlushNow { everything: true }).unwrap();
        }
        cluster.wait(&client, "the tier's end", |accounts| {
            calls.load(Ordering::Relaxed) > 1 + round
                || accounts.iter().all(|a| a.pending_names + a.pending_dirs == 0)
        });
        drop(client);
        cluster.restart(&plain);
        let client = Client::connect(&cluster.file);
        cluster.drain(&client);
        cluster.compare(&client);
        if round % 3 != 2 {
            last_work(&client);
        }
        client.rmdir(ROOT, "small");
        cluster.drain(&client);
        cluster.compare(&client);
        assert_eq!(std::fs::read_dir(cluster.tier()).unwrap().count(), 0, "round {round}");
    }
}

#[test]
fn what_was_removed_untold_is_not_waited_for() {
    // Goal: a tree that is gone from the tier, of which no server was told that it is, is done with. Method: every removal takes effect and fails; then a restart.
    let mut cluster = Cluster::start(3);
    let client = Client::connect(&cluster.file);
    let outer = client.mkdir(ROOT, "outer");
    let inner = client.mkdir(outer, "inner");
    for name in ["one", "other"] {
        client.write_file(inner, name, b"small");
    }
    cluster.drain(&client);
    drop(client);
    cluster.restart(&|tier| -> Arc<dyn Tier> {
        let fails = |call: &'static str, _: &[u8]| if call == "remove" { Err(full()) } else { Ok(()) };
        Arc::new(Fake { after: Box::new(fails), ..Fake::before(tier, |_, _| Ok(())) })
    });
    let client = Client::connect(&cluster.file);
    for name in ["one", "other"] {
        client.unlink(inner, name);
    }
    client.rmdir(outer, "inner");
    client.rmdir(ROOT, "outer");
    for id in 0..3 {
        client.ask_server(ServerId(id), &FlushNow { everything: true }).unwrap();
    }
    let outer = cluster.tier().join("outer");
    cluster.wait(&client, "the end of the tree in the tier", |_| !outer.exists());
    drop(client);
    cluster.restart(&plain);
    let client = Client::connect(&cluster.file);
    cluster.drain(&client);
    cluster.compare(&client);
}

fn counted(accounts: &[FlushAccount]) -> (u64, u64) {
    accounts.iter().fold((0, 0), |sum, account| (sum.0 + account.files, sum.1 + account.bytes))
}

#[test]
fn what_is_published_again_counts_once() {
    // Goal: the account is the files and bytes of the tier, wherever copying stopped, before or after a call took effect.
    // Method: a tier that ends after so many calls, a restart that copies again; links, a rename and attributes, which copy nothing.
    const SIZES: [usize; 4] = [0, 1, 70_000, (2 << 20) + 5];
    let calls = Arc::new(AtomicU64::new(0));
    let mut cluster = Cluster::start(2);
    let mut expected = (0, 0);
    for round in 0..24 {
        calls.store(0, Ordering::Relaxed);
        cluster.restart(&|tier| dying(tier, &calls, 1 + round, round % 2 == 1));
        let client = Client::connect(&cluster.file);
        for size in SIZES {
            let file = client.write_file(ROOT, &format!("f{round}-{size}"), &vec![round as u8; size]);
            client.link(file, ROOT, &format!("l{round}-{size}"));
            expected = (expected.0 + 1, expected.1 + size as u64);
        }
        for id in 0..2 {
            client.ask_server(ServerId(id), &FlushNow { everything: true }).unwrap();
        }
        cluster.wait(&client, "the tier's end", |accounts| {
            calls.load(Ordering::Relaxed) > 1 + round
                || accounts.iter().all(|a| a.pending_names + a.pending_dirs == 0)
        });
        drop(client);
        cluster.restart(&plain);
        let client = Client::connect(&cluster.file);
        let accounts = cluster.drain(&client);
        assert_eq!(counted(&accounts), expected, "round {round}");
        let renamed = client.lookup(ROOT, &format!("f{round}-70000")).unwrap();
        client.rename(ROOT, &format!("f{round}-70000"), ROOT, &format!("r{round}"));
        client.chmod(renamed, 0o600);
        let accounts = cluster.drain(&client);
        cluster.compare(&client);
        assert_eq!(counted(&accounts), expected, "round {round}, after links and attributes");
    }
}

#[test]
fn a_tier_that_hangs_holds_up_no_request() {
    // Goal: while calls to the tier block, requests are served, and changes made meanwhile arrive afterwards.
    let gate = Arc::new((Mutex::new(true), Condvar::new()));
    let door = Arc::clone(&gate);
    let wrap = move |tier: Posix| -> Arc<dyn Tier> {
        let door = Arc::clone(&door);
        Arc::new(Fake::before(tier, move |_, _| {
            let (shut, opened) = &*door;
            let mut shut = shut.lock().unwrap();
            while *shut {
                shut = opened.wait(shut).unwrap();
            }
            Ok(())
        }))
    };
    let cluster = Cluster::start_with(2, 10_000, &wrap);
    let client = Client::connect(&cluster.file);
    some_work(&client);
    more_work(&client);
    cluster.compare_nothing_there();
    *gate.0.lock().unwrap() = false;
    gate.1.notify_all();
    cluster.check(&client);
}

#[test]
fn a_file_that_is_being_copied_is_cut_at_once() {
    // Goal: a truncation waits for no copy, and what is cut off does not come back. Method: copies that stop when they open the staged file.
    let gate = Gate::shut();
    let cluster = Cluster::start_with(2, 10_000, &gate.wrap("open_file"));
    let client = Client::connect(&cluster.file);
    let ino = client.write_file(ROOT, "file", &vec![7; 6 << 20]);
    gate.await_somebody();
    let began = Instant::now();
    client.truncate(ino, 5);
    client.truncate(ino, 6 << 20);
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    let read = client.read(&client.attr(ino));
    assert!(read[..5] == [7; 5] && read[5..].iter().all(|byte| *byte == 0));
    gate.open();
    cluster.check(&client);
}

#[test]
fn a_copy_within_a_file_and_a_cut_of_it_do_not_wait_for_one_another() {
    // Goal: whoever copies uses the file no longer than it reads. Method: many of both at once; a deadlock ends at a deadline only, after 20 s or more.
    let cluster = Cluster::start(1);
    let client = Client::connect(&cluster.file);
    let ino = client.write_file(ROOT, "file", &vec![7; 4 << 20]);
    let (is_over, file) = (AtomicBool::new(false), &cluster.file);
    let slowest = std::thread::scope(|scope| {
        let cuts = scope.spawn(|| {
            let (client, mut slowest) = (Client::connect(file), Duration::ZERO);
            while !is_over.load(Ordering::Acquire) {
                let began = Instant::now();
                client.truncate(ino, (3 << 20) + 5);
                client.truncate(ino, 4 << 20);
                slowest = slowest.max(began.elapsed());
            }
            slowest
        });
        let copy = CopyChunk {
            from: ino,
            from_chunk: ChunkIndex(0),
            from_offset: 0,
            len: 1 << 20,
            ino,
            chunk: ChunkIndex(1),
            offset: 0,
            file_end: 2 << 20,
            since: client.attr(ino).version,
        };
        let request = CopyChunkTo { copy, to: ServerId(0) };
        let copied = (0..300).try_for_each(|_| client.ask_server(ServerId(0), &request));
        is_over.store(true, Ordering::Release);
        copied.unwrap();
        cuts.join().unwrap()
    });
    assert!(slowest < Duration::from_secs(10), "{slowest:?}");
}

#[test]
fn what_a_shared_file_system_loses_after_trouble_is_copied_again() {
    // Goal: on a tier of another machine, a file of which an attempt failed is looked at once it was published, and if it is not there it is copied
    // again. Method: the first rename is carried out and fails; the second is said to be done, and its file is gone.
    let renames = Arc::new(AtomicU64::new(0));
    let mut cluster = Cluster::prepared(1);
    let (count, victim) = (Arc::clone(&renames), cluster.tier().join("victim"));
    let wrap = move |tier: Posix| -> Arc<dyn Tier> {
        let (count, victim) = (Arc::clone(&count), victim.clone());
        let after = move |call: &'static str, name: &[u8]| {
            let is_victim =
                call == "rename" && victim.file_name().is_some_and(|v| v.as_encoded_bytes() == name);
            match is_victim.then(|| count.fetch_add(1, Ordering::SeqCst)) {
                Some(0) => Err(TierError::Failed("Stale file handle (os error 116)".to_owned())),
                Some(1) => {
                    std::fs::remove_file(&victim).unwrap();
                    Ok(())
                }
                _ => Ok(()),
            }
        };
        Arc::new(Fake { is_remote: true, after: Box::new(after), ..Fake::before(tier, |_, _| Ok(())) })
    };
    cluster.launch(&wrap);
    let client = Client::connect(&cluster.file);
    client.write_file(ROOT, "victim", &vec![7; 100_000]);
    cluster.check(&client);
    assert_eq!(renames.load(Ordering::SeqCst), 3);
}

#[test]
fn a_drain_does_not_wait_for_the_next_attempt_to_tidy_up() {
    // Goal: while the tier does not let staging be removed it is tried with growing pauses, and who asks for the end gets it at once when it lets. Method: attempts
    // are counted for as long as a pause becomes at most, and a second.
    const LONGEST_PAUSE: Duration = Duration::from_secs(5);
    let (broken, attempts) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU64::new(0)));
    let mut cluster = Cluster::prepared(1);
    cluster.launch(&|tier| -> Arc<dyn Tier> {
        let (broken, attempts) = (Arc::clone(&broken), Arc::clone(&attempts));
        Arc::new(Fake::before(tier, move |what, _| {
            if what != "rest" || !broken.load(Ordering::Acquire) {
                return Ok(());
            }
            attempts.fetch_add(1, Ordering::AcqRel);
            Err(TierError::Failed("Transport endpoint is not connected (os error 107)".to_owned()))
        }))
    });
    let client = Client::connect(&cluster.file);
    client.write_file(ROOT, "file", &vec![7; 3 << 20]);
    cluster.wait(&client, "a failure", |_| attempts.load(Ordering::Acquire) > 0);
    std::thread::sleep(LONGEST_PAUSE + Duration::from_secs(1));
    let tried = attempts.load(Ordering::Acquire);
    assert!((3..20).contains(&tried), "{tried} attempts");
    let accounts = cluster.accounts(&client);
    assert!(accounts[0].pending_names == 1 && !accounts[0].unsafe_names.is_empty(), "{accounts:?}");
    broken.store(false, Ordering::Release);
    let began = Instant::now();
    client.ask_server(ServerId(0), &FlushWait { longest_ms: 8_000 }).unwrap();
    let (took, accounts) = (began.elapsed(), cluster.accounts(&client));
    assert!(took < Duration::from_secs(1), "after {took:?}");
    assert!(accounts[0].pending_names == 0 && accounts[0].unsafe_names.is_empty(), "{accounts:?}");
    cluster.check(&client);
}
