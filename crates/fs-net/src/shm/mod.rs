//! Sessions over shared memory, between a server and a client of its node (decision 0015).
//!
//! | module | what |
//! |---|---|
//! | [`session`] | how a connection becomes one |
//! | [`transport`] | the transport port over it |
//! | [`link`] | both rings, and sleeping |
//! | [`ring`], [`record`] | one way's bytes, and what they mean |
//! | [`arena`], [`pages`] | data by reference |
//! | [`bell`], [`spin`] | waking a peer, and waiting a little before sleeping |
//! | [`region`] | the memory itself; with [`arena`] (and a line of [`bell`]) the only unsafe code of this crate |
//! | [`budget`] | how much memory all sessions may share |

mod arena;
mod bell;
mod budget;
mod link;
mod pages;
mod record;
mod region;
mod ring;
mod session;
mod side;
mod spin;
mod transport;

pub(crate) use arena::Block;
pub use budget::{ShareBudget, ShareStats};
pub use session::Lending;
pub(crate) use session::{ask, grant};
pub(crate) use spin::Spin;

#[cfg(test)]
mod hostile;
