//! What a reader of the figures must know: above all whether a read could come from a cache.

use super::{RunFacts, TestOutcome};
use crate::backend::Api;
use crate::size::human;

/// The warnings of a test.
pub fn warnings(test: &TestOutcome, facts: &RunFacts) -> Vec<String> {
    let spec = &test.test.spec;
    let mut all = Vec::new();
    all.extend(cache(test, facts));
    if test.test.collective {
        all.push(format!("collective I/O (-c) does not exist for {}: transfers were independent", spec.api));
    }
    if spec.check_read {
        all.push("reads were compared within the timing (-R): the harness's own work is included".to_owned());
    }
    if facts.tasks_are == "threads" {
        all.push("CPU time leaves out the threads of the client itself, messages are not counted".to_owned());
    }
    if !facts.machine.optimised {
        all.push("this program was built without optimisation".to_owned());
    }
    all
}

/// Who may have answered a read without the storage under test.
fn cache(test: &TestOutcome, facts: &RunFacts) -> Option<String> {
    let spec = &test.test.spec;
    let reads = spec.read || spec.check_read;
    let memory = facts.machine.memory_bytes * u64::from(test.nodes);
    let (data, room) = (human(spec.total_bytes()), human(memory));
    if !reads || spec.total_bytes() > memory.saturating_mul(2) {
        return None;
    }
    match spec.api {
        Api::Posix if spec.direct => None,
        Api::Posix => {
            let moved = test.nodes > 1 && spec.reorder != super::spec::Reorder::None;
            let advice = if test.nodes > 1 { "-C, -B, -M" } else { "-B, -M; -C does not help on one node" };
            (!moved)
                .then(|| format!("reads may come from the page cache ({data}, memory {room}; see {advice})"))
        }
        Api::Hayate => Some(format!(
            "reads may come from the servers' page cache ({data}, memory {room}; start servers with --io direct to be sure)"
        )),
        Api::Libio | Api::Null => {
            Some("nothing was stored: these are the costs of the harness itself".to_owned())
        }
    }
}

/// One of a task's times.
type Timer = fn(&crate::results::RankTimes) -> f64;

/// Tasks whose times are further from the mean than the threshold (`-j`), in IOR's words.
pub fn outliers(test: &TestOutcome) -> Vec<String> {
    let threshold = test.test.spec.outlier_s as f64;
    if threshold == 0.0 {
        return Vec::new();
    }
    let mut all = Vec::new();
    for result in &test.results {
        let parts: [(&str, Timer); 5] = [
            ("start time", |r| r.start_s),
            ("elapsed create time", |r| r.open_s),
            ("elapsed transfer time", |r| r.access_s),
            ("elapsed close time", |r| r.close_s),
            ("end time", |r| r.start_s + r.total_s),
        ];
        for (name, of) in parts {
            let spread = crate::results::Spread::of(&result.ranks.iter().map(of).collect::<Vec<_>>());
            for (rank, times) in result.ranks.iter().enumerate() {
                if (of(times) - spread.mean).abs() > threshold {
                    all.push(format!(
                        "WARNING: for task {rank}, {name} is {:.6}\n         (mean={:.6}, stddev={:.6})",
                        of(times),
                        spread.mean,
                        spread.deviation
                    ));
                }
            }
        }
    }
    all
}
