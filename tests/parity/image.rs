//! Image models: the two-dimensional parts against diffusers, the inflated networks against those that the methods' authors
//! published, with their training traces.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensors;
use spectral_motion::methods::{Method, tune_a_video};
use spectral_motion::models::{
    CONTROLNET_PREFIX, Conditioning, ControlNetConfig, ControlNetModel, Denoiser as _,
    ImageNetwork, ImageUNetConfig, InflatedUNet, Inflating, Inflation, ModelFolder, Residuals,
    TemporalBias, Weights,
};
use spectral_motion::schedulers::{NoiseSchedule, SchedulerConfig};

use super::networks::{NETWORK_LIMIT, check_loops, check_text_and_vae};
use super::trace::{Trace, Vars};
use super::{Findings, Tensors};

/// Both references train with it.
const LEARNING_RATE: f64 = 3e-5;
/// Stable Diffusion's schedule, with which the traces were made.
const SCHEDULE: &str = r#"{"_class_name": "DDIMScheduler", "beta_start": 0.00085, "beta_end": 0.012,
    "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}"#;

/// Pictures `[n, c, h, w]` as the frames of one clip, `[1, c, n, h, w]`.
fn as_clip(pictures: &Tensor) -> Tensor {
    let clip = pictures.transpose(0, 1).unwrap().unsqueeze(0).unwrap();
    clip.contiguous().unwrap()
}

/// Text encoder, autoencoder, UNet, ControlNet, sampling and inversion of an image model, each frame a picture of its own.
pub fn check(name: &str, folder: &ModelFolder, golden: &Tensors, findings: &mut Findings) {
    check_text_and_vae(name, folder, golden, findings);
    let inflating = Inflating {
        inflation: Inflation::Pictures,
        bias: TemporalBias::Zero,
        seed: 1,
        control: Some(1.0),
        dtype: DType::F32,
    };
    let (network, trainable) = folder
        .load_image_network(&inflating, &|_| false, &Device::Cpu)
        .unwrap();
    assert!(trainable.is_empty());
    let text = golden["text"].narrow(0, 0, 1).unwrap();
    let x = as_clip(&golden["unet.in"]);
    let t = [golden["unet.t"].to_vec1::<i64>().unwrap()[0] as f64];
    let mut compare = |part: &str, ours: &Tensor, key: &str| {
        findings.compare(
            format!("{name} {part}"),
            ours,
            &as_clip(&golden[key]),
            NETWORK_LIMIT,
        );
    };
    let out = network.unet.forward(&x, &t, &text, None).unwrap();
    compare("unet", &out, "unet.out");
    let control = as_clip(&golden["control.cond"]);
    let controlnet = network.controlnet.as_ref().unwrap();
    let residuals = controlnet.forward((&x, &t, &text), &control, 1.0).unwrap();
    let last = residuals.down.len();
    assert!(!golden.contains_key(&format!("control.down.{last}")));
    for (i, residual) in clips_of(&residuals).iter().enumerate() {
        let key = match i == last {
            true => "control.mid".to_owned(),
            false => format!("control.down.{i}"),
        };
        compare(&key, residual, &key);
    }
    let seen = Conditioning {
        text: &text,
        control: Some(&control),
    };
    let out = network.predict(&x, &t, seen).unwrap();
    compare("unet with control", &out, "control.unet.out");
    check_loops(name, (folder, &network.unet), golden, &as_clip, findings);
}

/// All residuals of one clip, the middle's last, as `[1, c, f, h, w]`.
fn clips_of(residuals: &Residuals) -> Vec<Tensor> {
    let all = residuals.down.iter().chain([&residuals.mid]);
    all.map(|residual| {
        let clip = residual.permute((3, 0, 1, 2)).unwrap();
        clip.unsqueeze(0).unwrap().contiguous().unwrap()
    })
    .collect()
}

/// The weights of a golden file behind a prefix.
fn weights(golden: &Tensors, prefix: &str) -> Weights {
    let under = golden.iter().filter_map(|(name, tensor)| {
        let name = name.strip_prefix(prefix)?;
        Some((name.to_owned(), tensor.clone()))
    });
    Weights::from_map(under.collect(), DType::F32, &Device::Cpu)
}

/// The network's configuration, in the header of a golden file.
fn config_text(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    header.metadata().as_ref().unwrap()["config"].clone()
}

/// A network of a method's authors with its training trace.
pub fn check_published(name: &str, path: &Path, golden: &Tensors, findings: &mut Findings) {
    let config = config_text(path);
    let (method, inflation, unet_prefix) = match name {
        "tune-a-video.safetensors" => (Method::TuneAVideo, Inflation::SparseCausal, "weights."),
        _ => (Method::ControlVideo, Inflation::KeyFrame, "unet."),
    };
    let at = weights(golden, unet_prefix);
    at.set_trainable(&|name| method.trains(name));
    let unet = ImageUNetConfig::from_json(&config).unwrap();
    let unet = InflatedUNet::new(&at, &unet, inflation).unwrap();
    // The trace of a single network has its names without a prefix.
    let plain = match method {
        Method::TuneAVideo => "",
        _ => unet_prefix,
    };
    let named = at.trainables().into_iter();
    let mut vars: Vars = named
        .map(|(name, var)| (format!("{plain}{name}"), var))
        .collect();
    let mut network = ImageNetwork {
        unet,
        controlnet: None,
        control_scale: 1.0,
    };
    let label = method.name();
    if method == Method::ControlVideo {
        let (controlnet, more) = controlnet(&config, golden);
        vars.extend(more);
        check_residuals(label, &network.unet, &controlnet, golden, findings);
        network.controlnet = Some(controlnet);
    }
    let seen = Conditioning {
        text: &golden["text"],
        control: golden.get("control"),
    };
    let t = [golden["t"].to_vec1::<i64>().unwrap()[0] as f64];
    let out = network.predict(&golden["in"], &t, seen).unwrap();
    findings.compare(
        format!("{label} forward"),
        &out,
        &golden["out"],
        NETWORK_LIMIT,
    );
    let trace = Trace {
        vars: &vars,
        schedule: NoiseSchedule::new(&SchedulerConfig::from_json(SCHEDULE).unwrap()),
        learning_rate: LEARNING_RATE,
        predict: &|v_t, t| network.predict(v_t, &[f64::from(t)], seen).unwrap(),
        base: &|out, eps, _| tune_a_video::base_loss(out, eps).unwrap(),
    };
    let finals = golden.keys().filter(|key| key.starts_with("final."));
    assert_eq!(
        vars.len(),
        finals.count(),
        "{label}: number of trained tensors"
    );
    trace.check(label, golden, findings);
}

fn controlnet(config: &str, golden: &Tensors) -> (ControlNetModel, Vars) {
    let at = weights(golden, CONTROLNET_PREFIX);
    let prefixed = |name: &str| format!("{CONTROLNET_PREFIX}{name}");
    at.set_trainable(&|name| Method::ControlVideo.trains(&prefixed(name)));
    let config = ControlNetConfig::from_json(config).unwrap();
    let model = ControlNetModel::new(&at, &config, Inflation::KeyFrame).unwrap();
    let named = at.trainables().into_iter();
    let vars: BTreeMap<_, _> = named.map(|(name, var)| (prefixed(&name), var)).collect();
    (model, vars)
}

fn check_residuals(
    label: &str,
    unet: &InflatedUNet,
    controlnet: &ControlNetModel,
    golden: &Tensors,
    findings: &mut Findings,
) {
    let (x, text) = (&golden["in"], &golden["text"]);
    let t = [golden["t"].to_vec1::<i64>().unwrap()[0] as f64];
    let without = unet.forward(x, &t, text, None).unwrap();
    findings.compare(
        format!("{label} forward without control"),
        &without,
        &golden["out.no_control"],
        NETWORK_LIMIT,
    );
    let residuals = controlnet
        .forward((x, &t, text), &golden["control"], 1.0)
        .unwrap();
    let last = residuals.down.len();
    assert!(!golden.contains_key(&format!("down.{last}")));
    for (i, residual) in clips_of(&residuals).iter().enumerate() {
        let key = match i == last {
            true => "mid".to_owned(),
            false => format!("down.{i}"),
        };
        findings.compare(
            format!("{label} residual {key}"),
            residual,
            &golden[&key],
            NETWORK_LIMIT,
        );
    }
}
