//! Where the program's memory comes from.
//!
//! A training step asks for the same large blocks again and again. Given back to the system each time they come back as
//! thousands of small pages, each to be faulted in and cleared: of a step of the benchmark's `small` network that took an
//! eighth of the processor's time, and a layer norm with its gradient took 69 ms instead of 16. jemalloc keeps them, and lets
//! go of what nobody used for half a minute. Two arenas: blocks that one thread freed are wanted by another, so few are best,
//! but with a single one it lets go within a step (measured). C libraries (FFmpeg, the graphics driver) keep the system's
//! allocator.

#[cfg(target_os = "linux")]
#[global_allocator]
static HEAP: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Read by jemalloc before the first allocation. `oversize_threshold:0`: large blocks are kept as well.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "the name is the one that jemalloc looks for")]
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static SETTINGS: Option<&'static std::ffi::c_char> = {
    const TEXT: &[u8] = b"narenas:2,oversize_threshold:0,dirty_decay_ms:30000,muzzy_decay_ms:0\0";
    // SAFETY: a text that ends with a zero and lives as long as the program.
    Some(unsafe { &*TEXT.as_ptr().cast() })
};
