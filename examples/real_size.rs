//! What a network of real size takes: memory and time of one forward pass and of one training step.
//!
//! `cargo run --release --example real_size -- --help`
//!
//! Builds the UNet of ZeroScope v2 (1.4 billion parameters) with seeded random weights, each pass in a process of its own,
//! and prints a table of peak resident memory and seconds. No file is needed. The loss and the gradient's norm stand
//! beside the figures: they must not depend on what a pass remembers.

use std::collections::BTreeMap;
use std::error::Error;
use std::process::Command;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use clap::{Parser, ValueEnum};
use spectral_motion::methods::{Method, Precision, Tuned};
use spectral_motion::models::{
    Conditioning, Denoiser as _, UNet3DConditionModel, UNet3DConfig, Weights,
};
use spectral_motion::nn::{NoiseStream, Purpose, no_grad};
use spectral_motion::schedulers::{NoiseSchedule, SchedulerConfig};
use spectral_motion::train::{Checkpointing, Item, Trainer, TransferConfig};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// candle's backward pass recurses.
const STACK_BYTES: usize = 256 << 20;
/// The noise levels of ZeroScope; the rest of its file does not matter to a training step.
const SCHEDULER: &str = r#"{"_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear", "beta_start": 0.00085,
    "beta_end": 0.012}"#;

#[derive(Clone, Copy, ValueEnum)]
enum Pass {
    /// A forward pass as sampling runs it
    Forward,
    /// A training step of VMC that remembers everything
    Off,
    /// The same with checkpointing by block
    Block,
    /// The same with checkpointing by level
    Level,
}

#[derive(Parser)]
struct Options {
    /// Passes to measure
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "forward,off,block,level"
    )]
    passes: Vec<Pass>,
    /// Number type of what does not learn
    #[arg(long, value_enum, default_value = "f32")]
    precision: Precision,
    /// Frames of the clip
    #[arg(long, default_value_t = 16)]
    frames: usize,
    /// Height and width of the latents; a latent pixel is 8 pixels of the film
    #[arg(long, default_value_t = 16)]
    side: usize,
    /// Measure one pass in this process
    #[arg(long, value_enum, hide = true)]
    alone: Option<Pass>,
}

fn main() -> Outcome<()> {
    let options = Options::parse();
    if let Some(pass) = options.alone {
        let worker = std::thread::Builder::new()
            .name("real size".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || measure(pass, &options))?;
        return worker.join().map_err(|_| "the pass panicked")?;
    }
    println!(
        "| pass | precision | network, GiB | peak, GiB | seconds | loss | gradient norm |\n| --- | --- | --- | --- | --- | --- | --- |"
    );
    for pass in &options.passes {
        let status = Command::new(std::env::current_exe()?)
            .args(["--alone", &name(pass)])
            .args(["--precision", &name(&options.precision)])
            .args(["--frames", &options.frames.to_string()])
            .args(["--side", &options.side.to_string()])
            .status()?;
        if !status.success() {
            println!("| {} | ended with {status} |", name(pass));
        }
    }
    Ok(())
}

fn name(value: &impl ValueEnum) -> String {
    value
        .to_possible_value()
        .map_or_else(String::new, |value| value.get_name().to_owned())
}

fn measure(pass: Pass, options: &Options) -> Outcome<()> {
    let (tuned, text_width) = network(options.precision)?;
    let network = gib("VmRSS");
    let draw = |purpose, shape: &[usize]| {
        NoiseStream::new(1, purpose).normal(shape, DType::F32, &Device::Cpu)
    };
    let clip = draw(
        Purpose::Posterior,
        &[1, 4, options.frames, options.side, options.side],
    )?;
    let text = draw(Purpose::Init, &[1, 77, text_width])?;
    let started = Instant::now();
    let checkpointing = match pass {
        Pass::Forward => {
            let out = no_grad(|| {
                tuned
                    .unet
                    .predict(&clip, &[500.0], Conditioning::text(&text))
            })?;
            // Reading a number of it makes sure that all of it has been computed.
            out.sqr()?.sum_all()?.to_scalar::<f32>()?;
            row(pass, options, (&network, started), None);
            return Ok(());
        }
        Pass::Off => Checkpointing::Off,
        Pass::Block => Checkpointing::Block,
        Pass::Level => Checkpointing::Level,
    };
    let config = TransferConfig {
        checkpointing,
        precision: options.precision,
        ..TransferConfig::default()
    };
    let schedule = NoiseSchedule::new(&SchedulerConfig::from_json(SCHEDULER)?);
    let mut trainer = Trainer::new(&config, tuned, schedule, vec![Item::new(&clip, &text)])?;
    let stats = trainer.step()?;
    let numbers = (stats.total, stats.grad_norm);
    row(pass, options, (&network, started), Some(numbers));
    if let Some(scale) = stats.overflowed {
        println!(
            "(a gradient was too large for 16 bits: nothing moved, the loss scale is {scale} now)"
        );
    }
    Ok(())
}

fn row(
    pass: Pass,
    options: &Options,
    (network, started): (&str, Instant),
    numbers: Option<(f64, f64)>,
) {
    let seconds = started.elapsed().as_secs_f64();
    let (loss, norm) = numbers.map_or_else(Default::default, |(loss, norm)| {
        (loss.to_string(), norm.to_string())
    });
    println!(
        "| {} | {} | {network} | {} | {seconds:.1} | {loss} | {norm} |",
        name(&pass),
        name(&options.precision),
        gib("VmHWM"),
    );
}

/// ZeroScope's network with random weights that keep the size of what passes through them, made one tensor at a time: the
/// weights are never held twice.
fn network(precision: Precision) -> Outcome<(Tuned, usize)> {
    // ZeroScope's configuration is diffusers' default.
    let config = UNet3DConfig::from_json("{}")?;
    let recorder = Weights::recorder();
    UNet3DConditionModel::new(&recorder, &config)?;
    let dtype = precision.dtype(&Device::Cpu);
    let mut tensors = BTreeMap::new();
    for (seed, (name, shape)) in recorder.asked().into_iter().enumerate() {
        let tensor = random(seed as u64, &name, &shape)?.to_dtype(dtype)?;
        tensors.insert(name, tensor);
    }
    let weights = Weights::from_map(tensors, dtype, &Device::Cpu);
    weights.set_trainable(&|name| Method::Vmc.trains(name));
    let unet = UNet3DConditionModel::new(&weights, &config)?;
    let vars = weights.trainables();
    Ok((Tuned::plain(unet, vars), config.text_width))
}

fn random(seed: u64, name: &str, shape: &[usize]) -> candle_core::Result<Tensor> {
    let normal = NoiseStream::new(seed, Purpose::Init).normal(shape, DType::F32, &Device::Cpu)?;
    match shape {
        [_] if name.ends_with("weight") => normal.affine(0.1, 1.0),
        [out, ..] if shape.len() > 1 => {
            let inputs = normal.elem_count() / out;
            normal.affine(0.7 / (inputs as f64).sqrt(), 0.0)
        }
        _ => normal.affine(0.05, 0.0),
    }
}

/// A line of Linux's `/proc/self/status`; elsewhere there is no such figure.
fn gib(line: &str) -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = status
        .lines()
        .find_map(|found| found.strip_prefix(line)?.strip_prefix(':'))
        .and_then(|value| value.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    kib.map_or_else(
        || "unknown".to_owned(),
        |kib| format!("{:.2}", kib / (1 << 20) as f64),
    )
}
