//! Goal: who is on a server's node reaches it through shared memory without being told so: a mount, and the library.
//! Method: `status --json` shows sessions over shared memory while they are there, and the kernel that the server has touched shared memory, as it does when data come
//! by it. The same mount that is told to use the socket, as a measure that can tell the two apart.

mod common;

use common::{Sandbox, can_mount, pattern};
use fs_client::OpenOptions;
use serde_json::Value;
use std::fs;

const BYTES: usize = 8 << 20;

/// Sessions over shared memory that `status` shows, and bytes of shared memory that the server has touched.
fn shared(sandbox: &Sandbox) -> (u64, u64) {
    let status: Value = serde_json::from_str(&sandbox.ok(&["status", "--json"])).unwrap();
    let sessions = status["servers"][0]["status"]["shared_memory"]["sessions"].as_u64().unwrap();
    (sessions, common::memory_of(sandbox.server_pids()[0], "RssShmem").unwrap())
}

/// What [`shared`] says when nobody is there but who asks: he has a session, too.
fn idle(sandbox: &Sandbox) -> (u64, u64) {
    common::wait_until("nobody has shared memory but who asks", || shared(sandbox) == (1, 0));
    (1, 0)
}

fn assert_shared(idle: (u64, u64), (sessions, bytes): (u64, u64)) {
    assert!(sessions > idle.0, "no session over shared memory");
    assert!(
        bytes > idle.1 + (256 << 10),
        "the server has touched {bytes} bytes of shared memory: data went another way"
    );
}

#[test]
fn a_mount_on_its_servers_node_uses_shared_memory_by_itself() {
    if !can_mount() {
        return;
    }
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("m")).unwrap();
    sandbox.up(&[]);
    let content = pattern(BYTES);
    let write = |name: &str| {
        fs::write(sandbox.path("m").join(name), &content).unwrap();
        assert!(fs::read(sandbox.path("m").join(name)).unwrap() == content);
    };
    let before = idle(&sandbox);
    sandbox.ok(&["mount", "m"]);
    write("shared");
    assert_shared(before, shared(&sandbox));
    sandbox.ok(&["umount", "m"]);
    idle(&sandbox);
    sandbox.ok(&["mount", "--transport", "unix", "m"]);
    write("socket");
    // Who asked last may have shared memory yet; a mount would have it for as long as it is there.
    common::wait_until("a mount that is told to use the socket has none", || shared(&sandbox) == before);
    sandbox.ok(&["umount", "m"]);
    sandbox.ok(&["down", "--discard"]);
    sandbox.assert_nothing_left();
}

#[test]
fn a_client_on_its_servers_node_uses_shared_memory_by_itself() {
    let sandbox = Sandbox::new();
    sandbox.up(&[]);
    let content = pattern(BYTES);
    let before = idle(&sandbox);
    let client = sandbox.client();
    let options = OpenOptions { read: true, ..OpenOptions::create_truncate() };
    let file = client.open_path("/file", &options).unwrap();
    file.write_at(&content, 0).unwrap();
    assert!(file.read_bytes_at(BYTES, 0).unwrap() == content);
    assert_shared(before, shared(&sandbox));
    file.close().unwrap();
    drop(client);
    idle(&sandbox);
    sandbox.ok(&["down", "--discard"]);
    sandbox.assert_nothing_left();
}
