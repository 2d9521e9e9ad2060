//! Records of tasks to results, by IOR's rules: a part of a phase lasts from the first task that began it to the last
//! that ended it.

use crate::phase::{Meter, Phase, PhaseRecord, STEP_NS, Stonewall};
use crate::servers::ServersUse;

const MIB: f64 = 1_048_576.0;
const GIB: f64 = 1_073_741_824.0;

/// Where the deadline (stonewall) of a phase was.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct StonewallResult {
    /// Operations of the slowest task at its deadline.
    pub min_operations: u64,
    /// And of the fastest.
    pub max_operations: u64,
    /// Bytes of the slowest task at its deadline.
    pub min_bytes: u64,
    /// Bytes of all tasks at their deadlines.
    pub total_bytes: u64,
    /// Operations of all tasks at their deadlines.
    pub total_operations: u64,
    /// Seconds until the last task was there.
    pub time_s: f64,
    /// Whether all tasks hit it; if not, some had no more to do.
    pub hit: bool,
}

/// Times of one task, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct RankTimes {
    /// When it began, since the first task did.
    pub start_s: f64,
    /// Its open.
    pub open_s: f64,
    /// Its transfers.
    pub access_s: f64,
    /// Its close.
    pub close_s: f64,
    /// From open to close.
    pub total_s: f64,
    /// Bytes it moved.
    pub bytes: u64,
    /// Its operations.
    pub operations: u64,
    /// What its application would have computed meanwhile.
    pub compute_s: f64,
}

/// The result of one phase of one repetition. Times are in seconds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PhaseResult {
    /// The phase.
    pub phase: Phase,
    /// Repetition, from 0.
    pub repetition: u32,
    /// When it began, in seconds since 1970.
    pub began: u64,
    /// Bytes moved by all tasks.
    pub bytes: u64,
    /// Transfers of all tasks.
    pub operations: u64,
    /// First open begun to last open done.
    pub open_s: f64,
    /// First transfer begun to last done, fsync included.
    pub access_s: f64,
    /// First close begun to last done.
    pub close_s: f64,
    /// First open begun to last close done.
    pub total_s: f64,
    /// Smallest mean time of a transfer over the tasks.
    pub latency_s: f64,
    /// CPU time of all tasks.
    pub cpu_s: f64,
    /// Messages sent by all tasks, where they are counted.
    pub messages: Option<u64>,
    /// Wrong words found.
    pub errors: u64,
    /// The first of them, in words.
    pub first_error: Option<String>,
    /// Where the deadline was, if there was one.
    pub stonewall: Option<StonewallResult>,
    /// Durations of operations, and what was done when (steps count from the first task's begin).
    pub meter: Meter,
    /// Each task's times, by rank.
    pub ranks: Vec<RankTimes>,
    /// What the servers did meanwhile, where they are asked.
    pub servers: Option<ServersUse>,
    /// CPU time of the process that serves the mount of the path, on the coordinator's host, where there is one.
    pub mount_cpu_s: Option<f64>,
}

fn seconds(from: impl Iterator<Item = u64>, to: impl Iterator<Item = u64>) -> f64 {
    let (from, to) = (from.min().unwrap_or(0), to.max().unwrap_or(0));
    to.saturating_sub(from) as f64 / 1e9
}

fn per(amount: f64, time: f64) -> f64 {
    if time > 0.0 { amount / time } else { 0.0 }
}

fn stonewall(records: &[PhaseRecord]) -> Option<StonewallResult> {
    let walls: Vec<Stonewall> = records.iter().filter_map(|r| r.stonewall).collect();
    let min_operations = walls.iter().map(|w| w.operations).min()?;
    Some(StonewallResult {
        min_operations,
        max_operations: walls.iter().map(|w| w.operations).max()?,
        min_bytes: walls.iter().map(|w| w.bytes).min()?,
        total_bytes: walls.iter().map(|w| w.bytes).sum(),
        total_operations: walls.iter().map(|w| w.operations).sum(),
        time_s: walls.iter().map(|w| w.after_ns).max()? as f64 / 1e9,
        hit: walls.iter().all(|w| w.hit),
    })
}

fn rank_times(record: &PhaseRecord, first: u64) -> RankTimes {
    let times = &record.times;
    let span = |from: u64, to: u64| to.saturating_sub(from) as f64 / 1e9;
    RankTimes {
        start_s: span(first, times.open_start),
        open_s: span(times.open_start, times.open_end),
        access_s: span(times.access_start, times.access_end),
        close_s: span(times.close_start, times.close_end),
        total_s: span(times.open_start, times.close_end),
        bytes: record.bytes,
        operations: record.operations,
        compute_s: record.compute_ns as f64 / 1e9,
    }
}

/// All tasks' meters; steps count from the first task's begin.
fn meter(records: &[PhaseRecord], first: u64) -> Meter {
    let mut all = Meter::default();
    for record in records {
        all.add(&record.meter);
    }
    for step in &mut all.steps {
        step.0 = step.0.saturating_sub(first / STEP_NS);
    }
    all
}

impl PhaseResult {
    /// The result of the tasks' records of one phase.
    pub fn new(records: &[PhaseRecord]) -> Self {
        let span = |from: fn(&PhaseRecord) -> u64, to: fn(&PhaseRecord) -> u64| {
            seconds(records.iter().map(from), records.iter().map(to))
        };
        let mean_ns = |r: &PhaseRecord| {
            per(r.times.access_end.saturating_sub(r.times.access_start) as f64, r.operations as f64)
        };
        let first = records.iter().map(|r| r.times.open_start).min().unwrap_or(0);
        let busy = records.iter().filter(|r| r.operations > 0);
        PhaseResult {
            phase: records.first().map_or(Phase::Remove, |r| r.phase),
            repetition: records.first().map_or(0, |r| r.repetition),
            bytes: records.iter().map(|r| r.bytes).sum(),
            operations: records.iter().map(|r| r.operations).sum(),
            open_s: span(|r| r.times.open_start, |r| r.times.open_end),
            access_s: span(|r| r.times.access_start, |r| r.times.access_end),
            close_s: span(|r| r.times.close_start, |r| r.times.close_end),
            total_s: span(|r| r.times.open_start, |r| r.times.close_end),
            latency_s: busy.map(mean_ns).reduce(f64::min).unwrap_or(0.0) / 1e9,
            cpu_s: records.iter().map(|r| r.cpu_ns).sum::<u64>() as f64 / 1e9,
            messages: records.iter().map(|r| r.messages).sum(),
            errors: records.iter().map(|r| r.errors).sum(),
            first_error: records.iter().find_map(|r| r.first_error.clone()),
            stonewall: stonewall(records),
            meter: meter(records, first),
            ranks: records.iter().map(|r| rank_times(r, first)).collect(),
            servers: None,
            mount_cpu_s: None,
            began: 0,
        }
    }

    /// Operations per second of the whole phase.
    pub fn rate(&self) -> f64 {
        per(self.operations as f64, self.total_s)
    }

    /// Bandwidth over the whole phase, in MiB/s.
    pub fn bandwidth_mib(&self) -> f64 {
        per(self.bytes as f64 / MIB, self.total_s)
    }

    /// Transfers per second of access time.
    pub fn iops(&self) -> f64 {
        per(self.operations as f64, self.access_s)
    }

    /// CPU time of the tasks in microseconds per operation.
    pub fn cpu_us_per_op(&self) -> f64 {
        per(self.cpu_s * 1e6, self.operations as f64)
    }

    /// CPU time of the tasks in seconds per GiB.
    pub fn cpu_s_per_gib(&self) -> f64 {
        per(self.cpu_s, self.bytes as f64 / GIB)
    }

    /// Messages per operation, where they are counted.
    pub fn messages_per_op(&self) -> Option<f64> {
        self.messages.map(|messages| per(messages as f64, self.operations as f64))
    }
}

/// The results of one kind of phase, in order of repetition.
pub fn of_phase(results: &[PhaseResult], phase: Phase) -> impl DoubleEndedIterator<Item = &PhaseResult> {
    results.iter().filter(move |result| result.phase == phase)
}

/// Largest, smallest, mean, and standard deviation of the values themselves (not an estimate for more of them).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Spread {
    /// Largest.
    pub max: f64,
    /// Smallest.
    pub min: f64,
    /// Mean.
    pub mean: f64,
    /// Standard deviation.
    pub deviation: f64,
}

impl Spread {
    /// The spread of `values`; zeros if there are none.
    pub fn of(values: &[f64]) -> Self {
        if values.is_empty() {
            return Spread::default();
        }
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count;
        Spread {
            max: values.iter().copied().fold(f64::MIN, f64::max),
            min: values.iter().copied().fold(f64::MAX, f64::min),
            mean,
            deviation: variance.sqrt(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phase::Times;

    /// Goal: IOR's arithmetic. Method: two tasks with known times, one late and one slow.
    #[test]
    fn parts_last_from_the_first_begin_to_the_last_end() {
        const S: u64 = 1_000_000_000;
        let record = |first: u64, access: u64| PhaseRecord {
            repetition: 3,
            phase: Phase::Write,
            times: Times {
                open_start: first,
                open_end: first + S,
                access_start: first + S,
                access_end: first + S + access,
                close_start: first + S + access,
                close_end: first + 2 * S + access,
            },
            operations: 4,
            bytes: 4 << 20,
            cpu_ns: S / 2,
            messages: Some(6),
            errors: 1,
            ..PhaseRecord::default()
        };
        let result = PhaseResult::new(&[record(10 * S, 2 * S), record(11 * S, 4 * S)]);
        assert_eq!((result.open_s, result.access_s, result.close_s, result.total_s), (2.0, 5.0, 4.0, 7.0));
        assert_eq!((result.bandwidth_mib(), result.iops(), result.latency_s), (8.0 / 7.0, 8.0 / 5.0, 0.5));
        assert_eq!((result.cpu_us_per_op(), result.cpu_s_per_gib()), (125_000.0, 128.0));
        assert_eq!((result.messages_per_op(), result.errors), (Some(1.5), 2));
    }

    /// Deadlines: the slowest and the fastest task, and all bytes; without any there is none.
    #[test]
    fn stonewalls_are_joined() {
        let record = |operations, after_ns, hit| PhaseRecord {
            stonewall: Some(Stonewall { operations, bytes: operations * 10, after_ns, hit }),
            ..PhaseRecord::default()
        };
        let wall =
            PhaseResult::new(&[record(3, 1_000_000_000, true), record(5, 2_000_000_000, false)]).stonewall;
        let wall = wall.expect("a deadline");
        assert_eq!(
            (wall.min_operations, wall.max_operations, wall.min_bytes, wall.total_bytes),
            (3, 5, 30, 80)
        );
        assert!((wall.time_s - 2.0).abs() < 1e-9 && !wall.hit);
        assert_eq!(PhaseResult::new(&[PhaseRecord::default()]).stonewall, None);
    }

    #[test]
    fn spread_is_that_of_the_values() {
        let spread = Spread::of(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]);
        assert_eq!(spread, Spread { max: 9.0, min: 2.0, mean: 5.0, deviation: 2.0 });
        assert_eq!(Spread::of(&[]), Spread::default());
    }
}
