//! Checkpoints: a folder that is written under a temporary name, synced and renamed, with hashes that tell damage.
//!
//! Whenever the program is killed, the folder of checkpoints is in one of these states, and [`Checkpoint::recover`] makes
//! a clean one of each:
//!
//! ```text
//! .step-000040.tmp    being written, or whole and not yet renamed: gets its name when it is whole, else it goes
//! .step-000040.old    made way for another one of its step: comes back unless that one is there
//! .step-000020.gone   no longer wanted: goes
//! ```

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::atomic::{sync_parent, temporary_name, write_synced};
use super::error::ProjectError;
use super::tensors::{TensorFile, sha256_hex};

/// Since format 2 the state has a checksum of its own.
const FORMAT: u32 = 2;
const WEIGHTS: &str = "weights.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";
/// Begins the name of every checkpoint.
const STEP: &str = "step-";

/// Everything that is not an array: where the training stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckpointState {
    /// Training steps done.
    pub step: u32,
    /// Optimiser updates done; the bias correction of Adam counts them.
    pub updates: u32,
    /// Updates of the single-frame pass, for methods that have one.
    #[serde(default)]
    pub spatial_updates: u32,
    /// Updates of the single-frame pass of the second clip and every further one, where each has weights of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more_spatial_updates: Vec<u32>,
    /// Position of the stream that draws timesteps.
    pub timestep_stream: u64,
    /// Position of the stream that draws noise.
    pub noise_stream: u64,
    /// Position of the stream that chooses frames, for methods that do.
    #[serde(default)]
    pub frame_stream: u64,
    /// What the loss is multiplied with in half precision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<f64>,
    /// Settings as they stand after live changes, by name.
    pub live: LiveSettings,
}

/// The settings that may change while a run goes on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LiveSettings {
    /// λg, weight of the global term.
    pub lambda_g: f64,
    /// λl, weight of the local term.
    pub lambda_l: f64,
    /// δ, low-frequency bias.
    pub delta: f64,
    /// Learning rate.
    pub learning_rate: f64,
    /// Steps between two previews, 0 for none.
    pub preview_every: u32,
}

#[derive(Deserialize)]
struct Header {
    format: u32,
}

#[derive(Serialize, Deserialize)]
struct StateFile {
    format: u32,
    weights_sha256: String,
    optimizer_sha256: String,
    /// Of the state as [`state_sha256`] writes it.
    state_sha256: String,
    #[serde(flatten)]
    state: CheckpointState,
}

/// A checkpoint in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// Where the training stands.
    pub state: CheckpointState,
    /// The trained weights.
    pub weights: TensorFile,
    /// The optimiser's moments.
    pub optimizer: TensorFile,
}

impl Checkpoint {
    /// Name of the folder for a step; [`Self::step_of`] reads it back.
    #[must_use]
    pub fn folder_name(step: u32) -> String {
        format!("{STEP}{step:06}")
    }

    /// The step in the name of a checkpoint's folder; none for other names.
    #[must_use]
    pub fn step_of(name: &OsStr) -> Option<u32> {
        let number = name.to_str()?.strip_prefix(STEP)?;
        let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| number.parse().ok()).flatten()
    }

    /// Writes `FOLDER/step-000040`. An older checkpoint of the same step is replaced.
    ///
    /// # Errors
    /// [`ProjectError::Io`]; what was there before is then still whole.
    pub fn write(&self, folder: &Path) -> Result<PathBuf, ProjectError> {
        let path = folder.join(Self::folder_name(self.state.step));
        let temporary = temporary_name(&path);
        let written = self
            .write_files(&temporary)
            .and_then(|()| take_place(&temporary, &path));
        if written.is_err() {
            fs::remove_dir_all(&temporary).ok();
        }
        written?;
        Ok(path)
    }

    fn write_files(&self, temporary: &Path) -> Result<(), ProjectError> {
        remove_if_there(temporary)?;
        // Not its parents: where the run is gone, nothing of it shall come back.
        fs::create_dir(temporary).map_err(ProjectError::io("create", temporary))?;
        let weights = self.weights.to_bytes(&temporary.join(WEIGHTS))?;
        let optimizer = self.optimizer.to_bytes(&temporary.join(OPTIMIZER))?;
        let path = temporary.join(STATE);
        let (weights_sha256, optimizer_sha256) = (sha256_hex(&weights), sha256_hex(&optimizer));
        let state = StateFile {
            format: FORMAT,
            state_sha256: state_sha256(&self.state, &path)?,
            weights_sha256,
            optimizer_sha256,
            state: self.state.clone(),
        };
        let state = serde_json::to_vec_pretty(&state)
            .map_err(|error| ProjectError::damaged(&path, error))?;
        write_synced(&temporary.join(WEIGHTS), &weights)?;
        write_synced(&temporary.join(OPTIMIZER), &optimizer)?;
        write_synced(&path, &state)?;
        sync_parent(&path)
    }

    /// Reads a checkpoint and checks its hashes.
    ///
    /// # Errors
    /// [`ProjectError::Damaged`] when a file is cut or changed, [`ProjectError::Io`] when one is missing,
    /// [`ProjectError::TooNew`].
    pub fn read(path: &Path) -> Result<Self, ProjectError> {
        let state_path = path.join(STATE);
        let damaged = |error: &dyn std::fmt::Display| ProjectError::damaged(&state_path, error);
        let text = fs::read(&state_path).map_err(ProjectError::io("read", &state_path))?;
        let header: Header = serde_json::from_slice(&text).map_err(|error| damaged(&error))?;
        if header.format > FORMAT {
            return Err(ProjectError::TooNew {
                path: state_path,
                found: header.format,
                known: FORMAT,
            });
        }
        let file: StateFile = serde_json::from_slice(&text).map_err(|error| damaged(&error))?;
        if file.state_sha256 != state_sha256(&file.state, &state_path)? {
            return Err(damaged(&NOT_AS_WRITTEN));
        }
        Ok(Self {
            weights: read_checked(&path.join(WEIGHTS), &file.weights_sha256)?,
            optimizer: read_checked(&path.join(OPTIMIZER), &file.optimizer_sha256)?,
            state: file.state,
        })
    }

    /// Removes a checkpoint, all of it at once.
    pub(super) fn retire(path: &Path) -> Result<(), ProjectError> {
        let gone = hidden_name(path, GONE);
        remove_if_there(&gone)?;
        fs::rename(path, &gone).map_err(ProjectError::io("remove", path))?;
        remove_if_there(&gone)
    }

    /// Finishes what a killed program left in a folder of checkpoints. Only for whoever holds the run's lock.
    pub(super) fn recover(folder: &Path) -> Result<(), ProjectError> {
        for path in interrupted(folder)? {
            let temporary = temporary_name(&path);
            let old = hidden_name(&path, OLD);
            if !path.exists() {
                let whole = Self::read(&temporary)
                    .is_ok_and(|saved| path.ends_with(Self::folder_name(saved.state.step)));
                let back = if whole { &temporary } else { &old };
                if back.exists() {
                    fs::rename(back, &path).map_err(ProjectError::io("rename", back))?;
                    sync_parent(&path)?;
                }
            }
            for left in [temporary, old, hidden_name(&path, GONE)] {
                // What cannot be removed is in nobody's way.
                fs::remove_dir_all(&left).ok();
            }
        }
        Ok(())
    }
}

const NOT_AS_WRITTEN: &str = "its contents are not what was written (the checksum differs)";
const OLD: &str = ".old";
const GONE: &str = ".gone";

fn hidden_name(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(ending);
    path.with_file_name(name)
}

fn remove_if_there(folder: &Path) -> Result<(), ProjectError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(ProjectError::io("remove", folder)(error))
        }
        _ => Ok(()),
    }
}

/// Gives a whole checkpoint its name. One that has the name makes way first, which leaves a moment with neither of them in
/// place; both are on the disk then, and [`Checkpoint::recover`] finds them.
fn take_place(temporary: &Path, path: &Path) -> Result<(), ProjectError> {
    let old = hidden_name(path, OLD);
    let replaces = path.exists();
    if replaces {
        remove_if_there(&old)?;
        fs::rename(path, &old).map_err(ProjectError::io("replace", path))?;
        sync_parent(path)?;
    }
    if let Err(error) = fs::rename(temporary, path) {
        if replaces {
            fs::rename(&old, path).map_err(ProjectError::io("restore", path))?;
        }
        return Err(ProjectError::io("rename", temporary)(error));
    }
    sync_parent(path)?;
    if replaces {
        // The new one is in place: what is left of the old one is swept by the next resume.
        remove_if_there(&old).ok();
    }
    Ok(())
}

/// The checkpoints whose hidden names are in a folder, by the names they would have.
fn interrupted(folder: &Path) -> Result<BTreeSet<PathBuf>, ProjectError> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder).map_err(ProjectError::io("read", folder))? {
        let name = entry.map_err(ProjectError::io("read", folder))?.file_name();
        let bare = name.to_str().and_then(|name| {
            let name = name.strip_prefix('.')?;
            let (bare, ending) = name.rsplit_once('.')?;
            matches!(ending, "tmp" | "old" | "gone").then_some(bare)
        });
        if let Some(bare) = bare.filter(|bare| Checkpoint::step_of(OsStr::new(bare)).is_some()) {
            found.insert(folder.join(bare));
        }
    }
    Ok(found)
}

/// SHA-256 of the state in its shortest JSON form; numbers come back from JSON bit for bit.
fn state_sha256(state: &CheckpointState, path: &Path) -> Result<String, ProjectError> {
    serde_json::to_vec(state)
        .map(|bytes| sha256_hex(&bytes))
        .map_err(|error| ProjectError::damaged(path, error))
}

fn read_checked(path: &Path, sha256: &str) -> Result<TensorFile, ProjectError> {
    let bytes = fs::read(path).map_err(ProjectError::io("read", path))?;
    if sha256_hex(&bytes) != sha256 {
        return Err(ProjectError::damaged(path, NOT_AS_WRITTEN));
    }
    TensorFile::from_bytes(path, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::project::PlainTensor;

    fn checkpoint(step: u32, weight: f32) -> Checkpoint {
        let mut weights = TensorFile::default();
        let tensor = PlainTensor::from_f32(&[2], &[weight, 1.0]);
        weights.tensors.insert("w".to_owned(), tensor);
        Checkpoint {
            state: CheckpointState {
                step,
                updates: step,
                spatial_updates: 0,
                more_spatial_updates: Vec::new(),
                loss_scale: None,
                timestep_stream: 3,
                noise_stream: u64::MAX,
                frame_stream: 0,
                live: LiveSettings {
                    lambda_g: 0.1,
                    lambda_l: 1.0 / 3.0,
                    delta: 0.05,
                    learning_rate: 1e-3,
                    preview_every: 0,
                },
            },
            optimizer: weights.clone(),
            weights,
        }
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Every state between two calls to the system in which a replacement can be cut off.
    #[test]
    fn a_replacement_cut_off_anywhere_leaves_one_whole_checkpoint() {
        let (old, new) = (checkpoint(4, 0.0), checkpoint(4, 1.0));
        let whole_new = tempfile::tempdir().unwrap();
        new.write(whole_new.path()).unwrap();
        let copy_new = |to: &Path, files: &[&str]| {
            fs::create_dir(to).unwrap();
            for file in files {
                fs::copy(
                    whole_new.path().join("step-000004").join(file),
                    to.join(file),
                )
                .unwrap();
            }
        };
        let all: &[&str] = &[WEIGHTS, OPTIMIZER, STATE];
        // How many of the three files are there, whether the last one is cut, and how far the renaming came.
        let mut cases = vec![];
        for files in 0..=3 {
            cases.push((files, true, 0));
            cases.push((files, false, 0));
        }
        cases.extend([(3, false, 1), (3, false, 2), (3, false, 3)]);
        for (files, cut, renames) in cases {
            let place = tempfile::tempdir().unwrap();
            let folder = place.path();
            let path = old.write(folder).unwrap();
            let temporary = temporary_name(&path);
            copy_new(&temporary, &all[..files]);
            if cut && files > 0 {
                let last = temporary.join(all[files - 1]);
                let bytes = fs::read(&last).unwrap();
                fs::write(&last, &bytes[..bytes.len() / 2]).unwrap();
            }
            let aside = hidden_name(&path, OLD);
            if renames >= 1 {
                fs::rename(&path, &aside).unwrap();
            }
            if renames >= 2 {
                fs::rename(&temporary, &path).unwrap();
            }
            if renames >= 3 {
                // Half removed.
                fs::remove_file(aside.join(STATE)).unwrap();
            }
            Checkpoint::recover(folder).unwrap();
            assert_eq!(names(folder), ["step-000004"], "{files} {cut} {renames}");
            let found = Checkpoint::read(&path).unwrap();
            assert_eq!(
                found,
                if renames == 0 {
                    old.clone()
                } else {
                    new.clone()
                }
            );
        }
    }

    #[test]
    fn a_new_checkpoint_cut_off_is_kept_when_whole_and_swept_when_not() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path();
        checkpoint(2, 0.0).write(folder).unwrap();
        let four = checkpoint(4, 0.0).write(folder).unwrap();
        fs::rename(&four, temporary_name(&four)).unwrap();
        let six = checkpoint(6, 0.0).write(folder).unwrap();
        fs::rename(&six, temporary_name(&six)).unwrap();
        fs::write(temporary_name(&six).join(OPTIMIZER), b"half").unwrap();
        // One that makes way and whose successor is not whole comes back.
        let eight = checkpoint(8, 0.0).write(folder).unwrap();
        fs::rename(&eight, hidden_name(&eight, OLD)).unwrap();
        fs::create_dir(temporary_name(&eight)).unwrap();
        // One that is no longer wanted stays away, whole or not.
        let one = checkpoint(1, 0.0).write(folder).unwrap();
        fs::rename(&one, hidden_name(&one, GONE)).unwrap();
        fs::write(folder.join(".mine.tmp"), b"a stranger's").unwrap();
        Checkpoint::recover(folder).unwrap();
        let expected = [".mine.tmp", "step-000002", "step-000004", "step-000008"];
        assert_eq!(names(folder), expected);
        for step in ["step-000002", "step-000004", "step-000008"] {
            Checkpoint::read(&folder.join(step)).unwrap();
        }
    }

    #[test]
    fn a_changed_number_in_the_state_is_noticed() {
        let place = tempfile::tempdir().unwrap();
        let path = checkpoint(4, 0.0).write(place.path()).unwrap();
        let state = path.join(STATE);
        let text = fs::read_to_string(&state).unwrap();
        assert_eq!(Checkpoint::read(&path).unwrap(), checkpoint(4, 0.0));
        for (from, to) in [
            ("\"step\": 4", "\"step\": 5"),
            ("0.05", "0.5"),
            ("18446744073709551615", "18446744073709551614"),
            ("state_sha256", "stale_sha256"),
        ] {
            assert!(text.contains(from), "{text}");
            fs::write(&state, text.replace(from, to)).unwrap();
            let error = Checkpoint::read(&path).unwrap_err();
            assert!(
                matches!(error, ProjectError::Damaged { .. }),
                "{to}: {error}"
            );
        }
    }

    #[test]
    fn a_checkpoint_of_a_folder_that_is_gone_does_not_bring_it_back() {
        let place = tempfile::tempdir().unwrap();
        let gone = place.path().join("run/checkpoints");
        let error = checkpoint(4, 0.0).write(&gone).unwrap_err();
        assert!(matches!(error, ProjectError::Io { .. }), "{error}");
        assert_eq!(names(place.path()), [""; 0]);
    }
}
