//! Whether to look a little longer before sleeping: only while it pays.
//!
//! Looking pays when both sides do, each on a processor of its own: then nobody is woken. To get there both must be awake at the same time once,
//! but waking a peer on an idle processor takes longer (tens of microseconds on a virtual one) than a look that is worth its time. So now and
//! then a look may be long: after a rest, and after many answers that came soon.
//!
//! # Invariants
//! - After misses the looks become shorter and then rare, so that a peer that is slow, or has no processor of its own, costs next to nothing
//!   (`misses_make_it_rare`, `late_hits_make_it_rare`), and hits bring them back (`hits_bring_it_back`).
//! - Never longer than [`LONG`] limits at once, and not for long without a hit within the limit.
//! - What the peer says of itself shortens a rest and nothing else: one that lies costs a look within the limit each [`HINTED_REST`] sleeps.
//! - Never where this process has one processor: the peer could not run meanwhile.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// Shorter looks are not worth the clock.
const SHORTEST: Duration = Duration::from_micros(1);
/// Limits that a long look lasts at most.
const LONG: u32 = 10;
/// Hits within the limit that are worth a long look.
const LONG_AFTER: u32 = 64;
/// Long looks one after the other that found something, but late.
const LATE_MAX: u32 = 64;
/// Sleeps without a look after the first series of misses; doubled after each further one.
const FIRST_REST: u32 = 16;
const LONGEST_REST: u32 = 1024;
/// Sleeps without a look at most while the peer is seen to look.
const HINTED_REST: u32 = 32;
/// Looks between two at the clock.
const LOOKS_A_CLOCK: u32 = 8;

static PROCESSORS: LazyLock<usize> =
    LazyLock::new(|| std::thread::available_parallelism().map_or(1, usize::from));

/// What one side has learnt.
pub(crate) struct Spin {
    limit: Duration,
    length: Duration,
    /// Sleeps that are left before the next look.
    rest: u32,
    next_rest: u32,
    /// Hits within the limit since the last long look.
    soon: u32,
    /// Late hits that are left before the next rest.
    late: u32,
}

impl Spin {
    /// At most `limit` at once, but for a long look now and then; zero never.
    pub fn new(limit: Duration) -> Spin {
        Spin::with(if *PROCESSORS < 2 { Duration::ZERO } else { limit })
    }

    fn with(limit: Duration) -> Spin {
        Spin { limit, length: limit / 2, rest: 0, next_rest: FIRST_REST, soon: 0, late: LATE_MAX }
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
            for _ in 0..LOOKS_A_CLOCK {
                if found() {
                    self.hit(length > self.limit && start.elapsed() > self.limit);
                    return Some(true);
                }
                std::hint::spin_loop();
            }
            if start.elapsed() >= length {
                self.miss();
                return Some(false);
            }
        }
    }

    /// The peer was awake when it got something: it may be looking.
    pub fn peer_is_awake(&mut self) {
        if self.rest > HINTED_REST {
            self.rest = HINTED_REST;
            self.length = self.limit;
        }
    }

    /// How long to look now.
    fn begin(&mut self) -> Option<Duration> {
        if self.rest > 0 {
            self.rest -= 1;
            return None;
        }
        if self.soon >= LONG_AFTER {
            self.length = self.limit * LONG;
        }
        (self.limit >= SHORTEST).then_some(self.length)
    }

    fn hit(&mut self, is_late: bool) {
        if !is_late {
            self.length = (self.length * 2).min(self.limit);
            self.next_rest = FIRST_REST;
            self.soon = (self.soon + 1).min(LONG_AFTER);
            self.late = LATE_MAX;
            return;
        }
        self.soon = 0;
        self.late -= 1;
        if self.late == 0 {
            self.sleep_a_while();
        }
    }

    fn miss(&mut self) {
        self.soon = 0;
        let has_rested = self.next_rest > FIRST_REST;
        let was_long = self.length > self.limit;
        self.length /= 2;
        if has_rested || was_long || self.length < SHORTEST {
            self.sleep_a_while();
        }
    }

    fn sleep_a_while(&mut self) {
        self.length = self.limit * LONG;
        self.late = LATE_MAX;
        self.rest = self.next_rest;
        self.next_rest = (self.next_rest * 2).min(LONGEST_REST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_micros(16);

    /// Time spent looking in `sleeps` sleeps, in microseconds, if each look ends as `outcome` says.
    fn spent(spin: &mut Spin, sleeps: usize, outcome: impl Fn(&mut Spin, Duration) -> Duration) -> u128 {
        (0..sleeps).map(|_| spin.begin().map_or(0, |length| outcome(spin, length).as_micros())).sum()
    }

    fn missed(spin: &mut Spin, length: Duration) -> Duration {
        spin.miss();
        length
    }

    #[test]
    fn misses_make_it_rare() {
        let mut spin = Spin::with(LIMIT);
        spent(&mut spin, 5000, missed);
        let micros = spent(&mut spin, 100_000, missed);
        assert!((1..20_000).contains(&micros), "{micros} us in 100,000 sleeps");
    }

    /// Goal: a peer that always answers after the limit, but within a long look, is not waited for awake for long.
    #[test]
    fn late_hits_make_it_rare() {
        let mut spin = Spin::with(LIMIT);
        let late = |spin: &mut Spin, length: Duration| {
            let answer = LIMIT * 3;
            if length < answer {
                return missed(spin, length);
            }
            spin.hit(true);
            answer
        };
        spent(&mut spin, 5000, late);
        let micros = spent(&mut spin, 100_000, late);
        assert!((1..400_000).contains(&micros), "{micros} us in 100,000 sleeps");
    }

    #[test]
    fn hits_bring_it_back() {
        let mut spin = Spin::with(LIMIT);
        spent(&mut spin, 1000, missed);
        spin.rest = 0;
        (0..10).for_each(|_| spin.hit(false));
        assert_eq!((spin.begin(), spin.next_rest), (Some(LIMIT), FIRST_REST));
        (0..LONG_AFTER).for_each(|_| spin.hit(false));
        assert_eq!(spin.begin(), Some(LIMIT * LONG));
        spin.miss();
        assert_eq!((spin.begin(), spin.rest), (None, FIRST_REST - 1));
    }

    /// Goal: a peer that is awake brings a look sooner, and one that only says so costs little.
    #[test]
    fn a_peer_that_is_awake_shortens_the_rest() {
        let mut spin = Spin::with(LIMIT);
        spent(&mut spin, 5000, missed);
        spin.rest = LONGEST_REST;
        spin.peer_is_awake();
        assert_eq!((spin.rest, spin.length), (HINTED_REST, LIMIT));
        let lied = |spin: &mut Spin, length: Duration| {
            let length = missed(spin, length);
            spin.peer_is_awake();
            length
        };
        let micros = spent(&mut spin, 100_000, lied);
        assert!(micros < 100_000, "{micros} us in 100,000 sleeps");
    }

    #[test]
    fn without_a_limit_nobody_looks() {
        let micros = Duration::from_micros(20);
        assert_eq!(Spin::with(Duration::ZERO).look(1, || true), None);
        assert_eq!(Spin::with(Duration::from_secs(10)).look(1, || true), Some(true));
        assert_eq!(Spin::with(micros).look(1, || false), Some(false));
        assert_eq!(Spin::with(micros).look(100, || true), None);
    }
}
