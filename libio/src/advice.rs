//! When to write a checkpoint, and when to stop. Pure: times are arguments.
//!
//! Between failures that come every M on average, a checkpoint that blocks for C is best written every W, by Daly's higher-order estimate (Future
//! Generation Computer Systems 22, 2006): W = sqrt(2CM) (1 + sqrt(C/2M)/3 + (C/2M)/9) - C for C < 2M, else M. C is what the application waits for, not how
//! long the shared tier takes: that goes on beside it.

use std::time::Duration;

/// How much of a new measurement goes into the estimate of the cost.
const WEIGHT: f64 = 0.3;

/// What an application should do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advice {
    /// Write a checkpoint.
    pub checkpoint: bool,
    /// Write a last checkpoint and end: what is left of the job is needed for writing it and draining.
    pub stop: bool,
    /// How long to compute before the next checkpoint; zero if it is due.
    pub next: Duration,
}

/// Advises one application.
#[derive(Debug, Clone, PartialEq)]
pub struct Advisor {
    mtbf: Duration,
    cost: Option<Duration>,
    margin: Duration,
}

impl Advisor {
    /// For a job whose nodes together fail every `mtbf` on average: that of one node divided by their number.
    pub fn new(mtbf: Duration) -> Advisor {
        Advisor { mtbf, cost: None, margin: Duration::from_secs(60) }
    }

    /// How much earlier than needed to stop. Default 1 minute.
    #[must_use]
    pub fn with_margin(self, margin: Duration) -> Advisor {
        Advisor { margin, ..self }
    }

    /// Tells how long a checkpoint kept the application from computing.
    pub fn measured(&mut self, blocking: Duration) {
        self.cost = Some(match self.cost {
            Some(cost) => cost.mul_f64(1.0 - WEIGHT) + blocking.mul_f64(WEIGHT),
            None => blocking,
        });
    }

    /// How long to compute between the end of a checkpoint and the beginning of the next; zero as long as no cost is known.
    pub fn interval(&self) -> Duration {
        let Some(cost) = self.cost else { return Duration::ZERO };
        let (cost, mtbf) = (cost.as_secs_f64(), self.mtbf.as_secs_f64());
        if cost >= 2.0 * mtbf {
            return self.mtbf;
        }
        let ratio = cost / (2.0 * mtbf);
        let interval = (2.0 * cost * mtbf).sqrt() * (1.0 + ratio.sqrt() / 3.0 + ratio / 9.0) - cost;
        Duration::from_secs_f64(interval.max(0.0))
    }

    /// What to do `since` the last checkpoint ended (or the start), when the job has `left` (none: no end is known) and what is written now would take
    /// `drain` to be safe in the shared tier.
    pub fn advise(&self, since: Duration, left: Option<Duration>, drain: Duration) -> Advice {
        let next = self.interval().saturating_sub(since);
        let needed = self.cost.unwrap_or_default() + drain + self.margin;
        let stop = left.is_some_and(|left| left <= needed);
        Advice { checkpoint: stop || next.is_zero(), stop, next: if stop { Duration::ZERO } else { next } }
    }
}

/// The variable in which Slurm says when a job ends: seconds since 1970.
pub const JOB_END: &str = "SLURM_JOB_END_TIME";

/// What is left of a job that ends at `end` (what [`JOB_END`] says), at `now`: both seconds since 1970.
pub fn time_left(end: Option<&str>, now: Duration) -> Option<Duration> {
    let end = end?.trim().parse().ok()?;
    Some(Duration::from_secs(end).saturating_sub(now))
}

#[cfg(test)]
mod tests {
    //! Goal: the advice is the published optimum, and leaves time to end. Method: Daly's own figures; the loss of a simulated run around it.
    use super::*;

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn advisor(cost: u64, mtbf: u64) -> Advisor {
        let mut advisor = Advisor::new(secs(mtbf));
        advisor.measured(secs(cost));
        advisor
    }

    /// Part of a run's time that goes into checkpoints, lost work and their repetition, for exponential failures (Daly's complete model).
    fn loss(interval: f64, cost: f64, mtbf: f64) -> f64 {
        mtbf * (((interval + cost) / mtbf).exp() - 1.0) / interval
    }

    #[test]
    fn the_interval_is_the_best_one() {
        for (cost, mtbf) in [(1.0, 3600.0), (60.0, 86_400.0), (300.0, 3600.0), (600.0, 3600.0)] {
            let interval = advisor(cost as u64, mtbf as u64).interval().as_secs_f64();
            let best = loss(interval, cost, mtbf);
            for factor in [0.5, 0.7, 1.4, 2.0] {
                assert!(best < loss(interval * factor, cost, mtbf), "{cost} {mtbf} {factor}");
            }
        }
        assert_eq!(advisor(100, 40).interval(), secs(40));
        // 5 minutes a checkpoint, a failure a day, by hand.
        assert_eq!(advisor(300, 86_400).interval().as_secs(), 7_001);
    }

    #[test]
    fn a_checkpoint_is_due_after_the_interval() {
        assert!(
            Advisor::new(secs(3600)).advise(Duration::ZERO, None, Duration::ZERO).checkpoint,
            "nothing is known yet"
        );
        let advisor = advisor(10, 3600);
        let interval = advisor.interval();
        let early = advisor.advise(interval / 2, None, Duration::ZERO);
        assert_eq!(
            early,
            Advice { checkpoint: false, stop: false, next: interval.saturating_sub(interval / 2) }
        );
        assert!(advisor.advise(interval, None, Duration::ZERO).checkpoint);
    }

    #[test]
    fn it_stops_in_time_to_drain() {
        let advisor = advisor(10, 3600).with_margin(secs(30));
        let at = |left| advisor.advise(secs(1), Some(secs(left)), secs(100));
        assert_eq!(at(141), Advice { checkpoint: false, stop: false, next: at(1000).next });
        assert_eq!(at(140), Advice { checkpoint: true, stop: true, next: Duration::ZERO });
        assert_eq!(time_left(Some("1000"), secs(400)), Some(secs(600)));
        assert_eq!(time_left(Some("1000"), secs(4000)), Some(Duration::ZERO));
        assert_eq!(time_left(Some("soon"), secs(0)).or(time_left(None, secs(0))), None);
    }

    #[test]
    fn costs_are_averaged() {
        let mut advisor = advisor(10, 3600);
        advisor.measured(secs(20));
        assert_eq!(advisor.cost, Some(secs(13)));
    }
}
