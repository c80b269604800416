//! No gradient is lost and nothing frozen moves: one real step on the micro model.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{DType, Device, Tensor, Var};
use spectral_motion::methods::motion_director::{self, Part};
use spectral_motion::methods::{Method, Strength, Tuned, vmc};
use spectral_motion::models::{AdapterName, Factor, ModelFolder, UNet3DConditionModel};
use spectral_motion::nn::{NoiseStream, Purpose, Tape};
use spectral_motion::schedulers::{NoiseSchedule, PredictionType};
use spectral_motion::spectral::loss::SpectralLoss;
use spectral_motion::train::{Batch, Item, Objective, TrainError, Trainer, TransferConfig, losses};

use crate::common::{micro_batch, micro_model};

struct Micro {
    unet: UNet3DConditionModel,
    vars: BTreeMap<String, Var>,
    schedule: NoiseSchedule,
    batch: Batch,
}

fn micro(trains: &dyn Fn(&str) -> bool) -> Micro {
    let folder = ModelFolder::open(&micro_model()).unwrap();
    let (unet, vars) = folder.load_unet(trains, &Device::Cpu).unwrap();
    let batch = micro_batch();
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
    let terms = losses(&micro.unet, &mut Tape::off(), &micro.batch, &objective).unwrap();
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
    for method in Method::ALL {
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
            Method::TuneAVideo | Method::ControlVideo => {
                let velocity = mix(&batch.eps, signal, &batch.v0, -noise);
                let squares = (&out - &velocity).unwrap().sqr().unwrap();
                squares.mean_all()
            }
        };
        let (_, _, f, h, w) = batch.v0.dims5().unwrap();
        let motion = config.motion_loss(f, config.delta);
        let spectral = SpectralLoss::new(&motion, f, h, w, DType::F32, &Device::Cpu).unwrap();
        let global = spectral.global(&batch.v0, &clean).unwrap().total;
        let local = spectral.local(&batch.v0, &clean).unwrap();

        let objective = Objective::new(&config, schedule, &batch.v0).unwrap();
        let terms = losses(&micro.unet, &mut Tape::off(), batch, &objective).unwrap();
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
    let terms = losses(&micro.unet, &mut Tape::off(), &micro.batch, &objective).unwrap();
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
    let before = values(&all.vars);
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
        vec![Item::new(&batch.v0, &batch.text)],
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
        vec![Item::new(&batch.v0, &batch.text)],
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
        vec![Item::new(&batch.v0, &batch.text)],
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

/// MotionDirector on clips for the micro model, with the starting values of all adapters.
fn motion_director(
    clips: usize,
    changes: TransferConfig,
) -> (Trainer, BTreeMap<String, Var>, BTreeMap<String, Tensor>) {
    let micro = vmc_micro();
    let folder = ModelFolder::open(&micro_model()).unwrap();
    let config = TransferConfig {
        method: Method::MotionDirector,
        rank: 3,
        seed: 2,
        ..changes
    };
    let tuned = config
        .method
        .load(&folder, config.tuning(clips), &Device::Cpu)
        .unwrap();
    let vars = tuned.vars.clone();
    let before = values(&vars);
    let mut noise = NoiseStream::new(6, Purpose::Noise);
    let mut other = |like: &Tensor| {
        noise
            .normal(like.shape(), DType::F32, &Device::Cpu)
            .unwrap()
    };
    let mut items = vec![Item::new(&micro.batch.v0, &micro.batch.text)];
    for _ in 1..clips {
        items.push(Item::new(
            &other(&micro.batch.v0),
            &other(&micro.batch.text),
        ));
    }
    let trainer = Trainer::new(&config, tuned, micro.schedule, items).unwrap();
    (trainer, vars, before)
}

fn values(vars: &BTreeMap<String, Var>) -> BTreeMap<String, Tensor> {
    vars.iter()
        .map(|(name, var)| (name.clone(), var.as_tensor().copy().unwrap()))
        .collect()
}

fn moved(vars: &BTreeMap<String, Var>, before: &BTreeMap<String, Tensor>, name: &str) -> bool {
    largest(&vars[name].as_tensor().sub(&before[name]).unwrap()) > 0.0
}

#[test]
fn motion_directors_passes_move_their_own_adapters_and_every_one_of_them() {
    let (mut trainer, vars, before) = motion_director(1, TransferConfig::default());
    let spatial = |name: &str| name.contains(".attentions.");
    let (mut both, mut alone) = (0, 0);
    for _ in 0..24 {
        let earlier = values(&vars);
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

/// The set of spatial adapters that a variable belongs to; none for the temporal ones.
fn spatial_set(name: &str) -> Option<usize> {
    let adapter = AdapterName::parse(name).unwrap();
    (motion_director::part_of(adapter.layer) == Some(Part::Spatial)).then_some(adapter.set)
}

/// Twelve steps on three clips: what moves, and what gets which gradients. Gives how many steps each set learned in.
fn steps_on_three_clips(single: bool) -> Vec<usize> {
    let changes = TransferConfig {
        single_spatial_lora: single,
        ..TransferConfig::default()
    };
    let (mut trainer, vars, _) = motion_director(3, changes);
    let sets = if single { 1 } else { 3 };
    let found: BTreeSet<usize> = vars.keys().filter_map(|name| spatial_set(name)).collect();
    assert_eq!(found, (0..sets).collect());
    let (mut learned, mut seen) = (vec![0; sets], BTreeSet::new());
    let mut steps = 0;
    while steps < 12 || learned.iter().any(|count| *count < 2) {
        assert!(steps < 60, "a set never learns: {learned:?}");
        let before = values(&vars);
        let stats = trainer.step().unwrap();
        seen.insert(stats.clip);
        let current = if single { 0 } else { stats.clip };
        for (name, var) in &vars {
            let acts = match spatial_set(name) {
                Some(set) => set == current && stats.spatial.is_some(),
                None => true,
            };
            let change = largest(&var.as_tensor().sub(&before[name]).unwrap());
            let norm = trainer.grad_norms().get(name).copied();
            if !acts {
                assert!(
                    change.to_bits() == 0,
                    "step {steps}: {name} moved without its clip"
                );
                assert_eq!(norm, None, "step {steps}: {name} has a gradient");
                continue;
            }
            // The upper factors are zero before their first update, so the lower ones have no gradient in it.
            let updates = spatial_set(name).map_or(steps, |set| learned[set]);
            let lower = AdapterName::parse(name).unwrap().factor == Factor::Down;
            let norm = norm.unwrap_or(0.0);
            assert!(norm.is_finite(), "step {steps}: {name} has {norm}");
            if !lower || updates > 0 {
                assert!(norm > 0.0, "step {steps}: {name} has no gradient");
                assert!(change > 0.0, "step {steps}: {name} did not move");
            }
        }
        if stats.spatial.is_some() {
            learned[current] += 1;
        }
        steps += 1;
    }
    assert_eq!(seen, (0..3).collect(), "every clip is taken");
    learned
}

#[test]
fn each_clip_moves_its_own_spatial_set_and_the_shared_temporal_one() {
    assert_eq!(steps_on_three_clips(false).len(), 3);
}

#[test]
fn a_single_spatial_set_learns_from_every_clip() {
    assert_eq!(steps_on_three_clips(true).len(), 1);
}

#[test]
fn further_clips_do_not_change_where_the_first_adapters_start() {
    let (_, one, _) = motion_director(1, TransferConfig::default());
    let (_, three, _) = motion_director(3, TransferConfig::default());
    assert!(three.len() > one.len());
    for (name, var) in &one {
        let difference = three[name].as_tensor().sub(var.as_tensor()).unwrap();
        assert!(largest(&difference).to_bits() == 0, "{name}");
    }
    for (name, var) in &three {
        let adapter = AdapterName::parse(name).unwrap();
        if adapter.set == 0 || adapter.factor == Factor::Up {
            continue;
        }
        let first = AdapterName { set: 0, ..adapter }.to_string();
        let difference = var.as_tensor().sub(one[&first].as_tensor()).unwrap();
        assert!(largest(&difference) > 0.0, "{name} is a copy");
    }
}

#[test]
fn fresh_adapters_add_nothing_and_resting_ones_neither() {
    let (mut trainer, ..) = motion_director(1, TransferConfig::default());
    let micro = vmc_micro();
    let batch = &micro.batch;
    let run = |unet: &UNet3DConditionModel| {
        let out = unet.forward(&batch.v0, &[400.0], &batch.text).unwrap();
        out.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let plain = run(&micro.unet);
    let with = |trainer: &Trainer, motion| {
        let strength = Strength {
            motion,
            look: 0.0,
            clip: 0,
        };
        trainer.tuned().set_for_sampling(strength);
        run(trainer.tuned().unet.video().unwrap())
    };
    assert_eq!(
        with(&trainer, 1.0),
        plain,
        "the upper factors are zero at first"
    );
    trainer.step().unwrap();
    let learned = with(&trainer, 1.0);
    assert_ne!(learned, plain, "the temporal adapters act in samples");
    assert_eq!(
        with(&trainer, 0.0),
        plain,
        "without strength they add nothing"
    );
    trainer.tuned().set_for_sampling(Strength {
        motion: 1.0,
        look: 0.0,
        clip: 0,
    });
    trainer.tuned().set_for_inversion();
    assert_eq!(
        run(trainer.tuned().unet.video().unwrap()),
        plain,
        "clips are inverted by the model as it was"
    );
}

#[test]
fn dropout_ends_after_the_steps_that_were_asked_for() {
    let losses = |dropout_until| {
        let changes = TransferConfig {
            dropout_until,
            ..TransferConfig::default()
        };
        let (mut trainer, ..) = motion_director(1, changes);
        let step = |_| trainer.step().unwrap().total.to_bits();
        (0..3).map(step).collect::<Vec<_>>()
    };
    let (always, two_steps) = (losses(None), losses(Some(2)));
    assert_eq!(always[..2], two_steps[..2]);
    assert_ne!(always[2], two_steps[2], "the third step drops nothing");
}
