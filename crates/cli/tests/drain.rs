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
    let message = sandbox.fails(
        3,
        &["down", "--drain", "--stall", "5", "--report", &sandbox.word("report")],
        &["NOT safe", "nothing was stopped"],
    );
    assert!(message.contains("precious"), "{message}");
    let report = fs::read_to_string(sandbox.path("report")).unwrap();
    let lines: Vec<serde_json::Value> =
        report.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines.len(), lines[0]["path"].as_str()), (1, Some("/precious")), "{report}");
    assert!(lines[0]["reason"].as_str().unwrap().contains("shared tier"), "{report}");
    assert_eq!(sandbox.ok(&["cat", "/precious"]), "precious");
    fs::create_dir(sandbox.path("tier")).unwrap();
    sandbox.ok(&["down", "--drain"]);
    assert_eq!(fs::read_to_string(sandbox.path("tier/precious")).unwrap(), "precious");
    sandbox.assert_nothing_left();
}

/// Files and bytes of the drain's last line: `N files, N bytes ...`.
fn account(said: &str) -> (usize, u64) {
    let words: Vec<&str> = said.lines().last().unwrap().split_whitespace().collect();
    let number = |unit: &str| {
        let at = words.iter().position(|word| word.trim_end_matches(',') == unit).unwrap();
        words[at - 1].parse::<u64>().unwrap()
    };
    (number("files") as usize, number("bytes"))
}

/// Goal: the account names every file and byte of the tier once, also what was flushed before servers were killed.
/// Method: closed files that nobody changes any more; flushing begins, and when a part has arrived all servers, or one, get SIGKILL.
#[test]
fn account_is_exact_after_kills() {
    const FILES: usize = 1_200;
    let sandbox = Sandbox::new();
    sandbox.up(&["--nodes", "3", "--tier", &sandbox.word("tier"), "--flush-delay", "600000"]);
    let from = sandbox.path("from");
    fs::create_dir(&from).unwrap();
    for index in 0..FILES {
        // Every sixtieth has chunks on all servers.
        let bytes = if index % 60 == 0 { 3_000_000 + index } else { index * 7 };
        fs::write(from.join(format!("f{index}")), pattern(bytes)).unwrap();
    }
    sandbox.ok(&["cp", "-r", &sandbox.word("from"), "h:/run"]);
    let arrived = || fs::read_dir(sandbox.path("tier/run")).map_or(0, Iterator::count);
    for (part, victims) in [(FILES / 20, 0..3), (FILES / 8, 1..2), (FILES / 4, 0..3), (FILES / 2, 2..3)] {
        // Restarted servers would wait for writers to report, but for one who asks for everything.
        sandbox.kill_in_flush(victims, arrived, part..FILES);
    }
    let said = sandbox.ok(&["down", "--drain"]);
    assert!(said.contains("nothing unsafe"), "{said}");
    let flushed = tree(&sandbox.path("tier/run"));
    assert_eq!(tree(&from), flushed);
    let bytes = flushed.iter().map(|(_, _, content)| content.len() as u64).sum();
    assert_eq!(account(&said), (flushed.len(), bytes), "{said}");
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
