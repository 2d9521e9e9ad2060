//! Goal: the demonstration does what it says and leaves nothing, however it ends. Method: the real program, small.

mod common;

use common::{Sandbox, can_mount, said, wait_until};
use rustix::process::Signal;
use std::fs;
use std::process::Stdio;

/// Everything of the demo goes below this directory of the sandbox.
fn place(sandbox: &Sandbox) -> String {
    let place = sandbox.path("place");
    fs::create_dir(&place).unwrap();
    place.to_str().unwrap().to_owned()
}

fn assert_clean(sandbox: &Sandbox) {
    sandbox.assert_nothing_left();
    assert_eq!(
        fs::read_dir(sandbox.path("place")).unwrap().count(),
        0,
        "the demo's directory was left behind"
    );
}

#[test]
fn demo_verifies_every_byte_and_leaves_nothing() {
    let sandbox = Sandbox::new();
    let place = place(&sandbox);
    let bytes = (9 << 20) + 12_345;
    let size = bytes.to_string();
    let out = sandbox.ok(&["demo", "--dir", &place, "--nodes", "3", "--ranks", "3", "--size", &size]);
    let way = if can_mount() { "mounted at" } else { "no mount here" };
    for word in [way, "burst", "read-back", "flush to tier 2", "balance", "on server 2", "taken down"] {
        assert!(out.contains(word), "'{word}' is missing in: {out}");
    }
    // Rounding per rank loses less than one byte a rank.
    assert!((bytes - 3..=bytes).any(|n| out.contains(&format!("every one of {n} bytes in tier 2"))), "{out}");
    assert_clean(&sandbox);
}

#[test]
fn demo_by_the_native_client() {
    let sandbox = Sandbox::new();
    let place = place(&sandbox);
    let tier = sandbox.word("tier");
    let out =
        sandbox.ok(&["demo", "--no-mount", "--dir", &place, "--tier", &tier, "--size", "6M", "--ranks", "2"]);
    assert!(out.contains("native client") && out.contains("nothing unsafe"), "{out}");
    assert_eq!(fs::read_dir(tier).unwrap().count(), 0);
    assert_clean(&sandbox);
}

#[test]
fn kept_demo_stays_until_it_is_ended() {
    let sandbox = Sandbox::new();
    let place = place(&sandbox);
    let out =
        sandbox.ok(&["demo", "--keep", "--dir", &place, "--nodes", "2", "--size", "4M", "--ranks", "2"]);
    let line = out.lines().find_map(|line| line.trim().strip_prefix("export HAYATE_CLUSTER=")).unwrap();
    assert_eq!(
        sandbox.ok(&["--cluster", line, "ls", "/checkpoint"]),
        "rank-0000.dat\nrank-0001.dat\nshared.dat\n"
    );
    if can_mount() {
        assert!(out.contains("  mount    "), "{out}");
        assert_eq!(sandbox.mounts().len(), 1);
    }
    sandbox.ok(&["--cluster", line, "down"]);
    sandbox.assert_nothing_left();
}

/// Method: a checkpoint that would take minutes, ended in its midst.
#[test]
fn interrupted_demo_leaves_nothing() {
    let sandbox = Sandbox::new();
    let place = place(&sandbox);
    let mut command =
        sandbox.hayate(&["demo", "--dir", &place, "--nodes", "2", "--size", "200G", "--ranks", "2"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("something is written", || {
        let cluster =
            fs::read_dir(&place).unwrap().flatten().map(|dir| dir.path().join("cluster.toml")).next();
        let Some(cluster) = cluster.filter(|cluster| cluster.exists()) else { return false };
        let listed = sandbox.run(&["--cluster", cluster.to_str().unwrap(), "ls", "/checkpoint"]);
        listed.out.contains("rank-0001.dat")
    });
    common::kill(child.id(), Signal::INT);
    let said = said(child.wait_with_output().unwrap());
    assert_eq!(said.code, Some(130), "{said:?}");
    wait_until("all processes are gone", || sandbox.processes().is_empty());
    assert_clean(&sandbox);
}

#[test]
fn sizes_that_give_nothing_to_write_are_refused() {
    let sandbox = Sandbox::new();
    let place = place(&sandbox);
    sandbox.fails(2, &["demo", "--dir", &place, "--size", "3"], &["nothing to write"]);
    sandbox.fails(1, &["demo", "--dir", &sandbox.word("none")], &["none"]);
    assert_clean(&sandbox);
}
