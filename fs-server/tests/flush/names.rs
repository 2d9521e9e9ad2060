//! Goal: what becomes of a name beside the flushing of its content (another owner, a further link) neither leaves a copy behind nor keeps
//! a file from being safe. Method: each happens while, or after, names are flushed in a hurry; the tier is compared with the namespace.

use fs_proto::ServerId;
use fs_proto::msg::tier::FlushNow;

use crate::client::{Client, ROOT};
use crate::cluster::{Cluster, plain};
use crate::policies::{durable, until};

const SERVERS: u16 = 3;
/// Directories with more entries are spread over the servers.
const WIDE: u64 = 30;

fn hurry(client: &Client) {
    for server in (0..SERVERS).map(ServerId) {
        client.ask_server(server, &FlushNow { everything: false }).unwrap();
    }
}

#[test]
fn a_directory_that_widens_while_it_is_flushed_leaves_nothing_behind() {
    let mut cluster = Cluster::wide_above(SERVERS, WIDE);
    cluster.launch(&plain);
    let client = Client::connect(&cluster.file);
    for round in 0..30 {
        let dir = client.mkdir(ROOT, &format!("d{round}"));
        hurry(&client);
        let names: Vec<_> = (0..WIDE + 12).map(|n| format!("f{n}")).collect();
        for name in &names {
            client.write_file(dir, name, b"content");
        }
        assert!(round > 0 || client.attr(dir).wide, "it is wide by now");
        if round % 3 == 0 {
            continue;
        }
        for name in &names {
            client.unlink(dir, name);
        }
        client.rmdir(ROOT, &format!("d{round}"));
    }
    cluster.drain(&client);
    cluster.compare(&client);
}

#[test]
fn a_file_with_a_name_more_or_less_is_safe_again() {
    let cluster = Cluster::start(SERVERS);
    let client = Client::connect(&cluster.file);
    let dir = client.mkdir(ROOT, "dir");
    let files: Vec<_> = (0..20).map(|n| client.write_file(ROOT, &format!("file{n}"), b"content")).collect();
    cluster.check(&client);
    let all_safe = |when: &str| until(when, || files.iter().all(|file| durable(&client, *file)));
    all_safe("flushed files are safe");
    (0..).zip(&files).for_each(|(n, file)| client.link(*file, dir, &format!("link{n}")));
    cluster.check(&client);
    all_safe("files with a further name are safe");
    (0..files.len()).for_each(|n| {
        let (parent, name) = if n % 2 == 0 { (ROOT, format!("file{n}")) } else { (dir, format!("link{n}")) };
        client.unlink(parent, &name);
    });
    cluster.check(&client);
    all_safe("files with a name less are safe");
}
