//! Goal: mounts come, go, and are cleared away after a crash. Method: the real program; where FUSE is not available, that it says so.

mod common;

use common::{Sandbox, can_mount, has_ended, pattern, said, wait_until};
use rustix::process::Signal;
use std::fs;

fn with_mount_point() -> Sandbox {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("m")).unwrap();
    sandbox
}

/// The process that serves the mount.
fn mount_pid(sandbox: &Sandbox) -> u32 {
    let mounts: Vec<u32> = sandbox
        .processes()
        .into_iter()
        .filter(|(_, line)| line.contains(" mount "))
        .map(|(pid, _)| pid)
        .collect();
    assert_eq!(mounts.len(), 1);
    mounts[0]
}

#[test]
fn up_mounts_and_down_unmounts() {
    let sandbox = with_mount_point();
    if !can_mount() {
        sandbox.up_fails(1, &["--mount", &sandbox.word("m")], &["fuse"]);
        return;
    }
    sandbox.up(&["--nodes", "2", "--mount", &sandbox.word("m")]);
    let content = pattern(3_000_000);
    fs::write(sandbox.path("m/file"), &content).unwrap();
    assert!(sandbox.hayate(&["cat", "/file"]).output().unwrap().stdout == content);
    assert!(sandbox.ok(&["status"]).contains("mounted at"));
    sandbox.fails(1, &["mount", &sandbox.word("m")], &["mounted"]);
    let open = fs::File::open(sandbox.path("m/file")).unwrap();
    sandbox.fails(1, &["down", "--keep"], &["program uses it"]);
    drop(open);
    sandbox.ok(&["down", "--discard"]);
    sandbox.assert_nothing_left();
}

#[test]
fn mount_comes_and_goes_by_itself() {
    let sandbox = with_mount_point();
    sandbox.up(&[]);
    if !can_mount() {
        sandbox.fails(1, &["mount", &sandbox.word("m")], &["fuse"]);
        return;
    }
    sandbox.ok(&["mount", "m"]);
    assert_eq!(sandbox.mounts(), [sandbox.path("m")]);
    sandbox.ok(&["umount", "m"]);
    assert_eq!(sandbox.mounts(), [] as [std::path::PathBuf; 0]);
    sandbox.fails(2, &["umount", "m"], &["nothing is mounted"]);
    sandbox.fails(2, &["umount", "/proc"], &["not of Hayate"]);
    sandbox.ok(&["down", "--discard"]);
    sandbox.assert_nothing_left();
}

#[test]
fn sigterm_unmounts_a_mount_in_the_foreground() {
    let sandbox = with_mount_point();
    sandbox.up(&[]);
    if !can_mount() {
        sandbox.fails(1, &["mount", "--foreground", "m"], &["fuse"]);
        return;
    }
    let child = sandbox.hayate(&["mount", "--foreground", "m"]).spawn().unwrap();
    wait_until("the mount is live", || !sandbox.mounts().is_empty());
    wait_until("it answers", || fs::read_dir(sandbox.path("m")).is_ok());
    common::kill(child.id(), Signal::TERM);
    let said = said(child.wait_with_output().unwrap());
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(sandbox.mounts(), [] as [std::path::PathBuf; 0]);
    sandbox.ok(&["down", "--discard"]);
    sandbox.assert_nothing_left();
}

#[test]
fn dead_mount_is_cleared_by_mounting_again() {
    let sandbox = with_mount_point();
    sandbox.up(&[]);
    if !can_mount() {
        sandbox.fails(1, &["mount", "m"], &["fuse"]);
        return;
    }
    sandbox.ok(&["mount", "m"]);
    fs::write(sandbox.path("m/file"), "kept").unwrap();
    let pid = mount_pid(&sandbox);
    common::kill(pid, Signal::KILL);
    wait_until("the mount process is gone", || !sandbox.processes().iter().any(|(other, _)| *other == pid));
    wait_until("the mount is dead", || fs::metadata(sandbox.path("m")).is_err());
    sandbox.ok(&["mount", "m"]);
    assert_eq!(fs::read_to_string(sandbox.path("m/file")).unwrap(), "kept");
    let pid = mount_pid(&sandbox);
    common::kill(pid, Signal::KILL);
    wait_until("the mount process is gone", || !sandbox.processes().iter().any(|(other, _)| *other == pid));
    // `down` clears a dead one, too.
    sandbox.ok(&["down", "--discard"]);
    sandbox.assert_nothing_left();
}

/// Goal: `up --passthrough` reaches the mount that it makes. Method: the command line of the mount's process; what works in such a mount works with it or without, as the
/// kernel and the user allow it (what it does to files that are hot: `tests/tests/passthrough.rs`).
#[test]
fn up_mounts_with_passthrough() {
    let sandbox = with_mount_point();
    sandbox.fails(2, &["up", "--passthrough"], &["--mount"]);
    sandbox.fails(2, &["server", "--id", "0", "--passthrough"], &["--mount"]);
    let up = ["--nodes", "2", "--mount", &sandbox.word("m"), "--passthrough"];
    if !can_mount() {
        sandbox.up_fails(1, &up, &["fuse"]);
        return;
    }
    sandbox.up(&up);
    let pid = mount_pid(&sandbox);
    let line = sandbox.processes().into_iter().find(|(other, _)| *other == pid).unwrap().1;
    assert!(line.contains(" --passthrough "), "{line}");
    works_as_ever(&sandbox);
    sandbox.ok(&["down", "--discard"]);
    sandbox.assert_nothing_left();
}

/// The same of a mount that is part of its server, which has no command line of its own: by what the server's log says of it, also after the server was started again.
#[test]
fn up_mounts_inside_with_passthrough() {
    let sandbox = with_mount_point();
    if !can_mount() {
        return;
    }
    sandbox.up(&["--mount", &sandbox.word("m"), "--mount-inside", "--passthrough"]);
    works_as_ever(&sandbox);
    tells_of_passthrough(&sandbox, 1);
    kill_with_its_mount(&sandbox);
    sandbox.ok(&["up", "--restart"]);
    wait_until("it is mounted again", || fs::read(sandbox.path("m/file")).is_ok());
    tells_of_passthrough(&sandbox, 2);
    sandbox.ok(&["down", "--discard"]);
    // Without the word nothing is said of it.
    sandbox.up(&["--mount", &sandbox.word("m"), "--mount-inside"]);
    works_as_ever(&sandbox);
    tells_of_passthrough(&sandbox, 0);
    // A server that is started by hand says for itself how it mounts.
    kill_with_its_mount(&sandbox);
    let by_hand = ["server", "--id", "0", "--mount", &sandbox.word("m"), "--passthrough"];
    let output = fs::File::create(sandbox.path("server.log")).unwrap();
    let mut command = sandbox.hayate(&["--log", "info"]);
    let mut server = command.args(by_hand).stderr(output).spawn().unwrap();
    wait_until("it is mounted again", || fs::read(sandbox.path("m/file")).is_ok());
    let said = fs::read_to_string(sandbox.path("server.log")).unwrap();
    assert!(said.contains("--passthrough"), "{said}");
    sandbox.ok(&["down", "--discard"]);
    server.wait().unwrap();
    sandbox.assert_nothing_left();
}

/// Kills server 0, which the mount is a part of.
fn kill_with_its_mount(sandbox: &Sandbox) {
    sandbox.kill_server(0);
    wait_until("the mount is dead", || fs::metadata(sandbox.path("m")).is_err());
}

/// Lines of the log of server 0 that tell that the mount passes files through, or why it does not.
fn tells_of_passthrough(sandbox: &Sandbox, times: usize) {
    let logs = sandbox.run_dirs().into_iter().map(|dir| dir.join("server-0.log"));
    let text: String = logs.filter_map(|log| fs::read_to_string(log).ok()).collect();
    assert_eq!(text.matches("--passthrough").count(), times, "{text}");
}

/// Writes, reads and changes a file.
fn works_as_ever(sandbox: &Sandbox) {
    let path = sandbox.path("m/file");
    let mut content = pattern(3_000_000);
    fs::write(&path, &content).unwrap();
    assert!(fs::read(&path).unwrap() == content);
    content.truncate(2_000_000);
    fs::File::options().write(true).open(&path).unwrap().set_len(2_000_000).unwrap();
    assert!(fs::read(&path).unwrap() == content);
}

/// A mount that is part of its server: no process of its own, goes with the server on SIGTERM, comes back with it, and is unmounted by `down`.
#[test]
fn a_mount_inside_its_server_comes_and_goes_with_it() {
    let sandbox = with_mount_point();
    sandbox.fails(2, &["up", "--mount-inside"], &["--mount"]);
    let up = ["--nodes", "2", "--mount", &sandbox.word("m"), "--mount-inside"];
    if !can_mount() {
        sandbox.up_fails(1, &up, &["fuse"]);
        return;
    }
    sandbox.up(&up);
    assert!(sandbox.processes().iter().all(|(_, line)| !line.contains(" mount ")));
    let content = pattern(3_000_000);
    fs::write(sandbox.path("m/file"), &content).unwrap();
    assert!(fs::read(sandbox.path("m/file")).unwrap() == content);
    let server = sandbox.server_pids()[0];
    common::kill(server, Signal::TERM);
    wait_until("the mount is gone with its server", || sandbox.mounts().is_empty());
    wait_until("the server has ended", || has_ended(server));
    sandbox.ok(&["up", "--restart"]);
    wait_until("it is mounted after a restart", || sandbox.mounts() == [sandbox.path("m")]);
    assert!(fs::read(sandbox.path("m/file")).unwrap() == content);
    // Killed, it leaves a dead mount, which the next start clears away.
    sandbox.kill_server(0);
    wait_until("the mount is dead", || fs::read(sandbox.path("m/file")).is_err());
    sandbox.ok(&["up", "--restart"]);
    wait_until("it is mounted again", || {
        fs::read(sandbox.path("m/file")).is_ok_and(|found| found == content)
    });
    let open = fs::File::open(sandbox.path("m/file")).unwrap();
    sandbox.fails(1, &["down", "--keep"], &["program uses it"]);
    drop(open);
    sandbox.ok(&["down", "--discard"]);
    sandbox.assert_nothing_left();
}
