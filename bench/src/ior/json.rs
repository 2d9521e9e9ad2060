//! The JSON document of a run, with the key names of IOR's `summaryFormat=JSON`.
//!
//! Keys that IOR does not have start with `hayate`.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::plan::{Output, Test};
use super::report::{moved_mib, options, reorder_numbers, space, spreads, version};
use super::warnings::warnings;
use super::{IorOutcome, TestOutcome};
use crate::clock::ctime;
use crate::metrics::Metric;
use crate::pattern::Packet;
use crate::phase::Phase;
use crate::results::{PhaseResult, of_phase};

/// Writes the document.
///
/// # Errors
/// Of writing.
pub fn write(out: &mut dyn Write, output: &Output, outcome: &IorOutcome) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, &document(output, outcome))?;
    writeln!(out)
}

/// The document.
pub fn document(output: &Output, outcome: &IorOutcome) -> Value {
    let facts = &outcome.facts;
    let summaries = outcome.tests.iter().flat_map(|test| {
        let phases = [Phase::Write, Phase::Read].into_iter();
        phases.filter_map(|phase| of_phase(&test.results, phase).next().map(|_| summary(test, phase)))
    });
    let mut notes: Vec<String> = outcome.tests.iter().flat_map(|test| warnings(test, facts)).collect();
    notes.dedup();
    json!({
        "Version": version(),
        "Began": ctime(facts.began),
        "Command line": output.command_line,
        "Machine": format!("Linux {}", facts.machine.host),
        "tests": outcome.tests.iter().map(|test| test_document(test, output)).collect::<Vec<_>>(),
        "summary": summaries.collect::<Vec<_>>(),
        "Finished": ctime(facts.finished),
        "hayate": {
            "benchmark": "ior",
            "machine": facts.machine.json(),
            "tasksAre": facts.tasks_are,
            "servers": facts.servers,
            "configuration": facts.configuration,
            "startupSeconds": facts.startup.as_secs_f64(),
            "errors": outcome.errors(),
            "contentSeeds": outcome.tests.iter().map(|test| &test.test.spec.seeds).collect::<Vec<_>>(),
            "warnings": notes,
            "metrics": metrics(outcome),
        },
    })
}

/// What `bench compare` compares.
fn metrics(outcome: &IorOutcome) -> Vec<Metric> {
    let mut all = Vec::new();
    for test in &outcome.tests {
        for (phase, name) in [(Phase::Write, "write"), (Phase::Read, "read")] {
            let of = |value: fn(&PhaseResult) -> f64| of_phase(&test.results, phase).map(value).collect();
            let label = |what: &str| format!("test {} {name} {what}", test.test.id);
            all.push(Metric::higher(label("bandwidth"), "MiB/s", of(PhaseResult::bandwidth_mib)));
            all.push(Metric::lower(label("CPU of clients"), "us/op", of(PhaseResult::cpu_us_per_op)));
            let of_servers =
                |r: &PhaseResult| Some(r.servers.as_ref()?.cpu_s() * 1e6 / r.operations.max(1) as f64);
            let servers = of_phase(&test.results, phase).filter_map(of_servers).collect();
            all.push(Metric::lower(label("CPU of servers"), "us/op", servers));
            let of_mount = |r: &PhaseResult| Some(r.mount_cpu_s? * 1e6 / r.operations.max(1) as f64);
            let mount = of_phase(&test.results, phase).filter_map(of_mount).collect();
            all.push(Metric::lower(label("CPU of the mount"), "us/op", mount));
        }
    }
    all.retain(|metric| !metric.values.is_empty());
    all
}

fn test_document(outcome: &TestOutcome, output: &Output) -> Value {
    let spec = &outcome.test.spec;
    let shown = |r: &&PhaseResult| r.phase != Phase::CheckWrite;
    let [size, used, inodes, used_inodes] = space(outcome.capacity);
    let block: serde_json::Map<String, Value> = options(spec, outcome.nodes)
        .into_iter()
        .map(|(label, value)| (label.to_owned(), numeric(label, value)))
        .collect();
    let max: serde_json::Map<String, Value> = [(Phase::Write, "write"), (Phase::Read, "read")]
        .into_iter()
        .filter_map(|(phase, name)| {
            let best = of_phase(&outcome.results, phase).map(PhaseResult::bandwidth_mib).reduce(f64::max)?;
            Some([(format!("{name}MiB"), json!(best)), (format!("{name}MB"), json!(best * 1.048_576))])
        })
        .flatten()
        .collect();
    json!({
        "TestID": outcome.test.id,
        "StartTime": ctime(outcome.began),
        "Path": spec.file_of(0, 0).1,
        "Capacity": size,
        "Used Capacity": used,
        "Inodes": inodes,
        "Used Inodes": used_inodes,
        "hayateCapacityBytes": outcome.capacity.bytes,
        "Parameters": parameters(outcome, output),
        "Options": block,
        "Results": outcome.results.iter().filter(shown).map(|r| result(&outcome.test, r)).collect::<Vec<_>>(),
        "max": max,
    })
}

/// The value of an option: a number where it is one, except where IOR has text.
fn numeric(label: &str, text: String) -> Value {
    match text.parse::<u64>() {
        Ok(number) if label != "GPUDirect" => Value::from(number),
        _ => Value::String(text),
    }
}

fn parameters(outcome: &TestOutcome, output: &Output) -> Value {
    let (test, spec, flag) = (&outcome.test, &outcome.test.spec, u8::from);
    let (constant, offset, random, seed) = reorder_numbers(spec.reorder);
    json!({
        "testID": test.id,
        "refnum": test.reference,
        "api": spec.api.to_string(),
        "platform": format!("{}(Linux)", crate::clock::host()),
        "testFileName": spec.test_file,
        "deadlineForStonewall": spec.deadline_s,
        "stoneWallingWearOut": flag(spec.wear_out),
        "maxTimeDuration": spec.max_minutes,
        "outlierThreshold": spec.outlier_s,
        "options": "",
        "dryRun": 0,
        "nodes": outcome.nodes,
        "memoryPerTask": spec.hog_bytes,
        "memoryPerNode": test.hog_per_node,
        "tasksPerNode": spec.tasks_per_node,
        "repetitions": spec.repetitions,
        "multiFile": flag(spec.multi_file),
        "interTestDelay": spec.delay_s,
        "fsync": flag(spec.fsync),
        "fsyncperwrite": flag(spec.fsync_per_write),
        "useExistingTestFile": flag(spec.use_existing),
        "uniqueDir": flag(spec.unique_dir),
        "singleXferAttempt": flag(spec.single_attempt),
        "readFile": flag(spec.read),
        "writeFile": flag(spec.write),
        "filePerProc": flag(spec.file_per_process),
        "reorderTasks": constant,
        "taskPerNodeOffset": offset,
        "reorderTasksRandom": random,
        "reorderTasksRandomSeed": seed,
        "randomOffset": flag(spec.random_offset),
        "checkWrite": flag(spec.check_write),
        "checkRead": flag(spec.check_read),
        "useO_DIRECT": flag(spec.direct),
        "keepFile": flag(spec.keep),
        "keepFileWithError": flag(spec.keep_with_error),
        "quitOnError": flag(spec.quit_on_error),
        "warningAsErrors": flag(test.warnings_are_errors),
        "verbose": output.verbose,
        // By its place in IOR's list: timestamp, offset, incompressible, random.
        "dataPacketType": match spec.packet {
            Packet::Timestamp => 0,
            Packet::Offset => 1,
            Packet::Random => 3,
        },
        "data packet type": match spec.packet {
            Packet::Random => "r",
            Packet::Offset => "o",
            Packet::Timestamp => "t",
        },
        "setTimeStampSignature/incompressibleSeed": spec.seeds.first(),
        "collective": flag(test.collective),
        "segmentCount": spec.segments,
        "transferSize": spec.transfer_size,
        "blockSize": spec.block_size,
    })
}

fn result(test: &Test, result: &PhaseResult) -> Value {
    let spec = &test.spec;
    let mut entry = match result.phase {
        Phase::Remove => json!({ "access": "remove", "totalTime": result.total_s }),
        phase => json!({
            "access": if phase == Phase::Write { "write" } else { "read" },
            "bwMiB": result.bandwidth_mib(),
            "blockKiB": spec.block_size as f64 / 1024.0,
            "xferKiB": spec.transfer_size as f64 / 1024.0,
            "iops": result.iops(),
            "latency": result.latency_s,
            "openTime": result.open_s,
            "wrRdTime": result.access_s,
            "closeTime": result.close_s,
            "totalTime": result.total_s,
            "numTasks": spec.tasks,
            "iter": result.repetition,
        }),
    };
    if let Value::Object(entry) = &mut entry {
        if let Some(wall) = result.stonewall {
            entry.insert("hayateStonewallTime".to_owned(), json!(wall.time_s));
            entry.insert("hayateStonewallBytes".to_owned(), json!(wall.total_bytes));
            entry.insert("hayateStonewallHit".to_owned(), json!(wall.hit));
        }
        entry.extend(crate::cost::json(result));
    }
    entry
}

fn summary(outcome: &TestOutcome, phase: Phase) -> Value {
    let (spec, results) = (&outcome.test.spec, &outcome.results);
    let (bandwidth, rate, mean_s) = spreads(spec, phase, results);
    let (constant, offset, random, seed) = reorder_numbers(spec.reorder);
    let wall = of_phase(results, phase).filter_map(|result| result.stonewall).next_back();
    json!({
        "operation": if phase == Phase::Write { "write" } else { "read" },
        "API": spec.api.to_string(),
        "TestID": outcome.test.id,
        "ReferenceNumber": outcome.test.reference,
        "segmentCount": spec.segments,
        "blockSize": spec.block_size,
        "transferSize": spec.transfer_size,
        "numTasks": spec.tasks,
        "tasksPerNode": spec.tasks_per_node,
        "repetitions": spec.repetitions,
        "filePerProc": u8::from(spec.file_per_process),
        "reorderTasks": constant,
        "taskPerNodeOffset": offset,
        "reorderTasksRandom": random,
        "reorderTasksRandomSeed": seed,
        "bwMaxMIB": bandwidth.max,
        "bwMinMIB": bandwidth.min,
        "bwMeanMIB": bandwidth.mean,
        "bwStdMIB": bandwidth.deviation,
        "OPsMax": rate.max,
        "OPsMin": rate.min,
        "OPsMean": rate.mean,
        "OPsSD": rate.deviation,
        "MeanTime": mean_s,
        "StoneWallTime": wall.map(|wall| wall.time_s),
        "StoneWallbwMeanMIB": wall.map(|wall| wall.total_bytes as f64 / 1_048_576.0 / wall.time_s.max(1e-9)),
        "xsizeMiB": moved_mib(spec, phase, results),
    })
}
