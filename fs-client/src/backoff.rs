//! How long to wait before a request is sent again.
//!
//! # Invariants
//! - The first retry comes at once (an idle connection that the server closed is the usual reason), later ones after 2 ms and
//!   twice as much each time up to 250 ms, spread by half (`pauses_grow_to_a_bound`).

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(2);
const LAST: Duration = Duration::from_millis(250);

#[derive(Debug, Default)]
pub(crate) struct Backoff {
    pauses: u32,
}

impl Backoff {
    /// The next pause; `spread` in 0 to 1 shortens it by up to half.
    pub fn next(&mut self, spread: f64) -> Duration {
        let nth = self.pauses;
        self.pauses += 1;
        match nth {
            0 => Duration::ZERO,
            _ => FIRST.saturating_mul(1 << (nth - 1).min(16)).min(LAST).mul_f64(1.0 - spread / 2.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..40).map(|_| backoff.next(0.0).as_millis()).collect();
        assert_eq!(pauses[..9], [0, 2, 4, 8, 16, 32, 64, 128, 250]);
        assert!(pauses[9..].iter().all(|p| *p == 250));
        let mut spread = Backoff { pauses: 30 };
        assert_eq!(spread.next(1.0).as_millis(), 125);
    }
}
