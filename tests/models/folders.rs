//! Model folders: what is in them, and what is said about those that are none.

use std::fs;

use candle_core::Device;
use spectral_motion::models::{ClipLimits, FileSource, ModelError, ModelFolder};

use super::{micro, micro_copy, micro_folder, relative_error};

#[test]
fn a_folder_tells_its_limits() {
    let limits = ClipLimits {
        default_frames: 16,
        size_multiple: 8,
        width: 64,
        height: 64,
    };
    assert_eq!(micro_folder().clip_limits(), limits);
    let dir = micro_copy();
    fs::write(
        dir.path().join("model_card.json"),
        r#"{"frames": 8, "guidance": 7.0, "steps": 15, "name": "x"}"#,
    )
    .unwrap();
    let folder = ModelFolder::open(dir.path()).unwrap();
    assert_eq!(folder.clip_limits().default_frames, 8);
    assert_eq!(
        (folder.card().guidance, folder.card().steps),
        (Some(7.0), Some(15))
    );
}

#[test]
fn weights_are_known_by_their_checksum() {
    let hashes = micro_folder().weights_sha256().unwrap();
    let files: Vec<&str> = hashes.keys().map(String::as_str).collect();
    let expected = [
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ];
    assert_eq!(files, expected);
    // From sha256sum.
    assert_eq!(
        hashes["vae/diffusion_pytorch_model.safetensors"],
        "d5ea99c87be65e02544b07dff03c5d39c8145fa98f469c12c6eb5e4b107ad934"
    );
}

#[test]
fn a_model_inside_the_program_is_the_same_model() {
    const FILES: &[(&str, &[u8])] = &[
        (
            "model_index.json",
            include_bytes!("../golden/micro/model/model_index.json"),
        ),
        (
            "unet/config.json",
            include_bytes!("../golden/micro/model/unet/config.json"),
        ),
        (
            "vae/config.json",
            include_bytes!("../golden/micro/model/vae/config.json"),
        ),
        (
            "text_encoder/config.json",
            include_bytes!("../golden/micro/model/text_encoder/config.json"),
        ),
        (
            "scheduler/scheduler_config.json",
            include_bytes!("../golden/micro/model/scheduler/scheduler_config.json"),
        ),
        (
            "tokenizer/vocab.json",
            include_bytes!("../golden/micro/model/tokenizer/vocab.json"),
        ),
        (
            "tokenizer/merges.txt",
            include_bytes!("../golden/micro/model/tokenizer/merges.txt"),
        ),
        (
            "text_encoder/model.safetensors",
            include_bytes!("../golden/micro/model/text_encoder/model.safetensors"),
        ),
    ];
    let embedded = ModelFolder::from_source(FileSource::Embedded(FILES)).unwrap();
    let text = |folder: &ModelFolder| {
        let (tokenizer, encoder) = folder.load_text(&Device::Cpu).unwrap();
        encoder
            .forward(&[tokenizer.encode("the car is running").unwrap()])
            .unwrap()
    };
    assert_eq!(
        relative_error(&text(&embedded), &text(&micro_folder())),
        0.0
    );
    let missing = embedded.load_vae(&Device::Cpu).unwrap_err().to_string();
    assert!(
        missing.contains("vae/diffusion_pytorch_model.safetensors missing"),
        "{missing}"
    );
}

#[test]
fn other_folders_are_refused_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let ModelError::NotAModelFolder { missing, .. } = ModelFolder::open(dir.path()).unwrap_err()
    else {
        panic!("an empty folder was opened");
    };
    assert_eq!(missing[0], "model_index.json");
    assert_eq!(missing.len(), 5);
    let message = ModelFolder::open(&micro().join("unet"))
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("is not a model folder: model_index.json, unet/config.json"),
        "{message}"
    );
    let message = ModelFolder::open(&micro().join("no such folder"))
        .unwrap_err()
        .to_string();
    assert!(message.contains("is not a model folder"), "{message}");

    let damage = |file: &str, from: &str, to: &str| {
        let copy = micro_copy();
        let path = copy.path().join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file}");
        fs::write(&path, text.replace(from, to)).unwrap();
        ModelFolder::open(copy.path()).unwrap_err().to_string()
    };
    for (file, from, to, part) in [
        (
            "unet/config.json",
            "UNet3DConditionModel",
            "UNet2DConditionModel",
            "needs a UNet2DConditionModel",
        ),
        ("unet/config.json", "{", "", "could not be understood"),
        (
            "unet/config.json",
            "\"cross_attention_dim\": 16",
            "\"cross_attention_dim\": 32",
            "do not fit together",
        ),
        (
            "vae/config.json",
            "\"latent_channels\": 4",
            "\"latent_channels\": 8",
            "do not fit together",
        ),
        (
            "text_encoder/config.json",
            "\"gelu\"",
            "\"relu\"",
            "unknown variant",
        ),
        (
            "scheduler/scheduler_config.json",
            "scaled_linear",
            "sigmoid",
            "unknown variant",
        ),
    ] {
        let message = damage(file, from, to);
        assert!(message.contains(part), "{file}: {message}");
    }
}

#[test]
fn a_configuration_that_is_no_text_is_refused() {
    let copy = micro_copy();
    fs::write(copy.path().join("unet/config.json"), [0xff, 0xfe, 0x00]).unwrap();
    assert!(
        ModelFolder::open(copy.path())
            .unwrap_err()
            .to_string()
            .contains("not UTF-8")
    );
}

#[test]
fn a_part_of_another_model_is_told_by_its_keys() {
    let copy = micro_copy();
    let part = |name: &str| copy.path().join(name);
    fs::copy(
        part("vae/diffusion_pytorch_model.safetensors"),
        part("unet/diffusion_pytorch_model.safetensors"),
    )
    .unwrap();
    let error = ModelFolder::open(copy.path())
        .unwrap()
        .load_unet(&|_| false, &Device::Cpu)
        .unwrap_err();
    let ModelError::Keys(report) = &error else {
        panic!("{error}")
    };
    assert!(report.missing.len() > 100 && report.unexpected.len() > 100);
    assert!(
        error.to_string().len() < 1000,
        "the message names only a few of them: {error}"
    );
}
