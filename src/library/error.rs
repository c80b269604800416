//! What can go wrong with the library, and what to do about it.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::suits::gigabytes;
use crate::models::ModelError;
use crate::project::ProjectError;

/// Why a model could not be found, checked or fetched.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    /// No model of this name is known.
    #[error("no model is called {name:?}")]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// The model is known and not on this computer.
    #[error("{title} is not on this computer: {missing} of its {files} files are missing")]
    NotHere {
        /// What it is called.
        title: String,
        /// What to call it on the command line.
        name: String,
        /// Files that are missing.
        missing: usize,
        /// Its files.
        files: usize,
    },
    /// The network may not be used.
    #[error("nothing is downloaded: HF_HUB_OFFLINE is set")]
    Offline,
    /// This build knows no network.
    #[error("this build of the program cannot download anything")]
    NoNetwork,
    /// A variable names a proxy that is none.
    #[error("what {variable} names is no proxy that can be used")]
    NoProxy {
        /// The variable.
        variable: &'static str,
    },
    /// The hub wants to know who asks.
    #[error("{host} refuses {repo} (status {status})")]
    Refused {
        /// The hub.
        host: String,
        /// The model.
        repo: String,
        /// 401 or 403.
        status: u16,
        /// Whether a token was sent.
        with_token: bool,
    },
    /// The hub has no such thing.
    #[error("{host} has no {what}")]
    NotThere {
        /// The hub.
        host: String,
        /// A model, or a file of it.
        what: String,
    },
    /// The hub wants fewer questions.
    #[error("{host} says that there were too many requests{}", after(.retry_secs))]
    TooMany {
        /// The hub.
        host: String,
        /// Seconds after which it answers again, where it said so.
        retry_secs: Option<u64>,
    },
    /// The hub answered with something else.
    #[error("{host} answered {what} with status {status}")]
    Status {
        /// Who answered.
        host: String,
        /// What was asked for.
        what: String,
        /// The status.
        status: u16,
    },
    /// The hub could not be reached.
    #[error("{host} cannot be reached: {why}")]
    Unreachable {
        /// The hub.
        host: String,
        /// What the system says.
        why: String,
    },
    /// The connection was lost again and again.
    #[error("the connection was lost {times} times while {file} was fetched: {why}")]
    Dropped {
        /// Which file.
        file: String,
        /// How often in a row.
        times: u32,
        /// The last reason.
        why: String,
    },
    /// The answer is none of a hub.
    #[error("{host} does not answer as a hub does: {why}")]
    NoHub {
        /// Who answered.
        host: String,
        /// What is missing or odd.
        why: String,
    },
    /// The bytes that came are not those of the file.
    #[error("{file} came with wrong content: {why}; it was thrown away")]
    WrongContent {
        /// Which file.
        file: String,
        /// How that is known.
        why: String,
    },
    /// The disk has too little room.
    #[error(
        "the download takes {}, and {} are free in {}",
        gigabytes(*.needed),
        gigabytes(*.free),
        place.display()
    )]
    NoRoom {
        /// Bytes that are needed.
        needed: u64,
        /// Bytes that are free.
        free: u64,
        /// Where.
        place: PathBuf,
    },
    /// Somebody else fetches the same file.
    #[error("another program is downloading {file}")]
    Busy {
        /// Which file.
        file: String,
    },
    /// A file that is named by its checksum has another one.
    #[error("{} is damaged: its content has the checksum {found}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Its checksum.
        found: String,
    },
    /// It was asked to stop.
    #[error("it was cancelled")]
    Cancelled,
    /// A file could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The list of added folders.
    #[error("the list of models in {} cannot be used: {why}", path.display())]
    List {
        /// The list.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Another model has this name.
    #[error("{name:?} is the name of another model already")]
    Taken {
        /// The name.
        name: String,
    },
    /// A name nobody could type.
    #[error("{name:?} cannot be a model's name")]
    BadName {
        /// The name.
        name: String,
    },
    /// Files that others put there.
    #[error("{} was not downloaded by this program", place.display())]
    NotOurs {
        /// The model's folder.
        place: PathBuf,
    },
    /// The model's own files.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Writing the list.
    #[error(transparent)]
    Project(#[from] ProjectError),
}

fn after(secs: &Option<u64>) -> String {
    match secs {
        Some(secs) => format!("; it answers again in {secs} s"),
        None => String::new(),
    }
}

impl LibraryError {
    /// For `map_err` on file operations.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }

    /// What to do about it, in a sentence or two.
    #[must_use]
    pub fn advice(&self) -> String {
        match self {
            Self::Unknown { .. } => {
                "`spectral-motion models list` tells the names; any folder in diffusers layout joins them with `models add FOLDER`.".to_owned()
            }
            Self::NotHere { name, .. } => format!(
                "Get it with `spectral-motion models get {name}`, which tells size and licence first, or name a folder that has it."
            ),
            Self::Offline => "Unset HF_HUB_OFFLINE to download.".to_owned(),
            Self::NoNetwork => {
                "Use a build with the feature `hub`, or get the model by other means and add its folder with `models add FOLDER`.".to_owned()
            }
            Self::NoProxy { variable } => format!(
                "Set it to an address such as http://HOST:PORT or socks5h://HOST:PORT, or unset {variable} to go without a proxy."
            ),
            Self::Refused { repo, status, with_token, .. } => match (*with_token, *status) {
                (false, _) => format!(
                    "The model may be closed to guests: accept its licence at https://huggingface.co/{repo}, make a token at https://huggingface.co/settings/tokens and set HF_TOKEN to it."
                ),
                (true, 401) => "The hub does not know your token: make a new one at https://huggingface.co/settings/tokens and set HF_TOKEN to it.".to_owned(),
                (true, _) => format!(
                    "Accept the model's licence at https://huggingface.co/{repo} with the account your token belongs to."
                ),
            },
            Self::NotThere { .. } => {
                "It may have moved. Get the model by other means and add its folder with `models add FOLDER`.".to_owned()
            }
            Self::TooMany { .. } => "Wait a little, then try again; what is here already is kept.".to_owned(),
            Self::Status { .. } | Self::Dropped { .. } => {
                "Try again later: the download goes on where it ended.".to_owned()
            }
            Self::Unreachable { .. } => {
                "Check the connection (and HF_ENDPOINT, HTTPS_PROXY and ALL_PROXY where they are set), then try again: the download goes on where it ended.".to_owned()
            }
            Self::NoHub { .. } => {
                "Check HF_ENDPOINT; without it the program asks https://huggingface.co.".to_owned()
            }
            Self::WrongContent { .. } => {
                "Try again. If it happens again, something on the way changes the file (a proxy, a mirror).".to_owned()
            }
            Self::NoRoom { .. } => {
                "Make room on that disk, or set HF_HOME to a folder on another one.".to_owned()
            }
            Self::Busy { .. } => "Wait until it is done, then try again.".to_owned(),
            Self::Damaged { .. } => "Download the model again with `models get`; damaged files are replaced.".to_owned(),
            Self::Cancelled => "The download goes on where it ended.".to_owned(),
            Self::Io { source, .. } => advice_on(source.kind()).to_owned(),
            Self::List { .. } => "Correct the file, or move it away and add the folders again.".to_owned(),
            Self::Taken { .. } => "Give it another one with --name.".to_owned(),
            Self::BadName { .. } => {
                "Give it a name of letters, digits, '-', '_' and '.' with --name.".to_owned()
            }
            Self::NotOurs { .. } => "Other programs may use it. Delete that folder yourself if none does.".to_owned(),
            Self::Model(error) => error.advice(),
            Self::Project(_) => "Check that the disk is there, writable, and has free space.".to_owned(),
        }
    }

    /// Whether the disk is full.
    #[must_use]
    pub fn is_full_disk(&self) -> bool {
        match self {
            Self::NoRoom { .. } => true,
            Self::Io { source, .. } => {
                matches!(
                    source.kind(),
                    ErrorKind::StorageFull | ErrorKind::QuotaExceeded
                )
            }
            _ => false,
        }
    }
}

/// What to do when the system refuses a file of the cache.
fn advice_on(refused: ErrorKind) -> &'static str {
    match refused {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            "Make room on that disk, or set HF_HOME to a folder on another one; the download goes on where it ended."
        }
        ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => {
            "Set HF_HOME to a folder where you may write."
        }
        _ => "Check that the disk is there, writable, and has free space.",
    }
}
