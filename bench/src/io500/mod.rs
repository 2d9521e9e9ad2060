//! The IO500: its phases in their order, with its constants, lines and result files.
//!
//! | module | what |
//! |---|---|
//! | [`options`] | the command line |
//! | [`phases`] | which IOR, mdtest or find each phase is |
//! | [`find`] | the walk |
//! | [`report`] | lines, files and the score |
//!
//! A run counts as valid by the rules of IO500 only with its own sizes and a deadline of 300 s for each phase that writes; everything else
//! is marked `[INVALID]`, with the reasons. No run of this program is an *official* one: that needs IO500's own program.

pub mod find;
pub mod options;
pub mod phases;
pub mod report;
#[cfg(test)]
mod tests;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::backend::{OpenHow, Storage, make_all, remove_tree};
use crate::clock::{timestamp, unix_seconds};
use crate::error::{BenchError, Result};
use crate::ior::plan::{Output, Plan, Test};
use crate::ior::{self, write_file};
use crate::machine::Machine;
use crate::mdtest;
use crate::notes::{self, Reads};
use crate::phase::Phase;
use crate::results::{PhaseResult, of_phase};
use crate::session::Session;
use crate::tasks::Job;
use options::Io500Spec;
use phases::{PHASES, Step, Work};
use report::{Entry, Report};

/// Runs all phases. Wrong words found are the result.
///
/// # Errors
/// What ended the run (see [`BenchError`]); files may be left behind then.
pub fn run(spec: &Io500Spec, command_line: &str, session: &mut Session, out: &mut dyn Write) -> Result<u64> {
    let stamp = timestamp(unix_seconds()).replace('-', ".").replace(' ', "-").replace(':', ".");
    let results = Path::new(&spec.result_dir).join(&stamp);
    std::fs::create_dir_all(&results).map_err(|error| {
        BenchError::Report(std::io::Error::new(error.kind(), format!("{}: {error}", results.display())))
    })?;
    let data = format!("{}/{stamp}", spec.data_dir.trim_end_matches('/'));
    let report = Report::new(spec, session.tasks(), session.configuration(&data, [session.tasks()]));
    let of_mount = session.watch_mount(&data);
    let mut run = Run { spec, results, data, newer_ns: 0, report, errors: 0 };
    run.report.begin(out, command_line, &run.results, &run.data)?;
    run.prepare(session)?;
    for step in PHASES {
        let entry = run.step(step, session)?;
        run.report.entry(out, entry)?;
    }
    remove_tree(session.connection().backend().as_ref(), &run.data)?;
    run.report.notes = run.notes(session);
    run.report.notes.extend(of_mount);
    run.report.finish(out, run.errors)?;
    run.report.write_files(&run.results, spec, session)?;
    Ok(run.errors)
}

struct Run<'a> {
    spec: &'a Io500Spec,
    results: PathBuf,
    data: String,
    /// Modification time of the time stamp file: what `find` looks for is newer.
    newer_ns: u64,
    report: Report,
    errors: u64,
}

/// What a phase gave.
struct Measured {
    score: f64,
    result: PhaseResult,
    errors: u64,
    more: Vec<(String, String)>,
}

impl Run<'_> {
    fn prepare(&self, session: &Session) -> Result<()> {
        let backend = session.connection().backend();
        for name in ["ior-easy", "ior-hard", "mdtest-easy", "mdtest-hard"] {
            make_all(backend.as_ref(), &format!("{}/{name}", self.data))?;
        }
        Ok(())
    }

    /// Who may have answered instead of the storage. What was written is read by another task (`-C`), on the next node if there are several.
    fn notes(&self, session: &Session) -> Vec<String> {
        let hosts = session.hosts(session.tasks());
        let storage = session.connection().backend().storage(&self.spec.data_dir);
        let machine = Machine::this();
        // The phase that reads least is the one that a cache holds first.
        let reads = self.report.entries.iter().filter(|entry| entry.step.phase == Phase::Read);
        let bytes = reads.map(|entry| entry.result.bytes).filter(|bytes| *bytes > 0).min().unwrap_or(0);
        let reads = Reads {
            what: "reads",
            storage,
            bytes,
            memory_bytes: machine.memory_bytes.saturating_mul(u64::from(hosts)),
            direct: false,
            moved: hosts > 1,
            advice: "more nodes, or longer phases",
            servers: self.report.configuration.servers.as_ref(),
        };
        let mut all = reads.notes();
        if storage != Storage::Nothing {
            all.extend(notes::of_names(storage, (hosts == 1).then_some("all tasks share one node")));
        }
        all.extend(notes::of_durability(&self.report.configuration));
        all.extend(notes::of_run(session.launch().kind(), &machine));
        all
    }

    fn file(&self, name: &str) -> String {
        self.results.join(name).to_string_lossy().into_owned()
    }

    fn step(&mut self, step: &'static Step, session: &mut Session) -> Result<Entry> {
        let (began, start) = (unix_seconds(), Instant::now());
        let measured = match step.work {
            Work::Timestamp => self.stamp(session)?,
            Work::Find => self.find(session)?,
            Work::Ior(of) => self.ior(step, of(self.spec, &self.data, session.tasks()), session)?,
            Work::Mdtest(of) => self.mdtest(step, of(self.spec, &self.data, session.tasks()), session)?,
        };
        let seconds = start.elapsed().as_secs_f64();
        self.errors += measured.errors;
        let mut entry = Entry {
            step,
            score: measured.score,
            seconds,
            began,
            more: measured.more,
            result: measured.result,
            faults: Vec::new(),
        };
        entry.judge(self.spec, measured.errors);
        Ok(entry)
    }

    fn stamp(&mut self, session: &Session) -> Result<Measured> {
        let backend = session.connection().backend();
        let path = format!("{}/timestampfile", self.data);
        let how = OpenHow { write: true, create: true, ..OpenHow::default() };
        let file = backend.open(&path, how)?;
        file.write_at(b"newer than this", 0)?;
        file.close()?;
        self.newer_ns = backend.stat(&path)?.modified_ns;
        Ok(Measured { score: 0.0, result: PhaseResult::default(), errors: 0, more: Vec::new() })
    }

    fn find(&self, session: &mut Session) -> Result<Measured> {
        let spec = find::FindSpec {
            api: self.spec.api,
            root: self.data.clone(),
            newer_ns: self.newer_ns,
            bytes: phases::HARD_FILE_BYTES,
            name_part: "01".to_owned(),
        };
        let mut results = Vec::new();
        let tasks = session.tasks();
        session.run(&Job::Find(Box::new(spec)), tasks, &mut |result: PhaseResult| {
            results.push(result);
            Ok(())
        })?;
        let result = results.pop().unwrap_or_default();
        // The walk reports what it found as bytes: it moves none.
        let more = vec![
            ("found".to_owned(), result.bytes.to_string()),
            ("total-files".to_owned(), result.operations.to_string()),
        ];
        Ok(Measured { score: result.rate() / 1e3, result, errors: 0, more })
    }

    fn ior(&self, step: &Step, test: Test, session: &mut Session) -> Result<Measured> {
        let group = step.group_name();
        let mut test = Test { status_file: Some(self.file(&format!("{group}-stonewall"))), ..test };
        if step.name == "ior-rnd4K-easy-read" {
            // What each task wrote, by transfers of 4 KiB.
            let pairs = std::fs::read_to_string(self.file("ior-easy-stonewall")).ok();
            let pairs: u64 = pairs.and_then(|text| text.trim().parse().ok()).unwrap_or(1);
            test.spec.block_size = pairs * phases::EASY_TRANSFER_BYTES;
            test.status_file = None;
        }
        let output = Output {
            rank_csv: Some(self.file(&format!("{}.csv", step.name))),
            command_line: step.command(&test.spec),
            ..Output::default()
        };
        let mut text = Vec::new();
        let phase = if test.spec.write { Phase::Write } else { Phase::Read };
        let command = output.command_line.clone();
        let mut outcome = ior::run(&Plan { tests: vec![test], output }, session, &mut text)?;
        write_file(&self.file(&format!("{}.txt", step.name)), false, |file| file.write_all(&text))?;
        let errors = outcome.errors();
        let result =
            outcome.tests.remove(0).results.into_iter().find(|r| r.phase == phase).unwrap_or_default();
        let mut more = vec![("exe".to_owned(), command)];
        if let Some(wall) = result.stonewall {
            let gib = wall.total_bytes as f64 / (1_u64 << 30) as f64 / wall.time_s.max(1e-9);
            more.push(("throughput-stonewall".to_owned(), format!("{gib:.6}")));
        }
        Ok(Measured { score: result.bandwidth_mib() / 1024.0, result, errors, more })
    }

    fn mdtest(&self, step: &Step, setup: mdtest::Setup, session: &mut Session) -> Result<Measured> {
        let status = self.file(&format!("{}-stonewall", step.group_name()));
        let command = step.mdtest_command(&setup.spec);
        let setup = mdtest::Setup { status_file: Some(status), command_line: command.clone(), ..setup };
        let mut text = Vec::new();
        let outcome = mdtest::run(&setup, session, &mut text)?;
        write_file(&self.file(&format!("{}.txt", step.name)), false, |file| file.write_all(&text))?;
        let result = of_phase(&outcome.results, step.phase).next().cloned().unwrap_or_default();
        let mut more = vec![("exe".to_owned(), command)];
        if let Some(wall) = result.stonewall {
            let rate = wall.total_operations as f64 / wall.time_s.max(1e-9) / 1e3;
            more.push(("rate-stonewall".to_owned(), format!("{rate:.6}")));
        }
        Ok(Measured { score: result.rate() / 1e3, errors: outcome.errors, result, more })
    }
}
