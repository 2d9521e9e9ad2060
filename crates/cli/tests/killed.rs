//! Goal: a client that goes without a word, killed (SIGKILL) at any point of what it does, or behind a network that passes nothing any more, leaves nothing at
//! its servers: no buffer, no connection, no shared memory, no descriptor, no mapping, no lock, no open file; and others go on meanwhile.
//! Method: real servers, and processes (this program again, as a client) that write, read, open, lock, make and list over shared memory, Unix sockets and TCP, some
//! of them by a gateway, each killed after a random time; what the servers say of themselves, and what the kernel says of them, is then what it was before.
//! With `HAYATE_TEST_LONG` a thousand are killed, and what is open is waited for until its lease is over, and connections between servers until they are idle.

mod common;
#[path = "killed/network.rs"]
mod network;
#[path = "killed/server.rs"]
mod server;
#[path = "killed/work.rs"]
mod work;

use common::{Sandbox, skip, wait_until};
use network::Network;
use server::Left;
use std::collections::VecDeque;
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const SERVERS: usize = 2;
/// Clients alive at once.
const AT_ONCE: usize = 6;
/// Threads that serve, of each server.
const WORKERS: usize = 2;
/// Connections between servers, seen by one, while they are not idle yet: both directions, each thread its own (those that serve, the flusher, the first,
/// errands), one of them for data.
const PEER_CONNECTIONS: u64 = 2 * 2 * (WORKERS as u64 + 3) * (SERVERS as u64 - 1);
/// Connections of the client that goes on while another's network is cut: of its thread, and of what it does beside.
const OTHERS_CONNECTIONS: u64 = 3;
/// Locks of who was reached by TCP end with their lease of 30 s; a peer that moves nothing is cut off after 30 to 60 s.
const RELEASED: Duration = Duration::from_secs(75);
/// The lease of what is open, and the server's next look.
const OPENS_RELEASED: Duration = Duration::from_secs(120);

fn is_long() -> bool {
    std::env::var_os("HAYATE_TEST_LONG").is_some()
}

fn killed() -> usize {
    if is_long() { 1_000 } else { 100 }
}

/// Not a test of its own: what a client process does until it is killed.
#[test]
fn a_client_that_works_for_ever() {
    work::for_ever_if_told();
}

#[test]
fn killed_clients_leave_nothing_at_real_servers() {
    if work::is_child() {
        return;
    }
    let sandbox = Sandbox::new();
    let workers = WORKERS.to_string();
    sandbox.up(&["--nodes", &SERVERS.to_string(), "--memory", "128M", "--workers", &workers]);
    work::prepare(&sandbox);
    let before = Left::of_idle(&sandbox);
    let most = slaughter(&sandbox, killed());
    let had = (most.iter().all(Left::had_clients), most.iter().any(|most| most.opens > 0 && most.locks > 0));
    assert!(had == (true, true), "they had nothing at the servers that could be left: {most:?}");
    released(&sandbox, &before);
    work::assert_usable(&sandbox);
    sandbox.ok(&["down", "--discard"]);
    sandbox.assert_nothing_left();
}

/// Starts clients of all kinds and kills them; answers the most that each server had.
fn slaughter(sandbox: &Sandbox, count: usize) -> Vec<Left> {
    let mut most = Left::of_all(sandbox);
    let mut alive = VecDeque::new();
    for number in 0..count {
        let mut child = work::spawn(sandbox, number);
        // Most are killed while they work, some while they begin.
        let life_us = if rand::random_ratio(1, 4) {
            rand::random_range(0..16_000)
        } else {
            work::wait_until_at_work(&mut child);
            rand::random_range(0..30_000)
        };
        alive.push_back((child, Instant::now() + Duration::from_micros(life_us)));
        while alive.len() >= AT_ONCE {
            kill_first(&mut alive);
        }
        if number % 10 == 9 {
            for (most, now) in most.iter_mut().zip(Left::of_all(sandbox)) {
                most.grow_to(&now);
            }
        }
    }
    while !alive.is_empty() {
        kill_first(&mut alive);
    }
    most
}

fn kill_first(alive: &mut VecDeque<(Child, Instant)>) {
    let Some((mut child, end)) = alive.pop_front() else { return };
    // Its life is what the test chose.
    std::thread::sleep(end.saturating_duration_since(Instant::now()));
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Waits until the servers have what they had before, or fails with what they have too much.
fn released(sandbox: &Sandbox, before: &[Left]) {
    let is_released = |now: &Left, before: &Left| {
        now.without_opens() == before.without_opens()
            && now.connections <= before.connections + PEER_CONNECTIONS
    };
    wait(sandbox, before, RELEASED, is_released);
    if is_long() {
        wait(sandbox, before, OPENS_RELEASED, |now, before| now == before);
    }
}

fn wait(sandbox: &Sandbox, before: &[Left], time: Duration, is_done: impl Fn(&Left, &Left) -> bool) {
    let end = Instant::now() + time;
    loop {
        let now = Left::of_all(sandbox);
        if now.iter().zip(before).all(|(now, before)| is_done(now, before)) {
            return;
        }
        assert!(Instant::now() < end, "not released within {time:?}:\n{now:#?}\nbefore:\n{before:#?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Says when dropped that it is over.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A peer whose packets vanish: its network is cut while requests of it are under way, and no packet says so. Others are served meanwhile.
#[test]
fn a_peer_whose_packets_vanish_leaves_nothing() {
    if work::is_child() {
        return;
    }
    let network = match Network::new() {
        Ok(network) => network,
        Err(reason) => return skip::note(format!("no network of its own for a peer: {reason}")),
    };
    let sandbox = Sandbox::new();
    sandbox.up(&["--memory", "64M", "--listen", &network.server, "--workers", &WORKERS.to_string()]);
    work::prepare(&sandbox);
    let before = Left::of_idle(&sandbox);
    let mut peer = work::spawn_in(&sandbox, &network);
    work::wait_until_at_work(&mut peer);
    wait_until("the peer has locks and connections", || {
        let now = &Left::of_all(&sandbox)[0];
        now.locks > before[0].locks && now.connections > before[0].connections + OTHERS_CONNECTIONS + 1
    });
    network.cut();
    let cut = Instant::now();
    let over = AtomicBool::new(false);
    let rounds = std::thread::scope(|scope| {
        let others = scope.spawn(|| work::rounds_until(&sandbox, &over));
        // Also if what follows fails: he would be waited for for ever.
        let ended = Over(&over);
        wait(&sandbox, &before, RELEASED, |now, before| {
            now.locks == before.locks && now.connections <= before.connections + OTHERS_CONNECTIONS
        });
        drop(ended);
        others.join().unwrap()
    });
    let took = cut.elapsed();
    // Who went on has gone, too, so all that may be left is the peer's.
    wait(&sandbox, &before, common::PATIENCE, |now, before| {
        now.without_opens() == before.without_opens() && now.connections == before.connections
    });
    assert!(peer.try_wait().unwrap().is_none(), "the peer lives: nobody told the server that it is gone");
    assert!(rounds > 20, "others were served {rounds} times in {took:?}");
    peer.kill().unwrap();
    peer.wait().unwrap();
    if is_long() {
        wait(&sandbox, &before, OPENS_RELEASED, |now, before| now == before);
    }
    sandbox.ok(&["down", "--discard"]);
    sandbox.assert_nothing_left();
}
