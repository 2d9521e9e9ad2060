//! How many calls to the shared tier are under way at once: more while it answers as fast as it can, fewer when answers take longer.
//!
//! What a call costs is compared with the best of the last minute of calls of its class (writes by size; a small file as a whole). While it is less than
//! [`TOLERANCE`] times that, the window grows by one each time that it went round; above, it shrinks in proportion, at most by half. So a tier
//! that serves `n` calls at once gets about twice `n`, and one that others load, or that falters, gets few until it answers again.
//! `docs/decisions/0031-adaptive-flush.md` says why so.
//!
//! # Invariants
//! - The window stays within its bounds (`it_stays_within_its_bounds`).
//! - It grows only while calls wait for it (`it_does_not_grow_without_need`).
//! - What is slow for a minute is what is normal: a tier that stays slow is tried with more again (`a_tier_that_stays_slow_is_tried_again`).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// A mean of so many times the best is as fast as before: calls differ.
const TOLERANCE: f64 = 2.0;
/// The best is that of the last one to two of these.
const EPOCH: Duration = Duration::from_secs(30);
/// Least calls of a mean.
const ROUND_MIN: u32 = 8;
/// Classes: writes of 4 KiB, 8 KiB and so on, the last of 4 MiB and more.
const SIZES: usize = 11;

/// What a call was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// A write of so many bytes.
    Write(u64),
    /// A small file was made, filled and finished.
    Whole,
}

impl Call {
    fn class(self) -> usize {
        match self {
            Call::Write(bytes) => ((bytes.max(1) >> 12).max(1).ilog2() as usize).min(SIZES - 1),
            Call::Whole => SIZES,
        }
    }
}

/// Calls of a class: seconds.
#[derive(Debug, Clone, Copy)]
struct Class {
    sum: f64,
    calls: u32,
    /// Least mean of this epoch and of the one before.
    best: [f64; 2],
}

impl Default for Class {
    fn default() -> Self {
        Class { sum: 0.0, calls: 0, best: [f64::INFINITY; 2] }
    }
}

struct State {
    classes: [Class; SIZES + 1],
    epoch: Instant,
    size: f64,
}

/// The window.
pub struct Window {
    least: usize,
    most: usize,
    size: AtomicUsize,
    state: Mutex<State>,
}

impl Window {
    /// A window that begins with `first` calls and stays between `least` and `most`.
    pub fn new(first: usize, (least, most): (usize, usize)) -> Self {
        let state = State { classes: Default::default(), epoch: Instant::now(), size: first as f64 };
        Window { least, most, size: AtomicUsize::new(first), state: Mutex::new(state) }
    }

    /// One that never changes.
    pub fn fixed(size: usize) -> Self {
        Window::new(size, (size, size))
    }

    /// Calls that may be under way.
    pub fn size(&self) -> usize {
        self.size.load(Ordering::Relaxed)
    }

    /// A call took so long; `is_full`: others waited for their turn meanwhile.
    pub fn note(&self, call: Call, took: Duration, is_full: bool) {
        self.note_at(call, took, is_full, Instant::now());
    }

    fn note_at(&self, call: Call, took: Duration, is_full: bool, now: Instant) {
        if self.least == self.most {
            return;
        }
        // A mean does not need all calls, and no call need wait for it.
        let Some(mut state) = self.state.try_lock() else { return };
        state.turn(now);
        let round = (state.size as u32).max(ROUND_MIN);
        let Some(ratio) = state.classes[call.class()].add(took.as_secs_f64(), round) else { return };
        let kept = (TOLERANCE / ratio).clamp(0.5, 1.0);
        let more = if is_full { 1.0 } else { 0.0 };
        state.size = (state.size * kept + more).clamp(self.least as f64, self.most as f64);
        self.size.store(state.size as usize, Ordering::Relaxed);
    }
}

impl State {
    /// Forgets what is too long ago.
    fn turn(&mut self, now: Instant) {
        if now.saturating_duration_since(self.epoch) < EPOCH {
            return;
        }
        self.epoch = now;
        for class in &mut self.classes {
            class.best = [f64::INFINITY, class.best[0]];
        }
    }
}

impl Class {
    /// Counts a call; with the last of a round, how many times the best its mean is.
    fn add(&mut self, seconds: f64, round: u32) -> Option<f64> {
        (self.sum, self.calls) = (self.sum + seconds, self.calls + 1);
        if self.calls < round {
            return None;
        }
        let mean = (self.sum / f64::from(self.calls)).max(1e-6);
        (self.sum, self.calls) = (0.0, 0);
        self.best[0] = self.best[0].min(mean);
        Some(mean / self.best[0].min(self.best[1]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: Duration = Duration::from_millis(2);

    /// Calls of a tier whose answer to `n` calls at once takes `latency(n)`, for so many seconds of its time from `from` on.
    fn serve(window: &Window, from: &mut Instant, seconds: u64, latency: impl Fn(usize) -> Duration) {
        let until = *from + Duration::from_secs(seconds);
        while *from < until {
            let (size, took) = (window.size(), latency(window.size()));
            for _ in 0..size {
                window.note_at(Call::Write(4 << 20), took, true, *from);
            }
            *from += took;
        }
    }

    /// One that serves `lanes` calls at once and makes the others wait.
    fn lanes(lanes: usize) -> impl Fn(usize) -> Duration {
        move |calls| BASE * calls.max(lanes) as u32 / lanes as u32
    }

    #[test]
    fn a_tier_that_answers_as_fast_gets_all() {
        // Goal: whatever the latency, if it does not depend on the calls under way the window becomes as large as it may.
        let (window, mut now) = (Window::new(4, (2, 64)), Instant::now());
        serve(&window, &mut now, 20, |_| BASE * 20);
        assert_eq!(window.size(), 64);
    }

    #[test]
    fn one_that_slows_down_gets_about_what_it_serves() {
        let (window, mut now) = (Window::new(4, (2, 64)), Instant::now());
        serve(&window, &mut now, 20, lanes(6));
        assert!((6..=18).contains(&window.size()), "{}", window.size());
    }

    #[test]
    fn one_that_falters_gets_few_and_then_as_many_as_before() {
        let (window, mut now) = (Window::new(4, (2, 64)), Instant::now());
        serve(&window, &mut now, 10, |_| BASE);
        assert_eq!(window.size(), 64);
        serve(&window, &mut now, 10, |_| BASE * 50);
        assert_eq!(window.size(), 2);
        serve(&window, &mut now, 10, |_| BASE);
        assert_eq!(window.size(), 64);
    }

    #[test]
    fn a_tier_that_stays_slow_is_tried_again() {
        let (window, mut now) = (Window::new(4, (2, 64)), Instant::now());
        serve(&window, &mut now, 10, |_| BASE);
        serve(&window, &mut now, 20, |_| BASE * 50);
        assert_eq!(window.size(), 2);
        serve(&window, &mut now, 120, |_| BASE * 50);
        assert_eq!(window.size(), 64);
    }

    #[test]
    fn it_does_not_grow_without_need() {
        let window = Window::new(4, (2, 64));
        for _ in 0..1_000 {
            window.note(Call::Whole, BASE, false);
        }
        assert_eq!(window.size(), 4);
    }

    #[test]
    fn it_stays_within_its_bounds() {
        // Goal: any costs, from nothing to a minute, in any order, of all classes.
        let (window, mut state) = (Window::new(4, (2, 16)), 1_u64);
        for _ in 0..20_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let call = if state >> 63 == 0 { Call::Whole } else { Call::Write(1 << (state >> 40 & 31)) };
            window.note(call, Duration::from_nanos(1 << ((state >> 50) % 36)), state >> 62 & 1 == 0);
            assert!((2..=16).contains(&window.size()));
        }
        let fixed = Window::fixed(8);
        fixed.note(Call::Whole, BASE, true);
        assert_eq!(fixed.size(), 8);
    }

    #[test]
    fn classes_are_of_the_same_size() {
        let class = |bytes| Call::Write(bytes).class();
        assert_eq!(
            [class(0), class(4096), class(8191), class(8192), class(4 << 20), class(64 << 20)],
            [0, 0, 0, 1, 10, 10]
        );
    }
}
