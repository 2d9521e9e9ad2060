//! What a server has for its clients: as it says itself, and as the kernel says of its process.

use super::common::{PATIENCE, Sandbox};
use serde_json::Value;
use std::fs;
use std::time::Instant;

/// See the module. Everything in it is back to what it was when all clients have gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// Bytes of bulk data, of chunks on their way from the tier, and of small messages.
    pools: [u64; 3],
    /// Sessions over shared memory, and their bytes.
    shared: (u64, u64),
    /// Mappings of shared memory, and descriptors that only it has: eventfds and pipes.
    mappings: usize,
    bells: usize,
    pub locks: u64,
    waiting: u64,
    /// Of clients and of servers.
    pub connections: u64,
    /// Accepted ones, in the pool's bytes.
    accepted: u64,
    pub opens: u64,
}

impl Left {
    /// Of each server, when none has anything for clients.
    pub fn of_idle(sandbox: &Sandbox) -> Vec<Left> {
        let mut before = Left::of_all(sandbox);
        let end = Instant::now() + PATIENCE;
        loop {
            let now = Left::of_all(sandbox);
            // Who asks has a session itself, gone by the time that the process is looked at.
            let is_idle = now.iter().all(|left| left.mappings == 0 && left.opens == 0);
            if is_idle && now == before {
                return now;
            }
            assert!(Instant::now() < end, "servers have something for clients that have gone: {now:#?}");
            before = now;
        }
    }

    /// Of each server. Who asks has a connection and a session itself, the same each time.
    pub fn of_all(sandbox: &Sandbox) -> Vec<Left> {
        let status: Value = serde_json::from_str(&sandbox.ok(&["status", "--json"])).unwrap();
        let servers = status["servers"].as_array().unwrap();
        let pids = sandbox.server_pids();
        servers.iter().zip(pids).map(|(server, pid)| Left::of(&server["status"], pid)).collect()
    }

    fn of(status: &Value, pid: u32) -> Left {
        let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("{status}"));
        let pool = |name: &str| {
            let pools = status["pools"].as_array().unwrap();
            number(&pools.iter().find(|pool| pool["name"] == name).unwrap()["used"])
        };
        let open = descriptors(pid);
        let with = |mark: &str| open.iter().filter(|name| name.contains(mark)).count();
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        let shared = &status["shared_memory"];
        Left {
            pools: ["buffers", "fetches", "messages"].map(pool),
            shared: (number(&shared["sessions"]), number(&shared["used"])),
            mappings: maps.lines().filter(|line| line.contains("memfd:hayate")).count(),
            bells: with("[eventfd]") + with("pipe:"),
            locks: number(&status["locks_held"]),
            waiting: number(&status["locks_waiting"]),
            connections: number(&status["connections"]),
            accepted: pool("connections"),
            opens: number(&status["open_inodes"]),
        }
    }

    /// The same without what outlives who had it: what was open, by its lease, and connections between servers, by half a minute to a minute.
    pub fn without_opens(&self) -> Left {
        Left { opens: 0, connections: 0, accepted: 0, ..self.clone() }
    }

    /// The larger of both, in each.
    pub fn grow_to(&mut self, other: &Left) {
        self.shared = self.shared.max(other.shared);
        self.mappings = self.mappings.max(other.mappings);
        self.locks = self.locks.max(other.locks);
        self.waiting = self.waiting.max(other.waiting);
        self.connections = self.connections.max(other.connections);
        self.opens = self.opens.max(other.opens);
    }

    /// Whether clients were connected in all ways, or else the test shows nothing.
    pub fn had_clients(&self) -> bool {
        self.shared.0 > 2 && self.mappings > 2 && self.connections > 4
    }
}

fn descriptors(pid: u32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    // One that is closed meanwhile is none.
    entries
        .filter_map(|entry| Some(fs::read_link(entry.path()).ok()?.to_string_lossy().into_owned()))
        .collect()
}
