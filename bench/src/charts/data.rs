//! The charts that documents of runs have data for.

use std::collections::BTreeMap;

use serde_json::Value;

use super::draw::{Axes, Series, bars, curves};
use crate::histogram::Histogram;
use crate::phase::STEP_NS;

/// Curves in one chart at most: more cannot be told apart.
const MOST_SERIES: usize = 10;
const MIB: f64 = 1_048_576.0;

/// A chart.
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    title: String,
    x: &'static str,
    y: &'static str,
    log_x: bool,
    content: Content,
}

#[derive(Debug, Clone, PartialEq)]
enum Content {
    Curves(Vec<Series>),
    Bars(Vec<(String, f64)>),
}

impl Chart {
    /// It as SVG.
    pub fn svg(&self) -> String {
        let axes = Axes { title: &self.title, x: self.x, y: self.y, log_x: self.log_x };
        match &self.content {
            Content::Curves(series) => curves(&axes, series),
            Content::Bars(values) => bars(&axes, values),
        }
    }

    /// Its title as a file name.
    pub fn slug(&self) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        self.title.chars().map(plain).take(60).collect()
    }

    /// Its curves, if it has any.
    pub fn series(&self) -> &[Series] {
        if let Content::Curves(series) = &self.content { series } else { &[] }
    }
}

/// All charts that there is data for.
pub fn charts(runs: &[(String, Value)]) -> Vec<Chart> {
    let points = bandwidths(runs);
    let mut all: Vec<Chart> = [
        ("Bandwidth against transfer size", "transfer size, bytes", true),
        ("Bandwidth against processes", "processes", true),
        ("Bandwidth against servers", "servers", false),
    ]
    .into_iter()
    .enumerate()
    .filter_map(|(axis, (title, x, log_x))| scaling(&points, axis, title, x, log_x))
    .collect();
    let results: Vec<(String, &Value)> = runs
        .iter()
        .flat_map(|(name, document)| results(document).map(move |(what, r)| (format!("{name} {what}"), r)))
        .collect();
    all.extend(latencies(&results));
    let shown = results.iter().filter(|(name, _)| !name.contains(" remove"));
    for (name, result) in shown.take(MOST_SERIES * 2) {
        all.extend(course(name, result));
        all.extend(balance(name, result));
    }
    all
}

/// Results with their names, wherever a document has them.
fn results(document: &Value) -> impl Iterator<Item = (String, &Value)> {
    let tests = document["tests"].as_array().into_iter().flatten();
    let of_tests = tests.flat_map(|test| test["Results"].as_array().into_iter().flatten());
    let plain = document["Results"].as_array().into_iter().flatten();
    let phases = document["phases"].as_array().into_iter().flatten();
    let named = of_tests.chain(plain).map(|result| {
        let name = result["access"].as_str().or(result["operation"].as_str()).unwrap_or("?");
        (format!("{name} {}", result["iter"].as_u64().unwrap_or(0)), result)
    });
    named.chain(phases.map(|phase| (phase["name"].as_str().unwrap_or("?").to_owned(), &phase["cost"])))
}

/// The bandwidth of one operation of one test.
struct Point {
    operation: String,
    /// Transfer size, processes, servers.
    axes: [f64; 3],
    mib: f64,
}

fn bandwidths(runs: &[(String, Value)]) -> Vec<Point> {
    let of = |document: &Value, summary: &Value| {
        let number = |key: &str| summary[key].as_f64();
        let shape = if summary["filePerProc"] == 1 { "a file each" } else { "one file" };
        Some(Point {
            operation: format!("{} {}, {shape}", summary["API"].as_str()?, summary["operation"].as_str()?),
            axes: [
                number("transferSize")?,
                number("numTasks")?,
                document["hayate"]["servers"].as_f64().unwrap_or(0.0),
            ],
            mib: number("bwMeanMIB")?,
        })
    };
    let summaries = runs.iter().flat_map(|(_, document)| {
        document["summary"].as_array().into_iter().flatten().filter_map(move |summary| of(document, summary))
    });
    summaries.collect()
}

/// Bandwidth against one of the axes, where it has more than one value; a curve for each operation and each combination of the others.
fn scaling(points: &[Point], axis: usize, title: &str, x: &'static str, log_x: bool) -> Option<Chart> {
    let mut series: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    for point in points {
        let units = ["B", "processes", "servers"].iter().zip(point.axes).enumerate();
        let others =
            units.filter(|(other, _)| *other != axis).map(|(_, (unit, value))| format!("{value} {unit}"));
        let name = format!("{} ({})", point.operation, others.collect::<Vec<_>>().join(", "));
        series.entry(name).or_default().push((point.axes[axis], point.mib));
    }
    for curve in series.values_mut() {
        curve.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    series.retain(|_, curve| curve.first().map(|p| p.0) != curve.last().map(|p| p.0));
    let series: Vec<Series> = series.into_iter().take(MOST_SERIES).collect();
    (!series.is_empty()).then(|| Chart {
        title: title.to_owned(),
        x,
        y: "MiB/s",
        log_x,
        content: Content::Curves(series),
    })
}

/// How many of the operations took at most how long.
fn latencies(results: &[(String, &Value)]) -> Option<Chart> {
    let curves = results.iter().filter_map(|(name, result)| {
        let histogram: Histogram = serde_json::from_value(result["hayateLatency"].clone()).ok()?;
        let total = histogram.count() as f64;
        let mut seen = 0;
        let points: Vec<(f64, f64)> = histogram
            .buckets()
            .map(|(ns, count)| {
                seen += count;
                (ns as f64 / 1e3, seen as f64 / total * 100.0)
            })
            .collect();
        (points.len() > 1).then(|| (name.clone(), points))
    });
    let series: Vec<Series> = curves.take(MOST_SERIES).collect();
    (!series.is_empty()).then(|| Chart {
        title: "How long operations took".to_owned(),
        x: "microseconds",
        y: "% took at most as long",
        log_x: true,
        content: Content::Curves(series),
    })
}

/// Throughput in the course of time, with what the servers wrote and flushed meanwhile.
fn course(name: &str, result: &Value) -> Option<Chart> {
    let step_s = STEP_NS as f64 / 1e9;
    let steps = result["hayateSteps"].as_array().filter(|steps| steps.len() > 4)?;
    let moves = result["hayateBytes"].as_u64().unwrap_or(0) > 0;
    let last = steps.last()?[0].as_u64()?;
    let mut rates = vec![0.0; usize::try_from(last.min(1 << 20)).ok()? + 1];
    for step in steps {
        let amount = if moves { step[2].as_f64()? / MIB } else { step[1].as_f64()? };
        *rates.get_mut(usize::try_from(step[0].as_u64()?).ok()?)? += amount / step_s;
    }
    let points = rates.iter().enumerate().map(|(step, rate)| (step as f64 * step_s, *rate)).collect();
    let mut series = vec![("processes".to_owned(), points)];
    if moves {
        let moments = result["hayateServers"]["course"].as_array();
        for (key, label) in [("written", "servers wrote"), ("flushed", "flushed to the shared tier")] {
            let totals: Vec<(f64, f64)> = moments
                .into_iter()
                .flatten()
                .filter_map(|m| Some((m["seconds"].as_f64()?, m[key].as_f64()? / MIB)))
                .collect();
            let rate = totals.windows(2).map(|w| (w[1].0, (w[1].1 - w[0].1) / (w[1].0 - w[0].0).max(1e-9)));
            let rate: Vec<(f64, f64)> = rate.collect();
            if rate.iter().any(|point| point.1 > 0.0) {
                series.push((label.to_owned(), rate));
            }
        }
    }
    Some(Chart {
        title: format!("Throughput over time: {name}"),
        x: "seconds",
        y: if moves { "MiB/s" } else { "operations/s" },
        log_x: false,
        content: Content::Curves(series),
    })
}

/// What each server did, as a share of the mean.
fn balance(name: &str, result: &Value) -> Option<Chart> {
    let servers = result["hayateServers"]["each"].as_array().filter(|servers| servers.len() > 1)?;
    let number = |server: &Value, key: &str| server[key].as_f64().unwrap_or(0.0);
    let bytes = |server: &Value| number(server, "bytes_written") + number(server, "bytes_read");
    let moves = servers.iter().map(bytes).sum::<f64>() > 0.0;
    let values: Vec<(String, f64)> = servers
        .iter()
        .map(|s| {
            (format!("{}", s["server"]), if moves { bytes(s) / MIB } else { number(s, "messages_received") })
        })
        .collect();
    Some(Chart {
        title: format!("Each server: {name}"),
        x: "server",
        y: if moves { "MiB moved" } else { "messages received" },
        log_x: false,
        content: Content::Bars(values),
    })
}
