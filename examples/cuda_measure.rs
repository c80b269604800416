//! What a GPU needs for a network of real size: single operations, training steps, a sample. One JSON line a figure.
//!
//! `cargo run --release --no-default-features --features cuda --example cuda_measure -- --help`; `tools/cuda_measure` runs it
//! beside the tests and a peer.
//!
//! The UNet of ZeroScope v2 (1.4 billion parameters) and an autoencoder of Stable Diffusion's size get seeded random weights;
//! no file is needed. Every number that training tells must be finite, and so must the sample.

use std::collections::BTreeMap;
use std::error::Error;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::{DType, Device, Tensor, Var};
use clap::{Parser, ValueEnum};
use rayon::prelude::*;
use spectral_motion::methods::{Branches, Method, Precision, Strength, Tuned, motion_director};
use spectral_motion::models::{
    Adapter, Adapters, AutoencoderKL, ModelError, SingleFrame, UNet3DConditionModel, UNet3DConfig,
    VaeConfig, Weights,
};
use spectral_motion::nn::{
    self, Conv2d, Conv2dConfig, GroupNorm, LayerNorm, Linear, Mask, NoiseStream, Param, Purpose,
    TemporalConv,
};
use spectral_motion::pipelines::{GuidedText, decode_latents, text_to_video};
use spectral_motion::schedulers::{Ddim, NoiseSchedule, Sampler, SchedulerConfig};
use spectral_motion::spectral::loss::{MotionLossConfig, SpectralLoss};
use spectral_motion::train::{Checkpointing, Item, Trainer, TransferConfig};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// candle's backward pass recurses.
const STACK_BYTES: usize = 256 << 20;
const SCHEDULER: &str = r#"{"_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear", "beta_start": 0.00085,
    "beta_end": 0.012, "steps_offset": 1, "clip_sample": false, "set_alpha_to_one": false}"#;
/// A network of a few thousand weights, to try this program where there is no GPU.
const SMALL: &str = r#"{"block_out_channels": [32, 64], "layers_per_block": 1, "cross_attention_dim": 32,
    "attention_head_dim": 16, "norm_num_groups": 8,
    "down_block_types": ["CrossAttnDownBlock3D", "DownBlock3D"], "up_block_types": ["UpBlock3D", "CrossAttnUpBlock3D"]}"#;
const VAE: &str = r#"{"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "latent_channels": 4,
    "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"]}"#;
const SMALL_VAE: &str = r#"{"block_out_channels": [32, 32, 32, 32], "layers_per_block": 1, "latent_channels": 4,
    "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"]}"#;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Single operations, forward and backward to the input
    Ops,
    /// Steps of VMC
    Vmc,
    /// Steps of MotionDirector
    MotionDirector,
    /// A sample of the last trained network, decoded and written as PNG files
    Sample,
}

#[derive(Parser)]
struct Options {
    /// What to measure
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "ops,vmc,motion-director,sample"
    )]
    parts: Vec<Part>,
    /// Number type of what does not learn
    #[arg(long, value_enum, default_value = "auto")]
    precision: Precision,
    #[arg(long, value_enum, default_value = "block")]
    checkpointing: Checkpointing,
    /// Steps of each method
    #[arg(long, default_value_t = 20)]
    steps: u32,
    /// Denoising steps of the sample
    #[arg(long, default_value_t = 20)]
    denoising: usize,
    /// Frames of the clip
    #[arg(long, default_value_t = 16)]
    frames: usize,
    /// Height and width of the latents; a latent pixel is 8 pixels of the film
    #[arg(long, default_value_t = 48)]
    side: usize,
    /// Runs of each operation; the median is told
    #[arg(long, default_value_t = 20)]
    runs: usize,
    /// Where the sample goes
    #[arg(long, default_value = "out/cuda-measure")]
    out: PathBuf,
    /// Tiny networks on the processor, to try this program
    #[arg(long)]
    small: bool,
}

fn main() -> Outcome<()> {
    let options = Options::parse();
    let worker = std::thread::Builder::new()
        .name("measure".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(move || measure(&options))?;
    worker.join().map_err(|_| "the measurement panicked")?
}

fn measure(options: &Options) -> Outcome<()> {
    let device = if options.small {
        Device::Cpu
    } else {
        Device::new_cuda(0)?
    };
    let dtype = options.precision.dtype(&device);
    let has = |part| options.parts.contains(&part);
    if has(Part::Ops) {
        operations(options, dtype, &device)?;
    }
    if !has(Part::Vmc) && !has(Part::MotionDirector) && !has(Part::Sample) {
        return Ok(());
    }
    let config = UNet3DConfig::from_json(if options.small { SMALL } else { "{}" })?;
    let started = Instant::now();
    let recorder = Weights::recorder();
    UNet3DConditionModel::new(&recorder, &config)?;
    let mut tensors = random_weights(&recorder, dtype, &device)?;
    device.synchronize()?;
    line("network", "seconds", started.elapsed().as_secs_f64());
    let mut last = None;
    for (part, method) in [
        (Part::Vmc, Method::Vmc),
        (Part::MotionDirector, Method::MotionDirector),
    ] {
        if has(part) || (has(Part::Sample) && last.is_none() && part == Part::MotionDirector) {
            // The former one's weights go before the next one's are there.
            drop(last.take());
            let again = part == Part::Vmc && has(Part::MotionDirector);
            // Only the last network may leave nothing of the weights as they were made.
            let own = if again {
                tensors.clone()
            } else {
                std::mem::take(&mut tensors)
            };
            let (tuned, vars) = network(method, own, &config, dtype, &device)?;
            last = Some(train(
                options,
                method,
                (tuned, vars),
                config.text_width,
                &device,
            )?);
        }
    }
    if has(Part::Sample)
        && let Some(trainer) = last
    {
        sample(options, &trainer, config.text_width, &device)?;
    }
    Ok(())
}

fn line(name: &str, unit: &str, value: f64) {
    println!("{}", serde_json::json!({ "name": name, unit: value }));
}

/// Random weights that keep the size of what passes through them, each with a stream of its own, on the device in `dtype`.
fn random_weights(
    recorder: &Weights,
    dtype: DType,
    device: &Device,
) -> Outcome<BTreeMap<String, Tensor>> {
    let asked: Vec<_> = recorder.asked().into_iter().enumerate().collect();
    let mut tensors = BTreeMap::new();
    // Made by all cores, a part at a time: the weights are never on the host all at once.
    for some in asked.chunks(64) {
        let made: Vec<candle_core::Result<(String, Tensor)>> = some
            .par_iter()
            .map(|(seed, (name, shape))| {
                Ok((
                    name.clone(),
                    random(*seed as u64, name, shape)?.to_dtype(dtype)?,
                ))
            })
            .collect();
        for one in made {
            let (name, tensor) = one?;
            tensors.insert(name, tensor.to_device(device)?);
        }
    }
    Ok(tensors)
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

fn network(
    method: Method,
    tensors: BTreeMap<String, Tensor>,
    config: &UNet3DConfig,
    dtype: DType,
    device: &Device,
) -> Result<(Tuned, BTreeMap<String, Var>), ModelError> {
    let weights = Weights::from_map(tensors, dtype, device);
    if method == Method::Vmc {
        weights.set_trainable(&|name| Method::Vmc.trains(name));
        let unet = UNet3DConditionModel::new(&weights, config)?;
        let vars = weights.trainables();
        return Ok((Tuned::plain(unet, vars.clone()), vars));
    }
    let branches = Branches::new(1);
    let chosen = branches.clone();
    let choose = move |layer: &str| -> Vec<Adapter> {
        let branch = match motion_director::part_of(layer) {
            Some(motion_director::Part::Temporal) => &chosen.temporal,
            Some(motion_director::Part::Spatial) => &chosen.spatial[0],
            None => return Vec::new(),
        };
        vec![Adapter {
            branch: branch.clone(),
            set: 0,
            rank: TransferConfig::default().rank,
        }]
    };
    weights.set_adapters(Adapters {
        choose: Box::new(choose),
        seed: 1,
    });
    let mut unet = UNet3DConditionModel::new(&weights, config)?;
    unet.single_frame = SingleFrame::SkipTemporal;
    let vars = weights.trainables();
    let tuned = Tuned {
        unet: unet.into(),
        vars: vars.clone(),
        branches: Some(branches),
    };
    Ok((tuned, vars))
}

fn draw(purpose: Purpose, shape: &[usize], device: &Device) -> candle_core::Result<Tensor> {
    NoiseStream::new(1, purpose).normal(shape, DType::F32, device)
}

fn train(
    options: &Options,
    method: Method,
    (tuned, vars): (Tuned, BTreeMap<String, Var>),
    text_width: usize,
    device: &Device,
) -> Outcome<Trainer> {
    let clip = draw(
        Purpose::Posterior,
        &[1, 4, options.frames, options.side, options.side],
        device,
    )?;
    let text = draw(Purpose::Init, &[1, 77, text_width], device)?;
    let config = TransferConfig {
        method,
        steps: options.steps,
        checkpointing: options.checkpointing,
        precision: options.precision,
        ..TransferConfig::default()
    };
    let schedule = NoiseSchedule::new(&SchedulerConfig::from_json(SCHEDULER)?);
    let mut trainer = Trainer::new(&config, tuned, schedule, vec![Item::new(&clip, &text)])?;
    let name = format!("{method:?}");
    let mut seconds = Vec::new();
    device.synchronize()?;
    let loaded = nn::device_memory(device).map(|(used, _)| used);
    for step in 0..options.steps {
        let started = Instant::now();
        let stats = trainer.step()?;
        device.synchronize()?;
        seconds.push(started.elapsed().as_secs_f64());
        let numbers = [
            stats.total,
            stats.base,
            stats.global,
            stats.amplitude,
            stats.phase,
            stats.grad_norm,
        ];
        if numbers.iter().any(|n| !n.is_finite()) {
            return Err(format!("{name}: step {step} told {stats:?}").into());
        }
    }
    for (weight, var) in &vars {
        if !var
            .as_tensor()
            .sqr()?
            .sum_all()?
            .to_scalar::<f32>()?
            .is_finite()
        {
            return Err(format!(
                "{name}: {weight} is not finite after {} steps",
                options.steps
            )
            .into());
        }
    }
    memory_lines(&name, loaded, device);
    // The first two steps compile kernels and check every gradient.
    let mut later = seconds.split_off(2.min(seconds.len() - 1));
    later.sort_by(f64::total_cmp);
    line(
        &format!("{name} first step"),
        "seconds",
        seconds.first().copied().unwrap_or(0.0),
    );
    line(
        &format!("{name} step, median"),
        "seconds",
        later[later.len() / 2],
    );
    line(&format!("{name} step, fastest"), "seconds", later[0]);
    line(
        &format!("{name} trained tensors, all finite"),
        "count",
        vars.len() as f64,
    );
    Ok(trainer)
}

/// What tensors held once the network was loaded, and the most beyond that since.
fn memory_lines(name: &str, loaded: Option<u64>, device: &Device) {
    if let (Some(loaded), Some((_, most))) = (loaded, nn::device_memory(device)) {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        line(&format!("{name} loaded"), "MiB", mib(loaded));
        let working = most.saturating_sub(loaded);
        line(&format!("{name} working memory"), "MiB", mib(working));
    }
}

fn sample(options: &Options, trainer: &Trainer, text_width: usize, device: &Device) -> Outcome<()> {
    let config = SchedulerConfig::from_json(SCHEDULER)?;
    let sampler = Sampler::Ddim(Ddim::new(&config, options.denoising)?);
    let tuned = trainer.tuned();
    tuned.set_for_sampling(Strength {
        motion: 1.0,
        look: 0.0,
        clip: 0,
    });
    let noise = draw(
        Purpose::Sample,
        &[1, 4, options.frames, options.side, options.side],
        device,
    )?;
    let text = GuidedText::new(
        draw(Purpose::Init, &[1, 77, text_width], device)?,
        draw(Purpose::Preview, &[1, 77, text_width], device)?,
    );
    let started = Instant::now();
    let go_on = &mut |_: usize, _: usize| ControlFlow::Continue(());
    let latents = text_to_video(&tuned.unet, &sampler, noise, text, 9.0, go_on)?
        .done()
        .ok_or("the sample was cancelled")?;
    let size = latents
        .to_dtype(DType::F32)?
        .sqr()?
        .sum_all()?
        .to_scalar::<f32>()?;
    if !size.is_finite() {
        return Err("the sample is not finite".into());
    }
    let seconds = started.elapsed().as_secs_f64();
    line(
        "guided denoising step",
        "seconds",
        seconds / options.denoising as f64,
    );
    // Random weights do not denoise: brought back to the range that a decoder is used to.
    let scale = 1.0
        / f64::from(size / latents.elem_count() as f32)
            .sqrt()
            .max(1e-3);
    let latents = latents.to_dtype(DType::F32)?.affine(0.18 * scale, 0.0)?;
    let vae_config = VaeConfig::from_json(if options.small { SMALL_VAE } else { VAE })?;
    let recorder = Weights::recorder();
    AutoencoderKL::new(&recorder, &vae_config)?;
    let weights = Weights::from_map(
        random_weights(&recorder, DType::F32, device)?,
        DType::F32,
        device,
    );
    let vae = AutoencoderKL::new(&weights, &vae_config)?;
    let started = Instant::now();
    let frames = decode_latents(&vae, &latents, go_on)?
        .done()
        .ok_or("decoding was cancelled")?;
    line("decoding", "seconds", started.elapsed().as_secs_f64());
    write_pngs(&options.out, &frames)
}

fn write_pngs(folder: &Path, frames: &[spectral_motion::video::Frame]) -> Outcome<()> {
    std::fs::create_dir_all(folder)?;
    for (i, frame) in frames.iter().enumerate() {
        let distinct = frame.rgb.iter().min() != frame.rgb.iter().max();
        if !distinct {
            return Err(format!("frame {i} is of one colour").into());
        }
        let path = folder.join(format!("{i:03}.png"));
        image::save_buffer(
            path,
            &frame.rgb,
            frame.width,
            frame.height,
            image::ColorType::Rgb8,
        )?;
    }
    line("frames written", "count", frames.len() as f64);
    Ok(())
}

struct Clock<'a> {
    runs: usize,
    device: &'a Device,
    dtype: DType,
}

impl Clock<'_> {
    fn median(&self, name: &str, mut f: impl FnMut() -> Outcome<()>) -> Outcome<()> {
        for _ in 0..3 {
            f()?;
        }
        let mut times = Vec::new();
        for _ in 0..self.runs {
            self.device.synchronize()?;
            let started = Instant::now();
            f()?;
            self.device.synchronize()?;
            times.push(started.elapsed().as_secs_f64() * 1e3);
        }
        times.sort_by(f64::total_cmp);
        line(name, "ms", times[times.len() / 2]);
        Ok(())
    }

    /// `f` without gradients, then with the gradient of every input.
    fn both(
        &self,
        name: &str,
        inputs: &[Tensor],
        f: impl Fn(&[Tensor]) -> candle_core::Result<Tensor>,
    ) -> Outcome<()> {
        self.median(&format!("{name} fwd"), || {
            Ok(nn::no_grad(|| f(inputs)).map(drop)?)
        })?;
        let vars: Vec<Var> = inputs
            .iter()
            .map(Var::from_tensor)
            .collect::<candle_core::Result<_>>()?;
        let leaves: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
        self.median(&format!("{name} fwd+bwd"), || {
            Ok(f(&leaves)?.backward().map(drop)?)
        })
    }

    fn random(&self, shape: &[usize]) -> candle_core::Result<Tensor> {
        NoiseStream::new(shape.iter().sum::<usize>() as u64, Purpose::Noise).normal(
            shape,
            self.dtype,
            self.device,
        )
    }
}

/// Names and sizes are those of the PyTorch peer.
fn operations(options: &Options, dtype: DType, device: &Device) -> Outcome<()> {
    let clock = Clock {
        runs: options.runs,
        device,
        dtype,
    };
    let random = |shape: &[usize]| clock.random(shape);
    let matrix = Linear::new(Param::frozen(random(&[1024, 1024])?), None)?;
    let m = random(&[1024, 1024])?;
    clock.median("matmul 1024^3", || Ok(matrix.forward(&m).map(drop)?))?;
    for (b, c, s) in [(16, 64, 32), (16, 128, 16), (16, 320, 32)] {
        let small = |shape: &[usize]| random(shape)?.affine(1.0 / c as f64, 0.0);
        let conv = Conv2d::new(&small(&[c, c, 3, 3])?, None, Conv2dConfig::padded(1))?;
        clock.both(
            &format!("conv3x3 {b}x{c}x{s}x{s}"),
            &[random(&[b, s, s, c])?],
            |x| conv.forward(&x[0]),
        )?;
        let temporal = TemporalConv::new(&small(&[c, c, 3, 1, 1])?, None)?;
        let name = format!("temporal conv3 {}x{c}x{b}", s * s);
        clock.both(&name, &[random(&[1, b, s * s, c])?], |x| {
            temporal.forward(&x[0])
        })?;
        let norm = GroupNorm::new(&random(&[c])?, &random(&[c])?, 32, 1e-5)?;
        let name = format!("group norm + silu {b}x{c}x{s}x{s}");
        clock.both(&name, &[random(&[b, s * s, c])?], |x| {
            norm.forward_silu(&x[0])
        })?;
    }
    for (b, heads, n, d) in [
        (16, 4, 1024, 16),
        (16, 5, 1024, 64),
        (16, 5, 2304, 64),
        (1024, 5, 16, 64),
    ] {
        let one = random(&[b, n, heads * d])?;
        let operands = [one.clone(), one.copy()?, one.copy()?];
        clock.both(&format!("attention {b}x{heads}x{n}x{d}"), &operands, |x| {
            nn::attention(&x[0], &x[1], &x[2], heads, Mask::None)
        })?;
    }
    let norm = LayerNorm::new(&random(&[320])?, &random(&[320])?, 1e-5)?;
    clock.both("layer norm 16384x320", &[random(&[16384, 320])?], |x| {
        norm.forward(&x[0])
    })?;
    clock.both("geglu 16384x2560", &[random(&[16384, 2560])?], |x| {
        nn::geglu(&x[0])
    })?;
    let clip = |purpose| draw(purpose, &[1, 4, 16, 48, 48], device);
    let (v0, v0hat) = (clip(Purpose::Noise)?, clip(Purpose::Sample)?);
    let config = MotionLossConfig {
        levels: 3,
        ..MotionLossConfig::default()
    };
    let loss = SpectralLoss::new(&config, 16, 48, 48, DType::F32, device)?;
    clock.both("sma terms 4x16x48x48", &[v0hat], |x| {
        let local = loss.local(&v0, &x[0])?;
        loss.global(&v0, &x[0])?
            .total
            .add(&local.amplitude)?
            .add(&local.phase)
    })
}
