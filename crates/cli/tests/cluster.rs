//! Goal: the life of a cluster on one machine. Method: the real program, from `up` to `down`.

mod common;

use common::{Sandbox, pattern, tree, wait_until};
use rustix::process::Signal;
use std::fs;
use std::os::unix::fs::PermissionsExt;

#[test]
fn files_go_in_and_come_out() {
    let sandbox = Sandbox::new();
    sandbox.up(&["--nodes", "3", "--name", "trio"]);
    let content = pattern((5 << 20) + 17);
    fs::write(sandbox.path("in"), &content).unwrap();
    fs::set_permissions(sandbox.path("in"), fs::Permissions::from_mode(0o640)).unwrap();
    sandbox.ok(&["mkdir", "-p", "/a/b"]);
    sandbox.ok(&["cp", &sandbox.word("in"), "h:/a/b/file"]);
    assert!(sandbox.ok(&["ls", "-l", "/a/b"]).starts_with("-rw-r-----"));
    assert_eq!(sandbox.ok(&["ls", "-R", "/"]), "/:\na\n\n/a:\nb\n\n/a/b:\nfile\n");
    let cat = sandbox.hayate(&["cat", "h:/a/b/file"]).output().unwrap();
    assert!(cat.status.success() && cat.stdout == content);
    assert!(sandbox.ok(&["stat", "/a/b/file"]).contains(&format!("size: {}", content.len())));
    sandbox.ok(&["cp", "h:/a/b/file", "hayate:/copy"]);
    sandbox.ok(&["cp", "h:/copy", &sandbox.word("out")]);
    assert!(fs::read(sandbox.path("out")).unwrap() == content);
    assert!(sandbox.ok(&["df"]).contains("trio"));
    sandbox.fails(1, &["rm", "/none"], &["/none"]);
    sandbox.fails(2, &["rm", "/a"], &["-r"]);
    sandbox.ok(&["rm", "-r", "/a", "/copy"]);
    assert_eq!(sandbox.ok(&["ls", "/"]), "");
    sandbox.fails(1, &["cat", "/none"], &["/none"]);
    sandbox.ok(&["down", "--discard"]);
    sandbox.assert_nothing_left();
    assert!(!sandbox.path("c.toml").exists());
}

#[test]
fn trees_are_the_same_after_both_ways() {
    let sandbox = Sandbox::new();
    sandbox.up(&["--nodes", "2"]);
    let from = sandbox.path("from");
    fs::create_dir_all(from.join("sub/empty")).unwrap();
    fs::write(from.join("sub/one"), pattern(3000)).unwrap();
    fs::write(from.join("zero"), "").unwrap();
    fs::write(from.join("run.sh"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(from.join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink("sub/one", from.join("link")).unwrap();
    sandbox.fails(2, &["cp", &sandbox.word("from"), "h:/t"], &["-r"]);
    sandbox.ok(&["cp", "-r", &sandbox.word("from"), "h:/t"]);
    sandbox.ok(&["cp", "-r", "h:/t", &sandbox.word("back")]);
    assert_eq!(tree(&from), tree(&sandbox.path("back")));
    sandbox.ok(&["down", "--discard"]);
    sandbox.assert_nothing_left();
}

#[test]
fn status_shows_every_server() {
    let sandbox = Sandbox::new();
    sandbox.up(&["--nodes", "4"]);
    let text = sandbox.ok(&["status"]);
    assert_eq!(text.lines().filter(|line| line.contains(" up ")).count(), 4, "{text}");
    let status: serde_json::Value = serde_json::from_str(&sandbox.ok(&["status", "--json"])).unwrap();
    let servers = status["servers"].as_array().unwrap();
    let partitions: u64 = servers.iter().map(|server| server["status"]["partitions"].as_u64().unwrap()).sum();
    assert_eq!((servers.len(), partitions), (4, 65_536));
    assert!(servers.iter().all(|server| server["metrics"].is_string()));
    sandbox.kill_server(2);
    let said = sandbox.run(&["status"]);
    assert_eq!(said.code, Some(1));
    assert_eq!(said.out.lines().filter(|line| line.contains(" down ")).count(), 1, "{}", said.out);
    assert!(said.err.contains("server 2") && said.err.contains("--restart"), "{}", said.err);
    sandbox.ok(&["down", "--discard"]);
    sandbox.assert_nothing_left();
}

/// All servers are killed; they come back at the same addresses with all the data.
#[test]
fn restart_after_a_crash_finds_the_data() {
    let sandbox = Sandbox::new();
    sandbox.up(&["--nodes", "3"]);
    let content = pattern(4 << 20);
    fs::write(sandbox.path("in"), &content).unwrap();
    sandbox.ok(&["cp", &sandbox.word("in"), "h:/file"]);
    let (addresses, pids) = (sandbox.members("tcp"), sandbox.server_pids());
    assert!(sandbox.ok(&["up", "--restart"]).contains("nothing to restart"));
    for pid in &pids {
        common::kill(*pid, Signal::KILL);
    }
    wait_until("all servers are gone", || sandbox.processes().is_empty());
    sandbox.fails(1, &["up"], &["do not answer", "--restart", "--discard"]);
    sandbox.fails(1, &["status"], &["server 0, 1, 2"]);
    sandbox.ok(&["up", "--restart"]);
    assert_eq!(sandbox.members("tcp"), addresses);
    assert!(sandbox.server_pids().iter().all(|pid| !pids.contains(pid)));
    let cat = sandbox.hayate(&["cat", "/file"]).output().unwrap();
    assert!(cat.status.success() && cat.stdout == content);
    sandbox.ok(&["down", "--discard"]);
    sandbox.assert_nothing_left();
}

#[test]
fn stores_are_kept_without_a_tier() {
    let sandbox = Sandbox::new();
    sandbox.up(&["--nodes", "2"]);
    sandbox.ok(&["mkdir", "/kept"]);
    sandbox.fails(2, &["down", "--drain"], &["no shared tier"]);
    let said = sandbox.ok(&["down"]);
    assert!(said.contains("stores are kept") && said.contains("--restart"), "{said}");
    assert_eq!(sandbox.processes(), []);
    sandbox.ok(&["up", "--restart"]);
    assert_eq!(sandbox.ok(&["ls"]), "kept\n");
    sandbox.ok(&["down", "--keep"]);
    sandbox.ok(&["down", "--discard"]);
    sandbox.assert_nothing_left();
}

#[test]
fn clusters_do_not_touch_each_other() {
    let (one, two) = (Sandbox::new(), Sandbox::new());
    one.up(&["--name", "one"]);
    two.up(&["--name", "two", "--nodes", "2"]);
    one.ok(&["mkdir", "/of-one"]);
    two.ok(&["mkdir", "/of-two"]);
    assert_eq!((one.ok(&["ls"]), two.ok(&["ls"])), ("of-one\n".into(), "of-two\n".into()));
    one.fails(1, &["up"], &["'one'", "is up", "--cluster"]);
    one.ok(&["down", "--discard"]);
    one.assert_nothing_left();
    assert_eq!(two.ok(&["ls"]), "of-two\n");
    two.ok(&["down", "--discard"]);
    two.assert_nothing_left();
}

/// `hayate ls | head` must neither panic nor complain.
#[test]
fn closed_output_is_no_error() {
    let sandbox = Sandbox::new();
    sandbox.up(&[]);
    let mut child = sandbox.hayate(&["status"]);
    let mut child =
        child.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let said = common::said(child.wait_with_output().unwrap());
    assert_eq!((said.code, said.err.as_str()), (Some(141), ""));
    sandbox.ok(&["down", "--discard"]);
}

/// A server that hangs (stopped, here) does not keep `down` from ending the cluster.
#[test]
fn down_ends_a_server_that_hangs() {
    let sandbox = Sandbox::new();
    sandbox.up(&["--nodes", "2"]);
    common::kill(sandbox.server_pids()[1], Signal::STOP);
    sandbox.ok(&["down", "--discard"]);
    sandbox.assert_nothing_left();
}

#[test]
fn interrupted_up_leaves_nothing() {
    let sandbox = Sandbox::new();
    let store = sandbox.word("store");
    // Servers that wait for one that never comes: the launcher starts only the first.
    fs::write(sandbox.path("hosts"), "localhost\n127.0.0.1\n").unwrap();
    let (bin, rendezvous) = (sandbox.path("bin"), sandbox.word("tier"));
    fs::create_dir(&bin).unwrap();
    common::write_program(&bin.join("mpirun"), "#!/bin/sh\nshift 4\nSLURM_PROCID=0 exec \"$@\"\n");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let hosts = sandbox.word("hosts");
    let words =
        ["up", "--store", &store, "--hostfile", &hosts, "--launcher", "mpirun", "--rendezvous", &rendezvous];
    let mut child = sandbox.hayate(&words);
    let child = child.env("PATH", path).stderr(std::process::Stdio::piped()).spawn().unwrap();
    wait_until("server 0 is there", || {
        let dirs = fs::read_dir(sandbox.path("tier")).unwrap().flatten();
        dirs.map(|dir| dir.path()).any(|dir| dir.join("server-0.toml").exists())
    });
    common::kill(child.id(), Signal::INT);
    let said = common::said(child.wait_with_output().unwrap());
    assert_eq!(said.code, Some(130), "{said:?}");
    wait_until("server 0 is gone", || sandbox.processes().is_empty());
    sandbox.assert_nothing_left();
    assert_eq!(fs::read_dir(sandbox.path("tier")).unwrap().count(), 0);
}
