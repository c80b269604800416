//! What is said between a job and whoever watches it. Every type here is plain data with a serde form: `--json` prints
//! the events, `--commands -` reads the commands, and a worker on another machine can speak both.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::evaluate::{Scorecard, Summary};
use crate::project::lossy_path;
use crate::report::Report;
use crate::train::{StepStats, TransferConfig};

/// What may be asked of a running job. Each one is answered by at least one event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// Stop working after the current step and keep everything in memory.
    Pause,
    /// Go on after a pause.
    Resume,
    /// Change one setting of the training while it goes on.
    Set {
        /// Which one.
        setting: Setting,
        /// Its new value.
        value: f64,
    },
    /// Sample a preview as soon as the current step is done, also while paused.
    SampleNow {
        /// Other words than the run's; none keeps the run's prompt.
        #[serde(default)]
        prompt: Option<String>,
        /// Another seed; none keeps the run's seed.
        #[serde(default)]
        seed: Option<u64>,
    },
    /// Write a checkpoint as soon as the current step is done, also while paused.
    CheckpointNow,
    /// End the job. A training leaves a checkpoint that `resume` continues from.
    Stop,
}

/// The settings a running training accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Setting {
    /// λg, weight of the global (wavelet) term, at least 0.
    LambdaG,
    /// λl, weight of the local (Fourier) term, at least 0.
    LambdaL,
    /// δ, the low-frequency bias (an exponent), at least 0.
    Delta,
    /// Learning rate, above 0.
    LearningRate,
    /// Steps between two previews, 0 for none.
    PreviewEvery,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LambdaG => "λg",
            Self::LambdaL => "λl",
            Self::Delta => "δ",
            Self::LearningRate => "the learning rate",
            Self::PreviewEvery => "the preview interval",
        })
    }
}

/// The parts of a job, in the order in which they can come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Reading the clip and the model.
    Loading,
    /// Depth of the clip's frames, for a ControlNet.
    Estimating,
    /// Clip to latents, words to text embeddings.
    Encoding,
    /// Fine-tuning.
    Training,
    /// DDIM inversion of the clip.
    Inverting,
    /// Denoising the result.
    Sampling,
    /// Latents to pixels.
    Decoding,
    /// Writing the film.
    Exporting,
    /// Fetching a model; its steps are KiB.
    Downloading,
}

/// Why a job ended before it was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// A `Stop` command.
    Asked,
    /// Nobody listens to the job any more.
    WatcherGone,
}

/// What a job tells whoever watches it. [`Event::Finished`] is always the last one, also after a panic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The request is understood and begins.
    Started {
        /// Its settings, before the model's recommendations fill the gaps.
        config: Box<TransferConfig>,
    },
    /// The folder that keeps the run.
    RunFolder {
        /// Where it is.
        #[serde(serialize_with = "lossy_path::required")]
        path: PathBuf,
    },
    /// A part of the work begins.
    Stage {
        /// Which one.
        stage: Stage,
        /// Its steps, where that is known.
        total: Option<u32>,
    },
    /// Steps done of a stage other than training. May be dropped when the watcher is slow.
    Progress {
        /// Which stage.
        stage: Stage,
        /// Steps done.
        done: u32,
        /// Steps in all.
        total: u32,
    },
    /// One training step is done. May be dropped when the watcher is slow; `metrics.jsonl` has every one.
    Step(StepStats),
    /// How much each weight was pulled in a step: told of the first step and of every tenth. May be dropped when the
    /// watcher is slow.
    Gradients {
        /// Training steps done.
        step: u32,
        /// Norm of the gradient by the weight's name, before clipping.
        norms: BTreeMap<String, f64>,
    },
    /// Something to know: what was cropped, repeated or resampled.
    Note {
        /// Plain words.
        text: String,
    },
    /// A `Pause` was obeyed.
    Paused {
        /// Training steps done.
        step: u32,
    },
    /// A `Resume` was obeyed.
    Resumed {
        /// Training steps done.
        step: u32,
    },
    /// A `Set` was obeyed.
    Changed {
        /// It holds from the step after this one.
        step: u32,
        /// Which setting.
        setting: Setting,
        /// Its new value.
        value: f64,
    },
    /// A preview is on disk; its pixels are in [`super::JobHandle::preview`].
    PreviewReady {
        /// Training steps done.
        step: u32,
        /// Its words.
        prompt: String,
        /// The film.
        #[serde(serialize_with = "lossy_path::required")]
        path: PathBuf,
    },
    /// A checkpoint is on disk.
    CheckpointSaved {
        /// Training steps done.
        step: u32,
        /// Its folder.
        #[serde(serialize_with = "lossy_path::required")]
        path: PathBuf,
    },
    /// The fine-tuned weights are on disk.
    WeightsSaved {
        /// The file.
        #[serde(serialize_with = "lossy_path::required")]
        path: PathBuf,
    },
    /// The result is on disk.
    Exported {
        /// The film.
        #[serde(serialize_with = "lossy_path::required")]
        path: PathBuf,
        /// Where its recipe is kept.
        recipe_in: String,
    },
    /// A model was fetched and can be used.
    ModelReady {
        /// What it is called.
        name: String,
        /// Its folder.
        #[serde(serialize_with = "lossy_path::required")]
        path: PathBuf,
    },
    /// A result was compared with its reference.
    Scored {
        /// Every number that can be known of it.
        score: Box<Scorecard>,
    },
    /// A suite begins.
    Suite {
        /// Its cells.
        cells: u32,
        /// Those of them that are there already.
        kept: u32,
    },
    /// A cell of a suite is done.
    Cell {
        /// Its clip, seed, method and training.
        name: String,
        /// Cells done, those that were there included.
        done: u32,
        /// Cells in all.
        cells: u32,
        /// Seconds it took.
        secs: f64,
        /// Seconds the rest will take at the mean of the cells so far.
        left_secs: f64,
    },
    /// The table of a suite is on disk.
    Table {
        /// Its rows.
        summary: Box<Summary>,
        /// The folder of its files.
        #[serde(serialize_with = "lossy_path::required")]
        folder: PathBuf,
    },
    /// Something went wrong and the job goes on.
    Warning(Report),
    /// The job is over.
    Finished(Outcome),
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// Everything asked for is done.
    Completed,
    /// It was stopped before that.
    Cancelled {
        /// By whom.
        reason: StopReason,
    },
    /// It could not go on.
    Failed(Report),
}
