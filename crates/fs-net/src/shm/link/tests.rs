//! Goal: no order of steps leaves a side asleep with something to do, and awake peers are not rung.
//! Method: a model with the same steps as the code, one memory access each, searched over all interleavings (the fences make the
//! accesses on both sides of them sequentially consistent, so interleavings are all there is); then the code itself.

use super::super::bell::bell;
use super::super::region::RING_BYTES;
use super::*;
use std::collections::HashSet;
use std::future::poll_fn;
use std::time::Duration;

const MESSAGES: u8 = 4;
/// Messages that the model's ring holds.
const ROOM: u8 = 2;

/// Where a side of the model is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum At {
    /// The sender puts, or the receiver takes, if it can.
    Work,
    /// What it did is to be told: look at the peer's word.
    Look,
    /// It saw the word set: swap it, and ring if it still was.
    Ring,
    /// Nothing to do: set the own word.
    Announce,
    /// Look once more.
    Recheck,
    /// Wait for a ring.
    Sleep,
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Model {
    sent: u8,
    taken: u8,
    /// Words and pending rings of sender (starved) and receiver (asleep).
    word: [bool; 2],
    rung: [bool; 2],
    at: [At; 2],
}

/// The mistake that the search must find when it is built in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mistake {
    None,
    NoRecheck,
    LookBeforePublish,
}

impl Model {
    fn can_work(self, side: usize) -> bool {
        if side == 0 { self.sent < self.taken + ROOM } else { self.taken < self.sent }
    }

    fn is_finished(self, side: usize) -> bool {
        if side == 0 { self.sent == MESSAGES } else { self.taken == MESSAGES }
    }

    fn work(&mut self, side: usize) {
        if side == 0 { self.sent += 1 } else { self.taken = self.sent }
    }

    /// The state after one step of a side, or `None` if it waits.
    fn step(mut self, side: usize, mistake: Mistake) -> Option<Model> {
        let peer = 1 - side;
        let early = mistake == Mistake::LookBeforePublish;
        let rest = |model: &Model| if model.is_finished(side) { At::Done } else { At::Work };
        self.at[side] = match self.at[side] {
            At::Work if !self.can_work(side) => At::Announce,
            At::Work if early => At::Look,
            At::Work => {
                self.work(side);
                At::Look
            }
            At::Look if early => {
                let ring = self.word[peer];
                self.word[peer] = false;
                self.rung[peer] |= ring;
                At::Ring
            }
            At::Ring if early => {
                self.work(side);
                rest(&self)
            }
            At::Look if self.word[peer] => At::Ring,
            At::Look => rest(&self),
            At::Ring => {
                self.rung[peer] |= self.word[peer];
                self.word[peer] = false;
                rest(&self)
            }
            At::Announce => {
                self.word[side] = true;
                if mistake == Mistake::NoRecheck { At::Sleep } else { At::Recheck }
            }
            At::Recheck if self.can_work(side) => {
                self.word[side] = false;
                At::Work
            }
            At::Recheck => At::Sleep,
            At::Sleep if self.rung[side] => {
                self.rung[side] = false;
                At::Work
            }
            At::Sleep | At::Done => return None,
        };
        Some(self)
    }
}

/// Searches all interleavings; returns the number of states, or one in which nobody moves and not all is done.
fn search(mistake: Mistake) -> Result<usize, Model> {
    let start = Model { sent: 0, taken: 0, word: [false; 2], rung: [false; 2], at: [At::Work; 2] };
    let (mut seen, mut open) = (HashSet::from([start]), vec![start]);
    while let Some(state) = open.pop() {
        let next: Vec<Model> = (0..2).filter_map(|side| state.step(side, mistake)).collect();
        if next.is_empty() && state.at != [At::Done; 2] {
            return Err(state);
        }
        open.extend(next.into_iter().filter(|state| seen.insert(*state)));
    }
    Ok(seen.len())
}

#[test]
fn nobody_sleeps_through_a_message() {
    let states = search(Mistake::None).expect("all sent and taken, in every order");
    assert!(states > 100, "only {states} states were seen: the search is broken");
    assert!(search(Mistake::NoRecheck).is_err(), "the search does not find a missing second look");
    assert!(search(Mistake::LookBeforePublish).is_err(), "the search does not find a look that is too early");
}

fn links() -> (Link, Link) {
    links_over(&Region::small())
}

/// A client's and a server's.
pub(in crate::shm) fn links_over(region: &Arc<Region>) -> (Link, Link) {
    let (server_ear, client_rope) = bell(Side::Client).expect("a bell");
    let (client_ear, server_rope) = bell(Side::Server).expect("a bell");
    let link = |side, ear, rope| {
        let bells = (Ear::new(ear).expect("an ear"), Rope::new(rope).expect("a rope"));
        Link::new(region.clone(), side, bells, Spin::new(Duration::ZERO))
    };
    (link(Side::Client, client_ear, client_rope), link(Side::Server, server_ear, server_rope))
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(60), test).await.expect("no ring is missed");
    });
}

#[test]
fn an_awake_peer_is_not_rung() {
    run(async {
        let (mut client, mut server) = links();
        for _ in 0..10 {
            client.put(b"message");
            client.publish();
        }
        assert_eq!(client.take_rings(), 0);
        assert_eq!(server.take(&mut BytesMut::new()).expect("honest"), 70);
        let asleep = poll_fn(|cx| Poll::Ready(server.poll_arrived(cx).is_pending())).await;
        client.put(b"message");
        client.publish();
        client.put(b"message");
        client.publish();
        assert_eq!((asleep, client.take_rings()), (true, 1));
        let arrived = poll_fn(|cx| server.poll_arrived(cx)).await;
        assert!(arrived.is_ok());
        server.rise();
        client.put(b"message");
        client.publish();
        assert_eq!(client.take_rings(), 0);
    });
}

/// Goal: a peer that looks has at once what it is shown, and one that sleeps is woken for it, if not at once.
#[test]
fn what_was_shown_is_rung_for_in_the_end() {
    run(async {
        let (mut client, mut server) = links();
        client.put(b"message");
        assert_eq!(server.take(&mut BytesMut::new()).expect("honest"), 0);
        client.show();
        assert_eq!(server.take(&mut BytesMut::new()).expect("honest"), 7);
        assert!(poll_fn(|cx| Poll::Ready(server.poll_arrived(cx).is_pending())).await);
        client.put(b"message");
        client.show();
        assert_eq!(client.take_rings(), 0);
        client.publish();
        assert_eq!(client.take_rings(), 1);
        assert!(poll_fn(|cx| server.poll_arrived(cx)).await.is_ok());
    });
}

/// Goal: two sides that sleep whenever they can exchange everything. Method: rings filled to the brim by one thread and emptied by another,
/// each with an event loop that sleeps in the kernel.
#[test]
fn two_threads_that_sleep_miss_nothing() {
    const ROUNDS: usize = 3_000;
    const PIECE: usize = RING_BYTES / 3;
    let (client, server) = (std::sync::mpsc::channel(), std::sync::mpsc::channel());
    let receiver = std::thread::spawn(move || {
        run(async {
            // Made here, because a link belongs to an event loop.
            let (filling, mut emptying) = links();
            client.0.send(filling).expect("the other thread waits");
            let mut got = 0;
            while got < ROUNDS * PIECE {
                let mut taken = BytesMut::new();
                emptying.rise();
                got += emptying.take(&mut taken).expect("honest");
                if taken.is_empty() {
                    poll_fn(|cx| emptying.poll_arrived(cx)).await.expect("no error");
                }
            }
            server.0.send(()).expect("the other thread waits");
        });
    });
    let mut filling = client.1.recv().expect("made");
    for _ in 0..ROUNDS {
        while !filling.has_room(PIECE).expect("honest") {
            // This link's event loop is the other thread's; waiting for room is tried in `tests/shared.rs`.
            std::thread::yield_now();
        }
        filling.put(&vec![7; PIECE / 2]);
        filling.show();
        filling.put(&vec![7; PIECE - PIECE / 2]);
        filling.publish();
    }
    server.1.recv().expect("all arrived");
    receiver.join().expect("no panic");
}
