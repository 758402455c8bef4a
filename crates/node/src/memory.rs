//! Memory that the C library keeps for later.

/// Gives the kernel back what a large piece of work has left: a start reads, compares and forgets as much again as the node needs.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: malloc_trim(3) looks only at what is free.
        #[allow(unsafe_code)]
        let _ = unsafe { nix::libc::malloc_trim(0) };
    }
}
