//! Model folders: what is in them, and what is said about those that are none.

use std::fs;

use candle_core::Device;
use spectral_motion::models::{
    ClipLimits, Embedded, EmbeddedFiles, FileSource, ModelError, ModelFolder, ModelKind, builtin,
    builtin_of,
};

use super::{micro_copy, micro_folder, relative_error};

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
fn the_built_in_model_is_whole() {
    let folder = builtin().unwrap();
    let limits = ClipLimits {
        default_frames: 8,
        size_multiple: 4,
        width: 64,
        height: 64,
    };
    assert_eq!(folder.clip_limits(), limits);
    let card = folder.card();
    assert!(card.guidance.is_some() && card.steps.is_some());
    let (tokenizer, _) = folder.load_text(&Device::Cpu).unwrap();
    let prompt = card.prompt.as_deref().unwrap();
    // Every word of its world is one token.
    assert_eq!(tokenizer.count(prompt).unwrap(), prompt.split(' ').count());
    folder.load_unet(&|_| false, &Device::Cpu).unwrap();
    folder.load_vae(&Device::Cpu).unwrap();
    assert_eq!(folder.weights_sha256().unwrap().len(), 3);
}

/// It sees the words and the latents of the video model, whose files are in the program once.
#[test]
fn the_built_in_image_model_is_whole() {
    let (image, video) = (builtin_of(ModelKind::Image).unwrap(), builtin().unwrap());
    image.check_weights().unwrap();
    assert_eq!(
        (image.kind(), video.kind()),
        (ModelKind::Image, ModelKind::Video)
    );
    assert_eq!(
        (image.name(), video.name()),
        (
            "built-in image model".to_owned(),
            "built-in model".to_owned()
        )
    );
    assert_eq!(image.clip_limits(), video.clip_limits());
    assert_eq!(image.scheduler(), video.scheduler());
    let card = image.card();
    assert!(card.guidance.is_some() && card.steps.is_some() && card.frames == Some(8));
    assert_eq!(image.controlnet_config().unwrap().factor(), 4);
    let (image, video) = (
        image.weights_sha256().unwrap(),
        video.weights_sha256().unwrap(),
    );
    assert_eq!(image.len(), 4);
    for (file, hash) in &video {
        let shared = !file.starts_with("unet/");
        assert_eq!(image[file] == *hash, shared, "{file}");
    }
}

/// What a clone and an installed program carry.
#[test]
fn the_built_in_models_are_small() {
    fn size(folder: &std::path::Path) -> u64 {
        let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
        let sizes = entries.map(|entry| match entry.metadata().unwrap() {
            about if about.is_dir() => size(&entry.path()),
            about => about.len(),
        });
        sizes.sum()
    }
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/builtin");
    let bytes = size(folder.as_ref());
    assert!((8_000_000..24_000_000).contains(&bytes), "{bytes} bytes");
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

/// Pairs of a path inside the micro model and the file's content.
macro_rules! micro_files {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_bytes!(concat!("../golden/micro/model/", $path)).as_slice())),*]
    };
}

#[test]
fn a_model_inside_the_program_is_the_same_model() {
    static SMALL: EmbeddedFiles = micro_files![
        "model_index.json",
        "unet/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "scheduler/scheduler_config.json",
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
    ];
    static WEIGHTS: EmbeddedFiles = micro_files![
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ];
    static WHOLE: Embedded = Embedded {
        name: "inner model",
        parts: &[SMALL, WEIGHTS],
    };
    static PART: Embedded = Embedded {
        name: "inner model",
        parts: &[SMALL, WEIGHTS.split_at(2).0],
    };
    let embedded = ModelFolder::from_source(FileSource::Embedded(&WHOLE)).unwrap();
    embedded.check_weights().unwrap();
    assert_eq!(embedded.name(), "inner model");
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
    let without = FileSource::Embedded(&PART);
    let missing = ModelFolder::from_source(without).unwrap_err().to_string();
    assert!(
        missing.contains("is not complete: vae/diffusion_pytorch_model.safetensors missing"),
        "{missing}"
    );
}

/// What is said of the micro model when `from` is `to` in one of its files.
fn damage(file: &str, from: &str, to: &str) -> String {
    let copy = micro_copy();
    let path = copy.path().join(file);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{file}");
    fs::write(&path, text.replacen(from, to, 1)).unwrap();
    ModelFolder::open(copy.path()).unwrap_err().to_string()
}

#[test]
fn other_folders_are_refused_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let ModelError::NotAModelFolder { missing, .. } = ModelFolder::open(dir.path()).unwrap_err()
    else {
        panic!("an empty folder was opened");
    };
    assert_eq!(missing[0], "model_index.json");
    // Five configurations, the weights of three networks, a tokenizer.
    assert_eq!(missing.len(), 9);
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
            "unet/config.json",
            "\"out_channels\": 4",
            "\"out_channels\": 8",
            "takes 4 channels and gives 8",
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
            "text_encoder/config.json",
            "\"clip_text_model\"",
            "\"t5\"",
            "a text encoder of type t5",
        ),
        (
            "scheduler/scheduler_config.json",
            "scaled_linear",
            "sigmoid",
            "unknown variant",
        ),
        (
            "scheduler/scheduler_config.json",
            "DDIMScheduler",
            "FlowMatchEulerDiscreteScheduler",
            "asks for the scheduler FlowMatchEulerDiscreteScheduler",
        ),
    ] {
        let message = damage(file, from, to);
        assert!(message.contains(part), "{file}: {message}");
    }
}

#[test]
fn an_index_of_other_classes_is_refused_in_words() {
    let index = "model_index.json";
    for (from, to, part) in [
        (
            "TextToVideoSDPipeline",
            "StableDiffusionPipeline",
            "a UNet3DConditionModel as its unet in place of a UNet2DConditionModel",
        ),
        (
            "TextToVideoSDPipeline",
            "StableDiffusionXLPipeline",
            "is a model for still pictures of a kind that is not inflated here (StableDiffusionXLPipeline)",
        ),
        (
            "TextToVideoSDPipeline",
            "StableVideoDiffusionPipeline",
            "is a model for StableVideoDiffusionPipeline, which this program does not run",
        ),
        (
            "TextToVideoSDPipeline",
            "TextToVideoIFInterpPipeline",
            "is a stage of Show-1",
        ),
        (
            "UNet3DConditionModel",
            "UNetMotionModel",
            "a UNetMotionModel as its unet in place of a UNet3DConditionModel",
        ),
        ("AutoencoderKL", "VQModel", "a VQModel as its vae"),
        (
            "CLIPTextModel",
            "T5EncoderModel",
            "a T5EncoderModel as its text encoder",
        ),
        (
            "CLIPTokenizer",
            "T5Tokenizer",
            "a T5Tokenizer as its tokenizer",
        ),
        // A name that would move a terminal's cursor.
        (
            "TextToVideoSDPipeline",
            "\\u001b[2J",
            r"is a model for \u{1b}[2J",
        ),
        ("\"TextToVideoSDPipeline\"", "7", "could not be understood"),
        (
            "\"_class_name\"",
            "\"class\"",
            "missing field `_class_name`",
        ),
        ("{", "[", "could not be understood"),
    ] {
        let message = damage(index, from, to);
        assert!(message.contains(part), "{to}: {message}");
    }
    // Parts that are left out are no error here: what is needed is looked for by its files.
    let copy = micro_copy();
    fs::write(
        copy.path().join(index),
        r#"{"_class_name": "VideoToVideoSDPipeline", "unet": [null, null]}"#,
    )
    .unwrap();
    ModelFolder::open(copy.path()).unwrap();
}

#[test]
fn a_card_with_absurd_numbers_is_refused() {
    let copy = micro_copy();
    for (card, part) in [
        (r#"{"frames": 0}"#, "frames is 0, expected 1 to 1024"),
        (r#"{"frames": 1000000000000}"#, "frames is 1000000000000"),
        (r#"{"frames": -1}"#, "could not be understood"),
        (
            r#"{"steps": 100000}"#,
            "steps is 100000, expected 1 to 1000",
        ),
        (r#"{"guidance": 1e300}"#, "guidance is 1000"),
        (r#"{"guidance": NaN}"#, "could not be understood"),
        (
            r#"{"fps": 0.0}"#,
            "fps is 0, expected a number above 0, at most 240",
        ),
        (r#"{"fps": 1e999}"#, "number out of range"),
    ] {
        fs::write(copy.path().join("model_card.json"), card).unwrap();
        let message = ModelFolder::open(copy.path()).unwrap_err().to_string();
        assert!(message.contains(part), "{card}: {message}");
    }
    // Each number in its range, together more than any memory holds.
    fs::write(copy.path().join("model_card.json"), r#"{"frames": 1024}"#).unwrap();
    let unet = copy.path().join("unet/config.json");
    let text = fs::read_to_string(&unet).unwrap();
    fs::write(
        &unet,
        text.replace("\"sample_size\": 8", "\"sample_size\": 1024"),
    )
    .unwrap();
    let message = ModelFolder::open(copy.path()).unwrap_err().to_string();
    assert!(
        message.contains("1024 frames of 8192x8192 pixels"),
        "{message}"
    );
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
