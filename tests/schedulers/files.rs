//! `scheduler_config.json`: files of other schedulers, and what is refused.

use spectral_motion::schedulers::{
    Ddim, DpmSolver, NoiseSchedule, PredictionType, SchedulerConfig, SchedulerError,
    TimestepSpacing,
};

#[test]
fn files_of_other_schedulers_are_read_as_ddim() {
    let pndm = r#"{"_class_name": "PNDMScheduler", "beta_start": 0.00085, "beta_end": 0.012,
        "beta_schedule": "scaled_linear", "skip_prk_steps": true, "steps_offset": 1}"#;
    let config = SchedulerConfig::from_json(pndm).unwrap();
    // PNDM ends at its first level by default, but it is DDIM that is made of the file.
    assert!(!config.clips_sample() && config.final_is_clean());
    assert_eq!(
        NoiseSchedule::new(&config),
        NoiseSchedule::new(&SchedulerConfig::stable_diffusion())
    );
    let ddim = SchedulerConfig::from_json("{}").unwrap();
    assert!(ddim.clips_sample() && ddim.final_is_clean());
}

#[test]
fn broken_configurations_are_refused_in_words() {
    for (text, part) in [
        ("{", "could not be read"),
        (
            r#"{"beta_schedule": "sigmoid"}"#,
            "unknown variant `sigmoid`",
        ),
        (r#"{"beta_start": -1.0}"#, "a noise variance is -1"),
        (r#"{"beta_end": 1e999}"#, "number out of range"),
        (r#"{"num_train_timesteps": 0}"#, "num_train_timesteps is 0"),
        (
            r#"{"num_train_timesteps": 99999999999}"#,
            "num_train_timesteps is 99999999999",
        ),
        (
            r#"{"trained_betas": [0.1, 0.2]}"#,
            "trained_betas has 2 values for 1000 levels",
        ),
        (r#"{"clip_sample_range": 0.0}"#, "clip_sample_range is 0"),
        (r#"{"thresholding": true}"#, "dynamic thresholding"),
        (r#"{"beta_end": NaN}"#, "expected value"),
        (r#"{"beta_start": Infinity}"#, "expected value"),
        (r#"{"steps_offset": -1}"#, "invalid value: integer `-1`"),
        (
            r#"{"prediction_type": "flow_prediction"}"#,
            "unknown variant `flow_prediction`",
        ),
        (
            r#"{"_class_name": "FlowMatchEulerDiscreteScheduler"}"#,
            "the scheduler FlowMatchEulerDiscreteScheduler, which is not supported",
        ),
        (r#"{"_class_name": "os.system"}"#, "the scheduler os.system"),
    ] {
        let message = SchedulerConfig::from_json(text).unwrap_err().to_string();
        assert!(message.contains(part), "{text}: {message}");
    }
    let config = SchedulerConfig::stable_diffusion();
    assert_eq!(
        Ddim::new(&config, 0).unwrap_err(),
        SchedulerError::Steps {
            steps: 0,
            levels: 1000
        }
    );
    assert_eq!(
        Ddim::new(&config, 1001).unwrap_err(),
        SchedulerError::Steps {
            steps: 1001,
            levels: 1000
        }
    );
    // 1000 steps with an offset of 1 would begin at level 1000, which does not exist.
    assert!(matches!(
        Ddim::new(&config, 1000),
        Err(SchedulerError::Grid {
            timestep: 1000,
            last: 999,
            ..
        })
    ));
    let far = SchedulerConfig {
        steps_offset: usize::MAX,
        timestep_spacing: Some(TimestepSpacing::Leading),
        ..config
    };
    assert!(matches!(
        Ddim::new(&far, 10),
        Err(SchedulerError::Grid { .. })
    ));
    assert!(matches!(
        DpmSolver::new(&far, 10),
        Err(SchedulerError::Grid { .. })
    ));
}

#[test]
fn what_a_file_leaves_out_gets_the_default_of_the_scheduler_that_is_made() {
    let grids = |text: &str| {
        let config = SchedulerConfig::from_json(text).unwrap();
        let ddim = Ddim::new(&config, 4).unwrap();
        let solver = DpmSolver::new(&config, 4).unwrap();
        (ddim.timesteps().to_vec(), solver.timesteps().to_vec())
    };
    // DDIM: leading, 1000 / 4 apart. DPM-Solver++: linspace from the last level, its leading grid 1000 / 5 apart.
    let leading = vec![751, 501, 251, 1];
    let linspace = vec![999, 749, 500, 250];
    for class in ["PNDM", "DDIM", "EulerDiscrete", "DPMSolverMultistep"] {
        let absent = format!(r#"{{"_class_name": "{class}Scheduler", "steps_offset": 1}}"#);
        assert_eq!(grids(&absent), (leading.clone(), linspace.clone()));
        let said = absent.replace('}', r#", "timestep_spacing": "leading"}"#);
        assert_eq!(grids(&said), (leading.clone(), vec![801, 601, 401, 201]));
        let said = absent.replace('}', r#", "timestep_spacing": "trailing"}"#);
        let trailing = vec![999, 749, 499, 249];
        assert_eq!(grids(&said), (trailing.clone(), trailing));
    }
}

#[test]
fn files_of_dpm_solver_and_its_kin_are_read() {
    // As Python writes a bound that is none, and with fields that have no value.
    let text = r#"{"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver++",
        "lambda_min_clipped": -Infinity, "use_karras_sigmas": null, "trained_betas": null,
        "prediction_type": "v_prediction", "solver_order": 2, "timestep_spacing": "linspace"}"#;
    let config = SchedulerConfig::from_json(text).unwrap();
    assert_eq!(config.solver.lambda_min_clipped, None);
    assert_eq!(config.prediction_type, PredictionType::Velocity);
    assert_eq!(config.timestep_spacing, Some(TimestepSpacing::Linspace));
    assert!(!config.clips_sample());
    DpmSolver::new(&config, 20).unwrap();
    let bounded = text.replace("-Infinity", "-5.1");
    let bounded = SchedulerConfig::from_json(&bounded).unwrap();
    assert_eq!(bounded.solver.lambda_min_clipped, Some(-5.1));
    for kin in [
        r#"{"_class_name": "UniPCMultistepScheduler", "solver_type": "bh2"}"#,
        r#"{"_class_name": "DEISMultistepScheduler", "algorithm_type": "deis", "solver_type": "logrho"}"#,
    ] {
        DpmSolver::new(&SchedulerConfig::from_json(kin).unwrap(), 20).unwrap();
    }
}

#[test]
fn other_solvers_are_refused_by_dpm_solver_alone() {
    for (field, value) in [
        ("use_karras_sigmas", "true"),
        ("use_exponential_sigmas", "true"),
        ("use_beta_sigmas", "true"),
        ("use_lu_lambdas", "true"),
        ("use_flow_sigmas", "true"),
        ("algorithm_type", r#""sde-dpmsolver++""#),
        ("algorithm_type", r#""dpmsolver""#),
        ("solver_type", r#""heun""#),
        ("solver_order", "3"),
        ("final_sigmas_type", r#""both""#),
    ] {
        let config = SchedulerConfig::from_json(&format!(r#"{{"{field}": {value}}}"#)).unwrap();
        for made in [
            DpmSolver::new(&config, 20),
            DpmSolver::from_level(&config, 20, 900),
        ] {
            let error = made.unwrap_err();
            assert!(
                matches!(&error, SchedulerError::Unsupported(what) if what.contains(field)),
                "{field}: {error}"
            );
        }
        Ddim::new(&config, 20).unwrap();
    }
}
