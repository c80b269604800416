//! Writing one buffer from several threads.

use std::marker::PhantomData;

/// A buffer that several threads fill, each its own part.
///
/// The borrow keeps the buffer alive and exclusively ours; that no two threads touch the same element is the
/// duty of whoever calls the unsafe functions.
pub struct SharedMut<'a, T> {
    start: *mut T,
    len: usize,
    buffer: PhantomData<&'a mut [T]>,
}

#[expect(
    unsafe_code,
    reason = "elements are only reached through unsafe functions that demand disjoint parts"
)]
// SAFETY: sharing it shares no element; reaching one is unsafe and demands disjoint parts.
unsafe impl<T: Send> Sync for SharedMut<'_, T> {}

#[expect(unsafe_code, reason = "as above: the pointer is a borrow in disguise")]
// SAFETY: the pointer is an exclusive borrow of a buffer whose elements may be sent.
unsafe impl<T: Send> Send for SharedMut<'_, T> {}

impl<'a, T> SharedMut<'a, T> {
    pub fn new(buffer: &'a mut [T]) -> Self {
        Self {
            start: buffer.as_mut_ptr(),
            len: buffer.len(),
            buffer: PhantomData,
        }
    }

    /// A pointer to `len` elements from `offset`, checked to lie inside the buffer.
    #[inline(always)]
    pub fn pointer(&self, offset: usize, len: usize) -> *mut T {
        assert!(
            offset <= self.len && len <= self.len - offset,
            "a kernel writes outside its output"
        );
        self.start.wrapping_add(offset)
    }

    /// The part `offset..offset + len`.
    ///
    /// # Safety
    /// No other thread or live reference touches this part.
    #[expect(
        unsafe_code,
        clippy::mut_from_ref,
        reason = "disjointness is the caller's duty"
    )]
    pub unsafe fn part(&self, offset: usize, len: usize) -> &mut [T] {
        // SAFETY: inside the buffer (checked), alive for 'a, not aliased by the contract of this function.
        unsafe { std::slice::from_raw_parts_mut(self.pointer(offset, len), len) }
    }
}
