//! The inflated networks: published key lists, and what they share with the image model they are made from.

use candle_core::{DType, Device, Tensor};
use spectral_motion::models::{
    Conditioning, ControlNetConfig, ControlNetModel, Denoiser as _, ImageUNetConfig, InflatedUNet,
    Inflation, ModelError, ModelFolder, ModelKind, TemporalBias, Weights, inflate,
};
use spectral_motion::train::Batch;

use super::inflated;
use crate::common::{image_batch, image_model, micro_model};
use crate::models::published::{SD15, published};

/// The same sums in another order, single precision, through a whole network and its ControlNet.
const ROUNDING: f64 = 3e-6;

#[test]
fn stable_diffusion_and_its_controlnet_ask_for_exactly_the_published_weights() {
    let recorder = Weights::recorder();
    let config = ImageUNetConfig::from_json(SD15).unwrap();
    InflatedUNet::new(&recorder, &config, Inflation::Pictures).unwrap();
    assert_eq!(recorder.asked(), published("sd15.unet"));
    let recorder = Weights::recorder();
    let config = ControlNetConfig::from_json(SD15).unwrap();
    ControlNetModel::new(&recorder, &config, Inflation::KeyFrame).unwrap();
    assert_eq!(recorder.asked(), published("sd15.controlnet"));
}

#[test]
fn inflation_adds_nothing_but_the_attention_over_frames() {
    let config = ImageUNetConfig::from_json(SD15).unwrap();
    let plain = published("sd15.unet");
    // Sixteen transformers, that of the middle among them, which ControlVideo leaves as it is; per transformer the
    // projections with one bias, and a norm or a convolution of two tensors.
    for (inflation, transformers) in [(Inflation::SparseCausal, 16), (Inflation::KeyFrame, 15)] {
        let recorder = Weights::recorder();
        InflatedUNet::new(&recorder, &config, inflation).unwrap();
        let asked = recorder.asked();
        let added = asked.iter().filter(|(name, _)| !plain.contains_key(*name));
        let (temporal, other): (Vec<_>, Vec<_>) = added.partition(|(name, _)| {
            ["attn_temp", "norm_temp", "conv_temp"]
                .iter()
                .any(|part| name.contains(part))
        });
        assert_eq!((temporal.len(), other.len()), (7 * transformers, 0));
        assert!(
            plain
                .iter()
                .all(|(name, shape)| asked.get(name) == Some(shape))
        );
        let middle = temporal
            .iter()
            .filter(|(name, _)| name.starts_with("mid_block"));
        assert_eq!(middle.count(), if transformers == 16 { 7 } else { 0 });
    }
}

fn relative_error(ours: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(ours.dims(), expected.dims());
    let norm = |x: &Tensor| {
        let squares = x.to_dtype(DType::F64).unwrap().sqr().unwrap();
        squares.sum_all().unwrap().to_scalar::<f64>().unwrap()
    };
    (norm(&(ours - expected).unwrap()) / norm(expected)).sqrt()
}

fn predict(inflation: Inflation, bias: TemporalBias, batch: &Batch, controlled: bool) -> Tensor {
    let (mut network, _) = inflated(inflation, bias, &|_| false);
    let control = batch.control.as_ref().filter(|_| controlled);
    if !controlled {
        network.controlnet = None;
    }
    let seen = Conditioning {
        text: &batch.text,
        control,
    };
    network.predict(&batch.v0, &[400.0], seen).unwrap()
}

/// The batch with its first frame in place of all.
fn standing(batch: &Batch) -> Batch {
    let stand = |x: &Tensor| {
        let first = x.narrow(2, 0, 1).unwrap();
        Tensor::cat(&vec![first; x.dim(2).unwrap()], 2).unwrap()
    };
    Batch {
        v0: stand(&batch.v0),
        control: batch.control.as_ref().map(stand),
        ..batch.clone()
    }
}

/// Where the frames are the same, looking at other frames and pooling their statistics changes nothing, and the attention
/// over frames starts behind zeros. Where they differ it is another network from the first step on: the norms of the
/// residual layers pool the frames, and self-attention sees other frames.
#[test]
fn a_freshly_inflated_network_of_equal_frames_is_the_image_model() {
    let (moving, zero) = (image_batch(), TemporalBias::Zero);
    let still = standing(&moving);
    for (inflation, controlled) in [
        (Inflation::SparseCausal, false),
        (Inflation::KeyFrame, false),
        (Inflation::KeyFrame, true),
    ] {
        let compare = |batch: &Batch, bias| {
            relative_error(
                &predict(inflation, bias, batch, controlled),
                &predict(Inflation::Pictures, zero, batch, controlled),
            )
        };
        let same = compare(&still, zero);
        assert!(same < ROUNDING, "{inflation:?}: {same:e}");
        // Far beyond rounding, else the equality above would say nothing.
        let other = compare(&moving, zero);
        assert!(other > 1e-3, "{inflation:?}: {other:e}");
        // The authors' random bias is added to every token, whatever the frames.
        let biased = compare(&still, TemporalBias::Random);
        assert_eq!(
            biased > 1e-3,
            inflation == Inflation::SparseCausal,
            "{inflation:?}: {biased:e}"
        );
    }
}

#[test]
fn starting_values_are_those_of_the_references() {
    let temporal = |name: &str| name.contains("_temp.") && !name.contains("norm_temp");
    let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let (_, vars) = inflated(Inflation::SparseCausal, TemporalBias::Random, &temporal);
    assert_eq!(vars.len(), 5 * 4, "four transformers");
    let mut all = Vec::new();
    for (name, var) in &vars {
        let numbers = values(var);
        if name.ends_with("to_out.0.weight") {
            assert!(numbers.iter().all(|v| *v == 0.0), "{name}");
            continue;
        }
        // PyTorch's uniform range, of which 16 numbers and more fill a good part.
        let bound = 1.0 / (var.dims()[var.rank() - 1] as f32).sqrt();
        let largest = numbers.iter().fold(0.0, |a: f32, b| a.max(b.abs()));
        assert!(
            largest <= bound && largest > 0.6 * bound,
            "{name}: {largest}"
        );
        let mean = numbers.iter().sum::<f32>() / numbers.len() as f32;
        // Five deviations of the mean of that many uniform numbers.
        let far = 5.0 * bound / (3.0 * numbers.len() as f32).sqrt();
        assert!(mean.abs() < far, "{name}: {mean}");
        all.push(numbers);
    }
    all.sort_by(|a, b| a.partial_cmp(b).unwrap());
    all.dedup();
    assert_eq!(all.len(), 4 * 4, "every tensor has numbers of its own");
    let (_, again) = inflated(Inflation::SparseCausal, TemporalBias::Random, &temporal);
    assert!(
        vars.iter()
            .all(|(name, var)| values(var) == values(&again[name]))
    );

    let of_both = |name: &str| temporal(name) || name.contains(".attn1.");
    let (_, vars) = inflated(Inflation::KeyFrame, TemporalBias::Zero, &of_both);
    let mut copies = 0;
    for (name, var) in &vars {
        if name.contains(".conv_temp.") {
            assert!(values(var).iter().all(|v| *v == 0.0), "{name}");
        } else if name.contains(".attn_temp.") {
            let original = &vars[&name.replace(".attn_temp.", ".attn1.")];
            assert_eq!(values(var), values(original), "{name}");
            copies += 1;
        }
    }
    assert_eq!(copies, 5 * 3, "the middle has none");
}

#[test]
fn weights_of_an_inflated_network_stay_as_they_are_and_must_be_whole() {
    let folder = ModelFolder::open(&image_model()).unwrap();
    let config = folder.image_config().unwrap();
    let recorder = Weights::recorder();
    InflatedUNet::new(&recorder, config, Inflation::KeyFrame).unwrap();
    let mut trained = crate::models::random_weights(&recorder.asked());
    let build = |tensors: &std::collections::BTreeMap<String, Tensor>| {
        let weights = Weights::from_map(tensors.clone(), DType::F32, &Device::Cpu);
        let bias = TemporalBias::Zero;
        let weights = inflate(&weights, config, Inflation::KeyFrame, bias, 1).unwrap();
        weights.set_trainable(&|name| name.contains(".conv_temp."));
        InflatedUNet::new(&weights, config, Inflation::KeyFrame)?;
        Ok::<_, ModelError>(weights.trainables())
    };
    for (name, var) in build(&trained).unwrap() {
        let error = relative_error(var.as_tensor(), &trained[&name]);
        assert_eq!(error, 0.0, "{name}");
    }
    let lost = trained
        .keys()
        .find(|name| name.contains("_temp."))
        .unwrap()
        .clone();
    trained.remove(&lost);
    match build(&trained).unwrap_err() {
        ModelError::Keys(report) => assert_eq!(report.missing, [lost]),
        other => panic!("{other}"),
    }
}

#[test]
fn networks_and_folders_of_the_other_kind_are_refused() {
    let image = ModelFolder::open(&image_model()).unwrap();
    assert_eq!(image.kind(), ModelKind::Image);
    assert_eq!(image.clip_limits().default_frames, 8);
    assert_eq!(image.clip_limits().width, 64);
    let refused = image.load_unet(&|_| false, &Device::Cpu).unwrap_err();
    assert!(
        refused.to_string().contains("a method for image models"),
        "{refused}"
    );
    let video = ModelFolder::open(&micro_model()).unwrap();
    assert_eq!(video.kind(), ModelKind::Video);
    assert!(video.image_config().is_none() && video.controlnet_config().is_none());

    let controlnet = image_model().join("controlnet");
    let refused = video.with_controlnet(&controlnet).unwrap_err().to_string();
    assert!(
        refused.contains("an image model beside its ControlNet"),
        "{refused}"
    );
    let outside = image.clone().with_controlnet(&controlnet).unwrap();
    assert_eq!(outside.controlnet_dir(), Some(controlnet.clone()));
    assert_eq!(image.controlnet_dir(), None);
    assert_eq!(
        outside.weights_sha256().unwrap(),
        image.weights_sha256().unwrap(),
        "the same files under the same names"
    );
    outside.check_weights().unwrap();
    let refused = image.clone().with_controlnet(&image_model()).unwrap_err();
    assert!(
        matches!(refused, ModelError::NotAControlNet { .. }),
        "{refused}"
    );
    let refused = image
        .with_controlnet(&image_model().join("unet"))
        .unwrap_err();
    let told = "a UNet2DConditionModel in place of a ControlNetModel";
    assert!(refused.to_string().contains(told), "{refused}");
}

#[test]
fn configurations_of_later_image_models_are_refused_in_words() {
    for (from, to, part) in [
        (
            "\"attention_head_dim\": 8",
            "\"attention_head_dim\": [5, 10, 20, 20]",
            "Stable Diffusion 2",
        ),
        (
            "\"freq_shift\": 0",
            "\"freq_shift\": 0, \"use_linear_projection\": true",
            "use_linear_projection",
        ),
        ("\"freq_shift\": 0", "\"freq_shift\": 1", "freq_shift"),
        (
            "\"center_input_sample\": false",
            "\"transformer_layers_per_block\": [1, 2, 10]",
            "transformer_layers_per_block",
        ),
        (
            "\"norm_num_groups\": 32",
            "\"norm_num_groups\": 33",
            "do not divide into 33 groups and 8 heads",
        ),
        (
            "\"in_channels\": 4",
            "\"in_channels\": 0",
            "in_channels is 0",
        ),
        ("\"UpBlock2D\", ", "", "4 levels, but 3 up blocks"),
        (
            "\"UpBlock2D\"",
            "\"AttnUpBlock2D\"",
            "blocks of type AttnUpBlock2D",
        ),
        ("\"silu\"", "\"gelu\"", "activation gelu"),
        (
            "\"sample_size\": 64",
            "\"sample_size\": 100000",
            "sample_size is 100000",
        ),
    ] {
        let text = SD15.replacen(from, to, 1);
        assert_ne!(text, SD15, "{from}");
        let refused = ImageUNetConfig::from_json(&text).unwrap_err();
        assert!(refused.contains(part), "{refused}");
    }
    let control = |more: &str| {
        let text = SD15.replacen('{', &format!("{{{more}, "), 1);
        ControlNetConfig::from_json(&text)
    };
    let blue = control(r#""controlnet_conditioning_channel_order": "bgr""#).unwrap();
    assert!(blue.blue_first && blue.factor() == 8);
    for (more, part) in [
        (
            r#""controlnet_conditioning_channel_order": "xyz""#,
            "channel order xyz",
        ),
        (
            r#""global_pool_conditions": true"#,
            "global_pool_conditions",
        ),
        (
            r#""conditioning_embedding_out_channels": []"#,
            "no network's",
        ),
    ] {
        let refused = control(more).unwrap_err();
        assert!(refused.contains(part), "{refused}");
    }
}

#[test]
fn a_network_for_blue_first_sees_the_colours_turned_around() {
    let batch = image_batch();
    let control = batch.control.unwrap();
    let order = [2, 1, 0].map(|colour| control.narrow(1, colour, 1).unwrap());
    let turned = Tensor::cat(&order, 1).unwrap();
    let weights = || {
        let path = image_model().join("controlnet/diffusion_pytorch_model.safetensors");
        Weights::open(&[path], DType::F32, &Device::Cpu).unwrap()
    };
    let text = std::fs::read_to_string(image_model().join("controlnet/config.json")).unwrap();
    let run = |text: &str, control: &Tensor| {
        let config = ControlNetConfig::from_json(text).unwrap();
        let model = ControlNetModel::new(&weights(), &config, Inflation::KeyFrame).unwrap();
        let seen = (&batch.v0, [400.0].as_slice(), &batch.text);
        model.forward(seen, control, 1.0).unwrap().mid
    };
    let blue_first = text.replace("\"rgb\"", "\"bgr\"");
    let same = relative_error(&run(&blue_first, &turned), &run(&text, &control));
    assert_eq!(same, 0.0);
    let other = relative_error(&run(&blue_first, &control), &run(&text, &control));
    // Ten times as much as any rounding; the stripes differ little between colours.
    assert!(other > 1e-5, "{other:e}");
}

/// What two halves of a guided step see at once is what each would see alone: nothing passes between clips.
#[test]
fn clips_of_one_batch_do_not_see_each_other() {
    let batch = image_batch();
    let control = batch.control.as_ref();
    let other = (&batch.v0 * -0.7).unwrap();
    let words = (&batch.text * 0.5).unwrap();
    for inflation in [Inflation::SparseCausal, Inflation::KeyFrame] {
        let (network, _) = inflated(inflation, TemporalBias::Random, &|_| false);
        let run = |x: &Tensor, text: &Tensor| {
            let seen = Conditioning { text, control };
            network.predict(x, &[400.0], seen).unwrap()
        };
        let both = run(
            &Tensor::cat(&[&batch.v0, &other], 0).unwrap(),
            &Tensor::cat(&[&batch.text, &words], 0).unwrap(),
        );
        for (i, (x, text)) in [(&batch.v0, &batch.text), (&other, &words)]
            .into_iter()
            .enumerate()
        {
            let error = relative_error(&both.narrow(0, i, 1).unwrap(), &run(x, text));
            assert!(error < ROUNDING, "{inflation:?} {i}: {error:e}");
        }
    }
}
