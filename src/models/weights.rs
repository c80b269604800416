//! Names to tensors: a network asks for its weights here while it is built.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::path::PathBuf;
use std::rc::Rc;

use candle_core::{DType, Device, Tensor, Var};

use super::adapter::{AdapterName, Adapters, Factor};
use super::error::{KeyReport, ModelError, WrongShape};
use super::lora::Delta;
use super::source::{FileBytes, FileSource};
use super::weight_file::{StoredTensor, index_files};
use crate::nn::lora::starting_values;
use crate::nn::{
    Conv2d, Conv2dConfig, GroupNorm, LayerNorm, Linear, Lora, NoiseStream, Param, Purpose,
    TemporalConv,
};

/// Result of asking for a layer. A missing or misshapen weight is no error at once: it is noted, and
/// [`Weights::finish`] tells all of them together.
type Built<T> = Result<T, ModelError>;

/// How many more weights a network may ask for than its files hold. The largest one here has 1,480; a configuration that
/// asks for more than this describes another network or an absurd one, and the list of what is missing would be of no use.
const MOST_MISSES: usize = 4096;
/// Kernel width of every convolution over frames.
const TEMPORAL_TAPS: usize = 3;

/// Binary digits of the room that each set of adapters has in the stream of starting values, in blocks of four numbers.
const ROOM_OF_A_SET: u32 = 32;

/// The weights of one network, and a note of everything that was asked for.
///
/// Clones and the results of [`Weights::pp`] share one store; a prefix is put before every name asked for.
#[derive(Clone)]
pub struct Weights {
    store: Rc<Store>,
    prefix: String,
}

struct Store {
    /// Where the weights came from, for messages.
    files: String,
    tensors: Rc<BTreeMap<String, Entry>>,
    dtype: DType,
    device: Device,
    mode: Mode,
    notes: RefCell<Notes>,
}

/// What happens with a weight that is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// It is read.
    Read,
    /// Its name and shape are compared with the files; the layer gets a placeholder.
    Compare,
    /// Its name and shape are noted; the layer gets a placeholder.
    Record,
}

#[derive(Clone)]
enum Entry {
    Stored(StoredTensor),
    Memory(Tensor),
    /// Made when it is asked for, in this shape.
    Initial(Vec<usize>, Initial),
    /// Another one with low-rank products added to it.
    Merged(Box<Entry>, Vec<Delta>),
}

impl Entry {
    fn shape(&self) -> &[usize] {
        match self {
            Self::Stored(stored) => stored.shape(),
            Self::Memory(tensor) => tensor.dims(),
            Self::Initial(shape, _) => shape,
            Self::Merged(entry, _) => entry.shape(),
        }
    }

    fn read(&self, dtype: DType, device: &Device) -> Built<Tensor> {
        match self {
            Self::Stored(stored) => stored.read(dtype, device),
            Self::Memory(tensor) => Ok(tensor.to_dtype(dtype)?.to_device(device)?),
            Self::Initial(shape, values) => values.values(shape, dtype, device),
            Self::Merged(entry, deltas) => {
                // Added up in full precision where it is quick to do, then rounded once.
                let wide = match dtype {
                    DType::F64 => DType::F64,
                    _ => DType::F32,
                };
                let start = entry.read(wide, &Device::Cpu)?;
                let sum = deltas
                    .iter()
                    .try_fold(start, |sum, delta| delta.add_to(&sum))?;
                Ok(sum.to_dtype(dtype)?.to_device(device)?)
            }
        }
    }
}

/// Starting values of a weight that no file holds.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Initial {
    /// This number everywhere.
    Constant(f64),
    /// Uniform within `±bound`: a stretch of the stream of starting values, said by seed and lane.
    Uniform {
        /// Largest size of a value.
        bound: f64,
        /// Seed of the stream.
        seed: u64,
        /// The stretch.
        lane: u32,
    },
    /// The values of the weight of this name.
    Copy(String),
}

impl Initial {
    /// Uniform within `±bound`, from the first stretch of seed 0.
    pub(super) fn uniform(bound: f64) -> Self {
        Self::Uniform {
            bound,
            seed: 0,
            lane: 0,
        }
    }

    /// The same, with random values drawn from this stretch.
    pub(super) fn drawn_at(self, seed: u64, lane: u32) -> Self {
        match self {
            Self::Uniform { bound, .. } => Self::Uniform { bound, seed, lane },
            other => other,
        }
    }

    fn values(&self, shape: &[usize], dtype: DType, device: &Device) -> Built<Tensor> {
        let tensor = match self {
            Self::Constant(value) => Tensor::full(*value, shape, &Device::Cpu)?,
            Self::Uniform { bound, seed, lane } => NoiseStream::new(*seed, Purpose::Init)
                .lane(*lane)
                .uniform(shape, &Device::Cpu)?
                .affine(2.0 * bound, -bound)?,
            Self::Copy(name) => {
                let why = format!("the starting values of {name} were not found");
                return Err(candle_core::Error::Msg(why).into());
            }
        };
        Ok(tensor.to_dtype(dtype)?.to_device(device)?)
    }
}

#[derive(Default)]
struct Notes {
    adapters: Option<Adapters>,
    /// Where each set of adapters is in the stream of starting values.
    adapter_noise: BTreeMap<usize, NoiseStream>,
    trainable: BTreeSet<String>,
    vars: BTreeMap<String, Var>,
    asked: BTreeMap<String, Vec<usize>>,
    missing: BTreeSet<String>,
    wrong_shape: Vec<WrongShape>,
}

impl Weights {
    /// Opens weight files (one, or the shards of one network): PyTorch's where the name ends in `.bin`, `.pt`, `.pth`
    /// or `.ckpt`, else safetensors. Tensors are read as `dtype` onto `device` when they are asked for; the files stay
    /// mapped as long as this value or a clone lives.
    ///
    /// # Errors
    /// When a file cannot be read, is damaged, asks for anything but tensors, or a name occurs twice.
    pub fn open(files: &[PathBuf], dtype: DType, device: &Device) -> Built<Self> {
        let opened = files
            .iter()
            .map(|path| Ok((path.display().to_string(), FileBytes::map(path)?)));
        Self::from_bytes(opened.collect::<Built<Vec<_>>>()?, dtype, device)
    }

    /// As [`Self::open`] for files inside a model's folder or inside the program.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn from_source(
        source: &FileSource,
        files: &[String],
        dtype: DType,
        device: &Device,
    ) -> Built<Self> {
        let opened = files.iter().map(|file| {
            Ok((
                source.locate(file).display().to_string(),
                source.bytes(file)?,
            ))
        });
        Self::from_bytes(opened.collect::<Built<Vec<_>>>()?, dtype, device)
    }

    /// Weights that are in memory already; they are converted to `dtype` on `device` when asked for.
    pub fn from_map(tensors: BTreeMap<String, Tensor>, dtype: DType, device: &Device) -> Self {
        let tensors = tensors
            .into_iter()
            .map(|(name, tensor)| (name, Entry::Memory(tensor)))
            .collect();
        Self::with_entries("memory".to_owned(), tensors, dtype, device)
    }

    /// Weights that hold nothing and note the name and shape of everything asked for. A network built from them has
    /// layers of placeholder size and cannot run; its full list of keys is in [`Self::asked`].
    pub fn recorder() -> Self {
        let mut weights = Self::with_entries(
            "recorder".to_owned(),
            BTreeMap::new(),
            DType::F32,
            &Device::Cpu,
        );
        if let Some(store) = Rc::get_mut(&mut weights.store) {
            store.mode = Mode::Record;
        }
        weights
    }

    /// The same weights, compared and not read: a network built from them has layers of placeholder size and cannot run, but
    /// building it tells everything that does not fit, as [`Self::finish`] does. What shall learn is not asked about.
    #[must_use]
    pub fn without_reading(&self) -> Self {
        let store = Store {
            files: self.store.files.clone(),
            tensors: Rc::clone(&self.store.tensors),
            dtype: self.store.dtype,
            device: Device::Cpu,
            mode: Mode::Compare,
            notes: RefCell::new(Notes::default()),
        };
        Self {
            store: Rc::new(store),
            prefix: self.prefix.clone(),
        }
    }

    /// The same weights with starting values for further ones; a copy of a weight that is not there is left out, so that
    /// [`Self::finish`] tells both.
    pub(super) fn with_initial(&self, added: BTreeMap<String, (Vec<usize>, Initial)>) -> Self {
        let mut tensors = (*self.store.tensors).clone();
        for (name, (shape, values)) in added {
            let entry = match values {
                Initial::Copy(of) => match self.store.tensors.get(&of) {
                    Some(entry) => entry.clone(),
                    None => continue,
                },
                values => Entry::Initial(shape, values),
            };
            tensors.insert(name, entry);
        }
        self.holding(tensors)
    }

    /// The same weights with low-rank products added to those of these names. What is not there is left out: whoever made
    /// the products has held them against the network.
    #[must_use]
    pub(super) fn with_merged(&self, deltas: &BTreeMap<String, Vec<Delta>>) -> Self {
        let mut tensors = (*self.store.tensors).clone();
        for (name, added) in deltas {
            if let Some(entry) = tensors.get_mut(name) {
                *entry = Entry::Merged(Box::new(entry.clone()), added.clone());
            }
        }
        self.holding(tensors)
    }

    /// As these, with other tensors, of which none was asked for yet.
    fn holding(&self, tensors: BTreeMap<String, Entry>) -> Self {
        let store = Store {
            files: self.store.files.clone(),
            tensors: Rc::new(tensors),
            dtype: self.store.dtype,
            device: self.store.device.clone(),
            mode: self.store.mode,
            notes: RefCell::new(Notes::default()),
        };
        Self {
            store: Rc::new(store),
            prefix: self.prefix.clone(),
        }
    }

    fn from_bytes(files: Vec<(String, FileBytes)>, dtype: DType, device: &Device) -> Built<Self> {
        let shown: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
        let shown = shown.join(", ");
        let tensors = index_files(files)?
            .into_iter()
            .map(|(name, tensor)| (name, Entry::Stored(tensor)));
        Ok(Self::with_entries(shown, tensors.collect(), dtype, device))
    }

    fn with_entries(
        files: String,
        tensors: BTreeMap<String, Entry>,
        dtype: DType,
        device: &Device,
    ) -> Self {
        let notes = RefCell::new(Notes::default());
        let store = Store {
            files,
            tensors: Rc::new(tensors),
            dtype,
            device: device.clone(),
            mode: Mode::Read,
            notes,
        };
        Self {
            store: Rc::new(store),
            prefix: String::new(),
        }
    }

    /// The same weights seen from one part of the network: `pp("mid_block").pp(0)` asks below `mid_block.0.`.
    #[must_use]
    pub fn pp(&self, part: impl Display) -> Self {
        Self {
            store: Rc::clone(&self.store),
            prefix: self.full_name(part) + ".",
        }
    }

    /// Chooses by full name which weights learn. Call it before the network is built: it makes a variable of each,
    /// in `f32` even where the others are held in half precision.
    pub fn set_trainable(&self, choose: &dyn Fn(&str) -> bool) {
        let chosen = self
            .store
            .tensors
            .keys()
            .filter(|name| choose(name))
            .cloned()
            .collect();
        self.store.notes.borrow_mut().trainable = chosen;
    }

    /// Puts adapters beside layers of the network that is built next. Their variables, in `f32`, are called
    /// `{layer}.lora_down.weight [r, i]` and `{layer}.lora_up.weight [o, r]`, see [`AdapterName`].
    pub fn set_adapters(&self, adapters: Adapters) {
        let mut notes = self.store.notes.borrow_mut();
        notes.adapters = Some(adapters);
        notes.adapter_noise.clear();
    }

    /// The variables that were made, in the order of their names.
    pub fn trainables(&self) -> BTreeMap<String, Var> {
        self.store.notes.borrow().vars.clone()
    }

    /// Number type of the network.
    pub fn dtype(&self) -> DType {
        self.store.dtype
    }

    /// Whether a weight is there, without asking for it. Lets a reader choose between an old and a new name.
    pub fn has(&self, name: &str) -> bool {
        self.store.tensors.contains_key(&self.full_name(name))
    }

    /// Every name and shape asked for so far.
    pub fn asked(&self) -> BTreeMap<String, Vec<usize>> {
        self.store.notes.borrow().asked.clone()
    }

    /// A frozen tensor.
    ///
    /// # Errors
    /// When it cannot be read or was chosen to learn (only the matrices of linear layers can).
    pub fn get(&self, name: &str, shape: &[usize]) -> Built<Tensor> {
        self.refuse_training(name)?;
        match self.tensor(name, shape)? {
            Some(tensor) => Ok(tensor),
            // A view of a single number: nothing of this size is allocated.
            None => {
                Ok(Tensor::zeros(1, self.store.dtype, &self.store.device)?.broadcast_as(shape)?)
            }
        }
    }

    /// As [`Self::get`] for a layer that copies what it gets: zeros in the shape of `placeholder` where the tensor is not read.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub(super) fn get_or(
        &self,
        name: &str,
        shape: &[usize],
        placeholder: &[usize],
    ) -> Built<Tensor> {
        self.refuse_training(name)?;
        match self.tensor(name, shape)? {
            Some(tensor) => Ok(tensor),
            None => self.placeholder(placeholder),
        }
    }

    /// A linear layer, `{name}.weight [o, i]` and `{name}.bias [o]`. Its weights may learn.
    ///
    /// # Errors
    /// When a tensor cannot be read.
    pub fn linear(&self, name: &str, i: usize, o: usize, bias: bool) -> Built<Linear> {
        self.matrix(name, (i, o), &[o, i], bias)
    }

    /// A convolution of a single pixel, `{name}.weight [o, i, 1, 1]` and `{name}.bias [o]`: a linear layer over the
    /// channels. Its weights may learn.
    ///
    /// # Errors
    /// When a tensor cannot be read.
    pub fn pointwise(&self, name: &str, i: usize, o: usize) -> Built<Linear> {
        self.matrix(name, (i, o), &[o, i, 1, 1], true)
    }

    fn matrix(
        &self,
        name: &str,
        (i, o): (usize, usize),
        shape: &[usize],
        bias: bool,
    ) -> Built<Linear> {
        let at = self.pp(name);
        let weight = at.tensor("weight", shape)?;
        let bias = if bias {
            Some(at.tensor("bias", &[o])?)
        } else {
            None
        };
        let layer = match (weight, bias) {
            (Some(weight), None) => Linear::new(at.param("weight", weight)?, None)?,
            (Some(weight), Some(Some(bias))) => {
                Linear::new(at.param("weight", weight)?, Some(at.param("bias", bias)?))?
            }
            _ => {
                return Ok(Linear::new(
                    Param::frozen(self.placeholder(&[1, 1])?),
                    None,
                )?);
            }
        };
        self.adapted(layer, &self.full_name(name), (i, o))
    }

    /// The layer with the adapters beside it that were asked for.
    fn adapted(&self, mut layer: Linear, name: &str, (i, o): (usize, usize)) -> Built<Linear> {
        let notes = &mut *self.store.notes.borrow_mut();
        let Some(adapters) = &notes.adapters else {
            return Ok(layer);
        };
        for wanted in (adapters.choose)(name) {
            let set = wanted.set;
            let noise = notes.adapter_noise.entry(set).or_insert_with(|| {
                let mut noise = NoiseStream::new(adapters.seed, Purpose::Init);
                noise.seek((set as u64) << ROOM_OF_A_SET);
                noise
            });
            let (down, up) = starting_values(noise, wanted.rank, (i, o), &self.store.device)?;
            layer = layer.with_lora(Lora::new(&down, &up, wanted.branch)?);
            for (factor, var) in [(Factor::Down, down), (Factor::Up, up)] {
                let layer = name;
                let name = AdapterName { layer, set, factor };
                notes.vars.insert(name.to_string(), var);
            }
        }
        Ok(layer)
    }

    /// A convolution, `{name}.weight [o, i, k, k]` and `{name}.bias [o]`.
    ///
    /// # Errors
    /// When a tensor cannot be read.
    pub fn conv2d(
        &self,
        name: &str,
        (i, o): (usize, usize),
        k: usize,
        config: Conv2dConfig,
    ) -> Built<Conv2d> {
        let (weight, bias) = self.pair(name, (&[o, i, k, k], &[o]), (&[1, 1, k, k], &[1]))?;
        Ok(Conv2d::new(&weight, Some(&bias), config)?)
    }

    /// A convolution over frames, `{name}.weight [c, c, 3, 1, 1]` and `{name}.bias [c]`.
    ///
    /// # Errors
    /// When a tensor cannot be read.
    pub fn temporal_conv(&self, name: &str, c: usize) -> Built<TemporalConv> {
        let taps = TEMPORAL_TAPS;
        let (weight, bias) = self.pair(
            name,
            (&[c, c, taps, 1, 1], &[c]),
            (&[1, 1, taps, 1, 1], &[1]),
        )?;
        Ok(TemporalConv::new(&weight, Some(&bias))?)
    }

    /// A group norm over `c` channels.
    ///
    /// # Errors
    /// When a tensor cannot be read or the groups do not divide the channels.
    pub fn group_norm(&self, name: &str, c: usize, groups: usize, eps: f64) -> Built<GroupNorm> {
        let (weight, bias) = self.pair(name, (&[c], &[c]), (&[groups], &[groups]))?;
        Ok(GroupNorm::new(&weight, &bias, groups, eps)?)
    }

    /// A layer norm over `c` channels.
    ///
    /// # Errors
    /// When a tensor cannot be read.
    pub fn layer_norm(&self, name: &str, c: usize, eps: f64) -> Built<LayerNorm> {
        let (weight, bias) = self.pair(name, (&[c], &[c]), (&[1], &[1]))?;
        Ok(LayerNorm::new(&weight, &bias, eps)?)
    }

    /// What was asked for against what is there.
    pub fn report(&self) -> KeyReport {
        let notes = self.store.notes.borrow();
        let unexpected = |name: &&String| !notes.asked.contains_key(*name) && !is_buffer(name);
        KeyReport {
            files: self.store.files.clone(),
            missing: notes.missing.iter().cloned().collect(),
            unexpected: self
                .store
                .tensors
                .keys()
                .filter(unexpected)
                .cloned()
                .collect(),
            wrong_shape: notes.wrong_shape.clone(),
        }
    }

    /// Ends the building of a network.
    ///
    /// # Errors
    /// [`ModelError::Keys`] with every weight that is missing, unexpected or of the wrong shape.
    pub fn finish(&self) -> Built<()> {
        let report = self.report();
        if self.store.mode == Mode::Record || report.is_clean() {
            Ok(())
        } else {
            Err(ModelError::Keys(Box::new(report)))
        }
    }

    fn full_name(&self, name: impl Display) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Frozen `{name}.weight` and `{name}.bias`. Where one does not fit, both are zeros in the shapes of `placeholders`,
    /// so that the layer can be built and the search for misfits goes on.
    pub(super) fn pair(
        &self,
        name: &str,
        shapes: (&[usize], &[usize]),
        placeholders: (&[usize], &[usize]),
    ) -> Built<(Tensor, Tensor)> {
        let at = self.pp(name);
        at.refuse_training("weight")?;
        at.refuse_training("bias")?;
        match (at.tensor("weight", shapes.0)?, at.tensor("bias", shapes.1)?) {
            (Some(weight), Some(bias)) => Ok((weight, bias)),
            _ => Ok((
                self.placeholder(placeholders.0)?,
                self.placeholder(placeholders.1)?,
            )),
        }
    }

    fn placeholder(&self, shape: &[usize]) -> Built<Tensor> {
        Ok(Tensor::zeros(shape, self.store.dtype, &self.store.device)?)
    }

    fn refuse_training(&self, name: &str) -> Built<()> {
        let name = self.full_name(name);
        if self.store.notes.borrow().trainable.contains(&name) {
            return Err(ModelError::Unsupported {
                what: format!("the training of {name}; only linear layers can learn"),
            });
        }
        Ok(())
    }

    /// Makes a variable of the tensor where it was chosen to learn.
    fn param(&self, name: &str, tensor: Tensor) -> Built<Param> {
        let name = self.full_name(name);
        let mut notes = self.store.notes.borrow_mut();
        if !notes.trainable.contains(&name) {
            return Ok(Param::frozen(tensor));
        }
        // A copy, because a variable is overwritten in place and the tensor may belong to the caller.
        let var = Var::from_tensor(&tensor.detach())?;
        let param = Param::trainable(&var);
        notes.vars.insert(name, var);
        Ok(param)
    }

    /// Reads a tensor, or notes that it is missing or has another shape.
    fn tensor(&self, name: &str, shape: &[usize]) -> Built<Option<Tensor>> {
        let store = &*self.store;
        let name = self.full_name(name);
        let mut notes = store.notes.borrow_mut();
        notes.asked.insert(name.clone(), shape.to_vec());
        let most = store.tensors.len() + MOST_MISSES;
        if notes.asked.len() > most {
            return Err(ModelError::Config {
                file: format!("the configuration beside {}", store.files),
                why: format!("it describes a network of more than {most} weights"),
            });
        }
        let Some(entry) = store.tensors.get(&name) else {
            if store.mode != Mode::Record {
                notes.missing.insert(name);
            }
            return Ok(None);
        };
        let found = entry.shape();
        if found != shape {
            let (expected, found) = (shape.to_vec(), found.to_vec());
            notes.wrong_shape.push(WrongShape {
                name,
                expected,
                found,
            });
            return Ok(None);
        }
        // Updates of a half-precision weight would be lost to rounding; f64 stays for finite differences.
        let dtype = if notes.trainable.contains(&name) && store.dtype != DType::F64 {
            DType::F32
        } else {
            store.dtype
        };
        match store.mode {
            Mode::Compare => Ok(None),
            Mode::Read | Mode::Record => entry.read(dtype, &store.device).map(Some),
        }
    }
}

/// Tensors that some files carry and no network here uses: position counters, and the image half of CLIP.
fn is_buffer(name: &str) -> bool {
    name.ends_with("position_ids")
        || name.starts_with("vision_model.")
        || matches!(
            name,
            "logit_scale" | "text_projection.weight" | "visual_projection.weight"
        )
}
