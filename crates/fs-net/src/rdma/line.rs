//! One connection as the thread's queues see it: what came for it, and what it has under way.

use super::record::MESSAGE_BYTES;
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::task::{Context, Waker};

/// Messages with frames that may be under way in one direction.
pub(super) const CREDITS: u32 = 16;
/// Messages that may wait here: a peer sends others than these only to give back what it was lent or sent.
const MOST_WAITING: usize = 8 * CREDITS as usize;
/// Work that a queue pair may have under way.
pub(super) const DEPTH: u32 = 128;

const _: () = assert!(MOST_WAITING * MESSAGE_BYTES <= 4 << 20);

/// What comes for a connection.
#[derive(Default)]
pub(super) struct Line {
    /// Events of rdma_cm, with their status.
    pub steps: RefCell<VecDeque<(u32, i32)>>,
    /// Whether both sides have said that it is open.
    pub is_up: Cell<bool>,
    /// Messages.
    pub arrived: RefCell<VecDeque<Bytes>>,
    /// Reads that are done, by their number.
    pub pulled: RefCell<Vec<u32>>,
    /// Send buffers under way.
    pub slots: RefCell<Vec<u32>>,
    /// Reads under way.
    pub reads: Cell<u32>,
    broken: RefCell<Option<String>>,
    waker: RefCell<Option<Waker>>,
}

impl Line {
    /// `cx` is woken when anything comes.
    pub fn watch(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        match &mut *waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => *waker = Some(cx.waker().clone()),
        }
    }

    pub fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// A message has come.
    pub fn arrive(&self, message: Bytes) {
        // Its first message says as much as the event that comes by another way, maybe later.
        self.is_up.set(true);
        let waiting = {
            let mut arrived = self.arrived.borrow_mut();
            arrived.push_back(message);
            arrived.len()
        };
        if waiting > MOST_WAITING {
            self.fail("more messages than credits");
        }
        self.wake();
    }

    /// It is at its end. The first reason stays.
    pub fn fail(&self, why: &str) {
        self.broken.borrow_mut().get_or_insert_with(|| why.to_owned());
        self.wake();
    }

    /// Why it is at its end, if it is.
    pub fn broken(&self) -> Option<String> {
        self.broken.borrow().clone()
    }

    /// Whether there is anything to take.
    pub fn has_news(&self) -> bool {
        !self.arrived.borrow().is_empty()
            || !self.pulled.borrow().is_empty()
            || self.broken.borrow().is_some()
    }

    /// Whether one more piece of work may be under way.
    pub fn has_depth(&self) -> bool {
        self.slots.borrow().len() as u32 + self.reads.get() < DEPTH
    }

    /// A send buffer is under way no more. False: it was not.
    pub fn give_back_slot(&self, slot: u32) -> bool {
        let mut slots = self.slots.borrow_mut();
        let found = slots.iter().position(|&own| own == slot);
        found.map(|at| slots.swap_remove(at)).is_some()
    }
}
