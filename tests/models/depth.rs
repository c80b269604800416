//! Depth Anything against transformers, on a tiny random one in the layout of the folders on the hub (`tools/golden/depth.py`).

use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use spectral_motion::models::{DepthAnything, DepthAnythingConfig, ModelError};
use spectral_motion::nn::no_grad;
use spectral_motion::pipelines::estimate_depth;
use spectral_motion::video::Frame;
use std::ops::ControlFlow;

use crate::common::allocation::measured;
use crate::common::golden;

fn folder() -> PathBuf {
    golden("depth")
}

#[test]
fn depth_is_that_of_transformers() {
    let model = DepthAnything::open(&folder(), &Device::Cpu).unwrap();
    let golden =
        candle_core::safetensors::load(folder().join("golden.safetensors"), &Device::Cpu).unwrap();
    // As many patches as the positions were made for, fewer, and more of them in one direction.
    for name in ["square", "small", "wide"] {
        let x = golden[name]
            .permute((0, 2, 3, 1))
            .unwrap()
            .contiguous()
            .unwrap();
        let ours = no_grad(|| model.forward(&x)).unwrap();
        let expected = &golden[&format!("{name}.out")];
        assert_eq!(ours.dims(), expected.dims());
        let size = |x: &Tensor| {
            let x = x.to_dtype(DType::F64).unwrap().sqr().unwrap();
            x.sum_all().unwrap().to_scalar::<f64>().unwrap().sqrt()
        };
        let error = size(&(&ours - expected).unwrap()) / size(expected);
        // f32 through eight products in a row; a wrong resampling or norm shows in percents.
        assert!(error < 5e-6, "{name}: {error:e}");
    }
}

#[test]
fn a_clip_becomes_grey_frames_of_its_size() {
    let model = DepthAnything::open(&folder(), &Device::Cpu).unwrap();
    let frame = |shade: u8| {
        let mut frame = Frame::filled(40, 24, [shade; 3]);
        frame.rgb[..600].fill(255 - shade);
        frame
    };
    let frames = [frame(30), frame(90)];
    let mut told = Vec::new();
    let made = estimate_depth(&model, &frames, &mut |done, total| {
        told.push((done, total));
        ControlFlow::Continue(())
    });
    let made = made.unwrap().done().unwrap();
    assert_eq!(told, [(1, 2), (2, 2)]);
    let numbers = || made.iter().flat_map(|frame| &frame.rgb).copied();
    assert!(
        made.iter()
            .all(|frame| (frame.width, frame.height) == (40, 24))
    );
    assert_eq!((numbers().min(), numbers().max()), (Some(0), Some(255)));
    assert!(
        made[0]
            .rgb
            .chunks_exact(3)
            .all(|p| p[0] == p[1] && p[1] == p[2])
    );
    let stopped = estimate_depth(&model, &frames, &mut |_, _| ControlFlow::Break(()));
    assert!(stopped.unwrap().done().is_none());
}

#[test]
fn a_folder_that_is_none_or_damaged_is_refused_in_words() {
    assert!(DepthAnything::is_folder(&folder()));
    assert!(!DepthAnything::is_folder(&golden("micro/model/unet")));
    let place = tempfile::tempdir().unwrap();
    let says = |text: &str| match DepthAnythingConfig::from_json(text) {
        Err(ModelError::Config { why, .. }) => why,
        other => panic!("{text} gave {other:?}"),
    };
    assert!(says("{").contains("EOF"));
    assert!(says("{}").contains("model_type"));
    let with = |from: &str, to: &str| {
        let text = std::fs::read_to_string(folder().join("config.json")).unwrap();
        assert!(text.contains(from), "{from}");
        text.replace(from, to)
    };
    assert!(says(&with("\"relative\"", "\"metric\"")).contains("metric"));
    assert!(
        says(&with(
            "\"use_swiglu_ffn\": false",
            "\"use_swiglu_ffn\": true"
        ))
        .contains("kind")
    );
    assert!(says(&with("\"patch_size\": 14", "\"patch_size\": 0")).contains("patch_size"));
    assert!(says(&with("\"hidden_size\": 24", "\"hidden_size\": 9999999")).contains("hidden_size"));
    assert!(says(&with("\"image_size\": 56", "\"image_size\": 13")).contains("image_size"));

    let open = || DepthAnything::open(place.path(), &Device::Cpu).map(drop);
    assert!(matches!(open(), Err(ModelError::Incomplete { .. })));
    std::fs::copy(
        folder().join("config.json"),
        place.path().join("config.json"),
    )
    .unwrap();
    let lacks = open().unwrap_err().to_string();
    assert!(lacks.contains("model.safetensors"), "{lacks}");
    // The weights of another network.
    let other = golden("micro/model/vae/diffusion_pytorch_model.safetensors");
    std::fs::copy(other, place.path().join("model.safetensors")).unwrap();
    assert!(matches!(open(), Err(ModelError::Keys(_))));
    // Half a file.
    let bytes = std::fs::read(folder().join("model.safetensors")).unwrap();
    std::fs::write(
        place.path().join("model.safetensors"),
        &bytes[..bytes.len() / 2],
    )
    .unwrap();
    assert!(open().is_err());
}

/// What a configuration asks for is held against the weight file before anything of that size is made.
#[test]
fn a_configuration_that_asks_for_far_more_than_there_is_costs_nothing() {
    let place = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(folder().join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
    config["neck_hidden_sizes"] = vec![8192; 4].into();
    config["fusion_hidden_size"] = 2048.into();
    std::fs::write(place.path().join("config.json"), config.to_string()).unwrap();
    let weights = place.path().join("model.safetensors");
    let none = std::collections::HashMap::<String, Tensor>::new();
    candle_core::safetensors::save(&none, &weights).unwrap();
    let (opened, asked) = measured(|| DepthAnything::open(place.path(), &Device::Cpu).map(drop));
    assert!(matches!(opened, Err(ModelError::Keys(_))), "{opened:?}");
    assert!(asked.peak < 1 << 20, "{asked:?}");

    // Nor is a configuration read that is larger than any.
    let mut long = text.into_bytes();
    long.resize(17 << 20, b' ');
    std::fs::write(place.path().join("config.json"), long).unwrap();
    assert!(!DepthAnything::is_folder(place.path()));
    let error = DepthAnything::open(place.path(), &Device::Cpu).unwrap_err();
    assert!(error.to_string().contains("larger than 16 MiB"), "{error}");
}

#[test]
fn the_cache_of_other_programs_is_understood() {
    let place = tempfile::tempdir().unwrap();
    let entry = place
        .path()
        .join("models--depth-anything--Depth-Anything-V2-Small-hf");
    let version = entry.join("snapshots/0123abcd");
    std::fs::create_dir_all(&version).unwrap();
    assert!(!DepthAnything::is_folder(&entry));
    let error = DepthAnything::check(&entry).unwrap_err();
    assert!(matches!(error, ModelError::Mistaken { .. }), "{error}");
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(folder().join(file), version.join(file)).unwrap();
    }
    assert!(DepthAnything::is_folder(&entry));
    DepthAnything::check(&entry).unwrap();
    DepthAnything::open(&entry, &Device::Cpu).unwrap();
}
