//! Trained weights in a file, put on a model again: adapters beside its layers, or weights in place of its own.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::Device;

use super::Method;
use super::motion_director::{self, Part};
use super::tuned::{Branches, Precision, Tuned, Tuning};
use crate::models::{
    AdapterName, Adapters, CONTROLNET_PREFIX, ControlNetModel, Factor, InflatedUNet, Inflation,
    KeyReport, ModelError, ModelFolder, ModelKind, TemporalBias, UNet3DConditionModel, Weights,
    WrongShape, shown,
};

/// Names of a file's tensors with their shapes.
pub type Shapes = BTreeMap<String, Vec<usize>>;

/// Inner width by layer and set.
type Ranks = BTreeMap<String, BTreeMap<usize, usize>>;

/// What a file of trained weights holds, told by the names and shapes in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    shapes: Shapes,
    /// Empty where the file holds weights of the network itself.
    ranks: Ranks,
    method: Method,
}

impl Saved {
    /// Holds a file's names and shapes against a model. Reads no weight of the model.
    ///
    /// # Errors
    /// [`ModelError::Trained`] with every tensor that is no adapter of a layer of this network and no weight of it, has
    /// another shape, or lacks its other half; `file` names it.
    pub fn check(file: &str, shapes: Shapes, folder: &ModelFolder) -> Result<Self, ModelError> {
        let mut report = KeyReport {
            files: file.to_owned(),
            ..KeyReport::default()
        };
        let method = method_of(&shapes, folder.kind());
        let network = network_shapes(folder, method)?;
        let ranks = if method == Method::MotionDirector {
            check_adapters(&shapes, &network, &mut report)
        } else {
            // Of a text-to-video network any matrix can be replaced, of an inflated one what its method trains.
            let takes = |name: &str, shape: &[usize]| match method.model_kind() {
                ModelKind::Video => shape.len() == 2,
                ModelKind::Image => method.trains(name),
            };
            check_weights(&shapes, &network, &takes, &mut report);
            Ranks::new()
        };
        if shapes.is_empty() || !report.is_clean() {
            return Err(ModelError::Trained(Box::new(report)));
        }
        Ok(Self {
            shapes,
            ranks,
            method,
        })
    }

    /// The method that leaves such weights.
    #[must_use]
    pub fn method(&self) -> Method {
        self.method
    }

    /// Largest inner width of the adapters; none where the file holds weights of the network itself.
    #[must_use]
    pub fn rank(&self) -> Option<usize> {
        self.ranks
            .values()
            .flat_map(BTreeMap::values)
            .copied()
            .max()
    }

    /// Sets of spatial adapters: one for each clip of the training, or one for all.
    #[must_use]
    pub fn spatial_sets(&self) -> usize {
        let spatial = |layer: &str| motion_director::part_of(layer) == Some(Part::Spatial);
        let sets = self.ranks.iter().filter(|(layer, _)| spatial(layer));
        sets.flat_map(|(_, sets)| sets.keys())
            .map(|set| set + 1)
            .max()
            .unwrap_or(0)
    }

    /// Loads the network with room for the file's tensors: a variable of each name, whose value is not the file's yet.
    ///
    /// # Errors
    /// When the model's own weights cannot be read or do not fit.
    pub fn load(&self, folder: &ModelFolder, device: &Device) -> Result<Tuned, ModelError> {
        let holds = |name: &str| self.shapes.contains_key(name);
        if self.method.model_kind() == ModelKind::Image {
            // All that is random at the start is in the file.
            let tuning = Tuning {
                rank: 1,
                seed: 0,
                spatial_sets: 1,
                precision: Precision::Auto,
                temporal_bias: TemporalBias::Zero,
                control_scale: 1.0,
            };
            return self.method.load_inflated(folder, tuning, &holds, device);
        }
        if self.ranks.is_empty() {
            let (unet, vars) = folder.load_unet(&holds, device)?;
            return Ok(Tuned::plain(unet, vars));
        }
        let branches = Branches::new(self.spatial_sets());
        let (chosen, ranks) = (branches.clone(), self.ranks.clone());
        let choose = move |layer: &str| {
            let ranks = ranks.get(layer);
            chosen.beside(layer, |set| ranks?.get(&set).copied())
        };
        let adapters = Adapters {
            choose: Box::new(choose),
            seed: 0,
        };
        let weights = folder.unet_weights(device.bf16_default_to_f32(), device)?;
        Tuned::adapted(&weights, folder.video_config()?, branches, adapters)
    }
}

/// The method that leaves weights of these names for such a model.
fn method_of(shapes: &Shapes, kind: ModelKind) -> Method {
    let any = |is: &dyn Fn(&str) -> bool| shapes.keys().any(|name| is(name));
    match kind {
        ModelKind::Video if any(&|name| AdapterName::parse(name).is_some()) => {
            Method::MotionDirector
        }
        ModelKind::Video => Method::Vmc,
        ModelKind::Image
            if any(&|name| name.contains(".conv_temp.") || name.starts_with(CONTROLNET_PREFIX)) =>
        {
            Method::ControlVideo
        }
        ModelKind::Image => Method::TuneAVideo,
    }
}

/// Names and shapes of all weights of a model's denoising network, from its configuration alone.
fn network_shapes(folder: &ModelFolder, method: Method) -> Result<Shapes, ModelError> {
    let recorder = Weights::recorder();
    if let Some(config) = folder.unet_config() {
        UNet3DConditionModel::new(&recorder, config)?;
        return Ok(recorder.asked());
    }
    let inflation = match method.is_controlled() {
        true => Inflation::KeyFrame,
        false => Inflation::SparseCausal,
    };
    if let Some(config) = folder.image_config() {
        InflatedUNet::new(&recorder, config, inflation)?;
    }
    let mut shapes = recorder.asked();
    if let Some(config) = folder.controlnet_config() {
        let recorder = Weights::recorder();
        ControlNetModel::new(&recorder, config, inflation)?;
        let asked = recorder.asked().into_iter();
        shapes.extend(asked.map(|(name, shape)| (format!("{CONTROLNET_PREFIX}{name}"), shape)));
    }
    Ok(shapes)
}

/// Adapters come in pairs beside layers that MotionDirector puts some beside, in sets without a gap.
fn check_adapters(shapes: &Shapes, network: &Shapes, report: &mut KeyReport) -> Ranks {
    let mut ranks = Ranks::new();
    let mut sets = BTreeSet::new();
    for (name, shape) in shapes {
        let adapter = AdapterName::parse(name);
        let of_layer = adapter.and_then(|adapter| {
            let part = motion_director::part_of(adapter.layer)?;
            let weight = network.get(&format!("{}.weight", adapter.layer))?;
            let &[o, i] = weight.as_slice() else {
                return None;
            };
            let fits = part == Part::Spatial || adapter.set == 0;
            fits.then_some((adapter, part, i, o))
        });
        let Some((adapter, part, i, o)) = of_layer else {
            report.unexpected.push(shown(name));
            continue;
        };
        if part == Part::Spatial {
            sets.insert(adapter.set);
        }
        let AdapterName { layer, set, factor } = adapter;
        let other = match factor {
            Factor::Down => Factor::Up,
            Factor::Up => Factor::Down,
        };
        let other = AdapterName {
            layer,
            set,
            factor: other,
        }
        .to_string();
        let Some(other_shape) = shapes.get(&other) else {
            report.missing.push(shown(&other));
            continue;
        };
        // The lower factor says the rank, and the upper one must agree.
        let down = match factor {
            Factor::Down => shape,
            Factor::Up => other_shape,
        };
        let most = i.min(o).max(1);
        let rank = down.first().copied().unwrap_or_default().clamp(1, most);
        let expected = match factor {
            Factor::Down => vec![rank, i],
            Factor::Up => vec![o, rank],
        };
        if *shape != expected {
            report.wrong_shape.push(WrongShape {
                name: shown(name),
                expected,
                found: shape.clone(),
            });
            continue;
        }
        ranks.entry(layer.to_owned()).or_default().insert(set, rank);
    }
    // Numbers of sets are counted on from the first, so that a file cannot ask for a million of them.
    if sets.iter().enumerate().any(|(at, set)| at != *set) {
        let stray = |name: &&String| {
            AdapterName::parse(name).is_some_and(|adapter| adapter.set >= sets.len())
        };
        let strays = shapes.keys().filter(stray);
        report.unexpected.extend(strays.map(|name| shown(name)));
    }
    ranks
}

/// Weights stand for those of the network that `takes` allows by name and shape.
fn check_weights(
    shapes: &Shapes,
    network: &Shapes,
    takes: &dyn Fn(&str, &[usize]) -> bool,
    report: &mut KeyReport,
) {
    for (name, shape) in shapes {
        match network.get(name).filter(|expected| takes(name, expected)) {
            Some(expected) if expected == shape => {}
            Some(expected) => report.wrong_shape.push(WrongShape {
                name: shown(name),
                expected: expected.clone(),
                found: shape.clone(),
            }),
            None => report.unexpected.push(shown(name)),
        }
    }
}
