//! How fast flushing goes and how much may wait for it: bandwidth, dirty bytes, deadline.

use std::time::{Duration, Instant, UNIX_EPOCH};

use crate::client::{Client, ROOT};
use crate::cluster::Cluster;

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
fn dirty_bytes_stay_about_their_cap() {
    // Goal: who writes faster than the tier takes is slowed to its speed, without an error; what waits stays about the cap, and the
    // oldest does not grow old. Method: 8 MiB a second, a cap of 4 MiB, 40 MiB written by two writers; looked at all the time.
    let cluster = Cluster::start_adjusted(1, |config| {
        config.flush_bandwidth = Some(8 << 20);
        config.dirty_max = Some(4 << 20);
    });
    let began = Instant::now();
    let (mut most, mut oldest) = (0, 0);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..2)
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
    // An estimate is up to 200 ms old, and each writer may be one file ahead of it.
    assert!(most <= 16 << 20, "{} MiB waited", most >> 20);
    assert!(oldest <= 10_000, "the oldest waited {oldest} ms");
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
