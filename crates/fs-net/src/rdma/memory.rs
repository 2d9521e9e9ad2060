//! Which memory of this process RDMA devices know.
//!
//! Buffers of pools say where they lie ([`track`]); a range is registered with a device when it is first used there, and stays so until its memory is
//! freed, however often the pool gives it out.
//!
//! # Invariants
//! - Memory is registered once per device (with iWARP once for each purpose), and not freed while it is (`a_range_is_found_by_its_bytes_until_it_goes`; the guard is dropped
//!   before the memory).
//! - Without RDMA nothing is tracked: a switch that is read, and no lock.

use super::device::{Device, Keys, Registration};
use super::kind::Purpose;
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Smaller memory is not worth a registration: such parts are copied into messages.
pub(crate) const TRACK_MIN: usize = crate::send_queue::BY_REFERENCE_BYTES;

static ENABLED: AtomicBool = AtomicBool::new(false);
static RANGES: RwLock<BTreeMap<usize, Arc<Range>>> = RwLock::new(BTreeMap::new());

struct Range {
    at: usize,
    len: usize,
    registrations: Mutex<Vec<Registration>>,
}

/// Tracks a range of memory until dropped, which must be before the memory is freed.
pub(crate) struct Tracked(Arc<Range>);

/// From now on memory is tracked.
pub(super) fn enable() {
    ENABLED.store(true, Ordering::Release);
}

/// Tracks memory, if RDMA is in use. The memory must not be freed or moved before the guard is dropped.
pub(crate) fn track(memory: *const u8, len: usize) -> Option<Tracked> {
    if !ENABLED.load(Ordering::Acquire) || len < TRACK_MIN {
        return None;
    }
    let at = memory as usize;
    let range = Arc::new(Range { at, len, registrations: Mutex::default() });
    RANGES.write().insert(at, range.clone());
    Some(Tracked(range))
}

impl Drop for Tracked {
    fn drop(&mut self) {
        RANGES.write().remove(&self.0.at);
        self.0.registrations.lock().clear();
    }
}

/// How a device names the memory that `bytes` lie in. `Ok(None)`: it is none that is tracked.
pub(super) fn find(bytes: &[u8], device: &'static Device, purpose: Purpose) -> io::Result<Option<Keys>> {
    let Some(range) = range_of(bytes) else { return Ok(None) };
    let mut registrations = range.registrations.lock();
    if let Some(known) = registrations.iter().find(|known| known.is_for(device, purpose)) {
        return Ok(Some(known.keys()));
    }
    // SAFETY: the range's memory stays until `Tracked` is dropped, which ends the registration first; who sends or receives keeps the
    // bytes until the device is done with them.
    let registration = unsafe { device.register((range.at, range.len), purpose) }?;
    let keys = registration.keys();
    registrations.push(registration);
    Ok(Some(keys))
}

/// Why memory could not be registered, for people.
pub(super) fn why_not(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOMEM) => format!("{error}: is RLIMIT_MEMLOCK (ulimit -l) too low?"),
        _ => format!("memory cannot be registered: {error}"),
    }
}

fn range_of(bytes: &[u8]) -> Option<Arc<Range>> {
    let at = bytes.as_ptr() as usize;
    let ranges = RANGES.read();
    let (_, range) = ranges.range(..=at).next_back()?;
    (at + bytes.len() <= range.at + range.len).then(|| range.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_found_by_its_bytes_until_it_goes() {
        let memory = vec![0_u8; 64 << 10];
        let (inside, outside) = (&memory[8192..40_960], &memory[40_000..50_000]);
        enable();
        let tracked = track(inside.as_ptr(), inside.len()).expect("large enough");
        assert!(track(memory.as_ptr(), 100).is_none());
        let found = |bytes: &[u8]| range_of(bytes).is_some_and(|range| range.at == inside.as_ptr() as usize);
        assert!(found(inside) && found(&inside[100..200]) && found(&inside[32_767..]));
        assert!(!found(outside) && !found(&memory[..8192]) && !found(&memory[8191..9000]));
        drop(tracked);
        assert!(!found(inside));
    }
}
