//! Goal: the two tiers together, as a user has them: what was in tier 2 before is used like anything else, and more is written and read than tier 1
//! holds. Method: the real program, a mount where there is one, trees compared.

mod common;

use common::{Sandbox, can_mount, pattern, tree};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// A tree of an earlier job.
fn grow(root: &Path) {
    fs::create_dir_all(root.join("old/deep/empty")).unwrap();
    for index in 0..300_usize {
        fs::write(root.join(format!("old/f{index}")), pattern(index * 37)).unwrap();
    }
    fs::write(root.join("old/deep/large"), pattern(5_000_000)).unwrap();
    fs::write(root.join("old/deep/gone"), pattern(3_000_000)).unwrap();
    fs::set_permissions(root.join("old/f7"), fs::Permissions::from_mode(0o751)).unwrap();
    std::os::unix::fs::symlink("deep/large", root.join("old/l")).unwrap();
}

/// What the new job does with it.
fn work(root: &Path) {
    fs::rename(root.join("old/deep"), root.join("old/moved")).unwrap();
    fs::remove_file(root.join("old/moved/gone")).unwrap();
    fs::remove_dir(root.join("old/moved/empty")).unwrap();
    fs::rename(root.join("old/f1"), root.join("old/f2")).unwrap();
    fs::write(root.join("old/f3"), pattern(2_500_000)).unwrap();
    fs::set_permissions(root.join("old/f4"), fs::Permissions::from_mode(0o600)).unwrap();
    let large = fs::OpenOptions::new().write(true).open(root.join("old/moved/large")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&large, b"in the middle", 2_100_000).unwrap();
    large.set_len(4_000_000).unwrap();
    fs::create_dir(root.join("new")).unwrap();
    fs::write(root.join("new/file"), pattern(1_500_000)).unwrap();
    fs::hard_link(root.join("old/f9"), root.join("new/f9")).unwrap();
}

#[test]
fn a_tree_of_before_is_used_and_ends_right() {
    let sandbox = Sandbox::new();
    let (tier, twin) = (sandbox.path("tier"), sandbox.path("twin"));
    grow(&tier);
    fs::create_dir(&twin).unwrap();
    grow(&twin);
    fs::create_dir(sandbox.path("m")).unwrap();
    let (tier_word, mount) = (sandbox.word("tier"), sandbox.word("m"));
    let mut words = vec!["--nodes", "3", "--tier", &tier_word];
    if can_mount() {
        words.extend(["--mount", &mount]);
    }
    sandbox.up(&words);
    assert!(sandbox.ok(&["ls", "/old"]).contains("f299"));
    assert!(sandbox.hayate(&["cat", "/old/deep/large"]).output().unwrap().stdout == pattern(5_000_000));
    let said = sandbox.ok(&["stage", "/old/deep", "/old/f5"]);
    assert!(said.contains("3 files"), "{said}");
    sandbox.fails(1, &["stage", "/none"], &["/none"]);
    sandbox.ok(&["cp", "-r", "h:/old", &sandbox.word("out")]);
    assert_eq!(tree(&twin.join("old")), tree(&sandbox.path("out")));
    if can_mount() {
        assert_eq!(tree(&twin), tree(&sandbox.path("m")));
        work(&sandbox.path("m"));
        work(&twin);
    } else {
        sandbox.ok(&["rm", "/old/deep/gone"]);
        fs::remove_file(twin.join("old/deep/gone")).unwrap();
    }
    sandbox.ok(&["down", "--drain"]);
    assert_eq!(tree(&twin), tree(&tier));
    sandbox.assert_nothing_left();
}

/// Kills all servers and starts them after `meanwhile`: they serve `/before` and take `/while`.
fn start_again(sandbox: &Sandbox, data: &[u8], meanwhile: impl FnOnce()) {
    let has = |name| sandbox.hayate(&["cat", name]).output().unwrap().stdout == data;
    for pid in sandbox.server_pids() {
        common::kill(pid, rustix::process::Signal::KILL);
    }
    meanwhile();
    sandbox.ok(&["up", "--restart"]);
    assert!(has("/before"));
    sandbox.ok(&["cp", &sandbox.word("in"), "h:/while"]);
    assert!(has("/while"));
}

/// Everything of [`start_again`] gets into the tier.
fn drain_all(sandbox: &Sandbox, data: &[u8]) {
    sandbox.ok(&["down", "--drain"]);
    for name in ["before", "while"] {
        assert!(fs::read(sandbox.path("tier").join(name)).unwrap() == data, "{name}");
    }
    sandbox.assert_nothing_left();
}

#[test]
fn a_server_starts_while_the_tier_is_away() {
    // Goal: servers that were killed start again on their stores though the tier is not mounted, and serve what is there; once the tier is back
    // everything gets there. A first start refuses a tier that is not there.
    let sandbox = Sandbox::new();
    let (tier, away, data) = (sandbox.word("tier"), sandbox.path("away"), pattern(3_000_000));
    sandbox.up_fails(2, &["--nodes", "2", "--tier", &sandbox.word("none")], &["none"]);
    sandbox.up(&["--nodes", "2", "--tier", &tier, "--flush-delay", "600000"]);
    fs::write(sandbox.path("in"), &data).unwrap();
    sandbox.ok(&["cp", &sandbox.word("in"), "h:/before"]);
    start_again(&sandbox, &data, || fs::rename(&tier, &away).unwrap());
    sandbox.fails(3, &["flush", "--wait", "--stall", "3"], &["tier"]);
    fs::rename(&away, &tier).unwrap();
    drain_all(&sandbox, &data);
}

#[test]
fn an_unmounted_tier_gets_nothing() {
    // Goal: servers that start again while an empty directory is where the tier was mounted put nothing there and say why; once it is mounted again everything gets there.
    let sandbox = Sandbox::new();
    let (tier, away, data) = (sandbox.word("tier"), sandbox.path("away"), pattern(3_000_000));
    sandbox.up(&["--nodes", "2", "--tier", &tier]);
    fs::write(sandbox.path("in"), &data).unwrap();
    sandbox.ok(&["cp", &sandbox.word("in"), "h:/before"]);
    sandbox.ok(&["flush", "--wait"]);
    start_again(&sandbox, &data, || {
        fs::rename(&tier, &away).unwrap();
        fs::create_dir(&tier).unwrap();
    });
    sandbox.fails(3, &["flush", "--wait", "--stall", "3"], &["mount the file system"]);
    // Only an empty directory can be removed so.
    fs::remove_dir(&tier).unwrap();
    fs::rename(&away, &tier).unwrap();
    drain_all(&sandbox, &data);
}

/// Most memory that each server has used, in KiB.
fn peaks(sandbox: &Sandbox) -> Vec<u64> {
    let peak = |pid: &u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    sandbox.server_pids().iter().map(peak).collect()
}

/// Bytes of file `index` of the set.
fn part(index: usize) -> Vec<u8> {
    let mut data = pattern(3_000_000 + index);
    data.rotate_left(index * 7 % 1_000);
    data[..8].copy_from_slice(&(index as u64).to_le_bytes());
    data
}

const FILES_OF_PART: usize = 11;

/// Writes a part of the set.
fn write_part(sandbox: &Sandbox, number: usize) {
    let from = sandbox.path(&format!("from{number}"));
    fs::create_dir(&from).unwrap();
    for file in 0..FILES_OF_PART {
        fs::write(from.join(format!("f{file}")), part(number * FILES_OF_PART + file)).unwrap();
    }
    sandbox.ok(&["cp", "-r", from.to_str().unwrap(), &format!("h:/part{number}")]);
}

/// Reads a part, and compares it.
fn read_part(sandbox: &Sandbox, number: usize) {
    let to = sandbox.path(&format!("to{number}"));
    sandbox.ok(&["cp", "-r", &format!("h:/part{number}"), to.to_str().unwrap()]);
    assert!(tree(&to) == tree(&sandbox.path(&format!("from{number}"))), "part {number}");
    fs::remove_dir_all(&to).unwrap();
}

/// What the peak may grow by afterwards: pages of tables and caches that were not touched before.
const SLACK_KIB: u64 = 8 << 10;

/// Three times what tier 1 holds is written, then read and verified, without an error, and the servers' memory stays what it was after once as much was written
/// and read: everything has been in use by then.
#[test]
fn a_working_set_of_three_times_tier_1_goes_through() {
    const PARTS: usize = 6;
    let sandbox = Sandbox::new();
    let more = ["--nodes", "2", "--capacity", "32M", "--memory", "64M", "--tier", &sandbox.word("tier")];
    sandbox.up(&more);
    let once = PARTS / 3;
    (0..once).for_each(|number| write_part(&sandbox, number));
    (0..once).for_each(|number| read_part(&sandbox, number));
    let early = peaks(&sandbox);
    (once..PARTS).for_each(|number| write_part(&sandbox, number));
    (0..PARTS).for_each(|number| read_part(&sandbox, number));
    let status = sandbox.ok(&["status", "--json"]);
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    for server in status["servers"].as_array().unwrap() {
        let backing = &server["status"]["backing"];
        assert!(backing["evicted_bytes"].as_u64() > Some(32 << 20), "{backing}");
    }
    let late = peaks(&sandbox);
    println!("peaks in KiB: {early:?} after once as much as tier 1 holds, {late:?} after three times");
    for (before, after) in early.iter().zip(late) {
        assert!(after < before + SLACK_KIB, "memory grew from {before} to {after} KiB");
    }
    sandbox.ok(&["down", "--drain"]);
    for number in 0..PARTS {
        let (from, to) =
            (sandbox.path(&format!("from{number}")), sandbox.path(&format!("tier/part{number}")));
        assert!(tree(&from) == tree(&to), "part {number} in the tier");
    }
    sandbox.assert_nothing_left();
}

/// Files go to the tier by themselves when the end of the job comes near, though their delay is ten minutes: said by hand, and by Slurm.
#[test]
fn files_go_by_themselves_before_the_deadline() {
    // The deadline is near a minute before it.
    const AHEAD_S: u64 = 65;
    for by_slurm in [false, true] {
        let mut sandbox = Sandbox::new();
        let (tier, ahead) = (sandbox.word("tier"), format!("+{AHEAD_S}"));
        let mut words = vec!["--nodes", "2", "--tier", &tier, "--flush-delay", "600000"];
        if by_slurm {
            let end = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() + AHEAD_S;
            sandbox.variables.push(("SLURM_JOB_END_TIME", end.to_string()));
        } else {
            words.extend(["--deadline", &ahead]);
        }
        sandbox.up(&words);
        fs::create_dir(sandbox.path("from")).unwrap();
        for index in 0..20_usize {
            fs::write(sandbox.path(&format!("from/f{index}")), pattern(index * 100_000)).unwrap();
        }
        sandbox.ok(&["cp", "-r", &sandbox.word("from"), "h:/run"]);
        let is_there = || {
            let (from, to) = (sandbox.path("from"), sandbox.path("tier/run"));
            to.exists() && tree(&from) == tree(&to)
        };
        common::wait_until("files in the tier", is_there);
        sandbox.ok(&["down", "--drain"]);
        sandbox.assert_nothing_left();
    }
}
