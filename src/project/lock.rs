//! Locks on files.

use std::fs::{File, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

/// How long somebody may have the lock who wants nothing with it.
const PATIENCE: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(5);

/// Takes the lock on a file. A program that is just being started by this one holds all of its locks until it begins, a moment
/// later; that is waited for.
///
/// # Errors
/// [`TryLockError::WouldBlock`] where another program has it, and what the system says.
pub fn try_lock(file: &File) -> Result<(), TryLockError> {
    let begun = Instant::now();
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if begun.elapsed() < PATIENCE => thread::sleep(PAUSE),
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_is_held_for_a_moment_is_waited_for_and_no_longer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let open = || {
            File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)
                .unwrap()
        };
        let (first, second) = (open(), open());
        try_lock(&first).unwrap();
        thread::scope(|scope| {
            scope.spawn(move || {
                thread::sleep(Duration::from_millis(20));
                drop(first);
            });
            try_lock(&second).unwrap();
        });
        assert!(matches!(try_lock(&open()), Err(TryLockError::WouldBlock)));
    }
}
