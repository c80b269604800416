//! Flags that several commands share.

use std::path::{Path, PathBuf};

use clap::builder::PossibleValue;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, ValueEnum};

use crate::job::{DeviceChoice, Halt, ResultRequest};
use crate::library::{Library, LibraryError};
use crate::methods::Method;
use crate::project::{Control, MoreClip};
use crate::report::{Area, Report};
use crate::train::{Preset, TransferConfig, explicit_over_preset, refuse_idle};

/// Which model, and what it runs on.
#[derive(Args)]
pub struct ModelArgs {
    /// Folder of a model in diffusers layout: text to video (ModelScope, ZeroScope), or Stable Diffusion 1.x for the methods
    /// that begin with an image model; or a name that `models list` shows [default: the built-in model of the kind that the
    /// method needs]
    #[arg(long, value_name = "FOLDER|NAME")]
    pub model: Option<PathBuf>,
    /// What computes
    #[arg(long, value_enum, default_value = "auto")]
    pub device: DeviceChoice,
    /// Processor threads [default: all]
    #[arg(long)]
    pub threads: Option<usize>,
}

impl ModelArgs {
    /// The model's folder, also where a name was given.
    ///
    /// # Errors
    /// When a model of that name is known and not here.
    pub fn folder(&self) -> Result<Option<PathBuf>, Report> {
        self.model.as_deref().map(model_folder).transpose()
    }
}

/// The folder that is meant: the one of this path, or that of a model of this name.
pub(super) fn model_folder(named: &Path) -> Result<PathBuf, Report> {
    let found = Library::from_environment().find(named).map_err(told)?;
    Ok(found.unwrap_or_else(|| named.to_owned()))
}

/// An error of the library in a person's words.
pub(super) fn told(error: LibraryError) -> Report {
    match Halt::from(error) {
        Halt::Failed(report) => report,
        Halt::Stopped => Report::new(Area::Run, "It was cancelled"),
    }
}

/// What leads ControlVideo.
#[derive(Args)]
pub struct ControlArgs {
    /// ControlVideo: folder of a ControlNet for the model, in diffusers layout, or a name that `models list` shows
    /// [default: `controlnet` in the model's folder; the built-in model has one for edges]
    #[arg(long, value_name = "FOLDER|NAME", help_heading = "ControlVideo")]
    pub controlnet: Option<PathBuf>,
    /// ControlVideo: what leads training and samples: `canny` draws the clip's edges; the folder of a Depth Anything model, or
    /// its name in `models list`, estimates the clip's depth; or a film, GIF or folder of edges, depth or poses, frame by frame
    /// that of the clip, as the ControlNet was trained on
    #[arg(
        long,
        value_name = "CANNY|MODEL|FILE",
        default_value = "canny",
        help_heading = "ControlVideo"
    )]
    pub condition: PathBuf,
}

impl ControlArgs {
    /// What they ask for.
    ///
    /// # Errors
    /// When a ControlNet of that name is known and not here.
    pub fn request(&self) -> Result<Control, Report> {
        let own = Some(self.condition.as_path()).filter(|named| named.as_os_str() != "canny");
        Ok(Control {
            controlnet: self.controlnet.as_deref().map(model_folder).transpose()?,
            clip: own.map(model_folder).transpose()?,
        })
    }
}

/// Where the film goes.
#[derive(Args)]
pub struct ResultArgs {
    /// The film: .mp4, .webm, .gif, or a folder for PNG frames [default: named after clip and prompt, here]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Replace the output file if there is one
    #[arg(long)]
    pub overwrite: bool,
    /// Shorter side of the film in pixels at least, up to 4096; smaller results are enlarged for watching, 0 keeps their size
    #[arg(long, default_value_t = 256, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(0..=4096))]
    pub scale_to: u32,
}

impl ResultArgs {
    /// The request for a film of `prompt`.
    #[must_use]
    pub fn request(&self, prompt: &str) -> ResultRequest {
        ResultRequest {
            prompt: prompt.to_owned(),
            output: self.output.clone(),
            overwrite: self.overwrite,
            scale_to: (self.scale_to > 0).then_some(self.scale_to),
        }
    }
}

/// How the command talks.
#[derive(Args)]
pub struct OutputArgs {
    /// Print one JSON event a line instead of progress
    #[arg(long)]
    pub json: bool,
    /// Read commands to the running job, one JSON object a line, from standard input (`-`)
    #[arg(long, value_name = "-", value_parser = ["-"])]
    pub commands: Option<String>,
}

/// The settings of a command line, checked.
pub(super) fn settings(
    typed: &TransferConfig,
    flags: &ArgMatches,
    preset: Option<Preset>,
    model: &ModelArgs,
) -> Result<TransferConfig, Report> {
    let refuse = |error: &dyn std::fmt::Display| {
        Report::new(Area::Request, "A setting cannot be used").because(error.to_string())
    };
    // A suite has several methods, and a preset may bring one.
    let chosen = flags.get_many("method").into_iter().flatten().copied();
    let mut methods: Vec<Method> = chosen.collect();
    if flags.value_source("method") != Some(ValueSource::CommandLine)
        && let Some(preset) = preset
    {
        methods.push(preset.config().map_err(|error| refuse(&error))?.method);
    }
    refuse_idle(flags, &methods).map_err(|error| refuse(&error))?;
    let config = explicit_over_preset(typed, flags, preset, model.model.is_none());
    let config = config.map_err(|error| refuse(&error))?;
    config.check().map_err(|error| refuse(&error))?;
    Ok(config)
}

/// The clips whose motion is learned, and their words.
#[derive(Args)]
pub struct ClipArgs {
    /// The film, GIF or folder of images whose motion is wanted; several that show the same motion are learned together
    #[arg(required = true, value_name = "CLIP")]
    pub clips: Vec<PathBuf>,
    /// What the clip shows, in a few words: subject and movement, without place and style. Once for all clips, or once for
    /// each in their order
    #[arg(long, value_name = "WORDS", required = true)]
    pub subject: Vec<String>,
}

impl ClipArgs {
    /// The first clip with its words, and the others with theirs.
    ///
    /// # Errors
    /// When words are missing, empty, or too many.
    pub fn with_words(&self) -> Result<(MoreClip, Vec<MoreClip>), Report> {
        let (clips, given) = (self.clips.len(), self.subject.len());
        if given != 1 && given != clips {
            let counted = |count: usize, what: &str| match count {
                1 => format!("1 {what}"),
                more => format!("{more} {what}s"),
            };
            return Err(Report::new(
                Area::Request,
                format!(
                    "{} and {} do not go together",
                    counted(clips, "clip"),
                    counted(given, "--subject")
                ),
            )
            .advise("Give --subject once for all clips, or once for each in their order."));
        }
        let named = self.clips.iter().zip(self.subject.iter().cycle());
        let named = named.map(|(path, subject)| {
            Ok(MoreClip {
                path: path.clone(),
                subject: words("--subject", subject)?,
            })
        });
        let mut named = named.collect::<Result<Vec<_>, Report>>()?.into_iter();
        match named.next() {
            Some(first) => Ok((first, named.collect())),
            None => Err(Report::new(Area::Request, "There is no clip")),
        }
    }
}

/// Fails for words that say nothing.
pub(super) fn words(flag: &str, text: &str) -> Result<String, Report> {
    let text = text.trim();
    if text.is_empty() {
        return Err(
            Report::new(Area::Request, format!("{flag} has no words")).advise(format!(
                "Say it in a few words, for example {flag} \"a red circle\"."
            )),
        );
    }
    Ok(text.to_owned())
}

impl ValueEnum for DeviceChoice {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Auto, Self::Cpu, Self::Cuda, Self::Metal]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Self::Auto => PossibleValue::new("auto")
                .help("A GPU if this build supports one, else the processor"),
            Self::Cpu => PossibleValue::new("cpu").help("The processor"),
            Self::Cuda => PossibleValue::new("cuda").help("An NVIDIA GPU"),
            Self::Metal => PossibleValue::new("metal").help("An Apple GPU"),
        })
    }
}
