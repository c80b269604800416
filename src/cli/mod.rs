//! The command line: one file a command. It only asks for jobs and shows their events, or opens the window.

/// A line for people, on standard error. A terminal that is gone is no reason to end what is being done.
macro_rules! tell {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        writeln!(std::io::stderr(), $($text)*).ok();
    }};
}

/// A line of results, on standard output; a closed pipe is the reader's own decision.
macro_rules! put {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        writeln!(std::io::stdout(), $($text)*).ok();
    }};
}

mod args;
mod evaluate;
pub mod inspect;
mod inspect_command;
mod lora;
mod models;
#[cfg(feature = "gui")]
mod open;
mod progress;
mod replay;
mod resume;
mod sample;
mod train;
mod transfer;
mod watch;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

pub use args::{ClipArgs, ModelArgs, OutputArgs, ResultArgs};

use crate::report::{Area, Report};

const EXAMPLES_AND_EXIT_CODES: &str = "\
Examples:
  spectral-motion                                     open the window
  spectral-motion transfer clip.mp4 --subject \"a car turning\" \\
      --prompt \"a yellow star on a blue plain background\" -o star.mp4
  spectral-motion train clip.mp4 --subject \"a car turning\" --run my-run
  spectral-motion sample my-run --prompt \"a green square on a white plain background\"
  spectral-motion resume my-run                       after Ctrl-C, a crash or a power cut
  spectral-motion models list                         bigger models, and how to get them

Exit codes:
  0    done
  1    something failed while working
  2    the command line asks for something that cannot be
  3    the clip cannot be read, or does not fit the model
  4    the model cannot be loaded
  130  cancelled (Ctrl-C leaves a checkpoint; a second Ctrl-C ends at once)";

/// Transfer the motion of a video clip to a new subject.
///
/// A video model, or an image model that is made to see clips, is fine-tuned on one clip (Video Motion Customization with Spectral
/// Motion Alignment, unless --method says otherwise), then samples a new subject that moves like the clip. Without a command the window opens. Without `--model` the built-in one is used: it knows plain shapes
/// and colours and needs no download.
#[derive(Parser)]
#[command(name = "spectral-motion", version, after_help = EXAMPLES_AND_EXIT_CODES, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Open the window; so does the program without a command
    #[cfg(feature = "gui")]
    Open(open::OpenArgs),
    /// Learn a clip's motion, sample a new subject with it and write the film
    Transfer(transfer::TransferArgs),
    /// Learn a clip's motion and keep the weights
    Train(train::TrainArgs),
    /// Go on with a run that was stopped, or train one further
    Resume(resume::ResumeArgs),
    /// Make a film again from what it says of itself, and its clip; tells whether the weights are the same to the bit
    Replay(replay::ReplayArgs),
    /// Make a film from a run, from a model as it is, or from a model with trained weights put on it
    Sample(sample::SampleArgs),
    /// Write the adapters of a run for other programs, or look into a LoRA of theirs
    Lora(lora::LoraArgs),
    /// Show the motion and the spectra of a clip as pictures and numbers
    Inspect(inspect_command::InspectArgs),
    /// Show what each method needs, and bring it: list, add, get, check, remove
    Models(models::ModelsArgs),
    /// Measure how well a result follows its reference and its words; or, with --suite, compare the methods on drawn clips
    Evaluate(evaluate::EvaluateArgs),
}

/// Reads the program's arguments, does what they say and gives the exit code.
#[must_use]
pub fn main() -> ExitCode {
    ExitCode::from(run(std::env::args_os()))
}

fn run(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let matches = match Cli::command().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) => return clap_exit(&error),
    };
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => return clap_exit(&error),
    };
    let flags = matches.subcommand().map_or(&matches, |(_, flags)| flags);
    let Some(command) = cli.command else {
        return without_command();
    };
    let done = match command {
        #[cfg(feature = "gui")]
        Command::Open(args) => open::run(args),
        Command::Transfer(args) => transfer::run(&args, flags),
        Command::Train(args) => train::run(&args, flags),
        Command::Resume(args) => resume::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Sample(args) => sample::run(&args),
        Command::Lora(args) => lora::run(&args),
        Command::Inspect(args) => inspect_command::run(&args),
        Command::Models(args) => models::run(&args),
        Command::Evaluate(args) => evaluate::run(&args, flags),
    };
    exit(done)
}

/// Without a command the window opens.
#[cfg(feature = "gui")]
fn without_command() -> u8 {
    exit(open::run(open::OpenArgs::default()))
}

/// Without a window there is nothing to do without a command but to say what there is.
#[cfg(not(feature = "gui"))]
fn without_command() -> u8 {
    tell!("{}", Cli::command().render_help());
    2
}

fn exit(done: Result<Ending, Report>) -> u8 {
    match done {
        Ok(Ending::Done) => 0,
        Ok(Ending::Cancelled) => 130,
        Err(report) => {
            tell!("Error: {report}");
            exit_code(report.area)
        }
    }
}

/// How a command ended when nothing failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Done,
    Cancelled,
}

fn clap_exit(error: &clap::Error) -> u8 {
    // A closed pipe is no reason to complain about help text.
    error.print().ok();
    u8::try_from(error.exit_code()).unwrap_or(2)
}

fn exit_code(area: Area) -> u8 {
    match area {
        Area::Run => 1,
        Area::Request => 2,
        Area::Clip => 3,
        Area::Model => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
