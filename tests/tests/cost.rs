//! Goal: what an operation costs in messages, system calls and copies is a promise, not a hope.
//! Method: clusters in this process; the counters of the client and of all servers before and after many operations of one
//! kind, held against bounds per operation. `--nocapture` prints the tables that `docs/performance.md` shows.
//!
//! Counters are exact but not alone: the client's housekeeper and the servers' upkeep send a few messages of their own, for
//! which bounds leave room (`STRAY`).

use fs_client::{
    Attr, Caller, Client, DirPage, File, InodeId, LAYOUT_ATTRIBUTE, NetCounters, OpenFlags, Route,
};
use fs_proto::ServerId;
use hayate_tests::{Cluster, status, until};

/// Operations of each kind. Enough that a stray message of the upkeep does not show.
const TIMES: usize = 256;
/// Entries of the directory whose listing is measured.
const PAGE: usize = 1000;
const SMALL: usize = 4 << 10;
const LARGE: usize = 1 << 20;
/// Share that upkeep may add to a count of messages or of calls.
const STRAY: f64 = 0.1;
const ROOT: Caller = Caller::ROOT;

/// Counters of one side, as they are or per operation.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    sent: f64,
    received: f64,
    bytes: f64,
    writes: f64,
    reads: f64,
    copied: f64,
}

impl Counts {
    fn of_client(client: &Client) -> Counts {
        let counters = client.counters();
        let read = |counter| NetCounters::read(counter) as f64;
        Counts {
            sent: read(&counters.messages_sent),
            received: read(&counters.messages_received),
            bytes: read(&counters.bytes_sent) + read(&counters.bytes_received),
            writes: read(&counters.write_calls),
            reads: read(&counters.read_calls),
            copied: read(&counters.copied_bytes),
        }
    }

    fn of_server(asker: &Client, server: ServerId) -> Counts {
        let status = status(asker, server);
        let read = |name: &str| status[name].as_u64().unwrap_or_else(|| panic!("no counter {name}")) as f64;
        Counts {
            sent: read("messages_sent"),
            received: read("messages_received"),
            bytes: read("bytes_sent") + read("bytes_received"),
            writes: read("write_calls"),
            reads: read("read_calls"),
            copied: read("copied_bytes"),
        }
    }

    fn zip(self, other: Counts, with: impl Fn(f64, f64) -> f64) -> Counts {
        Counts {
            sent: with(self.sent, other.sent),
            received: with(self.received, other.received),
            bytes: with(self.bytes, other.bytes),
            writes: with(self.writes, other.writes),
            reads: with(self.reads, other.reads),
            copied: with(self.copied, other.copied),
        }
    }

    fn since(self, before: Counts) -> Counts {
        self.zip(before, |after, before| after - before)
    }
}

/// What one operation may cost at most.
struct Bound {
    /// Requests of the client.
    messages: f64,
    /// Requests between servers, when the client talks to the owners: of one server, of four.
    between: [f64; 2],
    /// Payload, which each side may copy so often.
    payload: usize,
    /// How often the client may copy it.
    client_copies: f64,
    /// How often a server's transport may copy it.
    server_copies: f64,
}

/// A message without payload.
const fn plain(messages: f64, between: [f64; 2]) -> Bound {
    Bound { messages, between, payload: 0, client_copies: 0.0, server_copies: 0.0 }
}

const fn data(payload: usize, client_copies: f64, server_copies: f64) -> Bound {
    Bound { messages: 1.0, between: [0.0; 2], payload, client_copies, server_copies }
}

/// Bytes of a message beside the payload (a request or an answer, without its header) that may be copied.
const META_BYTES: f64 = 512.0;

/// Measures operations of one cluster by one route.
struct Meter {
    label: &'static str,
    servers: u16,
    route: Route,
    client: Client,
    asker: Client,
    /// What asking the servers adds to their counters.
    asking: Counts,
}

impl Meter {
    fn new(label: &'static str, cluster: &Cluster, servers: u16, route: Route) -> Meter {
        let (client, asker) = (cluster.client_by(route), cluster.client_by(Route::Owners));
        let mut meter = Meter { label, servers, route, client, asker, asking: Counts::default() };
        meter.all_servers(); // The first question opens connections.
        let before = meter.all_servers();
        meter.asking = meter.all_servers().since(before);
        meter.title();
        meter
    }

    fn title(&self) {
        println!("\n{}:\n", self.label);
        println!(
            "| operation | client: messages | bytes | write calls | read calls | bytes copied | \
             between servers: messages | servers: write calls | read calls | bytes copied |"
        );
        println!("|---|---|---|---|---|---|---|---|---|---|");
    }

    fn all_servers(&self) -> Counts {
        let each = (0..self.servers).map(|id| Counts::of_server(&self.asker, ServerId(id)));
        each.fold(Counts::default(), |sum, one| sum.zip(one, |a, b| a + b))
    }

    /// Carries out `op` for 0, 1, ... and holds its cost against `bound`.
    fn measure<T>(&self, name: &str, bound: &Bound, times: usize, op: impl FnMut(usize) -> T) -> Vec<T> {
        let (client, servers) = (Counts::of_client(&self.client), self.all_servers());
        let results = (0..times).map(op).collect();
        let client = Counts::of_client(&self.client).since(client);
        let servers = self.all_servers().since(servers).since(self.asking);
        let per = |counts: Counts| counts.zip(Counts::default(), |count, _| count / times as f64);
        self.check(name, bound, per(client), per(servers));
        results
    }

    fn check(&self, name: &str, bound: &Bound, client: Counts, servers: Counts) {
        // A request between servers is received once, and so is its answer; a client's request is received once.
        let between = ((servers.received - client.sent) / 2.0).max(0.0);
        println!(
            "| {name} | {:.2} | {:.0} | {:.2} | {:.2} | {:.0} | {between:.2} | {:.2} | {:.2} | {:.0} |",
            client.sent,
            client.bytes,
            client.writes,
            client.reads,
            client.copied,
            servers.writes,
            servers.reads,
            servers.copied,
        );
        let at_most = |what: &str, is: f64, may: f64| {
            assert!(
                is <= may,
                "{}: {name}: {is:.3} {what} per operation, at most {may:.3} are allowed",
                self.label
            );
        };
        let roomy = |count: f64| count * (1.0 + STRAY) + STRAY;
        let roomy_bytes = |bytes: f64| roomy(bytes) + STRAY * META_BYTES;
        at_most("messages of the client", client.sent, roomy(bound.messages));
        // The other way round: a count of nothing would mean that nothing was measured.
        assert!(
            bound.messages == 0.0 || client.sent > 0.9,
            "{name}: a message each was expected, {:.2} counted",
            client.sent
        );
        let forwarded = if matches!(self.route, Route::Gateway(_)) { bound.messages } else { 0.0 };
        let between_bound = bound.between[usize::from(self.servers > 1)] + forwarded;
        at_most("messages between servers", between, roomy(between_bound));
        // A large payload leaves in one call if the socket takes it; its receiver needs several.
        let calls = roomy(bound.messages + bound.payload as f64 / (64.0 * 1024.0));
        at_most("calls of the client to send", client.writes, calls);
        at_most("calls of the client to receive", client.reads, calls + bound.messages);
        let messages = client.sent.max(bound.messages);
        let copies =
            |times: f64, messages: f64| roomy_bytes(times * bound.payload as f64 + messages * META_BYTES);
        at_most("bytes copied by the client", client.copied, copies(bound.client_copies, messages));
        let hops = 1.0 + f64::from(u8::from(forwarded > 0.0));
        // A gateway passes small parts on by copying them among other messages, and large answers into the memory shared with the client.
        let passed_on = f64::from(u8::from(forwarded > 0.0));
        let server_copies = copies(hops * bound.server_copies + passed_on, 2.0 * (messages + between));
        at_most("bytes copied by the servers", servers.copied, server_copies);
        at_most("calls of the servers to send", servers.writes, roomy(hops * calls + 2.0 * between_bound));
    }
}

fn name(prefix: &str, i: usize) -> Vec<u8> {
    format!("{prefix}{i}").into_bytes()
}

fn names(meter: &Meter, dir: InodeId) {
    let client = &meter.client;
    let one = plain(1.0, [0.0, 0.0]);
    let created = meter.measure("create, opened", &one, TIMES, |i| {
        client.create_open(&ROOT, dir, &name("f", i), 0o644, OpenFlags::READ_WRITE, true).expect("create").0
    });
    let inos: Vec<_> = created.iter().map(File::ino).collect();
    let mut created: Vec<_> = created.into_iter().map(Some).collect();
    meter.measure("close, nothing written", &plain(0.0, [0.0; 2]), TIMES, |i| {
        created[i].take().expect("still open").close().expect("close");
    });
    meter.measure("lookup with attributes", &one, TIMES, |i| {
        client.lookup(&ROOT, dir, &name("f", i)).expect("lookup")
    });
    meter.measure("lookup of a name that is not there", &one, TIMES, |i| {
        client.lookup(&ROOT, dir, &name("missing", i)).expect_err("not there")
    });
    meter.measure("attributes by inode", &one, TIMES, |i| client.getattr(&ROOT, inos[i]).expect("getattr"));
    meter.measure("rename in a directory", &one, TIMES, |i| {
        client.rename(&ROOT, dir, &name("f", i), dir, &name("g", i), false, false).expect("rename");
    });
    meter.measure("unlink", &one, TIMES, |i| client.unlink(&ROOT, dir, &name("g", i)).expect("unlink"));
    meter.measure("mkdir", &plain(1.0, MKDIR_BETWEEN), TIMES, |i| {
        client.mkdir(&ROOT, dir, &name("d", i), 0o755).expect("mkdir")
    });
    meter.measure("rmdir", &plain(1.0, RMDIR_BETWEEN), TIMES, |i| {
        client.rmdir(&ROOT, dir, &name("d", i)).expect("rmdir");
    });
}

/// A directory has a partition of its own, three times in four on another server: prepare and decide.
const MKDIR_BETWEEN: [f64; 2] = [0.0, 2.0];
/// The same, and the entry's server asks first whether the directory is empty.
const RMDIR_BETWEEN: [f64; 2] = [0.0, 3.0];

fn listing(meter: &Meter, dir: InodeId) {
    let client = &meter.client;
    for i in 0..PAGE {
        client.create_open(&ROOT, dir, &name("entry", i), 0o644, OpenFlags::WRITE, true).expect("create");
    }
    let full = |page: DirPage| assert_eq!(page.entries.len(), PAGE, "one page holds them all");
    // Their bytes are passed on, not copied; a page's answer is too large for one call to receive.
    let page = |entry_bytes| data(PAGE * entry_bytes, 0.0, 0.0);
    meter.measure("page of 1,000 names", &page(32), 32, |_| {
        full(client.readdir(&ROOT, dir, 0, PAGE, false).expect("page"));
    });
    meter.measure("page of 1,000 with attributes", &page(128), 32, |_| {
        full(client.readdir(&ROOT, dir, 0, PAGE, true).expect("page"));
    });
}

/// Files whose content lies with their inode.
fn small_files(meter: &Meter, dir: InodeId) {
    let client = &meter.client;
    let make = |i| {
        client.create_open(&ROOT, dir, &name("s", i), 0o644, OpenFlags::READ_WRITE, true).expect("create").0
    };
    let mut files: Vec<Option<File>> = (0..TIMES).map(|i| Some(make(i))).collect();
    let content = vec![7; SMALL];
    meter.measure("write of a small file (4 KiB)", &data(SMALL, 2.0, 0.0), TIMES, |i| {
        files[i].as_ref().expect("open").write_at(&content, 0).expect("write");
    });
    meter.measure("close after writing a small file", &plain(0.0, [0.0; 2]), TIMES, |i| {
        files[i].take().expect("open").close().expect("close");
    });
    settle(meter);
    let inos: Vec<Attr> =
        (0..TIMES).map(|i| client.lookup(&ROOT, dir, &name("s", i)).expect("lookup")).collect();
    let mut buf = vec![0; SMALL];
    meter.measure("open and read of a small file", &data(SMALL, 2.0, 1.0), TIMES, |i| {
        let file = client.open(&ROOT, inos[i].ino, OpenFlags::READ).expect("open");
        assert_eq!(file.read_at(&mut buf, 0).expect("read"), SMALL);
        assert_eq!(buf, content);
    });
    settle(meter);
    meter.measure("put of a small file", &data(SMALL, 2.0, 0.0), TIMES, |i| {
        client.put_at(&ROOT, dir, &name("p", i), &content, 0o644, false).expect("put")
    });
    meter.measure("get of a small file", &data(SMALL, 0.0, 1.0), TIMES, |i| {
        assert_eq!(client.get_at(&ROOT, dir, &name("p", i)).expect("get"), content);
    });
    many_small_files(meter, dir, &content);
}

/// Closed files are given back in batches, whose messages would be counted with what comes next.
fn settle(meter: &Meter) {
    let open = || {
        (0..meter.servers)
            .map(|id| status(&meter.asker, ServerId(id))["open_inodes"].as_u64().expect("a count"))
            .sum::<u64>()
    };
    until("closed files are given back", || open() == 0);
}

const MANY: usize = 100;

fn many_small_files(meter: &Meter, dir: InodeId, content: &[u8]) {
    let client = &meter.client;
    let all = |i: usize| (0..MANY).map(|n| name("m", i * MANY + n)).collect::<Vec<_>>();
    let bound = |client_copies, server_copies| data(MANY * SMALL, client_copies, server_copies);
    // What the server looks into it copies out of shared memory first.
    meter.measure("put of 100 small files", &bound(1.0, 1.25), 16, |i| {
        let names = all(i);
        let files: Vec<(&[u8], &[u8])> = names.iter().map(|name| (&name[..], content)).collect();
        for result in client.put_many(&ROOT, dir, &files, 0o644).expect("put") {
            result.expect("put");
        }
    });
    meter.measure("get of 100 small files", &bound(1.25, 0.25), 16, |i| {
        let names = all(i);
        let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
        for result in client.get_many(&ROOT, dir, &names).expect("get") {
            assert_eq!(result.expect("get"), content);
        }
    });
}

/// Small parts of a file in chunks.
fn small_data(meter: &Meter, dir: InodeId) {
    let client = &meter.client;
    let make = |i| {
        client.create_open(&ROOT, dir, &name("s", i), 0o644, OpenFlags::READ_WRITE, true).expect("create").0
    };
    let mut files: Vec<Option<File>> = (0..TIMES).map(|i| Some(make(i))).collect();
    // What a file costs once that grows out of its inode.
    meter.measure("first write of 4 KiB beyond the limit", &twice(&data(SMALL, 2.0, 0.0)), TIMES, |i| {
        files[i].as_ref().expect("open").write_at(&vec![7; SMALL], LARGE as u64).expect("write");
    });
    let content = vec![7; SMALL];
    meter.measure("write of 4 KiB", &data(SMALL, 2.0, 0.0), TIMES, |i| {
        files[i].as_ref().expect("open").write_at(&content, 0).expect("write");
    });
    meter.measure("close after a write", &plain(1.0, [0.0; 2]), TIMES, |i| {
        files[i].take().expect("open").close().expect("close");
    });
    let inos: Vec<Attr> =
        (0..TIMES).map(|i| client.lookup(&ROOT, dir, &name("s", i)).expect("lookup")).collect();
    let files = meter.measure("open of an existing file", &plain(1.0, [0.0; 2]), TIMES, |i| {
        client.open(&ROOT, inos[i].ino, OpenFlags::READ).expect("open")
    });
    meter.measure("read of 4 KiB", &data(SMALL, 1.0, 1.0), TIMES, |i| {
        let mut buf = vec![0; SMALL];
        assert_eq!(files[i].read_at(&mut buf, 0).expect("read"), SMALL);
        assert_eq!(buf, content);
    });
}

/// The same with a message more.
fn twice(bound: &Bound) -> Bound {
    Bound { messages: bound.messages + 1.0, ..*bound }
}

fn large_data(meter: &Meter, dir: InodeId) {
    let times = 48;
    let open = |flags| meter.client.create_open(&ROOT, dir, b"large", 0o644, flags, false).expect("open").0;
    let file = open(OpenFlags::READ_WRITE);
    let content = vec![7; LARGE];
    meter.measure("write of 1 MiB", &data(LARGE, 1.0, 0.125), times, |i| {
        file.write_at(&content, (i * LARGE) as u64).expect("write");
    });
    file.close().expect("close");
    let file = open(OpenFlags::READ);
    let mut buf = vec![0; LARGE];
    meter.measure("read of 1 MiB", &data(LARGE, 1.125, 0.125), times, |i| {
        assert_eq!(file.read_at(&mut buf, (i * LARGE) as u64).expect("read"), LARGE);
    });
    assert_eq!(buf, content);
    copies(meter, &file, times);
}

/// The client's node keeps what it writes; of a chunk in layout `writer` that has to be agreed once.
fn layouts(meter: &Meter) {
    let times = 48;
    let one = data(LARGE, 1.0, 0.125);
    let content = vec![7; LARGE];
    for (layout, first) in [("local", one), ("writer", twice(&data(LARGE, 1.0, 0.125)))] {
        let dir = meter.client.mkdir_path(format!("/{layout}"), 0o755).expect("mkdir").ino;
        meter.client.setxattr(&ROOT, dir, LAYOUT_ATTRIBUTE, layout.as_bytes(), false, false).expect("layout");
        let flags = OpenFlags::READ_WRITE;
        let file = meter.client.create_open(&ROOT, dir, b"large", 0o644, flags, false).expect("open").0;
        let write = |i: usize| file.write_at(&content, (i * LARGE) as u64).expect("write");
        meter.measure(&format!("first write of 1 MiB, {layout}"), &first, times, write);
        meter.measure(&format!("write of 1 MiB, {layout}"), &data(LARGE, 1.0, 0.125), times, write);
        let mut buf = vec![0; LARGE];
        meter.measure(&format!("read of 1 MiB, {layout}"), &data(LARGE, 1.125, 0.125), times, |i| {
            assert_eq!(file.read_at(&mut buf, (i * LARGE) as u64).expect("read"), LARGE);
        });
    }
}

/// What is copied from file to file passes the client no more than any other message does.
fn copies(meter: &Meter, from: &File, times: usize) {
    let to = meter.client.create_open(&ROOT, InodeId::ROOT, b"copy", 0o644, OpenFlags::READ_WRITE, true);
    let to = to.expect("create").0;
    from.copy_range_to(0, &to, 0, LARGE as u64).expect("it grows out of its inode");
    let bound = Bound { messages: 2.0, between: [0.0, 1.0], ..data(LARGE, 0.0, 0.25) };
    let before = Counts::of_client(&meter.client);
    meter.measure("copy of 1 MiB", &bound, times, |i| {
        let at = (i * LARGE) as u64;
        assert_eq!(from.copy_range_to(at, &to, at, LARGE as u64).expect("copy"), LARGE as u64);
    });
    let passed = Counts::of_client(&meter.client).since(before).bytes / times as f64;
    assert!(passed < 2.0 * META_BYTES, "{passed} bytes of each copy pass the client");
}

fn everything(label: &'static str, servers: u16, route: Route) {
    let cluster = Cluster::start(servers);
    let meter = Meter::new(label, &cluster, servers, route);
    let dir = |path| meter.client.mkdir_path(path, 0o755).expect("mkdir").ino;
    names(&meter, dir("/names"));
    small_files(&meter, dir("/small"));
    small_data(&meter, dir("/parts"));
    large_data(&meter, dir("/large"));
    layouts(&meter);
    listing(&meter, dir("/listing"));
}

#[test]
fn of_one_server() {
    everything("One server", 1, Route::Owners);
}

#[test]
fn of_four_servers_asked_directly() {
    everything("Four servers, the client asks the owner", 4, Route::Owners);
}

#[test]
fn of_four_servers_through_a_gateway() {
    everything("Four servers, the client asks one server for everything", 4, Route::Gateway(ServerId(0)));
}
