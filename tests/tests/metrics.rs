//! Goal: the metrics page says in Prometheus text what the server did.
//! Method: asks a real server's page over HTTP before and after known work.

use std::io::{Read, Write};
use std::net::TcpStream;

use fs_client::OpenOptions;
use fs_proto::ServerId;
use hayate_tests::Cluster;

fn fetch(cluster: &Cluster, path: &str) -> String {
    let member = cluster.file().member(ServerId(0)).expect("server 0");
    let address = member.metrics.as_deref().expect("a metrics page");
    let mut socket = TcpStream::connect(address).expect("connect");
    write!(socket, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").expect("ask");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("answer");
    answer
}

/// The value of a metric line that begins with `name`.
fn value(page: &str, name: &str) -> f64 {
    let line =
        page.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {page}"));
    line.rsplit(' ').next().and_then(|number| number.parse().ok()).expect("a number")
}

#[test]
fn the_page_counts_operations_bytes_latencies_and_pools() {
    let cluster = Cluster::start(1);
    let client = cluster.client();
    let file = client.open_path("/f", &OpenOptions::create_truncate()).expect("create");
    file.write_at(&vec![7; 100_000], 0).expect("write");
    file.close().expect("close");
    let page = fetch(&cluster, "/metrics");
    assert!(page.starts_with("HTTP/1.1 200"), "{page}");
    assert_eq!(value(&page, "hayate_operations_total{operation=\"create\"}") as u64, 1);
    assert_eq!(value(&page, "hayate_chunk_written_bytes_total") as u64, 100_000);
    assert_eq!(value(&page, "hayate_operation_seconds_count{operation=\"writechunk\"}") as u64, 1);
    assert_eq!(value(&page, "hayate_inodes") as u64, 2, "the root and the file");
    for gauge in [
        "hayate_buffer_pool_bytes",
        "hayate_resident_bytes",
        "hayate_memory_budget_bytes",
        "hayate_messages_sent_total",
    ] {
        assert!(value(&page, gauge) > 0.0, "{gauge}");
    }
    for pool in [
        "buffers",
        "messages",
        "connections",
        "open_files",
        "shared_memory",
        "metadata_cache",
        "inode_cache",
        "chunk_index",
    ] {
        let figure = |family: &str| value(&page, &format!("hayate_pool_{family}{{pool=\"{pool}\"}}"));
        let (size, used, peak) = (figure("size_bytes"), figure("used_bytes"), figure("peak_bytes"));
        assert!(used <= peak && peak <= size && size > 0.0, "{pool}: {used} of {size}, at most {peak}");
        assert!(figure("waits_total") == 0.0 && figure("wait_nanoseconds_total") == 0.0, "{pool}");
    }
    assert!(value(&page, "hayate_pool_used_bytes{pool=\"connections\"}") > 0.0, "the client is connected");
    assert!(page.trim_end().ends_with("# EOF"), "the text is whole");
    assert!(fetch(&cluster, "/other").starts_with("HTTP/1.1 404"));
}
