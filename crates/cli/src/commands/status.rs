//! `hayate status`: the servers and how they are.

mod paths;
mod transport;

use crate::args::Global;
use crate::error::{CliError, Result, failed};
use crate::table::Table;
use crate::{mounts, out, probe, size};
use clap::Args;
use fs_client::{Client, ClientConfig};
use fs_net::{ClusterFile, MemberEntry};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;

/// How long one server may take to answer.
const LIMIT: Duration = Duration::from_secs(5);

/// Arguments of `hayate status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Files, and directories with all below: are they in the shared tier as they are now? (Status 0: all are; 3: something is not; 1: there is no such path.)
    paths: Vec<PathBuf>,
    /// All that the servers say, or what is known of each path, as JSON
    #[arg(long)]
    json: bool,
}

/// What is known of one server.
struct Known<'a> {
    member: &'a MemberEntry,
    state: Result<Value>,
}

/// Shows all servers; fails if one does not answer.
pub fn run(global: &Global, args: &StatusArgs) -> Result<()> {
    if !args.paths.is_empty() {
        return paths::run(global, &args.paths, args.json);
    }
    let cluster = global.load_cluster()?;
    let servers = ask_all(&cluster)?;
    if args.json {
        out::line(format_args!("{:#}", as_json(&cluster, &servers)))?;
    } else {
        out::text(&as_text(&cluster, &servers)?)?;
    }
    let down: Vec<String> =
        servers.iter().filter(|s| s.state.is_err()).map(|s| s.member.id.to_string()).collect();
    let Some(reason) = servers.iter().find_map(|server| server.state.as_ref().err()) else { return Ok(()) };
    Err(CliError::Failed(format!(
        "server {} does not answer ({reason}): `hayate up --restart` starts it again",
        down.join(", ")
    )))
}

fn ask_all(cluster: &ClusterFile) -> Result<Vec<Known<'_>>> {
    let mut silent = Vec::new();
    for member in &cluster.members {
        match probe::ping(cluster, member, LIMIT) {
            Ok(()) => silent.push(None),
            // Not our cluster any more: nothing further that it says would help.
            Err(error) if probe::is_refusal(&error) => return Err(failed(error)),
            Err(error) => silent.push(Some(error.to_string())),
        }
    }
    let connect = || Client::connect(ClientConfig::new(cluster.clone())).map_err(failed);
    let client = if silent.iter().any(Option::is_none) { Some(connect()?) } else { None };
    let known = |(member, silent): (_, Option<String>)| Known {
        member,
        state: state(client.as_ref(), member, silent),
    };
    Ok(cluster.members.iter().zip(silent).map(known).collect())
}

fn state(client: Option<&Client>, member: &MemberEntry, silent: Option<String>) -> Result<Value> {
    match (client, silent) {
        (Some(client), None) => {
            let text = client.server_status(member.id).map_err(failed)?;
            serde_json::from_str(&text).map_err(failed)
        }
        (_, reason) => Err(CliError::Failed(reason.unwrap_or_default())),
    }
}

fn as_json(cluster: &ClusterFile, servers: &[Known]) -> Value {
    let servers: Vec<Value> = servers
        .iter()
        .map(|Known { member, state }| {
            let answer = match state {
                Ok(status) => json!({ "state": "up", "status": status }),
                Err(error) => json!({ "state": "down", "error": error.to_string() }),
            };
            let mut entry = json!({
                "id": member.id.0, "host": member.host, "tcp": member.tcp, "unix": member.unix, "stores": member.stores,
                "metrics": member.metrics, "pid": member.pid,
            });
            if let (Value::Object(entry), Value::Object(answer)) = (&mut entry, answer) {
                entry.extend(answer);
            }
            entry
        })
        .collect();
    json!({ "name": cluster.name, "job": cluster.job, "epoch": cluster.epoch, "tier": cluster.tier, "servers": servers })
}

fn as_text(cluster: &ClusterFile, servers: &[Known]) -> Result<String> {
    let tier = cluster.tier.as_deref().map_or_else(|| "none".to_owned(), |tier| tier.display().to_string());
    let mut lines = vec![format!(
        "cluster '{}', job {}, epoch {}, tier {tier}",
        cluster.name, cluster.job, cluster.epoch
    )];
    for record in mounts::list(&cluster.job)? {
        lines.push(format!("mounted at {} (process {})", record.dir.display(), record.pid));
    }
    let mut table = Table::new(&[
        ">server",
        "host",
        "state",
        ">pid",
        ">partitions",
        ">inodes",
        ">live",
        ">memory",
        ">ops",
        "metrics",
    ]);
    for Known { member, state } in servers {
        table.row(row(member, state.as_ref().ok()));
    }
    lines.push(table.render());
    lines.push(transport::table(servers.iter().map(|server| (server.member.id, server.state.as_ref().ok()))));
    lines.push(pools(servers));
    Ok(lines.join("\n"))
}

/// The servers' pools: sizes and use added up, the largest peak of one server.
fn pools(servers: &[Known]) -> String {
    let mut table =
        Table::new(&["pool", ">size", ">used", ">peak of a server", ">waits", ">waited", ">waiting"]);
    let all: Vec<&Value> = servers
        .iter()
        .filter_map(|server| server.state.as_ref().ok()?.get("pools")?.as_array())
        .flatten()
        .collect();
    let mut names: Vec<&str> = Vec::new();
    for name in all.iter().filter_map(|pool| pool["name"].as_str()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    for name in names {
        table.row(pool_row(name, all.iter().filter(|pool| pool["name"] == name)));
    }
    table.render()
}

fn pool_row<'a>(name: &str, of_servers: impl Iterator<Item = &'a &'a Value> + Clone) -> Vec<String> {
    let figures = |field: &'static str| of_servers.clone().filter_map(move |pool| pool[field].as_u64());
    let sum = |field| figures(field).sum::<u64>();
    let waited = Duration::from_nanos(sum("wait_ns"));
    vec![
        name.to_owned(),
        size::format(sum("size")),
        size::format(sum("used")),
        size::format(figures("peak").max().unwrap_or(0)),
        sum("waits").to_string(),
        format!("{:.3} s", waited.as_secs_f64()),
        sum("waiting").to_string(),
    ]
}

fn row(member: &MemberEntry, status: Option<&Value>) -> Vec<String> {
    let number = |pointer: &str| status.and_then(|status| status.pointer(pointer)?.as_u64());
    let plain = |pointer: &str| number(pointer).map_or_else(|| "-".to_owned(), |n| n.to_string());
    let bytes = |pointer: &str| number(pointer).map_or_else(|| "-".to_owned(), size::format);
    vec![
        member.id.to_string(),
        member.host.clone(),
        if status.is_some() { "up" } else { "down" }.to_owned(),
        member.pid.to_string(),
        plain("/partitions"),
        plain("/inodes"),
        bytes("/chunks/bytes_live"),
        bytes("/resident_bytes"),
        status.map_or_else(|| "-".to_owned(), |status| operations(status).to_string()),
        member.metrics.clone().unwrap_or_else(|| "-".to_owned()),
    ]
}

/// All operations that a server has executed.
fn operations(status: &Value) -> u64 {
    let counts = status.get("operations").and_then(Value::as_object);
    counts.map_or(0, |counts| counts.values().filter_map(Value::as_u64).sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use fs_proto::ServerId;

    fn member() -> MemberEntry {
        MemberEntry {
            id: ServerId(1),
            host: "h".into(),
            tcp: "h:1".into(),
            unix: "/s".into(),
            stores: Vec::new(),
            weight: 1,
            metrics: None,
            pid: 42,
        }
    }

    #[test]
    fn row_shows_what_the_server_says() {
        let status = json!({
            "partitions": 16384, "inodes": 7, "chunks": { "bytes_live": 2048 }, "resident_bytes": 1 << 20,
            "operations": { "lookup": 3, "create": 4 },
        });
        let expected = ["1", "h", "up", "42", "16384", "7", "2.00 KiB", "1.00 MiB", "7", "-"];
        assert_eq!(row(&member(), Some(&status)), expected);
    }

    #[test]
    fn pools_of_servers_are_added_up() {
        let pool = |used: u64, peak: u64| json!({ "name": "buffers", "size": 1 << 20, "used": used, "peak": peak, "waits": 2, "wait_ns": 1_500_000, "waiting": 1 });
        let (one, other) = (pool(1024, 4096), pool(1024, 8192));
        let row = pool_row("buffers", [&one, &other].iter());
        assert_eq!(row, ["buffers", "2.00 MiB", "2.00 KiB", "8.00 KiB", "4", "0.003 s", "2"]);
    }

    #[test]
    fn row_of_a_dead_server_has_gaps() {
        assert_eq!(row(&member(), None), ["1", "h", "down", "42", "-", "-", "-", "-", "-", "-"]);
    }
}
