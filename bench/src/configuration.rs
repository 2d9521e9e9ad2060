//! How what is measured is configured: servers as they say it of themselves, the way that clients take to them, and the layout of the files.
//!
//! # Invariants
//! - Nothing is taken from options of this program or from defaults: what a server does not say is not shown (`tests::only_what_servers_say_is_shown`).
//! - Servers that differ are seen to (`tests::servers_that_differ_are_seen_to`).

use std::collections::{BTreeMap, BTreeSet};

use fs_client::{Client, Route};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::size;

/// One server, as it says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerSetup {
    /// Its number.
    pub server: u32,
    /// Version of its program.
    pub version: Option<String>,
    /// Commit of its program.
    pub commit: Option<String>,
    /// `buffered` or `direct`, of each device.
    pub io: Vec<String>,
    /// What fsync promises: `process` or `device`.
    pub durability: Option<String>,
    /// Memory budget.
    pub memory_bytes: Option<u64>,
    /// Most bytes of chunks on each device; none: as many as it takes.
    pub capacity_bytes: Option<u64>,
    /// Largest file that lies with its inode.
    pub inline_bytes: Option<u64>,
    /// Whether files that many nodes read are kept by their servers.
    pub hot_files: Option<bool>,
    /// Threads that serve connections.
    pub workers: Option<u64>,
}

impl ServerSetup {
    fn of_status(server: u32, status: &Value) -> Self {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let config = &status["config"];
        ServerSetup {
            server,
            version: text(&status["version"]),
            commit: text(&config["commit"]),
            io: status["chunks"]["io"].as_array().into_iter().flatten().filter_map(text).collect(),
            durability: text(&config["durability"]),
            memory_bytes: status["memory_budget"].as_u64(),
            capacity_bytes: config["capacity"].as_u64(),
            inline_bytes: config["inline_bytes"].as_u64(),
            hot_files: config["hot_files"].as_bool(),
            workers: config["workers"].as_u64(),
        }
    }
}

/// The servers of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServersSetup {
    /// Those that answered.
    pub each: Vec<ServerSetup>,
    /// How many do not answer.
    pub silent: usize,
    /// How messages of the client that asked reach servers of its own node.
    pub transport: String,
    /// Which server they are sent to first.
    pub route: String,
}

impl ServersSetup {
    /// Asks the servers of a client's cluster.
    pub fn ask(client: &Client) -> Self {
        let members = &client.cluster().members;
        let answers = members.iter().filter_map(|member| {
            let status: Value = serde_json::from_str(&client.server_status(member.id).ok()?).ok()?;
            Some(ServerSetup::of_status(u32::from(member.id.0), &status))
        });
        let each: Vec<ServerSetup> = answers.collect();
        let config = client.config();
        ServersSetup {
            silent: members.len() - each.len(),
            each,
            transport: config.transport.to_string(),
            route: route(config.route),
        }
    }

    /// Whether every server reads chunks past its page cache.
    pub fn reads_directly(&self) -> bool {
        let direct = |setup: &ServerSetup| !setup.io.is_empty() && setup.io.iter().all(|io| io == "direct");
        self.silent == 0 && !self.each.is_empty() && self.each.iter().all(direct)
    }

    /// Whether enough servers keep what several of them read.
    pub fn keeps_hot_files(&self) -> bool {
        self.each.iter().filter(|setup| setup.hot_files != Some(false)).count() > 2
    }

    /// Whether what was synced is lost with the power.
    pub fn is_of_processes(&self) -> bool {
        self.each.iter().any(|setup| setup.durability.as_deref() == Some("process"))
    }

    fn programs(&self) -> String {
        let silent =
            if self.silent > 0 { format!(", {} more do not answer", self.silent) } else { String::new() };
        let program =
            self.one_or_all(|s| Some(format!("{} (commit {})", s.version.as_ref()?, s.commit.as_ref()?)));
        let program = program.map_or(String::new(), |program| format!(", hayate {program}"));
        format!("{}{program}{silent}", self.each.len())
    }

    fn options(&self) -> String {
        let capacity = |s: &ServerSetup| {
            // A server that says nothing of its configuration says nothing of this.
            s.durability.as_ref()?;
            Some(s.capacity_bytes.map_or("as its device".to_owned(), size::human))
        };
        let parts = [
            ("io", self.one_or_all(|s| (!s.io.is_empty()).then(|| s.io.join("+")))),
            ("durability", self.one_or_all(|s| s.durability.clone())),
            ("memory", self.one_or_all(|s| s.memory_bytes.map(size::human))),
            ("capacity", self.one_or_all(capacity)),
            ("inline up to", self.one_or_all(|s| s.inline_bytes.map(size::human))),
            ("hot files", self.one_or_all(|s| Some((if s.hot_files? { "on" } else { "off" }).to_owned()))),
            ("workers", self.one_or_all(|s| s.workers.map(|workers| workers.to_string()))),
        ];
        let said = parts.into_iter().filter_map(|(name, value)| Some(format!("{name} {}", value?)));
        said.collect::<Vec<_>>().join(", ")
    }

    /// A value that all servers have, or all their values; none if nobody says any.
    fn one_or_all(&self, of: impl Fn(&ServerSetup) -> Option<String>) -> Option<String> {
        let values: BTreeSet<String> = self.each.iter().filter_map(of).collect();
        (!values.is_empty()).then(|| values.into_iter().collect::<Vec<_>>().join(" / "))
    }
}

fn route(route: Route) -> String {
    match route {
        Route::Auto => "auto".to_owned(),
        Route::Gateway(server) => format!("all through server {server}"),
        Route::Owners => "straight to owners".to_owned(),
    }
}

/// All of it, for the reports.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Configuration {
    /// The servers, if they are asked.
    pub servers: Option<ServersSetup>,
    /// Layout of what is made under the path of the test, where there is such a thing.
    pub layout: Option<String>,
    /// With `--spread`: tasks of each server, by the number of tasks of a test.
    pub tasks_of_a_server: BTreeMap<u32, u32>,
}

impl Configuration {
    /// Labels and values for a text.
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        let mut lines = Vec::new();
        if let Some(servers) = &self.servers {
            lines.push(("servers", servers.programs()));
            lines.push(("servers' options", servers.options()));
            lines.push(("clients", format!("transport {}, route {}", servers.transport, servers.route)));
        }
        lines.extend(self.spread().map(|spread| ("spread", spread)));
        lines.extend(self.layout.clone().map(|layout| ("layout", layout)));
        lines
    }

    /// Which server a task is a client of, with the number of tasks where that matters.
    fn spread(&self) -> Option<String> {
        let each = &self.tasks_of_a_server;
        let first = each.values().next()?;
        let of = if each.values().all(|of_a_server| of_a_server == first) {
            format!("r / {first}")
        } else {
            let of = |(tasks, of_a_server): (&u32, &u32)| {
                format!("r / {of_a_server} in tests of {tasks} task{}", if *tasks == 1 { "" } else { "s" })
            };
            each.iter().map(of).collect::<Vec<_>>().join(", ")
        };
        Some(format!("servers stand for nodes: task r is a client of server {of}, through which all goes"))
    }

    /// The same as lines of a text.
    ///
    /// # Errors
    /// Of writing.
    pub fn write(&self, out: &mut dyn std::io::Write) -> std::io::Result<()> {
        self.lines().iter().try_for_each(|(label, value)| writeln!(out, "{label:<20}: {value}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status(io: &str, memory: u64) -> Value {
        json!({
            "version": "0.1.0", "memory_budget": memory, "chunks": {"io": [io]},
            "config": {"commit": "abc", "durability": "device", "capacity": 1_u64 << 30, "inline_bytes": 16384, "hot_files": true, "workers": 2},
        })
    }

    fn servers(all: &[Value]) -> ServersSetup {
        let each = (0..).zip(all).map(|(server, status)| ServerSetup::of_status(server, status)).collect();
        ServersSetup { each, silent: 0, transport: "auto".to_owned(), route: route(Route::Auto) }
    }

    #[test]
    fn servers_that_differ_are_seen_to() {
        let same = servers(&[status("direct", 512 << 20), status("direct", 512 << 20)]);
        assert_eq!(same.programs(), "2, hayate 0.1.0 (commit abc)");
        assert_eq!(
            same.options(),
            "io direct, durability device, memory 512 MiB, capacity 1 GiB, inline up to 16384 bytes, hot files on, workers 2"
        );
        assert!(same.reads_directly() && !same.is_of_processes() && !same.keeps_hot_files());
        let mixed = servers(&[status("direct", 512 << 20), status("buffered", 1 << 30)]);
        assert!(
            mixed.options().starts_with("io buffered / direct, durability device, memory 1 GiB / 512 MiB")
        );
        assert!(!mixed.reads_directly());
        let gone = ServersSetup { silent: 1, ..same };
        assert!(gone.programs().ends_with(", 1 more do not answer") && !gone.reads_directly());
    }

    #[test]
    fn only_what_servers_say_is_shown() {
        let old = servers(&[json!({ "version": "0.0.9" })]);
        assert_eq!((old.programs().as_str(), old.options().as_str()), ("1", ""));
        assert!(!old.reads_directly());
        let all = Configuration {
            servers: Some(old),
            layout: Some("writer".to_owned()),
            tasks_of_a_server: [(4, 2)].into(),
        };
        let lines = all.lines();
        assert_eq!(
            lines.iter().map(|line| line.0).collect::<Vec<_>>(),
            ["servers", "servers' options", "clients", "spread", "layout"]
        );
        assert!(lines[3].1.contains("r / 2"));
        assert!(Configuration::default().lines().is_empty());
    }

    /// Goal: a task's server is told for every test of a run. Method: tests that have as many tasks for each server, and others that have not.
    #[test]
    fn tests_of_different_sizes_are_spread_differently() {
        let spread = |each: &[(u32, u32)]| {
            let tasks_of_a_server = each.iter().copied().collect();
            Configuration { tasks_of_a_server, ..Configuration::default() }.spread()
        };
        let line = |of| {
            Some(format!(
                "servers stand for nodes: task r is a client of server {of}, through which all goes"
            ))
        };
        assert_eq!(spread(&[]), None);
        assert_eq!(spread(&[(3, 1), (4, 1)]), line("r / 1"));
        assert_eq!(spread(&[(1, 1), (8, 2)]), line("r / 1 in tests of 1 task, r / 2 in tests of 8 tasks"));
    }
}
