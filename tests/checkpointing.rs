//! Checkpointing on real networks: the numbers of a training without it, in less memory.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use spectral_motion::methods::{Method, Precision, Tuned};
use spectral_motion::models::ModelFolder;
use spectral_motion::nn::{Dropout, NoiseStream, Purpose, Tape};
use spectral_motion::schedulers::NoiseSchedule;
use spectral_motion::train::{
    Checkpointing, Item, Objective, StepStats, Trainer, TransferConfig, losses, spatial_loss,
};

use crate::common::{micro_batch, micro_model};

const CUT: [Checkpointing; 2] = [Checkpointing::Block, Checkpointing::Level];

fn config(method: Method, checkpointing: Checkpointing) -> TransferConfig {
    TransferConfig {
        method,
        checkpointing,
        rank: 3,
        lora_dropout: 0.3,
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
    (tuned, NoiseSchedule::new(folder.scheduler()))
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    let values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    values.into_iter().map(f32::to_bits).collect()
}

fn all_bits<'a>(
    tensors: impl IntoIterator<Item = (&'a String, &'a Tensor)>,
) -> BTreeMap<String, Vec<u32>> {
    tensors
        .into_iter()
        .map(|(name, tensor)| (name.clone(), bits(tensor)))
        .collect()
}

#[test]
fn vmc_gradients_are_bitwise_those_without_checkpointing() {
    let batch = micro_batch();
    let run = |checkpointing| {
        let config = config(Method::Vmc, checkpointing);
        let (tuned, schedule) = tuned(&config);
        let objective = Objective::new(&config, schedule, &batch.v0).unwrap();
        let mut tape = Tape::new(checkpointing);
        let terms = losses(&tuned.unet, &mut tape, &batch, &objective).unwrap();
        let gradients = tape.gradients(&terms.total, &tuned.vars).unwrap();
        assert_eq!(gradients.len(), tuned.vars.len());
        (bits(&terms.total), all_bits(&gradients))
    };
    let whole = run(Checkpointing::Off);
    for checkpointing in CUT {
        // The same operations on the same values, added up in the same order: no tolerance.
        assert!(run(checkpointing) == whole, "{checkpointing:?}");
    }
}

/// Statistics and weights after some steps; MotionDirector's have both passes, and steps without the spatial one.
fn trained(
    method: Method,
    checkpointing: Checkpointing,
) -> (Vec<StepStats>, BTreeMap<String, Vec<u32>>) {
    let config = config(method, checkpointing);
    let (tuned, schedule) = tuned(&config);
    let vars = tuned.vars.clone();
    let batch = micro_batch();
    let mut trainer = Trainer::new(
        &config,
        tuned,
        schedule,
        vec![Item::new(&batch.v0, &batch.text)],
    )
    .unwrap();
    let stats = (0..7).map(|_| trainer.step().unwrap()).collect();
    (
        stats,
        all_bits(vars.iter().map(|(name, var)| (name, var.as_tensor()))),
    )
}

#[test]
fn trainings_with_dropout_end_bitwise_where_those_without_checkpointing_do() {
    for method in [Method::Vmc, Method::MotionDirector] {
        let whole = trained(method, Checkpointing::Off);
        if method == Method::MotionDirector {
            let spatial = whole
                .0
                .iter()
                .filter(|stats| stats.spatial.is_some())
                .count();
            assert!(
                (2..7).contains(&spatial),
                "{spatial} steps with a spatial pass"
            );
        }
        for checkpointing in CUT {
            let cut = trained(method, checkpointing);
            assert_eq!(cut.0, whole.0, "{method:?} {checkpointing:?}");
            assert!(cut.1 == whole.1, "{method:?} {checkpointing:?}: weights");
        }
    }
}

/// The recomputation sees the switches as they stand when the gradients are asked for, so this has to happen before they
/// are set for MotionDirector's next pass. That the trainer does so is what the test above shows; this one shows that it
/// would have noticed.
#[test]
fn a_pass_recomputed_after_the_next_one_was_switched_on_has_other_gradients() {
    let config = config(Method::MotionDirector, Checkpointing::Block);
    let (tuned, schedule) = tuned(&config);
    let branches = tuned.branches.clone().unwrap();
    for (i, var) in tuned.vars.values().enumerate() {
        let random = NoiseStream::new(i as u64, Purpose::Init)
            .normal(var.shape(), DType::F32, &Device::Cpu)
            .unwrap();
        var.set(&random.affine(0.2, 0.0).unwrap()).unwrap();
    }
    let batch = micro_batch();
    let dropout = || Some(Dropout::new(0.3, NoiseStream::new(1, Purpose::Dropout)));
    let gradients = |switch: &dyn Fn()| {
        branches.temporal.set(0.0, false, None);
        branches.spatial[0].set(1.0, true, dropout());
        let mut tape = Tape::new(config.checkpointing);
        let loss = spatial_loss(&tuned.unet, &mut tape, &batch, 2, &schedule).unwrap();
        switch();
        all_bits(&tape.gradients(&loss, &tuned.vars).unwrap())
    };
    let right = gradients(&|| {});
    assert!(!right.is_empty() && right.keys().all(|name| name.contains(".attentions.")));
    assert!(gradients(&|| {}) == right);
    // As the pass over the whole clip sets them.
    let late = gradients(&|| {
        branches.temporal.set(1.0, true, dropout());
        branches.spatial[0].set(1.0, false, dropout());
    });
    assert!(late != right);
    let other_mask = gradients(&|| {
        let mut stream = NoiseStream::new(1, Purpose::Dropout);
        stream.seek(1 << 32);
        branches.spatial[0].set(1.0, true, Some(Dropout::new(0.3, stream)));
    });
    assert!(other_mask != right);
}

#[test]
fn run_files_from_before_there_was_a_choice_remember_everything() {
    let chosen = TransferConfig {
        checkpointing: Checkpointing::Level,
        precision: Precision::F16,
        ..TransferConfig::default()
    };
    let text = toml::to_string(&chosen).unwrap();
    assert_eq!(toml::from_str::<TransferConfig>(&text).unwrap(), chosen);
    let older: String = text
        .lines()
        .filter(|line| !line.starts_with("checkpointing") && !line.starts_with("precision"))
        .map(|line| format!("{line}\n"))
        .collect();
    assert_ne!(older, text);
    assert_eq!(
        toml::from_str::<TransferConfig>(&older).unwrap(),
        TransferConfig::default()
    );
}

#[cfg(target_os = "linux")]
mod memory {
    //! Peak memory of one training pass, measured in processes of their own because other tests would blur the figures.

    use candle_core::{DType, Device};
    use spectral_motion::models::{UNet3DConditionModel, UNet3DConfig, Weights};
    use spectral_motion::nn::{NoiseStream, Purpose, Tape};
    use spectral_motion::train::Checkpointing;

    /// Set in a measuring process: what to remember, and the layers of a block.
    const PROBE: &str = "SPECTRAL_MOTION_CHECKPOINT_PROBE";

    const NAMES: [(&str, Checkpointing); 3] = [
        ("off", Checkpointing::Off),
        ("block", Checkpointing::Block),
        ("level", Checkpointing::Level),
    ];

    /// A line of `/proc/self/status` in bytes.
    fn status(line: &str) -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let kib = status
            .lines()
            .find_map(|l| l.strip_prefix(line))
            .unwrap()
            .trim_start_matches(':')
            .trim_end_matches("kB")
            .trim();
        kib.parse::<usize>().unwrap() * 1024
    }

    fn unet(layers: usize) -> (UNet3DConditionModel, Weights) {
        let config = format!(
            r#"{{"block_out_channels": [32, 32], "layers_per_block": {layers}, "attention_head_dim": 16,
                "cross_attention_dim": 16, "norm_num_groups": 8,
                "down_block_types": ["CrossAttnDownBlock3D", "CrossAttnDownBlock3D"],
                "up_block_types": ["CrossAttnUpBlock3D", "CrossAttnUpBlock3D"]}}"#
        );
        let config = UNet3DConfig::from_json(&config).unwrap();
        let recorder = Weights::recorder();
        UNet3DConditionModel::new(&recorder, &config).unwrap();
        let tensors = crate::models::random_weights(&recorder.asked());
        let weights = Weights::from_map(tensors, DType::F32, &Device::Cpu);
        weights.set_trainable(&|name| name.ends_with("attn1.to_q.weight"));
        (
            UNet3DConditionModel::new(&weights, &config).unwrap(),
            weights,
        )
    }

    /// Prints how far a pass forth and back rises above what the network itself takes.
    fn probe(arguments: &str) {
        let (name, layers) = arguments.split_once(' ').unwrap();
        let checkpointing = NAMES.iter().find(|(known, _)| *known == name).unwrap().1;
        let (unet, weights) = unet(layers.parse().unwrap());
        let vars = weights.trainables();
        let draw = |seed, shape: &[usize]| {
            NoiseStream::new(seed, Purpose::Noise)
                .normal(shape, DType::F32, &Device::Cpu)
                .unwrap()
        };
        let (x, text) = (draw(1, &[1, 4, 8, 16, 16]), draw(2, &[1, 7, 16]));
        let before = status("VmRSS");
        let mut tape = Tape::new(checkpointing);
        let out = unet.forward_on(&mut tape, &x, &[400.0], &text).unwrap();
        let loss = out.sqr().unwrap().sum_all().unwrap();
        let gradients = tape.gradients(&loss, &vars).unwrap();
        assert_eq!(gradients.len(), vars.len());
        println!("peak {}", status("VmHWM").saturating_sub(before));
    }

    fn peak(name: &str, layers: usize) -> f64 {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "checkpointing::memory::peaks_do_not_grow_with_depth",
                "--exact",
                "--nocapture",
            ])
            .env(PROBE, format!("{name} {layers}"))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let peak = text.lines().find_map(|line| line.split_once("peak "));
        let Some((_, bytes)) = peak else {
            panic!("{text}{}", String::from_utf8_lossy(&output.stderr));
        };
        bytes.trim().parse().unwrap()
    }

    #[test]
    fn peaks_do_not_grow_with_depth() {
        if let Ok(arguments) = std::env::var(PROBE) {
            return probe(&arguments);
        }
        let (off, block) = (
            (peak("off", 1), peak("off", 3)),
            (peak("block", 1), peak("block", 3)),
        );
        let level = peak("level", 3);
        let measured = format!("of 1 and 3 layers: off {off:?}, block {block:?}, level {level}");
        // The deeper network keeps as much more as it has more layers; that the probe sees this is checked first.
        let growth = off.1 - off.0;
        assert!(growth > f64::from(64 << 20), "{measured}");
        // By block it keeps the tensors between blocks, one in some fifty; the other half of this growth is the weights
        // of the layers themselves, packed for products in both directions.
        assert!(block.1 - block.0 < growth / 6.0, "{measured}");
        assert!(block.1 < off.1 / 2.5, "{measured}");
        // By level one level of four is rebuilt at once.
        assert!(level < off.1 / 1.7, "{measured}");
    }
}
