//! What loading a model asks for: each weight once in the device's type, and never the whole model twice.

use candle_core::{DType, Device};
use spectral_motion::models::{ModelFolder, builtin};

use super::torch_writer::checkpoint_of;
use super::{micro_copy, micro_tensors};
use crate::common::allocation::measured;

/// The built-in model is stored in half precision and loaded in single: its 2.7 million weights take 10.8 MB.
#[test]
fn loading_keeps_every_weight_once_and_copies_one_at_a_time() {
    let folder = builtin().unwrap();
    let ((unet, _), asked) = measured(|| folder.load_unet(&|_| false, &Device::Cpu).unwrap());
    let weights = 2_700_100 * DType::F32.size_in_bytes();
    // Beyond the weights: names, shapes, and one small object each.
    assert!(
        asked.kept >= weights && asked.kept < weights * 11 / 10,
        "{asked:?}"
    );
    // What was there only for a moment: the tables of contents, one weight as stored, and its rearranged copy. A second
    // copy of the model would be 5.4 MB as it is stored, 10.8 MB as it is used.
    assert!(asked.peak - asked.kept < weights / 5, "{asked:?}");
    drop(unet);
}

#[test]
fn bin_files_are_loaded_in_the_same_way() {
    let dir = micro_copy();
    let tensors = micro_tensors("unet/diffusion_pytorch_model.safetensors");
    let weights: usize = tensors.values().map(|x| x.elem_count() * 4).sum();
    let load = || {
        let folder = ModelFolder::open(dir.path()).unwrap();
        measured(|| folder.load_unet(&|_| false, &Device::Cpu).unwrap()).1
    };
    let safetensors = load();
    let unet = dir.path().join("unet");
    std::fs::remove_file(unet.join("diffusion_pytorch_model.safetensors")).unwrap();
    std::fs::write(
        unet.join("diffusion_pytorch_model.bin"),
        checkpoint_of(&tensors),
    )
    .unwrap();
    let torch = load();
    assert!(torch.kept >= weights, "{torch:?}");
    // The same network; the description of a .bin file is longer than a header.
    assert!(
        torch.kept.abs_diff(safetensors.kept) < weights / 20,
        "{torch:?} and {safetensors:?}"
    );
    assert!(
        torch.peak < safetensors.peak + weights,
        "{torch:?} and {safetensors:?}"
    );
}
