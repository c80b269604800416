//! How much memory a piece of code asks for, on the thread that runs it.
//!
//! The test binary's allocator is the system's with a count kept for every thread, so that tests beside each other do not
//! blur the figures. Mapped files are no part of it, and neither is what other threads ask for on this one's behalf.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;

struct Counting;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
    // Constant and without a destructor: reading them asks for no memory itself.
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn note_one(bytes: usize) {
    let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(bytes)));
    note(isize::try_from(bytes).unwrap_or(isize::MAX));
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
        note_one(layout.size());
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note_one(layout.size());
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
        note_one(new_size);
        note(-size(layout));
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

#[global_allocator]
static HEAP: Counting = Counting;

/// Does some work and gives, beside its result, the bytes of the largest single allocation that this thread made for it.
pub fn largest<T>(work: impl FnOnce() -> T) -> (T, usize) {
    LARGEST.set(0);
    let done = work();
    (done, LARGEST.get())
}

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
        drop(black_box(vec![0u8; 3 << 20]));
        black_box(vec![1u8; 1 << 20])
    });
    assert_eq!((asked.peak, asked.kept), (3 << 20, kept.len()));
    let (_, largest) = largest(|| {
        drop(black_box((vec![0u8; 1 << 20], vec![0u8; 2 << 20])));
    });
    assert_eq!(largest, 2 << 20);
    let (_, other) = measured(|| {
        std::thread::scope(|scope| {
            scope
                .spawn(|| black_box(vec![0u8; 1 << 20]))
                .join()
                .unwrap()
                .len()
        })
    });
    assert!(
        other.peak < 1 << 20,
        "another thread's memory is its own: {other:?}"
    );
}
