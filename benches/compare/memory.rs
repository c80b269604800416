//! How much memory this process holds, and held at most.
//!
//! On the processor as the system counts it: resident bytes, the allocator's own included. The peer is measured in the same
//! way. On a graphics card as its driver counts it, which is what the allocators of both hold there; the peer counts what
//! its tensors take, which is less.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use std::{io, thread};

/// Time between two looks at the graphics card.
const LOOK: Duration = Duration::from_millis(50);

/// Watches the memory of the device that the work runs on.
pub enum Gauge {
    Process,
    Card {
        peak: Arc<AtomicU64>,
        over: Arc<AtomicBool>,
    },
}

impl Gauge {
    /// For `cpu`, or a graphics card.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn new(device: &str) -> io::Result<Self> {
        if device == "cpu" {
            return Ok(Self::Process);
        }
        let (peak, over) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let (seen, done) = (Arc::clone(&peak), Arc::clone(&over));
        let look = move || {
            while !done.load(Ordering::Relaxed) {
                seen.fetch_max(card(), Ordering::Relaxed);
                thread::sleep(LOOK);
            }
        };
        let named = thread::Builder::new().name("memory gauge".to_owned());
        named.spawn(look)?;
        Ok(Self::Card { peak, over })
    }

    /// Bytes held now; 0 where the system does not say (Linux does).
    pub fn held(&self) -> u64 {
        match self {
            Self::Process => status("VmRSS"),
            Self::Card { .. } => card(),
        }
    }

    /// Most bytes held since the process began, or since [`Self::forget_peak`].
    pub fn peak(&self) -> u64 {
        match self {
            Self::Process => status("VmHWM"),
            Self::Card { peak, .. } => peak.load(Ordering::Relaxed),
        }
    }

    /// Lets the peak begin at what is held now.
    pub fn forget_peak(&self) {
        match self {
            // 5: reset the peak of this process (proc(5)). Where that is not allowed it stays that of the whole process.
            Self::Process => {
                std::fs::write("/proc/self/clear_refs", "5").ok();
            }
            Self::Card { peak, .. } => peak.store(card(), Ordering::Relaxed),
        }
    }
}

impl Drop for Gauge {
    fn drop(&mut self) {
        if let Self::Card { over, .. } = self {
            over.store(true, Ordering::Relaxed);
        }
    }
}

fn status(field: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kib = value.and_then(|value| value.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Bytes in use on the first card.
fn card() -> u64 {
    let out = Command::new("nvidia-smi")
        .args(["--query-gpu=memory.used", "--format=csv,noheader,nounits"])
        .output();
    let text = out.map_or_else(
        |_| String::new(),
        |out| String::from_utf8_lossy(&out.stdout).into_owned(),
    );
    let mib = text
        .lines()
        .next()
        .and_then(|line| line.trim().parse::<u64>().ok());
    mib.unwrap_or(0) << 20
}
