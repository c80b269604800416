//! `replay`: a film made again from what it says of itself, and its clip.

use std::path::PathBuf;

use clap::Args;

use super::args::{ControlArgs, ModelArgs, OutputArgs, ResultArgs};
use super::{Ending, watch};
use crate::job::{ReplayRequest, Request};
use crate::report::Report;

#[derive(Args)]
#[command(args_override_self = true)]
pub(super) struct ReplayArgs {
    /// A film that this program wrote, its folder of PNG files, or a run: it says with which words, settings and seed
    source: PathBuf,
    /// The clip it was made from; of several clips all, in their order
    #[arg(required = true, value_name = "CLIP")]
    clips: Vec<PathBuf>,
    /// Go on with another clip or model than the film was made from
    #[arg(long)]
    anyway: bool,
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
}

pub(super) fn run(args: &ReplayArgs) -> Result<Ending, Report> {
    let request = ReplayRequest {
        source: args.source.clone(),
        clips: args.clips.clone(),
        control: args.control.request()?,
        model: args.model.folder()?,
        device: args.model.device,
        run: args.run.clone(),
        result: args.result.request(""),
        anyway: args.anyway,
    };
    watch::run(
        Request::Replay(Box::new(request)),
        args.model.threads,
        &args.output,
    )
}
