//! Whether this process may lock the memory that RDMA registers.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The capability that lifts the limit, as a bit of `CapEff`.
const CAP_IPC_LOCK: u64 = 1 << 14;

/// Raises the soft limit as far as need be and may be. The error names the limit.
pub(super) fn check(bytes: usize) -> Result<(), String> {
    let limit = getrlimit(Resource::Memlock);
    let need = bytes as u64;
    let has = |current: Option<u64>| current.is_none_or(|current| current >= need);
    if has(limit.current) || may_lock_anything() {
        return Ok(());
    }
    let raised = Rlimit { current: limit.maximum.map(|most| most.min(need)), maximum: limit.maximum };
    if has(limit.maximum) && setrlimit(Resource::Memlock, raised).is_ok() {
        return Ok(());
    }
    Err(too_low(need, limit.maximum.unwrap_or(0)))
}

fn too_low(need: u64, has: u64) -> String {
    format!(
        "RLIMIT_MEMLOCK is too low: RDMA may register {} KiB here, the limit is {} KiB \
         (raise it with `ulimit -l`, LimitMEMLOCK= of systemd, or /etc/security/limits.conf; or use less --memory)",
        need.div_ceil(1024),
        has / 1024
    )
}

fn may_lock_anything() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|caps| caps & CAP_IPC_LOCK != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_names_the_limit_and_what_is_needed() {
        let text = too_low(64 << 20, 8 << 20);
        assert!(text.contains("RLIMIT_MEMLOCK") && text.contains("65536 KiB") && text.contains("8192 KiB"));
    }

    #[test]
    fn little_is_always_allowed() {
        assert_eq!(check(0), Ok(()));
    }
}
