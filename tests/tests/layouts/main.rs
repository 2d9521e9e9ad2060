//! Goal: a file's bytes lie where its layout says, and nothing else about the file depends on it. Method: clusters of four servers in this process;
//! clients that go through one server each, as those of four nodes do; what servers hold is asked of them.

mod bytes;
mod changes;
mod places;
mod restarts;
mod settings;

use fs_client::{Caller, Client, InodeId, LAYOUT_ATTRIBUTE, Located, OpenOptions, Result, Route, ServerId};
use hayate_tests::{Cluster, open as create};

const ROOT: Caller = Caller::ROOT;
const MIB: u64 = 1 << 20;
const LAYOUTS: [&str; 3] = ["striped", "local", "writer"];

/// A client on the node of `server`, that trusts nothing it heard before.
fn on_node(cluster: &Cluster, server: u16) -> Client {
    cluster.strict_client(Route::Gateway(ServerId(server)))
}

fn ino(client: &Client, path: &str) -> InodeId {
    client.stat(path).expect("stat").ino
}

fn set(client: &Client, path: &str, layout: &str) -> Result<()> {
    client.setxattr(&ROOT, ino(client, path), LAYOUT_ATTRIBUTE, layout.as_bytes(), false, false)
}

fn shown(client: &Client, path: &str) -> String {
    let value = client.getxattr(&ROOT, ino(client, path), LAYOUT_ATTRIBUTE).expect("a layout");
    String::from_utf8(value.to_vec()).expect("text")
}

/// A directory whose files get this layout.
fn directory(client: &Client, path: &str, layout: &str) {
    client.mkdir_path(path, 0o777).expect("mkdir");
    set(client, path, layout).expect("a directory takes any layout");
}

/// Which servers hold chunks of the file, and how many.
fn chunks(client: &Client, path: &str) -> Vec<(u16, u64)> {
    match client.located(&ROOT, ino(client, path)).expect("located") {
        Located::Inode(server) => panic!("{path} lies with its inode, on server {server}"),
        Located::Chunks(held) => held.iter().map(|one| (one.server.0, one.chunks)).collect(),
    }
}

fn assert_content(client: &Client, path: &str, model: &[u8]) {
    let file = client.open_path(path, &OpenOptions::read_only()).expect("open");
    assert_eq!(file.attr().expect("attr").size, model.len() as u64, "{path}: size");
    let read = file.read_bytes_at(model.len() + 1, 0).expect("read");
    assert!(read == model, "{path}: content");
}
