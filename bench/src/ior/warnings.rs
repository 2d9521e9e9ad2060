//! What a reader of the figures must know: above all whether a read could come from a cache.

use super::spec::Reorder;
use super::{RunFacts, TestOutcome};
use crate::notes::{self, Reads};

/// The warnings of a test.
pub fn warnings(test: &TestOutcome, facts: &RunFacts) -> Vec<String> {
    let spec = &test.test.spec;
    let mut all = caches(test, facts);
    if let Some(why) = &test.status_unread {
        all.push(format!("{why}: reads are of everything that a test without a deadline would have written"));
    }
    if test.test.collective {
        all.push(format!("collective I/O (-c) does not exist for {}: transfers were independent", spec.api));
    }
    if spec.check_read {
        all.push("reads were compared within the timing (-R): the harness's own work is included".to_owned());
    }
    if spec.write && (spec.fsync || spec.fsync_per_write) {
        all.extend(notes::of_durability(&facts.configuration));
    }
    all.extend_from_slice(&test.of_mount);
    all.extend(notes::of_run(facts.tasks_are, &facts.machine));
    all
}

/// Who may have answered a read without the storage under test.
fn caches(test: &TestOutcome, facts: &RunFacts) -> Vec<String> {
    let spec = &test.test.spec;
    if !(spec.read || spec.check_read) {
        return Vec::new();
    }
    let several = test.hosts > 1;
    let reads = Reads {
        what: "reads",
        storage: test.storage,
        bytes: spec.total_bytes(),
        memory_bytes: facts.machine.memory_bytes.saturating_mul(u64::from(test.hosts)),
        direct: spec.direct,
        moved: several && spec.reorder != Reorder::None,
        advice: if several { "-C, -B, -M" } else { "-B, -M; -C does not help on one node" },
        servers: facts.configuration.servers.as_ref(),
    };
    reads.notes()
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
