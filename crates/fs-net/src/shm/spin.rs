//! Whether to look a little longer before sleeping: only while it pays.
//!
//! # Invariants
//! - Never longer than the limit at once; after misses the looks become shorter and then rare, so that a peer that is slow, or has no processor
//!   of its own, costs next to nothing (`misses_make_it_rare`), and hits bring them back (`hits_bring_it_back`).
//! - Never where this process has one processor: the peer could not run meanwhile.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// Shorter looks are not worth the clock.
const SHORTEST: Duration = Duration::from_micros(1);
/// Sleeps without a look after the first series of misses; doubled after each further one.
const FIRST_REST: u32 = 16;
const LONGEST_REST: u32 = 1024;

static PROCESSORS: LazyLock<usize> =
    LazyLock::new(|| std::thread::available_parallelism().map_or(1, usize::from));

/// What one side has learnt.
pub(crate) struct Spin {
    limit: Duration,
    length: Duration,
    /// Sleeps that are left before the next look.
    rest: u32,
    next_rest: u32,
}

impl Spin {
    /// At most `limit` at once; zero never.
    pub fn new(limit: Duration) -> Spin {
        let limit = if *PROCESSORS < 2 { Duration::ZERO } else { limit };
        Spin { limit, length: limit / 2, rest: 0, next_rest: FIRST_REST }
    }

    /// Looks until `found`, as long as that seems to pay. Whether it was; `None` if nobody looked. `sessions` of this thread share the time,
    /// because all others wait meanwhile.
    pub fn look(&mut self, sessions: u32, found: impl Fn() -> bool) -> Option<bool> {
        let length = self.begin()? / sessions.max(1);
        if length < SHORTEST {
            return None;
        }
        let start = Instant::now();
        loop {
            for _ in 0..16 {
                std::hint::spin_loop();
            }
            if found() {
                self.hit();
                return Some(true);
            }
            if start.elapsed() >= length {
                self.miss();
                return Some(false);
            }
        }
    }

    /// How long to look now.
    fn begin(&mut self) -> Option<Duration> {
        if self.rest > 0 {
            self.rest -= 1;
            return None;
        }
        (self.limit >= SHORTEST).then_some(self.length)
    }

    fn hit(&mut self) {
        self.length = (self.length * 2).min(self.limit);
        self.next_rest = FIRST_REST;
    }

    fn miss(&mut self) {
        self.length /= 2;
        if self.length < SHORTEST {
            self.length = SHORTEST;
            self.rest = self.next_rest;
            self.next_rest = (self.next_rest * 2).min(LONGEST_REST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spin(limit: Duration) -> Spin {
        Spin { limit, length: limit / 2, rest: 0, next_rest: FIRST_REST }
    }

    #[test]
    fn misses_make_it_rare() {
        let mut spin = spin(Duration::from_micros(16));
        let looks = (0..20_000).filter(|_| spin.begin().inspect(|_| spin.miss()).is_some()).count();
        assert!((5..60).contains(&looks), "{looks}");
        assert_eq!(spin.length, SHORTEST);
    }

    #[test]
    fn hits_bring_it_back() {
        let mut spin = spin(Duration::from_micros(16));
        (0..100).for_each(|_| spin.miss());
        spin.rest = 0;
        (0..10).for_each(|_| spin.hit());
        assert_eq!((spin.begin(), spin.next_rest), (Some(Duration::from_micros(16)), FIRST_REST));
    }

    #[test]
    fn without_a_limit_nobody_looks() {
        let micros = Duration::from_micros(20);
        assert_eq!(spin(Duration::ZERO).look(1, || true), None);
        assert_eq!(spin(Duration::from_secs(10)).look(1, || true), Some(true));
        assert_eq!(spin(micros).look(1, || false), Some(false));
        assert_eq!(spin(micros).look(100, || true), None);
    }
}
