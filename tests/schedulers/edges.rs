//! Few steps, every way to end, and the files of other schedulers, against diffusers' own numbers
//! (`tools/golden/schedulers.py`).

use serde::Deserialize;
use spectral_motion::schedulers::{
    Ddim, DpmSolver, NoiseSchedule, PredictionType, ReferenceInversion, Sampler, SchedulerConfig,
    SchedulerError, TimestepSpacing,
};

use super::dpm_solver::walk;
use super::{Walk, number, same, stand_in, value, walks_as_dpm};

#[derive(Deserialize)]
struct Golden {
    files: Vec<FileCase>,
    solver: Vec<SolverCase>,
    forward: Vec<Forward>,
}

/// The text of a `scheduler_config.json`, and what diffusers' `from_config` makes of it.
#[derive(Deserialize)]
struct FileCase {
    file: String,
    dpm: Vec<Walk>,
    ddim: Option<Vec<Walk>>,
}

#[derive(Deserialize)]
struct SolverCase {
    config: SchedulerConfig,
    dpm: Walk,
}

/// Noise -0.4 on a clean sample of 0.7.
#[derive(Deserialize)]
struct Forward {
    t: u32,
    noisy: f64,
    velocity: f64,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("../golden/schedulers_edges.json")).unwrap()
}

#[test]
fn files_of_other_schedulers_are_read_as_diffusers_reads_them() {
    let files = golden().files;
    assert_eq!(files.len(), 13);
    let mut classes = Vec::new();
    for FileCase { file, dpm, ddim } in files {
        let config = SchedulerConfig::from_json(&file).unwrap();
        for expected in &dpm {
            walks_as_dpm(&config, expected);
        }
        for expected in ddim.iter().flatten() {
            let sampler = Sampler::Ddim(Ddim::new(&config, expected.steps).unwrap());
            assert_eq!(sampler.timesteps(), expected.timesteps, "{file}");
            let name = format!("DDIM of {file}");
            same(&name, &walk(&sampler, 1.0, stand_in), &expected.samples);
        }
        classes.push(config.class_name);
    }
    for class in [
        "PNDM",
        "DDIM",
        "DDPM",
        "EulerDiscrete",
        "DPMSolverMultistep",
        "UniPCMultistep",
        "DEISMultistep",
    ] {
        assert!(classes.contains(&format!("{class}Scheduler")), "{class}");
    }
}

#[test]
fn every_way_to_begin_and_end_is_as_in_diffusers() {
    let cases = golden().solver;
    assert_eq!(cases.len(), 160);
    for SolverCase { config, dpm } in cases {
        walks_as_dpm(&config, &dpm);
    }
}

#[test]
fn one_step_is_ddims_and_ends_at_the_clean_sample() {
    // From level 999 to a level without noise there is one step of first order: the clean sample itself.
    let config = SchedulerConfig::stable_diffusion();
    let solver = DpmSolver::new(&config, 1).unwrap();
    assert_eq!(solver.timesteps(), [999]);
    let (x, out) = (number(1.0), number(0.3));
    let (next, clean) = solver.step(&out, 999, &x, None).unwrap();
    let abar = NoiseSchedule::new(&config).alphas_cumprod[999];
    let expected = (1.0 - (1.0 - abar).sqrt() * 0.3) / abar.sqrt();
    // Double precision, divided by sqrt(abar), 0.07.
    assert!((value(&next) - expected).abs() < 1e-12 && (value(&clean) - expected).abs() < 1e-12);
}

#[test]
fn the_training_target_is_diffusers_velocity() {
    let config = SchedulerConfig {
        prediction_type: PredictionType::Velocity,
        ..SchedulerConfig::stable_diffusion()
    };
    let schedule = NoiseSchedule::new(&config);
    let (clean, noise) = (number(0.7), number(-0.4));
    for Forward { t, noisy, velocity } in golden().forward {
        let x_t = schedule.add_noise(&clean, &noise, &[t]).unwrap();
        let target = schedule.target(&clean, &noise, &[t]).unwrap();
        // Both sides in double precision; a table of a thousand products.
        assert!((value(&x_t) - noisy).abs() < 1e-12, "{t}");
        assert!((value(&target) - velocity).abs() < 1e-12, "{t}");
        // And back: the velocity tells both.
        let clean = schedule.predict_x0(&x_t, &target, &[t]).unwrap();
        let noise = schedule.predict_eps(&x_t, &target, &[t]).unwrap();
        assert!((value(&clean) - 0.7).abs() < 1e-12 && (value(&noise) + 0.4).abs() < 1e-12);
    }
}

#[test]
fn a_schedule_without_signal_at_its_end_is_trained_by_velocity_only() {
    let rescaled = SchedulerConfig {
        rescale_betas_zero_snr: true,
        timestep_spacing: Some(TimestepSpacing::Trailing),
        ..SchedulerConfig::stable_diffusion()
    };
    let error = rescaled.check_training(1000).unwrap_err();
    assert!(
        matches!(&error, SchedulerError::Unsupported(what) if what.contains("holds no signal")),
        "{error}"
    );
    // Without its last level, or with a network that tells the velocity, there is something to learn everywhere.
    rescaled.check_training(999).unwrap();
    SchedulerConfig::stable_diffusion()
        .check_training(1000)
        .unwrap();
    let velocity = SchedulerConfig {
        prediction_type: PredictionType::Velocity,
        ..rescaled
    };
    velocity.check_training(1000).unwrap();
    // At the last level the sample is noise alone: the clean one is minus the velocity.
    let schedule = NoiseSchedule::new(&velocity);
    assert_eq!(schedule.alphas_cumprod[999], 0.0);
    let clean = schedule
        .predict_x0(&number(0.9), &number(-0.25), &[999])
        .unwrap();
    assert_eq!(value(&clean), 0.25);
    let inversion = ReferenceInversion::new(&velocity, 10).unwrap();
    assert_eq!(inversion.timesteps().last(), Some(&999));
    let up = inversion.timesteps().iter().fold(number(0.5), |x, &t| {
        inversion.step(&stand_in(&x, t), t, &x).unwrap()
    });
    assert!(value(&up).is_finite());
}

/// The noise in a level without any cannot be told from the sample.
#[test]
fn a_network_that_predicts_the_sample_is_not_inverted_from_a_clean_one() {
    let config = |set_alpha_to_one: bool| SchedulerConfig {
        prediction_type: PredictionType::Sample,
        set_alpha_to_one: Some(set_alpha_to_one),
        ..SchedulerConfig::stable_diffusion()
    };
    let error = ReferenceInversion::new(&config(true), 10).unwrap_err();
    assert!(
        matches!(&error, SchedulerError::Unsupported(what) if what.contains("predicts the sample")),
        "{error}"
    );
    // Where the level before the first is the first one's there is some.
    let inversion = ReferenceInversion::new(&config(false), 10).unwrap();
    let x = number(0.7);
    let up = inversion.step(&x, inversion.timesteps()[0], &x).unwrap();
    assert!(value(&up).is_finite());
}
