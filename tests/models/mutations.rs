//! Random damage to the files of a model: whatever a file says, it is read or refused, nothing ends the program, and no
//! reader asks for more memory than a multiple of what it is given.
//!
//! `SPECTRAL_MOTION_FUZZ` is the number of inputs for each kind of file. With `--nocapture` each kind tells its figures.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::slice;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use spectral_motion::models::{
    AutoencoderKL, ClipTextConfig, ClipTextModel, ClipTokenizer, ControlNetModel, DepthAnything,
    InflatedUNet, Inflation, LoraDeltas, LoraFile, ModelFolder, UNet3DConditionModel, Weights,
};
use spectral_motion::nn::no_grad;
use spectral_motion::schedulers::{Ddim, DpmSolver, ReferenceInversion};

use super::torch_writer::{Pickle, checkpoint, checkpoint_of, floats};
use super::{copy_of, micro, micro_copy};
use crate::common::allocation::measured;
use crate::common::damage::{self, Mutator};
use crate::common::{golden, image_model};

const INPUTS: usize = 1_000;

/// A kind of file, and what its reader may ask for.
struct Kind<'a> {
    name: &'a str,
    /// Where the file is read from.
    path: PathBuf,
    /// What is damaged: the file, or a part of it.
    valid: Vec<u8>,
    /// Makes the file of a damaged part.
    wrap: &'a dyn Fn(Vec<u8>) -> Vec<u8>,
    /// Bytes of what else is read with it.
    beside: usize,
    allowance: Allowance,
    /// Without a number from outside every input is damaged and read this many times less often.
    rarely: usize,
}

/// Bytes a reader may hold at one moment: so many times what it is given, and what is the same for every file.
#[derive(Clone, Copy)]
struct Allowance {
    times: usize,
    fixed: usize,
}

/// A table of contents in memory: names, shapes and places take more room than the digits they are written with, and a
/// growing list is there twice for a moment. `f16` becomes `f32`.
const WEIGHTS: Allowance = Allowance {
    times: 8,
    fixed: 16 << 10,
};
/// JSON: the shortest value, `0,`, becomes a number of eight bytes in a list that grows.
const CONFIGURATION: Allowance = Allowance {
    times: 8,
    fixed: 16 << 10,
};
/// A vocabulary is held by word and by number, and written once more in the words of the tokenizer's own format. What
/// splits a prompt into words is compiled from tables of Unicode, 650 KB whatever the file says.
const TOKENIZER: Allowance = Allowance {
    times: 16,
    fixed: 1 << 20,
};

fn as_it_is(bytes: Vec<u8>) -> Vec<u8> {
    bytes
}

impl<'a> Kind<'a> {
    fn whole(name: &'a str, path: PathBuf, allowance: Allowance) -> Self {
        Self {
            name,
            valid: fs::read(&path).unwrap(),
            path,
            wrap: &as_it_is,
            beside: 0,
            allowance,
            rarely: 1,
        }
    }

    /// Writes damaged files, one after the other, reads each and uses what was read. A panic fails the test by itself.
    fn survives<T>(&self, read: &dyn Fn() -> Option<T>, used: &dyn Fn(T)) {
        let inputs = damage::inputs(INPUTS / self.rarely);
        let worst = Cell::new((0.0, 0, 0));
        let reads = |bytes: &[u8]| {
            fs::write(&self.path, bytes).unwrap();
            let (result, asked) = measured(read);
            let given = bytes.len() + self.beside;
            let Allowance { times, fixed } = self.allowance;
            assert!(
                asked.peak <= times * given + fixed,
                "{}: {} bytes asked for of {given}",
                self.name,
                asked.peak
            );
            let share = asked.peak as f64 / (times * given + fixed) as f64;
            if share > worst.get().0 {
                worst.set((share, asked.peak, given));
            }
            result.map(used).is_some()
        };
        assert!(
            reads(&(self.wrap)(self.valid.clone())),
            "{} is valid and was refused",
            self.name
        );
        let mut mutator = Mutator::default();
        let begun = Instant::now();
        let refused = (0..inputs)
            .filter(|_| !reads(&(self.wrap)(mutator.damage(&self.valid))))
            .count();
        let (share, peak, given) = worst.get();
        println!(
            "{:<24} {inputs} inputs, {refused} refused, {:.1} s; most memory: {peak} bytes for {given}, {:.0} % of the allowance",
            self.name,
            begun.elapsed().as_secs_f64(),
            100.0 * share
        );
        // The damage reaches what the reader looks at.
        assert!(
            refused * 10 > inputs,
            "{}: {refused} of {inputs} refused",
            self.name
        );
        fs::write(&self.path, (self.wrap)(self.valid.clone())).unwrap();
    }
}

/// What the weight files of these tests are asked for.
const ASKED: &[(&str, &[usize])] = &[
    ("a", &[2, 2]),
    ("a.weight", &[2, 3]),
    ("b", &[4]),
    ("single", &[2, 3]),
    ("transposed", &[3, 4]),
    ("learned", &[12]),
    ("empty", &[0, 4]),
];

/// Opens a weight file and reads what is in it.
fn weights(path: &Path) -> Option<Vec<Tensor>> {
    let weights =
        Weights::open(slice::from_ref(&path.to_owned()), DType::F32, &Device::Cpu).ok()?;
    Some(
        ASKED
            .iter()
            .filter_map(|(name, shape)| weights.get(name, shape).ok())
            .collect(),
    )
}

fn weights_survive(name: &str, file: &str, valid: Vec<u8>, wrap: &dyn Fn(Vec<u8>) -> Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(file);
    let kind = Kind {
        name,
        path: path.clone(),
        valid,
        wrap,
        beside: 0,
        allowance: WEIGHTS,
        rarely: 1,
    };
    kind.survives(&|| weights(&path), &drop);
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
    weights_survive(
        ".bin",
        "small.bin",
        checkpoint_of(&small_tensors()),
        &as_it_is,
    );
    let torch = fs::read(golden("torch/plain.bin")).unwrap();
    weights_survive(".bin of torch", "plain.bin", torch, &as_it_is);
}

/// The archive around it is whole, so that every damage is the pickle's.
#[test]
fn descriptions_of_bin_files_survive_any_damage() {
    let pickle = Pickle::start()
        .raw("}(")
        .text("a")
        .tensor(("FloatStorage", "0", 4), 0, &[2, 2], &[2, 1])
        .text("transposed")
        .tensor(("HalfStorage", "1", 12), 0, &[3, 4], &[1, 3])
        .text("_metadata")
        .raw("}q\x01(")
        .text("version")
        .raw("K\x01uu")
        .end();
    let storages = [("0", floats(&[1.0, 2.0, 3.0, 4.0])), ("1", vec![0x3c; 24])];
    weights_survive("pickle", "small.bin", pickle, &|pickle| {
        checkpoint(pickle, &storages)
    });
}

/// The files inside are whole, so that every damage is the directory's.
#[test]
fn directories_of_bin_files_survive_any_damage() {
    let mut body = checkpoint_of(&small_tensors());
    let start = body
        .windows(4)
        .position(|bytes| bytes == b"PK\x01\x02")
        .unwrap();
    let directory = body.split_off(start);
    weights_survive("zip directory", "small.bin", directory, &|directory| {
        [body.as_slice(), &directory].concat()
    });
}

#[test]
fn safetensors_files_survive_any_damage() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("valid.safetensors");
    candle_core::safetensors::save(&small_tensors().into_iter().collect(), &path).unwrap();
    let whole = fs::read(&path).unwrap();
    weights_survive("safetensors", "small.safetensors", whole.clone(), &as_it_is);
    // The length before the header is right, so that every damage is the header's.
    let length = usize::from(whole[0]) + 256 * usize::from(whole[1]);
    let (header, data) = (whole[8..8 + length].to_vec(), whole[8 + length..].to_vec());
    weights_survive(
        "safetensors header",
        "small.safetensors",
        header,
        &|header| {
            let length = (header.len() as u64).to_le_bytes();
            [&length[..], &header, &data].concat()
        },
    );
}

/// Files of other programs, and lists without names: fitted to a network and added up.
#[test]
fn lora_files_survive_any_damage() {
    let folder = ModelFolder::open(&micro()).unwrap();
    let network = folder.lora_network().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let peer = fs::read(golden("lora/video.safetensors")).unwrap();
    let header =
        8 + usize::from(peer[0]) + 256 * usize::from(peer[1]) + (usize::from(peer[2]) << 16);
    let (header, data) = peer.split_at(header);
    let keep_data = |header: Vec<u8>| {
        // The length before the header is right, so that every damage is a name's, a shape's or a note's.
        let length = (header.len() as u64).to_le_bytes();
        [&length[..], &header, data].concat()
    };
    let list = Pickle::start()
        .raw("](")
        .tensor(("FloatStorage", "0", 64), 0, &[16, 4], &[4, 1])
        .tensor(("FloatStorage", "1", 64), 0, &[4, 16], &[16, 1])
        .raw("e")
        .end();
    let storages = [("0", vec![0; 256]), ("1", vec![0; 256])];
    let in_archive = |pickle: Vec<u8>| checkpoint(pickle, &storages);
    type Case<'a> = (&'a str, Vec<u8>, &'a dyn Fn(Vec<u8>) -> Vec<u8>, bool);
    let cases: [Case<'_>; 3] = [
        ("whole.safetensors", peer.clone(), &as_it_is, true),
        ("header.safetensors", header[8..].to_vec(), &keep_data, true),
        ("list.pt", list, &in_archive, false),
    ];
    for (name, valid, wrap, fits) in cases {
        let path = dir.path().join(name);
        let kind = Kind {
            name,
            path: path.clone(),
            valid,
            wrap,
            beside: 0,
            // Beside what is read of the file: the network's names with underscores, and a few of its lists of layers.
            allowance: Allowance {
                times: 8,
                fixed: 512 << 10,
            },
            rarely: 4,
        };
        let read = || {
            let lora = LoraFile::open(&path).ok()?;
            let Ok(fitted) = lora.fit(&network) else {
                return (!fits).then_some(0);
            };
            LoraDeltas::default().add(&fitted, 1.0).ok()?;
            Some(fitted.layers.len())
        };
        kind.survives(&read, &|layers| assert!(layers <= network.unet.len()));
    }
}

/// What is accepted must also describe networks that can be laid out and a schedule that can be walked.
fn lay_out(folder: &ModelFolder, text: &str) {
    drop(UNet3DConditionModel::new(
        &Weights::recorder(),
        folder.unet_config().unwrap(),
    ));
    drop(AutoencoderKL::new(
        &Weights::recorder(),
        folder.vae_config(),
    ));
    let text = ClipTextConfig::from_json(text).unwrap();
    drop(ClipTextModel::new(&Weights::recorder(), &text));
    let limits = folder.clip_limits();
    assert!(limits.width >= 1 && limits.height >= 1 && limits.default_frames >= 1);
    for steps in [1, 30] {
        drop(Ddim::new(folder.scheduler(), steps));
        drop(DpmSolver::new(folder.scheduler(), steps));
        drop(ReferenceInversion::new(folder.scheduler(), steps));
    }
}

#[test]
fn configurations_survive_any_damage() {
    let copy = micro_copy();
    let card = copy.path().join("model_card.json");
    fs::write(
        &card,
        r#"{"frames": 8, "guidance": 7.0, "steps": 15, "fps": 8, "prompt": "a star"}"#,
    )
    .unwrap();
    let files = [
        "model_index.json",
        "model_card.json",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "vae/config.json",
        "text_encoder/config.json",
    ];
    let beside = files
        .iter()
        .map(|file| fs::read(copy.path().join(file)).unwrap().len())
        .sum();
    for file in files {
        let kind = Kind {
            beside,
            ..Kind::whole(file, copy.path().join(file), CONFIGURATION)
        };
        kind.survives(&|| ModelFolder::open(copy.path()).ok(), &|folder| {
            let text = fs::read_to_string(copy.path().join("text_encoder/config.json")).unwrap();
            lay_out(&folder, &text);
        });
    }
}

/// Of an image model and its ControlNet, which are laid out as every method inflates them.
#[test]
fn configurations_of_image_models_survive_any_damage() {
    let copy = copy_of(&image_model());
    let files = ["unet/config.json", "controlnet/config.json"];
    let read = |file: &str| fs::read(copy.path().join(file)).unwrap().len();
    let others = [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "vae/config.json",
        "text_encoder/config.json",
    ];
    let beside = files.iter().chain(&others).map(|file| read(file)).sum();
    for file in files {
        let kind = Kind {
            beside,
            ..Kind::whole(file, copy.path().join(file), CONFIGURATION)
        };
        kind.survives(&|| ModelFolder::open(copy.path()).ok(), &|folder| {
            let (unet, control) = (folder.image_config(), folder.controlnet_config());
            let (unet, control) = (unet.unwrap(), control.unwrap());
            for inflation in [
                Inflation::Pictures,
                Inflation::SparseCausal,
                Inflation::KeyFrame,
            ] {
                drop(InflatedUNet::new(&Weights::recorder(), unet, inflation));
                drop(ControlNetModel::new(
                    &Weights::recorder(),
                    control,
                    inflation,
                ));
            }
            let limits = folder.clip_limits();
            assert!(limits.width >= 1 && limits.height >= 1);
        });
    }
}

/// What is accepted looks at a picture of two patches.
#[test]
fn configurations_of_estimators_of_depth_survive_any_damage() {
    let copy = copy_of(&golden("depth"));
    let weights = fs::read(copy.path().join("model.safetensors")).unwrap();
    let kind = Kind {
        beside: weights.len(),
        rarely: 4,
        ..Kind::whole(
            "depth/config.json",
            copy.path().join("config.json"),
            WEIGHTS,
        )
    };
    let read = || DepthAnything::open(copy.path(), &Device::Cpu).ok();
    kind.survives(&read, &|model| {
        let shape = (1, model.patch(), 2 * model.patch(), 3);
        let picture = Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
        drop(no_grad(|| model.forward(&picture)));
    });
}

#[test]
fn tokenizers_survive_any_damage() {
    let prompts = ["", "the CAR is running!", "e\u{301}té 🚗 ١٢٣ <|endoftext|>"];
    for (files, damaged) in [
        (
            &["vocab.json", "merges.txt"][..],
            &["vocab.json", "merges.txt"][..],
        ),
        (&["tokenizer.json"], &["tokenizer.json"]),
        (
            &[
                "vocab.json",
                "merges.txt",
                "special_tokens_map.json",
                "tokenizer_config.json",
            ],
            &["special_tokens_map.json", "tokenizer_config.json"],
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let map =
            r#"{"bos_token": {"content": "<|startoftext|>", "lstrip": false}, "pad_token": "!"}"#;
        fs::write(dir.path().join("special_tokens_map.json"), map).unwrap();
        for file in files
            .iter()
            .filter(|file| **file != "special_tokens_map.json")
        {
            fs::copy(micro().join("tokenizer").join(file), dir.path().join(file)).unwrap();
        }
        let beside = files
            .iter()
            .map(|file| fs::read(dir.path().join(file)).unwrap().len())
            .sum();
        for file in damaged {
            let kind = Kind {
                beside,
                rarely: 10,
                ..Kind::whole(file, dir.path().join(file), TOKENIZER)
            };
            kind.survives(&|| ClipTokenizer::from_dir(dir.path()).ok(), &|tokenizer| {
                for prompt in prompts {
                    if let Ok(ids) = tokenizer.encode(prompt) {
                        assert_eq!(ids.len(), tokenizer.capacity() + 2);
                    }
                }
            });
        }
    }
}

#[test]
fn a_shard_index_survives_any_damage() {
    let copy = micro_copy();
    let part = |name: &str| copy.path().join(name);
    let folder = ModelFolder::open(copy.path()).unwrap();
    for file in [
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "unet/one.safetensors",
        "unet/two.safetensors",
    ] {
        fs::write(part(file), b"weights").unwrap();
    }
    fs::remove_file(part("unet/diffusion_pytorch_model.safetensors")).unwrap();
    let kind = Kind {
        name: "shard index",
        path: part("unet/diffusion_pytorch_model.safetensors.index.json"),
        valid: br#"{"metadata": {"total_size": 14}, "weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}"#.to_vec(),
        wrap: &as_it_is,
        beside: 0,
        allowance: CONFIGURATION,
        rarely: 1,
    };
    kind.survives(&|| folder.weights_sha256().ok(), &drop);
}
