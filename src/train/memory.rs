//! How much memory a training needs, from shapes alone, and which settings fit into what there is.

use std::collections::BTreeMap;

use candle_core::{DType, Device};

use super::config::TransferConfig;
use crate::methods::{Method, motion_director};
use crate::models::{ModelError, UNet3DConditionModel, UNet3DConfig, Walk, Weights, activations};
use crate::nn::Checkpointing;

/// Bytes of the program itself: its code, the libraries it loads and what they hold.
const PROGRAM_BYTES: u64 = 24 << 20;
/// Frozen weights of up to this many numbers are kept packed for products beside the originals; see `nn`.
const KEEP_PACKED: usize = 1 << 20;
/// Columns of packed weights come in multiples of this many.
const PANEL: usize = 16;
/// A variable, its gradient, and the two moments of its optimiser.
const COPIES_OF_A_VARIABLE: usize = 4;

/// What a training on the processor holds at most, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// The program and the network as it is loaded.
    pub loaded: u64,
    /// What training adds: packed weights, activations, gradients and the optimiser.
    pub working: u64,
}

impl Need {
    /// All of it.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.loaded + self.working
    }
}

/// Names and shapes of a network's weights, from its configuration alone.
#[derive(Clone, Debug)]
pub struct Network {
    config: UNet3DConfig,
    weights: BTreeMap<String, Vec<usize>>,
}

impl Network {
    /// Of a network with this configuration.
    ///
    /// # Errors
    /// When it describes no network.
    pub fn new(config: &UNet3DConfig) -> Result<Self, ModelError> {
        let recorder = Weights::recorder();
        UNet3DConditionModel::new(&recorder, config)?;
        Ok(Self {
            config: config.clone(),
            weights: recorder.asked(),
        })
    }

    /// What training it needs on latents of `clip = [f, h, w]`.
    #[must_use]
    pub fn need(&self, settings: &TransferConfig, clip: [usize; 3]) -> Need {
        let dtype = settings.precision.dtype(&Device::Cpu);
        let adapters = settings.method == Method::MotionDirector;
        let (mut frozen, mut variables, mut packed) = (0, 0, 0);
        for (name, shape) in &self.weights {
            let count: usize = shape.iter().product();
            let &[o, i, ..] = shape.as_slice() else {
                frozen += count;
                continue;
            };
            if !adapters && settings.method.trains(name) {
                variables += count;
                continue;
            }
            frozen += count;
            if count <= KEEP_PACKED {
                // Forward a panel holds outputs, backward inputs.
                let padded = |columns: usize| count / columns * columns.next_multiple_of(PANEL);
                packed += padded(o) + padded(i);
            }
            let layer = name.strip_suffix(".weight").unwrap_or(name);
            if adapters && motion_director::part_of(layer).is_some() {
                variables += settings.rank.min(o).min(i) * (o + i);
            }
        }
        let walk = Walk {
            clip,
            checkpointing: settings.checkpointing,
            temporal_rank: adapters.then_some(settings.rank),
        };
        let numbers = activations(&self.config, &walk);
        let bytes = |count: usize, size: usize| (count * size) as u64;
        Need {
            loaded: PROGRAM_BYTES + bytes(frozen, dtype.size_in_bytes()) + bytes(variables, 4),
            working: bytes(packed, 4)
                + bytes(variables, 4 * (COPIES_OF_A_VARIABLE - 1))
                // Half precision is kept in 16 bits and computed in 32.
                + bytes(numbers, if dtype == DType::F32 { 4 } else { 3 }),
        }
    }
}

/// What fits where the settings as they are do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fitting {
    /// What a step remembers.
    pub checkpointing: Checkpointing,
    /// Frames of the clip.
    pub frames: usize,
}

/// The settings nearest to what was asked for that fit into `room` bytes: first less is remembered, then there are fewer
/// frames, two at least. None where not even those fit.
pub fn fitting(room: u64, asked: Fitting, need: impl Fn(Fitting) -> u64) -> Option<Fitting> {
    let fits = |choice: &Fitting| need(*choice) <= room;
    let mut steps = vec![asked.checkpointing];
    while let Some(next) = steps.last().and_then(|last| remember_less(*last)) {
        steps.push(next);
    }
    let same_clip = steps.iter().map(|&checkpointing| Fitting {
        checkpointing,
        ..asked
    });
    let least = steps.last().copied().unwrap_or(asked.checkpointing);
    let shorter = (2..asked.frames).rev().map(|frames| Fitting {
        checkpointing: least,
        frames,
    });
    same_clip.chain(shorter).find(fits)
}

/// The setting that remembers less than this one; none after the last.
#[must_use]
pub fn remember_less(checkpointing: Checkpointing) -> Option<Checkpointing> {
    match checkpointing {
        Checkpointing::Off => Some(Checkpointing::Level),
        Checkpointing::Level => Some(Checkpointing::Block),
        Checkpointing::Block => None,
    }
}

/// Bytes that programs can have now, where the system says so: without swapping on Linux.
#[must_use]
pub fn available_bytes() -> Option<u64> {
    let table = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = table
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 10 bytes a frame without checkpointing, 6 by level, 4 by block, and one more than a line would give.
    fn of(choice: Fitting) -> u64 {
        let per_frame = match choice.checkpointing {
            Checkpointing::Off => 10,
            Checkpointing::Level => 6,
            Checkpointing::Block => 4,
        };
        per_frame * choice.frames as u64 + 1
    }

    #[test]
    fn less_is_remembered_before_frames_are_dropped() {
        let choice = |checkpointing, frames| Fitting {
            checkpointing,
            frames,
        };
        let asked = choice(Checkpointing::Off, 16);
        let found = |room| fitting(room, asked, of);
        assert_eq!(found(161), Some(asked));
        assert_eq!(found(160), Some(choice(Checkpointing::Level, 16)));
        assert_eq!(found(96), Some(choice(Checkpointing::Block, 16)));
        assert_eq!(found(64), Some(choice(Checkpointing::Block, 15)));
        assert_eq!(found(9), Some(choice(Checkpointing::Block, 2)));
        assert_eq!(found(8), None);
    }
}
