//! The allocator of all commands, set up for servers: their memory is bounded, so what is free must be found again, and their threads must not wait for each other (decision 0011).
//!
//! glibc gives each busy thread an arena of its own and keeps what was freed in it. With the threads of a server and of its
//! key-value store that was 396 MiB after 6 million files where 64 were asked for, and 127 with one arena after ten. For that one arena all threads wait, so jemalloc,
//! which gives them caches of some KiB, has taken its place; it is built with `make`, without which `--no-default-features` builds the rest.

#[cfg(feature = "jemalloc")]
mod jemalloc {
    use tikv_jemallocator::Jemalloc;

    #[global_allocator]
    static JEMALLOC: Jemalloc = Jemalloc;

    /// What jemalloc reads before the first allocation. Arenas: not four for each processor, as each may keep what was freed in it. Decay: what was freed goes back to the kernel
    /// within 2 s, and at once instead of at the kernel's leisure (`MADV_FREE`), by which nobody could tell how much is in use. No huge pages:
    /// where the kernel gives them to everybody, an idle server of 3 MiB took 25. What `_RJEM_MALLOC_CONF` says in the environment goes before it.
    #[unsafe(export_name = "_rjem_malloc_conf")]
    static CONFIGURATION: Text = Text(c"narenas:4,dirty_decay_ms:2000,muzzy_decay_ms:0,thp:never".as_ptr());

    /// Where a text of C begins.
    #[repr(transparent)]
    struct Text(*const std::ffi::c_char);

    // SAFETY: it points to a constant that nobody changes.
    unsafe impl Sync for Text {}

    #[cfg(test)]
    mod tests {
        /// A symbol that the linker drops, or a name that jemalloc does not look for, would be noticed by nothing else.
        #[test]
        fn jemalloc_reads_its_configuration() {
            let mut arenas: std::ffi::c_uint = 0;
            let mut size = size_of_val(&arenas);
            // SAFETY: the name ends with a zero, the option is an unsigned number, and its size is told.
            let refused = unsafe {
                tikv_jemalloc_sys::mallctl(
                    c"opt.narenas".as_ptr(),
                    (&raw mut arenas).cast(),
                    &raw mut size,
                    std::ptr::null_mut(),
                    0,
                )
            };
            assert_eq!((refused, arenas), (0, 4));
        }
    }
}

/// One arena for all threads in the C library, which has what libraries in C take, and everything in a build without jemalloc. To be called before there are other threads.
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
