//! Files that are either whole or absent.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::error::ProjectError;

const TEMPORARY: &str = ".tmp";

/// Writes a file under a temporary name beside it, syncs it and renames it over `path`.
///
/// # Errors
/// [`ProjectError::Io`]; the old file is then still whole.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), ProjectError> {
    let temporary = temporary_name(path);
    let written = write_synced(&temporary, bytes).and_then(|()| {
        fs::rename(&temporary, path).map_err(ProjectError::io("rename", &temporary))
    });
    if written.is_err() {
        fs::remove_file(&temporary).ok();
    }
    written?;
    sync_parent(path)
}

/// Writes and syncs a file under its own name; for files in a folder that is renamed as a whole.
pub(super) fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), ProjectError> {
    let mut file = File::create(path).map_err(ProjectError::io("create", path))?;
    file.write_all(bytes)
        .map_err(ProjectError::io("write", path))?;
    file.sync_all().map_err(ProjectError::io("write", path))
}

/// Makes a rename inside `path`'s folder survive a power failure.
pub(super) fn sync_parent(path: &Path) -> Result<(), ProjectError> {
    // Only Unix lets a folder be opened and synced; elsewhere the rename itself is what there is.
    if cfg!(unix)
        && let Some(parent) = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
    {
        let folder = File::open(parent).map_err(ProjectError::io("open", parent))?;
        match folder.sync_all() {
            // Some network and shared folders cannot do it: the rename itself is what there is.
            Err(error) if cannot_sync(&error) => {}
            done => done.map_err(ProjectError::io("sync", parent))?,
        }
    }
    Ok(())
}

fn cannot_sync(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{InvalidInput, Unsupported};
    matches!(error.kind(), InvalidInput | Unsupported)
}

pub(super) fn temporary_name(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(TEMPORARY);
    path.with_file_name(name)
}

/// Removes the half-written files that a killed program left in a folder: those of [`write_atomic`], and those of films
/// (`.NAME.part-7-0`). Only for whoever holds the run's lock. What cannot be removed is in nobody's way.
pub(super) fn sweep(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if is_temporary(&name) {
            let path = entry.path();
            fs::remove_file(&path)
                .or_else(|_| fs::remove_dir_all(&path))
                .ok();
        }
    }
}

/// Whether a name is one that only half-written files have.
pub(super) fn is_temporary(name: &str) -> bool {
    let part_of_film = || {
        name.rsplit_once(".part-").is_some_and(|(_, numbers)| {
            numbers
                .bytes()
                .all(|byte| byte.is_ascii_digit() || byte == b'-')
        })
    };
    name.starts_with('.') && (name.ends_with(TEMPORARY) || part_of_film())
}

/// The first of `STEM.EXT`, `STEM 2.EXT`, `STEM 3.EXT` … in `folder` that is not taken, so that nothing is overwritten.
/// An empty `extension` means a folder name.
#[must_use]
pub fn free_name(folder: &Path, stem: &str, extension: &str) -> PathBuf {
    let suffix = if extension.is_empty() {
        String::new()
    } else {
        format!(".{extension}")
    };
    let mut candidate = folder.join(format!("{stem}{suffix}"));
    let mut number = 2_u64;
    while candidate.symlink_metadata().is_ok() {
        candidate = folder.join(format!("{stem} {number}{suffix}"));
        number += 1;
    }
    candidate
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_half_written_files_are_swept() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            ".run.toml.tmp",
            ".step-000010.gif.part-4711-0",
            "mine.tmp",
            ".config",
            "film.part-1-0",
            ".a.part-time",
        ] {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        fs::create_dir(folder.path().join(".frames.part-1-2")).unwrap();
        sweep(folder.path());
        let mut left: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(
            left,
            [".a.part-time", ".config", "film.part-1-0", "mine.tmp"]
        );
    }

    #[test]
    fn a_taken_name_gets_the_next_number() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(
            free_name(folder.path(), "film", "mp4"),
            folder.path().join("film.mp4")
        );
        write_atomic(&folder.path().join("film.mp4"), b"x").unwrap();
        write_atomic(&folder.path().join("film 2.mp4"), b"x").unwrap();
        assert_eq!(
            free_name(folder.path(), "film", "mp4"),
            folder.path().join("film 3.mp4")
        );
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            2,
            "no temporary file stays"
        );
    }
}
