//! The networks themselves: published key lists, shapes, and equalities that need no reference.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use spectral_motion::models::{
    AutoencoderKL, ClipTextConfig, ClipTextModel, SingleFrame, UNet3DConditionModel, UNet3DConfig,
    VaeConfig, Weights,
};

use super::published::published;
use super::{micro_folder, micro_tensors, noise, random_unet, random_weights, relative_error};

/// Another order of the same sums, in single precision, through a whole network.
const ROUNDING: f64 = 3e-6;

#[test]
fn published_networks_ask_for_exactly_their_weights() {
    let record = |build: &dyn Fn(&Weights)| {
        let recorder = Weights::recorder();
        build(&recorder);
        recorder.asked()
    };
    let unet = record(&|weights| {
        // ModelScope's and ZeroScope's values are diffusers' defaults.
        UNet3DConditionModel::new(weights, &UNet3DConfig::from_json("{}").unwrap()).unwrap();
    });
    assert_eq!(unet, published("zeroscope.unet"));
    for (name, config) in [
        (
            "zeroscope.text",
            r#"{"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16,
                "hidden_act": "gelu"}"#,
        ),
        (
            "sd15.text",
            r#"{"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12,
                "hidden_act": "quick_gelu"}"#,
        ),
    ] {
        let text = record(&|weights| {
            ClipTextModel::new(weights, &ClipTextConfig::from_json(config).unwrap()).unwrap();
        });
        assert_eq!(text, published(name), "{name}");
    }
    let vae = record(&|weights| {
        let config = r#"{"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2,
            "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"],
            "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"]}"#;
        AutoencoderKL::new(weights, &VaeConfig::from_json(config).unwrap()).unwrap();
    });
    assert_eq!(vae, published("sd15.vae"));
}

#[test]
fn the_unet_takes_any_size_and_batch() {
    let (unet, _) = micro_folder().load_unet(&|_| false, &Device::Cpu).unwrap();
    let text = noise(1, &[2, 77, 16]);
    for (frames, h, w) in [(1, 5, 7), (3, 8, 3), (2, 1, 2)] {
        let x = noise(2, &[2, 4, frames, h, w]);
        let both = unet.forward(&x, &[437.0, 3.0], &text).unwrap();
        assert_eq!(both.dims(), x.dims());
        // Clips of a batch do not see each other.
        for (i, t) in [(0, 437.0), (1, 3.0)] {
            let row = |x: &Tensor| x.narrow(0, i, 1).unwrap();
            let alone = unet.forward(&row(&x), &[t], &row(&text)).unwrap();
            assert!(
                relative_error(&row(&both), &alone) < ROUNDING,
                "clip {i} of {frames} frames {h}x{w}"
            );
        }
    }
    let x = noise(2, &[1, 4, 2, 8, 8]);
    let text = noise(1, &[1, 77, 16]);
    for (x, t, text) in [
        (&noise(2, &[1, 3, 2, 8, 8]), vec![1.0], &text),
        (&x, vec![1.0, 2.0], &text),
        (&x, vec![1.0], &noise(1, &[1, 77, 15])),
        (&x, vec![1.0], &noise(1, &[2, 77, 16])),
    ] {
        assert!(unet.forward(x, &t, text).is_err());
    }
}

#[test]
fn one_frame_can_skip_every_temporal_layer() {
    let config = micro_folder().unet_config().unwrap().clone();
    let (mut unet, _) = micro_folder().load_unet(&|_| false, &Device::Cpu).unwrap();
    unet.single_frame = SingleFrame::SkipTemporal;
    // The same network with the last weights of every temporal layer at zero: these layers return their input.
    let silent = |name: &str| {
        name.contains("temp_convs") && name.contains(".conv4.3.")
            || (name.contains("temp_attentions") || name.starts_with("transformer_in"))
                && name.contains(".proj_out.")
    };
    let tensors = micro_tensors("unet/diffusion_pytorch_model.safetensors")
        .into_iter()
        .map(|(name, tensor)| {
            let tensor = if silent(&name) {
                tensor.zeros_like().unwrap()
            } else {
                tensor
            };
            (name, tensor)
        });
    let weights = Weights::from_map(tensors.collect(), DType::F32, &Device::Cpu);
    let without = UNet3DConditionModel::new(&weights, &config).unwrap();
    let text = noise(1, &[1, 77, 16]);
    let x = noise(2, &[1, 4, 1, 8, 12]);
    let skipped = unet.forward(&x, &[437.0], &text).unwrap();
    assert!(relative_error(&skipped, &without.forward(&x, &[437.0], &text).unwrap()) < ROUNDING);
    let (run, _) = micro_folder().load_unet(&|_| false, &Device::Cpu).unwrap();
    assert!(relative_error(&run.forward(&x, &[437.0], &text).unwrap(), &skipped) > 0.01);
    // More frames always run them.
    let x = noise(2, &[1, 4, 2, 8, 12]);
    let clip = unet.forward(&x, &[437.0], &text).unwrap();
    assert!(relative_error(&clip, &run.forward(&x, &[437.0], &text).unwrap()) < ROUNDING);
}

#[test]
fn old_and_new_names_of_the_autoencoder_give_the_same() {
    let config = micro_folder().vae_config().clone();
    let new = micro_tensors("vae/diffusion_pytorch_model.safetensors");
    let rename = |name: &str| {
        [
            ("to_q", "query"),
            ("to_k", "key"),
            ("to_v", "value"),
            ("to_out.0", "proj_attn"),
        ]
        .iter()
        .fold(name.to_owned(), |name, (new, old)| name.replace(new, old))
    };
    let old: BTreeMap<String, Tensor> = new
        .iter()
        .map(|(name, x)| (rename(name), x.clone()))
        .collect();
    assert_ne!(
        old.keys().collect::<Vec<_>>(),
        new.keys().collect::<Vec<_>>()
    );
    let build = |tensors| {
        AutoencoderKL::new(
            &Weights::from_map(tensors, DType::F32, &Device::Cpu),
            &config,
        )
        .unwrap()
    };
    let z = noise(1, &[1, 4, 3, 2]);
    let decoded = |vae: &AutoencoderKL| vae.decode(&z).unwrap();
    assert_eq!(
        relative_error(&decoded(&build(old)), &decoded(&build(new))),
        0.0
    );
}

#[test]
fn the_autoencoder_has_any_number_of_levels() {
    for levels in 1..=4 {
        let names = |name: &str| vec![format!("{name:?}"); levels].join(", ");
        let config = format!(
            r#"{{"block_out_channels": [{}], "norm_num_groups": 4, "use_quant_conv": false, "use_post_quant_conv": false,
                 "mid_block_add_attention": false, "down_block_types": [{}], "up_block_types": [{}]}}"#,
            vec!["8"; levels].join(", "),
            names("DownEncoderBlock2D"),
            names("UpDecoderBlock2D")
        );
        let config = VaeConfig::from_json(&config).unwrap();
        let recorder = Weights::recorder();
        AutoencoderKL::new(&recorder, &config).unwrap();
        assert!(
            recorder
                .asked()
                .keys()
                .all(|name| !name.contains("attentions") && !name.contains("quant_conv"))
        );
        let weights =
            Weights::from_map(random_weights(&recorder.asked()), DType::F32, &Device::Cpu);
        let mut vae = AutoencoderKL::new(&weights, &config).unwrap();
        let factor = 1 << (levels - 1);
        assert_eq!(vae.factor(), factor);
        let image = noise(3, &[2, 3, 2 * factor, 3 * factor]);
        let posterior = vae.encode(&image).unwrap();
        assert_eq!(
            (posterior.mean.dims(), posterior.logvar.dims()),
            (&[2, 4, 2, 3][..], &[2, 4, 2, 3][..])
        );
        assert_eq!(vae.decode(&posterior.mean).unwrap().dims(), image.dims());
        if factor > 1 {
            let uneven = vae
                .encode(&noise(3, &[1, 3, factor + 1, factor]))
                .unwrap_err()
                .to_string();
            assert!(
                uneven.contains(&format!("multiples of {factor}")),
                "{uneven}"
            );
        }
        vae.drop_encoder();
        assert!(
            vae.encode(&image)
                .unwrap_err()
                .to_string()
                .contains("dropped")
        );
        assert!(vae.decode(&posterior.mean).is_ok());
    }
}

#[test]
fn a_posterior_is_sampled_as_it_says() {
    let posterior = spectral_motion::models::Posterior {
        mean: Tensor::new(&[[[[1.0, -2.0]]]], &Device::Cpu).unwrap(),
        logvar: Tensor::new(&[[[[0.0, 4.0f64.ln()]]]], &Device::Cpu).unwrap(),
    };
    let noise = Tensor::new(&[[[[0.5, -3.0]]]], &Device::Cpu).unwrap();
    let sample = posterior
        .sample(&noise)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1::<f64>()
        .unwrap();
    // 1 + 1 * 0.5 and -2 + 2 * -3
    assert!(
        (sample[0] - 1.5).abs() < 1e-12 && (sample[1] + 8.0).abs() < 1e-12,
        "{sample:?}"
    );
}

#[test]
fn a_token_the_model_does_not_know_is_refused() {
    let (_, text) = micro_folder().load_text(&Device::Cpu).unwrap();
    let vocab = text.config().vocab_size as u32;
    assert!(text.forward(&[vec![0, vocab - 1]]).is_ok());
    for ids in [
        vec![vec![vocab]],
        vec![vec![]],
        vec![],
        vec![vec![0; 78]],
        vec![vec![0], vec![0, 1]],
    ] {
        assert!(text.forward(&ids).is_err(), "{ids:?}");
    }
}

/// Four levels with three layers each, one training step, on the stack that job threads get, in the dev profile:
/// `backward` and the freeing of the graph recurse once an operation.
#[test]
fn the_deepest_network_trains_on_a_job_threads_stack() {
    let config = r#"{"block_out_channels": [8, 8, 16, 16], "layers_per_block": 3, "attention_head_dim": 4,
        "norm_num_groups": 4, "cross_attention_dim": 8}"#;
    let config = UNet3DConfig::from_json(config).unwrap();
    let train = move || {
        let (unet, weights) = random_unet(&config, &|name| name.ends_with("to_q.weight"));
        // Odd at every level: 11 x 9, 6 x 5, 3 x 3, 2 x 2.
        let x = noise(2, &[1, 4, 3, 11, 9]);
        let loss = unet
            .forward(&x, &[437.0], &noise(1, &[1, 5, 8]))
            .unwrap()
            .sqr()
            .unwrap()
            .mean_all()
            .unwrap();
        let gradients = loss.backward().unwrap();
        let trainables = weights.trainables();
        assert_eq!(
            trainables.len(),
            2 * 2 * (4 * 3 + 1 + 4 * 4) - 2 * 2 * (3 + 4) + 2
        );
        for (name, var) in &trainables {
            let size = gradients
                .get(var)
                .unwrap()
                .sqr()
                .unwrap()
                .sum_all()
                .unwrap()
                .to_scalar::<f32>()
                .unwrap();
            assert!(size.is_finite() && size > 0.0, "{name}: {size}");
        }
    };
    let stack = 256 << 20;
    std::thread::Builder::new()
        .name("deepest".to_owned())
        .stack_size(stack)
        .spawn(train)
        .unwrap()
        .join()
        .unwrap();
}

#[test]
fn configurations_that_cannot_work_are_refused_in_words() {
    for (text, part) in [
        ("3", "invalid type"),
        (r#"{"block_out_channels": []}"#, "the number of levels is 0"),
        (
            r#"{"block_out_channels": [320, 640]}"#,
            "2 levels, but 4 down and 4 up blocks",
        ),
        (
            r#"{"block_out_channels": [320, 640, 1280, 1281]}"#,
            "1281 channels do not divide",
        ),
        (r#"{"attention_head_dim": 0}"#, "attention_head_dim is 0"),
        (r#"{"attention_head_dim": [5, 10, 20, 20]}"#, "invalid type"),
        (r#"{"norm_num_groups": null}"#, "invalid type"),
        (r#"{"act_fn": "mish"}"#, "activation mish"),
        (
            r#"{"layers_per_block": 1000000}"#,
            "layers_per_block is 1000000",
        ),
        (
            r#"{"layers_per_block": 1000000000}"#,
            "layers_per_block is 1000000000, expected 1 to 64",
        ),
        (
            r#"{"block_out_channels": [0, 0, 0, 0]}"#,
            "0 channels do not divide",
        ),
        (
            r#"{"block_out_channels": [320, 640, 1280, 4294967296]}"#,
            "4294967296 channels do not divide",
        ),
        (
            r#"{"block_out_channels": [-320, 640, 1280, 1280]}"#,
            "invalid value: integer `-320`",
        ),
        (
            r#"{"norm_num_groups": 33}"#,
            "320 channels do not divide into 33 groups",
        ),
        (r#"{"norm_num_groups": 0}"#, "norm_num_groups is 0"),
        (r#"{"norm_eps": NaN}"#, "expected value"),
        (r#"{"norm_eps": 1e999}"#, "number out of range"),
        (r#"{"norm_eps": 0.0}"#, "norm_eps"),
        (
            r#"{"norm_eps": 1e-5, "norm_eps": 1e-6}"#,
            "duplicate field `norm_eps`",
        ),
        (
            r#"{"sample_size": 0}"#,
            "sample_size is 0 by 0, expected 1 to 1024",
        ),
        (
            r#"{"sample_size": [40, 18446744073709551615]}"#,
            "sample_size is 40 by 18446744073709551615",
        ),
        (r#"{"in_channels": 1e400}"#, "number out of range"),
        // Show-1's networks go by the same name.
        (
            r#"{"transfromer_in_opt": true}"#,
            "transfromer_in_opt is not supported",
        ),
        (r#"{"class_embed_type": "timestep"}"#, "class_embed_type"),
        (
            r#"{"resnet_time_scale_shift": "scale_shift"}"#,
            "another network",
        ),
        (r#"{"time_cond_proj_dim": 256}"#, "not supported"),
        (
            r#"{"up_block_types": ["UpBlock2D", "UpBlock3D", "UpBlock3D", "UpBlock3D"]}"#,
            "UpBlock2D",
        ),
    ] {
        let message = UNet3DConfig::from_json(text).unwrap_err();
        assert!(message.contains(part), "{text}: {message}");
    }
    for (text, part) in [
        (
            r#"{"block_out_channels": [64, 64]}"#,
            "another number of block types",
        ),
        (
            r#"{"norm_num_groups": 5}"#,
            "64 channels do not divide into 5 groups",
        ),
        (
            r#"{"down_block_types": ["AttnDownEncoderBlock2D"]}"#,
            "AttnDownEncoderBlock2D",
        ),
        (r#"{"scaling_factor": 0.0}"#, "scaling_factor is 0"),
        (r#"{"scaling_factor": NaN}"#, "expected value"),
        (r#"{"block_out_channels": [0]}"#, "0 channels do not divide"),
        (
            r#"{"layers_per_block": 1000000000}"#,
            "layers_per_block is 1000000000",
        ),
        (r#"{"latents_mean": [0.1, 0.2]}"#, "latents_mean"),
        (r#"{"shift_factor": 0.1}"#, "shift_factor"),
        (r#"{"act_fn": "relu"}"#, "activation relu"),
    ] {
        let message = VaeConfig::from_json(text).unwrap_err();
        assert!(message.contains(part), "{text}: {message}");
    }
    for (text, part) in [
        (r#"{"hidden_act": "relu"}"#, "unknown variant `relu`"),
        (
            r#"{"hidden_size": 10, "num_attention_heads": 3}"#,
            "a width of 10 does not divide into 3 heads",
        ),
        (r#"{"vocab_size": 0}"#, "vocab_size is 0"),
        (
            r#"{"num_hidden_layers": 1000000000}"#,
            "num_hidden_layers is 1000000000",
        ),
        (r#"{"layer_norm_eps": NaN}"#, "expected value"),
        (r#"{"model_type": "t5"}"#, "a text encoder of type t5"),
    ] {
        let message = ClipTextConfig::from_json(text).unwrap_err();
        assert!(message.contains(part), "{text}: {message}");
    }
}
