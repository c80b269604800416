//! Memory: refusing a run that cannot fit, and remembering less when a graphics card is full.

use super::fitting::fit_for;
use super::problem::Halt;
use crate::library::gigabytes;
use crate::models::ModelFolder;
use crate::report::{Area, Report};
use crate::train::memory::{Fitting, Network, available_bytes, fitting, remember_less};
use crate::train::{Checkpointing, StepStats, TrainError, TransferConfig};
use crate::video::Fit;

/// How much memory a training on the processor takes at most, in words. One that needs more than there is, is refused, with
/// the setting that would fit: the system ends a program that asks for too much, without a word and without a checkpoint.
pub(super) fn foretold(config: &TransferConfig, folder: &ModelFolder) -> Result<String, Halt> {
    let network = Network::of(folder)?;
    let room = available_bytes().unwrap_or(u64::MAX);
    Ok(takes(within(room, config, (folder, &network))?))
}

/// The same for a run that goes on: where it does not fit as it began, it remembers less from here on, which changes no number.
/// Gives what it is to remember.
pub(super) fn foretold_again(
    config: &TransferConfig,
    folder: &ModelFolder,
) -> Result<(Checkpointing, String), Halt> {
    let network = Network::of(folder)?;
    let room = available_bytes().unwrap_or(u64::MAX);
    again_within(room, config, (folder, &network))
}

fn again_within(
    room: u64,
    config: &TransferConfig,
    (folder, network): (&ModelFolder, &Network),
) -> Result<(Checkpointing, String), Halt> {
    let (fit, needed) = needs(config, (folder, network))?;
    let asked = Fitting {
        checkpointing: config.checkpointing,
        frames: fit.frames,
    };
    let bytes = needed(asked);
    match fitting(room, asked, &needed) {
        Some(choice) if choice == asked => Ok((asked.checkpointing, takes(bytes))),
        Some(choice) if choice.frames == asked.frames => Ok((
            choice.checkpointing,
            format!(
                "{} are free and the run as it began takes {}: from here on it remembers less (--checkpointing {}), \
                 which takes longer and changes no number.",
                gigabytes(room),
                gigabytes(bytes),
                name_of(choice.checkpointing)
            ),
        )),
        _ => Err(shortage(room, bytes, (config, &fit))
            .advise("Close other programs, or resume it on a machine with more memory. The run is as it was.")
            .into()),
    }
}

fn takes(bytes: u64) -> String {
    format!(
        "The training takes about {} of memory at most.",
        gigabytes(bytes)
    )
}

/// What the model sees of a clip, and the bytes that a training takes by what it remembers and how many frames it sees.
fn needs(
    config: &TransferConfig,
    (folder, network): (&ModelFolder, &Network),
) -> Result<(Fit, impl Fn(Fitting) -> u64), Halt> {
    let fit = fit_for(config, &folder.clip_limits())?;
    let factor = folder.vae_config().factor();
    let side = |pixels: u32| pixels as usize / factor;
    let (height, width) = (side(fit.height), side(fit.width));
    let needed = move |choice: Fitting| {
        let settings = TransferConfig {
            checkpointing: choice.checkpointing,
            ..config.clone()
        };
        let clip = [choice.frames, height, width];
        network.need(&settings, clip).bytes()
    };
    Ok((fit, needed))
}

fn within(
    room: u64,
    config: &TransferConfig,
    (folder, network): (&ModelFolder, &Network),
) -> Result<u64, Halt> {
    let (fit, needed) = needs(config, (folder, network))?;
    let asked = Fitting {
        checkpointing: config.checkpointing,
        frames: fit.frames,
    };
    let bytes = needed(asked);
    if bytes <= room {
        return Ok(bytes);
    }
    let advice = match fitting(room, asked, needed) {
        Some(Fitting {
            checkpointing,
            frames,
        }) => {
            let less = format!("--checkpointing {}", name_of(checkpointing));
            if frames == asked.frames {
                format!("It fits with {less}, which takes longer.")
            } else {
                format!("It fits with {less} --frames {frames}.")
            }
        }
        None => "Use a smaller --size, or a machine with more memory.".to_owned(),
    };
    Err(shortage(room, bytes, (config, &fit)).advise(advice).into())
}

fn shortage(room: u64, bytes: u64, (config, fit): (&TransferConfig, &Fit)) -> Report {
    Report::new(
        Area::Request,
        format!(
            "The training needs about {} of memory, and {} are free",
            gigabytes(bytes),
            gigabytes(room)
        ),
    )
    .because(format!(
        "{} frames of {}x{} pixels with --checkpointing {}.",
        fit.frames,
        fit.width,
        fit.height,
        name_of(config.checkpointing)
    ))
}

fn name_of(checkpointing: Checkpointing) -> &'static str {
    match checkpointing {
        Checkpointing::Off => "off",
        Checkpointing::Block => "block",
        Checkpointing::Level => "level",
    }
}

/// What a step is asked of.
pub(super) trait Steps {
    /// One step; a failed one leaves everything as it was before.
    fn step(&mut self) -> Result<StepStats, TrainError>;
    /// What a step remembers.
    fn checkpointing(&self) -> Checkpointing;
    /// Sets it for the steps to come.
    fn set_checkpointing(&mut self, checkpointing: Checkpointing);
}

/// One step. Where the device is full it is done again with less remembered, which `tell` hears of; the numbers are those
/// that the step would have had.
pub(super) fn step_within(
    trainer: &mut impl Steps,
    step: u32,
    mut tell: impl FnMut(Checkpointing, Report),
) -> Result<StepStats, Halt> {
    loop {
        let error = match trainer.step() {
            Err(error) if error.is_out_of_memory() => error,
            done => return Ok(done?),
        };
        let Some(less) = remember_less(trainer.checkpointing()) else {
            return Err(Report::new(
                Area::Run,
                format!("The device's memory is full at step {step}"),
            )
            .because_of(&error)
            .advise("Nothing more can be left out of it: use fewer --frames or a smaller --size.")
            .into());
        };
        let headline = format!(
            "The device's memory was full at step {step}: the step is done again with --checkpointing {}",
            name_of(less)
        );
        trainer.set_checkpointing(less);
        tell(
            less,
            Report::new(Area::Run, headline)
                .because_of(&error)
                .advise("The result is the same; a step takes longer from now on."),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models;

    /// A device that has room for a step from some setting on.
    struct Full {
        checkpointing: Checkpointing,
        has_room: fn(Checkpointing) -> bool,
        error: &'static str,
        asked: Vec<Checkpointing>,
    }

    impl Steps for Full {
        fn step(&mut self) -> Result<StepStats, TrainError> {
            self.asked.push(self.checkpointing);
            if (self.has_room)(self.checkpointing) {
                return Ok(serde_json::from_value(serde_json::json!({
                    "step": 8, "steps": 40, "timestep": 500, "base": 0.5, "bands": [], "global": 0.0,
                    "amplitude": 0.0, "phase": 0.0, "total": 0.5, "grad_norm": 1.0, "learning_rate": 1e-3
                }))
                .unwrap());
            }
            Err(TrainError::Tensor {
                during: "the backward pass",
                source: candle_core::Error::Msg(self.error.to_owned()),
            })
        }
        fn checkpointing(&self) -> Checkpointing {
            self.checkpointing
        }
        fn set_checkpointing(&mut self, checkpointing: Checkpointing) {
            self.checkpointing = checkpointing;
        }
    }

    const OUT_OF_MEMORY: &str = "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")";

    fn run(
        has_room: fn(Checkpointing) -> bool,
        error: &'static str,
    ) -> (Result<StepStats, Halt>, Vec<Checkpointing>, Vec<String>) {
        let mut full = Full {
            checkpointing: Checkpointing::Off,
            has_room,
            error,
            asked: Vec::new(),
        };
        let mut told = Vec::new();
        let done = step_within(&mut full, 8, |_, report| told.push(report.headline));
        (done, full.asked, told)
    }

    #[test]
    fn a_full_device_is_answered_by_remembering_less() {
        use Checkpointing::{Block, Level, Off};
        let (done, asked, told) = run(|now| now == Block, OUT_OF_MEMORY);
        assert_eq!(done.map(|stats| stats.step).ok(), Some(8));
        assert_eq!(asked, [Off, Level, Block]);
        assert_eq!(told.len(), 2);
        assert!(told[0].contains("step 8") && told[0].ends_with("--checkpointing level"));
        assert!(told[1].ends_with("--checkpointing block"));
    }

    #[test]
    fn when_nothing_is_left_fewer_frames_are_asked_for() {
        let (done, asked, told) = run(|_| false, OUT_OF_MEMORY);
        assert_eq!((asked.len(), told.len()), (3, 2));
        let Err(Halt::Failed(report)) = done else {
            panic!("a step without room succeeded");
        };
        assert!(report.to_string().contains("--frames"), "{report}");
    }

    #[test]
    fn another_failure_is_not_tried_again() {
        let (done, asked, told) = run(|_| false, "shape mismatch");
        assert!(done.is_err() && told.is_empty());
        assert_eq!(asked, [Checkpointing::Off]);
    }

    #[test]
    fn a_run_that_cannot_fit_is_refused_with_the_setting_that_would() {
        let folder = models::builtin().unwrap();
        let config = TransferConfig::default();
        let clip = [8, 16, 16];
        let network = Network::new(folder.unet_config().unwrap()).unwrap();
        let bytes = |checkpointing| {
            let config = TransferConfig {
                checkpointing,
                ..config.clone()
            };
            network.need(&config, clip).bytes()
        };
        let (off, block) = (bytes(Checkpointing::Off), bytes(Checkpointing::Block));
        assert!(block < off);
        assert_eq!(within(off, &config, (&folder, &network)).ok(), Some(off));
        let refused = |room| match within(room, &config, (&folder, &network)) {
            Err(Halt::Failed(report)) => report.to_string(),
            other => panic!("not refused: {other:?}"),
        };
        assert!(refused(off - 1).contains("--checkpointing"));
        assert!(!refused(off - 1).contains("It fits with --checkpointing block --frames"));
        assert!(refused(block - 1).contains("--frames"));
        assert!(refused(1 << 20).contains("--size"));
        // A run that goes on remembers less instead, as long as its frames fit.
        let again = |room| again_within(room, &config, (&folder, &network));
        assert_eq!(again(off).ok().map(|fits| fits.0), Some(Checkpointing::Off));
        let (less, told) = again(off - 1).ok().unwrap();
        assert!(less != Checkpointing::Off && told.contains("--checkpointing"));
        match again(block - 1) {
            Err(Halt::Failed(report)) => assert!(report.to_string().contains("resume it")),
            other => panic!("not refused: {other:?}"),
        }
    }
}
