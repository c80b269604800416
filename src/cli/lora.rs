//! `lora`: adapters for other programs, and a look into theirs.

use std::path::{Path, PathBuf};

use clap::builder::PossibleValue;
use clap::{Args, Subcommand, ValueEnum};

use super::Ending;
use super::args::model_folder;
use crate::job::{LoraExport, LoraNames, LoraReport, LoraShare, check_lora, export_lora};
use crate::report::{Area, Report};

/// Names that are printed of a long list.
const SHOWN: usize = 8;

#[derive(Args)]
pub(super) struct LoraArgs {
    #[command(subcommand)]
    command: LoraCommand,
}

#[derive(Subcommand)]
enum LoraCommand {
    /// Write what MotionDirector trained as a LoRA that other programs read
    Export(ExportArgs),
    /// Tell what a LoRA file is, and whether it fits a model
    Check(CheckArgs),
}

#[derive(Args)]
struct ExportArgs {
    /// A run folder, or the final/weights.safetensors of one
    source: PathBuf,
    /// The file to write, ending in .safetensors
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// Names of the tensors
    #[arg(long, value_enum, default_value = "diffusers")]
    format: LoraNames,
    /// Which adapters: those of the motion, which samples use, those of the clip's look, or both
    #[arg(long, value_enum, default_value = "motion")]
    part: LoraShare,
    /// Whose look, where several clips have one each, from 1
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    clip: usize,
    /// Replace the file if there is one
    #[arg(long)]
    overwrite: bool,
}

#[derive(Args)]
struct CheckArgs {
    /// The LoRA: .safetensors, or PyTorch's .pt or .bin
    file: PathBuf,
    /// Folder of the model that it shall be put on, or a name that `models list` shows [default: the built-in model]
    #[arg(long, value_name = "FOLDER|NAME")]
    model: Option<PathBuf>,
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &LoraArgs) -> Result<Ending, Report> {
    match &args.command {
        LoraCommand::Export(args) => export(args),
        LoraCommand::Check(args) => check(args),
    }
}

fn export(args: &ExportArgs) -> Result<Ending, Report> {
    let written = export_lora(&LoraExport {
        source: args.source.clone(),
        to: args.to.clone(),
        names: args.format,
        share: args.part,
        clip: args.clip,
        overwrite: args.overwrite,
    })?;
    tell!(
        "{} layers of the motion and {} of the look, rank {}.",
        written.motion_layers,
        written.look_layers,
        written.rank
    );
    put!("{}", args.to.display());
    Ok(Ending::Done)
}

fn check(args: &CheckArgs) -> Result<Ending, Report> {
    let model = args.model.as_deref().map(model_folder).transpose()?;
    let found = check_lora(&args.file, model.as_deref())?;
    if args.json {
        // Plain data with string keys always has a JSON form.
        put!("{}", serde_json::to_string(&found).unwrap_or_default());
    } else {
        print(&found);
    }
    match found.fits {
        true => Ok(Ending::Done),
        false => Err(misfit(&args.file, &found)),
    }
}

fn print(found: &LoraReport) {
    put!("Format   {}", found.format);
    match found.ranks {
        Some((least, most)) if least == most => put!("Rank     {least}"),
        Some((least, most)) => put!("Rank     {least} to {most}"),
        None => {}
    }
    put!(
        "Matched  {} layers of the network, {} of the text encoder of {}",
        found.unet_layers,
        found.text_layers,
        found.model
    );
    for (what, lines) in [("Unmatched", &found.unmatched), ("Wrong", &found.wrong)] {
        if lines.is_empty() {
            continue;
        }
        put!("{what}  {}", lines.len());
        for line in lines.iter().take(SHOWN) {
            put!("  {line}");
        }
        if lines.len() > SHOWN {
            put!("  and {} more", lines.len() - SHOWN);
        }
    }
    for remark in &found.remarks {
        put!("Note     {remark}");
    }
    if let Some(about) = &found.about {
        put!(
            "Trained  {}, {} steps on \"{}\", with {}",
            about.method.name(),
            about.steps,
            about.subject,
            about.model
        );
    }
}

fn misfit(file: &Path, found: &LoraReport) -> Report {
    let headline = format!("{} does not fit {}", file.display(), found.model);
    Report::new(Area::Request, headline)
        .advise("Name the model that it was made for with --model FOLDER.")
}

impl ValueEnum for LoraNames {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Diffusers, Self::Peft, Self::Kohya]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Self::Diffusers => {
                PossibleValue::new("diffusers").help("unet.{layer}.lora.down.weight")
            }
            Self::Peft => PossibleValue::new("peft")
                .help("unet.{layer}.lora_A.weight, as diffusers writes them since 0.22"),
            Self::Kohya => {
                PossibleValue::new("kohya").help("lora_unet_{layer}.lora_down.weight with .alpha")
            }
        })
    }
}

impl ValueEnum for LoraShare {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Motion, Self::Look, Self::Both]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Self::Motion => PossibleValue::new("motion").help("Layers that see all frames"),
            Self::Look => PossibleValue::new("look").help("Layers that see one frame"),
            Self::Both => PossibleValue::new("both").help("All of them"),
        })
    }
}
