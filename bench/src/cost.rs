//! The table of costs: CPU time of clients and servers, messages, balance, and how long operations took.
//!
//! CPU time of clients is of the tasks themselves; that of a FUSE mount's process has lines of its own. Servers' messages include those
//! among themselves.

use std::io::{self, Write};

use serde_json::{Value, json};

use crate::results::PhaseResult;
use crate::servers::ServersUse;

fn gib(bytes: u64) -> Option<f64> {
    (bytes > 0).then(|| bytes as f64 / (1_u64 << 30) as f64)
}

/// Writes a line for each result: clients first, then a mount's process and the servers where they were watched, then durations.
///
/// # Errors
/// Of writing.
pub fn table<'a>(
    out: &mut dyn Write,
    results: impl Iterator<Item = (&'a str, &'a PhaseResult)>,
) -> io::Result<()> {
    let results: Vec<(&str, &PhaseResult)> = results.collect();
    writeln!(out, "{}", header("clients' cost"))?;
    for (name, result) in &results {
        writeln!(out, "{}", row(name, result))?;
    }
    let mounts: Vec<(&str, &PhaseResult, f64)> =
        results.iter().filter_map(|(name, result)| Some((*name, *result, result.mount_cpu_s?))).collect();
    if !mounts.is_empty() {
        writeln!(out, "{}", header("mount's cost"))?;
    }
    for (name, result, cpu_s) in mounts {
        writeln!(out, "{}", mount_row(name, result, cpu_s))?;
    }
    let watched: Vec<(&str, &PhaseResult, &ServersUse)> = results
        .iter()
        .filter_map(|(name, result)| Some((*name, *result, result.servers.as_ref()?)))
        .collect();
    if !watched.is_empty() {
        writeln!(out, "{} max/mean", header("servers' cost"))?;
    }
    for (name, result, used) in watched {
        writeln!(out, "{}", server_row(name, result, used))?;
    }
    let timed: Vec<_> = results.iter().filter(|(_, result)| result.meter.latency.count() > 0).collect();
    if !timed.is_empty() {
        writeln!(out, "{:<20} iter   p50(us)   p90(us)   p99(us) p99.9(us)   max(us)", "operations took")?;
    }
    for (name, result) in timed {
        write!(out, "{name:<20} {:>4}", result.repetition)?;
        for share in QUANTILES {
            write!(out, " {:>9.1}", result.meter.latency.quantile(share).unwrap_or(0) as f64 / 1e3)?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// The shares of operations whose durations are shown.
pub const QUANTILES: [f64; 5] = [0.5, 0.9, 0.99, 0.999, 1.0];

fn header(what: &str) -> String {
    format!("{what:<20} iter   CPU(s) CPU/op(us) CPU/GiB(s)  messages/op errors")
}

fn optional(value: Option<f64>, digits: usize) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.digits$}"))
}

fn row(name: &str, result: &PhaseResult) -> String {
    let per_gib = gib(result.bytes).map(|gib| result.cpu_s / gib);
    format!(
        "{name:<20} {:>4} {:>8.3} {:>10.1} {:>10} {:>12} {:>6}",
        result.repetition,
        result.cpu_s,
        result.cpu_us_per_op(),
        optional(per_gib, 3),
        optional(result.messages_per_op(), 2),
        result.errors
    )
}

fn mount_row(name: &str, result: &PhaseResult, cpu_s: f64) -> String {
    let per_op = (result.operations > 0).then(|| cpu_s * 1e6 / result.operations as f64);
    let per_gib = gib(result.bytes).map(|gib| cpu_s / gib);
    format!(
        "{name:<20} {:>4} {cpu_s:>8.3} {:>10} {:>10} {:>12} {:>6}",
        result.repetition,
        optional(per_op, 1),
        optional(per_gib, 3),
        "-",
        "-"
    )
}

fn server_row(name: &str, result: &PhaseResult, used: &ServersUse) -> String {
    let per_op = |amount: f64| (result.operations > 0).then(|| amount / result.operations as f64);
    format!(
        "{name:<20} {:>4} {:>8.3} {:>10} {:>10} {:>12} {:>6} {:>8}",
        result.repetition,
        used.cpu_s(),
        optional(per_op(used.cpu_s() * 1e6), 1),
        optional(gib(result.bytes).map(|gib| used.cpu_s() / gib), 3),
        optional(per_op(used.messages() as f64), 2),
        "-",
        optional(used.balance(), 3)
    )
}

/// The same for a JSON document: keys that start with `hayate`.
pub fn json(result: &PhaseResult) -> serde_json::Map<String, Value> {
    let quantiles: serde_json::Map<String, Value> = QUANTILES
        .iter()
        .filter_map(|share| {
            Some((format!("p{}", share * 100.0), json!(result.meter.latency.quantile(*share)?)))
        })
        .collect();
    let servers = result.servers.as_ref().map(|used| {
        json!({
            "cpuSeconds": used.cpu_s(),
            "messages": used.messages(),
            "balance": used.balance(),
            "each": used.servers,
            "course": used.course,
        })
    });
    let entries = [
        ("hayateCpuSeconds", json!(result.cpu_s)),
        ("hayateCpuMicrosecondsPerOp", json!(result.cpu_us_per_op())),
        ("hayateCpuSecondsPerGiB", json!(gib(result.bytes).map(|gib| result.cpu_s / gib))),
        ("hayateMessagesPerOp", json!(result.messages_per_op())),
        ("hayateErrors", json!(result.errors)),
        ("hayateOperations", json!(result.operations)),
        ("hayateBytes", json!(result.bytes)),
        ("hayateLatencyNs", Value::Object(quantiles)),
        ("hayateLatency", json!(result.meter.latency)),
        ("hayateSteps", json!(result.meter.steps)),
        ("hayateServers", json!(servers)),
        ("hayateMountCpuSeconds", json!(result.mount_cpu_s)),
    ];
    entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a mount's process has its lines between clients and servers, for the phases in which it was seen; nothing is said of a mount that is not there.
    #[test]
    fn a_mount_has_lines_of_its_own() {
        let text = |mount_cpu_s| {
            let servers = Some(ServersUse::default());
            let seen = PhaseResult {
                mount_cpu_s,
                operations: 1000,
                bytes: 1 << 29,
                servers,
                ..PhaseResult::default()
            };
            let mut text = Vec::new();
            table(&mut text, [("write", &seen), ("read", &PhaseResult::default())].into_iter())
                .expect("a table");
            (String::from_utf8(text).expect("text"), json(&seen)["hayateMountCpuSeconds"].as_f64())
        };
        let (with, seconds) = text(Some(0.25));
        let lines: Vec<&str> = with.lines().collect();
        assert_eq!(lines.len(), 7, "{with}");
        assert!(lines[3].starts_with("mount's cost  ") && lines[5].starts_with("servers' cost  "), "{with}");
        let words: Vec<&str> = lines[4].split_whitespace().collect();
        assert_eq!((words, seconds), (vec!["write", "0", "0.250", "250.0", "0.500", "-", "-"], Some(0.25)));
        let (without, seconds) = text(None);
        assert!(!without.contains("mount") && seconds.is_none(), "{without}");
    }
}
