//! PyTorch's `.bin` files: their values, models made of them, and which of several files is read.

use std::collections::BTreeMap;
use std::fs;

use candle_core::{DType, Device};
use spectral_motion::models::{ModelFolder, Weights};

use super::torch_writer::checkpoint_of;
use super::{micro_copy, micro_folder, micro_tensors, noise, relative_error};
use crate::common::golden;

const STEM: &str = "diffusion_pytorch_model";

#[test]
fn files_of_torch_give_their_values() {
    let open = |name: &str| {
        Weights::open(&[golden("torch").join(name)], DType::F32, &Device::Cpu).unwrap()
    };
    let plain = open("plain.bin");
    let matrix =
        |name: &str, shape: &[usize]| plain.get(name, shape).unwrap().to_vec2::<f32>().unwrap();
    // Every value is exact in every type, but for 65536, which is beyond half precision.
    let exact = [[1.0, -0.5, 0.25], [65536.0, 3.0, -2.0]];
    for name in ["single", "brain", "double"] {
        assert_eq!(matrix(name, &[2, 3]), exact, "{name}");
    }
    assert_eq!(
        matrix("half", &[2, 3]),
        [[1.0, -0.5, 0.25], [65504.0, 3.0, -2.0]]
    );
    // Three views of the numbers 0 to 11.
    assert_eq!(matrix("rows", &[2, 3]), [[3.0, 4.0, 5.0], [6.0, 7.0, 8.0]]);
    assert_eq!(
        matrix("transposed", &[3, 4]),
        [
            [0.0, 3.0, 6.0, 9.0],
            [1.0, 4.0, 7.0, 10.0],
            [2.0, 5.0, 8.0, 11.0]
        ]
    );
    let learned = plain.get("learned", &[12]).unwrap();
    let all: Vec<f32> = (0..12u8).map(f32::from).collect();
    assert_eq!(learned.to_vec1::<f32>().unwrap(), all);
    let number = plain.get("number", &[]).unwrap();
    assert_eq!(number.to_scalar::<f32>().unwrap(), 7.5);
    assert_eq!(plain.get("empty", &[0, 4]).unwrap().elem_count(), 0);
    let whole = plain.get("whole", &[1, 3]).unwrap_err().to_string();
    assert!(whole.contains("stores numbers as I64"), "{whole}");
    assert!(!plain.has("_metadata"));

    let nested = open("nested.bin");
    let kernel = nested.get("layer.weight", &[2, 2]).unwrap();
    assert_eq!(kernel.to_vec2::<f32>().unwrap(), [[0.5, 1.5], [2.5, 3.5]]);
    nested.finish().unwrap();
}

#[test]
fn a_model_of_bin_files_is_the_same_model() {
    let dir = micro_copy();
    let unet = micro_tensors(&format!("unet/{STEM}.safetensors"));
    for (part, stem, torch) in [
        ("vae", STEM, STEM),
        ("text_encoder", "model", "pytorch_model"),
    ] {
        let tensors = micro_tensors(&format!("{part}/{stem}.safetensors"));
        let folder = dir.path().join(part);
        fs::remove_file(folder.join(format!("{stem}.safetensors"))).unwrap();
        fs::write(folder.join(format!("{torch}.bin")), checkpoint_of(&tensors)).unwrap();
    }
    // The largest part in shards.
    let folder = dir.path().join("unet");
    fs::remove_file(folder.join(format!("{STEM}.safetensors"))).unwrap();
    let mut map = BTreeMap::new();
    let tensors: Vec<_> = unet.iter().collect();
    for (i, part) in tensors.chunks(200).enumerate() {
        let file = format!("{STEM}-{i}.bin");
        let part: BTreeMap<_, _> = part
            .iter()
            .map(|&(name, tensor)| (name.clone(), tensor.clone()))
            .collect();
        fs::write(folder.join(&file), checkpoint_of(&part)).unwrap();
        map.extend(part.into_keys().map(|name| (name, file.clone())));
    }
    let index = folder.join(format!("{STEM}.bin.index.json"));
    let write = |map: &BTreeMap<String, String>| {
        fs::write(&index, serde_json::json!({"weight_map": map}).to_string()).unwrap();
    };
    write(&map);
    let (ours, theirs) = (ModelFolder::open(dir.path()).unwrap(), micro_folder());
    let (x, text) = (noise(2, &[1, 4, 2, 4, 4]), noise(1, &[1, 3, 16]));
    let predict = |folder: &ModelFolder| {
        let (unet, _) = folder.load_unet(&|_| false, &Device::Cpu).unwrap();
        unet.forward(&x, &[5.0], &text).unwrap()
    };
    assert_eq!(relative_error(&predict(&ours), &predict(&theirs)), 0.0);
    let z = noise(3, &[1, 4, 3, 2]);
    let decode = |folder: &ModelFolder| folder.load_vae(&Device::Cpu).unwrap().decode(&z).unwrap();
    assert_eq!(relative_error(&decode(&ours), &decode(&theirs)), 0.0);
    ours.load_text(&Device::Cpu).unwrap();

    for file in [
        "../secret.bin",
        "/etc/passwd.bin",
        "a\\b.bin",
        "C:b.bin",
        "model.safetensors",
    ] {
        write(&BTreeMap::from([("a".to_owned(), file.to_owned())]));
        let message = ours.weights_sha256().unwrap_err().to_string();
        assert!(
            message.contains("is not the name of a weight file beside it"),
            "{file}: {message}"
        );
    }
}

#[test]
fn full_precision_comes_first_and_safetensors_before_bin() {
    let dir = micro_copy();
    let unet = dir.path().join("unet");
    let folder = ModelFolder::open(dir.path()).unwrap();
    fs::remove_file(unet.join(format!("{STEM}.safetensors"))).unwrap();
    let chosen = || -> Vec<String> {
        let hashes = folder.weights_sha256().unwrap().into_keys();
        hashes
            .filter_map(|file| file.strip_prefix("unet/").map(str::to_owned))
            .collect()
    };
    // The last in a row of ever better files, none of which is taken away. An index names a shard of its own.
    for name in [
        "fp16.bin.index.json",
        "bin.fp16.index.json",
        "bin.index.fp16.json",
        "fp16.bin",
        "fp16.safetensors.index.json",
        "safetensors.fp16.index.json",
        "safetensors.index.fp16.json",
        "fp16.safetensors",
        "bin.index.json",
        "bin",
        "safetensors.index.json",
        "safetensors",
    ] {
        let file = format!("{STEM}.{name}");
        let expected = if name.ends_with(".json") {
            let ending = if name.contains("bin") {
                "bin"
            } else {
                "safetensors"
            };
            let shard = format!("{name}.{ending}");
            let index = serde_json::json!({"weight_map": {"a": shard}});
            fs::write(unet.join(&file), index.to_string()).unwrap();
            shard
        } else {
            file
        };
        fs::write(unet.join(&expected), b"weights").unwrap();
        assert_eq!(chosen(), [expected]);
    }
}
