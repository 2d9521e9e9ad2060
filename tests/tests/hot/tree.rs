//! Goal: whatever the number of nodes, the holder sends each piece as often as the tree has branches, each server passes it on as often at most, and a
//! node fetches it once for all its readers. Method: twelve servers, the first of which has the file; several readers on each of the others.

use super::*;

const SERVERS: u16 = 12;
const FAN_OUT: u64 = 4;
/// Reads that come before the piece is known to be hot: of one server each but one.
const BEFORE: u64 = 2;
const READERS: usize = 4;
const PIECES: u64 = 6;

#[test]
fn a_holder_sends_each_piece_a_few_times_whatever_the_number_of_nodes() {
    let cluster = cluster(SERVERS);
    let maker = on_node(&cluster, HOLDER);
    local_directory(&maker);
    let content = full(PIECES * MIB - 500, 3);
    file(&maker, "/d/f", &content);
    let before = status(&maker, ServerId(HOLDER))["bytes_read"].as_u64().unwrap();
    std::thread::scope(|scope| {
        for server in 1..SERVERS {
            let (cluster, content) = (&cluster, &content);
            scope.spawn(move || {
                let client = on_node(cluster, server);
                std::thread::scope(|scope| {
                    for _ in 0..READERS {
                        scope.spawn(|| {
                            let file = reading(&client, "/d/f");
                            for from in (0..content.len()).step_by(MIB as usize) {
                                let read = file.read_bytes_at(MIB as usize, from as u64).expect("read");
                                assert!(read == content[from..(from + MIB as usize).min(content.len())]);
                            }
                        });
                    }
                });
            });
        }
    });
    let sent = (status(&maker, ServerId(HOLDER))["bytes_read"].as_u64().unwrap() - before) / MIB;
    let (lent, refusals) = (hot(&maker, HOLDER, "lent"), all(&maker, "refusals"));
    assert_eq!(refusals, 0, "all servers live");
    assert!(lent <= PIECES * FAN_OUT, "{lent} pieces lent");
    // The rest was read before the file was known to be hot there.
    let early = PIECES * BEFORE * READERS as u64;
    assert!(sent <= lent + early, "{sent} MiB sent, {lent} of them lent");
    assert!(all(&maker, "from_peers") > PIECES, "servers give it to each other");
    for server in 1..SERVERS {
        let passed = hot(&maker, server, "passed_on");
        assert!(passed <= PIECES * FAN_OUT, "server {server} passed {passed} pieces on");
        let fetched = hot(&maker, server, "from_holder") + hot(&maker, server, "from_peers");
        assert!(
            fetched <= PIECES,
            "server {server} fetched {fetched} pieces, one a time for all its readers"
        );
    }
}

fn all(client: &Client, name: &str) -> u64 {
    (0..SERVERS).map(|server| hot(client, server, name)).sum()
}

/// Goal: a file that few nodes read, or that nobody may keep, costs what it did. Method: two nodes read again and again; then many, with the switch off.
#[test]
fn few_nodes_make_nothing_hot_and_neither_do_many_if_it_is_switched_off() {
    let options = ClusterOptions { servers: 6, ..ClusterOptions::default() };
    let mut on = Cluster::with(options.clone());
    let off = Cluster::configured(options, |config| config.hot_files = false);
    for (cluster, readers) in [(&mut on, 1..3), (&mut { off }, 1..6)] {
        let maker = on_node(cluster, HOLDER);
        local_directory(&maker);
        let content = full(2 * MIB, 9);
        file(&maker, "/d/f", &content);
        let clients: Vec<_> = readers.map(|server| on_node(cluster, server)).collect();
        let files: Vec<_> = clients.iter().map(|client| reading(client, "/d/f")).collect();
        heat(&files, &content, "cold");
        assert_eq!((hot(&maker, HOLDER, "lent"), hot(&maker, HOLDER, "files_lent")), (0, 0));
        assert!((1..6).all(|server| hot(&maker, server, "hits") == 0));
    }
}

/// Goal: parts of pieces, reads across pieces and beyond the end are what they are from the holder, for chunks of any size.
/// Method: a file with chunks of 4 MiB and holes; random ranges, small and large, through servers that keep it, compared with the content.
#[test]
fn any_range_of_a_hot_file_is_right() {
    let cluster = cluster(6);
    let maker = on_node(&cluster, HOLDER);
    maker.mkdir_path("/d", 0o777).expect("mkdir");
    maker.setxattr_path("/d", fs_client::LAYOUT_ATTRIBUTE, b"local,chunk=4M", false, false).expect("layout");
    let mut content = full(7 * MIB + 123, 5);
    content[(2 * MIB) as usize..(3 * MIB + 77) as usize].fill(0);
    let made = open(&maker, "/d/f");
    made.write_at(&content[..(2 * MIB) as usize], 0).expect("write");
    made.write_at(&content[(3 * MIB + 77) as usize..], 3 * MIB + 77).expect("write");
    made.close().expect("close");
    let clients: Vec<_> = (1..6).map(|server| on_node(&cluster, server)).collect();
    let files: Vec<_> = clients.iter().map(|client| reading(client, "/d/f")).collect();
    heat(&files, &content, "whole");
    let mut state = 1_u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for round in 0..400 {
        let from = random(content.len() as u64 + 1_000);
        let len = if random(2) == 0 { random(5_000) } else { random(5 * MIB) };
        let file = &files[round % files.len()];
        let read = file.read_bytes_at(len as usize, from).expect("read");
        let (from, len) = ((from as usize).min(content.len()), len as usize);
        assert!(read == content[from..(from + len).min(content.len())], "{len} at {from}");
    }
    assert!((1..6).all(|server| hot(&maker, server, "hits") > 0), "read from what is kept");
}
