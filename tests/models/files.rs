//! Weight files: number types, shards, damage, and the report of keys.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use spectral_motion::models::{
    KeyReport, ModelError, ModelFolder, UNet3DConditionModel, Weights, WrongShape,
};

use super::{micro_copy, micro_folder, micro_tensors, noise, relative_error};

const UNET: &str = "unet/diffusion_pytorch_model.safetensors";

fn open(path: &Path) -> Result<Weights, ModelError> {
    Weights::open(&[path.to_owned()], DType::F32, &Device::Cpu)
}

fn save(tensors: &[(&str, Tensor)], path: &Path) {
    let tensors = tensors
        .iter()
        .map(|(name, tensor)| ((*name).to_owned(), tensor.clone()))
        .collect();
    candle_core::safetensors::save(&tensors, path).unwrap();
}

fn error(result: Result<Weights, ModelError>) -> String {
    match result {
        Ok(_) => panic!("a damaged file was read"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn half_precision_is_read_as_single() {
    let dir = tempfile::tempdir().unwrap();
    let exact = Tensor::new(&[[1.0f32, -0.5], [0.25, 65504.0]], &Device::Cpu).unwrap();
    for dtype in [DType::F16, DType::BF16, DType::F32, DType::F64] {
        let path = dir.path().join("weights.safetensors");
        // A name of three letters, so that the data do not start at a multiple of their size.
        save(&[("a.b", exact.to_dtype(dtype).unwrap())], &path);
        let read = open(&path).unwrap().pp("a").get("b", &[2, 2]).unwrap();
        assert_eq!(read.dtype(), DType::F32);
        // Halves and powers of two are exact; bf16 keeps eight bits of 65504, which then is 65536.
        let last = if dtype == DType::BF16 {
            65536.0
        } else {
            65504.0
        };
        assert_eq!(
            read.to_vec2::<f32>().unwrap(),
            [[1.0, -0.5], [0.25, last]],
            "{dtype:?}"
        );
    }
    let path = dir.path().join("whole.safetensors");
    save(
        &[("a", Tensor::new(&[1i64, 2], &Device::Cpu).unwrap())],
        &path,
    );
    let message = open(&path).unwrap().get("a", &[2]).unwrap_err().to_string();
    assert!(message.contains("stores numbers as I64"), "{message}");
}

#[test]
fn every_misfit_is_told_at_once() {
    let mut tensors = micro_tensors(UNET);
    tensors.remove("conv_in.bias").unwrap();
    tensors.insert("conv_out.bias".to_owned(), noise(1, &[5]));
    tensors.insert("extra.weight".to_owned(), noise(1, &[2]));
    // A buffer that old files carry is no misfit.
    tensors.insert("embeddings.position_ids".to_owned(), noise(1, &[2]));
    let weights = Weights::from_map(tensors, DType::F32, &Device::Cpu);
    let error =
        UNet3DConditionModel::new(&weights, micro_folder().unet_config().unwrap()).unwrap_err();
    let ModelError::Keys(report) = &error else {
        panic!("{error}")
    };
    let expected = KeyReport {
        files: "memory".to_owned(),
        missing: vec!["conv_in.bias".to_owned()],
        unexpected: vec!["extra.weight".to_owned()],
        wrong_shape: vec![WrongShape {
            name: "conv_out.bias".to_owned(),
            expected: vec![4],
            found: vec![5],
        }],
    };
    assert_eq!(**report, expected);
    let message = error.to_string();
    for part in [
        "1 missing: conv_in.bias",
        "1 unexpected: extra.weight",
        "conv_out.bias is [5] instead of [4]",
    ] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn shards_are_one_model() {
    let dir = micro_copy();
    let whole = dir.path().join(UNET);
    let tensors: Vec<(String, Tensor)> = micro_tensors(UNET).into_iter().collect();
    fs::remove_file(&whole).unwrap();
    let mut map = BTreeMap::new();
    for (i, part) in tensors.chunks(100).enumerate() {
        let file = format!("part-{i}.safetensors");
        let part: Vec<(&str, Tensor)> = part
            .iter()
            .map(|(name, x)| (name.as_str(), x.clone()))
            .collect();
        save(&part, &dir.path().join("unet").join(&file));
        map.extend(
            part.iter()
                .map(|(name, _)| ((*name).to_owned(), file.clone())),
        );
    }
    let index = dir
        .path()
        .join("unet/diffusion_pytorch_model.safetensors.index.json");
    let write = |map: &BTreeMap<String, String>| {
        fs::write(&index, serde_json::json!({"weight_map": map}).to_string()).unwrap();
    };
    write(&map);
    let folder = ModelFolder::open(dir.path()).unwrap();
    let (sharded, _) = folder.load_unet(&|_| false, &Device::Cpu).unwrap();
    let (single, _) = micro_folder().load_unet(&|_| false, &Device::Cpu).unwrap();
    let (x, text) = (noise(2, &[1, 4, 2, 4, 4]), noise(1, &[1, 3, 16]));
    let run = |unet: &UNet3DConditionModel| unet.forward(&x, &[5.0], &text).unwrap();
    assert_eq!(relative_error(&run(&sharded), &run(&single)), 0.0);
    assert_eq!(
        folder.weights_sha256().unwrap().len(),
        tensors.len().div_ceil(100) + 2
    );

    // What a link leads to must be in the same folder as well, the index's own or the one the index is a link into.
    #[cfg(unix)]
    {
        use std::os::unix::fs::symlink;
        let (unet, outside) = (dir.path().join("unet"), tempfile::tempdir().unwrap());
        let shard = unet.join("part-0.safetensors");
        let elsewhere = outside.path().join("part-0.safetensors");
        fs::rename(&shard, &elsewhere).unwrap();
        symlink(&elsewhere, &shard).unwrap();
        let message = folder.check_weights().unwrap_err().to_string();
        assert!(
            message.contains("part-0.safetensors is a link to a place outside its folder"),
            "{message}"
        );
        fs::remove_file(&shard).unwrap();
        fs::rename(&elsewhere, &shard).unwrap();
        // As Hugging Face's cache keeps them: the folder has links to files in one other folder.
        for entry in fs::read_dir(&unet).unwrap() {
            let name = entry.unwrap().file_name();
            fs::rename(unet.join(&name), outside.path().join(&name)).unwrap();
            symlink(outside.path().join(&name), unet.join(&name)).unwrap();
        }
        folder.check_weights().unwrap();
        for entry in fs::read_dir(outside.path()).unwrap() {
            let name = entry.unwrap().file_name();
            fs::remove_file(unet.join(&name)).unwrap();
            fs::rename(outside.path().join(&name), unet.join(&name)).unwrap();
        }
    }

    // An index that reaches elsewhere, names nothing, or names what is not there.
    for file in [
        "../secret.safetensors",
        "/etc/passwd",
        "a\\b.safetensors",
        "C:b.safetensors",
        "sub/part-0.safetensors",
        "..",
        "model.bin",
        "",
    ] {
        write(&BTreeMap::from([(
            "conv_in.weight".to_owned(),
            file.to_owned(),
        )]));
        let message = folder
            .load_unet(&|_| false, &Device::Cpu)
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("is not the name of a weight file beside it"),
            "{file}: {message}"
        );
    }
    write(&BTreeMap::new());
    assert!(
        folder
            .load_unet(&|_| false, &Device::Cpu)
            .unwrap_err()
            .to_string()
            .contains("names no weight files")
    );
    write(&BTreeMap::from([(
        "conv_in.weight".to_owned(),
        "gone.safetensors".to_owned(),
    )]));
    assert!(
        folder
            .load_unet(&|_| false, &Device::Cpu)
            .unwrap_err()
            .to_string()
            .contains("gone.safetensors missing")
    );
    fs::remove_file(&index).unwrap();
    fs::write(
        dir.path().join("unet/diffusion_pytorch_model.bin"),
        b"pickle",
    )
    .unwrap();
    let message = folder
        .load_unet(&|_| false, &Device::Cpu)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("damaged or not a PyTorch file"),
        "{message}"
    );
}

#[test]
fn damaged_files_are_refused_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| -> PathBuf { dir.path().join(name) };
    let write = |name: &str, bytes: &[u8]| {
        fs::write(path(name), bytes).unwrap();
        error(open(&path(name)))
    };
    let header = |length: u64, json: &str, data: &[u8]| {
        [&length.to_le_bytes()[..], json.as_bytes(), data].concat()
    };
    let tensor = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    let length = tensor.len() as u64;
    for (name, bytes) in [
        ("text", b"these are not the weights you look for".to_vec()),
        (
            "header-beyond-the-end",
            header(length + 100, tensor, &[0; 8]),
        ),
        ("header-of-exabytes", header(u64::MAX, tensor, &[0; 8])),
        ("data-cut-off", header(length, tensor, &[0; 7])),
        (
            "not-json",
            header(length, &"x".repeat(tensor.len()), &[0; 8]),
        ),
        ("offsets-backwards", {
            let json = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#;
            header(json.len() as u64, json, &[0; 8])
        }),
        ("shape-of-exabytes", {
            let json =
                r#"{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,8]}}"#;
            header(json.len() as u64, json, &[0; 8])
        }),
        ("overlapping", {
            let json = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#;
            header(json.len() as u64, json, &[0; 8])
        }),
        ("a-gap", {
            let json = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#;
            header(json.len() as u64, json, &[0; 8])
        }),
        ("too-few-bytes", {
            let json = r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#;
            header(json.len() as u64, json, &[0; 8])
        }),
        ("one-name-twice", {
            let json = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
            header(json.len() as u64, json, &[0; 8])
        }),
        ("nine-dimensions", {
            let json = r#"{"a":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,2],"data_offsets":[0,8]}}"#;
            header(json.len() as u64, json, &[0; 8])
        }),
        ("a-negative-size", {
            let json = r#"{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}"#;
            header(json.len() as u64, json, &[0; 8])
        }),
        ("an-unknown-type", {
            let json = r#"{"a":{"dtype":"Q4","shape":[2],"data_offsets":[0,8]}}"#;
            header(json.len() as u64, json, &[0; 8])
        }),
        ("more-after-the-end", header(length, tensor, &[0; 9])),
        // Ends eight bytes below 2^64, which the length of a header's length does not fit behind.
        ("ends-of-exabytes", {
            let size = (1u64 << 61) - 1;
            let tensor = |i: u64| {
                let (start, end) = (i * size, (i + 1) * size);
                format!(r#""{i}":{{"dtype":"U8","shape":[{size}],"data_offsets":[{start},{end}]}}"#)
            };
            let json = format!("{{{}}}", (0..8).map(tensor).collect::<Vec<_>>().join(","));
            header(json.len() as u64, &json, &[0; 8])
        }),
    ] {
        let message = write(name, &bytes);
        assert!(
            message.contains("damaged or not a safetensors file") && message.contains(name),
            "{message}"
        );
    }
    assert!(write("empty", b"").contains("shorter than the length of a header"));
    let pointer = write(
        "pointer",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n",
    );
    assert!(
        pointer.contains("pointer is a note of Git LFS"),
        "{pointer}"
    );
    assert!(error(open(&path("absent"))).contains("could not be read"));
    let good = header(length, tensor, &[0; 8]);
    fs::write(path("one"), &good).unwrap();
    fs::write(path("two"), &good).unwrap();
    let twice = error(Weights::open(
        &[path("one"), path("two")],
        DType::F32,
        &Device::Cpu,
    ));
    assert!(
        twice.contains("a is stored in another file as well"),
        "{twice}"
    );
}

#[test]
fn only_what_was_chosen_learns() {
    let chosen =
        |name: &str| name.contains("temp_attentions") && name.ends_with("attn1.to_q.weight");
    let (unet, vars) = micro_folder().load_unet(&chosen, &Device::Cpu).unwrap();
    let tensors = micro_tensors(UNET);
    assert_eq!(
        vars.len(),
        tensors.keys().filter(|name| chosen(name)).count()
    );
    assert!(!vars.is_empty());
    let (x, text) = (noise(2, &[1, 4, 3, 4, 4]), noise(1, &[1, 3, 16]));
    let before = unet.forward(&x, &[5.0], &text).unwrap();
    for (name, var) in &vars {
        assert_eq!(relative_error(var, &tensors[name]), 0.0, "{name}");
        var.set(&(var.as_tensor() * 2.0).unwrap()).unwrap();
    }
    // The network sees the change, the file's tensors do not.
    assert!(relative_error(&unet.forward(&x, &[5.0], &text).unwrap(), &before) > 1e-4);
    let (again, _) = micro_folder().load_unet(&chosen, &Device::Cpu).unwrap();
    assert_eq!(
        relative_error(&again.forward(&x, &[5.0], &text).unwrap(), &before),
        0.0
    );
    let refused = micro_folder()
        .load_unet(&|name| name == "conv_in.weight", &Device::Cpu)
        .unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("the training of conv_in.weight"),
        "{refused}"
    );
}

#[test]
fn variables_do_not_overwrite_what_the_caller_holds() {
    let tensor = noise(1, &[2, 2]);
    let map = BTreeMap::from([("l.weight".to_owned(), tensor.clone())]);
    let weights = Weights::from_map(map, DType::F32, &Device::Cpu);
    weights.set_trainable(&|_| true);
    weights.linear("l", 2, 2, false).unwrap();
    weights.finish().unwrap();
    weights.trainables()["l.weight"]
        .set(&tensor.zeros_like().unwrap())
        .unwrap();
    assert!(relative_error(&tensor, &noise(1, &[2, 2])) == 0.0);
}
