//! One connection as the thread's queues see it: what came for it, and what it has under way.

use super::record::{HEAD_BYTES, MESSAGE_BYTES, RECORD_BYTES};
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::task::{Context, Waker};

/// Messages with frames that may be under way in one direction; with iWARP fewer (`kind`).
pub(super) const CREDITS: u32 = 16;
/// Bytes of messages that may wait here, each with what it takes besides. Besides what takes credits a peer sends only what gives back: at most a
/// message for each part that it was lent, and there are 2,048 of these.
const MOST_WAITING: usize = 512 << 10;
const MESSAGE_COST: usize = 64;
const SHORT_MESSAGE: usize = HEAD_BYTES + RECORD_BYTES;
/// Work that a queue pair may have under way.
pub(super) const DEPTH: u32 = 128;

const _: () = assert!(
    CREDITS as usize * (MESSAGE_BYTES + MESSAGE_COST) + 2_048 * (SHORT_MESSAGE + MESSAGE_COST) < MOST_WAITING
);

/// What comes for a connection.
#[derive(Default)]
pub(super) struct Line {
    /// Events of rdma_cm, with their status.
    pub steps: RefCell<VecDeque<(u32, i32)>>,
    /// Whether both sides have said that it is open.
    pub is_up: Cell<bool>,
    /// Messages.
    arrived: RefCell<VecDeque<Bytes>>,
    waiting: Cell<usize>,
    /// Reads that are done, by their number.
    pub pulled: RefCell<Vec<u32>>,
    /// Send buffers under way.
    pub slots: RefCell<Vec<u32>>,
    /// Receive buffers that it has for itself.
    pub receives: RefCell<Vec<u32>>,
    /// With iWARP who accepts sends nothing before something has come.
    pub speaks_second: Cell<bool>,
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
        self.waiting.set(self.waiting.get() + message.len() + MESSAGE_COST);
        if self.waiting.get() > MOST_WAITING {
            self.fail("more messages than credits");
        } else {
            self.arrived.borrow_mut().push_back(message);
        }
        self.wake();
    }

    /// The next message.
    pub fn take_message(&self) -> Option<Bytes> {
        let message = self.arrived.borrow_mut().pop_front()?;
        self.waiting.set(self.waiting.get() - message.len() - MESSAGE_COST);
        Some(message)
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
