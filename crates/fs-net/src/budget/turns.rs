//! Who is served next: queues by peer, taken by turns, bytes counted (deficit round robin).
//!
//! # Invariants
//! - Over many turns every peer that waits gets the same number of bytes (`turns_are_equal_in_bytes`).
//! - Within a peer the order is kept.

use std::collections::{HashMap, VecDeque};

/// What is to become of the first of a peer's queue.
pub(super) enum Turn {
    /// Served, for so many bytes.
    Take(usize),
    /// Not now; others may be.
    Pass,
    /// Not now, and nobody before it.
    Stop,
}

/// Somebody has to be served before all others, and cannot be now.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stopped;

/// The queues.
pub(super) struct Turns<T> {
    queues: HashMap<u64, Queue<T>>,
    order: VecDeque<u64>,
    len: usize,
    /// Bytes that a turn brings.
    turn_bytes: usize,
}

struct Queue<T> {
    waiting: VecDeque<T>,
    credit: usize,
}

impl<T> Turns<T> {
    /// No queues. `turn_bytes`: about what is asked at once; less costs more rounds, more lets one peer be served longer.
    pub fn new(turn_bytes: usize) -> Turns<T> {
        Turns { queues: HashMap::new(), order: VecDeque::new(), len: 0, turn_bytes }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether a peer waits.
    pub fn has(&self, peer: u64) -> bool {
        self.len > 0 && self.queues.contains_key(&peer)
    }

    /// Appends to the queue of a peer.
    pub fn push(&mut self, peer: u64, one: T) {
        self.len += 1;
        let queue = self.queues.entry(peer).or_insert_with(|| {
            self.order.push_back(peer);
            Queue { waiting: VecDeque::new(), credit: 0 }
        });
        queue.waiting.push_back(one);
    }

    /// Those of a peer that wait.
    pub fn of(&mut self, peer: u64) -> impl Iterator<Item = &mut T> {
        self.queues.get_mut(&peer).into_iter().flat_map(|queue| queue.waiting.iter_mut())
    }

    /// Takes one out that waits no longer.
    pub fn remove(&mut self, peer: u64, is_it: impl Fn(&T) -> bool) {
        let Some(queue) = self.queues.get_mut(&peer) else { return };
        let before = queue.waiting.len();
        queue.waiting.retain(|one| !is_it(one));
        self.len -= before - queue.waiting.len();
        if queue.waiting.is_empty() {
            self.queues.remove(&peer);
            self.order.retain(|&other| other != peer);
        }
    }

    /// The next to be served; `Ok(None)` when nobody can be. `decide` looks at the first of each peer's queue.
    pub fn next(&mut self, decide: impl Fn(&T) -> Turn) -> Result<Option<T>, Stopped> {
        let mut passed = 0;
        while passed < self.order.len() {
            let Some(&peer) = self.order.front() else { break };
            let Some(queue) = self.queues.get_mut(&peer) else { break };
            let Some(first) = queue.waiting.front() else { break };
            match decide(first) {
                Turn::Stop => return Err(Stopped),
                Turn::Pass => passed += 1,
                Turn::Take(bytes) if queue.credit >= bytes => {
                    queue.credit -= bytes;
                    return Ok(self.pop());
                }
                Turn::Take(_) => {
                    queue.credit += self.turn_bytes;
                    passed = 0;
                }
            }
            self.order.rotate_left(1);
        }
        Ok(None)
    }

    /// Takes the first of the peer whose turn it is.
    fn pop(&mut self) -> Option<T> {
        let peer = *self.order.front()?;
        let queue = self.queues.get_mut(&peer)?;
        let one = queue.waiting.pop_front()?;
        if queue.waiting.is_empty() {
            self.queues.remove(&peer);
            self.order.pop_front();
        }
        self.len -= 1;
        Some(one)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: neither many small requests nor few large ones get more. Method: three peers that ask for different sizes, until 300 MiB are given.
    #[test]
    fn turns_are_equal_in_bytes() {
        let sizes = [64 << 10, 1 << 20, 16 << 20];
        let mut turns = Turns::new(64 << 10);
        let mut got = [0; 3];
        for (peer, &bytes) in sizes.iter().enumerate() {
            (0..(400 << 20) / bytes).for_each(|_| turns.push(peer as u64, (peer, bytes)));
        }
        while got.iter().sum::<usize>() < 300 << 20 {
            let (peer, bytes) =
                turns.next(|(_, bytes)| Turn::Take(*bytes)).expect("no stop").expect("all wait");
            got[peer] += bytes;
        }
        assert!(got.iter().all(|bytes| bytes.abs_diff(100 << 20) <= 17 << 20), "{got:?}");
    }

    #[test]
    fn who_is_passed_over_does_not_hold_up_others_and_who_stops_does() {
        let mut turns = Turns::new(1);
        for (peer, one) in [(1, 'a'), (2, 'b'), (1, 'c')] {
            turns.push(peer, one);
        }
        let pass_a = |one: &char| if *one == 'a' { Turn::Pass } else { Turn::Take(0) };
        assert_eq!(turns.next(pass_a), Ok(Some('b')));
        assert_eq!(turns.next(pass_a), Ok(None));
        assert_eq!(turns.next(|_| Turn::Stop), Err(Stopped));
        turns.remove(1, |one| *one == 'a');
        assert_eq!((turns.next(pass_a), turns.len(), turns.has(1)), (Ok(Some('c')), 0, false));
    }
}
