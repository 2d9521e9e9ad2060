//! Checkpoints: the functions of `libio`.

use std::ffi::{OsStr, c_char, c_int, c_void};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use libio::{Advisor, Checkpoints, Level, Pending, Redundancy, Snapshot, State, Writer};

use crate::arguments;
use crate::border::{Failure, Result, call};
use crate::handles::tables;

/// How a version is written. Zeros, and what an older program does not know of, leave things as they are. All ranks give the same.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct CkptOptions {
    /// `sizeof(hayate_ckpt_options_t)`.
    pub size: usize,
    /// How long a commit waits for the other ranks, in milliseconds; 0: ten minutes.
    pub timeout_ms: u32,
    /// Copies on other servers: how many may be lost.
    pub copies: u32,
    /// With parity: servers with data (then `copies` must be 0), and servers with parity, which is how many may be lost.
    pub parity_data: u32,
    /// See `parity_data`.
    pub parity_extra: u32,
    /// When the servers copy to the shared tier: "close", "idle:SECONDS", "demand" or "never"; null: as the directory says.
    pub flush: *const c_char,
}

/// What is known of a version.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct CkptInfo {
    /// Its number.
    pub version: u64,
    /// Bytes that its ranks wrote; 0 unless it is committed.
    pub bytes: u64,
    /// What became of it: `HAYATE_CKPT_OPEN` and so on.
    pub state: c_int,
    /// How many ranks wrote it; 0 unless it is committed.
    pub nranks: u32,
    /// 1: it is not pruned.
    pub pinned: c_int,
}

/// What an application should do now.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct CkptAdvice {
    /// 1: write a checkpoint.
    pub checkpoint: c_int,
    /// 1: write a last one and end.
    pub stop: c_int,
    /// Seconds to compute before the next checkpoint.
    pub next_s: f64,
}

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
/// It is whole in the shared tier, too.
pub const CKPT_DURABLE: c_int = 6;

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
    checkpoints: Checkpoints,
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
unsafe fn text<'a>(text: *const c_char, what: &str) -> Result<&'a str> {
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
        {
            return Ok(snapshot.clone());
        }
        let snapshot = Arc::new(self.checkpoints.snapshot(set, version)?);
        *read = Some((set.to_owned(), snapshot.clone()));
        Ok(snapshot)
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

/// Gives the number back. Versions that are being written go on.
#[unsafe(no_mangle)]
pub extern "C" fn hayate_ckpt_close(ckpt: c_int) -> c_int {
    call(|| tables().ckpts.take(ckpt).map(|_| 0))
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
        tables().writers.add(CkptWriter { of, stage: Mutex::new(Stage::Writing(Box::new(writer))) })
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

/// A path for a program that writes region `name` itself, with a zero behind it; answers its length. The file must be closed before the commit.
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
        let routed = tables().writers.get(writer)?.with(|writer| Ok(writer.route(name)?))?;
        copy_string(routed.as_os_str().as_bytes(), room, "path")
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
        Ok(ckpt.snapshot(set, version)?.size(name)? as i64)
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
        Ok(ckpt.snapshot(set, version)?.read(name, offset, room)? as i64)
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
        let snapshot = ckpt.snapshot(unsafe { text(set, "set") }?, version)?;
        let all = locked(&ckpt.memory).clone();
        let mut bytes = 0;
        for memory in all {
            // SAFETY: the caller's promise, here and at the registration.
            let room = unsafe { arguments::output(memory.address as *mut c_void, memory.bytes) }?;
            let read = snapshot.read(&memory.name, memory.offset, room)?;
            if read < room.len() {
                let words =
                    format!("region {:?} has {read} bytes where {} are registered", memory.name, room.len());
                return Err(Failure::new(libc::EINVAL, words));
            }
            bytes += read as i64;
        }
        Ok(bytes)
    })
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
        let regions = ckpt.snapshot(set, version)?.regions()?;
        let Some(region) = regions.get(index) else { return Ok(0) };
        copy_string(region.name.as_bytes(), room, "region's name")?;
        // SAFETY: the caller's promise.
        unsafe { arguments::store(bytes, region.bytes) }?;
        Ok(1)
    })
}

/// Tells how the restart from a version ended: if not `ok`, it is not offered again.
///
/// # Safety
/// `set` is a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hayate_ckpt_finish(
    ckpt: c_int,
    set: *const c_char,
    version: u64,
    ok: c_int,
) -> c_int {
    call(|| {
        let ckpt = tables().ckpts.get(ckpt)?;
        // SAFETY: the caller's promise.
        Ok(ckpt.checkpoints.finish(unsafe { text(set, "set") }?, version, ok != 0).map(|()| 0)?)
    })
}

/// Says that a version is never pruned, or that it may be.
///
/// # Safety
/// `set` is a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hayate_ckpt_pin(
    ckpt: c_int,
    set: *const c_char,
    version: u64,
    pinned: c_int,
) -> c_int {
    call(|| {
        let ckpt = tables().ckpts.get(ckpt)?;
        // SAFETY: the caller's promise.
        Ok(ckpt.checkpoints.pin(unsafe { text(set, "set") }?, version, pinned != 0).map(|()| 0)?)
    })
}

/// Removes all but the newest `keep` complete versions, those that are pinned, and the newest durable one. Answers how many went.
///
/// # Safety
/// `set` is a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hayate_ckpt_prune(ckpt: c_int, set: *const c_char, keep: usize) -> c_int {
    call(|| {
        let ckpt = tables().ckpts.get(ckpt)?;
        // SAFETY: the caller's promise.
        Ok(ckpt.checkpoints.prune(unsafe { text(set, "set") }?, keep)?.len() as c_int)
    })
}

/// All versions that somebody began, oldest first: stores up to `room` of them, and answers how many there are.
///
/// # Safety
/// `set` is a string, `infos` has room for `room` of them, or that is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hayate_ckpt_list(
    ckpt: c_int,
    set: *const c_char,
    infos: *mut CkptInfo,
    room: usize,
) -> i64 {
    call(|| {
        let ckpt = tables().ckpts.get(ckpt)?;
        // SAFETY: the caller's promise.
        let all = ckpt.checkpoints.list(unsafe { text(set, "set") }?)?;
        for (index, info) in all.iter().take(room).enumerate() {
            let info = CkptInfo {
                version: info.version,
                bytes: info.bytes.unwrap_or(0),
                state: state_number(info.state),
                nranks: info.nranks.unwrap_or(0),
                pinned: info.pinned.into(),
            };
            // SAFETY: the caller's promise; a null pointer stays one only for the first.
            unsafe { arguments::store(if infos.is_null() { infos } else { infos.add(index) }, info) }?;
        }
        Ok(all.len() as i64)
    })
}

/// What to do now: `mtbf_s` between failures of the whole job, `cost_s` that a checkpoint keeps the application from computing, `since_s` since the last one, `left_s`
/// until the job's end (negative: unknown), `drain_s` until what is written now would be in the shared tier. All in seconds.
///
/// # Safety
/// `advice` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hayate_ckpt_advise(
    mtbf_s: f64,
    cost_s: f64,
    since_s: f64,
    left_s: f64,
    drain_s: f64,
    advice: *mut CkptAdvice,
) -> c_int {
    call(|| {
        let seconds = |value: f64| {
            Duration::try_from_secs_f64(value)
                .map_err(|_| Failure::new(libc::EINVAL, format!("{value} is no number of seconds")))
        };
        let mut advisor = Advisor::new(seconds(mtbf_s)?);
        advisor.measured(seconds(cost_s)?);
        let left = if left_s < 0.0 { None } else { Some(seconds(left_s)?) };
        let found = advisor.advise(seconds(since_s)?, left, seconds(drain_s)?);
        let found = CkptAdvice {
            checkpoint: found.checkpoint.into(),
            stop: found.stop.into(),
            next_s: found.next.as_secs_f64(),
        };
        // SAFETY: the caller's promise.
        unsafe { arguments::store(advice, found) }?;
        Ok(0)
    })
}

fn state_number(state: State) -> c_int {
    match state {
        State::Open => CKPT_OPEN,
        State::Aborted => CKPT_ABORTED,
        State::Failed => CKPT_FAILED,
        State::Sealed => CKPT_SEALED,
        State::Committed => CKPT_COMMITTED,
        State::Durable => CKPT_DURABLE,
    }
}

/// A string with its zero; answers its length.
fn copy_string(from: &[u8], room: &mut [u8], what: &str) -> Result<i64> {
    let whole = [from, &[0]].concat();
    arguments::copy_out(&whole, room, what)?;
    Ok(from.len() as i64)
}

unsafe fn read_options(options: *const CkptOptions) -> Result<libio::Options> {
    let mut read = libio::Options::default();
    if options.is_null() {
        return Ok(read);
    }
    // SAFETY: the caller's promise; the size is the first field.
    let size = unsafe { options.cast::<usize>().read_unaligned() };
    if size < size_of::<usize>() {
        let words = format!("options.size is {size}: set it to sizeof(hayate_ckpt_options_t)");
        return Err(Failure::new(libc::EINVAL, words));
    }
    let mut known = MaybeUninit::<CkptOptions>::zeroed();
    // SAFETY: there are `size` bytes, and no more than there is room for are copied.
    unsafe {
        let len = size.min(size_of::<CkptOptions>());
        known.as_mut_ptr().cast::<u8>().copy_from_nonoverlapping(options.cast(), len);
    }
    // SAFETY: integers and a pointer, of which zeros are some.
    let known = unsafe { known.assume_init() };
    if known.timeout_ms > 0 {
        read.timeout = Duration::from_millis(known.timeout_ms.into());
    }
    if !known.flush.is_null() {
        // SAFETY: the caller's promise.
        read.flush = Some(unsafe { text(known.flush, "flush policy") }?.to_owned());
    }
    read.redundancy = redundancy(&known)?;
    Ok(read)
}

fn redundancy(options: &CkptOptions) -> Result<Redundancy> {
    let number = |value: u32| {
        u8::try_from(value).map_err(|_| Failure::new(libc::EINVAL, format!("{value} servers are too many")))
    };
    match (options.copies, options.parity_data, options.parity_extra) {
        (0, 0, 0) => Ok(Redundancy::None),
        (copies, 0, 0) => Ok(Redundancy::Copies(number(copies)?)),
        (0, data, extra) => Ok(Redundancy::Parity { data: number(data)?, extra: number(extra)? }),
        _ => Err(Failure::new(libc::EINVAL, "copies or parity, not both")),
    }
}
