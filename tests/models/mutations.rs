//! Random damage to the files of a model: whatever a file says, it is read or refused, and nothing ends the program.
//!
//! `SPECTRAL_MOTION_FUZZ` is the number of inputs for each kind of file.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::slice;

use candle_core::{DType, Device, Tensor};
use spectral_motion::models::{ModelFolder, UNet3DConditionModel, Weights};

use super::micro_copy;
use super::torch_writer::checkpoint_of;
use crate::common::damage::{self, Mutator};
use crate::common::golden;

const INPUTS: usize = 2_000;

/// Writes damaged versions of `valid` to `path`, one after the other, and reads each. A panic fails the test by itself.
fn survives(path: &Path, valid: &[u8], read: &dyn Fn() -> bool) {
    let inputs = damage::inputs(INPUTS);
    fs::write(path, valid).unwrap();
    assert!(read(), "{} is valid and was refused", path.display());
    let mut mutator = Mutator::default();
    let refused = (0..inputs)
        .filter(|_| {
            fs::write(path, mutator.damage(valid)).unwrap();
            !read()
        })
        .count();
    // The damage reaches what the reader looks at.
    assert!(
        refused * 10 > inputs,
        "{}: {refused} of {inputs} refused",
        path.display()
    );
}

fn survives_as_weights(file: &str, valid: &[u8]) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(file);
    let asked: &[(&str, &[usize])] = &[
        ("a.weight", &[2, 3]),
        ("b", &[4]),
        ("single", &[2, 3]),
        ("transposed", &[3, 4]),
        ("learned", &[12]),
        ("empty", &[0, 4]),
    ];
    let read = || match Weights::open(slice::from_ref(&path), DType::F32, &Device::Cpu) {
        Ok(weights) => {
            for &(name, shape) in asked {
                drop(weights.get(name, shape));
            }
            true
        }
        Err(_) => false,
    };
    survives(&path, valid, &read);
}

fn small_tensors() -> BTreeMap<String, Tensor> {
    let tensor =
        |values: &[f32], shape: &[usize]| Tensor::from_slice(values, shape, &Device::Cpu).unwrap();
    BTreeMap::from([
        (
            "a.weight".to_owned(),
            tensor(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3]),
        ),
        ("b".to_owned(), tensor(&[7.0, 8.0, 9.0, 10.0], &[4])),
    ])
}

#[test]
fn bin_files_survive_any_damage() {
    survives_as_weights("small.bin", &checkpoint_of(&small_tensors()));
    survives_as_weights("plain.bin", &fs::read(golden("torch/plain.bin")).unwrap());
}

#[test]
fn safetensors_files_survive_any_damage() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("valid.safetensors");
    candle_core::safetensors::save(&small_tensors().into_iter().collect(), &path).unwrap();
    survives_as_weights("small.safetensors", &fs::read(&path).unwrap());
}

#[test]
fn configurations_survive_any_damage() {
    let copy = micro_copy();
    for file in ["scheduler/scheduler_config.json", "unet/config.json"] {
        let path = copy.path().join(file);
        let valid = fs::read(&path).unwrap();
        // What is accepted must also describe a network that can be laid out.
        let read = || match ModelFolder::open(copy.path()) {
            Ok(folder) => {
                drop(UNet3DConditionModel::new(
                    &Weights::recorder(),
                    folder.unet_config(),
                ));
                true
            }
            Err(_) => false,
        };
        survives(&path, &valid, &read);
        fs::write(&path, &valid).unwrap();
    }
}

#[test]
fn a_shard_index_survives_any_damage() {
    let copy = micro_copy();
    let part = |name: &str| copy.path().join(name);
    for file in [
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "unet/one.safetensors",
        "unet/two.safetensors",
    ] {
        fs::write(part(file), b"weights").unwrap();
    }
    fs::remove_file(part("unet/diffusion_pytorch_model.safetensors")).unwrap();
    let folder = ModelFolder::open(copy.path()).unwrap();
    let valid = br#"{"metadata": {"total_size": 14}, "weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}"#;
    survives(
        &part("unet/diffusion_pytorch_model.safetensors.index.json"),
        valid,
        &|| folder.weights_sha256().is_ok(),
    );
}
