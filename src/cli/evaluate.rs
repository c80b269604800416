//! `evaluate`: how well a result follows its reference, for a run, a film, or a whole suite of drawn clips.

use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Args, ValueEnum};

use super::args::{ModelArgs, OutputArgs, settings, words};
use super::{Ending, watch};
use crate::job::{CutChanges, EvaluateRequest, Request, SuiteRequest};
use crate::methods::Method;
use crate::project::free_name;
use crate::report::{Area, Report};
use crate::train::{Preset, TransferConfig, typed_names};

/// Settings that say how a clip is cut; without `--suite` no others have a meaning.
const CUT: [&str; 5] = ["size", "fps", "start_secs", "fit", "loop_short"];
/// Settings that a suite makes itself, or that nothing of it depends on.
const SET_BY_SUITE: [&str; 11] = [
    "seed",
    "start",
    "noise_prior",
    "fps",
    "start_secs",
    "fit",
    "loop_short",
    "play_fps",
    "preview_every",
    "checkpoint_every",
    "keep_checkpoints",
];

// The last of repeated flags wins; a minus sign is a number out of range, not an unknown flag.
#[derive(Args)]
#[command(
    args_override_self = true,
    allow_negative_numbers = true,
    mut_arg("method", |arg| arg
        .action(ArgAction::Append)
        .value_delimiter(',')
        .default_values(["vmc", "motion-director"])
        .help("Methods of the suite, with commas between them"))
)]
pub(super) struct EvaluateArgs {
    /// A run folder, whose result is made again from its weights, or a film
    #[arg(conflicts_with = "suite")]
    result: Option<PathBuf>,
    /// The clip whose motion is wanted, or the run that learned it [default: the clip of the run, as its latents decode]
    #[arg(long, value_name = "CLIP", conflicts_with = "suite")]
    reference: Option<PathBuf>,
    /// What the result shall show [default: the run's words, or those in the film's recipe]
    #[arg(long, value_name = "WORDS", conflicts_with = "suite")]
    prompt: Option<String>,
    /// What the reference shows [default: likewise]
    #[arg(long, value_name = "WORDS", conflicts_with = "suite")]
    subject: Option<String>,
    /// Instead of a result: train and compare drawn clips, by each method of --method without and with each spectral term
    #[arg(long, value_enum)]
    suite: Option<SuiteName>,
    /// Clips of the suite
    #[arg(long, default_value_t = 4, requires = "suite")]
    clips: u64,
    /// Seeds of the suite
    #[arg(long, default_value_t = 2, requires = "suite")]
    seeds: u64,
    /// Folder of the suite; cells that are there are not computed again [default: a new one, here]
    #[arg(short, long = "output", value_name = "FOLDER", requires = "suite")]
    output: Option<PathBuf>,
    /// Named settings; flags given beside it win
    #[arg(long, value_enum, requires = "suite")]
    preset: Option<Preset>,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    events: OutputArgs,
    #[command(flatten)]
    config: TransferConfig,
}

/// Which suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SuiteName {
    /// Plain shapes on plain grounds, whose true motion is known because they are drawn here
    Drawn,
}

pub(super) fn run(args: &EvaluateArgs, flags: &ArgMatches) -> Result<Ending, Report> {
    if args.result.is_none() && args.suite.is_none() {
        return Err(Report::new(Area::Request, "There is nothing to evaluate")
            .advise("Name a run folder or a film, or ask for a suite with --suite drawn."));
    }
    let typed = typed_names(flags);
    let config = settings(&args.config, flags, args.preset, &args.model)?;
    let request = match &args.result {
        Some(result) => {
            refuse_suite_flags(flags)?;
            Request::Evaluate(Box::new(comparison(args, result, &typed)?))
        }
        None => Request::Suite(Box::new(suite(args, flags, config, &typed)?)),
    };
    watch::run(request, args.model.threads, &args.events)
}

/// clap forgives a missing `--suite` where something is there that excludes it.
fn refuse_suite_flags(flags: &ArgMatches) -> Result<(), Report> {
    let typed = |name: &&str| flags.value_source(name) == Some(ValueSource::CommandLine);
    match ["clips", "seeds", "output", "preset"]
        .iter()
        .copied()
        .find(typed)
    {
        Some(name) => Err(refused(name, "It is a setting of a suite.")
            .advise("Leave it out, or ask for --suite drawn without a result.")),
        None => Ok(()),
    }
}

fn comparison(
    args: &EvaluateArgs,
    result: &Path,
    typed: &[String],
) -> Result<EvaluateRequest, Report> {
    let strange = |name: &&String| !CUT.contains(&name.as_str());
    if let Some(name) = typed.iter().find(strange) {
        return Err(refused(
            name,
            "It is a setting of training or sampling, which only --suite does.",
        )
        .advise("A run is compared with its own settings; make another run for others."));
    }
    if args.model.model.is_some() {
        let headline = "--model only acts with --suite";
        return Err(Report::new(Area::Request, headline)
            .because("A run knows its model, and films are compared without one."));
    }
    let said = |flag: &str, text: &Option<String>| {
        text.as_deref().map(|text| words(flag, text)).transpose()
    };
    Ok(EvaluateRequest {
        result: result.to_owned(),
        reference: args.reference.clone(),
        prompt: said("--prompt", &args.prompt)?,
        subject: said("--subject", &args.subject)?,
        cut: cut_changes(&args.config, typed),
        device: args.model.device,
    })
}

/// The settings of a cut that were typed.
fn cut_changes(config: &TransferConfig, typed: &[String]) -> CutChanges {
    let is_typed = |name: &str| typed.iter().any(|typed| typed == name);
    CutChanges {
        size: config.size,
        fps: config.fps,
        start_secs: is_typed("start_secs").then_some(config.start_secs),
        fit: is_typed("fit").then_some(config.fit),
        loop_short: is_typed("loop_short").then_some(config.loop_short),
    }
}

fn suite(
    args: &EvaluateArgs,
    flags: &ArgMatches,
    config: TransferConfig,
    typed: &[String],
) -> Result<SuiteRequest, Report> {
    let set = |name: &&String| SET_BY_SUITE.contains(&name.as_str());
    if let Some(name) = typed.iter().find(set) {
        return Err(refused(name, "A suite sets it itself.").advise("Leave it out."));
    }
    let mut methods: Vec<Method> = Vec::new();
    for method in flags.get_many::<Method>("method").into_iter().flatten() {
        if !methods.contains(method) {
            methods.push(*method);
        }
    }
    let folder = args
        .output
        .clone()
        .unwrap_or_else(|| free_name("".as_ref(), "drawn suite", ""));
    Ok(SuiteRequest {
        folder,
        clips: args.clips,
        seeds: args.seeds,
        methods,
        model: args.model.folder()?,
        device: args.model.device,
        config,
    })
}

fn refused(name: &str, cause: &str) -> Report {
    let headline = format!("--{} has no meaning here", name.replace('_', "-"));
    Report::new(Area::Request, headline).because(cause)
}
