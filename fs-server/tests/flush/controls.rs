//! How fast flushing goes and how much may wait for it: bandwidth, dirty bytes, deadline.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, UNIX_EPOCH};

use fs_proto::msg::inode::Open;
use fs_proto::msg::name::OpenMode;
use fs_proto::msg::tier::FlushWait;
use fs_proto::{InodeId, ServerId};
use fs_server::tier::Tier;
use fs_server::tier::posix::Posix;

use crate::client::{Client, ROOT};
use crate::cluster::Cluster;
use crate::fake::{Fake, Gate};

const MIB: usize = 1 << 20;

#[test]
fn the_bandwidth_cap_holds() {
    // Goal: one server with 4 MiB a second needs at least the time for 14 MiB, but for the first write; and says at which rate it goes.
    let cluster = Cluster::start_adjusted(1, |config| config.flush_bandwidth = Some(4 << 20));
    let client = Client::connect(&cluster.file);
    let began = Instant::now();
    for file in 0..7 {
        client.write_file(ROOT, &format!("f{file}"), &vec![file; 2 * MIB]);
    }
    let accounts = cluster.wait(&client, "a measured rate", |accounts| accounts[0].bytes_per_s > 0);
    assert!(accounts[0].bytes_per_s < 8 << 20, "{accounts:#?}");
    cluster.check(&client);
    assert!(began.elapsed() >= Duration::from_secs(3), "took {:?}", began.elapsed());
}

#[test]
fn who_waits_for_the_end_is_answered_at_the_end() {
    // Goal: a server answers who waits when all is in the tier and its staging is removed; before that, only when the time is over that was given; and at once
    // when there is nothing.
    let gate = Gate::shut();
    let mut cluster = Cluster::prepared(1);
    cluster.launch(&gate.wrap("rename"));
    let client = Client::connect(&cluster.file);
    let wait = |longest_ms| client.ask_server(ServerId(0), &FlushWait { longest_ms }).unwrap();
    wait(8_000);
    let dir = client.mkdir(ROOT, "dir");
    for number in 0..10 {
        client.write_file(dir, &format!("f{number}"), b"some");
    }
    gate.await_somebody();
    wait(1);
    assert!(cluster.accounts(&client)[0].pending_names > 0);
    gate.open();
    wait(8_000);
    let account = &cluster.accounts(&client)[0];
    assert_eq!((account.pending_names, account.pending_dirs, account.files), (0, 0, 10), "{account:#?}");
    let names = std::fs::read_dir(cluster.tier()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(names.collect::<Vec<_>>(), ["dir"]);
    cluster.check(&client);
}

#[test]
fn dirty_bytes_stay_about_their_cap() {
    // Goal: who writes faster than the tier takes is slowed to its speed, without an error; what waits is never more than the cap and a file for each writer, and
    // the oldest does not grow old. Method: 8 MiB a second, a cap of 4 MiB, 40 MiB written by two writers; looked at all the time.
    const CAP: u64 = 4 << 20;
    const WRITERS: u64 = 2;
    let cluster = Cluster::start_adjusted(1, |config| {
        config.flush_bandwidth = Some(8 << 20);
        config.dirty_max = Some(CAP);
    });
    let began = Instant::now();
    let (mut most, mut oldest) = (0, 0);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let file = &cluster.file;
                scope.spawn(move || {
                    let client = Client::connect(file);
                    for number in 0..20 {
                        client.write_file(ROOT, &format!("w{writer}-{number}"), &vec![number; MIB]);
                    }
                })
            })
            .collect();
        let watcher = Client::connect(&cluster.file);
        while writers.iter().any(|writer| !writer.is_finished()) {
            let account = &cluster.accounts(&watcher)[0];
            most = most.max(account.pending_bytes);
            oldest = oldest.max(account.oldest_ms);
        }
    });
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(3), "written at {} MiB/s", 40.0 / took.as_secs_f64());
    assert!(most <= CAP + WRITERS * MIB as u64, "{} MiB waited", most >> 20);
    assert!(most > CAP / 2, "{} MiB waited: nobody was held up", most >> 20);
    assert!(oldest <= 10_000, "the oldest waited {oldest} ms");
    cluster.check(&Client::connect(&cluster.file));
}

#[test]
fn who_does_not_wait_for_closing_waits_for_making() {
    // Goal: a mount, whose closing nobody waits for, is slowed down as well: where it makes a file or opens one to write. Method: the tier takes
    // nothing; with more than the cap waiting, both wait until it takes something again. Reading does not.
    let gate = Gate::shut();
    let mut cluster = Cluster::prepared_with(1, |config| config.dirty_max = Some(1 << 20));
    cluster.launch(&gate.wrap("rename"));
    let client = Client::connect(&cluster.file);
    let file = client.write_file(ROOT, "large", &vec![7; MIB]);
    let path = &cluster.file;
    std::thread::scope(|scope| {
        // Its closing waits.
        scope.spawn(move || Client::connect(path).write_file(ROOT, "more", &vec![7; MIB]));
        gate.await_somebody();
        cluster.wait(&client, "more than the cap", |accounts| accounts[0].pending_bytes > 1 << 20);
        let made = scope.spawn(move || Client::connect(path).write_file(ROOT, "new", b"new"));
        let open = Open { ino: file, mode: OpenMode::Write { via: None } };
        let opened = scope.spawn(move || Client::connect(path).ask_home(file, &open));
        std::thread::sleep(Duration::from_millis(500));
        assert!(!made.is_finished() && !opened.is_finished());
        assert_eq!(client.read(&client.open_for_reading(file)).len(), MIB);
        gate.open();
    });
    cluster.wait(&client, "flushing", |accounts| accounts[0].pending_bytes == 0);
}

#[test]
fn what_was_written_counts_at_once() {
    // Goal: a writer that publishes and then closes, as mounts do, gets no further than the cap before it waits, however fast it is: what it has
    // written counts before the next estimate. Method: the tier takes nothing; files of a quarter of the cap, one after the other.
    let gate = Gate::shut();
    let mut cluster = Cluster::prepared_with(1, |config| config.dirty_max = Some(4 << 20));
    cluster.launch(&gate.wrap("rename"));
    let (path, made) = (&cluster.file, AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let client = Client::connect(path);
            for number in 0..12 {
                let file = client.open_file(ROOT, &format!("f{number}"));
                client.write(file, 0, &vec![7; MIB]);
                client.publish(file, MIB as u64, false);
                client.release(file);
                made.fetch_add(1, Ordering::SeqCst);
            }
        });
        gate.await_somebody();
        std::thread::sleep(Duration::from_millis(700));
        let before = made.load(Ordering::SeqCst);
        gate.open();
        assert!((4..=6).contains(&before), "{before} files were made");
    });
    cluster.check(&Client::connect(&cluster.file));
}

#[test]
fn a_near_deadline_makes_everything_go() {
    // Goal: with a delay of ten minutes and files that wait for a demand, everything is flushed when the end is near, and not before.
    fn slow(config: &mut fs_server::ServerConfig, ahead_s: u64) {
        config.flush_delay_ms = 600_000;
        config.deadline_unix_s = Some(UNIX_EPOCH.elapsed().unwrap().as_secs() + ahead_s);
    }
    let near = Cluster::start_adjusted(2, |config| slow(config, 30));
    let client = Client::connect(&near.file);
    let dir = client.mkdir(ROOT, "dir");
    client.setxattr(dir, "user.hayate.flush", "demand");
    client.write_file(dir, "file", b"x");
    near.settle(&client);
    near.compare(&client);
    let far = Cluster::start_adjusted(2, |config| slow(config, 10_000));
    let client = Client::connect(&far.file);
    client.write_file(ROOT, "file", b"x");
    let accounts = far.wait(&client, "some time", |accounts| accounts.iter().any(|a| a.oldest_ms > 1_500));
    assert!(accounts.iter().any(|account| account.pending_names > 0));
    far.compare_nothing_there();
}

/// Nothing is made for now.
const HELD: u64 = u64::MAX;

/// A tier whose making of files takes as long as a test says, and that knows how many are being made.
#[derive(Default)]
struct Slowness {
    millis: AtomicU64,
    under_way: AtomicU64,
    most: AtomicU64,
    made: AtomicU64,
}

impl Slowness {
    fn wrap(self: &Arc<Self>) -> impl Fn(Posix) -> Arc<dyn Tier> + use<> {
        let slow = Arc::clone(self);
        move |tier| {
            let slow = Arc::clone(&slow);
            Arc::new(Fake::before(tier, move |what, _| {
                if what == "make" {
                    slow.make();
                }
                Ok(())
            }))
        }
    }

    fn make(&self) {
        let now = self.under_way.fetch_add(1, Ordering::AcqRel) + 1;
        self.most.fetch_max(now, Ordering::AcqRel);
        // The latency itself, not a wait for something.
        while self.millis.load(Ordering::Acquire) == HELD {
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(self.millis.load(Ordering::Acquire)));
        self.under_way.fetch_sub(1, Ordering::AcqRel);
        self.made.fetch_add(1, Ordering::AcqRel);
    }

    /// Most files that are being made at once while the next `count` are.
    fn most_of_next(&self, count: u64) -> u64 {
        self.most.store(0, Ordering::Release);
        let (until, began) = (self.made.load(Ordering::Acquire) + count, Instant::now());
        while self.made.load(Ordering::Acquire) < until {
            assert!(began.elapsed() < Duration::from_secs(120), "nothing more is flushed");
            std::thread::yield_now();
        }
        self.most.load(Ordering::Acquire)
    }
}

#[test]
fn a_tier_that_gets_slow_has_fewer_calls_and_then_more_again() {
    // Goal: the window follows the tier's latency: a tier that answers fast gets more than the four calls that it begins with, one that
    // falters gets two, and when it answers again as many as before. Method: a backlog of 1,500 files, and a latency that is switched.
    let slow = Arc::new(Slowness::default());
    slow.millis.store(HELD, Ordering::Release);
    let cluster = Cluster::start_with(1, 10_000, &slow.wrap());
    let client = Client::connect(&cluster.file);
    for number in 0..1_500 {
        client.write_file(ROOT, &format!("f{number}"), b"x");
    }
    slow.millis.store(5, Ordering::Release);
    let fast = slow.most_of_next(500);
    assert!(fast >= 8, "at most {fast} calls at once while it is fast");
    slow.millis.store(200, Ordering::Release);
    slow.most_of_next(60);
    let faltering = slow.most_of_next(10);
    assert!(faltering <= 3, "{faltering} calls at once while it falters");
    slow.millis.store(5, Ordering::Release);
    slow.most_of_next(300);
    let again = slow.most_of_next(100);
    assert!(again >= 8, "at most {again} calls at once when it is fast again");
    cluster.drain(&client);
    cluster.compare(&client);
}

#[test]
fn flushing_has_its_share_under_constant_load() {
    // Goal: clients that write without a pause, on a server with one worker and no cap on dirty bytes, leave flushing its share: a quarter of the
    // bytes that they write is in the tier before they stop. Method: four writers of 256 KiB files for three seconds.
    let cluster = Cluster::start(1);
    let (began, file) = (Instant::now(), &cluster.file);
    let written: u64 = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..4_u8)
            .map(|writer| {
                scope.spawn(move || {
                    let (client, mut number) = (Client::connect(file), 0);
                    while began.elapsed() < Duration::from_secs(3) {
                        client.write_file(ROOT, &format!("w{writer}-{number}"), &vec![writer; MIB / 4]);
                        number += 1;
                    }
                    number
                })
            })
            .collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).sum()
    });
    let client = Client::connect(&cluster.file);
    let flushed = cluster.accounts(&client)[0].files;
    assert!(4 * flushed >= written, "{flushed} of {written} files were flushed under load");
    cluster.drain(&client);
}

#[test]
fn how_far_a_large_file_is_can_be_seen() {
    // Goal: who waits for one large file sees it get on, on whichever servers its chunks lie, and does not take others for it. Method: bytes that all servers say of each
    // of two files, before and after.
    const FILE: usize = 12 << 20;
    let cluster = Cluster::start(3);
    let client = Client::connect(&cluster.file);
    let copied = |ino: InodeId| -> u64 {
        let pages =
            (0..3).map(|id| client.status(ServerId(id))["flush"]["copying"].as_array().unwrap().clone());
        let of_it = pages.flatten().filter(|file| file["ino"].as_u64() == Some(ino.0));
        of_it.map(|file| file["bytes"].as_u64().unwrap()).sum()
    };
    let large = client.write_file(ROOT, "large", &vec![7; FILE]);
    let small = client.write_file(ROOT, "small", b"small");
    cluster.settle(&client);
    let before = copied(large);
    assert!(before >= FILE as u64 && copied(small) == 0, "{before} bytes");
    let another = client.write_file(ROOT, "another", &vec![8; FILE]);
    cluster.settle(&client);
    assert!(copied(large) == before && copied(another) >= FILE as u64);
    cluster.check(&client);
}
