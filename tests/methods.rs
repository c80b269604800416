//! Settings, presets, the optimiser and the VMC trace.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};
use clap::{Args as _, FromArgMatches as _, ValueEnum as _};
use spectral_motion::methods::{Method, Tuned};
use spectral_motion::models::{ModelFolder, TemporalBias};
use spectral_motion::schedulers::NoiseSchedule;
use spectral_motion::spectral::loss::{CosineAxis, Residual};
use spectral_motion::train::{
    AdamW, AdamWConfig, Batch, Item, Preset, SamplerChoice, Trainer, TransferConfig,
    clip_coefficient, default_levels, explicit_over_preset, flags_of, owner_of, refuse_idle,
};

use crate::common::micro_model;

fn typed(flags: &[&str], preset: Option<Preset>) -> TransferConfig {
    let command = TransferConfig::augment_args(clap::Command::new("test"));
    let matches = command.get_matches_from([&["test"], flags].concat());
    let config = TransferConfig::from_arg_matches(&matches).unwrap();
    explicit_over_preset(&config, &matches, preset, true).unwrap()
}

#[test]
fn default_is_the_command_line_without_flags_and_the_default_preset() {
    let default = TransferConfig::default();
    assert_eq!(typed(&[], None), default);
    assert_eq!(Preset::Default.config().unwrap(), default);
    default.check().unwrap();
    default.check_for(8).unwrap();
}

#[test]
fn every_preset_file_is_a_preset_that_parses_and_is_valid() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/presets");
    let mut files: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            entry
                .unwrap()
                .path()
                .file_stem()
                .unwrap()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    files.sort();
    let mut names = Vec::new();
    for preset in Preset::value_variants() {
        let config = preset.config().unwrap();
        config.check().unwrap();
        config.check_for(8).unwrap();
        names.push(preset.to_possible_value().unwrap().get_name().to_owned());
    }
    names.sort();
    assert_eq!(files, names);

    let paper = Preset::Paper.config().unwrap();
    assert_eq!(paper.residual, Residual::Signed);
    // Appendix C of arXiv 2403.15249 version 1.
    assert_eq!(paper.motion_loss(8, paper.delta).levels, 3);
    assert_eq!(paper.motion_loss(16, paper.delta).levels, 4);
    let repo = Preset::SmaRepo.config().unwrap();
    assert_eq!((repo.residual, repo.levels), (Residual::Abs, Some(2)));
    for config in [paper, repo] {
        assert_eq!(
            (config.lambda_g, config.lambda_l, config.delta),
            (0.4, 0.2, 0.05)
        );
    }
}

#[test]
fn typed_flags_win_over_the_preset_even_when_they_repeat_a_default() {
    let default = TransferConfig::default();
    let steps = default.steps.to_string();
    let flags = [
        "--steps",
        &steps,
        "--levels",
        "1",
        "--residual",
        "signed",
        "--size",
        "64x48",
    ];
    let config = typed(&flags, Some(Preset::SmaRepo));
    assert_eq!(config.steps, default.steps);
    assert_eq!(config.levels, Some(1));
    assert_eq!(config.residual, Residual::Signed);
    assert_eq!(config.size, Some((64, 48)));
    assert_eq!(
        config.sampling_steps,
        Some(75),
        "what was not typed comes from the preset"
    );
}

/// Settings that a file leaves out at their default are no exception.
#[test]
fn a_typed_default_wins_over_a_preset_that_differs() {
    let config = typed(&["--temporal-bias", "zero"], Some(Preset::TuneAVideo));
    assert_eq!(config.temporal_bias, TemporalBias::Zero);
    assert_eq!(
        typed(&[], Some(Preset::TuneAVideo)).temporal_bias,
        TemporalBias::Random
    );
}

/// What is typed for settings leads back to them, whatever differs from the method's preset.
#[test]
fn settings_can_be_typed() {
    for preset in Preset::ALL {
        for with_builtin_model in [true, false] {
            let config = TransferConfig {
                size: Some((128, 64)),
                fps: Some(7.5),
                cutoff: Some(0.25),
                level_weights: vec![1.0, 0.5, 0.25],
                levels: Some(2),
                sampler: SamplerChoice::Dpm,
                negative_prompt: "- it's \"blurred\", \u{e4}".to_owned(),
                loop_short: true,
                seed: 1 << 60,
                learning_rate: 1.0 / 3.0,
                // What a preset sets cannot be left open again.
                frames: Some(8),
                sampling_steps: Some(12),
                guidance: Some(5.0),
                // Not what their presets say, and at their default.
                temporal_bias: TemporalBias::Zero,
                canny: (100.0, 100.0),
                ..preset.config().unwrap()
            };
            // Only what a method knows can be typed with it.
            let flags = flags_of(&config, with_builtin_model);
            let command = TransferConfig::augment_args(clap::Command::new("test"));
            let typed = std::iter::once("test").chain(flags.iter().map(String::as_str));
            let matches = command.get_matches_from(typed);
            let config_of_flags = TransferConfig::from_arg_matches(&matches).unwrap();
            let back = explicit_over_preset(&config_of_flags, &matches, None, with_builtin_model);
            assert_eq!(back.unwrap(), config, "{preset:?} {flags:?}");
            refuse_idle(&matches, &[config.method]).unwrap();
            // What belongs to another method is left out.
            let strange = TransferConfig {
                rank: 7,
                control_scale: 0.5,
                temporal_bias: TemporalBias::Random,
                ..config
            };
            for flag in flags_of(&strange, with_builtin_model) {
                let name = flag
                    .trim_start_matches("--")
                    .split('=')
                    .next()
                    .unwrap_or_default();
                let owner = owner_of(&name.replace('-', "_"));
                assert!(owner.is_none_or(|owner| owner == strange.method), "{flag}");
            }
        }
    }
    assert!(flags_of(&TransferConfig::default(), true).is_empty());
}

#[test]
fn settings_of_one_method_are_refused_for_others() {
    let command = TransferConfig::augment_args(clap::Command::new("test"));
    let mut owned = 0;
    for argument in command.get_arguments() {
        let help = argument.get_help().unwrap().to_string();
        let owner = owner_of(argument.get_id().as_str());
        let named = Method::ALL
            .into_iter()
            .find(|method| help.starts_with(&format!("{}:", method.name())));
        let named = named.or_else(|| {
            // "MotionDirector with several clips: …"
            help.starts_with("MotionDirector ")
                .then_some(Method::MotionDirector)
        });
        assert_eq!(owner, named, "{help}");
        owned += usize::from(owner.is_some());
    }
    assert_eq!(owned, 9);
    let matches = command.get_matches_from(["test", "--rank", "4"]);
    let refusal = refuse_idle(&matches, &[Method::Vmc])
        .unwrap_err()
        .to_string();
    assert!(
        refusal.contains("--rank is for MotionDirector alone"),
        "{refusal}"
    );
    refuse_idle(&matches, &[Method::Vmc, Method::MotionDirector]).unwrap();
}

#[test]
fn settings_survive_a_file() {
    let config = TransferConfig {
        size: Some((128, 64)),
        cutoff: Some(0.25),
        level_weights: vec![1.0, 0.5],
        levels: Some(1),
        sampler: SamplerChoice::Dpm,
        ..TransferConfig::default()
    };
    let text = toml::to_string(&config).unwrap();
    assert_eq!(
        toml::from_str::<TransferConfig>(&text).unwrap(),
        config,
        "{text}"
    );
    assert!(
        toml::from_str::<TransferConfig>("lamda_g = 1").is_err(),
        "a typing error is told"
    );
    let older = text.replace("sampler = \"dpm\"\n", "");
    assert_ne!(older, text);
    assert_eq!(
        toml::from_str::<TransferConfig>(&older).unwrap(),
        TransferConfig {
            sampler: SamplerChoice::Ddim,
            ..config
        },
        "runs made before there was a choice were sampled by DDIM"
    );
}

#[test]
fn ranges_are_checked() {
    let base = TransferConfig::default();
    let bad = [
        TransferConfig {
            learning_rate: 0.0,
            ..base.clone()
        },
        TransferConfig {
            lambda_g: -0.1,
            ..base.clone()
        },
        TransferConfig {
            lambda_l: f64::INFINITY,
            ..base.clone()
        },
        TransferConfig {
            delta: f64::NAN,
            ..base.clone()
        },
        TransferConfig {
            delta: 4.5,
            ..base.clone()
        },
        TransferConfig {
            cutoff: Some(0.0),
            ..base.clone()
        },
        TransferConfig {
            dropout_until: Some(0),
            ..base.clone()
        },
        TransferConfig {
            lora_scale: -1.0,
            ..base.clone()
        },
        TransferConfig {
            noise_prior: 1.5,
            ..base.clone()
        },
        TransferConfig {
            sampling_steps: Some(0),
            ..base.clone()
        },
        TransferConfig {
            min_timestep: 500,
            max_timestep: 400,
            ..base.clone()
        },
        TransferConfig {
            frames: Some(1),
            ..base.clone()
        },
        TransferConfig {
            fps: Some(-1.0),
            ..base.clone()
        },
        TransferConfig {
            play_fps: Some(0.0),
            ..base.clone()
        },
    ];
    for config in bad {
        let error = config.check().unwrap_err().to_string();
        assert!(error.starts_with("--"), "{error}");
    }
    let weights = TransferConfig {
        levels: Some(2),
        level_weights: vec![1.0, 1.0],
        ..base.clone()
    };
    assert!(weights.check_for(8).is_err());
    // Seven residuals of eight frames halve three times.
    let levels = |levels| TransferConfig {
        levels: Some(levels),
        ..base.clone()
    };
    levels(3).check_for(8).unwrap();
    let error = levels(4).check_for(8).unwrap_err().to_string();
    assert!(
        error.contains("--levels is 4") && error.contains("3 wavelet levels"),
        "{error}"
    );
    // A direction over one difference of frames has no slope.
    base.check_for(3).unwrap();
    let error = base.check_for(2).unwrap_err().to_string();
    assert!(error.contains("--cosine-axis pixel"), "{error}");
    for other in [
        TransferConfig {
            cosine_axis: CosineAxis::Pixel,
            ..base.clone()
        },
        TransferConfig {
            method: Method::MotionDirector,
            ..base.clone()
        },
    ] {
        other.check_for(2).unwrap();
    }
}

#[test]
fn films_never_become_slide_shows_unless_asked() {
    let config = TransferConfig::default();
    assert_eq!(config.film_fps(1.0), 8.0, "8 frames of a clip of 8 s");
    assert_eq!(config.film_fps(24.0), 24.0, "a faster clip keeps its rate");
    assert_eq!(config.film_fps(960.0), 240.0, "one of a high-speed camera");
    let own_time = TransferConfig {
        play_fps: Some(0.98),
        ..config
    };
    assert_eq!(own_time.film_fps(1.0), 0.98);
}

#[test]
fn timesteps_stay_inside_the_schedule() {
    let config = TransferConfig {
        min_timestep: 100,
        max_timestep: 199,
        ..TransferConfig::default()
    };
    assert_eq!(config.timestep_range(1000), (100, 200));
    assert_eq!(config.timestep_range(150), (100, 150));
    assert_eq!(config.timestep_range(50), (49, 50));
    assert_eq!(TransferConfig::default().timestep_range(1000), (0, 1000));
}

#[test]
fn levels_follow_the_frames() {
    // sma.md 2.3: the largest useful J is ceil(log2 N) for N = frames - 1.
    for (frames, levels) in [
        (2, 0),
        (3, 1),
        (4, 2),
        (5, 2),
        (8, 3),
        (12, 4),
        (16, 4),
        (24, 5),
    ] {
        assert_eq!(default_levels(frames), levels, "{frames} frames");
    }
}

/// Numbers printed by PyTorch 2.15:
/// ```python
/// import torch
/// p = torch.nn.Parameter(torch.tensor([0.5, -1.25, 2.0]))
/// o = torch.optim.AdamW([p], lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2)
/// for g in ([0.1, -0.2, 0.3], [-0.4, 0.0, 1e-4], [0.05, 3.0, -0.7]):
///     p.grad = torch.tensor(g); torch.nn.utils.clip_grad_norm_([p], 1.0); o.step(); print(p.tolist())
/// ```
#[test]
fn adamw_and_clipping_are_pytorchs() {
    let expected: [[f32; 3]; 3] = [
        [0.489_950_001, -1.239_874_959, 1.989_799_976],
        [0.495_496_035, -1.233_050_346, 1.982_897_997],
        [0.499_516_726, -1.238_143_563, 1.982_429_743],
    ];
    let var = Var::from_vec(vec![0.5_f32, -1.25, 2.0], 3, &Device::Cpu).unwrap();
    let vars = BTreeMap::from([("p".to_owned(), var.clone())]);
    let mut optimizer = AdamW::new(AdamWConfig::default());
    let grads = [[0.1_f32, -0.2, 0.3], [-0.4, 0.0, 1e-4], [0.05, 3.0, -0.7]];
    for (grad, expected) in grads.iter().zip(expected) {
        let norm = grad.iter().map(|g| f64::from(g * g)).sum::<f64>().sqrt();
        let grad = BTreeMap::from([("p".to_owned(), Tensor::new(grad, &Device::Cpu).unwrap())]);
        optimizer
            .update(&vars, &grad, 1e-2, clip_coefficient(norm, 1.0))
            .unwrap();
        let values = var.as_tensor().to_vec1::<f32>().unwrap();
        for (value, expected) in values.iter().zip(expected) {
            // Both round to f32 after each of a handful of operations.
            assert!(
                (value - expected).abs() <= 2e-6 * expected.abs(),
                "{values:?} {expected}"
            );
        }
    }
    assert_eq!(optimizer.updates(), 3);
}

#[test]
fn clipping_only_shrinks() {
    // torch.nn.utils.clip_grad_norm_: max_norm / (norm + 1e-6), clamped to 1.
    assert!((clip_coefficient(2.0, 1.0) - 1.0 / 2.000_001).abs() < 1e-15);
    assert!((clip_coefficient(0.5, 1.0) - 1.0).abs() < 1e-15);
    assert!(
        (clip_coefficient(1e9, 0.0) - 1.0).abs() < 1e-15,
        "0 switches clipping off"
    );
}

/// Four steps of an independent PyTorch and diffusers implementation (`tools/golden/trainer.py`): losses, clipping, AdamW.
#[test]
fn vmc_training_follows_pytorch() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/methods/vmc-trace.safetensors"
    );
    let trace = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    let folder = ModelFolder::open(&micro_model()).unwrap();
    let (unet, vars) = folder
        .load_unet(&|name| Method::Vmc.trains(name), &Device::Cpu)
        .unwrap();
    let (kept, first) = (vars.clone(), copies(&vars));
    // The trace's settings, whatever the defaults become.
    let config = TransferConfig {
        steps: 4,
        learning_rate: 1e-3,
        lambda_g: 0.4,
        lambda_l: 0.2,
        delta: 0.05,
        levels: Some(3),
        residual: Residual::Signed,
        cosine_axis: CosineAxis::Frame,
        ..TransferConfig::default()
    };
    let schedule = NoiseSchedule::new(folder.scheduler());
    let (v0, text) = (&trace["v0"], &trace["text"]);
    let items = vec![Item::new(v0, text)];
    let mut trainer = Trainer::new(&config, Tuned::plain(unet, vars), schedule, items).unwrap();
    for step in 0..4 {
        let of = |key: &str| &trace[&format!("{step}.{key}")];
        let batch = Batch {
            v0: v0.clone(),
            eps: of("eps").clone(),
            t: vec![scalar(of("t")) as u32],
            text: text.clone(),
            control: None,
            anchor: 0,
        };
        let stats = trainer.step_on(&batch).unwrap();
        let pairs = [
            ("base", stats.base),
            ("global", stats.global),
            ("amplitude", stats.amplitude),
            ("phase", stats.phase),
            ("total", stats.total),
            ("norm", stats.grad_norm),
        ];
        for (key, value) in pairs {
            // Two implementations in f32, and each step starts from the one before.
            let error = (value - scalar(of(key))).abs() / scalar(of(key)).abs();
            assert!(
                error < 1e-4,
                "step {step}: {key} is {value}, PyTorch has {} ({error:.1e})",
                scalar(of(key))
            );
        }
    }
    let (mut wrong, mut whole) = (0.0, 0.0);
    for (name, var) in &kept {
        let last = &trace[&format!("final.{name}")];
        wrong += square(&var.as_tensor().sub(last).unwrap());
        whole += square(&last.sub(&first[name]).unwrap());
    }
    // Adam's first steps are near ±lr whatever the gradient's size, so a gradient near its own rounding error moves its
    // weight by another fraction of lr; few weights are that still.
    let error = (wrong / whole).sqrt();
    assert!(error < 1e-3, "{error:.1e} of the update's norm");
}

fn copies(vars: &BTreeMap<String, Var>) -> BTreeMap<String, Tensor> {
    vars.iter()
        .map(|(name, var)| (name.clone(), var.as_tensor().copy().unwrap()))
        .collect()
}

fn scalar(tensor: &Tensor) -> f64 {
    let tensor = tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap();
    tensor.to_vec1::<f64>().unwrap()[0]
}

fn square(tensor: &Tensor) -> f64 {
    scalar(
        &tensor
            .to_dtype(DType::F64)
            .unwrap()
            .sqr()
            .unwrap()
            .sum_all()
            .unwrap(),
    )
}
