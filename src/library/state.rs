//! Whether a model is here and whole.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::cache::checksum_of;
use super::catalogue::{Kind, Known, Wanted};
use super::error::LibraryError;
use super::{GoOn, Progress, Result};
use crate::models::{DepthAnything, Mistake, ModelError, ModelFolder, resolve_network};

/// How deep a model's files lie at most.
const DEPTH: usize = 2;

/// What there is of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// Every file is there, and the names and shapes of the weights are those of its networks.
    Present,
    /// Files are missing.
    Missing {
        /// Which ones.
        files: Vec<String>,
        /// Bytes of it that are here, of a download that did not end.
        here_bytes: u64,
    },
    /// A file is not what it should be.
    Broken {
        /// Which one and why, in words.
        why: String,
        /// What to do about it.
        advice: String,
    },
}

impl State {
    /// Whether it can be used.
    #[must_use]
    pub fn is_present(&self) -> bool {
        *self == Self::Present
    }

    /// One word.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Present => "present",
            Self::Missing { here_bytes: 0, .. } => "missing",
            Self::Missing { .. } => "unfinished",
            Self::Broken { .. } => "broken",
        }
    }

    pub(super) fn of_error(error: &ModelError) -> Self {
        Self::Broken {
            why: error.to_string(),
            advice: error.advice(),
        }
    }
}

/// Opens a folder with the reader of its kind and compares names and shapes of the weights. None is read.
///
/// # Errors
/// What the reader says.
pub(super) fn open(folder: &Path, kind: Kind) -> std::result::Result<(), ModelError> {
    match kind {
        Kind::Model(wanted) => {
            let model = ModelFolder::open(folder)?;
            if model.kind() != wanted {
                return Err(ModelError::Unsupported {
                    what: "another kind of model at this place".to_owned(),
                });
            }
            model.check_weights()
        }
        Kind::ControlNet => ModelFolder::check_controlnet(folder),
        Kind::Depth => DepthAnything::check(folder),
    }
}

/// What a folder holds, be it a model or something that goes beside one.
///
/// # Errors
/// What the reader says.
pub(super) fn kind_of(folder: &Path) -> std::result::Result<Kind, ModelError> {
    if DepthAnything::is_folder(folder) {
        return open(folder, Kind::Depth).map(|()| Kind::Depth);
    }
    // In Hugging Face's cache it is the version in use that has the files.
    let network = resolve_network(folder);
    let has = |file: &str| network.as_ref().is_ok_and(|at| at.join(file).is_file());
    if has("config.json") && !has("model_index.json") {
        let checked = ModelFolder::check_controlnet(folder);
        // Of another network the reader of models tells more: which part of which model it is.
        if !matches!(checked, Err(ModelError::Unsupported { .. })) {
            return checked.map(|()| Kind::ControlNet);
        }
    }
    let model = match (ModelFolder::open(folder), network) {
        // It is no model's folder of the cache; as a network's it may have versions none of which is in use.
        (
            Err(ModelError::Mistaken {
                mistake: Mistake::NoSnapshot { versions: 0 },
                ..
            }),
            Err(error),
        ) => return Err(error),
        (model, _) => model?,
    };
    model.check_weights()?;
    Ok(Kind::Model(model.kind()))
}

/// The state of a model of the catalogue in a folder.
pub(super) fn of_known(known: &Known, folder: &Path, here_bytes: u64) -> State {
    match open(folder, known.kind) {
        Ok(()) => State::Present,
        Err(
            error @ (ModelError::Incomplete { .. }
            | ModelError::NotAModelFolder { .. }
            | ModelError::NotAControlNet { .. }),
        ) => {
            let files = missing(known.files, folder);
            match files.is_empty() {
                // What is missing is not a file of the catalogue: a shard, for example.
                true => State::of_error(&error),
                false => State::Missing { files, here_bytes },
            }
        }
        Err(error) => State::of_error(&error),
    }
}

/// The state of a folder that a person added.
pub(super) fn of_added(folder: &Path) -> (Option<Kind>, State) {
    match kind_of(folder) {
        Ok(kind) => (Some(kind), State::Present),
        Err(ModelError::Incomplete { missing, .. }) => {
            let here_bytes = 0;
            let files = missing;
            (None, State::Missing { files, here_bytes })
        }
        Err(error) => (None, State::of_error(&error)),
    }
}

/// Files a model cannot do without of which no form is in a folder.
pub(super) fn missing(files: &[Wanted], folder: &Path) -> Vec<String> {
    let has = |name: &str| folder.join(name).is_file();
    let missing = files
        .iter()
        .filter(|file| !file.is_optional && !file.names.iter().any(|name| has(name)));
    missing.map(|file| file.names[0].to_owned()).collect()
}

/// Takes the checksums of the files in a folder whose names say them: those that are links into a cache. Gives their number.
///
/// # Errors
/// [`LibraryError::Damaged`] with the first file that has another content.
pub(super) fn check_content(folder: &Path, go_on: GoOn<'_>) -> Result<usize> {
    let named: Vec<_> = files_in(folder, DEPTH)
        .into_iter()
        .filter_map(|file| Some((checksum_of(&file)?, file)))
        .collect();
    let size = |file: &Path| fs::metadata(file).map_or(0, |metadata| metadata.len());
    let total_bytes = named.iter().map(|(_, file)| size(file)).sum();
    let mut before = 0;
    for (checksum, file) in &named {
        let shown = file.strip_prefix(folder).unwrap_or(file);
        let shown = shown.to_string_lossy();
        let mut tell = |done| {
            go_on(&Progress {
                file: &shown,
                done_bytes: before + done,
                total_bytes,
            })
        };
        match checksum.differs(file, &mut tell) {
            Ok(None) => {}
            Ok(Some(found)) => {
                let path = file.clone();
                return Err(LibraryError::Damaged { path, found });
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {
                return Err(LibraryError::Cancelled);
            }
            Err(error) => return Err(LibraryError::io("read", file)(error)),
        }
        before += size(file);
    }
    Ok(named.len())
}

/// The files in a folder and in those inside it, sorted.
pub(super) fn files_in(folder: &Path, depth: usize) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            if depth > 0 {
                found.extend(files_in(&path, depth - 1));
            }
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}
