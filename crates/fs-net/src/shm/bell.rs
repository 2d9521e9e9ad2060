//! How a sleeping peer is woken: a count written into a file that its event loop watches.
//!
//! The client rings by an eventfd. The server rings by a pipe: both ends of an eventfd are one open file, so a client could make it blocking,
//! fill it, and hang the thread of the server that rings. The writing end of a pipe is an open file of its own, which nobody else can make
//! blocking. (The client does not ring by a pipe, because writing to a pipe without readers raises SIGPIPE, which kills C programs; the
//! server's process ignores it, as all Rust programs do.)
//!
//! # Invariants
//! - Ringing never blocks (`ringing_never_blocks`).
//! - A ring after [`Ear::tidy`] wakes the task once [`Ear::poll_quiet`] answered "pending", whatever lay in the file before (`every_ring_is_heard`):
//!   the event loop is edge-triggered, and Linux tells every write to who watches. Files are emptied now and then, long before they are full,
//!   and never between the two.

use super::side::Side;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{Errno, read, write};
use rustix::pipe::{PipeFlags, pipe_with};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Times that its owner rose after which the file is emptied; each time it may wait for two things, and be rung for both. A pipe holds at least 4096 bytes, also when the user's pages for pipes
/// are used up.
const EMPTY_AFTER: u32 = 128;
const RING: [u8; 8] = 1u64.to_ne_bytes();
const _: () = assert!(2 * EMPTY_AFTER as usize * RING.len() < 4096);

/// A new bell that `side` rings: its ear and its rope.
pub(super) fn bell(side: Side) -> io::Result<(OwnedFd, OwnedFd)> {
    match side {
        Side::Server => Ok(pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?),
        Side::Client => {
            let ear = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            let rope = ear.try_clone()?;
            Ok((ear, rope))
        }
    }
}

/// The end that rings.
pub(super) struct Rope(OwnedFd);

/// The end that hears.
pub(super) struct Ear {
    pipe: AsyncFd<OwnedFd>,
    rises: u32,
}

impl Rope {
    pub fn new(pipe: OwnedFd) -> io::Result<Rope> {
        // What a peer passed may be anything.
        rustix::io::ioctl_fionbio(&pipe, true)?;
        Ok(Rope(pipe))
    }

    /// Wakes the peer. A full file or a peer that is gone wakes nobody, and nobody waits there.
    pub fn ring(&self) {
        let _ = write(&self.0, &RING);
    }
}

impl Ear {
    pub fn new(pipe: OwnedFd) -> io::Result<Ear> {
        rustix::io::ioctl_fionbio(&pipe, true)?;
        // SAFETY: `OwnedFd` gives the same open file for as long as it lives, and the `AsyncFd` owns it.
        let pipe = unsafe { AsyncFd::register_with_interest(pipe, Interest::READABLE) }?;
        Ok(Ear { pipe, rises: 0 })
    }

    /// To be called before what is waited for is looked at: a ring that lies in the file when it is emptied is lost, because the event loop
    /// looks at the file when it hears of it.
    pub fn tidy(&mut self) {
        self.rises += 1;
        if self.rises >= EMPTY_AFTER {
            self.rises = 0;
            empty(self.pipe.get_ref().as_fd());
        }
    }

    /// Pending when rings since the event loop last ran, and later ones, will wake the task. Ready only when none will come any more.
    pub fn poll_quiet(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        loop {
            match self.pipe.poll_read_ready(cx) {
                Poll::Pending => return Poll::Pending,
                // The end of a pipe stays, however often it is cleared.
                Poll::Ready(Ok(heard)) if heard.ready().is_read_closed() => {
                    return Poll::Ready(io::ErrorKind::BrokenPipe.into());
                }
                Poll::Ready(Ok(mut heard)) => heard.clear_ready(),
                Poll::Ready(Err(error)) => return Poll::Ready(error),
            }
        }
    }
}

fn empty(pipe: BorrowedFd<'_>) {
    let mut bytes = [0; 4096];
    loop {
        match read(pipe, &mut bytes) {
            Ok(n) if n == bytes.len() => {}
            Err(Errno::INTR) => {}
            // A closed pipe is noticed at the socket.
            Ok(_) | Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::time::Duration;

    fn run<F: Future<Output = ()>>(test: F) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            // Each of its rounds waits for a processor twice: a machine with much else to do takes minutes.
            tokio::time::timeout(Duration::from_secs(240), test).await.expect("no ring is missed");
        });
    }

    #[test]
    fn ringing_never_blocks() {
        for side in [Side::Client, Side::Server] {
            let (_ear, rope) = bell(side).expect("a bell");
            let rope = Rope::new(rope).expect("a rope");
            (0..20_000).for_each(|_| rope.ring());
        }
        let (ear, rope) = bell(Side::Server).expect("a bell");
        let rope = Rope::new(rope).expect("a rope");
        // What a hostile client can do to its end.
        rustix::io::ioctl_fionbio(&ear, false).expect("its own end");
        (0..20_000).for_each(|_| rope.ring());
        drop(ear);
        rope.ring();
    }

    #[test]
    fn a_bell_without_a_rope_is_an_end() {
        run(async {
            let (ear, rope) = bell(Side::Server).expect("a bell");
            let mut ear = Ear::new(ear).expect("an ear");
            assert!(poll_fn(|cx| Poll::Ready(ear.poll_quiet(cx).is_pending())).await);
            drop(rope);
            let end = poll_fn(|cx| ear.poll_quiet(cx)).await;
            assert_eq!(end.kind(), io::ErrorKind::BrokenPipe);
        });
    }

    /// Goal: no ring is lost, although the file is hardly ever emptied. Method: ring and sleep in turn, more often than a pipe has room; the
    /// other end rings from a thread of its own, each time after it was told so, which is now before and now after the task is pending.
    #[test]
    fn every_ring_is_heard() {
        every_ring_is_heard_from(Side::Client);
        every_ring_is_heard_from(Side::Server);
    }

    fn every_ring_is_heard_from(side: Side) {
        const ROUNDS: usize = 10_000;
        run(async {
            let (ear, rope) = bell(side).expect("a bell");
            let (mut ear, rope) = (Ear::new(ear).expect("an ear"), Rope::new(rope).expect("a rope"));
            let (asleep, sleeps) = std::sync::mpsc::channel::<()>();
            let ringer = std::thread::spawn(move || sleeps.iter().for_each(|()| rope.ring()));
            for round in 0..ROUNDS {
                let mut slept = false;
                let is_early = round % 2 == 0;
                poll_fn(|cx| {
                    if slept {
                        return Poll::Ready(());
                    }
                    slept = true;
                    ear.tidy();
                    if is_early {
                        asleep.send(()).expect("the ringer runs");
                        std::thread::yield_now();
                    }
                    assert!(ear.poll_quiet(cx).is_pending());
                    if !is_early {
                        asleep.send(()).expect("the ringer runs");
                    }
                    Poll::Pending
                })
                .await;
            }
            drop(asleep);
            ringer.join().expect("no panic");
        });
    }
}
