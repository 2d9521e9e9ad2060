//! Goal: one node without room is no error for anybody: what is written there goes to others, small files find room, and all of it is read back, after kills
//! as well. Method: the real program; each of three servers has its store on a file system of its own, one of them a small one (tmpfs, so it needs root);
//! nothing is flushed.

mod common;

use std::fs;
use std::process::Command;

use common::{Sandbox, pattern};

/// The one without room.
const FULL: usize = 1;
/// Sizes of the servers' file systems.
const SIZES: [&str; 3] = ["size=600m", "size=128m", "size=600m"];
const DIRECTORIES: usize = 12;
const SMALL: usize = 3_000;

/// A file system for the store of each server, which the sandbox detaches in the end; false where this user may not mount.
fn mount_stores(sandbox: &Sandbox) -> bool {
    SIZES.iter().enumerate().all(|(server, size)| {
        let store = sandbox.word(&format!("store/server-{server}"));
        fs::create_dir_all(&store).unwrap();
        let mount = ["-t", "tmpfs", "-o", size, "none", &store];
        Command::new("mount").args(mount).status().is_ok_and(|status| status.success())
    })
}

fn figure(sandbox: &Sandbox, server: usize, name: &str) -> u64 {
    let status: serde_json::Value = serde_json::from_str(&sandbox.ok(&["status", "--json"])).unwrap();
    let of_server = status["servers"].as_array().unwrap()[server].clone();
    of_server["status"]["overflow"][name].as_u64().unwrap_or_else(|| panic!("no {name}: {of_server}"))
}

fn assert_read(sandbox: &Sandbox, large: &[u8]) {
    for file in ["/near/one", "/near/two"] {
        sandbox.ok(&["cp", &format!("h:{file}"), &sandbox.word("out")]);
        assert!(fs::read(sandbox.path("out")).unwrap() == large, "{file}");
    }
    sandbox.ok(&["cp", "-r", "h:/small", &sandbox.word("back")]);
    assert!(common::tree(&sandbox.path("back")) == common::tree(&sandbox.path("small")));
    fs::remove_dir_all(sandbox.path("back")).unwrap();
}

#[test]
fn a_node_without_room_goes_on() {
    let sandbox = Sandbox::new();
    if !mount_stores(&sandbox) {
        return common::skip::note("mounting a file system needs root");
    }
    sandbox.up(&["--nodes", "3", "--tier", &sandbox.word("tier"), "--flush-delay", "3600000"]);
    let large = pattern(160 << 20);
    fs::write(sandbox.path("in"), &large).unwrap();
    sandbox.ok_by(FULL, &["mkdir", "--layout", "local", "/near"]);
    sandbox.ok_by(FULL, &["cp", &sandbox.word("in"), "h:/near/one"]);
    let told = sandbox.ok(&["stat", "/near/one"]);
    assert!(told.contains("server 1, 160 chunks"), "{told}");
    assert!(figure(&sandbox, FULL, "overflow_bytes") > 0);
    // Names and small files of its directories find room as well.
    for dir in 0..DIRECTORIES {
        let dir = sandbox.path(&format!("small/d{dir}"));
        fs::create_dir_all(&dir).unwrap();
        for file in 0..SMALL / DIRECTORIES {
            fs::write(dir.join(format!("f{file}")), &large[file * 97..file * 97 + 12_000]).unwrap();
        }
    }
    sandbox.ok(&["cp", "-r", &sandbox.word("small"), "h:/small"]);
    sandbox.ok_by(FULL, &["cp", &sandbox.word("in"), "h:/near/two"]);
    assert_read(&sandbox, &large);
    (0..SIZES.len()).for_each(|server| sandbox.kill_server(server));
    sandbox.ok(&["up", "--restart"]);
    assert_read(&sandbox, &large);
    sandbox.ok(&["rm", "/near/one"]);
    sandbox.ok(&["flush", "--wait"]);
    assert!(fs::read(sandbox.path("tier/near/two")).unwrap() == large);
    assert!(common::tree(&sandbox.path("tier/small")) == common::tree(&sandbox.path("small")));
    // Stores that are file systems of their own cannot be removed.
    sandbox.ok(&["down", "--keep"]);
}
