//! The JSON document of a run, with the key names of IOR's `summaryFormat=JSON`.
//!
//! Keys that IOR does not have start with `hayate`.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::report::{options, reorder_numbers, spreads, title};
use super::spec::IorSpec;
use super::stats::PhaseResult;
use super::{IorOutcome, Output, RunFacts, of_phase};
use crate::clock::ctime;
use crate::phase::Phase;

/// Writes the document.
///
/// # Errors
/// Of writing.
pub fn write(
    out: &mut dyn Write,
    spec: &IorSpec,
    output: &Output,
    facts: &RunFacts,
    outcome: &IorOutcome,
) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, &document(spec, output, facts, outcome))?;
    writeln!(out)
}

/// The document.
pub fn document(spec: &IorSpec, output: &Output, facts: &RunFacts, outcome: &IorOutcome) -> Value {
    let shown = |r: &&PhaseResult| r.phase != Phase::CheckWrite;
    let results: Vec<Value> = outcome.results.iter().filter(shown).map(|r| result(spec, r)).collect();
    let block: serde_json::Map<String, Value> =
        options(spec).into_iter().map(|(label, value)| (label.to_owned(), numeric(value))).collect();
    let summary: Vec<Value> = [Phase::Write, Phase::Read]
        .into_iter()
        .filter(|phase| of_phase(&outcome.results, *phase).next().is_some())
        .map(|phase| summary(spec, output, phase, &outcome.results))
        .collect();
    json!({
        "Version": title(),
        "Began": ctime(facts.began),
        "Command line": output.command_line,
        "Machine": facts.machine,
        "tests": [{
            "TestID": 0,
            "StartTime": ctime(facts.began),
            "Path": spec.file_of(0).1,
            "Parameters": parameters(spec, output),
            "Options": block,
            "Results": results,
        }],
        "summary": summary,
        "Finished": ctime(facts.finished),
        "hayateErrors": outcome.errors,
        "hayateContentSeeds": spec.seeds,
        "hayateTasksAreThreads": facts.threads,
        "hayateStartupSeconds": facts.startup.as_secs_f64(),
    })
}

fn numeric(text: String) -> Value {
    text.parse::<u64>().map_or(Value::String(text), Value::from)
}

fn parameters(spec: &IorSpec, output: &Output) -> Value {
    let flag = u8::from;
    let (constant, offset, random, seed) = reorder_numbers(spec.reorder);
    json!({
        "testID": 0,
        "refnum": output.reference,
        "api": spec.api.to_string(),
        "testFileName": spec.test_file,
        "nodes": 1,
        "tasksPerNode": spec.tasks,
        "repetitions": spec.repetitions,
        "interTestDelay": spec.delay_s,
        "fsync": flag(spec.fsync),
        "fsyncperwrite": flag(spec.fsync_per_write),
        "useExistingTestFile": flag(spec.use_existing),
        "uniqueDir": flag(spec.unique_dir),
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
        "keepFile": flag(spec.keep),
        "keepFileWithError": flag(spec.keep_with_error),
        "verbose": output.verbose,
        "segmentCount": spec.segments,
        "transferSize": spec.transfer_size,
        "blockSize": spec.block_size,
    })
}

fn result(spec: &IorSpec, result: &PhaseResult) -> Value {
    let cost = json!({
        "hayateCpuSeconds": result.cpu_s,
        "hayateCpuMicrosecondsPerOp": result.cpu_us_per_op(),
        "hayateCpuSecondsPerGiB": (result.bytes > 0).then(|| result.cpu_s_per_gib()),
        "hayateMessagesPerOp": result.messages_per_op(),
        "hayateErrors": result.errors,
        "iter": result.repetition,
        "totalTime": result.total_s,
    });
    let mut entry = match result.phase {
        Phase::Remove => json!({ "access": "remove" }),
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
        }),
    };
    if let (Value::Object(entry), Value::Object(cost)) = (&mut entry, cost) {
        entry.extend(cost);
    }
    entry
}

fn summary(spec: &IorSpec, output: &Output, phase: Phase, results: &[PhaseResult]) -> Value {
    let (bandwidth, rate, mean_s) = spreads(spec, phase, results);
    let (constant, offset, random, seed) = reorder_numbers(spec.reorder);
    json!({
        "operation": if phase == Phase::Write { "write" } else { "read" },
        "API": spec.api.to_string(),
        "TestID": 0,
        "ReferenceNumber": output.reference,
        "segmentCount": spec.segments,
        "blockSize": spec.block_size,
        "transferSize": spec.transfer_size,
        "numTasks": spec.tasks,
        "tasksPerNode": spec.tasks,
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
        "xsizeMiB": spec.total_bytes() as f64 / 1_048_576.0,
    })
}
