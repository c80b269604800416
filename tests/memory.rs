//! What a training takes, held against what was foretold of it.

use candle_core::{DType, Device};
use spectral_motion::methods::Method;
use spectral_motion::models;
use spectral_motion::nn::{NoiseStream, Purpose};
use spectral_motion::schedulers::NoiseSchedule;
use spectral_motion::train::memory::Network;
use spectral_motion::train::{Checkpointing, Item, Trainer, TransferConfig};

use crate::common::allocation::measured;

/// A training of the built-in model: what decides how much memory it takes.
#[derive(Clone, Copy, Debug)]
struct Case {
    method: Method,
    checkpointing: Checkpointing,
    rank: usize,
    /// Frames, height and width of the latents.
    clip: [usize; 3],
}

const CASES: [Case; 18] = {
    use Checkpointing::{Block, Level, Off};
    use Method::{ControlVideo, MotionDirector, TuneAVideo, Vmc};
    const fn case(
        method: Method,
        checkpointing: Checkpointing,
        rank: usize,
        clip: [usize; 3],
    ) -> Case {
        Case {
            method,
            checkpointing,
            rank,
            clip,
        }
    }
    [
        case(Vmc, Off, 0, [8, 16, 16]),
        case(Vmc, Off, 0, [16, 16, 16]),
        case(Vmc, Off, 0, [8, 24, 32]),
        case(Vmc, Level, 0, [8, 24, 32]),
        case(Vmc, Block, 0, [8, 24, 32]),
        case(MotionDirector, Off, 4, [8, 16, 16]),
        case(MotionDirector, Off, 32, [8, 16, 16]),
        case(MotionDirector, Off, 32, [12, 24, 24]),
        case(MotionDirector, Level, 32, [8, 24, 24]),
        case(MotionDirector, Block, 32, [8, 24, 24]),
        case(TuneAVideo, Off, 0, [8, 16, 16]),
        case(TuneAVideo, Off, 0, [12, 24, 24]),
        case(TuneAVideo, Level, 0, [8, 24, 24]),
        case(TuneAVideo, Block, 0, [8, 24, 24]),
        case(ControlVideo, Off, 0, [8, 16, 16]),
        case(ControlVideo, Off, 0, [12, 24, 24]),
        case(ControlVideo, Level, 0, [8, 24, 24]),
        case(ControlVideo, Block, 0, [8, 24, 24]),
    ]
};

/// The most that three steps asked for, beyond the network as it was loaded.
fn taken(case: &Case) -> (u64, u64) {
    let config = TransferConfig {
        method: case.method,
        checkpointing: case.checkpointing,
        rank: case.rank.max(1),
        ..TransferConfig::default()
    };
    let folder = models::builtin_of(case.method.model_kind()).unwrap();
    let device = Device::Cpu;
    let tuned = case
        .method
        .load(&folder, config.tuning(1), &device)
        .unwrap();
    let [f, h, w] = case.clip;
    let draw = |purpose, shape: &[usize]| {
        NoiseStream::new(1, purpose)
            .normal(shape, DType::F32, &device)
            .unwrap()
    };
    let v0 = draw(Purpose::Posterior, &[1, 4, f, h, w]);
    let width = match folder.image_config() {
        Some(image) => image.text_width,
        None => folder.unet_config().unwrap().text_width,
    };
    let text = draw(Purpose::Init, &[1, 77, width]);
    let control = case.method.is_controlled().then(|| {
        let factor = folder.controlnet_config().unwrap().factor();
        draw(Purpose::Init, &[1, 3, f, factor * h, factor * w])
    });
    let schedule = NoiseSchedule::new(folder.scheduler());
    let network = Network::of(&folder).unwrap();
    let foretold = network.need(&config, case.clip);
    let (_, asked) = measured(|| {
        let item = match &control {
            Some(control) => Item::new(&v0, &text).with_control(control),
            None => Item::new(&v0, &text),
        };
        let mut trainer = Trainer::new(&config, tuned, schedule, vec![item]).unwrap();
        for _ in 0..3 {
            trainer.step().unwrap();
        }
    });
    (asked.peak as u64, foretold.working)
}

#[test]
fn what_a_training_takes_is_foretold() {
    let mut wrong = Vec::new();
    for case in CASES {
        let (taken, foretold) = taken(&case);
        let ratio = foretold as f64 / taken as f64;
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let line = format!(
            "{case:?}: {:.1} MiB taken, {:.1} foretold, {ratio:.3}",
            mib(taken),
            mib(foretold)
        );
        println!("{line}");
        // What is promised to whoever reads the estimate.
        if !(0.85..=1.15).contains(&ratio) {
            wrong.push(line);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_failed_step_can_be_done_again() {
    let config = TransferConfig {
        method: Method::MotionDirector,
        rank: 4,
        seed: 3,
        ..TransferConfig::default()
    };
    let folder = models::builtin().unwrap();
    let device = Device::Cpu;
    let trainer = |text_width| {
        let tuned = config
            .method
            .load(&folder, config.tuning(1), &device)
            .unwrap();
        let draw = |purpose, shape: &[usize]| {
            NoiseStream::new(1, purpose)
                .normal(shape, DType::F32, &device)
                .unwrap()
        };
        let v0 = draw(Purpose::Posterior, &[1, 4, 4, 8, 8]);
        let text = draw(Purpose::Init, &[1, 77, text_width]);
        let schedule = NoiseSchedule::new(folder.scheduler());
        Trainer::new(&config, tuned, schedule, vec![Item::new(&v0, &text)]).unwrap()
    };
    let width = folder.unet_config().unwrap().text_width;
    let mut whole = trainer(width);
    let expected: Vec<_> = (0..3).map(|_| whole.step().unwrap()).collect();
    // A text that the network refuses fails the step after its noise is drawn.
    let mut failing = trainer(width + 1);
    let before = failing.checkpoint().unwrap().state;
    assert!(failing.step().is_err());
    assert_eq!(failing.checkpoint().unwrap().state, before);
    // Changing what is remembered between steps changes no number.
    let mut stepping = trainer(width);
    let mut done = vec![stepping.step().unwrap()];
    for less in [Checkpointing::Level, Checkpointing::Block] {
        stepping.set_checkpointing(less);
        done.push(stepping.step().unwrap());
    }
    assert_eq!(done, expected);
}
