//! How much memory this process holds, and held at most, as the system counts it: resident bytes, those of shared libraries
//! and of the allocator's own included. The peer is measured the same way.

/// Resident bytes now; 0 where the system does not say (Linux does).
pub fn resident() -> u64 {
    status("VmRSS")
}

/// Most resident bytes since the process began, or since [`forget_peak`].
pub fn peak() -> u64 {
    status("VmHWM")
}

/// Lets the peak begin at what is resident now.
pub fn forget_peak() {
    // 5: reset the peak of this process (proc(5)). Where that is not allowed the peak stays that of the whole process.
    std::fs::write("/proc/self/clear_refs", "5").ok();
}

fn status(field: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kib = value.and_then(|value| value.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
