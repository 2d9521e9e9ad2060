//! Goal: an idle server burns no processor (the nearest peer's burns a core).
//! Method: alone in its process, because it measures the process: four servers, two seconds without a request.

use std::time::Duration;

use fs_proto::ServerId;
use hayate_tests::{Cluster, status};

/// Processor time allowed to four idle servers in two seconds: a fiftieth of one core each.
const ALLOWED_US: u64 = 160_000;

#[test]
fn idle_servers_burn_no_cpu() {
    let cluster = Cluster::start(4);
    let client = cluster.client();
    client.mkdir_path("/d", 0o755).expect("mkdir");
    let cpu_us = || status(&client, ServerId(0))["cpu_us"].as_u64().expect("a number");
    let before = cpu_us();
    // Idleness can only be measured by letting time pass.
    std::thread::sleep(Duration::from_secs(2));
    let used = cpu_us() - before;
    assert!(used < ALLOWED_US, "four idle servers used {used} us of processor time in two seconds");
}
