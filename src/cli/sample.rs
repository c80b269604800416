//! `sample`: a film from a finished run, from a model as it is, or from a model with trained weights put on it.

use std::path::PathBuf;

use clap::Args;

use super::args::{OutputArgs, ResultArgs, model_folder, words};
use super::{Ending, watch};
use crate::job::{DeviceChoice, LoraRequest, Request, SampleRequest, SamplingChanges};
use crate::report::Report;
use crate::train::{SamplerChoice, Start};

// The last of repeated flags wins; a minus sign is a number out of range, not an unknown flag.
#[derive(Args)]
#[command(args_override_self = true, allow_negative_numbers = true)]
pub(super) struct SampleArgs {
    /// A run folder (of a training that was stopped its newest checkpoint is taken), or the folder or name of a model; `builtin` is the built-in model that the weights of --lora were trained
    /// on
    source: PathBuf,
    /// What the film shall show
    #[arg(long, value_name = "WORDS")]
    prompt: String,
    /// A LoRA to put on the model, with its strength [default strength: 1]; may be given again for more. diffusers, PEFT, kohya
    /// and cloneofsimo (also its .pt); with a model, not a run, also one file of trained weights, the final/weights.safetensors
    /// of a run (MotionDirector's adapters, or the weights that VMC or Tune-A-Video trained)
    #[arg(
        long,
        value_name = "FILE[:STRENGTH]",
        visible_alias = "weights",
        action = clap::ArgAction::Append
    )]
    lora: Vec<LoraRequest>,
    /// How strongly MotionDirector's learned motion acts [default: the run's, else 1]
    #[arg(long)]
    lora_scale: Option<f64>,
    /// How much of the clip's look MotionDirector keeps [default: the run's, else 0]
    #[arg(long)]
    spatial_scale: Option<f64>,
    /// Which of several clips the film begins from and whose look is kept, from 1 [default: the run's, else 1]
    #[arg(long, value_name = "NUMBER")]
    inverted_clip: Option<usize>,
    /// Seed of the starting noise [default: the run's]
    #[arg(long)]
    seed: Option<u64>,
    /// What sampling starts from [default: the run's; a model always starts from noise]
    #[arg(long, value_enum)]
    start: Option<Start>,
    /// Share p of the inverted clip with `--start mixed` [default: the run's]
    #[arg(long)]
    noise_prior: Option<f64>,
    /// Denoising steps [default: the run's]
    #[arg(long)]
    sampling_steps: Option<usize>,
    /// How the film is denoised [default: the run's]
    #[arg(long, value_enum)]
    sampler: Option<SamplerChoice>,
    /// How strongly the film obeys its words [default: the run's]
    #[arg(long)]
    guidance: Option<f64>,
    /// What the film shall keep away from [default: the run's]
    #[arg(long, value_name = "WORDS")]
    negative_prompt: Option<String>,
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

pub(super) fn run(args: &SampleArgs) -> Result<Ending, Report> {
    let request = SampleRequest {
        source: model_folder(&args.source)?,
        loras: args.lora.clone(),
        result: args.result.request(&words("--prompt", &args.prompt)?),
        changes: SamplingChanges {
            seed: args.seed,
            start: args.start,
            noise_prior: args.noise_prior,
            sampling_steps: args.sampling_steps,
            sampler: args.sampler,
            guidance: args.guidance,
            negative_prompt: args.negative_prompt.clone(),
            inverted_clip: args.inverted_clip,
            lora_scale: args.lora_scale,
            spatial_scale: args.spatial_scale,
        },
        device: args.device,
    };
    watch::run(
        Request::Sample(Box::new(request)),
        args.threads,
        &args.output,
    )
}
