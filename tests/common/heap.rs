//! How much memory a piece of code asks for, on the thread that runs it.
//!
//! The test binary's allocator is the system's with a count kept for every thread, so that tests beside each other do not
//! blur the figures. Mapped files are no part of it, and neither is what other threads ask for on this one's behalf.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

thread_local! {
    // Constant and without a destructor: reading them asks for no memory itself.
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn note(bytes: isize) {
    // A thread that ends may free memory when its counters are gone.
    let _ = HELD.try_with(|held| {
        held.set(held.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(held.get())));
    });
}

fn size(layout: Layout) -> isize {
    isize::try_from(layout.size()).unwrap_or(isize::MAX)
}

#[expect(unsafe_code, reason = "an allocator cannot be written without")]
// SAFETY: every call goes to the system's allocator as it came; the counters ask for no memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(size(layout));
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(size(layout));
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        note(-size(layout));
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // As if both were there for a moment, which they may be.
        note(isize::try_from(new_size).unwrap_or(isize::MAX));
        note(-size(layout));
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

#[global_allocator]
static HEAP: Counting = Counting;

/// Bytes a piece of code asked for.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// The most at one moment, beyond what was there before.
    pub peak: usize,
    /// What is still there, because the result holds it.
    pub kept: usize,
}

/// Runs `work` and tells what this thread asked for meanwhile.
pub fn measured<T>(work: impl FnOnce() -> T) -> (T, Asked) {
    let before = HELD.get();
    let outer = PEAK.replace(before);
    let result = work();
    let (peak, held) = (PEAK.get(), HELD.get());
    PEAK.set(outer.max(peak));
    let bytes = |now: isize| usize::try_from(now - before).unwrap_or(0);
    let asked = Asked {
        peak: bytes(peak),
        kept: bytes(held),
    };
    (result, asked)
}

#[test]
fn the_count_sees_what_is_asked_for() {
    let (kept, asked) = measured(|| {
        drop(vec![0u8; 3 << 20]);
        vec![1u8; 1 << 20]
    });
    assert_eq!((asked.peak, asked.kept), (3 << 20, kept.len()));
    let (_, other) = measured(|| {
        std::thread::scope(|scope| scope.spawn(|| vec![0u8; 1 << 20]).join().unwrap().len())
    });
    assert!(
        other.peak < 1 << 20,
        "another thread's memory is its own: {other:?}"
    );
}
