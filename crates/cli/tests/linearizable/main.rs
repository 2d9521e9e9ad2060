//! Goal: what several clients do at once to a few names and a few registers of files is as if each call had happened at one moment between
//! its beginning and its answer, although servers are killed (SIGKILL) and started again meanwhile.
//! Method: five clients by different servers of four real ones record what they call and are answered; porcupine-rs looks for an order of each
//! object's calls in which all answers are right. A call without an answer may have happened at any time, or never; a write that was under way
//! when a server died may have happened twice (decision 0005). Checked first: that a wrong history is found to be wrong.
//!
//! Chosen over the tester of the crate stateright, which tries orders without remembering those that it tried, and wants each thread's next call
//! to wait for an answer, so that a call whose answer is lost ends its thread.

#[path = "../common/mod.rs"]
mod common;
mod history;
mod names;
mod registers;
mod restarter;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use common::{Sandbox, has_ended};
use fs_client::{Client, ClientConfig, Route};
use fs_proto::ServerId;
use history::{Came, History};
use porcupine_rs::{Model, Operation};
use registers::{Place, Registers};
use restarter::Restarter;
use rustix::process::Signal;

const SERVERS: u16 = 4;
const CLIENTS: u32 = 5;
/// Objects of names; when all had their turn, the first is next again.
const OBJECTS: usize = 48;
/// Kills of a server in a run; with `HAYATE_TEST_LONG` ten times as many.
const KILLS: usize = 3;

/// The calls of each object.
fn by_object<M: Model>(history: &[Operation<M>], object: impl Fn(&M::Op) -> usize) -> Vec<Vec<Operation<M>>> {
    let mut parts = BTreeMap::<usize, Vec<Operation<M>>>::new();
    for call in history {
        parts.entry(object(&call.op)).or_default().push(call.clone());
    }
    parts.into_values().collect()
}

/// A client that asks always, by a server of its own or by all.
fn client(sandbox: &Sandbox, number: u32) -> Client {
    let mut config = ClientConfig::load(&sandbox.path("c.toml")).unwrap();
    (config.attr_ttl, config.entry_ttl) = (Duration::ZERO, Duration::ZERO);
    config.route = match number as u16 {
        0 => Route::Auto,
        number => Route::Gateway(ServerId((number - 1) % SERVERS)),
    };
    Client::connect(config).unwrap()
}

/// Kills a server at a time and starts it again.
fn kill_servers<M: Model<Op: history::Call>>(
    sandbox: &Sandbox,
    restarter: &mut Restarter,
    history: &History<M>,
) {
    let kills = if std::env::var_os("HAYATE_TEST_LONG").is_some() { 10 * KILLS } else { KILLS };
    for kill in 0..kills {
        // When the next is killed; nothing is waited for.
        std::thread::sleep(Duration::from_millis(400 + 130 * (kill as u64 % 5)));
        let pid = sandbox.server_pids()[kill % usize::from(SERVERS)];
        history.record_kill(|| {
            common::kill(pid, Signal::KILL);
            // Else it might be found alive, and nothing be restarted.
            common::wait_until("the killed server is gone", || has_ended(pid));
        });
        restarter.restart();
    }
    std::thread::sleep(Duration::from_millis(400));
}

/// Runs `work` by all clients, each told its number and a value of its own for each call, until all kills are over.
fn all_at_once<M: Model<Op: history::Call>, T: Send>(
    sandbox: &Sandbox,
    history: &History<M>,
    begin: impl Fn(u32) -> T,
    work: impl Fn(&T, u32, u64) + Sync,
) {
    let (over, values) = (AtomicBool::new(false), AtomicU64::new(1));
    let mut restarter = Restarter::begin(sandbox);
    let all: Vec<T> = (0..CLIENTS).map(begin).collect();
    std::thread::scope(|scope| {
        for (number, own) in (0..).zip(all) {
            let (over, values, work) = (&over, &values, &work);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    work(&own, number, values.fetch_add(1, Ordering::Relaxed));
                }
            });
        }
        kill_servers(sandbox, &mut restarter, history);
        over.store(true, Ordering::Relaxed);
    });
}

/// Enough was called to show something, and nearly all was answered.
fn assert_answered<M: Model<Op: history::Call>>(history: &History<M>, what: &str) {
    let (calls, lost) = history.counts();
    println!("{what}: {calls} calls, {lost} without an answer");
    assert!(calls > 500 && lost * 20 < calls, "{what}: {calls} calls, {lost} without an answer");
}

fn names(apart: bool, what: &str) {
    let sandbox = Sandbox::new();
    sandbox.up(&["--nodes", &SERVERS.to_string()]);
    let (places, history) =
        (names::Places::make(&client(&sandbox, 0), OBJECTS, apart), History::new(OBJECTS));
    all_at_once(
        &sandbox,
        &history,
        |number| client(&sandbox, number),
        |client, number, value| {
            names::call(client, number, &places, &history, value);
        },
    );
    assert_answered(&history, what);
    history.assert_linearizable(what);
    sandbox.ok(&["down", "--discard"]);
}

#[test]
fn names_and_contents_of_a_directory_are_linearizable() {
    names(false, "names of a directory");
}

#[test]
fn names_of_two_servers_are_linearizable() {
    names(true, "names of two servers");
}

/// Registers of a file that each client has open as `open` does it.
fn registers<R: Registers + Send + Sync>(sandbox: &Sandbox, place: Place, open: impl Fn(u32) -> R) {
    place.make(&client(sandbox, 0));
    let history = History::new(registers::REGISTERS);
    all_at_once(sandbox, &history, open, |file, number, value| {
        registers::call(file, place, number, &history, value);
    });
    assert_answered(&history, place.path);
    history.assert_linearizable(place.path);
}

#[test]
fn registers_are_linearizable() {
    let sandbox = Sandbox::new();
    sandbox.up(&["--nodes", &SERVERS.to_string()]);
    for place in registers::PLACES {
        registers(&sandbox, place, |number| place.open(&client(&sandbox, number)));
    }
    sandbox.ok(&["down", "--discard"]);
}

#[test]
fn registers_are_linearizable_by_mounts_that_ask_always() {
    if !common::can_mount() {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.up(&["--nodes", &SERVERS.to_string()]);
    let mounts = ["one", "other"].map(|name| {
        std::fs::create_dir(sandbox.path(name)).unwrap();
        sandbox.ok(&["mount", &sandbox.word(name), "--attr-timeout", "0", "--entry-timeout", "0"]);
        sandbox.path(name)
    });
    for place in registers::PLACES {
        registers(&sandbox, place, |number| {
            let path = mounts[number as usize % mounts.len()].join(place.path.trim_start_matches('/'));
            std::fs::File::options().read(true).write(true).open(path).unwrap()
        });
    }
    sandbox.ok(&["down", "--discard"]);
}

#[test]
#[should_panic(expected = "objects without an order")]
fn an_old_value_after_a_new_one_is_found() {
    let history = History::<registers::Register>::new(1);
    for op in [
        registers::Op::Write(0, 1),
        registers::Op::Read(0, Some(1)),
        registers::Op::Write(0, 2),
        registers::Op::Read(0, Some(1)),
    ] {
        history.record(0, |_| (op, Came::Answer));
    }
    history.assert_linearizable("old values");
}
