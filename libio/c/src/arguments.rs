//! Pointers and integers of C, checked before they are used.

use std::ffi::{CStr, OsStr, c_char};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::border::{Failure, Result};

/// A string's bytes, without the zero. `what` names the argument.
///
/// # Errors
/// `EFAULT` if it is null.
///
/// # Safety
/// `text` is null or ends in a zero, and stays as it is while the result is used.
pub unsafe fn bytes<'a>(text: *const c_char, what: &str) -> Result<&'a [u8]> {
    if text.is_null() {
        return Err(Failure::new(libc::EFAULT, format!("the {what} is a null pointer")));
    }
    // SAFETY: the caller's promise.
    Ok(unsafe { CStr::from_ptr(text) }.to_bytes())
}

/// A path; an empty one is `ENOENT`, as everywhere in POSIX.
///
/// # Errors
/// As [`bytes`].
///
/// # Safety
/// As [`bytes`].
pub unsafe fn path<'a>(text: *const c_char) -> Result<&'a Path> {
    // SAFETY: the caller's promise.
    let bytes = unsafe { bytes(text, "path") }?;
    if bytes.is_empty() {
        return Err(Failure::new(libc::ENOENT, "the path is empty"));
    }
    Ok(Path::new(OsStr::from_bytes(bytes)))
}

/// Bytes to write. No byte needs no pointer.
///
/// # Errors
/// `EFAULT` if it is null, `EINVAL` if it is longer than memory can be.
///
/// # Safety
/// `data` is null or has `len` bytes that stay as they are while the result is used.
pub unsafe fn input<'a>(data: *const libc::c_void, len: usize) -> Result<&'a [u8]> {
    check(data.is_null(), len)?;
    if len == 0 {
        return Ok(&[]);
    }
    // SAFETY: the caller's promise; not null, and not longer than a slice may be.
    Ok(unsafe { std::slice::from_raw_parts(data.cast(), len) })
}

/// Room to read into. No byte needs no pointer.
///
/// # Errors
/// As [`input`].
///
/// # Safety
/// `room` is null or has `len` bytes that nobody else uses while the result is.
pub unsafe fn output<'a>(room: *mut libc::c_void, len: usize) -> Result<&'a mut [u8]> {
    check(room.is_null(), len)?;
    if len == 0 {
        return Ok(&mut []);
    }
    // SAFETY: the caller's promise; not null, and not longer than a slice may be.
    Ok(unsafe { std::slice::from_raw_parts_mut(room.cast(), len) })
}

fn check(null: bool, len: usize) -> Result<()> {
    if null && len > 0 {
        return Err(Failure::new(libc::EFAULT, "the buffer is a null pointer"));
    }
    if isize::try_from(len).is_err() {
        return Err(Failure::new(
            libc::EINVAL,
            format!("a buffer of {len} bytes is larger than memory can be"),
        ));
    }
    Ok(())
}

/// Stores an answer where the caller wants it.
///
/// # Errors
/// `EFAULT` if it is null.
///
/// # Safety
/// `place` is null or may be written.
pub unsafe fn store<T>(place: *mut T, answer: T) -> Result<()> {
    if place.is_null() {
        return Err(Failure::new(libc::EFAULT, "the place for the answer is a null pointer"));
    }
    // SAFETY: the caller's promise. Alignment is not taken for granted.
    unsafe { place.write_unaligned(answer) };
    Ok(())
}

/// An offset or a size of a file.
///
/// # Errors
/// `EINVAL` if it is negative.
pub fn offset(value: i64) -> Result<u64> {
    u64::try_from(value).map_err(|_| Failure::new(libc::EINVAL, format!("{value} is no place in a file")))
}

/// Bytes that C asked for into `room`, with what is left of it zeroed where a string must end.
///
/// # Errors
/// `ERANGE` if they do not fit; the message says how many there are.
pub fn copy_out(from: &[u8], room: &mut [u8], what: &str) -> Result<i64> {
    let len = from.len();
    let Some(part) = room.get_mut(..len) else {
        let message = format!("the {what} has {len} bytes, and there is room for {}", room.len());
        return Err(Failure::new(libc::ERANGE, message));
    };
    part.copy_from_slice(from);
    Ok(len as i64)
}

/// A struct of C that begins with its size, as far as its program and this library both know it; the rest is zeros. None for a null pointer. `name` is the struct's.
///
/// # Errors
/// `EINVAL` if the size was not set.
///
/// # Safety
/// `given` is null or has as many bytes as its first field says; `T` is `repr(C)`, begins with that field, and zeros are one of its values.
pub unsafe fn sized<T: Copy>(given: *const T, name: &str) -> Result<Option<T>> {
    if given.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    let size = unsafe { sizes(given, name) }?;
    let mut known = MaybeUninit::<T>::zeroed();
    // SAFETY: there are `size` bytes, and no more than there is room for are copied.
    unsafe { known.as_mut_ptr().cast::<u8>().copy_from_nonoverlapping(given.cast(), size) };
    // SAFETY: the caller's promise: zeros are one of its values.
    Ok(Some(unsafe { known.assume_init() }))
}

/// Stores an answer that begins with its size into a struct whose program may know fewer fields, or more. The size stays as it is.
///
/// # Errors
/// `EFAULT` if it is null, `EINVAL` if its size was not set.
///
/// # Safety
/// As [`sized`], and `place` may be written.
pub unsafe fn store_sized<T: Copy>(place: *mut T, answer: &T, name: &str) -> Result<()> {
    if place.is_null() {
        return Err(Failure::new(libc::EFAULT, "the place for the answer is a null pointer"));
    }
    // SAFETY: the caller's promise.
    let size = unsafe { sizes(place, name) }?;
    let (from, to) = (std::ptr::from_ref(answer).cast::<u8>(), place.cast::<u8>());
    let first = size_of::<usize>();
    // SAFETY: both have `size` bytes, and the answer is not the program's memory.
    unsafe { to.add(first).copy_from_nonoverlapping(from.add(first), size - first) };
    Ok(())
}

/// Bytes that both sides know.
///
/// # Safety
/// As [`sized`], and not null.
unsafe fn sizes<T>(given: *const T, name: &str) -> Result<usize> {
    // SAFETY: the caller's promise; the size is the first field. Alignment is not taken for granted.
    let size = unsafe { given.cast::<usize>().read_unaligned() };
    if size < size_of::<usize>() {
        return Err(Failure::new(libc::EINVAL, format!("size is {size}: set it to sizeof({name})")));
    }
    Ok(size.min(size_of::<T>()))
}
