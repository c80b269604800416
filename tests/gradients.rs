//! No gradient is lost and nothing frozen moves: one real step on the micro model.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};
use spectral_motion::methods::{Method, Tuned, motion_director, vmc};
use spectral_motion::models::{ModelFolder, UNet3DConditionModel};
use spectral_motion::nn::{NoiseStream, Purpose};
use spectral_motion::schedulers::{NoiseSchedule, PredictionType};
use spectral_motion::spectral::loss::SpectralLoss;
use spectral_motion::train::{Batch, Objective, TrainError, Trainer, TransferConfig, losses};

use crate::common::micro_model;

struct Micro {
    unet: UNet3DConditionModel,
    vars: BTreeMap<String, Var>,
    schedule: NoiseSchedule,
    batch: Batch,
}

fn micro(trains: &dyn Fn(&str) -> bool) -> Micro {
    let folder = ModelFolder::open(&micro_model()).unwrap();
    let (unet, vars) = folder.load_unet(trains, &Device::Cpu).unwrap();
    let mut noise = NoiseStream::new(5, Purpose::Noise);
    let mut draw = |shape: &[usize]| noise.normal(shape, DType::F32, &Device::Cpu).unwrap();
    let batch = Batch {
        v0: draw(&[1, 4, 5, 8, 6]),
        eps: draw(&[1, 4, 5, 8, 6]),
        t: vec![400],
        text: draw(&[1, 77, 16]),
        anchor: 0,
    };
    Micro {
        unet,
        vars,
        schedule: NoiseSchedule::new(folder.scheduler()),
        batch,
    }
}

/// Weights of linear layers, which can be variables.
const LINEAR: [&str; 6] = [
    ".to_q.weight",
    ".to_k.weight",
    ".to_v.weight",
    ".to_out.0.weight",
    ".ff.net.2.weight",
    ".proj.weight",
];

fn vmc_micro() -> Micro {
    micro(&|name| Method::Vmc.trains(name))
}

fn largest(tensor: &Tensor) -> f32 {
    tensor
        .abs()
        .unwrap()
        .flatten_all()
        .unwrap()
        .max(0)
        .unwrap()
        .to_scalar()
        .unwrap()
}

#[test]
fn every_trainable_tensor_gets_a_gradient_from_every_term() {
    let micro = vmc_micro();
    assert!(
        micro.vars.len() >= 12,
        "several temporal transformers learn: {}",
        micro.vars.len()
    );
    let config = TransferConfig::default();
    let objective = Objective::new(&config, micro.schedule, &micro.batch.v0).unwrap();
    let terms = losses(&micro.unet, &micro.batch, &objective).unwrap();
    let named = [
        ("base", &terms.base),
        ("global", &terms.global),
        ("amplitude", &terms.amplitude),
        ("phase", &terms.phase),
        ("total", &terms.total),
    ];
    for (term, loss) in named {
        let grads = loss.backward().unwrap();
        for (name, var) in &micro.vars {
            let grad = grads
                .get(var.as_tensor())
                .unwrap_or_else(|| panic!("{term}: {name} has none"));
            let size = largest(grad);
            assert!(size.is_finite() && size > 0.0, "{term}: {name} has {size}");
        }
    }
}

/// The conversions are those of the specification's section 2, written out here once more.
#[test]
fn a_network_of_velocities_is_trained_by_what_its_output_says() {
    for method in [Method::Vmc, Method::MotionDirector] {
        let mut micro = vmc_micro();
        micro.schedule.prediction = PredictionType::Velocity;
        let (schedule, batch) = (micro.schedule, &micro.batch);
        let abar = schedule.alphas_cumprod[400];
        let (signal, noise) = (abar.sqrt(), (1.0 - abar).sqrt());
        let mix =
            |x: &Tensor, a: f64, y: &Tensor, b: f64| ((x * a).unwrap() + (y * b).unwrap()).unwrap();
        let x_t = mix(&batch.v0, signal, &batch.eps, noise);
        let out = micro.unet.forward(&x_t, &[400.0], &batch.text).unwrap();
        let (clean, eps) = (
            mix(&x_t, signal, &out, -noise),
            mix(&out, signal, &x_t, noise),
        );
        let config = TransferConfig {
            method,
            ..TransferConfig::default()
        };
        let base = match method {
            Method::Vmc => vmc::base_loss(&eps, &batch.eps, config.residual, config.cosine_axis),
            Method::MotionDirector => {
                let velocity = mix(&batch.eps, signal, &batch.v0, -noise);
                motion_director::base_loss(&out, &velocity, batch.anchor)
            }
        };
        let (_, _, f, h, w) = batch.v0.dims5().unwrap();
        let motion = config.motion_loss(f, config.delta);
        let spectral = SpectralLoss::new(&motion, f, h, w, DType::F32, &Device::Cpu).unwrap();
        let global = spectral.global(&batch.v0, &clean).unwrap().total;
        let local = spectral.local(&batch.v0, &clean).unwrap();

        let objective = Objective::new(&config, schedule, &batch.v0).unwrap();
        let terms = losses(&micro.unet, batch, &objective).unwrap();
        for (name, ours, expected) in [
            ("base", &terms.base, &base.unwrap()),
            ("global", &terms.global, &global),
            ("amplitude", &terms.amplitude, &local.amplitude),
            ("phase", &terms.phase, &local.phase),
        ] {
            let value = |tensor: &Tensor| tensor.to_scalar::<f32>().unwrap();
            let (ours, expected) = (value(ours), value(expected));
            // Single precision; the factors above are rounded at other places.
            assert!(
                (ours - expected).abs() <= 1e-4 * expected.abs(),
                "{method:?} {name}: {ours} for {expected}"
            );
        }
        let grads = terms.total.backward().unwrap();
        for (name, var) in &micro.vars {
            let size = largest(grads.get(var.as_tensor()).unwrap());
            assert!(
                size.is_finite() && size > 0.0,
                "{method:?}: {name} has {size}"
            );
        }
    }
}

#[test]
fn terms_without_weight_are_told_and_cost_no_gradient() {
    let micro = vmc_micro();
    let config = TransferConfig {
        lambda_g: 0.0,
        lambda_l: 0.0,
        ..TransferConfig::default()
    };
    let objective = Objective::new(&config, micro.schedule, &micro.batch.v0).unwrap();
    let terms = losses(&micro.unet, &micro.batch, &objective).unwrap();
    let value = |tensor: &Tensor| tensor.to_scalar::<f32>().unwrap();
    assert!(value(&terms.global) > 0.0 && value(&terms.amplitude) > 0.0);
    assert_eq!(value(&terms.total).to_bits(), value(&terms.base).to_bits());
    let grads = terms.global.backward().unwrap();
    assert!(
        micro
            .vars
            .values()
            .all(|var| grads.get(var.as_tensor()).is_none())
    );
}

#[test]
fn one_step_moves_every_trainable_tensor_and_nothing_else() {
    // More weights are variables here than learn, so that a change of a frozen one could be seen. The rest (convolutions,
    // norms) is held in plain tensors, which nothing can write to.
    let all = micro(&|name| LINEAR.iter().any(|end| name.ends_with(end)));
    let before: BTreeMap<String, Tensor> = all
        .vars
        .iter()
        .map(|(name, var)| (name.clone(), var.as_tensor().copy().unwrap()))
        .collect();
    let learning: BTreeMap<String, Var> = all
        .vars
        .iter()
        .filter(|(name, _)| Method::Vmc.trains(name))
        .map(|(name, var)| (name.clone(), var.clone()))
        .collect();
    let config = TransferConfig::default();
    let batch = &all.batch;
    let mut trainer = Trainer::new(
        &config,
        Tuned::plain(all.unet, learning),
        all.schedule,
        &batch.v0,
        &batch.text,
    )
    .unwrap();
    let stats = trainer.step().unwrap();
    assert!(stats.grad_norm > 0.0);
    assert_eq!(
        trainer.grad_norms().len(),
        before
            .keys()
            .filter(|name| Method::Vmc.trains(name))
            .count()
    );
    for (name, old) in before {
        let change = largest(&all.vars[&name].as_tensor().sub(&old).unwrap());
        if Method::Vmc.trains(&name) {
            assert!(change > 0.0, "{name} did not move");
        } else {
            assert!(
                change.to_bits() == 0,
                "{name} is frozen and moved by {change}"
            );
        }
    }
}

#[test]
fn a_tensor_that_the_network_does_not_use_is_told_at_the_first_step() {
    let mut micro = vmc_micro();
    let lonely = Var::zeros((2, 2), DType::F32, &Device::Cpu).unwrap();
    micro.vars.insert("lonely".to_owned(), lonely);
    let config = TransferConfig::default();
    let batch = &micro.batch;
    let mut trainer = Trainer::new(
        &config,
        Tuned::plain(micro.unet, micro.vars),
        micro.schedule,
        &batch.v0,
        &batch.text,
    )
    .unwrap();
    match trainer.step() {
        Err(TrainError::Dead { names, .. }) => assert_eq!(names, ["lonely"]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_value_that_is_not_finite_stops_the_step_and_keeps_the_weights() {
    let micro = vmc_micro();
    let name = micro.vars.keys().next().unwrap().clone();
    let var = micro.vars[&name].clone();
    let config = TransferConfig::default();
    let batch = &micro.batch;
    let vars = micro.vars.clone();
    let mut trainer = Trainer::new(
        &config,
        Tuned::plain(micro.unet, vars),
        micro.schedule,
        &batch.v0,
        &batch.text,
    )
    .unwrap();
    var.set(&Tensor::full(f32::NAN, var.dims(), &Device::Cpu).unwrap())
        .unwrap();
    let others: Vec<_> = micro
        .vars
        .iter()
        .filter(|(other, _)| **other != name)
        .collect();
    let before: Vec<Tensor> = others
        .iter()
        .map(|(_, var)| var.as_tensor().copy().unwrap())
        .collect();
    match trainer.step() {
        Err(TrainError::NotFinite { step: 1, what, .. }) => assert_eq!(what, "the host loss"),
        other => panic!("{other:?}"),
    }
    for ((name, var), old) in others.iter().zip(before) {
        assert!(
            largest(&var.as_tensor().sub(&old).unwrap()) == 0.0,
            "{name} moved"
        );
    }
}

/// MotionDirector on the micro model, with the starting values of all adapters.
fn motion_director() -> (Trainer, BTreeMap<String, Var>, BTreeMap<String, Tensor>) {
    let micro = vmc_micro();
    let folder = ModelFolder::open(&micro_model()).unwrap();
    let config = TransferConfig {
        method: Method::MotionDirector,
        rank: 3,
        seed: 2,
        ..TransferConfig::default()
    };
    let tuned = config
        .method
        .load(&folder, config.tuning(), &Device::Cpu)
        .unwrap();
    let vars = tuned.vars.clone();
    let before = vars
        .iter()
        .map(|(name, var)| (name.clone(), var.as_tensor().copy().unwrap()))
        .collect();
    let (v0, text) = (&micro.batch.v0, &micro.batch.text);
    let trainer = Trainer::new(&config, tuned, micro.schedule, v0, text).unwrap();
    (trainer, vars, before)
}

fn moved(vars: &BTreeMap<String, Var>, before: &BTreeMap<String, Tensor>, name: &str) -> bool {
    largest(&vars[name].as_tensor().sub(&before[name]).unwrap()) > 0.0
}

#[test]
fn motion_directors_passes_move_their_own_adapters_and_every_one_of_them() {
    let (mut trainer, vars, before) = motion_director();
    let spatial = |name: &str| name.contains(".attentions.");
    let (mut both, mut alone) = (0, 0);
    for _ in 0..24 {
        let earlier: BTreeMap<String, Tensor> = vars
            .iter()
            .map(|(name, var)| (name.clone(), var.as_tensor().copy().unwrap()))
            .collect();
        let stats = trainer.step().unwrap();
        let passes = stats.spatial.is_some();
        if passes {
            both += 1;
        } else {
            alone += 1;
        }
        for name in vars.keys().filter(|name| spatial(name)) {
            // Weight decay moves nothing that has no update.
            assert!(
                passes || !moved(&vars, &earlier, name),
                "step {}: {name} moved without its pass",
                stats.step
            );
        }
    }
    // One step in five goes without: 24 of one kind would be a broken draw (the chance is 0.5 %, and the seed is fixed).
    assert!(both > 0 && alone > 0, "{both} with, {alone} without");
    for name in vars.keys() {
        assert!(moved(&vars, &before, name), "{name} never learned");
        assert!(
            trainer.grad_norms().contains_key(name) || spatial(name),
            "{name}"
        );
    }
    assert!(vars.keys().any(|name| spatial(name)) && vars.keys().any(|name| !spatial(name)));
}

#[test]
fn fresh_adapters_add_nothing_and_resting_ones_neither() {
    let (mut trainer, ..) = motion_director();
    let micro = vmc_micro();
    let batch = &micro.batch;
    let run = |unet: &UNet3DConditionModel| {
        let out = unet.forward(&batch.v0, &[400.0], &batch.text).unwrap();
        out.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let plain = run(&micro.unet);
    assert_eq!(
        run(trainer.unet()),
        plain,
        "the upper factors are zero at first"
    );
    trainer.step().unwrap();
    assert_ne!(
        run(trainer.unet()),
        plain,
        "the temporal adapters act in samples"
    );
}
