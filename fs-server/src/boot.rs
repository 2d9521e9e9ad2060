//! Which boot of the kernel this is: page caches outlive processes, not boots.

/// Identity of the running kernel's boot; zero, which equals no other, if it does not tell.
pub(crate) fn boot_id() -> u128 {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    u128::from_str_radix(&text.trim().replace('-', ""), 16).unwrap_or(0)
}
