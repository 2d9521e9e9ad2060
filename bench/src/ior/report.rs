//! The text of a run, laid out as IOR 4.0 prints it, so that scripts that read IOR's output read this.
//!
//! What IOR does not have (CPU time, messages, seeds, start-up) follows after its last line.
//!
//! # Invariants
//! - Up to the line `Finished`, lines, labels and columns are those of IOR (`ior::tests::text_has_the_shape_of_ior`).

use std::io::{self, Write};

use super::spec::{IorSpec, Reorder};
use super::stats::{PhaseResult, Spread};
use super::{IorOutcome, Output, RunFacts, of_phase};
use crate::backend::{Api, Capacity};
use crate::clock::ctime;
use crate::phase::Phase;
use crate::size::{human, table_number};

/// First line: which program this is, and whose layout it keeps.
pub fn title() -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!("IOR-4.0.0 layout by hayate-bench-{version}: Coordinated Test of Parallel I/O")
}

/// Writes the text of one run.
pub struct TextReport<'a> {
    spec: &'a IorSpec,
    output: &'a Output,
}

fn item(out: &mut dyn Write, label: &str, value: impl std::fmt::Display) -> io::Result<()> {
    writeln!(out, "{label:<20}: {value}")
}

impl<'a> TextReport<'a> {
    /// A report of `spec`.
    pub fn new(spec: &'a IorSpec, output: &'a Output) -> Self {
        TextReport { spec, output }
    }

    /// Everything before the first result.
    ///
    /// # Errors
    /// Of writing.
    pub fn header(&self, out: &mut dyn Write, facts: &RunFacts) -> io::Result<()> {
        writeln!(out, "{}", title())?;
        item(out, "Began", ctime(facts.began))?;
        item(out, "Command line", &self.output.command_line)?;
        item(out, "Machine", &facts.machine)?;
        item(out, "TestID", 0)?;
        item(out, "StartTime", ctime(facts.began))?;
        item(out, "Path", self.spec.file_of(0).1)?;
        item(out, "FS", file_system(facts.capacity))?;
        if self.output.verbose > 0 {
            item(out, "Participating tasks", self.spec.tasks)?;
        }
        self.options(out)?;
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
        )
    }

    fn options(&self, out: &mut dyn Write) -> io::Result<()> {
        let spec = self.spec;
        writeln!(out, "\nOptions: ")?;
        for (label, value) in options(spec) {
            item(out, label, value)?;
        }
        if self.output.verbose > 0 {
            item(out, "verbose", self.output.verbose)?;
        }
        Ok(())
    }

    /// The line of one phase in the results table.
    ///
    /// # Errors
    /// Of writing.
    pub fn row(&self, out: &mut dyn Write, result: &PhaseResult) -> io::Result<()> {
        let spec = self.spec;
        let columns: Vec<String> = match result.phase {
            Phase::CheckWrite => {
                if self.output.verbose > 0 {
                    writeln!(out, "Verified contents of the file(s) just written.")?;
                }
                return wrong_content(out, "write", result);
            }
            Phase::Write | Phase::Read => [
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
            .map(table_number)
            .into(),
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

    /// Everything after the last result.
    ///
    /// # Errors
    /// Of writing.
    pub fn footer(&self, out: &mut dyn Write, facts: &RunFacts, outcome: &IorOutcome) -> io::Result<()> {
        for (phase, label) in [(Phase::Write, "Max Write: "), (Phase::Read, "Max Read:  ")] {
            let best = of_phase(&outcome.results, phase).map(PhaseResult::bandwidth_mib).reduce(f64::max);
            if let Some(best) = best {
                writeln!(out, "{label}{best:.2} MiB/sec ({:.2} MB/sec)", best * 1.048_576)?;
            }
        }
        writeln!(out, "\nSummary of all tests:")?;
        writeln!(
            out,
            "Operation   Max(MiB)   Min(MiB)  Mean(MiB)     StdDev   Max(OPs)   Min(OPs)  Mean(OPs)     StdDev    \
             Mean(s) Stonewall(s) Stonewall(MiB) Test# #Tasks tPN reps fPP reord reordoff reordrand seed segcnt   \
             blksiz    xsize aggs(MiB)   API RefNum"
        )?;
        for phase in [Phase::Write, Phase::Read] {
            if of_phase(&outcome.results, phase).next().is_some() {
                self.summary(out, phase, &outcome.results)?;
            }
        }
        item(out, "Finished", ctime(facts.finished))?;
        self.details(out, facts, outcome)
    }

    fn summary(&self, out: &mut dyn Write, phase: Phase, results: &[PhaseResult]) -> io::Result<()> {
        let (bandwidth, rate, mean_s) = spreads(self.spec, phase, results);
        write!(out, "{:<9} ", name(phase))?;
        for spread in [bandwidth, rate] {
            for value in [spread.max, spread.min, spread.mean, spread.deviation] {
                write!(out, "{value:10.2} ")?;
            }
        }
        let spec = self.spec;
        let (constant, offset, random, seed) = reorder_numbers(spec.reorder);
        write!(out, "{mean_s:10.5} {:>10} {:>13} ", "NA", "NA")?;
        write!(
            out,
            "{:5} {:6} {:3} {:4} {:3} ",
            0,
            spec.tasks,
            spec.tasks,
            spec.repetitions,
            u8::from(spec.file_per_process)
        )?;
        write!(out, "{constant:5} {offset:8} {random:9} {seed:4} ")?;
        write!(out, "{:6} {:8} {:8} ", spec.segments, spec.block_size, spec.transfer_size)?;
        writeln!(
            out,
            "{:9.1} {:3} {:6}",
            spec.total_bytes() as f64 / 1_048_576.0,
            spec.api,
            self.output.reference
        )
    }

    /// What IOR does not print.
    fn details(&self, out: &mut dyn Write, facts: &RunFacts, outcome: &IorOutcome) -> io::Result<()> {
        writeln!(out, "\nHayate details (dates above are UTC):")?;
        let kind = if facts.threads { "threads" } else { "processes" };
        let startup_ms = facts.startup.as_secs_f64() * 1e3;
        item(out, "tasks are", format!("{kind}, ready after {startup_ms:.1} ms"))?;
        if let Some(seed) = self.spec.seeds.last() {
            item(out, "content seed", format!("{seed} (of the last repetition, for -G)"))?;
        }
        item(out, "wrong words", outcome.errors)?;
        writeln!(out, "{}", cost_header())?;
        for result in outcome.results.iter().filter(|r| r.phase != Phase::CheckWrite) {
            writeln!(out, "{}", cost_row(name(result.phase), result))?;
        }
        self.notes(out, facts)
    }

    fn notes(&self, out: &mut dyn Write, facts: &RunFacts) -> io::Result<()> {
        let spec = self.spec;
        if spec.api == Api::Posix && spec.write && spec.read && !spec.direct && spec.reorder == Reorder::None
        {
            let note = "tasks read what they wrote themselves: the page cache may have answered (see -C, -B)";
            writeln!(out, "note: {note}")?;
        }
        if spec.check_read {
            writeln!(
                out,
                "note: reads were compared within the timing (-R): the harness's own work is included"
            )?;
        }
        if facts.threads {
            writeln!(
                out,
                "note: CPU time leaves out the threads of the client itself, messages are not counted"
            )?;
        }
        Ok(())
    }
}

fn name(phase: Phase) -> &'static str {
    match phase {
        Phase::Write | Phase::CheckWrite => "write",
        Phase::Read => "read",
        _ => "remove",
    }
}

/// The options block: labels and values.
pub fn options(spec: &IorSpec) -> Vec<(&'static str, String)> {
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
        Reorder::Random { seed } => {
            block.push(("ordering inter file", "random task offset".to_owned()));
            block.push(("reorder random seed", seed.to_string()));
        }
    }
    block.extend([
        ("nodes", "1".to_owned()),
        ("tasks", spec.tasks.to_string()),
        ("clients per node", spec.tasks.to_string()),
        ("repetitions", spec.repetitions.to_string()),
        ("xfersize", human(spec.transfer_size)),
        ("blocksize", human(spec.block_size)),
        ("aggregate filesize", human(spec.total_bytes())),
    ]);
    block
}

/// -C, its offset, -Z and its seed as the summary shows them.
pub fn reorder_numbers(reorder: Reorder) -> (u8, u32, u8, i64) {
    match reorder {
        Reorder::None => (0, 1, 0, 0),
        Reorder::Constant { offset } => (1, offset, 0, 0),
        Reorder::Random { seed } => (0, 1, 1, seed),
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

/// Space of the file system as IOR writes it.
pub fn file_system(capacity: Capacity) -> String {
    let gib = capacity.bytes as f64 / (1_u64 << 30) as f64;
    let size = if gib >= 1024.0 { format!("{:.1} TiB", gib / 1024.0) } else { format!("{gib:.1} GiB") };
    let used =
        |all: u64, free: u64| if all == 0 { 0.0 } else { (all - free.min(all)) as f64 / all as f64 * 100.0 };
    format!(
        "{size}   Used FS: {:.1}%   Inodes: {:.1} Mi   Used Inodes: {:.1}%",
        used(capacity.bytes, capacity.free_bytes),
        capacity.inodes as f64 / 1_048_576.0,
        used(capacity.inodes, capacity.free_inodes)
    )
}

/// Header of the table of costs.
pub fn cost_header() -> String {
    format!("{:<16} iter   CPU(s) CPU/op(us) CPU/GiB(s)  messages/op errors", "clients' cost")
}

/// The cost of one phase.
pub fn cost_row(name: &str, result: &PhaseResult) -> String {
    let per_gib = if result.bytes == 0 { "-".to_owned() } else { format!("{:.3}", result.cpu_s_per_gib()) };
    let messages = result.messages_per_op().map_or("-".to_owned(), |n| format!("{n:.2}"));
    format!(
        "{name:<16} {:>4} {:>8.3} {:>10.1} {per_gib:>10} {messages:>12} {:>6}",
        result.repetition,
        result.cpu_s,
        result.cpu_us_per_op(),
        result.errors
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: lines are those of IOR to the last blank. Method: the numbers of a published run (8 tasks, IOR 3.3), whose
    /// lines are known.
    #[test]
    fn lines_are_those_of_a_published_run() {
        let spec = IorSpec { tasks: 8, ..IorSpec::new(Api::Posix, "testFile") };
        let write = PhaseResult {
            phase: Phase::Write,
            repetition: 0,
            bytes: 8 << 20,
            operations: 32,
            open_s: 0.001_203,
            access_s: 0.007_473,
            close_s: 0.000_973,
            total_s: 8.0 / 912.404,
            latency_s: 0.001_868,
            cpu_s: 0.0,
            messages: None,
            errors: 0,
            first_error: None,
        };
        let output = Output::default();
        let report = TextReport::new(&spec, &output);
        let mut text = Vec::new();
        report.row(&mut text, &write).expect("a row");
        report.summary(&mut text, Phase::Write, &[write]).expect("a summary");
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
