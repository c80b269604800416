use std::path::{Path, PathBuf};

/// What can go wrong with a run folder.
#[derive(Debug, thiserror::Error)]
pub enum ProjectError {
    #[error("cannot {action} {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{} already holds a run", path.display())]
    Exists { path: PathBuf },
    #[error("{} is not a run folder: it has no run.toml", path.display())]
    NotARun { path: PathBuf },
    #[error("another program is working in {}", path.display())]
    Locked { path: PathBuf },
    #[error("{} is damaged: {detail}", path.display())]
    Damaged { path: PathBuf, detail: String },
    #[error("{} was written by a newer version of this program (format {found}, this one reads {known})", path.display())]
    TooNew { path: PathBuf, found: u32, known: u32 },
}

impl ProjectError {
    /// For `map_err` on file operations.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    pub(super) fn damaged(path: &Path, detail: impl std::fmt::Display) -> Self {
        Self::Damaged { path: path.to_owned(), detail: detail.to_string() }
    }
}
