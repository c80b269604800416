//! LoRA files of other programs (and what this one exports): read, held against a model's networks, added to its weights.
//!
//! A file may come from anywhere. Its tables of contents are read by the same readers as a model's weights, which believe
//! no length and run nothing; every name and shape is held against the networks before a tensor is read.

mod lists;
mod merge;
mod names;
mod settings;

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::adapter::{AdapterName, Factor};
use super::error::{KeyReport, ModelError, WrongShape, enumerate, shown};
use super::weight_file::{OneFile, StoredTensor};
pub(super) use merge::Delta;
pub use merge::LoraDeltas;
use names::{Key, LayerName, Role};
pub use names::{LoraFormat, LoraPart};
use settings::{PEFT_FILE, PeftSettings};

/// A rank no layer needs; keeps a file of many tiny tensors from asking for large products.
const MOST_RANK: usize = 65_536;

/// Names and shapes of the weights that a LoRA may change.
#[derive(Clone, Debug, Default)]
pub struct LoraNetwork {
    /// Of the denoising network.
    pub unet: BTreeMap<String, Vec<usize>>,
    /// Of the text encoder, without a leading `text_model.`.
    pub text: BTreeMap<String, Vec<usize>>,
}

impl LoraNetwork {
    fn part(&self, part: LoraPart) -> &BTreeMap<String, Vec<usize>> {
        match part {
            LoraPart::Unet => &self.unet,
            LoraPart::Text => &self.text,
        }
    }
}

/// Both factors of a layer, as far as the file has them.
#[derive(Clone, Debug, Default)]
struct Pair {
    down: Option<StoredTensor>,
    up: Option<StoredTensor>,
    alpha: Option<f64>,
}

/// Factors without names, for one network or for whichever they fit.
#[derive(Clone, Debug)]
struct Listed {
    part: Option<LoraPart>,
    /// Down and up.
    pairs: Vec<(StoredTensor, StoredTensor)>,
}

/// A LoRA file whose table of contents has been read and whose numbers have not.
#[derive(Clone, Debug)]
pub struct LoraFile {
    file: String,
    format: LoraFormat,
    pairs: BTreeMap<(LoraPart, LayerName), Pair>,
    listed: Vec<Listed>,
    /// Names that are no part of a LoRA.
    unknown: Vec<String>,
    /// What the names are those of, where this program cannot use it.
    kind: Option<&'static str>,
    settings: PeftSettings,
    /// Words of its own that it learned beside the networks.
    words: Vec<String>,
    notes: BTreeMap<String, String>,
}

/// One layer of a LoRA that fits a network.
#[derive(Clone, Debug)]
pub struct FittedLayer {
    /// Which network.
    pub part: LoraPart,
    /// Full name of the weight that it changes.
    pub weight: String,
    /// Inner width.
    pub rank: usize,
    /// `alpha / rank`.
    pub scale: f64,
    /// Shape of the weight.
    shape: Vec<usize>,
    down: StoredTensor,
    up: StoredTensor,
}

/// The layers of a LoRA that fit a model.
#[derive(Clone, Debug)]
pub struct FittedLora {
    /// Where it came from, for messages.
    pub file: String,
    /// How the file names its tensors.
    pub format: LoraFormat,
    /// Its layers, in the order of their names.
    pub layers: Vec<FittedLayer>,
    /// What a person should know of it though it fits, each the rest of a sentence.
    pub remarks: Vec<String>,
}

impl FittedLayer {
    /// The factors in `f32`, in the shapes that the file has: `[r, i ..]` and `[o, r ..]`.
    fn factors(&self) -> Result<(Tensor, Tensor), ModelError> {
        let read = |tensor: &StoredTensor| tensor.read(DType::F32, &Device::Cpu);
        Ok((read(&self.down)?, read(&self.up)?))
    }
}

impl FittedLora {
    /// Smallest and largest inner width.
    #[must_use]
    pub fn ranks(&self) -> Option<(usize, usize)> {
        let ranks = || self.layers.iter().map(|layer| layer.rank);
        ranks().min().zip(ranks().max())
    }

    /// How many layers of a network it changes.
    #[must_use]
    pub fn count(&self, part: LoraPart) -> usize {
        self.layers
            .iter()
            .filter(|layer| layer.part == part)
            .count()
    }

    /// The same as adapters beside the layers of the denoising network, by the names of their variables; none where one
    /// changes another network, stands beside a convolution, or is scaled.
    ///
    /// # Errors
    /// When a tensor cannot be read.
    pub fn adapters(&self) -> Result<Option<BTreeMap<String, Tensor>>, ModelError> {
        let mut adapters = BTreeMap::new();
        for fitted in &self.layers {
            let scaled = fitted.scale.to_bits() != 1.0_f64.to_bits();
            let layer = fitted.weight.strip_suffix(".weight");
            let (Some(layer), 2, LoraPart::Unet, false) =
                (layer, fitted.shape.len(), fitted.part, scaled)
            else {
                return Ok(None);
            };
            let (down, up) = fitted.factors()?;
            let factors = [
                (Factor::Down, down.reshape((fitted.rank, ()))?),
                (Factor::Up, up.reshape(((), fitted.rank))?),
            ];
            for (factor, tensor) in factors {
                let set = 0;
                adapters.insert(AdapterName { layer, set, factor }.to_string(), tensor);
            }
        }
        Ok(Some(adapters))
    }
}

impl LoraFile {
    /// Reads the table of contents: PyTorch's where the name ends in `.bin`, `.pt`, `.pth` or `.ckpt`, else safetensors.
    ///
    /// # Errors
    /// When the file cannot be read, is damaged, or asks for anything but tensors.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let file = path.display().to_string();
        let OneFile {
            mut named,
            listed,
            notes,
        } = OneFile::open(path)?;
        let words = names::take_words(&mut named, &notes);
        let mut lora = Self {
            kind: names::other_kind(named.keys().map(String::as_str)),
            settings: PeftSettings::read(path, &named, &notes).map_err(|why| ModelError::Lora {
                file: file.clone(),
                why,
            })?,
            file,
            format: LoraFormat::Own,
            pairs: BTreeMap::new(),
            listed: Vec::new(),
            unknown: Vec::new(),
            words,
            notes,
        };
        if lora.settings.dora {
            lora.kind = Some("it is a DoRA, and only plain LoRA is read");
        }
        if !listed.is_empty() {
            lora.format = LoraFormat::List;
            lora.list(&listed)?;
        } else if named.keys().any(|name| number(name).is_some()) {
            lora.format = LoraFormat::Numbered;
            lora.numbered(named);
        } else {
            lora.named(named)?;
        }
        Ok(lora)
    }

    /// How it names its tensors.
    #[must_use]
    pub fn format(&self) -> LoraFormat {
        self.format
    }

    /// Whether any of its names is that of a LoRA.
    #[must_use]
    pub fn is_lora(&self) -> bool {
        !self.pairs.is_empty() || !self.listed.is_empty() || self.kind.is_some()
    }

    /// What it is, where this program cannot use it.
    #[must_use]
    pub fn kind(&self) -> Option<&'static str> {
        self.kind
    }

    /// A text in the file's header.
    #[must_use]
    pub fn note(&self, key: &str) -> Option<&str> {
        self.notes.get(key).map(String::as_str)
    }

    fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        if self.settings.are_missing && self.pairs.values().any(|pair| pair.alpha.is_none()) {
            remarks.push(format!(
                "its alpha is in {PEFT_FILE}, which is not beside it; alpha = rank is assumed"
            ));
        }
        if !self.words.is_empty() {
            let words = enumerate(&self.words);
            remarks.push(format!(
                "what it learned for words of its own is not used ({words})"
            ));
        }
        remarks
    }

    fn refuse(&self, why: impl Into<String>) -> ModelError {
        ModelError::Lora {
            file: self.file.clone(),
            why: why.into(),
        }
    }

    /// `up, down, up, down, ...`
    fn list(&mut self, tensors: &[StoredTensor]) -> Result<(), ModelError> {
        let (pairs, single) = tensors.as_chunks::<2>();
        if !single.is_empty() {
            let why = format!("its list holds {} tensors, not pairs", tensors.len());
            return Err(self.refuse(why));
        }
        let pairs = pairs.iter().map(|[up, down]| (down.clone(), up.clone()));
        self.listed.push(Listed {
            part: None,
            pairs: pairs.collect(),
        });
        Ok(())
    }

    /// `unet:0:up`, `unet:0:down`, ...
    fn numbered(&mut self, named: BTreeMap<String, StoredTensor>) {
        let mut parts: BTreeMap<LoraPart, BTreeMap<usize, Pair>> = BTreeMap::new();
        for (name, tensor) in named {
            let Some((part, at, role)) = number(&name) else {
                self.unknown.push(name);
                continue;
            };
            let pair = parts.entry(part).or_default().entry(at).or_default();
            match role {
                Role::Down => pair.down = Some(tensor),
                _ => pair.up = Some(tensor),
            }
        }
        for (part, pairs) in parts {
            let count = pairs.len();
            // Counted on from 0, both factors of each.
            let whole = pairs
                .into_iter()
                .enumerate()
                .map_while(|(at, (number, pair))| {
                    (at == number).then_some(())?;
                    Some((pair.down?, pair.up?))
                });
            let whole: Vec<_> = whole.collect();
            if whole.len() < count {
                let name = match part {
                    LoraPart::Unet => "unet",
                    LoraPart::Text => "text_encoder",
                };
                self.unknown.push(format!("{name}:{}", whole.len()));
            }
            self.listed.push(Listed {
                part: Some(part),
                pairs: whole,
            });
        }
    }

    fn named(&mut self, named: BTreeMap<String, StoredTensor>) -> Result<(), ModelError> {
        let mut format = None;
        for (name, tensor) in named {
            let Some(Key {
                part,
                layer,
                role,
                format: spelled,
            }) = names::parse(&name)
            else {
                self.unknown.push(name);
                continue;
            };
            let pair = self.pairs.entry((part, layer)).or_default();
            let slot = match role {
                Role::Down => &mut pair.down,
                Role::Up => &mut pair.up,
                Role::Alpha => {
                    let alpha = tensor.number().filter(|number| number.is_finite());
                    pair.alpha = Some(alpha.ok_or_else(|| {
                        let why = format!("{} is no number", shown(&name));
                        ModelError::Lora {
                            file: self.file.clone(),
                            why,
                        }
                    })?);
                    continue;
                }
            };
            if slot.replace(tensor).is_some() {
                return Err(self.refuse(format!("{} is there in two spellings", shown(&name))));
            }
            format.get_or_insert(spelled);
        }
        self.format = format.unwrap_or(LoraFormat::Own);
        Ok(())
    }

    /// Holds the file against a model's networks.
    ///
    /// # Errors
    /// [`ModelError::Lora`] with everything that does not fit.
    pub fn fit(&self, network: &LoraNetwork) -> Result<FittedLora, ModelError> {
        let (fitted, report) = self.look(network);
        if let Some(why) = self.kind {
            return Err(self.refuse(why));
        }
        if report.is_clean() && !fitted.layers.is_empty() {
            return Ok(fitted);
        }
        if fitted.layers.is_empty() && report.is_clean() {
            return Err(self.refuse("it holds no LoRA"));
        }
        let start = match fitted.layers.len() {
            0 => "none of its layers is one of this model".to_owned(),
            1 => "only one of its layers fits".to_owned(),
            more => format!("only {more} of its layers fit"),
        };
        Err(self.refuse(start + &report.differences()))
    }

    /// What fits a model's networks, and what does not.
    #[must_use]
    pub fn look(&self, network: &LoraNetwork) -> (FittedLora, KeyReport) {
        let mut fitted = FittedLora {
            file: self.file.clone(),
            format: self.format,
            layers: Vec::new(),
            remarks: self.remarks(),
        };
        let mut report = KeyReport {
            files: self.file.clone(),
            unexpected: self.unknown.iter().map(|name| shown(name)).collect(),
            ..KeyReport::default()
        };
        let parts = [LoraPart::Unet, LoraPart::Text];
        let underscored = parts.map(|part| Underscored::of(network.part(part)));
        for ((part, layer), pair) in &self.pairs {
            let (name, told) = match layer {
                LayerName::Dotted(name) => (Some(name.as_str()), name),
                LayerName::Underscored(name) => {
                    let names = &underscored[usize::from(*part == LoraPart::Text)];
                    (names.0.get(name).copied(), name)
                }
            };
            let known = name.and_then(|name| {
                let weight = format!("{name}.weight");
                let shape = network.part(*part).get(&weight)?;
                (shape.len() >= 2).then_some((weight, shape))
            });
            let Some((weight, shape)) = known else {
                report.unexpected.push(shown(told));
                continue;
            };
            let (Some(down), Some(up)) = (&pair.down, &pair.up) else {
                let half = if pair.down.is_none() {
                    "lower"
                } else {
                    "upper"
                };
                report
                    .missing
                    .push(format!("the {half} factor of {}", shown(told)));
                continue;
            };
            let scale = |rank: usize| match pair.alpha {
                Some(alpha) => alpha / rank as f64,
                None => self.settings.scale(*part, name.unwrap_or_default(), rank),
            };
            match fit_layer((*part, weight), shape, (down, up), &scale) {
                Ok(layer) => fitted.layers.push(layer),
                Err(wrong) => report.wrong_shape.extend(wrong),
            }
        }
        for listed in &self.listed {
            fit_list(listed, network, &mut fitted, &mut report);
        }
        (fitted, report)
    }
}

/// A list stands for the first order of layers that all its shapes fit.
fn fit_list(
    listed: &Listed,
    network: &LoraNetwork,
    fitted: &mut FittedLora,
    report: &mut KeyReport,
) {
    let parts = match listed.part {
        Some(part) => vec![part],
        None => vec![LoraPart::Unet, LoraPart::Text],
    };
    let mut counts = Vec::new();
    let mut as_long = false;
    for part in parts {
        let shapes = network.part(part);
        for order in lists::candidates(part, shapes) {
            if order.len() != listed.pairs.len() {
                counts.push(order.len().to_string());
                continue;
            }
            as_long = true;
            let layers = order.iter().zip(&listed.pairs).map(|(layer, (down, up))| {
                let weight = format!("{layer}.weight");
                let shape = shapes.get(&weight)?;
                fit_layer((part, weight), shape, (down, up), &|_| 1.0).ok()
            });
            if let Some(layers) = layers.collect::<Option<Vec<_>>>() {
                fitted.layers.extend(layers);
                return;
            }
        }
    }
    counts.dedup();
    let count = listed.pairs.len();
    report.unexpected.push(match as_long {
        true => format!("a list of {count} layers of other shapes"),
        false => {
            let known = counts.join(", ");
            format!("a list of {count} layers where this model's lists have {known}")
        }
    });
}

/// Layers by their names with underscores for dots; those of which two have the same are left out.
struct Underscored<'a>(BTreeMap<String, &'a str>);

impl<'a> Underscored<'a> {
    fn of(shapes: &'a BTreeMap<String, Vec<usize>>) -> Self {
        let mut names = BTreeMap::new();
        let mut twice = Vec::new();
        for layer in shapes
            .keys()
            .filter_map(|name| name.strip_suffix(".weight"))
        {
            let name = layer.replace('.', "_");
            if names.insert(name.clone(), layer).is_some() {
                twice.push(name);
            }
        }
        for name in twice {
            names.remove(&name);
        }
        Self(names)
    }
}

/// Axes of one at the end do not count: a layer of a single pixel is written with and without them.
fn bare(shape: &[usize]) -> &[usize] {
    let end = shape
        .iter()
        .rposition(|&size| size != 1)
        .map_or(0, |at| at + 1);
    &shape[..end.max(2).min(shape.len())]
}

/// Holds both factors against the weight: `down [r, i ..]` with the axes of the weight behind its first, `up [o, r]`.
fn fit_layer(
    (part, weight): (LoraPart, String),
    shape: &[usize],
    (down, up): (&StoredTensor, &StoredTensor),
    scale: &dyn Fn(usize) -> f64,
) -> Result<FittedLayer, Vec<WrongShape>> {
    let rank = down.shape().first().copied().unwrap_or_default();
    let rank = rank.clamp(1, MOST_RANK);
    let axes = |first: usize| [&[first][..], &shape[1..]].concat();
    let (expected_down, expected_up) = (axes(rank), vec![shape[0], rank]);
    let mut wrong = Vec::new();
    for (name, expected, found) in [
        ("down", expected_down, down.shape()),
        ("up", expected_up, up.shape()),
    ] {
        if bare(&expected) != bare(found) {
            wrong.push(WrongShape {
                name: format!("{} {name}", shown(weight.trim_end_matches(".weight"))),
                expected,
                found: found.to_vec(),
            });
        }
    }
    if !wrong.is_empty() {
        return Err(wrong);
    }
    Ok(FittedLayer {
        part,
        weight,
        rank,
        scale: scale(rank),
        shape: shape.to_vec(),
        down: down.clone(),
        up: up.clone(),
    })
}

/// `unet:3:up` of cloneofsimo's safetensors.
fn number(name: &str) -> Option<(LoraPart, usize, Role)> {
    let (part, rest) = name.split_once(':')?;
    let (number, role) = rest.split_once(':')?;
    let part = match part {
        "unet" => LoraPart::Unet,
        "text_encoder" => LoraPart::Text,
        _ => return None,
    };
    let role = match role {
        "up" => Role::Up,
        "down" => Role::Down,
        _ => return None,
    };
    Some((part, number.parse().ok()?, role))
}
