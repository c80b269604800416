//! Networks, their files, and what is said when those do not fit.

mod depth;
mod files;
mod folders;
mod memory;
mod mistakes;
mod mutations;
mod networks;
pub mod published;
mod sampling;
mod tokenizer;
mod torch_damage;
mod torch_files;
pub mod torch_writer;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use spectral_motion::models::{ModelFolder, UNet3DConditionModel, UNet3DConfig, Weights};
use spectral_motion::nn::{NoiseStream, Purpose};
use tempfile::TempDir;

/// The committed model of diffusers with random weights.
fn micro() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/micro/model")
}

fn micro_folder() -> ModelFolder {
    ModelFolder::open(&micro()).unwrap()
}

fn micro_tensors(part: &str) -> BTreeMap<String, Tensor> {
    let tensors = candle_core::safetensors::load(micro().join(part), &Device::Cpu).unwrap();
    tensors.into_iter().collect()
}

/// A copy of the micro model that a test may damage.
fn micro_copy() -> TempDir {
    copy_of(&micro())
}

/// A copy of a model that a test may change.
pub fn copy_of(model: &Path) -> TempDir {
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let (path, target) = (
                entry.as_ref().unwrap().path(),
                to.join(entry.unwrap().file_name()),
            );
            if path.is_dir() {
                copy(&path, &target);
            } else {
                fs::copy(&path, &target).unwrap();
            }
        }
    }
    let dir = TempDir::new().unwrap();
    copy(model, dir.path());
    dir
}

fn noise(seed: u64, shape: &[usize]) -> Tensor {
    NoiseStream::new(seed, Purpose::Init)
        .normal(shape, DType::F32, &Device::Cpu)
        .unwrap()
}

/// Weights of any network: random where its configuration alone is known. Norms are near one, matrices keep the size of
/// what passes through them.
pub fn random_weights(asked: &BTreeMap<String, Vec<usize>>) -> BTreeMap<String, Tensor> {
    let one = |(i, (name, shape)): (usize, (&String, &Vec<usize>))| {
        let random = noise(i as u64, shape);
        let tensor = match shape.as_slice() {
            [_] if name.ends_with("weight") => random.affine(0.1, 1.0),
            [_] => random.affine(0.05, 0.0),
            [o, ..] => random.affine(0.7 / (random.elem_count() as f64 / *o as f64).sqrt(), 0.0),
            [] => Ok(random),
        };
        (name.clone(), tensor.unwrap())
    };
    asked.iter().enumerate().map(one).collect()
}

/// A UNet with random weights for this configuration.
fn random_unet(
    config: &UNet3DConfig,
    trainable: &dyn Fn(&str) -> bool,
) -> (UNet3DConditionModel, Weights) {
    let recorder = Weights::recorder();
    UNet3DConditionModel::new(&recorder, config).unwrap();
    let weights = Weights::from_map(random_weights(&recorder.asked()), DType::F32, &Device::Cpu);
    weights.set_trainable(trainable);
    (
        UNet3DConditionModel::new(&weights, config).unwrap(),
        weights,
    )
}

/// Norm of the difference over norm of `expected`.
fn relative_error(ours: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(ours.dims(), expected.dims());
    let norm = |x: &Tensor| x.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar::<f64>();
    (norm(&(ours - expected).unwrap()).unwrap() / norm(expected).unwrap()).sqrt()
}
