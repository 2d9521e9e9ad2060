//! Where the data of awaited answers is received: a server that passes an answer on to a client of its node has it put where that client
//! reads it.
//!
//! # Invariants
//! - Memory is taken when an answer comes and not before: a call that waits holds none, and one whose client has gone finds none
//!   (`tests/landing.rs`, `a_client_that_goes_before_its_answer_leaves_nothing`).
//! - Nothing of this process looks into what lands: the client may write there at any time. Who reads compares checksums, there.

use crate::pool::PoolBuffer;
use crate::shm::Lending;
use std::cell::RefCell;
use std::collections::HashMap;

/// The calls of a connection whose answers are passed on, by tag.
#[derive(Debug, Default)]
pub(crate) struct Landings(RefCell<HashMap<u32, Lending>>);

impl Landings {
    /// The answer with this tag is for who lends this memory.
    pub fn expect(&self, tag: u32, lending: &Lending) {
        self.0.borrow_mut().insert(tag, lending.clone());
    }

    /// Nobody waits for the answer with this tag any more.
    pub fn forget(&self, tag: u32) {
        self.0.borrow_mut().remove(&tag);
    }

    /// Memory for `len` bytes of the answer with this tag, where it is to land. `None`: anywhere.
    pub fn buffer(&self, tag: u32, len: usize) -> Option<PoolBuffer> {
        self.0.borrow().get(&tag)?.buffer(len)
    }
}
