//! Goal: the model gives what arithmetic gives where arithmetic can, and shows convoys, stragglers and deaths where it cannot.

use super::model::{Calibration, NodeSpec};
use super::scenarios::Machine;

fn costs() -> Calibration {
    Calibration {
        machine: "made up".to_owned(),
        write_client_us_mib: 0.0,
        write_server_us_mib: 0.0,
        write_wait_us_mib: 0.0,
        forward_us_mib: 0.0,
        create_client_us: 10.0,
        create_server_us: 20.0,
        open_client_us: 5.0,
        open_server_us: 10.0,
        forward_us: 0.0,
        flush_us_mib: 0.0,
        wake_us: 0.0,
    }
}

fn machine(nodes: u32) -> Machine {
    let node = NodeSpec {
        cores: 4,
        core_speed: 1.0,
        nic_gbs: 10.0,
        latency_us: 2.0,
        device_gbs: 5.0,
        stragglers: 0.0,
        slow: 1.0,
    };
    Machine {
        nodes,
        hosts: nodes,
        node,
        processes: 400,
        clients: 0,
        dump_bytes: 4 << 30,
        chunk_bytes: 4 << 20,
        window: 16,
        writer: false,
        deaths: 0,
        detection_s: 0.01,
        tier_gbs: f64::from(nodes),
        hot_names: true,
        arrival_s: 0.0,
        simulated: 200,
    }
}

fn near(found: f64, expected: f64, tolerance: f64) {
    assert!((found / expected - 1.0).abs() < tolerance, "{found}, expected {expected}");
}

/// The slowest part decides, times how uneven the load is: device, card, cores.
#[test]
fn the_slowest_part_decides() {
    let seconds = (4_u64 << 30) as f64 / 1e9;
    let dump = Machine { simulated: 1024, ..machine(64) }.dump(&costs()).expect("a cluster");
    assert_eq!(dump.bottleneck, "device");
    near(dump.seconds, seconds / 5.0, 0.1);
    let mut fast = Machine { simulated: 1024, ..machine(64) };
    fast.node.device_gbs = 0.0;
    let dump = fast.dump(&costs()).expect("a cluster");
    assert!(dump.bottleneck.starts_with("network card"), "{}", dump.bottleneck);
    near(dump.seconds, seconds / 10.0, 0.1);
    let busy = Calibration { write_server_us_mib: 4000.0, ..costs() };
    let dump = fast.dump(&busy).expect("a cluster");
    assert_eq!(dump.bottleneck, "cores");
    near(dump.seconds, 4096.0 * 4e-3 / 4.0, 0.1);
}

/// With layout `writer` no card is needed; two thirds of a machine's nodes on one host share its cores.
#[test]
fn layouts_and_shared_hosts() {
    let mut slow_card = machine(32);
    slow_card.node.nic_gbs = 0.1;
    let striped = slow_card.dump(&costs()).expect("a cluster").seconds;
    slow_card.writer = true;
    let writer = slow_card.dump(&costs()).expect("a cluster").seconds;
    near(writer, (4_u64 << 30) as f64 / 5e9, 0.1);
    assert!(striped > writer * 20.0, "{striped} and {writer}");
    let one_host = Machine { hosts: 1, ..machine(8) };
    let storm = one_host.metadata_storm(&costs()).expect("a cluster");
    near(storm.seconds, 8.0 * 400.0 * 30e-6 / 4.0, 0.05);
    // Two clients that wait for each answer: 400 times 30 us, whatever the number of cores and servers.
    let two = Machine { clients: 2, simulated: 400, ..one_host }.metadata_storm(&costs()).expect("a cluster");
    near(two.seconds, 400.0 * 30e-6, 0.01);
}

/// What a write waits for without CPU time hides behind other writes, and counts where a client has one at a time; a device takes its place.
#[test]
fn waiting_takes_no_core() {
    let waits = Calibration { write_server_us_mib: 100.0, write_wait_us_mib: 300.0, ..costs() };
    let mut host =
        Machine { hosts: 1, dump_bytes: 64 << 20, chunk_bytes: 1 << 20, simulated: 64, ..machine(1) };
    (host.node.device_gbs, host.node.nic_gbs) = (0.0, 0.0);
    let alone = Machine { clients: 1, ..host.clone() }.dump(&waits).expect("a cluster");
    near(alone.seconds, 64.0 * 400e-6, 0.01);
    let many = Machine { clients: 64, ..host.clone() }.dump(&waits).expect("a cluster");
    near(many.seconds, 64.0 * 64.0 * 100e-6 / 4.0, 0.05);
    host.node.device_gbs = 1e6;
    let device = Machine { clients: 1, ..host }.dump(&waits).expect("a cluster");
    near(device.seconds, 64.0 * 100e-6, 0.01);
}

/// Creates spread over all servers.
#[test]
fn creates_spread() {
    let create = machine(100).metadata_storm(&costs()).expect("a cluster");
    // 30 us each, 400 for each node on 4 cores; the fullest server has more.
    assert!(create.seconds > 3e-3 && create.seconds < 4.5e-3, "{}", create.seconds);
    assert!(create.balance > 1.0 && create.balance < 1.3, "{}", create.balance);
}

/// Goal: opens of one file cost its home one question a node, but for its own processes and those of the nodes that asked before it was hot. Method: the old
/// way, where the home's cores decide; processes that come by and by; and all at one moment.
#[test]
fn opens_are_answered_by_each_node() {
    let (nodes, all, home_s) = (100, 40_000, 40_000.0 * 10e-6 / 4.0);
    let open = |hot_names, arrival_s| {
        let storm =
            Machine { hot_names, arrival_s, ..machine(nodes) }.open_storm(&costs()).expect("a cluster");
        (storm.seconds, storm.asked.expect("they are counted"), storm.balance)
    };
    let (seconds, asked, balance) = open(false, 0.0);
    near(seconds, home_s, 0.05);
    assert_eq!(asked, all, "every process is answered, and by the home");
    near(balance, f64::from(nodes), 1e-9);
    let (slowly, asked, _) = open(false, 0.05);
    near(slowly, home_s, 0.05);
    assert_eq!(asked, all, "coming by and by is no help to the old way");
    let (seconds, asked, balance) = open(true, 0.4);
    // One process a millisecond and node: all of the home's, and one of each other. The first two are answered when it is not hot yet, as are their second ones perhaps.
    assert!((499..=503).contains(&asked), "{asked}");
    assert!((0.399..0.402).contains(&seconds), "the last comes then, and is answered at once: {seconds}");
    assert!(balance < 3.0, "{balance}");
    let (seconds, asked, _) = open(true, 0.0);
    // All of the home's and of two others at most, and one of each.
    assert!((499..=1297).contains(&asked), "{asked}");
    assert!(seconds < home_s / 20.0, "{seconds}");
    let two = Machine { arrival_s: 0.4, ..machine(2) }.open_storm(&costs()).expect("a cluster");
    assert_eq!(two.asked, Some(800), "two servers make nothing hot");
}

/// A lease is over after two seconds: then one of a node asks for all.
#[test]
fn leases_are_asked_for_again() {
    let storm = |arrival_s| Machine { arrival_s, ..machine(50) }.open_storm(&costs()).expect("a cluster");
    let (short, long) = (storm(1.5), storm(9.0));
    let of = |storm: &super::scenarios::Prediction| storm.asked.expect("they are counted");
    // Four times more for each node but the home's own; batches round what comes when.
    let more = of(&long).saturating_sub(of(&short));
    assert!((49 * 3..=49 * 5).contains(&more), "{} and {}", of(&short), of(&long));
    near(long.seconds, 9.0, 0.07);
}

/// Shares of 65,536 partitions are whole: with 3,400 servers the fullest has 3.8 % more than the mean, with 10,000 6.8 %.
#[test]
fn balance_is_that_of_the_map() {
    for (nodes, expected) in [(1024, 1.0), (3400, 20.0 / (65_536.0 / 3400.0)), (10_000, 7.0 / 6.5536)] {
        let small = Machine { simulated: 2, ..machine(nodes) };
        near(small.dump(&costs()).expect("a cluster").balance, expected, 1e-6);
    }
}

/// One slow device of a hundred slows a striped dump down to it; a death costs its detection where it is longer than the rest, and its own operations.
#[test]
fn stragglers_and_deaths_show() {
    let whole = Machine { simulated: 1024, ..machine(100) };
    let even = whole.dump(&costs()).expect("a cluster").seconds;
    let mut lame = whole.clone();
    (lame.node.stragglers, lame.node.slow) = (0.02, 3.0);
    let slowed = lame.dump(&costs()).expect("a cluster").seconds;
    assert!(slowed > even * 2.5, "{slowed} and {even}");
    let deadly = Machine { deaths: 2, detection_s: 2.0, ..whole };
    let struck = deadly.dump(&costs()).expect("a cluster");
    // Two thirds were to come when they died; what goes to the dead waits, until everybody knows.
    let known = even / 3.0 + 2.0;
    assert!(struck.seconds > known && struck.seconds < known + 0.5, "{} and {known}", struck.seconds);
    assert!(struck.lost > 0 && struck.lost < 2 * 1024, "{}", struck.lost);
}

/// Goal: the line through two parts is the whole, where the parts are past the start. Method: the whole, simulated, beside it.
#[test]
fn parts_tell_the_whole() {
    let whole = Machine { simulated: 1024, window: 32, ..machine(64) };
    let all = whole.dump(&costs()).expect("a cluster");
    let parts = Machine { simulated: 512, ..whole }.dump(&costs()).expect("a cluster");
    assert!(parts.events < all.events && parts.drift.abs() < 0.1, "{}", parts.drift);
    near(parts.seconds, all.seconds, 0.1);
}

/// The tier decides a drain that it is too slow for.
#[test]
fn a_drain_is_as_fast_as_the_tier() {
    let drain = machine(50).drain(&costs()).expect("a cluster");
    assert_eq!(drain.bottleneck, "the shared tier");
    near(drain.seconds, (4_u64 << 30) as f64 / 1e9 * drain.balance, 0.05);
}
