use std::path::{Path, PathBuf};

/// What can go wrong with a run folder.
#[derive(Debug, thiserror::Error)]
pub enum ProjectError {
    /// The file system failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A run is there already.
    #[error("{} already holds a run", path.display())]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// A new run shall not mix with other files.
    #[error("{} is not empty", path.display())]
    NotEmpty {
        /// The folder.
        path: PathBuf,
    },
    /// The folder holds no run.
    #[error("{} is not a run folder: it has no run.toml", path.display())]
    NotARun {
        /// The folder.
        path: PathBuf,
    },
    /// A training was ended there before it had anything to keep.
    #[error("the training in {} was ended before it began", path.display())]
    NeverBegan {
        /// The folder.
        path: PathBuf,
    },
    /// The run that is being worked in is not there any more.
    #[error("the run folder {} was moved or removed", path.display())]
    Vanished {
        /// Where it was.
        path: PathBuf,
    },
    /// Somebody works in the run.
    #[error("another program is working in {}", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// A file does not hold what it should.
    #[error("{} is damaged: {detail}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// The file's layout is from the future.
    #[error("{} was written by a newer version of this program (format {found}, this one reads {known})", path.display())]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its layout version.
        found: u32,
        /// The newest version this program reads.
        known: u32,
    },
}

impl ProjectError {
    /// For `map_err` on file operations.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }

    pub(super) fn damaged(path: &Path, detail: impl std::fmt::Display) -> Self {
        Self::Damaged {
            path: path.to_owned(),
            detail: detail.to_string(),
        }
    }
}
