//! `resume`: go on with a run that was stopped, or train one further.

use std::path::PathBuf;

use clap::Args;

use super::args::{OutputArgs, ResultArgs, words};
use super::{Ending, watch};
use crate::job::{DeviceChoice, Request, ResumeRequest, Until};
use crate::report::Report;

// The last of repeated flags wins; a minus sign is a number out of range, not an unknown flag.
#[derive(Args)]
#[command(args_override_self = true, allow_negative_numbers = true)]
pub(super) struct ResumeArgs {
    /// The run folder
    run: PathBuf,
    /// Train to this many steps instead of the run's own number
    #[arg(long)]
    steps: Option<u32>,
    /// Train this many steps more than the run's own number
    #[arg(long, value_name = "STEPS", conflicts_with = "steps")]
    more: Option<u32>,
    /// What the result shall show [default: what the run was started with; a run without it only trains]
    #[arg(long, value_name = "WORDS")]
    prompt: Option<String>,
    /// What computes
    #[arg(long, value_enum, default_value = "auto")]
    device: DeviceChoice,
    /// Processor threads [default: all]
    #[arg(long)]
    threads: Option<usize>,
    #[command(flatten)]
    result: ResultArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &ResumeArgs) -> Result<Ending, Report> {
    let prompt = args
        .prompt
        .as_deref()
        .map(|prompt| words("--prompt", prompt))
        .transpose()?;
    let request = ResumeRequest {
        run: args.run.clone(),
        until: match (args.steps, args.more) {
            (Some(steps), _) => Until::Steps(steps),
            (None, Some(more)) => Until::More(more),
            (None, None) => Until::Planned,
        },
        prompt: prompt.clone(),
        result: args.result.request(&prompt.unwrap_or_default()),
        device: args.device,
    };
    watch::run(
        Request::Resume(Box::new(request)),
        args.threads,
        &args.output,
    )
}
