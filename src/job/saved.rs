//! Files of trained weights: what their header says, and how they are put on a model again.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Device;
use serde::{Deserialize, Serialize};

use super::context::JobContext;
use super::fitting::fit_for;
use super::message::Event;
use super::problem::{Halt, tensors};
use super::request::SamplingChanges;
use super::session::Record;
use crate::methods::{Method, Saved, Tuned};
use crate::models::{LoraFile, LoraFormat, ModelFolder};
use crate::project::{METADATA_KEY, TensorFile, sha256_hex};
use crate::report::{Area, Report};
use crate::train::{TransferConfig, load_weights};

/// A file may ask for samples of this many times the numbers the model was made for; a stranger's header gets no more.
const MOST_TIMES: usize = 16;

/// What a file of trained weights says of itself in its header, as JSON with the fields in this order. Names and hashes
/// only, no paths and no clock: equal trainings give equal files.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WeightsAbout {
    /// Version of the program that trained them.
    pub program: String,
    /// Method of the training.
    pub method: Method,
    /// Inner width of the adapters, where they are adapters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank: Option<usize>,
    /// Name of the model.
    pub model: String,
    /// SHA-256 of its weight files, by their path inside the model.
    pub model_sha256: BTreeMap<String, String>,
    /// Training steps.
    pub steps: u32,
    /// What the clip showed; of several clips this is the first one.
    pub subject: String,
    /// What the further clips showed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub more_subjects: Vec<String>,
    /// Frames of a clip.
    pub frames: usize,
    /// Width of a clip, in pixels.
    pub width: u32,
    /// Height of a clip, in pixels.
    pub height: u32,
    /// Frames per second of a clip.
    pub fps: f64,
}

impl WeightsAbout {
    /// What a run's file says.
    pub(super) fn of(record: &Record) -> Self {
        let settings = &record.settings;
        let more = record.more_clips.iter();
        Self {
            program: record.program.clone(),
            method: settings.method,
            rank: (settings.method == Method::MotionDirector).then_some(settings.rank),
            model: record.model.name.clone(),
            model_sha256: record.model.weights_sha256.clone(),
            steps: settings.steps,
            subject: record.subject.clone(),
            more_subjects: more.map(|more| more.subject.clone()).collect(),
            frames: record.clip.frames,
            width: record.clip.width,
            height: record.clip.height,
            fps: record.clip.fps,
        }
    }

    /// The text for a file's header.
    pub(super) fn text(&self) -> String {
        // Plain data with string keys always has a JSON form.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// What the header of a file of weights says; none for a file that another program wrote.
    ///
    /// # Errors
    /// When it is no file of weights.
    pub fn of_file(path: &Path) -> Result<Option<Self>, Halt> {
        // Other programs' files may be in half precision, or in names of their own.
        match LoraFile::open(path) {
            Ok(lora) if lora.is_lora() && lora.format() != LoraFormat::Own => {
                let about = lora.note(METADATA_KEY).unwrap_or_default();
                Ok(serde_json::from_str(about).ok())
            }
            _ => {
                let file = TensorFile::read(path).map_err(|error| refused(path, error.into()))?;
                Ok(Self::read(&file))
            }
        }
    }

    fn read(file: &TensorFile) -> Option<Self> {
        serde_json::from_str(&file.about).ok()
    }
}

/// A file of trained weights that fits a model.
pub(super) struct TrainedFile {
    file: TensorFile,
    saved: Saved,
    /// SHA-256 of the file.
    pub(super) sha256: String,
    /// What it says of itself.
    pub(super) about: Option<WeightsAbout>,
}

impl TrainedFile {
    /// Reads a file and holds it against the model.
    pub(super) fn open(path: &Path, folder: &ModelFolder) -> Result<Self, Halt> {
        let file = TensorFile::read(path).map_err(|error| refused(path, error.into()))?;
        Self::new(&path.display().to_string(), file, folder)
    }

    /// Holds what was read against the model; `name` says from where.
    pub(super) fn new(name: &str, file: TensorFile, folder: &ModelFolder) -> Result<Self, Halt> {
        let shapes = file.tensors.iter();
        let shapes = shapes
            .map(|(name, tensor)| (name.clone(), tensor.shape.clone()))
            .collect();
        Ok(Self {
            saved: Saved::check(name, shapes, folder)?,
            sha256: sha256_hex(&file.to_bytes(Path::new(name))?),
            about: WeightsAbout::read(&file),
            file,
        })
    }

    /// The method that left it.
    pub(super) fn method(&self) -> Method {
        self.saved.method()
    }

    /// How many tensors it holds.
    pub(super) fn count(&self) -> usize {
        self.file.tensors.len()
    }

    /// Only adapters have a strength, and none below zero.
    pub(super) fn check_strength(&self, strength: f64) -> Result<(), Halt> {
        let full = strength.to_bits() == 1.0_f64.to_bits();
        if full || self.method() == Method::MotionDirector && strength >= 0.0 {
            return Ok(());
        }
        Err(Report::new(Area::Request, format!("The file cannot act with strength {strength}"))
            .because("It holds weights of a training of this program: whole ones take the place of the model's, and adapters act from 0 up.")
            .advise("Leave the strength out.")
            .into())
    }

    /// Sets method and size of a sample, as far as the file says them, and refuses what it has no adapters for.
    pub(super) fn apply(
        &self,
        config: &mut TransferConfig,
        changes: &SamplingChanges,
        folder: &ModelFolder,
    ) -> Result<(), Halt> {
        config.method = self.saved.method();
        config.rank = self.saved.rank().unwrap_or(config.rank);
        config.steps = self.about.as_ref().map_or(0, |about| about.steps);
        refuse_scales(changes, config.method)?;
        let sets = self.saved.spatial_sets();
        if config.spatial_scale > 0.0 && sets == 0 {
            return Err(
                Report::new(Area::Request, "The file has no adapters for the look")
                    .because("It holds those of the motion only.")
                    .advise("Leave --spatial-scale out.")
                    .into(),
            );
        }
        config.check_for_clips(sets.max(1))?;
        let Some(about) = self.about.as_ref().filter(|about| about.frames > 1) else {
            return Ok(());
        };
        let limits = folder.clip_limits();
        let numbers = |frames: usize, (width, height): (usize, usize)| {
            frames.saturating_mul(width).saturating_mul(height)
        };
        let asked = numbers(about.frames, (about.width as usize, about.height as usize));
        let made_for = numbers(limits.default_frames, (limits.width, limits.height));
        let trained = TransferConfig {
            frames: Some(about.frames),
            size: Some((about.width, about.height)),
            ..config.clone()
        };
        let good = (1..=made_for.saturating_mul(MOST_TIMES)).contains(&asked);
        if good && fit_for(&trained, &limits).is_ok() {
            *config = trained;
        }
        Ok(())
    }

    /// Tells what the file is, and what is odd about it.
    pub(super) fn tell(&self, job: &JobContext, record: &Record) {
        let kind = match self.saved.rank() {
            Some(rank) => format!("adapters of rank {rank}"),
            None => "whole weights".to_owned(),
        };
        let note = |text: String| job.emit(Event::Note { text });
        let Some(about) = &self.about else {
            return note(format!(
                "The file holds {kind}; it does not say where it is from."
            ));
        };
        note(format!(
            "The file holds {kind}, trained for {} steps on \"{}\".",
            about.steps, about.subject
        ));
        if about.model_sha256 != record.model.weights_sha256 {
            note(format!(
                "They were trained with another model than this one ({}). They fit, but the motion may not come through.",
                about.model
            ));
        }
    }

    /// The network with the file's weights.
    pub(super) fn load(&self, folder: &ModelFolder, device: &Device) -> Result<Tuned, Halt> {
        let tuned = self.saved.load(folder, device)?;
        load_weights(&tuned.vars, &self.file)?;
        add_loras(folder, &tuned)?;
        Ok(tuned)
    }
}

/// Adds LoRA files to whole weights that were just put in the place of the model's own.
pub(super) fn add_loras(folder: &ModelFolder, tuned: &Tuned) -> Result<(), Halt> {
    let added = folder.loras().add_to_vars(&tuned.vars);
    added.map_err(tensors("The LoRA could not be added"))
}

/// Only adapters have a strength.
pub(super) fn refuse_scales(changes: &SamplingChanges, method: Method) -> Result<(), Halt> {
    let asked = changes.lora_scale.is_some() || changes.spatial_scale.is_some();
    if !asked || method == Method::MotionDirector {
        return Ok(());
    }
    Err(Report::new(Area::Request, "There are no adapters to scale")
        .because("--lora-scale and --spatial-scale act on the adapters of MotionDirector.")
        .advise("Leave them out, or name a run or a file of that method.")
        .into())
}

/// A file that cannot be read was named on the command line: it is no run that needs a backup.
fn refused(path: &Path, halt: Halt) -> Halt {
    match halt {
        Halt::Failed(report) => Halt::Failed(
            Report {
                area: Area::Request,
                ..report
            }
            .advise(format!(
                "Name a safetensors file that a training left, such as final/weights.safetensors in a run; {} is none.",
                path.display()
            )),
        ),
        Halt::Stopped => Halt::Stopped,
    }
}
