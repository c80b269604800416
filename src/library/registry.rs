//! The list of folders a person added, and of what was downloaded here: `models.toml` in the program's data folder.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Result;
use super::cache::make_folder;
use super::error::LibraryError;
use crate::project::write_atomic;

const FILE: &str = "models.toml";
const LOCK: &str = ".models.lock";
/// Newest layout version of the list.
const FORMAT: u32 = 1;
/// The list is a page of text; more is something else.
const MAX_BYTES: u64 = 1 << 20;

/// A folder that a person added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Added {
    /// What it is called; the name of a model of the catalogue stands for that model.
    pub name: String,
    /// Where it is.
    pub folder: PathBuf,
}

/// What was downloaded of a model, so that it alone is removed again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Downloaded {
    /// The cache it lies in.
    pub cache: PathBuf,
    /// The model's name on the hub.
    pub repo: String,
    /// Its version.
    pub commit: String,
    /// Paths inside the model and the names of their blobs.
    pub files: Vec<DownloadedFile>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DownloadedFile {
    pub path: String,
    pub blob: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct List {
    format: u32,
    #[serde(default)]
    pub added: Vec<Added>,
    #[serde(default)]
    pub downloaded: Vec<Downloaded>,
}

impl Default for List {
    fn default() -> Self {
        Self {
            format: FORMAT,
            added: Vec::new(),
            downloaded: Vec::new(),
        }
    }
}

/// The list on disk. It is read anew each time: the window and the command line may both be at work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registry {
    folder: PathBuf,
}

impl Registry {
    /// The list in this folder.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.folder.join(FILE)
    }

    /// The folders in the order they were added.
    ///
    /// # Errors
    /// When the list cannot be read or understood.
    pub fn added(&self) -> Result<Vec<Added>> {
        Ok(self.read()?.added)
    }

    pub(super) fn read(&self) -> Result<List> {
        let path = self.path();
        let refuse = |why: String| LibraryError::List {
            path: path.clone(),
            why,
        };
        match fs::metadata(&path) {
            Ok(metadata) if metadata.len() > MAX_BYTES => {
                return Err(refuse("it is far too large".to_owned()));
            }
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(List::default());
            }
            Err(error) => return Err(LibraryError::io("read", &path)(error)),
        }
        let bytes = fs::read(&path).map_err(LibraryError::io("read", &path))?;
        let text = String::from_utf8(bytes).map_err(|_| refuse("it is not text".to_owned()))?;
        let list: List = toml::from_str(&text).map_err(|error| refuse(error.to_string()))?;
        if list.format > FORMAT {
            return Err(refuse(format!(
                "it was written by a newer version of this program (format {}, this one reads {FORMAT})",
                list.format
            )));
        }
        Ok(list)
    }

    /// Changes the list while nobody else can.
    ///
    /// # Errors
    /// Those of `change`, and when the list cannot be read or written.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut List) -> Result<T>) -> Result<T> {
        make_folder(&self.folder)?;
        let lock_path = self.folder.join(LOCK);
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(LibraryError::io("lock", &lock_path))?;
        // Held for as long as a page of text is written.
        lock.lock().map_err(LibraryError::io("lock", &lock_path))?;
        let mut list = self.read()?;
        let before = list.clone();
        let done = change(&mut list)?;
        if list != before {
            let path = self.path();
            let text = toml::to_string_pretty(&list).map_err(|error| LibraryError::List {
                path: path.clone(),
                why: error.to_string(),
            })?;
            write_atomic(&path, text.as_bytes())?;
        }
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_is_there_again_and_a_strange_list_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::new(&folder.path().join("data"));
        assert_eq!(registry.added().unwrap(), []);
        let mine = Added {
            name: "mine".to_owned(),
            folder: "/models/\"mine\"".into(),
        };
        let add = |list: &mut List| {
            list.added.push(mine.clone());
            Ok(())
        };
        registry.change(add).unwrap();
        assert_eq!(registry.added().unwrap(), std::slice::from_ref(&mine));

        for (text, why) in [
            ("format = 99", "newer version"),
            ("format = 1\nsurprise = 2", "surprise"),
            ("\u{0}", ""),
        ] {
            fs::write(registry.path(), text).unwrap();
            let error = registry.change(add).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
            let kept = fs::read_to_string(registry.path()).unwrap();
            assert_eq!(kept, text, "a list that is not understood is not replaced");
        }
    }
}
