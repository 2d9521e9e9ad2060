//! What a served connection waits for besides requests, and for how long.

use super::session::Shared;
use crate::budget::{Charge, Wait};
use std::future::Future;
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;
use tokio::time::{Sleep, sleep};

/// Differences in what waits to be sent that are not worth counting anew.
const UNSENT_STEP_BYTES: usize = 4 << 10;

/// What a connection waits for but for requests.
#[derive(Default)]
pub(super) struct Waits {
    /// For room for the next request.
    pub turn: Option<Pin<Box<Wait>>>,
    /// Room for the next request, waited for.
    pub admitted: Option<Charge>,
    /// For answers that the peer has not read.
    pub unsent: Option<Charge>,
    /// Whether the peer moves anything meanwhile.
    pub stall: Stall,
}

impl Waits {
    /// Counts what the peer has not read.
    pub fn count_unsent(&mut self, bytes: usize, shared: &Shared) {
        let counted = self.unsent.as_ref().map_or(0, Charge::bytes);
        if bytes.abs_diff(counted) >= UNSENT_STEP_BYTES {
            self.unsent = Some(shared.charge(bytes));
        }
    }

    /// Whether nothing of it is waited for any more.
    pub fn is_over(&self) -> bool {
        self.turn.is_none() && self.admitted.is_none() && self.unsent.is_none() && self.stall.0.is_none()
    }
}

/// When it is next looked whether a peer moves anything, and what it had moved when it was last.
#[derive(Default)]
pub(super) struct Stall(Option<(Pin<Box<Sleep>>, u64)>);

impl Stall {
    /// Whether the peer has moved nothing for too long: `moved` is what it has, in bytes of whichever direction it holds up.
    pub fn is_over(&mut self, moved: u64, limit: Duration, cx: &mut Context<'_>) -> bool {
        let (timer, before) = self.0.get_or_insert_with(|| (Box::pin(sleep(limit)), moved));
        while timer.as_mut().poll(cx).is_ready() {
            if *before == moved {
                return true;
            }
            *before = moved;
            timer.set(sleep(limit));
        }
        false
    }
}
