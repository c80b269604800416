//! What the methods for image models train: every chosen tensor learns, nothing else moves, and checkpointing changes no bit.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor, Var};
use spectral_motion::methods::{Method, Precision, Tuned, waits_for_another};
use spectral_motion::models::{Inflation, ModelFolder, TemporalBias};
use spectral_motion::nn::Tape;
use spectral_motion::schedulers::NoiseSchedule;
use spectral_motion::train::{
    Batch, Checkpointing, Item, Objective, Preset, Trainer, TransferConfig, losses,
};

use super::{METHODS, inflated};
use crate::common::{image_batch, image_model};

fn config(method: Method) -> TransferConfig {
    TransferConfig {
        method,
        seed: 2,
        ..TransferConfig::default()
    }
}

fn schedule() -> NoiseSchedule {
    NoiseSchedule::new(ModelFolder::open(&image_model()).unwrap().scheduler())
}

/// The batch that a method's network takes.
fn batch(method: Method) -> Batch {
    let batch = image_batch();
    Batch {
        control: batch.control.filter(|_| method.is_controlled()),
        ..batch
    }
}

fn item(batch: &Batch) -> Item {
    let item = Item::new(&batch.v0, &batch.text);
    match &batch.control {
        Some(control) => item.with_control(control),
        None => item,
    }
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn tuned(config: &TransferConfig) -> Tuned {
    let folder = ModelFolder::open(&image_model()).unwrap();
    config
        .method
        .load(&folder, config.tuning(1), &Device::Cpu)
        .unwrap()
}

/// Moves weights that start at zero, so that everything behind them gets a gradient.
fn wake(vars: &BTreeMap<String, Var>) {
    for (name, var) in vars {
        if values(var).iter().all(|v| *v == 0.0) {
            let like = values(var).len();
            let some = (0..like).map(|i| (i as f32 * 0.7).sin() * 0.2).collect();
            let some = Tensor::from_vec(some, var.shape(), &Device::Cpu).unwrap();
            var.set(&some)
                .unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }
}

#[test]
fn every_trainable_tensor_gets_a_gradient_from_every_term() {
    // Two queries and five tensors of the attention over frames in four transformers; three of ControlVideo's four have
    // the latter, and two tensors more, beside two outputs in four transformers and in the ControlNet's two.
    for (method, count) in METHODS.into_iter().zip([7 * 4, 2 * 4 + 7 * 3 + 2 * 2]) {
        let config = config(method);
        let (tuned, batch) = (tuned(&config), batch(method));
        assert_eq!(tuned.vars.len(), count, "{method:?}");
        wake(&tuned.vars);
        let objective = Objective::new(&config, schedule(), &batch.v0).unwrap();
        let terms = losses(&tuned.unet, &mut Tape::off(), &batch, &objective).unwrap();
        for (term, loss) in [
            ("base", &terms.base),
            ("global", &terms.global),
            ("amplitude", &terms.amplitude),
            ("phase", &terms.phase),
            ("total", &terms.total),
        ] {
            let grads = loss.backward().unwrap();
            for (name, var) in &tuned.vars {
                let grad = grads
                    .get(var.as_tensor())
                    .unwrap_or_else(|| panic!("{method:?} {term}: {name} has none"));
                assert_eq!(grad.dims(), var.dims(), "{name}");
                let size = values(grad).iter().fold(0.0, |a: f32, b| a.max(b.abs()));
                assert!(size.is_finite() && size > 0.0, "{term}: {name} has {size}");
            }
        }
    }
}

/// The first step moves what stands in front, the second what had waited for it; then all of it has moved, and no other
/// matrix of UNet and ControlNet.
#[test]
fn two_steps_move_every_trainable_tensor_and_nothing_else() {
    for method in METHODS {
        let inflation = match method.is_controlled() {
            true => Inflation::KeyFrame,
            false => Inflation::SparseCausal,
        };
        // More weights are variables here than learn, so that a change of a frozen one could be seen.
        let can_learn = |name: &str| {
            method.trains(name)
                || [
                    ".to_q.weight",
                    ".to_k.weight",
                    ".to_v.weight",
                    ".ff.net.2.weight",
                ]
                .iter()
                .any(|end| name.ends_with(end))
        };
        let (mut network, all) = inflated(inflation, TemporalBias::Zero, &can_learn);
        if !method.is_controlled() {
            network.controlnet = None;
        }
        let before: BTreeMap<&String, Vec<f32>> =
            all.iter().map(|(name, var)| (name, values(var))).collect();
        let is_used = |name: &str| method.is_controlled() || !name.starts_with("controlnet.");
        let learns = |name: &str| method.trains(name) && is_used(name);
        let learning: BTreeMap<String, Var> = all
            .iter()
            .filter(|(name, _)| learns(name))
            .map(|(name, var)| (name.clone(), var.clone()))
            .collect();
        assert!(learning.len() < all.len());
        let batch = batch(method);
        // Without decay a tensor moves by its gradient alone.
        let config = TransferConfig {
            weight_decay: 0.0,
            ..config(method)
        };
        let tuned = Tuned::plain(network, learning);
        let mut trainer = Trainer::new(&config, tuned, schedule(), vec![item(&batch)]).unwrap();
        for step in 1..=2 {
            let stats = trainer.step().unwrap();
            assert!(stats.grad_norm > 0.0);
            for (name, old) in &before {
                let waits = waits_for_another(name) && !starts_beside_zero(method, name);
                let moved = values(&all[*name]) != *old;
                let due = learns(name) && (step == 2 || !waits);
                assert_eq!(moved, due, "{method:?} step {step}: {name}");
            }
        }
    }
}

/// Tune-A-Video's output projection over frames starts at zero itself: only what is before it waits.
fn starts_beside_zero(method: Method, name: &str) -> bool {
    method == Method::TuneAVideo && name.contains(".attn_temp.to_out.")
}

#[test]
fn gradients_are_bitwise_those_without_checkpointing() {
    for method in METHODS {
        let batch = batch(method);
        let run = |checkpointing| {
            let config = TransferConfig {
                checkpointing,
                ..config(method)
            };
            let tuned = tuned(&config);
            wake(&tuned.vars);
            let objective = Objective::new(&config, schedule(), &batch.v0).unwrap();
            let mut tape = Tape::new(checkpointing);
            let terms = losses(&tuned.unet, &mut tape, &batch, &objective).unwrap();
            let gradients = tape.gradients(&terms.total, &tuned.vars).unwrap();
            assert_eq!(gradients.len(), tuned.vars.len());
            let bits = |x: &Tensor| values(x).into_iter().map(f32::to_bits).collect::<Vec<_>>();
            let by_name: BTreeMap<String, Vec<u32>> = gradients
                .iter()
                .map(|(name, gradient)| (name.clone(), bits(gradient)))
                .collect();
            (bits(&terms.total), by_name)
        };
        let whole = run(Checkpointing::Off);
        for checkpointing in [Checkpointing::Block, Checkpointing::Level] {
            // The same operations on the same values, added up in the same order: no tolerance.
            assert!(run(checkpointing) == whole, "{method:?} {checkpointing:?}");
        }
    }
}

#[test]
fn half_precision_trains_what_single_precision_trains() {
    for method in METHODS {
        let run = |precision| {
            let config = TransferConfig {
                precision,
                ..config(method)
            };
            let (tuned, batch) = (tuned(&config), batch(method));
            wake(&tuned.vars);
            let objective = Objective::new(&config, schedule(), &batch.v0).unwrap();
            let terms = losses(&tuned.unet, &mut Tape::off(), &batch, &objective).unwrap();
            let grads = terms.base.affine(65536.0, 0.0).unwrap().backward().unwrap();
            let all = tuned.vars.values().flat_map(|var| {
                assert_eq!(var.dtype(), candle_core::DType::F32);
                values(grads.get(var.as_tensor()).unwrap())
            });
            all.map(f64::from).collect::<Vec<f64>>()
        };
        let (whole, half) = (run(Precision::F32), run(Precision::F16));
        let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|v| v * v).sum::<f64>().sqrt();
        let off = norm(&mut whole.iter().zip(&half).map(|(a, b)| a - b));
        let error = off / norm(&mut whole.iter().copied());
        // Ten binary digits after the point through some forty layers; a wrong path would give 1.
        assert!(error < 0.02, "{method:?}: {error:e}");
        assert!(error > 0.0);
    }
}

#[test]
fn the_control_scale_acts_in_the_training() {
    let loss = |control_scale: f64| {
        let config = TransferConfig {
            control_scale,
            ..config(Method::ControlVideo)
        };
        let (tuned, batch) = (tuned(&config), batch(Method::ControlVideo));
        let objective = Objective::new(&config, schedule(), &batch.v0).unwrap();
        let terms = losses(&tuned.unet, &mut Tape::off(), &batch, &objective).unwrap();
        terms.base.to_scalar::<f32>().unwrap()
    };
    // Nearly nothing, half, all: three networks.
    let (least, half, whole) = (loss(1e-3), loss(0.5), loss(1.0));
    assert!(least != half && half != whole && least != whole);
}

#[test]
fn presets_have_the_authors_settings_and_stand_in_for_missing_ones() {
    for method in METHODS {
        let builtin = Preset::of(method, true).unwrap().config().unwrap();
        assert_eq!(builtin.method, method);
        // The model's own card says how it is sampled.
        assert_eq!((builtin.sampling_steps, builtin.guidance), (None, None));
        let preset = Preset::of(method, false).unwrap().config().unwrap();
        assert!(builtin.learning_rate > 3.0 * preset.learning_rate);
        assert_eq!(preset.method, method);
        assert_eq!((preset.learning_rate, preset.weight_decay), (3e-5, 1e-2));
        assert_eq!((preset.clip_norm, preset.sampling_steps), (1.0, Some(50)));
        assert_eq!((preset.lambda_g, preset.lambda_l), (0.4, 0.2));
    }
    let tune = Preset::TuneAVideo.config().unwrap();
    assert_eq!(
        (tune.guidance, tune.temporal_bias),
        (Some(12.5), TemporalBias::Random)
    );
    let control = Preset::ControlVideo.config().unwrap();
    assert_eq!((control.guidance, control.control_scale), (Some(12.0), 1.0));
    assert_eq!((control.canny, control.steps), ((100.0, 100.0), 80));
    for method in [Method::Vmc, Method::MotionDirector] {
        assert_eq!(
            (Preset::of(method, true), Preset::of(method, false)),
            (None, None)
        );
    }
}
