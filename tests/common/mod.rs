//! Helpers shared by the test modules.

pub mod allocation;
pub mod damage;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use candle_core::{DType, Device, Tensor};
use spectral_motion::nn::{NoiseStream, Purpose};
use spectral_motion::project::TensorFile;
use spectral_motion::train::Batch;

/// The committed model that is small enough for every test: 2 levels of 16 and 32 channels, VAE factor 8.
pub fn micro_model() -> PathBuf {
    golden("micro/model")
}

/// The committed image model with its ControlNet, of the micro model's sizes.
pub fn image_model() -> PathBuf {
    golden("sd-micro/model")
}

/// A step's input for the image model with its ControlNet: that of [`micro_batch`] and a clip of stripes.
pub fn image_batch() -> Batch {
    let plane = 5 * 64 * 48;
    // Of another phase in each colour.
    let stripes = |i: usize| f32::from(u8::from((i / 3 + i / plane) % 5 < 2));
    let values: Vec<f32> = (0..3 * plane).map(stripes).collect();
    let control = Tensor::from_vec(values, (1, 3, 5, 64, 48), &Device::Cpu).unwrap();
    Batch {
        control: Some(control),
        ..micro_batch()
    }
}

/// A step's input for the micro model. Five frames of 8 by 6: no size divides evenly on the way down.
pub fn micro_batch() -> Batch {
    let mut noise = NoiseStream::new(5, Purpose::Noise);
    let mut draw = |shape: &[usize]| noise.normal(shape, DType::F32, &Device::Cpu).unwrap();
    Batch {
        v0: draw(&[1, 4, 5, 8, 6]),
        eps: draw(&[1, 4, 5, 8, 6]),
        t: vec![400],
        text: draw(&[1, 77, 16]),
        control: None,
        anchor: 0,
    }
}

/// A file or folder of the committed golden data.
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

/// Writes `frames` pictures of a bright square that moves over a dark ground, and gives their folder.
pub fn moving_square(folder: &Path, frames: u32) -> PathBuf {
    let clip = folder.join("moving square");
    std::fs::create_dir_all(&clip).unwrap();
    for index in 0..frames {
        let (left, top) = (8 + 4 * index, 12 + 3 * (index % 3));
        let picture = image::RgbImage::from_fn(64, 64, |x, y| {
            let inside = (left..left + 20).contains(&x) && (top..top + 20).contains(&y);
            image::Rgb(if inside { [220, 40, 30] } else { [20, 90, 40] })
        });
        picture.save(clip.join(format!("{index:03}.png"))).unwrap();
    }
    clip
}

/// Every value of two tensor files is the same, bit for bit.
pub fn assert_same_bits(a: &TensorFile, b: &TensorFile) {
    assert_eq!(
        a.tensors.keys().collect::<Vec<_>>(),
        b.tensors.keys().collect::<Vec<_>>()
    );
    for (name, tensor) in &a.tensors {
        assert!(tensor == &b.tensors[name], "{name} differs");
    }
}

/// What a program said on standard error.
pub fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs a command that must succeed.
#[track_caller]
pub fn succeeds(mut command: Command) {
    ended(&command.output().unwrap(), 0, &[]);
}

/// Runs a command that must fail with this exit code and these words.
#[track_caller]
pub fn fails(mut command: Command, code: i32, says: &[&str]) {
    ended(&command.output().unwrap(), code, says);
}

/// A program ended with this exit code and these words, and not by a mistake of its own.
#[track_caller]
pub fn ended(output: &Output, code: i32, says: &[&str]) {
    let text = errors(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    for words in says {
        assert!(text.contains(words), "says {words:?}: {text}");
    }
    assert!(!text.contains("panicked"), "{text}");
}
