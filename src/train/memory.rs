//! How much memory a training needs, from shapes alone, and which settings fit into what there is.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device};

use super::config::TransferConfig;
use crate::methods::{Method, motion_director};
use crate::models::{
    ControlNetConfig, ControlNetModel, ImageLayers, ImageUNetConfig, InflatedUNet, Inflation,
    Layers, ModelError, ModelFolder, UNet3DConditionModel, UNet3DConfig, VideoLayers, Walk,
    Weights, activations,
};
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

/// Names and shapes of weights.
type Shapes = BTreeMap<String, Vec<usize>>;

/// Names and shapes of a model's weights, from its configuration alone.
#[derive(Clone, Debug)]
pub struct Network {
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Video {
        config: UNet3DConfig,
        weights: Shapes,
    },
    /// Inflated as each method does it.
    Image {
        config: ImageUNetConfig,
        sparse_causal: Shapes,
        key_frame: Shapes,
        controlnet: Shapes,
    },
}

impl Network {
    /// Of a model's folder, the ControlNet it was given included.
    ///
    /// # Errors
    /// When its configuration describes no network.
    pub fn of(folder: &ModelFolder) -> Result<Self, ModelError> {
        match folder.image_config() {
            Some(config) => Self::image(config, folder.controlnet_config()),
            None => Self::new(folder.video_config()?),
        }
    }

    /// Of a text-to-video network with this configuration.
    ///
    /// # Errors
    /// When it describes no network.
    pub fn new(config: &UNet3DConfig) -> Result<Self, ModelError> {
        let recorder = Weights::recorder();
        UNet3DConditionModel::new(&recorder, config)?;
        Ok(Self {
            kind: Kind::Video {
                config: config.clone(),
                weights: recorder.asked(),
            },
        })
    }

    /// Of an image model's network and the ControlNet beside it.
    ///
    /// # Errors
    /// When a configuration describes no network.
    pub fn image(
        config: &ImageUNetConfig,
        controlnet: Option<&ControlNetConfig>,
    ) -> Result<Self, ModelError> {
        let inflated = |inflation| {
            let recorder = Weights::recorder();
            InflatedUNet::new(&recorder, config, inflation)?;
            Ok::<_, ModelError>(recorder.asked())
        };
        let steering = match controlnet {
            Some(config) => {
                let recorder = Weights::recorder();
                ControlNetModel::new(&recorder, config, Inflation::KeyFrame)?;
                recorder.asked()
            }
            None => Shapes::new(),
        };
        Ok(Self {
            kind: Kind::Image {
                config: config.clone(),
                sparse_causal: inflated(Inflation::SparseCausal)?,
                key_frame: inflated(Inflation::KeyFrame)?,
                controlnet: steering,
            },
        })
    }

    /// What training it needs on latents of `clip = [f, h, w]`.
    #[must_use]
    pub fn need(&self, settings: &TransferConfig, clip: [usize; 3]) -> Need {
        let method = settings.method;
        let rank = (method == Method::MotionDirector).then_some(settings.rank);
        let none = Shapes::new();
        let (layers, weights, beside): (Box<dyn Layers + '_>, _, _) = match &self.kind {
            Kind::Video { config, weights } => {
                let temporal_rank = rank;
                let layers = VideoLayers {
                    config,
                    temporal_rank,
                };
                (Box::new(layers), weights, &none)
            }
            Kind::Image {
                config,
                sparse_causal,
                key_frame,
                controlnet,
            } => {
                let (inflation, weights, beside) = match method.is_controlled() {
                    true => (Inflation::KeyFrame, key_frame, controlnet),
                    false => (Inflation::SparseCausal, sparse_causal, &none),
                };
                (Box::new(ImageLayers { config, inflation }), weights, beside)
            }
        };
        let counts = Counts::of(weights, method, rank).and(Counts::of_passed(beside));
        let walk = Walk {
            clip,
            checkpointing: settings.checkpointing,
        };
        let numbers = activations(layers.as_ref(), &walk);
        let dtype = settings.precision.dtype(&Device::Cpu);
        let bytes = |count: usize, size: usize| (count * size) as u64;
        Need {
            loaded: PROGRAM_BYTES
                + bytes(counts.frozen, dtype.size_in_bytes())
                + bytes(counts.variables, 4),
            working: bytes(counts.packed, 4)
                + bytes(counts.variables, 4 * (COPIES_OF_A_VARIABLE - 1))
                // Half precision is kept in 16 bits and computed in 32.
                + bytes(numbers, if dtype == DType::F32 { 4 } else { 3 }),
        }
    }
}

/// How many numbers there are of each kind of weight.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    frozen: usize,
    variables: usize,
    /// Frozen ones that are kept packed as well.
    packed: usize,
}

impl Counts {
    /// Of a network that is trained by a method, or beside whose layers adapters of this rank are.
    fn of(weights: &Shapes, method: Method, rank: Option<usize>) -> Self {
        let mut counts = Self::default();
        for (name, shape) in weights {
            if rank.is_none() && method.trains(name) {
                counts.variables += shape.iter().product::<usize>();
                continue;
            }
            // Forward a panel holds outputs, backward inputs.
            counts.add_frozen(shape, true);
            let layer = name.strip_suffix(".weight").unwrap_or(name);
            if let (Some(rank), &[o, i, ..]) = (rank, shape.as_slice())
                && motion_director::part_of(layer).is_some()
            {
                counts.variables += rank.min(o).min(i) * (o + i);
            }
        }
        counts
    }

    /// Of a network that no gradient goes through.
    fn of_passed(weights: &Shapes) -> Self {
        let mut counts = Self::default();
        for shape in weights.values() {
            counts.add_frozen(shape, false);
        }
        counts
    }

    fn add_frozen(&mut self, shape: &[usize], backward: bool) {
        let count: usize = shape.iter().product();
        self.frozen += count;
        let &[o, i, ..] = shape else {
            return;
        };
        if count <= KEEP_PACKED {
            let padded = |columns: usize| count / columns * columns.next_multiple_of(PANEL);
            self.packed += padded(o) + if backward { padded(i) } else { 0 };
        }
    }

    fn and(self, other: Self) -> Self {
        Self {
            frozen: self.frozen + other.frozen,
            variables: self.variables + other.variables,
            packed: self.packed + other.packed,
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

/// Bytes that programs can have now, where the system says so: without swapping on Linux, and within the limit of a container.
#[must_use]
pub fn available_bytes() -> Option<u64> {
    let machine = machine_bytes()?;
    Some(container_bytes().map_or(machine, |container| container.min(machine)))
}

/// What is left of the tightest limit that containers and batch systems set (control groups of version 2); none without one.
fn container_bytes() -> Option<u64> {
    let table = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = table.lines().find_map(|line| line.strip_prefix("0::/"))?;
    left_in_groups("/sys/fs/cgroup".as_ref(), own)
}

/// The same for the group `own` and those it is in, below `root`.
fn left_in_groups(root: &Path, own: &str) -> Option<u64> {
    let left = |group: &Path| {
        let text = |name: &str| std::fs::read_to_string(group.join(name)).ok();
        let number = |name: &str| -> Option<u64> { text(name)?.trim().parse().ok() };
        let most = number("memory.max")?;
        // What was read from files and can be dropped counts as used.
        let cached = |line: &str| line.strip_prefix("inactive_file ")?.parse::<u64>().ok();
        let cached = text("memory.stat")?.lines().find_map(cached).unwrap_or(0);
        Some(most.saturating_sub(number("memory.current")?.saturating_sub(cached)))
    };
    let group = root.join(own);
    let groups = group
        .ancestors()
        .take_while(|group| group.starts_with(root));
    groups.filter_map(left).min()
}

fn machine_bytes() -> Option<u64> {
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

    #[test]
    fn the_tightest_limit_of_a_container_counts() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("batch/job");
        std::fs::create_dir_all(&inner).unwrap();
        let write = |group: &Path, max: &str, current: &str, cached: &str| {
            std::fs::write(group.join("memory.max"), format!("{max}\n")).unwrap();
            std::fs::write(group.join("memory.current"), format!("{current}\n")).unwrap();
            let stat = format!("anon 5\ninactive_file {cached}\nactive_file 9\n");
            std::fs::write(group.join("memory.stat"), stat).unwrap();
        };
        let left = || left_in_groups(root.path(), "batch/job");
        assert_eq!(left(), None, "without files there is no limit");
        write(&inner, "max", "500", "100");
        assert_eq!(left(), None, "a group without a limit");
        write(inner.parent().unwrap(), "1000", "500", "100");
        assert_eq!(left(), Some(600));
        write(&inner, "300", "250", "10");
        assert_eq!(left(), Some(60));
        write(&inner, "300", "400", "10");
        assert_eq!(left(), Some(0), "over the limit");
    }

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
