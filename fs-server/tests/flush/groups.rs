//! Small files and symbolic links that are flushed together.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;

use fs_proto::msg::tier::{FlushAccount, FlushNow};
use fs_proto::{FileKind, InodeId, ServerId};
use fs_server::tier::posix::Posix;
use fs_server::tier::{Tier, TierError};

use crate::client::{Client, ROOT};
use crate::cluster::Cluster;
use crate::fake::{Fake, Gate};

/// Files that are made before anything is flushed: more than a group has.
const FILES: usize = 150;

/// A cluster that flushes nothing before it is told to, so that names are flushed together.
fn patient(servers: u16, wide_threshold: u64) -> Cluster {
    let mut cluster = Cluster::wide_above(servers, wide_threshold);
    cluster.adjust(|config| config.flush_delay_ms = 3_600_000);
    cluster
}

fn named(index: usize) -> String {
    format!("f{index}")
}

fn content(index: usize, seed: u8) -> Vec<u8> {
    vec![seed ^ index as u8; index * 97 % 9_000]
}

fn counted(accounts: &[FlushAccount]) -> (u64, u64) {
    accounts.iter().fold((0, 0), |sum, account| (sum.0 + account.files, sum.1 + account.bytes))
}

fn hurry(client: &Client, servers: u16) {
    (0..servers).for_each(|id| client.ask_server(ServerId(id), &FlushNow { everything: false }).unwrap());
}

fn symlink(client: &Client, dir: InodeId, name: &str) -> InodeId {
    client.make(dir, name, FileKind::Symlink, &format!("../of/{name}"), false).ino
}

fn failing() -> TierError {
    TierError::Failed("the tier does not want this one".to_owned())
}

#[test]
fn files_that_are_flushed_together_arrive_as_they_are() {
    // Goal: small files of all sizes, modes and attributes arrive, and symbolic links between them, in narrow and wide directories, beside what is no small file; so do their
    // new versions. Each version of a file counts once.
    for wide_threshold in [10_000, 40] {
        let mut cluster = patient(3, wide_threshold);
        cluster.launch(&crate::cluster::plain);
        let client = Client::connect(&cluster.file);
        let dirs = [ROOT, client.mkdir(ROOT, "a"), client.mkdir(ROOT, "b")];
        let mut expected = (0, 0);
        for index in 0..FILES {
            let data = content(index, 3);
            let file = client.write_file(dirs[index % 3], &named(index), &data);
            expected = (expected.0 + 1, expected.1 + data.len() as u64);
            let link = symlink(&client, dirs[index % 3], &format!("s{index}"));
            match index % 10 {
                0 => client.set_times(link, 1_000_000_007, 2_000_000_009),
                1 => client.chmod(file, 0o4751),
                2 => client.setxattr(file, "user.some", "thing"),
                3 => client.set_times(file, 1_000_000_007, 2_000_000_009),
                4 => client.link(file, dirs[1], &format!("link{index}")),
                _ => {}
            }
        }
        client.write_file(dirs[1], "large", &vec![1; 1 << 20]);
        expected = (expected.0 + 1, expected.1 + (1 << 20));
        hurry(&client, 3);
        assert_eq!(counted(&cluster.check(&client)), expected);
        for index in (0..FILES).filter(|index| index % 10 != 4) {
            let data = vec![5; index * 97 % 9_000 + 1];
            client.write_file(dirs[index % 3], &named(index), &data);
            expected = (expected.0 + 1, expected.1 + data.len() as u64);
        }
        hurry(&client, 3);
        let accounts = cluster.check(&client);
        assert_eq!(counted(&accounts), expected);
        assert_eq!(accounts.iter().map(|account| account.failures).sum::<u64>(), 0);
    }
}

/// What a thread of the tier does: it makes the object of this number in staging, or shows one.
type Made = Option<u64>;

/// Makes many of a kind in one directory and flushes them; answers how many were made by the thread that had just shown the one which was staged before.
fn made_in_turn(kind: FileKind, count: usize) -> usize {
    let calls: Arc<Mutex<HashMap<ThreadId, Vec<Made>>>> = Arc::default();
    let seen = Arc::clone(&calls);
    let mut cluster = patient(1, 10_000);
    cluster.launch(&|tier| -> Arc<dyn Tier> {
        let seen = Arc::clone(&seen);
        Arc::new(Fake::before(tier, move |what, name| {
            let name = String::from_utf8_lossy(name);
            let number = name.strip_prefix("f-").and_then(|name| name.rsplit('-').next()?.parse().ok());
            if what == "rename" || (what == "make" && number.is_some()) {
                let made = number.filter(|_| what == "make");
                seen.lock().unwrap().entry(std::thread::current().id()).or_default().push(made);
            }
            Ok(())
        }))
    });
    let client = Client::connect(&cluster.file);
    let dir = client.mkdir(ROOT, "dir");
    cluster.drain(&client);
    for index in 0..count {
        client.make(dir, &named(index), kind, if kind == FileKind::Symlink { "x" } else { "" }, false);
    }
    hurry(&client, 1);
    cluster.check(&client);
    let calls = calls.lock().unwrap();
    let is_in_turn = |calls: &&[Made]| matches!(calls, [Some(one), None, Some(next)] if *next == one + 1);
    calls.values().map(|of_thread| of_thread.windows(3).filter(is_in_turn).count()).sum()
}

#[test]
fn symbolic_links_ride_in_groups() {
    // Goal: many links of a directory are made and shown one after the other by one job, not each by jobs of its own. Method: the order of the tier's calls on each of its threads; pipes,
    // which go by themselves, for comparison. Where others have the processors most groups are cut short after their time: then once more.
    const COUNT: usize = 400;
    let pipes = made_in_turn(FileKind::Fifo, COUNT);
    assert!(pipes < COUNT / 8, "{pipes} of {COUNT}");
    let is_shown = (0..20).any(|_| made_in_turn(FileKind::Symlink, COUNT) > COUNT / 4);
    assert!(is_shown, "in none of 20 tries links went together, of which {pipes} of {COUNT} pipes did");
}

#[test]
fn what_went_with_its_directory_is_waited_for_by_nobody() {
    // Goal: names of a directory that never came to the tier, or is gone from it, leave the queue though there is no directory to look into.
    let mut cluster = patient(2, 10_000);
    cluster.launch(&crate::cluster::plain);
    let client = Client::connect(&cluster.file);
    for is_flushed in [false, true] {
        let dir = client.mkdir(ROOT, "dir");
        for index in 0..FILES {
            client.write_file(dir, &named(index), &content(index, 1));
        }
        if is_flushed {
            cluster.drain(&client);
        }
        (0..FILES).for_each(|index| client.unlink(dir, &named(index)));
        client.rmdir(ROOT, "dir");
        let accounts = cluster.drain(&client);
        assert_eq!(accounts.iter().map(|account| account.failures).sum::<u64>(), 0);
        cluster.check(&client);
    }
}

#[test]
fn policies_hold_for_files_that_are_flushed_together() {
    // Goal: a directory's policy and a file's own hold for many files as for one, and what waits for a demand goes when it comes.
    let mut cluster = patient(1, 10_000);
    cluster.launch(&crate::cluster::plain);
    let client = Client::connect(&cluster.file);
    let dirs = ["never", "demand", "close"].map(|policy| {
        let dir = client.mkdir(ROOT, policy);
        client.setxattr(dir, "user.hayate.flush", policy);
        dir
    });
    for (dir, index) in dirs.into_iter().flat_map(|dir| (0..50).map(move |index| (dir, index))) {
        let file = client.write_file(dir, &named(index), &content(index, 1));
        if index == 7 {
            client.setxattr(file, "user.hayate.flush", if dir == dirs[2] { "never" } else { "close" });
        }
    }
    let there = |dir: &str| (0..50).filter(|index| cluster.at(dir).join(named(*index)).exists()).count();
    hurry(&client, 1);
    // All but one of a directory, and one of each other.
    cluster.wait(&client, "what may go in the tier", |accounts| counted(accounts).0 == 51);
    assert_eq!([there("never"), there("demand"), there("close")], [1, 1, 49]);
    client.ask_server(ServerId(0), &FlushNow { everything: true }).unwrap();
    cluster.wait(&client, "the demanded ones", |accounts| counted(accounts).0 == 100);
    assert_eq!([there("never"), there("demand"), there("close")], [1, 50, 49]);
}

#[test]
fn one_that_fails_holds_up_no_other() {
    // Goal: names which the tier refuses are told by name, and all others arrive; once it takes them they arrive, too.
    for call in ["make", "set", "rename"] {
        let refused = Arc::new(AtomicBool::new(true));
        let (switch, staged) = (Arc::clone(&refused), Mutex::new(HashMap::new()));
        let wrap = move |tier: Posix| -> Arc<dyn Tier> {
            let (switch, staged) = (Arc::clone(&switch), Mutex::new(staged.lock().unwrap().clone()));
            // Names in staging say nothing of the file: every tenth object that is staged is one of those.
            Arc::new(Fake::before(tier, move |what, name| {
                if what != call || !switch.load(Ordering::Acquire) {
                    return Ok(());
                }
                let is_meant = if call == "rename" {
                    name.ends_with(b"7")
                } else {
                    let mut staged = staged.lock().unwrap();
                    let count = staged.len();
                    *staged.entry(name.to_vec()).or_insert(count % 10 == 7)
                };
                if is_meant { Err(failing()) } else { Ok(()) }
            }))
        };
        let mut cluster = patient(2, 10_000);
        cluster.launch(&wrap);
        let client = Client::connect(&cluster.file);
        let dir = client.mkdir(ROOT, "dir");
        for index in 0..FILES {
            client.write_file(dir, &named(index), &content(index, 1));
        }
        hurry(&client, 2);
        if call == "rename" {
            let refused = (0..FILES).filter(|index| index % 10 == 7).count();
            let accounts = cluster.wait(&client, "all others in the tier", |accounts| {
                let told: usize = accounts.iter().map(|account| account.unsafe_names.len()).sum();
                counted(accounts).0 == (FILES - refused) as u64 && told == refused
            });
            for (name, why) in accounts.iter().flat_map(|account| &account.unsafe_names) {
                assert!(name.ends_with(b"7") && why.contains("does not want"), "{why}");
            }
        }
        refused.store(false, Ordering::Release);
        cluster.drain(&client);
        cluster.check(&client);
    }
}

#[test]
fn what_changes_while_a_group_is_copied_ends_as_it_is() {
    // Goal: whatever happens to names and files of a group while it is being copied, the tier has the namespace afterwards.
    // Method: the tier waits at the first call of a group that makes or shows a copy, and everything changes meanwhile.
    for call in ["make", "rename"] {
        let gate = Gate::shut();
        let mut cluster = patient(2, 10_000);
        gate.open();
        cluster.launch(&gate.wrap(call));
        let client = Client::connect(&cluster.file);
        let (dir, other) = (client.mkdir(ROOT, "dir"), client.mkdir(ROOT, "other"));
        cluster.drain(&client);
        gate.close();
        let files: Vec<_> =
            (0..80).map(|index| client.write_file(dir, &named(index), &content(index, 1))).collect();
        let link = |index: usize| format!("s{index}");
        let links: Vec<_> = (0..40).map(|index| symlink(&client, dir, &link(index))).collect();
        hurry(&client, 2);
        gate.await_somebody();
        for (index, ino) in links.iter().enumerate() {
            match index % 5 {
                0 => client.unlink(dir, &link(index)),
                1 => {
                    client.unlink(dir, &link(index));
                    symlink(&client, dir, &link(index));
                }
                2 => client.rename(dir, &link(index), other, &link(index)),
                3 => client.link(*ino, other, &link(index)),
                _ => {}
            }
        }
        for (index, file) in files.iter().enumerate() {
            match index % 8 {
                0 => client.unlink(dir, &named(index)),
                1 => _ = client.write_file(dir, &named(index), &content(index, 2)),
                2 => client.rename(dir, &named(index), other, &named(index)),
                3 => client.link(*file, other, &named(index)),
                4 => client.chmod(*file, 0o640),
                5 => _ = client.write_file(dir, &named(index), &vec![9; 100_000]),
                6 => client.truncate(*file, 3),
                _ => {}
            }
        }
        gate.open();
        cluster.drain(&client);
        cluster.check(&client);
    }
}

/// A tier that works for `calls` calls and then never again; the last one fails before (even) or after (odd) it was done.
fn dying(tier: Posix, calls: &Arc<AtomicU64>, last: u64) -> Arc<dyn Tier> {
    let is_over = {
        let calls = Arc::clone(calls);
        move |counts: bool| {
            let count =
                if counts { calls.fetch_add(1, Ordering::AcqRel) } else { calls.load(Ordering::Acquire) };
            if count >= last { Err(failing()) } else { Ok(()) }
        }
    };
    if last.is_multiple_of(2) {
        return Arc::new(Fake::before(tier, move |_, _| is_over(true)));
    }
    Arc::new(Fake { after: Box::new(move |_, _| is_over(true)), ..Fake::before(tier, |_, _| Ok(())) })
}

#[test]
fn a_group_that_is_cut_off_is_finished_and_counts_once() {
    // Goal: wherever in a group the servers end, what was removed meanwhile is not in the tier afterwards, everything else is, and counts once.
    let calls = Arc::new(AtomicU64::new(0));
    let mut cluster = patient(1, 10_000);
    cluster.launch(&crate::cluster::plain);
    let mut expected = 0;
    for round in 0..20 {
        let client = Client::connect(&cluster.file);
        let dir = client.mkdir(ROOT, &format!("d{round}"));
        cluster.drain(&client);
        drop(client);
        calls.store(0, Ordering::Release);
        let last = 3 + 7 * round;
        cluster.restart(&|tier| dying(tier, &calls, last));
        let client = Client::connect(&cluster.file);
        for index in 0..40 {
            client.write_file(dir, &named(index), &content(index, round as u8));
        }
        client.ask_server(ServerId(0), &FlushNow { everything: true }).unwrap();
        let before = cluster.wait(&client, "the tier's end", |accounts| {
            calls.load(Ordering::Acquire) > last
                || accounts.iter().all(|a| a.pending_names + a.pending_dirs == 0)
        });
        let gone = (0..40).filter(|index| index % 3 == 0);
        gone.for_each(|index| client.unlink(dir, &named(index)));
        let kept = counted(&cluster.accounts(&client)).0;
        assert!(kept >= counted(&before).0);
        drop(client);
        cluster.restart(&crate::cluster::plain);
        let client = Client::connect(&cluster.file);
        let after = counted(&cluster.drain(&client)).0;
        cluster.compare(&client);
        // Each file counts at most once, and those that are left did.
        expected += 40;
        assert!(after <= expected && after + 14 >= expected, "round {round}: {after} of {expected}");
        expected = after;
    }
}
