//! `hayate bench scale`: how the design behaves on machines that nobody here has.
//!
//! | module | what |
//! |---|---|
//! | [`engine`] | discrete events: stations with queues |
//! | [`model`] | a cluster: hosts, cards, devices, and what a message costs |
//! | [`scenarios`] | a dump, a metadata storm, a drain |
//! | [`opens`] | an open storm |
//! | [`options`] | the command line |
//!
//! Who is asked for what is decided by the placement code of `fs-proto`, the same that servers and clients run; what a message costs was measured
//! (`bench/scale.py`, which also compares the model with real runs and states the error). What neither tells is an option: cards, devices,
//! cores. Rejected: running the servers' own code in virtual time (a thousand servers of 20 MiB each, and days of CPU time for one dump), and
//! formulas alone (they do not show convoys, stragglers and deaths).
//!
//! Not in the model: contention inside a server (locks, the key-value store's compactions), the topology of the network beyond the cards,
//! and memory. So it says what cannot work, and what may.

pub mod engine;
pub mod model;
pub mod opens;
pub mod options;
pub mod scenarios;
#[cfg(test)]
mod tests;

use std::io::Write;

use serde_json::{Value, json};

use crate::error::Result;
use crate::ior::write_file;
use crate::metrics::Metric;
use options::ScaleArgs;
use scenarios::{Machine, Prediction};

/// What is asked, and what the requirement wants in seconds.
const GOALS: [(&str, f64); 5] = [
    ("dump into one file", 60.0),
    ("create by every process", 1.0),
    ("open by all at once", 1.0),
    ("open, coming by and by", 1.0),
    ("drain", 300.0),
];

/// Of processes that all come within so many seconds; in a run of comparison of clients that open one file after the other.
fn opens(machine: &Machine, costs: &model::Calibration, arrival_s: f64) -> Result<Prediction> {
    if machine.clients > 0 {
        return machine.plain_opens(costs);
    }
    Machine { arrival_s, ..machine.clone() }.open_storm(costs)
}

/// Asks the model all questions for every number of nodes.
///
/// # Errors
/// If an option has no meaning.
pub fn run(args: &ScaleArgs, out: &mut dyn Write) -> Result<()> {
    let costs = args.costs()?;
    writeln!(out, "costs measured on   : {}", costs.machine)?;
    writeln!(
        out,
        "a node              : {} cores of {} x that speed, card {} GB/s, device {} GB/s, {} memory, {} processes",
        args.cores,
        args.core_speed,
        args.nic,
        args.device,
        crate::size::human(args.memory),
        args.processes
    )?;
    let layout = if args.writer { "writer" } else { "striped" };
    writeln!(
        out,
        "layout              : {layout}, chunks of {}, {} under way",
        crate::size::human(args.chunk),
        args.window
    )?;
    writeln!(
        out,
        "opens               : {}; by and by is within {} ms",
        if args.no_hot_names {
            "each asks the file's home"
        } else {
            "answered by each node's server once it may (decision 0038)"
        },
        args.arrival
    )?;
    writeln!(
        out,
        "\n{:<25} {:>7} {:>11} {:>7} {:>5} {:>8}  most used",
        "", "nodes", "seconds", "goal", "", "max/mean"
    )?;
    let mut documents = Vec::new();
    let mut metrics = Vec::new();
    for nodes in &args.nodes {
        let machine = args.machine(*nodes)?;
        let all = [
            machine.dump(&costs)?,
            machine.metadata_storm(&costs)?,
            opens(&machine, &costs, 0.0)?,
            opens(&machine, &costs, args.arrival / 1e3)?,
            machine.drain(&costs)?,
        ];
        for ((name, goal_s), prediction) in GOALS.iter().zip(&all) {
            row(out, name, *nodes, *goal_s, prediction)?;
            metrics.push(Metric::lower(format!("{name}, {nodes} nodes"), "s", vec![prediction.seconds]));
            documents.push(json!({"question": name, "goalSeconds": goal_s, "machine": machine, "prediction": prediction}));
        }
        writeln!(out)?;
        advice(out, &machine, &costs, &all)?;
    }
    if let Some(path) = &args.json {
        let document: Value = json!({
            "calibration": costs,
            "answers": documents,
            "hayate": {"benchmark": "scale", "machine": crate::machine::Machine::this().json(), "metrics": metrics},
        });
        write_file(path, false, |file| writeln!(file, "{document:#}"))?;
    }
    Ok(())
}

fn row(out: &mut dyn Write, name: &str, nodes: u32, goal_s: f64, prediction: &Prediction) -> Result<()> {
    let verdict = if prediction.seconds <= goal_s { "met" } else { "MISS" };
    let unsteady = prediction.simulated < prediction.operations && prediction.drift.abs() > 0.1;
    let drift = if unsteady {
        format!("; drifts by {:+.0} %: see --simulated", prediction.drift * 100.0)
    } else {
        String::new()
    };
    let lost = if prediction.lost > 0 {
        format!(", {} operations lost with the dead", prediction.lost)
    } else {
        String::new()
    };
    writeln!(
        out,
        "{name:<25} {nodes:>7} {:>11.3} {goal_s:>7.0} {verdict:>5} {:>8.3}  {} ({:.0} %){lost}{drift}",
        prediction.seconds,
        prediction.balance,
        prediction.bottleneck,
        prediction.utilisation * 100.0
    )?;
    Ok(())
}

/// Where a goal is missed: what one would have to change.
fn advice(
    out: &mut dyn Write,
    machine: &Machine,
    costs: &model::Calibration,
    all: &[Prediction; 5],
) -> Result<()> {
    let [dump, create, at_once, by_and_by, _] = all;
    if dump.seconds > GOALS[0].1 && dump.bottleneck == "cores" {
        let mib = machine.dump_bytes as f64 / 1_048_576.0 / GOALS[0].1;
        let per_mib = costs.write_client_us_mib
            + costs.write_server_us_mib
            + if machine.writer { 0.0 } else { costs.forward_us_mib };
        writeln!(
            out,
            "  dump: {:.0} MiB/s a node cost {:.0} us of CPU time each: {:.0} cores, there are {}",
            mib,
            per_mib,
            mib * per_mib / 1e6 / machine.node.core_speed,
            machine.node.cores
        )?;
    }
    if create.seconds > GOALS[1].1 {
        let per_op = costs.create_client_us + costs.create_server_us + costs.forward_us;
        writeln!(
            out,
            "  create: {per_op:.0} us of CPU time each, {} processes on {} cores",
            machine.processes, machine.node.cores
        )?;
    }
    for (open, how) in [(at_once, "at once"), (by_and_by, "by and by")] {
        let Some(asked) = open.asked else { continue };
        let each = costs.open_server_us + costs.forward_us / 2.0;
        let rate = f64::from(machine.node.cores) * 1e6 / each * machine.node.core_speed;
        writeln!(
            out,
            "  open {how}: {asked} of {} came to the file's home (all of its node, one of each other, and those of nodes that asked before it was hot); it answers {rate:.0}/s",
            u64::from(machine.nodes) * u64::from(machine.processes)
        )?;
    }
    writeln!(out)?;
    Ok(())
}
