//! `open`: the window.

use std::path::PathBuf;

use clap::Args;

use super::Ending;
use crate::gui::{self, Open};
use crate::report::Report;

#[derive(Args, Default)]
pub(super) struct OpenArgs {
    /// A film, a GIF, a folder of images, a run, a project, or a film made here [default: the sample clip]
    clip: Option<PathBuf>,
    /// Folder of a text-to-video model in diffusers layout [default: the built-in model]
    #[arg(long, value_name = "FOLDER")]
    model: Option<PathBuf>,
    /// Folder for runs and unsaved work [default: the platform's data folder]
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// Train, take the time of the frames, print it as JSON and close
    #[arg(long)]
    measure: bool,
}

pub(super) fn run(args: OpenArgs) -> Result<Ending, Report> {
    gui::open(Open {
        path: args.clip,
        model: args.model,
        data: args.data,
        measure: args.measure,
    })?;
    Ok(Ending::Done)
}
