//! How servers reach each other: a line per port of an RDMA device, or one that says TCP.

use crate::size;
use crate::table::Table;
use fs_proto::ServerId;
use serde_json::Value;

const HEADS: [&str; 10] = [
    ">server",
    "between nodes",
    "device",
    ">port",
    "state",
    "rate",
    "addresses",
    ">connections",
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
        for (at, port) in ports.iter().enumerate() {
            table.row(row(id, "RDMA", Some(port), (at == 0).then_some(rdma)));
        }
    }
    table.render() + &missing
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
    let addresses: Vec<_> = port
        .and_then(|port| port["addresses"].as_array())
        .map(|list| list.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    vec![
        id.to_string(),
        transport.to_owned(),
        text("device"),
        port.and_then(|port| port["port"].as_u64()).map_or_else(dash, |port| port.to_string()),
        text("state"),
        text("rate"),
        if addresses.is_empty() { dash() } else { addresses.join(" ") },
        port.and_then(|port| port["connections"].as_u64()).map_or_else(dash, |n| n.to_string()),
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
    }
}
