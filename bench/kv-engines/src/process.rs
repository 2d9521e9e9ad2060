//! What this process and a directory take, as the kernel counts it.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// CPU of all threads so far, in microseconds.
pub fn cpu_us() -> u64 {
    // SAFETY: an all-zero rusage is a value of it, and the call fills it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let micros = |time: libc::timeval| time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64;
    micros(usage.ru_utime) + micros(usage.ru_stime)
}

/// Anonymous resident memory now, in bytes.
pub fn anonymous_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok()).unwrap_or(0) << 10
}

/// Bytes that the files below `dir` take on the device.
pub fn disk_bytes(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let of = |path: &Path| path.symlink_metadata().map_or(0, |meta| meta.blocks() * 512);
    entries.flatten().map(|entry| of(&entry.path()) + disk_bytes(&entry.path())).sum()
}

/// Runs `work` and looks at the memory meanwhile. Returns the highest that was seen.
pub fn watched<T>(work: impl FnOnce() -> T) -> (T, u64) {
    let (peak, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let look = || peak.fetch_max(anonymous_bytes(), Ordering::Relaxed);
    let outcome = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                look();
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let outcome = work();
        done.store(true, Ordering::Relaxed);
        outcome
    });
    look();
    (outcome, peak.into_inner())
}
