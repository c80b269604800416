//! The model of a job: opening it, knowing it again, and what it recommends.

use std::path::Path;

use super::problem::Halt;
use super::sampling::{GUIDANCE, SAMPLING_STEPS, sampler};
use super::session::{Record, Session};
use crate::methods::Tuned;
use crate::models::{self, ModelFolder};
use crate::project::ModelRecord;
use crate::report::{Area, Report};
use crate::schedulers::ReferenceInversion;
use crate::train::TransferConfig;

/// Name of the built-in model where a folder could be named.
pub(super) const BUILTIN: &str = "builtin";

/// Opens a model and holds its weight files against its configuration, so that a broken one is told before a clip is read.
pub(super) fn open_model(path: Option<&Path>) -> Result<ModelFolder, Halt> {
    let Some(path) = path else {
        return Ok(models::builtin()?);
    };
    let folder = ModelFolder::open(path)?;
    folder.check_weights()?;
    Ok(folder)
}

/// Opens the model a run was made with and checks that it is still the same.
pub(super) fn open_recorded_model(record: &Record) -> Result<ModelFolder, Halt> {
    let folder = open_model(record.model.folder.as_deref().map(Path::new))?;
    if folder.weights_sha256()? != record.model.weights_sha256 {
        return Err(Report::new(
            Area::Model,
            format!(
                "The model {} is not the one this run was made with",
                record.model.name
            ),
        )
        .because("Its weights have another checksum.")
        .advise("Put the original model back, or train the clip again.")
        .into());
    }
    Ok(folder)
}

/// Fills in what was left to the model, and refuses a sampler or sampling steps its schedule cannot make before time is
/// spent.
pub(super) fn recommended(config: &mut TransferConfig, folder: &ModelFolder) -> Result<(), Halt> {
    let card = folder.card();
    let steps = config
        .sampling_steps
        .or(card.steps)
        .unwrap_or(SAMPLING_STEPS);
    config.sampling_steps = Some(steps);
    config.guidance = config.guidance.or(card.guidance).or(Some(GUIDANCE));
    let (schedule, share) = (folder.scheduler(), config.inverted_share());
    sampler(schedule, config.sampler, steps, share)?;
    ReferenceInversion::new(schedule, steps)?;
    Ok(())
}

/// Refuses a schedule at whose levels this training cannot work, before time is spent.
pub(super) fn check_training(config: &TransferConfig, folder: &ModelFolder) -> Result<(), Halt> {
    let schedule = folder.scheduler();
    let levels = u32::try_from(schedule.num_train_timesteps).unwrap_or(u32::MAX);
    let (_, end) = config.timestep_range(levels);
    schedule.check_training(end).map_err(|error| {
        Report::new(
            Area::Model,
            "The model cannot be trained with these settings",
        )
        .because_of(&error)
        .advise(format!(
            "Use --max-timestep {} or less.",
            end.saturating_sub(2)
        ))
        .into()
    })
}

/// Shape of a clip's latents in the size the model was made for, `[1, c, f, h, w]`.
pub(super) fn latent_shape(folder: &ModelFolder) -> [usize; 5] {
    let limits = folder.clip_limits();
    let factor = folder.vae_config().factor();
    let channels = folder.vae_config().latent_channels;
    [
        1,
        channels,
        limits.default_frames,
        limits.height / factor,
        limits.width / factor,
    ]
}

pub(super) fn load_unet(session: &Session) -> Result<Tuned, Halt> {
    let settings = &session.record.settings;
    Ok(settings
        .method
        .load(&session.folder, settings.tuning(), &session.device)?)
}

pub(super) fn model_record(folder: &ModelFolder, path: Option<&Path>) -> Result<ModelRecord, Halt> {
    // The folder that was opened, which may be a version inside the folder that was named.
    let opened = path.map(|_| {
        let dir = folder.source().locate("");
        std::path::absolute(&dir).unwrap_or(dir)
    });
    let name = path.map_or_else(|| BUILTIN.to_owned(), |_| folder.name());
    Ok(ModelRecord {
        name,
        folder: opened.map(|dir| dir.to_string_lossy().into_owned()),
        weights_sha256: folder.weights_sha256()?,
    })
}
