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

const CASES: [Case; 10] = {
    use Checkpointing::{Block, Level, Off};
    use Method::{MotionDirector, Vmc};
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
    let folder = models::builtin().unwrap();
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
    let text = draw(
        Purpose::Init,
        &[1, 77, folder.unet_config().unwrap().text_width],
    );
    let schedule = NoiseSchedule::new(folder.scheduler());
    let network = Network::new(folder.unet_config().unwrap()).unwrap();
    let foretold = network.need(&config, case.clip);
    let (_, asked) = measured(|| {
        let item = Item::new(&v0, &text);
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
