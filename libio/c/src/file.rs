//! Open files.

use std::ffi::{c_char, c_int, c_void};
use std::sync::Arc;

use fs_client::{File, LayoutWish, OpenOptions};

use crate::arguments;
use crate::attributes::{Stat, creation_mode};
use crate::border::{Failure, Result, call};
use crate::handles::{Opened, tables};

/// Opens a regular file, as open(2) does; answers its number. `mode` are the permission bits of a new file, from which the process's umask is taken.
/// Flags: `O_RDONLY`, `O_WRONLY` or `O_RDWR`, with `O_CREAT`, `O_EXCL`, `O_TRUNC`, `O_APPEND`, `O_SYNC` and `O_DSYNC`. `O_CLOEXEC`, `O_NOCTTY`,
/// `O_NONBLOCK`, `O_NOATIME`, `O_DIRECT` and `O_LARGEFILE` mean nothing here and are taken; others are `-EINVAL`.
///
/// # Safety
/// `path` is null or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hayate_open(fs: c_int, path: *const c_char, flags: c_int, mode: u32) -> c_int {
    // SAFETY: the caller's promise.
    call(|| unsafe { open(fs, path, flags, mode, None) })
}

/// How a new file is made. Zeros, and what an older program does not know of, leave things as they are.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct OpenHow {
    /// `sizeof(hayate_open_options_t)`.
    pub size: usize,
    /// "striped", "local" or "writer", and maybe a chunk size, as in "local,chunk=4M"; null: as the directory says.
    pub layout: *const c_char,
    /// Bytes that the file is expected to get, for the size of its chunks where `layout` names none; 0: not known.
    pub expected_bytes: u64,
}

/// As hayate_open, with options, which may be null. A file that was there keeps its layout.
///
/// # Safety
/// `path` is null or a string, `options` is null or has `options->size` bytes, and its layout is null or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hayate_open_with(
    fs: c_int,
    path: *const c_char,
    flags: c_int,
    mode: u32,
    options: *const OpenHow,
) -> c_int {
    call(|| {
        // SAFETY: the caller's promise; integers and a pointer, of which zeros are some.
        let how = unsafe { arguments::sized(options, "hayate_open_options_t") }?;
        // SAFETY: the caller's promise.
        let layout = how.map(|how| unsafe { layout(&how) }).transpose()?.flatten();
        // SAFETY: the caller's promise.
        unsafe { open(fs, path, flags, mode, layout) }
    })
}

/// # Safety
/// Its layout is null or a string.
unsafe fn layout(how: &OpenHow) -> Result<Option<LayoutWish>> {
    let mut wish = LayoutWish::default();
    if !how.layout.is_null() {
        // SAFETY: the caller's promise.
        let text = unsafe { arguments::bytes(how.layout, "layout") }?;
        wish = LayoutWish::parse(text).map_err(|error| Failure::new(libc::EINVAL, error.to_string()))?;
    }
    wish.expected_bytes = how.expected_bytes;
    Ok((wish != LayoutWish::default()).then_some(wish))
}

/// # Safety
/// `path` is null or a string.
unsafe fn open(
    fs: c_int,
    path: *const c_char,
    flags: c_int,
    mode: u32,
    layout: Option<LayoutWish>,
) -> Result<c_int> {
    let client = tables().clients.get(fs)?;
    // SAFETY: the caller's promise.
    let path = unsafe { arguments::path(path) }?;
    let options = OpenOptions { mode: creation_mode(mode), layout, ..options(flags)? };
    let file = client.open_path(path, &options)?;
    tables().files.add(Opened {
        fs,
        file,
        append: flags & libc::O_APPEND != 0,
        sync: flags & (libc::O_SYNC | libc::O_DSYNC) != 0,
    })
}

/// Closes a file, and says whether what was written is published. After a failure it is closed, too. Calls that other threads are in finish first.
#[unsafe(no_mangle)]
pub extern "C" fn hayate_close(file: c_int) -> c_int {
    call(|| close(file).map(|()| 0))
}

/// Reads up to `size` bytes at `offset`; answers how many, fewer only at the end of the file.
///
/// # Safety
/// `buffer` has `size` bytes that nobody else uses meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hayate_pread(file: c_int, buffer: *mut c_void, size: usize, offset: i64) -> i64 {
    call(|| {
        let opened = tables().files.get(file)?;
        // SAFETY: the caller's promise.
        let room = unsafe { arguments::output(buffer, size) }?;
        Ok(opened.file.read_at(room, arguments::offset(offset)?)? as i64)
    })
}

/// Writes `size` bytes at `offset`, or, as on Linux, at the end if the file was opened with `O_APPEND`. Answers `size`: it writes all or fails; after a failure a
/// part may be written. The buffer may be used again at once. The bytes lie at the servers then; hayate_fsync makes them durable.
///
/// # Safety
/// `buffer` has `size` bytes that nobody changes meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hayate_pwrite(file: c_int, buffer: *const c_void, size: usize, offset: i64) -> i64 {
    call(|| {
        let opened = tables().files.get(file)?;
        // SAFETY: the caller's promise.
        let data = unsafe { arguments::input(buffer, size) }?;
        let offset = arguments::offset(offset)?;
        if opened.append {
            opened.file.append(data)?;
        } else {
            opened.file.write_at(data, offset)?;
        }
        synced(&opened).map(|()| size as i64)
    })
}

/// Writes `size` bytes at the end of the file, wherever that is by then, and answers where that was. Of all appends, from whichever node, each of
/// up to 16 MiB lies whole behind the one before.
///
/// # Safety
/// As hayate_pwrite.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hayate_append(file: c_int, buffer: *const c_void, size: usize) -> i64 {
    call(|| {
        let opened = tables().files.get(file)?;
        // SAFETY: the caller's promise.
        let data = unsafe { arguments::input(buffer, size) }?;
        let place = opened.file.append(data)?;
        synced(&opened).map(|()| place as i64)
    })
}

/// Makes what was written durable, data and attributes, and publishes it.
#[unsafe(no_mangle)]
pub extern "C" fn hayate_fsync(file: c_int) -> c_int {
    call(|| {
        tables().files.get(file)?.file.sync()?;
        Ok(0)
    })
}

/// Publishes size and time of what was written, so that others see them at once: what closing does, too.
#[unsafe(no_mangle)]
pub extern "C" fn hayate_flush(file: c_int) -> c_int {
    call(|| {
        tables().files.get(file)?.file.flush()?;
        Ok(0)
    })
}

/// Cuts or extends a file that is open for writing to `size` bytes.
#[unsafe(no_mangle)]
pub extern "C" fn hayate_ftruncate(file: c_int, size: i64) -> c_int {
    call(|| {
        let opened = tables().files.get(file)?;
        if !opened.file.flags().writes() {
            return Err(Failure::new(libc::EINVAL, "the file is not open for writing"));
        }
        opened.file.set_len(arguments::offset(size)?)?;
        Ok(0)
    })
}

/// Copies up to `size` bytes from one open file of a connection to another; answers how many, fewer only at the end of the first. The bytes go from
/// server to server, and holes are copied as holes.
#[unsafe(no_mangle)]
pub extern "C" fn hayate_copy(from: c_int, from_offset: i64, to: c_int, to_offset: i64, size: u64) -> i64 {
    call(|| {
        let (from, to) = (tables().files.get(from)?, tables().files.get(to)?);
        if from.fs != to.fs {
            return Err(Failure::new(libc::EXDEV, "the two files are of different connections"));
        }
        let (start, end) = (arguments::offset(from_offset)?, arguments::offset(to_offset)?);
        Ok(from.file.copy_range_to(start, &to.file, end, size)? as i64)
    })
}

/// Attributes of an open file, as they are now.
///
/// # Safety
/// `stat` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hayate_fstat(file: c_int, stat: *mut Stat) -> c_int {
    call(|| {
        let attr = tables().files.get(file)?.file.attr()?;
        // SAFETY: the caller's promise.
        unsafe { arguments::store(stat, Stat::from(&attr)) }?;
        Ok(0)
    })
}

/// The open file behind a number, for what is built upon this library.
///
/// # Errors
/// `EBADF`, or `ENOTCONN` after a fork.
pub fn file_of(file: c_int) -> Result<File> {
    Ok(tables().files.get(file)?.file.clone())
}

pub(crate) fn close(file: c_int) -> Result<()> {
    let opened = tables().files.take(file)?;
    // Whoever else is using it closes it by letting it go.
    Ok(Arc::into_inner(opened).map_or(Ok(()), |opened| opened.file.close())?)
}

fn synced(opened: &Opened) -> Result<()> {
    if opened.sync {
        opened.file.sync()?;
    }
    Ok(())
}

/// Flags that ask for nothing that is not so anyway.
const MEANINGLESS: c_int = libc::O_CLOEXEC
    | libc::O_NOCTTY
    | libc::O_NONBLOCK
    | libc::O_NOATIME
    | libc::O_DIRECT
    // O_LARGEFILE of x86-64, which libc has as 0.
    | 0o100_000;

const MEANT: c_int = libc::O_ACCMODE
    | libc::O_CREAT
    | libc::O_EXCL
    | libc::O_TRUNC
    | libc::O_APPEND
    | libc::O_SYNC
    | libc::O_DSYNC;

/// How to open, by the flags of open(2). The mode is left as it is.
pub(crate) fn options(flags: c_int) -> Result<OpenOptions> {
    let unknown = flags & !(MEANT | MEANINGLESS);
    let (read, write) = match flags & libc::O_ACCMODE {
        libc::O_RDONLY => (true, false),
        libc::O_WRONLY => (false, true),
        libc::O_RDWR => (true, true),
        _ => {
            return Err(Failure::new(libc::EINVAL, "the flags say neither O_RDONLY nor O_WRONLY nor O_RDWR"));
        }
    };
    if unknown != 0 {
        return Err(Failure::new(libc::EINVAL, format!("open flags {unknown:#o} are not known here")));
    }
    let has = |flag| flags & flag != 0;
    Ok(OpenOptions {
        read,
        write,
        create: has(libc::O_CREAT),
        create_new: has(libc::O_CREAT) && has(libc::O_EXCL),
        // Without writing it is undefined in POSIX; here it asks for nothing.
        truncate: write && has(libc::O_TRUNC),
        append: write && has(libc::O_APPEND),
        ..OpenOptions::default()
    })
}
