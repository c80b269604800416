//! Noise schedules, grids, DDIM and its inversion against the specification's tables and diffusers' own numbers.

mod dpm_solver;
mod edges;
mod files;

use candle_core::{DType, Device, Tensor};
use serde::Deserialize;
use spectral_motion::schedulers::{
    BetaSchedule, Ddim, DdimInverse, DpmSolver, NoiseSchedule, PredictionType, ReferenceInversion,
    Sampler, SchedulerConfig, SchedulerError, TimestepSpacing,
};

fn cosine() -> SchedulerConfig {
    SchedulerConfig {
        beta_schedule: BetaSchedule::SquaredcosCapV2,
        ..SchedulerConfig::stable_diffusion()
    }
}

fn number(x: f64) -> Tensor {
    Tensor::new(&[x], &Device::Cpu).unwrap()
}

fn value(x: &Tensor) -> f64 {
    x.to_vec1::<f64>().unwrap()[0]
}

/// The network of the specification's check values.
fn stand_in(x: &Tensor, t: u32) -> Tensor {
    x.affine(0.1, f64::from(t) / 10_000.0).unwrap()
}

#[test]
fn alphas_match_the_specification() {
    let table = NoiseSchedule::new(&SchedulerConfig::stable_diffusion()).alphas_cumprod;
    let expected = [
        (0, 0.99914998),
        (1, 0.99829603),
        (100, 0.89422316),
        (250, 0.67379232),
        (500, 0.27633243),
        (750, 0.056169787),
    ];
    for (t, abar) in expected.into_iter().chain([(999, 0.0046600939)]) {
        // The specification's values come from a product of single-precision factors: 1e-5 after a thousand of them.
        assert!(
            (table[t] - abar).abs() / abar < 1e-5,
            "scaled_linear {t}: {} for {abar}",
            table[t]
        );
    }
    let table = NoiseSchedule::new(&cosine()).alphas_cumprod;
    let expected = [
        (0, 0.99995869, 1e-5),
        (100, 0.97157564, 1e-5),
        (250, 0.84588805, 1e-5),
        (500, 0.49228503, 1e-5),
        (750, 0.14317865, 1e-5),
        (900, 0.023616108, 1e-5),
        (950, 0.0058201483, 1e-5),
        // From here on the specification gives five to eight digits.
        (990, 1.9671733e-4, 1e-5),
        (995, 3.886e-5, 2e-4),
        (998, 2.4288e-6, 2e-4),
        (999, 2.4287e-9, 2e-4),
    ];
    for (t, abar, tolerance) in expected {
        assert!(
            (table[t] - abar).abs() / abar < tolerance,
            "cosine {t}: {} for {abar}",
            table[t]
        );
    }
}

#[test]
fn grids_match_the_specification() {
    let config = SchedulerConfig::stable_diffusion();
    let ends = |steps: usize| {
        let t = Ddim::new(&config, steps).unwrap().timesteps().to_vec();
        assert_eq!(t.len(), steps);
        (t[0], t[1], t[t.len() - 2], t[t.len() - 1])
    };
    assert_eq!(ends(50), (981, 961, 21, 1));
    assert_eq!(ends(75), (963, 950, 14, 1));
    assert_eq!(ends(30), (958, 925, 34, 1));
    assert_eq!((ends(40).0, ends(40).3), (976, 1));
    let no_offset = SchedulerConfig {
        steps_offset: 0,
        ..config.clone()
    };
    assert_eq!(Ddim::new(&no_offset, 70).unwrap().timesteps()[0], 966);
    assert_eq!(Ddim::new(&no_offset, 125).unwrap().timesteps()[0], 992);
    // numpy.arange may give one value too many for a stride such as 1000 / 15; the grid has exactly `steps` values.
    let trailing = SchedulerConfig {
        timestep_spacing: Some(TimestepSpacing::Trailing),
        ..config.clone()
    };
    for steps in 1..=1000 {
        let grid = Ddim::new(&trailing, steps).unwrap();
        assert_eq!((grid.timesteps().len(), grid.timesteps()[0]), (steps, 999));
    }
    // numpy multiplies 13 by 999 / 26, which is a little less than 499.5; 999 times a half would round to the even 500.
    let linspace = SchedulerConfig {
        timestep_spacing: Some(TimestepSpacing::Linspace),
        ..config
    };
    assert_eq!(Ddim::new(&linspace, 27).unwrap().timesteps()[13], 499);
    assert_eq!(Ddim::new(&linspace, 1).unwrap().timesteps(), [0]);
}

#[test]
fn steps_match_the_specification() {
    let ddim = Ddim::new(&SchedulerConfig::stable_diffusion(), 4).unwrap();
    assert_eq!(ddim.timesteps(), [751, 501, 251, 1]);
    let mut x = number(1.0);
    for (&t, expected) in ddim
        .timesteps()
        .iter()
        .zip([1.99267452, 2.92616230, 3.35752052, 3.35487844])
    {
        x = ddim.step(&stand_in(&x, t), t, &x).unwrap();
        // Eight decimals are given, from single-precision tables (see above).
        assert!(
            (value(&x) - expected).abs() < 5e-6,
            "t {t}: {} for {expected}",
            value(&x)
        );
    }
    let inversion = ReferenceInversion::new(&SchedulerConfig::stable_diffusion(), 4).unwrap();
    assert_eq!(inversion.timesteps(), [1, 251, 501, 751]);
    let mut x = number(0.5);
    for (&t, expected) in inversion
        .timesteps()
        .iter()
        .zip([0.50039432, 0.45107570, 0.33472095, 0.21455880])
    {
        x = inversion.step(&stand_in(&x, t), t, &x).unwrap();
        assert!(
            (value(&x) - expected).abs() < 5e-6,
            "t {t}: {} for {expected}",
            value(&x)
        );
    }
}

#[derive(Deserialize)]
struct Case {
    config: SchedulerConfig,
    ddim: Walk,
    inverse: Option<Walk>,
    /// DPM-Solver++ of the same file, and with `sigma_min` and a bounded λ.
    dpm: Walk,
    dpm_bounded: Walk,
}

#[derive(Deserialize)]
struct Walk {
    steps: usize,
    timesteps: Vec<u32>,
    samples: Vec<f64>,
}

/// Both sides run in double precision; rounding grows by `1 / sqrt(abar)`, 15 at most, over fifteen steps.
fn same(name: &str, ours: &[f64], theirs: &[f64]) {
    for (i, (a, b)) in ours.iter().zip(theirs).enumerate() {
        assert!(
            (a - b).abs() <= 1e-11 * b.abs().max(1.0),
            "{name}, step {i}: {a} for {b}"
        );
    }
}

#[test]
fn every_configuration_walks_as_diffusers_does() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("golden/schedulers.json")).unwrap();
    assert_eq!(cases.len(), 51);
    for Case {
        config,
        ddim: expected,
        inverse,
        dpm,
        dpm_bounded,
    } in cases
    {
        let name = format!("{config:?}");
        walks_as_dpm(&config, &dpm);
        walks_as_dpm(&dpm_solver::bounded(&config), &dpm_bounded);
        let ddim = Ddim::new(&config, expected.steps).unwrap();
        assert_eq!(ddim.timesteps(), expected.timesteps, "{name}");
        let mut x = number(1.0);
        let mut samples = Vec::new();
        for &t in ddim.timesteps() {
            x = ddim.step(&stand_in(&x, t), t, &x).unwrap();
            samples.push(value(&x));
        }
        same(&name, &samples, &expected.samples);
        let Some(expected) = inverse else {
            assert!(matches!(
                DdimInverse::new(&config, 4),
                Err(SchedulerError::Unsupported(_))
            ));
            continue;
        };
        let inverse = DdimInverse::new(&config, expected.steps).unwrap();
        assert_eq!(inverse.timesteps(), expected.timesteps, "{name}");
        let mut x = number(0.5);
        let mut samples = Vec::new();
        for &t in inverse.timesteps() {
            x = inverse.step(&stand_in(&x, t), t, &x).unwrap();
            samples.push(value(&x));
        }
        same(&name, &samples, &expected.samples);
        // The methods' own inversion is the same but for the clamp, which it never does.
        if config.clips_sample() {
            continue;
        }
        let reference = ReferenceInversion::new(&config, expected.steps).unwrap();
        assert_eq!(reference.timesteps(), expected.timesteps, "{name}");
        let mut x = number(0.5);
        let mut samples = Vec::new();
        for &t in reference.timesteps() {
            x = reference.step(&stand_in(&x, t), t, &x).unwrap();
            samples.push(value(&x));
        }
        same(&name, &samples, &expected.samples);
    }
}

fn walks_as_dpm(config: &SchedulerConfig, expected: &Walk) {
    let name = format!("DPM-Solver++ of {config:?}");
    let sampler = Sampler::DpmSolver(DpmSolver::new(config, expected.steps).unwrap());
    assert_eq!(sampler.timesteps(), expected.timesteps, "{name}");
    same(
        &name,
        &dpm_solver::walk(&sampler, 1.0, stand_in),
        &expected.samples,
    );
}

#[test]
fn conversions_undo_the_noising() {
    let device = Device::Cpu;
    let x0 = Tensor::new(&[[0.3, -1.2], [0.7, 0.1]], &device).unwrap();
    let eps = Tensor::new(&[[-0.4, 0.9], [1.1, -0.2]], &device).unwrap();
    let difference = |a: &Tensor, b: &Tensor| {
        (a - b)
            .unwrap()
            .abs()
            .unwrap()
            .max_all()
            .unwrap()
            .to_scalar::<f64>()
            .unwrap()
    };
    for prediction in [
        PredictionType::Epsilon,
        PredictionType::Velocity,
        PredictionType::Sample,
    ] {
        let config = SchedulerConfig {
            prediction_type: prediction,
            ..SchedulerConfig::stable_diffusion()
        };
        let schedule = NoiseSchedule::new(&config);
        // One level for both elements, and one each.
        for t in [vec![437], vec![3, 999]] {
            let x_t = schedule.add_noise(&x0, &eps, &t).unwrap();
            let out = match prediction {
                PredictionType::Epsilon => eps.clone(),
                PredictionType::Velocity => schedule.velocity(&x0, &eps, &t).unwrap(),
                PredictionType::Sample => x0.clone(),
            };
            // Double precision; errors grow by 1 / sqrt(abar) = 15 at most.
            assert!(difference(&schedule.predict_x0(&x_t, &out, &t).unwrap(), &x0) < 1e-13);
            assert!(difference(&schedule.predict_eps(&x_t, &out, &t).unwrap(), &eps) < 1e-12);
        }
        assert!(schedule.add_noise(&x0, &eps, &[1000]).is_err());
        assert!(schedule.add_noise(&x0, &eps, &[1, 2, 3]).is_err());
    }
    let single = NoiseSchedule::new(&cosine()).add_noise(
        &x0.to_dtype(DType::F32).unwrap(),
        &eps.to_dtype(DType::F32).unwrap(),
        &[999],
    );
    assert_eq!(single.unwrap().dtype(), DType::F32);
}

#[test]
fn inversion_then_sampling_comes_back() {
    // With an output that does not depend on the sample the two loops are exact inverses of each other.
    let config = SchedulerConfig::stable_diffusion();
    let (up, down) = (
        ReferenceInversion::new(&config, 50).unwrap(),
        Ddim::new(&config, 50).unwrap(),
    );
    let (start, out) = (number(0.5), number(0.25));
    let noisy = up
        .timesteps()
        .iter()
        .fold(start, |x, &t| up.step(&out, t, &x).unwrap());
    let back = down
        .timesteps()
        .iter()
        .fold(noisy, |x, &t| down.step(&out, t, &x).unwrap());
    assert!((value(&back) - 0.5).abs() < 1e-12, "{}", value(&back));
}
