//! Goal: what a program is told of the time to the shared tier is what the servers' own numbers say, and is enough to stop before its job ends. Method: a
//! cluster with a shared tier that takes little a second, and a version of many files on its way there.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fs_client::Client;
use hayate_tests::{Cluster, ClusterOptions, until};
use libio::advice::time_left;
use libio::{Advisor, Checkpoints, Level, State};

const SET: &str = "set";
const MIB: u64 = 1 << 20;
/// Files of a MiB, so that what waits becomes less file by file.
const FILES: u64 = 20;

/// Bytes that wait, and bytes a second, as all servers say.
fn account(client: &Client) -> (u64, u64) {
    let accounts = client.flush_status().expect("status").into_iter();
    accounts.map(|(_, account)| account.expect("it answers")).fold((0, 0), |(pending, rate), account| {
        (pending + account.pending_bytes, rate + account.bytes_per_s)
    })
}

/// Times for what waits and for `more` bytes, between two looks at the same account; none if it changed meanwhile, or no rate is known.
fn times(client: &Client, checkpoints: &Checkpoints, more: u64) -> Option<((u64, u64), [Duration; 2])> {
    let before = account(client);
    let times = [0, more].map(|more| checkpoints.drain_time(more).expect("drain time"));
    let [Some(now), Some(later)] = times else { return None };
    (before == account(client) && before.0 > 0 && before.1 > 0).then_some((before, [now, later]))
}

#[test]
fn the_time_to_drain_is_known_and_a_program_stops_for_it() {
    let options = ClusterOptions { servers: 2, tier: true, ..ClusterOptions::default() };
    let cluster = Cluster::configured(options, |config| config.flush_bandwidth = Some(MIB));
    let client = cluster.client();
    let checkpoints = Checkpoints::open(client.clone(), "/ckpt").expect("open");
    assert_eq!(checkpoints.drain_time(MIB).expect("drain time"), None, "no rate is known yet");
    let mut writer = checkpoints.begin(SET, 1, 0, 1).expect("begin");
    for file in 0..FILES {
        writer.write(&format!("field.{file}"), &vec![file as u8; MIB as usize], 0).expect("write");
    }
    writer.commit(true).expect("commit");

    let seen = std::cell::Cell::new(None);
    until("a rate is known while files wait", || {
        seen.set(times(&client, &checkpoints, 100 * MIB));
        seen.get().is_some()
    });
    let ((pending, rate), [now, later]) = seen.get().expect("seen");
    let close =
        |found: Duration, bytes: u64| (found.as_secs_f64() / (bytes as f64 / rate as f64) - 1.0).abs() < 0.01;
    assert!(pending <= (FILES + 1) * MIB, "{pending} bytes wait of {FILES} MiB");
    assert!(close(now, pending), "{now:?} for {pending} bytes at {rate} a second");
    assert!(
        close(later, pending + 100 * MIB),
        "{later:?} for {pending} bytes and 100 MiB at {rate} a second"
    );

    // The job ends a second before all would be in the tier; or it has an hour more than that, and a minute that the adviser keeps.
    let mut advisor = Advisor::new(Duration::from_secs(86_400));
    advisor.measured(Duration::from_millis(10));
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    let ending_in = |left: Duration| time_left(Some(&(clock + left).as_secs().to_string()), clock);
    let stops = |left| advisor.advise(Duration::ZERO, ending_in(left), now).stop;
    assert!(stops(now.saturating_sub(Duration::from_secs(1))));
    assert!(!stops(now + Duration::from_secs(3_600)));

    until("less waits", || account(&client).0 < pending / 2);
    checkpoints.wait(SET, 1, Level::Durable, hayate_tests::DEADLINE).expect("durable");
    assert_eq!(checkpoints.state(SET, 1).expect("state"), State::Durable);
    // Nothing waits, so it takes no time; or nothing went lately, so no rate is known.
    until("nothing waits", || {
        checkpoints.drain_time(0).expect("drain time").is_none_or(|time| time.is_zero())
    });
}
