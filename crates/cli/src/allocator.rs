//! The C library's allocator, set up for servers: their memory is bounded, so what is free must be found again.
//!
//! glibc gives each busy thread an arena of its own and keeps what was freed in it. With the threads of a server and of its
//! key-value store that was 396 MiB after 6 million files where 64 were asked for, and 127 with one arena after ten (decision 0011).

/// One arena for all threads. To be called before there are others.
pub fn use_one_arena() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: mallopt may be called at any time; it is given one of its parameters and a number.
        let is_set = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) } == 1;
        if !is_set {
            tracing::warn!("the C library does not take a bound of arenas: memory may grow beyond --memory");
        }
    }
}
