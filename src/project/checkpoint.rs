//! Checkpoints: a folder that is written under a temporary name, synced and renamed, with hashes that tell damage.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::atomic::{sync_parent, temporary_name, write_synced};
use super::error::ProjectError;
use super::tensors::{TensorFile, sha256_hex};

const FORMAT: u32 = 1;
const WEIGHTS: &str = "weights.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";

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

#[derive(Serialize, Deserialize)]
struct StateFile {
    format: u32,
    weights_sha256: String,
    optimizer_sha256: String,
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
    /// Name of the folder for a step, so that names sort as steps do.
    #[must_use]
    pub fn folder_name(step: u32) -> String {
        format!("step-{step:06}")
    }

    /// Writes `FOLDER/step-000040`. An older checkpoint of the same step is replaced.
    ///
    /// # Errors
    /// [`ProjectError::Io`]; what was there before is then still whole.
    pub fn write(&self, folder: &Path) -> Result<PathBuf, ProjectError> {
        let path = folder.join(Self::folder_name(self.state.step));
        let temporary = temporary_name(&path);
        let replaced = folder.join(format!(".{}.old", Self::folder_name(self.state.step)));
        let written = self.write_files(&temporary).and_then(|()| {
            if path.exists() {
                fs::rename(&path, &replaced).map_err(ProjectError::io("replace", &path))?;
            }
            fs::rename(&temporary, &path).map_err(ProjectError::io("rename", &temporary))
        });
        if replaced.exists() {
            fs::remove_dir_all(&replaced).map_err(ProjectError::io("clear", &replaced))?;
        }
        if written.is_err() {
            fs::remove_dir_all(&temporary).ok();
        }
        written?;
        sync_parent(&path)?;
        Ok(path)
    }

    fn write_files(&self, temporary: &Path) -> Result<(), ProjectError> {
        if temporary.exists() {
            fs::remove_dir_all(temporary).map_err(ProjectError::io("clear", temporary))?;
        }
        fs::create_dir_all(temporary).map_err(ProjectError::io("create", temporary))?;
        let weights = self.weights.to_bytes(&temporary.join(WEIGHTS))?;
        let optimizer = self.optimizer.to_bytes(&temporary.join(OPTIMIZER))?;
        let state = StateFile {
            format: FORMAT,
            weights_sha256: sha256_hex(&weights),
            optimizer_sha256: sha256_hex(&optimizer),
            state: self.state.clone(),
        };
        let path = temporary.join(STATE);
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
    /// [`ProjectError::Damaged`] when a file is missing, cut or changed; [`ProjectError::TooNew`].
    pub fn read(path: &Path) -> Result<Self, ProjectError> {
        let state_path = path.join(STATE);
        let text = fs::read(&state_path).map_err(ProjectError::io("read", &state_path))?;
        let file: StateFile = serde_json::from_slice(&text)
            .map_err(|error| ProjectError::damaged(&state_path, error))?;
        if file.format > FORMAT {
            return Err(ProjectError::TooNew {
                path: state_path,
                found: file.format,
                known: FORMAT,
            });
        }
        Ok(Self {
            weights: read_checked(&path.join(WEIGHTS), &file.weights_sha256)?,
            optimizer: read_checked(&path.join(OPTIMIZER), &file.optimizer_sha256)?,
            state: file.state,
        })
    }
}

fn read_checked(path: &Path, sha256: &str) -> Result<TensorFile, ProjectError> {
    let bytes = fs::read(path).map_err(ProjectError::io("read", path))?;
    if sha256_hex(&bytes) != sha256 {
        return Err(ProjectError::damaged(
            path,
            "its contents are not what was written (the checksum differs)",
        ));
    }
    TensorFile::from_bytes(path, &bytes)
}
