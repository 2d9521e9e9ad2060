//! Lines, files and the score of an IO500 run.
//!
//! # Invariants
//! - Lines are those of IO500, to the column (`tests::lines_are_those_of_io500`); the score is the geometric mean of the geometric means.

use std::io::{self, Write};
use std::path::Path;

use serde_json::json;

use super::options::Io500Spec;
use super::phases::{Group, PHASES, Step};
use crate::backend::Api;
use crate::clock::{timestamp, unix_seconds};
use crate::configuration::Configuration;
use crate::error::Result;
use crate::ior::write_file;
use crate::machine::Machine;
use crate::metrics::Metric;
use crate::notes;
use crate::results::PhaseResult;
use crate::session::Session;

/// What one phase gave.
pub(super) struct Entry {
    pub step: &'static Step,
    pub score: f64,
    pub seconds: f64,
    pub began: u64,
    pub more: Vec<(String, String)>,
    pub result: PhaseResult,
    pub faults: Vec<String>,
}

impl Entry {
    /// Notes why this phase is not valid.
    pub fn judge(&mut self, spec: &Io500Spec, errors: u64) {
        let stonewall = spec.stonewall_s as f64;
        if self.step.writes && self.seconds < stonewall {
            self.faults.push(format!(
                "Runtime of phase ({:.6}) is below stonewall time: there was not enough to do",
                self.seconds
            ));
        }
        if errors > 0 {
            self.faults.push(format!("{errors} words of what was read are not what was written"));
        }
        if self.score <= 0.0 && self.step.name != "timestamp" && spec.api != Api::Null {
            self.faults.push("Resulting score shouldn't be 0.0".to_owned());
        }
    }

    fn unit(&self) -> &'static str {
        if self.step.name.starts_with('i') { "GiB/s" } else { "kIOPS" }
    }

    /// The line of a phase.
    pub fn line(&self) -> String {
        let tag = if self.step.group == Group::Unscored { "[      ]" } else { "[RESULT]" };
        let valid = if self.faults.is_empty() { "" } else { " [INVALID]" };
        let score = format!("{:.6}", self.score);
        format!(
            "{tag} {:>20} {score:>15} {} : time {:.3} seconds{valid}",
            self.step.name,
            self.unit(),
            self.seconds
        )
    }
}

/// All that is told of a run.
pub(super) struct Report {
    tasks: u32,
    faults: Vec<String>,
    summary: String,
    head: String,
    pub entries: Vec<Entry>,
    pub configuration: Configuration,
    pub notes: Vec<String>,
    began: u64,
}

/// Geometric mean of the scores of a group that are not zero.
pub(super) fn group_score<'a>(entries: impl Iterator<Item = (&'a Step, f64)>, group: Group) -> f64 {
    let scores: Vec<f64> =
        entries.filter(|(step, score)| step.group == group && *score > 0.0).map(|(_, score)| score).collect();
    if scores.is_empty() {
        return 0.0;
    }
    (scores.iter().map(|score| score.ln()).sum::<f64>() / scores.len() as f64).exp()
}

fn line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

fn pair(text: &mut String, key: &str, value: &str) {
    line(text, &format!("{key:<15} = {value}"));
}

impl Report {
    pub fn new(spec: &Io500Spec, tasks: u32, configuration: Configuration) -> Self {
        let began = unix_seconds();
        Report {
            tasks,
            faults: spec.faults(),
            summary: String::new(),
            head: String::new(),
            entries: Vec::new(),
            configuration,
            notes: Vec::new(),
            began,
        }
    }

    fn say(&mut self, out: &mut dyn Write, line: &str) -> io::Result<()> {
        self.summary += line;
        self.summary.push('\n');
        writeln!(out, "{line}")?;
        out.flush()
    }

    pub fn begin(
        &mut self,
        out: &mut dyn Write,
        command_line: &str,
        results: &Path,
        data: &str,
    ) -> Result<()> {
        let version = format!("hayate-bench-{}", env!("CARGO_PKG_VERSION"));
        let mut head = "[run]\n".to_owned();
        pair(&mut head, "procs", &self.tasks.to_string());
        pair(&mut head, "version", &version);
        pair(&mut head, "result-dir", &results.to_string_lossy());
        pair(&mut head, "data-dir", data);
        pair(&mut head, "mode", "standard");
        pair(&mut head, "machine", &Machine::this().line());
        for (label, value) in self.configuration.lines() {
            pair(&mut head, label, &value);
        }
        pair(&mut head, "command", command_line);
        self.head = head;
        self.say(out, &format!("IO500 version {version} (standard)"))?;
        for fault in self.faults.clone() {
            self.say(out, &format!("ERROR INVALID {fault}"))?;
        }
        Ok(())
    }

    pub fn entry(&mut self, out: &mut dyn Write, entry: Entry) -> Result<()> {
        for fault in &entry.faults {
            self.say(out, &format!("ERROR INVALID {}: {fault}", entry.step.name))?;
        }
        self.say(out, &entry.line())?;
        self.faults.extend(entry.faults.iter().map(|fault| format!("{}: {fault}", entry.step.name)));
        self.entries.push(entry);
        Ok(())
    }

    fn scores(&self) -> (f64, f64, f64) {
        let of = |group| group_score(self.entries.iter().map(|entry| (entry.step, entry.score)), group);
        let (bandwidth, metadata) = (of(Group::Bandwidth), of(Group::Metadata));
        (bandwidth, metadata, (bandwidth * metadata).sqrt())
    }

    fn valid(&self) -> &'static str {
        if self.faults.is_empty() { "" } else { " [INVALID]" }
    }

    pub fn finish(&mut self, out: &mut dyn Write, errors: u64) -> Result<()> {
        let (bandwidth, metadata, total) = self.scores();
        let valid = self.valid();
        let line = format!(
            "[SCORE ] Bandwidth {bandwidth:.6} GiB/s : IOPS {metadata:.6} kiops : TOTAL {total:.6}{valid}"
        );
        self.say(out, &line)?;
        writeln!(
            out,
            "\nNot an official IO500 result: that needs IO500's own program, its sizes and 300 s for each write phase."
        )?;
        writeln!(out, "{:<20}: {}", "machine", Machine::this().line())?;
        self.configuration.write(out)?;
        writeln!(out, "{:<20}: {errors}", "wrong words")?;
        crate::cost::table(out, self.entries.iter().map(|entry| (entry.step.name, &entry.result)))?;
        Ok(notes::write(out, &self.notes)?)
    }

    /// `result_summary.txt`, `result.txt`, `config.ini` and `result.json`.
    pub fn write_files(&self, dir: &Path, spec: &Io500Spec, session: &Session) -> Result<()> {
        let path = |name: &str| dir.join(name).to_string_lossy().into_owned();
        let text =
            |name: &str, text: &str| write_file(&path(name), false, |file| file.write_all(text.as_bytes()));
        text("result_summary.txt", &self.summary)?;
        text("result.txt", &self.details())?;
        text("config.ini", &config(spec))?;
        text("result.json", &format!("{:#}\n", self.document(spec, session)))
    }

    fn details(&self) -> String {
        let mut text = self.head.clone();
        line(&mut text, &format!("; START {}", timestamp(self.began)));
        for entry in &self.entries {
            line(&mut text, &format!("\n[{}]", entry.step.name));
            pair(&mut text, "t_start", &timestamp(entry.began));
            for (key, value) in &entry.more {
                pair(&mut text, key, value);
            }
            for fault in &entry.faults {
                line(&mut text, &format!("; ERROR INVALID {fault}"));
            }
            pair(&mut text, "score", &format!("{:.6}", entry.score));
            pair(&mut text, "t_delta", &format!("{:.4}", entry.seconds));
        }
        let (bandwidth, metadata, total) = self.scores();
        text += "\n[SCORE]\n";
        pair(&mut text, "MD", &format!("{metadata:.6}"));
        pair(&mut text, "BW", &format!("{bandwidth:.6}"));
        pair(&mut text, "SCORE", &format!("{total:.6} {}", self.valid()));
        line(&mut text, &format!("; END {}", timestamp(unix_seconds())));
        for note in &self.notes {
            line(&mut text, &format!("; note: {note}"));
        }
        text
    }

    fn document(&self, spec: &Io500Spec, session: &Session) -> serde_json::Value {
        let (bandwidth, metadata, total) = self.scores();
        let phases: Vec<_> = self
            .entries
            .iter()
            .map(|entry| {
                json!({
                    "name": entry.step.name,
                    "score": entry.score,
                    "unit": entry.unit(),
                    "seconds": entry.seconds,
                    "invalid": entry.faults,
                    "cost": crate::cost::json(&entry.result),
                })
            })
            .collect();
        let metrics: Vec<Metric> = self
            .entries
            .iter()
            .filter(|entry| entry.score > 0.0)
            .map(|entry| Metric::higher(entry.step.name, entry.unit(), vec![entry.score]))
            .chain([Metric::higher("TOTAL", "", vec![total])])
            .collect();
        json!({
            "spec": spec,
            "phases": phases,
            "bandwidth": bandwidth,
            "iops": metadata,
            "total": total,
            "invalid": self.faults,
            "hayate": {
                "benchmark": "io500",
                "machine": Machine::this().json(),
                "tasksAre": session.launch().kind(),
                "servers": session.servers(),
                "configuration": self.configuration,
                "warnings": self.notes,
                "metrics": metrics,
            },
        })
    }
}

/// The options in IO500's INI format.
fn config(spec: &Io500Spec) -> String {
    let mut text = "[global]\n".to_owned();
    pair(&mut text, "datadir", &spec.data_dir);
    pair(&mut text, "resultdir", &spec.result_dir);
    pair(&mut text, "api", &spec.api.to_string());
    text += "\n[debug]\n";
    pair(&mut text, "stonewall-time", &spec.stonewall_s.to_string());
    let sizes = [
        ("ior-easy", "blockSize", spec.easy_block),
        ("ior-hard", "segmentCount", spec.hard_segments),
        ("mdtest-easy", "n", spec.easy_files),
        ("mdtest-hard", "n", spec.hard_files),
    ];
    for (section, key, value) in sizes {
        line(&mut text, &format!("\n[{section}]"));
        pair(&mut text, key, &value.to_string());
    }
    for step in PHASES.iter().filter(|step| step.group != Group::Unscored) {
        line(&mut text, &format!("\n[{}]", step.name));
        pair(&mut text, "run", "TRUE");
    }
    text
}
