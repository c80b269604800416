//! Making a film again from its recipe: the same training on the same clip, and the proof that it was the same.

use std::cell::Cell;
use std::path::{Path, PathBuf};

use super::context::JobContext;
use super::message::Event;
use super::model::{BUILTIN, BUILTIN_IMAGE};
use super::problem::Halt;
use super::request::{DeviceChoice, ResultRequest, TrainRequest};
use super::session::{Record, Session};
use super::work::{hash_file, train};
use crate::project::{Change, ClipRecord, Control, MoreClip, Recipe, RunFolder, RunRecord};
use crate::report::{Area, Report};
use crate::train::TransferConfig;
use crate::video;

/// Make a film again.
#[derive(Clone, Debug)]
pub struct ReplayRequest {
    /// What says how the film was made: the film itself, or a run.
    pub source: PathBuf,
    /// The clips it was made from, in their order.
    pub clips: Vec<PathBuf>,
    /// What leads ControlVideo.
    pub control: Control,
    /// Model folder; none is the built-in model.
    pub model: Option<PathBuf>,
    /// What computes.
    pub device: DeviceChoice,
    /// Where the run goes; none makes a new folder in the platform's data folder.
    pub run: Option<PathBuf>,
    /// Where the new film goes; its prompt is not read.
    pub result: ResultRequest,
    /// Whether to go on where clip or model are others than the recipe names.
    pub anyway: bool,
}

/// What a training that repeats another one is held against.
pub(super) struct Replay {
    recipe: Recipe<TransferConfig>,
    anyway: bool,
    /// Whether something else than the recipe names was put in its place.
    differs: Cell<bool>,
}

pub(super) fn replay(job: &mut JobContext, request: ReplayRequest) -> Result<(), Halt> {
    let recipe = recipe_of(&request.source)?;
    check_recipe(&recipe, &request)?;
    let mut clips = request.clips.into_iter();
    let first = clips.next().unwrap_or_default();
    let more = clips.zip(&recipe.more_clips).map(|(path, more)| MoreClip {
        path,
        subject: more.subject.clone(),
    });
    let more_clips = more.collect();
    let mut config = recipe
        .trained_settings
        .as_ref()
        .unwrap_or(&recipe.settings)
        .clone();
    // A film from the middle of a training needs no more of it.
    config.steps = recipe.trained_steps.unwrap_or(config.steps);
    let training = TrainRequest {
        clip: first,
        subject: recipe.subject.clone().unwrap_or_default(),
        more_clips,
        control: request.control,
        model: request.model,
        device: request.device,
        config,
        run: request.run,
        result: Some(ResultRequest {
            prompt: recipe.prompt.clone(),
            ..request.result
        }),
    };
    let replay = Replay {
        recipe,
        anyway: request.anyway,
        differs: Cell::new(false),
    };
    train(job, training, Some(&replay))
}

/// What a film says of itself, or the record of a run.
fn recipe_of(source: &Path) -> Result<Recipe<TransferConfig>, Halt> {
    if RunFolder::is_run(source) {
        let record: RunRecord<TransferConfig> = RunFolder::look(source)?;
        let prompt = record.prompt.clone().ok_or_else(|| {
            Report::new(Area::Request, "This run has no words for a result")
                .advise("Repeat it with `train` and the settings in its run.toml.")
        })?;
        let seed = record.settings.seed;
        let weights = RunFolder::final_weights_of(source);
        let tuned_sha256 = weights.is_file().then(|| hash_file(&weights)).transpose()?;
        return Ok(Recipe {
            tuned_sha256,
            ..Recipe::of_run(record, prompt, seed)
        });
    }
    let refused = |why: &str| {
        Report::new(
            Area::Request,
            format!("{} cannot be made again", source.display()),
        )
        .because(why)
    };
    let text = video::read_recipe(source)?.ok_or_else(|| {
        refused("It does not say how it was made.")
            .advise("Name a film that this program wrote, its folder of PNG files, or a run.")
    })?;
    serde_json::from_str(&text).map_err(|error| {
        let report = refused("What it says of how it was made cannot be understood.");
        let advice = "A newer version of this program may have written it.";
        report.because_of(&error).advise(advice).into()
    })
}

/// Refuses what no training leads to, and clips or a model that are missing.
fn check_recipe(recipe: &Recipe<TransferConfig>, request: &ReplayRequest) -> Result<(), Halt> {
    let refused = |headline: &str, advice: String| {
        Err(Report::new(Area::Request, headline).advise(advice).into())
    };
    if recipe.clip.is_none() {
        return refused(
            "The film was not made from a run",
            format!(
                "It was sampled from {} as it is, or with weights put on it: use `sample` with the same words and seed.",
                recipe.model_name
            ),
        );
    }
    if let Some(lora) = recipe.loras.first() {
        return refused(
            "The film was made with LoRA files, which a film does not hold",
            format!(
                "Repeat the training with `replay` from its run, then use `sample RUN --lora {}:{}`.",
                lora.name, lora.strength
            ),
        );
    }
    let (needed, given) = (1 + recipe.more_clips.len(), request.clips.len());
    if needed != given {
        let clips = std::iter::once(recipe.clip.as_ref())
            .flatten()
            .chain(recipe.more_clips.iter().map(|more| &more.clip));
        let names: Vec<_> = clips.map(|clip| clip.name.as_str()).collect();
        return refused(
            &format!("The film was made from {needed} clips, and there are {given}"),
            format!("Name them in this order: {}.", names.join(", ")),
        );
    }
    let is_builtin = [BUILTIN, BUILTIN_IMAGE].contains(&recipe.model_name.as_str());
    if request.model.is_none() && !is_builtin {
        return refused(
            &format!("The film was made with {}", recipe.model_name),
            "Name the model with --model, by its folder or as `models list` shows it.".to_owned(),
        );
    }
    Ok(())
}

impl Replay {
    /// What was changed while the first training went on.
    pub(super) fn changes(&self) -> Vec<Change> {
        self.recipe.changes.clone()
    }

    /// Refuses another clip or model than those of the recipe, or tells of it.
    pub(super) fn check(&self, job: &JobContext, record: &Record) -> Result<(), Halt> {
        let recipe = &self.recipe;
        let same =
            |wanted: &ClipRecord, found: &ClipRecord| wanted.pixels_sha256 == found.pixels_sha256;
        let first = recipe.clip.iter().map(|clip| (clip, &record.clip));
        let more = recipe.more_clips.iter().zip(&record.more_clips);
        let more = more.map(|(wanted, found)| (&wanted.clip, &found.clip));
        let other = first
            .chain(more)
            .find(|(wanted, found)| !same(wanted, found));
        if let Some((wanted, found)) = other {
            self.differs(
                job,
                format!("{} is not the clip that the film was made from", found.name),
                format!("Its pixels are others than those of {}.", wanted.name),
                "Name the original file; or use --anyway to give this clip's motion the same training.",
            )?;
        }
        if record.model.weights_sha256 != recipe.model_sha256 {
            self.differs(
                job,
                format!(
                    "{} is not the model that the film was made with",
                    record.model.name
                ),
                "Its weights have another checksum.".to_owned(),
                "Name the original model with --model; or use --anyway.",
            )?;
        }
        let (wanted, found) = (recipe.clip.as_ref().and_then(leads), leads(&record.clip));
        if wanted != found {
            let words = |note: Option<&str>| note.unwrap_or("Nothing leads it.").to_owned();
            self.differs(
                job,
                "Something else leads than when the film was made".to_owned(),
                format!("Then: {} Now: {}", words(wanted), words(found)),
                "Name what led with --condition; or use --anyway.",
            )?;
        }
        Ok(())
    }

    fn differs(
        &self,
        job: &JobContext,
        headline: String,
        cause: String,
        advice: &str,
    ) -> Result<(), Halt> {
        let report = Report::new(Area::Request, headline).because(cause);
        if self.anyway {
            self.differs.set(true);
            job.emit(Event::Warning(
                report.advise("The film will be another one."),
            ));
            return Ok(());
        }
        Err(report.advise(advice).into())
    }

    /// Says whether the training came to the same weights.
    pub(super) fn judge(&self, job: &JobContext, tuned_sha256: &str) {
        let text = match &self.recipe.tuned_sha256 {
            Some(wanted) if wanted == tuned_sha256 => {
                "The weights are those of the recipe, bit for bit.".to_owned()
            }
            Some(_) if self.differs.get() => {
                "The weights are others than those of the recipe, as what they learned from is."
                    .to_owned()
            }
            Some(_) => format!(
                "The weights are not those of the recipe to the bit: another processor, another number of --threads or another version \
                 of the program ({} then) rounds differently.",
                self.recipe.program
            ),
            None => "The recipe does not say which weights the training came to.".to_owned(),
        };
        job.emit(Event::Note { text });
    }

    /// Samples as the film was sampled.
    pub(super) fn turn_to_sampling(&self, session: &mut Session) {
        let trained = session.record.settings.clone();
        session.record.settings = TransferConfig {
            seed: self.recipe.seed,
            ..self.recipe.settings.clone()
        };
        session.trained_settings = self.recipe.trained_settings.as_ref().map(|_| trained);
        session.trained_steps = self.recipe.trained_steps;
        session.preview = self.recipe.preview;
    }
}

/// What the record of a clip says of what leads ControlVideo.
fn leads(clip: &ClipRecord) -> Option<&str> {
    let says = |note: &&String| note.contains(" lead it") || note.contains(" leads it");
    clip.notes.iter().find(says).map(String::as_str)
}
