//! Goal: servers that end, with leases or having given some, cost time and no truth; nor does what is damaged where it is kept.

use super::*;
use bytes::Bytes;
use fs_proto::ChunkIndex;
use fs_proto::msg::chunk::ReadChunk;
use fs_proto::placement::chunk_partition;

/// Files until one is found whose home is another server than `not`, with its content.
fn file_at_home_elsewhere(cluster: &Cluster, client: &Client, not: &[u16], content: &[u8]) -> String {
    let map = cluster.file().map().expect("a map");
    for number in 0..100 {
        let dir = format!("/e{number}");
        client.mkdir_path(&dir, 0o777).expect("mkdir");
        client.setxattr_path(&dir, fs_client::LAYOUT_ATTRIBUTE, b"local", false, false).expect("layout");
        let path = format!("{dir}/f");
        file(client, &path, content);
        let home = map.owner(client.stat(&path).expect("stat").ino.partition());
        if !not.contains(&home.0) {
            return path;
        }
    }
    panic!("a hundred directories, all on {not:?}");
}

/// Method: a file that other servers keep; its holder ends and comes back at once, knowing nothing of the leases: a write through it is not done before they
/// are over. That they are not over is seen by reading while the holder is away.
#[test]
fn a_restarted_holder_waits_for_the_leases_of_before() {
    let mut cluster = cluster(6);
    let maker = on_node(&cluster, HOLDER);
    let content = full(MIB, 4);
    let path = file_at_home_elsewhere(&cluster, &maker, &[HOLDER], &content);
    let clients: Vec<_> = (1..6).map(|server| trusting(&cluster, server)).collect();
    let files: Vec<_> = clients.iter().map(|client| reading(client, &path)).collect();
    let writer = open(&clients[0], &path);
    loop {
        heat(&maker, &[1, 2, 3, 4, 5], &files, &content);
        let began = Instant::now();
        assert!(files.iter().all(|file| file.read_bytes_at(MIB as usize, 0).expect("read") == content));
        cluster.stop(HOLDER);
        if began.elapsed() < Duration::from_secs(1) {
            break;
        }
        // The machine is so slow that the leases may be over.
        cluster.restart(HOLDER);
    }
    for file in &files {
        assert!(file.read_bytes_at(MIB as usize, 0).expect("kept") == content, "without its holder");
    }
    cluster.restart(HOLDER);
    writer.write_at(&[1; 1_000], 5_000).expect("write");
    let mut model = content;
    model[5_000..6_000].fill(1);
    for (server, file) in files.iter().enumerate() {
        let read = file.read_bytes_at(MIB as usize, 0).expect("read");
        assert!(read == model, "on node {}", server + 1);
    }
}

/// Method: a server that keeps a file ends; a write waits for its lease, and not longer.
#[test]
fn a_server_that_ended_delays_a_change_by_its_lease() {
    let mut cluster = cluster(6);
    let maker = on_node(&cluster, HOLDER);
    let content = full(MIB, 4);
    let path = file_at_home_elsewhere(&cluster, &maker, &[5], &content);
    let clients: Vec<_> = (1..6).map(|server| trusting(&cluster, server)).collect();
    let files: Vec<_> = clients.iter().map(|client| reading(client, &path)).collect();
    let writer = open(&maker, &path);
    heat(&maker, &[1, 2, 3, 4, 5], &files, &content);
    let heated = Instant::now();
    cluster.stop(5);
    let is_lent = heated.elapsed() < Duration::from_secs(1);
    let began = Instant::now();
    writer.write_at(&[1; 1_000], 5_000).expect("write");
    let took = began.elapsed();
    let waited = hot(&maker, HOLDER, "ends_waited");
    assert!(waited == 1 || !is_lent, "{waited} leases waited for");
    assert!(took < LEASE_HELD * 4, "{took:?}");
    let mut model = content;
    model[5_000..6_000].fill(1);
    for file in &files[..4] {
        assert!(file.read_bytes_at(MIB as usize, 0).expect("read") == model);
    }
    cluster.restart(5);
}

/// Method: servers ask one after the other, so that it is known who hangs on whom; then the first of them ends, and one more asks.
#[test]
fn a_server_that_ended_is_skipped_in_the_tree() {
    let mut cluster = cluster(9);
    let maker = on_node(&cluster, HOLDER);
    let content = full(MIB, 4);
    let path = file_at_home_elsewhere(&cluster, &maker, &[3], &content);
    let clients: Vec<_> = (1..9).map(|server| trusting(&cluster, server)).collect();
    let files: Vec<_> = clients.iter().map(|client| reading(client, &path)).collect();
    let read = |server: usize| {
        let read = files[server - 1].read_bytes_at(MIB as usize, 0).expect("read");
        assert!(read == content, "on node {server}");
    };
    // The third makes it hot, and is the first to borrow it; 1, 2 and 4 fill the first row, 5 hangs on 3.
    [1, 2, 3, 1, 2, 4, 5].into_iter().for_each(read);
    assert_eq!((hot(&maker, 3, "passed_on"), hot(&maker, HOLDER, "lent")), (1, 4));
    cluster.stop(3);
    let began = Instant::now();
    read(6);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!((hot(&maker, 6, "refusals"), hot(&maker, 6, "from_holder")), (1, 1));
    cluster.restart(3);
}

/// Method: a file that other servers keep is asked for as who found damage does: the holder answers, though a server between keeps what is asked for.
#[test]
fn who_found_damage_is_answered_by_the_holder() {
    let cluster = cluster(6);
    let maker = on_node(&cluster, HOLDER);
    let content = full(MIB / 2, 4);
    file(&maker, "/f", &content);
    let ino = maker.stat("/f").expect("stat").ino;
    let place = chunk_partition(ino, ChunkIndex(0));
    let holder = cluster.file().map().expect("a map").owner(place).0;
    let nodes: Vec<u16> = (0..6).filter(|server| *server != holder).collect();
    let clients: Vec<_> = nodes.iter().map(|server| trusting(&cluster, *server)).collect();
    let files: Vec<_> = clients.iter().map(|client| reading(client, "/f")).collect();
    heat(&maker, &nodes, &files, &content);
    let answered_here = |compared| {
        let before = hot(&maker, nodes[0], "hits");
        let request = ReadChunk { ino, chunk: ChunkIndex(0), offset: 0, len: content.len() as u32, compared };
        let (_, data) =
            send_raw(&cluster, ServerId(nodes[0]), place, &request, Bytes::new()).expect("an answer");
        assert!(data == content);
        hot(&maker, nodes[0], "hits") > before
    };
    hayate_tests::until("it is kept", || answered_here(false));
    assert!(!answered_here(true), "a server answered of what it keeps");
}
