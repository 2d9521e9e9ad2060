//! Checkpoints: writing and reading versions.

use std::collections::BTreeMap;
use std::ffi::{OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use libio::{Checkpoints, Level, Pending, Snapshot, Writer};

use crate::arguments;
use crate::border::{Failure, Result, call};
use crate::ckpt_options::{CkptOptions, read_options};
use crate::ckpt_state::{CKPT_COMMITTED, CKPT_DURABLE, CKPT_SEALED, state_number};
use crate::handles::tables;

/// Memory of the application that is registered.
#[derive(Clone)]
struct Memory {
    name: String,
    offset: u64,
    address: usize,
    bytes: usize,
}

/// The sets below one directory, as C sees them.
pub struct Ckpt {
    pub(crate) checkpoints: Checkpoints,
    memory: Mutex<Vec<Memory>>,
    /// The version that was read last: reading it again costs no seals.
    read: Mutex<Option<(String, Arc<Snapshot>)>>,
}

enum Stage {
    Writing(Box<Writer>),
    Sealed(Box<Pending>),
    Over,
}

/// A rank's part of a version.
pub struct CkptWriter {
    of: Arc<Ckpt>,
    stage: Mutex<Stage>,
    /// Paths of routed regions that there was no room for: the region is made, so the path must not be lost.
    routed: Mutex<BTreeMap<String, PathBuf>>,
}

impl From<libio::Error> for Failure {
    fn from(error: libio::Error) -> Self {
        Failure::new(error.errno(), error.to_string())
    }
}

/// The part that is written under a number, which is given back: what was sealed stays as it is.
fn taken(number: c_int) -> Result<Box<Writer>> {
    let object = tables().writers.get(number)?;
    let mut stage = locked(&object.stage);
    match std::mem::replace(&mut *stage, Stage::Over) {
        Stage::Writing(writer) => {
            tables().writers.take(number)?;
            Ok(writer)
        }
        other => {
            *stage = other;
            Err(Failure::new(libc::EINVAL, "this rank has sealed its part"))
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// # Safety
/// As [`arguments::bytes`].
pub(crate) unsafe fn text<'a>(text: *const c_char, what: &str) -> Result<&'a str> {
    // SAFETY: the caller's promise.
    let bytes = unsafe { arguments::bytes(text, what) }?;
    std::str::from_utf8(bytes).map_err(|_| Failure::new(libc::EINVAL, format!("the {what} is not UTF-8")))
}

impl CkptWriter {
    fn with<T>(&self, work: impl FnOnce(&mut Writer) -> Result<T>) -> Result<T> {
        match &mut *locked(&self.stage) {
            Stage::Writing(writer) => work(writer),
            Stage::Sealed(_) | Stage::Over => {
                Err(Failure::new(libc::EINVAL, "this rank has sealed its part"))
            }
        }
    }
}

impl Ckpt {
    fn snapshot(&self, set: &str, version: u64) -> Result<Arc<Snapshot>> {
        let mut read = locked(&self.read);
        if let Some((of, snapshot)) = &*read
            && of == set
            && snapshot.version() == version
            && snapshot.is_current()
        {
            return Ok(snapshot.clone());
        }
        let snapshot = Arc::new(self.checkpoints.snapshot(set, version)?);
        *read = Some((set.to_owned(), snapshot.clone()));
        Ok(snapshot)
    }

    /// Does something with a version. If that fails the version is opened anew the next time.
    fn reading<T>(&self, set: &str, version: u64, work: impl FnOnce(&Snapshot) -> Result<T>) -> Result<T> {
        let done = work(&*self.snapshot(set, version)?);
        if done.is_err() {
            *locked(&self.read) = None;
        }
        done
    }
}

/// Opens the checkpoint sets below directory `root`. All ranks of one run give the same `group`, every run another; null: by the environment
/// (`HAYATE_GROUP`, Slurm's or PMIx's variables). `mount`: where the file system is mounted, for hayate_ckpt_route, or null. Answers a number for the
/// functions below, which the connection's end does not close.
///
/// # Safety
/// `root` is a string, `group` and `mount` are null or strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hayate_ckpt_open(
    fs: c_int,
    root: *const c_char,
    group: *const c_char,
    mount: *const c_char,
) -> c_int {
    call(|| {
        let client = tables().clients.get(fs)?;
        // SAFETY: the caller's promise.
        let mut checkpoints = Checkpoints::open((*client).clone(), unsafe { text(root, "root") }?)?;
        if !group.is_null() {
            // SAFETY: the caller's promise.
            checkpoints = checkpoints.with_group(unsafe { text(group, "group") }?);
        }
        if !mount.is_null() {
            // SAFETY: the caller's promise.
            let mount = Path::new(OsStr::from_bytes(unsafe { arguments::bytes(mount, "mount") }?));
            checkpoints = checkpoints.with_mount(mount);
        }
        tables().ckpts.add(Ckpt { checkpoints, memory: Mutex::default(), read: Mutex::default() })
    })
}

/// Gives the number back, and forgets registered memory. Versions that are being written go on.
#[unsafe(no_mangle)]
pub extern "C" fn hayate_ckpt_close(ckpt: c_int) -> c_int {
    call(|| {
        // Writers outlive it, and what was registered need not be there any more.
        locked(&tables().ckpts.take(ckpt)?.memory).clear();
        Ok(0)
    })
}

/// Registers memory that lies at byte `offset` of region `name`: hayate_ckpt_write_all writes it, hayate_ckpt_read_all reads it. It stays the
/// caller's, and must be there until hayate_ckpt_unprotect or hayate_ckpt_close.
///
/// # Safety
/// `name` is a string, `memory` has `size` bytes as long as it is registered.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hayate_ckpt_protect(
    ckpt: c_int,
    name: *const c_char,
    memory: *mut c_void,
    size: usize,
    offset: u64,
) -> c_int {
    call(|| {
        // SAFETY: the caller's promise; the room is only checked here.
        let (name, _) = unsafe { (text(name, "region's name")?, arguments::input(memory, size)?) };
        let memory = Memory { name: name.to_owned(), offset, address: memory as usize, bytes: size };
        locked(&tables().ckpts.get(ckpt)?.memory).push(memory);
        Ok(0)
    })
}

/// Forgets registered memory of this region; with a null pointer, all. Answers how many pieces.
///
/// # Safety
/// `name` is null or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hayate_ckpt_unprotect(ckpt: c_int, name: *const c_char) -> c_int {
    call(|| {
        // SAFETY: the caller's promise.
        let name = if name.is_null() { None } else { Some(unsafe { text(name, "region's name") }?) };
        let ckpt = tables().ckpts.get(ckpt)?;
        let mut memory = locked(&ckpt.memory);
        let before = memory.len();
        memory.retain(|memory| name.is_some_and(|name| memory.name != name));
        Ok((before - memory.len()) as c_int)
    })
}

/// Begins to write a version as `rank` of `nranks`, without waiting for the others; `options` may be null. Answers a number, which ends with
/// hayate_ckpt_commit, hayate_ckpt_abort, or hayate_ckpt_seal and then hayate_ckpt_test or hayate_ckpt_join.
///
/// # Safety
/// `set` is a string, `options` is null or has `options->size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hayate_ckpt_begin(
    ckpt: c_int,
    set: *const c_char,
    version: u64,
    rank: u32,
    nranks: u32,
    options: *const CkptOptions,
) -> c_int {
    call(|| {
        let of = tables().ckpts.get(ckpt)?;
        // SAFETY: the caller's promise.
        let (set, options) = unsafe { (text(set, "set")?, read_options(options)?) };
        let writer = of.checkpoints.begin_with(set, version, rank, nranks, &options)?;
        tables().writers.add(CkptWriter {
            of,
            stage: Mutex::new(Stage::Writing(Box::new(writer))),
            routed: Mutex::default(),
        })
    })
}

/// Writes into a region at `offset`; answers `size`. The buffer may be changed when this returns.
///
/// # Safety
/// `name` is a string, `buffer` has `size` bytes that nobody changes meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hayate_ckpt_write(
    writer: c_int,
    name: *const c_char,
    buffer: *const c_void,
    size: usize,
    offset: u64,
) -> i64 {
    call(|| {
        // SAFETY: the caller's promise.
        let (name, data) = unsafe { (text(name, "region's name")?, arguments::input(buffer, size)?) };
        tables().writers.get(writer)?.with(|writer| Ok(writer.write(name, data, offset)?))?;
        Ok(size as i64)
    })
}

/// Writes all registered memory; answers how many bytes.
///
/// # Safety
/// What was registered is there, and nobody changes it meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hayate_ckpt_write_all(writer: c_int) -> i64 {
    call(|| {
        let writer = tables().writers.get(writer)?;
        let all = locked(&writer.of.memory).clone();
        let mut bytes = 0;
        for memory in all {
            // SAFETY: the caller's promise, here and at the registration.
            let data = unsafe { arguments::input(memory.address as *const c_void, memory.bytes) }?;
            writer.with(|writer| Ok(writer.write(&memory.name, data, memory.offset)?))?;
            bytes += data.len() as i64;
        }
        Ok(bytes)
    })
}

/// A path for a program that writes region `name` itself, with a zero behind it; answers its length. The file must be closed before the commit. With `-ERANGE`
/// call it again, with more room.
///
/// # Safety
/// `name` is a string, `path` has `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hayate_ckpt_route(
    writer: c_int,
    name: *const c_char,
    path: *mut c_char,
    size: usize,
) -> i64 {
    call(|| {
        // SAFETY: the caller's promise.
        let (name, room) = unsafe { (text(name, "region's name")?, arguments::output(path.cast(), size)?) };
        let writer = tables().writers.get(writer)?;
        let kept = locked(&writer.routed).remove(name);
        let path = kept.map_or_else(|| writer.with(|writer| Ok(writer.route(name)?)), Ok)?;
        let copied = copy_string(path.as_os_str().as_bytes(), room, "path");
        if copied.is_err() {
            locked(&writer.routed).insert(name.to_owned(), path);
        }
        copied
    })
}

/// Commits, if all ranks do so with `ok` not 0, and waits for them: all get the same answer. 0, or `-ECANCELED` if a rank said no, failed or did not come
/// in time, `-EBUSY` if another group took over.
#[unsafe(no_mangle)]
pub extern "C" fn hayate_ckpt_commit(writer: c_int, ok: c_int) -> c_int {
    call(|| Ok(taken(writer)?.commit(ok != 0).map(|()| 0)?))
}

/// Seals this rank's part without waiting for the others. The number stays until the verdict is asked for.
#[unsafe(no_mangle)]
pub extern "C" fn hayate_ckpt_seal(writer: c_int, ok: c_int) -> c_int {
    call(|| {
        let object = tables().writers.get(writer)?;
        let mut stage = locked(&object.stage);
        match std::mem::replace(&mut *stage, Stage::Over) {
            Stage::Writing(writing) => {
                let pending = writing.seal(ok != 0);
                if pending.is_err() {
                    tables().writers.take(writer)?;
                }
                *stage = Stage::Sealed(Box::new(pending?));
                Ok(0)
            }
            other => {
                *stage = other;
                Err(Failure::new(libc::EINVAL, "this rank has sealed its part"))
            }
        }
    })
}

/// After hayate_ckpt_seal: 1 if the version is committed by now, 0 if not all ranks have sealed. With 1 or an error that is a verdict the number is given back.
#[unsafe(no_mangle)]
pub extern "C" fn hayate_ckpt_test(writer: c_int) -> c_int {
    call(|| {
        let object = tables().writers.get(writer)?;
        let tested = match &*locked(&object.stage) {
            Stage::Sealed(pending) => pending.test(),
            Stage::Writing(_) | Stage::Over => {
                return Err(Failure::new(libc::EINVAL, "this rank has not sealed its part"));
            }
        };
        let over = !matches!(tested, Ok(false) | Err(libio::Error::FileSystem(_)));
        if over {
            tables().writers.take(writer)?;
        }
        Ok(c_int::from(tested?))
    })
}

/// After hayate_ckpt_seal: waits for the verdict; when the time is over and a rank is missing, the version is aborted for all. The number is given back.
#[unsafe(no_mangle)]
pub extern "C" fn hayate_ckpt_join(writer: c_int, timeout_ms: u32) -> c_int {
    call(|| {
        let object = tables().writers.get(writer)?;
        match &*locked(&object.stage) {
            Stage::Sealed(pending) => {
                tables().writers.take(writer)?;
                Ok(pending.wait(Duration::from_millis(timeout_ms.into())).map(|()| 0)?)
            }
            Stage::Writing(_) | Stage::Over => {
                Err(Failure::new(libc::EINVAL, "this rank has not sealed its part"))
            }
        }
    })
}

/// Gives the version up, for all ranks.
#[unsafe(no_mangle)]
pub extern "C" fn hayate_ckpt_abort(writer: c_int) -> c_int {
    call(|| Ok(taken(writer)?.abort().map(|()| 0)?))
}

/// The newest version to restart from that is less than `below` (0: any): 1 and its number, or 0 if there is none.
///
/// # Safety
/// `set` is a string, `version` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hayate_ckpt_latest(
    ckpt: c_int,
    set: *const c_char,
    below: u64,
    version: *mut u64,
) -> c_int {
    call(|| {
        let ckpt = tables().ckpts.get(ckpt)?;
        let below = if below == 0 { u64::MAX } else { below };
        // SAFETY: the caller's promise.
        let Some(found) = ckpt.checkpoints.latest_below(unsafe { text(set, "set") }?, below)? else {
            return Ok(0);
        };
        // SAFETY: the caller's promise.
        unsafe { arguments::store(version, found) }?;
        Ok(1)
    })
}

/// What became of a version: `HAYATE_CKPT_OPEN` and so on.
///
/// # Safety
/// `set` is a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hayate_ckpt_state(ckpt: c_int, set: *const c_char, version: u64) -> c_int {
    call(|| {
        let ckpt = tables().ckpts.get(ckpt)?;
        // SAFETY: the caller's promise.
        Ok(state_number(ckpt.checkpoints.state(unsafe { text(set, "set") }?, version)?))
    })
}

/// Waits until a version is `HAYATE_CKPT_SEALED`, `HAYATE_CKPT_COMMITTED` or `HAYATE_CKPT_DURABLE` (`level`), or more. `-ETIMEDOUT` if not in time.
///
/// # Safety
/// `set` is a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hayate_ckpt_wait(
    ckpt: c_int,
    set: *const c_char,
    version: u64,
    level: c_int,
    timeout_ms: u32,
) -> c_int {
    call(|| {
        let ckpt = tables().ckpts.get(ckpt)?;
        let level = match level {
            CKPT_SEALED => Level::Sealed,
            CKPT_COMMITTED => Level::Committed,
            CKPT_DURABLE => Level::Durable,
            other => return Err(Failure::new(libc::EINVAL, format!("{other} is no level to wait for"))),
        };
        // SAFETY: the caller's promise.
        let set = unsafe { text(set, "set") }?;
        ckpt.checkpoints.wait(set, version, level, Duration::from_millis(timeout_ms.into()))?;
        Ok(0)
    })
}

/// Size of a region in bytes.
///
/// # Safety
/// `set` and `name` are strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hayate_ckpt_size(
    ckpt: c_int,
    set: *const c_char,
    version: u64,
    name: *const c_char,
) -> i64 {
    call(|| {
        let ckpt = tables().ckpts.get(ckpt)?;
        // SAFETY: the caller's promise.
        let (set, name) = unsafe { (text(set, "set")?, text(name, "region's name")?) };
        ckpt.reading(set, version, |snapshot| Ok(snapshot.size(name)? as i64))
    })
}

/// Reads from a region at `offset`, whoever wrote it; answers how many bytes, fewer only at its end. Every byte is checked.
///
/// # Safety
/// `set` and `name` are strings, `buffer` has `size` bytes that nobody else uses meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hayate_ckpt_read(
    ckpt: c_int,
    set: *const c_char,
    version: u64,
    name: *const c_char,
    buffer: *mut c_void,
    size: usize,
    offset: u64,
) -> i64 {
    call(|| {
        let ckpt = tables().ckpts.get(ckpt)?;
        // SAFETY: the caller's promise.
        let (set, name) = unsafe { (text(set, "set")?, text(name, "region's name")?) };
        // SAFETY: the caller's promise.
        let room = unsafe { arguments::output(buffer, size) }?;
        ckpt.reading(set, version, |snapshot| Ok(snapshot.read(name, offset, room)? as i64))
    })
}

/// Reads all registered memory from a version; answers how many bytes. `-EINVAL` if a region is shorter than what was registered.
///
/// # Safety
/// `set` is a string; what was registered is there, and nobody else uses it meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hayate_ckpt_read_all(ckpt: c_int, set: *const c_char, version: u64) -> i64 {
    call(|| {
        let ckpt = tables().ckpts.get(ckpt)?;
        // SAFETY: the caller's promise.
        let set = unsafe { text(set, "set") }?;
        let all = locked(&ckpt.memory).clone();
        ckpt.reading(set, version, |snapshot| {
            // SAFETY: the caller's promise, here and at the registration.
            all.iter().map(|memory| unsafe { restore(snapshot, memory) }).sum()
        })
    })
}

/// # Safety
/// The memory is there, and nobody else uses it meanwhile.
unsafe fn restore(snapshot: &Snapshot, memory: &Memory) -> Result<i64> {
    // SAFETY: the caller's promise.
    let room = unsafe { arguments::output(memory.address as *mut c_void, memory.bytes) }?;
    let (read, expected) = (snapshot.read(&memory.name, memory.offset, room)?, memory.bytes);
    if read == expected {
        return Ok(read as i64);
    }
    let words = format!("region {:?} has {read} bytes where {expected} are registered", memory.name);
    Err(Failure::new(libc::EINVAL, words))
}

/// The `index`-th region of a version, by name: 1, its name with a zero behind it, and its size; or 0 if there are no more.
///
/// # Safety
/// `set` is a string, `name` has `size` bytes, `bytes` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hayate_ckpt_region(
    ckpt: c_int,
    set: *const c_char,
    version: u64,
    index: usize,
    name: *mut c_char,
    size: usize,
    bytes: *mut u64,
) -> c_int {
    call(|| {
        let ckpt = tables().ckpts.get(ckpt)?;
        // SAFETY: the caller's promise.
        let (set, room) = unsafe { (text(set, "set")?, arguments::output(name.cast(), size)?) };
        let regions = ckpt.reading(set, version, |snapshot| Ok(snapshot.regions()?))?;
        let Some(region) = regions.get(index) else { return Ok(0) };
        copy_string(region.name.as_bytes(), room, "region's name")?;
        // SAFETY: the caller's promise.
        unsafe { arguments::store(bytes, region.bytes) }?;
        Ok(1)
    })
}

/// A string with its zero; answers its length.
fn copy_string(from: &[u8], room: &mut [u8], what: &str) -> Result<i64> {
    let whole = [from, &[0]].concat();
    arguments::copy_out(&whole, room, what)?;
    Ok(from.len() as i64)
}
