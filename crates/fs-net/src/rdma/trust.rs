//! With which peers (and at which of their addresses) RDMA works, and when it is tried again where it did not.
//!
//! # Invariants
//! - After a failure nothing is tried before a pause is over, which doubles with every failure up to a limit; failures of several connections
//!   at once are one (`a_pause_doubles_and_failures_at_once_are_one`).
//! - There is one warning when the first peer is lost, and one word of it when the last is won back (`one_warning_and_one_return`).
//! - What is remembered is bounded, and a peer that nobody asks any more is forgotten (`who_is_gone_is_forgotten`).

use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long RDMA with a peer is not tried again after it failed the first time; doubled after each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// Peers of which that is remembered.
const MOST_PEERS: usize = 4096;

/// How it went with a peer, or with an address.
#[derive(Debug, Default)]
struct Peer {
    /// There has been a connection over RDMA.
    worked: bool,
    /// TCP has to do where RDMA was wished for.
    is_lost: bool,
    /// Not to be tried before, and after which pause.
    paused: Option<(Instant, Duration)>,
}

impl Peer {
    /// It could have been tried again for long, and nobody did.
    fn is_forgotten(&self, now: Instant) -> bool {
        self.paused.is_some_and(|(until, _)| until + LONGEST_PAUSE < now)
    }

    fn pause(&mut self, now: Instant) {
        let pause = match self.paused {
            Some((until, _)) if now < until => return,
            Some((_, pause)) => (pause * 2).min(LONGEST_PAUSE),
            None => FIRST_PAUSE,
        };
        self.paused = Some((now + pause, pause));
    }
}

/// What a process knows of its peers, under one lock: asked once a connection, and once a second of those that are not over RDMA but might be.
#[derive(Debug, Default)]
pub(super) struct Trust(Mutex<HashMap<String, Peer>>);

impl Trust {
    /// Whether it is not to be tried yet.
    pub fn is_paused(&self, peer: &str, now: Instant) -> bool {
        self.0.lock().get(peer).and_then(|peer| peer.paused).is_some_and(|(until, _)| now < until)
    }

    /// Whether there has been a connection.
    pub fn has_worked(&self, peer: &str) -> bool {
        self.0.lock().get(peer).is_some_and(|peer| peer.worked)
    }

    /// Whether TCP has to do with it.
    pub fn is_lost(&self, peer: &str) -> bool {
        self.0.lock().get(peer).is_some_and(|peer| peer.is_lost)
    }

    /// With how many TCP has to do.
    pub fn lost(&self) -> usize {
        self.0.lock().values().filter(|peer| peer.is_lost).count()
    }

    /// It is not to be tried for a while. Whether that is new.
    pub fn pause(&self, peer: &str, now: Instant) -> bool {
        let mut is_new = false;
        self.with(peer, now, |peer| {
            is_new = peer.paused.is_none();
            peer.pause(now);
        });
        is_new
    }

    /// RDMA was wished for, and failed. Whether this peer is the first that is lost.
    pub fn lose(&self, peer: &str, now: Instant) -> bool {
        let mut was_lost = false;
        let lost = self.with(peer, now, |peer| {
            peer.pause(now);
            was_lost = std::mem::replace(&mut peer.is_lost, true);
        });
        !was_lost && lost == 1
    }

    /// It works. If the peer was lost: how many still are.
    pub fn win(&self, peer: &str, now: Instant) -> Option<usize> {
        let mut was_lost = false;
        let lost = self.with(peer, now, |peer| {
            was_lost = peer.is_lost;
            *peer = Peer { worked: true, ..Peer::default() };
        });
        was_lost.then_some(lost)
    }

    /// Changes what is known of one. How many are lost after it.
    fn with(&self, peer: &str, now: Instant, change: impl FnOnce(&mut Peer)) -> usize {
        let mut peers = self.0.lock();
        peers.retain(|_, peer| !peer.is_forgotten(now));
        if peers.len() >= MOST_PEERS && !peers.contains_key(peer) {
            peers.clear();
        }
        change(peers.entry(peer.to_owned()).or_default());
        peers.values().filter(|peer| peer.is_lost).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn a_pause_doubles_and_failures_at_once_are_one() {
        let (trust, begin) = (Trust::default(), Instant::now());
        let mut now = begin;
        for pause in [5, 10, 20, 40, 80, 160, 300, 300] {
            trust.lose("a", now);
            trust.lose("a", now);
            assert!(trust.is_paused("a", now + seconds(pause - 1)) && !trust.is_paused("b", now));
            now += seconds(pause);
            assert!(!trust.is_paused("a", now), "{pause}");
        }
        trust.win("a", now);
        assert!(trust.has_worked("a") && !trust.is_paused("a", now));
        trust.lose("a", now);
        assert!(!trust.is_paused("a", now + FIRST_PAUSE));
    }

    #[test]
    fn one_warning_and_one_return() {
        let (trust, now) = (Trust::default(), Instant::now());
        assert_eq!(["a", "a", "b"].map(|peer| trust.lose(peer, now)), [true, false, false]);
        // Of who was not lost nothing is said.
        assert_eq!(["c", "a", "a", "b"].map(|peer| trust.win(peer, now)), [None, Some(1), None, Some(0)]);
        assert!(trust.lose("b", now) && trust.is_lost("b") && !trust.is_lost("a"));
        assert_eq!(trust.lost(), 1);
        assert_eq!([trust.pause("own", now), trust.pause("own", now)], [true, false]);
    }

    #[test]
    fn who_is_gone_is_forgotten() {
        let (trust, now) = (Trust::default(), Instant::now());
        trust.lose("gone", now);
        let later = now + FIRST_PAUSE + LONGEST_PAUSE + seconds(1);
        assert!(trust.lose("b", later));
        assert_eq!(trust.win("b", later), Some(0));
        for peer in 0..2 * MOST_PEERS {
            trust.pause(&peer.to_string(), later);
        }
        assert!(trust.0.lock().len() <= MOST_PEERS);
    }
}
