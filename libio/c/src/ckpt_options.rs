//! How a version is written, as C says it.

use std::ffi::{c_char, c_int};
use std::time::Duration;

use libio::Redundancy;

use crate::arguments;
use crate::border::{Failure, Result};
use crate::ckpt::text;

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
    /// 1: blocks of 1 MiB that are as in the version before are not stored again.
    pub incremental: c_int,
    /// Level of zstd for blocks where it saves an eighth or more (1 is fast); 0: nothing is compressed.
    pub compress: c_int,
}

/// # Safety
/// `options` is null or has `options->size` bytes.
pub(crate) unsafe fn read_options(options: *const CkptOptions) -> Result<libio::Options> {
    let mut read = libio::Options::default();
    // SAFETY: the caller's promise; integers and a pointer, of which zeros are some.
    let known = unsafe { arguments::sized(options, "hayate_ckpt_options_t") }?;
    let Some(known) = known else { return Ok(read) };
    if known.timeout_ms > 0 {
        read.timeout = Duration::from_millis(known.timeout_ms.into());
    }
    if !known.flush.is_null() {
        // SAFETY: the caller's promise.
        read.flush = Some(unsafe { text(known.flush, "flush policy") }?.to_owned());
    }
    read.redundancy = redundancy(&known)?;
    read.incremental = known.incremental != 0;
    read.compress = (known.compress != 0).then_some(known.compress);
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
