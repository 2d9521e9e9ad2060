//! Goal: a forked child goes on using its parent's client, under an identity of its own, and the parent is not disturbed. Method:
//! a program of its own (a test harness would have threads in the way) that forks while it has connections and an open file.

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

    // SAFETY: the other threads (servers, housekeeper) wait in the kernel and hold no locks that the child takes.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        // SAFETY: takes and returns an integer. A child that hangs is ended, and the parent says so.
        unsafe { libc::alarm(60) };
        let done = std::panic::catch_unwind(AssertUnwindSafe(|| in_child(&client, &file)));
        // SAFETY: ends the child here, without the parent's destructors.
        unsafe { libc::_exit(if done.is_ok() { CHILD_DONE } else { 1 }) };
    }
    in_parent(&client, &file, pid);

    let seen = cluster.control.take_seen();
    let clients: std::collections::BTreeSet<u64> = seen.iter().map(|s| s.header.client.0).collect();
    assert_eq!(clients.len(), 2, "parent and child are two clients: {seen:?}");
    assert!(client.lookup(&Caller::ROOT, InodeId::ROOT, b"child").unwrap().is_dir());
    println!("a forked child is a client of its own: ok");
}

fn in_child(client: &Client, file: &fs_client::File) {
    client.mkdir(&Caller::ROOT, InodeId::ROOT, b"child", 0o755).unwrap();
    assert_eq!(file.read_bytes_at(6, 0).unwrap(), "parent");
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
