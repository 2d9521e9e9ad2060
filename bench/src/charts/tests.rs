//! Goal: a page has the charts that its runs have data for, and nothing that it would fetch. Method: documents of real runs and made ones.

use serde_json::{Value, json};

use super::draw::short;
use super::{data, page};

fn run(transfer: u64, tasks: u64, servers: u64, mib: f64) -> (String, Value) {
    let each: Vec<Value> = (0..servers)
        .map(
            |n| json!({"server": n, "bytes_written": 100 * (n + 1), "bytes_read": 0, "messages_received": 1}),
        )
        .collect();
    let course = [(0.25, 100), (0.5, 300), (0.75, 300)]
        .map(|(s, b)| json!({"seconds": s, "written": b << 20, "flushed": (b / 2) << 20}));
    let document = json!({
        "Command line": "hayate bench ior <here>",
        "summary": [{"operation": "write", "API": "HAYATE", "filePerProc": 0, "transferSize": transfer, "numTasks": tasks, "bwMeanMIB": mib}],
        "tests": [{"Results": [{
            "access": "write", "iter": 0, "hayateBytes": 5_000_000,
            "hayateLatency": [[100, 5], [120, 3], [140, 1]],
            "hayateSteps": [[0, 1, 1_000_000], [1, 1, 1_000_000], [2, 1, 1_000_000], [3, 1, 1_000_000], [7, 1, 1_000_000]],
            "hayateServers": {"each": each, "course": course},
        }]}],
        "hayate": {"servers": servers, "machine": {"cpus": 2, "cpu": "X", "kernel": "L", "commit": "c"}, "warnings": ["a cache"],
                   "metrics": [{"name": "write bandwidth", "unit": "MiB/s", "higher_is_better": true, "values": [mib]}]},
    });
    (format!("run-{transfer}-{tasks}-{servers}"), document)
}

/// Curves have the points of the runs; time without progress is zero, not left out.
#[test]
fn charts_have_the_points_of_the_runs() {
    let runs = [run(1024, 1, 4, 10.0), run(4096, 1, 4, 40.0), run(1024, 2, 4, 18.0), run(1024, 1, 2, 9.0)];
    let charts = data::charts(&runs);
    let slugs: Vec<String> = charts.iter().map(data::Chart::slug).collect();
    for part in
        ["transfer-size", "against-processes", "against-servers", "how-long", "over-time", "each-server"]
    {
        assert!(slugs.iter().any(|slug| slug.contains(part)), "{part} is not among {slugs:?}");
    }
    assert_eq!(charts[0].series().len(), 1);
    assert_eq!(charts[0].series()[0].1, [(1024.0, 10.0), (4096.0, 40.0)]);
    assert_eq!(charts[2].series()[0].1, [(2.0, 9.0), (4.0, 10.0)]);
    let course = charts.iter().find(|chart| chart.slug().contains("over-time")).expect("a course");
    assert_eq!((course.series().len(), course.series()[0].1.len()), (3, 8));
    assert!(course.series()[0].1[5].1 < 1e-9);
    assert!((course.series()[1].1[0].1 - 800.0).abs() < 1e-6, "MiB/s of servers");
}

/// The page is whole and works offline: every chart drawn, text escaped, nothing fetched, no script.
#[test]
fn the_page_works_offline() {
    let runs = [run(1024, 1, 4, 10.0), run(4096, 1, 4, 40.0)];
    let html = page(&runs);
    assert_eq!(html.matches("<svg").count(), data::charts(&runs).len());
    assert!(!html.contains("no chart:") && html.contains("&lt;here&gt;") && html.contains("a cache"));
    for fetched in ["<script", "src=", "href=", "@import", "url("] {
        assert!(!html.contains(fetched), "{fetched}");
    }
    let links = html.matches("http").count();
    assert_eq!(links, html.matches("http://www.w3.org/2000/svg").count(), "names of formats only");
}

#[test]
fn numbers_are_short() {
    let texts = [
        (0.0, "0"),
        (0.123, "0.12"),
        (12.34, "12.3"),
        (345.6, "346"),
        (12_000.0, "12k"),
        (4_500_000.0, "4.50M"),
    ];
    for (value, text) in texts {
        assert_eq!(short(value), text);
    }
}
