//! The model of a job: opening it, knowing it again, and what it recommends.

use std::path::{Path, PathBuf};

use super::fitting::fit_for;
use super::lora::LoraRequest;
use super::problem::Halt;
use super::sampling::{GUIDANCE, SAMPLING_STEPS, sampler};
use super::saved::WeightsAbout;
use super::session::{Record, Session};
use crate::methods::{Method, Tuned};
use crate::models::{self, ModelFolder, ModelKind};
use crate::project::ModelRecord;
use crate::report::{Area, Report};
use crate::schedulers::ReferenceInversion;
use crate::train::TransferConfig;

/// Name of the built-in text-to-video model where a folder could be named.
pub const BUILTIN: &str = "builtin";
/// Name of the built-in image model.
pub(super) const BUILTIN_IMAGE: &str = "builtin-image";

/// Opens a model and holds its weight files against its configuration, so that a broken one is told before a clip is read.
/// Without a path it is the built-in one of this kind. `controlnet` is the folder of a ControlNet for it, in place of one of
/// its own.
pub(super) fn open_model(
    path: Option<&Path>,
    controlnet: Option<&Path>,
    kind: ModelKind,
) -> Result<ModelFolder, Halt> {
    let mut folder = match path {
        Some(path) => ModelFolder::open(path)?,
        None => models::builtin_of(kind)?,
    };
    if let Some(controlnet) = controlnet {
        folder = folder.with_controlnet(controlnet)?;
    }
    if path.is_some() || controlnet.is_some() {
        folder.check_weights()?;
    }
    Ok(folder)
}

/// The model that is named for a sample: its folder, or none and the kind of the built-in one. Trained weights that say by
/// which method they came go with a model of that method's kind.
pub(super) fn named_model<'a>(
    source: &'a Path,
    loras: &[LoraRequest],
) -> Result<(Option<&'a Path>, ModelKind), Halt> {
    if source.as_os_str() == BUILTIN_IMAGE {
        return Ok((None, ModelKind::Image));
    }
    if source.as_os_str() != BUILTIN {
        return Ok((Some(source), ModelKind::Video));
    }
    for lora in loras {
        if let Some(about) = WeightsAbout::of_file(&lora.file)? {
            return Ok((None, about.method.model_kind()));
        }
    }
    Ok((None, ModelKind::Video))
}

/// Refuses a method that begins with another kind of model than this one.
pub(super) fn check_method(method: Method, folder: &ModelFolder) -> Result<(), Halt> {
    let refuse = |why: String, advice: &str| {
        let headline = format!("{} cannot work with {}", method.name(), folder.name());
        let report = Report::new(Area::Request, headline);
        Err(report.because(why).advise(advice).into())
    };
    let needs = method.model_kind();
    if needs != folder.kind() {
        return match needs {
            ModelKind::Image => refuse(
                "It begins with a model for still pictures, and this one makes clips.".to_owned(),
                "Leave --model out for the built-in one, get Stable Diffusion with `models get sd15` and take it with --model sd15, name the folder of a Stable Diffusion 1.x model in diffusers layout, or choose --method vmc.",
            ),
            ModelKind::Video => refuse(
                "It needs a text-to-video model, and this one makes still pictures.".to_owned(),
                "Choose --method tune-a-video or control-video, or another model.",
            ),
        };
    }
    if method.is_controlled() && folder.controlnet_config().is_none() {
        return refuse(
            "There is no ControlNet in the model's folder.".to_owned(),
            "Get one with `models get controlnet-canny` and take it with --controlnet controlnet-canny, or name the folder of one for Stable Diffusion 1.x (edges, depth or poses).",
        );
    }
    Ok(())
}

/// Opens the model a run was made with and checks that it is still the same.
pub(super) fn open_recorded_model(record: &Record) -> Result<ModelFolder, Halt> {
    let path = |folder: &Option<String>| folder.as_ref().map(PathBuf::from);
    let (model, controlnet) = (path(&record.model.folder), path(&record.model.controlnet));
    let kind = record.settings.method.model_kind();
    let folder = open_model(model.as_deref(), controlnet.as_deref(), kind)?;
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
    if config.min_timestep >= levels {
        let headline = format!(
            "--min-timestep is {}, and the model's last timestep is {}",
            config.min_timestep,
            levels.saturating_sub(1)
        );
        return Err(Report::new(Area::Request, headline)
            .advise("Use a smaller one, or leave it out.")
            .into());
    }
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

/// Shape of a sample's latents, `[1, c, f, h, w]`: in the size of the settings, else in the one the model was made for.
pub(super) fn latent_shape(
    config: &TransferConfig,
    folder: &ModelFolder,
) -> Result<[usize; 5], Halt> {
    let fit = fit_for(config, &folder.clip_limits())?;
    let factor = folder.vae_config().factor();
    let channels = folder.vae_config().latent_channels;
    Ok([
        1,
        channels,
        fit.frames,
        fit.height as usize / factor,
        fit.width as usize / factor,
    ])
}

pub(super) fn load_unet(session: &Session) -> Result<Tuned, Halt> {
    let settings = &session.record.settings;
    Ok(settings.method.load(
        &session.folder,
        settings.tuning(session.record.clips()),
        &session.device,
    )?)
}

pub(super) fn model_record(folder: &ModelFolder, path: Option<&Path>) -> Result<ModelRecord, Halt> {
    // The folder that was opened, which may be a version inside the folder that was named.
    let whole = |dir: PathBuf| std::path::absolute(&dir).unwrap_or(dir);
    // A run keeps it as text, and has to find it again.
    let text = |dir: PathBuf| {
        let named = whole(dir).into_os_string().into_string();
        named.map_err(|name| {
            let headline = format!("The folder {} has a name that is no text", name.display());
            Report::new(Area::Model, headline)
                .advise("Rename the folder with letters, then try again.")
        })
    };
    let opened = path.map(|_| text(folder.source().locate("")));
    let opened = opened.transpose()?;
    let controlnet = folder.controlnet_dir().map(text).transpose()?;
    let builtin = match folder.kind() {
        ModelKind::Video => BUILTIN,
        ModelKind::Image => BUILTIN_IMAGE,
    };
    let name = path.map_or_else(|| builtin.to_owned(), |_| folder.name());
    Ok(ModelRecord {
        name,
        folder: opened,
        controlnet,
        weights_sha256: folder.weights_sha256()?,
    })
}
