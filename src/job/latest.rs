//! A latest-value slot: heavy pictures do not queue behind a slow watcher, only the newest is kept.

use std::sync::{Mutex, PoisonError};

/// Holds at most one value. Publishing replaces what nobody has taken yet.
#[derive(Debug)]
pub struct Latest<T>(Mutex<Option<T>>);

impl<T> Default for Latest<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T> Latest<T> {
    /// Replaces the value. The old one is dropped outside the lock.
    pub fn publish(&self, value: T) {
        let old = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .replace(value);
        drop(old);
    }

    /// Takes the newest value, leaving the slot empty.
    pub fn take(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_value_is_kept() {
        let slot = Latest::default();
        slot.publish(1);
        slot.publish(2);
        assert_eq!(slot.take(), Some(2));
        assert_eq!(slot.take(), None);
    }
}
