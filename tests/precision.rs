//! Half precision: f16 or bf16 in storage, f32 in what learns and in the losses, against f32 throughout.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};
use spectral_motion::job::{self, DeviceChoice, Event, Outcome, Request, TrainRequest};
use spectral_motion::methods::{Method, Precision, Tuned};
use spectral_motion::models::{Conditioning, Denoiser as _, ModelFolder};
use spectral_motion::nn::{NoiseStream, Purpose, Tape};
use spectral_motion::schedulers::NoiseSchedule;
use spectral_motion::train::{
    Checkpointing, Item, Objective, TrainError, Trainer, TransferConfig, losses,
};

use crate::common::{micro_batch, micro_model, moving_square};

/// What the loss is multiplied with at first, as PyTorch's `GradScaler` does.
const SCALE: f64 = 65_536.0;

fn config(method: Method, precision: Precision) -> TransferConfig {
    TransferConfig {
        method,
        precision,
        rank: 3,
        seed: 2,
        ..TransferConfig::default()
    }
}

fn tuned(config: &TransferConfig) -> (Tuned, NoiseSchedule) {
    let folder = ModelFolder::open(&micro_model()).unwrap();
    let tuned = config
        .method
        .load(&folder, config.tuning(1), &Device::Cpu)
        .unwrap();
    // Adapters start at zero, where half of them have no gradient yet.
    for (i, (name, var)) in tuned.vars.iter().enumerate() {
        if name.ends_with(".lora_up.weight") {
            let random = NoiseStream::new(i as u64, Purpose::Init)
                .normal(var.shape(), DType::F32, &Device::Cpu)
                .unwrap();
            var.set(&random.affine(0.2, 0.0).unwrap()).unwrap();
        }
    }
    (tuned, NoiseSchedule::new(folder.scheduler()))
}

/// Norm of all differences over norm of all of `expected`.
fn error(ours: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(ours.len(), expected.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    norm(&mut ours.iter().zip(expected).map(|(a, b)| a - b)) / norm(&mut expected.iter().copied())
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    tensor
        .to_dtype(DType::F64)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
}

struct Pass {
    out: Vec<f64>,
    total: f64,
    gradients: BTreeMap<String, Vec<f64>>,
}

/// A first step, its loss multiplied by `smaller` and, for the backward pass alone, by `scale`.
fn pass(method: Method, precision: Precision, smaller: f64, scale: f64) -> Pass {
    let config = config(method, precision);
    let (tuned, schedule) = tuned(&config);
    let batch = micro_batch();
    let out = tuned
        .unet
        .predict(&batch.v0, &[400.0], Conditioning::text(&batch.text))
        .unwrap();
    assert_eq!(out.dtype(), DType::F32, "the losses are f32");
    let objective = Objective::new(&config, schedule, &batch.v0).unwrap();
    let mut tape = Tape::new(Checkpointing::Block);
    let terms = losses(&tuned.unet, &mut tape, &batch, &objective).unwrap();
    let loss = terms.total.affine(smaller * scale, 0.0).unwrap();
    let gradients = tape.gradients(&loss, &tuned.vars).unwrap();
    Pass {
        out: numbers(&out),
        total: numbers(&terms.total)[0],
        gradients: gradients
            .iter()
            .map(|(name, gradient)| {
                assert_eq!(gradient.dtype(), DType::F32, "{name}");
                let values = numbers(gradient);
                (name.clone(), values.iter().map(|v| v / scale).collect())
            })
            .collect(),
    }
}

fn together(gradients: &BTreeMap<String, Vec<f64>>) -> Vec<f64> {
    gradients.values().flatten().copied().collect()
}

/// Bound of the project for f16 against f32. A number in f16 is off by up to 2^-11, 5e-4; a few dozen layers add up.
const BOUND: f64 = 2e-2;
/// For bf16, whose numbers are off by up to 2^-8: eight times as much.
const BF16_BOUND: f64 = 8.0 * BOUND;

#[test]
fn forward_loss_and_first_gradients_are_near_those_of_f32() {
    for (method, precision) in [
        (Method::Vmc, Precision::F16),
        (Method::MotionDirector, Precision::F16),
        (Method::Vmc, Precision::Bf16),
        (Method::MotionDirector, Precision::Bf16),
    ] {
        // bf16 has the exponents of f32: no loss scale.
        let (bound, scale) = match precision {
            Precision::Bf16 => (BF16_BOUND, 1.0),
            _ => (BOUND, SCALE),
        };
        let whole = pass(method, Precision::F32, 1.0, 1.0);
        let half = pass(method, precision, 1.0, scale);
        let out = error(&half.out, &whole.out);
        assert!(out < bound, "{method:?}: output off by {out:.1e}");
        // Rounding shows, else this would compare f32 with itself.
        assert!(out > 1e-5, "{method:?}: output off by {out:.1e}");
        let total = (half.total - whole.total).abs() / whole.total;
        assert!(total < bound, "{method:?}: loss off by {total:.1e}");
        let all = error(&together(&half.gradients), &together(&whole.gradients));
        assert!(all < bound, "{method:?}: gradients off by {all:.1e}");
        assert_eq!(
            half.gradients.keys().collect::<Vec<_>>(),
            whole.gradients.keys().collect::<Vec<_>>()
        );
        println!(
            "{method:?} {precision:?}: output {out:.1e}, loss {total:.1e}, gradients {all:.1e}"
        );
    }
}

#[test]
fn the_loss_scale_keeps_gradients_that_f16_would_lose() {
    // A loss a million times smaller: gradients below 6e-8 are zero in f16.
    let small = 1e-6;
    let whole = together(&pass(Method::Vmc, Precision::F32, small, 1.0).gradients);
    let scaled = together(&pass(Method::Vmc, Precision::F16, small, SCALE).gradients);
    let plain = together(&pass(Method::Vmc, Precision::F16, small, 1.0).gradients);
    let (scaled, plain) = (error(&scaled, &whole), error(&plain, &whole));
    assert!(scaled < BOUND, "{scaled:.1e}");
    assert!(plain > 5.0 * BOUND, "{plain:.1e} without a scale");
}

#[test]
fn what_learns_is_f32_and_starts_at_the_files_own_numbers() {
    let folder = ModelFolder::open(&micro_model()).unwrap();
    let load = |precision| {
        let config = config(Method::Vmc, precision);
        let tuned = config.method.load(&folder, config.tuning(1), &Device::Cpu);
        tuned.unwrap()
    };
    let (whole, half) = (load(Precision::F32), load(Precision::F16));
    assert_eq!(load(Precision::Bf16).unet.dtype(), DType::BF16);
    assert_eq!(
        (whole.unet.dtype(), half.unet.dtype()),
        (DType::F32, DType::F16)
    );
    assert!(!half.vars.is_empty());
    for (name, var) in &half.vars {
        assert_eq!(var.dtype(), DType::F32, "{name}");
        assert_eq!(numbers(var), numbers(&whole.vars[name]), "{name}");
    }
    let auto = load(Precision::Auto);
    assert_eq!(auto.unet.dtype(), DType::F32, "on the processor");
}

fn trainer(lambda_g: f64) -> (Trainer, BTreeMap<String, Var>) {
    let config = TransferConfig {
        lambda_g,
        ..config(Method::Vmc, Precision::F16)
    };
    let (tuned, schedule) = tuned(&config);
    let (vars, batch) = (tuned.vars.clone(), micro_batch());
    let trainer = Trainer::new(
        &config,
        tuned,
        schedule,
        vec![Item::new(&batch.v0, &batch.text)],
    )
    .unwrap();
    (trainer, vars)
}

#[test]
fn an_overflow_skips_the_step_halves_the_scale_and_is_told() {
    let (mut trainer, vars) = trainer(1e4);
    let copies = || -> Vec<Vec<f64>> { vars.values().map(|var| numbers(var)).collect() };
    let before = copies();
    let mut expected = SCALE;
    let mut skipped = 0;
    let moved = loop {
        let stats = trainer.step().unwrap();
        assert_eq!(stats.step, skipped + 1, "a skipped step counts");
        let Some(scale) = stats.overflowed else {
            break stats;
        };
        skipped += 1;
        expected /= 2.0;
        assert_eq!(scale, expected);
        assert_eq!((stats.grad_norm, trainer.grad_norms().len()), (0.0, 0));
        assert!(copies() == before, "step {} moved something", stats.step);
    };
    assert!(skipped > 0, "the test needs an overflow");
    assert!(moved.grad_norm > 0.0 && copies() != before);
    let checkpoint = trainer.checkpoint().unwrap();
    assert_eq!(checkpoint.state.loss_scale, Some(expected));
    assert_eq!(checkpoint.state.updates, 1, "skipped steps are no updates");
    let (mut again, _) = self::trainer(1e4);
    again.restore(&checkpoint).unwrap();
    assert_eq!(again.step().unwrap(), trainer.step().unwrap());
}

#[test]
fn a_gradient_that_no_scale_can_hold_ends_the_training() {
    let (mut trainer, _) = trainer(1e25);
    for _ in 0..16 {
        assert!(trainer.step().unwrap().overflowed.is_some());
    }
    match trainer.step() {
        Err(TrainError::NotFinite { step: 17, what, .. }) => {
            assert!(what.starts_with("the gradient of"), "{what}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_whole_transfer_runs_in_half_precision_with_checkpointing() {
    let folder = tempfile::tempdir().unwrap();
    let film = folder.path().join("star.gif");
    let request = TrainRequest {
        clip: moving_square(folder.path(), 4),
        subject: "a red square".to_owned(),
        more_clips: Vec::new(),
        control: Default::default(),
        model: Some(micro_model()),
        device: DeviceChoice::Cpu,
        config: TransferConfig {
            steps: 3,
            frames: Some(4),
            sampling_steps: Some(2),
            preview_every: 0,
            lambda_g: 1e4,
            checkpointing: Checkpointing::Block,
            ..config(Method::MotionDirector, Precision::F16)
        },
        run: Some(folder.path().join("run")),
        result: Some(job::ResultRequest {
            prompt: "a bear".to_owned(),
            output: Some(film.clone()),
            overwrite: false,
            scale_to: None,
        }),
    };
    let request = Request::Train(Box::new(request));
    let events = job::spawn(request, Arc::new(|| {})).unwrap().wait();
    assert!(
        matches!(events.last(), Some(Event::Finished(Outcome::Completed))),
        "{events:#?}"
    );
    assert!(film.exists());
    let told = events.iter().any(|event| match event {
        Event::Warning(report) => report.headline.contains("too large for 16 bits"),
        _ => false,
    });
    assert!(told, "an overflow is said: {events:#?}");
}
