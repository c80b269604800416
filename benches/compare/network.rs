//! The networks that are measured: one of seeded random weights, or one on disk.

use std::collections::BTreeMap;

use anyhow::{Context, Result, anyhow, bail};
use candle_core::{DType, Device};
use spectral_motion::methods::{Method, Tuned, Tuning};
use spectral_motion::models::{self, ModelFolder, UNet3DConditionModel, UNet3DConfig, Weights};
use spectral_motion::nn::{NoiseStream, Purpose};

/// What the peer calls `small`.
const SMALL: &str = r#"{"block_out_channels": [64, 128, 192], "layers_per_block": 1, "cross_attention_dim": 64,
    "attention_head_dim": 32, "norm_num_groups": 32, "sample_size": 32,
    "down_block_types": ["CrossAttnDownBlock3D", "CrossAttnDownBlock3D", "DownBlock3D"],
    "up_block_types": ["UpBlock3D", "CrossAttnUpBlock3D", "CrossAttnUpBlock3D"]}"#;
/// ZeroScope's configuration is diffusers' default.
const ZEROSCOPE: &str = r#"{"sample_size": 48}"#;

/// A network and the clip it is measured with.
pub struct Subject {
    pub tuned: Tuned,
    pub text_width: usize,
    /// Frames, height and width of the latents.
    pub clip: [usize; 3],
}

/// The network of this name: `small`, `zeroscope` (random weights), `builtin`, or a model's folder.
pub fn load(name: &str, method: Method, tuning: Tuning, device: &Device) -> Result<Subject> {
    match name {
        "small" => random(SMALL, [16, 32, 32], method, tuning, device),
        "zeroscope" => random(ZEROSCOPE, [16, 48, 48], method, tuning, device),
        "builtin" => of_folder(&models::builtin()?, method, tuning, device),
        folder => {
            let folder = ModelFolder::open(folder.as_ref())
                .with_context(|| format!("{folder} is neither a known name nor a model"))?;
            of_folder(&folder, method, tuning, device)
        }
    }
}

fn of_folder(
    folder: &ModelFolder,
    method: Method,
    tuning: Tuning,
    device: &Device,
) -> Result<Subject> {
    let limits = folder.clip_limits();
    let factor = limits.size_multiple;
    Ok(Subject {
        tuned: method.load(folder, tuning, device)?,
        text_width: folder.video_config()?.text_width,
        clip: [
            limits.default_frames,
            limits.height / factor,
            limits.width / factor,
        ],
    })
}

/// Weights that keep the size of what passes through them, made one tensor at a time: they are never held twice.
fn random(
    config: &str,
    clip: [usize; 3],
    method: Method,
    tuning: Tuning,
    device: &Device,
) -> Result<Subject> {
    let config = UNet3DConfig::from_json(config).map_err(|why| anyhow!(why))?;
    let recorder = Weights::recorder();
    UNet3DConditionModel::new(&recorder, &config)?;
    let dtype = tuning.precision.dtype(device);
    let mut tensors = BTreeMap::new();
    for (seed, (name, shape)) in recorder.asked().into_iter().enumerate() {
        let [out, ..] = shape[..] else {
            bail!("{name} has no axis");
        };
        let normal = NoiseStream::new(seed as u64, Purpose::Init).normal(
            shape.as_slice(),
            DType::F32,
            &Device::Cpu,
        )?;
        let inputs = normal.elem_count() / out;
        let tensor = match (shape.len(), name.ends_with("weight")) {
            (1, true) => normal.affine(0.1, 1.0)?,
            (1, false) => normal.affine(0.05, 0.0)?,
            _ => normal.affine(0.7 / (inputs as f64).sqrt(), 0.0)?,
        };
        tensors.insert(name, tensor.to_dtype(dtype)?.to_device(device)?);
    }
    let weights = Weights::from_map(tensors, dtype, device);
    let tuned = method.build(&weights, &config, tuning)?;
    Ok(Subject {
        tuned,
        text_width: config.text_width,
        clip,
    })
}
