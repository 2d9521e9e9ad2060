//! The text of a run, laid out as IOR 4.0 prints it, so that scripts that read IOR's output read this.
//!
//! What IOR does not have (CPU time, messages, seeds, start-up) follows after its last line.
//!
//! # Invariants
//! - Up to the line `Finished`, lines, labels and columns are those of IOR (`ior::tests::text_has_the_shape_of_ior`).

use std::io::{self, Write};

use super::plan::{Output, Test};
use super::spec::{IorSpec, Reorder};
use super::warnings::{outliers, warnings};
use super::{IorOutcome, TestOutcome};
use crate::backend::Capacity;
use crate::clock::ctime;
use crate::machine::Machine;
use crate::phase::Phase;
use crate::results::{PhaseResult, Spread, of_phase};
use crate::size::{human, table_number};

/// First line: whose layout it keeps, and which program this is.
pub fn title() -> String {
    format!("{}: MPI Coordinated Test of Parallel I/O", version())
}

/// The version in the first line: IOR's, whose output this is laid out as, and ours.
pub fn version() -> String {
    format!("IOR-4.0.0+hayate-bench-{}", env!("CARGO_PKG_VERSION"))
}

/// Writes the text of one run.
pub struct TextReport<'a> {
    output: &'a Output,
}

fn item(out: &mut dyn Write, label: &str, value: impl std::fmt::Display) -> io::Result<()> {
    writeln!(out, "{label:<20}: {value}")
}

impl<'a> TextReport<'a> {
    /// A report that goes to `output`.
    pub fn new(output: &'a Output) -> Self {
        TextReport { output }
    }

    /// All of it again, for a file.
    pub(super) fn whole(&self, out: &mut dyn Write, outcome: &IorOutcome) -> io::Result<()> {
        self.begin(out, outcome.facts.began, &outcome.facts.machine)?;
        for test in &outcome.tests {
            self.header(out, test)?;
            for result in &test.results {
                self.phase_begins(out, result.phase, result.began)?;
                self.row(out, &test.test, result)?;
            }
            self.maxima(out, test)?;
        }
        self.footer(out, outcome)
    }

    /// The first lines.
    pub(super) fn begin(&self, out: &mut dyn Write, began: u64, machine: &Machine) -> io::Result<()> {
        writeln!(out, "{}", title())?;
        item(out, "Began", ctime(began))?;
        item(out, "Command line", &self.output.command_line)?;
        let more = if self.output.verbose > 1 { format!(" {}", machine.kernel) } else { String::new() };
        item(out, "Machine", format!("Linux {}{more}", machine.host))
    }

    /// Everything of a test before its first result.
    pub(super) fn header(&self, out: &mut dyn Write, test: &TestOutcome) -> io::Result<()> {
        let spec = &test.test.spec;
        item(out, "TestID", test.test.id)?;
        item(out, "StartTime", ctime(test.began))?;
        item(out, "Path", spec.file_of(0, 0).1)?;
        item(out, "FS", file_system(test.capacity))?;
        if self.output.verbose > 0 {
            item(out, "Participating tasks", spec.tasks)?;
        }
        writeln!(out, "\nOptions: ")?;
        for (label, value) in options(spec, test.nodes) {
            item(out, label, value)?;
        }
        if self.output.verbose > 0 {
            item(out, "verbose", self.output.verbose)?;
        }
        writeln!(out, "\nResults: \n")?;
        writeln!(
            out,
            "access    bw(MiB/s)  IOPS       Latency(s)  block(KiB) xfer(KiB)  open(s)    wr/rd(s)   close(s)   \
             total(s)   iter"
        )?;
        writeln!(
            out,
            "------    ---------  ----       ----------  ---------- ---------  --------   --------   --------   \
             --------   ----"
        )?;
        match test.status_unread {
            Some(_) => {
                writeln!(out, "WARNING: Could not read back the stonewalling status from the file!")
            }
            None => Ok(()),
        }
    }

    /// What `-v` says before a phase. As IOR has them, some of these dates end with an empty line.
    pub(super) fn phase_begins(&self, out: &mut dyn Write, phase: Phase, now: u64) -> io::Result<()> {
        if self.output.verbose == 0 {
            return Ok(());
        }
        let now = ctime(now);
        match phase {
            Phase::Write => writeln!(out, "Commencing write performance test: {now}"),
            Phase::CheckWrite => {
                writeln!(out, "Verifying contents of the file(s) just written.\n{now}\n")
            }
            Phase::Read => writeln!(out, "Commencing read performance test: {now}\n"),
            _ => Ok(()),
        }
    }

    /// The line of one phase in the results table.
    pub(super) fn row(&self, out: &mut dyn Write, test: &Test, result: &PhaseResult) -> io::Result<()> {
        stonewall(out, result)?;
        let columns: Vec<String> = match result.phase {
            Phase::CheckWrite => return wrong_content(out, "write", result),
            Phase::Write | Phase::Read => columns(&test.spec, result).map(table_number).into(),
            _ => (0..8).map(|_| "-".to_owned()).chain([table_number(result.total_s)]).collect(),
        };
        write!(out, "{:<9} ", name(result.phase))?;
        for (column, text) in columns.iter().enumerate() {
            let width = if column == 2 { 11 } else { 10 };
            write!(out, "{text:<width$} ")?;
        }
        writeln!(out, "{:<4}", result.repetition)?;
        wrong_content(out, name(result.phase), result)
    }

    /// The largest bandwidths of a test.
    pub(super) fn maxima(&self, out: &mut dyn Write, test: &TestOutcome) -> io::Result<()> {
        for line in outliers(test) {
            writeln!(out, "{line}")?;
        }
        for (phase, label) in [(Phase::Write, "Max Write: "), (Phase::Read, "Max Read:  ")] {
            let best = of_phase(&test.results, phase).map(PhaseResult::bandwidth_mib).reduce(f64::max);
            if let Some(best) = best {
                writeln!(out, "{label}{best:.2} MiB/sec ({:.2} MB/sec)", best * 1.048_576)?;
            }
        }
        Ok(())
    }

    /// Everything after the last test.
    pub(super) fn footer(&self, out: &mut dyn Write, outcome: &IorOutcome) -> io::Result<()> {
        writeln!(out, "\nSummary of all tests:")?;
        writeln!(
            out,
            "Operation   Max(MiB)   Min(MiB)  Mean(MiB)     StdDev   Max(OPs)   Min(OPs)  Mean(OPs)     StdDev    \
             Mean(s) Stonewall(s) Stonewall(MiB) Test# #Tasks tPN reps fPP reord reordoff reordrand seed segcnt   \
             blksiz    xsize aggs(MiB)   API RefNum"
        )?;
        for test in &outcome.tests {
            for phase in [Phase::Write, Phase::Read] {
                if of_phase(&test.results, phase).next().is_some() {
                    summary(out, phase, &test.test, &test.results)?;
                }
            }
        }
        item(out, "Finished", ctime(outcome.facts.finished))?;
        details(out, outcome)
    }
}

/// The columns of the results table, and of the CSV document.
pub fn columns(spec: &IorSpec, result: &PhaseResult) -> [f64; 9] {
    [
        result.bandwidth_mib(),
        result.iops(),
        result.latency_s,
        spec.block_size as f64 / 1024.0,
        spec.transfer_size as f64 / 1024.0,
        result.open_s,
        result.access_s,
        result.close_s,
        result.total_s,
    ]
}

/// The line about a deadline.
fn stonewall(out: &mut dyn Write, result: &PhaseResult) -> io::Result<()> {
    let Some(wall) = result.stonewall else { return Ok(()) };
    let gib = |bytes: f64| bytes / (1_u64 << 30) as f64;
    writeln!(
        out,
        "stonewalling pairs accessed min: {} max: {} -- min data: {:.1} GiB mean data: {:.1} GiB time: {:.1}s",
        wall.min_operations,
        wall.max_operations,
        gib(wall.min_bytes as f64),
        gib(wall.total_bytes as f64 / result.ranks.len().max(1) as f64),
        wall.time_s
    )
}

/// Seconds until the deadline and MiB of all tasks then, as the summary shows them: of the last repetition.
fn stonewall_columns(phase: Phase, results: &[PhaseResult]) -> (String, String) {
    let wall = of_phase(results, phase).filter_map(|result| result.stonewall).next_back();
    wall.map_or(("NA".to_owned(), "NA".to_owned()), |wall| {
        (format!("{:.2}", wall.time_s), format!("{:.2}", wall.total_bytes as f64 / 1_048_576.0))
    })
}

fn summary(out: &mut dyn Write, phase: Phase, test: &Test, results: &[PhaseResult]) -> io::Result<()> {
    let spec = &test.spec;
    let (bandwidth, rate, mean_s) = spreads(spec, phase, results);
    write!(out, "{:<9} ", name(phase))?;
    for spread in [bandwidth, rate] {
        for value in [spread.max, spread.min, spread.mean, spread.deviation] {
            write!(out, "{value:10.2} ")?;
        }
    }
    let (constant, offset, random, seed) = reorder_numbers(spec.reorder);
    let (wall_s, wall_mib) = stonewall_columns(phase, results);
    write!(out, "{mean_s:10.5} {wall_s:>10} {wall_mib:>13} ")?;
    write!(
        out,
        "{:5} {:6} {:3} {:4} {:3} ",
        test.id,
        spec.tasks,
        spec.tasks_per_node,
        spec.repetitions,
        u8::from(spec.file_per_process)
    )?;
    write!(out, "{constant:5} {offset:8} {random:9} {seed:4} ")?;
    write!(out, "{:6} {:8} {:8} ", spec.segments, spec.block_size, spec.transfer_size)?;
    writeln!(out, "{:9.1} {:3} {:6}", moved_mib(spec, phase, results), spec.api, test.reference)
}

/// MiB that the first repetition moved: less than planned if a deadline ended it.
pub fn moved_mib(spec: &IorSpec, phase: Phase, results: &[PhaseResult]) -> f64 {
    of_phase(results, phase).next().map_or(spec.total_bytes(), |result| result.bytes) as f64 / 1_048_576.0
}

/// What IOR does not print.
fn details(out: &mut dyn Write, outcome: &IorOutcome) -> io::Result<()> {
    let facts = &outcome.facts;
    writeln!(out, "\nHayate details (dates above are UTC):")?;
    item(out, "machine", facts.machine.line())?;
    let startup_ms = facts.startup.as_secs_f64() * 1e3;
    facts.configuration.write(out)?;
    item(out, "tasks are", format!("{}, ready after {startup_ms:.1} ms", facts.tasks_are))?;
    for test in &outcome.tests {
        if let Some(seed) = test.test.spec.seeds.last() {
            item(out, "content seed", format!("{seed} (of the last repetition, for -G)"))?;
        }
    }
    item(out, "wrong words", outcome.errors())?;
    crate::cost::table(out, outcome.tests.iter().flat_map(|test| &test.results).map(|r| (name(r.phase), r)))?;
    for test in &outcome.tests {
        crate::notes::write(out, &warnings(test, facts))?;
    }
    Ok(())
}

fn name(phase: Phase) -> &'static str {
    match phase {
        Phase::Write | Phase::CheckWrite => "write",
        Phase::Read => "read",
        _ => "remove",
    }
}

/// The options block: labels and values.
pub fn options(spec: &IorSpec, nodes: u32) -> Vec<(&'static str, String)> {
    let shape = if spec.file_per_process { "file-per-process" } else { "single-shared-file" };
    let mut block = vec![
        ("api", spec.api.to_string()),
        ("apiVersion", String::new()),
        ("test filename", spec.test_file.clone()),
        ("access", shape.to_owned()),
        ("type", "independent".to_owned()),
        ("segments", spec.segments.to_string()),
        ("ordering in a file", (if spec.random_offset { "random" } else { "sequential" }).to_owned()),
    ];
    match spec.reorder {
        Reorder::None => block.push(("ordering inter file", "no tasks offsets".to_owned())),
        Reorder::Constant { offset } => {
            block.push(("ordering inter file", "constant task offset".to_owned()));
            block.push(("task offset", offset.to_string()));
        }
        Reorder::Random { seed, offset } => {
            block.push(("ordering inter file", "random task offset".to_owned()));
            block.push(("task offset", offset.to_string()));
            block.push(("reorder random seed", seed.to_string()));
        }
    }
    block.extend([
        ("nodes", nodes.to_string()),
        ("tasks", spec.tasks.to_string()),
        ("clients per node", spec.tasks_per_node.to_string()),
        ("memoryBuffer", "CPU".to_owned()),
        ("dataAccess", "CPU".to_owned()),
        ("GPUDirect", "0".to_owned()),
        ("repetitions", spec.repetitions.to_string()),
        ("xfersize", human(spec.transfer_size)),
        ("blocksize", human(spec.block_size)),
        ("aggregate filesize", human(spec.total_bytes())),
    ]);
    if spec.deadline_s > 0 {
        block.push(("stonewallingTime", spec.deadline_s.to_string()));
        block.push(("stoneWallingWearOut", u8::from(spec.wear_out).to_string()));
    }
    block
}

/// -C, its offset, -Z and its seed as the summary shows them.
pub fn reorder_numbers(reorder: Reorder) -> (u8, u32, u8, i64) {
    match reorder {
        Reorder::None => (0, 1, 0, 0),
        Reorder::Constant { offset } => (1, offset, 0, 0),
        Reorder::Random { seed, offset } => (0, offset, 1, seed),
    }
}

/// Spread of bandwidth in MiB/s and of transfers per second of total time, and mean seconds, of a phase.
pub fn spreads(spec: &IorSpec, phase: Phase, results: &[PhaseResult]) -> (Spread, Spread, f64) {
    let bandwidths: Vec<f64> = of_phase(results, phase).map(PhaseResult::bandwidth_mib).collect();
    let times: Vec<f64> = of_phase(results, phase).map(|r| r.total_s).collect();
    let per_mib = 1_048_576.0 / spec.transfer_size as f64;
    let rates: Vec<f64> = bandwidths.iter().map(|mib| mib * per_mib).collect();
    (Spread::of(&bandwidths), Spread::of(&rates), Spread::of(&times).mean)
}

fn wrong_content(out: &mut dyn Write, access: &str, result: &PhaseResult) -> io::Result<()> {
    if result.errors > 0 {
        writeln!(out, "WARNING: Incorrect data on {access} ({} errors found).", result.errors)?;
    }
    if let Some(first) = &result.first_error {
        writeln!(out, "  first: {first}")?;
    }
    Ok(())
}

/// Space of the file system in IOR's words: size, share that is used, inodes, share of them that is used.
pub fn space(capacity: Capacity) -> [String; 4] {
    let gib = capacity.bytes as f64 / (1_u64 << 30) as f64;
    let size = if gib >= 1024.0 { format!("{:.1} TiB", gib / 1024.0) } else { format!("{gib:.1} GiB") };
    let used = |all: u64, free: u64| {
        let share = if all == 0 { 0.0 } else { (all - free.min(all)) as f64 / all as f64 };
        format!("{:.1}%", share * 100.0)
    };
    let inodes = format!("{:.1} Mi", capacity.inodes as f64 / 1_048_576.0);
    [size, used(capacity.bytes, capacity.free_bytes), inodes, used(capacity.inodes, capacity.free_inodes)]
}

/// The same as a line of IOR's and mdtest's text.
pub fn file_system(capacity: Capacity) -> String {
    let [size, used, inodes, used_inodes] = space(capacity);
    format!("{size}   Used FS: {used}   Inodes: {inodes}   Used Inodes: {used_inodes}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Api;

    /// Goal: lines are those of IOR to the last blank. Method: the numbers of a published run (8 tasks, IOR 3.3), whose
    /// lines are known.
    #[test]
    fn lines_are_those_of_a_published_run() {
        let base = IorSpec::new(Api::Posix, "testFile");
        let test = Test::new(IorSpec { tasks: 8, tasks_per_node: 8, ..base });
        let write = PhaseResult {
            phase: Phase::Write,
            bytes: 8 << 20,
            operations: 32,
            open_s: 0.001_203,
            access_s: 0.007_473,
            close_s: 0.000_973,
            total_s: 8.0 / 912.404,
            latency_s: 0.001_868,
            ..PhaseResult::default()
        };
        let output = Output::default();
        let mut text = Vec::new();
        TextReport::new(&output).row(&mut text, &test, &write).expect("a row");
        summary(&mut text, Phase::Write, &test, &[write]).expect("a summary");
        let published = "\
write     912.40     4282       0.001868    1024.00    256.00     0.001203   0.007473   0.000973   0.008768   0   \n\
write         912.40     912.40     912.40       0.00    3649.62    3649.62    3649.62       0.00    0.00877         \
NA            NA     0      8   8    1   0     0        1         0    0      1  1048576   262144       8.0 POSIX      0
";
        assert_eq!(String::from_utf8_lossy(&text), published);
    }

    #[test]
    fn space_is_shown_as_ior_shows_it() {
        let capacity =
            Capacity { bytes: 3 << 40, free_bytes: 3 << 39, inodes: 2 << 20, free_inodes: 3 << 19 };
        assert_eq!(file_system(capacity), "3.0 TiB   Used FS: 50.0%   Inodes: 2.0 Mi   Used Inodes: 25.0%");
        assert_eq!(
            file_system(Capacity::default()),
            "0.0 GiB   Used FS: 0.0%   Inodes: 0.0 Mi   Used Inodes: 0.0%"
        );
    }
}
