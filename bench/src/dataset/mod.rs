//! `hayate bench dataset`: reading a data set for training, in the manner of DLIO and MLPerf Storage.
//!
//! Every task is an accelerator. An epoch is all samples in an order of its own, dealt to the tasks in turn; a task reads batches, at most
//! `--prefetch` ahead, while its accelerator computes `--compute-ms` a batch (it waits; nothing is computed). Told are samples a second, and
//! *accelerator utilisation*: compute time over the time of the epoch. MLPerf Storage asks for 90 %.
//!
//! The reads are those of one thread a task; more readers are more tasks.

pub mod options;
pub mod task;
#[cfg(test)]
mod tests;

use std::io::Write;

use serde_json::{Value, json};

use crate::configuration::Configuration;
use crate::error::Result;
use crate::ior::write_file;
use crate::machine::Machine;
use crate::metrics::Metric;
use crate::notes::{self, Reads};
use crate::phase::Phase;
use crate::results::{PhaseResult, Spread, of_phase};
use crate::session::Session;
use crate::tasks::Job;
use options::{DatasetSetup, DatasetSpec};

/// Mean utilisation of the accelerators in an epoch, and the least, from 0 to 1.
pub fn utilisation(result: &PhaseResult) -> Spread {
    let each =
        result.ranks.iter().filter(|rank| rank.total_s > 0.0).map(|rank| rank.compute_s / rank.total_s);
    Spread::of(&each.collect::<Vec<_>>())
}

/// Runs it. The phases that it had are the result.
///
/// # Errors
/// What ended the run.
pub fn run(setup: &DatasetSetup, session: &mut Session, out: &mut dyn Write) -> Result<Vec<PhaseResult>> {
    let spec = &setup.spec;
    writeln!(out, "Command line        : {}", setup.command_line)?;
    writeln!(out, "machine             : {}", Machine::this().line())?;
    let configuration = session.configuration(&spec.directory, [spec.tasks]);
    configuration.write(out)?;
    writeln!(
        out,
        "data set            : {} files x {} samples x {} bytes ({}), {}",
        spec.files,
        spec.samples_per_file,
        spec.sample_bytes,
        crate::size::human(spec.files * spec.samples_per_file * spec.sample_bytes),
        spec.api
    )?;
    writeln!(
        out,
        "accelerators        : {}, batches of {} samples, {} ms each, {} ahead\n",
        spec.tasks, spec.batch, spec.compute_ms, spec.prefetch
    )?;
    writeln!(out, "epoch    samples/s      MiB/s    AU mean(%)     AU min(%)     time(s)")?;
    let mut results = Vec::new();
    let of_mount = session.watch_mount(&spec.directory);
    session.run(&Job::Dataset(Box::new(spec.clone())), spec.tasks, &mut |result: PhaseResult| {
        if result.phase == Phase::Epoch {
            row(out, &result)?;
        }
        results.push(result);
        Ok(())
    })?;
    let name = |phase| match phase {
        Phase::FileCreate => "preparation",
        Phase::Epoch => "epoch",
        _ => "removal",
    };
    crate::cost::table(out, results.iter().map(|result| (name(result.phase), result)))?;
    for wrong in results.iter().filter_map(|r| r.first_error.as_ref()) {
        writeln!(out, "WARNING: Incorrect data on read: {wrong}")?;
    }
    let mut notes = notes_of(spec, &configuration, session);
    notes.extend(of_mount);
    notes::write(out, &notes)?;
    if let Some(path) = &setup.json {
        write_file(path, false, |file| {
            writeln!(file, "{:#}", document(setup, &results, session, (&configuration, &notes)))
        })?;
    }
    Ok(results)
}

/// Who may have answered a read without the storage under test.
fn notes_of(spec: &DatasetSpec, configuration: &Configuration, session: &Session) -> Vec<String> {
    let machine = Machine::this();
    let bytes = spec.files * spec.samples_per_file * spec.sample_bytes;
    let reads = Reads {
        what: "samples",
        storage: session.connection().backend().storage(&spec.directory),
        bytes,
        memory_bytes: machine.memory_bytes,
        direct: false,
        moved: false,
        advice: "",
        servers: configuration.servers.as_ref(),
    };
    let mut all: Vec<String> = reads.of_servers().into_iter().collect();
    if bytes < machine.memory_bytes.saturating_mul(5) {
        let what =
            "the data set is less than five times the memory: caches answer more than they would in training";
        all.push(what.to_owned());
    }
    all.extend(notes::of_run(session.launch().kind(), &machine));
    all
}

fn row(out: &mut dyn Write, result: &PhaseResult) -> std::io::Result<()> {
    let used = utilisation(result);
    writeln!(
        out,
        "{:<6} {:>11.1} {:>10.1} {:>13.2} {:>13.2} {:>11.4}",
        result.repetition,
        result.rate(),
        result.bandwidth_mib(),
        used.mean * 100.0,
        used.min * 100.0,
        result.total_s
    )?;
    out.flush()
}

fn document(
    setup: &DatasetSetup,
    results: &[PhaseResult],
    session: &Session,
    (configuration, notes): (&Configuration, &[String]),
) -> Value {
    let epochs = |of: fn(&PhaseResult) -> f64| of_phase(results, Phase::Epoch).map(of).collect();
    let metrics = [
        Metric::higher("samples", "/s", epochs(PhaseResult::rate)),
        Metric::higher("accelerator utilisation", "%", epochs(|result| utilisation(result).mean * 100.0)),
        Metric::lower("CPU of clients", "us/op", epochs(PhaseResult::cpu_us_per_op)),
    ];
    let entries: Vec<Value> = results
        .iter()
        .map(|result| {
            let mut entry = crate::cost::json(result);
            entry.insert("operation".to_owned(), json!(format!("{:?}", result.phase)));
            entry.insert("iter".to_owned(), json!(result.repetition));
            Value::Object(entry)
        })
        .collect();
    json!({
        "Command line": setup.command_line,
        "Parameters": setup.spec,
        "Results": entries,
        "hayate": {
            "benchmark": "dataset",
            "machine": Machine::this().json(),
            "tasksAre": session.launch().kind(),
            "servers": session.servers(),
            "configuration": configuration,
            "warnings": notes,
            "metrics": metrics,
        },
    })
}
