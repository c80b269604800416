//! `inspect`: the command around the pictures and numbers of `inspect.rs`.

use std::path::PathBuf;

use clap::Args;

use super::Ending;
use super::inspect::{InspectOptions, inspect};
use crate::job::Halt;
use crate::project::free_name;
use crate::report::{Area, Report};
use crate::video::{self, Limits};

#[derive(Args)]
pub(super) struct InspectArgs {
    /// The film, GIF or folder of images to look at
    clip: PathBuf,
    /// Folder for pictures and inspect.json [default: a new one named after the clip, here]
    #[arg(short, long, value_name = "FOLDER")]
    output: Option<PathBuf>,
    /// Frames looked at, from the start
    #[arg(long, default_value_t = 24)]
    frames: usize,
    /// Replace what is in the folder
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    options: InspectOptions,
}

pub(super) fn run(args: &InspectArgs) -> Result<Ending, Report> {
    if let Some(folder) = args.output.as_deref().filter(|_| !args.overwrite)
        && folder
            .read_dir()
            .is_ok_and(|mut inside| inside.next().is_some())
    {
        let headline = format!("{} exists already", folder.display());
        return Err(Report::new(Area::Request, headline)
            .because("There is something in the folder.")
            .advise("Choose another name, or ask for it to be replaced with --overwrite."));
    }
    let limits = Limits {
        max_frames: args.frames,
        ..Limits::default()
    };
    let clip = match video::load(&args.clip, &limits, &|| false).map_err(Halt::from) {
        Ok(clip) => clip,
        Err(Halt::Failed(report)) => return Err(report),
        Err(Halt::Stopped) => return Ok(Ending::Cancelled),
    };
    for note in &clip.notes {
        tell!("Note: {note}");
    }
    let folder = args.output.clone().unwrap_or_else(|| {
        let stem = args.clip.file_stem().unwrap_or_default().to_string_lossy();
        free_name("".as_ref(), &format!("{stem} - motion"), "")
    });
    inspect(&clip, &args.options, &folder).map_err(|error| {
        let mut report = Report::new(Area::Run, "The clip could not be inspected");
        for cause in error.chain() {
            report = report.because(cause.to_string());
        }
        report
    })?;
    put!("{}", folder.display());
    Ok(Ending::Done)
}
