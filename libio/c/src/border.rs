//! What every call from C passes through.

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};

use fs_client::Error;

/// Why a call fails: what C gets, and the words for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// A positive errno.
    pub errno: c_int,
    /// For a person.
    pub message: String,
}

/// Result of what is behind the border.
pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// A failure with these words.
    pub fn new(errno: c_int, message: impl Into<String>) -> Failure {
        Failure { errno, message: message.into() }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure { errno: error.errno(), message: error.to_string() }
    }
}

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

/// What a panic is to C: the library itself is at fault. Nothing else in Hayate has this number.
const OWN_FAULT: c_int = libc::ELIBBAD;

/// Runs one call: what it answers, or the negative errno. A panic is that of [`OWN_FAULT`].
pub fn call<T: From<c_int>>(work: impl FnOnce() -> Result<T>) -> T {
    // What a panic leaves half done is behind the locks of fs-client, whose users check what they find.
    let done = catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(Failure::new(OWN_FAULT, words_of(panic.as_ref()))));
    done.unwrap_or_else(|failure| {
        remember(failure.message);
        T::from(-failure.errno)
    })
}

fn words_of(panic: &(dyn Any + Send)) -> String {
    let said = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    format!("an internal error of Hayate, please report it: {}", said.unwrap_or("no words"))
}

fn remember(mut message: String) {
    message.retain(|c| c != '\0');
    // Neither can fail: there is no zero in it; and a thread that is ending has nobody to ask for words.
    let _ = CString::new(message).map(|words| LAST.try_with(|last| *last.borrow_mut() = words));
}

/// Why the last call of this thread that failed did: a sentence, empty if none did. It stays until the thread's next call that fails.
#[unsafe(no_mangle)]
pub extern "C" fn hayate_last_error() -> *const c_char {
    LAST.try_with(|last| last.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

/// The version of the library, as in "0.1.0".
#[unsafe(no_mangle)]
pub extern "C" fn hayate_version() -> *const c_char {
    const VERSION: &CStr =
        match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
            Ok(version) => version,
            Err(_) => panic!("a version has no zeros"),
        };
    VERSION.as_ptr()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last() -> String {
        // SAFETY: a string that lives until this thread's next failure.
        unsafe { CStr::from_ptr(hayate_last_error()) }.to_string_lossy().into_owned()
    }

    /// Goal: a panic behind the border is an error of the call, and not taken for one of checkpoints, which a program answers with an older version. Method: one.
    #[test]
    fn a_panic_is_an_error() {
        assert_eq!(call(|| -> Result<c_int> { panic!("of {}", "this test") }), -libc::ELIBBAD);
        assert!(last().contains("of this test"), "{}", last());
    }

    /// Goal: words belong to the thread that failed, and stay through what succeeds.
    #[test]
    fn words_stay_until_the_next_failure() {
        let fail = |words: &'static str| call(|| -> Result<i64> { Err(Failure::new(libc::ENOENT, words)) });
        assert_eq!(fail("one\0two"), -i64::from(libc::ENOENT));
        assert_eq!(call(|| Ok(7)), 7);
        assert_eq!(last(), "onetwo");
        std::thread::spawn(|| assert_eq!(last(), "")).join().expect("no panic");
        fail("three");
        assert_eq!(last(), "three");
    }
}
