//! DPM-Solver++ against the specification's values, closed forms, and its own order.

use candle_core::{Device, Tensor};
use spectral_motion::schedulers::{
    Ddim, DpmSolver, NoiseSchedule, PredictionType, ReferenceInversion, Sampler, SchedulerConfig,
    SchedulerError, SolverConfig, TimestepSpacing,
};

use super::{cosine, number, stand_in, value};

/// The file of the golden script's `BOUNDED`: ends at the first noise level, and leaves out the faintest ones.
pub fn bounded(config: &SchedulerConfig) -> SchedulerConfig {
    SchedulerConfig {
        solver: SolverConfig {
            lambda_min_clipped: Some(-5.1),
            ..ending_at_first_level(config).solver
        },
        ..config.clone()
    }
}

/// As diffusers did before 0.26, and as the specification describes.
fn ending_at_first_level(config: &SchedulerConfig) -> SchedulerConfig {
    SchedulerConfig {
        solver: SolverConfig {
            final_sigmas_type: Some("sigma_min".to_owned()),
            ..config.solver.clone()
        },
        ..config.clone()
    }
}

/// The samples after every step.
pub fn walk(sampler: &Sampler, start: f64, out: impl Fn(&Tensor, u32) -> Tensor) -> Vec<f64> {
    let mut run = sampler.begin();
    let mut x = number(start);
    let mut samples = Vec::new();
    for &t in sampler.timesteps() {
        x = run.step(&out(&x, t), t, &x).unwrap();
        samples.push(value(&x));
    }
    samples
}

fn solver(config: &SchedulerConfig, steps: usize) -> Sampler {
    Sampler::DpmSolver(DpmSolver::new(config, steps).unwrap())
}

#[track_caller]
fn close(ours: &[f64], theirs: &[f64], tolerance: f64) {
    assert_eq!(ours.len(), theirs.len());
    for (a, b) in ours.iter().zip(theirs) {
        assert!((a - b).abs() <= tolerance * b.abs(), "{a} for {b}");
    }
}

#[test]
fn grids_match_the_specification() {
    let show_one = DpmSolver::new(&bounded(&cosine()), 75).unwrap();
    let t = show_one.timesteps();
    assert_eq!(t.len(), 75);
    assert_eq!(t[..5], [995, 982, 968, 955, 942]);
    assert_eq!(t[72..], [40, 27, 13]);
    let second_resolution = DpmSolver::new(&SchedulerConfig::stable_diffusion(), 50).unwrap();
    let t = second_resolution.timesteps();
    assert_eq!(t[..3], [999, 979, 959]);
    assert_eq!((t.len(), t[10], t[49]), (50, 799, 20));
}

#[test]
fn steps_match_the_specification() {
    // The specification's tables are products of single-precision factors; see the values of abar.
    let tolerance = 1e-6;
    let config = ending_at_first_level(&SchedulerConfig::stable_diffusion());
    let few = solver(&config, 4);
    assert_eq!(few.timesteps(), [999, 749, 500, 250]);
    let expected = [2.98476110, 6.02869084, 8.78992470, 10.10141320];
    close(&walk(&few, 1.0, stand_in), &expected, tolerance);
    let many = solver(&config, 16);
    assert_eq!(many.timesteps()[13..], [187, 125, 62]);
    let expected = [9.26902835, 9.53632967, 9.60063021];
    close(&walk(&many, 1.0, stand_in)[13..], &expected, tolerance);
    let many = solver(&bounded(&cosine()), 16);
    assert_eq!(many.timesteps()[..2], [995, 933]);
    assert_eq!(many.timesteps()[14..], [124, 62]);
    let samples = walk(&many, 1.0, stand_in);
    close(&samples[..2], &[13.38357191, 24.34595468], tolerance);
    close(&samples[14..], &[97.72624308, 97.24929910], tolerance);
}

#[test]
fn with_the_true_noise_every_step_stays_on_the_way() {
    let device = Device::Cpu;
    let (x0, eps) = (
        Tensor::new(&[0.3, -1.2, 2.0], &device).unwrap(),
        Tensor::new(&[-0.4, 0.9, 1.1], &device).unwrap(),
    );
    let away = |a: &Tensor, b: &Tensor| {
        let worst = (a - b).unwrap().abs().unwrap().max_all().unwrap();
        worst.to_scalar::<f64>().unwrap()
    };
    for prediction_type in [
        PredictionType::Epsilon,
        PredictionType::Velocity,
        PredictionType::Sample,
    ] {
        for (ends_clean, steps) in [(true, 8), (false, 8), (true, 20), (false, 20)] {
            let config = SchedulerConfig {
                prediction_type,
                ..SchedulerConfig::stable_diffusion()
            };
            let config = match ends_clean {
                true => config,
                false => ending_at_first_level(&config),
            };
            let schedule = NoiseSchedule::new(&config);
            let sampler = solver(&config, steps);
            let mut run = sampler.begin();
            let timesteps = sampler.timesteps();
            let mut x = schedule.add_noise(&x0, &eps, &timesteps[..1]).unwrap();
            for (i, &t) in timesteps.iter().enumerate() {
                let out = schedule.target(&x0, &eps, &[t]).unwrap();
                x = run.step(&out, t, &x).unwrap();
                let expected = match timesteps.get(i + 1) {
                    Some(&next) => schedule.add_noise(&x0, &eps, &[next]).unwrap(),
                    None if ends_clean => x0.clone(),
                    None => schedule.add_noise(&x0, &eps, &[0]).unwrap(),
                };
                // Double precision; noise prediction divides by sqrt(abar), 0.07 at the start.
                assert!(
                    away(&x, &expected) < 1e-12,
                    "{prediction_type:?}, {steps} steps, after {t}: {x} for {expected}"
                );
            }
        }
    }
}

/// Samples of a normal distribution of standard deviation `SPREAD` need no network: the true noise prediction is linear,
/// and the sample is a multiple of the standard deviation at each level.
const SPREAD: f64 = 0.5;

/// A schedule whose λ falls evenly from 3 to -3 over 961 levels, so that equal strides are equal steps for the solver.
fn even_schedule() -> SchedulerConfig {
    let abar = |i: usize| 1.0 / (1.0 + (-2.0 * (3.0 - 6.0 * i as f64 / 960.0)).exp());
    let betas = (0..961)
        .map(|i| 1.0 - abar(i) / if i == 0 { 1.0 } else { abar(i - 1) })
        .collect();
    ending_at_first_level(&SchedulerConfig {
        num_train_timesteps: 961,
        trained_betas: Some(betas),
        ..SchedulerConfig::stable_diffusion()
    })
}

#[test]
fn halving_the_step_quarters_the_error() {
    let config = even_schedule();
    let table = NoiseSchedule::new(&config).alphas_cumprod;
    let deviation = |a: f64| (a * SPREAD * SPREAD + 1.0 - a).sqrt();
    let noise = |x: &Tensor, t: u32| {
        let a = table[t as usize];
        x.affine((1.0 - a).sqrt() / deviation(a).powi(2), 0.0)
            .unwrap()
    };
    let truth = deviation(table[0]) / deviation(table[960]);
    let error = |sampler: &Sampler| {
        let samples = walk(sampler, 1.0, noise);
        (samples[samples.len() - 1] - truth).abs()
    };
    let errors = [20, 40, 80, 160].map(|steps| error(&solver(&config, steps)));
    for pair in errors.windows(2) {
        let ratio = pair[0] / pair[1];
        assert!((3.0..5.0).contains(&ratio), "{errors:?}");
    }
    // Of first order the same steps are DDIM's, whose error is only halved.
    let first = SchedulerConfig {
        solver: SolverConfig {
            solver_order: Some(1),
            ..config.solver.clone()
        },
        ..config
    };
    let errors = [20, 40, 80, 160].map(|steps| error(&solver(&first, steps)));
    for pair in errors.windows(2) {
        let ratio = pair[0] / pair[1];
        assert!((1.5..2.5).contains(&ratio), "{errors:?}");
    }
}

#[test]
fn a_walk_from_an_inverted_clip_begins_at_its_level() {
    let config = SchedulerConfig::stable_diffusion();
    let inversion = ReferenceInversion::new(&config, 30).unwrap();
    let top = inversion.timesteps()[29];
    assert_eq!(top, 958);
    let from_clip = DpmSolver::from_level(&config, 30, top).unwrap();
    let t = from_clip.timesteps();
    assert_eq!((t.len(), t[0]), (30, 958));
    assert!(t.is_sorted_by(|a, b| a > b) && t[29] > 0);
    // The bound says where fresh noise begins, not where a clip may be.
    let noisier = DpmSolver::from_level(&bounded(&cosine()), 20, 999).unwrap();
    assert_eq!(noisier.timesteps()[0], 999);
    assert_eq!(
        DpmSolver::from_level(&config, 30, 29).unwrap_err(),
        SchedulerError::Steps {
            steps: 30,
            levels: 29
        }
    );
    assert!(matches!(
        DpmSolver::from_level(&config, 30, 1000),
        Err(SchedulerError::Grid { timestep: 1000, .. })
    ));
}

#[test]
fn a_walk_leaves_nothing_for_the_next() {
    let sampler = solver(&SchedulerConfig::stable_diffusion(), 6);
    let first = walk(&sampler, 1.0, stand_in);
    assert_eq!(first, walk(&sampler, 1.0, stand_in));
    let mut run = sampler.begin();
    assert!(
        run.step(&number(0.0), 3, &number(1.0)).is_err(),
        "not a level of the grid"
    );
    let pair = Tensor::new(&[1.0, 2.0], &Device::Cpu).unwrap();
    assert!(
        run.step(&pair, sampler.timesteps()[0], &number(1.0))
            .is_err()
    );
}

#[test]
fn no_number_of_steps_gives_anything_but_numbers_or_a_refusal() {
    let rescaled = SchedulerConfig {
        rescale_betas_zero_snr: true,
        ..SchedulerConfig::stable_diffusion()
    };
    for base in [SchedulerConfig::stable_diffusion(), cosine(), rescaled] {
        for spacing in [
            TimestepSpacing::Leading,
            TimestepSpacing::Trailing,
            TimestepSpacing::Linspace,
        ] {
            let open = SchedulerConfig {
                timestep_spacing: Some(spacing),
                ..base.clone()
            };
            for config in [open.clone(), ending_at_first_level(&open), bounded(&open)] {
                for steps in [1, 2, 14, 15, 16, 333, 499, 994, 995, 998, 999, 1000] {
                    let solver = match DpmSolver::new(&config, steps) {
                        Ok(solver) => solver,
                        Err(error) => {
                            assert!(steps > 990, "{spacing:?} {steps}: {error}");
                            continue;
                        }
                    };
                    let t = solver.timesteps();
                    assert!(!t.is_empty() && t.len() <= steps && t.is_sorted_by(|a, b| a > b));
                    let samples = walk(&Sampler::DpmSolver(solver), 1.0, |_, _| number(0.25));
                    assert!(
                        samples.iter().all(|x| x.is_finite()),
                        "{spacing:?} {steps} {config:?}"
                    );
                }
            }
        }
    }
    let config = SchedulerConfig::stable_diffusion();
    for (steps, levels) in [(0, 999), (1000, 999)] {
        assert_eq!(
            DpmSolver::new(&config, steps).unwrap_err(),
            SchedulerError::Steps { steps, levels }
        );
    }
    let nothing_left = SchedulerConfig {
        solver: SolverConfig {
            lambda_min_clipped: Some(50.0),
            ..SolverConfig::default()
        },
        ..config
    };
    assert!(DpmSolver::new(&nothing_left, 1).is_err());
}

#[test]
fn noise_cannot_be_told_apart_where_there_is_no_signal() {
    let config = SchedulerConfig {
        rescale_betas_zero_snr: true,
        timestep_spacing: Some(TimestepSpacing::Trailing),
        ..SchedulerConfig::stable_diffusion()
    };
    assert!(matches!(
        Ddim::new(&config, 10),
        Err(SchedulerError::Unsupported(_))
    ));
    let velocity = SchedulerConfig {
        prediction_type: PredictionType::Velocity,
        ..config.clone()
    };
    Ddim::new(&velocity, 10).unwrap();
    // DPM-Solver++ leaves the last level a trace of signal.
    let solver = DpmSolver::new(&config, 10).unwrap();
    assert!(solver.schedule().alphas_cumprod[999] > 0.0);
}
