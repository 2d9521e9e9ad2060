//! Goal: `down --drain` ends with everything in tier 2, or says what is not and stops nothing. Method: trees compared, and a tier
//! that goes away.

mod common;

use bytes::Bytes;
use common::{Sandbox, pattern, said, tree, wait_until};
use fs_client::{Client, ServerId};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

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
    assert!(message.contains(": 1 names"), "{message}");
    let lines = report(&sandbox.path("report"));
    assert_eq!((lines.len(), lines[0]["path"].as_str()), (1, Some("/precious")), "{lines:?}");
    assert!(lines[0]["reason"].as_str().unwrap().contains("shared tier"), "{lines:?}");
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

/// The lines of a list of what is not safe.
fn report(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Where the list is if nobody says where it should go.
fn default_report(sandbox: &Sandbox) -> PathBuf {
    let job = sandbox.cluster()["job"].as_str().unwrap().to_owned();
    sandbox.path(&format!("hayate-unsafe-{job}.jsonl"))
}

/// How many names the servers list as not safe, all together: what a report would have now.
fn listed_names(client: &Client, servers: u16) -> usize {
    (0..servers)
        .map(|server| {
            let (mut after, mut names) = (Bytes::new(), 0);
            loop {
                let page = client.flush_list(ServerId(server), after).unwrap();
                names += page.names.len();
                if page.next.is_empty() {
                    return names;
                }
                after = page.next;
            }
        })
        .sum()
}

/// The paths of a list, sorted.
fn paths(lines: &[Value]) -> Vec<String> {
    let mut paths: Vec<String> =
        lines.iter().filter_map(|line| Some(line["path"].as_str()?.to_owned())).collect();
    paths.sort();
    paths
}

/// A drain that is ended by a signal while thousands of names wait tells all of them, and nothing else.
/// Method: names that the tier refuses, because somebody else's directories are under every second of them there, so that what is left stays the same while it is
/// listed; SIGTERM when all others have arrived. The list has to be the difference of the trees.
#[test]
fn an_interrupted_drain_lists_exactly_what_is_not_there() {
    const NAMES: usize = 3_000;
    let sandbox = Sandbox::new();
    sandbox.up(&["--nodes", "2", "--tier", &sandbox.word("tier"), "--flush-delay", "600000"]);
    fs::create_dir(sandbox.path("run")).unwrap();
    sandbox.ok(&["mkdir", "/run"]);
    sandbox.ok(&["flush", "/run", "--wait"]);
    for index in 0..NAMES {
        fs::write(sandbox.path(&format!("run/f{index}")), index.to_string()).unwrap();
        if index % 2 == 1 {
            fs::create_dir_all(sandbox.path(&format!("tier/run/f{index}/theirs"))).unwrap();
        }
    }
    sandbox.ok(&["cp", "-r", &sandbox.word("run"), "h:/"]);
    let mut command = sandbox.hayate(&["down", "--drain"]);
    let down = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let is_there = |index: usize| sandbox.path(&format!("tier/run/f{index}")).is_file();
    wait_until("all that can arrive", || (0..NAMES).step_by(2).all(is_there));
    // And is written down: a name is in the tier a moment before its owner forgets that it is not.
    let client = sandbox.client();
    wait_until("nothing else to be listed", || listed_names(&client, 2) == NAMES / 2);
    drop(client);
    common::kill(down.id(), rustix::process::Signal::TERM);
    let said = said(down.wait_with_output().unwrap());
    assert_eq!(said.code, Some(130), "{said:?}");
    assert!(said.err.contains("hayate-unsafe-"), "{said:?}");
    let mut missing: Vec<String> =
        (0..NAMES).filter(|index| !is_there(*index)).map(|index| format!("/run/f{index}")).collect();
    missing.sort();
    assert_eq!(missing.len(), NAMES / 2);
    let lines = report(&default_report(&sandbox));
    assert_eq!((paths(&lines), lines.len()), (missing, NAMES / 2));
    // Nothing was stopped; and once all is safe the list is gone.
    for index in (1..NAMES).step_by(2) {
        fs::remove_dir_all(sandbox.path(&format!("tier/run/f{index}"))).unwrap();
    }
    let list = default_report(&sandbox);
    sandbox.ok(&["down", "--drain"]);
    assert!(!list.exists(), "a list of what is safe by now");
    assert_eq!(tree(&sandbox.path("run")), tree(&sandbox.path("tier/run")));
    sandbox.assert_nothing_left();
}

/// A server that is dead holds data that cannot be drained: nothing is stopped, the list says so and has what the others hold, and a restart makes it whole.
#[test]
fn dead_server_keeps_drain_from_ending() {
    let sandbox = Sandbox::new();
    sandbox.up(&["--nodes", "2", "--tier", &sandbox.word("tier"), "--flush-delay", "600000"]);
    fill(&sandbox);
    sandbox.kill_server(1);
    let message =
        sandbox.fails(3, &["down"], &["server 1 does not answer", "--restart", "without those of 1 servers"]);
    let list = default_report(&sandbox);
    let lines = report(&list);
    assert!(message.contains(list.file_name().unwrap().to_str().unwrap()), "{message}");
    let unknown: Vec<&Value> = lines.iter().filter(|line| line.get("path").is_none()).collect();
    assert_eq!((unknown.len(), &unknown[0]["server"]), (1, &Value::from(1)), "{lines:?}");
    let reason = unknown[0]["reason"].as_str().unwrap();
    // Why, too: it may be a network and no dead server.
    assert!(reason.contains("not known: ") && reason.contains("refused"), "{lines:?}");
    // And elsewhere, if somebody says where; behind a link, or in another program.
    sandbox.fails(3, &["down", "--report", &sandbox.word("told")], &["told"]);
    assert_eq!(report(&sandbox.path("told")), lines);
    std::os::unix::fs::symlink("target", sandbox.path("link")).unwrap();
    sandbox.fails(3, &["down", "--report", &sandbox.word("link")], &["link"]);
    assert_eq!(report(&sandbox.path("target")), lines);
    assert!(sandbox.path("link").is_symlink());
    let said = sandbox.run(&["down", "--report", "/dev/stdout"]);
    let piped: Vec<Value> = said.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((said.code, &piped), (Some(3), &lines), "{said:?}");
    // With nobody left to ask, all are named.
    sandbox.kill_server(0);
    sandbox.fails(3, &["down"], &["server 0, 1 does not answer"]);
    let servers: Vec<Value> = report(&list).iter().map(|line| line["server"].clone()).collect();
    assert_eq!(servers, [0, 1].map(Value::from));
    sandbox.ok(&["up", "--restart"]);
    sandbox.ok(&["down"]);
    assert!(!list.exists(), "a list of what is safe by now");
    assert_eq!(tree(&sandbox.path("from")), tree(&sandbox.path("tier/run")));
    sandbox.assert_nothing_left();
}
