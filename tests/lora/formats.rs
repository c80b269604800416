//! Files made here, one of each format.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use spectral_motion::models::{
    LoraDeltas, LoraFile, LoraFormat, LoraNetwork, LoraPart, ModelFolder,
};
use spectral_motion::project::{PlainTensor, TensorFile};

use super::{bits, fit, micro, noise, numbers, save, weight, with_lora};
use crate::common::{golden, image_model};
use crate::models::torch_writer::{Pickle, checkpoint, floats};

const QUERY: &str = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q";
const OUT: &str = "down_blocks.0.temp_attentions.0.transformer_blocks.0.attn2.to_out.0";
const FORWARD: &str = "up_blocks.1.attentions.0.transformer_blocks.0.ff.net.0.proj";
const KERNEL: &str = "down_blocks.0.resnets.0.conv1";
const FRAMES: &str = "down_blocks.0.temp_convs.0.conv1.2";

/// Both factors of rank `r` for a weight of this shape: the lower one has its kernel.
fn factors(seed: u64, rank: usize, shape: &[usize]) -> (Tensor, Tensor) {
    let up = match shape.len() {
        2 => vec![shape[0], rank],
        axes => [&[shape[0], rank][..], &vec![1; axes - 2]].concat(),
    };
    let down = [&[rank], &shape[1..]].concat();
    (noise(seed, &down), noise(seed + 1, &up))
}

fn shape(network: &LoraNetwork, layer: &str) -> Vec<usize> {
    network.unet[&format!("{layer}.weight")].clone()
}

/// The sum written out: `W[o, j] + strength (alpha / r) Σ_k up[o, k] down[k, j]`.
fn written_out(weight: &Tensor, (down, up): &(Tensor, Tensor), scale: f64) -> Vec<f64> {
    let (rank, rows) = (down.dim(0).unwrap(), up.dim(0).unwrap());
    let (w, d, u) = (numbers(weight), numbers(down), numbers(up));
    let columns = d.len() / rank;
    let mut sum = Vec::new();
    for o in 0..rows {
        for j in 0..columns {
            let product = |k: usize| f64::from(u[o * rank + k]) * f64::from(d[k * columns + j]);
            let product: f64 = (0..rank).map(product).sum();
            sum.push(f64::from(w[o * columns + j]) + scale * product);
        }
    }
    sum
}

/// Layers of every kind with factors of rank 3, by the layers' names.
fn layers(network: &LoraNetwork) -> BTreeMap<&'static str, (Tensor, Tensor)> {
    let all = [QUERY, OUT, FORWARD, KERNEL, FRAMES]
        .into_iter()
        .enumerate();
    all.map(|(i, layer)| (layer, factors(10 * i as u64, 3, &shape(network, layer))))
        .collect()
}

fn kohya(layer: &str) -> String {
    format!("lora_unet_{}", layer.replace('.', "_"))
}

#[test]
fn the_sum_is_the_one_written_out_for_matrices_and_for_kernels() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lora.safetensors");
    let folder = micro();
    let network = folder.lora_network().unwrap();
    let layers = layers(&network);
    let mut tensors = BTreeMap::new();
    for (layer, (down, up)) in &layers {
        tensors.insert(format!("{}.lora_down.weight", kohya(layer)), down.clone());
        tensors.insert(format!("{}.lora_up.weight", kohya(layer)), up.clone());
        let alpha = Tensor::new(1.5f32, &Device::Cpu).unwrap();
        tensors.insert(format!("{}.alpha", kohya(layer)), alpha);
    }
    save(&path, tensors);
    let lora = fit(&path, &folder).unwrap();
    assert_eq!(lora.format, LoraFormat::Kohya);
    assert_eq!((lora.ranks(), lora.layers.len()), (Some((3, 3)), 5));
    for strength in [0.0, 0.5, 1.0, -2.0] {
        let changed = with_lora(&path, strength, folder.clone());
        for (layer, factors) in &layers {
            let name = format!("{layer}.weight");
            let plain = weight(&folder, &name);
            let expected = written_out(&plain, factors, strength * 1.5 / 3.0);
            let found = numbers(&weight(&changed, &name));
            for (found, expected) in found.into_iter().zip(expected) {
                let error = (f64::from(found) - expected).abs();
                assert!(error <= 1e-6 * expected.abs().max(1.0), "{layer}: {error}");
            }
        }
        // Nothing else is touched.
        let other = "mid_block.attentions.0.transformer_blocks.0.attn1.to_k.weight";
        assert_eq!(
            bits(&weight(&changed, other)),
            bits(&weight(&folder, other))
        );
    }
}

#[test]
fn several_files_add_up() {
    let dir = tempfile::tempdir().unwrap();
    let folder = micro();
    let network = folder.lora_network().unwrap();
    let name = format!("{QUERY}.weight");
    let mut deltas = LoraDeltas::default();
    let mut expected = weight(&folder, &name);
    for (seed, strength) in [(1, 0.5), (5, -0.25)] {
        let path = dir.path().join(format!("{seed}.safetensors"));
        let (down, up) = factors(seed, 2, &shape(&network, QUERY));
        save(
            &path,
            BTreeMap::from([
                (format!("unet.{QUERY}.lora.down.weight"), down.clone()),
                (format!("unet.{QUERY}.lora.up.weight"), up.clone()),
            ]),
        );
        deltas.add(&fit(&path, &folder).unwrap(), strength).unwrap();
        let product = up.matmul(&down).unwrap().affine(strength, 0.0).unwrap();
        expected = (expected + product).unwrap();
    }
    let found = weight(&folder.with_loras(deltas), &name);
    assert_eq!(bits(&found), bits(&expected));
}

/// One LoRA of an attention, an alpha of 6 on rank 3, in every spelling that has names and an alpha.
#[test]
fn every_format_with_names_means_the_same() {
    let folder = micro();
    let network = folder.lora_network().unwrap();
    let (down, up) = factors(3, 3, &shape(&network, OUT));
    let expected = {
        let product = up.matmul(&down).unwrap().affine(2.0, 0.0).unwrap();
        (weight(&folder, &format!("{OUT}.weight")) + product).unwrap()
    };
    let attention = OUT.trim_end_matches(".to_out.0");
    let dir = tempfile::tempdir().unwrap();
    let settings =
        r#"{"unet.r": 8, "unet.lora_alpha": 1, "unet.alpha_pattern": {"^attn2.to_out.0": 6}}"#;
    let beside =
        r#"{"r": 3, "lora_alpha": 6, "peft_type": "LORA", "base_model_name_or_path": null}"#;
    let rooted = r#"{"unet.lora_alpha": 3.4641016151377544, "unet.use_rslora": true}"#;
    type Case<'a> = (LoraFormat, String, String, Option<String>, &'a str);
    let alpha = Some(format!("unet.{OUT}.alpha"));
    let cases: Vec<Case<'_>> = vec![
        (
            LoraFormat::Diffusers,
            format!("unet.{OUT}.lora.down.weight"),
            format!("unet.{OUT}.lora.up.weight"),
            alpha.clone(),
            "",
        ),
        (
            LoraFormat::Processor,
            format!("unet.{attention}.processor.to_out_lora.down.weight"),
            format!("unet.{attention}.processor.to_out_lora.up.weight"),
            alpha,
            "",
        ),
        (
            LoraFormat::Peft,
            format!("unet.{OUT}.lora_A.weight"),
            format!("unet.{OUT}.lora_B.weight"),
            None,
            settings,
        ),
        (
            LoraFormat::Peft,
            format!("unet.{OUT}.lora_A.weight"),
            format!("unet.{OUT}.lora_B.weight"),
            None,
            rooted,
        ),
        (
            LoraFormat::Peft,
            format!("base_model.model.{OUT}.lora_A.weight"),
            format!("base_model.model.{OUT}.lora_B.weight"),
            None,
            "beside",
        ),
        (
            LoraFormat::Kohya,
            format!("{}.lora_down.weight", kohya(OUT)),
            format!("{}.lora_up.weight", kohya(OUT)),
            Some(format!("{}.alpha", kohya(OUT))),
            "",
        ),
    ];
    for (i, (format, down_name, up_name, alpha, notes)) in cases.into_iter().enumerate() {
        let path = dir.path().join(format!("{i}.safetensors"));
        let mut file = TensorFile::default();
        for (name, tensor) in [(down_name, &down), (up_name, &up)] {
            let plain = PlainTensor::from_f32(tensor.dims(), &numbers(tensor));
            file.tensors.insert(name, plain);
        }
        if let Some(name) = alpha {
            file.tensors
                .insert(name, PlainTensor::from_f32(&[1], &[6.0]));
        }
        let config = dir.path().join("adapter_config.json");
        if notes == "beside" {
            fs::write(&config, beside).unwrap();
        }
        let notes = match notes {
            "" | "beside" => BTreeMap::new(),
            notes => BTreeMap::from([("lora_adapter_metadata".to_owned(), notes.to_owned())]),
        };
        fs::write(&path, file.to_bytes_with(&notes)).unwrap();
        assert_eq!(LoraFile::open(&path).unwrap().format(), format, "case {i}");
        let found = weight(
            &with_lora(&path, 1.0, folder.clone()),
            &format!("{OUT}.weight"),
        );
        let (found, expected) = (numbers(&found), numbers(&expected));
        for (found, expected) in found.into_iter().zip(expected) {
            assert!(
                (found - expected).abs() < 1e-5,
                "case {i}: {found} {expected}"
            );
        }
        drop(fs::remove_file(&config));
    }
}

#[test]
fn half_precision_and_files_of_torch_are_read() {
    let folder = micro();
    let network = folder.lora_network().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (down, up) = factors(3, 1, &shape(&network, QUERY));
    let names = [
        format!("{QUERY}.lora_A.weight"),
        format!("{QUERY}.lora_B.weight"),
    ];
    for dtype in [DType::F16, DType::BF16, DType::F64] {
        let path = dir.path().join("half.safetensors");
        let cast = |x: &Tensor| x.to_dtype(dtype).unwrap();
        let pair = [cast(&down), cast(&up)];
        save(&path, names.clone().into_iter().zip(pair).collect());
        let changed = weight(
            &with_lora(&path, 1.0, folder.clone()),
            &format!("{QUERY}.weight"),
        );
        let wide = |x: &Tensor| cast(x).to_dtype(DType::F32).unwrap();
        let product = wide(&up).matmul(&wide(&down)).unwrap();
        let expected = (weight(&folder, &format!("{QUERY}.weight")) + product).unwrap();
        assert_eq!(bits(&changed), bits(&expected), "{dtype:?}");
    }
    // Old kohya and diffusers files are pickled dicts.
    let bin = dir.path().join("pytorch_lora_weights.bin");
    let pair = [down.clone(), up.clone()];
    let named = names.into_iter().zip(pair).collect();
    fs::write(&bin, crate::models::torch_writer::checkpoint_of(&named)).unwrap();
    assert_eq!(fit(&bin, &folder).unwrap().count(LoraPart::Unet), 1);
}

/// What cloneofsimo's code walks over, as Python found it.
fn orders() -> BTreeMap<String, Vec<String>> {
    let text = fs::read_to_string(golden("lora/orders.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// `torch.save([up0, down0, up1, down1, ...])` with a rank of its own for each layer, so that no two are alike.
fn list(pairs: &[(Tensor, Tensor)]) -> Vec<u8> {
    let mut pickle = Pickle::start().raw("](");
    let mut storages = Vec::new();
    for (i, tensor) in pairs.iter().flat_map(|(down, up)| [up, down]).enumerate() {
        let key = i.to_string();
        let (rows, columns) = tensor.dims2().unwrap();
        let [rows, columns] = [rows, columns].map(|n| i64::try_from(n).unwrap());
        let storage = ("FloatStorage", key.as_str(), rows * columns);
        pickle = pickle.tensor(storage, 0, &[rows, columns], &[columns, 1]);
        storages.push((key, floats(&numbers(tensor))));
    }
    let storages: Vec<(&str, Vec<u8>)> = storages
        .iter()
        .map(|(key, bytes)| (key.as_str(), bytes.clone()))
        .collect();
    checkpoint(pickle.raw("e").end(), &storages)
}

fn pairs_of(order: &[String], shapes: &BTreeMap<String, Vec<usize>>) -> Vec<(Tensor, Tensor)> {
    let pairs = order.iter().enumerate();
    pairs
        .map(|(i, layer)| {
            let shape = &shapes[&format!("{layer}.weight")];
            let (o, n) = (shape[0], shape[1]);
            let seed = 2 * i as u64;
            (
                noise(seed, &[1 + i % 3, n]),
                noise(seed + 1, &[o, 1 + i % 3]),
            )
        })
        .collect()
}

#[test]
fn lists_without_names_are_in_the_order_of_pythons_walk() {
    let dir = tempfile::tempdir().unwrap();
    let image = ModelFolder::open(&image_model()).unwrap();
    let orders = orders();
    for (kind, folder) in [
        ("video", micro()),
        ("motion", micro()),
        ("look", micro()),
        ("image", image.clone()),
        ("words", image),
    ] {
        let network = folder.lora_network().unwrap();
        let (part, shapes) = match kind {
            "words" => (LoraPart::Text, &network.text),
            _ => (LoraPart::Unet, &network.unet),
        };
        let order = &orders[kind];
        let pairs = pairs_of(order, shapes);
        let path = dir.path().join(format!("{kind}.pt"));
        fs::write(&path, list(&pairs)).unwrap();
        let lora = fit(&path, &folder).unwrap_or_else(|error| panic!("{kind}: {error}"));
        assert_eq!(lora.format, LoraFormat::List);
        assert_eq!(lora.count(part), order.len(), "{kind}");
        let found: Vec<(String, usize)> = lora
            .layers
            .iter()
            .map(|layer| (layer.weight.clone(), layer.rank))
            .collect();
        let expected: Vec<(String, usize)> = order
            .iter()
            .zip(&pairs)
            .map(|(layer, (down, _))| (format!("{layer}.weight"), down.dim(0).unwrap()))
            .collect();
        assert_eq!(found, expected, "{kind}");

        // The same as cloneofsimo's safetensors.
        let name = if kind == "words" {
            "text_encoder"
        } else {
            "unet"
        };
        let mut tensors = BTreeMap::new();
        for (i, (down, up)) in pairs.iter().enumerate() {
            tensors.insert(format!("{name}:{i}:down"), down.clone());
            tensors.insert(format!("{name}:{i}:up"), up.clone());
        }
        let path = dir.path().join(format!("{kind}.safetensors"));
        save(&path, tensors);
        let lora = fit(&path, &folder).unwrap();
        assert_eq!(lora.format, LoraFormat::Numbered);
        assert_eq!(lora.count(part), order.len(), "{kind}");
    }
}

/// A list before diffusers 0.14 has the feed-forward layer between the attentions; the shapes tell.
#[test]
fn an_older_order_is_known_by_its_shapes() {
    let dir = tempfile::tempdir().unwrap();
    let folder = ModelFolder::open(&image_model()).unwrap();
    let network = folder.lora_network().unwrap();
    let mut order = orders()["image"].clone();
    let newer = order.clone();
    order.sort_by_key(|layer| {
        let block = layer.split(".attn").next().unwrap_or(layer);
        let block = block.split(".ff").next().unwrap_or(block).to_owned();
        let at = newer.iter().position(|other| other.starts_with(&block));
        let branch = [".attn1.", ".ff.", ".attn2."];
        (at, branch.iter().position(|name| layer.contains(name)))
    });
    assert_ne!(order, newer);
    let path = dir.path().join("old.pt");
    fs::write(&path, list(&pairs_of(&order, &network.unet))).unwrap();
    let lora = fit(&path, &folder).unwrap();
    let found: Vec<&str> = lora
        .layers
        .iter()
        .map(|layer| layer.weight.as_str())
        .collect();
    let expected: Vec<String> = order
        .iter()
        .map(|layer| format!("{layer}.weight"))
        .collect();
    assert_eq!(found, expected);
}

fn refused(path: &Path, folder: &ModelFolder) -> String {
    match fit(path, folder) {
        Err(error) => {
            assert!(!error.advice().is_empty());
            error.to_string()
        }
        Ok(lora) => panic!("{} of {} layers", path.display(), lora.layers.len()),
    }
}

#[test]
fn what_does_not_fit_is_refused_in_words() {
    let folder = micro();
    let network = folder.lora_network().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (down, up) = factors(3, 2, &shape(&network, QUERY));
    let (down_name, up_name) = (
        format!("unet.{QUERY}.lora.down.weight"),
        format!("unet.{QUERY}.lora.up.weight"),
    );
    let good = BTreeMap::from([
        (down_name.clone(), down.clone()),
        (up_name.clone(), up.clone()),
    ]);
    let with = |changes: &[(&str, Option<Tensor>)]| {
        let mut tensors = good.clone();
        for (name, tensor) in changes {
            match tensor {
                Some(tensor) => drop(tensors.insert((*name).to_owned(), tensor.clone())),
                None => drop(tensors.remove(*name)),
            }
        }
        tensors
    };
    let one = || noise(1, &[1]);
    let cases: Vec<(&str, BTreeMap<String, Tensor>, &str)> = vec![
        (
            "another width",
            with(&[(&down_name, Some(noise(1, &[2, 5])))]),
            "1 wrong shape: mid_block.attentions.0.transformer_blocks.0.attn1.to_q down",
        ),
        (
            "two ranks",
            with(&[(&up_name, Some(noise(1, &[32, 3])))]),
            "is [32, 3] instead of [32, 2]",
        ),
        (
            "no rank",
            with(&[
                (
                    &down_name,
                    Some(Tensor::zeros((0, 32), DType::F32, &Device::Cpu).unwrap()),
                ),
                (
                    &up_name,
                    Some(Tensor::zeros((32, 0), DType::F32, &Device::Cpu).unwrap()),
                ),
            ]),
            "2 wrong shape",
        ),
        (
            "half a layer",
            with(&[(&up_name, None)]),
            "1 missing: the upper factor of mid_block",
        ),
        (
            "an unknown layer",
            with(&[
                (
                    "unet.mid_block.attentions.7.proj_in.lora.down.weight",
                    Some(one()),
                ),
                (
                    "unet.mid_block.attentions.7.proj_in.lora.up.weight",
                    Some(one()),
                ),
            ]),
            "only one of its layers fits; 1 unexpected: mid_block.attentions.7.proj_in",
        ),
        (
            "an unknown name",
            with(&[("embedding", Some(one()))]),
            "1 unexpected: embedding",
        ),
        (
            "an alpha of many numbers",
            with(&[(&format!("unet.{QUERY}.alpha"), Some(noise(1, &[3])))]),
            "is no number",
        ),
        (
            "two spellings",
            with(&[(&format!("{QUERY}.lora_A.weight"), Some(down.clone()))]),
            "in two spellings",
        ),
        (
            "another network",
            BTreeMap::from([
                (
                    "lora_unet_down_blocks_5_attentions_0_proj_in.lora_down.weight".to_owned(),
                    one(),
                ),
                (
                    "lora_unet_down_blocks_5_attentions_0_proj_in.lora_up.weight".to_owned(),
                    one(),
                ),
            ]),
            "none of its layers is one of this model",
        ),
        (
            "a text encoder of another width",
            BTreeMap::from([
                (
                    "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight".to_owned(),
                    noise(1, &[2, 768]),
                ),
                (
                    "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight".to_owned(),
                    noise(1, &[3072, 2]),
                ),
            ]),
            "2 wrong shape: encoder.layers.0.mlp.fc1 down",
        ),
        (
            "a LoHa",
            BTreeMap::from([(
                "lora_unet_mid_block_attentions_0_proj_in.hada_w1_a".to_owned(),
                one(),
            )]),
            "it is a LoHa",
        ),
        (
            "Stable Diffusion XL",
            with(&[(
                "lora_te2_text_model_encoder_layers_0_mlp_fc1.alpha",
                Some(one()),
            )]),
            "Stable Diffusion XL",
        ),
        (
            "whole weights",
            BTreeMap::from([("conv_in.weight".to_owned(), one())]),
            "none of its layers",
        ),
    ];
    for (what, tensors, says) in cases {
        let path = dir.path().join("bad.safetensors");
        save(&path, tensors);
        let text = refused(&path, &folder);
        assert!(text.contains("bad.safetensors"), "{what}: {text}");
        assert!(text.contains(says), "{what}: {text}");
    }
    let path = dir.path().join("nan.safetensors");
    let nan = Tensor::full(f32::NAN, (2, 32), &Device::Cpu).unwrap();
    save(&path, with(&[(&down_name, Some(nan))]));
    let error = LoraDeltas::default()
        .add(&fit(&path, &folder).unwrap(), 1.0)
        .unwrap_err();
    assert!(error.to_string().contains("not finite"), "{error}");
}

#[test]
fn lists_that_fit_nothing_and_lists_of_something_else_are_refused() {
    let folder = micro();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("list.pt");
    let write = |bytes: Vec<u8>| fs::write(&path, bytes).unwrap();
    let layer = |n: usize| (noise(1, &[2, n]), noise(2, &[n, 2]));
    write(list(&[layer(4), layer(4), layer(4)]));
    let text = refused(&path, &folder);
    assert!(
        text.contains("a list of 3 layers where this model's lists have"),
        "{text}"
    );
    let counted = orders()["motion"].len();
    write(list(&vec![layer(4); counted]));
    let text = refused(&path, &folder);
    assert!(text.contains("of other shapes"), "{text}");

    let tensor =
        |pickle: Pickle, key: &str| pickle.tensor(("FloatStorage", key, 4), 0, &[2, 2], &[2, 1]);
    let storages = [("0", floats(&[1.0; 4])), ("1", floats(&[1.0; 4]))];
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (
            tensor(Pickle::start().raw("]("), "0").raw("e").end(),
            "not pairs",
        ),
        (Pickle::start().raw("].").end(), "after its end"),
        (Pickle::start().raw("]").end(), "holds no tensors"),
        (
            Pickle::start().raw("](").text("a").raw("e").end(),
            "something else than tensors",
        ),
        (
            tensor(Pickle::start().raw("]("), "0")
                .raw("q\x01h\x01e")
                .end(),
            "lists a tensor twice",
        ),
        (
            tensor(tensor(Pickle::start().raw("]("), "0"), "9")
                .raw("e")
                .end(),
            "tensor 1 in it has no numbers",
        ),
        (
            Pickle::start()
                .raw("](")
                .global("os", "system")
                .text("true")
                .raw(b"\x85Re")
                .end(),
            "never runs (os.system)",
        ),
    ];
    for (pickle, says) in cases {
        write(checkpoint(pickle, &storages));
        let text = refused(&path, &folder);
        assert!(text.contains(says), "{text}");
    }
    // A model's weights have names.
    let weights = spectral_motion::models::Weights::open(
        std::slice::from_ref(&path),
        DType::F32,
        &Device::Cpu,
    );
    assert!(weights.is_err());
}
