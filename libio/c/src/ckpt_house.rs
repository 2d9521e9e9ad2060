//! Checkpoints: what there is of a set, keeping house, advice.

use std::ffi::{c_char, c_int};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use libio::advice::{JOB_END, time_left};
use libio::{Advisor, VersionInfo};

use crate::arguments;
use crate::border::{Failure, call};
use crate::ckpt::text;
use crate::ckpt_state::state_number;
use crate::handles::tables;

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
    /// 0.
    pub reserved: c_int,
}

/// What an application should do now.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct CkptAdvice {
    /// `sizeof(hayate_ckpt_advice_t)`, set by the caller.
    pub size: usize,
    /// 1: write a checkpoint.
    pub checkpoint: c_int,
    /// 1: write a last one and end.
    pub stop: c_int,
    /// Seconds to compute before the next checkpoint.
    pub next_s: f64,
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

/// Removes one version, whichever it is: one that failed, is damaged or lost, say, whose number is to be written again. `-EBUSY` if the shared tier still has it
/// after 20 s.
///
/// # Safety
/// `set` is a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hayate_ckpt_remove(ckpt: c_int, set: *const c_char, version: u64) -> c_int {
    call(|| {
        let ckpt = tables().ckpts.get(ckpt)?;
        // SAFETY: the caller's promise.
        Ok(ckpt.checkpoints.remove(unsafe { text(set, "set") }?, version).map(|()| 0)?)
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

/// All versions that somebody began, oldest first: stores up to `room` of them, each `info_size` bytes (`sizeof(hayate_ckpt_info_t)`) behind the one before, and
/// answers how many there are.
///
/// # Safety
/// `set` is a string, `infos` has room for `room` of them, or that is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hayate_ckpt_list(
    ckpt: c_int,
    set: *const c_char,
    infos: *mut CkptInfo,
    info_size: usize,
    room: usize,
) -> i64 {
    call(|| {
        let ckpt = tables().ckpts.get(ckpt)?;
        // SAFETY: the caller's promise.
        let set = unsafe { text(set, "set") }?;
        let bytes =
            info_size.checked_mul(room).ok_or_else(|| Failure::new(libc::EINVAL, "no room is so large"))?;
        // SAFETY: the caller's promise.
        let room = unsafe { arguments::output(infos.cast(), bytes) }?;
        let all = ckpt.checkpoints.list(set)?;
        if info_size > 0 {
            for (place, info) in room.chunks_exact_mut(info_size).zip(&all) {
                put(place, &CkptInfo::of(info));
            }
        }
        Ok(all.len() as i64)
    })
}

/// What a program knows of it; what it knows more of is zeros.
fn put(place: &mut [u8], info: &CkptInfo) {
    let known = place.len().min(size_of::<CkptInfo>());
    place[known..].fill(0);
    // SAFETY: so many bytes are in both, and a program's memory is not this function's.
    unsafe { place.as_mut_ptr().copy_from_nonoverlapping(std::ptr::from_ref(info).cast(), known) };
}

impl CkptInfo {
    fn of(info: &VersionInfo) -> CkptInfo {
        CkptInfo {
            version: info.version,
            bytes: info.bytes.unwrap_or(0),
            state: state_number(info.state),
            nranks: info.nranks.unwrap_or(0),
            pinned: info.pinned.into(),
            reserved: 0,
        }
    }
}

/// How long the servers take, at their present rate, to bring to the shared tier what waits for it, and `more` bytes: 1 and the seconds, or 0 if no rate is known yet,
/// or there is no shared tier. For hayate_ckpt_advise.
///
/// # Safety
/// `seconds` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hayate_ckpt_drain_time(ckpt: c_int, more: u64, seconds: *mut f64) -> c_int {
    call(|| {
        let Some(time) = tables().ckpts.get(ckpt)?.checkpoints.drain_time(more)? else { return Ok(0) };
        // SAFETY: the caller's promise.
        unsafe { arguments::store(seconds, time.as_secs_f64()) }?;
        Ok(1)
    })
}

/// What is left of the job, if its launcher says when it ends (Slurm does, in `SLURM_JOB_END_TIME`): 1 and the seconds, or 0 if it is not said. For hayate_ckpt_advise.
///
/// # Safety
/// `seconds` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hayate_ckpt_time_left(seconds: *mut f64) -> c_int {
    call(|| {
        let (end, now) = (std::env::var(JOB_END).ok(), SystemTime::now().duration_since(UNIX_EPOCH));
        let Some(left) = time_left(end.as_deref(), now.unwrap_or_default()) else { return Ok(0) };
        // SAFETY: the caller's promise.
        unsafe { arguments::store(seconds, left.as_secs_f64()) }?;
        Ok(1)
    })
}

/// What to do now: `mtbf_s` between failures of the whole job, `cost_s` that a checkpoint keeps the application from computing, `since_s` since the last one, `left_s`
/// until the job's end (negative: unknown), `drain_s` until what is written now would be in the shared tier. All in seconds. `advice->size` is set before the call.
///
/// # Safety
/// `advice` has `advice->size` bytes that may be written.
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
            size: size_of::<CkptAdvice>(),
            checkpoint: found.checkpoint.into(),
            stop: found.stop.into(),
            next_s: found.next.as_secs_f64(),
        };
        // SAFETY: the caller's promise.
        unsafe { arguments::store_sized(advice, &found, "hayate_ckpt_advice_t") }?;
        Ok(0)
    })
}
