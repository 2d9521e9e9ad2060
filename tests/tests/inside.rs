//! Goal: a client in the server's process gets the answers that messages would bring it, with fewer messages.
//! Method: two servers in this process, one of which a client is inside of; another client, by messages, looks at the same. (The models run
//! with such a client, too.)

use fs_client::{Client, OpenFlags, OpenOptions, Route};
use fs_net::NetCounters;
use fs_proto::InodeId;
use hayate_tests::{Cluster, full, until};

fn messages(client: &Client) -> u64 {
    NetCounters::read(&client.counters().messages_sent)
}

/// How many messages `work` costs.
fn cost<T>(client: &Client, work: impl FnOnce() -> T) -> (u64, T) {
    let before = messages(client);
    let done = work();
    (messages(client) - before, done)
}

#[test]
fn answers_are_those_of_messages() {
    let cluster = Cluster::start(2);
    let (inside, outside) = (cluster.inside_client(0, false), cluster.strict_client(Route::Auto));
    inside.mkdir_path("/d", 0o755).unwrap();
    let large = full(3 << 20, 7);
    for n in 0..8u64 {
        let path = format!("/d/f{n}");
        let small = n.to_le_bytes();
        let (one, other) = if n % 2 == 0 { (&inside, &outside) } else { (&outside, &inside) };
        one.put(&path, &small, 0o640).unwrap();
        assert_eq!(other.get(&path).unwrap().as_ref(), small);
        let file = one.open_path(&path, &OpenOptions::create_truncate()).unwrap();
        file.write_at(&large, 5).unwrap();
        file.close().unwrap();
        assert_eq!(one.stat(&path).unwrap(), other.stat(&path).unwrap());
        let file = other.open_path(&path, &OpenOptions::read_only()).unwrap();
        assert!(file.read_bytes_at(large.len() + 10, 0).unwrap()[5..] == large);
    }
    let names = |client: &Client| client.read_dir("/d").unwrap().map(|e| e.unwrap().name).collect::<Vec<_>>();
    assert_eq!(names(&inside), names(&outside));
    assert_eq!(inside.get("/d/none").unwrap_err().errno(), outside.get("/d/none").unwrap_err().errno());
}

/// Server 0 is buffered, so its chunks are read and written by the thread that asks, too.
#[test]
fn what_the_server_can_answer_costs_no_message() {
    let cluster = Cluster::start(1);
    let client = cluster.inside_client(0, false);
    client.put("/small", b"content", 0o644).unwrap();
    let file =
        client.open_path("/large", &OpenOptions { read: true, ..OpenOptions::create_truncate() }).unwrap();
    file.write_at(&full(2 << 20, 3), 0).unwrap();
    let piece = full(100_000, 9);
    let reads = || {
        assert_eq!(client.get("/small").unwrap().as_ref(), b"content");
        assert_eq!(client.stat("/large").unwrap().size, 2 << 20);
        file.write_at(&piece, 1 << 20).unwrap();
        assert!(file.read_bytes_at(piece.len(), 1 << 20).unwrap() == piece);
        let (parent, small) = (InodeId::ROOT, client.stat("/small").unwrap().ino);
        assert_eq!(client.lookup(&fs_client::Caller::ROOT, parent, b"small").unwrap().ino, small);
        client.open(&fs_client::Caller::ROOT, small, OpenFlags::READ).unwrap().close().unwrap();
    };
    // Housekeeping may publish between two calls.
    until("a round without a message", || cost(&client, reads).0 == 0);
}

/// Threads of the client hold the server's store open: with them it goes.
#[test]
fn the_store_is_free_when_server_and_client_are_gone() {
    let mut cluster = Cluster::start(1);
    let client = cluster.inside_client(0, false);
    client.put("/before", b"1", 0o644).unwrap();
    drop(client);
    cluster.restart(0);
    // Of the server that has ended: everything goes by messages.
    let client = cluster.inside_client(0, false);
    assert_eq!(client.get("/before").unwrap().as_ref(), b"1");
    assert!(cost(&client, || client.get("/before").unwrap()).0 > 0);
}
