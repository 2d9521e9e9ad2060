//! Open files, which have positions; a directory can be opened, too, for what begins at it.

use std::ffi::{c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fs_client::{Client, File, OpenFlags, OpenOptions, Status};
use hayate::border::{Failure, Result};
use hayate::{arguments, creation_mode};
use libc::{mode_t, off_t, size_t, ssize_t};
use parking_lot::Mutex;

use crate::errors::call;
use crate::flags;
use crate::paths::absolute;
use crate::session::{chunk_bytes, client, layout, state};

/// An open file or directory.
pub struct Opened {
    /// The path that it was opened by.
    pub path: PathBuf,
    /// None of a directory.
    file: Option<File>,
    append: bool,
    /// Where `chfs_read` and `chfs_write` go on; held while they do.
    position: Mutex<u64>,
}

impl Opened {
    fn new(path: PathBuf, file: Option<File>, append: bool) -> Opened {
        Opened { path, file, append, position: Mutex::new(0) }
    }

    /// The file.
    ///
    /// # Errors
    /// `EISDIR`.
    pub fn file(&self) -> Result<&File> {
        self.file
            .as_ref()
            .ok_or_else(|| Failure::new(libc::EISDIR, format!("{}: it is a directory", self.path.display())))
    }

    fn write(&self, data: &[u8], offset: u64) -> Result<u64> {
        let file = self.file()?;
        let start = if self.append {
            file.append(data)?
        } else {
            file.write_at(data, offset)?;
            offset
        };
        Ok(start + data.len() as u64)
    }
}

/// Makes a regular file, if there is none, and opens it for reading and writing; see [`flags`]. The process's umask is taken from `mode`.
///
/// # Safety
/// `path` is null or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn chfs_create(path: *const c_char, flags: i32, mode: mode_t) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { chfs_create_chunk_size(path, flags, mode, chunk_bytes()) }
}

/// The same, with chunks of this many bytes.
///
/// # Safety
/// `path` is null or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn chfs_create_chunk_size(
    path: *const c_char,
    flags: i32,
    mode: mode_t,
    chunk_size: c_int,
) -> c_int {
    call(|| {
        // SAFETY: the caller's promise.
        let path = unsafe { absolute(path) }?;
        let (mode, layout) = (creation_mode(mode), layout(chunk_size));
        let options = OpenOptions { mode, layout, ..flags::creation(flags) };
        let file = client()?.open_path(&path, &options)?;
        Ok(i64::from(state().files.add(Opened::new(path, Some(file), options.append))?))
    })
}

/// Opens a file that is there, or a directory.
///
/// # Safety
/// `path` is null or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn chfs_open(path: *const c_char, flags: i32) -> c_int {
    call(|| {
        // SAFETY: the caller's promise.
        let path = unsafe { absolute(path) }?;
        let file = open(&client()?, &path, flags)?;
        Ok(i64::from(state().files.add(Opened::new(path, file, flags::opening(flags).append))?))
    })
}

/// Opens for reading, too, if that is permitted; none if it is a directory.
fn open(client: &Client, path: &Path, given: i32) -> Result<Option<File>> {
    let wished = flags::opening(given);
    let mut opened = client.open_path(path, &wished);
    let denied = |opened: &fs_client::Result<File>| {
        opened.as_ref().is_err_and(|e| e.code() == Some(Status::AccessDenied))
    };
    if wished.write && denied(&opened) {
        opened = client.open_path(path, &OpenOptions { read: false, ..wished });
    }
    if flags::may_read_only(given) && denied(&opened) {
        opened = client.open_path(path, &OpenOptions { write: false, ..wished });
    }
    match opened {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.code() == Some(Status::IsDirectory) && !flags::writes(given) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Closes a file and publishes what was written.
#[unsafe(no_mangle)]
pub extern "C" fn chfs_close(fd: c_int) -> c_int {
    call(|| close(fd).map(|()| 0))
}

/// See [`chfs_close`].
pub fn close(fd: c_int) -> Result<()> {
    let opened = state().files.take(fd)?;
    // Whoever else is using it closes it by letting it go.
    match Arc::into_inner(opened).and_then(|opened| opened.file) {
        Some(file) => Ok(file.close()?),
        None => Ok(()),
    }
}

/// Writes all of `size` bytes at `offset`.
///
/// # Safety
/// `buf` has `size` bytes that nobody changes meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn chfs_pwrite(fd: c_int, buf: *const c_void, size: size_t, offset: off_t) -> ssize_t {
    call(|| {
        let opened = state().files.get(fd)?;
        // SAFETY: the caller's promise.
        let data = unsafe { arguments::input(buf, size) }?;
        opened.write(data, arguments::offset(offset)?)?;
        Ok(size as i64)
    })
}

/// Writes all of `size` bytes where the last write, read or seek ended.
///
/// # Safety
/// As [`chfs_pwrite`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn chfs_write(fd: c_int, buf: *const c_void, size: size_t) -> ssize_t {
    call(|| {
        let opened = state().files.get(fd)?;
        // SAFETY: the caller's promise.
        let data = unsafe { arguments::input(buf, size) }?;
        let mut position = opened.position.lock();
        *position = opened.write(data, *position)?;
        Ok(size as i64)
    })
}

/// Reads up to `size` bytes at `offset`, fewer only at the end of the file.
///
/// # Safety
/// `buf` has `size` bytes that nobody else uses meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn chfs_pread(fd: c_int, buf: *mut c_void, size: size_t, offset: off_t) -> ssize_t {
    call(|| {
        let opened = state().files.get(fd)?;
        // SAFETY: the caller's promise.
        let room = unsafe { arguments::output(buf, size) }?;
        Ok(opened.file()?.read_at(room, arguments::offset(offset)?)? as i64)
    })
}

/// Reads up to `size` bytes where the last write, read or seek ended.
///
/// # Safety
/// As [`chfs_pread`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn chfs_read(fd: c_int, buf: *mut c_void, size: size_t) -> ssize_t {
    call(|| {
        let opened = state().files.get(fd)?;
        // SAFETY: the caller's promise.
        let room = unsafe { arguments::output(buf, size) }?;
        let mut position = opened.position.lock();
        let got = opened.file()?.read_at(room, *position)?;
        *position += got as u64;
        Ok(got as i64)
    })
}

/// Moves the position, from the beginning (`SEEK_SET`), the position (`SEEK_CUR`) or the end (`SEEK_END`); answers it.
#[unsafe(no_mangle)]
pub extern "C" fn chfs_seek(fd: c_int, off: off_t, whence: c_int) -> off_t {
    call(|| {
        let opened = state().files.get(fd)?;
        let mut position = opened.position.lock();
        let from = match whence {
            libc::SEEK_SET => 0,
            libc::SEEK_CUR => *position,
            libc::SEEK_END => opened.file()?.attr()?.size,
            _ => {
                return Err(Failure::new(
                    libc::EINVAL,
                    format!("{whence} is neither SEEK_SET nor SEEK_CUR nor SEEK_END"),
                ));
            }
        };
        let to = i64::try_from(from).ok().and_then(|from| from.checked_add(off));
        let to = to.ok_or_else(|| Failure::new(libc::EOVERFLOW, "the position is too large"))?;
        *position = arguments::offset(to)?;
        Ok(to)
    })
}

/// Makes what was written durable in tier 1.
#[unsafe(no_mangle)]
pub extern "C" fn chfs_fsync(fd: c_int) -> c_int {
    call(|| {
        if let Some(file) = &state().files.get(fd)?.file {
            file.sync()?;
        }
        Ok(0)
    })
}

/// Cuts or extends an open file.
#[unsafe(no_mangle)]
pub extern "C" fn chfs_ftruncate(fd: c_int, len: off_t) -> c_int {
    call(|| {
        let opened = state().files.get(fd)?;
        let file = opened.file()?;
        if file.flags() == OpenFlags::READ {
            return Err(Failure::new(libc::EINVAL, "the file is not open for writing"));
        }
        file.set_len(arguments::offset(len)?)?;
        Ok(0)
    })
}
