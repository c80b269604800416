//! LoRA files: every format is read, means what its program means by it, and what does not fit is refused in words.

mod formats;
mod peer;
mod spellings;
mod transfer;

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use spectral_motion::models::{FittedLora, LoraDeltas, LoraFile, ModelError, ModelFolder};
use spectral_motion::nn::{NoiseStream, Purpose};

use crate::common::micro_model;

fn micro() -> ModelFolder {
    ModelFolder::open(&micro_model()).unwrap()
}

fn noise(seed: u64, shape: &[usize]) -> Tensor {
    NoiseStream::new(seed, Purpose::Init)
        .normal(shape, DType::F32, &Device::Cpu)
        .unwrap()
}

fn fit(path: &Path, folder: &ModelFolder) -> Result<FittedLora, ModelError> {
    LoraFile::open(path)?.fit(&folder.lora_network().unwrap())
}

fn with_lora(path: &Path, strength: f64, folder: ModelFolder) -> ModelFolder {
    let mut deltas = LoraDeltas::default();
    let fitted = fit(path, &folder).unwrap_or_else(|error| panic!("{error}"));
    deltas.add(&fitted, strength).unwrap();
    folder.with_loras(deltas)
}

/// A weight of the denoising network as it is read.
fn weight(folder: &ModelFolder, name: &str) -> Tensor {
    let shape = folder.lora_network().unwrap().unet[name].clone();
    let weights = folder.unet_weights(DType::F32, &Device::Cpu).unwrap();
    weights.get(name, &shape).unwrap()
}

fn numbers(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

fn bits(x: &Tensor) -> Vec<u32> {
    numbers(x).into_iter().map(f32::to_bits).collect()
}

fn save(path: &Path, tensors: BTreeMap<String, Tensor>) {
    candle_core::safetensors::save(&tensors.into_iter().collect(), path).unwrap();
}
