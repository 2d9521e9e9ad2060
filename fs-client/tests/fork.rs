//! Goal: forked children go on using their parent's client, each under an identity of its own, and the parent is not disturbed, however they end.
//! Method: a program of its own (a test harness would have threads in the way) that forks twice while it has connections and an open file, and
//! once more for a child that ends by exit(3) without having used anything.

#![allow(dead_code)] // The support modules serve the other tests, too.

#[path = "fake/support.rs"]
mod support;
#[path = "fake/world.rs"]
mod world;

use std::panic::AssertUnwindSafe;

use fs_client::{Caller, Client, InodeId, OpenFlags};
use support::FakeCluster;

const CHILD_DONE: i32 = 42;

fn main() {
    let cluster = FakeCluster::start(2);
    let client = cluster.client();
    let flags = OpenFlags::READ_WRITE;
    let (file, _) = client.create_open(&Caller::ROOT, InodeId::ROOT, b"parent", 0o644, flags, true).unwrap();
    file.write_at(b"parent", 0).unwrap();
    cluster.control.take_seen();

    for name in [&b"child"[..], b"twin"] {
        let child = forked(|| in_child(&client, &file, name));
        in_parent(&client, &file, child);
    }
    let idle = forked(|| std::process::exit(CHILD_DONE));
    in_parent(&client, &file, idle);

    let seen = cluster.control.take_seen();
    let clients: std::collections::BTreeSet<u64> = seen.iter().map(|s| s.header.client.0).collect();
    assert_eq!(clients.len(), 3, "parent and children are three clients: {seen:?}");
    assert!(client.lookup(&Caller::ROOT, InodeId::ROOT, b"child").unwrap().is_dir());
    println!("a forked child is a client of its own: ok");
}

/// Forks, and lets the child do this.
fn forked(work: impl FnOnce()) -> i32 {
    // SAFETY: the other threads (servers, housekeeper) wait in the kernel and hold no locks that the child takes.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        // SAFETY: takes and returns an integer. A child that hangs is ended, and the parent says so.
        unsafe { libc::alarm(60) };
        let done = std::panic::catch_unwind(AssertUnwindSafe(work));
        // SAFETY: ends the child here, without the parent's destructors.
        unsafe { libc::_exit(if done.is_ok() { CHILD_DONE } else { 1 }) };
    }
    pid
}

fn in_child(client: &Client, file: &fs_client::File, name: &[u8]) {
    client.mkdir(&Caller::ROOT, InodeId::ROOT, name, 0o755).unwrap();
    assert_eq!(file.read_bytes_at(1, 5).unwrap().len(), 1);
    std::thread::scope(|scope| {
        scope.spawn(|| client.getattr(&Caller::ROOT, InodeId::ROOT).unwrap());
    });
}

fn in_parent(client: &Client, file: &fs_client::File, child: i32) {
    // The connections still work while the child lives, and after.
    client.getattr(&Caller::ROOT, file.ino()).unwrap();
    let mut status = 0;
    // SAFETY: `status` lives through the call.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == CHILD_DONE, "child ended with {status}");
    file.write_at(b"again", 0).unwrap();
    client.getattr(&Caller::ROOT, file.ino()).unwrap();
}
