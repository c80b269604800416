//! What `run.toml` and the recipe inside an export say. `S` is the settings struct of the training.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Everything needed to repeat a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunRecord<S> {
    /// Version of this file's layout.
    pub format: u32,
    /// Version of the program that made the run.
    pub program: String,
    /// What the clip shows, in words; of several clips this is the first one.
    pub subject: String,
    /// What the result shall show; a run that only trains has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// The clip as it was used; of several clips this is the first one.
    pub clip: ClipRecord,
    /// Further clips of the same motion.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more_clips: Vec<MoreClipRecord>,
    /// The model that was trained.
    pub model: ModelRecord,
    /// Settings at the start.
    pub settings: S,
    /// What was changed while the run went on, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
}

impl<S> RunRecord<S> {
    /// How many clips the run learns from.
    #[must_use]
    pub fn clips(&self) -> usize {
        1 + self.more_clips.len()
    }

    /// Words and record of a clip by its number, from 0; the first one's where there is no such clip.
    #[must_use]
    pub fn clip(&self, index: usize) -> (&str, &ClipRecord) {
        match index.checked_sub(1).and_then(|at| self.more_clips.get(at)) {
            Some(more) => (&more.subject, &more.clip),
            None => (&self.subject, &self.clip),
        }
    }
}

/// Another clip of the same motion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MoreClipRecord {
    /// What it shows, in words.
    pub subject: String,
    /// The clip as it was used.
    pub clip: ClipRecord,
}

/// The clip as the run used it. The latents themselves are in the run's cache.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClipRecord {
    /// File name without its folder.
    pub name: String,
    /// SHA-256 of the fitted frames' pixels, so that the same cut of the same clip can be recognised.
    pub pixels_sha256: String,
    /// Frames after fitting.
    pub frames: usize,
    /// Width after fitting, in pixels.
    pub width: u32,
    /// Height after fitting, in pixels.
    pub height: u32,
    /// Frames per second after fitting.
    pub fps: f64,
    /// What was cropped, repeated or resampled, in plain words.
    pub notes: Vec<String>,
}

/// The model as the run used it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelRecord {
    /// Folder name without its path.
    pub name: String,
    /// Where the model was; none means the built-in model. Never written into an export.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folder: Option<String>,
    /// Where its ControlNet was, if that had a folder of its own. Never written into an export.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controlnet: Option<String>,
    /// SHA-256 of its weight files, by their path inside the model.
    pub weights_sha256: BTreeMap<String, String>,
}

/// A setting that was changed while the run went on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Holds from the step after this one.
    pub step: u32,
    /// Which setting, as commands name it.
    pub setting: String,
    /// Its new value.
    pub value: f64,
}

/// A LoRA that was added to a model's weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoraRecord {
    /// File name without its folder.
    pub name: String,
    /// SHA-256 of the file.
    pub sha256: String,
    /// How strongly it acts; 1 is what it was trained for.
    pub strength: f64,
}

/// What an exported film says about how it was made. Names and hashes only: a film is given away, so no paths.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recipe<S> {
    /// Layout version of the run's record.
    pub format: u32,
    /// Version of the program that made the film.
    pub program: String,
    /// What the clip shows; none without a clip.
    pub subject: Option<String>,
    /// What the film shall show.
    pub prompt: String,
    /// Seed of all noise.
    pub seed: u64,
    /// The clip whose motion it has; of several clips this is the first one.
    pub clip: Option<ClipRecord>,
    /// Further clips of the same motion.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more_clips: Vec<MoreClipRecord>,
    /// The model's name.
    pub model_name: String,
    /// SHA-256 of the model's weight files, by their path inside the model.
    pub model_sha256: BTreeMap<String, String>,
    /// SHA-256 of the fine-tuned weights; none means an untouched model.
    pub tuned_sha256: Option<String>,
    /// LoRA files that were added to the model's weights.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub loras: Vec<LoraRecord>,
    /// Training steps done when it was sampled, for a film from the middle of a training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trained_steps: Option<u32>,
    /// Whether it is a preview of that training, which has noise of its own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub preview: bool,
    /// Settings at the start of the training, and those of the sampling.
    pub settings: S,
    /// Settings of the training, where the film was sampled with others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trained_settings: Option<S>,
    /// What was changed while the run went on.
    #[serde(default)]
    pub changes: Vec<Change>,
}

impl<S> Recipe<S> {
    /// What the record of a run says of a film with these words.
    #[must_use]
    pub fn of_run(record: RunRecord<S>, prompt: String, seed: u64) -> Self {
        Self {
            format: record.format,
            program: record.program,
            subject: (!record.subject.is_empty()).then_some(record.subject),
            prompt,
            seed,
            clip: Some(record.clip),
            more_clips: record.more_clips,
            model_name: record.model.name,
            model_sha256: record.model.weights_sha256,
            tuned_sha256: None,
            loras: Vec::new(),
            trained_steps: None,
            preview: false,
            settings: record.settings,
            trained_settings: None,
            changes: record.changes,
        }
    }
}
