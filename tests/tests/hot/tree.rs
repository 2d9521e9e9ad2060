//! Goal: whatever the number of nodes, the holder sends each piece as often as the tree has branches, each server passes it on as often at most, and a
//! node fetches it once for all its readers. Method: twelve servers, the first of which has the file; several readers on each of the others.

use super::*;

const SERVERS: u16 = 12;
const FAN_OUT: u64 = 4;
/// Reads that come before the piece is known to be hot: of one server each but one.
const BEFORE: u64 = 2;
const READERS: u64 = 4;
const PIECES: u64 = 6;
const LEASE_SECONDS: u64 = 2;

#[test]
fn a_holder_sends_each_piece_a_few_times_whatever_the_number_of_nodes() {
    let cluster = cluster(SERVERS);
    let maker = on_node(&cluster, HOLDER);
    local_directory(&maker);
    let content = full(PIECES * MIB - 500, 3);
    // Again if the machine was so slow that servers did not wait for each other.
    let is_counted = (0..5).any(|round| {
        let path = format!("/d/{round}");
        file(&maker, &path, &content);
        let before = Counts::of(&maker);
        let began = Instant::now();
        read_everywhere(&cluster, &path, &content);
        // What is read for longer than it is lent is lent again.
        let times = 1 + began.elapsed().as_secs() / LEASE_SECONDS;
        Counts::of(&maker).check_since(&before, times)
    });
    assert!(is_counted, "servers refuse to pass on what they have");
}

fn read_everywhere(cluster: &Cluster, path: &str, content: &[u8]) {
    let read = |client: &Client| {
        let file = reading(client, path);
        for from in (0..content.len()).step_by(MIB as usize) {
            let read = file.read_bytes_at(MIB as usize, from as u64).expect("read");
            assert!(read == content[from..(from + MIB as usize).min(content.len())]);
        }
    };
    std::thread::scope(|scope| {
        for server in 1..SERVERS {
            scope.spawn(move || {
                let client = on_node(cluster, server);
                std::thread::scope(|scope| {
                    (0..READERS).for_each(|_| drop(scope.spawn(|| read(&client))));
                });
            });
        }
    });
}

/// What servers count, one after the other.
struct Counts {
    read: u64,
    lent: u64,
    passed_on: Vec<u64>,
    fetched: Vec<u64>,
    from_peers: u64,
    refusals: u64,
}

impl Counts {
    fn of(client: &Client) -> Counts {
        let each = |name: &str| (0..SERVERS).map(|server| hot(client, server, name)).collect::<Vec<_>>();
        let (from_holder, from_peers) = (each("from_holder"), each("from_peers"));
        Counts {
            read: status(client, ServerId(HOLDER))["bytes_read"].as_u64().expect("a number"),
            lent: hot(client, HOLDER, "lent"),
            passed_on: each("passed_on"),
            fetched: from_holder.iter().zip(&from_peers).map(|(holder, peers)| holder + peers).collect(),
            from_peers: from_peers.iter().sum(),
            refusals: each("refusals").iter().sum(),
        }
    }

    /// False: not all went as it does while servers answer in time.
    fn check_since(&self, before: &Counts, times: u64) -> bool {
        if self.refusals > before.refusals {
            return false;
        }
        let (sent, lent) = ((self.read - before.read) / MIB, self.lent - before.lent);
        assert!(lent <= PIECES * FAN_OUT * times, "{lent} pieces lent");
        // The rest was read before the file was known to be hot there. Without that it is 264.
        assert!(sent <= lent + 2 * PIECES * BEFORE * READERS, "{sent} MiB sent, {lent} of them lent");
        assert!(self.from_peers - before.from_peers > PIECES, "servers give it to each other");
        for server in 1..usize::from(SERVERS) {
            let passed = self.passed_on[server] - before.passed_on[server];
            assert!(passed <= PIECES * FAN_OUT * times, "server {server} passed {passed} pieces on");
            let fetched = self.fetched[server] - before.fetched[server];
            assert!(
                fetched <= PIECES * times,
                "server {server} fetched {fetched} pieces, each once for all its readers"
            );
        }
        true
    }
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
        for file in files.iter().cycle().take(4 * files.len()) {
            assert!(file.read_bytes_at(content.len() + 1, 0).expect("read") == content);
        }
        assert_eq!((hot(&maker, HOLDER, "lent"), hot(&maker, HOLDER, "files_lent")), (0, 0));
        assert!((1..6).all(|server| hot(&maker, server, "hits") == 0));
    }
}

/// Goal: a read of many pieces needs no more buffers than its answer and a piece. Method: chunks as large as an answer may be, on servers whose buffers have
/// room for one such answer but not for its pieces beside it, which are more than may be kept; all nodes read, until each has fetched all pieces.
#[test]
fn a_whole_chunk_is_read_with_few_buffers() {
    let cluster = cluster(6);
    let maker = on_node(&cluster, HOLDER);
    maker.mkdir_path("/d", 0o777).expect("mkdir");
    maker.setxattr_path("/d", fs_client::LAYOUT_ATTRIBUTE, b"local,chunk=16M", false, false).expect("layout");
    let content = full(16 * MIB, 7);
    file(&maker, "/d/f", &content);
    let clients: Vec<_> = (1..6).map(|server| on_node(&cluster, server)).collect();
    let files: Vec<_> = clients.iter().map(|client| reading(client, "/d/f")).collect();
    let fetched = |server| hot(&maker, server, "from_holder") + hot(&maker, server, "from_peers");
    hayate_tests::until("all nodes fetch the chunk", || {
        for file in &files {
            assert!(file.read_bytes_at(content.len(), 0).expect("read") == content);
        }
        (1..6).all(|server| fetched(server) >= 16)
    });
}

/// Goal: parts of pieces, reads across pieces and beyond the end are what they are from the holder, for chunks of any size.
/// Method: a file with chunks of 4 MiB and holes; random ranges, small and large, through servers that keep it, compared with the content.
#[test]
fn any_range_of_a_hot_file_is_right() {
    let cluster = cluster(6);
    let maker = on_node(&cluster, HOLDER);
    maker.mkdir_path("/d", 0o777).expect("mkdir");
    maker.setxattr_path("/d", fs_client::LAYOUT_ATTRIBUTE, b"local,chunk=4M", false, false).expect("layout");
    let mut content = full(5 * MIB + 123, 5);
    content[(2 * MIB) as usize..(3 * MIB + 77) as usize].fill(0);
    let made = open(&maker, "/d/f");
    made.write_at(&content[..(2 * MIB) as usize], 0).expect("write");
    made.write_at(&content[(3 * MIB + 77) as usize..], 3 * MIB + 77).expect("write");
    made.close().expect("close");
    let clients: Vec<_> = (1..6).map(|server| on_node(&cluster, server)).collect();
    let files: Vec<_> = clients.iter().map(|client| reading(client, "/d/f")).collect();
    heat(&maker, &[1, 2, 3, 4, 5], &files, &content);
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
