//! Goal: layouts by the program and by system calls, with servers that are killed. Method: the real program; four servers on one host, of which each
//! command is told which is its node's.

mod common;

use common::{Sandbox, pattern};
use std::fs;
use std::process::{Child, Command};

fn same(sandbox: &Sandbox, name: &str, content: &[u8]) {
    sandbox.ok(&["cp", &format!("h:{name}"), &sandbox.word("out")]);
    assert!(fs::read(sandbox.path("out")).unwrap() == content, "{name}");
}

/// The lines of `stat` that tell where a file lies.
fn places(sandbox: &Sandbox, name: &str) -> Vec<String> {
    let told = sandbox.ok(&["stat", name]);
    told.lines()
        .filter(|line| line.contains("layout:") || line.contains(" on:"))
        .map(|line| line.trim().to_owned())
        .collect()
}

#[test]
fn stat_shows_layout_and_servers_and_they_survive_kills() {
    let sandbox = Sandbox::new();
    sandbox.up(&["--nodes", "4"]);
    let content = pattern((5 << 20) + 17);
    fs::write(sandbox.path("in"), &content).unwrap();
    for layout in ["striped", "local,chunk=2M", "writer"] {
        let name = layout.split(',').next().unwrap();
        sandbox.ok_by(1, &["mkdir", "--layout", layout, &format!("/{name}")]);
        sandbox.ok_by(2, &["cp", &sandbox.word("in"), &format!("h:/{name}/file")]);
    }
    sandbox.fails(2, &["mkdir", "--layout", "nonsense", "/n"], &["striped, local or writer"]);
    let told = || ["/striped", "/local", "/local/file", "/writer/file"].map(|name| places(&sandbox, name));
    let before = told();
    assert_eq!(before[0], ["layout: striped,chunk=1M"]);
    assert_eq!(before[1], ["layout: local,chunk=2M"]);
    assert_eq!(before[2], ["layout: local,chunk=2M", "on: server 2, 3 chunks, 5.00 MiB"]);
    assert_eq!(before[3], ["layout: writer,chunk=1M", "on: server 2, 6 chunks, 5.00 MiB"]);
    assert!(places(&sandbox, "/striped/file").len() > 3, "{:?}", places(&sandbox, "/striped/file"));
    (0..4).for_each(|server| sandbox.kill_server(server));
    sandbox.ok(&["up", "--restart"]);
    for name in ["striped", "local", "writer"] {
        same(&sandbox, &format!("/{name}/file"), &content);
    }
    assert_eq!(told(), before);
    sandbox.ok(&["down", "--discard"]);
    sandbox.assert_nothing_left();
}

/// Mounts of two nodes write a shared file in turns, while servers are killed and started again: what write(2) returned for is there.
#[test]
fn acknowledged_bytes_of_a_shared_file_survive_kills() {
    let sandbox = Sandbox::new();
    sandbox.up(&["--nodes", "4"]);
    if !common::can_mount() {
        sandbox.ok(&["down", "--discard"]);
        return;
    }
    for node in 1..3_usize {
        fs::create_dir(sandbox.path(&format!("m{node}"))).unwrap();
        sandbox.ok_by(node, &["mount", &format!("m{node}")]);
    }
    fs::create_dir(sandbox.path("m1/dump")).unwrap();
    set(&sandbox, "m1/dump", "writer,chunk=256K").expect("a layout");
    assert_eq!(set(&sandbox, "m1/dump", "elsewhere").unwrap_err(), rustix::io::Errno::INVAL);
    let content = pattern(BLOCKS * BLOCK);
    fs::write(sandbox.path("in"), &content).unwrap();
    // By processes of their own: a child of one that has a file of the mount open would close it, and wait for the server it is to start.
    let mut writers = [1, 2].map(|node| writer(&sandbox, node));
    assert!(
        writers.iter_mut().all(|writer| writer.try_wait().unwrap().is_none()),
        "they write while servers die"
    );
    for victim in [2, 0] {
        sandbox.kill_server(victim);
        sandbox.ok(&["up", "--restart"]);
    }
    for writer in &mut writers {
        assert!(writer.wait().unwrap().success(), "every write is acknowledged");
    }
    assert!(fs::read(sandbox.path("m1/dump/shared")).unwrap() == content);
    same(&sandbox, "/dump/shared", &content);
    assert_eq!(set(&sandbox, "m2/dump/shared", "local").unwrap_err(), rustix::io::Errno::NOTEMPTY);
    let held = places(&sandbox, "/dump/shared");
    assert!(
        held[1..].iter().all(|line| line.contains("server 1,") || line.contains("server 2,")),
        "{held:?}"
    );
    for node in 1..3 {
        sandbox.ok(&["umount", &format!("m{node}")]);
    }
    sandbox.ok(&["down", "--discard"]);
    sandbox.assert_nothing_left();
}

fn set(sandbox: &Sandbox, name: &str, layout: &str) -> Result<(), rustix::io::Errno> {
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(sandbox.path(name), "user.hayate.layout", layout.as_bytes(), flags)
}

const BLOCK: usize = 192 << 10;
const BLOCKS: usize = 240;

/// Writes every second block through the mount of a node.
fn writer(sandbox: &Sandbox, node: usize) -> Child {
    let script = format!(
        "for i in $(seq {} 2 {}); do dd if=in of=m{node}/dump/shared bs={BLOCK} skip=$i seek=$i count=1 \
         conv=notrunc,fsync status=none || exit 1; done",
        node - 1,
        BLOCKS - 1
    );
    Command::new("sh").args(["-c", &script]).current_dir(sandbox.path("")).spawn().unwrap()
}
