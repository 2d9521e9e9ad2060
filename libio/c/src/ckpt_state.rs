//! States of a version, as numbers.

use std::ffi::c_int;

use libio::State;

/// Its manifest is damaged.
pub const CKPT_DAMAGED: c_int = 0;
/// Its ranks write.
pub const CKPT_OPEN: c_int = 1;
/// A rank gave up, or did not come.
pub const CKPT_ABORTED: c_int = 2;
/// A restart from it failed.
pub const CKPT_FAILED: c_int = 3;
/// All ranks have closed.
pub const CKPT_SEALED: c_int = 4;
/// It can be restarted from.
pub const CKPT_COMMITTED: c_int = 5;
/// The servers say that all of it is in the shared tier, where manifest, seals and sizes are right. Its bytes are read by `hayate ckpt verify`.
pub const CKPT_DURABLE: c_int = 6;

pub(crate) fn state_number(state: State) -> c_int {
    match state {
        State::Damaged => CKPT_DAMAGED,
        State::Open => CKPT_OPEN,
        State::Aborted => CKPT_ABORTED,
        State::Failed => CKPT_FAILED,
        State::Sealed => CKPT_SEALED,
        State::Committed => CKPT_COMMITTED,
        State::Durable => CKPT_DURABLE,
    }
}
