//! How a call ends.

use std::ffi::c_int;

use hayate::border::{self, Result};

/// Runs one call: what it answers, or -1 with `errno` set.
pub fn call<T: From<i8> + TryFrom<i64>>(work: impl FnOnce() -> Result<i64>) -> T {
    let answer: i64 = border::call(work);
    match T::try_from(answer) {
        Ok(answer_fits) if answer >= 0 => answer_fits,
        _ => {
            set_errno(if answer < 0 { -answer as c_int } else { libc::EOVERFLOW });
            T::from(-1)
        }
    }
}

fn set_errno(errno: c_int) {
    // SAFETY: the calling thread's own.
    unsafe { *libc::__errno_location() = errno };
}
