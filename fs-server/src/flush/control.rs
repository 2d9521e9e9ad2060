//! How fast contents go to the shared tier, and how much may wait for that.
//!
//! # Invariants
//! - Bytes go at most at the rate of `--flush-bandwidth` over any second or more, unless the deadline is near
//!   (`tests/flush`, `the_bandwidth_cap_holds`).
//! - Who makes a file, opens one for writing or closes one that was written waits while more than `--dirty-max` bytes wait for flushing
//!   here, and never fails because of it (`tests/flush`, `who_does_not_wait_for_closing_waits_for_making`).
//! - So no more waits than the cap and, for each writer, the file that it had begun, as long as nobody waits for [`ADMIT_LIMIT`]
//!   (`dirty_bytes_stay_about_their_cap`). Less would need to know how large a file becomes when it is begun.
//! - The rate that was measured last is known for as long as nothing is to be copied (`a_rate_is_kept_while_nothing_is_to_go`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::node::Node;

/// Longest time that one request waits for room: less than clients wait for an answer.
const ADMIT_LIMIT: Duration = Duration::from_secs(20);
/// A thread that is paced looks so often whether the server ends.
const SLICE: Duration = Duration::from_millis(100);
/// Time over which the rate is measured.
const WINDOW: Duration = Duration::from_secs(1);
/// Before a deadline: at least so long, and twice the time that what is pending takes.
const MARGIN: Duration = Duration::from_secs(60);

/// The controls of one server.
pub struct Control {
    /// When the next byte may go.
    next: Mutex<Option<Instant>>,
    /// Fewer bytes wait than before.
    eased: Notify,
    /// Bytes of files written since the last estimate began.
    fresh: AtomicU64,
    measured: Mutex<(Instant, u64)>,
    bytes_per_s: AtomicU64,
}

impl Default for Control {
    fn default() -> Self {
        Control {
            next: Mutex::new(None),
            eased: Notify::new(),
            fresh: AtomicU64::new(0),
            measured: Mutex::new((Instant::now(), 0)),
            bytes_per_s: AtomicU64::new(0),
        }
    }
}

impl Control {
    /// Lets `bytes` bytes go to the tier when it is their turn; blocks the calling thread until then.
    pub fn pace(&self, node: &Node, bytes: u64) {
        let Some(rate) = node.config.flush_bandwidth.filter(|rate| *rate > 0) else { return };
        if self.is_urgent(node) {
            return;
        }
        let turn = {
            let mut next = self.next.lock();
            let turn = next.unwrap_or_else(Instant::now).max(Instant::now());
            *next = Some(turn + Duration::from_secs_f64(bytes as f64 / rate as f64));
            turn
        };
        while Instant::now() < turn && !node.is_stopping() {
            std::thread::sleep(SLICE.min(turn.saturating_duration_since(Instant::now())));
        }
    }

    /// Takes note of how many bytes were copied since the start. `is_idle`: nothing was to be copied lately, so that nothing is learned of how fast it would be.
    pub fn measure(&self, copied: u64, is_idle: bool) {
        self.measure_at(copied, is_idle, Instant::now());
    }

    fn measure_at(&self, copied: u64, is_idle: bool, now: Instant) {
        let mut measured = self.measured.lock();
        let (since, before) = *measured;
        if is_idle && copied == before {
            measured.0 = now;
            return;
        }
        let took = now.saturating_duration_since(since);
        if took >= WINDOW {
            let rate = (copied.saturating_sub(before) as f64 / took.as_secs_f64()) as u64;
            let known = self.bytes_per_s.load(Ordering::Relaxed);
            // The first second of a burst is idle in part.
            let rate = if known == 0 { rate } else { known.midpoint(rate) };
            self.bytes_per_s.store(rate, Ordering::Relaxed);
            *measured = (now, copied);
        }
    }

    /// Bytes a second that went to the tier when something went there last: halved for each second in which nothing did that should have, and kept while nothing
    /// is to go.
    pub fn bytes_per_s(&self) -> u64 {
        self.bytes_per_s.load(Ordering::Relaxed)
    }

    /// Less waits than before, perhaps.
    pub fn ease(&self) {
        self.eased.notify_waiters();
    }

    /// An estimate of what waits begins: it has all files that were written before.
    pub fn begin_estimate(&self) {
        self.fresh.store(0, Ordering::Release);
    }

    /// A file has `bytes` bytes now that wait for being flushed.
    pub fn note_written(&self, bytes: u64) {
        self.fresh.fetch_add(bytes, Ordering::AcqRel);
    }

    /// A file was closed, or one is to be written: waits while too many bytes of this server's files wait for being flushed.
    pub async fn admit(&self, node: &Node) {
        let Some(cap) = node.config.dirty_max else { return };
        if !node.flusher.has_tier() {
            return;
        }
        let until = tokio::time::Instant::now() + ADMIT_LIMIT;
        loop {
            let eased = self.eased.notified();
            if node.flusher.pending_bytes().saturating_add(self.fresh.load(Ordering::Acquire)) <= cap
                || node.is_stopping()
            {
                return;
            }
            if tokio::time::timeout_at(until, eased).await.is_err() {
                return;
            }
        }
    }

    /// Whether the deadline is so near that everything has to go now.
    pub fn is_urgent(&self, node: &Node) -> bool {
        let Some(deadline) = node.config.deadline_unix_s else { return false };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let rate = self.bytes_per_s().max(1 << 20);
        let needed = Duration::from_secs(2 * node.flusher.pending_bytes() / rate);
        now + needed.max(MARGIN) >= Duration::from_secs(deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_kept_while_nothing_is_to_go() {
        // Goal: who asks how long a burst will take gets an answer at its beginning, and a tier that does not answer is not taken for as fast as it was.
        let control = Control::default();
        let mut now = Instant::now();
        let mut after = |millis, copied, is_idle| {
            now += Duration::from_millis(millis);
            control.measure_at(copied, is_idle, now);
            control.bytes_per_s()
        };
        assert_eq!(after(500, 0, true), 0);
        assert_eq!(after(2_000, 2_000_000, false), 1_000_000);
        assert_eq!(
            after(1_000, 3_000_000, true),
            1_000_000,
            "what was copied counts though the end came within"
        );
        assert_eq!(after(60_000, 3_000_000, true), 1_000_000);
        assert_eq!(after(1_000, 4_000_000, false), 1_000_000, "the idle minute is not counted");
        assert_eq!([after(1_000, 4_000_000, false), after(1_000, 4_000_000, false)], [500_000, 250_000]);
        assert!((0..40).map(|_| after(1_000, 4_000_000, false)).last() <= Some(1));
        assert!(after(1_000, 9_000_000, false) >= 2_500_000, "and is known again at once");
    }
}
