//! How servers reach each other: a line per port of an RDMA device, or one that says TCP.

use crate::size;
use crate::table::Table;
use fs_proto::ServerId;
use serde_json::Value;

const HEADS: [&str; 11] = [
    ">server",
    "between nodes",
    "device",
    ">port",
    "state",
    "rate",
    "addresses",
    ">connections",
    ">carried",
    ">registered",
    ">retries",
];

/// The table, and below it which servers have no RDMA though somebody may expect it, and why. Registered memory
/// and retries are the server's, and shown with its first port.
pub(super) fn table<'a>(servers: impl Iterator<Item = (ServerId, Option<&'a Value>)>) -> String {
    let (mut table, mut missing) = (Table::new(&HEADS), String::new());
    for (id, status) in servers {
        let Some(rdma) = status.and_then(|status| status.get("rdma")) else { continue };
        let ports = rdma["ports"].as_array().map_or(&[][..], Vec::as_slice);
        if ports.is_empty() {
            table.row(row(id, "TCP", None, None));
            missing += &why_none(id, rdma);
        }
        let transport = if is_tcp_now(rdma, ports) { "RDMA (TCP now)" } else { "RDMA" };
        for (at, port) in ports.iter().enumerate() {
            table.row(row(id, transport, Some(port), (at == 0).then_some(rdma)));
        }
    }
    table.render() + &missing
}

/// Whether TCP carries all that RDMA should: no port is up, or peers are lost and none is left.
fn is_tcp_now(rdma: &Value, ports: &[Value]) -> bool {
    let number = |name: &str| rdma[name].as_u64().unwrap_or(0);
    let is_up = ports.iter().any(|port| port["state"].as_str() == Some("ACTIVE"));
    !is_up || (number("lost_peers") > 0 && number("connections") == 0)
}

fn why_none(id: ServerId, rdma: &Value) -> String {
    match rdma["reason"].as_str() {
        Some(reason) if rdma["expected"].as_bool() == Some(true) => {
            format!("server {id} has no RDMA: {reason}\n")
        }
        _ => String::new(),
    }
}

fn row(id: ServerId, transport: &str, port: Option<&Value>, rdma: Option<&Value>) -> Vec<String> {
    let dash = || "-".to_owned();
    let text = |name: &str| port.and_then(|port| port[name].as_str()).map_or_else(dash, str::to_owned);
    let number = |name: &str| rdma.and_then(|rdma| rdma[name].as_u64());
    let of_port = |name: &str| port.and_then(|port| port[name].as_u64());
    let carried: Option<u64> = ["bytes_sent", "bytes_received", "read_bytes"].into_iter().map(of_port).sum();
    let addresses: Vec<_> = port
        .and_then(|port| port["addresses"].as_array())
        .map(|list| list.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    vec![
        id.to_string(),
        transport.to_owned(),
        text("device"),
        of_port("port").map_or_else(dash, |port| port.to_string()),
        text("state"),
        text("rate"),
        if addresses.is_empty() { dash() } else { addresses.join(" ") },
        of_port("connections").map_or_else(dash, |n| n.to_string()),
        carried.map_or_else(dash, size::format),
        number("registered_bytes").map_or_else(dash, size::format),
        number("retries").map_or_else(dash, |n| n.to_string()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn devices_are_shown_and_tcp_where_there_are_none() {
        let with = json!({"rdma": {"ports": [
            {"device": "mlx5_0", "port": 1, "state": "ACTIVE", "rate": "100 Gb/sec (4X EDR)", "addresses": ["10.1.0.4"], "connections": 12},
            {"device": "mlx5_1", "port": 1, "state": "DOWN", "rate": "", "addresses": [], "connections": 0},
        ], "connections": 12, "registered_bytes": 64 << 20, "retries": 3}});
        let without = json!({"rdma": {"ports": [], "reason": "there is none", "expected": false}});
        let refused = json!({"rdma": {"ports": [], "reason": "RLIMIT_MEMLOCK is too low", "expected": true}});
        let all = [Some(&with), Some(&without), None, Some(&refused)];
        let servers = all.into_iter().enumerate().map(|(id, status)| (ServerId(id as u16), status));
        let text = table(servers);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 6, "{text}");
        assert_eq!(lines[5], "server 3 has no RDMA: RLIMIT_MEMLOCK is too low");
        for word in ["RDMA", "mlx5_0", "ACTIVE", "10.1.0.4", "12"] {
            assert!(lines[1].contains(word), "{text}");
        }
        assert!(lines[2].contains("DOWN") && lines[3].contains("TCP"), "{text}");
        assert!(!lines[1].contains("TCP now"), "{text}");
    }

    fn one(state: &str, connections: u64, lost_peers: u64) -> String {
        let port = json!({"device": "mlx5_0", "port": 1, "state": state, "connections": connections,
            "bytes_sent": 1 << 20, "bytes_received": 2 << 20, "read_bytes": 4 << 20});
        let status = json!({"rdma": {"ports": [port], "connections": connections, "lost_peers": lost_peers}});
        table(std::iter::once((ServerId(0), Some(&status)))).lines().nth(1).unwrap_or_default().to_owned()
    }

    #[test]
    fn who_has_tcp_instead_of_rdma_is_shown_so() {
        for (state, connections, lost_peers, is_tcp) in
            [("ACTIVE", 0, 0, false), ("ACTIVE", 3, 1, false), ("ACTIVE", 0, 1, true), ("DOWN", 3, 0, true)]
        {
            let line = one(state, connections, lost_peers);
            assert_eq!(line.contains("RDMA (TCP now)"), is_tcp, "{line}");
            assert!(line.contains("RDMA") && line.contains("7.00 MiB"), "{line}");
        }
    }
}
