//! ModelScope's and ZeroScope's folders as they are published: their files' names and their words, and weight files of
//! their sizes that hold nothing but zeros and take no room on the disk.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use candle_core::Device;
use spectral_motion::models::{
    ClipLimits, ClipTokenizer, ModelError, ModelFolder, ModelKind, WrongShape,
};
use spectral_motion::schedulers::{Ddim, DpmSolver, PredictionType, SchedulerConfig};

use super::micro;
use super::torch_writer::{Content, Pickle, Style, write_archive};
use crate::common::allocation::measured;

pub type Shapes = BTreeMap<String, Vec<usize>>;

/// Names and shapes of the published networks, from diffusers and transformers (`tools/golden/keys.py`).
pub fn published(network: &str) -> Shapes {
    let mut shapes = Shapes::new();
    let mut here = false;
    for line in include_str!("../golden/keys.txt").lines() {
        if let Some(name) = line.strip_prefix("# ") {
            here = name == network;
        } else if here {
            let mut words = line.split(' ');
            let name = words.next().unwrap().to_owned();
            shapes.insert(name, words.map(|size| size.parse().unwrap()).collect());
        }
    }
    assert!(!shapes.is_empty(), "{network}");
    shapes
}

/// The small files of ZeroScope v2 576w; ModelScope's differ in `_name_or_path` and versions.
const FILES: &[(&str, &str)] = &[
    (
        "model_index.json",
        r#"{"_class_name": "TextToVideoSDPipeline", "_diffusers_version": "0.17.0.dev0",
            "scheduler": ["diffusers", "DDIMScheduler"], "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"], "unet": ["diffusers", "UNet3DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"]}"#,
    ),
    (
        "unet/config.json",
        r#"{"_class_name": "UNet3DConditionModel", "_diffusers_version": "0.17.0.dev0", "act_fn": "silu",
            "attention_head_dim": 64, "block_out_channels": [320, 640, 1280, 1280], "cross_attention_dim": 1024,
            "down_block_types": ["CrossAttnDownBlock3D", "CrossAttnDownBlock3D", "CrossAttnDownBlock3D", "DownBlock3D"],
            "downsample_padding": 1, "in_channels": 4, "layers_per_block": 2, "mid_block_scale_factor": 1,
            "norm_eps": 1e-05, "norm_num_groups": 32, "out_channels": 4, "sample_size": 32,
            "up_block_types": ["UpBlock3D", "CrossAttnUpBlock3D", "CrossAttnUpBlock3D", "CrossAttnUpBlock3D"]}"#,
    ),
    (
        "vae/config.json",
        r#"{"_class_name": "AutoencoderKL", "_diffusers_version": "0.17.0.dev0", "act_fn": "silu",
            "block_out_channels": [128, 256, 512, 512],
            "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"],
            "in_channels": 3, "latent_channels": 4, "layers_per_block": 2, "norm_num_groups": 32, "out_channels": 3,
            "sample_size": 512, "scaling_factor": 0.18215,
            "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"]}"#,
    ),
    (
        "text_encoder/config.json",
        r#"{"architectures": ["CLIPTextModel"], "attention_dropout": 0.0, "bos_token_id": 0, "dropout": 0.0,
            "eos_token_id": 2, "hidden_act": "gelu", "hidden_size": 1024, "initializer_factor": 1.0,
            "initializer_range": 0.02, "intermediate_size": 4096, "layer_norm_eps": 1e-05,
            "max_position_embeddings": 77, "model_type": "clip_text_model", "num_attention_heads": 16,
            "num_hidden_layers": 23, "pad_token_id": 1, "projection_dim": 512, "torch_dtype": "float16",
            "transformers_version": "4.29.2", "vocab_size": 49408}"#,
    ),
    (
        "scheduler/scheduler_config.json",
        r#"{"_class_name": "DDIMScheduler", "_diffusers_version": "0.17.0.dev0", "beta_end": 0.012,
            "beta_schedule": "scaled_linear", "beta_start": 0.00085, "clip_sample": false, "clip_sample_range": 1.0,
            "dynamic_thresholding_ratio": 0.995, "num_train_timesteps": 1000, "prediction_type": "epsilon",
            "sample_max_value": 1.0, "set_alpha_to_one": false, "skip_prk_steps": true, "steps_offset": 1,
            "thresholding": false, "trained_betas": null}"#,
    ),
    (
        "tokenizer/special_tokens_map.json",
        r#"{"bos_token": {"content": "<|startoftext|>", "lstrip": false, "normalized": true, "rstrip": false,
            "single_word": false}, "eos_token": {"content": "<|endoftext|>", "lstrip": false, "normalized": true,
            "rstrip": false, "single_word": false}, "pad_token": "!", "unk_token": {"content": "<|endoftext|>",
            "lstrip": false, "normalized": true, "rstrip": false, "single_word": false}}"#,
    ),
    (
        "tokenizer/tokenizer_config.json",
        r#"{"add_prefix_space": false, "bos_token": {"__type": "AddedToken", "content": "<|startoftext|>"},
            "do_lower_case": true, "eos_token": {"__type": "AddedToken", "content": "<|endoftext|>"},
            "errors": "replace", "model_max_length": 77, "pad_token": "<|endoftext|>",
            "tokenizer_class": "CLIPTokenizer", "unk_token": {"__type": "AddedToken", "content": "<|endoftext|>"}}"#,
    ),
];

/// Everything but the weights; the words of the tokenizer are the micro model's.
fn small_files(dir: &Path) {
    for part in ["unet", "vae", "text_encoder", "scheduler", "tokenizer"] {
        fs::create_dir_all(dir.join(part)).unwrap();
    }
    for (file, text) in FILES {
        fs::write(dir.join(file), text).unwrap();
    }
    for file in ["tokenizer/vocab.json", "tokenizer/merges.txt"] {
        fs::copy(micro().join(file), dir.join(file)).unwrap();
    }
}

/// The published networks under the names that files of 2023 give their weights.
fn weights() -> [(&'static str, Shapes); 3] {
    let text = published("zeroscope.text").into_iter();
    let mut text: Shapes = text
        .map(|(name, shape)| (format!("text_model.{name}"), shape))
        .collect();
    text.insert("text_model.embeddings.position_ids".to_owned(), vec![1, 77]);
    let old_name = |name: String| {
        [
            ("to_q", "query"),
            ("to_k", "key"),
            ("to_v", "value"),
            ("to_out.0", "proj_attn"),
        ]
        .iter()
        .fold(name, |name, (new, old)| name.replace(new, old))
    };
    let vae = published("sd15.vae").into_iter();
    let vae = vae.map(|(name, shape)| (old_name(name), shape)).collect();
    [
        ("unet", published("zeroscope.unet")),
        ("vae", vae),
        ("text_encoder", text),
    ]
}

fn numbers(shape: &[usize]) -> usize {
    shape.iter().product()
}

/// A file of `torch.save` in half precision. Its zeros are skipped, not written.
fn torch_file(path: &Path, shapes: &Shapes) {
    let mut pickle = Pickle::start()
        .global("collections", "OrderedDict")
        .raw(")R(");
    let mut entries = Vec::new();
    for (i, (name, shape)) in shapes.iter().enumerate() {
        let (kind, width) = match name.ends_with("position_ids") {
            true => ("LongStorage", 8),
            false => ("HalfStorage", 2),
        };
        let count = numbers(shape);
        let sizes: Vec<i64> = shape.iter().map(|&n| i64::try_from(n).unwrap()).collect();
        let strides: Vec<i64> = (0..sizes.len())
            .map(|d| sizes[d + 1..].iter().product())
            .collect();
        let (key, length) = (i.to_string(), i64::try_from(count).unwrap());
        pickle = pickle
            .text(name)
            .tensor((kind, &key, length), 0, &sizes, &strides);
        entries.push((
            format!("archive/data/{key}"),
            Content::Zeros((count * width) as u64),
        ));
    }
    entries.insert(
        0,
        (
            "archive/data.pkl".to_owned(),
            Content::Bytes(pickle.raw("u").end()),
        ),
    );
    entries.push((
        "archive/version".to_owned(),
        Content::Bytes(b"3\n".to_vec()),
    ));
    let entries: Vec<_> = entries
        .into_iter()
        .map(|(name, content)| (name.leak() as &str, content))
        .collect();
    write_archive(&mut File::create(path).unwrap(), &entries, Style::default()).unwrap();
}

/// The same as a safetensors file.
fn safetensors_file(path: &Path, shapes: &Shapes) {
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    header.insert(
        "__metadata__".to_owned(),
        serde_json::json!({"format": "pt"}),
    );
    for (name, shape) in shapes {
        let (kind, width) = match name.ends_with("position_ids") {
            true => ("I64", 8),
            false => ("F16", 2),
        };
        let from = end;
        end += numbers(shape) * width;
        let info = serde_json::json!({"dtype": kind, "shape": shape, "data_offsets": [from, end]});
        header.insert(name.clone(), info);
    }
    let header = serde_json::to_string(&header).unwrap();
    let mut file = File::create(path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes())
        .unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len((8 + header.len() + end) as u64).unwrap();
}

/// The table of contents of 2,100 tensors and three networks of placeholders; the weights themselves are 3.6 GB.
const TABLES: usize = 16 << 20;

#[test]
fn zeroscope_as_it_is_published_is_understood() {
    let dir = tempfile::tempdir().unwrap();
    small_files(dir.path());
    let mut total = 0;
    for (part, shapes) in weights() {
        let name = if part == "text_encoder" {
            "pytorch_model"
        } else {
            "diffusion_pytorch_model"
        };
        let path = dir.path().join(part).join(format!("{name}.bin"));
        torch_file(&path, &shapes);
        total += fs::metadata(path).unwrap().len();
    }
    assert!(total > 3_500_000_000, "{total}");
    let folder = ModelFolder::open(dir.path()).unwrap();
    let limits = ClipLimits {
        default_frames: 16,
        size_multiple: 8,
        width: 256,
        height: 256,
    };
    assert_eq!(folder.clip_limits(), limits);
    // 64 channels a head at every level: 5, 10 and 20 heads.
    let unet = folder.unet_config().unwrap();
    assert_eq!((unet.head_dim, unet.text_width), (64, 1024));
    assert_eq!(*folder.scheduler(), SchedulerConfig::stable_diffusion());
    assert_eq!(folder.scheduler().prediction_type, PredictionType::Epsilon);
    assert_eq!(
        Ddim::new(folder.scheduler(), 50).unwrap().timesteps()[0],
        981
    );
    assert_eq!(
        DpmSolver::new(folder.scheduler(), 50).unwrap().timesteps()[0],
        999
    );
    let (checked, asked) = measured(|| folder.check_weights());
    checked.unwrap();
    assert!(asked.peak < TABLES, "{asked:?}");

    // The padding is "!", which the map says and the configuration does not; id 33 in the micro model's words.
    let tokenizer = ClipTokenizer::from_dir(&dir.path().join("tokenizer")).unwrap();
    let ids = tokenizer.encode("car").unwrap();
    assert_eq!((ids.len(), ids[76]), (77, 33));

    // Another network's configuration beside the same weights: told at once, with nothing read.
    let config = dir.path().join("text_encoder/config.json");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(
        &config,
        text.replace("\"num_hidden_layers\": 23", "\"num_hidden_layers\": 24"),
    )
    .unwrap();
    let other = ModelFolder::open(dir.path()).unwrap();
    let (refused, asked) = measured(|| other.load_text(&Device::Cpu));
    let Err(ModelError::Keys(report)) = refused else {
        panic!("24 layers were found in 23");
    };
    assert_eq!(report.missing.len(), 16);
    assert!(
        report
            .missing
            .iter()
            .all(|name| name.starts_with("text_model.encoder.layers.23."))
    );
    assert!(asked.peak < TABLES, "{asked:?}");
    // An absurd one is given up before its list is complete.
    let absurd = text.replace("\"num_hidden_layers\": 23", "\"num_hidden_layers\": 1024");
    fs::write(&config, absurd).unwrap();
    let other = ModelFolder::open(dir.path()).unwrap();
    let (refused, asked) = measured(|| other.load_text(&Device::Cpu).unwrap_err().to_string());
    assert!(
        refused.contains("describes a network of more than"),
        "{refused}"
    );
    assert!(asked.peak < TABLES, "{asked:?}");
}

#[test]
fn modelscope_in_half_precision_is_understood() {
    let dir = tempfile::tempdir().unwrap();
    small_files(dir.path());
    for (part, shapes) in weights() {
        let name = if part == "text_encoder" {
            "model"
        } else {
            "diffusion_pytorch_model"
        };
        safetensors_file(
            &dir.path()
                .join(part)
                .join(format!("{name}.fp16.safetensors")),
            &shapes,
        );
    }
    let folder = ModelFolder::open(dir.path()).unwrap();
    let (checked, asked) = measured(|| folder.check_weights());
    checked.unwrap();
    assert!(asked.peak < TABLES, "{asked:?}");

    // One size of one tensor, found among 1,480.
    let mut unet = published("zeroscope.unet");
    unet.insert(
        "mid_block.attentions.0.proj_in.weight".to_owned(),
        vec![1280, 1280, 1, 1],
    );
    let path = dir
        .path()
        .join("unet/diffusion_pytorch_model.fp16.safetensors");
    safetensors_file(&path, &unet);
    let (refused, asked) = measured(|| folder.load_unet(&|_| false, &Device::Cpu).map(drop));
    let Err(ModelError::Keys(report)) = refused else {
        panic!("a convolution in place of a matrix was taken");
    };
    let wrong = WrongShape {
        name: "mid_block.attentions.0.proj_in.weight".to_owned(),
        expected: vec![1280, 1280],
        found: vec![1280, 1280, 1, 1],
    };
    assert_eq!((report.missing.len(), report.unexpected.len()), (0, 0));
    assert_eq!(report.wrong_shape, [wrong]);
    assert!(asked.peak < TABLES, "{asked:?}");
}

/// Stable Diffusion 1.5's `unet/config.json`; the ControlNets made for it say the same sizes.
pub const SD15: &str = r#"{"_class_name": "UNet2DConditionModel", "_diffusers_version": "0.6.0", "act_fn": "silu",
    "attention_head_dim": 8, "block_out_channels": [320, 640, 1280, 1280], "center_input_sample": false,
    "cross_attention_dim": 768, "down_block_types":
    ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "downsample_padding": 1, "flip_sin_to_cos": true, "freq_shift": 0, "in_channels": 4, "layers_per_block": 2,
    "mid_block_scale_factor": 1, "norm_eps": 1e-05, "norm_num_groups": 32, "out_channels": 4, "sample_size": 64,
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"]}"#;

/// Stable Diffusion 1.5's other small files, as far as they differ from ZeroScope's.
const SD15_FILES: &[(&str, &str)] = &[
    (
        "model_index.json",
        r#"{"_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.6.0",
            "feature_extractor": ["transformers", "CLIPImageProcessor"],
            "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
            "scheduler": ["diffusers", "PNDMScheduler"], "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"], "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"]}"#,
    ),
    ("unet/config.json", SD15),
    (
        "text_encoder/config.json",
        r#"{"architectures": ["CLIPTextModel"], "attention_dropout": 0.0, "bos_token_id": 0, "dropout": 0.0,
            "eos_token_id": 2, "hidden_act": "quick_gelu", "hidden_size": 768, "initializer_factor": 1.0,
            "initializer_range": 0.02, "intermediate_size": 3072, "layer_norm_eps": 1e-05,
            "max_position_embeddings": 77, "model_type": "clip_text_model", "num_attention_heads": 12,
            "num_hidden_layers": 12, "pad_token_id": 1, "torch_dtype": "float32", "vocab_size": 49408}"#,
    ),
    (
        "scheduler/scheduler_config.json",
        r#"{"_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0", "beta_end": 0.012,
            "beta_schedule": "scaled_linear", "beta_start": 0.00085, "num_train_timesteps": 1000,
            "set_alpha_to_one": false, "skip_prk_steps": true, "steps_offset": 1, "trained_betas": null,
            "clip_sample": false}"#,
    ),
];

/// With a ControlNet beside it, as the two are downloaded.
#[test]
fn stable_diffusion_as_it_is_published_is_understood() {
    let dir = tempfile::tempdir().unwrap();
    let (model, controlnet) = (dir.path().join("sd15"), dir.path().join("canny"));
    small_files(&model);
    for (file, text) in SD15_FILES {
        fs::write(model.join(file), text).unwrap();
    }
    let text = published("sd15.text").into_iter();
    let text = text.map(|(name, shape)| (format!("text_model.{name}"), shape));
    let weight = |part: &str, name: &str, shapes: &Shapes| {
        safetensors_file(&model.join(part).join(name), shapes);
    };
    let diffusion = "diffusion_pytorch_model.safetensors";
    weight("unet", diffusion, &published("sd15.unet"));
    weight("vae", diffusion, &published("sd15.vae"));
    weight("text_encoder", "model.safetensors", &text.collect());
    fs::create_dir_all(&controlnet).unwrap();
    let config = SD15.replace("UNet2DConditionModel", "ControlNetModel");
    fs::write(controlnet.join("config.json"), config).unwrap();
    safetensors_file(&controlnet.join(diffusion), &published("sd15.controlnet"));

    let folder = ModelFolder::open(&model).unwrap();
    assert_eq!(folder.kind(), ModelKind::Image);
    let limits = ClipLimits {
        default_frames: 8,
        size_multiple: 8,
        width: 512,
        height: 512,
    };
    assert_eq!(folder.clip_limits(), limits);
    let unet = folder.image_config().unwrap();
    assert_eq!((unet.heads, unet.text_width), (8, 768));
    let ddim = Ddim::new(folder.scheduler(), 50).unwrap();
    assert_eq!((ddim.timesteps()[0], ddim.timesteps()[49]), (981, 1));
    let folder = folder.with_controlnet(&controlnet).unwrap();
    let (checked, asked) = measured(|| folder.check_weights());
    checked.unwrap();
    assert!(asked.peak < TABLES, "{asked:?}");

    // A ControlNet for Stable Diffusion 2 is wider on the side of the words.
    let other = SD15.replace(
        "\"cross_attention_dim\": 768",
        "\"cross_attention_dim\": 1024",
    );
    let other = other.replace("UNet2DConditionModel", "ControlNetModel");
    fs::write(controlnet.join("config.json"), other).unwrap();
    let refused = folder.with_controlnet(&controlnet).unwrap_err().to_string();
    assert!(refused.contains("made for another model"), "{refused}");
}
