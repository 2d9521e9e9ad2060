//! Goal: `down --drain` ends with everything in tier 2, or says what is not and stops nothing. Method: trees compared, and a tier
//! that goes away.

mod common;

use common::{Sandbox, pattern, tree};
use std::fs;
use std::os::unix::fs::PermissionsExt;

fn fill(sandbox: &Sandbox) {
    let from = sandbox.path("from");
    fs::create_dir_all(from.join("deep/empty")).unwrap();
    for index in 0..20_usize {
        fs::write(from.join(format!("f{index}")), pattern(index * 100_000)).unwrap();
    }
    fs::write(from.join("deep/x"), "x").unwrap();
    fs::set_permissions(from.join("deep/x"), fs::Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::symlink("deep/x", from.join("l")).unwrap();
    sandbox.ok(&["cp", "-r", &sandbox.word("from"), "h:/run"]);
}

#[test]
fn everything_is_in_the_tier() {
    let sandbox = Sandbox::new();
    sandbox.up(&["--nodes", "3", "--tier", &sandbox.word("tier")]);
    fill(&sandbox);
    sandbox.ok(&["flush", "/run"]);
    sandbox.fails(1, &["flush", "/none"], &["/none"]);
    assert!(sandbox.ok(&["flush", "--wait"]).contains("nothing unsafe"));
    assert_eq!(tree(&sandbox.path("from")), tree(&sandbox.path("tier/run")));
    let said = sandbox.ok(&["down"]);
    assert!(said.contains("21 files") && said.contains("nothing unsafe"), "{said}");
    assert!(said.contains(&format!("{} bytes", (0..20).map(|i| i * 100_000).sum::<usize>() + 1)), "{said}");
    assert_eq!(tree(&sandbox.path("from")), tree(&sandbox.path("tier/run")));
    sandbox.assert_nothing_left();
}

#[test]
fn tier_that_goes_away_is_told_and_nothing_stops() {
    let sandbox = Sandbox::new();
    sandbox.up(&["--nodes", "2", "--tier", &sandbox.word("tier")]);
    fs::remove_dir_all(sandbox.path("tier")).unwrap();
    fs::write(sandbox.path("in"), "precious").unwrap();
    sandbox.ok(&["cp", &sandbox.word("in"), "h:/precious"]);
    let message =
        sandbox.fails(3, &["down", "--drain", "--stall", "5"], &["NOT safe", "nothing was stopped"]);
    assert!(message.contains("precious"), "{message}");
    assert_eq!(sandbox.ok(&["cat", "/precious"]), "precious");
    fs::create_dir(sandbox.path("tier")).unwrap();
    sandbox.ok(&["down", "--drain"]);
    assert_eq!(fs::read_to_string(sandbox.path("tier/precious")).unwrap(), "precious");
    sandbox.assert_nothing_left();
}

/// A server that is dead holds data that cannot be drained: nothing is stopped, and a restart makes it whole.
#[test]
fn dead_server_keeps_drain_from_ending() {
    let sandbox = Sandbox::new();
    sandbox.up(&["--nodes", "2", "--tier", &sandbox.word("tier"), "--flush-delay", "600000"]);
    fill(&sandbox);
    common::kill(sandbox.server_pids()[1], rustix::process::Signal::KILL);
    sandbox.fails(3, &["down"], &["server 1 does not answer", "--restart"]);
    sandbox.ok(&["up", "--restart"]);
    sandbox.ok(&["down"]);
    assert_eq!(tree(&sandbox.path("from")), tree(&sandbox.path("tier/run")));
    sandbox.assert_nothing_left();
}
