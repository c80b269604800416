//! `transfer`: train, sample and export in one go.

use std::path::PathBuf;

use clap::{ArgMatches, Args};

use super::args::{ClipArgs, ControlArgs, ModelArgs, OutputArgs, ResultArgs, settings, words};
use super::{Ending, watch};
use crate::job::{Request, TrainRequest};
use crate::report::Report;
use crate::train::{Preset, TransferConfig};

// The last of repeated flags wins; a minus sign is a number out of range, not an unknown flag.
#[derive(Args)]
#[command(args_override_self = true, allow_negative_numbers = true)]
pub(super) struct TransferArgs {
    #[command(flatten)]
    clips: ClipArgs,
    /// What the result shall show
    #[arg(long, value_name = "WORDS")]
    prompt: String,
    /// Named settings; flags given beside it win
    #[arg(long, value_enum)]
    preset: Option<Preset>,
    /// Folder for the run [default: a new one in the platform's data folder]
    #[arg(long, value_name = "FOLDER")]
    run: Option<PathBuf>,
    #[command(flatten)]
    result: ResultArgs,
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    config: TransferConfig,
}

pub(super) fn run(args: &TransferArgs, flags: &ArgMatches) -> Result<Ending, Report> {
    let (first, more_clips) = args.clips.with_words()?;
    let request = TrainRequest {
        clip: first.path,
        subject: first.subject,
        more_clips,
        control: args.control.request()?,
        model: args.model.folder()?,
        device: args.model.device,
        config: settings(&args.config, flags, args.preset, &args.model)?,
        run: args.run.clone(),
        result: Some(args.result.request(&words("--prompt", &args.prompt)?)),
    };
    watch::run(
        Request::Train(Box::new(request)),
        args.model.threads,
        &args.output,
    )
}
