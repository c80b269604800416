//! `open`: the window.

use std::path::PathBuf;

use clap::Args;

use super::Ending;
use super::args::model_folder;
use crate::gui::{self, Open};
use crate::report::Report;

#[derive(Args, Default)]
pub(super) struct OpenArgs {
    /// A film, a GIF, a folder of images, a run, a project, a film made here, a model's folder or trained weights [default: the
    /// sample clip]
    clip: Option<PathBuf>,
    /// Folder of a model in diffusers layout, or a name that `models list` shows [default: the built-in model]
    #[arg(long, value_name = "FOLDER|NAME")]
    model: Option<PathBuf>,
    /// Folder for runs and unsaved work [default: the platform's data folder]
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// For `./x bench ui`: train, take the time of the frames, print it as JSON and close
    #[arg(long, hide = true)]
    measure: bool,
}

pub(super) fn run(args: OpenArgs) -> Result<Ending, Report> {
    gui::open(Open {
        path: args.clip,
        model: args.model.as_deref().map(model_folder).transpose()?,
        data: args.data,
        measure: args.measure,
        ..Open::default()
    })?;
    Ok(Ending::Done)
}
