//! What stays on disk: run folders, checkpoints, recipes. Plain data only, no tensors library.
//!
//! ```text
//! RUN/run.toml                    everything needed to repeat the run: words, settings, seed, hashes, later changes
//! RUN/metrics.jsonl               one line for each training step
//! RUN/cache/*.safetensors         clip latents, text embeddings, inverted latents: a resume needs no clip
//! RUN/checkpoints/step-000040/    weights.safetensors, optimizer.safetensors, state.json
//! RUN/samples/                    previews and results
//! RUN/final/weights.safetensors   the fine-tuned weights
//! ```
//! Whatever is read back later is written under a temporary name, synced and renamed, so that a crash leaves either the
//! whole thing or nothing. A run is locked while a job works in it; whoever gets the lock sweeps what a killed program left.

mod atomic;
mod checkpoint;
mod document;
mod error;
mod lock;
pub mod lossy_path;
mod metrics;
mod record;
mod run;
mod tensors;

pub use atomic::{free_name, write_atomic};
pub use checkpoint::{Checkpoint, CheckpointState, LiveSettings};
pub use document::{Control, MoreClip, Project};
pub use error::ProjectError;
pub use lock::try_lock;
pub use record::{Change, ClipRecord, LoraRecord, ModelRecord, MoreClipRecord, Recipe, RunRecord};
pub use run::{RunFolder, default_runs_dir, run_format};
pub use tensors::{METADATA_KEY, PlainTensor, TensorFile, sha256_hex};
