//! Goal: how many bytes leave a node for each byte that is written: about 0.75 striped over four servers, about none local and writer.
//! Method: four clients, each through its own server, dump a file each, and parts of one file; the servers' counters say what they received, and the
//! clients' what they sent: what is more came from other servers. `--nocapture` prints the table of docs/performance.md.

use fs_client::{Client, NetCounters, OpenFlags, Route, ServerId};
use hayate_tests::{Cluster, ClusterOptions, full, until};

use super::{LAYOUTS, MIB, ROOT, assert_content, directory, on_node};

const NODES: u16 = 4;
/// Bytes that each node writes.
const SHARE: u64 = 24 * MIB;
/// Bytes of one write of a shared file: nodes take turns.
const BLOCK: u64 = 2 * MIB;

/// Bytes that servers sent each other so far, questions and answers, by counters of both sides.
struct Meter<'a> {
    /// Asks the servers directly.
    asker: Client,
    clients: &'a [Client],
}

impl Meter<'_> {
    fn new<'a>(cluster: &Cluster, clients: &'a [Client]) -> Meter<'a> {
        Meter { asker: cluster.client_by(Route::Owners), clients }
    }

    /// The sum of a counter over all servers.
    fn sum(&self, counter: &str) -> u64 {
        let of = |server| {
            let status = self.asker.server_status(ServerId(server)).expect("status");
            let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
            status[counter].as_u64().expect("a counter")
        };
        (0..NODES).map(of).sum()
    }

    /// What servers received, and what of that clients sent, asking for the counters included.
    fn received(&self) -> (u64, u64) {
        let received = self.sum("bytes_received");
        let clients = self.clients.iter().chain([&self.asker]);
        (received, clients.map(|client| NetCounters::read(&client.counters().bytes_sent)).sum())
    }

    /// Waits until servers and clients have no more to say about what was closed.
    fn settle(&self) {
        until("closed files are given back", || self.sum("open_inodes") == 0);
    }

    /// Bytes between servers during `work`, for each of `bytes`.
    fn per_byte(&self, bytes: u64, work: impl FnOnce()) -> f64 {
        let before = self.received();
        work();
        self.settle();
        let after = self.received();
        let between = (after.0 - before.0).saturating_sub(after.1 - before.1);
        between as f64 / bytes as f64
    }
}

fn together(clients: &[Client], work: impl Fn(u16, &Client) + Sync) {
    std::thread::scope(|scope| {
        for (node, client) in clients.iter().enumerate() {
            let work = &work;
            scope.spawn(move || work(node as u16, client));
        }
    });
}

/// Blocks of a file that a node writes, each with its place: `own` files from their beginning, a shared one in turns.
fn blocks(node: u16, shared: bool) -> impl Iterator<Item = (u64, Vec<u8>)> {
    (0..SHARE / BLOCK).map(move |i| {
        let place = if shared { i * u64::from(NODES) + u64::from(node) } else { i };
        (place * BLOCK, full(BLOCK, (i * 7 + u64::from(node)) as u8))
    })
}

fn write(client: &Client, path: &str, node: u16, shared: bool) {
    let file = super::create(client, path);
    blocks(node, shared).for_each(|(place, data)| file.write_at(&data, place).expect("write"));
    file.close().expect("close");
}

fn read(client: &Client, path: &str, node: u16, shared: bool) {
    let ino = client.stat(path).expect("stat").ino;
    let file = client.open(&ROOT, ino, OpenFlags::READ).expect("open");
    for (place, data) in blocks(node, shared) {
        assert!(file.read_bytes_at(BLOCK as usize, place).expect("read") == data, "{path} at {place}");
    }
}

fn model() -> Vec<u8> {
    let mut model = vec![0; (SHARE * u64::from(NODES)) as usize];
    for node in 0..NODES {
        for (place, data) in blocks(node, true) {
            model[place as usize..][..data.len()].copy_from_slice(&data);
        }
    }
    model
}

#[test]
fn dumps_stay_on_their_nodes() {
    // Servers that answer openings of hot files count them as open for longer than this waits.
    let options = ClusterOptions { servers: NODES, ..ClusterOptions::default() };
    let cluster = Cluster::configured(options, |config| config.hot_files = false);
    let clients: Vec<Client> = (0..NODES).map(|node| on_node(&cluster, node)).collect();
    println!(
        "\n| dump of four nodes | layout | between servers, bytes per byte: written | read again by the writer |"
    );
    println!("|---|---|---|---|");
    for shared in [false, true] {
        for layout in LAYOUTS {
            let dir = format!("/{layout}-{shared}");
            directory(&clients[0], &dir, layout);
            let path = |node: u16| if shared { format!("{dir}/shared") } else { format!("{dir}/{node}") };
            let meter = Meter::new(&cluster, &clients);
            let bytes = SHARE * u64::from(NODES);
            let written = meter.per_byte(bytes, || {
                together(&clients, |node, client| write(client, &path(node), node, shared));
            });
            let read = meter.per_byte(bytes, || {
                together(&clients, |node, client| read(client, &path(node), node, shared));
            });
            let kind = if shared { "one shared file" } else { "a file per process" };
            println!("| {kind} | {layout} | {written:.4} | {read:.4} |");
            // A shared file that is local lies with one of the four.
            let stays = layout == "writer" || (layout == "local" && !shared);
            let expected = if stays { 0.0..0.005 } else { 0.70..0.80 };
            assert!(
                expected.contains(&written) && expected.contains(&read),
                "{kind}, {layout}: {written}, {read}"
            );
            if shared {
                assert_content(&clients[3], &path(0), &model());
            }
        }
    }
}
